//! What a lease cannot allow for: suspends, set clocks, slow clocks, restored machines, hosts that are stuck; and the hard fences.
#![allow(clippy::unwrap_used, clippy::panic)]

mod node_support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use node_support::Virtual;
use tenure::base::{Clock, Config, SeededRng, Status, VirtualClock};
use tenure::gate::{GateEvent, Heartbeat, Phase, Reason, Verdict};
use tenure::node::{Env, Event, Gate, LockOptions, LossReason, Node};

const MS: u64 = 1_000_000;
const TTL: Duration = Duration::from_secs(3);

fn config(settings: &[(&str, &str)]) -> Config {
    let mut config = Config::new();
    for (name, value) in settings {
        config.set(name, value).unwrap();
    }
    config
}

fn beat(gate: &Gate, epoch: u64, ttl_ms: u64) -> bool {
    let nonce = Some(gate.next_nonce().unwrap());
    gate.heartbeat(&Heartbeat { epoch, ttl_ns: ttl_ms * MS, nonce }).unwrap().grant.accepted
}

fn gate_events(v: &Virtual) -> Vec<GateEvent> {
    let of_the_gate = |e| if let Event::Gate { event, .. } = e { Some(event) } else { None };
    v.told().into_iter().filter_map(of_the_gate).collect()
}

/// A folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("tenure-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_suspend_closes_the_gate_until_the_lease_is_confirmed() {
    let v = Virtual::new();
    let gate = v.node.gate("master", &Config::new()).unwrap();
    gate.hold(b"office", TTL).unwrap();
    v.pass(50);
    let permit = gate.enter().unwrap();
    // Far less than the lease has left, and yet.
    v.clock.suspend(300 * MS);
    v.node.step();
    v.node.step();
    let reasons: Vec<_> = gate_events(&v).into_iter().filter(|e| matches!(e, GateEvent::Lost { .. } | GateEvent::Overrun { .. })).collect();
    assert_eq!(reasons, [GateEvent::Lost { epoch: 1, reason: Reason::Suspended }, GateEvent::Overrun { epoch: 1, in_flight: 1 }]);
    assert_eq!((v.node.status().clock.suspends, gate.status().distrusts), (1, 1));
    // The ledger has confirmed the office: the same epoch goes on.
    assert_eq!((gate.check().unwrap(), permit.finish()), (1, Verdict::Held));
    // One that is fed by heartbeats waits for the next; a nonce from before is void.
    let fed = v.node.gate("fed", &Config::new()).unwrap();
    let old = Some(fed.next_nonce().unwrap());
    assert!(beat(&fed, 4, 60_000));
    v.clock.suspend(300 * MS);
    v.node.step();
    assert!(fed.enter().unwrap_err().message().ends_with("suspended"));
    assert!(!fed.heartbeat(&Heartbeat { epoch: 4, ttl_ns: 60_000 * MS, nonce: old }).unwrap().grant.accepted);
    assert!(beat(&fed, 4, 60_000) && fed.enter().is_ok());
}

// F06.
#[test]
fn a_wall_clock_that_is_set_closes_nothing_and_hurries_a_renewal() {
    let v = Virtual::new();
    let gate = v.node.gate("master", &Config::new()).unwrap();
    gate.hold(b"office", TTL).unwrap();
    v.pass(50);
    let renewals = gate.status().renewals;
    v.clock.set_realtime(u64::MAX / 3);
    v.pass(20);
    assert_eq!((v.node.status().clock.wall_jumps, gate.status().phase), (1, Phase::Open));
    assert_eq!((gate.status().renewals, gate.status().distrusts), (renewals + 1, 0));
    v.clock.set_realtime(0);
    v.pass(20);
    assert_eq!((v.node.status().clock.wall_jumps, gate.check().unwrap()), (2, 1));
}

/// A machine whose own clocks run slow against the one that the ledger is stamped with.
#[derive(Clone, Debug)]
struct Slow {
    clock: VirtualClock,
    /// Added to what the ledger sees, ns.
    ahead: Arc<AtomicU64>,
}

impl Clock for Slow {
    fn boottime_ns(&self) -> u64 {
        self.clock.boottime_ns()
    }
    fn raw_ns(&self) -> u64 {
        self.clock.raw_ns()
    }
    fn monotonic_ns(&self) -> u64 {
        self.clock.monotonic_ns() + self.ahead.load(SeqCst)
    }
    fn realtime_ns(&self) -> u64 {
        self.clock.realtime_ns()
    }
}

// F07.
#[test]
fn a_clock_that_is_slow_against_the_ledgers_closes_the_gate_until_it_agrees_again() {
    let slow = Slow { clock: VirtualClock::new(1_000_000 * MS), ahead: Arc::default() };
    let env = Env { clock: Arc::new(slow.clone()), rng: Box::new(SeededRng::new(3)), manual: true };
    let node = Node::open_with(&config(&[("delivery", "fd")]), env).unwrap();
    let gate = node.gate("master", &Config::new()).unwrap();
    gate.hold(b"office", TTL).unwrap();
    let pass = |ms: u64, per_cent: u64| {
        for _ in 0..ms / 10 {
            slow.clock.advance(10 * MS);
            slow.ahead.fetch_add(10 * MS * per_cent / 100, SeqCst);
            node.step();
        }
    };
    pass(10_000, 0);
    assert_eq!((gate.check().unwrap(), node.status().clock.anomalies), (1, 0));
    // Within the margin of both clocks.
    pass(20_000, 1);
    assert_eq!((gate.check().unwrap(), node.status().clock.anomalies), (1, 0));
    // Beyond it, but not so far that the lock is lost meanwhile.
    pass(6_000, 10);
    assert!(node.status().clock.anomalies > 0);
    assert_eq!(gate.status().reason, Some(Reason::Clock));
    assert!(gate.enter().unwrap_err().message().ends_with("clock"));
    // For as long as it is slow the office is left to others.
    assert!(node.session().holder(b"office").unwrap().is_none());
    pass(10_000, 10);
    assert!(gate.check().is_err());
    // It agrees again: the office is acquired anew, under another epoch.
    pass(20_000, 0);
    assert!(gate.check().unwrap() > 1);
}

#[test]
fn a_restored_machine_needs_a_higher_epoch() {
    let dir = folder("restored");
    let (boot, vm) = (dir.join("boot_id"), dir.join("vmgenid"));
    std::fs::write(&boot, "boot-1").unwrap();
    std::fs::write(&vm, [1; 16]).unwrap();
    let settings = [("delivery", "fd"), ("boot_id_path", text(&boot)), ("vmgenid_path", text(&vm)), ("session_ttl_ms", "2000")];
    let clock = VirtualClock::new(1_000_000 * MS);
    let env = Env { clock: Arc::new(clock.clone()), rng: Box::new(SeededRng::new(3)), manual: true };
    let node = Node::open_with(&config(&settings), env).unwrap();
    let pass = |ms: u64| {
        for _ in 0..ms / 10 {
            clock.advance(10 * MS);
            node.step();
        }
    };
    let lost = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = lost.clone();
    node.subscribe(Box::new(move |e| {
        if let Event::Lost { reason, .. } = e {
            seen.lock().unwrap().push(*reason);
        }
    }))
    .unwrap();
    let fed = node.gate("fed", &Config::new()).unwrap();
    let held = node.gate("held", &Config::new()).unwrap();
    held.hold(b"office", Duration::from_secs(2)).unwrap();
    assert!(beat(&fed, 5, 60_000));
    pass(50);
    let before = held.check().unwrap();
    std::fs::write(&vm, [2; 16]).unwrap();
    pass(1_100);
    assert_eq!((fed.status().reason, node.status().clock.restores), (Some(Reason::Restored), 1));
    // Another copy may act under the epoch that this one had.
    assert!(!beat(&fed, 5, 60_000) && fed.check().is_err());
    assert!(beat(&fed, 6, 60_000) && fed.check().is_ok());
    // The session is given up with all that it held; the office comes back when the old one has run out.
    pass(5_000);
    assert!(held.check().unwrap() > before);
    node.dispatch(1_000).unwrap();
    assert_eq!(*lost.lock().unwrap(), [LossReason::Restored]);
    // Moved to another machine while it runs.
    std::fs::write(&boot, "boot-2").unwrap();
    pass(1_100);
    assert_eq!((fed.status().reason, node.status().clock.restores), (Some(Reason::Restored), 2));

    // Found out at the opening: the data directory remembers.
    let data = dir.join("data");
    let mut durable = config(&settings);
    durable.set("data_dir", text(&data)).unwrap();
    let opened = || Node::open(&durable).unwrap();
    let first = opened();
    let gate = first.gate("g", &Config::new()).unwrap();
    assert!(beat(&gate, 9, 60_000));
    first.close(Duration::from_secs(60)).unwrap();
    for (generation, restored) in [(2u8, false), (3, true), (3, false)] {
        std::fs::write(&vm, [generation; 16]).unwrap();
        let node = opened();
        let gate = node.gate("g", &Config::new()).unwrap();
        let want = if restored { Reason::Restored } else { Reason::NeverGranted };
        assert_eq!(gate.status().reason, Some(want), "generation {generation}");
        assert_eq!(beat(&gate, 9, 60_000), !restored);
        node.close(Duration::from_secs(60)).unwrap();
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

// F62.
#[test]
fn a_host_that_is_stuck_renews_nothing() {
    let v = Virtual::new();
    let gate = v.node.gate("master", &config(&[("gate.beat_timeout_ms", "1000")])).unwrap();
    gate.hold(b"office", TTL).unwrap();
    for _ in 0..40 {
        v.pass(500);
        v.node.beat();
    }
    let before = gate.check().unwrap();
    // The host hangs; the library's thread does not.
    v.pass(1_300);
    assert!(gate.enter().unwrap_err().message().ends_with("host_silent"));
    // The lock runs out although the process lives: a successor is served.
    let other = v.node.open_session("other", Duration::from_secs(60)).unwrap();
    assert_eq!(other.try_acquire_token(b"office", &LockOptions::default()).unwrap_err().status(), Status::Held);
    v.pass(10_500);
    let token = other.try_acquire_token(b"office", &LockOptions::default()).unwrap();
    other.release(b"office", token).unwrap();
    // A heartbeat opens nothing either.
    let fed = v.node.gate("fed", &config(&[("gate.beat_timeout_ms", "1000")])).unwrap();
    assert!(beat(&fed, 1, 60_000));
    v.pass(1_300);
    assert!(!beat(&fed, 1, 60_000) && fed.check().is_err());
    // It is heard of again.
    gate.beat();
    fed.beat();
    v.pass(500);
    assert!(gate.check().unwrap() > before);
    assert!(beat(&fed, 1, 60_000));
}

#[test]
fn the_steps_down_are_told_in_order() {
    let v = Virtual::new();
    let gate = v.node.gate("master", &Config::new()).unwrap();
    assert!(beat(&gate, 5, 1_000));
    let permit = gate.enter().unwrap();
    v.pass(1_500);
    let kinds = |events: &[GateEvent]| -> Vec<&'static str> {
        let kind = |e: &GateEvent| match e {
            GateEvent::Granted { .. } => "granted",
            GateEvent::AtRisk { .. } => "at_risk",
            GateEvent::Lost { .. } => "lost",
            GateEvent::SteppingDown { .. } => "stepping_down",
            GateEvent::Drained { .. } => "drained",
            GateEvent::Overrun { .. } => "overrun",
            GateEvent::ClockFallback => "clock_fallback",
            GateEvent::Refused(_) => "refused",
        };
        // When refusals are summed up is another matter.
        events.iter().map(kind).filter(|kind| *kind != "refused").collect()
    };
    // A write is in flight: nothing is drained yet.
    assert_eq!(kinds(&gate_events(&v)), ["granted", "at_risk", "lost", "overrun"]);
    assert_eq!(permit.finish(), Verdict::Uncertain);
    v.pass(50);
    assert_eq!(kinds(&gate_events(&v)), ["drained"]);
    assert!(beat(&gate, 6, 1_000));
    gate.drain(Duration::from_secs(60)).unwrap();
    v.pass(50);
    assert_eq!(kinds(&gate_events(&v)), ["granted", "stepping_down", "drained"]);
}

#[test]
fn the_watchdog_is_fed_while_the_gate_is_open_and_disarmed_in_good_order() {
    let dir = folder("watchdog");
    let device = dir.join("watchdog");
    std::fs::write(&device, "").unwrap();
    let v = Virtual::new();
    let gate = v.node.gate("master", &config(&[("gate.watchdog", text(&device))])).unwrap();
    let fed = || std::fs::read(&device).unwrap();
    v.pass(500);
    assert_eq!(fed(), b"", "opening the device arms it: not before there is an office");
    assert!(beat(&gate, 1, 1_000));
    v.pass(500);
    let some = fed();
    assert!(some.len() > 10 && some.iter().all(|b| *b == 0));
    // The lease ends under a write: whatever is left of the process is to be reset.
    let permit = gate.enter().unwrap();
    v.pass(700);
    let last = fed();
    v.pass(2_000);
    assert_eq!(fed(), last);
    assert_eq!(last.last(), Some(&0));
    // The write has ended: nothing is left to be fenced.
    drop(permit);
    v.pass(50);
    assert_eq!(fed().last(), Some(&b'V'));
    // Armed again by the next office, disarmed by the close.
    std::fs::write(&device, "").unwrap();
    assert!(beat(&gate, 2, 1_000));
    v.pass(100);
    assert_eq!(fed().last(), Some(&0));
    gate.close().unwrap();
    assert_eq!(fed().last(), Some(&b'V'));
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn many_gates_live_on_one_renewal_stream() {
    let v = Virtual::new();
    let gates: Vec<Gate> = (0..40).map(|n| v.node.gate(&format!("shard-{n}"), &Config::new()).unwrap()).collect();
    for (n, gate) in gates.iter().enumerate() {
        gate.hold(format!("office-{n}").as_bytes(), TTL).unwrap();
    }
    v.pass(100);
    let before: Vec<u64> = gates.iter().map(|g| g.status().renewals).collect();
    v.pass(10_000);
    for (gate, before) in gates.iter().zip(before) {
        // A third of the ttl is the session's period: one renewal in it serves them all.
        let renewals = gate.status().renewals - before;
        assert!((9..=11).contains(&renewals), "{}: {renewals}", gate.name());
        assert!(gate.check().is_ok());
    }
}
