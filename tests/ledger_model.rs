//! The ledger against a naive model, with the same random commands: every answer, every event, every view. The seed of a
//! failing case is printed and kept by proptest.
#![allow(clippy::unwrap_used, clippy::panic)]

mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use model::Model;
use proptest::prelude::*;
use tenure::base::{Key, SessionId, Token, VirtualClock};
use tenure::engine::{EventSink, MemoryEngine};
use tenure::ledger::{
    Change, Entry, Event, Granting, Ledger, LockInfo, LogId, Mode, Op, Outcome, Params, Pattern, PromiseOp, Renew, Request, Restore,
    SessionInfo, Spec, Stamp,
};

/// What to do, before it is known which sessions and tokens there are.
#[derive(Clone, Debug)]
enum Act {
    Open { nonce: u8, ttl: u32 },
    RenewSession { who: u8 },
    CloseSession { who: u8 },
    Acquire { who: u8, key: u8, spec: Spec, wait: Option<u64> },
    AcquireAll { who: u8, keys: Vec<u8>, spec: Spec, wait: Option<u64> },
    Cancel { who: u8, keys: Vec<u8>, back: u8 },
    CancelAhead { who: u8, key: u8, spec: Spec },
    Release { grant: u8, who: Option<u8> },
    ReleaseAll { who: u8 },
    Renew { grant: u8, ttl: u32 },
    Force { key: u8, grant: Option<u8>, delay: Option<u32> },
    Revoke { who: u8, key: u8, grant: Option<u8>, why: usize, force: Option<u32> },
    Annotate { grant: u8, who: Option<u8>, meta: usize },
    HandOver { grant: u8, awaited: bool, who: Option<u8>, to: u8 },
    TakeOver { old: u8, nonce: u8, keep: bool },
    Promise { grant: u8, who: Option<u8>, office: u8, what: u8, epoch: u64 },
    Retry { back: u8 },
    Tick,
}

#[derive(Clone, Debug)]
struct Step {
    passed: u64,
    new_boot: bool,
    new_term: bool,
    stale_term: bool,
    numbered: bool,
    acts: Vec<Act>,
}

fn spec() -> impl Strategy<Value = Spec> {
    let mode = prop_oneof![
        4 => Just(Mode::Exclusive),
        2 => Just(Mode::Shared),
        2 => (0u32..4, 2u32..4).prop_map(|(count, limit)| Mode::Permits { count, limit }),
    ];
    (mode, prop_oneof![Just(50u32), Just(100), Just(300), Just(700), Just(5_000)], any::<bool>(), 0u32..4, 0u8..4, 0usize..10).prop_map(
        |(mode, ttl_ms, manual, delay, reentrant, meta)| Spec {
            mode,
            ttl_ms,
            renew: if manual { Renew::Manual } else { Renew::Session },
            lock_delay_ms: if delay == 0 { 250 } else { 0 },
            reentrant: reentrant == 0,
            metadata: vec![7; meta],
        },
    )
}

fn wait() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![Just(None), Just(Some(0)), Just(Some(150)), Just(Some(1_000)), Just(Some(u64::MAX)), Just(Some(u64::MAX))]
}

fn act() -> impl Strategy<Value = Act> {
    let keys = || proptest::collection::vec(0u8..5, 0..4);
    prop_oneof![
        3 => (0u8..8, prop_oneof![Just(99u32), Just(200), Just(1_000), Just(4_000), Just(60_000)])
            .prop_map(|(nonce, ttl)| Act::Open { nonce, ttl }),
        3 => (0u8..6).prop_map(|who| Act::RenewSession { who }),
        1 => (0u8..6).prop_map(|who| Act::CloseSession { who }),
        12 => (0u8..6, 0u8..5, spec(), wait()).prop_map(|(who, key, spec, wait)| Act::Acquire { who, key, spec, wait }),
        6 => (0u8..6, keys(), spec(), wait()).prop_map(|(who, keys, spec, wait)| Act::AcquireAll { who, keys, spec, wait }),
        3 => (0u8..6, keys(), 0u8..6).prop_map(|(who, keys, back)| Act::Cancel { who, keys, back }),
        1 => (0u8..6, 0u8..5, spec()).prop_map(|(who, key, spec)| Act::CancelAhead { who, key, spec }),
        9 => (0u8..8, proptest::option::weighted(0.2, 0u8..6)).prop_map(|(grant, who)| Act::Release { grant, who }),
        1 => (0u8..6).prop_map(|who| Act::ReleaseAll { who }),
        3 => (0u8..8, prop_oneof![Just(99u32), Just(100), Just(2_000)]).prop_map(|(grant, ttl)| Act::Renew { grant, ttl }),
        2 => (0u8..5, proptest::option::of(0u8..8), proptest::option::of(prop_oneof![Just(0u32), Just(100), Just(u32::MAX)]))
            .prop_map(|(key, grant, delay)| Act::Force { key, grant, delay }),
        3 => (0u8..8, 0u8..5, proptest::option::of(0u8..8), 0usize..40, proptest::option::of(prop_oneof![Just(0u32), 1u32..400, Just(u32::MAX)]))
            .prop_map(|(who, key, grant, why, force)| Act::Revoke { who, key, grant, why: if why == 0 { 300 } else { why }, force }),
        2 => (0u8..8, proptest::option::weighted(0.2, 0u8..6), 0usize..10).prop_map(|(grant, who, meta)| Act::Annotate { grant, who, meta }),
        3 => (0u8..8, proptest::bool::weighted(0.7), proptest::option::weighted(0.1, 0u8..6), 0u8..8)
            .prop_map(|(grant, awaited, who, to)| Act::HandOver { grant, awaited, who, to }),
        2 => (0u8..8, 0u8..8, any::<bool>()).prop_map(|(old, nonce, keep)| Act::TakeOver { old, nonce, keep }),
        2 => (0u8..8, proptest::option::weighted(0.1, 0u8..6), 0u8..2, 0u8..4, 0u64..4)
            .prop_map(|(grant, who, office, what, epoch)| Act::Promise { grant, who, office, what, epoch }),
        3 => (0u8..12).prop_map(|back| Act::Retry { back }),
        1 => Just(Act::Tick),
    ]
}

fn steps(n: usize) -> impl Strategy<Value = Vec<Step>> {
    let passed = prop_oneof![3 => Just(0u64), 2 => Just(1), 4 => 1u64..120, 2 => 100u64..700, 1 => Just(5_000)];
    let step = (passed, 0u8..30, any::<bool>(), proptest::collection::vec(act(), 0..4)).prop_map(|(passed, odd, numbered, acts)| Step {
        passed,
        new_boot: odd == 0,
        new_term: odd == 1,
        stale_term: odd == 2,
        numbered,
        acts,
    });
    proptest::collection::vec(step, 1..n).prop_map(|mut steps| {
        // Without a session nothing else can be done.
        for nonce in 0..3 {
            steps[0].acts.insert(0, Act::Open { nonce, ttl: 60_000 });
        }
        steps
    })
}

fn params(slice: u32) -> Params {
    Params {
        max_step_ms: 2_000,
        slice,
        window: 4,
        max_locks: 14,
        max_sessions: 5,
        max_waiters_per_key: 3,
        max_metadata: 8,
        max_keys: 3,
        ..Params::default()
    }
}

fn key(n: u8) -> Key {
    Key::new(format!("key-{n}{}", "x".repeat(usize::from(n) * 10)).as_bytes()).unwrap()
}

/// Turns acts into requests by what has been answered so far.
#[derive(Default)]
struct Script {
    sessions: Vec<SessionId>,
    grants: Vec<(SessionId, Key, Token)>,
    /// Those of them that are there still.
    alive: Vec<SessionId>,
    held: Vec<(SessionId, Key, Token)>,
    sent: Vec<Request>,
    /// Also those whose wait has ended since, which may be cancelled once more.
    waiting: Vec<(SessionId, u64, Vec<Key>)>,
    /// Who waits under which number at this moment.
    open: BTreeSet<(SessionId, u64)>,
    req: u64,
    seq: u64,
}

fn nth<T: Clone>(list: &[T], n: u8) -> Option<T> {
    // Mostly recent ones.
    list.iter().rev().nth(usize::from(n)).cloned()
}

/// Two of three times one that is there still: of what is gone hardly anything can be asked.
fn mostly<T: Clone>(present: &[T], ever: &[T], n: u8) -> Option<T> {
    if present.is_empty() || n % 3 == 2 { nth(ever, n) } else { present.get(usize::from(n) % present.len()).cloned() }
}

impl Script {
    fn request(&mut self, act: &Act, numbered: bool) -> Vec<Request> {
        let session = |who: u8| mostly(&self.alive, &self.sessions, who).unwrap_or(SessionId(12));
        let grant_of = |n: u8| mostly(&self.held, &self.grants, n);
        let mut more = None;
        let (who, op) = match act {
            Act::Open { nonce, ttl } => {
                let name = if *nonce == 7 { String::new() } else { format!("n{nonce}") };
                (SessionId(0), Op::OpenSession { nonce: u128::from(*nonce), name, ttl_ms: *ttl })
            }
            Act::RenewSession { who } => (session(*who), Op::RenewSession),
            Act::CloseSession { who } => (session(*who), Op::CloseSession),
            Act::Acquire { who, key: k, spec, wait } => {
                self.req += 1;
                (session(*who), Op::Acquire { key: key(*k), spec: spec.clone(), wait_ms: *wait, req: self.req })
            }
            Act::AcquireAll { who, keys, spec, wait } => {
                self.req += 1;
                let keys = keys.iter().map(|k| key(*k)).collect();
                (session(*who), Op::AcquireAll { keys, spec: spec.clone(), wait_ms: *wait, req: self.req })
            }
            Act::Cancel { who, keys, back } => match nth(&self.waiting, *back) {
                Some((who, req, keys)) => (who, Op::Cancel { keys, req }),
                None => (session(*who), Op::Cancel { keys: keys.iter().map(|k| key(*k)).collect(), req: self.req }),
            },
            Act::CancelAhead { who, key: k, spec } => {
                self.req += 1;
                more = Some(Op::Acquire { key: key(*k), spec: spec.clone(), wait_ms: None, req: self.req });
                (session(*who), Op::Cancel { keys: vec![key(*k)], req: self.req })
            }
            Act::Release { grant, who } => match grant_of(*grant) {
                Some((owner, key, token)) => (who.map_or(owner, session), Op::Release { key, token }),
                None => (session(0), Op::Release { key: key(0), token: Token(3) }),
            },
            Act::ReleaseAll { who } => (session(*who), Op::ReleaseAll),
            Act::Renew { grant, ttl } => match grant_of(*grant) {
                Some((owner, key, token)) => (owner, Op::Renew { key, token, ttl_ms: *ttl }),
                None => (session(0), Op::Renew { key: key(0), token: Token(3), ttl_ms: *ttl }),
            },
            Act::Force { key: k, grant, delay } => match grant.and_then(grant_of) {
                Some((_, key, token)) => (SessionId(0), Op::ForceRelease { key, token: Some(token), delay_ms: *delay }),
                None => (SessionId(0), Op::ForceRelease { key: key(*k), token: None, delay_ms: *delay }),
            },
            Act::Revoke { who, key: k, grant, why, force } => {
                let why = "w".repeat(*why);
                let (key, token) = match grant.and_then(grant_of) {
                    Some((_, key, token)) => (key, Some(token)),
                    None => (key(*k), None),
                };
                (session(*who), Op::Revoke { key, token, why, force_after_ms: *force })
            }
            Act::Annotate { grant, who, meta } => {
                let metadata = vec![9; *meta];
                match grant_of(*grant) {
                    Some((owner, key, token)) => (who.map_or(owner, session), Op::Annotate { key, token, metadata }),
                    None => (session(0), Op::Annotate { key: key(0), token: Token(3), metadata }),
                }
            }
            Act::HandOver { grant, awaited, who, to } => match self.awaited(*grant).filter(|_| *awaited).or_else(|| grant_of(*grant)) {
                Some((owner, key, token)) => (who.map_or(owner, session), Op::HandOver { key, token, to: format!("n{to}") }),
                None => (session(0), Op::HandOver { key: key(0), token: Token(3), to: format!("n{to}") }),
            },
            Act::TakeOver { old, nonce, keep } => {
                let (old, nonce, name) = (u128::from(*old), u128::from(*nonce), format!("n{nonce}"));
                (SessionId(0), Op::TakeOver { old, nonce, name, ttl_ms: 1_000, keep: *keep })
            }
            Act::Promise { grant, who, office, what, epoch } => {
                let (owner, lock, term) = grant_of(*grant).unwrap_or((session(0), key(0), Token(3)));
                let (by, office, epoch) = (Granting { key: lock, term }, key(*office), *epoch);
                let op = match what {
                    0 | 1 => PromiseOp::Promote { by, office, holder: format!("h{epoch}"), epoch: if *what == 0 { 0 } else { epoch } },
                    2 => PromiseOp::Extend { by, office, epoch, ttl_ms: 100 + epoch as u32 * 300 },
                    _ => PromiseOp::Settle { by, office, epoch },
                };
                (who.map_or(owner, session), Op::Promise(op))
            }
            Act::Retry { back } => return nth(&self.sent, *back).into_iter().collect(),
            Act::Tick => (SessionId(0), Op::Tick),
        };
        let requests = std::iter::once(op).chain(more).map(|op| {
            self.seq += 1;
            Request { session: who, seq: if numbered { self.seq } else { 0 }, op }
        });
        requests.collect()
    }

    fn learn(&mut self, request: &Request, outcome: &Outcome) {
        self.sent.push(request.clone());
        let (keys, req) = match &request.op {
            Op::Acquire { key, req, .. } => (vec![key.clone()], *req),
            Op::AcquireAll { keys, req, .. } => (keys.clone(), *req),
            _ => (Vec::new(), 0),
        };
        match outcome {
            Outcome::Session { id, .. } | Outcome::TakenOver { id, .. } if !self.sessions.contains(id) => self.sessions.push(*id),
            Outcome::Granted { token, .. } => self.granted(request.session, keys, *token),
            Outcome::Queued { .. } => {
                self.open.insert((request.session, req));
                self.waiting.push((request.session, req, keys));
            }
            _ => {}
        }
    }

    /// What is there now.
    fn sees(&mut self, sessions: &[SessionInfo], locks: &[LockInfo]) {
        self.alive = sessions.iter().map(|s| s.id).collect();
        let holders = locks.iter().flat_map(|l| l.holders.iter().map(|h| (h.session, l.key.clone(), h.token)));
        self.held = holders.collect();
    }

    /// One of the grants that somebody else waits for.
    fn awaited(&self, n: u8) -> Option<(SessionId, Key, Token)> {
        let wanted = |key: &Key, by: SessionId| {
            self.waiting.iter().any(|(who, req, keys)| *who != by && keys.contains(key) && self.open.contains(&(*who, *req)))
        };
        let grants: Vec<_> = self.held.iter().filter(|(owner, key, _)| wanted(key, *owner)).cloned().collect();
        nth(&grants, n)
    }

    /// Whether a request of this session waits under this number: an engine is given each number once while it waits.
    fn waits(&self, request: &Request) -> bool {
        matches!(request.op, Op::Acquire { req, .. } | Op::AcquireAll { req, .. } if self.open.contains(&(request.session, req)))
    }

    fn granted(&mut self, session: SessionId, keys: Vec<Key>, token: Token) {
        self.grants.extend(keys.into_iter().enumerate().map(|(i, k)| (session, k, Token(token.0 + i as u64))));
    }

    fn hear(&mut self, event: &Event) {
        if let Event::Granted { session, req, .. } | Event::WaitEnded { session, req, .. } = event {
            self.open.remove(&(*session, *req));
        }
        if let Event::Granted { session, req, token, .. } = event
            && let Some(at) = self.waiting.iter().position(|w| (w.0, w.1) == (*session, *req))
        {
            let (session, _, keys) = self.waiting.remove(at);
            self.granted(session, keys, *token);
        }
    }
}

fn restored(ledger: &Ledger, shards: usize, piece: usize) -> Ledger {
    let mut bytes = Vec::new();
    ledger
        .snapshot(&mut |part| {
            bytes.extend_from_slice(part);
            Ok(())
        })
        .unwrap();
    let mut restore = Restore::with_shards(shards);
    bytes.chunks(piece).for_each(|c| restore.push(c).unwrap());
    restore.finish().unwrap()
}

#[derive(Default)]
struct Stamper {
    stamp: Stamp,
    log_term: u64,
    index: u64,
}

impl Stamper {
    fn next(&mut self, step: &Step) -> (LogId, Stamp) {
        self.stamp.ticks_ms += step.passed;
        if step.new_boot {
            self.stamp.boot += 1;
        }
        if step.new_term {
            (self.stamp.term, self.log_term) = (self.log_term + 1, self.log_term + 1);
        }
        self.index += 1;
        let term = self.log_term + u64::from(step.stale_term);
        (LogId { term, index: self.index }, self.stamp)
    }
}

fn apply(ledger: &mut Ledger, at: LogId, entry: &Entry) -> (Vec<Outcome>, Vec<Event>) {
    let (mut outcomes, mut events) = (Vec::new(), Vec::new());
    ledger.apply(at, entry, &mut outcomes, &mut events);
    (outcomes, events)
}

/// What somebody knows who is told of every change.
#[derive(Default)]
struct Watched {
    revision: u64,
    last: BTreeMap<Key, Change>,
}

type Held = Vec<(Key, Token, String, Vec<u8>, u32)>;

impl Watched {
    /// Takes the changes out of the events, and checks their order.
    fn without_changes(&mut self, events: Vec<Event>) -> Vec<Event> {
        let mut others = Vec::new();
        for event in events {
            let Event::Changed(change) = event else {
                others.push(event);
                continue;
            };
            assert!(change.revision > self.revision);
            self.revision = change.revision;
            self.last.insert(change.key.clone(), *change);
        }
        others
    }

    fn held(&self) -> Held {
        let one = |(key, c): (&Key, &Change)| c.holding.clone().map(|h| (key.clone(), h.token, h.name, h.metadata, h.holders));
        self.last.iter().filter_map(one).collect()
    }
}

fn held(infos: &[LockInfo]) -> Held {
    let one = |i: &LockInfo| {
        let first = i.holders.first()?.clone();
        Some((i.key.clone(), first.token, first.name, first.metadata, i.holders.len() as u32))
    };
    infos.iter().filter_map(one).collect()
}

fn cases(n: u32) -> ProptestConfig {
    ProptestConfig { cases: n, max_shrink_iters: 4_000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(600))]

    /// One shard, eight shards, and a ledger that is restored from its snapshot all the time give the model's answers and events,
    /// show the model's locks and sessions, and have the same state hash (I-05, I-07 to I-14 in ledger form).
    #[test]
    fn the_ledger_is_the_model(steps in steps(60)) {
        let params = params(u32::MAX);
        let mut model = Model::new(params);
        let (mut one, mut many) = (Ledger::new(params), Ledger::with_shards(params, 8));
        let mut copy = Ledger::new(params);
        many.watched().add(&Pattern::Prefix(Vec::new()));
        let (mut script, mut stamper) = (Script::default(), Stamper::default());
        let mut watched = Watched::default();
        for (i, step) in steps.iter().enumerate() {
            let (at, stamp) = stamper.next(step);
            let mut ops: Vec<Request> = step.acts.iter().flat_map(|a| script.request(a, step.numbered)).collect();
            // The model has none; whose replicas are compared below have.
            ops.retain(|r| !matches!(r.op, Op::Promise(_)));
            let entry = Entry { stamp, ops };
            let want = model.apply(at.term, &stamp, &entry.ops);
            let got = apply(&mut one, at, &entry);
            prop_assert_eq!(&got, &want, "step {}: {:?}", i, &entry);
            let (outcomes, events) = apply(&mut many, at, &entry);
            prop_assert_eq!(&(outcomes, watched.without_changes(events)), &want, "step {}, many shards, watched: {:?}", i, &entry);
            prop_assert_eq!(watched.held(), held(&model.infos()), "what a watch has told, step {}: {:?}", i, &entry);
            prop_assert_eq!(&apply(&mut copy, at, &entry), &want, "step {}, restored: {:?}", i, &entry);
            prop_assert_eq!(one.clock_ms(), model.now);
            prop_assert_eq!(one.locks(b"", None, 100), model.infos(), "step {}", i);
            prop_assert_eq!(many.locks(b"", None, 100), model.infos(), "step {}", i);
            prop_assert_eq!(one.sessions(), model.session_infos(), "step {}", i);
            prop_assert_eq!(one.counts().locks, model.locks_in_use(), "step {}", i);
            prop_assert_eq!(one.counts().last_token, model.counter, "step {}", i);
            let hash = one.state_hash().unwrap();
            prop_assert_eq!(many.state_hash().unwrap(), hash, "I-13, step {}", i);
            prop_assert_eq!(copy.state_hash().unwrap(), hash, "I-14, step {}", i);
            if step.passed % 3 == 0 {
                copy = restored(&copy, 1 + i % 5, 1 + i * 37);
                prop_assert_eq!(copy.state_hash().unwrap(), hash, "I-14, restored at step {}", i);
            }
            entry.ops.iter().zip(&want.0).for_each(|(r, o)| script.learn(r, o));
            want.1.iter().for_each(|e| script.hear(e));
            script.sees(&model.session_infos(), &model.infos());
        }
    }

    /// With slices of one or a few, what has run out stays in the state for a while. No layout and no snapshot may show, nothing that
    /// has run out may be shown as held, no key may have two exclusive holders, and in the end everything is cleared away.
    #[test]
    fn small_slices_change_no_replica(steps in steps(60), slice in 1u32..4) {
        let params = params(slice);
        let (mut one, mut many, mut copy) = (Ledger::new(params), Ledger::with_shards(params, 8), Ledger::new(params));
        let (mut script, mut stamper) = (Script::default(), Stamper::default());
        let mut last_token = 0;
        for (i, step) in steps.iter().enumerate() {
            let (at, stamp) = stamper.next(step);
            let ops: Vec<Request> = step.acts.iter().flat_map(|a| script.request(a, step.numbered)).collect();
            let entry = Entry { stamp, ops };
            let want = apply(&mut one, at, &entry);
            prop_assert_eq!(&apply(&mut many, at, &entry), &want, "step {}, many shards: {:?}", i, &entry);
            prop_assert_eq!(&apply(&mut copy, at, &entry), &want, "step {}, restored: {:?}", i, &entry);
            let hash = one.state_hash().unwrap();
            prop_assert_eq!(many.state_hash().unwrap(), hash, "I-13, step {}", i);
            prop_assert_eq!(copy.state_hash().unwrap(), hash, "I-14, step {}", i);
            if step.passed % 3 == 0 {
                copy = restored(&copy, 1 + i % 5, 1 + i * 37);
            }
            for lock in one.locks(b"", None, 100) {
                let exclusive = lock.holders.iter().filter(|h| h.mode == Mode::Exclusive).count();
                prop_assert!(exclusive == 0 || lock.holders.len() == 1, "I-07: {:?}", lock);
                let alive = one.sessions();
                prop_assert!(lock.holders.iter().all(|h| alive.iter().any(|s| s.id == h.session)), "I-08: {:?}", lock);
            }
            for outcome in &want.0 {
                if let Outcome::Granted { token, depth: 1, .. } = outcome {
                    let again = script.grants.iter().any(|g| g.2 == *token);
                    prop_assert!(again || token.0 > last_token, "I-05");
                }
            }
            last_token = one.counts().last_token.min(script.grants.iter().map(|g| g.2.0).max().unwrap_or(0));
            entry.ops.iter().zip(&want.0).for_each(|(r, o)| script.learn(r, o));
            want.1.iter().for_each(|e| script.hear(e));
            script.sees(&one.sessions(), &one.locks(b"", None, 100));
        }
        // Nobody renews any more.
        for _ in 0..1_000 {
            if one.next_deadline().is_none() {
                break;
            }
            let quiet = Step { passed: 500, new_boot: false, new_term: false, stale_term: false, numbered: false, acts: vec![] };
            let (at, stamp) = stamper.next(&quiet);
            apply(&mut one, at, &Entry { stamp, ops: vec![] });
        }
        let counts = one.counts();
        prop_assert_eq!((counts.locks, counts.keys, counts.sessions), (0, 0, 0));
    }

    /// The engine in memory, driven by one thread that ticks first, does what the model does.
    #[test]
    fn the_memory_engine_is_the_model(steps in steps(60)) {
        let params = params(u32::MAX);
        let mut model = Model::new(params);
        let (clock, log) = (VirtualClock::new(1), Arc::new(Log::default()));
        let engine = MemoryEngine::new(params, 8, Arc::new(clock.clone()), log.clone());
        let mut script = Script::default();
        for (i, step) in steps.iter().enumerate() {
            clock.advance(step.passed * 1_000_000);
            engine.tick().unwrap();
            let events = model.pass(step.passed);
            prop_assert_eq!(&log.take(), &events, "step {}", i);
            events.iter().for_each(|e| script.hear(e));
            script.sees(&model.session_infos(), &model.infos());
            for request in step.acts.iter().flat_map(|a| script.request(a, false)).collect::<Vec<_>>() {
                if matches!(request.op, Op::Tick | Op::Promise(_)) || script.waits(&request) {
                    continue;
                }
                let want = model.execute(&request);
                let got = run(&engine, &log, &request);
                prop_assert!(got == Some(want) || (got.is_none() && matches!(want, Outcome::Queued { .. })), "{:?}: {:?}, {:?}", request, got, want);
                let events = model.take_events();
                prop_assert_eq!(&log.take(), &events, "step {}: {:?}", i, &request);
                script.learn(&request, &want);
                events.iter().for_each(|e| script.hear(e));
                prop_assert_eq!(engine.counts().unwrap().locks, model.locks_in_use());
                script.sees(&model.session_infos(), &model.infos());
            }
            prop_assert_eq!(engine.locks(b"", None, 100).unwrap(), model.infos(), "step {}", i);
            prop_assert_eq!(engine.sessions().unwrap(), model.session_infos(), "step {}", i);
        }
    }
}

#[derive(Default)]
struct Log(Mutex<Vec<Event>>);

impl EventSink for Log {
    fn event(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
    fn nearer_deadline(&self) {}
}

impl Log {
    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// The answer if there is one at once; the end of a wait goes to the log like any event.
fn run(engine: &MemoryEngine, log: &Arc<Log>, request: &Request) -> Option<Outcome> {
    let now = Arc::new(Mutex::new((true, None)));
    let (at_once, log, session) = (now.clone(), log.clone(), request.session);
    let req = if let Op::Acquire { req, .. } | Op::AcquireAll { req, .. } = &request.op { *req } else { 0 };
    engine.submit(
        request,
        Box::new(move |answer| {
            let outcome = answer.unwrap();
            let mut now = at_once.lock().unwrap();
            if now.0 {
                now.1 = Some(outcome);
                return;
            }
            log.event(match outcome {
                Outcome::Granted { token, remaining_ms, .. } => Event::Granted { session, req, token, remaining_ms },
                Outcome::WaitEnded(why) => Event::WaitEnded { session, req, why },
                other => panic!("{other:?}"),
            });
        }),
    );
    let mut now = now.lock().unwrap();
    now.0 = false;
    now.1.take()
}
