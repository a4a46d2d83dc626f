//! What has to wait, and that it starts with what it waited for, in virtual time: `next_task` with the present instant lets no time pass.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use serde_json::{Value, json};
use tenure::ledger::orch::OrchQuery;
use tenure::node::Simulation;
use tenure::node::orchestrator::{RunNow, Stop, TaskContext};

/// 2026-01-01T00:00:00Z.
const START: u64 = 1_767_225_600_000;
const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;

fn sim() -> Simulation {
    let sim = Simulation::new(START, 1).unwrap();
    sim.handle("work").unwrap();
    sim
}

/// Puts a singleton of one task, with these fields besides.
fn put(sim: &Simulation, id: &str, fields: Value) {
    let mut schedule = json!({"id": id, "scope": "singleton", "tasks": [{"kind": "work"}]});
    schedule.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    sim.orchestrator().put_json(&schedule.to_string(), None).unwrap();
}

fn ask(sim: &Simulation, id: &str) -> u64 {
    sim.orchestrator().run_now(id, &RunNow::default()).unwrap()
}

/// A task that can begin without the passing of time.
fn now(sim: &Simulation) -> Option<TaskContext> {
    let before = sim.now_ms();
    let task = sim.next_task(before);
    assert_eq!(sim.now_ms(), before);
    task
}

/// Time passes and nothing begins.
fn quiet(sim: &Simulation, ms: u64) {
    assert!(sim.next_task(sim.now_ms() + ms).is_none());
}

/// Proposals so far, by what was answered.
fn proposals(sim: &Simulation) -> Value {
    sim.orchestrator().status().unwrap()["figures"]["proposals"].clone()
}

#[test]
fn what_a_run_gives_back_is_taken_in_the_same_instant() {
    let sim = sim();
    sim.orchestrator().set_budget("disk", 2).unwrap();
    for (id, amount) in [("a", 2), ("b", 1), ("c", 1), ("d", 1)] {
        put(&sim, id, json!({"budgets": {"disk": amount}}));
        ask(&sim, id);
    }
    let a = now(&sim).unwrap();
    assert_eq!(a.schedule(), "a");
    quiet(&sim, 1_234);
    let before = proposals(&sim);
    a.finish(Ok(()));
    let (b, c) = (now(&sim).unwrap(), now(&sim).unwrap());
    assert_eq!((b.schedule(), c.schedule()), ("b", "c"));
    quiet(&sim, 777);
    b.finish(Err("no".to_owned()));
    assert_eq!(now(&sim).unwrap().schedule(), "d");
    // What was known to be too much was not proposed.
    assert_eq!(proposals(&sim)["budget_exhausted"], before["budget_exhausted"]);
    assert_eq!(proposals(&sim)["budget_exhausted"], Value::Null);
}

#[test]
fn a_limit_that_is_raised_wakes_and_one_that_never_suffices_stands_in_nobodys_way() {
    let sim = sim();
    sim.orchestrator().set_budget("disk", 1).unwrap();
    put(&sim, "big", json!({"budgets": {"disk": 3}}));
    put(&sim, "small", json!({"budgets": {"disk": 1}}));
    ask(&sim, "big");
    quiet(&sim, 10 * MINUTE);
    ask(&sim, "small");
    now(&sim).unwrap().finish(Ok(()));
    quiet(&sim, 100);
    sim.orchestrator().set_budget("disk", 3).unwrap();
    assert_eq!(now(&sim).unwrap().schedule(), "big");
}

#[test]
fn who_needs_much_is_passed_for_a_while_and_then_no_more() {
    let sim = sim();
    sim.orchestrator().set_budget("disk", 2).unwrap();
    put(&sim, "big", json!({"budgets": {"disk": 2}}));
    for id in ["small1", "small2"] {
        put(&sim, id, json!({"budgets": {"disk": 1}, "priority": 255}));
        ask(&sim, id);
    }
    let mut running = vec![now(&sim).unwrap(), now(&sim).unwrap()];
    let asked = sim.now_ms();
    ask(&sim, "big");
    // One of the two is always at work, and the next of it waits already.
    let mut passed = 0;
    while sim.now_ms() < asked + 20 * MINUTE {
        let one = running.remove(0);
        ask(&sim, one.schedule());
        quiet(&sim, 10 * SECOND);
        one.finish(Ok(()));
        match now(&sim) {
            Some(task) if task.schedule() == "big" => break,
            Some(task) => running.push(task),
            None if running.is_empty() => panic!("nobody works"),
            None => {
                // It is left for who has waited too long: that one goes once the other has ended.
                running.remove(0).finish(Ok(()));
                let big = now(&sim).unwrap();
                assert_eq!(big.schedule(), "big");
                break;
            }
        }
        passed += 1;
    }
    let waited = sim.now_ms() - asked;
    assert!(passed >= 20 && (256 * SECOND..300 * SECOND).contains(&waited), "passed {passed} times, {waited} ms");
}

/// Somebody waits for `id` while, of those that stand in its way, one is always at work and the next of it waits already. After how long it begins, ms.
fn waits_behind(sim: &Simulation, id: &str, others: &[&str]) -> u64 {
    let mut running = Vec::new();
    for other in others {
        ask(sim, other);
        running.push(now(sim).unwrap());
        assert_eq!(running.last().unwrap().schedule(), *other);
        quiet(sim, 5 * SECOND);
    }
    let asked = sim.now_ms();
    if id != "often" {
        ask(sim, id);
    }
    while sim.now_ms() < asked + 20 * MINUTE {
        if !running.is_empty() {
            let one: TaskContext = running.remove(0);
            ask(sim, one.schedule());
            one.finish(Ok(()));
        }
        while let Some(task) = now(sim) {
            if task.schedule() == id {
                let waited = sim.now_ms() - asked;
                task.finish(Ok(()));
                return waited;
            }
            running.push(task);
        }
        quiet(sim, 5 * SECOND);
    }
    panic!("{id} was passed for {} s", (sim.now_ms() - asked) / SECOND);
}

#[test]
fn who_needs_several_budgets_is_not_passed_for_ever_by_those_who_need_one_of_them() {
    let sim = sim();
    for (id, budgets) in [("a", json!({"cpu": 1})), ("b", json!({"disk": 1})), ("c", json!({"net": 1}))] {
        sim.orchestrator().set_budget(budgets.as_object().unwrap().keys().next().unwrap(), 1).unwrap();
        put(&sim, id, json!({"budgets": budgets, "priority": 255}));
    }
    put(&sim, "all", json!({"budgets": {"cpu": 1, "disk": 1, "net": 1}}));
    // At no moment are two of them free.
    let waited = waits_behind(&sim, "all", &["a", "b", "c"]);
    assert!((256 * SECOND..300 * SECOND).contains(&waited), "{waited}");
    // The others go on, and nothing is kept for anybody.
    let mut begun: Vec<String> = std::iter::from_fn(|| now(&sim)).map(|task| task.schedule().to_owned()).collect();
    begun.sort();
    assert_eq!(begun, ["a", "b", "c"]);
}

#[test]
fn what_is_kept_for_who_waits_is_free_again_when_that_one_gives_up() {
    let sim = sim();
    sim.orchestrator().set_budget("disk", 1).unwrap();
    sim.orchestrator().set_budget("net", 1).unwrap();
    put(&sim, "holder", json!({"budgets": {"net": 1}}));
    put(&sim, "both", json!({"budgets": {"disk": 1, "net": 1}}));
    put(&sim, "small", json!({"budgets": {"disk": 1}, "priority": 255}));
    ask(&sim, "holder");
    let holder = now(&sim).unwrap();
    let both = ask(&sim, "both");
    quiet(&sim, 255 * SECOND);
    // Until the bound whatever fits goes.
    ask(&sim, "small");
    now(&sim).unwrap().finish(Ok(()));
    quiet(&sim, 2 * SECOND);
    ask(&sim, "small");
    quiet(&sim, MINUTE);
    assert_eq!(sim.orchestrator().status().unwrap()["waiting"], json!({"budget disk": 1, "budget net": 1}));
    sim.orchestrator().cancel(both, "not needed").unwrap();
    assert_eq!(now(&sim).unwrap().schedule(), "small");
    holder.finish(Ok(()));
}

#[test]
fn a_schedule_that_is_due_often_waits_no_longer_for_that() {
    let sim = sim();
    sim.orchestrator().set_budget("disk", 2).unwrap();
    for id in ["small1", "small2"] {
        put(&sim, id, json!({"budgets": {"disk": 1}, "priority": 255}));
    }
    // Each of its ticks takes the place of the one before, which is missed; the waiting is that of all of them.
    put(&sim, "often", json!({"every_ms": 7 * SECOND, "budgets": {"disk": 2}}));
    let waited = waits_behind(&sim, "often", &["small1", "small2"]);
    assert!((200 * SECOND..300 * SECOND).contains(&waited), "{waited}");
    assert!(sim.orchestrator().status().unwrap()["counts"]["missed"].as_u64().unwrap() > 30);
}

#[test]
fn a_queue_of_runs_goes_on_without_a_pause_and_asks_for_each_once() {
    let sim = sim();
    put(&sim, "s", json!({}));
    for _ in 0..200 {
        ask(&sim, "s");
    }
    let mut tokens = Vec::new();
    while let Some(task) = now(&sim) {
        tokens.push(task.token());
        quiet(&sim, 7);
        task.finish(Ok(()));
    }
    assert_eq!(tokens.len(), 200);
    assert!(tokens.is_sorted());
    assert_eq!(proposals(&sim), json!({"claimed": 200}));
    assert_eq!(sim.now_ms() - START, 200 * 7);
}

#[test]
fn a_tick_that_meets_a_run_is_judged_at_once_whatever_its_budget() {
    for (overlap, left) in [(json!("skip"), 0), (json!({"buffer": 1}), 1)] {
        let sim = sim();
        sim.orchestrator().set_budget("disk", 1).unwrap();
        put(&sim, "s", json!({"every_ms": MINUTE, "budgets": {"disk": 1}, "overlap": overlap}));
        let first = sim.next_task(START + MINUTE).unwrap();
        quiet(&sim, 2 * MINUTE + 1);
        let lines = sim.orchestrator().ask(&OrchQuery::History { schedule: "s".to_owned(), limit: 9 }).unwrap();
        let skipped = lines.as_array().unwrap().iter().filter(|l| l["reason"] == "overlap").count();
        assert_eq!(skipped, 2 - left, "{overlap}: {lines}");
        // Its own run has the budget: no tick waits for it that is over.
        first.finish(Ok(()));
        assert_eq!(now(&sim).is_some(), left == 1, "{overlap}");
    }
}

#[test]
fn nothing_is_asked_again_while_nothing_changes() {
    let sim = sim();
    sim.orchestrator().set_budget("disk", 1).unwrap();
    put(&sim, "holder", json!({"budgets": {"disk": 1}}));
    ask(&sim, "holder");
    let holder = now(&sim).unwrap();
    for n in 0..500 {
        put(&sim, &format!("s{n:03}"), json!({"budgets": {"disk": 1}}));
        ask(&sim, &format!("s{n:03}"));
    }
    let version = |sim: &Simulation| sim.orchestrator().ask(&OrchQuery::Status).unwrap()["counts"]["claimed"].clone();
    let (before, claimed) = (proposals(&sim), version(&sim));
    quiet(&sim, 10 * MINUTE);
    assert_eq!((proposals(&sim), version(&sim)), (before, claimed));
    // Each that ends lets one begin.
    holder.finish(Ok(()));
    for n in 0..500 {
        let task = now(&sim).unwrap();
        assert_eq!(task.schedule(), format!("s{n:03}"));
        task.finish(Ok(()));
    }
    assert_eq!(proposals(&sim), json!({"claimed": 501}));
}

#[test]
fn a_buffered_tick_and_the_next_stage_of_a_run_begin_when_what_they_waited_for_ends() {
    let sim = sim();
    put(
        &sim,
        "s",
        json!({"every_ms": MINUTE, "overlap": {"buffer": 1}, "tasks": [
        {"kind": "work", "name": "one"}, {"kind": "work", "name": "two", "after": [{"task": "one"}]}]}),
    );
    let one = sim.next_task(START + MINUTE).unwrap();
    quiet(&sim, MINUTE + 333);
    one.finish(Ok(()));
    let two = now(&sim).unwrap();
    assert_eq!((two.task(), two.run()), ("two", one.run()));
    quiet(&sim, 321);
    two.finish(Ok(()));
    let next = now(&sim).unwrap();
    assert_eq!((next.task(), next.tick_ms() as u64), ("one", START + 2 * MINUTE));
}

#[test]
fn when_everything_goes_on_after_a_pause_without_an_end_ticks_go_on() {
    let sim = sim();
    put(&sim, "s", json!({"every_ms": MINUTE}));
    sim.orchestrator().pause(None, "repair", i64::MAX).unwrap();
    quiet(&sim, 10 * MINUTE + 5 * SECOND);
    sim.orchestrator().unpause(None).unwrap();
    // The latest that was missed, at once, and those that follow.
    let task = now(&sim).unwrap();
    assert_eq!(task.tick_ms() as u64, START + 10 * MINUTE);
    task.finish(Ok(()));
    assert_eq!(sim.next_task(START + 11 * MINUTE).unwrap().tick_ms() as u64, START + 11 * MINUTE);
}

#[test]
fn what_waits_past_its_deadline_is_missed_then_and_not_when_it_is_next_looked_at() {
    let sim = sim();
    sim.orchestrator().set_budget("disk", 1).unwrap();
    put(&sim, "holder", json!({"budgets": {"disk": 1}}));
    ask(&sim, "holder");
    let _holder = now(&sim).unwrap();
    put(&sim, "s", json!({"cron": "0 1 1 1 *", "budgets": {"disk": 1}, "start_deadline_ms": 90 * SECOND}));
    let missed = || sim.orchestrator().status().unwrap()["counts"]["missed"].clone();
    quiet(&sim, 61 * MINUTE);
    assert_eq!(missed(), 0);
    quiet(&sim, MINUTE);
    assert_eq!(missed(), 1);
}

#[test]
fn a_window_that_closes_on_what_waits_ends_its_tick() {
    let sim = sim();
    sim.orchestrator().set_budget("disk", 1).unwrap();
    put(&sim, "holder", json!({"budgets": {"disk": 1}}));
    ask(&sim, "holder");
    let holder = now(&sim).unwrap();
    put(&sim, "s", json!({"cron": "0 1 * * *", "budgets": {"disk": 1}, "windows": [{"from_min": 60, "to_min": 120}]}));
    quiet(&sim, 121 * MINUTE);
    let skipped = sim.orchestrator().ask(&OrchQuery::History { schedule: "s".to_owned(), limit: 9 }).unwrap();
    assert_eq!((skipped[0]["state"].as_str(), skipped[0]["reason"].as_str()), (Some("skipped"), Some("window")));
    holder.finish(Ok(()));
    assert!(now(&sim).is_none());
}

/// What `pace` takes, ms.
fn paced(sim: &Simulation, task: &TaskContext, worked_ms: u64, bytes: u64) -> u64 {
    quiet(sim, worked_ms);
    let before = sim.now_ms();
    assert!(task.pace(bytes));
    sim.now_ms() - before
}

#[test]
fn a_byte_rate_delays_by_bytes_over_rate() {
    let sim = sim();
    put(&sim, "s", json!({"throttle": {"intensity": 1000, "bytes_per_s": 1000}}));
    ask(&sim, "s");
    let task = now(&sim).unwrap();
    // A second's worth passes at once, and time pays for what follows, for the work's own as well.
    assert_eq!(paced(&sim, &task, 0, 1_000), 0);
    assert_eq!(paced(&sim, &task, 0, 500), 500);
    assert_eq!(paced(&sim, &task, 300, 500), 200);
    assert_eq!(paced(&sim, &task, 0, 60_000), 60_000);
    assert_eq!(paced(&sim, &task, 10_000, 1_000), 0);
    // In pieces that time pays for in fractions of a byte it is the same.
    let before = sim.now_ms();
    for _ in 0..4_000 {
        paced(&sim, &task, 1, 3);
    }
    assert_eq!(sim.now_ms() - before, 12_000);
    // Nobody's lease ends by it.
    task.check().unwrap();
    task.finish(Ok(()));
}

#[test]
fn an_intensity_rests_for_its_share_of_the_work() {
    for (intensity, work, rest) in [(1_000, 5_000, 0), (500, 5_000, 5_000), (250, 5_000, 15_000), (800, 4_000, 1_000), (1, 10, 9_990)] {
        let sim = sim();
        put(&sim, "s", json!({"throttle": {"intensity": intensity, "bytes_per_s": 0}}));
        ask(&sim, "s");
        let task = now(&sim).unwrap();
        assert_eq!(paced(&sim, &task, work, 1 << 40), rest, "d * (1 / i - 1) of {work} ms at {intensity}");
        // A rest is no work.
        assert_eq!(paced(&sim, &task, work, 0), rest);
    }
}

#[test]
fn who_rests_follows_edits_and_the_time_of_day_and_wakes_to_stop() {
    let sim = sim();
    let night = json!({"window": {"from_min": 60, "to_min": 120}, "throttle": {"intensity": 1000, "bytes_per_s": 1_000_000}});
    put(&sim, "s", json!({"throttle": {"intensity": 1000, "bytes_per_s": 10}, "throttle_at": [night], "lease_ms": 15_000}));
    ask(&sim, "s");
    let task = now(&sim).unwrap();
    // 100 000 bytes at 10 a second would take until the evening: at one o'clock it is over.
    let took = paced(&sim, &task, 0, 100_000);
    assert!((60 * MINUTE..=60 * MINUTE + 2 * SECOND).contains(&took), "{took}");
    // An edit counts at once for what is asked next, and within a second for who rests already.
    put(&sim, "s", json!({"throttle": {"intensity": 1000, "bytes_per_s": 100}}));
    assert_eq!(paced(&sim, &task, 60 * MINUTE, 600), 5 * SECOND);
    put(&sim, "s", json!({"throttle": {"intensity": 500, "bytes_per_s": 0}}));
    assert_eq!(paced(&sim, &task, 8 * SECOND, 600), 8 * SECOND);
    // Told to stop, it rests no longer: of 999 s of rest it sees what is left of the run's minute.
    put(&sim, "late", json!({"throttle": {"intensity": 1, "bytes_per_s": 0}, "max_runtime_ms": MINUTE}));
    ask(&sim, "late");
    let (task, began) = (now(&sim).unwrap(), sim.now_ms());
    quiet(&sim, SECOND);
    assert!(!task.pace(0));
    assert_eq!((task.stop(), sim.now_ms() - began), (Stop::TimedOut, MINUTE));
}

#[test]
fn who_waits_waits_as_long_as_it_was_told_whatever_its_lease() {
    let sim = sim();
    put(&sim, "s", json!({"lease_ms": 3_000}));
    ask(&sim, "s");
    let task = now(&sim).unwrap();
    assert!(!task.wait_stop(Duration::from_secs(600)));
    assert_eq!(sim.now_ms() - START, 600 * SECOND);
    task.check().unwrap();
}
