//! What a node's handles share: the engine, the clock, the delivery, and whether the node still answers.

use crate::base::planted::planted;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

use super::assemble::Secrets;
use super::clocks::{ClockWatch, Counts};
use super::delivery::Delivery;
use super::event::{Event, LossReason};
use super::gate_state::GateState;
use super::kept;
use super::wake::Wake;
use crate::base::process;
use crate::base::{Clock, Config, Error, Key, Moment, NodeId, Result, Rng, SessionId, Status, Token};
use crate::engine::{Engine, EventSink};
use crate::gate::{EpochStore, Reason};
use crate::ledger;

const RUNNING: u8 = 0;
const CLOSED: u8 = 1;
const POISONED: u8 = 2;

/// Called with a session, see [`ledger::Event::Orch`]. Must not block. False: nobody listens any more.
pub(super) type Bell = Box<dyn Fn(SessionId) -> bool + Send>;

pub(super) struct Core {
    pub(super) id: NodeId,
    pub(super) config: Config,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) engine: Engine,
    pub(super) delivery: Delivery,
    pub(super) wake: Arc<Wake>,
    /// Where the gates' epochs outlive the process.
    pub(super) epochs: Arc<dyn EpochStore>,
    /// Where the proof of the node's own session outlives the process, if it is to.
    secrets: Option<Secrets>,
    gates: RwLock<Vec<Arc<GateState>>>,
    watch: Mutex<ClockWatch>,
    pub(super) clock_counts: Counts,
    generation: u64,
    life: AtomicU8,
    poison: OnceLock<String>,
    rng: Mutex<Box<dyn Rng>>,
    bells: Mutex<Vec<Bell>>,
    sessions: RwLock<HashMap<u64, Arc<kept::State>>>,
    /// Every session that is looked after, those included that have no number at present.
    kept: RwLock<Vec<Arc<kept::State>>>,
}

/// What a node is made of.
pub(super) struct Parts {
    pub(super) id: NodeId,
    pub(super) config: Config,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) rng: Box<dyn Rng>,
    pub(super) delivery: Delivery,
    pub(super) engine: Engine,
    pub(super) epochs: Arc<dyn EpochStore>,
    pub(super) secrets: Option<Secrets>,
    pub(super) wake: Arc<Wake>,
    pub(super) watch: ClockWatch,
}

impl Core {
    pub(super) fn new(parts: Parts) -> Core {
        Core {
            id: parts.id,
            config: parts.config,
            clock: parts.clock,
            engine: parts.engine,
            delivery: parts.delivery,
            wake: parts.wake,
            epochs: parts.epochs,
            secrets: parts.secrets,
            gates: RwLock::default(),
            watch: Mutex::new(parts.watch),
            clock_counts: Counts::default(),
            generation: process::generation(),
            life: AtomicU8::new(RUNNING),
            poison: OnceLock::new(),
            rng: Mutex::new(parts.rng),
            bells: Mutex::default(),
            sessions: RwLock::default(),
            kept: RwLock::default(),
        }
    }

    /// Whether calls are answered.
    #[inline]
    pub(super) fn check(&self) -> Result<()> {
        process::check_generation(self.generation)?;
        match self.life.load(SeqCst) {
            RUNNING => Ok(()),
            CLOSED => Err(Error::new(Status::Closed, "the node has been closed")),
            _ => Err(Error::new(Status::Poisoned, format!("the node is poisoned: {}", self.poison_text()))),
        }
    }

    /// Whether the ledger answers only while enough of a cluster can be reached.
    pub(super) fn waits_for_a_majority(&self) -> bool {
        matches!(self.engine, Engine::Raft(_) | Engine::Client(_))
    }

    pub(super) fn forked(&self) -> bool {
        process::check_generation(self.generation).is_err()
    }

    pub(super) fn poison_text(&self) -> &str {
        self.poison.get().map_or("", String::as_str)
    }

    /// True for the caller who closes the node; false when that has been done.
    pub(super) fn begin_close(&self) -> bool {
        self.life.swap(CLOSED, SeqCst) != CLOSED
    }

    /// Ends everything but status and close. The gates are closed before anything else is done, and the host is told once.
    pub(super) fn poison(&self, why: &str) {
        if self.life.compare_exchange(RUNNING, POISONED, SeqCst, SeqCst).is_err() {
            return;
        }
        for gate in self.gate_list().into_iter().filter(|_| !planted!("poison-leaves-gates")) {
            gate.poison(self);
        }
        let _ = self.poison.set(why.to_owned());
        tracing::error!(node = %self.id, why, "the node is poisoned");
        for state in self.kept_sessions() {
            state.ended(self, state.id(), LossReason::Poisoned);
        }
        self.delivery.event(Event::Poisoned { message: why.to_owned() });
    }

    pub(super) fn with_rng<R>(&self, use_it: impl FnOnce(&mut dyn Rng) -> R) -> R {
        use_it(&mut **self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn watch(&self) -> MutexGuard<'_, ClockWatch> {
        // Whole at every step; a panic inside has poisoned the node.
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gates drop their leases: all, or those of one session.
    pub(super) fn distrust_gates(&self, reason: Reason, session: Option<SessionId>) {
        for gate in self.gate_list() {
            if session.is_none_or(|id| gate.is_of(id)) {
                gate.distrust(self, reason);
            }
        }
    }

    /// Whether a host that should show that it is alive has not: then nothing of this session is renewed.
    pub(super) fn host_silent(&self, session: SessionId) -> bool {
        self.gate_list().iter().any(|g| g.is_of(session) && g.is_silent())
    }

    pub(super) fn nonce(&self) -> u128 {
        self.with_rng(|rng| rng.next_u128())
    }

    /// With `take_over`, the next process of this node can take its own session over: the proof is kept before it is of use.
    pub(super) fn remember_secret(&self, session: &str, nonce: u128) -> Result<()> {
        match &self.secrets {
            Some(secrets) if session == self.id.as_str() => secrets.put(nonce),
            _ => Ok(()),
        }
    }

    pub(super) fn now(&self) -> Moment {
        Moment::now(&*self.clock)
    }

    pub(super) fn keep_session(&self, state: &Arc<kept::State>) {
        self.kept.write().unwrap_or_else(PoisonError::into_inner).push(state.clone());
    }

    /// The session has got a number: its events can be told apart from now on.
    pub(super) fn number_session(&self, state: &Arc<kept::State>) {
        self.sessions.write().unwrap_or_else(PoisonError::into_inner).insert(state.id().0, state.clone());
    }

    /// The number is over.
    pub(super) fn unnumber_session(&self, id: SessionId) {
        self.sessions.write().unwrap_or_else(PoisonError::into_inner).remove(&id.0);
    }

    pub(super) fn forget_session(&self, state: &Arc<kept::State>) {
        self.unnumber_session(state.id());
        self.kept.write().unwrap_or_else(PoisonError::into_inner).retain(|s| !Arc::ptr_eq(s, state));
    }

    pub(super) fn kept_sessions(&self) -> Vec<Arc<kept::State>> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn session(&self, id: SessionId) -> Option<Arc<kept::State>> {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner).get(&id.0).cloned()
    }

    /// Who looks when something of the orchestrator's has changed.
    pub(super) fn bells(&self) -> MutexGuard<'_, Vec<Bell>> {
        self.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Work of `session`, or with 0 of whoever gives work out, has changed.
    fn ring(&self, session: SessionId) {
        self.bells().retain(|bell| bell(session));
    }

    /// # Errors
    /// [`Status::Misuse`] when a gate of that name is open.
    pub(super) fn add_gate(&self, gate: &Arc<GateState>) -> Result<()> {
        let mut gates = self.gates.write().unwrap_or_else(PoisonError::into_inner);
        if gates.iter().any(|g| g.name() == gate.name()) {
            return Err(Error::new(Status::Misuse, format!("a gate called {} is open", gate.name())));
        }
        gates.push(gate.clone());
        Ok(())
    }

    pub(super) fn remove_gate(&self, gate: &Arc<GateState>) {
        self.gates.write().unwrap_or_else(PoisonError::into_inner).retain(|g| !Arc::ptr_eq(g, gate));
    }

    pub(super) fn gate_named(&self, name: &str) -> Option<Arc<GateState>> {
        self.gate_list().into_iter().find(|g| g.name() == name)
    }

    pub(super) fn gate_list(&self) -> Vec<Arc<GateState>> {
        self.gates.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every gate denies from now on, and its office is not campaigned for any more.
    pub(super) fn close_gates(&self) {
        // In a statement of its own: the lock is not held while a gate closes, which asks for the list of gates again.
        let gates = std::mem::take(&mut *self.gates.write().unwrap_or_else(PoisonError::into_inner));
        for gate in gates {
            gate.close(self);
        }
    }

    /// A renewal that was sent at `sent` has been acknowledged: the offices held under the session live on.
    pub(super) fn session_renewed(&self, state: &Arc<kept::State>, sent: Moment) {
        if self.engine.counts_each_grant() {
            return;
        }
        for gate in self.gate_list() {
            gate.session_renewed(self, state.id(), sent);
        }
    }

    /// The renewal of one grant that was sent at `sent` has been acknowledged.
    fn grant_renewed(&self, session: SessionId, token: Token, ttl_ns: u64, sent: Moment) {
        let Some(state) = self.session(session) else { return };
        state.grants.grant_renewed(token, ttl_ns, sent);
        for gate in self.gate_list() {
            gate.office_renewed(self, token, ttl_ns, sent);
        }
    }

    /// A grant is lost: if it is an office, its gate closes.
    pub(super) fn office_lost(&self, token: Token) {
        for gate in self.gate_list() {
            gate.office_lost(self, token);
        }
    }

    fn lost(&self, session: SessionId, key: Key, token: Token, reason: LossReason) {
        self.office_lost(token);
        // A grant that is not told to be lost by its own session's view is told here.
        if let Some(state) = self.session(session).filter(|s| s.grants.lost(token)) {
            state.tell_lost(self, session, key, token, reason);
        }
    }
}

/// The engine's way to tell a node what happened. It is made before the node, so it finds it later.
#[derive(Default)]
pub(super) struct Sink {
    core: OnceLock<Weak<Core>>,
    wake: OnceLock<Arc<Wake>>,
}

impl Sink {
    pub(super) fn new(wake: Arc<Wake>) -> Sink {
        let sink = Sink::default();
        let _ = sink.wake.set(wake);
        sink
    }

    pub(super) fn connect(&self, core: &Arc<Core>) {
        let _ = self.core.set(Arc::downgrade(core));
    }
}

impl EventSink for Sink {
    fn event(&self, event: ledger::Event) {
        // Before the node is connected only the sessions of former processes can end.
        let Some(core) = self.core.get().and_then(Weak::upgrade) else { return };
        match event {
            ledger::Event::Lost { session, key, token, why } => core.lost(session, key, token, why.into()),
            ledger::Event::SessionEnded { session, why } => {
                if let Some(state) = core.session(session) {
                    state.ended(&core, session, why.into());
                }
            }
            // Waits of this node end at their completions; nobody else waits on a single node.
            ledger::Event::Orch { session } => core.ring(session),
            ledger::Event::Granted { .. } | ledger::Event::WaitEnded { .. } => {}
            ledger::Event::RevokeRequested { session, key, token, by, why, force_after_ms } => {
                // Every member hears of it; the holder's own tells its host.
                if core.session(session).is_some() {
                    let force_after = force_after_ms.map(Duration::from_millis);
                    core.delivery.event(Event::RevokeRequested { session, key, token, by, why, force_after });
                }
            }
            // Watches are fed by the engine.
            ledger::Event::Changed(_) => {}
        }
    }

    fn renewed(&self, session: SessionId, token: Token, ttl_ms: u32, sent: Moment) {
        if let Some(core) = self.core.get().and_then(Weak::upgrade) {
            core.grant_renewed(session, token, u64::from(ttl_ms) * 1_000_000, sent);
        }
    }

    fn ended(&self, cause: &Error) {
        // Before the node is connected its opening fails by itself.
        if let Some(core) = self.core.get().and_then(Weak::upgrade) {
            core.poison(cause.message());
        }
    }

    fn nearer_deadline(&self) {
        if let Some(wake) = self.wake.get() {
            wake.raise();
        }
    }
}
