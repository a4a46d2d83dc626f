//! The write-ahead log: preallocated segments, one write for an append, one `fdatasync` for a sync.
//!
//! A segment is filled with zeros before it is used and used again when what it holds is purged, so that a sync has no
//! file system metadata to write. See `frame` for the bytes and `recover` for what is accepted at the start.

mod frame;
mod recover;
mod segment;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Arc;

use self::frame::{Frame, Kind, SEGMENT_HEADER, frame_size, get_frame, put_frame};
use self::segment::{Segment, Slot, Workshop};
use super::disk::Disk;
use super::{LogStore, lock};
use crate::base::planted::planted;
use crate::base::{Error, Result, Rng, Status};

pub use self::recover::Recovery;
pub use self::segment::Upkeep;

/// Bytes of a segment that are not for records: its header, the first and the last frame, the frame of one record, a purge, the marks that both
/// were synced, padding.
const OVERHEAD: usize = SEGMENT_HEADER + 6 * frame::FRAME_HEADER + 16;

/// About how many bytes of entries are read with one call.
const READ_AT_ONCE: usize = 1 << 20;

/// Where an entry stands.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Number of the segment, as an offset from that of [`Wal::base`].
    segment: u32,
    at: u32,
}

/// The log in files of one directory. See [`LogStore`].
#[derive(Debug)]
pub struct Wal {
    workshop: Arc<Workshop>,
    salts: Salts,
    /// The segments in use, oldest first. The last one is written to; it is there always.
    segments: VecDeque<Segment>,
    /// Number of a segment from which places are counted.
    base: u64,
    /// Where the next frame goes.
    position: u64,
    /// Number of the coming sync.
    round: u64,
    /// Where the first frame of this round stands, if there is one.
    group: Option<u32>,
    /// There is something to sync.
    unsynced: bool,
    places: VecDeque<Place>,
    first: u64,
    written: u64,
    buffer: Vec<u8>,
    dead: Option<Error>,
}

/// The random numbers for segments.
struct Salts(Box<dyn Rng>);

impl std::fmt::Debug for Salts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Salts")
    }
}

impl Wal {
    /// Creates an empty log in a directory that has none, and opens it.
    ///
    /// # Errors
    /// [`Status::Limit`] without space, [`Status::Io`].
    pub fn create(disk: Arc<dyn Disk>, disk_id: u128, segment_bytes: u64, mut rng: Box<dyn Rng>) -> Result<Wal> {
        let workshop = Arc::new(Workshop { disk, disk_id, size: segment_bytes, slot: Default::default() });
        let first = workshop.make(&mut Slot::default(), 1, rng.next_u64())?;
        Ok(Wal {
            workshop,
            salts: Salts(rng),
            segments: VecDeque::from([first]),
            base: 1,
            position: SEGMENT_HEADER as u64,
            round: 1,
            group: None,
            unsynced: false,
            places: VecDeque::new(),
            first: 1,
            written: 0,
            buffer: Vec::new(),
            dead: None,
        })
    }

    fn alive(&self) -> Result<()> {
        match &self.dead {
            None => Ok(()),
            Some(cause) => Err(Error::new(Status::Poisoned, format!("the log ended: {}", cause.message())).with_errno(cause.os_errno())),
        }
    }

    /// Ends the log for good.
    fn die(&mut self, error: Error) -> Error {
        self.dead.get_or_insert_with(|| error.clone());
        error
    }

    fn active(&self) -> Result<&Segment> {
        self.segments.back().ok_or_else(|| Error::new(Status::Internal, "the log has no segment"))
    }

    /// The segment after the active one, made now if nobody has.
    fn reserve(&mut self) -> Result<()> {
        let number = self.active()?.number + 1;
        let salt = self.salts.0.next_u64();
        let mut slot = lock(&self.workshop.slot);
        if slot.ready.is_none() {
            slot.ready = Some(self.workshop.make(&mut slot, number, salt)?);
        }
        Ok(())
    }

    /// Puts a frame into the buffer, which goes to `self.position`.
    fn stage(&mut self, kind: Kind, index: u64, body: &[u8]) -> Result<u32> {
        let at = self.position + self.buffer.len() as u64;
        let group = *self.group.get_or_insert(at as u32);
        let salt = self.active()?.salt;
        put_frame(&mut self.buffer, salt, at, &Frame { kind, group, round: self.round, index, body });
        Ok(at as u32)
    }

    fn flush(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let (active, buffer) = (self.active()?, &self.buffer);
        match active.file.write_at(self.position, buffer) {
            Ok(()) => {
                self.position += self.buffer.len() as u64;
                self.written += self.buffer.len() as u64;
                self.buffer.clear();
                Ok(())
            }
            Err(e) => {
                let name = self.workshop.disk.path().join(active.name());
                Err(self.die(Error::io(format_args!("writing {}", name.display()), &e)))
            }
        }
    }

    fn place(&self, index: u64) -> Result<Place> {
        let at = index.checked_sub(self.first).and_then(|n| self.places.get(n as usize));
        at.copied().ok_or_else(|| Error::new(Status::Internal, format!("entry {index} is not in the log")))
    }

    /// Reads the first entries of a range that stand in one segment, about [`READ_AT_ONCE`] bytes of them, into `bytes`. Answers
    /// the segment, where in it the bytes begin, and which entries they hold.
    fn run(&self, range: RangeInclusive<u64>, bytes: &mut Vec<u8>) -> Result<(&Segment, usize, RangeInclusive<u64>)> {
        let start = self.place(*range.start())?;
        let number = self.base + u64::from(start.segment);
        let segment = self.segments.iter().find(|s| s.number == number);
        let segment = segment.ok_or_else(|| Error::new(Status::Internal, "an entry without a segment"))?;
        let mut last = *range.start();
        while last < *range.end() {
            let next = self.place(last + 1)?;
            // A record of an entry that was cut off and written again may stand before the one that replaced it, never after.
            if next.segment != start.segment || next.at < start.at || (next.at - start.at) as usize > READ_AT_ONCE {
                break;
            }
            last += 1;
        }
        let name = || self.workshop.disk.path().join(segment.name());
        let io = |e: &std::io::Error| Error::io(format_args!("reading {}", name().display()), e);
        let (from, tail) = (u64::from(start.at), u64::from(self.place(last)?.at));
        // How long the last one is stands in its header.
        bytes.resize(frame::FRAME_HEADER, 0);
        segment.file.read_at(tail, bytes).map_err(|e| io(&e))?;
        let end = tail + frame_size(frame::body_length(bytes)) as u64;
        if end > segment.size {
            return Err(Error::new(Status::DataCorrupt, format!("{}: entry {last} is damaged", name().display())));
        }
        bytes.resize((end - from) as usize, 0);
        segment.file.read_at(from, bytes).map_err(|e| io(&e))?;
        Ok((segment, start.at as usize, *range.start()..=last))
    }

    /// Goes on in the next segment.
    fn roll(&mut self) -> Result<()> {
        self.reserve()?;
        self.begin(self.last_index() + 1)?;
        let next = self.active()?.number + 1;
        self.stage(Kind::Next, next, &[])?;
        self.flush()?;
        // The first frame of the next segment proves it.
        self.sync_frames()?;
        let ready = lock(&self.workshop.slot).ready.take();
        self.segments.push_back(ready.ok_or_else(|| Error::new(Status::Internal, "no segment was made"))?);
        self.position = SEGMENT_HEADER as u64;
        Ok(())
    }

    /// Whether frames of `size` bytes fit behind what is staged, with room left for the mark that they were synced and the last frame of the
    /// segment. Entries leave room for a purge too: without any space for another segment it is the way to get some.
    fn fits(&self, kind: Kind, size: usize) -> Result<bool> {
        let start = if self.is_at_start() { frame_size(8) } else { 0 };
        let rest = match kind {
            Kind::Entry | Kind::Truncate => 4,
            Kind::Purge => 2,
            Kind::Start | Kind::Next | Kind::Close | Kind::Synced => 1,
        } * frame_size(0);
        let end = self.position as usize + self.buffer.len() + start + size + rest;
        Ok(end as u64 <= self.active()?.size)
    }

    /// Makes what is written durable.
    fn sync_frames(&mut self) -> Result<()> {
        let active = self.active()?;
        if let Err(e) = active.file.sync() {
            let name = self.workshop.disk.path().join(active.name());
            return Err(self.die(Error::io(format_args!("syncing {}", name.display()), &e)));
        }
        self.round += 1;
        (self.group, self.unsynced) = (None, false);
        Ok(())
    }

    /// Leaves behind what was synced a mark that it was: damage there is then told from a write that was cut short.
    fn attest(&mut self) -> Result<()> {
        if self.is_at_start() || !self.fits(Kind::Synced, frame_size(0))? || planted!("synced-without-mark") {
            return Ok(());
        }
        self.stage(Kind::Synced, self.last_index(), &[])?;
        self.flush()
    }

    fn is_at_start(&self) -> bool {
        self.position == SEGMENT_HEADER as u64 && self.buffer.is_empty()
    }

    /// The first frame of a segment, if it has none.
    fn begin(&mut self, next: u64) -> Result<()> {
        if self.is_at_start() {
            let purged = self.first - 1;
            self.stage(Kind::Start, next, &purged.to_le_bytes())?;
        }
        Ok(())
    }

    /// Writes frames whose indexes are `index`, `index + 1`, …
    fn write(&mut self, kind: Kind, index: u64, bodies: &[&[u8]]) -> Result<()> {
        self.alive()?;
        if let Some(long) = bodies.iter().find(|b| b.len() > self.max_record()) {
            return Err(Error::new(Status::Limit, format!("a record of {} bytes; a log segment takes {}", long.len(), self.max_record())));
        }
        // Should space be missing, it must be said while nothing is written yet.
        let all: usize = bodies.iter().map(|b| frame_size(b.len())).sum();
        if !self.fits(kind, all)?
            && let Err(e) = self.reserve()
        {
            return Err(if e.status() == Status::Limit { e } else { self.die(e) });
        }
        for (body, index) in bodies.iter().zip(index..) {
            if !self.fits(kind, frame_size(body.len()))? {
                self.roll().map_err(|e| self.die(e))?;
            }
            self.begin(self.last_index() + 1)?;
            let at = self.stage(kind, index, body)?;
            if kind == Kind::Entry {
                let active = self.segments.back_mut().ok_or_else(|| Error::from(Status::Internal))?;
                active.last_index = active.last_index.max(index);
                self.places.push_back(Place { segment: (active.number - self.base) as u32, at });
            }
        }
        // Now, for going on in another segment syncs the one before.
        self.unsynced = true;
        self.flush()
    }
}

impl LogStore for Wal {
    fn append(&mut self, first_index: u64, records: &[&[u8]]) -> Result<()> {
        self.alive()?;
        if first_index != self.last_index() + 1 {
            return Err(Error::new(Status::Internal, format!("append at {first_index} to a log that ends at {}", self.last_index())));
        }
        let before = self.places.len();
        let done = self.write(Kind::Entry, first_index, records);
        if done.is_err() {
            self.places.truncate(before);
        }
        done
    }

    fn sync(&mut self) -> Result<()> {
        self.alive()?;
        if !self.unsynced {
            return Ok(());
        }
        self.sync_frames()?;
        self.attest()
    }

    fn truncate_after(&mut self, index: u64) -> Result<()> {
        self.alive()?;
        if index + 1 < self.first || index > self.last_index() {
            return Err(Error::new(Status::Internal, format!("truncation to {index} of {}..={}", self.first, self.last_index())));
        }
        self.write(Kind::Truncate, index, &[&[]])?;
        self.places.truncate((index + 1 - self.first) as usize);
        Ok(())
    }

    fn purge_upto(&mut self, index: u64) -> Result<()> {
        self.alive()?;
        if index < self.first {
            return Ok(());
        }
        self.write(Kind::Purge, index, &[&[]])?;
        self.sync_frames()?;
        let gone = (index + 1 - self.first).min(self.places.len() as u64);
        self.places.drain(..gone as usize);
        self.first = index + 1;
        let mut slot = lock(&self.workshop.slot);
        while self.segments.len() > 1 && self.segments.front().is_some_and(|s| s.last_index <= index) {
            slot.retired.extend(self.segments.pop_front());
        }
        drop(slot);
        self.attest()
    }

    fn read(&self, range: RangeInclusive<u64>, each: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        if *range.start() < self.first || *range.end() > self.last_index() {
            let have = self.first..=self.last_index();
            return Err(Error::new(Status::Internal, format!("reading {range:?} of a log with {have:?}")));
        }
        let mut bytes = Vec::new();
        let mut next = *range.start();
        while next <= *range.end() {
            let (segment, start, run) = self.run(next..=*range.end(), &mut bytes)?;
            for index in run.clone() {
                let at = self.place(index)?.at as usize;
                match get_frame(&bytes, start, segment.salt, at) {
                    Some(frame) if frame.kind == Kind::Entry && frame.index == index => each(index, frame.body)?,
                    _ => {
                        let name = self.workshop.disk.path().join(segment.name());
                        return Err(Error::new(Status::DataCorrupt, format!("{}: entry {index} is damaged", name.display())));
                    }
                }
            }
            next = run.end() + 1;
        }
        Ok(())
    }

    fn first_index(&self) -> u64 {
        self.first
    }

    fn last_index(&self) -> u64 {
        self.first + self.places.len() as u64 - 1
    }

    fn max_record(&self) -> usize {
        (self.workshop.size as usize).saturating_sub(OVERHEAD)
    }

    fn written_bytes(&self) -> u64 {
        self.written
    }

    fn wants_upkeep(&self) -> bool {
        // Locked by somebody: it is being made.
        self.dead.is_none() && self.workshop.slot.try_lock().is_ok_and(|slot| slot.ready.is_none())
    }

    fn upkeep(&mut self) -> Option<Upkeep> {
        let number = self.active().ok()?.number + 1;
        self.wants_upkeep().then(|| Upkeep { workshop: self.workshop.clone(), number, salt: self.salts.0.next_u64() })
    }

    fn close(&mut self) -> Result<()> {
        let last = self.last_index();
        self.write(Kind::Close, last, &[&[]])?;
        self.sync_frames()?;
        self.dead = Some(Error::new(Status::Closed, "it was closed"));
        Ok(())
    }
}
