//! Grants, heartbeats, epochs, clocks: what opens a gate, and for how long.

use super::*;

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
    assert_eq!((r.events(), r.status().uncertain), (vec![GateEvent::Overrun { epoch: 1, in_flight: 1 }], 1));
    r.tick();
    assert!(matches!(r.events()[..], [GateEvent::Drained { epoch: 1, .. }]));
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
    assert_eq!(r.status().round_trip_us, Some(900_000));
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
    let told = [GateEvent::Lost { epoch: 5, reason: Reason::Superseded }, GateEvent::Overrun { epoch: 5, in_flight: 1 }];
    assert!(r.events().ends_with(&told));
    let e = r.grant(6, 1_000).unwrap_err();
    assert_eq!((e.status(), e.message()), (Status::Fenced, "epoch 6 belongs to b"));
    assert_eq!(r.status().holder_hint.as_deref(), Some("b"));
    r.grant(7, 1_000).unwrap();
    assert_eq!((r.enter().unwrap().epoch(), r.status().holder_hint), (7, None));
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
