//! The orchestrator's part of the state.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::base::codec::{Decode, Encode};
use crate::base::{SessionId, Token};

use super::op::{End, Reason};
use super::schedule::Schedule;
use super::tasks::{TaskMark, TaskState};

/// Records kept of each schedule.
pub const HISTORY: usize = 100;
/// Most schedules.
pub const SCHEDULES_MAX: u64 = 100_000;
/// Most runs of one schedule that have not ended.
pub const ACTIVE_MAX: u64 = 10_000;

/// Where a run stands, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It waits for a worker.
    Due,
    /// A worker has it.
    Running,
    /// A worker has it and is to stop.
    Cancelling,
    /// All tasks are done.
    Succeeded,
    /// A task has failed.
    Failed,
    /// It was stopped.
    Cancelled,
    /// Its time was over.
    TimedOut,
    /// Its worker was lost, and it is not taken up again.
    Lost,
    /// Its handler did not stop; what it still does is fenced off.
    Stuck,
    /// It was left out on purpose.
    Skipped,
    /// It could not be started in time.
    Missed,
}

impl RunState {
    /// The state as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            RunState::Due => "due",
            RunState::Running => "running",
            RunState::Cancelling => "cancelling",
            RunState::Succeeded => "succeeded",
            RunState::Failed => "failed",
            RunState::Cancelled => "cancelled",
            RunState::TimedOut => "timed_out",
            RunState::Lost => "lost",
            RunState::Stuck => "stuck",
            RunState::Skipped => "skipped",
            RunState::Missed => "missed",
        }
    }

    pub(super) fn failed(self) -> bool {
        matches!(self, RunState::Failed | RunState::TimedOut | RunState::Lost | RunState::Stuck)
    }

    pub(super) fn of_end(end: End) -> RunState {
        match end {
            End::Succeeded => RunState::Succeeded,
            End::Failed => RunState::Failed,
            End::Cancelled => RunState::Cancelled,
            End::TimedOut => RunState::TimedOut,
            End::Stuck => RunState::Stuck,
            End::Skipped => RunState::Skipped,
            End::Postponed { .. } | End::WindowClosed => RunState::Due,
        }
    }
}

/// A run that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Run {
    /// Its number.
    pub id: u64,
    /// Its schedule.
    pub schedule: String,
    /// Its target.
    pub target: String,
    /// Its nominal instant, UTC ms.
    pub tick_ms: i64,
    /// Attempts so far.
    pub attempt: u32,
    /// Attempts that were lost with their worker.
    pub lost: u32,
    /// The present attempt's token; 0 while it waits.
    pub token: Token,
    /// The present worker.
    pub worker: SessionId,
    /// The worker's name.
    pub node: String,
    /// Where it stands.
    pub state: RunState,
    /// Why it waits, or was told to stop.
    pub reason: String,
    /// Made by a trigger, with this key.
    pub key: String,
    /// Made by a trigger: that the schedule is disabled is of no account.
    pub manual: bool,
    /// Windows are of no account.
    pub force: bool,
    /// Instead of the schedule's parameters.
    pub params: Option<String>,
    /// The lease ends, on the ledger's clock; for a run that waits, when it may start.
    pub until: u64,
    /// First start, UTC ms; 0 before.
    pub started_ms: i64,
    /// Made at, on the ledger's clock.
    pub since: u64,
    /// The definition under which it was made.
    pub definition: Arc<Schedule>,
    /// By task.
    pub tasks: Vec<TaskMark>,
    /// Per mille.
    pub progress: u16,
    /// Its window closes, UTC ms.
    pub closes_ms: i64,
}

/// One line of a schedule's history.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub struct Record {
    /// The run; 0 for ticks that were never started.
    pub run: u64,
    /// The target.
    pub target: String,
    /// The nominal instant, UTC ms; of several ticks the last.
    pub tick_ms: i64,
    /// How many ticks this line stands for.
    pub count: u64,
    /// How it ended.
    pub state: RunState,
    /// Why, for people.
    pub reason: String,
    /// The last attempt's number.
    pub attempt: u32,
    /// The last attempt's token.
    #[serde(serialize_with = "number")]
    pub token: Token,
    /// The last worker's name.
    pub node: String,
    /// The trigger's key.
    pub key: String,
    /// First start, UTC ms; 0 for none.
    pub started_ms: i64,
    /// End, UTC ms.
    pub ended_ms: i64,
    /// Of a run of several tasks that has begun and not succeeded: the tasks that have not.
    pub tasks: BTreeMap<String, TaskState>,
}

fn number<S: serde::Serializer>(token: &Token, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_u64(token.0)
}

/// That nothing is started.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub struct Pause {
    /// For people.
    pub note: String,
    /// Until when, UTC ms.
    pub until_ms: i64,
}

/// A session that takes work.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Worker {
    /// The session.
    pub session: SessionId,
    /// Its name.
    pub name: String,
    /// Kinds of tasks that it has handlers for, in order.
    pub kinds: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its version.
    pub version: u32,
    /// Most runs at once; 0 for no bound.
    pub capacity: u32,
    /// Runs that it has.
    pub running: u32,
    /// When it came first, UTC ms.
    pub since_ms: i64,
}

impl Worker {
    /// Whether it can do what the schedule asks.
    pub fn can(&self, schedule: &Schedule) -> bool {
        self.version >= schedule.min_version
            && schedule.tasks.iter().all(|t| self.version >= t.min_version && self.kinds.binary_search(&t.kind).is_ok())
            && schedule.requires.iter().all(|(label, value)| self.labels.get(label) == Some(value))
    }

    /// Whether it has room for another run.
    pub fn has_room(&self) -> bool {
        self.capacity == 0 || self.running < self.capacity
    }
}

/// A cluster-wide semaphore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub struct Budget {
    /// How much there is.
    pub limit: u32,
    /// How much is taken.
    pub used: u32,
}

/// How many ticks were left out, and runs skipped, for which reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub struct Reasons {
    /// See [`Reason::Misfire`].
    pub misfire: u64,
    /// See [`Reason::Deadline`].
    pub deadline: u64,
    /// See [`Reason::Window`].
    pub window: u64,
    /// See [`Reason::Blackout`].
    pub blackout: u64,
    /// See [`Reason::Overlap`].
    pub overlap: u64,
    /// See [`Reason::Halted`].
    pub halted: u64,
    /// A peer held the lock that the host wants round each run.
    pub locked: u64,
}

impl Reasons {
    fn count(&mut self, reason: Reason, ticks: u64) {
        let of = match reason {
            Reason::Misfire => &mut self.misfire,
            Reason::Deadline => &mut self.deadline,
            Reason::Window => &mut self.window,
            Reason::Blackout => &mut self.blackout,
            Reason::Overlap => &mut self.overlap,
            Reason::Halted => &mut self.halted,
            // What is paused or off waits or has no ticks.
            Reason::Paused | Reason::Disabled => return,
        };
        *of = of.saturating_add(ticks);
    }
}

/// What has been counted since the ledger was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub struct OrchCounts {
    /// Attempts given to workers.
    pub claimed: u64,
    /// Runs that have succeeded.
    pub succeeded: u64,
    /// Runs that have failed, were lost, ran out of time or got stuck.
    pub failed: u64,
    /// Runs that were cancelled.
    pub cancelled: u64,
    /// Ticks that were left out on purpose.
    pub skipped: u64,
    /// Ticks that could not be started in time.
    pub missed: u64,
    /// Attempts that were lost with their worker.
    pub lost: u64,
    /// Runs whose handler did not stop.
    pub stuck: u64,
    /// Operations refused for an old token.
    pub stale_tokens: u64,
    /// Claims of a tick that had been judged before.
    pub already_claimed: u64,
    /// Renewals.
    pub renewals: u64,
    /// Of the missed and the skipped: why.
    pub reasons: Reasons,
}

/// A schedule and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Entry {
    /// The definition.
    pub definition: Arc<Schedule>,
    /// Its revision: a number that no schedule of this ledger had before.
    pub revision: u64,
    /// Made at, UTC ms: no tick before it is due.
    pub created_ms: i64,
    /// Written at, UTC ms.
    pub updated_ms: i64,
    /// Whether and why it is paused.
    pub paused: Option<Pause>,
    /// By target: all ticks up to here have been judged.
    pub marks: BTreeMap<String, i64>,
    /// Ticks that wait for a run to end: target and instant.
    pub buffer: VecDeque<(String, i64)>,
    /// Its runs that have not ended.
    pub active: BTreeSet<u64>,
    /// The latest lines, oldest first.
    pub history: VecDeque<Record>,
    /// The tick whose failures are counted, and how many there are.
    pub wave: (i64, u32),
    /// Changed at this version of the state.
    pub changed: u64,
}

/// Everything the orchestrator keeps in the ledger.
#[derive(Debug, Default)]
pub struct State {
    pub(super) version: u64,
    pub(super) nominal_ms: i64,
    pub(super) last_run: u64,
    pub(super) revisions: u64,
    pub(super) journal: u64,
    pub(super) counts: OrchCounts,
    pub(super) paused: Option<Pause>,
    pub(super) schedules: BTreeMap<String, Entry>,
    pub(super) runs: BTreeMap<u64, Run>,
    pub(super) workers: BTreeMap<u64, Worker>,
    /// When a worker's name was first seen, UTC ms.
    pub(super) names: BTreeMap<String, i64>,
    pub(super) budgets: BTreeMap<String, Budget>,
    /// Removed schedules, by the version at which they were: so that who keeps a copy learns of it.
    pub(super) removed: BTreeMap<u64, String>,
    /// Workers, budgets or the pause of all have changed at this version.
    pub(super) common: u64,
    /// Leases by their end. Follows from the runs.
    pub(super) leases: BTreeSet<(u64, u64)>,
    /// Schedules by the version of their last change. Follows from the schedules.
    pub(super) changes: BTreeMap<u64, String>,
}

impl State {
    /// Whether there is nothing to store.
    pub(crate) fn is_empty(&self) -> bool {
        self.version == 0 && self.nominal_ms == 0 && self.counts == OrchCounts::default()
    }

    /// The version counts everything that whoever keeps a copy has to look at.
    pub(super) fn touch(&mut self, schedule: &str) {
        self.version += 1;
        if let Some(entry) = self.schedules.get_mut(schedule) {
            self.changes.remove(&entry.changed);
            entry.changed = self.version;
            self.changes.insert(self.version, schedule.to_owned());
        }
    }

    pub(super) fn touch_common(&mut self) {
        self.version += 1;
        self.common = self.version;
    }

    /// When a lease may end next, on the ledger's clock.
    pub(crate) fn nearest(&self) -> Option<u64> {
        self.leases.first().map(|(at, _)| *at)
    }

    /// Mixes a fact into the journal's digest.
    pub(super) fn journal(&mut self, schedule: &str, target: &str, words: [u64; 5]) {
        let mut mix = |word: u64| {
            // Folded multiplication, as in wyhash.
            let product = u128::from(self.journal ^ word ^ 0x9e37_79b9_7f4a_7c15) * u128::from(0xe703_7ed1_a0b4_28dbu64);
            self.journal = (product as u64) ^ ((product >> 64) as u64).rotate_left(29);
        };
        for text in [schedule, target] {
            mix(text.len() as u64);
            for chunk in text.as_bytes().chunks(8) {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                mix(u64::from_le_bytes(word));
            }
        }
        words.into_iter().for_each(mix);
    }

    pub(super) fn remember(&mut self, schedule: &str, record: Record) {
        match record.state {
            RunState::Succeeded => self.counts.succeeded += 1,
            RunState::Cancelled => self.counts.cancelled += 1,
            RunState::Skipped => {
                self.counts.skipped += record.count;
                self.counts.reasons.locked += u64::from(record.run != 0);
            }
            RunState::Missed => self.counts.missed += record.count,
            state => {
                self.counts.failed += 1;
                self.counts.stuck += u64::from(state == RunState::Stuck);
            }
        }
        let words = [record.tick_ms as u64, record.run, u64::from(record.attempt), record.token.0, record.state as u64];
        self.journal(schedule, &record.target, words);
        if let Some(entry) = self.schedules.get_mut(schedule) {
            if entry.history.len() == HISTORY {
                entry.history.pop_front();
            }
            entry.history.push_back(record);
        }
    }

    /// Ticks that are judged without a run.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn leave_out(&mut self, schedule: &str, target: &str, tick_ms: i64, count: u64, reason: Reason, now_ms: i64) {
        self.counts.reasons.count(reason, count);
        let state = match reason {
            Reason::Misfire | Reason::Deadline => RunState::Missed,
            _ => RunState::Skipped,
        };
        let record = Record {
            run: 0,
            target: target.to_owned(),
            tick_ms,
            count,
            state,
            reason: reason.as_str().to_owned(),
            attempt: 0,
            token: Token(0),
            node: String::new(),
            key: String::new(),
            started_ms: 0,
            ended_ms: now_ms,
            tasks: BTreeMap::new(),
        };
        self.remember(schedule, record);
    }
}
