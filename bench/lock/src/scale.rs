//! A million locks: how fast they come back from a snapshot, and how fast they go when all of them end at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tenure::base::{Clock, Key, SessionId, VirtualClock};
use tenure::engine::MemoryEngine;
use tenure::ledger::{Entry, Ledger, LogId, Op, Outcome, Params, Renew, Request, Restore, Spec, Stamp};

use crate::report;
use crate::tables::Deaf;

const LOCKS: u64 = 1_000_000;
const SESSIONS: u64 = 1_000;

fn name(n: u64) -> Key {
    Key::new(format!("lock-{n:015}").as_bytes()).expect("20 bytes")
}

fn open(nonce: u64, ttl_ms: u32) -> Request {
    Request { session: SessionId(0), seq: 0, op: Op::OpenSession { nonce: u128::from(nonce), name: format!("s{nonce}"), ttl_ms } }
}

fn session(outcome: Outcome) -> SessionId {
    match outcome {
        Outcome::Session { id, .. } => id,
        other => panic!("{other:?}"),
    }
}

fn acquire(session: SessionId, n: u64, spec: &Spec) -> Request {
    Request { session, seq: 0, op: Op::Acquire { key: name(n), spec: spec.clone(), wait_ms: None, req: n } }
}

/// Snapshot and restore of a ledger with a million locks of a thousand sessions.
pub fn restore() {
    let mut ledger = Ledger::new(Params::default());
    let (mut outcomes, mut events, mut index) = (Vec::new(), Vec::new(), 0);
    let mut apply = |ledger: &mut Ledger, ops: Vec<Request>| {
        index += 1;
        outcomes.clear();
        ledger.apply(LogId { term: 1, index }, &Entry { stamp: Stamp::default(), ops }, &mut outcomes, &mut events);
        outcomes.clone()
    };
    let sessions: Vec<SessionId> = apply(&mut ledger, (0..SESSIONS).map(|n| open(n, 60_000)).collect()).into_iter().map(session).collect();
    let spec = Spec { ttl_ms: 60_000, ..Spec::default() };
    for from in (0..LOCKS).step_by(1_000) {
        apply(&mut ledger, (from..from + 1_000).map(|n| acquire(sessions[(n % SESSIONS) as usize], n, &spec)).collect());
    }
    let mut bytes = Vec::new();
    let start = Instant::now();
    let written = ledger.snapshot(&mut |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    });
    let write = start.elapsed();
    assert!(written.is_ok());
    let start = Instant::now();
    let mut restore = Restore::new();
    let taken = bytes.chunks(1 << 20).try_for_each(|piece| restore.push(piece));
    let copy = taken.and_then(|()| restore.finish()).expect("a whole snapshot");
    let read = start.elapsed();
    assert_eq!(copy.counts().locks, LOCKS);
    report("snapshot of 1 M locks written to memory", "ms", ms(write), "the target of 2 s for a restart", 2_000.0, 1);
    report("1 M locks restored from a snapshot", "ms", ms(read), "the target of 2 s for a restart", 2_000.0, 1);
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

/// A million locks that end in the same millisecond, once with leases of their own and once with their sessions, in slices
/// between which others go on.
pub fn expire() {
    for (what, renew) in [("each with a lease of its own", Renew::Manual), ("of 1 000 sessions", Renew::Session)] {
        let clock = VirtualClock::new(0);
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let engine = MemoryEngine::new(Params::default(), 0, shared, Arc::new(Deaf));
        let ttl_ms = if renew == Renew::Manual { 3_600_000 } else { 10_000 };
        let id = |request| engine.execute(&request).map(session).expect("opened");
        let sessions: Vec<SessionId> = (0..SESSIONS).map(|n| id(open(n, ttl_ms))).collect();
        let alive = id(open(SESSIONS, 86_400_000));
        let spec = Spec { ttl_ms: 10_000, renew, ..Spec::default() };
        for n in 0..LOCKS {
            assert!(engine.execute(&acquire(sessions[(n % SESSIONS) as usize], n, &spec)).is_ok());
        }
        clock.advance(10_001_000_000);
        let start = Instant::now();
        let mut slices = 0;
        while engine.next_tick() == Some(Duration::ZERO) {
            engine.tick().expect("open");
            slices += 1;
            // Between slices whoever waits for a shard goes on; a renewal does not wait at all.
            let renewed = engine.execute(&Request { session: alive, seq: 0, op: Op::RenewSession });
            assert!(matches!(renewed, Ok(Outcome::Renewed { .. })));
        }
        let took = start.elapsed();
        assert_eq!(engine.counts().expect("open").locks, 0);
        report(&format!("1 M locks ended at once, {what}"), "ms", ms(took), "the target of 5 s", 5_000.0, 1);
        let slice = ms(took) / f64::from(slices);
        report(&format!("mean slice of that, {what}"), "ms", slice, "the target of 50 ms for a renewal", 50.0, slices as usize);
    }
}
