//! The features of the orchestrator, each through the node's interface, in virtual time.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::{Value, json};
use tenure::ledger::orch::OrchQuery;
use tenure::node::Simulation;
use tenure::node::orchestrator::{RunNow, Stop, TaskContext};

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
fn cancel_other_starts_once_a_deaf_run_is_fenced_off() {
    let sim = sim();
    put(&sim, "s", json!({"every_ms": MINUTE, "overlap": "cancel_other", "grace_ms": 10 * SECOND}));
    let first = sim.next_task(START + MINUTE + SECOND).unwrap();
    // It is told to stop, and does not.
    let second = sim.next_task(START + 2 * MINUTE + 30 * SECOND).unwrap();
    let waited = sim.now_ms() - (START + 2 * MINUTE);
    assert!((10 * SECOND..11 * SECOND).contains(&waited), "{waited}");
    assert_eq!((second.tick_ms() as u64 - START, state(&sim, first.run()).as_str()), (2 * MINUTE, "stuck"));
    assert!(first.check().is_err() && first.save_checkpoint(b"late").is_err() && second.check().is_ok());
    second.finish(Ok(()));
}

#[test]
fn jitter_never_passes_the_next_tick() {
    let sim = sim();
    put(&sim, "s", json!({"every_ms": MINUTE, "jitter_ms": 24 * HOUR, "misfire": {"run_all": 10}}));
    let done = until(&sim, START + 60 * MINUTE - 1);
    assert_eq!(ticks(&done, MINUTE), (1..60).collect::<Vec<_>>());
    assert!(done.iter().all(|(_, tick, at)| (*tick..tick + MINUTE).contains(at)), "{done:?}");
    // Spread over all of it.
    assert!((10..50).contains(&done.iter().filter(|(_, tick, at)| at - tick < MINUTE / 2).count()), "{done:?}");
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
fn tries_are_apart_as_the_task_says_and_under_one_claim() {
    for (jitter, lowest) in [(0, 100), (50, 50)] {
        let sim = sim();
        let retry = json!({"max": 6, "base_ms": 1_000, "cap_ms": 5_000, "jitter_percent": jitter});
        put(&sim, "s", json!({"tasks": [{"kind": "a", "retry": retry}]}));
        let run = sim.orchestrator().run_now("s", &RunNow::default()).unwrap();
        let (mut at, mut claims) = (Vec::new(), Vec::new());
        while let Some(task) = sim.next_task(START + MINUTE) {
            at.push(sim.now_ms());
            claims.push((task.run(), task.token(), task.attempt(), task.try_number() as usize - claims.len()));
            task.finish(Err("busy".to_owned()));
        }
        claims.dedup();
        assert_eq!((claims.len(), claims[0].0, claims[0].2, claims[0].3), (1, run, 1, 1));
        let pauses: Vec<u64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let full = [1_000, 2_000, 4_000, 5_000, 5_000, 5_000];
        assert_eq!(pauses.len(), full.len(), "jitter {jitter}");
        // A step of the simulation may come after it.
        let fits = |(pause, full): (&u64, u64)| (full * lowest / 100..=full + 10).contains(pause);
        assert!(pauses.iter().zip(full).all(fits), "jitter {jitter}: {pauses:?}");
        assert_eq!(pauses.iter().zip(full).all(|(pause, full)| *pause >= full), jitter == 0, "{pauses:?}");
        assert_eq!(state(&sim, run), "failed");
    }
}

#[test]
fn a_try_has_a_time_limit_of_its_own() {
    let sim = sim();
    put(&sim, "s", json!({"tasks": [{"kind": "a", "max_runtime_ms": 10 * SECOND}, {"kind": "b", "after": [{"task": "a"}]}]}));
    let run = sim.orchestrator().run_now("s", &RunNow::default()).unwrap();
    let task = sim.next_task(START + MINUTE).unwrap();
    assert!(sim.next_task(START + 9 * SECOND).is_none());
    assert_eq!(task.stop(), Stop::No);
    assert!(sim.next_task(START + 11 * SECOND).is_none());
    assert_eq!(task.stop(), Stop::TimedOut);
    task.finish(Err("out of time".to_owned()));
    assert!(sim.next_task(START + 12 * SECOND).is_none());
    assert_eq!(state(&sim, run), "timed_out");
}

#[test]
fn as_many_tasks_at_once_as_the_width_and_those_that_need_a_failed_one_are_skipped() {
    for (width, at_once) in [(1, 1), (2, 2), (0, 3)] {
        let sim = sim();
        put(
            &sim,
            "s",
            json!({"width": width, "tasks": [
                {"kind": "a"}, {"kind": "b"}, {"kind": "c"},
                {"kind": "work", "name": "needs-a", "after": [{"task": "a"}]},
                {"kind": "work", "name": "needs-that", "after": [{"task": "needs-a"}, {"task": "b"}]},
                {"kind": "work", "name": "in-any-case", "after": [{"task": "needs-that", "done": true}]},
            ]}),
        );
        let run = sim.orchestrator().run_now("s", &RunNow::default()).unwrap();
        let (mut running, mut most, mut done) = (Vec::new(), 0, Vec::new());
        loop {
            running.extend(std::iter::from_fn(|| sim.next_task(sim.now_ms())));
            most = most.max(running.len());
            if running.is_empty() {
                break;
            }
            let task: TaskContext = running.remove(0);
            done.push(task.task().to_owned());
            task.finish(if task.kind() == "a" { Err("disk full".to_owned()) } else { Ok(()) });
            if done.len() == 1 {
                // While it goes on it says what has become of each.
                running.extend(sim.next_task(sim.now_ms()));
                let tasks = sim.orchestrator().ask(&OrchQuery::Run(run)).unwrap()["tasks"].clone();
                let states: Vec<&str> = tasks.as_array().unwrap().iter().map(|t| t["state"].as_str().unwrap()).collect();
                assert_eq!(states, ["failed", "open", "open", "upstream_failed", "upstream_failed", "open"], "width {width}");
            }
        }
        done.sort();
        assert_eq!((most, done), (at_once, ["a", "b", "c", "in-any-case"].map(str::to_owned).to_vec()));
        let line = history(&sim, "s").pop().unwrap();
        assert_eq!((&line["state"], &line["reason"]), (&json!("failed"), &json!("a: disk full")));
        assert_eq!(line["tasks"], json!({"a": "failed", "needs-a": "upstream_failed", "needs-that": "upstream_failed"}));
    }
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

#[test]
fn a_window_that_closes_on_a_deaf_handler_leaves_it_stuck_after_the_grace() {
    let sim = sim();
    put(&sim, "s", json!({"cron": "0 1 * * *", "windows": [{"from_min": 60, "to_min": 120}], "grace_ms": 30 * SECOND}));
    let task = sim.next_task(START + 2 * HOUR).unwrap();
    assert!(sim.next_task(START + 2 * HOUR + 29 * SECOND).is_none());
    assert_eq!((task.stop(), state(&sim, task.run()).as_str()), (Stop::WindowClosed, "running"));
    assert!(sim.next_task(START + 2 * HOUR + 31 * SECOND).is_none());
    assert_eq!(state(&sim, task.run()), "stuck");
    // What it still does is fenced off.
    assert!(task.save_checkpoint(b"late").is_err() && task.check().is_err());
    // The defaults that are promised.
    put(&sim, "plain", json!({}));
    let (plain, _) = sim.orchestrator().definition("plain").unwrap();
    assert_eq!((plain.lease_ms, plain.grace_ms, plain.jitter_ms, plain.lost_retries()), (15_000, 30_000, 0, 0));
    assert_eq!(json!([plain.overlap, plain.misfire, plain.on_close]), json!(["skip", "run_once", "cancel"]));
}

#[test]
fn a_million_missed_ticks_are_one_line_and_the_next_ones_run() {
    let sim = sim();
    put(&sim, "s", json!({"every_ms": SECOND}));
    sim.orchestrator().pause(Some("s"), "repair", i64::MAX).unwrap();
    assert!(until(&sim, START + 1_000_000 * SECOND).is_empty());
    sim.orchestrator().unpause(Some("s")).unwrap();
    assert_eq!(ticks(&until(&sim, START + 1_000_003 * SECOND), SECOND), [1_000_000, 1_000_001, 1_000_002, 1_000_003]);
    let lines = history(&sim, "s");
    assert_eq!((lines.len(), lines[0]["state"].as_str()), (5, Some("missed")));
    assert!(lines[0]["count"].as_u64().unwrap() >= 10_000);
}

#[test]
fn a_civil_time_that_does_not_exist_stops_neither_its_schedule_nor_any_other() {
    // 29 March 2026: in Berlin there is no half past two, on 25 October there are two.
    let start = 1_774_569_600_000;
    for (gap, fold, spring, autumn) in [("shift", "first", 3, 3), ("skip", "last", 2, 3), ("shift", "both", 3, 4)] {
        for (first, days) in [(start, spring), (start + 210 * 24 * HOUR, autumn)] {
            let sim = Simulation::new(first, 1).unwrap();
            sim.handle("work").unwrap();
            put(&sim, "night", json!({"cron": "30 2 * * *", "zone": "Europe/Berlin", "gap": gap, "fold": fold}));
            put(&sim, "hourly", json!({"cron": "0 * * * *"}));
            let (mut night, mut hourly) = (0, 0);
            while let Some(task) = sim.next_task(first + 72 * HOUR - 1) {
                *(if task.schedule() == "night" { &mut night } else { &mut hourly }) += 1;
                task.finish(Ok(()));
            }
            assert_eq!((night, hourly), (days, 71), "{gap}, {fold}");
        }
    }
}

#[test]
fn force_opens_the_window_and_nothing_else() {
    let sim = sim();
    sim.orchestrator().set_budget("disk", 1).unwrap();
    // From one to two nothing is to run at all.
    let fields =
        json!({"windows": [{"from_min": 600, "to_min": 660}], "blackouts": [{"from_min": 60, "to_min": 120}], "budgets": {"disk": 1}});
    put(&sim, "s", fields);
    let asked = |force: bool| sim.orchestrator().run_now("s", &RunNow { force, ..RunNow::default() }).unwrap();
    let plain = asked(false);
    let begun = |at: u64| until(&sim, at).iter().map(|(_, _, begun)| *begun / MINUTE).collect::<Vec<_>>();
    assert!(begun(START + MINUTE).is_empty());
    asked(true);
    assert_eq!(begun(START + 2 * MINUTE), [1]);
    assert!(until(&sim, START + 70 * MINUTE).is_empty());
    asked(true);
    assert_eq!(begun(START + 5 * HOUR), [120]);
    // A pause and a budget hold it back as any other.
    sim.orchestrator().pause(Some("s"), "repair", (START + 6 * HOUR) as i64).unwrap();
    asked(true);
    assert_eq!(begun(START + 7 * HOUR), [360]);
    put(&sim, "other", json!({"budgets": {"disk": 1}}));
    sim.orchestrator().run_now("other", &RunNow::default()).unwrap();
    let other = sim.next_task(sim.now_ms()).unwrap();
    asked(true);
    assert!(begun(START + 8 * HOUR).is_empty());
    other.finish(Ok(()));
    assert_eq!(begun(START + 8 * HOUR + MINUTE), [480]);
    // The one that was not forced has waited for the window.
    assert_eq!((state(&sim, plain).as_str(), begun(START + 11 * HOUR)), ("due", vec![600]));
}

#[test]
fn a_fixed_rate_counts_from_its_anchor() {
    let sim = sim();
    put(&sim, "s", json!({"every_ms": HOUR, "anchor_ms": START - 10 * HOUR + 25 * MINUTE}));
    assert_eq!(ticks(&until(&sim, START + 4 * HOUR), MINUTE), [25, 85, 145, 205]);
    let fires = sim.orchestrator().next_fires("s", None, 2).unwrap();
    assert_eq!(fires, [265, 325].map(|minute| (START + minute * MINUTE) as i64));
}

#[test]
fn up_to_so_many_run_at_once_where_overlap_is_allowed_and_so_many_wait_where_it_is_buffered() {
    for (overlap, at_once, later) in [(json!({"allow": 3}), 3, 0), (json!({"buffer": 2}), 1, 2)] {
        let sim = sim();
        put(&sim, "s", json!({"every_ms": MINUTE, "overlap": overlap}));
        let mut running = Vec::new();
        while let Some(task) = sim.next_task(START + 6 * MINUTE + SECOND) {
            running.push(task);
        }
        assert_eq!(running.len(), at_once, "{overlap}");
        running.drain(..).for_each(|task| task.finish(Ok(())));
        let begun = until(&sim, sim.now_ms() + SECOND);
        assert_eq!(begun.len(), later, "{overlap}");
        let skipped: u64 = history(&sim, "s").iter().filter(|l| l["reason"] == "overlap").map(|l| l["count"].as_u64().unwrap()).sum();
        assert_eq!(skipped as usize, 6 - at_once - later, "{overlap}");
    }
}
