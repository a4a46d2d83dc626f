//! The orchestrator through the node's interface, in virtual time.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use serde_json::json;
use tenure::base::Status;
use tenure::ledger::orch::{OrchQuery, Schedule, Scope, Task};
use tenure::node::Simulation;
use tenure::node::orchestrator::{RunNow, Stop};

/// 2026-01-01T00:00:00Z.
const START: u64 = 1_767_225_600_000;
const MINUTE: u64 = 60_000;
const DAY: u64 = 1440 * MINUTE;

fn sim(kinds: &[&str]) -> Simulation {
    let sim = Simulation::new(START, 1).unwrap();
    for kind in kinds {
        sim.handle(kind).unwrap();
    }
    sim
}

fn schedule(id: &str, cron: &str) -> Schedule {
    Schedule {
        id: id.to_owned(),
        cron: cron.to_owned(),
        scope: Some(Scope::Singleton),
        tasks: vec![Task { kind: "work".to_owned(), ..Task::default() }],
        ..Schedule::default()
    }
}

/// Does every task at once until `until`, and counts by tick.
fn work(sim: &Simulation, until: u64) -> BTreeMap<i64, u32> {
    let mut done = BTreeMap::new();
    while let Some(task) = sim.next_task(until) {
        *done.entry(task.tick_ms()).or_default() += 1;
        task.finish(Ok(()));
    }
    done
}

fn history(sim: &Simulation, id: &str) -> Vec<(i64, String, String, u64)> {
    let lines = sim.orchestrator().ask(&OrchQuery::History { schedule: id.to_owned(), limit: 1000 }).unwrap();
    let line = |l: &serde_json::Value| {
        let text = |k: &str| l[k].as_str().unwrap().to_owned();
        (l["tick_ms"].as_i64().unwrap(), text("state"), text("reason"), l["count"].as_u64().unwrap())
    };
    lines.as_array().unwrap().iter().map(line).collect()
}

/// How many days there are, and what Python's simulation of the same days must give as well (`tests/python/test_orchestrator.py`, and for the
/// year `bench/orchestrator`). `TENURE_YEAR=1` asks for a year instead of a month.
fn golden_journal() -> (u64, String) {
    if std::env::var_os("TENURE_YEAR").is_some() {
        return (365, include_str!("golden/journal-year.txt").trim().to_owned());
    }
    (30, include_str!("golden/journal.txt").trim().to_owned())
}

#[test]
fn a_month_of_minutes_has_the_same_journal_everywhere() {
    let sim = sim(&["work"]);
    sim.orchestrator().put(&schedule("minutely", "* * * * *"), None).unwrap();
    let (days, golden) = golden_journal();
    let mut count = 0u64;
    while let Some(task) = sim.next_task(START + days * DAY) {
        count += 1;
        task.finish(Ok(()));
    }
    assert_eq!(count, days * 1440);
    assert_eq!(format!("{:016x}", sim.orchestrator().journal().unwrap()), golden);
}

#[test]
fn each_tick_runs_once_and_the_history_says_so() {
    let sim = sim(&["work"]);
    let revision = sim.orchestrator().put(&schedule("s", "*/10 * * * *"), Some(0)).unwrap();
    let error = sim.orchestrator().put(&schedule("s", "* * * * *"), Some(0)).unwrap_err();
    assert_eq!((error.status(), error.token()), (Status::Fenced, revision));
    let done = work(&sim, START + 60 * MINUTE);
    let ticks: Vec<i64> = (1..=6).map(|n| (START + n * 10 * MINUTE) as i64).collect();
    assert_eq!(done.keys().copied().collect::<Vec<_>>(), ticks);
    assert!(done.values().all(|n| *n == 1));
    assert_eq!(history(&sim, "s").len(), 6);
    let fires = sim.orchestrator().next_fires("s", None, 3).unwrap();
    assert_eq!(fires, [70, 80, 90].map(|m| (START + m * MINUTE) as i64));
}

#[test]
fn what_is_missed_is_judged_by_the_policy_and_recorded() {
    let sim = sim(&["work"]);
    let orchestrator = sim.orchestrator();
    orchestrator.put(&schedule("s", "* * * * *"), None).unwrap();
    orchestrator.pause(Some("s"), "repair", i64::MAX).unwrap();
    assert!(work(&sim, START + 30 * MINUTE).is_empty());
    orchestrator.unpause(Some("s")).unwrap();
    let done = work(&sim, START + 31 * MINUTE);
    assert_eq!(done.keys().copied().collect::<Vec<_>>(), [30, 31].map(|m| (START + m * MINUTE) as i64));
    assert_eq!(history(&sim, "s")[0], ((START + 29 * MINUTE) as i64, "missed".into(), "misfire".into(), 29));
}

// I-27.
#[test]
fn windows_and_blackouts_are_judged_with_the_claim() {
    let sim = sim(&["work"]);
    let mut s = schedule("s", "0 * * * *");
    s.windows = vec![serde_json::from_value(json!({"from_min": 22 * 60, "to_min": 4 * 60})).unwrap()];
    s.blackouts = vec![serde_json::from_value(json!({"from_min": 60, "to_min": 120})).unwrap()];
    sim.orchestrator().put(&s, None).unwrap();
    let hours: Vec<u64> = work(&sim, START + DAY).keys().map(|t| (*t as u64 - START) / (60 * MINUTE)).collect();
    assert_eq!(hours, [2, 3, 22, 23, 24]);
    let reasons: Vec<String> = history(&sim, "s").into_iter().filter(|l| l.1 == "skipped").map(|l| l.2).collect();
    assert_eq!(reasons.iter().filter(|r| *r == "blackout").count(), 1);
    assert_eq!(reasons.iter().filter(|r| *r == "window").count(), 18);
    // Asked for with force, it runs at once: of windows only.
    let hour = START + DAY + 8 * 60 * MINUTE;
    work(&sim, hour);
    let run = sim.orchestrator().run_now("s", &RunNow { force: true, key: "k".into(), ..RunNow::default() }).unwrap();
    assert_eq!(sim.orchestrator().run_now("s", &RunNow { force: true, key: "k".into(), ..RunNow::default() }).unwrap(), run);
    assert_eq!(work(&sim, hour + MINUTE).len(), 1);
    assert_eq!(sim.orchestrator().run_now("s", &RunNow { force: true, key: "k".into(), ..RunNow::default() }).unwrap(), run);
}

#[test]
fn a_failing_task_is_tried_again_and_then_stops_what_needs_it() {
    let sim = sim(&["a", "b", "c"]);
    let s: Schedule = serde_json::from_value(json!({
        "id": "dag", "scope": "singleton", "width": 0,
        "tasks": [
            {"kind": "a", "retry": {"max": 2, "base_ms": 1000, "jitter_percent": 0}},
            {"kind": "b", "after": [{"task": "a"}]},
            {"kind": "c", "after": [{"task": "a", "done": true}]},
        ],
    }))
    .unwrap();
    sim.orchestrator().put(&s, None).unwrap();
    let run = sim.orchestrator().run_now("dag", &RunNow::default()).unwrap();
    let mut seen = Vec::new();
    while let Some(task) = sim.next_task(START + MINUTE) {
        seen.push((task.kind().to_owned(), task.try_number(), sim.now_ms() - START));
        task.finish(if task.kind() == "a" { Err("disk full".into()) } else { Ok(()) });
    }
    let (first, second, third) = (seen[0].2, seen[1].2, seen[2].2);
    assert_eq!(seen.iter().map(|s| (s.0.as_str(), s.1)).collect::<Vec<_>>(), [("a", 1), ("a", 2), ("a", 3), ("c", 1)]);
    assert!(second - first >= 1000 && third - second >= 2000, "{seen:?}");
    let line = sim.orchestrator().ask(&OrchQuery::Run(run)).unwrap();
    assert_eq!((line["state"].as_str(), line["reason"].as_str()), (Some("failed"), Some("a: disk full")));
}

#[test]
fn a_cancel_reaches_the_handler_and_a_deaf_one_is_stuck() {
    let sim = sim(&["work"]);
    let mut s = schedule("s", "");
    s.grace_ms = 5_000;
    sim.orchestrator().put(&s, None).unwrap();
    let run = sim.orchestrator().run_now("s", &RunNow::default()).unwrap();
    let task = sim.next_task(START + MINUTE).unwrap();
    assert_eq!(task.stop(), Stop::No);
    sim.orchestrator().cancel(run, "by hand").unwrap();
    assert!(sim.next_task(sim.now_ms() + 100).is_none());
    assert_eq!(task.stop(), Stop::Cancelled);
    task.finish(Err("stopped".into()));
    sim.next_task(sim.now_ms() + 10);
    assert_eq!(sim.orchestrator().ask(&OrchQuery::Run(run)).unwrap()["state"], "cancelled");

    let run = sim.orchestrator().run_now("s", &RunNow::default()).unwrap();
    let task = sim.next_task(sim.now_ms() + MINUTE).unwrap();
    sim.orchestrator().cancel(run, "by hand").unwrap();
    assert!(sim.next_task(sim.now_ms() + 6_000).is_none());
    assert_eq!(sim.orchestrator().ask(&OrchQuery::Run(run)).unwrap()["state"], "stuck");
    // What it does from now on is refused.
    assert_eq!(task.save_checkpoint(b"x").unwrap_err().status(), Status::Fenced);
    assert_eq!(sim.orchestrator().status().unwrap()["counts"]["stuck"], 1);
}

// F49.
#[test]
fn a_run_outlives_its_lease_by_renewals_and_its_time_limit_ends_it() {
    let sim = sim(&["work"]);
    let mut s = schedule("s", "");
    s.max_runtime_ms = 120_000;
    sim.orchestrator().put(&s, None).unwrap();
    let run = sim.orchestrator().run_now("s", &RunNow::default()).unwrap();
    let task = sim.next_task(START + MINUTE).unwrap();
    task.progress(0.5);
    assert!(sim.next_task(sim.now_ms() + 60_000).is_none());
    task.check().unwrap();
    assert_eq!(sim.orchestrator().ask(&OrchQuery::Run(run)).unwrap()["progress"], 0.5);
    // Every third of 15 s, and once before it begins.
    assert_eq!(sim.orchestrator().status().unwrap()["counts"]["renewals"], 13);
    assert!(sim.next_task(sim.now_ms() + 61_000).is_none());
    assert_eq!(task.stop(), Stop::TimedOut);
    task.finish(Err("out of time".into()));
    sim.next_task(sim.now_ms() + 10);
    assert_eq!(sim.orchestrator().ask(&OrchQuery::Run(run)).unwrap()["state"], "timed_out");
}

#[test]
fn overlap_is_treated_as_the_schedule_says() {
    for (overlap, want) in [(json!("skip"), vec![1]), (json!({"buffer": 1}), vec![1, 2]), (json!({"allow": 2}), vec![1, 2])] {
        let sim = sim(&["work"]);
        let s: Schedule = serde_json::from_value(json!({
            "id": "s", "cron": "* * * * *", "scope": "singleton", "tasks": [{"kind": "work"}], "overlap": overlap,
        }))
        .unwrap();
        sim.orchestrator().put(&s, None).unwrap();
        let first = sim.next_task(START + 90_000).unwrap();
        let mut ran = vec![(first.tick_ms() as u64 - START) / MINUTE];
        let second = sim.next_task(START + 150_000);
        ran.extend(second.iter().map(|t| (t.tick_ms() as u64 - START) / MINUTE));
        first.finish(Ok(()));
        ran.extend(sim.next_task(START + 170_000).iter().map(|t| (t.tick_ms() as u64 - START) / MINUTE));
        assert_eq!(ran, want, "{overlap}");
    }
}

#[test]
fn budgets_let_the_more_important_go_first_and_the_others_in_their_turn() {
    let sim = sim(&["work"]);
    sim.orchestrator().set_budget("disk", 1).unwrap();
    for (id, priority) in [("low", 0), ("high", 9), ("middle", 5)] {
        let mut s = schedule(id, "0 * * * *");
        (s.priority, s.budgets) = (priority, BTreeMap::from([("disk".to_owned(), 1)]));
        sim.orchestrator().put(&s, None).unwrap();
    }
    let mut order = Vec::new();
    while let Some(task) = sim.next_task(START + 62 * MINUTE) {
        order.push(task.schedule().to_owned());
        // It takes a second.
        assert!(sim.next_task(sim.now_ms() + 1000).is_none());
        task.finish(Ok(()));
    }
    assert_eq!(order, ["high", "middle", "low"]);
}

#[test]
fn a_checkpoint_and_finished_tasks_outlive_a_window() {
    let sim = sim(&["a", "b"]);
    let s: Schedule = serde_json::from_value(json!({
        "id": "s", "cron": "0 1 * * *", "scope": "singleton", "on_close": "checkpoint",
        "windows": [{"from_min": 60, "to_min": 120}],
        "tasks": [{"kind": "a"}, {"kind": "b", "after": [{"task": "a"}]}],
    }))
    .unwrap();
    sim.orchestrator().put(&s, None).unwrap();
    sim.next_task(START + DAY).unwrap().finish(Ok(()));
    let b = sim.next_task(START + DAY).unwrap();
    assert_eq!((b.kind(), b.attempt()), ("b", 1));
    assert!(sim.next_task(START + 120 * MINUTE + 10_000).is_none());
    assert_eq!(b.stop(), Stop::WindowClosed);
    b.save_checkpoint(b"half").unwrap();
    b.finish(Err("to be continued".into()));
    let again = sim.next_task(START + 2 * DAY).unwrap();
    assert_eq!((again.kind(), again.attempt(), again.checkpoint()), ("b", 2, b"half".to_vec()));
    assert!(again.token() > b.token());
    assert_eq!(again.idempotency_key(), b.idempotency_key());
}

#[test]
fn what_is_wrong_with_a_schedule_is_named() {
    let sim = sim(&[]);
    for (text, field) in [
        (json!({"id": "s"}), "scope"),
        (json!({"id": "s", "scope": "singleton"}), "tasks"),
        (json!({"id": "a b", "scope": "singleton"}), "id"),
        (json!({"id": "s", "scope": "singleton", "tasks": [{"kind": "t"}], "cron": "nonsense"}), "cron"),
        (json!({"id": "s", "scope": "singleton", "tasks": [{"kind": "t"}], "zone": "Nowhere"}), "zone"),
        (json!({"id": "s", "scope": "singleton", "tasks": [{"kind": "t", "after": [{"task": "u"}]}]}), "u, which is no task"),
        (
            json!({"id": "s", "scope": "singleton",
                   "tasks": [{"kind": "t", "after": [{"task": "u"}]}, {"kind": "u", "after": [{"task": "t"}]}]}),
            "cycle",
        ),
        (json!({"id": "s", "scoop": "singleton"}), "scoop"),
    ] {
        let error = sim.orchestrator().put_json(&text.to_string(), None).unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument);
        assert!(error.message().contains(field), "{text}: {error}");
    }
}
