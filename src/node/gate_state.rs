//! A gate on its node: its publisher's steps, its office, and its hard fences.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use super::core::Core;
use super::event::Event;
use super::office::Office;
use super::options::LockOptions;
use super::session::Session;
use super::watchdog::Watchdog;
use crate::base::planted::planted;
use crate::base::{Key, Moment, Result, SessionId, Token};
use crate::gate::{CellRef, GateCore, GateEvent, GateStatus, OnExpiry, Options, Reading, Reason};

/// How soon the keeper comes back to a gate whose publisher is at work, for instance storing an epoch.
const BUSY_NS: u64 = 2_000_000;

pub(super) struct GateState {
    name: String,
    pub(super) cell: CellRef,
    publisher: Mutex<GateCore>,
    pub(super) office: Mutex<Option<Office>>,
    pub(super) session: Session,
    on_expiry: OnExpiry,
    beat_timeout_ns: u64,
    /// When the host showed last that it is alive, BOOTTIME ns.
    beat_ns: AtomicU64,
    silent: AtomicBool,
    /// Lost without a hand-over, and not granted again.
    lost: AtomicBool,
    watchdog: Option<Mutex<Watchdog>>,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic inside poisons the node, and with it this gate; nothing is believed of it afterwards but that it is closed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GateState {
    pub(super) fn new(name: &str, publisher: GateCore, options: &Options, watchdog: &str, session: &Session, core: &Core) -> GateState {
        GateState {
            on_expiry: options.on_expiry,
            beat_timeout_ns: options.beat_timeout_ns,
            beat_ns: AtomicU64::new(core.clock.boottime_ns()),
            silent: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            watchdog: (!watchdog.is_empty()).then(|| Mutex::new(Watchdog::new(watchdog))),
            name: name.to_owned(),
            cell: publisher.cell(),
            publisher: Mutex::new(publisher),
            office: Mutex::default(),
            session: session.clone(),
        }
    }

    /// Runs one step of the publisher at this moment. Its events are queued in order; the host hears of them elsewhere.
    pub(super) fn step<R>(&self, core: &Core, step: impl FnOnce(&mut GateCore, &Reading, &mut Vec<GateEvent>) -> R) -> R {
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
        self.fence(&events);
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

    /// The hard fences, before anybody is told: the watchdog, and the end of the process.
    fn fence(&self, events: &[GateEvent]) {
        for event in events {
            match event {
                GateEvent::Granted { .. } => self.lost.store(false, SeqCst),
                GateEvent::Lost { reason, .. } => self.lost.store(!matches!(reason, Reason::Closed | Reason::NeverGranted), SeqCst),
                GateEvent::Overrun { .. } if self.on_expiry != OnExpiry::None => self.abort(event),
                GateEvent::Drained { .. } => {
                    if self.on_expiry == OnExpiry::AbortAlways && self.lost.load(SeqCst) {
                        self.abort(event);
                    }
                    self.disarm();
                }
                _ => {}
            }
        }
    }

    fn abort(&self, event: &GateEvent) -> ! {
        tracing::error!(gate = self.name, "{event}: the process is aborted, as gate.on_expiry asks");
        std::process::abort()
    }

    fn disarm(&self) {
        if let Some(watchdog) = &self.watchdog {
            locked(watchdog).disarm();
        }
    }

    /// The host is alive.
    pub(super) fn beat(&self, core: &Core) {
        self.beat_ns.store(core.clock.boottime_ns(), SeqCst);
        if self.silent.swap(false, SeqCst) {
            tracing::info!(gate = self.name, "the host is heard of again");
            self.session.state.hurry();
            core.wake.raise();
        }
    }

    pub(super) fn is_silent(&self) -> bool {
        self.silent.load(SeqCst)
    }

    pub(super) fn is_of(&self, session: SessionId) -> bool {
        self.session.id() == session
    }

    /// The lease is dropped for a reason outside it. An office that others may have by now is given back and campaigned for anew.
    pub(super) fn distrust(&self, core: &Core, reason: Reason) {
        if let Err(error) = self.step(core, |p, _, events| p.distrust(reason, events)) {
            tracing::debug!(gate = self.name, %error, "a gate that has ended");
        }
        if reason == Reason::Clock {
            let doubted = locked(&self.office).as_mut().and_then(Office::doubt);
            if let Some((key, token)) = doubted {
                self.session.release_later(key.as_bytes(), token);
            }
        }
    }

    /// Whether the host has fallen silent.
    fn listen(&self, core: &Core) {
        let silence = core.clock.boottime_ns().saturating_sub(self.beat_ns.load(SeqCst));
        if self.beat_timeout_ns != 0
            && !planted!("silent-host-renewed")
            && silence > self.beat_timeout_ns
            && !self.silent.swap(true, SeqCst)
        {
            tracing::warn!(gate = self.name, "the host has not been heard of for {} ms: nothing is renewed", silence / 1_000_000);
            self.distrust(core, Reason::HostSilent);
        }
    }

    /// The keeper's look. Returns ns until the next one.
    pub(super) fn keep(&self, core: &Arc<Core>) -> u64 {
        self.listen(core);
        let next = match self.publisher.try_lock() {
            Ok(publisher) => {
                let (next, open) = self.step_locked(core, publisher, |p, now, events| (p.tick(now, events), p.is_open()));
                if let Some(watchdog) = self.watchdog.as_ref().filter(|_| open) {
                    locked(watchdog).feed();
                }
                if self.beat_timeout_ns == 0 { next } else { next.min(self.beat_timeout_ns / 4) }
            }
            Err(TryLockError::WouldBlock) => BUSY_NS,
            Err(TryLockError::Poisoned(broken)) => {
                self.step_locked(core, broken.into_inner(), |p, _, events| p.poison(events));
                u64::MAX
            }
        };
        if core.check().is_err() {
            return next;
        }
        if self.is_silent() || !self.session.state.clock_trusted() {
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
        if self.session.id() != session || self.is_silent() {
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
        self.disarm();
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
