//! The engine of a node with a data directory: an operation is in the log before it is applied, and on the disk before it is answered.
//!
//! A caller that finds nobody writing becomes the writer on its own thread: one client costs one write and one `fdatasync`, and no hop.
//! Whoever comes meanwhile queues up, and everything that waits becomes one log entry. Operations submitted without blocking are
//! written by the log thread. Answers and events leave once the entry is applied, with no lock held.
//!
//! Two kinds of operation need not be on the disk when they are answered: a tick, and (unless [`DurableOptions::sync_releases`]) the
//! release of a lock. If the machine dies before the next sync the clock has stood still and the lock is still held, which is
//! late and never unsafe. When either lets a waiter have its lock, the grant is on the disk before anybody hears of it.

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod durable_test;
mod open;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod threads_test;
mod upkeep;
mod write;

use crate::base::planted::planted;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::base::{Clock, Error, Key, Result, SessionId, Status, Token, process};
use crate::ledger::{Counts, Held, Ledger, LockInfo, Op, Outcome, Params, Pattern, PromiseInfo, Request, SessionInfo, Spec, Wait, orch};
use crate::store::disk::Disk;
use crate::store::{DataDir, Identity, StateStore};

use self::write::Writer;
use super::delivery::Delivery;
use super::{Completion, Local, Watch};

const NS_PER_MS: u64 = 1_000_000;
/// Nothing can run out.
const NEVER_NS: u64 = u64::MAX;

/// How a durable engine is made.
#[derive(Clone, Copy, Debug)]
pub struct DurableOptions {
    /// The ledger's parameters when the directory is made; later they are those in the directory.
    pub params: Params,
    /// Size of one preallocated segment of the log, bytes.
    pub segment_bytes: u64,
    /// Log size after which a snapshot is written, bytes.
    pub snapshot_bytes: u64,
    /// Whether a release, too, is answered only when it is on the disk.
    pub sync_releases: bool,
}

/// What a durable engine says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DurableStatus {
    /// Index of the newest log entry.
    pub last_index: u64,
    /// Index of the newest snapshot.
    pub snapshot_index: u64,
    /// Bytes written to the log since the engine was opened.
    pub log_bytes: u64,
    /// Log entries written since the engine was opened; each carries all operations that were waiting.
    pub entries: u64,
    /// Syncs of the log since the engine was opened.
    pub syncs: u64,
    /// Space runs out: new sessions and locks are refused, everything else goes on.
    pub full: bool,
}

/// An operation on its way to the log.
struct Command {
    request: Request,
    done: Done,
}

/// Who wants to know.
enum Done {
    Caller(Arc<Slot>),
    Completion(Completion),
}

impl Done {
    fn tell(self, answer: Result<Outcome>) {
        match self {
            Done::Caller(slot) => slot.put(Turn::Answer(answer)),
            Done::Completion(done) => done(answer),
        }
    }
}

/// Where a blocked caller waits.
#[derive(Default)]
struct Slot {
    turn: Mutex<Option<Turn>>,
    changed: Condvar,
}

enum Turn {
    /// Be the writer of the next entry.
    Lead,
    Answer(Result<Outcome>),
}

impl Slot {
    fn put(&self, turn: Turn) {
        *lock(&self.turn) = Some(turn);
        self.changed.notify_one();
    }

    fn wait(&self) -> Turn {
        let mut turn = lock(&self.turn);
        loop {
            if let Some(turn) = turn.take() {
                return turn;
            }
            turn = self.changed.wait(turn).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Command>,
    /// Somebody is the writer.
    writing: bool,
    /// The log thread is that writer, and does not know yet.
    log_thread_leads: bool,
    /// The log thread sleeps.
    log_thread_sleeps: bool,
    /// A release came, so the log thread has to look whether it must be synced.
    releases: bool,
    /// No more commands; the log thread leaves.
    stop: bool,
}

struct Shared {
    options: DurableOptions,
    clock: Arc<dyn Clock>,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Locked by the writer only, and by those who look after the files.
    writer: Mutex<Writer>,
    ledger: Mutex<Ledger>,
    delivery: Delivery,
    state: Box<dyn StateStore>,
    disk: Arc<dyn Disk>,
    /// Held for its lock until the engine is closed; `None` in tests.
    dir: Mutex<Option<DataDir>>,
    /// Set once: why nothing is accepted any more.
    ended: OnceLock<Error>,
    /// CLOCK_MONOTONIC time at which the next tick is wanted.
    wake_at_ns: AtomicU64,
    tick_pending: AtomicBool,
    /// A release was answered before it was on the disk.
    unsynced_release: AtomicBool,
    full: AtomicBool,
    /// Somebody looks after the files.
    upkeep_runs: AtomicBool,
    /// The thread that does, when it is one of its own.
    upkeep_thread: Mutex<Option<JoinHandle<()>>>,
    snapshot_index: AtomicU64,
    identity: Option<Identity>,
    marked: bool,
    /// Whether there are threads of ours; without them a simulation calls [`Shared::drain`].
    threads: bool,
}

/// A ledger in a data directory. Every method may be called from any thread.
pub struct DurableEngine {
    shared: Arc<Shared>,
    log_thread: Mutex<Option<JoinHandle<()>>>,
    /// The process that it belongs to.
    generation: u64,
}

impl std::fmt::Debug for DurableEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DurableEngine").field("directory", &self.shared.disk.path()).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic that may have left something half done ends the engine, see `write::Unwind`.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn ready(&self) -> Result<()> {
        self.ended.get().map_or(Ok(()), |e| Err(e.clone()))
    }

    /// Puts a command into the queue. True: the caller is the writer now.
    fn enqueue(&self, request: &Request, done: Done, blocking: bool) -> std::result::Result<bool, (Done, Error)> {
        let mut queue = lock(&self.queue);
        // Under the lock: whoever ends the engine empties the queue once, afterwards.
        if let Err(e) = self.ready() {
            return Err((done, e));
        }
        queue.waiting.push_back(Command { request: request.clone(), done });
        let first_release = matches!(request.op, Op::Release { .. }) && !std::mem::replace(&mut queue.releases, true);
        let lead = blocking && !queue.writing;
        if queue.log_thread_sleeps && (first_release || !(queue.writing || lead)) {
            queue.log_thread_sleeps = false;
            self.wake.notify_one();
        }
        queue.writing |= lead;
        Ok(lead)
    }

    fn execute(self: &Arc<Self>, request: &Request) -> Result<Outcome> {
        let slot = Arc::new(Slot::default());
        let mut lead = self.enqueue(request, Done::Caller(slot.clone()), true).map_err(|(_, e)| e)?;
        loop {
            if lead {
                self.lead();
            }
            match slot.wait() {
                Turn::Lead => lead = true,
                Turn::Answer(answer) => return answer,
            }
        }
    }

    /// Ends the engine, once: what waits is answered with `error`, and so is every later call.
    fn end(&self, error: &Error) {
        if self.ended.set(error.clone()).is_err() {
            return;
        }
        let waiting = {
            let mut queue = lock(&self.queue);
            queue.stop = true;
            self.wake.notify_all();
            std::mem::take(&mut queue.waiting)
        };
        for command in waiting {
            command.done.tell(Err(error.clone()));
        }
        self.delivery.end(error);
        self.delivery.deliver();
        if error.status() == Status::Poisoned {
            tracing::error!(directory = %self.disk.path().display(), %error, "the store failed; the engine is of no use any more");
            self.delivery.sink().ended(error);
        }
    }

    /// Ends the engine because of `cause`.
    fn poison(&self, cause: &Error) {
        if planted!("disk-error-survived") {
            return;
        }
        self.end(&Error::new(Status::Poisoned, cause.message().to_owned()).with_errno(cause.os_errno()));
    }
}

impl DurableEngine {
    /// What the data directory says of itself.
    pub fn identity(&self) -> Option<&Identity> {
        self.shared.identity.as_ref()
    }

    /// Whether the directory's parent remembers it, see [`DataDir::is_marked`].
    pub fn is_marked(&self) -> bool {
        self.shared.marked
    }

    /// Runs an operation and, if it has to wait for a lock, blocks until the wait ends.
    /// Somebody else must call [`DurableEngine::tick`] meanwhile, or waits that run out do not end.
    ///
    /// # Errors
    /// [`Status::Closed`], [`Status::Poisoned`] with the cause; [`Status::Limit`] for want of space: nothing was done then. Everything
    /// else is in the outcome.
    pub fn execute(&self, request: &Request) -> Result<Outcome> {
        self.shared.execute(request)
    }

    /// Runs an operation without blocking; `done` is called once, on another thread, or on this one when the engine has ended.
    pub fn submit(&self, request: &Request, done: Completion) {
        if let Err((done, e)) = self.shared.enqueue(request, Done::Completion(done), false) {
            done.tell(Err(e));
        }
    }

    /// Takes a lock if it is free. `req` is the caller's number for the request.
    ///
    /// # Errors
    /// As [`DurableEngine::execute`].
    pub fn try_acquire(&self, session: SessionId, key: &Key, spec: &Spec, req: u64) -> Result<Outcome> {
        let wait_ms: Wait = None;
        self.execute(&Request { session, seq: 0, op: Op::Acquire { key: key.clone(), spec: spec.clone(), wait_ms, req } })
    }

    /// Gives a lock back.
    ///
    /// # Errors
    /// As [`DurableEngine::execute`].
    pub fn release(&self, session: SessionId, key: &Key, token: Token) -> Result<Outcome> {
        self.execute(&Request { session, seq: 0, op: Op::Release { key: key.clone(), token } })
    }

    /// Has the ledger's clock moved, if it is time, and what has run out ended, at most one slice of it. Waits for no disk: when it is
    /// done, [`crate::engine::EventSink::nearer_deadline`] is called.
    ///
    /// # Errors
    /// As [`DurableEngine::execute`].
    pub fn tick(&self) -> Result<()> {
        self.shared.ready()?;
        let due = self.shared.wake_at_ns.load(Acquire) <= self.shared.clock.monotonic_ns();
        if due && !self.shared.tick_pending.swap(true, AcqRel) {
            let shared = self.shared.clone();
            let done = move |_| {
                shared.tick_pending.store(false, Release);
                shared.delivery.sink().nearer_deadline();
            };
            self.submit(&Request { session: SessionId(0), seq: 0, op: Op::Tick }, Box::new(done));
        }
        Ok(())
    }

    /// How long until the next tick is wanted; `None` while nothing can run out, or until the tick under way is done. It may be too early,
    /// never too late.
    pub fn next_tick(&self) -> Option<Duration> {
        match self.shared.wake_at_ns.load(Acquire) {
            NEVER_NS => None,
            _ if self.shared.tick_pending.load(Acquire) => None,
            at => Some(Duration::from_nanos(at.saturating_sub(self.shared.clock.monotonic_ns()))),
        }
    }

    /// Ends every wait with [`Status::Closed`], refuses everything from now on, and closes the log in good order. Blocks for a write that is
    /// under way. The data directory may be opened again afterwards.
    /// In a forked child it does nothing: the files are the parent's, and so were the threads.
    pub fn close(&self) {
        if process::check_generation(self.generation).is_err() {
            return;
        }
        self.shared.end(&Status::Closed.into());
        for thread in [&self.log_thread, &self.shared.upkeep_thread] {
            let thread = lock(thread).take();
            if let Some(thread) = thread.filter(|t| t.thread().id() != std::thread::current().id()) {
                // A panic there has ended the engine already.
                let _ = thread.join();
            }
        }
        let Some(dir) = lock(&self.shared.dir).take() else { return };
        let mut writer = lock(&self.shared.writer);
        if self.shared.ended.get().is_some_and(|e| e.status() == Status::Closed) {
            writer.close();
        }
        self.shared.state.close();
        // Now somebody else may open it.
        drop(dir);
    }

    /// A lock and everybody around it; `None` when nobody holds it, waits for it, or must wait out its delay. Times are those of the
    /// last entry.
    ///
    /// # Errors
    /// [`Status::Closed`], [`Status::Poisoned`].
    pub fn lock(&self, key: &Key) -> Result<Option<LockInfo>> {
        self.shared.ready()?;
        Ok(lock(&self.shared.ledger).lock(key))
    }

    /// The locks whose names begin with `prefix` and come after `after`, in order of bytes: from the first `limit` names in use.
    ///
    /// # Errors
    /// As [`DurableEngine::lock`].
    pub fn locks(&self, prefix: &[u8], after: Option<&Key>, limit: usize) -> Result<Vec<LockInfo>> {
        self.shared.ready()?;
        Ok(lock(&self.shared.ledger).locks(prefix, after, limit))
    }

    /// The offices whose names begin with `prefix` and what was promised to their holders, by name, at most `limit` of them.
    ///
    /// # Errors
    /// As [`DurableEngine::lock`].
    pub fn promises(&self, prefix: &[u8], limit: usize) -> Result<Vec<PromiseInfo>> {
        self.shared.ready()?;
        Ok(lock(&self.shared.ledger).promises(prefix, limit))
    }

    /// As [`DurableEngine::lock`]: there is nothing newer.
    ///
    /// # Errors
    /// As [`DurableEngine::lock`].
    pub fn lock_local(&self, key: &Key) -> Result<Local<Option<LockInfo>>> {
        self.shared.ready()?;
        let ledger = lock(&self.shared.ledger);
        Ok(Local { value: ledger.lock(key), applied: ledger.applied().index, age: Duration::ZERO })
    }

    /// Watches the holders of a key, or of all keys of a prefix. A release is told when it is decided, before it is on the disk.
    ///
    /// # Errors
    /// As [`DurableEngine::lock`].
    pub fn watch(&self, pattern: Pattern) -> Result<Watch> {
        self.shared.ready()?;
        self.shared.delivery.watches().open(pattern, |pattern| Ok(lock(&self.shared.ledger).watch_start(pattern)))
    }

    /// What a session holds, by token.
    ///
    /// # Errors
    /// As [`DurableEngine::lock`].
    pub fn held_by(&self, session: SessionId) -> Result<Vec<Held>> {
        self.shared.ready()?;
        Ok(lock(&self.shared.ledger).held_by(session))
    }

    /// The living sessions, by number.
    ///
    /// # Errors
    /// As [`DurableEngine::lock`].
    pub fn sessions(&self) -> Result<Vec<SessionInfo>> {
        self.shared.ready()?;
        Ok(lock(&self.shared.ledger).sessions())
    }

    /// Looks at the orchestrator's part of the ledger; `look` is also given the ledger's clock.
    ///
    /// # Errors
    /// As [`DurableEngine::lock`].
    pub fn orch<R>(&self, look: impl FnOnce(&orch::State, u64) -> R) -> Result<R> {
        self.shared.ready()?;
        let ledger = lock(&self.shared.ledger);
        Ok(ledger.orch(|state| look(state, ledger.clock_ms())))
    }

    /// Counts.
    ///
    /// # Errors
    /// As [`DurableEngine::lock`].
    pub fn counts(&self) -> Result<Counts> {
        self.shared.ready()?;
        Ok(lock(&self.shared.ledger).counts())
    }

    /// The small values kept in the directory beside the ledger.
    pub fn values(&self) -> Values {
        Values(self.shared.clone())
    }

    /// Where the log stands. Blocks for a write that is under way.
    pub fn status(&self) -> DurableStatus {
        let writer = lock(&self.shared.writer);
        DurableStatus { snapshot_index: self.shared.snapshot_index.load(Acquire), full: self.shared.full.load(Acquire), ..writer.status() }
    }
}

/// Small values in a data directory, such as a gate's highest epoch. Any thread; clones are the same values.
#[derive(Clone)]
pub struct Values(Arc<Shared>);

impl std::fmt::Debug for Values {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Values").field(&self.0.disk.path()).finish()
    }
}

impl Values {
    /// The value of a key.
    ///
    /// # Errors
    /// [`Status::Closed`], [`Status::Poisoned`]; a damaged value ends the engine.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.0.ready()?;
        self.0.state.get_meta(key).inspect_err(|e| self.failed(e))
    }

    /// Sets the value of a key; it is on the disk on return. Blocks for two or three syncs, and while a snapshot is written.
    ///
    /// # Errors
    /// [`Status::Closed`], [`Status::Poisoned`]; [`Status::Limit`] for want of space: the old or the new value is kept.
    pub fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        self.0.ready()?;
        self.0.state.put_meta(key, value).inspect_err(|e| self.failed(e))
    }

    fn failed(&self, error: &Error) {
        if error.status() != Status::Limit {
            self.0.poison(error);
        }
    }
}

impl Drop for DurableEngine {
    fn drop(&mut self) {
        self.close();
    }
}
