//! What whoever gives work out proposes: a copy of the schedules, kept up with the ledger, and a judgement of what is due.
//!
//! Nothing here is trusted: each proposal is judged again by the ledger, so two planners at once, or one with an old copy or a
//! wrong clock, cost refused proposals and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::SessionId;
use crate::base::planted::planted;
use crate::ledger::orch::{Claim, Entry, OrchAnswer, OrchOp, Pause, Reason, RunState, Schedule, Scope, State, View, Worker};

use super::calendar::Calendar;
use super::due::judge;
use super::place::{place, place_again};

/// How long a refused proposal rests before it is made again, ms, unless something changes sooner.
const REST_MS: i64 = 250;
/// While nobody can do a schedule's work, its ticks are looked at this often, ms.
const NOBODY_MS: i64 = 1_000;
/// Proposals in one plan.
const PLAN_MAX: usize = 4_096;

/// A run as far as planning needs it.
#[derive(Clone, Debug)]
struct Waiting {
    run: u64,
    target: String,
    /// Waits for a worker, from this time on the local clock.
    due_at: Option<u64>,
    force: bool,
    since: u64,
    /// Who lost it last.
    lost_by: Option<SessionId>,
}

/// What has changed in the ledger since a version.
#[derive(Debug, Default)]
pub struct Changes {
    version: u64,
    nominal_ms: i64,
    paused: Option<Pause>,
    workers: Vec<Worker>,
    removed: Vec<String>,
    schedules: Vec<Copy>,
}

/// A schedule as far as planning needs it.
#[derive(Debug)]
struct Copy {
    definition: Arc<Schedule>,
    revision: u64,
    created_ms: i64,
    paused: Option<Pause>,
    marks: BTreeMap<String, i64>,
    runs: Vec<Waiting>,
    calendar: Option<Arc<Calendar>>,
    /// Refused proposals rest until then, UTC ms.
    rests_until: i64,
}

impl Changes {
    /// Reads them. `clock` is the ledger's clock and `local_ms` the reader's own.
    pub fn read(state: &State, clock: u64, since: u64, local_ms: u64) -> Changes {
        if state.version() == since {
            return Changes { version: since, nominal_ms: state.nominal_ms(), ..Changes::default() };
        }
        let waiting = |id: &u64| {
            state.run(*id).map(|r| Waiting {
                run: r.id,
                target: r.target.clone(),
                due_at: (r.state == RunState::Due).then(|| local_ms + r.until.saturating_sub(clock)),
                force: r.force,
                since: local_ms.saturating_sub(clock.saturating_sub(r.since)),
                lost_by: (r.lost > 0).then_some(r.worker),
            })
        };
        let copy = |entry: &Entry| Copy {
            definition: entry.definition.clone(),
            revision: entry.revision,
            created_ms: entry.created_ms,
            paused: entry.paused.clone(),
            marks: entry.marks.clone(),
            runs: entry.active.iter().filter_map(waiting).collect(),
            calendar: None,
            rests_until: i64::MIN,
        };
        let (changed, removed) = state.changed_since(since);
        Changes {
            version: state.version(),
            nominal_ms: state.nominal_ms(),
            paused: state.paused().cloned(),
            workers: state.workers().cloned().collect(),
            removed: removed.cloned().collect(),
            schedules: changed.map(copy).collect(),
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

/// A proposal on its way into a plan.
struct Wish {
    priority: u64,
    at_ms: i64,
    op: OrchOp,
}

/// The copy.
#[derive(Debug, Default)]
pub struct Planner {
    version: u64,
    nominal_ms: i64,
    paused: Option<Pause>,
    workers: Vec<Worker>,
    copies: BTreeMap<String, Copy>,
    /// When to look at a schedule: by time, and by id.
    looks: BTreeSet<(i64, String)>,
    look_at: BTreeMap<String, i64>,
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
        self.paused = changes.paused;
        let able = |w: &[Worker]| w.iter().map(|w| (w.session, w.running, w.kinds.len())).collect::<Vec<_>>();
        let others = able(&self.workers) != able(&changes.workers);
        self.workers = changes.workers;
        for id in changes.removed {
            self.forget(&id);
        }
        for mut copy in changes.schedules {
            let id = copy.definition.id.clone();
            let same = self.copies.get(&id).filter(|old| old.revision == copy.revision);
            copy.calendar = match same {
                Some(old) => old.calendar.clone(),
                // A definition that this build cannot read, from a node with other zone data, waits for one that can.
                None => Calendar::new(&copy.definition).ok().map(Arc::new),
            };
            self.look(&id, i64::MIN);
            self.copies.insert(id, copy);
        }
        if others {
            // Somebody may have room for what had to wait.
            let waiting: Vec<String> = self.copies.iter().filter(|(_, c)| c.rests_until != i64::MIN).map(|(id, _)| id.clone()).collect();
            for id in waiting {
                self.look(&id, i64::MIN);
            }
        }
    }

    fn forget(&mut self, id: &str) {
        self.copies.remove(id);
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
        let mut wishes = Vec::new();
        while let Some((at, id)) = self.looks.first().cloned() {
            if at > now_ms || wishes.len() >= PLAN_MAX {
                break;
            }
            self.looks.pop_first();
            self.look_at.remove(&id);
            if let Some(again) = self.wishes_of(&id, now_ms, local_ms, topology, &mut wishes) {
                self.look(&id, again.max(now_ms + 1));
            }
        }
        // What has waited longest goes first among equals; waiting raises the priority, so nothing waits for ever.
        wishes.sort_by_key(|w: &Wish| (std::cmp::Reverse(w.priority), w.at_ms));
        let (mut starts, mut ops) = (0, Vec::with_capacity(wishes.len()));
        for wish in wishes {
            if let OrchOp::Claim(_) | OrchOp::Assign { .. } = wish.op {
                starts += 1;
                if starts > self.starts_max {
                    self.refused(&wish.op, now_ms, REST_MS);
                    continue;
                }
            }
            ops.push(wish.op);
        }
        Plan { ops, next_ms: self.looks.first().map(|(at, _)| *at) }
    }

    /// What is to be proposed for a schedule now; and when to look again.
    fn wishes_of(&mut self, id: &str, now_ms: i64, local_ms: u64, topology: Topology<'_>, out: &mut Vec<Wish>) -> Option<i64> {
        let workers = std::mem::take(&mut self.workers);
        let all_paused = self.paused.as_ref().map(|p| p.until_ms);
        let again = self.copies.get_mut(id).and_then(|copy| wishes(copy, &workers, all_paused, (now_ms, local_ms), topology, out));
        self.workers = workers;
        again
    }

    /// A proposal rests for a while.
    fn refused(&mut self, op: &OrchOp, now_ms: i64, rest_ms: i64) {
        let id = match op {
            OrchOp::Claim(claim) => Some(claim.schedule.clone()),
            OrchOp::Assign { run, .. } => self.copies.iter().find(|(_, c)| c.runs.iter().any(|r| r.run == *run)).map(|(id, _)| id.clone()),
            _ => None,
        };
        let Some(id) = id else { return };
        if let Some(copy) = self.copies.get_mut(&id) {
            copy.rests_until = now_ms + rest_ms;
        }
        self.look(&id, now_ms + rest_ms);
    }

    /// Takes the answer to a proposal; returns a proposal that follows from it.
    pub fn answered(&mut self, op: &OrchOp, answer: OrchAnswer, wall_ms: i64) -> Option<OrchOp> {
        let now_ms = self.now_ms(wall_ms);
        match (answer, op) {
            (OrchAnswer::StaleRevision { current: 0 }, OrchOp::Claim(claim)) => self.forget(&claim.schedule),
            (OrchAnswer::Claimed { .. } | OrchAnswer::Done | OrchAnswer::Busy { due: false, .. }, _) => {}
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
            (OrchAnswer::NoEligibleNode, op) => self.refused(op, now_ms, NOBODY_MS),
            (_, op) => self.refused(op, now_ms, REST_MS),
        }
        None
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

fn earliest(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn wishes(
    copy: &mut Copy,
    workers: &[Worker],
    all_paused: Option<i64>,
    (now_ms, local_ms): (i64, u64),
    topology: Topology<'_>,
    out: &mut Vec<Wish>,
) -> Option<i64> {
    let calendar = copy.calendar.clone()?;
    let definition = copy.definition.clone();
    let paused = [all_paused, copy.paused.as_ref().map(|p| p.until_ms)].into_iter().flatten().max().filter(|until| *until > now_ms);
    if let Some(until) = paused {
        return (until != i64::MAX).then_some(until);
    }
    if copy.rests_until > now_ms {
        return Some(copy.rests_until);
    }
    copy.rests_until = i64::MIN;
    let view = calendar.view(now_ms);
    let mut again = None;
    let ageing = |waited_ms: i64| u64::from(definition.priority) + (waited_ms.max(0) / 1000) as u64;

    // Runs that wait: lost ones, postponed ones, those that were asked for, those that met another.
    let Some(targets) = targets(&definition, workers, topology) else { return Some(now_ms + NOBODY_MS) };
    for run in &copy.runs {
        let Some(due_at) = run.due_at else { continue };
        if due_at > local_ms {
            again = earliest(again, Some(now_ms + (due_at - local_ms) as i64));
            continue;
        }
        if let (false, View::Outside { until_ms } | View::Blackout { until_ms }) = (run.force, view) {
            again = earliest(again, Some(until_ms));
            continue;
        }
        // What belongs to a node or a shard waits for it; nobody else does it.
        let target = targets.iter().find(|t| t.name == run.target);
        if target.is_none() && !run.target.is_empty() {
            again = earliest(again, Some(now_ms + NOBODY_MS));
            continue;
        }
        let only = target.and_then(|t| t.only.clone());
        match place_again(workers, &definition, &run.target, only.as_deref(), run.lost_by) {
            None => again = earliest(again, Some(now_ms + NOBODY_MS)),
            Some(worker) => out.push(Wish {
                priority: ageing(local_ms.saturating_sub(run.since) as i64),
                at_ms: now_ms - local_ms.saturating_sub(run.since) as i64,
                op: OrchOp::Assign { run: run.run, revision: copy.revision, worker, now_ms, view },
            }),
        }
    }
    if !definition.enabled {
        return again;
    }
    for target in targets {
        let mark = copy.marks.get(&target.name).copied();
        let from = mark.unwrap_or(i64::MIN).max(copy.created_ms).max(target.since_ms);
        let due = judge(&definition, &calendar, &target.name, from, now_ms);
        again = earliest(again, due.again_ms);
        let skip = |from_ms: Option<i64>, upto_ms: i64, count: u64, reason: Reason| OrchOp::Skip {
            schedule: definition.id.clone(),
            target: target.name.clone(),
            revision: copy.revision,
            from_ms: from_ms.unwrap_or(i64::MIN),
            upto_ms,
            count,
            reason,
            now_ms,
        };
        let mut mark = mark;
        if let Some((upto, count, reason)) = due.leave_out {
            out.push(Wish { priority: u64::MAX, at_ms: upto, op: skip(mark, upto, count, reason) });
            mark = Some(upto);
        }
        let busy = copy.runs.iter().any(|r| r.target == target.name);
        let last = due.start.last().copied();
        for tick_ms in due.start {
            let closed = match view {
                View::Open { .. } => None,
                View::Outside { .. } => Some(Reason::Window),
                View::Blackout { .. } => Some(Reason::Blackout),
            };
            if let Some(reason) = closed {
                out.push(Wish { priority: u64::MAX, at_ms: tick_ms, op: skip(mark, tick_ms, 1, reason) });
                mark = Some(tick_ms);
                continue;
            }
            // Of several only the latest may meet a run; the others wait for their turn.
            if busy && Some(tick_ms) != last {
                break;
            }
            let Some(worker) = place(workers, &definition, &target.name, target.only.as_deref()) else {
                copy.rests_until = now_ms + NOBODY_MS;
                again = earliest(again, Some(copy.rests_until));
                break;
            };
            let claim = Claim {
                schedule: definition.id.clone(),
                target: target.name.clone(),
                revision: copy.revision,
                from_ms: mark.unwrap_or(i64::MIN),
                tick_ms: nominal(tick_ms, now_ms),
                now_ms,
                view,
                worker,
            };
            out.push(Wish { priority: ageing(now_ms - tick_ms), at_ms: tick_ms, op: OrchOp::Claim(Box::new(claim)) });
            break;
        }
    }
    again
}

/// The tick's name.
fn nominal(tick_ms: i64, now_ms: i64) -> i64 {
    if planted!("tick-from-wall-clock") { now_ms } else { tick_ms }
}

struct Target {
    name: String,
    only: Option<Vec<String>>,
    since_ms: i64,
}

fn targets(definition: &Schedule, workers: &[Worker], topology: Topology<'_>) -> Option<Vec<Target>> {
    Some(match definition.scope {
        Some(Scope::EachNode { .. }) => {
            let mut nodes: BTreeMap<&str, i64> = BTreeMap::new();
            for worker in workers.iter().filter(|w| w.can(definition)) {
                nodes.entry(&worker.name).or_insert(worker.since_ms);
            }
            let target = |(name, since_ms): (&str, i64)| Target { name: name.to_owned(), only: Some(vec![name.to_owned()]), since_ms };
            nodes.into_iter().map(target).collect()
        }
        Some(Scope::EachShard { .. }) => {
            topology(definition)?.into_iter().map(|(name, nodes)| Target { name, only: Some(nodes), since_ms: i64::MIN }).collect()
        }
        Some(Scope::Singleton) | None => vec![Target { name: String::new(), only: None, since_ms: i64::MIN }],
    })
}
