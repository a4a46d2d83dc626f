//! Permits, classes, modes, drains, ends: what writers meet.

use super::*;

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
    r.core.begin_drain(r.now(), &mut Vec::new()).unwrap();
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
    r.core.begin_drain(r.now(), &mut Vec::new()).unwrap();
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
    r.core.begin_drain(r.now(), &mut Vec::new()).unwrap();
    assert!(r.core.cell().wait_idle(|| true));
    let now = r.now();
    r.core.cancel_drain(&now.into(), &mut r.events).unwrap();
    let permit = r.enter().unwrap();
    r.core.begin_drain(now, &mut Vec::new()).unwrap();
    assert_eq!(r.core.end_drain(now, &mut r.events).unwrap_err().status(), Status::Timeout);
    assert_eq!(permit.finish(), Verdict::Held);
    r.core.end_drain(now, &mut r.events).unwrap();
}

// I-23.
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
        assert_eq!(r.core.begin_drain(r.now(), &mut Vec::new()).unwrap_err().status(), status);
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

// I-23.
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
