//! Opening a log: what a crash may leave is repaired, what it cannot have left is refused.

use crate::base::planted::planted;
use std::collections::VecDeque;
use std::sync::Arc;

use super::frame::{Frame, Kind, SEGMENT_HEADER, SegmentHeader, frame_size, get_frame};
use super::segment::{Segment, UNFINISHED, Workshop, file_name, file_number};
use super::{Place, Salts, Wal};
use crate::base::{Error, Result, Rng, Status};
use crate::store::disk::Disk;
use crate::store::{in_file, lock};

/// What opening a log found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The log had been closed in good order. Otherwise the last write may have been cut short, and is gone: it was never
    /// acknowledged.
    pub clean: bool,
}

/// The log's content as the frames tell it, one after the other.
#[derive(Default)]
struct Replay {
    places: VecDeque<Place>,
    /// Index of the first of `places`; from here on nothing is missing. 0 before the first frame.
    first: u64,
    purged: u64,
    closed: bool,
    /// The last frame proves that those before it were synced.
    proven: bool,
}

impl Replay {
    fn next(&self) -> u64 {
        self.first + self.places.len() as u64
    }

    fn purge(&mut self, upto: u64) {
        self.purged = self.purged.max(upto);
        if upto >= self.first {
            let gone = (upto + 1 - self.first).min(self.places.len() as u64);
            self.places.drain(..gone as usize);
            self.first = upto + 1;
        }
    }

    /// Takes a frame in; false when it cannot follow those before it.
    fn take(&mut self, frame: &Frame<'_>, place: Place) -> bool {
        self.closed = frame.kind == Kind::Close;
        self.proven = matches!(frame.kind, Kind::Close | Kind::Synced);
        match frame.kind {
            Kind::Start => {
                let Ok(purged) = frame.body.try_into().map(u64::from_le_bytes) else { return false };
                if self.first == 0 {
                    self.first = frame.index;
                }
                let follows = frame.index == self.next();
                self.purge(purged);
                follows
            }
            Kind::Entry if frame.index == self.next() => {
                self.places.push_back(place);
                true
            }
            Kind::Truncate if frame.index >= self.purged && frame.index < self.next() => {
                // Below `first`: what is voided stood in a segment that has been recycled since.
                self.first = self.first.min(frame.index + 1);
                self.places.truncate((frame.index + 1 - self.first) as usize);
                true
            }
            Kind::Purge => {
                self.purge(frame.index);
                true
            }
            Kind::Next => true,
            Kind::Close | Kind::Synced => frame.index + 1 == self.next(),
            Kind::Entry | Kind::Truncate => false,
        }
    }
}

/// How far a segment is good.
struct Scan {
    /// Where the next frame goes.
    position: usize,
    /// The highest round seen, in frames that count and in remains that do not.
    round: u64,
    /// The last frame says that the log goes on in the next segment.
    continued: bool,
    /// Where the frames of the last round start.
    group: usize,
}

/// Reads the frames of `segment` into `replay`.
fn scan(bytes: &[u8], segment: &mut Segment, offset: u32, replay: &mut Replay, before: u64) -> Result<Scan> {
    let mut found = Scan { position: SEGMENT_HEADER, round: before, continued: false, group: SEGMENT_HEADER };
    while let Some(frame) = get_frame(bytes, 0, segment.salt, found.position) {
        let at = found.position;
        let begins = frame.round > found.round && frame.group as usize == at;
        let goes_on = frame.round == found.round && frame.group as usize == found.group && at != SEGMENT_HEADER;
        if !begins && !goes_on {
            // The remains of a write that was cut short before an earlier start.
            break;
        }
        let first = at == SEGMENT_HEADER;
        if first != (frame.kind == Kind::Start) || !replay.take(&frame, Place { segment: offset, at: at as u32 }) {
            let (kind, index, due) = (frame.kind, frame.index, replay.next());
            return Err(Error::new(Status::DataCorrupt, format!("{kind:?} {index} at byte {at}, where entry {due} is due")));
        }
        if frame.kind == Kind::Entry {
            segment.last_index = segment.last_index.max(frame.index);
        }
        (found.round, found.group) = (frame.round, frame.group as usize);
        found.position += frame_size(frame.body.len());
        if frame.kind == Kind::Next {
            found.continued = true;
            return Ok(found);
        }
    }
    // Frames of one round may be lost in any combination, but one that belongs to a later group proves that what stands here was
    // synced once: then it is not a write cut short, it is damage.
    let end = found.position;
    let mut at = end + 8;
    while at < bytes.len() {
        let Some(frame) = get_frame(bytes, 0, segment.salt, at) else {
            at += 8;
            continue;
        };
        if frame.round > found.round && frame.group as usize > end && !planted!("damage-taken-for-torn") {
            return Err(Error::new(Status::DataCorrupt, format!("damaged at byte {end}, before what was written later at byte {at}")));
        }
        found.round = found.round.max(frame.round);
        at += frame_size(frame.body.len());
    }
    Ok(found)
}

impl Wal {
    /// Opens the log of a directory whose random id is `disk_id`.
    ///
    /// # Errors
    /// [`Status::DataLost`], [`Status::DataCorrupt`], [`Status::DataForeign`], [`Status::DataVersion`], each naming the file; [`Status::Io`].
    pub fn open(disk: Arc<dyn Disk>, disk_id: u128, segment_bytes: u64, rng: Box<dyn Rng>) -> Result<(Wal, Recovery)> {
        let at = |number: u64| disk.path().join(file_name(number)).display().to_string();
        let lost = |number: u64, why: &str| Error::new(Status::DataLost, format!("{}: {why}", at(number)));
        let names = disk.list().map_err(|e| Error::io(format_args!("listing {}", disk.path().display()), &e))?;
        if names.iter().any(|n| n == UNFINISHED) {
            disk.remove(UNFINISHED).map_err(|e| Error::io(format_args!("removing {UNFINISHED}"), &e))?;
        }
        let mut numbers: Vec<u64> = names.iter().filter_map(|n| file_number(n)).collect();
        numbers.sort_unstable();
        let Some(&base) = numbers.first() else { return Err(lost(1, "the log is missing")) };

        let mut replay = Replay::default();
        let mut segments: VecDeque<Segment> = VecDeque::new();
        let mut end = Scan { position: SEGMENT_HEADER, round: 0, continued: true, group: SEGMENT_HEADER };
        // The frames of the last round of each segment, and where they start.
        let mut ends: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut ready = None;
        for (number, here) in (base..).zip(&numbers) {
            if number != *here {
                return Err(lost(number, "missing between other parts of the log"));
            }
            let (mut segment, bytes) = load(disk.as_ref(), number, disk_id).map_err(|e| in_file(at(number), &e))?;
            if end.continued {
                end = scan(&bytes, &mut segment, (number - base) as u32, &mut replay, end.round).map_err(|e| in_file(at(number), &e))?;
                segments.push_back(segment);
                ends.push((end.group as u64, bytes[end.group..end.position].to_vec()));
            } else if ready.is_none() && get_frame(&bytes, 0, segment.salt, SEGMENT_HEADER).is_none() {
                // The segment before has no last frame, so this one was only made ready.
                ready = Some(segment);
            } else {
                let why = format!("{}: damaged before its end, for more of the log follows", at(number - 1));
                return Err(Error::new(Status::DataCorrupt, why));
            }
        }
        let Some(active) = segments.back() else { return Err(Error::from(Status::Internal)) };
        if end.continued {
            return Err(lost(active.number + 1, "missing, although the log goes on there"));
        }
        if replay.first == 0 {
            // No frame at all, as when the log was just created: then the first segment is there.
            replay.first = 1;
            if base != 1 {
                return Err(lost(base - 1, "missing before other parts of the log"));
            }
        }
        if replay.first > replay.purged + 1 {
            return Err(lost(base.saturating_sub(1), "missing before other parts of the log"));
        }
        // What a process left in the page cache when it was killed, or when a sync failed, is acted on from now, so it has to be durable
        // first. After a failed sync the kernel takes its pages for clean: only what is written again gets to the disk. It may be in
        // the last segment, or in the one before if it was on its way from one to the other.
        disk.sync_dir().map_err(|e| Error::io(format_args!("syncing {}", disk.path().display()), &e))?;
        for (segment, (start, frames)) in segments.iter().zip(&ends).rev().take(2) {
            let written = segment.file.write_at(*start, frames).and_then(|()| segment.file.sync());
            written.map_err(|e| Error::io(format_args!("syncing {}", at(segment.number)), &e))?;
        }

        let workshop = Arc::new(Workshop { disk: disk.clone(), disk_id, size: segment_bytes, slot: Default::default() });
        {
            let mut slot = lock(&workshop.slot);
            match ready {
                // The setting was changed; the log makes another.
                Some(segment) if segment.size != segment_bytes => {
                    disk.remove(&segment.name())
                        .and_then(|()| disk.sync_dir())
                        .map_err(|e| Error::io(format_args!("removing {}", at(segment.number)), &e))?;
                }
                ready => slot.ready = ready,
            }
            while segments.len() > 1 && segments.front().is_some_and(|s| s.last_index <= replay.purged) {
                slot.retired.extend(segments.pop_front());
            }
        }
        let mut wal = Wal {
            workshop,
            salts: Salts(rng),
            segments,
            base,
            position: end.position as u64,
            round: end.round + 1,
            group: None,
            unsynced: false,
            places: replay.places,
            first: replay.first,
            written: 0,
            buffer: Vec::new(),
            dead: None,
        };
        if !replay.proven {
            wal.attest()?;
        }
        Ok((wal, Recovery { clean: replay.closed }))
    }
}

fn load(disk: &dyn Disk, number: u64, disk_id: u128) -> Result<(Segment, Vec<u8>)> {
    let failed = |e: std::io::Error| Error::io("reading", &e);
    let file = disk.open(&file_name(number)).map_err(failed)?;
    let len = file.len().map_err(failed)?;
    if len == 0 {
        return Err(Error::new(Status::DataLost, "the file is empty"));
    }
    if len < SEGMENT_HEADER as u64 || len > u64::from(u32::MAX) {
        return Err(Error::new(Status::DataCorrupt, format!("{len} bytes are no segment of a log")));
    }
    let mut bytes = vec![0; len as usize];
    file.read_at(0, &mut bytes).map_err(failed)?;
    let header = SegmentHeader::decode(&bytes[..SEGMENT_HEADER])?;
    if header.disk != disk_id {
        return Err(Error::new(Status::DataForeign, "the file is from another data directory"));
    }
    if header.number != number {
        return Err(Error::new(Status::DataCorrupt, format!("the file is segment {}", header.number)));
    }
    if header.size != len {
        return Err(Error::new(Status::DataCorrupt, format!("{len} bytes of {}", header.size)));
    }
    Ok((Segment { number, salt: header.frame_salt(), size: header.size, file, last_index: 0 }, bytes))
}
