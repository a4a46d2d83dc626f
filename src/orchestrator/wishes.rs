//! What a schedule asks for at an instant, by the copy: ticks that are due and runs that wait.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::SessionId;
use crate::base::planted::planted;
use crate::ledger::orch::{Claim, Entry, OrchOp, Overlap, Pause, Reason, Run, RunState, Schedule, Scope, State, View, Worker};

use super::calendar::Calendar;
use super::due::judge;
use super::place::Ask;
use super::planner::Topology;

/// While a target is nobody's, its runs are looked at this often, ms.
pub(super) const NOBODY_MS: i64 = 1_000;
/// Stands for the worker until one is chosen.
const NOBODY: SessionId = SessionId(0);

/// A run as far as planning needs it.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub run: u64,
    target: String,
    /// Somebody has it.
    running: bool,
    /// Waits for a worker, from this time on the local clock.
    due_at: Option<u64>,
    manual: bool,
    force: bool,
    since: u64,
    /// Who lost it last.
    lost_by: Option<SessionId>,
    /// By which the ledger judges it.
    pub definition: Arc<Schedule>,
}

impl Waiting {
    fn read(run: &Run, clock: u64, local_ms: u64) -> Waiting {
        Waiting {
            run: run.id,
            target: run.target.clone(),
            running: run.token.0 != 0,
            due_at: (run.state == RunState::Due).then(|| local_ms + run.until.saturating_sub(clock)),
            manual: run.manual,
            force: run.force,
            since: local_ms.saturating_sub(clock.saturating_sub(run.since)),
            lost_by: (run.lost > 0).then_some(run.worker),
            definition: run.definition.clone(),
        }
    }
}

/// A schedule as far as planning needs it.
#[derive(Debug)]
pub(super) struct Copy {
    pub definition: Arc<Schedule>,
    pub revision: u64,
    created_ms: i64,
    paused: Option<Pause>,
    pub marks: BTreeMap<String, i64>,
    pub runs: Vec<Waiting>,
    pub calendar: Option<Arc<Calendar>>,
    /// Refused proposals rest until then, UTC ms.
    pub rests_until: i64,
    /// By target: the first of the ticks that have waited for something since the last start. A tick that takes the place of one that is given up goes on
    /// with its waiting: else what is due often would never have waited long.
    pub waited: BTreeMap<String, i64>,
}

impl Copy {
    pub fn read(state: &State, entry: &Entry, clock: u64, local_ms: u64) -> Copy {
        Copy {
            definition: entry.definition.clone(),
            revision: entry.revision,
            created_ms: entry.created_ms,
            paused: entry.paused.clone(),
            marks: entry.marks.clone(),
            runs: entry.active.iter().filter_map(|id| state.run(*id)).map(|r| Waiting::read(r, clock, local_ms)).collect(),
            calendar: None,
            rests_until: i64::MIN,
            waited: BTreeMap::new(),
        }
    }

    /// How many more targets may be at work.
    fn slots(&self, workers: &[Worker]) -> usize {
        let (parallel, percent) = match self.definition.scope {
            Some(Scope::EachNode { max_parallel, max_parallel_percent, .. }) => (max_parallel as usize, max_parallel_percent as usize),
            Some(Scope::EachShard { max_parallel }) => (max_parallel as usize, 0),
            Some(Scope::Singleton) | None => (0, 0),
        };
        let mut most = if parallel == 0 { usize::MAX } else { parallel };
        if percent != 0 {
            let able = workers.iter().filter(|w| w.can(&self.definition)).count();
            most = most.min((able.saturating_mul(percent) / 100).max(1));
        }
        most.saturating_sub(self.runs.iter().filter(|r| r.running).count())
    }
}

/// A proposal that has no worker yet, or needs none.
#[derive(Debug)]
pub(super) struct Wish {
    /// The smaller, the earlier: the instant from which it has waited, and a second less for each level of priority. So waiting raises it by a level
    /// a second, and the order of any two stays what it was.
    pub rank: i64,
    pub at_ms: i64,
    /// By which the ledger judges it.
    pub definition: Arc<Schedule>,
    target: String,
    only: Option<Vec<String>>,
    lost_by: Option<SessionId>,
    /// A tick that meets a run which goes on: what becomes of it is judged at once, and takes nothing.
    pub meets: bool,
    op: OrchOp,
}

impl Wish {
    pub fn is_start(&self) -> bool {
        matches!(self.op, OrchOp::Claim(_) | OrchOp::Assign { .. })
    }

    pub fn ask(&self) -> Ask<'_> {
        Ask { schedule: &self.definition, target: &self.target, only: self.only.as_deref(), lost_by: self.lost_by }
    }

    pub fn given_to(mut self, session: SessionId) -> OrchOp {
        match &mut self.op {
            OrchOp::Claim(claim) => claim.worker = session,
            OrchOp::Assign { worker, .. } => *worker = session,
            _ => {}
        }
        self.op
    }

    pub fn into_op(self) -> OrchOp {
        self.op
    }
}

/// What a schedule asks for.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub all: Vec<Wish>,
    /// Most starts among them.
    pub slots: usize,
    /// When to look again, should nothing change before.
    pub again_ms: Option<i64>,
}

impl Wishes {
    fn again(&mut self, at_ms: i64) {
        self.again_ms = Some(self.again_ms.map_or(at_ms, |before| before.min(at_ms)));
    }
}

/// What a schedule asks for at `now_ms`.
pub(super) fn wishes(
    copy: &mut Copy,
    workers: &[Worker],
    all_paused: Option<i64>,
    (now_ms, local_ms): (i64, u64),
    topology: Topology<'_>,
) -> Wishes {
    let mut wishes = Wishes::default();
    let Some(calendar) = copy.calendar.clone() else { return wishes };
    let paused = [all_paused, copy.paused.as_ref().map(|p| p.until_ms)].into_iter().flatten().max().filter(|until| *until > now_ms);
    if let Some(until) = paused {
        wishes.again_ms = (until != i64::MAX).then_some(until);
        copy.waited.clear();
        return wishes;
    }
    if copy.rests_until > now_ms {
        wishes.again(copy.rests_until);
        return wishes;
    }
    copy.rests_until = i64::MIN;
    let view = calendar.view(now_ms);
    let Some(targets) = targets(&copy.definition, workers, topology) else {
        wishes.again(now_ms + NOBODY_MS);
        return wishes;
    };
    wishes.slots = copy.slots(workers);
    again(copy, &targets, (now_ms, local_ms), view, &mut wishes);
    let mut waited = BTreeMap::new();
    if copy.definition.enabled {
        for target in targets {
            waited.extend(ticks(copy, &calendar, target, now_ms, view, &mut wishes));
        }
    }
    copy.waited = waited;
    if wishes.all.iter().any(Wish::is_start) {
        if let View::Open { until_ms } = view
            && until_ms != i64::MAX
        {
            wishes.again(until_ms);
        }
        // How many may be at work follows from how many workers there are, and those come and go without a word to the schedule.
        if wishes.slots < wishes.all.len() {
            wishes.again(now_ms + NOBODY_MS);
        }
    }
    wishes
}

/// Runs that wait: lost ones, postponed ones, those that were asked for, those that met another.
fn again(copy: &Copy, targets: &[Target], (now_ms, local_ms): (i64, u64), view: View, wishes: &mut Wishes) {
    let mut busy: BTreeMap<&str, usize> = BTreeMap::new();
    for run in copy.runs.iter().filter(|r| r.running) {
        *busy.entry(&run.target).or_default() += 1;
    }
    for run in &copy.runs {
        let Some(due_at) = run.due_at.filter(|_| run.manual || copy.definition.enabled) else { continue };
        if due_at > local_ms {
            wishes.again(now_ms + (due_at - local_ms) as i64);
            continue;
        }
        if let (false, View::Outside { until_ms }) | (_, View::Blackout { until_ms }) = (run.force, view) {
            wishes.again(until_ms);
            continue;
        }
        // What belongs to a node or a shard waits for it; nobody else does it.
        let target = targets.iter().find(|t| t.name == run.target);
        if target.is_none() && !run.target.is_empty() {
            wishes.again(now_ms + NOBODY_MS);
            continue;
        }
        let busy = busy.entry(&run.target).or_default();
        if *busy >= most(&run.definition) {
            continue;
        }
        *busy += 1;
        let at_ms = now_ms - local_ms.saturating_sub(run.since) as i64;
        wishes.all.push(Wish {
            rank: rank(&copy.definition, at_ms),
            at_ms,
            definition: run.definition.clone(),
            target: run.target.clone(),
            only: target.and_then(|t| t.only.clone()),
            lost_by: run.lost_by,
            meets: false,
            op: OrchOp::Assign { run: run.run, revision: copy.revision, worker: NOBODY, now_ms, view },
        });
    }
}

/// A target's ticks that are due. Returns since when one of them waits for what others have, if one does.
fn ticks(copy: &Copy, calendar: &Calendar, target: Target, now_ms: i64, view: View, wishes: &mut Wishes) -> Option<(String, i64)> {
    let definition = &copy.definition;
    let mut mark = copy.marks.get(&target.name).copied();
    let from = mark.unwrap_or(i64::MIN).max(copy.created_ms).max(target.since_ms);
    let due = judge(definition, calendar, &target.name, from, now_ms);
    if let Some(at) = due.again_ms {
        wishes.again(at);
    }
    let mut skip = |mark: Option<i64>, upto_ms: i64, count: u64, reason: Reason| {
        let op = OrchOp::Skip {
            schedule: definition.id.clone(),
            target: target.name.clone(),
            revision: copy.revision,
            from_ms: mark.unwrap_or(i64::MIN),
            upto_ms,
            count,
            reason,
            now_ms,
        };
        let (definition, name) = (definition.clone(), target.name.clone());
        wishes.all.push(Wish { rank: i64::MIN, at_ms: upto_ms, definition, target: name, only: None, lost_by: None, meets: false, op });
    };
    if let Some((upto, count, reason)) = due.leave_out {
        skip(mark, upto, count, reason);
        mark = Some(upto);
    }
    let closed = match view {
        View::Open { .. } => None,
        View::Outside { .. } => Some(Reason::Window),
        View::Blackout { .. } => Some(Reason::Blackout),
    };
    if let Some(reason) = closed {
        for tick_ms in due.start {
            skip(mark, tick_ms, 1, reason);
            mark = Some(tick_ms);
        }
        return None;
    }
    let tick_ms = due.start.first().copied()?;
    // Of several only the latest may meet a run; the others wait for their turn.
    let going_on = copy.runs.iter().filter(|r| r.target == target.name).count();
    if due.start.len() > 1 && going_on > 0 {
        return None;
    }
    let meets = going_on >= most(definition);
    let waited = copy.waited.get(&target.name).copied().filter(|_| !meets).map_or(tick_ms, |since| since.max(copy.created_ms).min(tick_ms));
    let claim = Claim {
        schedule: definition.id.clone(),
        target: target.name.clone(),
        revision: copy.revision,
        from_ms: mark.unwrap_or(i64::MIN),
        tick_ms: nominal(tick_ms, now_ms),
        now_ms,
        view,
        worker: NOBODY,
    };
    wishes.all.push(Wish {
        rank: rank(definition, waited),
        at_ms: waited,
        definition: definition.clone(),
        target: target.name.clone(),
        only: target.only,
        lost_by: None,
        meets,
        op: OrchOp::Claim(Box::new(claim)),
    });
    (!meets).then_some((target.name, waited))
}

/// How many runs of a target there may be at once.
fn most(definition: &Schedule) -> usize {
    if let Overlap::Allow(n) = definition.overlap { n as usize } else { 1 }
}

fn rank(definition: &Schedule, at_ms: i64) -> i64 {
    at_ms.saturating_sub(i64::from(definition.priority) * 1_000)
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
