use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::base::{Clock, Key, Rng, SeededRng, SessionId, Status, SystemClock, Token, VirtualClock};
use crate::ledger::{Event, LossReason, Mode, Op, Outcome, Params, Refusal, Renew, Request, Spec, WaitEnd};

use super::{EventSink, MemoryEngine};

#[derive(Default)]
struct Log(Mutex<Vec<Event>>, AtomicU64);

impl EventSink for Log {
    fn event(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
    fn nearer_deadline(&self) {
        self.1.fetch_add(1, SeqCst);
    }
}

impl Log {
    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

fn engine(shards: usize) -> (Arc<MemoryEngine>, VirtualClock, Arc<Log>) {
    let (clock, log) = (VirtualClock::new(5), Arc::new(Log::default()));
    (Arc::new(MemoryEngine::new(Params::default(), shards, Arc::new(clock.clone()), log.clone())), clock, log)
}

fn key(name: &str) -> Key {
    Key::new(name.as_bytes()).unwrap()
}

fn ask(session: SessionId, op: Op) -> Request {
    Request { session, seq: 0, op }
}

fn open(engine: &MemoryEngine, nonce: u128, ttl_ms: u32) -> SessionId {
    let op = Op::OpenSession { nonce, name: format!("s{nonce}"), ttl_ms };
    match engine.execute(&ask(SessionId(0), op)).unwrap() {
        Outcome::Session { id, .. } => id,
        other => panic!("{other:?}"),
    }
}

fn token(outcome: Outcome) -> Token {
    match outcome {
        Outcome::Granted { token, .. } => token,
        other => panic!("{other:?}"),
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

const MS: u64 = 1_000_000;

#[test]
fn a_waiter_blocks_until_the_release() {
    let (engine, _, _) = engine(64);
    let (a, b) = (open(&engine, 1, 10_000), open(&engine, 2, 10_000));
    let held = token(engine.try_acquire(a, &key("k"), &Spec::default(), 1).unwrap());
    assert!(
        matches!(engine.try_acquire(b, &key("k"), &Spec::default(), 1).unwrap(), Outcome::Held(o) if o.token == held && o.session == a)
    );
    let waiter = {
        let engine = engine.clone();
        thread::spawn(move || {
            let op = Op::Acquire { key: key("k"), spec: Spec::default(), wait_ms: Some(u64::MAX), req: 2 };
            token(engine.execute(&ask(b, op)).unwrap())
        })
    };
    wait_for("the queue", || engine.lock(&key("k")).unwrap().is_some_and(|l| l.waiters.len() == 1));
    assert_eq!(engine.release(a, &key("k"), held).unwrap(), Outcome::Released { left: 0 });
    assert!(waiter.join().unwrap() > held);
    assert_eq!(engine.lock(&key("k")).unwrap().unwrap().holders[0].session, b);
}

#[test]
fn expiry_grants_the_next_and_says_so_in_order() {
    let (engine, clock, log) = engine(8);
    let (a, b) = (open(&engine, 1, 1_000), open(&engine, 2, 60_000));
    let held = token(engine.try_acquire(a, &key("k"), &Spec::default(), 1).unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    let op = Op::Acquire { key: key("k"), spec: Spec::default(), wait_ms: Some(5_000), req: 7 };
    engine.submit(&ask(b, op), Box::new(move |answer| tell.send(answer).unwrap()));
    assert_eq!(engine.next_tick(), Some(Duration::from_millis(1_001)));
    clock.advance(1_000 * MS);
    engine.tick().unwrap();
    assert!(told.try_recv().is_err());
    clock.advance(MS);
    assert!(engine.lock(&key("k")).unwrap().unwrap().holders.is_empty(), "never shown as held once it has run out");
    engine.tick().unwrap();
    assert!(token(told.try_recv().unwrap().unwrap()) > held);
    assert_eq!(
        log.take(),
        [
            Event::Lost { session: a, key: key("k"), token: held, why: LossReason::SessionExpired },
            Event::SessionEnded { session: a, why: LossReason::SessionExpired },
        ]
    );
    assert_eq!(engine.execute(&ask(a, Op::RenewSession)).unwrap(), Outcome::Refused(Refusal::NoSession));
}

#[test]
fn a_nearer_deadline_is_announced_and_a_farther_one_is_not() {
    let (engine, _, log) = engine(8);
    let a = open(&engine, 1, 10_000);
    let announced = log.1.load(SeqCst);
    let short = Spec { ttl_ms: 500, ..Spec::default() };
    token(engine.try_acquire(a, &key("x"), &short, 1).unwrap());
    assert_eq!(log.1.load(SeqCst), announced + 1);
    token(engine.try_acquire(a, &key("y"), &Spec { ttl_ms: 900, ..short }, 2).unwrap());
    token(engine.try_acquire(a, &key("z"), &Spec::default(), 3).unwrap());
    assert_eq!(log.1.load(SeqCst), announced + 1);
    assert_eq!(engine.next_tick(), Some(Duration::from_millis(501)));
}

#[test]
fn close_ends_every_wait() {
    let (engine, _, _) = engine(8);
    let (a, b) = (open(&engine, 1, 10_000), open(&engine, 2, 10_000));
    token(engine.try_acquire(a, &key("k"), &Spec::default(), 1).unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    let op = Op::Acquire { key: key("k"), spec: Spec::default(), wait_ms: Some(u64::MAX), req: 7 };
    engine.submit(&ask(b, op), Box::new(move |answer| tell.send(answer).unwrap()));
    engine.close();
    assert_eq!(told.try_recv().unwrap().unwrap_err().status(), Status::Closed);
    assert_eq!(engine.try_acquire(a, &key("j"), &Spec::default(), 1).unwrap_err().status(), Status::Closed);
}

/// Panics when it is read for the time that is set.
#[derive(Debug, Default)]
struct Trap(AtomicBool);

impl Clock for Trap {
    fn boottime_ns(&self) -> u64 {
        0
    }
    fn raw_ns(&self) -> u64 {
        0
    }
    fn monotonic_ns(&self) -> u64 {
        assert!(!self.0.load(SeqCst), "planted");
        0
    }
    fn realtime_ns(&self) -> u64 {
        0
    }
}

#[test]
fn a_panic_inside_poisons_everything() {
    let trap = Arc::new(Trap::default());
    let engine = Arc::new(MemoryEngine::new(Params::default(), 4, trap.clone(), Arc::new(Log::default())));
    let (a, b) = (open(&engine, 1, 10_000), open(&engine, 2, 10_000));
    let held = token(engine.try_acquire(a, &key("k"), &Spec::default(), 1).unwrap());
    let waiter = {
        let engine = engine.clone();
        let op = Op::Acquire { key: key("k"), spec: Spec::default(), wait_ms: Some(u64::MAX), req: 2 };
        thread::spawn(move || engine.execute(&ask(b, op)))
    };
    wait_for("the queue", || engine.lock(&key("k")).unwrap().is_some_and(|l| l.waiters.len() == 1));
    trap.0.store(true, SeqCst);
    let releaser = engine.clone();
    assert!(thread::spawn(move || releaser.release(a, &key("k"), held)).join().is_err(), "the release needs the time");
    assert_eq!(waiter.join().unwrap().unwrap_err().status(), Status::Poisoned);
    assert_eq!(engine.try_acquire(a, &key("other"), &Spec::default(), 1).unwrap_err().status(), Status::Poisoned);
    assert_eq!(engine.tick().unwrap_err().status(), Status::Poisoned);
}

#[test]
fn a_callback_may_use_the_engine() {
    let (engine, _, _) = engine(8);
    let (a, b) = (open(&engine, 1, 10_000), open(&engine, 2, 10_000));
    let held = token(engine.try_acquire(a, &key("k"), &Spec::default(), 1).unwrap());
    let inner = engine.clone();
    let op = Op::Acquire { key: key("k"), spec: Spec::default(), wait_ms: Some(u64::MAX), req: 7 };
    let done = Box::new(move |answer: crate::base::Result<Outcome>| {
        let got = token(answer.unwrap());
        assert_eq!(inner.release(b, &key("k"), got).unwrap(), Outcome::Released { left: 0 });
    });
    engine.submit(&ask(b, op), done);
    engine.release(a, &key("k"), held).unwrap();
    assert_eq!(engine.lock(&key("k")).unwrap(), None);
}

/// Mutual exclusion, token order and no lost wake-up, with real threads: sessions wait, try, release, cancel and take several keys.
#[test]
fn threads_exclude_each_other_and_all_get_served() {
    const THREADS: u64 = 6;
    const ROUNDS: u64 = 400;
    let log = Arc::new(Log::default());
    let engine = Arc::new(MemoryEngine::new(Params::default(), 16, Arc::new(SystemClock), log));
    let names = ["a", "b", "c"];
    let inside: Arc<Vec<AtomicU64>> = Arc::new(names.iter().map(|_| AtomicU64::new(0)).collect());
    let last: Arc<Vec<AtomicU64>> = Arc::new(names.iter().map(|_| AtomicU64::new(0)).collect());
    let served = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let keeper = {
        let (engine, stop) = (engine.clone(), stop.clone());
        thread::spawn(move || {
            while !stop.load(SeqCst) {
                engine.tick().unwrap();
                thread::yield_now();
            }
        })
    };
    let work = |number: u64| {
        let (engine, inside, last, served) = (engine.clone(), inside.clone(), last.clone(), served.clone());
        thread::spawn(move || {
            let mut rng = SeededRng::new(number);
            let session = open(&engine, u128::from(number) + 1, 60_000);
            let enter = |at: usize, token: u64| {
                assert_eq!(inside[at].fetch_add(1, SeqCst), 0, "two holders of {}", names[at]);
                assert!(last[at].swap(token, SeqCst) < token, "tokens of {} went back", names[at]);
            };
            for round in 0..ROUNDS {
                let at = rng.below(3) as usize;
                let several = rng.below(4) == 0;
                let keys: Vec<Key> = if several { names.iter().map(|n| key(n)).collect() } else { vec![key(names[at])] };
                let wait_ms = [None, Some(0), Some(1), Some(u64::MAX), Some(u64::MAX)][rng.below(5) as usize];
                let op = if several {
                    Op::AcquireAll { keys: keys.clone(), spec: Spec::default(), wait_ms, req: round }
                } else {
                    Op::Acquire { key: keys[0].clone(), spec: Spec::default(), wait_ms, req: round }
                };
                let token = match engine.execute(&ask(session, op)).unwrap() {
                    Outcome::Granted { token, .. } => token,
                    Outcome::Held(_) | Outcome::WaitEnded(WaitEnd::Timeout) => continue,
                    other => panic!("{other:?}"),
                };
                served.fetch_add(1, SeqCst);
                let held: Vec<usize> = if several { vec![0, 1, 2] } else { vec![at] };
                held.iter().enumerate().for_each(|(i, &at)| enter(at, token.0 + i as u64));
                if rng.below(2) == 0 {
                    thread::yield_now();
                }
                for &at in &held {
                    inside[at].fetch_sub(1, SeqCst);
                }
                if rng.below(8) == 0 {
                    let op = Op::Cancel { keys, req: round };
                    assert_eq!(engine.execute(&ask(session, op)).unwrap(), Outcome::Cancelled { was_granted: true });
                } else {
                    for (i, k) in keys.iter().enumerate() {
                        let released = engine.release(session, k, Token(token.0 + i as u64)).unwrap();
                        assert_eq!(released, Outcome::Released { left: 0 });
                    }
                }
                assert!(matches!(engine.execute(&ask(session, Op::RenewSession)).unwrap(), Outcome::Renewed { remaining_ms: 60_000, .. }));
            }
            assert_eq!(engine.execute(&ask(session, Op::CloseSession)).unwrap(), Outcome::Closed);
        })
    };
    let workers: Vec<_> = (0..THREADS).map(work).collect();
    workers.into_iter().for_each(|w| w.join().unwrap());
    stop.store(true, SeqCst);
    keeper.join().unwrap();
    assert!(served.load(SeqCst) > THREADS * ROUNDS / 4);
    assert_eq!((engine.counts().unwrap().locks, engine.counts().unwrap().sessions), (0, 0));
}

/// Sessions that die, leases that run out, delays, waits that time out, forced releases and closings, all at once from many threads:
/// every request is answered once, every key has one exclusive holder at most, and in the end nothing is left.
#[test]
fn threads_and_time_leave_nothing_behind() {
    const THREADS: u64 = 5;
    const ROUNDS: u64 = 6_000;
    let (engine, clock, log) = engine(8);
    let (asked, answered, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let keeper = {
        let (engine, clock, stop) = (engine.clone(), clock.clone(), stop.clone());
        thread::spawn(move || {
            while !stop.load(SeqCst) {
                clock.advance(3 * MS);
                engine.tick().unwrap();
                for lock in engine.locks(b"", None, 100).unwrap() {
                    let exclusive = lock.holders.iter().any(|h| h.mode == Mode::Exclusive);
                    assert!(!exclusive || lock.holders.len() == 1, "{lock:?}");
                }
                thread::yield_now();
            }
        })
    };
    let work = |number: u64| {
        let (engine, asked, answered) = (engine.clone(), asked.clone(), answered.clone());
        thread::spawn(move || {
            let mut rng = SeededRng::new(0x5eed + number);
            let mut nonce = u128::from(number) << 64;
            let mut session = open(&engine, nonce, 200);
            let mut held: Vec<(Key, Token)> = Vec::new();
            for req in 0..ROUNDS {
                let name = |rng: &mut SeededRng| key(&format!("k{}", rng.below(6)));
                let spec = Spec {
                    mode: [Mode::Exclusive, Mode::Shared, Mode::Permits { count: 1, limit: 2 }][rng.below(3) as usize],
                    ttl_ms: [100, 150, 400][rng.below(3) as usize],
                    renew: [Renew::Session, Renew::Manual][rng.below(2) as usize],
                    lock_delay_ms: [0, 0, 7][rng.below(3) as usize],
                    ..Spec::default()
                };
                let wait_ms = [None, Some(5), Some(50), Some(u64::MAX)][rng.below(4) as usize];
                let op = match rng.below(16) {
                    0..=5 => Op::Acquire { key: name(&mut rng), spec, wait_ms, req },
                    6..=8 => Op::AcquireAll { keys: vec![key("k0"), key("k1"), key("k2")], spec, wait_ms, req },
                    9..=10 => Op::RenewSession,
                    11 => Op::Cancel { keys: vec![name(&mut rng), key("k0")], req: req.saturating_sub(rng.below(4)) },
                    12 => Op::ForceRelease { key: name(&mut rng), token: None, delay_ms: None },
                    13 => Op::ReleaseAll,
                    14 if rng.below(8) == 0 => Op::CloseSession,
                    _ => match held.pop() {
                        Some((key, token)) => Op::Release { key, token },
                        None => Op::RenewSession,
                    },
                };
                let (tell, told) = std::sync::mpsc::channel();
                let count = answered.clone();
                asked.fetch_add(1, SeqCst);
                let done = Box::new(move |answer: crate::base::Result<Outcome>| {
                    count.fetch_add(1, SeqCst);
                    let _ = tell.send(answer.unwrap());
                });
                engine.submit(&ask(session, op.clone()), done);
                match (told.try_recv(), op) {
                    (Ok(Outcome::Granted { token, .. }), Op::Acquire { key, .. }) => held.push((key, token)),
                    (Ok(Outcome::Closed | Outcome::Refused(Refusal::NoSession)), _) => {
                        nonce += 1;
                        session = open(&engine, nonce, 200);
                        held.clear();
                    }
                    _ => {}
                }
            }
        })
    };
    let workers: Vec<_> = (0..THREADS).map(work).collect();
    workers.into_iter().for_each(|w| w.join().unwrap());
    wait_for("everything to run out", || engine.counts().unwrap().sessions == 0);
    stop.store(true, SeqCst);
    keeper.join().unwrap();
    let counts = engine.counts().unwrap();
    assert_eq!((counts.locks, counts.sessions), (0, 0));
    assert_eq!(answered.load(SeqCst), asked.load(SeqCst), "every request is answered once");
    assert!(log.take().iter().any(|e| matches!(e, Event::Lost { why: LossReason::Expired, .. })), "nothing ran out: no test of it");
    // A delay may still be running.
    clock.advance(1_000 * MS);
    while engine.next_tick() == Some(Duration::ZERO) {
        engine.tick().unwrap();
    }
    assert_eq!((engine.counts().unwrap().keys, engine.next_tick()), (0, None));
}
