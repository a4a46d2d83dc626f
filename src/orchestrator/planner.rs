//! What whoever gives work out proposes: a copy of the schedules, kept up with the ledger, and a judgement of what is due.
//!
//! Nothing here is trusted: each proposal is judged again by the ledger, so two planners at once, or one with an old copy or a
//! wrong clock, cost refused proposals and nothing else.
//!
//! What the copy says would be refused for want of a budget or of a worker with room is not proposed. It waits, and the change that brings what it
//! lacks (a run that ends, a limit that is raised, a worker that comes) brings the next plan as well.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::SessionId;
use crate::ledger::orch::{Budget, Entry, OrchAnswer, OrchOp, Pause, Reason, Schedule, State, Worker};

use super::calendar::Calendar;
use super::waits::{Stock, Waits};
use super::wishes::{Copy, NOBODY_MS, Wishes, wishes};

/// How long a refused proposal rests before it is made again, ms, unless its schedule changes sooner.
const REST_MS: i64 = 250;
/// Schedules looked at in one plan.
const PLAN_MAX: usize = 4_096;

/// What has changed in the ledger since a version.
#[derive(Debug, Default)]
pub struct Changes {
    version: u64,
    nominal_ms: i64,
    paused: Option<Pause>,
    workers: Vec<Worker>,
    budgets: BTreeMap<String, Budget>,
    removed: Vec<String>,
    schedules: Vec<Copy>,
}

impl Changes {
    /// Reads them. `clock` is the ledger's clock and `local_ms` the reader's own.
    pub fn read(state: &State, clock: u64, since: u64, local_ms: u64) -> Changes {
        if state.version() == since {
            return Changes { version: since, nominal_ms: state.nominal_ms(), ..Changes::default() };
        }
        let (changed, removed) = state.changed_since(since);
        Changes {
            version: state.version(),
            nominal_ms: state.nominal_ms(),
            paused: state.paused().cloned(),
            workers: state.workers().cloned().collect(),
            budgets: state.budgets().clone(),
            removed: removed.cloned().collect(),
            schedules: changed.map(|entry: &Entry| Copy::read(state, entry, clock, local_ms)).collect(),
        }
    }
}

/// Names a host's shards: each with the names of the nodes that have it. `None` when that is not known yet; then [`Planner::look_again`] is called
/// once it is.
pub type Topology<'a> = &'a dyn Fn(&Schedule) -> Option<Vec<(String, Vec<String>)>>;

/// Proposals, and when to plan again.
#[derive(Debug, Default)]
pub struct Plan {
    /// In the order in which they are to be made.
    pub ops: Vec<OrchOp>,
    /// When to plan again, UTC ms, should nothing change before.
    pub next_ms: Option<i64>,
}

/// What was given out, while the copy does not show it yet: the schedule, the definition, the worker.
type Given = (String, Arc<Schedule>, SessionId);

/// The copy.
#[derive(Debug, Default)]
pub struct Planner {
    version: u64,
    nominal_ms: i64,
    paused: Option<Pause>,
    workers: Vec<Worker>,
    budgets: BTreeMap<String, Budget>,
    copies: BTreeMap<String, Copy>,
    /// Schedules by their runs.
    homes: BTreeMap<u64, String>,
    /// When to look at a schedule: by time, and by id.
    looks: BTreeSet<(i64, String)>,
    look_at: BTreeMap<String, i64>,
    /// Those that lack something.
    waits: Waits,
    given: Vec<Given>,
    /// Refused for want of something that the copy says is there: they are looked at once the copy is newer.
    misled: BTreeSet<String>,
    /// Most starts in one plan.
    starts_max: usize,
}

impl Planner {
    /// An empty copy.
    pub fn new() -> Planner {
        Planner { starts_max: usize::MAX, ..Planner::default() }
    }

    /// The version that the copy is at.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Bounds the starts of the next plans.
    pub fn bound_starts(&mut self, most: usize) {
        self.starts_max = most;
    }

    /// How many workers have joined.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// How many starts lack what, by a word: `room`, `start`, `budget NAME`.
    pub fn waiting(&self) -> BTreeMap<String, usize> {
        self.waits.counts()
    }

    /// The present, UTC ms: the caller's wall clock, but never before what the ledger has been told.
    pub fn now_ms(&self, wall_ms: i64) -> i64 {
        wall_ms.max(self.nominal_ms)
    }

    /// Takes what has changed.
    pub fn take(&mut self, changes: Changes) {
        self.nominal_ms = self.nominal_ms.max(changes.nominal_ms);
        if changes.version == self.version {
            return;
        }
        self.version = changes.version;
        let paused = std::mem::replace(&mut self.paused, changes.paused);
        (self.workers, self.budgets) = (changes.workers, changes.budgets);
        for id in changes.removed {
            self.forget(&id);
        }
        for mut copy in changes.schedules {
            let id = copy.definition.id.clone();
            let old = self.copies.remove(&id);
            self.leave(old.as_ref());
            let (calendar, waited) = match old {
                Some(old) => ((old.revision == copy.revision).then_some(old.calendar), old.waited),
                None => (None, BTreeMap::new()),
            };
            copy.waited = waited;
            // A definition that this build cannot read, from a node with other zone data, waits for one that can.
            copy.calendar = calendar.unwrap_or_else(|| Calendar::new(&copy.definition).ok().map(Arc::new));
            self.given.retain(|(of, ..)| *of != id);
            self.homes.extend(copy.runs.iter().map(|r| (r.run, id.clone())));
            self.look(&id, i64::MIN);
            self.copies.insert(id, copy);
        }
        for id in std::mem::take(&mut self.misled) {
            if let Some(copy) = self.copies.get_mut(&id) {
                copy.rests_until = i64::MIN;
                self.look(&id, i64::MIN);
            }
        }
        if paused != self.paused {
            let all: Vec<String> = self.copies.keys().cloned().collect();
            all.iter().for_each(|id| self.look(id, i64::MIN));
        }
    }

    fn leave(&mut self, copy: Option<&Copy>) {
        for run in copy.into_iter().flat_map(|c| &c.runs) {
            self.homes.remove(&run.run);
        }
    }

    fn forget(&mut self, id: &str) {
        let copy = self.copies.remove(id);
        self.leave(copy.as_ref());
        self.waits.forget(id);
        self.given.retain(|(of, ..)| of != id);
        if let Some(at) = self.look_at.remove(id) {
            self.looks.remove(&(at, id.to_owned()));
        }
    }

    /// Looks at a schedule in the next plan.
    pub fn look_again(&mut self, id: &str) {
        if self.copies.contains_key(id) {
            self.look(id, i64::MIN);
        }
    }

    /// Looks at a schedule no later than `at`.
    fn look(&mut self, id: &str, at: i64) {
        if let Some(before) = self.look_at.get(id).copied() {
            if before <= at {
                return;
            }
            self.looks.remove(&(before, id.to_owned()));
        }
        self.look_at.insert(id.to_owned(), at);
        self.looks.insert((at, id.to_owned()));
    }

    /// Plans. `wall_ms` and `local_ms` are the caller's wall clock and the clock given to [`Changes::read`].
    pub fn plan(&mut self, wall_ms: i64, local_ms: u64, topology: Topology<'_>) -> Plan {
        let now_ms = self.now_ms(wall_ms);
        let mut stock = Stock::new(std::mem::take(&mut self.workers), self.budgets.clone(), self.starts_max);
        for (_, definition, worker) in &self.given {
            stock.take(definition, *worker);
        }
        let (mut ops, mut seen) = (Vec::new(), BTreeSet::new());
        while seen.len() < PLAN_MAX {
            let mut ids = self.due(now_ms, PLAN_MAX - seen.len());
            ids.extend(self.waits.ready(&stock, &seen, now_ms));
            if ids.is_empty() {
                break;
            }
            let mut all = Vec::new();
            for id in ids {
                if !seen.insert(id.clone()) {
                    continue;
                }
                let found = self.wishes_of(&id, &stock.workers, (now_ms, local_ms), topology);
                if let Some(again) = found.again_ms {
                    self.look(&id, again.max(now_ms + 1));
                }
                all.extend(found.all.into_iter().map(|wish| (wish, found.slots)));
            }
            // What has waited longest goes first among equals; waiting raises the priority, so nothing waits for ever.
            all.sort_by_key(|(wish, _)| (wish.rank, wish.at_ms));
            let mut begun: BTreeMap<String, usize> = BTreeMap::new();
            for (wish, slots) in all {
                if !wish.is_start() {
                    ops.push(wish.into_op());
                    continue;
                }
                let begun = begun.entry(wish.definition.id.clone()).or_default();
                // Beyond that it is looked at when one of those that run ends.
                if *begun >= slots {
                    continue;
                }
                if wish.meets {
                    ops.push(wish.into_op());
                } else if let Some(op) = self.waits.allot(wish, &mut stock, now_ms) {
                    *begun += 1;
                    ops.push(op);
                }
            }
        }
        self.workers = stock.workers;
        let starts = self.waits.for_starts().then_some(now_ms + REST_MS);
        Plan { ops, next_ms: self.looks.first().map(|(at, _)| *at).into_iter().chain(starts).min() }
    }

    /// The schedules whose time it is to be looked at, at most so many.
    fn due(&mut self, now_ms: i64, most: usize) -> Vec<String> {
        let mut ids = Vec::new();
        while let Some((_, id)) = self.looks.first().filter(|(at, _)| *at <= now_ms && ids.len() < most).cloned() {
            self.looks.pop_first();
            self.look_at.remove(&id);
            ids.push(id);
        }
        ids
    }

    /// What a schedule asks for now, and when to look again; what it waited for is found out anew.
    fn wishes_of(&mut self, id: &str, workers: &[Worker], now: (i64, u64), topology: Topology<'_>) -> Wishes {
        self.waits.forget(id);
        let all_paused = self.paused.as_ref().map(|p| p.until_ms);
        self.copies.get_mut(id).map(|copy| wishes(copy, workers, all_paused, now, topology)).unwrap_or_default()
    }

    /// The schedule that a proposal is about.
    fn about(&self, op: &OrchOp) -> Option<String> {
        match op {
            OrchOp::Claim(claim) => Some(claim.schedule.clone()),
            OrchOp::Assign { run, .. } => self.homes.get(run).cloned(),
            _ => None,
        }
    }

    /// A proposal rests for a while.
    fn refused(&mut self, op: &OrchOp, now_ms: i64, rest_ms: i64) -> Option<String> {
        let id = self.about(op)?;
        self.waits.forget(&id);
        self.copies.get_mut(&id)?.rests_until = now_ms + rest_ms;
        self.look(&id, now_ms + rest_ms);
        Some(id)
    }

    /// Takes the answer to a proposal; returns a proposal that follows from it.
    pub fn answered(&mut self, op: &OrchOp, answer: OrchAnswer, wall_ms: i64) -> Option<OrchOp> {
        let now_ms = self.now_ms(wall_ms);
        match (answer, op) {
            (OrchAnswer::StaleRevision { current: 0 }, OrchOp::Claim(claim)) => self.forget(&claim.schedule),
            (OrchAnswer::Claimed { .. }, op) => self.given(op),
            (OrchAnswer::Done | OrchAnswer::Busy { due: false, .. }, _) => {}
            (OrchAnswer::Halted, OrchOp::Claim(claim)) => {
                // The tick is over for the targets that are left.
                return Some(OrchOp::Skip {
                    schedule: claim.schedule.clone(),
                    target: claim.target.clone(),
                    revision: claim.revision,
                    from_ms: self.mark(&claim.schedule, &claim.target).unwrap_or(i64::MIN),
                    upto_ms: claim.tick_ms,
                    count: 1,
                    reason: Reason::Halted,
                    now_ms,
                });
            }
            (OrchAnswer::NoEligibleNode | OrchAnswer::BudgetExhausted, op) => {
                let id = self.refused(op, now_ms, NOBODY_MS);
                self.misled.extend(id);
            }
            (_, op) => drop(self.refused(op, now_ms, REST_MS)),
        }
        None
    }

    /// The copy will show it; until then it is reckoned with.
    fn given(&mut self, op: &OrchOp) {
        let Some(id) = self.about(op) else { return };
        let Some(copy) = self.copies.get_mut(&id) else { return };
        match op {
            OrchOp::Claim(claim) => {
                copy.waited.remove(&claim.target);
                self.given.push((id, copy.definition.clone(), claim.worker));
            }
            OrchOp::Assign { run, worker, .. } => {
                let definition = copy.runs.iter().find(|r| r.run == *run).map_or(&copy.definition, |r| &r.definition);
                self.given.push((id, definition.clone(), *worker));
            }
            _ => {}
        }
    }

    /// A proposal had no answer: it is made again when the copy says so.
    pub fn unanswered(&mut self, op: &OrchOp, wall_ms: i64) {
        self.refused(op, self.now_ms(wall_ms), REST_MS);
    }

    /// The watermark of a target, as far as the copy knows.
    fn mark(&self, schedule: &str, target: &str) -> Option<i64> {
        self.copies.get(schedule)?.marks.get(target).copied()
    }
}
