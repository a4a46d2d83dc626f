//! Several workers of one ledger, in virtual time: who gets what, how many at once, and whom a clock deceives.
#![allow(clippy::unwrap_used, clippy::panic)]

mod orchestrator_support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tenure::base::{Clock, Status};
use tenure::ledger::orch::Schedule;
use tenure::node::orchestrator::{Orchestrator, OrchestratorOptions, RunNow, Stop, TaskContext};

use self::orchestrator_support::{MINUTE, SECOND, START, Workers, calm};

#[test]
fn labels_and_versions_choose_the_worker() {
    let disk = |kind: &str| BTreeMap::from([("disk".to_owned(), kind.to_owned())]);
    let workers = Workers::new(vec![
        OrchestratorOptions { version: 1, labels: disk("ssd"), ..calm() },
        OrchestratorOptions { version: 2, labels: disk("hdd"), ..calm() },
        OrchestratorOptions { version: 2, labels: disk("ssd"), capacity: 1, ..calm() },
    ]);
    let put = |id: &str, fields: Value| {
        let mut schedule = json!({"id": id, "scope": "singleton", "every_ms": SECOND, "tasks": [{"kind": "work"}]});
        schedule.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let schedule: Schedule = serde_json::from_value(schedule).unwrap();
        workers.all[0].put(&schedule, None).unwrap();
    };
    put("new", json!({"min_version": 2, "requires": {"disk": "ssd"}}));
    put("hdd", json!({"requires": {"disk": "hdd"}}));
    put("newer", json!({"min_version": 3}));
    // A kind of task that an old version does another way.
    for n in 0..8 {
        put(&format!("task{n}"), json!({"tasks": [{"kind": "work"}, {"kind": "work", "name": "second", "min_version": 2}]}));
    }
    let begun = workers.run(10 * SECOND);
    let of = |id: &str| begun.iter().filter(|(_, s)| s == id).map(|(n, _)| *n).collect::<Vec<_>>();
    assert!(of("new").len() >= 9 && of("new").iter().all(|n| *n == 2), "{begun:?}");
    assert!(of("hdd").len() >= 9 && of("hdd").iter().all(|n| *n == 1), "{begun:?}");
    assert!(of("newer").is_empty());
    for n in 0..8 {
        let of = of(&format!("task{n}"));
        assert!(of.len() >= 10 && !of.contains(&0), "{begun:?}");
    }
}

#[test]
fn the_least_loaded_does_it_where_the_schedule_says_so() {
    for (placement, even) in [("least_loaded", true), ("rendezvous", false)] {
        let workers = Workers::new(vec![calm(), calm(), calm()]);
        workers.run(SECOND);
        for n in 0..30 {
            workers.put_long(&format!("s{n}"), json!({"scope": "singleton", "placement": placement}));
            workers.ask(&format!("s{n}"));
        }
        // Also those that are given out in one plan.
        workers.run(SECOND);
        let mut counts = [0; 3];
        workers.longs().iter().for_each(|(node, _)| counts[*node] += 1);
        assert_eq!((counts == [10, 10, 10], counts.iter().sum::<i32>()), (even, 30), "{placement}: {counts:?}");
    }
}

#[test]
fn who_needs_a_budget_and_a_worker_is_not_passed_for_ever_by_those_who_need_one_of_them() {
    let able = |what: &str| BTreeMap::from([(what.to_owned(), "yes".to_owned())]);
    let workers = Workers::new(vec![
        OrchestratorOptions { labels: able("pinned"), capacity: 1, ..calm() },
        OrchestratorOptions { labels: able("other"), ..calm() },
    ]);
    workers.run(SECOND);
    workers.all[0].set_budget("disk", 1).unwrap();
    let singleton = |fields: Value| {
        let mut all = json!({"scope": "singleton"});
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        all
    };
    workers.put_long("room", singleton(json!({"requires": {"pinned": "yes"}, "priority": 255})));
    workers.put_long("disk", singleton(json!({"requires": {"other": "yes"}, "priority": 255, "budgets": {"disk": 1}})));
    workers.put_long("both", singleton(json!({"requires": {"pinned": "yes"}, "budgets": {"disk": 1}})));
    let mut running = Vec::new();
    for id in ["room", "disk"] {
        workers.ask(id);
        workers.run(SECOND);
        running.extend(workers.longs());
    }
    assert_eq!(running.len(), 2);
    workers.ask("both");
    let asked = workers.clock.monotonic_ns();
    let waited_s = || (workers.clock.monotonic_ns() - asked) / 1_000_000_000;
    // At no moment are both there.
    let waited_s = loop {
        assert!(waited_s() < 600, "passed for ever");
        if !running.is_empty() {
            let (_, one): (usize, TaskContext) = running.remove(0);
            workers.ask(one.schedule());
            one.finish(Ok(()));
        }
        workers.run(2 * SECOND);
        running.extend(workers.longs());
        if running.iter().any(|(_, context)| context.schedule() == "both") {
            break waited_s();
        }
    };
    assert!((256..280).contains(&waited_s), "{waited_s}");
}

#[test]
fn three_who_ask_at_once_get_one_run() {
    let workers = Workers::new(vec![calm(), calm(), calm()]);
    let schedule: Schedule = serde_json::from_value(json!({"id": "s", "scope": "singleton", "tasks": [{"kind": "work"}]})).unwrap();
    workers.all[0].put(&schedule, None).unwrap();
    let how = RunNow { key: "deploy-7".to_owned(), ..RunNow::default() };
    let runs: Vec<u64> = workers.all.iter().map(|o| o.run_now("s", &how).unwrap()).collect();
    assert!(runs.iter().all(|r| *r == runs[0]), "{runs:?}");
    assert_eq!(workers.run(5 * SECOND).len(), 1);
}

#[test]
fn who_has_just_begun_to_give_out_work_starts_ten_a_second_and_worker() {
    let ramp = || OrchestratorOptions { ramp_up: Duration::from_secs(5), ramp_starts: 10, ..OrchestratorOptions::default() };
    let workers = Workers::new(vec![ramp(), ramp()]);
    workers.run(SECOND / 2);
    for n in 0..300 {
        let schedule = json!({"id": format!("s{n}"), "scope": "singleton", "tasks": [{"kind": "work"}]});
        workers.all[0].put_json(&schedule.to_string(), None).unwrap();
        workers.all[0].run_now(&format!("s{n}"), &RunNow::default()).unwrap();
    }
    let slow: Vec<usize> = (0..4).map(|_| workers.run(SECOND).len()).collect();
    // The seconds of the bound are the clock's own; the first and the last of these may touch two of them.
    assert!(slow.iter().all(|n| (10..=40).contains(n)), "{slow:?}");
    assert!(slow.iter().sum::<usize>() <= 5 * 20, "{slow:?}");
    let rest = workers.run(3 * SECOND).len();
    assert_eq!(rest + slow.iter().sum::<usize>(), 300);
}

#[test]
fn ten_a_second_for_half_a_minute_is_the_default() {
    let options = OrchestratorOptions::default();
    assert_eq!((options.ramp_up, options.ramp_starts), (Duration::from_secs(30), 10));
}

#[test]
fn each_node_does_its_part_as_many_at_once_as_are_allowed() {
    for (scope, at_once) in [
        (json!({}), 1),
        (json!({"max_parallel": 1}), 1),
        (json!({"max_parallel": 3}), 3),
        (json!({"max_parallel": 0}), 5),
        (json!({"max_parallel": 0, "max_parallel_percent": 40}), 2),
        (json!({"max_parallel": 3, "max_parallel_percent": 40}), 2),
        (json!({"max_parallel": 0, "max_parallel_percent": 1}), 1),
    ] {
        let workers = Workers::new((0..5).map(|_| calm()).collect());
        workers.run(SECOND);
        workers.put_long("s", json!({"scope": {"each_node": scope}, "every_ms": MINUTE}));
        let (mut running, mut done, mut most) = (Vec::new(), BTreeSet::new(), 0);
        workers.run(MINUTE - SECOND - SECOND / 2);
        assert!(workers.longs().is_empty());
        workers.run(2 * SECOND);
        loop {
            running.extend(workers.longs());
            most = most.max(running.len());
            let Some((node, context)): Option<(usize, TaskContext)> = running.pop() else { break };
            assert_eq!(context.target(), format!("w{node}"));
            assert!(done.insert(node), "{scope}: {node} did it twice");
            context.finish(Ok(()));
            // The next one begins with the end of this one, not a quarter of a second later.
            workers.run(30);
        }
        assert_eq!((done.len(), most), (5, at_once), "{scope}");
    }
}

#[test]
fn each_shard_is_done_by_one_of_its_nodes_as_many_at_once_as_are_allowed() {
    for (scope, at_once) in [(json!({}), 6), (json!({"max_parallel": 1}), 1), (json!({"max_parallel": 4}), 4)] {
        let workers = Workers::new((0..3).map(|_| calm()).collect());
        // Each shard has two replicas: only one of them does it.
        let owners = |shard: usize| vec![format!("w{}", shard % 3), format!("w{}", (shard + 1) % 3)];
        let shards: Vec<_> = (0..6).map(|shard| (format!("shard{shard}"), owners(shard))).collect();
        for orchestrator in &workers.all {
            let shards = shards.clone();
            orchestrator.set_topology(Some(Arc::new(move |_: &Schedule| Ok(shards.clone())))).unwrap();
        }
        workers.run(SECOND);
        workers.put_long("s", json!({"scope": {"each_shard": scope}, "every_ms": MINUTE}));
        let (mut running, mut done, mut most) = (Vec::new(), BTreeSet::new(), 0);
        workers.run(MINUTE);
        loop {
            running.extend(workers.longs());
            most = most.max(running.len());
            let Some((node, context)): Option<(usize, TaskContext)> = running.pop() else { break };
            let shard = shards.iter().find(|(name, _)| name == context.target()).unwrap();
            assert!(shard.1.contains(&format!("w{node}")) && done.insert(shard.0.clone()), "{scope}: {} at {node}", shard.0);
            context.finish(Ok(()));
            workers.run(SECOND);
        }
        assert_eq!((done.len(), most), (6, at_once), "{scope}");
    }
}

#[test]
fn a_tick_of_each_node_halts_after_so_many_failures_and_the_next_one_begins_anew() {
    let workers = Workers::new((0..5).map(|_| calm()).collect());
    workers.run(SECOND);
    let scope = json!({"each_node": {"max_parallel": 1, "halt_after_failures": 2}});
    workers.put_long("s", json!({"scope": scope, "every_ms": 10 * MINUTE}));
    for tick in 1..=2 {
        workers.run(START + tick * 10 * MINUTE + SECOND - workers.clock.realtime_ns() / 1_000_000);
        let mut failed = 0;
        while let Some((_, context)) = workers.longs().pop() {
            failed += 1;
            context.finish(Err("broken".to_owned()));
            workers.run(SECOND);
        }
        assert_eq!(failed, 2, "tick {tick}");
        let lines = workers.history("s");
        let of = |state: &str, reason: &str| {
            let same = |l: &&Value| l["tick_ms"] == START + tick * 10 * MINUTE && l["state"] == state;
            lines.iter().filter(same).filter(|l| l["reason"].as_str().unwrap().ends_with(reason)).count()
        };
        assert_eq!((of("failed", "broken"), of("skipped", "halted")), (2, 3), "{lines:?}");
    }
}

#[test]
fn a_wall_clock_that_is_set_neither_ends_nor_prolongs_a_lease() {
    // The first one gives out work, the others do it.
    let able = || OrchestratorOptions { drive: false, labels: BTreeMap::from([("able".to_owned(), "yes".to_owned())]), ..calm() };
    let workers = Workers::new(vec![calm(), able(), able()]);
    workers.put_long("s", json!({"scope": "singleton", "lost_retries": 3, "requires": {"able": "yes"}}));
    let run = workers.all[0].run_now("s", &RunNow::default()).unwrap();
    workers.run(SECOND);
    let (holder, context) = workers.longs().pop().unwrap();
    let wall = |ms: i64| workers.clock.set_realtime(((workers.clock.realtime_ns() / 1_000_000) as i64 + ms) as u64 * 1_000_000);
    for jump_ms in [3_600_000, -7_200_000, 3_600_000, 86_400_000, -86_400_000] {
        wall(jump_ms);
        workers.run(20 * SECOND);
        context.check().unwrap();
        assert_eq!((context.stop(), workers.longs().len()), (Stop::No, 0));
    }
    // Its node sends nothing any more: the run is another's after the lease, whatever the wall clock says.
    workers.run_without(holder, 5 * SECOND);
    wall(7_200_000);
    workers.run_without(holder, 4 * SECOND);
    assert!(workers.longs().is_empty());
    wall(-10_800_000);
    workers.run_without(holder, 8 * SECOND);
    let (next, again) = workers.longs().pop().unwrap();
    assert_eq!((next, again.run(), again.attempt()), (3 - holder, run, 2));
    assert!(again.token() > context.token());
}

#[test]
fn a_renewal_that_is_silently_dead_is_noticed_by_who_relies_on_it() {
    let workers = Workers::new(vec![calm()]);
    workers.put_long("s", json!({"scope": "singleton"}));
    workers.all[0].run_now("s", &RunNow::default()).unwrap();
    workers.run(SECOND);
    let (_, context) = workers.longs().pop().unwrap();
    context.check().unwrap();
    // Nothing moves any more but time: no thread tells it, no answer comes.
    workers.clock.advance(14_000 * 1_000_000);
    let late = workers.clock.clone();
    late.advance(600 * 1_000_000);
    assert_eq!(context.check().unwrap_err().status(), Status::Expired);
    assert_eq!((context.stop(), context.remaining(), context.pace(1)), (Stop::Lost, Duration::ZERO, false));
}

#[test]
fn what_happened_is_counted_by_reason_and_what_waits_is_seen() {
    let workers = Workers::new(vec![OrchestratorOptions { capacity: 2, ..calm() }]);
    workers.all[0].set_budget("disk", 1).unwrap();
    workers.put_long("a", json!({"scope": "singleton", "every_ms": 10 * SECOND, "budgets": {"disk": 1}}));
    workers.put_long("b", json!({"scope": "singleton", "budgets": {"disk": 1}}));
    workers.put_long("c", json!({"scope": "singleton", "priority": 1}));
    workers.put_long("d", json!({"scope": "singleton"}));
    workers.put_long("w", json!({"scope": "singleton", "every_ms": 10 * SECOND, "windows": [{"from_min": 600, "to_min": 660}]}));
    workers.run(10 * SECOND + SECOND);
    for id in ["b", "c", "d"] {
        workers.all[0].run_now(id, &RunNow::default()).unwrap();
    }
    workers.run(20 * SECOND);
    let status = workers.all[0].status().unwrap();
    assert_eq!(status["waiting"], json!({"budget disk": 1, "room": 1}));
    assert_eq!((&status["due"], &status["budgets"]["disk"]), (&json!(2), &json!({"limit": 1, "used": 1})));
    let reasons = &status["counts"]["reasons"];
    assert_eq!(*reasons, json!({"misfire": 0, "deadline": 0, "window": 3, "blackout": 0, "overlap": 2, "halted": 0, "locked": 0}));
    for (_, context) in workers.longs() {
        context.finish(Ok(()));
    }
    workers.run(SECOND);
    let status = workers.all[0].status().unwrap();
    assert_eq!(status["waiting"], json!({}));
    let of = |name: &str| status[name].as_u64().unwrap();
    assert!(of("run_duration_p50_ms") >= 20 * SECOND && of("run_duration_p99_ms") <= MINUTE, "{status}");
    assert!(of("claim_latency_p99_ms") <= 10 && of("start_lag_p50_ms") <= 1_000, "{status}");
    assert!(status["figures"]["renewal_gap_max_ms"].as_u64().unwrap() >= 4 * SECOND);
}

#[test]
fn who_is_dropped_gives_out_no_more_work_and_gets_none() {
    let mut workers = Workers::new(vec![calm(), calm()]);
    workers.all[0].put_json(r#"{"id": "s", "scope": "singleton", "every_ms": 1000, "tasks": [{"kind": "work"}]}"#, None).unwrap();
    assert!(workers.run(5 * SECOND).len() >= 4);
    let drives = |o: &Orchestrator| o.status().unwrap()["drives"] == json!(true);
    assert!(drives(&workers.all[0]));
    drop(workers.all.remove(0));
    let begun = workers.run(10 * SECOND);
    assert!(drives(&workers.all[0]));
    assert!(begun.len() >= 9 && begun.iter().all(|(n, _)| *n == 1), "{begun:?}");
}

// G5.
#[test]
fn who_gave_out_work_and_no_longer_believes_that_it_may_does_so_again() {
    let workers = Workers::new(vec![calm(), calm()]);
    workers.all[0].put_json(r#"{"id": "s", "scope": "singleton", "every_ms": 1000, "tasks": [{"kind": "work"}]}"#, None).unwrap();
    assert!(workers.run(5 * SECOND).len() >= 4);
    // Its session's hour is over in its own view, and not yet in the ledger's: there it goes on, and with it the lock of whoever gives out work.
    workers.clock.advance(3_560_000 * 1_000_000);
    for orchestrator in &workers.all {
        orchestrator.step();
    }
    workers.run(15 * SECOND);
    assert!(workers.run(10 * SECOND).len() >= 9);
}

// I-26, G1.
#[test]
fn an_attempt_that_was_lost_here_is_not_begun_here_again() {
    let workers = Workers::new(vec![calm()]);
    workers.put_long("s", json!({"scope": "singleton", "lease_ms": 1000, "lost_retries": 1}));
    workers.all[0].run_now("s", &RunNow::default()).unwrap();
    workers.run(50);
    let (_, first) = workers.longs().remove(0);
    // Over in the holder's view, and not yet in the ledger's.
    workers.clock.advance(850_000_000);
    workers.all[0].step();
    assert_eq!(first.stop(), Stop::Lost);
    first.finish(Err("lost".to_owned()));
    workers.all[0].step();
    workers.put_long("other", json!({"scope": "singleton"}));
    workers.run(3 * SECOND);
    let begun: Vec<u32> = workers.longs().iter().map(|(_, task)| task.attempt()).collect();
    assert_eq!(begun, [2], "attempts begun after the first was lost");
}
