//! The attempts of this node: handlers started, watched, ended.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::context::{Attempt, Stop, TaskContext, TaskResult};
use super::host::LIMIT_NS;
use super::locked::Locking;
use super::{Handler, Shared, lock};
use crate::base::{Clock, Moment, Token, process};
use crate::ledger::orch::{End, OnClose, OrchAnswer, OrchOp, RunState, Schedule, TaskMark};
use crate::ledger::{Op, Outcome, Request};
use crate::orchestrator::dag::{Next, Step, advance, pause_ms, tries_again};

const NS_PER_MS: u64 = 1_000_000;
/// An operation without an answer is sent again after this.
const RESEND_NS: u64 = 300 * NS_PER_MS;

/// A task of an attempt that went wrong: since when and with what.
#[derive(Default)]
struct TaskRun {
    tries: u32,
    /// When it is tried again, BOOTTIME ns.
    again_ns: Option<u64>,
    /// When the present try began, BOOTTIME ns.
    began_ns: u64,
    checkpoint: Vec<u8>,
}

/// What the runner knows of an attempt.
pub(super) struct Running {
    pub(super) attempt: Arc<Attempt>,
    steps: Vec<Step>,
    tasks: Vec<TaskRun>,
    message: String,
    closes_ms: i64,
    /// Since when it is to stop, BOOTTIME ns.
    stopping_ns: Option<u64>,
    /// How it ended, and when that was sent last, BOOTTIME ns.
    ended: Option<(End, String, u64)>,
    /// The first renewal is acknowledged: handlers may run.
    confirmed: bool,
    locking: Locking,
}

impl Running {
    /// A call about its lock has ended.
    pub(super) fn settle(&mut self, locking: Locking, end: Option<(End, String)>) {
        // What was taken for a run that has ended meanwhile is given back.
        self.locking = if self.ended.is_some() { Locking::Free } else { locking };
        if let (Some((end, message)), None) = (end, &self.ended) {
            self.ended = Some((end, message, 0));
        }
    }
}

/// A run as it is read from the ledger.
pub(super) struct Found {
    run: u64,
    token: Token,
    attempt: u32,
    schedule: Arc<Schedule>,
    target: String,
    tick_ms: i64,
    params: Option<String>,
    tasks: Vec<TaskMark>,
    closes_ms: i64,
    cancelling: bool,
}

type Runs = BTreeMap<(u64, u64), Running>;

impl Shared {
    /// One round. Returns ns until the next is due.
    pub(super) fn run_step(self: &Arc<Self>) -> u64 {
        self.find_runs();
        self.take_ends();
        self.take_lock_ends();
        let now = self.now();
        let keys: Vec<(u64, u64)> = lock(&self.runs).keys().copied().collect();
        let mut next = u64::MAX;
        for key in keys {
            next = next.min(self.look_at(key, now));
        }
        next
    }

    /// Reads this worker's runs: new ones, cancelled ones, lost ones.
    fn find_runs(self: &Arc<Self>) {
        let session = self.session.id();
        let seen = *lock(&self.seen);
        let found = self.engine().orch(move |state, _| {
            let version = (session, state.version());
            if version == seen {
                return None;
            }
            let found = state.runs_of(session).map(|r| Found {
                run: r.id,
                token: r.token,
                attempt: r.attempt,
                schedule: r.definition.clone(),
                target: r.target.clone(),
                tick_ms: r.tick_ms,
                params: r.params.clone(),
                tasks: r.tasks.clone(),
                closes_ms: r.closes_ms,
                cancelling: r.state == RunState::Cancelling,
            });
            Some((version, found.collect::<Vec<_>>()))
        });
        let Ok(Some((version, found))) = found else { return };
        *lock(&self.seen) = version;
        let (mut runs, mut left) = (lock(&self.runs), lock(&self.left));
        left.retain(|key| found.iter().any(|f| (f.run, f.token.0) == *key));
        for (key, running) in runs.iter() {
            if running.ended.is_none() && !found.iter().any(|f| (f.run, f.token.0) == *key) {
                running.attempt.tell(Stop::Lost);
            }
        }
        for f in found {
            if left.contains(&(f.run, f.token.0)) {
                continue;
            }
            match runs.get(&(f.run, f.token.0)) {
                Some(running) if f.cancelling => running.attempt.tell(Stop::Cancelled),
                Some(_) => {}
                None => {
                    let running = self.adopt(f);
                    runs.insert((running.attempt.run, running.attempt.token.0), running);
                }
            }
        }
    }

    /// An attempt that has been begun is over here. The ledger, or this node's copy of it, may have it for longer: it is never begun again.
    fn forget(&self, runs: &mut Runs, key: (u64, u64)) {
        runs.remove(&key);
        lock(&self.left).insert(key);
    }

    fn adopt(&self, f: Found) -> Running {
        let step = |mark: &TaskMark| if mark.ended == Some(true) { Step::Ended(true) } else { Step::Waiting };
        let steps = f.tasks.iter().map(step).collect();
        let tasks = f.tasks.into_iter().map(|m| TaskRun { checkpoint: m.checkpoint, ..TaskRun::default() }).collect();
        let never = Moment { boottime_ns: 0, raw_ns: 0 };
        let attempt = Attempt::new((f.run, f.token, f.attempt), f.schedule, f.target, f.tick_ms, f.params, never);
        if f.cancelling {
            attempt.tell(Stop::Cancelled);
        }
        Running {
            attempt: Arc::new(attempt),
            steps,
            tasks,
            message: String::new(),
            closes_ms: f.closes_ms,
            stopping_ns: None,
            ended: None,
            confirmed: false,
            locking: Locking::Free,
        }
    }

    /// What handlers have reported.
    fn take_ends(self: &Arc<Self>) {
        let ends = std::mem::take(&mut *lock(&self.ends));
        for (run, token, task, result) in ends {
            let now_ns = self.now().boottime_ns;
            let mut runs = lock(&self.runs);
            let Some(running) = runs.get_mut(&(run, token.0)) else { continue };
            let definition = running.attempt.schedule.clone();
            let tries = running.tasks[task].tries;
            match result {
                Err(message) if running.attempt.stop() == Stop::No && tries_again(&definition.tasks[task], tries, &message) => {
                    let pause = pause_ms(&definition.tasks[task], tries, self.lot());
                    running.tasks[task].again_ns = Some(now_ns + pause * NS_PER_MS);
                    running.steps[task] = Step::Waiting;
                    tracing::info!(schedule = definition.id, task = definition.tasks[task].name(), tries, message, "a task is tried again");
                }
                result => {
                    let ok = result.is_ok();
                    running.steps[task] = Step::Ended(ok);
                    if let Err(message) = result
                        && running.message.is_empty()
                    {
                        running.message = format!("{}: {message}", definition.tasks[task].name());
                    }
                    let several = definition.tasks.len() > 1;
                    drop(runs);
                    if several {
                        self.submit(OrchOp::TaskEnd { run, token, task: task as u16, ok });
                    }
                }
            }
        }
    }

    /// Moves an attempt on. Returns ns until it wants to be looked at again.
    fn look_at(self: &Arc<Self>, key: (u64, u64), now: Moment) -> u64 {
        let mut runs = lock(&self.runs);
        let Some(running) = runs.get_mut(&key) else { return u64::MAX };
        let attempt = running.attempt.clone();
        if !running.confirmed {
            drop(runs);
            return self.confirm(key, &attempt, now);
        }
        if attempt.left_ns(now) == 0 {
            attempt.tell(Stop::Lost);
        }
        if running.ended.is_some() {
            // Before anybody hears of it, the next holder of its lock first of all.
            attempt.close();
        }
        match std::mem::take(&mut running.locking) {
            Locking::Gated if attempt.stop() == Stop::No => {
                running.locking = Locking::Gating(now.boottime_ns);
                drop(runs);
                self.ask_gates(key, &attempt.schedule, &attempt.target);
                return LIMIT_NS.min(attempt.left_ns(now).max(1));
            }
            Locking::Gating(since_ns) if attempt.stop() == Stop::No && running.ended.is_none() => {
                let waited = now.boottime_ns.saturating_sub(since_ns);
                if waited < LIMIT_NS {
                    running.locking = Locking::Gating(since_ns);
                    return (LIMIT_NS - waited).min(attempt.left_ns(now).max(1));
                }
                let (end, why) = Shared::late_gate();
                running.ended = Some((end, why, 0));
            }
            Locking::Wanted(locks) if attempt.stop() == Stop::No => {
                running.locking = Locking::Asked;
                drop(runs);
                self.take_lock(key, locks, &attempt.schedule, &attempt.target);
                return attempt.left_ns(now).max(1);
            }
            Locking::Asked => {
                running.locking = Locking::Asked;
                return attempt.left_ns(now).max(NS_PER_MS);
            }
            Locking::Holds(held) if running.ended.is_some() && attempt.stop() != Stop::Lost => {
                running.locking = Locking::Asked;
                drop(runs);
                self.give_lock(key, held);
                return u64::MAX;
            }
            Locking::Holds(held) => running.locking = Locking::Holds(held),
            Locking::Free | Locking::Gated | Locking::Gating(_) | Locking::Wanted(_) => {}
        }
        if let Some((end, message, sent_ns)) = &mut running.ended {
            if attempt.stop() == Stop::Lost {
                self.forget(&mut runs, key);
                return u64::MAX;
            }
            let wait = (*sent_ns + RESEND_NS).saturating_sub(now.boottime_ns);
            if *sent_ns != 0 && wait > 0 {
                return wait;
            }
            if *sent_ns == 0 {
                lock(&self.figures).durations.count(attempt.began.elapsed_ns(now) / NS_PER_MS);
            }
            *sent_ns = now.boottime_ns;
            let op = OrchOp::Finish { run: key.0, token: attempt.token, end: *end, message: message.clone(), now_ms: self.wall_ms() };
            drop(runs);
            self.submit_finish(key, op);
            return RESEND_NS;
        }
        let next = self.watch(running, now);
        if running.ended.is_some() {
            drop(runs);
            return self.look_at(key, now);
        }
        let stop = attempt.stop() != Stop::No;
        let mut starts = Vec::new();
        match advance(&attempt.schedule, &mut running.steps, stop) {
            Next::Over(ok) => {
                running.ended = Some((end_of(&attempt, ok, running), running.message.clone(), 0));
                if attempt.stop() == Stop::Lost {
                    self.forget(&mut runs, key);
                    return u64::MAX;
                }
                drop(runs);
                return self.look_at(key, now);
            }
            Next::Start(tasks) => {
                for task in tasks {
                    let state = &mut running.tasks[task];
                    if state.again_ns.is_some_and(|at| at > now.boottime_ns) {
                        continue;
                    }
                    (state.again_ns, state.tries, state.began_ns) = (None, state.tries + 1, now.boottime_ns);
                    running.steps[task] = Step::Running;
                    starts.push(TaskContext::new(attempt.clone(), task, state.tries, state.checkpoint.clone(), self));
                }
            }
        }
        let pauses = running.tasks.iter().filter_map(|t| t.again_ns).map(|at| at.saturating_sub(now.boottime_ns)).min();
        drop(runs);
        for context in starts {
            self.start(context);
        }
        next.min(pauses.unwrap_or(u64::MAX))
    }

    /// What time asks of an attempt. Returns ns until it asks again.
    fn watch(&self, running: &mut Running, now: Moment) -> u64 {
        let (attempt, wall_ms) = (&running.attempt, self.wall_ms());
        let definition = &attempt.schedule;
        let mut next = attempt.left_ns(now);
        if definition.max_runtime_ms != 0 {
            let left = (definition.max_runtime_ms * NS_PER_MS).saturating_sub(attempt.began.elapsed_ns(now));
            if left == 0 {
                attempt.tell(Stop::TimedOut);
            }
            next = next.min(left.max(1));
        }
        for (at, task) in running.tasks.iter().enumerate() {
            let bound = definition.tasks[at].max_runtime_ms * NS_PER_MS;
            if bound != 0 && running.steps[at] == Step::Running {
                let left = bound.saturating_sub(now.boottime_ns.saturating_sub(task.began_ns));
                if left == 0 {
                    attempt.tell(Stop::TimedOut);
                }
                next = next.min(left.max(1));
            }
        }
        if running.closes_ms != i64::MAX && definition.on_close != OnClose::Finish {
            let left = running.closes_ms.saturating_sub(wall_ms);
            if left <= 0 {
                attempt.tell(Stop::WindowClosed);
            }
            next = next.min(left.max(1) as u64 * NS_PER_MS);
        }
        if definition.halt_on_failure && running.steps.contains(&Step::Ended(false)) {
            attempt.tell(Stop::Halted);
        }
        if attempt.stop() == Stop::No {
            return next;
        }
        let since = *running.stopping_ns.get_or_insert(now.boottime_ns);
        let grace = u64::from(definition.grace_ms) * NS_PER_MS;
        let left = grace.saturating_sub(now.boottime_ns.saturating_sub(since));
        if left == 0 && running.steps.contains(&Step::Running) {
            let why = attempt.stop().as_str();
            tracing::error!(schedule = definition.id, run = attempt.run, why, "a handler does not stop; what it still does is fenced off");
            running.ended = Some((End::Stuck, format!("told to stop ({why}), and did not within the grace"), 0));
            return 0;
        }
        next.min(left.max(1))
    }

    /// The first renewal: only what the ledger confirms is begun, and the lease counts from when that was asked for.
    fn confirm(self: &Arc<Self>, key: (u64, u64), attempt: &Arc<Attempt>, now: Moment) -> u64 {
        if attempt.stop() == Stop::Lost {
            lock(&self.runs).remove(&key);
            return u64::MAX;
        }
        let since = now.boottime_ns.saturating_sub(attempt.sent_ns.load(std::sync::atomic::Ordering::SeqCst));
        if attempt.renewing.swap(true, std::sync::atomic::Ordering::SeqCst) && since < RESEND_NS {
            return RESEND_NS - since;
        }
        attempt.sent_ns.store(now.boottime_ns, std::sync::atomic::Ordering::SeqCst);
        let (weak, attempt) = (Arc::downgrade(self), attempt.clone());
        let op = OrchOp::Renew { run: key.0, token: attempt.token, progress: 0 };
        let done = Box::new(move |answer: crate::base::Result<Outcome>| {
            let Some(shared) = weak.upgrade() else { return };
            attempt.renewing.store(false, std::sync::atomic::Ordering::SeqCst);
            match answer {
                Ok(Outcome::Orch(OrchAnswer::Renewed { .. })) => shared.confirmed(key, &attempt, now),
                Ok(_) => attempt.tell(Stop::Lost),
                Err(error) => tracing::warn!(run = key.0, %error, "a run cannot be begun yet"),
            }
            shared.wake.raise();
        });
        self.engine().submit(&Request { session: crate::base::SessionId(0), seq: 0, op: Op::Orch(op) }, done);
        // In memory the answer is there already.
        let confirmed = lock(&self.runs).get(&key).is_some_and(|r| r.confirmed);
        if confirmed { self.look_at(key, now) } else { RESEND_NS }
    }

    fn confirmed(&self, key: (u64, u64), attempt: &Attempt, sent: Moment) {
        attempt.renewed(sent);
        let locking = self.first_locking();
        if let Some(running) = lock(&self.runs).get_mut(&key)
            && !running.confirmed
        {
            running.confirmed = true;
            // What is ready now begins now, but for gates and locks of the host.
            lock(&self.figures).started(self.wall_ms().saturating_sub(attempt.tick_ms).max(0) as u64);
            let began = Attempt::new(
                (attempt.run, attempt.token, attempt.number),
                attempt.schedule.clone(),
                attempt.target.clone(),
                attempt.tick_ms,
                attempt.params.clone(),
                sent,
            );
            if attempt.stop() != Stop::No {
                began.tell(attempt.stop());
            }
            running.attempt = Arc::new(began);
            running.locking = locking;
        }
    }

    fn start(self: &Arc<Self>, context: TaskContext) {
        let handler = lock(&self.handlers).get(context.kind()).cloned();
        match handler {
            None => context.finish(Err(format!("this node has no handler for {}", context.kind()))),
            Some(Handler::Deferred(handler)) => {
                if catch_unwind(AssertUnwindSafe(|| handler(context.clone()))).is_err() {
                    context.finish(Err("the handler panicked".to_owned()));
                }
            }
            Some(Handler::Blocking(handler)) => {
                let body = move |context: TaskContext| {
                    let result = catch_unwind(AssertUnwindSafe(|| handler(&context)));
                    context.finish(result.unwrap_or_else(|_| Err("the handler panicked".to_owned())));
                };
                if self.manual {
                    return body(context);
                }
                let own = context.clone();
                if let Err(error) = process::spawn("tenure-task", move || body(own)) {
                    context.finish(Err(format!("no thread for the handler: {error}")));
                }
            }
        }
    }

    /// A handler has ended.
    pub(super) fn ended(&self, run: u64, token: Token, task: usize, result: TaskResult) {
        lock(&self.ends).push((run, token, task, result));
        self.wake.raise();
    }

    /// A handler has saved a checkpoint: the next try of the task finds it.
    pub(super) fn keep_checkpoint(&self, run: u64, token: Token, task: usize, data: &[u8]) {
        if let Some(running) = lock(&self.runs).get_mut(&(run, token.0)) {
            running.tasks[task].checkpoint = data.to_vec();
        }
    }

    fn submit_finish(self: &Arc<Self>, key: (u64, u64), op: OrchOp) {
        let weak = Arc::downgrade(self);
        let done = Box::new(move |answer: crate::base::Result<Outcome>| {
            let Some(shared) = weak.upgrade() else { return };
            // Recorded, or another attempt has the run: there is nothing left to say.
            if let Ok(Outcome::Orch(_)) = answer {
                shared.forget(&mut lock(&shared.runs), key);
            }
            shared.wake.raise();
        });
        self.engine().submit(&Request { session: crate::base::SessionId(0), seq: 0, op: Op::Orch(op) }, done);
    }

    // ---- renewals --------------------------------------------------------------------------------

    /// Sends the renewals that are due; waits for nothing. Returns ns until the next.
    pub(super) fn renew_step(self: &Arc<Self>) -> u64 {
        use std::sync::atomic::Ordering::SeqCst;
        let now = self.now();
        let attempts: Vec<Arc<Attempt>> =
            lock(&self.runs).values().filter(|r| r.confirmed && r.ended.is_none()).map(|r| r.attempt.clone()).collect();
        let mut next = u64::MAX;
        for attempt in attempts {
            if attempt.left_ns(now) == 0 {
                attempt.tell(Stop::Lost);
                self.wake.raise();
                continue;
            }
            let (period, since) = (attempt.renewal_period_ns(), now.boottime_ns.saturating_sub(attempt.sent_ns.load(SeqCst)));
            if since < period {
                next = next.min(period - since);
                continue;
            }
            next = next.min(period);
            attempt.sent_ns.store(now.boottime_ns, SeqCst);
            lock(&self.figures).renewal(since);
            let (weak, own) = (Arc::downgrade(self), attempt.clone());
            let op = OrchOp::Renew { run: attempt.run, token: attempt.token, progress: attempt.progress.load(SeqCst) };
            let done = Box::new(move |answer: crate::base::Result<Outcome>| {
                let Some(shared) = weak.upgrade() else { return };
                match answer {
                    Ok(Outcome::Orch(OrchAnswer::Renewed { cancel, .. })) => {
                        own.renewed(now);
                        if cancel {
                            own.tell(Stop::Cancelled);
                            shared.wake.raise();
                        }
                    }
                    Ok(_) => {
                        own.tell(Stop::Lost);
                        shared.wake.raise();
                    }
                    Err(error) => tracing::warn!(run = own.run, %error, "a renewal had no answer"),
                }
            });
            self.engine().submit(&Request { session: crate::base::SessionId(0), seq: 0, op: Op::Orch(op) }, done);
        }
        next
    }

    pub(super) fn tell_all(&self, why: Stop) -> usize {
        let runs: &Runs = &lock(&self.runs);
        runs.values().for_each(|r| r.attempt.tell(why));
        runs.len()
    }

    pub(super) fn now(&self) -> Moment {
        Moment::now(&*self.session.core.clock)
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.session.core.clock
    }
}

fn end_of(attempt: &Attempt, ok: bool, running: &mut Running) -> End {
    if ok {
        return End::Succeeded;
    }
    let stop = attempt.stop();
    if running.message.is_empty() && stop != Stop::No {
        running.message = stop.as_str().to_owned();
    }
    match stop {
        Stop::Cancelled | Stop::Closing => End::Cancelled,
        Stop::TimedOut => End::TimedOut,
        Stop::WindowClosed if attempt.schedule.on_close == OnClose::Checkpoint => End::WindowClosed,
        Stop::WindowClosed => End::Cancelled,
        Stop::No | Stop::Halted | Stop::Lost => End::Failed,
    }
}
