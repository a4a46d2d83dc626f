//! The orchestrator's operations, applied: a function of state, time and operation.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::base::planted::planted;
use crate::base::{SessionId, Token};

use super::super::clock::HIDDEN_MS;
use super::op::{End, MESSAGE_MAX, OrchAnswer, OrchFault, OrchOp};
use super::schedule::{Overlap, Schedule, is_name};
use super::state::{Budget, Entry, Pause, Record, Run, RunState, SCHEDULES_MAX, State, Worker};
use super::tasks::{TaskMark, without_success};

/// Names of workers that are remembered; beyond that only those of living ones.
const NAMES_MAX: usize = 4096;

/// What an operation may use of the rest of the ledger.
pub(crate) struct Around<'a> {
    /// The ledger's clock, ms.
    pub now: u64,
    /// The asking session and its name; `None` when it lives no more.
    pub asker: Option<(SessionId, String)>,
    /// Whether a session lives.
    pub lives: &'a dyn Fn(SessionId) -> bool,
    /// The next token.
    pub token: &'a mut dyn FnMut() -> Token,
    /// Sessions that have to look: their work has changed. 0 is everybody who gives work out.
    pub bells: &'a mut Vec<SessionId>,
}

pub(super) fn cut(text: &str) -> String {
    let end = (0..=text.len().min(MESSAGE_MAX)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].to_owned()
}

impl State {
    /// Does what is asked.
    pub(crate) fn apply(&mut self, op: &OrchOp, around: &mut Around<'_>) -> OrchAnswer {
        let before = self.version;
        let answer = match op {
            OrchOp::Put { schedule, expected, now_ms } => self.put(schedule, *expected, *now_ms),
            OrchOp::Remove { schedule, expected } => self.remove(schedule, *expected, around),
            OrchOp::Join { kinds, labels, version, capacity, now_ms } => self.join(kinds, labels, (*version, *capacity), *now_ms, around),
            OrchOp::Leave => {
                let gone = around.asker.as_ref().and_then(|(id, _)| self.workers.remove(&id.0));
                if gone.is_some() {
                    self.touch_common();
                }
                OrchAnswer::Done
            }
            OrchOp::Claim(claim) => self.claim(claim, around),
            OrchOp::Skip { .. } => self.skip(op),
            OrchOp::Trigger { .. } => self.trigger(op, around),
            OrchOp::Assign { run, revision, worker, now_ms, view } => self.assign(*run, (*revision, *view), *worker, *now_ms, around),
            OrchOp::Renew { run, token, progress } => self.renew(*run, *token, *progress, around),
            OrchOp::TaskEnd { run, token, task, ok } => self.with_task(*run, *token, *task, |mark| mark.ended = Some(*ok)),
            OrchOp::Checkpoint { run, token, task, data } => {
                if data.len() > super::op::CHECKPOINT_MAX {
                    OrchAnswer::Invalid(OrchFault::Checkpoint)
                } else {
                    self.with_task(*run, *token, *task, |mark| mark.checkpoint.clone_from(data))
                }
            }
            OrchOp::Finish { run, token, end, message, now_ms } => self.finish(*run, *token, *end, message, *now_ms, around),
            OrchOp::Cancel { run, reason, now_ms } => self.cancel(*run, reason, *now_ms, around),
            OrchOp::Pause { schedule, note, until_ms } => {
                self.set_pause(schedule.as_deref(), Some(Pause { note: cut(note), until_ms: *until_ms }))
            }
            OrchOp::Unpause { schedule } => self.set_pause(schedule.as_deref(), None),
            OrchOp::Budget { name, limit } => self.set_budget(name, *limit),
        };
        if self.version != before {
            around.bells.push(SessionId(0));
        }
        answer
    }

    /// Wall time as the ledger has been told of it: it never goes back.
    pub(super) fn judge_now(&mut self, now_ms: i64) -> i64 {
        self.nominal_ms = self.nominal_ms.max(now_ms);
        self.nominal_ms
    }

    // ---- schedules -----------------------------------------------------------------------------

    fn put(&mut self, schedule: &Schedule, expected: Option<u64>, now_ms: i64) -> OrchAnswer {
        if schedule.check().is_err() {
            return OrchAnswer::Invalid(OrchFault::Schedule);
        }
        let current = self.schedules.get(&schedule.id).map_or(0, |e| e.revision);
        if expected.is_some_and(|e| e != current) {
            return OrchAnswer::StaleRevision { current };
        }
        if current == 0 && self.schedules.len() as u64 >= SCHEDULES_MAX {
            return OrchAnswer::Limit { max: SCHEDULES_MAX };
        }
        // No tick up to here is ever due again: every tick that was started is at or before it.
        let now_ms = self.judge_now(now_ms);
        self.revisions += 1;
        let (revision, definition) = (self.revisions, Arc::new(schedule.clone()));
        match self.schedules.get_mut(&schedule.id) {
            Some(entry) => {
                // Another calendar has other ticks: those before the change are not made up for.
                if calendar(&entry.definition) != calendar(schedule) {
                    entry.created_ms = now_ms;
                    entry.marks.clear();
                }
                (entry.definition, entry.revision, entry.updated_ms) = (definition, revision, now_ms);
            }
            None => {
                let entry = Entry {
                    definition,
                    revision,
                    created_ms: now_ms,
                    updated_ms: now_ms,
                    paused: None,
                    marks: BTreeMap::new(),
                    buffer: VecDeque::new(),
                    active: BTreeSet::new(),
                    history: VecDeque::new(),
                    wave: (0, 0),
                    changed: 0,
                };
                self.schedules.insert(schedule.id.clone(), entry);
            }
        }
        self.touch(&schedule.id);
        OrchAnswer::Written { revision }
    }

    fn remove(&mut self, id: &str, expected: Option<u64>, around: &mut Around<'_>) -> OrchAnswer {
        let Some(entry) = self.schedules.get(id) else {
            return if expected.unwrap_or(0) == 0 { OrchAnswer::NotFound } else { OrchAnswer::StaleRevision { current: 0 } };
        };
        if expected.is_some_and(|e| e != entry.revision) {
            return OrchAnswer::StaleRevision { current: entry.revision };
        }
        for run in entry.active.clone() {
            self.end(run, RunState::Cancelled, "the schedule was removed", self.nominal_ms, around);
        }
        if let Some(entry) = self.schedules.remove(id) {
            self.changes.remove(&entry.changed);
        }
        self.version += 1;
        self.removed.insert(self.version, id.to_owned());
        if self.removed.len() as u64 > SCHEDULES_MAX {
            self.removed.pop_first();
        }
        OrchAnswer::Done
    }

    fn set_pause(&mut self, schedule: Option<&str>, pause: Option<Pause>) -> OrchAnswer {
        let Some(id) = schedule else {
            self.paused = pause;
            self.touch_common();
            return OrchAnswer::Done;
        };
        let Some(entry) = self.schedules.get_mut(id) else { return OrchAnswer::NotFound };
        entry.paused = pause;
        self.touch(id);
        OrchAnswer::Done
    }

    fn set_budget(&mut self, name: &str, limit: u32) -> OrchAnswer {
        if !is_name(name) {
            return OrchAnswer::Invalid(OrchFault::Name);
        }
        let budget = self.budgets.entry(name.to_owned()).or_insert(Budget { limit, used: 0 });
        budget.limit = limit;
        if limit == 0 && budget.used == 0 {
            self.budgets.remove(name);
        }
        self.touch_common();
        OrchAnswer::Done
    }

    // ---- workers -------------------------------------------------------------------------------

    fn join(
        &mut self,
        kinds: &[String],
        labels: &BTreeMap<String, String>,
        (version, capacity): (u32, u32),
        now_ms: i64,
        around: &mut Around<'_>,
    ) -> OrchAnswer {
        let Some((session, name)) = around.asker.clone() else { return OrchAnswer::Invalid(OrchFault::Worker) };
        if kinds.iter().any(|k| !is_name(k)) || labels.iter().any(|(k, v)| !is_name(k) || v.len() > super::schedule::NAME_MAX) {
            return OrchAnswer::Invalid(OrchFault::Name);
        }
        if kinds.len() > 1024 || labels.len() > 64 {
            return OrchAnswer::Limit { max: 1024 };
        }
        let (mut kinds, since_ms) = (kinds.to_vec(), *self.names.entry(name.clone()).or_insert(now_ms));
        kinds.sort_unstable();
        kinds.dedup();
        let running = self.workers.get(&session.0).map_or(0, |w| w.running);
        let worker = Worker { session, name, kinds, labels: labels.clone(), version, capacity, running, since_ms };
        self.workers.insert(session.0, worker);
        // Those whose sessions are over go here: nothing else needs to notice.
        self.workers.retain(|id, _| (around.lives)(SessionId(*id)));
        if self.names.len() > NAMES_MAX {
            let living: BTreeSet<&str> = self.workers.values().map(|w| w.name.as_str()).collect();
            self.names.retain(|name, _| living.contains(name.as_str()));
        }
        self.touch_common();
        OrchAnswer::Done
    }

    // ---- runs ----------------------------------------------------------------------------------

    /// The run, if `token` is that of its present attempt.
    fn current(&mut self, run: u64, token: Token) -> Result<&mut Run, OrchAnswer> {
        let stale = |r: &Run| (r.token != token || r.token.0 == 0) && !planted!("run-without-token-check");
        match self.runs.get_mut(&run) {
            Some(r) if !stale(r) => Ok(r),
            found => {
                let current = found.map_or(Token(0), |r| r.token);
                self.counts.stale_tokens += 1;
                Err(OrchAnswer::StaleToken { current })
            }
        }
    }

    fn renew(&mut self, run: u64, token: Token, progress: u16, around: &mut Around<'_>) -> OrchAnswer {
        let now = around.now;
        let r = match self.current(run, token) {
            Ok(r) => r,
            Err(answer) => return answer,
        };
        let (from, lease) = (r.until, r.definition.lease_ms);
        r.until = now + u64::from(lease) + HIDDEN_MS;
        r.progress = progress.min(1000);
        let (to, cancel) = (r.until, r.state == RunState::Cancelling);
        self.leases.remove(&(from, run));
        self.leases.insert((to, run));
        self.counts.renewals += 1;
        OrchAnswer::Renewed { remaining_ms: lease, cancel }
    }

    fn with_task(&mut self, run: u64, token: Token, task: u16, change: impl FnOnce(&mut TaskMark)) -> OrchAnswer {
        match self.current(run, token) {
            Err(answer) => answer,
            Ok(r) => match r.tasks.get_mut(usize::from(task)) {
                None => OrchAnswer::Invalid(OrchFault::Task),
                Some(mark) => {
                    change(mark);
                    OrchAnswer::Done
                }
            },
        }
    }

    fn finish(&mut self, run: u64, token: Token, end: End, message: &str, now_ms: i64, around: &mut Around<'_>) -> OrchAnswer {
        if let Err(answer) = self.current(run, token) {
            return answer;
        }
        let now_ms = self.judge_now(now_ms);
        match end {
            End::Postponed { retry_ms } => self.wait_again(run, cut(message), u64::from(retry_ms), around),
            End::WindowClosed => self.wait_again(run, "the window closed".to_owned(), 0, around),
            end => self.end(run, RunState::of_end(end), message, now_ms, around),
        }
        OrchAnswer::Done
    }

    pub(super) fn cancel(&mut self, run: u64, reason: &str, now_ms: i64, around: &mut Around<'_>) -> OrchAnswer {
        let Some(r) = self.runs.get_mut(&run) else { return OrchAnswer::NotFound };
        if r.state == RunState::Due {
            let now_ms = self.judge_now(now_ms);
            self.end(run, RunState::Cancelled, reason, now_ms, around);
            return OrchAnswer::Done;
        }
        (r.state, r.reason) = (RunState::Cancelling, cut(reason));
        let (worker, schedule) = (r.worker, r.schedule.clone());
        around.bells.push(worker);
        self.touch(&schedule);
        OrchAnswer::Done
    }

    /// Takes the worker, the token and the budgets from a run.
    pub(super) fn detach(&mut self, run: u64) {
        let Some(r) = self.runs.get_mut(&run) else { return };
        if r.token.0 == 0 {
            return;
        }
        r.token = Token(0);
        let (worker, until, definition) = (r.worker, r.until, r.definition.clone());
        self.leases.remove(&(until, run));
        if let Some(worker) = self.workers.get_mut(&worker.0) {
            worker.running = worker.running.saturating_sub(1);
        }
        self.give_back(&definition);
        self.touch_common();
    }

    fn give_back(&mut self, definition: &Schedule) {
        for (name, amount) in &definition.budgets {
            let Some(budget) = self.budgets.get_mut(name) else { continue };
            budget.used = budget.used.saturating_sub(*amount);
            if budget.limit == 0 && budget.used == 0 {
                self.budgets.remove(name);
            }
        }
    }

    /// The attempt is over, the run is not.
    fn wait_again(&mut self, run: u64, reason: String, after_ms: u64, around: &mut Around<'_>) {
        self.detach(run);
        let Some(r) = self.runs.get_mut(&run) else { return };
        (r.state, r.reason, r.until) = (RunState::Due, reason, around.now + after_ms);
        let (schedule, target, words) = (r.schedule.clone(), r.target.clone(), [r.tick_ms as u64, run, u64::from(r.attempt), 0, 99]);
        self.journal(&schedule, &target, words);
        self.touch(&schedule);
    }

    /// The run is over: it becomes a line of the history, and what waited for it may go on.
    pub(super) fn end(&mut self, run: u64, state: RunState, message: &str, now_ms: i64, around: &mut Around<'_>) {
        let Some(token) = self.runs.get(&run).map(|r| r.token) else { return };
        self.detach(run);
        let Some(r) = self.runs.remove(&run) else { return };
        around.bells.push(r.worker);
        let begun = r.attempt > 0 && state != RunState::Succeeded;
        let tasks = if begun { without_success(&r.definition, &r.tasks) } else { BTreeMap::new() };
        let record = Record {
            run,
            target: r.target.clone(),
            tick_ms: r.tick_ms,
            count: 1,
            state,
            reason: cut(message),
            attempt: r.attempt,
            token,
            node: r.node,
            key: r.key,
            started_ms: r.started_ms,
            ended_ms: now_ms,
            tasks,
        };
        self.remember(&r.schedule, record);
        if let Some(entry) = self.schedules.get_mut(&r.schedule) {
            entry.active.remove(&run);
            if state.failed() && entry.wave.0 == r.tick_ms {
                entry.wave.1 += 1;
            }
            // What waited for this run starts now.
            let next = entry.buffer.iter().position(|(target, _)| *target == r.target);
            if let Some((target, tick_ms)) = next.and_then(|at| entry.buffer.remove(at)) {
                self.make_run(&r.schedule, &target, tick_ms, around);
            }
        }
        self.touch(&r.schedule);
    }

    /// A run that waits for a worker.
    pub(super) fn make_run(&mut self, schedule: &str, target: &str, tick_ms: i64, around: &mut Around<'_>) -> u64 {
        self.last_run += 1;
        let id = self.last_run;
        let Some(entry) = self.schedules.get_mut(schedule) else { return 0 };
        entry.active.insert(id);
        let run = Run {
            id,
            schedule: schedule.to_owned(),
            target: target.to_owned(),
            tick_ms,
            attempt: 0,
            lost: 0,
            token: Token(0),
            worker: SessionId(0),
            node: String::new(),
            state: RunState::Due,
            reason: String::new(),
            key: String::new(),
            manual: false,
            force: false,
            params: None,
            until: around.now,
            started_ms: 0,
            since: around.now,
            definition: entry.definition.clone(),
            tasks: vec![TaskMark::default(); entry.definition.tasks.len()],
            progress: 0,
            closes_ms: i64::MAX,
        };
        self.runs.insert(id, run);
        id
    }

    /// Ends the leases that are over at `now`, at most `slice` of them. Whether there are more.
    pub(crate) fn expire(&mut self, slice: u32, around: &mut Around<'_>) -> bool {
        let before = self.version;
        for _ in 0..slice {
            let Some(&(at, run)) = self.leases.first() else { break };
            if at > around.now {
                break;
            }
            self.leases.pop_first();
            self.counts.lost += 1;
            let Some(r) = self.runs.get_mut(&run) else { continue };
            around.bells.push(r.worker);
            r.lost += 1;
            let (again, cancelled) = (r.lost <= r.definition.lost_retries(), r.state == RunState::Cancelling);
            if cancelled {
                self.end(run, RunState::Cancelled, "its node was lost while it stopped", self.nominal_ms, around);
            } else if again {
                self.wait_again(run, "its node was lost".to_owned(), 0, around);
            } else {
                self.end(run, RunState::Lost, "its node was lost", self.nominal_ms, around);
            }
        }
        if self.version != before {
            around.bells.push(SessionId(0));
        }
        self.nearest().is_some_and(|at| at <= around.now)
    }

    /// How many runs of a schedule and target go on, and one of them.
    pub(super) fn going_on(&self, entry: &Entry, target: &str) -> (u32, u64) {
        let mut found = (0, 0);
        for run in entry.active.iter().filter_map(|id| self.runs.get(id)).filter(|r| r.target == target) {
            found = (found.0 + 1, run.id);
        }
        found
    }

    /// How many may go on before another tick has to wait or is left out.
    pub(super) fn allowed(definition: &Schedule) -> u32 {
        if let Overlap::Allow(n) = definition.overlap { n } else { 1 }
    }
}

/// The parts of a definition that decide which ticks there are.
fn calendar(s: &Schedule) -> (&str, u64, i64, &str, super::schedule::Gap, super::schedule::Fold) {
    (&s.cron, s.every_ms, s.anchor_ms, &s.zone, s.gap, s.fold)
}
