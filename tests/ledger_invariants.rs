//! The rows of the correctness table (C3 to C29) and the invariants (I-05 to I-14) that one ledger can show, each by its number.
#![allow(clippy::unwrap_used, clippy::panic)]

mod ledger_bench;

use std::time::{Duration, Instant};

use ledger_bench::{Bench, acquire, granted, key, manual};
use tenure::base::{SessionId, Status, Token};
use tenure::ledger::{Event, Fault, LimitKind, LossReason, Mode, Op, Outcome, Params, Refusal, Request, Spec, Stamp, WaitEnd};

// F11.
#[test]
fn c3_a_waiter_whose_session_died_is_told_and_never_granted() {
    let mut b = Bench::new(Params::default());
    let (a, dead, c) = (b.open(1, 60_000), b.open(2, 1_000), b.open(3, 60_000));
    let held = b.hold(a, "k", &Spec { ttl_ms: 60_000, ..Spec::default() });
    b.wait(dead, "k", 5);
    b.wait(c, "k", 6);
    b.pass(1_001);
    let told = Event::WaitEnded { session: dead, req: 5, why: WaitEnd::SessionExpired };
    assert_eq!(
        b.events(),
        [told, Event::SessionEnded { session: dead, why: LossReason::SessionExpired }],
        "at 1 s and a tick, not at the release"
    );
    b.pass(4_000);
    assert_eq!(b.release(a, "k", held), Outcome::Released { left: 0 });
    assert!(matches!(b.events()[..], [Event::Granted { session, req: 6, .. }] if session == c));
}

// I-08.
#[test]
fn c3_the_grant_is_decided_where_it_is_applied() {
    // The waiter's session is over at the very index of the release, and nobody has recorded that yet.
    let mut b = Bench::new(Params { slice: 1, ..Params::default() });
    let (a, dead, c) = (b.open(1, 60_000), b.open(2, 1_000), b.open(3, 60_000));
    let held = b.hold(a, "k", &Spec { ttl_ms: 60_000, ..Spec::default() });
    for other in 0..5 {
        b.hold(dead, &format!("other{other}"), &Spec::default());
    }
    b.wait(dead, "k", 5);
    b.wait(c, "k", 6);
    b.stamp.ticks_ms += 1_001;
    assert_eq!(b.release(a, "k", held), Outcome::Released { left: 0 });
    assert_eq!(b.holders("k"), [c]);
}

#[test]
fn c4_a_cancelled_request_never_becomes_a_holder() {
    let mut b = Bench::new(Params::default());
    let (a, c) = (b.open(1, 10_000), b.open(2, 10_000));
    let held = b.hold(a, "k", &Spec::default());
    // While it waits.
    b.wait(c, "k", 7);
    assert_eq!(b.ask(c, Op::Cancel { keys: vec![key("k")], req: 7 }), Outcome::Cancelled { was_granted: false });
    b.release(a, "k", held);
    assert_eq!(b.holders("k"), []);
    // After the grant, whose announcement was lost.
    granted(b.ask(c, acquire("k", &Spec::default(), Some(100), 8)));
    assert_eq!(b.ask(c, Op::Cancel { keys: vec![key("k")], req: 8 }), Outcome::Cancelled { was_granted: true });
    assert_eq!(b.holders("k"), []);
    // Before it comes.
    assert_eq!(b.ask(c, Op::Cancel { keys: vec![key("k")], req: 9 }), Outcome::Cancelled { was_granted: false });
    b.restart();
    assert_eq!(b.ask(c, acquire("k", &Spec::default(), Some(100), 9)), Outcome::Refused(Refusal::Cancelled));
    assert_eq!(b.ledger.counts().locks, 0);
}

#[test]
fn c4_a_request_that_timed_out_never_becomes_a_holder() {
    let mut b = Bench::new(Params::default());
    let (a, c) = (b.open(1, 60_000), b.open(2, 60_000));
    let held = b.hold(a, "k", &Spec { ttl_ms: 60_000, ..Spec::default() });
    assert_eq!(b.ask(c, acquire("k", &Spec::default(), Some(500), 7)), Outcome::Queued { position: 0 });
    b.pass(499);
    assert_eq!(b.events(), []);
    b.pass(1);
    assert_eq!(b.events(), [Event::WaitEnded { session: c, req: 7, why: WaitEnd::Timeout }]);
    b.release(a, "k", held);
    assert_eq!(b.holders("k"), []);
}

#[test]
fn c4_a_request_whose_time_ends_in_the_same_step_as_the_grant_before_it_gets_nothing() {
    for (wait_ms, late) in [(499, true), (501, true), (550, true), (600, true), (601, false)] {
        let mut b = Bench::new(Params::default());
        let (a, c) = (b.open(1, 60_000), b.open(2, 60_000));
        b.hold(a, "k", &manual(500));
        b.ask(c, acquire("k", &Spec::default(), Some(wait_ms), 7));
        b.pass(600);
        assert_eq!(b.holders("k").is_empty(), late, "it waited for {wait_ms} ms");
        assert_eq!(b.events().contains(&Event::WaitEnded { session: c, req: 7, why: WaitEnd::Timeout }), late);
    }
}

// I-10.
#[test]
fn c12_a_retry_gets_the_same_answer_and_has_no_second_effect() {
    let mut b = Bench::new(Params::default());
    let a = b.open(1, 10_000);
    assert_eq!(b.open(1, 10_000), a, "opening is idempotent by its nonce");
    let first = b.numbered(a, 1, acquire("k", &Spec::default(), None, 1));
    assert_eq!(b.numbered(a, 1, acquire("k", &Spec::default(), None, 1)), first);
    b.restart();
    assert_eq!(b.numbered(a, 1, acquire("k", &Spec::default(), None, 1)), first, "also from a snapshot");
    let token = granted(first);
    let renewed = b.numbered(a, 2, Op::Renew { key: key("k"), token, ttl_ms: 5_000 });
    assert_eq!(b.numbered(a, 2, Op::Renew { key: key("k"), token, ttl_ms: 5_000 }), renewed);
    assert_eq!(b.numbered(a, 3, Op::Release { key: key("k"), token }), Outcome::Released { left: 0 });
    assert_eq!(b.numbered(a, 1, acquire("k", &Spec::default(), None, 1)), first, "a late duplicate");
    assert_eq!(b.holders("k"), [], "must not grant again");
    assert_eq!(b.numbered(a, 3, Op::Release { key: key("k"), token }), Outcome::Released { left: 0 });
}

#[test]
fn c12_the_retry_of_a_request_that_waited_gets_the_grant() {
    let mut b = Bench::new(Params::default());
    let (a, c) = (b.open(1, 10_000), b.open(2, 10_000));
    let held = b.hold(a, "k", &Spec::default());
    let ask = || acquire("k", &Spec::default(), Some(u64::MAX), 4);
    assert_eq!(b.numbered(c, 1, ask()), Outcome::Queued { position: 0 });
    assert_eq!(b.numbered(c, 1, ask()), Outcome::Queued { position: 0 });
    assert_eq!(b.ledger.lock(&key("k")).unwrap().waiters.len(), 1);
    b.release(a, "k", held);
    let token = b.events().iter().find_map(|e| if let Event::Granted { token, .. } = e { Some(*token) } else { None }).unwrap();
    assert_eq!(granted(b.numbered(c, 1, ask())), token);
}

#[test]
fn c12_the_retry_of_a_request_for_several_keys_gets_the_grant() {
    let mut b = Bench::new(Params::default());
    let (a, c) = (b.open(1, 10_000), b.open(2, 10_000));
    let held = b.hold(a, "k", &Spec::default());
    let ask = || Op::AcquireAll { keys: vec![key("j"), key("k")], spec: Spec::default(), wait_ms: Some(u64::MAX), req: 4 };
    assert_eq!(b.numbered(c, 1, ask()), Outcome::Queued { position: 0 });
    b.release(a, "k", held);
    let token = b.ledger.lock(&key("j")).unwrap().holders[0].token;
    assert_eq!(granted(b.numbered(c, 1, ask())), token);
    assert_eq!(b.ask(c, Op::ReleaseAll), Outcome::ReleasedMany { count: 2 });
    // And one that ended otherwise gets that end.
    b.hold(a, "k", &Spec::default());
    let ask = || Op::AcquireAll { keys: vec![key("j"), key("k")], spec: Spec::default(), wait_ms: Some(100), req: 5 };
    assert_eq!(b.numbered(c, 2, ask()), Outcome::Queued { position: 0 });
    b.pass(100);
    assert_eq!(b.numbered(c, 2, ask()), Outcome::WaitEnded(WaitEnd::Timeout));
}

#[test]
fn a_dead_session_loses_its_locks_in_the_order_of_their_tokens() {
    let mut b = Bench::new(Params::default());
    let (a, c) = (b.open(1, 60_000), b.open(2, 1_000));
    let held = b.hold(a, "k", &Spec::default());
    b.wait(c, "k", 1);
    let first = b.hold(c, "j", &Spec::default());
    // The wait is older than the grant of j; what comes of it is younger.
    b.release(a, "k", held);
    b.events();
    b.pass(1_001);
    let lost: Vec<Token> = b.events().iter().filter_map(|e| if let Event::Lost { token, .. } = e { Some(*token) } else { None }).collect();
    assert!(lost.len() == 2 && lost[0] == first && lost[1] > first, "{lost:?}");
}

#[test]
fn c13_the_memory_of_answers_is_bounded_and_dies_with_the_session() {
    let mut b = Bench::new(Params { window: 8, ..Params::default() });
    let a = b.open(1, 60_000);
    let size = |b: &Bench| {
        let mut size = 0;
        b.ledger
            .snapshot(&mut |piece| {
                size += piece.len();
                Ok(())
            })
            .unwrap();
        size
    };
    let mut after_warm_up = 0;
    for seq in (1..4_000).step_by(2) {
        let token = granted(b.numbered(a, seq, acquire("k", &Spec::default(), None, seq)));
        b.numbered(a, seq + 1, Op::Release { key: key("k"), token });
        if seq == 2_001 {
            after_warm_up = size(&b);
        }
    }
    assert!(size(&b) <= after_warm_up + 16, "{} grew to {}", after_warm_up, size(&b));
    assert_eq!(b.numbered(a, 1, acquire("k", &Spec::default(), None, 1)), Outcome::Refused(Refusal::Forgotten));
    assert_eq!(b.ask(a, Op::CloseSession), Outcome::Closed);
    assert_eq!(b.numbered(a, 3_999, acquire("k", &Spec::default(), None, 1)), Outcome::Refused(Refusal::NoSession));
    assert_eq!(b.ledger.counts().sessions, 0);
}

// I-13.
#[test]
fn a_renewal_ends_the_same_in_a_replica_that_was_restored() {
    let run = |restored: bool| {
        let mut b = Bench::new(Params { slice: 1, ..Params::default() });
        let (a, c) = (b.open(1, 60_000), b.open(2, 60_000));
        // Known to who has seen it only.
        let short = Spec { ttl_ms: 1_000, ..Spec::default() };
        let token = b.hold(a, "short", &short);
        b.release(a, "short", token);
        // Of two that run out at once the other one takes the whole slice.
        b.hold(c, "other", &short);
        b.hold(a, "manual", &manual(1_000));
        if restored {
            b.restart();
        }
        b.stamp.ticks_ms += 1_001;
        let renewed = b.ask(a, Op::RenewSession);
        (renewed, b.events(), b.ledger.state_hash().unwrap())
    };
    assert_eq!(run(false), run(true));
}

#[test]
fn c14_tokens_increase_for_ever() {
    let mut b = Bench::new(Params::default());
    let a = b.open(1, 10_000);
    let mut last = Token(0);
    for round in 0..50 {
        let token = b.hold(a, &format!("k{}", round % 3), &Spec::default());
        assert!(token > last, "I-05: also for a key that was deleted and made again");
        last = token;
        b.release(a, &format!("k{}", round % 3), token);
        if round % 10 == 0 {
            b.restart();
        }
    }
    let known = last.0 + 1_000;
    b.ledger.recover(known);
    let token = b.hold(a, "k0", &Spec::default());
    assert!(token.0 > known + (1 << 31) && token.0 < 1 << 63, "a recovery passes all that a lost successor can have given");
    assert_eq!(b.ledger.generation(), 1);
}

// I-09, F13.
#[test]
fn c15_a_stale_release_has_no_effect() {
    let mut b = Bench::new(Params::default());
    let (a, c) = (b.open(1, 10_000), b.open(2, 10_000));
    let old = b.hold(a, "k", &manual(1_000));
    b.pass(1_001);
    let current = b.hold(c, "k", &Spec::default());
    assert_eq!(b.release(a, "k", old), Outcome::NotHolder { current });
    assert_eq!(b.release(a, "k", current), Outcome::NotHolder { current }, "another's token");
    assert_eq!(b.holders("k"), [c]);
    assert_eq!(b.release(c, "k", current), Outcome::Released { left: 0 });
    assert_eq!(b.release(c, "k", current), Outcome::NotHolder { current: Token(0) }, "twice");
    let again = b.hold(c, "k", &Spec::default());
    assert_eq!(b.release(c, "k", current), Outcome::NotHolder { current: again }, "after it was taken again");
    assert_eq!(b.holders("k"), [c]);
}

// I-09, F12.
#[test]
fn c16_a_renewal_after_the_release_revives_nothing() {
    let mut b = Bench::new(Params::default());
    let (a, c) = (b.open(1, 10_000), b.open(2, 10_000));
    let token = b.hold(a, "k", &manual(1_000));
    let renew = |token| Op::Renew { key: key("k"), token, ttl_ms: 60_000 };
    assert!(matches!(b.ask(a, renew(token)), Outcome::Renewed { .. }));
    assert_eq!(b.release(a, "k", token), Outcome::Released { left: 0 });
    assert_eq!(b.ask(a, renew(token)), Outcome::NotHolder { current: Token(0) });
    assert_eq!(b.holders("k"), []);
    let other = b.hold(c, "k", &manual(1_000));
    assert_eq!(b.ask(a, renew(token)), Outcome::NotHolder { current: other });
    b.pass(1_001);
    assert_eq!(b.ask(c, renew(other)), Outcome::NotHolder { current: Token(0) }, "nor does one after the expiry");
    assert_eq!(b.ledger.counts().keys, 0);
}

#[test]
fn c16_a_session_renewal_revives_no_grant_that_has_run_out() {
    // With one removal an entry, most of what has run out is still recorded when the renewal comes.
    let mut b = Bench::new(Params { slice: 1, ..Params::default() });
    let a = b.open(1, 10_000);
    for name in ["x", "y", "z"] {
        b.hold(a, name, &Spec { ttl_ms: 1_000, ..Spec::default() });
    }
    b.stamp.ticks_ms += 5_000;
    assert_eq!(b.ask(a, Op::RenewSession), Outcome::Renewed { remaining_ms: 10_000, clock_ms: 5_000 });
    assert!(["x", "y", "z"].iter().all(|name| b.holders(name).is_empty()));
    assert_eq!(b.events().iter().filter(|e| matches!(e, Event::Lost { why: LossReason::Expired, .. })).count(), 3, "each is told once");
}

#[test]
fn c18_a_session_that_was_away_too_long_is_told_and_its_tokens_are_dead() {
    let mut b = Bench::new(Params::default());
    let (a, c) = (b.open(1, 1_000), b.open(2, 60_000));
    let old = b.hold(a, "k", &Spec::default());
    b.wait(c, "k", 1);
    b.restart();
    // Back in time: the ledger's clock stood still while nobody ran it.
    b.stamp = Stamp { term: 1, boot: 10, ticks_ms: 0 };
    b.pass(900);
    assert!(matches!(b.ask(a, Op::RenewSession), Outcome::Renewed { .. }));
    // Too late, in any order.
    b.pass(1_001);
    assert_eq!(b.ask(a, Op::RenewSession), Outcome::Refused(Refusal::NoSession));
    assert_eq!(b.release(a, "k", old), Outcome::Refused(Refusal::NoSession));
    assert_eq!(b.holders("k"), [c]);
    assert_ne!(b.open(1, 1_000), a, "the same process gets a new incarnation");
}

// F18.
#[test]
fn c19_a_restarted_process_waits_out_its_old_session_and_no_longer() {
    let mut b = Bench::new(Params::default());
    let old = b.open(1, 2_000);
    let token = b.hold(old, "k", &Spec::default());
    let new = b.open(2, 10_000);
    assert!(matches!(b.try_acquire(new, "k", &Spec::default()), Outcome::Held(o) if o.session == old && o.remaining_ms == 2_000));
    b.wait(new, "k", 1);
    b.pass(2_001);
    let events = b.events();
    assert_eq!(events[0], Event::Lost { session: old, key: key("k"), token, why: LossReason::SessionExpired });
    assert!(matches!(events[1], Event::Granted { session, token: t, .. } if session == new && t > token));
}

#[test]
fn c25_ownership_is_the_session_and_the_token() {
    let mut b = Bench::new(Params::default());
    let (a, c) = (b.open(1, 10_000), b.open(2, 10_000));
    let token = b.hold(a, "k", &Spec::default());
    // The same session asks again: another part of the same process, which has to wait like anybody.
    assert!(matches!(b.try_acquire(a, "k", &Spec::default()), Outcome::Held(o) if o.token == token));
    assert_eq!(b.release(c, "k", token), Outcome::NotHolder { current: token });
    assert_eq!(b.release(a, "k", token), Outcome::Released { left: 0 });
    let reentrant = Spec { reentrant: true, ..Spec::default() };
    let token = b.hold(a, "k", &reentrant);
    assert_eq!(b.try_acquire(a, "k", &reentrant), Outcome::Granted { token, remaining_ms: 10_000, depth: 2 });
    assert!(matches!(b.try_acquire(c, "k", &reentrant), Outcome::Held(_)));
    assert_eq!(b.release(a, "k", token), Outcome::Released { left: 1 });
    assert_eq!(b.holders("k"), [a]);
    assert_eq!(b.release(a, "k", token), Outcome::Released { left: 0 });
}

#[test]
fn c26_grants_that_end_at_once_are_cleared_away_in_slices() {
    const N: u64 = 200_000;
    let mut b = Bench::new(Params { max_sessions: 1 << 10, ..Params::default() });
    let sessions: Vec<SessionId> = (0..100).map(|n| b.open(n, 1_000)).collect();
    let survivor = b.open(1_000, 60_000);
    for n in 0..N {
        b.hold(sessions[n as usize % 100], &format!("lock-{n}"), &Spec::default());
    }
    let start = Instant::now();
    b.pass(1_001);
    let mut entries = 1;
    while b.ledger.next_deadline().is_some_and(|at| at <= b.ledger.clock_ms()) {
        // Whoever renews meanwhile is served within the slice.
        assert!(matches!(b.ask(survivor, Op::RenewSession), Outcome::Renewed { .. }));
        entries += 1;
    }
    assert_eq!((b.ledger.counts().locks, b.ledger.counts().sessions), (0, 1));
    let slices = N.div_ceil(u64::from(b.ledger.params().slice));
    assert!(entries >= slices && entries <= slices + 100, "{entries} entries");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn c27_a_lock_costs_the_same_however_many_its_session_holds() {
    let mut b = Bench::new(Params::default());
    let a = b.open(1, 60_000);
    let batch = |b: &mut Bench, from: u64, to: u64| {
        let ops = |n: u64| Request { session: a, seq: 0, op: acquire(&format!("lock-{n}"), &Spec::default(), None, n) };
        let requests: Vec<Request> = (from..to).map(ops).collect();
        let start = Instant::now();
        b.apply(requests);
        start.elapsed()
    };
    batch(&mut b, 0, 2_000);
    let first = (0..5).map(|i| batch(&mut b, 2_000 + i * 2_000, 4_000 + i * 2_000)).min().unwrap();
    batch(&mut b, 100_000, 300_000);
    let last = (0..5).map(|i| batch(&mut b, 400_000 + i * 2_000, 402_000 + i * 2_000)).min().unwrap();
    assert!(last < first * 40, "the first batches took {first:?}, the last {last:?}");
    // Giving one back in the middle is no search either.
    let start = Instant::now();
    for n in 150_000..151_000u64 {
        let token = b.ledger.lock(&key(&format!("lock-{n}"))).unwrap().holders[0].token;
        assert_eq!(b.release(a, &format!("lock-{n}"), token), Outcome::Released { left: 0 });
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn c28_lock_delay_only_after_a_loss_and_to_the_millisecond() {
    let mut b = Bench::new(Params::default());
    let (a, c) = (b.open(1, 60_000), b.open(2, 60_000));
    let spec = Spec { lock_delay_ms: 500, ..manual(1_000) };
    let token = b.hold(a, "k", &spec);
    b.release(a, "k", token);
    let token = b.hold(c, "k", &spec);
    b.release(c, "k", token);
    // Expiry: from the moment it was over, however late that was noticed.
    b.hold(a, "k", &spec);
    b.pass(1_200);
    assert!(matches!(b.try_acquire(c, "k", &spec), Outcome::Held(o) if o.token == Token(0) && o.delay_ms == 301));
    assert_eq!(b.ledger.lock(&key("k")).unwrap().delay_ms, 301, "visible");
    b.wait(c, "k", 1);
    b.pass(300);
    assert_eq!(b.holders("k"), []);
    b.pass(1);
    assert_eq!(b.holders("k"), [c]);
    // Force: the operator's choice, or the grant's own.
    for (delay_ms, want) in [(Some(0), 0), (None, 500), (Some(70), 70)] {
        b.ask(a, Op::ReleaseAll);
        b.ask(c, Op::ReleaseAll);
        b.pass(1_000);
        b.hold(a, "f", &spec);
        let force = Op::ForceRelease { key: key("f"), token: None, delay_ms };
        assert_eq!(b.ask(SessionId(0), force), Outcome::ReleasedMany { count: 1 });
        assert_eq!(b.ledger.lock(&key("f")).map_or(0, |l| l.delay_ms), want);
    }
    // 0 means 0.
    b.pass(1_000);
    b.hold(a, "z", &manual(1_000));
    b.pass(1_001);
    b.hold(c, "z", &Spec::default());
}

#[test]
fn c29_queue_places_live_and_die_with_their_session() {
    let mut b = Bench::new(Params { max_sessions: 1 << 10, ..Params::default() });
    let holder = b.open(0, 600_000);
    let held = b.hold(holder, "k", &Spec { ttl_ms: 600_000, ..Spec::default() });
    let dead: Vec<SessionId> = (1..=200).map(|n| b.open(n, 1_000)).collect();
    dead.iter().for_each(|s| b.wait(*s, "k", 1));
    let last = b.open(900, 600_000);
    b.wait(last, "k", 1);
    b.pass(1_001);
    assert_eq!(b.ledger.lock(&key("k")).unwrap().waiters.len(), 1, "no dead waiter costs anything, least of all time");
    b.release(holder, "k", held);
    assert_eq!(b.holders("k"), [last]);
}

#[test]
fn waiters_are_served_in_order_and_readers_together() {
    let mut b = Bench::new(Params::default());
    let s: Vec<SessionId> = (0..6).map(|n| b.open(n, 60_000)).collect();
    let shared = Spec { mode: Mode::Shared, ..Spec::default() };
    let token = b.hold(s[0], "k", &Spec::default());
    for (i, spec) in [(1, &shared), (2, &shared), (3, &Spec::default()), (4, &shared)] {
        assert!(matches!(b.ask(s[i], acquire("k", spec, Some(u64::MAX), 1)), Outcome::Queued { .. }));
    }
    assert!(matches!(b.try_acquire(s[5], "k", &shared), Outcome::Held(_)), "nobody overtakes the queue");
    b.release(s[0], "k", token);
    assert_eq!(b.holders("k"), [s[1], s[2]], "I-11");
    b.ask(s[1], Op::ReleaseAll);
    b.ask(s[2], Op::ReleaseAll);
    assert_eq!(b.holders("k"), [s[3]]);
    b.ask(s[3], Op::ReleaseAll);
    assert_eq!(b.holders("k"), [s[4]]);
}

#[test]
fn several_keys_are_taken_together_or_not_at_all() {
    let mut b = Bench::new(Params::default());
    let (a, c, d) = (b.open(1, 60_000), b.open(2, 60_000), b.open(3, 60_000));
    let all = |names: &[&str], req| Op::AcquireAll {
        keys: names.iter().map(|n| key(n)).collect(),
        spec: Spec::default(),
        wait_ms: Some(u64::MAX),
        req,
    };
    let y = b.hold(a, "y", &Spec::default());
    // Opposite orders: each has its place in all queues at once, so neither can have half of what the other needs.
    assert!(matches!(b.ask(c, all(&["x", "y"], 1)), Outcome::Queued { .. }));
    assert!(matches!(b.ask(d, all(&["y", "x"], 2)), Outcome::Queued { .. }));
    assert_eq!(b.holders("x"), [], "nothing is held while it waits");
    assert!(matches!(b.try_acquire(a, "x", &Spec::default()), Outcome::Held(_)), "and nobody overtakes it");
    b.release(a, "y", y);
    assert_eq!((b.holders("x"), b.holders("y")), (vec![c], vec![c]));
    let Event::Granted { token, .. } = b.events()[0] else { panic!() };
    assert_eq!(b.release(c, "x", token), Outcome::Released { left: 0 });
    assert_eq!(b.holders("x"), []);
    assert_eq!(b.release(c, "y", Token(token.0 + 1)), Outcome::Released { left: 0 }, "keys[i] has the token first + i");
    assert_eq!((b.holders("x"), b.holders("y")), (vec![d], vec![d]));
    assert_eq!(b.ask(d, Op::Cancel { keys: vec![key("x"), key("y")], req: 2 }), Outcome::Cancelled { was_granted: true });
    assert_eq!(b.ledger.counts().locks, 0);
}

// I-32.
#[test]
fn every_limit_refuses_by_its_name_and_changes_nothing() {
    let params = Params { max_locks: 2, max_sessions: 2, max_waiters_per_key: 1, max_metadata: 4, max_keys: 2, ..Params::default() };
    let mut b = Bench::new(params);
    let (a, c) = (b.open(1, 10_000), b.open(2, 10_000));
    let open = Op::OpenSession { nonce: 3, name: "x".into(), ttl_ms: 1_000 };
    let limit = |kind, max| Outcome::Refused(Refusal::Limit { kind, max });
    assert_eq!(b.ask(SessionId(0), open), limit(LimitKind::Sessions, 2));
    let big = Spec { metadata: vec![0; 5], ..Spec::default() };
    assert_eq!(b.try_acquire(a, "k", &big), limit(LimitKind::MetadataBytes, 4));
    let keys = ["a", "b", "c"].iter().map(|n| key(n)).collect();
    let all = Op::AcquireAll { keys, spec: Spec::default(), wait_ms: None, req: 1 };
    assert_eq!(b.ask(a, all), limit(LimitKind::KeysPerRequest, 2));
    b.hold(a, "k", &Spec::default());
    b.wait(c, "k", 1);
    assert_eq!(b.try_acquire(a, "j", &Spec::default()), limit(LimitKind::Locks, 2));
    b.ask(c, Op::Cancel { keys: vec![key("k")], req: 1 });
    b.hold(a, "j", &Spec::default());
    b.ask(a, Op::ReleaseAll);
    b.hold(a, "k", &Spec::default());
    b.wait(c, "k", 2);
    let hash = b.ledger.state_hash().unwrap();
    let mut more = Bench::new(Params { max_locks: 10, ..params });
    let (x, y) = (more.open(1, 10_000), more.open(2, 10_000));
    more.hold(x, "k", &Spec::default());
    more.wait(y, "k", 1);
    assert_eq!(more.ask(y, acquire("k", &Spec::default(), Some(5), 9)), limit(LimitKind::WaitersPerKey, 1));
    for (refusal, name) in [(LimitKind::Locks, "max_locks"), (LimitKind::Sessions, "max_sessions")] {
        let error = tenure::base::Error::from(Refusal::Limit { kind: refusal, max: 2 });
        assert!(error.status() == Status::Limit && error.message().contains(name) && error.message().contains('2'), "{error}");
    }
    let counts = b.ledger.counts();
    assert_eq!(b.try_acquire(a, "m", &Spec::default()), limit(LimitKind::Locks, 2));
    assert_eq!(b.ledger.counts(), counts);
    assert_ne!(hash, 0);
}

#[test]
fn what_makes_no_sense_is_refused_by_its_name() {
    let mut b = Bench::new(Params::default());
    let a = b.open(1, 10_000);
    let invalid = |fault| Outcome::Refused(Refusal::Invalid(fault));
    let with = |change: fn(&mut Spec)| {
        let mut spec = Spec::default();
        change(&mut spec);
        spec
    };
    for (spec, fault) in [
        (with(|s| s.ttl_ms = 0), Fault::Ttl),
        (with(|s| s.ttl_ms = u32::MAX), Fault::Ttl),
        (with(|s| s.lock_delay_ms = u32::MAX), Fault::LockDelay),
        (with(|s| s.mode = Mode::Permits { count: 0, limit: 1 }), Fault::Permits),
        (with(|s| s.mode = Mode::Permits { count: 3, limit: 2 }), Fault::Permits),
        (with(|s| s.mode = Mode::Permits { count: 1, limit: u32::MAX }), Fault::Permits),
        (with(|s| (s.mode, s.reentrant) = (Mode::Shared, true)), Fault::Reentrant),
    ] {
        assert_eq!(b.try_acquire(a, "k", &spec), invalid(fault), "{spec:?}");
    }
    let twice = Op::AcquireAll { keys: vec![key("k"), key("k")], spec: Spec::default(), wait_ms: None, req: 1 };
    assert_eq!(b.ask(a, twice), invalid(Fault::Keys));
    for name in [String::new(), "n".repeat(65)] {
        assert_eq!(b.ask(SessionId(0), Op::OpenSession { nonce: 9, name, ttl_ms: 1_000 }), invalid(Fault::Name));
    }
    b.hold(a, "sem", &Spec { mode: Mode::Permits { count: 1, limit: 3 }, ..Spec::default() });
    let other = Spec { mode: Mode::Permits { count: 1, limit: 4 }, ..Spec::default() };
    assert_eq!(b.try_acquire(a, "sem", &other), invalid(Fault::PermitLimit));
    assert_eq!(b.ledger.counts().locks, 1);
}

#[test]
fn a_semaphore_gives_its_permits_and_no_more() {
    let mut b = Bench::new(Params::default());
    let (a, c) = (b.open(1, 10_000), b.open(2, 10_000));
    let permits = |count| Spec { mode: Mode::Permits { count, limit: 5 }, ..Spec::default() };
    let two = b.hold(a, "s", &permits(2));
    b.hold(c, "s", &permits(2));
    assert!(matches!(b.try_acquire(c, "s", &permits(2)), Outcome::Held(_)));
    assert!(matches!(b.ask(c, acquire("s", &permits(3), Some(u64::MAX), 1)), Outcome::Queued { .. }));
    assert!(matches!(b.try_acquire(a, "s", &permits(1)), Outcome::Held(_)), "one is free, and somebody is before us");
    b.release(a, "s", two);
    assert_eq!(b.holders("s"), [c, c]);
    assert!(matches!(b.try_acquire(a, "s", &permits(1)), Outcome::Held(_)));
}
