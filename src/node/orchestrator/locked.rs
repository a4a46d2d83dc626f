//! A lock round each run, as ThemisDB's orchestrator takes it: refused, the run is skipped.
//!
//! With it alone (`lock_only`) a tick can run on several nodes, one after the other; docs/orchestrator.md shows how often.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::{Orchestrator, Shared, lock};
use crate::base::{Error, Result, Status, Token, process};
use crate::ledger::orch::{End, Schedule};
use crate::node::options::{LockOptions, Renew, TTL_MAX, TTL_MIN};
use crate::node::session::Session;
use crate::orchestrator::themis;
use crate::plug::{Attempt, Capabilities, Holding, LockService};

/// Within this a lock service is to answer.
const LIMIT: Duration = Duration::from_secs(5);
/// How long a run waits whose lock nobody could tell of, ms.
const RETRY_MS: u32 = 5_000;

/// A lock service for runs: one call at a time for each lock, and none for what is held.
pub(super) struct RunLocks {
    service: Arc<dyn LockService>,
    caps: Capabilities,
    keys: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    held: Mutex<HashSet<String>>,
}

/// What came of asking for a lock.
enum Verdict {
    Held(Held),
    /// By this node, or nobody knows whom.
    Peer(String),
    Unknown(Error),
}

impl RunLocks {
    pub(super) fn new(service: Arc<dyn LockService>) -> Result<RunLocks> {
        let caps = service.capabilities();
        caps.check()?;
        Ok(RunLocks { service, caps, keys: Mutex::default(), held: Mutex::default() })
    }

    fn turn(&self, key: &str) -> Arc<Mutex<()>> {
        lock(&self.keys).entry(key.to_owned()).or_default().clone()
    }

    fn take(self: &Arc<Self>, key: &str, ttl: Duration) -> Verdict {
        let turn = self.turn(key);
        let _one = lock(&turn);
        let ttl = self.caps.ttl(ttl).min(self.caps.ttl_max);
        let mine = lock(&self.held).contains(key);
        let asked = if mine { Ok(Attempt::Held { token: 0 }) } else { self.service.try_acquire(key.as_bytes(), ttl, LIMIT) };
        match asked {
            Ok(Attempt::Acquired { token }) => {
                lock(&self.held).insert(key.to_owned());
                Verdict::Held(Held { locks: self.clone(), key: key.to_owned(), token, given: false })
            }
            Ok(Attempt::Held { .. }) => {
                let holder = self.service.holder(key.as_bytes(), LIMIT).ok().flatten();
                Verdict::Peer(holder.map_or_else(|| "<unknown>".to_owned(), |h| h.node))
            }
            Err(error) => Verdict::Unknown(error),
        }
    }

    fn give(&self, key: &str, token: u64) {
        let turn = self.turn(key);
        let _one = lock(&turn);
        lock(&self.held).remove(key);
        match self.service.release(key.as_bytes(), token, LIMIT) {
            Ok(true) => {}
            Ok(false) => tracing::debug!(key, "the lock of a run had ended before the run did"),
            Err(error) => tracing::warn!(key, %error, "the lock of a run was not given back: it runs out"),
        }
    }
}

/// A lock that a run holds. Dropped, it is given back in the background.
pub(super) struct Held {
    locks: Arc<RunLocks>,
    key: String,
    token: u64,
    given: bool,
}

impl Held {
    fn give(mut self) {
        self.given = true;
        let give = || self.locks.give(&self.key, self.token);
        if catch_unwind(AssertUnwindSafe(give)).is_err() {
            tracing::error!(key = self.key, "the lock service panicked");
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.given {
            return;
        }
        let (locks, key, token) = (self.locks.clone(), self.key.clone(), self.token);
        if let Err(error) = process::spawn("tenure-lock", move || Held { locks, key, token, given: false }.give()) {
            tracing::warn!(key = self.key, %error, "the lock of a run was not given back: it runs out");
        }
    }
}

/// Where a run stands with the host's gates and its lock.
#[derive(Default)]
pub(super) enum Locking {
    /// Nothing is needed, or nothing any more.
    #[default]
    Free,
    /// The gates are to be asked.
    Gated,
    /// They are being asked, since this time (BOOTTIME ns).
    Gating(u64),
    Wanted(Arc<RunLocks>),
    /// A call of the lock service goes on.
    Asked,
    Holds(Held),
}

/// The end of a call, on its way to the orchestrator's thread.
pub(super) type LockEnd = ((u64, u64), Locking, Option<(End, String)>);

/// How long the lock of a run is taken for: by ThemisDB's formula for its schedules; for others as for a window of a day.
fn ttl_of(schedule: &Schedule) -> Duration {
    Duration::from_millis(u64::try_from(themis::ttl_of(schedule)).unwrap_or(0))
}

impl Shared {
    /// What a run that begins has to do for its lock.
    pub(super) fn locking(&self) -> Locking {
        lock(&self.locks).clone().map_or(Locking::Free, Locking::Wanted)
    }

    /// Runs what may take its time, and brings back what came of it.
    pub(super) fn aside(
        self: &Arc<Self>,
        thread: &'static str,
        key: (u64, u64),
        call: impl FnOnce() -> (Locking, Option<(End, String)>) + Send + 'static,
    ) {
        let shared: Weak<Shared> = Arc::downgrade(self);
        let body = move || {
            let panicked = || (Locking::Free, Some((End::Failed, "the lock service panicked".to_owned())));
            let (locking, end) = catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| panicked());
            if let Some(shared) = shared.upgrade() {
                lock(&shared.lock_ends).push((key, locking, end));
                shared.wake.raise();
            }
        };
        if self.manual {
            return body();
        }
        if let Err(error) = process::spawn(thread, body) {
            let end = (End::Postponed { retry_ms: RETRY_MS }, format!("no thread to ask whether it may begin: {error}"));
            lock(&self.lock_ends).push((key, Locking::Free, Some(end)));
            self.wake.raise();
        }
    }

    /// Asks for a run's lock.
    pub(super) fn take_lock(self: &Arc<Self>, key: (u64, u64), locks: Arc<RunLocks>, schedule: &Arc<Schedule>, target: &str) {
        let (schedule, target) = (schedule.clone(), target.to_owned());
        self.aside("tenure-lock", key, move || {
            let id = schedule.id.as_str();
            let name = if target.is_empty() { id.to_owned() } else { format!("{id}/{target}") };
            match locks.take(&name, ttl_of(&schedule)) {
                Verdict::Held(held) => (Locking::Holds(held), None),
                Verdict::Peer(node) => {
                    tracing::debug!("schedule {id} skipped — lock held by peer {node}");
                    (Locking::Free, Some((End::Skipped, format!("Skipped: distributed lock held by peer {node}"))))
                }
                Verdict::Unknown(error) => {
                    tracing::warn!(schedule = id, %error, "nobody can tell who holds the lock; the run waits");
                    (Locking::Free, Some((End::Postponed { retry_ms: RETRY_MS }, format!("the lock: {error}"))))
                }
            }
        });
    }

    /// Gives a run's lock back; its end is recorded after that.
    pub(super) fn give_lock(self: &Arc<Self>, key: (u64, u64), held: Held) {
        self.aside("tenure-lock", key, move || {
            held.give();
            (Locking::Free, None)
        });
    }

    /// Takes what came of the calls that have ended.
    pub(super) fn take_lock_ends(&self) {
        let ends = std::mem::take(&mut *lock(&self.lock_ends));
        for (key, locking, end) in ends {
            let mut runs = lock(&self.runs);
            // A run that is gone drops its lock, which gives it back.
            let Some(running) = runs.get_mut(&key) else { continue };
            running.settle(locking, end);
        }
    }
}

impl Orchestrator {
    /// Sets the lock that is taken round each run on this node, or none. Runs that go on keep theirs.
    ///
    /// Without [`super::OrchestratorOptions::lock_only`] ticks are claimed as ever, and the lock comes on top: a run that does not get it is skipped, and its tick with it.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] for capabilities that contradict each other; [`Status::Closed`].
    pub fn set_distributed_lock(&self, service: Option<Arc<dyn LockService>>) -> Result<()> {
        self.0.shared.check()?;
        let locks = service.map(RunLocks::new).transpose()?.map(Arc::new);
        *lock(&self.0.shared.locks) = locks;
        Ok(())
    }
}

/// The locks of a session as a lock service: not renewed, as ThemisDB's are not.
struct SessionLocks(Session);

impl Session {
    /// This session's locks as a [`LockService`], for [`Orchestrator::set_distributed_lock`]. Tokens fence, and nothing is renewed.
    pub fn lock_service(&self) -> Arc<dyn LockService> {
        Arc::new(SessionLocks(self.clone()))
    }
}

impl LockService for SessionLocks {
    fn node_id(&self) -> Result<String> {
        Ok(self.0.name().to_owned())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { fencing: true, linearizable_reads: true, ttl_min: TTL_MIN, ttl_max: TTL_MAX, ..Capabilities::default() }
    }

    fn try_acquire(&self, key: &[u8], ttl: Duration, _limit: Duration) -> Result<Attempt> {
        let options = LockOptions { ttl, renew: Renew::Manual, ..LockOptions::default() };
        match self.0.try_acquire_token(key, &options) {
            Ok(token) => Ok(Attempt::Acquired { token: token.0 }),
            Err(e) if matches!(e.status(), Status::Held | Status::LockDelay) => Ok(Attempt::Held { token: e.token() }),
            Err(e) => Err(e),
        }
    }

    fn release(&self, key: &[u8], token: u64, _limit: Duration) -> Result<bool> {
        match self.0.release(key, Token(token)) {
            Ok(()) => Ok(true),
            Err(e) if e.status() == Status::NotHolder => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn holder(&self, key: &[u8], _limit: Duration) -> Result<Option<Holding>> {
        let holder = self.0.holder(key)?;
        Ok(holder.map(|h| Holding { node: h.node, token: h.token.0, remaining: Some(h.remaining) }))
    }
}
