//! The publisher and its writers under virtual time: every rule of the gate, with nothing asleep.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use super::*;
use crate::base::{Clock, Config, Error, Moment, Result, SeededRng, Status, VirtualClock};

const MS: u64 = 1_000_000;
/// 99/101 of a second: what is left of a lease of 1 s once the clocks' error is taken off.
const HELD_1S: u64 = 1_000 * MS * 99 / 101;

#[derive(Debug, Default)]
struct FlakyEpochs {
    inner: MemoryEpochs,
    broken: AtomicBool,
    writes: Mutex<Vec<u64>>,
}

impl EpochStore for FlakyEpochs {
    fn load(&self, gate: &str) -> Result<Option<u64>> {
        self.inner.load(gate)
    }
    fn persist(&self, gate: &str, epoch: u64) -> Result<()> {
        if self.broken.load(SeqCst) {
            return Err(Error::new(Status::Io, "the disk is gone"));
        }
        self.writes.lock().unwrap().push(epoch);
        self.inner.persist(gate, epoch)
    }
}

/// A gate on a virtual clock, ticked by hand.
struct Rig {
    clock: VirtualClock,
    epochs: Arc<FlakyEpochs>,
    core: GateCore,
    events: Vec<GateEvent>,
    rng: SeededRng,
}

fn rig(settings: &[(&str, &str)]) -> Rig {
    rig_on(settings, VirtualClock::new(5_000 * MS), Arc::default())
}

fn rig_on(settings: &[(&str, &str)], clock: VirtualClock, epochs: Arc<FlakyEpochs>) -> Rig {
    let mut config = Config::new();
    for (name, value) in settings {
        config.set(name, value).unwrap();
    }
    let setup = Setup {
        name: "shard".to_owned(),
        options: Options::from_config(&config).unwrap(),
        epochs: epochs.clone(),
        injected: Some(Arc::new(clock.clone())),
        kernel_uses_tsc: false,
    };
    let mut events = Vec::new();
    let core = GateCore::new(setup, &Moment::now(&clock).into(), &mut events).unwrap();
    Rig { clock, epochs, core, events, rng: SeededRng::new(1) }
}

impl Rig {
    fn now(&self) -> Moment {
        Moment::now(&self.clock)
    }

    fn grant(&mut self, epoch: u64, ttl_ms: u64) -> Result<GrantReply> {
        let now = self.now();
        self.core.grant(epoch, ttl_ms * MS, now, &now.into(), &mut self.events)
    }

    fn beat(&mut self, epoch: u64, ttl_ms: u64, nonce: Option<u64>) -> Result<HeartbeatReply> {
        let beat = Heartbeat { epoch, ttl_ns: ttl_ms.saturating_mul(MS), nonce };
        self.core.heartbeat(&beat, &self.now().into(), &mut self.rng, &mut self.events)
    }

    fn nonce(&mut self) -> u64 {
        let now = self.now();
        self.core.next_nonce(now, &mut self.rng)
    }

    /// Time passes, with the keeper ticking as often as it is asked to.
    fn pass(&mut self, ms: u64) {
        let end = self.now().boottime_ns + ms * MS;
        while self.now().boottime_ns < end {
            let wait = self.tick();
            self.clock.advance(wait.min(end - self.now().boottime_ns));
        }
        self.tick();
    }

    fn tick(&mut self) -> u64 {
        let now = self.now();
        self.core.tick(&now.into(), &mut self.events)
    }

    fn events(&mut self) -> Vec<GateEvent> {
        std::mem::take(&mut self.events)
    }

    fn enter(&self) -> std::result::Result<Permit, Reason> {
        self.core.cell().enter()
    }

    fn refusal(&self) -> Reason {
        self.enter().map(|p| p.epoch()).unwrap_err()
    }

    fn status(&self) -> GateStatus {
        self.core.status(self.now())
    }
}

#[test]
fn closed_until_the_first_grant_and_after_a_restart() {
    let mut r = rig(&[]);
    assert_eq!(r.refusal(), Reason::NeverGranted);
    r.grant(7, 1_000).unwrap();
    let p = r.enter().unwrap();
    assert_eq!((p.epoch(), p.precommit()), (7, Verdict::Held));
    assert_eq!(p.finish(), Verdict::Held);
    let again = rig_on(&[], r.clock.clone(), r.epochs.clone());
    assert_eq!(again.refusal(), Reason::NeverGranted);
    assert_eq!(again.status().epoch_seen, 7);
}

#[test]
fn a_lease_ends_by_itself_and_says_so_once() {
    let mut r = rig(&[]);
    r.grant(1, 1_000).unwrap();
    let late = r.enter().unwrap();
    assert_eq!(r.events(), [GateEvent::Granted { epoch: 1, remaining_ns: HELD_1S }]);
    r.pass(500);
    assert_eq!(r.events(), []);
    r.pass(200);
    assert!(matches!(r.events()[..], [GateEvent::AtRisk { epoch: 1, remaining_ns }] if remaining_ns <= HELD_1S / 3));
    // A tenth of the lease before its end nothing is let in any more, and what is in flight may still finish.
    r.pass(195);
    assert_eq!(r.refusal(), Reason::Expired);
    assert_eq!(r.events(), [GateEvent::Lost { epoch: 1, reason: Reason::Expired }]);
    assert_eq!(late.precommit(), Verdict::Held);
    r.pass(100);
    assert_eq!(late.finish(), Verdict::Uncertain);
    assert_eq!((r.events(), r.status().uncertain), (vec![], 1));
}

#[test]
fn a_gate_whose_keeper_stalls_closes_within_the_leash() {
    let mut r = rig(&[("gate.leash_ms", "100")]);
    r.grant(1, 60_000).unwrap();
    let permit = r.enter().unwrap();
    r.clock.advance(99 * MS);
    assert!(r.enter().is_ok());
    r.clock.advance(MS);
    assert_eq!(r.refusal(), Reason::Clock);
    assert_eq!(permit.precommit(), Verdict::Uncertain);
    r.tick();
    assert!(r.enter().is_ok());
    assert_eq!(permit.finish(), Verdict::Held);
    assert_eq!(r.status().longest_gap_us, 100_000);
}

#[test]
fn the_longer_of_both_clocks_counts() {
    // Suspended: only BOOTTIME goes on.
    let mut r = rig(&[("gate.leash_ms", "10000")]);
    r.grant(1, 10_000).unwrap();
    r.clock.suspend(11_000 * MS);
    assert_ne!(r.refusal(), Reason::NeverGranted);
    // BOOTTIME slewed to run at half its speed: RAW ends the lease at the next look.
    let mut r = rig(&[]);
    r.grant(1, 10_000).unwrap();
    r.clock.slew(10_000 * MS, 500 * MS);
    r.tick();
    assert_eq!(r.refusal(), Reason::Expired);
    // Slewed as far as the kernel goes, and nobody looks: closed before RAW says that the lease is over.
    let mut r = rig(&[("gate.leash_ms", "10000")]);
    r.grant(1, 1_000).unwrap();
    r.clock.slew(HELD_1S, HELD_1S * 9 / 10 - HELD_1S / 1_000);
    assert!(r.enter().is_err());
}

#[test]
fn a_wall_clock_that_jumps_changes_nothing() {
    let mut r = rig(&[]);
    r.grant(1, 1_000).unwrap();
    r.clock.set_realtime(u64::MAX / 2);
    r.pass(500);
    assert!(r.enter().is_ok());
}

#[test]
fn a_deadline_counts_from_the_sending() {
    let mut r = rig(&[]);
    let sent = r.now();
    r.clock.advance(900 * MS);
    let now = r.now();
    let reply = r.core.grant(1, 1_000 * MS, sent, &now.into(), &mut r.events).unwrap();
    assert_eq!((reply.accepted, reply.remaining_ns), (true, HELD_1S - 900 * MS));
    r.clock.advance(200 * MS);
    let now = r.now();
    let reply = r.core.grant(2, 1_000 * MS, sent, &now.into(), &mut r.events).unwrap();
    assert_eq!((reply.accepted, reply.refusal), (false, Some(Refusal::Expired)));
}

#[test]
fn a_heartbeat_that_waited_in_a_queue_renews_nothing() {
    let mut r = rig(&[]);
    let nonce = r.nonce();
    assert!(r.beat(1, 1_000, Some(nonce)).unwrap().grant.accepted);
    // The process stops; its successor is promoted; it comes back and reads what was queued.
    r.clock.advance(10_000 * MS);
    let reply = r.beat(1, 1_000, Some(nonce)).unwrap();
    assert_eq!((reply.grant.accepted, reply.grant.refusal), (false, Some(Refusal::Expired)));
    r.tick();
    assert_eq!(r.refusal(), Reason::Expired);
    // The answer's nonce is good: it counts from now.
    assert!(r.beat(1, 1_000, Some(reply.next_nonce)).unwrap().grant.accepted);
    assert!(r.enter().is_ok());
}

#[test]
fn a_heartbeat_needs_a_nonce_of_this_gate() {
    let mut r = rig(&[]);
    let nonce = r.nonce();
    assert_eq!(r.beat(1, 1_000, None).unwrap().grant.refusal, Some(Refusal::NoNonce));
    assert_eq!(r.beat(1, 1_000, Some(nonce ^ 1)).unwrap().grant.refusal, Some(Refusal::UnknownNonce));
    assert_eq!(r.refusal(), Reason::NeverGranted);
    assert_eq!(r.status().refused_grants, 2);
    let mut trusting = rig(&[("gate.trust_receipt", "true")]);
    assert!(trusting.beat(1, 1_000, None).unwrap().grant.accepted);
    let status = trusting.status();
    assert!(status.trust_receipt && status.trusted_receipts == 1);
}

#[test]
fn a_reset_voids_the_nonces_and_keeps_the_epoch() {
    let mut r = rig(&[]);
    let nonce = r.nonce();
    r.beat(5, 1_000, Some(nonce)).unwrap();
    r.core.reset(&mut r.events).unwrap();
    assert_eq!(r.refusal(), Reason::NeverGranted);
    assert_eq!(r.beat(5, 1_000, Some(nonce)).unwrap().grant.refusal, Some(Refusal::UnknownNonce));
    let e = r.beat(4, 1_000, None).unwrap_err();
    assert_eq!((e.status(), e.message(), e.token()), (Status::Fenced, "election version mismatch: local=5, received=4", 5));
    assert!(r.core.cell().enter_class(WriteClass::Replication).is_ok());
}

#[test]
fn ttls_are_bounded_and_never_wrap() {
    let mut r = rig(&[("gate.ttl_max_ms", "2000"), ("gate.trust_receipt", "true")]);
    for (ttl, what) in [(0, "must be greater than 0"), (99, "below the minimum")] {
        let e = r.beat(1, ttl, None).unwrap_err();
        assert!(e.status() == Status::InvalidArgument && e.message().contains(what), "{e}");
    }
    assert_eq!(r.refusal(), Reason::NeverGranted);
    for ttl in [u64::MAX, u64::MAX / MS, 2_001] {
        let reply = r.beat(1, ttl, None).unwrap();
        assert_eq!(reply.grant.remaining_ns, crate::base::clock::holder_ttl(2_000 * MS));
    }
}

#[test]
fn within_an_epoch_the_deadline_only_grows() {
    let mut r = rig(&[]);
    r.grant(1, 10_000).unwrap();
    let before = r.core.remaining_ns(r.now());
    assert_eq!(r.grant(1, 200).unwrap().remaining_ns, before);
    assert!(r.grant(1, 20_000).unwrap().remaining_ns > before);
    assert_eq!(r.status().least_remaining_us, Some(before / 1_000));
}

#[test]
fn lower_epochs_are_refused_equal_ones_renew_higher_ones_take_over() {
    let mut r = rig(&[]);
    r.grant(5, 1_000).unwrap();
    let permit = r.enter().unwrap();
    let before = r.core.remaining_ns(r.now());
    assert_eq!(r.grant(4, 60_000).unwrap_err().status(), Status::Fenced);
    assert_eq!(r.core.remaining_ns(r.now()), before);
    r.clock.advance(100 * MS);
    assert!(r.grant(5, 1_000).unwrap().accepted);
    r.grant(6, 1_000).unwrap();
    assert_eq!((r.status().grants, r.status().renewals), (2, 1));
    assert_eq!(permit.finish(), Verdict::Uncertain, "its epoch is over");
    assert_eq!(r.enter().unwrap().epoch(), 6);
    assert_eq!(*r.epochs.writes.lock().unwrap(), [5, 6]);
    assert_eq!((r.core.cell().check_epoch(6), r.core.cell().check_epoch(5)), (Ok(()), Err(6)));
}

#[test]
fn a_wild_epoch_locks_nobody_out() {
    let mut r = rig(&[("gate.epoch_jump_max", "10"), ("gate.trust_receipt", "true")]);
    for wild in [0, 11, 1 << 63, u64::MAX] {
        assert_eq!(r.beat(wild, 1_000, None).unwrap_err().status(), Status::InvalidArgument, "{wild}");
        assert_eq!(r.core.observe(wild, "b", &mut r.events).is_err(), wild != 0, "{wild}");
    }
    assert!(r.beat(10, 1_000, None).unwrap().grant.accepted);
    assert_eq!(r.grant(1 << 63, 1_000).unwrap_err().status(), Status::InvalidArgument);
    // The node's own ledger is trusted with its tokens.
    assert!(r.grant(1 << 40, 1_000).unwrap().accepted);
}

#[test]
fn an_epoch_that_cannot_be_stored_does_not_open_the_gate() {
    let mut r = rig(&[]);
    r.grant(1, 1_000).unwrap();
    r.epochs.broken.store(true, SeqCst);
    assert_eq!(r.grant(2, 1_000).unwrap_err().status(), Status::Io);
    assert_eq!(r.enter().unwrap().epoch(), 1);
    assert!(r.grant(1, 1_000).unwrap().accepted, "a renewal stores nothing");
    // Somebody else's epoch closes the gate whether it can be stored or not.
    assert_eq!(r.core.observe(3, "b", &mut r.events).unwrap_err().status(), Status::Io);
    assert_eq!(r.refusal(), Reason::Superseded);
    assert_eq!(r.grant(3, 1_000).unwrap_err().status(), Status::Fenced);
}

#[test]
fn a_higher_epoch_of_another_node_closes_at_once() {
    let mut r = rig(&[]);
    r.grant(5, 60_000).unwrap();
    let permit = r.enter().unwrap();
    r.core.observe(5, "b", &mut r.events).unwrap();
    assert!(r.enter().is_ok(), "not a higher one");
    r.core.observe(6, "b", &mut r.events).unwrap();
    assert_eq!((r.refusal(), permit.finish()), (Reason::Superseded, Verdict::Uncertain));
    assert_eq!(r.events().pop(), Some(GateEvent::Lost { epoch: 5, reason: Reason::Superseded }));
    let e = r.grant(6, 1_000).unwrap_err();
    assert_eq!((e.status(), e.message()), (Status::Fenced, "epoch 6 belongs to b"));
    assert_eq!(r.status().holder_hint.as_deref(), Some("b"));
    r.grant(7, 1_000).unwrap();
    assert_eq!((r.enter().unwrap().epoch(), r.status().holder_hint), (7, None));
}

#[test]
fn modes_change_at_once_and_log_only_counts() {
    let mut r = rig(&[("gate.mode", "log-only")]);
    let permit = r.enter().unwrap();
    assert_eq!((r.status().passed, permit.epoch()), (1, 0));
    r.core.set_mode(Mode::Block).unwrap();
    assert_eq!(r.refusal(), Reason::NeverGranted);
    assert_eq!(permit.finish(), Verdict::Uncertain, "let in by a mode that is over");
    r.core.set_mode(Mode::Disabled).unwrap();
    let permit = r.enter().unwrap();
    assert_eq!((r.core.cell().check(), r.status().in_flight), (Ok(0), 0));
    r.core.set_mode(Mode::Block).unwrap();
    r.grant(1, 1_000).unwrap();
    assert_eq!(permit.finish(), Verdict::Held, "it would be let in now");
    r.core.set_mode(Mode::LogOnly).unwrap();
    let counted = r.enter().unwrap();
    r.pass(2_000);
    assert_eq!((counted.finish(), r.status().uncertain), (Verdict::Held, 2));
}

#[test]
fn start_open_lasts_until_the_first_grant() {
    let mut r = rig(&[("gate.start_open", "true")]);
    r.pass(60_000);
    let early = r.enter().unwrap();
    assert_eq!(early.epoch(), 0);
    assert!(r.core.cell().enter_class(WriteClass::Replication).is_ok());
    r.grant(1, 1_000).unwrap();
    r.pass(2_000);
    assert_eq!((r.refusal(), early.finish()), (Reason::Expired, Verdict::Uncertain));
    let mut reset = rig(&[("gate.start_open", "true")]);
    reset.core.reset(&mut reset.events).unwrap();
    reset.pass(10);
    assert_eq!(reset.refusal(), Reason::NeverGranted);
}

#[test]
fn classes_have_rules() {
    let mut r = rig(&[]);
    let cell = r.core.cell();
    let enter = |class| cell.enter_class(class).map(Permit::finish);
    for class in [WriteClass::Replication, WriteClass::Bootstrap] {
        assert_eq!(enter(class), Ok(Verdict::Held), "no office, so it has a master");
    }
    assert_eq!(enter(WriteClass::Deferrable), Err(Reason::NeverGranted));
    assert_eq!(r.status().refused, [], "a deferrable write is not refused, it waits");
    let replicated = cell.enter_class(WriteClass::Replication).unwrap();
    r.grant(1, 1_000).unwrap();
    for class in [WriteClass::Replication, WriteClass::Bootstrap] {
        assert_eq!(enter(class), Err(Reason::Superseded), "in office it has no master");
    }
    assert_eq!(enter(WriteClass::Deferrable), Ok(Verdict::Held));
    r.core.close(&mut r.events);
    assert_eq!(enter(WriteClass::Replication), Err(Reason::Closed));
    assert_eq!(replicated.finish(), Verdict::Uncertain);
}

#[test]
fn a_drain_waits_for_every_permit_and_ends_the_epoch() {
    let mut r = rig(&[]);
    r.grant(1, 2_000).unwrap();
    let (first, second) = (r.enter().unwrap(), r.enter().unwrap());
    r.core.begin_drain(r.now()).unwrap();
    assert_eq!((r.refusal(), r.core.phase()), (Reason::Draining, Phase::Draining));
    let mut looks = 0;
    let expired = || {
        looks += 1;
        looks > 3
    };
    assert!(!r.core.cell().wait_idle(expired));
    let now = r.now();
    assert_eq!(r.core.end_drain(now, &mut r.events).unwrap_err().status(), Status::Timeout);
    // The lease goes on while it drains, so what is in flight can be acknowledged; here by another thread.
    r.pass(100);
    assert!(r.grant(1, 2_000).unwrap().accepted);
    assert_eq!(first.finish(), Verdict::Held);
    assert_eq!(std::thread::spawn(|| second.finish()).join().unwrap(), Verdict::Held);
    assert!(r.core.cell().wait_idle(|| true));
    let now = r.now();
    r.core.end_drain(now, &mut r.events).unwrap();
    assert_eq!(r.events().pop(), Some(GateEvent::Drained { epoch: 1, took_ns: 100 * MS }));
    assert_eq!(r.grant(1, 2_000).unwrap().refusal, Some(Refusal::Draining), "the epoch is over");
    assert_eq!(r.refusal(), Reason::Draining);
    r.grant(2, 2_000).unwrap();
    assert!(r.enter().is_ok());
    assert_eq!(r.status().drains, 1);
}

#[test]
fn a_drain_can_be_given_up() {
    let mut r = rig(&[]);
    assert_eq!(r.core.cancel_drain(&Moment::default().into(), &mut r.events).unwrap_err().status(), Status::Misuse);
    assert_eq!(r.core.end_drain(Moment::default(), &mut r.events).unwrap_err().status(), Status::Misuse);
    r.grant(1, 1_000).unwrap();
    let permit = r.enter().unwrap();
    r.core.begin_drain(r.now()).unwrap();
    assert_eq!(r.grant(2, 1_000).unwrap().refusal, Some(Refusal::Draining));
    let now = r.now();
    r.core.cancel_drain(&now.into(), &mut r.events).unwrap();
    assert!(r.enter().is_ok());
    assert_eq!(permit.finish(), Verdict::Held);
}

#[test]
fn an_idle_look_at_one_drain_says_nothing_of_the_next() {
    let mut r = rig(&[]);
    r.grant(1, 1_000).unwrap();
    r.core.begin_drain(r.now()).unwrap();
    assert!(r.core.cell().wait_idle(|| true));
    let now = r.now();
    r.core.cancel_drain(&now.into(), &mut r.events).unwrap();
    let permit = r.enter().unwrap();
    r.core.begin_drain(now).unwrap();
    assert_eq!(r.core.end_drain(now, &mut r.events).unwrap_err().status(), Status::Timeout);
    assert_eq!(permit.finish(), Verdict::Held);
    r.core.end_drain(now, &mut r.events).unwrap();
}

#[test]
fn closed_and_poisoned_are_for_ever_and_in_every_mode() {
    for (mode, poisoned) in [("block-write", false), ("disabled", true), ("log-only", true), ("disabled", false)] {
        let mut r = rig(&[("gate.mode", mode)]);
        r.grant(1, 1_000).unwrap();
        let permit = r.enter().unwrap();
        let (reason, status) = if poisoned { (Reason::Poisoned, Status::Poisoned) } else { (Reason::Closed, Status::Closed) };
        if poisoned {
            r.core.poison(&mut r.events)
        } else {
            r.core.close(&mut r.events)
        }
        assert_eq!((r.refusal(), r.core.cell().check().unwrap_err()), (reason, reason), "{mode}");
        assert_eq!(permit.finish(), Verdict::Uncertain, "{mode}");
        assert_eq!(r.grant(2, 1_000).unwrap_err().status(), status);
        assert_eq!(r.core.set_mode(Mode::Disabled).unwrap_err().status(), status);
        assert_eq!(r.core.begin_drain(r.now()).unwrap_err().status(), status);
        r.pass(10);
        assert_eq!(r.refusal(), reason, "{mode}");
        assert!(r.events().contains(&GateEvent::Lost { epoch: 1, reason }));
    }
}

#[test]
fn refusals_are_summed_up_at_most_once_a_second() {
    let mut r = rig(&[]);
    let mut summaries = 0;
    for _ in 0..100 {
        r.enter().unwrap_err();
        r.clock.advance(50 * MS);
        r.tick();
        for event in r.events() {
            let GateEvent::Refused(counts) = event else { panic!("{event:?}") };
            assert_eq!((counts.by_reason.as_slice(), counts.passed), (&[(Reason::NeverGranted, 20)][..], 0));
            summaries += 1;
        }
    }
    assert_eq!(summaries, 5);
    r.pass(5_000);
    assert_eq!(r.events(), [], "nothing new, nothing said");
}

#[test]
fn a_permit_ends_once_and_a_dropped_one_is_not_held() {
    let mut r = rig(&[]);
    r.grant(1, 1_000).unwrap();
    let mut raw = enter_slow(r.core.cell(), WriteClass::Client).unwrap();
    assert_eq!(
        (finish_slow(&mut raw), finish_slow(&mut raw), precommit_slow(&raw)),
        (Verdict::Held, Verdict::Uncertain, Verdict::Uncertain)
    );
    leave_slow(&mut raw);
    assert_eq!(r.status().in_flight, 0);
    drop(r.enter().unwrap());
    assert_eq!((r.status().in_flight, r.status().permits), (0, 2));
}

#[test]
fn the_least_margin_is_remembered() {
    let mut r = rig(&[("gate.leash_ms", "100")]);
    r.grant(1, 60_000).unwrap();
    assert_eq!(r.status().least_margin_us, None);
    for (ms, least) in [(0, 99_999), (60, 39_999), (20, 39_999)] {
        let permit = r.enter().unwrap();
        r.clock.advance(ms * MS);
        assert_eq!(permit.finish(), Verdict::Held);
        assert_eq!(r.status().least_margin_us, Some(least));
        r.tick();
    }
}

#[test]
fn a_forked_child_finds_every_gate_closed() {
    let mut r = rig(&[]);
    r.grant(1, 60_000).unwrap();
    let mut disabled = rig(&[("gate.mode", "disabled")]);
    let mut permit = enter_slow(r.core.cell(), WriteClass::Client).unwrap();
    let (cell, other) = (r.core.cell(), disabled.core.cell());
    // SAFETY: the child reads gates and leaves without running anything of the test process.
    #[allow(unsafe_code)]
    let child = unsafe { libc::fork() };
    if child == 0 {
        let closed = cell.enter().is_err_and(|r| r == Reason::Forked)
            && other.enter().is_err_and(|r| r == Reason::Forked)
            && cell.check().is_err_and(|r| r == Reason::Forked)
            && finish_slow(&mut permit) == Verdict::Uncertain;
        // SAFETY: as above.
        #[allow(unsafe_code)]
        unsafe {
            libc::_exit(i32::from(!closed))
        };
    }
    let mut code = -1;
    // SAFETY: waits for the child just made.
    #[allow(unsafe_code)]
    unsafe {
        libc::waitpid(child, &mut code, 0)
    };
    assert_eq!(code, 0);
    assert_eq!(finish_slow(&mut permit), Verdict::Held, "the parent goes on");
    disabled.core.close(&mut Vec::new());
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let mut config = Config::new();
    config.set("gate.ttl_min_ms", "5000").unwrap().set("gate.ttl_max_ms", "4000").unwrap();
    assert_eq!(Options::from_config(&config).unwrap_err().status(), Status::InvalidArgument);
    assert_eq!("log-only".parse::<Mode>().unwrap(), Mode::LogOnly);
    assert!("log_only".parse::<Mode>().is_err());
}

/// On the machine's own clocks: the fast modes, and the TSC where there is one.
#[test]
fn the_real_clocks_open_and_close_a_gate() {
    let clock = crate::base::SystemClock;
    for policy in [ClockPolicy::Boottime, ClockPolicy::Tsc] {
        let mut options = Options::from_config(&Config::new()).unwrap();
        options.clock = policy;
        let setup =
            Setup { name: "real".to_owned(), options, epochs: Arc::new(MemoryEpochs::default()), injected: None, kernel_uses_tsc: true };
        let mut events = Vec::new();
        let mut core = GateCore::new(setup, &Reading::now(&clock, true), &mut events).unwrap();
        let start = Moment::now(&clock);
        let now = Reading::now(&clock, core.wants_tsc());
        core.grant(3, 200 * MS, now.moment, &now, &mut events).unwrap();
        let mut used = core.status(now.moment).clock;
        let mut closed_at = None;
        while closed_at.is_none() {
            core.tick(&Reading::now(&clock, core.wants_tsc()), &mut events);
            used = core.status(Moment::now(&clock)).clock;
            match core.cell().enter() {
                Ok(permit) => drop(permit),
                Err(reason) => closed_at = Some((reason, start.elapsed_ns(Moment::now(&clock)))),
            }
            assert!(start.elapsed_ns(Moment::now(&clock)) < 10_000 * MS);
        }
        let (reason, at) = closed_at.unwrap();
        assert_eq!(reason, Reason::Expired);
        assert!(at > 100 * MS, "closed after {at} ns");
        if policy == ClockPolicy::Tsc && tsc_is_invariant() && !core.wants_tsc() {
            panic!("the TSC was given up on a machine whose kernel trusts it");
        }
        assert_eq!(used == "tsc", policy == ClockPolicy::Tsc && tsc_is_invariant());
        assert!(clock.boottime_ns() > 0);
    }
}

#[test]
fn an_unusable_tsc_falls_back_and_says_so() {
    let mut options = Options::from_config(&Config::new()).unwrap();
    options.clock = ClockPolicy::Tsc;
    let clock = crate::base::SystemClock;
    let setup = Setup { name: "t".to_owned(), options, epochs: Arc::new(MemoryEpochs::default()), injected: None, kernel_uses_tsc: false };
    let mut events = Vec::new();
    let core = GateCore::new(setup, &Reading::now(&clock, true), &mut events).unwrap();
    assert_eq!(events, [GateEvent::ClockFallback]);
    let status = core.status(Moment::now(&clock));
    assert_eq!((status.clock, status.clock_fallbacks, core.wants_tsc()), ("boottime", 1, false));
}
