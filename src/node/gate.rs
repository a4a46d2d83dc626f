//! A gate as a node's host sees it: the publisher of `crate::gate`, fed by heartbeats or by an office held under a lock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use super::core::Core;
use super::delivery::check_may_block;
use super::event::Event;
use super::office::Office;
use super::options::LockOptions;
use super::session::Session;
use super::wake::Deadline;
use crate::base::{Config, Error, Key, Moment, NodeId, Result, SessionId, Status, Token};
use crate::engine::Engine;
use crate::gate::{
    CellRef, GateCore, GateEvent, GateStatus, Heartbeat, HeartbeatReply, Mode, Options, Permit, Reading, Reason, Setup, WriteClass,
};

/// How soon the keeper comes back to a gate whose publisher is at work, for instance storing an epoch.
const BUSY_NS: u64 = 2_000_000;

pub(super) struct GateState {
    name: String,
    cell: CellRef,
    publisher: Mutex<GateCore>,
    office: Mutex<Option<Office>>,
    session: Session,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic inside poisons the node, and with it this gate; nothing is believed of it afterwards but that it is closed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GateState {
    /// Runs one step of the publisher at this moment. Its events are queued in order; the host hears of them elsewhere.
    fn step<R>(&self, core: &Core, step: impl FnOnce(&mut GateCore, &Reading, &mut Vec<GateEvent>) -> R) -> R {
        let publisher = locked(&self.publisher);
        self.step_locked(core, publisher, step)
    }

    fn step_locked<R>(
        &self,
        core: &Core,
        mut publisher: MutexGuard<'_, GateCore>,
        step: impl FnOnce(&mut GateCore, &Reading, &mut Vec<GateEvent>) -> R,
    ) -> R {
        let mut events = Vec::new();
        let now = Reading::now(&*core.clock, publisher.wants_tsc());
        let result = step(&mut publisher, &now, &mut events);
        for event in &events {
            core.delivery.event(Event::Gate { name: self.name.clone(), event: event.clone() });
        }
        drop(publisher);
        for event in events {
            if matches!(event, GateEvent::Granted { .. }) {
                // The keeper's next look was planned for a closed gate.
                core.wake.raise();
            }
            if event.is_warning() {
                tracing::warn!(gate = self.name, "{event}");
            } else {
                tracing::info!(gate = self.name, "{event}");
            }
        }
        result
    }

    /// The keeper's look. Returns ns until the next one.
    pub(super) fn keep(&self, core: &Arc<Core>) -> u64 {
        let next = match self.publisher.try_lock() {
            Ok(publisher) => self.step_locked(core, publisher, |p, now, events| p.tick(now, events)),
            Err(TryLockError::WouldBlock) => BUSY_NS,
            Err(TryLockError::Poisoned(broken)) => {
                self.step_locked(core, broken.into_inner(), |p, _, events| p.poison(events));
                u64::MAX
            }
        };
        if core.check().is_err() {
            return next;
        }
        let campaign = locked(&self.office).as_mut().and_then(|office| office.campaign(core.now()));
        if let Some((key, options)) = campaign {
            self.campaign(core, &key, &options);
        }
        next
    }

    /// Asks for the office; the answer comes to [`GateState::elected`].
    fn campaign(&self, core: &Arc<Core>, key: &Key, options: &LockOptions) {
        let (weak, name) = (Arc::downgrade(core), self.name.clone());
        let (session, asked) = (self.session.clone(), key.clone());
        let elected = Box::new(move |result: Result<Token>| {
            let taken = weak.upgrade().and_then(|core| core.gate_named(&name).map(|gate| gate.elected(&core, &result)));
            if let (Ok(token), None | Some(false)) = (result, taken) {
                // The gate was closed, or gave the office up, while the request waited.
                session.release_later(asked.as_bytes(), token);
            }
        });
        match self.session.ask(vec![key.clone()], options, None, elected) {
            Ok(op) => {
                if let Some(office) = locked(&self.office).as_mut() {
                    office.asked(op);
                }
            }
            Err(error) => _ = self.elected(core, &Err(error)),
        }
    }

    /// The answer to a campaign. False when nobody wants the office any more.
    fn elected(&self, core: &Core, result: &Result<Token>) -> bool {
        // Held to the end, so that who gives the office up finds the gate open or never to be opened.
        let mut slot = locked(&self.office);
        let Some(office) = slot.as_mut() else { return false };
        match result {
            Ok(token) => {
                office.won(*token);
                if let Some(since) = self.session.state.grants.since(*token) {
                    self.extend(core, *token, office.ttl_ns(), since);
                }
            }
            Err(error) => {
                office.failed(core.now());
                tracing::warn!(gate = self.name, %error, "the campaign for the office failed");
            }
        }
        true
    }

    fn extend(&self, core: &Core, token: Token, ttl_ns: u64, sent: Moment) {
        let granted = self.step(core, |p, now, events| p.grant(token.0, ttl_ns, sent, now, events));
        if let Err(error) = granted {
            tracing::warn!(gate = self.name, %error, "the office's epoch was refused");
        }
    }

    /// The node's session was renewed by a request sent at `sent`: so was the office held under it.
    pub(super) fn session_renewed(&self, core: &Core, session: SessionId, sent: Moment) {
        if self.session.id() != session {
            return;
        }
        let office = locked(&self.office);
        if let Some((token, ttl_ns)) = office.as_ref().and_then(Office::held) {
            self.extend(core, token, ttl_ns, sent);
        }
    }

    /// The office's own grant was renewed by a request sent at `sent`.
    pub(super) fn office_renewed(&self, core: &Core, token: Token, ttl_ns: u64, sent: Moment) {
        let held = locked(&self.office).as_ref().and_then(Office::held);
        if held.is_some_and(|(mine, _)| mine == token) {
            self.extend(core, token, ttl_ns, sent);
        }
    }

    /// The lock behind the office is lost.
    pub(super) fn office_lost(&self, core: &Core, token: Token) {
        let mine = locked(&self.office).as_mut().is_some_and(|office| office.lost(token));
        if mine && let Err(error) = self.step(core, |p, _, events| p.revoke(Reason::Expired, events)) {
            tracing::debug!(gate = self.name, %error, "the office of a gate that has ended");
        }
    }

    pub(super) fn poison(&self, core: &Core) {
        self.step(core, |p, _, events| p.poison(events));
    }

    pub(super) fn close(&self, core: &Core) {
        self.step(core, |p, _, events| p.close(events));
        self.leave_office(core);
    }

    /// Gives the office back without waiting, and does not campaign again.
    fn leave_office(&self, core: &Core) {
        let office = locked(&self.office).take();
        if let (Some(office), Ok(())) = (office, core.check()) {
            office.leave(&self.session);
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn status(&self, core: &Core) -> GateStatus {
        locked(&self.publisher).status(core.now())
    }
}

/// A gate: may this process acknowledge a write now? Clones are the same gate; any thread may use it.
#[derive(Clone)]
pub struct Gate {
    core: Arc<Core>,
    state: Arc<GateState>,
}

impl Gate {
    pub(super) fn open(core: &Arc<Core>, session: &Session, name: &str, over: &Config) -> Result<Gate> {
        NodeId::new(name).map_err(|e| Error::new(e.status(), e.message().replace("node_id", "gate")))?;
        let options = Options::from_config(&core.config.overlaid(over))?;
        let injected = (!core.clock.is_system()).then(|| core.clock.clone());
        let kernel_uses_tsc = injected.is_none() && kernel_clock_is_tsc();
        let setup = Setup { name: name.to_owned(), options, epochs: core.epochs.clone(), injected, kernel_uses_tsc };
        let mut events = Vec::new();
        let publisher = GateCore::new(setup, &Reading::now(&*core.clock, kernel_uses_tsc), &mut events)?;
        let state = Arc::new(GateState {
            name: name.to_owned(),
            cell: publisher.cell(),
            publisher: Mutex::new(publisher),
            office: Mutex::default(),
            session: session.clone(),
        });
        core.add_gate(&state)?;
        for event in events {
            core.delivery.event(Event::Gate { name: name.to_owned(), event });
        }
        core.wake.raise();
        Ok(Gate { core: core.clone(), state })
    }

    /// As [`super::Node::poison`], of the node that this gate belongs to.
    pub fn poison_node(&self, why: &str) {
        self.core.poison(why);
    }

    /// The gate's name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// What the inline hot path reads. It stays valid for the life of the process; once the gate is closed it denies.
    pub fn cell(&self) -> CellRef {
        self.state.cell
    }

    /// Asks to let a client's write in. Pass the permit to [`Permit::finish`] when the write's effect is complete, and acknowledge
    /// on [`crate::gate::Verdict::Held`] only.
    ///
    /// # Errors
    /// [`Status::Denied`] (or [`Status::Forked`], [`Status::Closed`], [`Status::Poisoned`]); the message ends in the reason's name.
    #[inline]
    pub fn enter(&self) -> Result<Permit> {
        self.enter_class(WriteClass::Client)
    }

    /// Asks to let a write of this class in.
    ///
    /// # Errors
    /// As [`Gate::enter`].
    #[inline]
    pub fn enter_class(&self, class: WriteClass) -> Result<Permit> {
        self.state.cell.enter_class(class).map_err(|reason| self.denied(reason))
    }

    /// The epoch under which a write would be let in now. No permit is counted, so a drain does not wait for what follows.
    ///
    /// # Errors
    /// As [`Gate::enter`].
    pub fn check(&self) -> Result<u64> {
        self.state.cell.check().map_err(|reason| self.denied(reason))
    }

    #[cold]
    fn denied(&self, reason: Reason) -> Error {
        let status = match reason {
            Reason::Forked => Status::Forked,
            Reason::Closed => Status::Closed,
            Reason::Poisoned => Status::Poisoned,
            _ => Status::Denied,
        };
        Error::new(status, format!("gate {} is closed: {reason}", self.state.name))
    }

    /// For a receiver of records: whether `epoch` is at least the highest epoch that this gate has seen.
    ///
    /// # Errors
    /// [`Status::Fenced`] with the highest epoch seen.
    pub fn check_epoch(&self, epoch: u64) -> Result<()> {
        let seen = |seen| Error::new(Status::Fenced, format!("epoch {epoch} is below {seen}")).with_token(seen);
        self.state.cell.check_epoch(epoch).map_err(seen)
    }

    fn step<R>(&self, step: impl FnOnce(&mut GateCore, &Reading, &mut Vec<GateEvent>) -> Result<R>) -> Result<R> {
        self.core.check()?;
        self.state.step(&self.core, step)
    }

    /// What a closed gate does at present.
    pub fn mode(&self) -> Mode {
        self.status().mode
    }

    /// Changes what a closed gate does. [`Mode::Disabled`] reopens at once.
    ///
    /// # Errors
    /// What every call may answer.
    pub fn set_mode(&self, mode: Mode) -> Result<()> {
        self.step(|p, _, _| p.set_mode(mode))
    }

    /// Takes a controller's heartbeat. The lease counts from when its nonce was issued. One that is refused for what it says is an error;
    /// one that merely does not renew says so in the reply.
    ///
    /// # Errors
    /// [`Status::Fenced`] (with the epoch known here) for an epoch below the highest seen or one of another node;
    /// [`Status::InvalidArgument`] for the ttl or a step of the epoch that is too large; what storing a higher epoch may answer.
    pub fn heartbeat(&self, beat: &Heartbeat) -> Result<HeartbeatReply> {
        self.step(|p, now, events| self.core.with_rng(|rng| p.heartbeat(beat, now, rng, events)))
    }

    /// A nonce for the next heartbeat, whose lease will count from now. Hand it to the controller and have it sent back.
    ///
    /// # Errors
    /// What every call may answer.
    pub fn next_nonce(&self) -> Result<u64> {
        self.step(|p, now, _| Ok(self.core.with_rng(|rng| p.next_nonce(now.moment, rng))))
    }

    /// Somebody says that `holder`, another node, has `epoch`. One above the highest seen closes the gate at once.
    ///
    /// # Errors
    /// As [`Gate::heartbeat`] for the epoch.
    pub fn observe(&self, epoch: u64, holder: &str) -> Result<()> {
        NodeId::new(holder).map_err(|e| Error::new(e.status(), e.message().replace("node_id", "holder")))?;
        self.step(|p, _, events| p.observe(epoch, holder, events))
    }

    /// The node's role has changed: the lease is dropped, an office of its own is given back, and the nonces given out are void. The
    /// epochs seen stay.
    ///
    /// # Errors
    /// What every call may answer.
    pub fn reset(&self) -> Result<()> {
        self.core.check()?;
        // Kept until the gate is closed: a renewal that is under way must not open it again.
        let mut slot = locked(&self.state.office);
        self.step(|p, _, events| p.reset(events))?;
        if let Some(office) = slot.take() {
            drop(slot);
            office.leave(&self.state.session);
        }
        Ok(())
    }

    /// Holds office through the node's own session: campaigns for the lock `key`, opens under its token as epoch, and lives on
    /// as the session is renewed. Lost, it campaigns again. Returns at once; the gate's events tell the rest.
    ///
    /// # Errors
    /// [`Status::Misuse`] when it does so already, [`Status::InvalidArgument`] for the key or the ttl (as that of a lock),
    /// [`Status::Unsupported`] over a lock service without fencing tokens, unless `service_unfenced_gates` allows it.
    pub fn hold(&self, key: &[u8], ttl: Duration) -> Result<()> {
        self.core.check()?;
        if let Engine::Plugged(engine) = &self.core.engine
            && !engine.capabilities().fencing
            && !self.core.config.flag("service_unfenced_gates")?
        {
            let why = "gate.hold: the lock service gives no fencing tokens to be the gate's epochs (service_unfenced_gates allows it)";
            return Err(Error::new(Status::Unsupported, why));
        }
        let office = Office::new(key, ttl)?;
        {
            let mut slot = locked(&self.state.office);
            if slot.is_some() {
                return Err(Error::new(Status::Misuse, format!("gate {} already campaigns for an office", self.state.name)));
            }
            *slot = Some(office);
        }
        self.core.wake.raise();
        Ok(())
    }

    /// Lets no new write in and waits until those in flight have finished. When it returns, no permit of the old epoch lives and
    /// none will be given; the same epoch does not open again. The lease goes on being renewed meanwhile, so that what is in flight
    /// can be acknowledged.
    ///
    /// # Errors
    /// [`Status::Timeout`]: writes are still in flight, the gate goes on draining (call it again, or [`Gate::cancel_drain`]);
    /// [`Status::WouldDeadlock`] inside a callback.
    pub fn drain(&self, timeout: Duration) -> Result<()> {
        self.core.check()?;
        check_may_block()?;
        self.step(|p, now, _| p.begin_drain(now.moment))?;
        let deadline = Deadline::after(timeout);
        // What is left at the end of the time is found, and told, by the last step.
        self.state.cell.wait_idle(|| deadline.left().is_zero());
        self.step(|p, now, events| p.end_drain(now.moment, events))
    }

    /// Gives up a drain that ran out of time: while the lease holds, writes are let in again.
    ///
    /// # Errors
    /// [`Status::Misuse`] when no drain is under way.
    pub fn cancel_drain(&self) -> Result<()> {
        self.step(|p, now, events| p.cancel_drain(now, events))
    }

    /// Drains, then gives the office back: a successor is granted at once, with nothing to wait out. Does not campaign again.
    ///
    /// # Errors
    /// As [`Gate::drain`]: then the office is not given back. [`Status::Misuse`] without [`Gate::hold`].
    pub fn resign(&self, timeout: Duration) -> Result<()> {
        if locked(&self.state.office).is_none() {
            return Err(Error::new(Status::Misuse, format!("gate {} holds no office of its own", self.state.name)));
        }
        self.drain(timeout)?;
        let office = locked(&self.state.office).take();
        match office {
            Some(office) => office.give_back(&self.state.session),
            None => Ok(()),
        }
    }

    /// The gate's state and counts; answered in every state.
    pub fn status(&self) -> GateStatus {
        self.state.status(&self.core)
    }

    /// Closes the gate for good: whoever still asks is refused. Its office is given back. Closing twice is no error.
    ///
    /// # Errors
    /// [`Status::Forked`].
    pub fn close(&self) -> Result<()> {
        if self.core.forked() {
            return Err(Status::Forked.into());
        }
        self.core.remove_gate(&self.state);
        self.state.close(&self.core);
        Ok(())
    }
}

/// Whether the kernel itself keeps time by the TSC, which it stops doing when it finds it unstable.
fn kernel_clock_is_tsc() -> bool {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    std::fs::read_to_string(path).is_ok_and(|name| name.trim() == "tsc")
}
