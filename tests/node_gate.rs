//! Gates through the public Rust API: heartbeats and offices, on virtual and on real time.
#![allow(clippy::unwrap_used, clippy::panic)]

mod node_support;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use node_support::Virtual;
use tenure::base::{Config, Status};
use tenure::gate::{GateEvent, Heartbeat, Mode, Phase, Reason, Verdict, WriteClass};
use tenure::node::{Event, Gate, LockOptions, Node};

const MS: u64 = 1_000_000;
const SOON: Duration = Duration::from_secs(20);

/// Opens the gate `master` with these settings of its own.
fn open(v: &Virtual, settings: &[(&str, &str)]) -> Gate {
    let mut over = Config::new();
    for (name, value) in settings {
        over.set(name, value).unwrap();
    }
    v.node.gate("master", &over).unwrap()
}

fn told(v: &Virtual) -> Vec<GateEvent> {
    let of_the_gate = |e| match e {
        Event::Gate { event, .. } => Some(event),
        _ => None,
    };
    v.told().into_iter().filter_map(of_the_gate).collect()
}

fn beat(gate: &Gate, epoch: u64, ttl_ms: u64) -> bool {
    let nonce = Some(gate.next_nonce().unwrap());
    gate.heartbeat(&Heartbeat { epoch, ttl_ns: ttl_ms * MS, nonce }).unwrap().grant.accepted
}

#[test]
fn closed_until_granted_and_closed_again_at_the_end() {
    let v = Virtual::new();
    let gate = open(&v, &[]);
    let refused = gate.enter().unwrap_err();
    assert_eq!(refused.status(), Status::Denied);
    assert!(refused.message().ends_with("never_granted"), "{refused}");
    assert!(beat(&gate, 5, 1_000));
    let permit = gate.enter().unwrap();
    assert_eq!(permit.epoch(), 5);
    assert_eq!(permit.finish(), Verdict::Held);
    v.pass(1_100);
    assert!(gate.enter().unwrap_err().message().ends_with("expired"));
    let told = told(&v);
    assert!(
        matches!(
            told[..],
            [
                GateEvent::Granted { epoch: 5, .. },
                GateEvent::AtRisk { epoch: 5, .. },
                GateEvent::Lost { epoch: 5, reason: Reason::Expired },
                ..
            ]
        ),
        "{told:?}"
    );
}

// I-02.
#[test]
fn a_write_that_ran_over_its_lease_is_uncertain() {
    let v = Virtual::new();
    let gate = open(&v, &[]);
    beat(&gate, 1, 1_000);
    let permit = gate.enter().unwrap();
    v.clock.advance(2_000 * MS);
    assert_eq!(permit.finish(), Verdict::Uncertain);
    assert_eq!(gate.status().uncertain, 1);
}

#[test]
fn a_heartbeat_that_waited_in_a_socket_renews_nothing() {
    let v = Virtual::new();
    let gate = open(&v, &[]);
    let nonce = Some(gate.next_nonce().unwrap());
    // The process is stopped; the heartbeat waits; its replacement is promoted; the process goes on.
    v.clock.advance(5_000 * MS);
    let late = Heartbeat { epoch: 1, ttl_ns: 1_000 * MS, nonce };
    let reply = gate.heartbeat(&late).unwrap();
    assert!(!reply.grant.accepted);
    assert!(gate.enter().is_err());

    let trusting = {
        gate.close().unwrap();
        open(&v, &[("gate.trust_receipt", "true")])
    };
    let plain = Heartbeat { nonce: None, ..late };
    assert!(trusting.heartbeat(&plain).unwrap().grant.accepted);
    assert!(trusting.enter().is_ok(), "the named weaker mode lets it in");
    assert_eq!(v.node.status().weaker_modes, ["master: gate.trust_receipt=true"]);
}

#[test]
fn epochs_never_go_back() {
    let v = Virtual::new();
    let gate = open(&v, &[]);
    assert!(beat(&gate, 5, 1_000));
    let nonce = Some(gate.next_nonce().unwrap());
    let stale = gate.heartbeat(&Heartbeat { epoch: 4, ttl_ns: 1_000 * MS, nonce }).unwrap_err();
    assert_eq!((stale.status(), stale.token()), (Status::Fenced, 5));
    assert_eq!(stale.message(), "election version mismatch: local=5, received=4");
    assert!(gate.enter().is_ok(), "the lease is untouched");
    assert!(beat(&gate, 5, 1_000));
    let jump = gate.heartbeat(&Heartbeat { epoch: u64::MAX, ttl_ns: 1_000 * MS, nonce: None }).unwrap_err();
    assert_eq!(jump.status(), Status::InvalidArgument);
    assert!(beat(&gate, 6, 1_000));
    gate.reset().unwrap();
    assert!(gate.enter().unwrap_err().message().ends_with("never_granted"));
    // Closing and opening the gate again forgets nothing.
    gate.close().unwrap();
    let again = open(&v, &[]);
    assert_eq!(again.status().epoch_seen, 6);
    assert_eq!(again.check_epoch(5).unwrap_err().token(), 6);
    assert!(again.check_epoch(6).is_ok());
}

#[test]
fn a_higher_epoch_of_another_node_closes_at_once() {
    let v = Virtual::new();
    let gate = open(&v, &[]);
    beat(&gate, 5, 60_000);
    let permit = gate.enter().unwrap();
    gate.observe(6, "n2").unwrap();
    assert_eq!(permit.finish(), Verdict::Uncertain);
    assert!(gate.enter().unwrap_err().message().ends_with("superseded"));
    assert_eq!(gate.status().holder_hint.as_deref(), Some("n2"));
    assert!(told(&v).contains(&GateEvent::Lost { epoch: 5, reason: Reason::Superseded }));
    let theirs = gate.heartbeat(&Heartbeat { epoch: 6, ttl_ns: 1_000 * MS, nonce: None }).unwrap_err();
    assert_eq!(theirs.status(), Status::Fenced);
}

#[test]
fn the_weaker_modes_pass_and_say_so() {
    let v = Virtual::new();
    let gate = open(&v, &[]);
    gate.set_mode(Mode::LogOnly).unwrap();
    assert_eq!(gate.enter().unwrap().finish(), Verdict::Held);
    assert_eq!(gate.status().passed, 1);
    gate.set_mode(Mode::Disabled).unwrap();
    assert_eq!(gate.enter().unwrap().finish(), Verdict::Held);
    assert_eq!(v.node.status().weaker_modes, ["master: gate.mode=disabled"]);
    gate.set_mode(Mode::Block).unwrap();
    assert!(gate.enter().is_err());
    assert!(v.node.status().weaker_modes.is_empty());
}

#[test]
fn write_classes_have_their_rules() {
    let v = Virtual::new();
    let gate = open(&v, &[]);
    assert_eq!(gate.enter_class(WriteClass::Replication).unwrap().finish(), Verdict::Held);
    assert_eq!(gate.enter_class(WriteClass::Bootstrap).unwrap().finish(), Verdict::Held);
    assert!(gate.enter_class(WriteClass::Deferrable).is_err());
    beat(&gate, 1, 1_000);
    assert!(gate.enter_class(WriteClass::Replication).is_err(), "a node in office has no master");
    assert_eq!(gate.enter_class(WriteClass::Deferrable).unwrap().finish(), Verdict::Held);
}

#[test]
fn an_office_opens_its_gate_and_lives_with_the_session() {
    let v = Virtual::new();
    let gate = open(&v, &[]);
    let peer = v.node.open_session("peer", Duration::from_secs(60)).unwrap();
    let theirs = peer.try_acquire_token(b"office", &LockOptions::default()).unwrap();
    gate.hold(b"office", Duration::from_secs(1)).unwrap();
    assert_eq!(gate.hold(b"office", Duration::from_secs(1)).unwrap_err().status(), Status::Misuse);
    v.pass(100);
    assert!(gate.enter().is_err(), "somebody else is in office");
    peer.release(b"office", theirs).unwrap();
    v.pass(10);
    let epoch = gate.enter().unwrap().epoch();
    assert!(epoch > theirs.0);
    v.pass(5_000);
    let permit = gate.enter().unwrap();
    assert_eq!((permit.epoch(), permit.finish()), (epoch, Verdict::Held));
    // Stopped for longer than the lease: closed the moment it goes on, then elected anew under a higher epoch.
    v.clock.advance(30_000 * MS);
    assert!(gate.enter().is_err());
    v.pass(1_000);
    assert!(gate.enter().unwrap().epoch() > epoch);
}

// I-21.
#[test]
fn resigning_drains_and_lets_the_successor_in_at_once() {
    let v = Virtual::new();
    let gate = open(&v, &[]);
    gate.hold(b"office", Duration::from_secs(10)).unwrap();
    v.pass(20);
    let peer = v.node.open_session("peer", Duration::from_secs(60)).unwrap();
    let (tx, rx) = mpsc::channel();
    peer.submit_acquire(b"office", &LockOptions::default(), None, Box::new(move |r| tx.send(r).unwrap())).unwrap();
    let permit = gate.enter().unwrap();
    assert_eq!(gate.resign(Duration::from_millis(5)).unwrap_err().status(), Status::Timeout);
    assert!(gate.enter().unwrap_err().message().ends_with("draining"));
    v.node.dispatch(9).unwrap();
    assert!(rx.try_recv().is_err(), "not released while a write is in flight");
    assert_eq!(permit.finish(), Verdict::Held, "what was in flight is acknowledged");
    gate.resign(SOON).unwrap();
    v.node.dispatch(9).unwrap();
    assert!(rx.try_recv().unwrap().is_ok());
    assert_eq!(gate.status().phase, Phase::Closed);
    assert_eq!(gate.resign(SOON).unwrap_err().status(), Status::Misuse);
}

#[test]
fn an_office_is_handed_to_the_node_that_was_named() {
    let v = Virtual::new();
    let gate = open(&v, &[]);
    assert_eq!(gate.resign_to("b", SOON).unwrap_err().status(), Status::Misuse);
    gate.hold(b"office", Duration::from_secs(10)).unwrap();
    v.pass(20);
    let refused = gate.resign_to("c", SOON).unwrap_err();
    assert_eq!((refused.status(), gate.status().phase), (Status::Unavailable, Phase::Open), "nothing was drained");
    let (tx, rx) = mpsc::channel();
    let peers = ["a", "b", "c"].map(|name| v.node.open_session(name, Duration::from_secs(60)).unwrap());
    for (name, peer) in ["a", "b", "c"].into_iter().zip(&peers) {
        let tx = tx.clone();
        peer.submit_acquire(b"office", &LockOptions::default(), None, Box::new(move |r| tx.send((name, r)).unwrap())).unwrap();
    }
    let permit = gate.enter().unwrap();
    assert_eq!(gate.resign_to("c", Duration::from_millis(5)).unwrap_err().status(), Status::Timeout);
    assert_eq!(permit.finish(), Verdict::Held);
    let told = || {
        v.node.dispatch(9).unwrap();
        rx.try_recv().map(|(name, token)| (name, token.unwrap()))
    };
    assert!(told().is_err());
    gate.resign_to("c", SOON).unwrap();
    let (name, token) = told().unwrap();
    assert_eq!(name, "c", "past those who came before it");
    assert!(token.0 > gate.status().epoch);
    assert!(told().is_err());
    assert_eq!(gate.status().phase, Phase::Closed);
    // The others are still in their order, and a name may be that of the next.
    peers[2].release(b"office", token).unwrap();
    let (name, token) = told().unwrap();
    assert_eq!(name, "a");
    assert!(!peers[0].hand_over(b"office", token, "a").unwrap());
    assert!(peers[0].hand_over(b"office", token, "b").unwrap());
    assert_eq!(peers[0].hand_over(b"office", token, "b").unwrap_err().status(), Status::NotHolder);
    assert_eq!(told().unwrap().0, "b");
}

#[test]
fn a_reset_gives_the_office_back_and_no_renewal_reopens_the_gate() {
    let v = Virtual::new();
    let gate = open(&v, &[]);
    gate.hold(b"office", Duration::from_secs(1)).unwrap();
    v.pass(20);
    let epoch = gate.enter().unwrap().epoch();
    gate.reset().unwrap();
    assert!(gate.enter().is_err());
    let peer = v.node.open_session("peer", Duration::from_secs(60)).unwrap();
    v.pass(20);
    let theirs = peer.try_acquire_token(b"office", &LockOptions::default()).unwrap();
    assert!(theirs.0 > epoch);
    v.pass(5_000);
    assert!(gate.enter().is_err(), "it does not campaign any more");
    peer.release(b"office", theirs).unwrap();
    gate.hold(b"office", Duration::from_secs(1)).unwrap();
    v.pass(1_000);
    assert!(gate.enter().unwrap().epoch() > theirs.0);
}

// I-23.
#[test]
fn a_poisoned_or_closed_node_denies() {
    let v = Virtual::new();
    let gate = open(&v, &[]);
    beat(&gate, 1, 60_000);
    let permit = gate.enter().unwrap();
    v.node.poison("the test says so");
    assert_eq!(permit.finish(), Verdict::Uncertain);
    assert_eq!(gate.enter().unwrap_err().status(), Status::Poisoned);
    gate.set_mode(Mode::Disabled).unwrap_err();
    v.node.close(SOON).unwrap();
    assert!(gate.enter().is_err());
}

#[test]
fn a_forked_child_finds_every_gate_closed() {
    let node = Node::open(&Config::new()).unwrap();
    let gate = node.gate("master", &Config::new()).unwrap();
    assert!(beat(&gate, 1, 60_000));
    gate.enter().unwrap().finish();
    // SAFETY: the child asks one gate and leaves without running handlers.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let denied = gate.enter().is_err_and(|e| e.status() == Status::Forked);
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(!denied)) };
    }
    let mut code = -1;
    // SAFETY: waits for the child made above.
    unsafe { libc::waitpid(child, &mut code, 0) };
    assert_eq!(code, 0);
    assert_eq!(gate.enter().unwrap().finish(), Verdict::Held);
}

#[test]
fn real_time_closes_a_gate_and_drains_under_load_are_exact() {
    let node = Node::open(&Config::new()).unwrap();
    let gate = node.gate("master", &Config::new()).unwrap();
    assert!(beat(&gate, 1, 60_000));
    let stop = AtomicBool::new(false);
    let drained = AtomicBool::new(false);
    /// Ends the writers however the scope is left.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }
    std::thread::scope(|s| {
        let _stop = Stop(&stop);
        for _ in 0..3 {
            s.spawn(|| {
                while !stop.load(SeqCst) {
                    if let Ok(permit) = gate.enter() {
                        assert!(!drained.load(SeqCst), "a permit after the drain");
                        std::hint::black_box(0);
                        permit.finish();
                    }
                }
            });
        }
        for epoch in 2..40 {
            gate.drain(SOON).unwrap();
            drained.store(true, SeqCst);
            drained.store(false, SeqCst);
            assert!(beat(&gate, epoch, 60_000));
            let until = Instant::now() + SOON;
            while gate.status().permits < epoch * 10 {
                assert!(Instant::now() < until, "no writes between the drains");
                std::thread::yield_now();
            }
        }
    });
    assert_eq!(gate.status().drains, 38);
    assert!(beat(&gate, 100, 150));
    let until = Instant::now() + SOON;
    while gate.enter().is_ok() {
        assert!(Instant::now() < until, "the lease does not end");
        std::thread::yield_now();
    }
}
