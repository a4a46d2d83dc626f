//! The engine of a node without a data directory: an operation runs on the caller's thread, with no hop and no queue.
//!
//! The lock table is divided into shards with a mutex each. An operation on one key locks one of them; one that concerns several
//! keys, or a session as a whole, locks all of them in order. Renewing a session locks none.

use std::sync::atomic::{AtomicU8, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::Duration;

use crate::base::{Clock, Error, Key, Result, SessionId, Status, Token};
use crate::ledger::orch::{self, OrchOp};
use crate::ledger::{
    Asks, Counts, Cx, Held, Hub, LockInfo, NEVER, Now, Op, Outcome, Params, Pattern, Probe, PromiseInfo, Request, SessionInfo, Shard,
    Shards, Spec, Wait, WatchStart, World, page, shard_of,
};

use super::delivery::Delivery;
use super::{Completion, EventSink, Local, OpId, Watch};

const OPEN: u8 = 0;
const CLOSED: u8 = 1;
const POISONED: u8 = 2;

const NS_PER_MS: u64 = 1_000_000;
/// So many that the locks of two threads seldom lie in one shard: measured, two threads gain a third over 64, one loses nothing.
const SHARDS_PER_PROCESSOR: usize = 512;

/// One shard, on cache lines of its own.
#[repr(align(128))]
struct Cell(Mutex<Shard>);

/// A ledger in this process's memory. Every method may be called from any thread.
///
/// Time is CLOCK_MONOTONIC, which never runs ahead of the CLOCK_BOOTTIME by which holders count.
pub struct MemoryEngine {
    hub: Hub,
    cells: Box<[Cell]>,
    clock: Arc<dyn Clock>,
    origin_ns: u64,
    state: AtomicU8,
    delivery: Delivery,
}

impl std::fmt::Debug for MemoryEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryEngine").field("shards", &self.cells.len()).finish_non_exhaustive()
    }
}

struct All<'a>(Vec<MutexGuard<'a, Shard>>);

impl Shards for All<'_> {
    fn count(&self) -> usize {
        self.0.len()
    }
    fn shard(&mut self, number: usize) -> &mut Shard {
        &mut self.0[number]
    }
}

/// Ends the engine when a panic passes: its state may be half changed. Forgotten on every other way out.
struct Unwind<'a>(&'a MemoryEngine);

impl Drop for Unwind<'_> {
    fn drop(&mut self) {
        self.0.poison();
    }
}

/// Asks for the cache lines of a shard that every operation touches.
#[inline]
fn prefetch(cell: &Cell) {
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code)]
    for line in 0..3 {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of any address is allowed; these are within the cell.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(cell).cast::<i8>().wrapping_add(line * 64)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = cell;
}

impl MemoryEngine {
    /// An empty ledger in `shards` parts (rounded up to a power of two); 0 for as many as suit the processors. More parts let more
    /// threads work at once, and take more of the cache.
    pub fn new(params: Params, shards: usize, clock: Arc<dyn Clock>, sink: Arc<dyn EventSink>) -> MemoryEngine {
        let suitable = || std::thread::available_parallelism().map_or(1, usize::from).saturating_mul(SHARDS_PER_PROCESSOR);
        let count = if shards == 0 { suitable() } else { shards }.clamp(1, 1 << 16).next_power_of_two();
        let hub = Hub::new(params, count, true);
        let delivery = Delivery::new(sink);
        delivery.watches().connect(&hub.watched);
        MemoryEngine {
            hub,
            cells: (0..count).map(|number| Cell(Mutex::new(Shard::new(number)))).collect(),
            origin_ns: clock.monotonic_ns(),
            clock,
            state: AtomicU8::new(OPEN),
            delivery,
        }
    }

    #[inline]
    fn now_ns(&self) -> u64 {
        self.clock.monotonic_ns().saturating_sub(self.origin_ns)
    }

    #[inline]
    fn now(&self) -> u64 {
        self.now_ns() / NS_PER_MS
    }

    #[inline]
    fn ready(&self) -> Result<()> {
        if self.state.load(Acquire) == OPEN { Ok(()) } else { Err(self.refusal()) }
    }

    #[cold]
    fn refusal(&self) -> Error {
        if self.state.load(Acquire) == POISONED { Status::Poisoned.into() } else { Status::Closed.into() }
    }

    /// Ends the engine: every call and every wait from now on is [`Status::Poisoned`].
    pub fn poison(&self) {
        self.state.store(POISONED, Release);
        self.delivery.end(&Status::Poisoned.into());
        self.delivery.deliver();
    }

    #[inline]
    fn cell(&self, hash: u64) -> Result<MutexGuard<'_, Shard>> {
        self.cells[shard_of(hash, self.cells.len())].0.lock().map_err(|_| self.refusal_after_panic())
    }

    #[cold]
    fn refusal_after_panic(&self) -> Error {
        self.poison();
        self.refusal()
    }

    /// Ends an operation: its events go out in the order of the changes, once its locks are gone.
    #[inline]
    fn finish<G>(&self, cx: Cx<'_>, locks: G) {
        if cx.events.is_empty() && !cx.nearer {
            return;
        }
        self.finish_loud(cx, locks);
    }

    #[cold]
    fn finish_loud<G>(&self, cx: Cx<'_>, locks: G) {
        let nearer = cx.nearer;
        self.delivery.post(cx.events);
        drop(locks);
        if nearer {
            self.delivery.sink().nearer_deadline();
        }
        self.delivery.deliver();
    }

    /// Runs `change` with every shard at hand.
    fn whole<R>(&self, change: impl FnOnce(&mut World<'_, '_, All<'_>>) -> R) -> Result<R> {
        let unwind = Unwind(self);
        let mut all = All(Vec::with_capacity(self.cells.len()));
        for cell in &self.cells {
            all.0.push(cell.0.lock().map_err(|_| self.refusal_after_panic())?);
        }
        // Read with the locks held: no shard has seen a later time.
        let mut world = World { shards: &mut all, cx: Cx::new(&self.hub, Now::At(self.now()), true) };
        let result = change(&mut world);
        let cx = world.cx;
        std::mem::forget(unwind);
        self.finish(cx, all);
        Ok(result)
    }

    /// Runs one operation. `park` is called when it waits, while nothing can end that wait.
    fn run(&self, request: &Request, park: &mut dyn FnMut(OpId)) -> Result<Outcome> {
        self.ready()?;
        if request.seq == 0 {
            match &request.op {
                Op::Acquire { key, spec, wait_ms, req } => return self.acquire(request.session, key, spec, *wait_ms, *req, park),
                Op::Release { key, token } => return self.release(request.session, key, *token),
                Op::Renew { key, token, ttl_ms } => {
                    return self.one(
                        key,
                        || Now::At(self.now()),
                        || (),
                        |shard, cx, probe| shard.renew(cx, probe, request.session, *token, *ttl_ms),
                        || self.whole(|world| world.execute(request)),
                    );
                }
                Op::RenewSession => {
                    if let Some(outcome) = self.hub.renew_session(request.session, self.now()) {
                        return Ok(outcome);
                    }
                }
                Op::Orch(op) => return self.orchestrate(request.session, op),
                _ => {}
            }
        }
        self.whole(|world| self.run_whole(world, request, park))
    }

    /// An operation of the orchestrator needs no shard.
    fn orchestrate(&self, session: SessionId, op: &OrchOp) -> Result<Outcome> {
        let unwind = Unwind(self);
        let mut cx = Cx::new(&self.hub, Now::At(self.now()), false);
        let outcome = cx.orchestrate(session, op);
        std::mem::forget(unwind);
        self.finish(cx, ());
        Ok(outcome)
    }

    fn run_whole(&self, world: &mut World<'_, '_, All<'_>>, request: &Request, park: &mut dyn FnMut(OpId)) -> Outcome {
        let outcome = world.execute(request);
        if let (Outcome::Queued { .. }, Op::Acquire { req, .. } | Op::AcquireAll { req, .. }) = (&outcome, &request.op) {
            park(OpId { session: request.session, req: *req });
        }
        outcome
    }

    /// Runs an operation on one key under its shard's lock alone, or `all` when it turns out to concern more than that.
    /// `park` is called when it waits.
    #[inline]
    fn one<'n>(
        &self,
        key: &Key,
        now: impl FnOnce() -> Now<'n>,
        park: impl FnOnce(),
        act: impl FnOnce(&mut Shard, &mut Cx<'_>, &Probe<'_>) -> Outcome,
        all: impl FnOnce() -> Result<Outcome>,
    ) -> Result<Outcome> {
        let probe = self.hub.probe(key);
        let cell = &self.cells[shard_of(probe.hash, self.cells.len())];
        // On its way while the clock is read.
        prefetch(cell);
        let mut cx = Cx::new(&self.hub, now(), false);
        let unwind = Unwind(self);
        let mut shard = cell.0.lock().map_err(|_| self.refusal_after_panic())?;
        let outcome = act(&mut shard, &mut cx, &probe);
        if let Outcome::Queued { .. } = outcome {
            park();
        }
        std::mem::forget(unwind);
        let escalated = cx.escalated;
        self.finish(cx, shard);
        if escalated { all() } else { Ok(outcome) }
    }

    #[inline]
    fn acquire(&self, session: SessionId, key: &Key, spec: &Spec, wait: Wait, req: u64, park: &mut dyn FnMut(OpId)) -> Result<Outcome> {
        self.ready()?;
        let asks = Asks { session, req, flags: 0 };
        let park = std::cell::RefCell::new(park);
        self.one(
            key,
            || Now::At(self.now()),
            || (park.borrow_mut())(OpId { session, req }),
            |shard, cx, probe| shard.acquire(cx, probe, asks, spec, wait),
            || {
                let request = Request { session, seq: 0, op: Op::Acquire { key: key.clone(), spec: spec.clone(), wait_ms: wait, req } };
                self.whole(|world| self.run_whole(world, &request, &mut **park.borrow_mut()))
            },
        )
    }

    /// Takes a lock if it is free. `req` is the caller's number for the request, as in [`Op::Acquire`].
    ///
    /// # Errors
    /// [`Status::Closed`], [`Status::Poisoned`]. Everything else is in the outcome.
    #[inline]
    pub fn try_acquire(&self, session: SessionId, key: &Key, spec: &Spec, req: u64) -> Result<Outcome> {
        self.acquire(session, key, spec, None, req, &mut |_| ())
    }

    /// Gives a lock back.
    ///
    /// # Errors
    /// As [`MemoryEngine::try_acquire`].
    #[inline]
    pub fn release(&self, session: SessionId, key: &Key, token: Token) -> Result<Outcome> {
        self.ready()?;
        let read = || self.now();
        self.one(
            key,
            || Now::Unread(&read),
            || (),
            |shard, cx, probe| shard.release(cx, probe, session, token),
            || {
                let request = Request { session, seq: 0, op: Op::Release { key: key.clone(), token } };
                self.whole(|world| world.execute(&request))
            },
        )
    }

    /// Runs an operation and, if it has to wait for a lock, blocks until the wait ends.
    /// Somebody else must call [`MemoryEngine::tick`] meanwhile, or waits that run out do not end.
    ///
    /// # Errors
    /// As [`MemoryEngine::try_acquire`].
    pub fn execute(&self, request: &Request) -> Result<Outcome> {
        let mut waiting = None;
        let outcome = self.run(request, &mut |op| {
            let (tell, told) = mpsc::sync_channel(1);
            // The receiver is gone only when its thread is; then nobody is left to tell.
            self.delivery.park(op, Box::new(move |answer| drop(tell.send(answer))));
            waiting = Some(told);
        })?;
        match waiting {
            None => Ok(outcome),
            Some(told) => {
                if self.state.load(Acquire) != OPEN {
                    // The engine ended between the check and the parking.
                    self.delivery.fail(&self.refusal());
                    self.delivery.deliver();
                }
                told.recv().unwrap_or_else(|_| Err(self.refusal()))
            }
        }
    }

    /// Runs an operation without blocking; `done` is called once, at once or when the wait for a lock ends.
    pub fn submit(&self, request: &Request, done: Completion) {
        let mut done = Some(done);
        let result = self.run(request, &mut |op| {
            if let Some(done) = done.take() {
                self.delivery.park(op, done);
            }
        });
        match done {
            Some(done) => done(result),
            None if self.state.load(Acquire) != OPEN => {
                self.delivery.fail(&self.refusal());
                self.delivery.deliver();
            }
            None => {}
        }
    }

    /// Ends what has run out, at most one slice of it.
    ///
    /// # Errors
    /// As [`MemoryEngine::try_acquire`].
    pub fn tick(&self) -> Result<()> {
        self.ready()?;
        if self.hub.nearest() > self.now() {
            return Ok(());
        }
        self.whole(|world| world.expire()).map(drop)
    }

    /// How long until the next tick is wanted; `None` while nothing can run out. It may be too early, never too late.
    pub fn next_tick(&self) -> Option<Duration> {
        match self.hub.nearest() {
            NEVER => None,
            at => Some(Duration::from_nanos(at.saturating_mul(NS_PER_MS).saturating_sub(self.now_ns()))),
        }
    }

    /// Ends every wait with [`Status::Closed`] and refuses everything from now on.
    pub fn close(&self) {
        if self.state.compare_exchange(OPEN, CLOSED, AcqRel, Acquire).is_ok() {
            self.delivery.end(&Status::Closed.into());
            self.delivery.deliver();
        }
    }

    /// A lock and everybody around it; `None` when nobody holds it, waits for it, or must wait out its delay.
    ///
    /// # Errors
    /// As [`MemoryEngine::try_acquire`].
    pub fn lock(&self, key: &Key) -> Result<Option<LockInfo>> {
        self.ready()?;
        let probe = self.hub.probe(key);
        let shard = self.cell(probe.hash)?;
        Ok(shard.lock_info(&mut Cx::new(&self.hub, Now::At(self.now()), false), &probe))
    }

    /// The locks whose names begin with `prefix` and come after `after`, in order of bytes: from the first `limit` names in use.
    /// Not a picture of one instant: each shard is looked at in turn.
    ///
    /// # Errors
    /// As [`MemoryEngine::try_acquire`].
    pub fn locks(&self, prefix: &[u8], after: Option<&Key>, limit: usize) -> Result<Vec<LockInfo>> {
        self.ready()?;
        let mut keys = Vec::new();
        for cell in &self.cells {
            keys.extend(cell.0.lock().map_err(|_| self.refusal_after_panic())?.keys(prefix, after, limit));
        }
        page(keys, limit).iter().filter_map(|key| self.lock(key).transpose()).collect()
    }

    /// The offices whose names begin with `prefix` and what was promised to their holders, by name, at most `limit` of them.
    ///
    /// # Errors
    /// As [`MemoryEngine::try_acquire`].
    pub fn promises(&self, prefix: &[u8], limit: usize) -> Result<Vec<PromiseInfo>> {
        self.ready()?;
        Ok(self.hub.promise_infos(prefix, limit, self.now()))
    }

    /// As [`MemoryEngine::lock`]: there is nothing newer.
    ///
    /// # Errors
    /// As [`MemoryEngine::try_acquire`].
    pub fn lock_local(&self, key: &Key) -> Result<Local<Option<LockInfo>>> {
        Ok(Local { value: self.lock(key)?, applied: 0, age: Duration::ZERO })
    }

    /// Watches the holders of a key, or of all keys of a prefix.
    ///
    /// # Errors
    /// As [`MemoryEngine::try_acquire`].
    pub fn watch(&self, pattern: Pattern) -> Result<Watch> {
        self.ready()?;
        self.delivery.watches().open(pattern, |pattern| {
            // Before the first look: whatever is told later is newer.
            let floor = self.hub.watched.revision();
            let cx = Cx::new(&self.hub, Now::At(self.now()), false);
            let mut changes = Vec::new();
            match pattern {
                Pattern::Key(key) => {
                    let probe = self.hub.probe(key);
                    changes.push(self.cell(probe.hash)?.change(&cx, &probe));
                }
                Pattern::Prefix(prefix) => {
                    for cell in &self.cells {
                        changes.extend(cell.0.lock().map_err(|_| self.refusal_after_panic())?.changes(&cx, prefix));
                    }
                }
            }
            Ok(WatchStart { floor, changes })
        })
    }

    /// What a session holds, by token; each shard is looked at in turn.
    ///
    /// # Errors
    /// As [`MemoryEngine::try_acquire`].
    pub fn held_by(&self, session: SessionId) -> Result<Vec<Held>> {
        self.ready()?;
        let mut held = Vec::new();
        for cell in &self.cells {
            held.extend(cell.0.lock().map_err(|_| self.refusal_after_panic())?.held_by(session));
        }
        held.sort_unstable_by_key(|h| h.token);
        Ok(held)
    }

    /// The living sessions, by number.
    ///
    /// # Errors
    /// As [`MemoryEngine::try_acquire`].
    pub fn sessions(&self) -> Result<Vec<SessionInfo>> {
        self.ready()?;
        Ok(self.hub.session_infos(self.now()))
    }

    /// Looks at the orchestrator's part of the ledger; `look` is also given the ledger's clock.
    ///
    /// # Errors
    /// As [`MemoryEngine::try_acquire`].
    pub fn orch<R>(&self, look: impl FnOnce(&orch::State, u64) -> R) -> Result<R> {
        self.ready()?;
        let unwind = Unwind(self);
        let result = look(&self.hub.orch(), self.now());
        std::mem::forget(unwind);
        Ok(result)
    }

    /// Counts; each shard is looked at in turn.
    ///
    /// # Errors
    /// As [`MemoryEngine::try_acquire`].
    pub fn counts(&self) -> Result<Counts> {
        self.ready()?;
        let (sessions, last_token) = self.hub.totals();
        let mut counts = Counts { sessions, last_token, ..Counts::default() };
        for cell in &self.cells {
            let shard = cell.0.lock().map_err(|_| self.refusal_after_panic())?;
            counts.keys += shard.key_count();
            counts.locks += shard.lock_count();
        }
        Ok(counts)
    }
}
