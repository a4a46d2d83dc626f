//! What must hold of the orchestrator's runs (I-26, I-27, G1 to G5 of `docs/orchestrator.md`), looked at from outside of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::counts::Fault;
use super::host::Up;
use super::judge::ledgers;
use super::tasks::{ASKED, WINDOWED, schedules};
use super::world::World;
use crate::base::Token;
use crate::ledger::orch::{Entry, HISTORY, Overlap, Scope, State};
use crate::node::orchestrator::TaskContext;

/// A claim that was made within the window is in the ledger no later than this after it, ms.
const LATE_MS: i64 = 6_000;
/// What may pass between a tick and the end of its judgement when all is well, ms.
const JUDGED_MS: i64 = 2_500;

/// A try that goes on.
struct Working {
    up: Arc<Up>,
    context: TaskContext,
}

/// What is remembered of runs.
#[derive(Default)]
pub struct Ticks {
    /// The largest wall time that any machine has shown, UTC ms.
    latest_ms: i64,
    /// Runs by schedule, target and tick.
    runs: BTreeMap<(String, String, i64), u64>,
    /// Runs by the key with which they were asked for.
    asked: BTreeMap<String, u64>,
    /// Tries that have begun: run, attempt, try.
    begun: BTreeSet<(u64, u32, u32)>,
    /// Tokens by run and attempt.
    tokens: BTreeMap<u64, BTreeMap<u32, u64>>,
    /// The resource: the largest token that it has seen, by run.
    resource: BTreeMap<u64, u64>,
    working: Vec<Working>,
    /// Up to which version the ledger has been looked at.
    seen: u64,
}

impl Ticks {
    /// A machine's wall clock shows this.
    pub fn hears(&mut self, wall_ms: i64) {
        self.latest_ms = self.latest_ms.max(wall_ms);
    }

    /// The largest wall time that any machine has shown.
    pub fn latest_ms(&self) -> i64 {
        self.latest_ms
    }

    fn hear_all(&mut self, world: &World) {
        world.processes().iter().for_each(|up| self.hears(up.wall_ms()));
    }

    /// A try begins.
    pub fn begins(&mut self, world: &World, up: &Arc<Up>, context: &TaskContext) {
        self.hear_all(world);
        let (run, attempt, token) = (context.run(), context.attempt(), context.token().0);
        world.trace.note(format_args!("{} begins {} of run {run}/{attempt} under {token}", up.name, context.idempotency_key()));
        assert!(self.begun.insert((run, attempt, context.try_number())), "G1: attempt {attempt} of run {run} is begun twice");
        assert!(context.tick_ms() <= self.latest_ms, "I-27: {context:?} is begun when no clock has shown more than {}", self.latest_ms);
        self.makes(context.schedule(), context.target(), context.tick_ms(), run);
        let tokens = self.tokens.entry(run).or_default();
        let other = tokens.insert(attempt, token).is_some_and(|known| known != token);
        assert!(!other && tokens.values().is_sorted_by(|a, b| a < b), "G2: run {run} has the tokens {tokens:?}");
        if context.try_number() == 1 {
            world.counts.done("run started");
            world.counts.done(match (attempt, context.schedule()) {
                (1, ASKED) => "run asked for started",
                (1, _) => "tick started",
                _ => "take-over",
            });
        }
        self.working.push(Working { up: up.clone(), context: context.clone() });
    }

    /// I-26, G1.
    fn makes(&mut self, schedule: &str, target: &str, tick_ms: i64, run: u64) {
        if schedule != ASKED {
            let known = *self.runs.entry((schedule.to_owned(), target.to_owned(), tick_ms)).or_insert(run);
            assert_eq!(known, run, "I-26, G1: two runs of {schedule}/{target}/{tick_ms}");
        }
    }

    /// A try writes to the resource.
    pub fn writes(&mut self, world: &World, up: &Up, context: &TaskContext) {
        let (run, token) = (context.run(), context.token().0);
        let largest = self.resource.entry(run).or_default();
        if token >= *largest {
            *largest = token;
            return world.counts.done("task wrote");
        }
        world.counts.done("late task write refused");
        let believes = context.check().is_ok();
        assert!(!world.calm || !believes, "G4: {} writes to run {run} under {token} after {largest}, and believes in it", up.name);
    }

    /// A try has ended.
    pub fn ends(&mut self, context: &TaskContext) {
        let same = |w: &Working| w.context.token() == context.token() && w.context.try_number() == context.try_number();
        self.working.retain(|w| !same(w));
    }

    /// Somebody has been told the run of a key.
    pub fn asked_for(&mut self, world: &World, key: &str, run: u64) {
        world.counts.done("run asked for");
        let known = *self.asked.entry(key.to_owned()).or_insert(run);
        assert_eq!(known, run, "I-26: two runs for the key {key}");
    }

    /// Looks at everything there is; `whole`: also at the ledger's records.
    pub fn look(&mut self, world: &World, whole: bool) {
        self.hear_all(world);
        self.working.retain(|w| !w.up.machine.is_dead());
        if world.calm {
            self.views(world);
        }
        let mut first = whole;
        ledgers(world, |_, ledger| {
            if std::mem::take(&mut first) {
                ledger.orch(|state| self.records(world, state));
            }
        });
    }

    /// G2, as I-03: whoever believes that it has a run does, in every copy of the ledger that has come so far.
    fn views(&self, world: &World) {
        for w in &self.working {
            let (run, token) = (w.context.run(), w.context.token());
            if !w.up.lives() || !w.up.machine.runs() || w.context.check().is_err() {
                continue;
            }
            world.counts.done("run's view compared");
            ledgers(world, |up, ledger| {
                let of = ledger.orch(|state| state.run(run).map(|r| r.token));
                assert!(
                    of == Some(token) || ledger.counts().last_token < token.0,
                    "G2: {} believes that it has run {run} under {token:?}, and {} knows {of:?}",
                    w.up.name,
                    up.name
                );
            });
        }
    }

    fn records(&mut self, world: &World, state: &State) {
        let seen = self.seen.min(state.version());
        let (changed, _) = state.changed_since(seen);
        for entry in changed {
            let definition = &*entry.definition;
            let (id, retries) = (definition.id.as_str(), definition.lost_retries());
            let mut at_work: BTreeMap<&str, u32> = BTreeMap::new();
            for run in entry.active.iter().filter_map(|id| state.run(*id)) {
                self.makes(id, &run.target, run.tick_ms, run.id);
                assert!(run.lost <= retries && run.attempt <= run.lost + 1, "G3: run {} of {id}: {run:?}", run.id);
                if run.token != Token(0) {
                    *at_work.entry(&run.target).or_default() += 1;
                }
            }
            let most = if let Overlap::Allow(n) = definition.overlap { n } else { 1 };
            assert!(at_work.values().all(|n| *n <= most), "I-26: {id} has {at_work:?} runs at work");
            if let Some(Scope::EachNode { max_parallel, .. }) = definition.scope {
                assert!(at_work.values().sum::<u32>() <= max_parallel, "I-26: {id} is at work on {at_work:?}");
            }
            for line in entry.history.iter().filter(|line| line.run != 0) {
                self.makes(id, &line.target, line.tick_ms, line.run);
            }
            if id == WINDOWED {
                in_window(world, entry, state);
            }
        }
        self.seen = state.version();
    }

    /// G5: whether the ticks of all targets of living nodes are judged up to the present, `wall_ms`.
    pub fn are_judged(world: &World, state: &State, wall_ms: i64) -> bool {
        let names: Vec<_> = world.processes().iter().map(|up| up.host().to_owned()).collect();
        schedules(world.began_ms).iter().filter(|s| s.every_ms != 0).all(|s| {
            let Some(entry) = state.schedule(&s.id) else { return false };
            let upto = wall_ms - JUDGED_MS - s.every_ms as i64;
            let judged = |target: &str| entry.marks.get(target).is_some_and(|mark| *mark >= upto);
            match s.scope {
                Some(Scope::EachNode { .. }) => names.iter().all(|name| judged(name)),
                _ => judged(""),
            }
        })
    }

    /// I-27, G5: in the end each tick up to the watermark is in exactly one line: of a run, or of ticks that were left out.
    pub fn account(&self, world: &World, state: &State) {
        for entry in schedules(world.began_ms).iter().filter(|s| s.every_ms != 0).filter_map(|s| state.schedule(&s.id)) {
            if entry.history.len() >= HISTORY {
                world.counts.done("history too long to account for");
                continue;
            }
            for target in entry.marks.keys() {
                let since_ms = match entry.definition.scope {
                    Some(Scope::EachNode { .. }) => state.workers().find(|w| w.name == *target).map(|w| w.since_ms),
                    _ => Some(i64::MIN),
                };
                let lines = lines(entry, state, target);
                let first = since_ms.map(|since_ms| since_ms.max(entry.created_ms));
                account_for(entry, target, &lines, first);
                world.counts.done_many("ticks accounted for", lines.iter().map(|(_, count)| count).sum());
            }
        }
    }
}

/// What there is of a target's ticks: the last tick of each line and how many it stands for, by time.
fn lines(entry: &Entry, state: &State, target: &str) -> Vec<(i64, u64)> {
    let mut lines: Vec<(i64, u64)> = entry.history.iter().filter(|l| l.target == target).map(|l| (l.tick_ms, l.count)).collect();
    lines.extend(entry.active.iter().filter_map(|id| state.run(*id)).filter(|r| r.target == target).map(|r| (r.tick_ms, 1)));
    lines.extend(entry.buffer.iter().filter(|(of, _)| of == target).map(|(_, tick)| (*tick, 1)));
    lines.sort_unstable();
    lines
}

fn account_for(entry: &Entry, target: &str, lines: &[(i64, u64)], first: Option<i64>) {
    let (id, every_ms) = (&entry.definition.id, entry.definition.every_ms as i64);
    let mut before = first;
    for (tick, count) in lines {
        assert_eq!(tick % every_ms, 0, "I-27: {id}/{target}: {tick} is no tick");
        if let Some(before) = before {
            let ticks = tick.div_euclid(every_ms) - before.div_euclid(every_ms);
            assert_eq!(ticks, *count as i64, "G5: {id}/{target}: the line of {tick} after {before} stands for {count}: {lines:?}");
        }
        before = Some(*tick);
    }
    let mark = entry.marks.get(target);
    assert_eq!(lines.last().map(|(tick, _)| tick), mark, "G5: {id}/{target}: the watermark is not that of the last line: {lines:?}");
}

/// I-27: no tick after the window has closed has a run, and none is begun long after it.
fn in_window(world: &World, entry: &Entry, state: &State) {
    let active = entry.active.iter().filter_map(|id| state.run(*id)).map(|r| (r.id, r.tick_ms, r.started_ms));
    let ended = entry.history.iter().filter(|l| l.run != 0).map(|l| (l.run, l.tick_ms, l.started_ms));
    // Between the proposer's look at the clock and the entry others may have told the ledger later times; of clocks that jump, any.
    let calm = world.calm && world.counts.of(Fault::Wall) == 0;
    for (run, tick_ms, started_ms) in active.chain(ended) {
        let late = calm && started_ms > world.closes_ms() + LATE_MS;
        assert!(tick_ms < world.closes_ms() && !late, "I-27: run {run} of {tick_ms}, begun at {started_ms}, is outside of the window");
    }
}
