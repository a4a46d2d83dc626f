//! When a lease counts from: the sending of the renewal, never the receipt of its answer (I-03, C5 of the locks).
#![allow(clippy::unwrap_used, clippy::panic)]

mod node_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use tenure::base::{Clock, Config, SeededRng, VirtualClock};
use tenure::node::{Env, LockOptions, Node, Renew};

/// Every look at it takes a second, while it is slow: so the answer to a call comes later than the call.
#[derive(Debug)]
struct Slow {
    clock: VirtualClock,
    slow: AtomicBool,
}

impl Slow {
    fn look(&self, read: u64) -> u64 {
        if self.slow.load(SeqCst) {
            self.clock.advance(1_000_000_000);
        }
        read
    }
}

impl Clock for Slow {
    fn boottime_ns(&self) -> u64 {
        self.look(self.clock.boottime_ns())
    }
    fn raw_ns(&self) -> u64 {
        self.look(self.clock.raw_ns())
    }
    fn monotonic_ns(&self) -> u64 {
        self.look(self.clock.monotonic_ns())
    }
    fn realtime_ns(&self) -> u64 {
        self.look(self.clock.realtime_ns())
    }
}

// I-03, F03.
#[test]
fn a_lease_counts_from_the_sending_of_its_renewal() {
    let clock = Arc::new(Slow { clock: VirtualClock::new(1_000_000_000_000), slow: AtomicBool::new(false) });
    let mut config = Config::new();
    config.set("delivery", "fd").unwrap().set("session_ttl_ms", "60000").unwrap();
    let node = Node::open_with(&config, Env { clock: clock.clone(), rng: Box::new(SeededRng::new(7)), manual: true }).unwrap();
    let session = node.session();
    let token = session.try_acquire_token(b"k", &LockOptions { ttl: Duration::from_secs(60), ..LockOptions::default() }).unwrap();
    // Long enough for a renewal to be due, which the next step sends.
    clock.clock.advance(40_000_000_000);
    let before = clock.clock.boottime_ns();
    clock.slow.store(true, SeqCst);
    node.step();
    clock.slow.store(false, SeqCst);
    let took = Duration::from_nanos(clock.clock.boottime_ns() - before);
    let mine = session.remaining(b"k", token);
    assert!(took > Duration::from_secs(6), "the answer came late: {took:?}");
    assert!(mine > Duration::from_secs(30), "it was renewed: {mine:?} are left");
    // A step may look at the clock a few times before it sends.
    let most = Duration::from_secs(60 + 3) - took;
    assert!(mine <= most, "the holder believes in {mine:?}, and cannot have more than {most:?}");
    assert!(mine < session.holder(b"k").unwrap().unwrap().remaining);
}

// I-03.
#[test]
fn what_the_ledger_says_is_left_is_less_for_each_moment_that_its_answer_took() {
    let clock = Arc::new(Slow { clock: VirtualClock::new(1_000_000_000_000), slow: AtomicBool::new(false) });
    let mut config = Config::new();
    config.set("delivery", "fd").unwrap().set("session_ttl_ms", "60000").unwrap();
    let node = Node::open_with(&config, Env { clock: clock.clone(), rng: Box::new(SeededRng::new(7)), manual: true }).unwrap();
    let options = LockOptions { ttl: Duration::from_secs(60), renew: Renew::Manual, ..LockOptions::default() };
    let token = node.session().try_acquire_token(b"k", &options).unwrap();
    let granted = clock.clock.boottime_ns();
    clock.slow.store(true, SeqCst);
    let left = node.session().remaining(b"k", token);
    clock.slow.store(false, SeqCst);
    let took = Duration::from_nanos(clock.clock.boottime_ns() - granted);
    assert!(took > Duration::from_secs(2), "the answer came late: {took:?}");
    // The margin of the clocks, and the second after the last look, which it cannot know of.
    let most = Duration::from_secs(60) * 99 / 101 + Duration::from_millis(500);
    assert!(left > Duration::from_secs(30) && left + took <= most, "{left:?} are said to be left after {took:?}");
}

// I-03.
#[test]
fn a_lock_taken_again_lives_no_longer_for_it() {
    let v = node_support::Virtual::new();
    let session = v.node.session();
    let options = LockOptions { ttl: Duration::from_secs(2), reentrant: true, ..LockOptions::default() };
    let token = session.try_acquire_token(b"k", &options).unwrap();
    v.freeze(1_500);
    assert_eq!(session.try_acquire_token(b"k", &options).unwrap(), token);
    for _ in 0..20 {
        v.freeze(100);
        let mine = session.remaining(b"k", token);
        let theirs = session.holder(b"k").unwrap().map_or(Duration::ZERO, |h| h.remaining);
        assert!(mine <= theirs, "the holder believes in {mine:?}, the ledger in {theirs:?}");
    }
}
