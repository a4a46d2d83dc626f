//! The writer: one log entry of everything that waits, written, applied, answered.

use crate::base::planted::planted;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::*;
use std::sync::{Arc, PoisonError};

use super::upkeep::RELEASE_SYNC_PERIOD;
use super::{Command, Done, DurableStatus, NEVER_NS, NS_PER_MS, Shared, Turn, lock};
use crate::base::codec::{self, Kind};
use crate::base::{Clock, Error, Result, Status};
use crate::engine::OpId;
use crate::ledger::{Entry, Event, Ledger, LogId, Op, Outcome, Request, Stamp};
use crate::store::LogStore;

/// Most operations in one entry.
const MAX_OPS: usize = 1_024;
/// Most bytes in one entry, roughly; an operation that is larger goes alone.
const MAX_BYTES: usize = 256 << 10;
/// The term of a node that is a cluster of one.
pub(super) const TERM: u64 = 1;
/// How often the free space is looked at, ns.
const SPACE_PERIOD_NS: u64 = 500 * NS_PER_MS;

/// The proposer's clock: the running sum of the smaller of two clocks' steps, so that it is never ahead of real time.
pub(super) struct Stamper {
    boot: u64,
    monotonic_ns: u64,
    raw_ns: u64,
    sum_ns: u64,
}

impl Stamper {
    pub fn new(boot: u64, clock: &dyn Clock) -> Stamper {
        Stamper { boot, monotonic_ns: clock.monotonic_ns(), raw_ns: clock.raw_ns(), sum_ns: 0 }
    }

    fn stamp(&mut self, clock: &dyn Clock) -> Stamp {
        let (monotonic_ns, raw_ns) = (clock.monotonic_ns(), clock.raw_ns());
        self.sum_ns += monotonic_ns.saturating_sub(self.monotonic_ns).min(raw_ns.saturating_sub(self.raw_ns));
        (self.monotonic_ns, self.raw_ns) = (monotonic_ns, raw_ns);
        Stamp { term: TERM, boot: self.boot, ticks_ms: self.sum_ns / NS_PER_MS }
    }
}

/// What only the writer uses.
pub(super) struct Writer {
    pub log: Box<dyn LogStore>,
    pub stamper: Stamper,
    pub buffer: Vec<u8>,
    pub outcomes: Vec<Outcome>,
    pub events: Vec<Event>,
    pub entries: u64,
    pub syncs: u64,
    /// The log's size at which the next snapshot is due.
    pub snapshot_at: u64,
    /// The log's size at which the last one was tried.
    pub snapshot_tried: u64,
    /// Bytes of the newest snapshot.
    pub snapshot_bytes: u64,
    pub space_looked_at_ns: u64,
    /// The file that keeps some space for bad times is there.
    pub ballast: bool,
}

impl Writer {
    pub fn status(&self) -> DurableStatus {
        DurableStatus {
            last_index: self.log.last_index(),
            log_bytes: self.log.written_bytes(),
            entries: self.entries,
            syncs: self.syncs,
            ..DurableStatus::default()
        }
    }

    pub fn close(&mut self) {
        // Whatever this answers, everything that was acknowledged is on the disk but for releases; the next start finds out.
        if let Err(error) = self.log.close() {
            tracing::warn!(%error, "the log was not closed in good order");
        }
    }

    pub fn sync(&mut self) -> Result<()> {
        self.syncs += 1;
        self.log.sync()
    }
}

/// Ends the engine when a panic passes: its state may be half changed. Forgotten on every other way out.
struct Unwind<'a>(&'a Shared);

impl Drop for Unwind<'_> {
    fn drop(&mut self) {
        self.0.poison(&Error::new(Status::Panic, "a panic in the engine"));
    }
}

/// A rough upper bound of an operation's size in the log.
fn size(request: &Request) -> usize {
    64 + match &request.op {
        Op::Acquire { key, spec, .. } => key.as_bytes().len() + spec.metadata.len(),
        Op::AcquireAll { keys, spec, .. } => keys.iter().map(|k| k.as_bytes().len() + 4).sum::<usize>() + spec.metadata.len(),
        Op::Cancel { keys, .. } => keys.iter().map(|k| k.as_bytes().len() + 4).sum(),
        Op::Release { key, .. } | Op::Renew { key, .. } | Op::ForceRelease { key, .. } => key.as_bytes().len(),
        Op::OpenSession { name, .. } => name.len(),
        Op::Orch(op) => op.size(),
        Op::Revoke { key, why, .. } => key.as_bytes().len() + why.len(),
        Op::Annotate { key, metadata, .. } => key.as_bytes().len() + metadata.len(),
        Op::TakeOver { name, .. } => name.len() + 32,
        Op::HandOver { key, to, .. } => key.as_bytes().len() + to.len(),
        Op::RenewSession | Op::CloseSession | Op::ReleaseAll | Op::Tick => 0,
        Op::Promise(op) => op.bytes(),
    }
}

/// What makes the state grow. It is refused while space is short.
fn is_new_work(op: &Op) -> bool {
    match op {
        Op::OpenSession { .. } | Op::Acquire { .. } | Op::AcquireAll { .. } => true,
        Op::Orch(op) => op.is_new_work(),
        _ => false,
    }
}

type Answers = Vec<(Done, Result<Outcome>)>;

/// What an entry has led to.
struct Written {
    answers: Answers,
    /// A tick is wanted sooner than it was.
    nearer: bool,
    /// The files want looking after.
    upkeep: bool,
}

impl Shared {
    /// Whether an entry with this operation is answered only when it is on the disk.
    fn is_strict(&self, op: &Op) -> bool {
        match op {
            Op::Tick => false,
            Op::Release { .. } => self.options.sync_releases,
            _ => true,
        }
    }

    /// Adds what waits to `batch`, up to the size of one entry. The caller is the writer.
    fn take(&self, batch: &mut Vec<Command>) {
        let mut bytes: usize = batch.iter().map(|c| size(&c.request)).sum();
        let mut queue = lock(&self.queue);
        let room = MAX_OPS.saturating_sub(batch.len());
        let fits = |command: &&Command| {
            bytes += size(&command.request);
            bytes <= MAX_BYTES.min(self.options.segment_bytes as usize / 2)
        };
        let count = queue.waiting.iter().take(room).take_while(fits).count();
        let alone = usize::from(batch.is_empty() && !queue.waiting.is_empty());
        batch.extend(queue.waiting.drain(..count.max(alone)));
    }

    /// Writes what waits, as the writer, and passes the role on.
    ///
    /// What need not be synced goes first, in an entry of its own: it is answered without waiting for the disk, and whoever goes on
    /// from there is in time for the entry that is synced.
    pub(super) fn lead(self: &Arc<Self>) {
        let mut batch = Vec::new();
        self.take(&mut batch);
        let (loose, strict): (Vec<_>, Vec<_>) = batch.into_iter().partition(|c| !self.is_strict(&c.request.op));
        let mut panicked = Ok(());
        batch = if loose.is_empty() || strict.is_empty() {
            // One of them: all of the batch.
            loose.into_iter().chain(strict).collect()
        } else {
            let written = self.write(loose);
            // A completion's panic is its caller's, but those in `strict` wait for this thread.
            panicked = catch_unwind(AssertUnwindSafe(|| self.tell(written)));
            batch = strict;
            self.take(&mut batch);
            batch
        };
        let written = self.write(batch);
        self.hand_over();
        self.tell(written);
        if let Err(panic) = panicked {
            resume_unwind(panic);
        }
    }

    /// Writes one entry. The caller is the writer.
    fn write(&self, batch: Vec<Command>) -> Written {
        let unwind = Unwind(self);
        let mut written = Written { answers: Vec::with_capacity(batch.len()), nearer: false, upkeep: false };
        let mut writer = lock(&self.writer);
        match self.commit(&mut writer, batch, &mut written.answers) {
            Ok(nearer) => {
                written.nearer = nearer;
                written.upkeep = self.wants_upkeep(&mut writer);
            }
            Err(cause) => {
                drop(writer);
                self.poison(&cause);
            }
        }
        std::mem::forget(unwind);
        written
    }

    /// Tells everybody, without any lock. A completion's panic goes on when all the others have been told.
    fn tell(self: &Arc<Self>, written: Written) {
        let mut panicked = None;
        for (done, answer) in written.answers {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| done.tell(answer))) {
                panicked = Some(panic);
            }
        }
        if written.nearer {
            self.delivery.sink().nearer_deadline();
        }
        self.delivery.deliver();
        if written.upkeep {
            self.start_upkeep();
        }
        if let Some(panic) = panicked {
            resume_unwind(panic);
        }
    }

    /// Names the next writer, or nobody.
    fn hand_over(&self) {
        let mut queue = lock(&self.queue);
        match queue.waiting.front().map(|c| &c.done) {
            Some(Done::Caller(slot)) => slot.put(Turn::Lead),
            Some(Done::Completion(_)) if self.threads => {
                queue.log_thread_leads = true;
                if queue.log_thread_sleeps {
                    queue.log_thread_sleeps = false;
                    self.wake.notify_one();
                }
            }
            _ => queue.writing = false,
        }
    }

    /// Writes, applies and answers a batch; true when a tick is wanted sooner than it was. An error is the end of the store.
    fn commit(&self, writer: &mut Writer, batch: Vec<Command>, answers: &mut Answers) -> Result<bool> {
        if let Err(e) = self.ready() {
            answers.extend(batch.into_iter().map(|c| (c.done, Err(e.clone()))));
            return Ok(false);
        }
        let stamp = writer.stamper.stamp(&*self.clock);
        self.look_at_space(writer);
        let full = self.full.load(Relaxed);
        let (mut ops, mut dones) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for command in batch {
            if full && is_new_work(&command.request.op) {
                answers.push((command.done, Err(self.no_space())));
            } else {
                ops.push(command.request);
                dones.push(command.done);
            }
        }
        if ops.is_empty() {
            return Ok(false);
        }
        let entry = Entry { stamp, ops };
        match self.store(writer, &entry) {
            Ok(()) => {}
            // Nothing was written.
            Err(e) if e.status() == Status::Limit => {
                answers.extend(dones.into_iter().map(|done| (done, Err(e.clone()))));
                return Ok(false);
            }
            Err(cause) => {
                let e = Error::new(Status::Poisoned, cause.message().to_owned()).with_errno(cause.os_errno());
                answers.extend(dones.into_iter().map(|done| (done, Err(e.clone()))));
                return Err(cause);
            }
        }
        let nearer = match self.apply(writer, &entry) {
            Ok(nearer) => nearer,
            Err(cause) => {
                let e = Error::new(Status::Poisoned, cause.message().to_owned()).with_errno(cause.os_errno());
                answers.extend(dones.into_iter().map(|done| (done, Err(e.clone()))));
                return Err(cause);
            }
        };
        for ((request, done), outcome) in entry.ops.iter().zip(dones).zip(writer.outcomes.drain(..)) {
            match (&outcome, &request.op) {
                (Outcome::Queued { .. }, Op::Acquire { req, .. } | Op::AcquireAll { req, .. }) => {
                    // Nobody else applies anything now, so nothing can end this wait before it is known.
                    self.delivery.park(OpId { session: request.session, req: *req }, Box::new(move |answer| done.tell(answer)));
                }
                _ => answers.push((done, Ok(outcome))),
            }
        }
        // It may have ended between the applying and the parking: then nobody else ends these waits.
        if let Some(error) = self.ended.get() {
            self.delivery.fail(error);
        }
        // After the parking: one entry may hold a wait and what ends it.
        self.delivery.post(std::mem::take(&mut writer.events));
        Ok(nearer)
    }

    /// Puts an entry into the log, and on the disk if it has to be.
    fn store(&self, writer: &mut Writer, entry: &Entry) -> Result<()> {
        writer.buffer.clear();
        codec::encode_into(Kind::Entry, entry, &mut writer.buffer)?;
        let index = writer.log.last_index() + 1;
        if let Err(e) = writer.log.append(index, &[&writer.buffer]) {
            if e.status() != Status::Limit || writer.buffer.len() > writer.log.max_record() || !self.make_room(writer)? {
                return Err(e);
            }
            writer.log.append(index, &[&writer.buffer])?;
        }
        writer.entries += 1;
        if entry.ops.iter().any(|r| self.is_strict(&r.op)) && !planted!("acknowledge-before-sync") {
            self.sync(writer)?;
        } else if entry.ops.iter().any(|r| matches!(r.op, Op::Release { .. })) {
            self.unsynced_release.store(true, Relaxed);
        }
        Ok(())
    }

    fn sync(&self, writer: &mut Writer) -> Result<()> {
        self.unsynced_release.store(false, Relaxed);
        writer.sync()
    }

    /// Applies the newest entry of the log. True when a tick is wanted sooner than it was.
    fn apply(&self, writer: &mut Writer, entry: &Entry) -> Result<bool> {
        let mut ledger = lock(&self.ledger);
        let at = LogId { term: TERM, index: writer.log.last_index() };
        ledger.apply(at, entry, &mut writer.outcomes, &mut writer.events);
        // A grant that nobody asked for in this entry comes of a tick or a release, which may not be on the disk yet. Until it is, not even a
        // query may see it.
        if writer.events.iter().any(|e| matches!(e, Event::Granted { .. })) && !planted!("hand-off-before-sync") {
            self.sync(writer)?;
        }
        Ok(self.set_wake(&ledger, writer.stamper.monotonic_ns))
    }

    /// Reckons when the next tick is wanted, given when the ledger's clock was last moved.
    pub(super) fn set_wake(&self, ledger: &Ledger, moved_ns: u64) -> bool {
        let at = ledger.next_deadline().map_or(NEVER_NS, |deadline| {
            // A longer pause than one step would be cut by the ledger.
            let longest = ledger.params().max_step_ms * 3 / 4;
            let left_ms = deadline.saturating_sub(ledger.clock_ms()).min(longest);
            moved_ns.saturating_add(left_ms.saturating_mul(NS_PER_MS))
        });
        let before = self.wake_at_ns.swap(at, AcqRel);
        at.saturating_add(NS_PER_MS) < before
    }

    /// The log thread: writes what was submitted, and syncs what was left unsynced.
    pub(super) fn run_log_thread(self: &Arc<Self>) {
        loop {
            let work = {
                let mut queue = lock(&self.queue);
                loop {
                    if queue.stop {
                        return;
                    }
                    if queue.log_thread_leads || (!queue.writing && !queue.waiting.is_empty()) {
                        queue.log_thread_leads = false;
                        queue.writing = true;
                        break true;
                    }
                    queue.log_thread_sleeps = true;
                    if !queue.releases {
                        queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
                        queue.log_thread_sleeps = false;
                        continue;
                    }
                    let woken = self.wake.wait_timeout(queue, RELEASE_SYNC_PERIOD).unwrap_or_else(PoisonError::into_inner);
                    queue = woken.0;
                    queue.log_thread_sleeps = false;
                    if woken.1.timed_out() && !queue.writing {
                        queue.releases = false;
                        if self.unsynced_release.load(Relaxed) {
                            queue.writing = true;
                            break false;
                        }
                    }
                }
            };
            let turn = || if work { self.lead() } else { self.sync_releases() };
            if catch_unwind(AssertUnwindSafe(turn)).is_err() {
                // A completion's: the engine's own end it. Others still depend on this thread.
                tracing::error!("a completion panicked on the log thread");
            }
        }
    }

    /// Brings releases that were answered early to the disk. The caller is the writer.
    fn sync_releases(self: &Arc<Self>) {
        let unwind = Unwind(self);
        let synced = self.sync(&mut lock(&self.writer));
        if let Err(cause) = synced {
            self.poison(&cause);
        }
        self.hand_over();
        std::mem::forget(unwind);
    }

    /// Writes everything that waits, as the writer, on this thread.
    #[cfg(test)]
    pub(super) fn drain(self: &Arc<Self>) {
        while !lock(&self.queue).waiting.is_empty() {
            lock(&self.queue).writing = true;
            self.lead();
        }
    }

    /// Whether the free space was looked at long enough ago.
    pub(super) fn space_is_due(&self, writer: &Writer) -> bool {
        writer.stamper.monotonic_ns.saturating_sub(writer.space_looked_at_ns) >= SPACE_PERIOD_NS
    }

    pub(super) fn now_ns(writer: &Writer) -> u64 {
        writer.stamper.monotonic_ns
    }
}
