//! Opening: the directory, the snapshot, what the log holds after it.

use std::path::Path;
use std::sync::Arc;

use super::write::{Stamper, TERM, Writer};
use super::{DurableEngine, DurableOptions, NEVER_NS, Shared, lock};
use crate::base::codec::{self, Kind};
use crate::base::{Clock, Error, Result, Rng, Status, SystemRng, process};
use crate::engine::EventSink;
use crate::engine::delivery::Delivery;
use crate::ledger::{Entry, Ledger, LogId, Params, Restore};
use crate::store::disk::Disk;
use crate::store::{BALLAST, DataDir, LogStore, Owner, RedbState, SnapshotHead, StateStore, Wal};

/// The files of an engine, open, and what they say.
struct Contents {
    log: Wal,
    state: RedbState,
    ledger: Ledger,
    snapshot_index: u64,
    snapshot_bytes: u64,
}

/// Where an engine's files are.
pub(super) struct Files {
    pub disk: Arc<dyn Disk>,
    pub disk_id: u128,
    /// Kept for its lock; a simulation has none.
    pub dir: Option<DataDir>,
}

/// What an engine is given by its surroundings.
pub(super) struct Around {
    pub clock: Arc<dyn Clock>,
    pub sink: Arc<dyn EventSink>,
    /// Random number of this opening: see [`crate::ledger::Stamp::boot`].
    pub boot: u64,
    pub salts: Box<dyn Rng>,
    pub threads: bool,
}

/// Puts the first files into a directory that is being made. The ledger's parameters are in the first snapshot: whatever is
/// replayed later is replayed under them.
pub(super) fn fill(disk: &Arc<dyn Disk>, disk_id: u128, options: &DurableOptions, rng: Box<dyn Rng>) -> Result<()> {
    let state = RedbState::create(disk.as_ref(), disk_id)?;
    let ledger = Ledger::new(options.params);
    let mut bytes = Vec::new();
    ledger.snapshot(&mut |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    state.save_snapshot(SnapshotHead { index: 0, clock_ms: ledger.clock_ms() }, &mut std::iter::once(Ok(bytes)))?;
    Wal::create(disk.clone(), disk_id, options.segment_bytes, rng).map(drop)
}

/// Opens the files and brings the ledger to where the log ends.
fn load(disk: &Arc<dyn Disk>, disk_id: u128, options: &DurableOptions, rng: Box<dyn Rng>) -> Result<Contents> {
    let (log, recovery) = Wal::open(disk.clone(), disk_id, options.segment_bytes, rng)?;
    let state = RedbState::open(disk.as_ref(), disk_id, !recovery.clean)?;
    let mut restore = Restore::new();
    let mut bytes = 0;
    let head = state.load_snapshot(&mut |piece| {
        bytes += piece.len() as u64;
        restore.push(piece)
    })?;
    let path = disk.path().display();
    let Some(head) = head else { return Err(Error::new(Status::DataLost, format!("{path}: the snapshot is missing"))) };
    let mut ledger = restore.finish()?;
    if (ledger.applied().index, ledger.clock_ms()) != (head.index, head.clock_ms) {
        return Err(Error::new(Status::DataCorrupt, format!("{path}: the snapshot is not the one that its head names")));
    }
    if log.last_index() < head.index {
        return Err(Error::new(
            Status::DataLost,
            format!("{path}: the log ends at entry {}, before the snapshot at {}", log.last_index(), head.index),
        ));
    }
    if log.first_index() > head.index + 1 {
        return Err(Error::new(
            Status::DataLost,
            format!("{path}: the log begins with entry {}, after the snapshot at {}", log.first_index(), head.index),
        ));
    }
    let (mut outcomes, mut events) = (Vec::new(), Vec::new());
    log.read(head.index + 1..=log.last_index(), &mut |index, record| {
        let entry: Entry = codec::decode(Kind::Entry, record, record.len())
            .map_err(|e| Error::new(e.status(), format!("{path}: log entry {index}: {}", e.message())))?;
        ledger.apply(LogId { term: TERM, index }, &entry, &mut outcomes, &mut events);
        // Whoever was to be told is gone with the process.
        outcomes.clear();
        events.clear();
        Ok(())
    })?;
    if !recovery.clean {
        tracing::info!(directory = %path, replayed = log.last_index() - head.index, "opened after a crash");
    }
    Ok(Contents { log, state, ledger, snapshot_index: head.index, snapshot_bytes: bytes })
}

impl DurableEngine {
    /// Opens the data directory at `path`, making it if it never was made and `owner` allows, and replays what it holds. Sessions of the
    /// process before are still there; they run out as if it had fallen silent.
    ///
    /// # Errors
    /// As [`DataDir::open`]; [`Status::DataLost`] and [`Status::DataCorrupt`] too when the files do not fit each other.
    pub fn open(
        path: &Path,
        owner: &Owner<'_>,
        options: DurableOptions,
        clock: Arc<dyn Clock>,
        rng: &mut dyn Rng,
        sink: Arc<dyn EventSink>,
    ) -> Result<DurableEngine> {
        process::watch_forks();
        let mut making = |disk: &Arc<dyn Disk>, disk_id| fill(disk, disk_id, &options, Box::new(SystemRng::new()?));
        let dir = DataDir::open(path, owner, rng, &mut making)?;
        let files = Files { disk: dir.disk().clone(), disk_id: dir.identity().disk_id, dir: Some(dir) };
        let around = Around { clock, sink, boot: rng.next_u64(), salts: Box::new(SystemRng::new()?), threads: true };
        DurableEngine::open_files(files, options, around)
    }

    pub(super) fn open_files(files: Files, options: DurableOptions, around: Around) -> Result<DurableEngine> {
        let Files { disk, disk_id, dir } = files;
        let Around { clock, sink, boot, salts, threads } = around;
        let contents = load(&disk, disk_id, &options, salts)?;
        warn_of_other_params(contents.ledger.params(), &options.params);
        let ballast = disk.open(BALLAST).is_ok();
        let writer = Writer {
            log: Box::new(contents.log),
            stamper: Stamper::new(boot, &*clock),
            buffer: Vec::new(),
            outcomes: Vec::new(),
            events: Vec::new(),
            entries: 0,
            syncs: 0,
            snapshot_at: options.snapshot_bytes.max(2 * contents.snapshot_bytes),
            snapshot_tried: 0,
            snapshot_bytes: contents.snapshot_bytes,
            space_looked_at_ns: 0,
            ballast,
        };
        let moved_ns = clock.monotonic_ns();
        let delivery = Delivery::new(sink);
        delivery.watches().connect(contents.ledger.watched());
        let shared = Arc::new(Shared {
            options,
            clock,
            queue: Default::default(),
            wake: Default::default(),
            writer: writer.into(),
            ledger: contents.ledger.into(),
            delivery,
            state: Box::new(contents.state),
            disk,
            identity: dir.as_ref().map(|d| d.identity().clone()),
            marked: dir.as_ref().is_some_and(DataDir::is_marked),
            dir: dir.into(),
            ended: Default::default(),
            wake_at_ns: NEVER_NS.into(),
            tick_pending: Default::default(),
            unsynced_release: Default::default(),
            full: Default::default(),
            upkeep_runs: Default::default(),
            upkeep_thread: Default::default(),
            snapshot_index: contents.snapshot_index.into(),
            threads,
        });
        {
            let mut writer = lock(&shared.writer);
            shared.keep_ballast(&mut writer)?;
            shared.set_wake(&lock(&shared.ledger), moved_ns);
        }
        let mut engine = DurableEngine { shared, log_thread: Default::default(), generation: process::generation() };
        if threads {
            engine.shared.start_upkeep();
            let shared = engine.shared.clone();
            let thread = process::spawn("tenure-log", move || shared.run_log_thread())?;
            engine.log_thread = Some(thread).into();
        }
        Ok(engine)
    }
}

fn warn_of_other_params(kept: &Params, asked: &Params) {
    if kept != asked {
        tracing::warn!(?kept, ?asked, "the limits are those that the data directory was made with");
    }
}
