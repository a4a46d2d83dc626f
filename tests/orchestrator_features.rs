//! The features of the orchestrator, each through the node's interface, in virtual time.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tenure::base::rng::SeededRng;
use tenure::base::{Clock, Config, VirtualClock};
use tenure::ledger::orch::{OrchQuery, Schedule};
use tenure::node::orchestrator::{Handler, Orchestrator, OrchestratorOptions, RunNow, Stop, TaskContext};
use tenure::node::{Env, Node, Simulation};

/// 2026-01-01T00:00:00Z.
const START: u64 = 1_767_225_600_000;
const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

fn sim() -> Simulation {
    let sim = Simulation::new(START, 1).unwrap();
    for kind in ["work", "a", "b", "c"] {
        sim.handle(kind).unwrap();
    }
    sim
}

/// Puts a singleton of one task, with these fields besides.
fn put(sim: &Simulation, id: &str, fields: Value) -> u64 {
    let mut schedule = json!({"id": id, "scope": "singleton", "tasks": [{"kind": "work"}]});
    schedule.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    sim.orchestrator().put_json(&schedule.to_string(), None).unwrap()
}

/// Does every task at once until then: schedule, tick and start, both ms after the beginning (ticks before it count as 0).
fn until(sim: &Simulation, at: u64) -> Vec<(String, u64, u64)> {
    let mut done = Vec::new();
    while let Some(task) = sim.next_task(at) {
        done.push((task.schedule().to_owned(), (task.tick_ms() as u64).saturating_sub(START), sim.now_ms() - START));
        task.finish(Ok(()));
    }
    done
}

fn ticks(done: &[(String, u64, u64)], unit: u64) -> Vec<u64> {
    done.iter().map(|(_, tick, _)| tick / unit).collect()
}

fn history(sim: &Simulation, id: &str) -> Vec<Value> {
    let lines = sim.orchestrator().ask(&OrchQuery::History { schedule: id.to_owned(), limit: 1000 }).unwrap();
    lines.as_array().unwrap().clone()
}

fn state(sim: &Simulation, run: u64) -> String {
    sim.orchestrator().ask(&OrchQuery::Run(run)).unwrap()["state"].as_str().unwrap().to_owned()
}

#[test]
fn every_misfire_policy_after_a_pause() {
    for (misfire, deadline_ms, want) in [
        (json!("skip"), 0, vec![31]),
        (json!("run_once"), 0, vec![30, 31]),
        (json!({"run_all": 3}), 0, vec![28, 29, 30, 31]),
        (json!({"run_all": 100}), 150 * SECOND, vec![28, 29, 30, 31]),
    ] {
        let sim = sim();
        put(&sim, "s", json!({"every_ms": MINUTE, "misfire": misfire, "start_deadline_ms": deadline_ms, "overlap": {"buffer": 1}}));
        sim.orchestrator().pause(Some("s"), "repair", (START + 30 * MINUTE + 30 * SECOND) as i64).unwrap();
        assert!(until(&sim, START + 30 * MINUTE).is_empty(), "{misfire}");
        let mut want = want;
        if misfire == json!("skip") {
            // Half a minute late is not missed yet.
            want.insert(0, 30);
        }
        assert_eq!(ticks(&until(&sim, START + 31 * MINUTE + SECOND), MINUTE), want, "{misfire}");
        // Each tick was started or is in the history as missed.
        let missed: u64 = history(&sim, "s").iter().filter(|l| l["state"] == "missed").map(|l| l["count"].as_u64().unwrap()).sum();
        assert_eq!(missed + want.len() as u64, 31, "{misfire}");
    }
}

#[test]
fn a_window_that_closes_cancels_or_lets_finish() {
    for (on_close, stops) in [("cancel", Stop::WindowClosed), ("finish", Stop::No)] {
        let sim = sim();
        put(&sim, "s", json!({"cron": "0 1 * * *", "windows": [{"from_min": 60, "to_min": 120}], "on_close": on_close}));
        let task = sim.next_task(START + 2 * HOUR).unwrap();
        assert!(sim.next_task(START + 2 * HOUR - SECOND).is_none());
        assert_eq!(task.stop(), Stop::No);
        assert!(sim.next_task(START + 2 * HOUR + SECOND).is_none());
        assert_eq!(task.stop(), stops, "{on_close}");
        task.finish(if stops == Stop::No { Ok(()) } else { Err("stopped".to_owned()) });
        assert!(sim.next_task(START + 2 * HOUR + 2 * SECOND).is_none());
        let last = history(&sim, "s").pop().unwrap();
        assert_eq!(last["state"], if stops == Stop::No { "succeeded" } else { "cancelled" });
    }
}

#[test]
fn cancel_other_starts_only_once_the_old_run_has_stopped() {
    let sim = sim();
    put(&sim, "s", json!({"every_ms": MINUTE, "overlap": "cancel_other"}));
    let first = sim.next_task(START + MINUTE + SECOND).unwrap();
    assert!(sim.next_task(START + 2 * MINUTE + 10 * SECOND).is_none());
    assert_eq!(first.stop(), Stop::Cancelled);
    first.finish(Err("stopped".to_owned()));
    let second = sim.next_task(START + 2 * MINUTE + 11 * SECOND).unwrap();
    assert_eq!(second.tick_ms() as u64 - START, 2 * MINUTE);
    assert!(second.token() > first.token());
    second.finish(Ok(()));
}

#[test]
fn jitter_is_bounded_and_outlives_an_update() {
    let sim = sim();
    put(&sim, "s", json!({"every_ms": HOUR, "jitter_ms": 30 * MINUTE}));
    let offsets = |done: &[(String, u64, u64)]| done.iter().map(|(_, tick, at)| at - tick).collect::<Vec<_>>();
    let first = offsets(&until(&sim, START + 24 * HOUR - 1));
    assert!(first.iter().all(|o| *o < 30 * MINUTE) && first.iter().collect::<std::collections::BTreeSet<_>>().len() > 10, "{first:?}");
    // Another node, and one whose schedule was written anew halfway, start at the same instants.
    let other = self::sim();
    put(&other, "s", json!({"every_ms": HOUR, "jitter_ms": 30 * MINUTE}));
    let mut again = offsets(&until(&other, START + 10 * HOUR - 1));
    put(&other, "s", json!({"every_ms": HOUR, "jitter_ms": 30 * MINUTE, "priority": 3}));
    again.extend(offsets(&until(&other, START + 24 * HOUR - 1)));
    assert_eq!(first, again);
}

#[test]
fn a_failure_that_is_not_to_be_tried_again_halts_the_run() {
    let sim = sim();
    put(
        &sim,
        "s",
        json!({"halt_on_failure": true, "width": 2, "tasks": [
            {"kind": "a", "retry": {"max": 5, "base_ms": 10, "jitter_percent": 0}, "retry_on": ["busy"]},
            {"kind": "b", "after": [{"task": "a"}]},
            {"kind": "c"},
        ]}),
    );
    let run = sim.orchestrator().run_now("s", &RunNow::default()).unwrap();
    let (mut seen, mut other) = (Vec::new(), None);
    while let Some(task) = sim.next_task(sim.now_ms() + SECOND) {
        seen.push((task.kind().to_owned(), task.try_number()));
        match (task.kind(), task.try_number()) {
            ("c", _) => other = Some(task),
            (_, 1) => task.finish(Err("busy: a lock".to_owned())),
            _ => task.finish(Err("disk full".to_owned())),
        }
    }
    seen.sort();
    assert_eq!(seen, [("a".to_owned(), 1), ("a".to_owned(), 2), ("c".to_owned(), 1)]);
    let other = other.unwrap();
    assert_eq!(other.stop(), Stop::Halted);
    other.finish(Err("stopped".to_owned()));
    assert!(sim.next_task(sim.now_ms() + SECOND).is_none());
    assert_eq!(state(&sim, run), "failed");
}

#[test]
fn throttles_follow_the_time_of_day_and_edits() {
    let sim = sim();
    let night = json!({"window": {"from_min": 60, "to_min": 120}, "throttle": {"intensity": 1000, "bytes_per_s": 0}});
    put(&sim, "s", json!({"throttle": {"intensity": 250, "bytes_per_s": 1 << 20}, "throttle_at": [night]}));
    sim.orchestrator().run_now("s", &RunNow::default()).unwrap();
    let task = sim.next_task(START + MINUTE).unwrap();
    let now = |task: &TaskContext| (task.throttle().intensity, task.throttle().bytes_per_s);
    assert_eq!(now(&task), (250, 1 << 20));
    assert!(sim.next_task(START + 90 * MINUTE).is_none());
    assert_eq!(now(&task), (1000, 0));
    assert!(sim.next_task(START + 121 * MINUTE).is_none());
    assert_eq!(now(&task), (250, 1 << 20));
    put(&sim, "s", json!({"throttle": {"intensity": 500, "bytes_per_s": 7}}));
    assert_eq!(now(&task), (500, 7));
    task.finish(Ok(()));
}

#[test]
fn who_has_waited_long_goes_before_who_is_important() {
    let sim = sim();
    sim.orchestrator().set_budget("disk", 1).unwrap();
    // Of three that are important one is always due; the other gets its place by waiting only.
    for n in 0..3 {
        put(&sim, &format!("high{n}"), json!({"every_ms": SECOND, "priority": 30, "budgets": {"disk": 1}}));
    }
    put(&sim, "low", json!({"every_ms": MINUTE, "priority": 0, "budgets": {"disk": 1}}));
    let mut low = Vec::new();
    while let Some(task) = sim.next_task(START + 2 * MINUTE + 50 * SECOND) {
        // Somebody always waits, so none of them waits for a timer.
        if task.schedule() == "low" {
            low.push((sim.now_ms() - task.tick_ms() as u64) / SECOND);
        }
        assert!(sim.next_task(sim.now_ms() + 2_500).is_none());
        task.finish(Ok(()));
    }
    // A level for each second of waiting: it waits for as long as the others are more important, and no longer.
    assert!(!low.is_empty() && low.iter().all(|s| (20..40).contains(s)), "{low:?}");
}

#[test]
fn the_history_is_a_ring_and_a_backfill_asks_for_nothing_twice() {
    let sim = sim();
    put(&sim, "s", json!({"every_ms": MINUTE}));
    until(&sim, START + 150 * MINUTE);
    let lines = history(&sim, "s");
    assert_eq!(lines.len(), 100);
    assert_eq!(lines[99]["tick_ms"].as_u64().unwrap(), START + 150 * MINUTE);

    // Of one that is off: what is asked for by hand is done all the same.
    put(&sim, "b", json!({"cron": "0 * * * *", "enabled": false}));
    let (from, to) = ((START - 24 * HOUR) as i64, START as i64);
    let runs = sim.orchestrator().backfill("b", "", from, to).unwrap();
    assert_eq!(runs.len(), 25);
    let done = until(&sim, sim.now_ms() + 10 * MINUTE);
    assert_eq!(done.iter().filter(|d| d.0 == "b").count(), 25);
    let mut of: Vec<_> = history(&sim, "b").iter().map(|l| l["tick_ms"].as_i64().unwrap()).collect();
    of.sort_unstable();
    of.dedup();
    assert_eq!(of.len(), 25);
    assert_eq!(sim.orchestrator().backfill("b", "", from, to).unwrap(), runs);
    assert!(until(&sim, sim.now_ms() + MINUTE).iter().all(|d| d.0 == "s"));
}

/// Several workers of one ledger, moved by hand.
struct Workers {
    clock: VirtualClock,
    node: Node,
    all: Vec<Orchestrator>,
    begun: Arc<Mutex<Vec<(usize, String)>>>,
}

impl Workers {
    fn new(options: Vec<OrchestratorOptions>) -> Workers {
        let clock = VirtualClock::new(START * 1_000_000);
        let mut config = Config::new();
        config.set("session_ttl_ms", "3600000").unwrap();
        config.set("memory_shards", "1").unwrap();
        let env = Env { clock: Arc::new(clock.clone()), rng: Box::new(SeededRng::new(1)), manual: true };
        let node = Node::open_with(&config, env).unwrap();
        let begun: Arc<Mutex<Vec<(usize, String)>>> = Arc::default();
        let mut all = Vec::new();
        for (n, options) in options.into_iter().enumerate() {
            let session = node.open_session(&format!("w{n}"), Duration::from_secs(3600)).unwrap();
            let orchestrator = session.orchestrator(options, true).unwrap();
            let told = begun.clone();
            let handler = move |context: &TaskContext| {
                told.lock().unwrap().push((n, context.schedule().to_owned()));
                Ok(())
            };
            orchestrator.register("work", Handler::Blocking(Arc::new(handler))).unwrap();
            all.push(orchestrator);
        }
        Workers { clock, node, all, begun }
    }

    fn run(&self, ms: u64) -> Vec<(usize, String)> {
        let end = self.clock.monotonic_ns() + ms * 1_000_000;
        while self.clock.monotonic_ns() < end {
            self.node.step();
            for orchestrator in &self.all {
                orchestrator.step();
            }
            self.clock.advance(10_000_000);
        }
        std::mem::take(&mut *self.begun.lock().unwrap())
    }
}

fn calm() -> OrchestratorOptions {
    OrchestratorOptions { ramp_up: Duration::ZERO, ..OrchestratorOptions::default() }
}

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
    let begun = workers.run(10 * SECOND);
    let of = |id: &str| begun.iter().filter(|(_, s)| s == id).map(|(n, _)| *n).collect::<Vec<_>>();
    assert!(of("new").len() >= 9 && of("new").iter().all(|n| *n == 2), "{begun:?}");
    assert!(of("hdd").len() >= 9 && of("hdd").iter().all(|n| *n == 1), "{begun:?}");
    assert!(of("newer").is_empty());
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
