//! A gate as a node's host sees it: the publisher of `crate::gate`, fed by heartbeats or by an office held under a lock.

use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use super::delivery::check_may_block;
use super::event::Event;
use super::gate_state::{GateState, locked};
use super::office::Office;
use super::session::Session;
use super::wake::Deadline;
use crate::base::{Config, Error, NodeId, Result, Status};
use crate::engine::Engine;
use crate::gate::{
    CellRef, GateCore, GateEvent, GateStatus, Heartbeat, HeartbeatReply, Mode, Options, Permit, Reading, Reason, Setup, WriteClass,
};

/// A gate: may this process acknowledge a write now? Clones are the same gate; any thread may use it.
#[derive(Clone)]
pub struct Gate {
    core: Arc<Core>,
    state: Arc<GateState>,
}

impl Gate {
    pub(super) fn open(core: &Arc<Core>, session: &Session, name: &str, over: &Config) -> Result<Gate> {
        NodeId::new(name).map_err(|e| Error::new(e.status(), e.message().replace("node_id", "gate")))?;
        let over_all = core.config.overlaid(over);
        let options = Options::from_config(&over_all)?;
        let injected = (!core.clock.is_system()).then(|| core.clock.clone());
        let kernel_uses_tsc = injected.is_none() && kernel_clock_is_tsc();
        let setup = Setup { name: name.to_owned(), options, epochs: core.epochs.clone(), injected, kernel_uses_tsc };
        let mut events = Vec::new();
        let mut publisher = GateCore::new(setup, &Reading::now(&*core.clock, kernel_uses_tsc), &mut events)?;
        if core.watch().restored {
            publisher.distrust(Reason::Restored, &mut events)?;
        }
        let state = Arc::new(GateState::new(name, publisher, &options, over_all.get("gate.watchdog")?, session, core));
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
        self.state.name()
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
        Error::new(status, format!("gate {} is closed: {reason}", self.state.name()))
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
        if self.state.is_silent() {
            return self.step(|p, now, _| Ok(self.core.with_rng(|rng| p.decline_for_silence(now.moment, rng))));
        }
        self.step(|p, now, events| self.core.with_rng(|rng| p.heartbeat(beat, now, rng, events)))
    }

    /// The host is alive: see the setting `gate.beat_timeout_ms`. Call it from where the host would be stuck if it were, such as its main
    /// loop. Cheap; never waits.
    pub fn beat(&self) {
        self.state.beat(&self.core);
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
                return Err(Error::new(Status::Misuse, format!("gate {} already campaigns for an office", self.state.name())));
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
        self.step(|p, now, events| p.begin_drain(now.moment, events))?;
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
            return Err(Error::new(Status::Misuse, format!("gate {} holds no office of its own", self.state.name())));
        }
        self.drain(timeout)?;
        let office = locked(&self.state.office).take();
        match office {
            Some(office) => office.give_back(&self.state.session),
            None => Ok(()),
        }
    }

    /// As [`Gate::resign`], but the successor is the node (or session) named `to`, which must be campaigning for the same office; those who
    /// came before it go on waiting.
    ///
    /// # Errors
    /// [`Status::Unavailable`] when nobody of that name is waiting: nothing was drained. When it left while the gate drained, the same, but
    /// the office was given back and is whoever's comes next. Otherwise as [`Gate::resign`].
    pub fn resign_to(&self, to: &str, timeout: Duration) -> Result<()> {
        NodeId::new(to).map_err(|e| Error::new(e.status(), e.message().replace("node_id", "to")))?;
        self.core.check()?;
        check_may_block()?;
        let key = match locked(&self.state.office).as_ref() {
            Some(office) if office.held().is_some() => office.key.clone(),
            _ => return Err(Error::new(Status::Misuse, format!("gate {} holds no office of its own", self.state.name()))),
        };
        let contenders = self.state.session.contenders(key.as_bytes())?;
        if !contenders.waiters.iter().any(|w| w.node == to) {
            return Err(Error::new(Status::Unavailable, format!("{to} does not wait for the office: nothing was done")));
        }
        self.drain(timeout)?;
        let office = locked(&self.state.office).take();
        match office.map(|office| office.give_to(&self.state.session, to)) {
            Some(Ok(true)) => Ok(()),
            Some(Err(error)) => Err(error),
            Some(Ok(false)) | None => {
                Err(Error::new(Status::Unavailable, format!("{to} waits for the office no longer: it was given back")))
            }
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
