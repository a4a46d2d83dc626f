//! What the node keeps alive of a session: its ledger session, its renewals, its requests that wait.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::answer::unexpected;
use super::clocks::CrossCheck;
use super::core::Core;
use super::doubt::Doubts;
use super::event::{Event, LossReason};
use super::grants::{Change, From, Grants};
use super::wake::Deadline;
use crate::base::planted::planted;
use crate::base::{Key, Moment, Result, SessionId, Token};
use crate::engine::Completion;
use crate::gate::Reason;
use crate::ledger::{self, Held, Op, Outcome, Renew, Request};

const NS_PER_MS: u64 = 1_000_000;
/// After an opening that failed the next one is tried no sooner than this.
const REOPEN_NS: u64 = 100 * NS_PER_MS;
/// Who waits for a number looks this often whether the node still runs.
const LOOK: Duration = Duration::from_millis(50);

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
    /// Number of the next release that nobody waits for.
    pub(super) next_seq: AtomicU64,
    pending: Mutex<HashMap<u64, Pending>>,
    pub(super) doubts: Doubts,
    pub(super) grants: Grants,
    /// Own time against the ledger's.
    cross: Mutex<CrossCheck>,
    /// Rung when the session gets a number.
    numbered: (Mutex<()>, Condvar),
    secrets: Mutex<Identity>,
    /// Renewals fail, or are not answered.
    unanswered: AtomicBool,
    /// An orchestrator works under its name.
    pub(super) orchestrated: AtomicBool,
    /// The last losses, with their reasons.
    losses: Mutex<VecDeque<(Token, LossReason)>>,
}

/// Who the session is to a ledger.
#[derive(Default)]
struct Identity {
    /// What its present ledger session was opened with: the proof of who owns it.
    nonce: u128,
    /// The session in whose place it is opened, and whether that one's locks are kept; until it is open.
    before: Option<(u128, bool)>,
    /// What it holds by tokens up to this one came with that session, and nobody has asked for it.
    inherited: Option<Token>,
}

/// So many losses are remembered with their reasons.
const LOSSES_MAX: usize = 1_024;

impl State {
    /// `first_req`: a random number. Its requests are counted from there, so that they are not taken for those of a session whose locks it
    /// takes over.
    pub(super) fn new(name: String, ttl_ms: u32, first_req: u32) -> State {
        State {
            name,
            ttl_ms,
            id: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            renewing: AtomicBool::new(false),
            tried_ns: AtomicU64::new(0),
            next_req: AtomicU64::new(u64::from(first_req).max(1)),
            next_seq: AtomicU64::new(1),
            pending: Mutex::default(),
            doubts: Doubts::default(),
            grants: Grants::default(),
            cross: Mutex::default(),
            numbered: Default::default(),
            secrets: Mutex::default(),
            unanswered: AtomicBool::new(false),
            orchestrated: AtomicBool::new(false),
            losses: Mutex::default(),
        }
    }

    pub(super) fn pending(&self) -> MutexGuard<'_, HashMap<u64, Pending>> {
        // Plain insertions and removals: whole at every step.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn id(&self) -> SessionId {
        SessionId(self.id.load(SeqCst))
    }

    pub(super) fn ttl(&self) -> Duration {
        Duration::from_millis(u64::from(self.ttl_ms))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn ttl_ms(&self) -> u32 {
        self.ttl_ms
    }

    /// Between two renewals, ns: a third of the shortest ttl that they serve.
    pub(super) fn period_ns(&self) -> u64 {
        let session = u64::from(self.ttl_ms) * NS_PER_MS;
        match self.grants.shortest_ns() {
            0 => session / 3,
            shortest => session.min(shortest) / 3,
        }
    }

    fn identity(&self) -> MutexGuard<'_, Identity> {
        // Whole at every step.
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is to be opened in the place of the session that was opened with `old`.
    pub(super) fn succeed(&self, old: u128, keep: bool) {
        self.identity().before = Some((old, keep));
    }

    fn opening(&self, core: &Core) -> Result<Request> {
        let nonce = core.nonce();
        // Before it is of use: whoever comes after a crash from here on finds nothing under it, which is no worse than not to look.
        core.remember_secret(&self.name, nonce)?;
        let mut identity = self.identity();
        identity.nonce = nonce;
        let (name, ttl_ms) = (self.name.clone(), self.ttl_ms);
        let op = match identity.before {
            Some((old, keep)) => Op::TakeOver { old, nonce, name, ttl_ms, keep },
            None => Op::OpenSession { nonce, name, ttl_ms },
        };
        Ok(Request { session: SessionId(0), seq: 0, op })
    }

    fn cross(&self) -> MutexGuard<'_, CrossCheck> {
        self.cross.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether offices may be held on this machine's clock, as far as the ledger's can tell.
    pub(super) fn clock_trusted(&self) -> bool {
        self.cross().trusted()
    }

    /// It is renewed at the next look, whether or not it is time.
    pub(super) fn hurry(&self) {
        self.tried_ns.store(0, SeqCst);
    }

    /// Opens the ledger's session behind this one.
    pub(super) fn open(self: &Arc<State>, core: &Core) -> Result<()> {
        let sent = Moment::now(&*core.clock);
        let outcome = core.engine.execute(&self.opening(core)?)?;
        self.opened(core, sent, outcome)
    }

    /// What proves that a caller owns this session.
    pub(super) fn secret(&self) -> u128 {
        self.identity().nonce
    }

    /// What came with the session whose place this one has taken: looked after from now on.
    pub(super) fn take_inherited(&self, core: &Core) -> Result<Vec<(Key, Token)>> {
        let Some(upto) = self.identity().inherited else { return Ok(Vec::new()) };
        let held = core.engine.held_by(self.id())?;
        if self.identity().inherited.take().is_none() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for Held { key, token, ttl_ms, renew } in held.into_iter().filter(|h| h.token <= upto) {
            if renew == Renew::Session {
                let from = From::Session { asked: Moment::default() };
                self.grants.add(key.clone(), token, u64::from(ttl_ms) * NS_PER_MS, from, true);
            }
            found.push((key, token));
        }
        core.wake.raise();
        Ok(found)
    }

    /// A grant is lost: its host is told, and whoever asks later.
    pub(super) fn tell_lost(&self, core: &Core, session: SessionId, key: Key, token: Token, reason: LossReason) {
        {
            let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
            if losses.len() == LOSSES_MAX {
                losses.pop_front();
            }
            losses.push_back((token, reason));
        }
        core.delivery.event(Event::Lost { session, key, token, reason });
    }

    /// Why this grant was lost, as far as that has been told.
    pub(super) fn loss(&self, token: Token) -> Option<LossReason> {
        let losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        losses.iter().rev().find(|(t, _)| *t == token).map(|(_, reason)| *reason)
    }

    /// The host ends the session: what it held and did not give back is lost to it.
    pub(super) fn lose_all(&self, core: &Core, reason: LossReason) {
        let id = self.id();
        for (key, token) in self.grants.take_all() {
            self.tell_lost(core, id, key, token, reason);
        }
    }

    /// As [`State::open`], without waiting: the keeper tries again until it succeeds.
    fn open_later(self: &Arc<State>, core: &Arc<Core>) {
        if self.renewing.swap(true, SeqCst) {
            return;
        }
        let sent = Moment::now(&*core.clock);
        let (state, keeper) = (self.clone(), core.clone());
        let done: Completion = Box::new(move |outcome: Result<Outcome>| {
            state.renewing.store(false, SeqCst);
            if let Err(error) = outcome.and_then(|o| state.opened(&keeper, sent, o)) {
                tracing::debug!(session = state.name, %error, "the session is not open yet");
                let again = keeper.now().boottime_ns.saturating_add(REOPEN_NS);
                state.tried_ns.store(again.saturating_sub(state.period_ns()), SeqCst);
            }
            keeper.wake.raise();
        });
        match self.opening(core) {
            Ok(request) => core.engine.submit(&request, done),
            Err(error) => done(Err(error)),
        }
    }

    fn opened(self: &Arc<State>, core: &Core, sent: Moment, outcome: Outcome) -> Result<()> {
        let id = match outcome {
            Outcome::Session { id, .. } => id,
            Outcome::TakenOver { id, upto, .. } => {
                let mut identity = self.identity();
                let keep = identity.before.is_some_and(|(_, keep)| keep);
                identity.inherited = keep.then_some(upto);
                id
            }
            other => {
                if other == Outcome::Refused(ledger::Refusal::NoSession) {
                    // The one before has ended by itself: there is nothing to take over, now or later.
                    self.identity().before = None;
                }
                return Err(unexpected(other));
            }
        };
        self.identity().before = None;
        self.tried_ns.store(sent.boottime_ns, SeqCst);
        self.grants.renewed(sent);
        self.id.store(id.0, SeqCst);
        core.number_session(self);
        if self.closed.load(SeqCst) {
            // Closed while it was being opened: nobody else ends this number.
            core.unnumber_session(id);
            core.engine.submit(&Request { session: id, seq: 0, op: Op::CloseSession }, Box::new(|_| {}));
        }
        drop(self.numbered.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.numbered.1.notify_all();
        Ok(())
    }

    /// Waits until the session has a number, at most this long; whether it has.
    pub(super) fn wait_open(&self, core: &Core, timeout: Duration) -> Result<bool> {
        let deadline = Deadline::after(timeout);
        let mut guard = self.numbered.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            core.check()?;
            if self.id().0 != 0 {
                return Ok(true);
            }
            let left = deadline.left();
            if left.is_zero() || self.closed.load(SeqCst) {
                return Ok(false);
            }
            guard = self.numbered.1.wait_timeout(guard, left.min(LOOK)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The ledger's session is over: everything it held is lost.
    pub(super) fn ended(&self, core: &Core, id: SessionId, reason: LossReason) {
        if self.id.compare_exchange(id.0, 0, SeqCst, SeqCst).is_err() {
            return;
        }
        core.unnumber_session(id);
        self.doubts.clear();
        self.cross().clear();
        // The keeper opens it anew at once.
        self.tried_ns.store(0, SeqCst);
        core.wake.raise();
        for (key, token) in self.grants.take_all() {
            core.office_lost(token);
            self.tell_lost(core, id, key, token, reason);
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
        self.lose_all(core, LossReason::Closed);
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
                Change::Lost { key, token, clock } => {
                    core.office_lost(token);
                    let reason = match (clock, self.unanswered.load(SeqCst)) {
                        (true, _) => LossReason::Clock,
                        (false, true) => LossReason::NodeLost,
                        (false, false) => LossReason::Expired,
                    };
                    self.tell_lost(core, id, key.clone(), token, reason);
                    // The ledger may let it live a little longer, and the session's next renewal would keep it for nobody.
                    self.let_go(core, key, token);
                }
            }
        }
        let period = self.period_ns();
        if id.0 != 0 && core.host_silent(id) {
            // Whoever waits for what it holds shall not wait for a host that is stuck.
            return period;
        }
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
            self.open_later(core);
            return;
        }
        if self.renewing.swap(true, SeqCst) {
            // The last one has not been answered for as long as a period.
            self.unanswered.store(true, SeqCst);
            return;
        }
        self.tried_ns.store(sent.boottime_ns, SeqCst);
        let (state, keeper) = (self.clone(), core.clone());
        let done = Box::new(move |outcome: Result<Outcome>| {
            state.renewing.store(false, SeqCst);
            state.unanswered.store(outcome.is_err(), SeqCst);
            match outcome {
                Ok(Outcome::Renewed { clock_ms, .. }) => {
                    let sent = if planted!("deadline-from-receipt") { keeper.now() } else { sent };
                    state.grants.renewed(sent);
                    state.resolve_doubts(&keeper);
                    if state.cross().renewed(sent, keeper.now(), clock_ms) {
                        keeper.clock_counts.anomalies.fetch_add(1, SeqCst);
                        tracing::warn!(session = state.name, "this machine's clock is slow, or stood still: gates close");
                        keeper.distrust_gates(Reason::Clock, Some(id));
                    } else {
                        keeper.session_renewed(&state, sent);
                    }
                }
                Ok(Outcome::Refused(ledger::Refusal::NoSession)) => state.ended(&keeper, id, LossReason::SessionExpired),
                Ok(other) => tracing::error!(session = state.name, ?other, "an answer that is none to a renewal"),
                Err(error) => tracing::warn!(session = state.name, %error, "the renewal failed"),
            }
        });
        core.engine.submit(&Request { session: id, seq: 0, op: Op::RenewSession }, done);
    }
}
