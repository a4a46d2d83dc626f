//! Each claim is judged by the ledger itself, in the entry: a planner spares refusals, it is not trusted to.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tenure::base::{SessionId, Token};
use tenure::ledger::orch::{Claim, End, OrchAnswer, OrchFault, OrchOp, Schedule, View};
use tenure::ledger::{Entry, Ledger, LogId, Op, Outcome, Params, Request, Stamp};

/// 2026-01-01T00:00:00Z.
const START: i64 = 1_767_225_600_000;
const OPEN: View = View::Open { until_ms: i64::MAX };

struct World {
    ledger: Ledger,
    term: u64,
    boot: u64,
    now: u64,
    index: u64,
    workers: Vec<SessionId>,
}

impl World {
    /// With three workers: one that can do everything once at a time, one of an old version, one without handlers for it.
    fn new() -> World {
        let mut world = World { ledger: Ledger::new(Params::default()), term: 1, boot: 1, now: 0, index: 0, workers: Vec::new() };
        for (n, (kind, version)) in [("work", 2), ("work", 1), ("other", 2)].into_iter().enumerate() {
            let open = Op::OpenSession { nonce: n as u128 + 1, name: format!("n{n}"), ttl_ms: 60_000 };
            let Outcome::Session { id, .. } = world.request(SessionId(0), open) else { panic!("no session") };
            let join = OrchOp::Join { kinds: vec![kind.to_owned()], labels: BTreeMap::new(), version, capacity: 1, now_ms: START };
            assert_eq!(world.request(id, Op::Orch(join)), Outcome::Orch(OrchAnswer::Done));
            world.workers.push(id);
        }
        world
    }

    fn request(&mut self, session: SessionId, op: Op) -> Outcome {
        self.index += 1;
        let entry =
            Entry { stamp: Stamp { term: self.term, boot: self.boot, ticks_ms: self.now }, ops: vec![Request { session, seq: 0, op }] };
        let (mut outcomes, mut events) = (Vec::new(), Vec::new());
        self.ledger.apply(LogId { term: self.term, index: self.index }, &entry, &mut outcomes, &mut events);
        outcomes[0]
    }

    fn orch(&mut self, op: OrchOp) -> OrchAnswer {
        match self.request(SessionId(0), Op::Orch(op)) {
            Outcome::Orch(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn put(&mut self, id: &str, fields: Value) -> u64 {
        let mut schedule = json!({"id": id, "scope": "singleton", "every_ms": 1_000, "min_version": 2, "tasks": [{"kind": "work"}]});
        schedule.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let schedule: Schedule = serde_json::from_value(schedule).unwrap();
        match self.orch(OrchOp::Put { schedule: Box::new(schedule), expected: None, now_ms: START }) {
            OrchAnswer::Written { revision } => revision,
            other => panic!("{other:?}"),
        }
    }

    /// A claim of the `n`-th tick after the mark `from`.
    fn claim(&self, id: &str, revision: u64, from: i64, n: i64) -> Claim {
        let (from_ms, tick_ms) = (if from == 0 { i64::MIN } else { START + from * 1_000 }, START + n * 1_000);
        let worker = self.workers[0];
        Claim { schedule: id.to_owned(), target: String::new(), revision, from_ms, tick_ms, now_ms: START + 3_600_000, view: OPEN, worker }
    }

    fn propose(&mut self, claim: Claim) -> OrchAnswer {
        self.orch(OrchOp::Claim(Box::new(claim)))
    }

    fn end(&mut self, answer: OrchAnswer) {
        let OrchAnswer::Claimed { run, token, .. } = answer else { panic!("{answer:?}") };
        let end = OrchOp::Finish { run, token, end: End::Succeeded, message: String::new(), now_ms: START };
        assert_eq!(self.orch(end), OrchAnswer::Done);
    }
}

#[test]
fn every_obstacle_is_found_in_the_entry_that_claims() {
    let mut world = World::new();
    let revision = world.put("s", json!({}));
    let (off, second) = (world.put("off", json!({"enabled": false})), world.put("t", json!({})));
    let good = world.claim("s", revision, 0, 1);
    let hour = START + 3_600_000;
    for (claim, answer) in [
        (Claim { schedule: "none".to_owned(), ..good.clone() }, OrchAnswer::StaleRevision { current: 0 }),
        (Claim { revision: revision + 1, ..good.clone() }, OrchAnswer::StaleRevision { current: revision }),
        (Claim { tick_ms: hour + 1, ..good.clone() }, OrchAnswer::Invalid(OrchFault::Future)),
        (Claim { tick_ms: START, ..good.clone() }, OrchAnswer::AlreadyClaimed { run: 0, token: Token(0), by: SessionId(0), since_ms: 0 }),
        (Claim { from_ms: START, ..good.clone() }, OrchAnswer::OtherMark { mark_ms: i64::MIN }),
        (Claim { view: View::Outside { until_ms: 7 }, ..good.clone() }, OrchAnswer::OutsideWindow { until_ms: 7 }),
        (Claim { view: View::Blackout { until_ms: 7 }, ..good.clone() }, OrchAnswer::Blackout { until_ms: 7 }),
        // Of another version, without a handler, nobody.
        (Claim { worker: world.workers[1], ..good.clone() }, OrchAnswer::NoEligibleNode),
        (Claim { worker: world.workers[2], ..good.clone() }, OrchAnswer::NoEligibleNode),
        (Claim { worker: SessionId(99), ..good.clone() }, OrchAnswer::NoEligibleNode),
    ] {
        assert_eq!(world.propose(claim.clone()), answer, "{claim:?}");
    }
    for schedule in [None, Some("s".to_owned())] {
        world.orch(OrchOp::Pause { schedule: schedule.clone(), note: String::new(), until_ms: hour + 1 });
        assert_eq!(world.propose(good.clone()), OrchAnswer::Paused { until_ms: hour + 1 });
        world.orch(OrchOp::Unpause { schedule });
    }
    let claim = world.claim("off", off, 0, 1);
    assert_eq!(world.propose(claim), OrchAnswer::Disabled);

    // One start; whoever asks again learns of it.
    let claimed = world.propose(good.clone());
    let OrchAnswer::Claimed { run, token, attempt: 1, .. } = claimed else { panic!("{claimed:?}") };
    let by = world.workers[0];
    let since_ms = good.now_ms;
    assert_eq!(world.propose(good), OrchAnswer::AlreadyClaimed { run, token, by, since_ms });
    // The worker takes one run at a time.
    let claim = world.claim("t", second, 0, 1);
    assert_eq!(world.propose(claim.clone()), OrchAnswer::NoEligibleNode);
    // The next tick meets the run that goes on.
    let next = world.claim("s", revision, 1, 2);
    assert_eq!(world.propose(next), OrchAnswer::Busy { run, due: false });
    world.end(claimed);
    let claimed = world.propose(claim);
    world.end(claimed);
}

#[test]
fn budgets_are_taken_with_the_claim_and_given_back_with_the_end() {
    let mut world = World::new();
    let revisions: Vec<u64> = ["a", "b"].iter().map(|id| world.put(id, json!({"budgets": {"disk": 2}}))).collect();
    let (a, b) = (world.claim("a", revisions[0], 0, 1), world.claim("b", revisions[1], 0, 1));
    let used = |world: &World| world.ledger.orch(|state| state.budgets().get("disk").map(|b| (b.limit, b.used)));
    assert_eq!(world.propose(a.clone()), OrchAnswer::BudgetExhausted);
    for (limit, fits) in [(1, false), (3, true)] {
        world.orch(OrchOp::Budget { name: "disk".to_owned(), limit });
        assert_eq!(used(&world), Some((limit, 0)));
        if !fits {
            assert_eq!(world.propose(a.clone()), OrchAnswer::BudgetExhausted);
        }
    }
    let claimed = world.propose(a);
    assert_eq!(used(&world), Some((3, 2)));
    assert_eq!(world.propose(b.clone()), OrchAnswer::BudgetExhausted);
    // A limit that is lowered takes nothing from who has it.
    world.orch(OrchOp::Budget { name: "disk".to_owned(), limit: 0 });
    assert_eq!(used(&world), Some((0, 2)));
    world.end(claimed);
    assert_eq!(used(&world), None);
    assert_eq!(world.propose(b.clone()), OrchAnswer::BudgetExhausted);
    world.orch(OrchOp::Budget { name: "disk".to_owned(), limit: 2 });
    let claimed = world.propose(b);
    world.end(claimed);
    assert_eq!(used(&world), Some((2, 0)));
}

#[test]
fn as_many_targets_at_once_as_are_allowed() {
    for scope in [json!({"each_shard": {"max_parallel": 1}}), json!({"each_node": {"max_parallel_percent": 50}})] {
        let mut world = World::new();
        let revision = world.put("s", json!({"scope": scope}));
        let of = |world: &World, target: &str| Claim { target: target.to_owned(), ..world.claim("s", revision, 0, 1) };
        let (one, two) = (of(&world, "one"), of(&world, "two"));
        let claimed = world.propose(one);
        let OrchAnswer::Claimed { run, .. } = claimed else { panic!("{claimed:?}") };
        assert_eq!(world.propose(two.clone()), OrchAnswer::Busy { run, due: true }, "{scope}");
        world.end(claimed);
        let claimed = world.propose(two);
        world.end(claimed);
        let remove = |expected| OrchOp::Remove { schedule: "s".to_owned(), expected };
        assert_eq!(world.orch(remove(Some(revision + 1))), OrchAnswer::StaleRevision { current: revision });
        assert_eq!(world.orch(remove(Some(revision))), OrchAnswer::Done);
        assert_eq!(world.orch(remove(Some(revision))), OrchAnswer::StaleRevision { current: 0 });
    }
}

#[test]
fn what_remains_of_a_lease_survives_a_change_of_the_leader() {
    let mut world = World::new();
    let revision = world.put("s", json!({"lease_ms": 15_000, "lost_retries": 1}));
    world.now = 1_000;
    let claim = world.claim("s", revision, 0, 1);
    let claimed = world.propose(claim);
    let OrchAnswer::Claimed { run, token, .. } = claimed else { panic!("{claimed:?}") };
    let holds = |world: &World| world.ledger.orch(|state| state.run(run).unwrap().token == token);
    for now in (2_000..=11_000).step_by(1_000) {
        world.now = now;
        world.request(SessionId(0), Op::Tick);
    }
    // Two elections: however long they took, and whatever the new leaders' own counts are, 5 s of 15 are left.
    for (term, boot, ticks) in [(2, 7, 900_000), (3, 8, 50)] {
        (world.term, world.boot, world.now) = (term, boot, ticks);
        world.request(SessionId(0), Op::Tick);
        assert!(holds(&world), "term {term}");
    }
    for (passed, lives) in [(2_000, true), (4_000, true), (4_990, true), (5_010, false)] {
        world.now = 50 + passed;
        world.request(SessionId(0), Op::Tick);
        assert_eq!(holds(&world), lives, "{passed} ms later");
    }
    // Whoever had it is refused and counted.
    assert!(matches!(world.orch(OrchOp::Renew { run, token, progress: 0 }), OrchAnswer::StaleToken { .. }));
    assert_eq!(world.ledger.orch(|state| (state.counts().lost, state.counts().stale_tokens)), (1, 1));
}
