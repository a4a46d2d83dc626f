//! Locks through the public Rust API, on a node in memory: real threads, and virtual time where time matters.
#![allow(clippy::unwrap_used, clippy::panic)]

mod node_support;

use std::sync::mpsc;
use std::time::Duration;

use node_support::Virtual;
use tenure::base::{Config, Status, Token};
use tenure::node::{Event, LockMode, LockOptions, LossReason, Node, Renew};

const SOON: Duration = Duration::from_secs(20);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn manual(ttl: u64) -> LockOptions {
    LockOptions { ttl: ms(ttl), renew: Renew::Manual, ..LockOptions::default() }
}

fn auto(ttl: u64) -> LockOptions {
    LockOptions { ttl: ms(ttl), ..LockOptions::default() }
}

#[test]
fn one_holder_at_a_time_and_tokens_grow() {
    let node = Node::open(&Config::new()).unwrap();
    let other = node.open_session("peer", ms(10_000)).unwrap();
    let mine = node.session().try_acquire_token(b"k", &auto(1_000)).unwrap();
    let refused = other.try_acquire_token(b"k", &auto(1_000)).unwrap_err();
    assert_eq!((refused.status(), refused.token()), (Status::Held, mine.0));
    assert_eq!(node.session().holder(b"k").unwrap().unwrap().token, mine);
    node.session().release(b"k", mine).unwrap();
    let theirs = other.try_acquire_token(b"k", &auto(1_000)).unwrap();
    assert!(theirs > mine);
    // A late release by the former holder frees nobody's lock.
    assert_eq!(node.session().release(b"k", mine).unwrap_err().status(), Status::NotHolder);
    assert_eq!(other.holder(b"k").unwrap().unwrap().node, "peer");
    node.close(SOON).unwrap();
}

#[test]
fn a_grant_renewed_by_hand_ends_with_its_ttl() {
    let v = Virtual::new();
    let s = v.node.session();
    let token = s.try_acquire_token(b"k", &manual(200)).unwrap();
    assert!(s.is_held(b"k", token));
    v.pass(150);
    assert!(s.renew(b"k", token, ms(200)).unwrap() <= ms(200));
    v.pass(150);
    assert!(s.is_held(b"k", token));
    v.pass(60);
    assert!(!s.is_held(b"k", token));
    assert_eq!(s.holder(b"k").unwrap(), None);
    assert!(s.try_acquire_token(b"k", &manual(200)).unwrap() > token);
    assert_eq!(s.renew(b"k", token, ms(200)).unwrap_err().status(), Status::NotHolder);
}

// F17.
#[test]
fn a_grant_renewed_by_the_node_lives_while_the_node_runs() {
    let v = Virtual::new();
    let s = v.node.session();
    let token = s.try_acquire_token(b"k", &auto(300)).unwrap();
    v.pass(5_000);
    assert!(s.is_held(b"k", token));
    assert_eq!(v.told(), []);
    v.freeze(400);
    assert!(!s.is_held(b"k", token), "the view needs nobody's answer to end");
    v.pass(10);
    let lost = v.told();
    assert!(matches!(&lost[..], [Event::Lost { token: t, reason: LossReason::Expired, .. }] if *t == token), "{lost:?}");
    v.pass(1_000);
    assert_eq!(v.told(), [], "a loss is told once");
}

#[test]
fn at_risk_comes_before_lost() {
    let v = Virtual::new();
    let s = v.node.session();
    let token = s.try_acquire_token(b"k", &auto(1_000)).unwrap();
    v.freeze(800);
    v.node.step();
    let told = v.told();
    assert!(matches!(&told[..], [Event::AtRisk { token: t, .. }] if *t == token), "{told:?}");
    // It was renewed in that same round.
    v.pass(500);
    assert!(s.is_held(b"k", token));
}

#[test]
fn a_session_that_expired_is_opened_anew_and_holds_nothing() {
    let v = Virtual::new();
    let s = v.node.session();
    let before = s.id();
    let token = s.try_acquire_token(b"k", &auto(5_000)).unwrap();
    v.freeze(20_000);
    v.pass(100);
    assert_ne!(s.id(), before);
    assert_eq!(s.release(b"k", token).unwrap_err().status(), Status::NotHolder);
    let lost: Vec<_> = v.told().into_iter().filter(|e| matches!(e, Event::Lost { .. })).collect();
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert!(s.try_acquire_token(b"k", &auto(5_000)).unwrap() > token);
}

#[test]
fn waiters_are_served_in_order() {
    let node = Node::open(&Config::new()).unwrap();
    let first = node.session().acquire_token(b"k", &auto(60_000), None).unwrap();
    let (tx, rx) = mpsc::channel();
    let mut sessions = Vec::new();
    for n in 0..8 {
        let s = node.open_session(&format!("w{n}"), ms(60_000)).unwrap();
        let tx = tx.clone();
        s.submit_acquire(b"k", &auto(60_000), None, Box::new(move |r| tx.send((n, r.unwrap())).unwrap())).unwrap();
        sessions.push(s);
    }
    node.session().release(b"k", first).unwrap();
    let mut last = first;
    for expected in 0..8 {
        let (n, token) = rx.recv_timeout(SOON).unwrap();
        assert_eq!(n, expected);
        assert!(token > last);
        last = token;
        sessions[n].release(b"k", token).unwrap();
    }
    assert_eq!(node.session().holder(b"k").unwrap(), None);
}

#[test]
fn a_wait_that_runs_out_never_becomes_a_holder() {
    let node = Node::open(&Config::new()).unwrap();
    let other = node.open_session("peer", ms(10_000)).unwrap();
    let held = node.session().try_acquire_token(b"k", &auto(60_000)).unwrap();
    assert_eq!(other.acquire_token(b"k", &auto(1_000), Some(ms(30))).unwrap_err().status(), Status::Timeout);
    node.session().release(b"k", held).unwrap();
    assert_eq!(node.session().holder(b"k").unwrap(), None);
}

#[test]
fn a_cancelled_wait_is_told_and_leaves_nothing() {
    let node = Node::open(&Config::new()).unwrap();
    let other = node.open_session("peer", ms(10_000)).unwrap();
    let held = node.session().try_acquire_token(b"k", &auto(60_000)).unwrap();
    let (tx, rx) = mpsc::channel();
    let op = other.submit_acquire(b"k", &auto(1_000), None, Box::new(move |r| tx.send(r).unwrap())).unwrap();
    assert!(other.cancel(op));
    assert_eq!(rx.recv_timeout(SOON).unwrap().unwrap_err().status(), Status::Cancelled);
    assert!(!other.cancel(op));
    node.session().release(b"k", held).unwrap();
    assert_eq!(node.session().holder(b"k").unwrap(), None);
}

#[test]
fn several_locks_are_taken_together_or_not_at_all() {
    let node = Node::open(&Config::new()).unwrap();
    let other = node.open_session("peer", ms(10_000)).unwrap();
    let held = node.session().try_acquire_token(b"b", &auto(60_000)).unwrap();
    let keys: [&[u8]; 3] = [b"a", b"b", b"c"];
    let refused = other.acquire_all_tokens(&keys, &auto(1_000), Some(Duration::ZERO)).unwrap_err();
    assert_eq!(refused.status(), Status::Held);
    assert_eq!(node.session().holder(b"a").unwrap(), None);
    node.session().release(b"b", held).unwrap();
    let tokens = other.acquire_all_tokens(&keys, &auto(1_000), Some(SOON)).unwrap();
    assert!(tokens.windows(2).all(|w| w[0] < w[1]) && tokens[0] > held);
    assert_eq!(other.release_all().unwrap(), 3);
}

#[test]
fn shared_and_semaphore_locks() {
    let node = Node::open(&Config::new()).unwrap();
    let peers: Vec<_> = (0..3).map(|n| node.open_session(&format!("p{n}"), ms(10_000)).unwrap()).collect();
    let shared = LockOptions { mode: LockMode::Shared, ..auto(10_000) };
    let tokens: Vec<Token> = peers.iter().map(|p| p.try_acquire_token(b"rw", &shared).unwrap()).collect();
    assert_eq!(node.session().try_acquire_token(b"rw", &auto(1_000)).unwrap_err().status(), Status::Held);
    for (p, t) in peers.iter().zip(tokens) {
        p.release(b"rw", t).unwrap();
    }
    node.session().try_acquire_token(b"rw", &auto(1_000)).unwrap();

    let two_of_three = LockOptions { mode: LockMode::Permits { count: 2, limit: 3 }, ..auto(10_000) };
    let one_of_three = LockOptions { mode: LockMode::Permits { count: 1, limit: 3 }, ..auto(10_000) };
    peers[0].try_acquire_token(b"sem", &two_of_three).unwrap();
    assert_eq!(peers[1].try_acquire_token(b"sem", &two_of_three).unwrap_err().status(), Status::Held);
    peers[1].try_acquire_token(b"sem", &one_of_three).unwrap();
    assert_eq!(peers[2].try_acquire_token(b"sem", &one_of_three).unwrap_err().status(), Status::Held);
}

#[test]
fn lock_delay_follows_a_loss_and_never_a_release() {
    let v = Virtual::new();
    let s = v.node.session();
    let peer = v.node.open_session("peer", ms(60_000)).unwrap();
    let delayed = LockOptions { lock_delay: ms(500), ..manual(200) };
    let token = s.try_acquire_token(b"k", &delayed).unwrap();
    s.release(b"k", token).unwrap();
    let token = s.try_acquire_token(b"k", &delayed).unwrap();
    v.pass(230);
    assert!(!s.is_held(b"k", token));
    assert_eq!(peer.try_acquire_token(b"k", &manual(200)).unwrap_err().status(), Status::LockDelay);
    v.pass(520);
    peer.try_acquire_token(b"k", &manual(200)).unwrap();
}

#[test]
fn an_operator_takes_a_lock_away_and_the_holder_is_told() {
    let v = Virtual::new();
    let s = v.node.session();
    let token = s.try_acquire_token(b"k", &auto(5_000)).unwrap();
    assert!(v.node.open_session("op", ms(60_000)).unwrap().force_release(b"k", Duration::ZERO).unwrap());
    assert!(!s.is_held(b"k", token));
    let told = v.told();
    assert!(matches!(&told[..], [Event::Lost { token: t, reason: LossReason::Forced, .. }] if *t == token), "{told:?}");
}

#[test]
fn bad_arguments_are_named_and_change_nothing() {
    let node = Node::open(&Config::new()).unwrap();
    let s = node.session();
    let long = vec![b'x'; 1_025];
    let cases: [(&[u8], LockOptions, &str); 8] = [
        (b"", auto(1_000), "key"),
        (&long, auto(1_000), "key"),
        (b"k", auto(0), "ttl"),
        (b"k", auto(99), "ttl"),
        (b"k", auto(u64::MAX), "ttl"),
        (b"k", LockOptions { lock_delay: Duration::MAX, ..auto(1_000) }, "lock_delay"),
        (b"k", LockOptions { metadata: vec![0; 1_025], ..auto(1_000) }, "metadata"),
        (b"k", LockOptions { mode: LockMode::Permits { count: 2, limit: 1 }, ..auto(1_000) }, "permits"),
    ];
    for (key, options, named) in cases {
        for result in [
            s.try_acquire_token(key, &options),
            s.acquire_token(key, &options, Some(ms(10))),
            s.submit_acquire(key, &options, None, Box::new(|_| panic!("accepted"))).map(|_| Token(0)),
        ] {
            let e = result.unwrap_err();
            assert_eq!(e.status(), Status::InvalidArgument);
            assert!(e.message().starts_with(named), "{e}");
        }
    }
    assert!(node.locks(b"", 10).unwrap().is_empty());
    assert_eq!(node.open_session("a b", ms(1_000)).err().unwrap().status(), Status::InvalidArgument);
    assert_eq!(node.open_session("ab", ms(1)).err().unwrap().status(), Status::InvalidArgument);
}

#[test]
fn a_grant_out_of_scope_is_given_back() {
    let node = Node::open(&Config::new()).unwrap();
    let grant = node.session().acquire(b"k", &auto(60_000), None).unwrap();
    assert!(node.session().try_acquire(b"k", &auto(1_000)).unwrap().is_none());
    std::thread::scope(|s| s.spawn(move || drop(grant)).join().unwrap());
    node.session().try_acquire(b"k", &auto(1_000)).unwrap().unwrap().release().unwrap();
}

// F52.
#[test]
fn blocking_inside_a_callback_is_refused() {
    let node = Node::open(&Config::new()).unwrap();
    let held = node.session().try_acquire_token(b"k", &auto(60_000)).unwrap();
    let (tx, rx) = mpsc::channel();
    let inner = node.clone();
    let done = Box::new(move |_| {
        let blocked = inner.session().acquire_token(b"k", &auto(1_000), None).unwrap_err().status();
        let closed = inner.close(SOON).unwrap_err().status();
        let tried = inner.session().try_acquire_token(b"k", &auto(1_000)).unwrap_err().status();
        tx.send((blocked, closed, tried)).unwrap();
    });
    node.session().submit_acquire(b"other", &auto(1_000), None, done).unwrap();
    assert_eq!(rx.recv_timeout(SOON).unwrap(), (Status::WouldDeadlock, Status::WouldDeadlock, Status::Held));
    node.session().release(b"k", held).unwrap();
}

#[test]
fn a_closed_node_frees_its_locks_and_refuses() {
    let v = Virtual::new();
    let s = v.node.session();
    let token = s.try_acquire_token(b"k", &auto(5_000)).unwrap();
    let (tx, rx) = mpsc::channel();
    let peer = v.node.open_session("peer", ms(60_000)).unwrap();
    peer.submit_acquire(b"k", &auto(5_000), None, Box::new(move |r| tx.send(r).unwrap())).unwrap();
    v.node.close(SOON).unwrap();
    v.node.close(SOON).unwrap();
    assert!(rx.recv_timeout(SOON).unwrap().is_err(), "a wait ends with its node");
    assert_eq!(s.release(b"k", token).unwrap_err().status(), Status::Closed);
    assert_eq!(v.node.status().state, "closed");
}

#[test]
fn a_poisoned_node_says_so_and_tells_once() {
    let v = Virtual::new();
    let s = v.node.session();
    let token = s.try_acquire_token(b"k", &auto(5_000)).unwrap();
    v.node.poison("the test says so");
    v.node.poison("again");
    assert!(!s.is_held(b"k", token));
    let e = s.release(b"k", token).unwrap_err();
    assert_eq!(e.status(), Status::Poisoned);
    assert!(e.message().contains("the test says so"));
    assert_eq!((v.node.status().state, v.node.status().poisoned.as_str()), ("poisoned", "the test says so"));
    let told = v.told();
    assert_eq!(told.iter().filter(|e| matches!(e, Event::Poisoned { .. })).count(), 1, "{told:?}");
    v.node.close(SOON).unwrap();
}

#[test]
fn a_forked_child_owns_nothing() {
    let node = Node::open(&Config::new()).unwrap();
    let grant = node.session().try_acquire_token(b"k", &auto(60_000)).unwrap();
    // SAFETY: the child calls into the library, compares, and leaves without running handlers.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // A panic that left this function would end the child like a test that has passed.
        let sound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let forked = node.session().release(b"k", grant).is_err_and(|e| e.status() == Status::Forked)
                && node.status().state == "forked"
                && node.close(SOON).is_err_and(|e| e.status() == Status::Forked);
            let fresh = Node::open(&Config::new()).and_then(|n| n.session().try_acquire_token(b"k", &auto(1_000)));
            drop(node);
            forked && fresh.is_ok()
        }));
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(!sound.unwrap_or(false))) };
    }
    let mut code = -1;
    // SAFETY: waits for the child made above.
    unsafe { libc::waitpid(child, &mut code, 0) };
    assert_eq!(code, 0);
    node.session().release(b"k", grant).unwrap();
}
