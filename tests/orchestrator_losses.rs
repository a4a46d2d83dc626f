//! Runs that are lost, cancelled, held back or end badly, with several workers of one ledger, in virtual time.
#![allow(clippy::unwrap_used, clippy::panic)]

mod orchestrator_support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tenure::base::{Clock, Status};
use tenure::node::orchestrator::{Handler, OrchestratorOptions, Stop, TaskContext};

use self::orchestrator_support::{MINUTE, SECOND, START, Workers, calm};

/// The first one gives out work, and has the locks of the session that it came with; the others do the work.
fn one_and_two() -> Workers {
    let able = || OrchestratorOptions { drive: false, labels: BTreeMap::from([("able".to_owned(), "yes".to_owned())]), ..calm() };
    let workers = Workers::new(vec![calm(), able(), able()]);
    workers.run(SECOND);
    workers
}

fn put(workers: &Workers, id: &str, fields: Value) {
    let mut all = json!({"scope": "singleton", "requires": {"able": "yes"}});
    all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    workers.put_long(id, all);
}

#[test]
fn a_holder_knows_that_its_run_is_lost_before_another_begins_it() {
    for lease_ms in [1_000, 3_000, 15_000] {
        let workers = one_and_two();
        put(&workers, "s", json!({"lease_ms": lease_ms, "lost_retries": 1}));
        workers.ask("s");
        workers.run(SECOND / 2);
        let (holder, context) = workers.longs().pop().unwrap();
        let (lost_at, mut knew) = (workers.clock.monotonic_ns() / 1_000_000, None);
        let again = loop {
            workers.run_without(holder, 10);
            let now = workers.clock.monotonic_ns() / 1_000_000;
            assert!(now < lost_at + 20 * SECOND, "nobody has taken it over");
            if context.check().is_err() {
                assert_eq!((context.stop(), context.remaining()), (Stop::Lost, Duration::ZERO));
                knew.get_or_insert(now);
            }
            if workers.longs().pop().is_some() {
                break now;
            }
        };
        // 2 % and 200 ms earlier, but for the steps of this test.
        let margin = lease_ms / 50 + 200;
        assert!(knew.unwrap() + margin <= again + 20, "{lease_ms}: {knew:?}, {again}");
    }
}

#[test]
fn a_loss_costs_an_idempotent_run_nothing_that_it_had_done_and_ends_another() {
    let workers = one_and_two();
    let tasks = |idempotent: bool| {
        json!([{"kind": "work", "idempotent": idempotent}, {"kind": "long", "after": [{"task": "work"}], "idempotent": idempotent},
               {"kind": "work", "name": "last", "after": [{"task": "long"}], "idempotent": idempotent}])
    };
    put(&workers, "again", json!({"tasks": tasks(true)}));
    let run = workers.ask("again");
    let mut worked = workers.run(SECOND);
    let (mut holder, mut context) = workers.longs().pop().unwrap();
    // Idempotent: three times more, and no more.
    for attempt in 2..=4 {
        context.save_checkpoint(format!("attempt {}", attempt - 1).as_bytes()).unwrap();
        worked.extend(workers.run_without(holder, 20 * SECOND));
        let (next, later) = workers.longs().pop().unwrap();
        assert!(next != holder && later.token() > context.token() && later.idempotency_key() == context.idempotency_key());
        assert_eq!((later.attempt(), later.run()), (attempt, run));
        assert_eq!(later.checkpoint(), format!("attempt {}", attempt - 1).into_bytes());
        // The former one is refused, and what it wrote before stays.
        assert_eq!(context.save_checkpoint(b"late").unwrap_err().status(), Status::Fenced);
        (holder, context) = (next, later);
    }
    worked.extend(workers.run_without(holder, 20 * SECOND));
    // What had succeeded was done once.
    assert_eq!(worked.len(), 1, "{worked:?}");
    let told = workers.told(run);
    assert_eq!((&told["state"], &told["attempt"]), (&json!("lost"), &json!(4)));
    assert_eq!(told["tasks"], json!({"long": "open", "last": "open"}));

    put(&workers, "once", json!({"tasks": tasks(false)}));
    let run = workers.ask("once");
    workers.run(SECOND);
    let (holder, _context) = workers.longs().pop().unwrap();
    workers.run_without(holder, 20 * SECOND);
    assert!(workers.longs().is_empty());
    let told = workers.told(run);
    assert_eq!((&told["state"], &told["reason"]), (&json!("lost"), &json!("its node was lost")));
    assert_eq!(workers.all[0].status().unwrap()["counts"]["lost"], 5);
}

#[test]
fn a_run_is_cancelled_from_any_node_and_everybody_sees_how_far_that_is() {
    let workers = one_and_two();
    put(&workers, "s", json!({}));
    for canceller in 0..3 {
        let run = workers.ask("s");
        workers.run(SECOND);
        let (_, context) = workers.longs().pop().unwrap();
        workers.all[canceller].cancel(run, "by hand").unwrap();
        assert_eq!((&workers.told(run)["state"], &workers.told(run)["reason"]), (&json!("cancelling"), &json!("by hand")));
        workers.run(20);
        assert_eq!(context.stop(), Stop::Cancelled);
        assert_eq!(workers.told(run)["state"], "cancelling");
        context.finish(Err("stopped".to_owned()));
        workers.run(20);
        assert_eq!(workers.told(run)["state"], "cancelled");
    }
}

#[test]
fn a_pause_is_everybodys_says_why_and_ends_by_itself() {
    let workers = one_and_two();
    put(&workers, "s", json!({"tasks": [{"kind": "work"}], "every_ms": MINUTE}));
    let until = (START + 10 * MINUTE + 30 * SECOND) as i64;
    for (n, id) in [(1, None), (2, Some("s"))] {
        workers.all[n].pause(id, "repair", until).unwrap();
        assert!(workers.run(3 * MINUTE).is_empty());
        let status = workers.all[3 - n].status().unwrap();
        let entry = workers.all[0].ask_about("schedule", "s", 0).unwrap();
        let paused = if id.is_none() { &status["paused"] } else { &entry["paused"] };
        assert_eq!(*paused, json!({"note": "repair", "until_ms": until}));
        if id.is_none() {
            workers.all[n].unpause(None).unwrap();
            // The latest of those that were missed, by the misfire policy.
            assert_eq!(workers.run(SECOND).len(), 1);
        }
    }
    let left = until as u64 - workers.clock.realtime_ns() / 1_000_000;
    assert!(workers.run(left - SECOND).is_empty());
    assert_eq!(workers.run(2 * SECOND).len(), 1);
}

#[test]
fn the_hosts_lock_is_given_back_after_every_end() {
    let workers = Workers::new(vec![calm()]);
    let session = workers.node.session();
    workers.all[0].set_distributed_lock(Some(session.lock_service())).unwrap();
    let panics = |_: &TaskContext| -> Result<(), String> { panic!("in a handler") };
    workers.all[0].register("panics", Handler::Blocking(Arc::new(panics))).unwrap();
    workers.put_long("s", json!({"scope": "singleton", "lease_ms": 3_000, "grace_ms": 1_000, "max_runtime_ms": 10 * SECOND}));
    workers.put_long("p", json!({"scope": "singleton", "tasks": [{"kind": "panics"}]}));
    let held = |id: &str| session.holder(id.as_bytes()).unwrap().is_some();
    // What becomes of the run, and how.
    for (state, what) in
        [("succeeded", "ends"), ("failed", "fails"), ("cancelled", "stops"), ("timed_out", "late"), ("stuck", "deaf"), ("lost", "frozen")]
    {
        let run = workers.ask("s");
        workers.run(SECOND);
        let (_, context) = workers.longs().pop().unwrap();
        assert!(held("s"), "{state}");
        match what {
            "ends" => context.finish(Ok(())),
            "fails" => context.finish(Err("disk full".to_owned())),
            "stops" => {
                workers.all[0].cancel(run, "by hand").unwrap();
                workers.run(100);
                context.finish(Err("stopped".to_owned()));
            }
            "late" => {
                workers.run(9 * SECOND + 100);
                assert_eq!(context.stop(), Stop::TimedOut);
                context.finish(Err("stopped".to_owned()));
            }
            "deaf" => {
                workers.all[0].cancel(run, "by hand").unwrap();
                workers.run(2 * SECOND);
            }
            _ => workers.run_without(0, 4 * SECOND).clear(),
        }
        workers.run(3 * SECOND);
        assert_eq!(workers.told(run)["state"], state);
        // A lost run's is given back by a thread of its own.
        let end = Instant::now() + Duration::from_secs(60);
        while held("s") {
            assert!(Instant::now() < end, "{state}: it is still held");
            std::thread::yield_now();
        }
    }
    let run = workers.ask("p");
    workers.run(SECOND);
    let told = workers.told(run);
    assert_eq!((&told["state"], &told["reason"]), (&json!("failed"), &json!("panics: the handler panicked")));
    assert!(!held("p"));
    // Nothing but that task has failed.
    let run = workers.ask("s");
    workers.run(SECOND);
    workers.longs().pop().unwrap().1.finish(Ok(()));
    workers.run(SECOND);
    assert_eq!(workers.told(run)["state"], "succeeded");
}
