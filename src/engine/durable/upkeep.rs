//! Looking after the files while operations go on: space ahead, snapshots, purging, and what to do when space is short.

use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use std::time::Duration;

use super::write::Writer;
use super::{Shared, lock};
use crate::base::{Error, Result, Status, process};
use crate::store::{BALLAST, SnapshotHead};

/// How long a release that was answered early may stay off the disk while nothing else is written.
pub(super) const RELEASE_SYNC_PERIOD: Duration = Duration::from_millis(100);
/// What the database may need to grow by for a snapshot, beside the snapshot itself.
const STATE_ROOM: u64 = 1 << 20;
/// A part of a snapshot, at least, bytes.
const PART: usize = 256 << 10;

impl Shared {
    pub(super) fn no_space(&self) -> Error {
        let path = self.disk.path().display();
        Error::new(Status::Limit, format!("{path}: space runs out, so no session or lock can be added; what there is is kept up"))
    }

    /// The space below which nothing new is taken on: two segments of the log and two snapshots.
    fn reserve(&self, writer: &Writer) -> u64 {
        2 * self.options.segment_bytes + 2 * writer.snapshot_bytes + STATE_ROOM
    }

    /// What is kept for when there is no other: a segment and a snapshot.
    fn ballast_bytes(&self) -> u64 {
        self.options.segment_bytes + STATE_ROOM
    }

    /// Looks at the free space from time to time.
    pub(super) fn look_at_space(&self, writer: &mut Writer) {
        if !self.space_is_due(writer) {
            return;
        }
        writer.space_looked_at_ns = Shared::now_ns(writer);
        let Ok(free) = self.disk.free_bytes() else { return };
        let reserve = self.reserve(writer);
        let was = self.full.load(Relaxed);
        // A quarter more is asked for to leave the state, so that it does not flutter.
        let full = if was { free < reserve + reserve / 4 } else { free < reserve };
        if full != was {
            self.full.store(full, Release);
            let path = self.disk.path().display();
            if full {
                tracing::warn!(directory = %path, free, reserve, "space runs out: no session or lock can be added");
            } else {
                tracing::info!(directory = %path, free, "there is space again");
            }
        }
    }

    /// The log needs space and there is none: gives back what was kept for that. False when it was given back before.
    pub(super) fn make_room(&self, writer: &mut Writer) -> Result<bool> {
        self.full.store(true, Release);
        writer.space_looked_at_ns = Shared::now_ns(writer);
        if !std::mem::take(&mut writer.ballast) {
            return Ok(false);
        }
        let removed = self.disk.remove(BALLAST).and_then(|()| self.disk.sync_dir());
        removed.map_err(|e| Error::io(format_args!("removing {}", self.disk.path().join(BALLAST).display()), &e))?;
        Ok(true)
    }

    /// Puts the ballast in place, if there is space for it.
    pub(super) fn keep_ballast(&self, writer: &mut Writer) -> Result<()> {
        let size = self.ballast_bytes();
        if writer.ballast || self.disk.free_bytes().unwrap_or(0) < size + self.reserve(writer) * 5 / 4 {
            return Ok(());
        }
        let failed = |e: std::io::Error| Error::io(format_args!("making {}", self.disk.path().join(BALLAST).display()), &e);
        let file = self.disk.create(BALLAST).map_err(failed)?;
        match file.set_len(size) {
            Ok(()) => writer.ballast = true,
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => self.disk.remove(BALLAST).map_err(failed)?,
            Err(e) => return Err(failed(e)),
        }
        Ok(())
    }

    fn snapshot_is_due(&self, writer: &Writer) -> bool {
        writer.log.written_bytes() >= writer.snapshot_at
    }

    /// Whether there is something to look after, and nobody does.
    pub(super) fn wants_upkeep(&self, writer: &mut Writer) -> bool {
        if self.ended.get().is_some() || self.upkeep_runs.load(Acquire) {
            return false;
        }
        let looked = writer.space_looked_at_ns == Shared::now_ns(writer);
        let full = self.full.load(Relaxed);
        let ballast_missing = !writer.ballast && !full && looked;
        // Without space there is little hope: tried as often as the space is looked at.
        let segment_missing = (!full || looked) && writer.log.wants_upkeep();
        self.snapshot_is_due(writer) || ballast_missing || segment_missing
    }

    /// Looks after the files, on a thread of its own if there are threads.
    pub(super) fn start_upkeep(self: &Arc<Self>) {
        if self.upkeep_runs.swap(true, AcqRel) {
            return;
        }
        if !self.threads {
            self.upkeep();
            return;
        }
        let shared = self.clone();
        let mut thread = lock(&self.upkeep_thread);
        if let Some(before) = thread.take() {
            // It has said that it is done.
            let _ = before.join();
        }
        if self.ended.get().is_some() {
            // Whoever closes the engine may have looked for this thread already.
            return;
        }
        match process::spawn("tenure-store", move || shared.upkeep()) {
            Ok(started) => *thread = Some(started),
            Err(error) => {
                tracing::warn!(%error, "no thread to look after the files; tried again at the next write");
                self.upkeep_runs.store(false, Release);
            }
        }
    }

    fn upkeep(self: &Arc<Self>) {
        let done = self.prepare().and_then(|short| self.snapshot(short));
        let done = done.and_then(|()| {
            let mut writer = lock(&self.writer);
            if self.full.load(Acquire) || self.ended.get().is_some() { Ok(()) } else { self.keep_ballast(&mut writer) }
        });
        match done {
            Err(e) if e.status() == Status::Limit => self.full.store(true, Release),
            Err(e) if self.ended.get().is_none() => self.poison(&e),
            _ => {}
        }
        self.upkeep_runs.store(false, Release);
    }

    /// Makes the next segment of the log ready. True when there is no space for it.
    fn prepare(&self) -> Result<bool> {
        let job = lock(&self.writer).log.upkeep();
        match job.map_or(Ok(()), |job| job.run()) {
            Err(e) if e.status() == Status::Limit => {
                self.full.store(true, Release);
                Ok(true)
            }
            done => done.map(|()| false),
        }
    }

    /// Writes a snapshot, if one is due or if purging the log is the only way to space, and purges the log up to it.
    fn snapshot(self: &Arc<Self>, short: bool) -> Result<()> {
        let mut parts = Vec::new();
        let head = {
            let mut writer = lock(&self.writer);
            let written = writer.log.written_bytes();
            // Should it not help, the next try comes when there is more to purge.
            let helps = short && written >= writer.snapshot_tried + self.options.segment_bytes / 4;
            let due = self.snapshot_is_due(&writer) || helps;
            if !due || self.ended.get().is_some() {
                return Ok(());
            }
            writer.snapshot_tried = written;
            // The next try, should this one fail for want of space.
            writer.snapshot_at = written + self.options.snapshot_bytes.div_ceil(4);
            // A snapshot must never be ahead of the log.
            writer.sync()?;
            let ledger = lock(&self.ledger);
            let mut part = Vec::with_capacity(2 * PART);
            ledger.snapshot(&mut |piece| {
                part.extend_from_slice(piece);
                if part.len() >= PART {
                    parts.push(std::mem::replace(&mut part, Vec::with_capacity(2 * PART)));
                }
                Ok(())
            })?;
            parts.push(part);
            SnapshotHead { index: ledger.applied().index, clock_ms: ledger.clock_ms() }
        };
        let bytes: u64 = parts.iter().map(|p| p.len() as u64).sum();
        let save = || self.state.save_snapshot(head, &mut parts.iter().cloned().map(Ok));
        match save() {
            Err(e) if e.status() == Status::Limit && self.make_room(&mut lock(&self.writer))? => save()?,
            done => done?,
        }
        let mut writer = lock(&self.writer);
        self.snapshot_index.store(head.index, Release);
        writer.snapshot_bytes = bytes;
        // In proportion to its cost.
        writer.snapshot_at = writer.log.written_bytes() + self.options.snapshot_bytes.max(2 * bytes);
        if self.ended.get().is_none() {
            writer.log.purge_upto(head.index)?;
        }
        drop(writer);
        // The space given up is that of the next segment.
        if short { self.prepare().map(drop) } else { Ok(()) }
    }
}
