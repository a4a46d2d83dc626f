//! What the node keeps alive of a session: its ledger session, its renewals, its requests that wait.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::answer::unexpected;
use super::core::Core;
use super::event::{Event, LossReason};
use super::grants::{Change, Grants};
use crate::base::{Key, Moment, Result, SessionId};
use crate::ledger::{self, Op, Outcome, Request};

const NS_PER_MS: u64 = 1_000_000;

pub(super) struct Pending {
    pub(super) keys: Vec<Key>,
    pub(super) cancelled: bool,
}

/// What one session of this node remembers. The ledger's session behind it is opened anew when it has expired: what it held is lost then.
pub(super) struct State {
    name: String,
    ttl_ms: u32,
    /// The ledger's number; 0 while there is none.
    id: AtomicU64,
    pub(super) closed: AtomicBool,
    renewing: AtomicBool,
    /// When the last renewal was sent, answered or not, BOOTTIME ns.
    tried_ns: AtomicU64,
    pub(super) next_req: AtomicU64,
    pending: Mutex<HashMap<u64, Pending>>,
    pub(super) grants: Grants,
}

impl State {
    pub(super) fn new(name: String, ttl_ms: u32) -> State {
        State {
            name,
            ttl_ms,
            id: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            renewing: AtomicBool::new(false),
            tried_ns: AtomicU64::new(0),
            next_req: AtomicU64::new(1),
            pending: Mutex::default(),
            grants: Grants::default(),
        }
    }

    pub(super) fn pending(&self) -> MutexGuard<'_, HashMap<u64, Pending>> {
        // Plain insertions and removals: whole at every step.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn id(&self) -> SessionId {
        SessionId(self.id.load(SeqCst))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Between two renewals, ns: a third of the shortest ttl that they serve.
    pub(super) fn period_ns(&self) -> u64 {
        let session = u64::from(self.ttl_ms) * NS_PER_MS;
        match self.grants.shortest_ns() {
            0 => session / 3,
            shortest => session.min(shortest) / 3,
        }
    }

    /// Opens the ledger's session behind this one.
    pub(super) fn open(self: &Arc<State>, core: &Core) -> Result<()> {
        let sent = Moment::now(&*core.clock);
        let nonce = core.nonce();
        let op = Op::OpenSession { nonce, name: self.name.clone(), ttl_ms: self.ttl_ms };
        match core.engine.execute(&Request { session: SessionId(0), seq: 0, op })? {
            Outcome::Session { id, .. } => {
                self.tried_ns.store(sent.boottime_ns, SeqCst);
                self.grants.renewed(sent);
                self.id.store(id.0, SeqCst);
                core.number_session(self);
                Ok(())
            }
            other => Err(unexpected(other)),
        }
    }

    /// The ledger's session is over: everything it held is lost.
    pub(super) fn ended(&self, core: &Core, id: SessionId, reason: LossReason) {
        if self.id.compare_exchange(id.0, 0, SeqCst, SeqCst).is_err() {
            return;
        }
        core.unnumber_session(id);
        // The keeper opens it anew at once.
        self.tried_ns.store(0, SeqCst);
        core.wake.raise();
        for (key, token) in self.grants.take_all() {
            core.office_lost(token);
            core.delivery.event(Event::Lost { session: id, key, token, reason });
        }
    }

    /// Every request that waits ends without a grant, whatever the ledger has decided meanwhile.
    pub(super) fn cancel_all(&self) {
        self.pending().values_mut().for_each(|p| p.cancelled = true);
    }

    /// Ends the ledger's session, without waiting; `done` is called once that has been answered. False when there is none.
    pub(super) fn end(self: &Arc<State>, core: &Core, done: Box<dyn FnOnce() + Send>) -> bool {
        self.closed.store(true, SeqCst);
        let id = self.id();
        core.forget_session(self);
        self.grants.take_all();
        if id.0 == 0 {
            return false;
        }
        core.engine.submit(&Request { session: id, seq: 0, op: Op::CloseSession }, Box::new(move |_| done()));
        true
    }

    /// The keeper's look: tells what has run out or is about to, renews when it is time. Returns ns until the next look.
    pub(super) fn keep(self: &Arc<State>, core: &Arc<Core>, now: Moment) -> u64 {
        if self.closed.load(SeqCst) {
            return u64::MAX;
        }
        let id = self.id();
        for change in self.grants.look(now) {
            match change {
                Change::AtRisk { key, token, remaining_ns } => {
                    let remaining = Duration::from_nanos(remaining_ns);
                    core.delivery.event(Event::AtRisk { session: id, key, token, remaining });
                }
                Change::Lost { key, token } => {
                    core.office_lost(token);
                    core.delivery.event(Event::Lost { session: id, key: key.clone(), token, reason: LossReason::Expired });
                    // The ledger may let it live a little longer, and the session's next renewal would keep it for nobody.
                    core.engine.submit(&Request { session: id, seq: 0, op: Op::Release { key, token } }, Box::new(|_| {}));
                }
            }
        }
        let period = self.period_ns();
        let due = self.tried_ns.load(SeqCst).saturating_add(period);
        if now.boottime_ns >= due {
            self.renew_session(core, now);
            return self.period_ns();
        }
        due - now.boottime_ns
    }

    fn renew_session(self: &Arc<State>, core: &Arc<Core>, sent: Moment) {
        let id = self.id();
        if id.0 == 0 {
            self.tried_ns.store(sent.boottime_ns, SeqCst);
            if let Err(error) = self.open(core) {
                tracing::warn!(session = self.name, %error, "opening the session anew failed");
            }
            return;
        }
        if self.renewing.swap(true, SeqCst) {
            return;
        }
        self.tried_ns.store(sent.boottime_ns, SeqCst);
        let (state, keeper) = (self.clone(), core.clone());
        let done = Box::new(move |outcome: Result<Outcome>| {
            state.renewing.store(false, SeqCst);
            match outcome {
                Ok(Outcome::Renewed { .. }) => {
                    state.grants.renewed(sent);
                    keeper.session_renewed(&state, sent);
                }
                Ok(Outcome::Refused(ledger::Refusal::NoSession)) => state.ended(&keeper, id, LossReason::SessionExpired),
                Ok(other) => tracing::error!(session = state.name, ?other, "an answer that is none to a renewal"),
                Err(error) => tracing::warn!(session = state.name, %error, "the renewal failed"),
            }
        });
        core.engine.submit(&Request { session: id, seq: 0, op: Op::RenewSession }, done);
    }
}
