//! What a handler is given: who it works for, until when, and how it says that it has finished.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::Shared;
use crate::base::{Error, Moment, Result, Status, Token};
use crate::ledger::orch::{CHECKPOINT_MAX, OrchAnswer, OrchOp, Schedule, Throttle};
use crate::orchestrator::calendar::Calendar;

const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u128 = 1_000_000_000;
/// Who rests looks this often whether the schedule still asks for it, ns.
const LOOK_NS: u64 = 1_000 * NS_PER_MS;

/// Why an attempt is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stop {
    /// It is not.
    No = 0,
    /// Somebody cancelled it.
    Cancelled = 1,
    /// Its time is over.
    TimedOut = 2,
    /// Its window closes.
    WindowClosed = 3,
    /// Its lease is over: another attempt may run.
    Lost = 4,
    /// The node closes.
    Closing = 5,
    /// Another task of the run has failed, and the schedule halts then.
    Halted = 6,
}

impl Stop {
    fn of(value: u8) -> Stop {
        [Stop::No, Stop::Cancelled, Stop::TimedOut, Stop::WindowClosed, Stop::Lost, Stop::Closing, Stop::Halted]
            .into_iter()
            .find(|s| *s as u8 == value)
            .unwrap_or(Stop::No)
    }

    /// The reason as a word; empty for none.
    pub fn as_str(self) -> &'static str {
        match self {
            Stop::No => "",
            Stop::Cancelled => "cancelled",
            Stop::TimedOut => "timed_out",
            Stop::WindowClosed => "window_closed",
            Stop::Lost => "lost",
            Stop::Closing => "closing",
            Stop::Halted => "halted",
        }
    }
}

/// How long a holder may believe in a lease of `lease_ms`, counted from when its renewal was sent: 2 % and 200 ms (of short
/// leases a quarter) less, for clocks that run apart.
fn believed_ns(lease_ms: u32) -> u64 {
    let lease = u64::from(lease_ms) * NS_PER_MS;
    lease - lease / 50 - (200 * NS_PER_MS).min(lease / 4)
}

/// An attempt on this node.
pub(super) struct Attempt {
    pub(super) run: u64,
    pub(super) token: Token,
    pub(super) number: u32,
    pub(super) schedule: Arc<Schedule>,
    pub(super) target: String,
    pub(super) tick_ms: i64,
    pub(super) params: Option<String>,
    pub(super) began: Moment,
    pub(super) progress: AtomicU16,
    stop: AtomicU8,
    /// Its end is being recorded: it holds the run no more, whatever is left of the lease.
    over: AtomicBool,
    /// When the last acknowledged renewal was sent, in both clocks' ns.
    acked: Mutex<Moment>,
    /// When one was sent last, acknowledged or not, BOOTTIME ns.
    pub(super) sent_ns: AtomicU64,
    pub(super) renewing: AtomicBool,
    /// Rings when it is to stop.
    bell: (Mutex<()>, Condvar),
}

impl Attempt {
    pub(super) fn new(
        (run, token, number): (u64, Token, u32),
        schedule: Arc<Schedule>,
        target: String,
        tick_ms: i64,
        params: Option<String>,
        acked: Moment,
    ) -> Attempt {
        Attempt {
            run,
            token,
            number,
            schedule,
            target,
            tick_ms,
            params,
            began: acked,
            progress: AtomicU16::new(0),
            stop: AtomicU8::new(0),
            over: AtomicBool::new(false),
            sent_ns: AtomicU64::new(acked.boottime_ns),
            acked: Mutex::new(acked),
            renewing: AtomicBool::new(false),
            bell: Default::default(),
        }
    }

    pub(super) fn stop(&self) -> Stop {
        Stop::of(self.stop.load(SeqCst))
    }

    /// Tells the handlers to stop; the first reason stays, but for the loss, which goes before all.
    pub(super) fn tell(&self, why: Stop) {
        let change = |old: u8| (old == 0 || (why == Stop::Lost && old != Stop::Lost as u8)).then_some(why as u8);
        if self.stop.fetch_update(SeqCst, SeqCst, change).is_ok() {
            let _guard = self.bell.0.lock().unwrap_or_else(PoisonError::into_inner);
            self.bell.1.notify_all();
        }
    }

    pub(super) fn renewed(&self, sent: Moment) {
        let mut acked = self.acked.lock().unwrap_or_else(PoisonError::into_inner);
        if sent.boottime_ns > acked.boottime_ns {
            *acked = sent;
        }
    }

    /// What is left of the lease in the holder's own view, ns.
    pub(super) fn left_ns(&self, now: Moment) -> u64 {
        if self.stop() == Stop::Lost {
            return 0;
        }
        let acked = *self.acked.lock().unwrap_or_else(PoisonError::into_inner);
        believed_ns(self.schedule.lease_ms).saturating_sub(acked.elapsed_ns(now))
    }

    /// A handler that goes on finds its gate closed from here on.
    pub(super) fn close(&self) {
        self.over.store(true, SeqCst);
    }

    pub(super) fn renewal_period_ns(&self) -> u64 {
        u64::from(self.schedule.lease_ms) * NS_PER_MS / 3
    }

    fn wait_stop(&self, timeout: Duration) -> bool {
        let guard = self.bell.0.lock().unwrap_or_else(PoisonError::into_inner);
        let going = |(): &mut ()| self.stop() == Stop::No;
        let _unused = self.bell.1.wait_timeout_while(guard, timeout, going).unwrap_or_else(PoisonError::into_inner);
        self.stop() != Stop::No
    }
}

/// What a task says when it has ended: success, or for people why not.
pub type TaskResult = std::result::Result<(), String>;

/// One try of one task. Clones are the same try; any thread may use it.
///
/// When the last clone is dropped without [`TaskContext::finish`], the try has failed.
#[derive(Clone)]
pub struct TaskContext(Arc<Try>);

pub(super) struct Try {
    pub(super) attempt: Arc<Attempt>,
    pub(super) task: usize,
    pub(super) number: u32,
    checkpoint: Mutex<Vec<u8>>,
    shared: Weak<Shared>,
    finished: AtomicBool,
    /// When the present segment of work began, BOOTTIME ns.
    segment_ns: AtomicU64,
    bytes: Mutex<Account>,
}

/// Bytes that were read and written and are not paid for by time yet.
#[derive(Default)]
struct Account {
    /// In bytes and ns, so that no fraction is lost however often it is asked.
    owed: u128,
    /// Up to when time has paid, BOOTTIME ns.
    paid_ns: u64,
}

impl Account {
    /// Time before it has paid for what was spent before, and for no more.
    fn spend(&mut self, bytes: u64, rate: u64, now_ns: u64) {
        self.pay(rate, now_ns);
        self.owed = self.owed.saturating_add(u128::from(bytes) * NS_PER_S);
    }

    /// How long to rest until all is paid but what a bucket of one second's worth lets pass at once.
    fn owes_ns(&mut self, rate: u64, now_ns: u64) -> u64 {
        self.pay(rate, now_ns);
        if rate == 0 {
            return 0;
        }
        let rate = u128::from(rate);
        u64::try_from(self.owed.saturating_sub(rate * NS_PER_S).div_ceil(rate)).unwrap_or(u64::MAX)
    }

    /// Time has passed up to an instant.
    fn pay(&mut self, rate: u64, until_ns: u64) {
        let paid = u128::from(until_ns.saturating_sub(self.paid_ns)) * u128::from(rate);
        // What nobody asks for is no debt.
        self.owed = if rate == 0 { 0 } else { self.owed.saturating_sub(paid) };
        self.paid_ns = self.paid_ns.max(until_ns);
    }
}

impl Drop for Try {
    fn drop(&mut self) {
        self.end(Err("the handler went away without a result".to_owned()));
    }
}

impl Try {
    fn account(&self) -> MutexGuard<'_, Account> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, result: TaskResult) {
        if self.finished.swap(true, SeqCst) {
            return;
        }
        if let Some(shared) = self.shared.upgrade() {
            shared.ended(self.attempt.run, self.attempt.token, self.task, result);
        }
    }
}

impl std::fmt::Debug for TaskContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskContext").field("key", &self.idempotency_key()).field("kind", &self.kind()).finish_non_exhaustive()
    }
}

impl TaskContext {
    pub(super) fn new(attempt: Arc<Attempt>, task: usize, number: u32, checkpoint: Vec<u8>, shared: &Arc<Shared>) -> TaskContext {
        let now = shared.now().boottime_ns;
        TaskContext(Arc::new(Try {
            attempt,
            task,
            number,
            checkpoint: Mutex::new(checkpoint),
            shared: Arc::downgrade(shared),
            finished: AtomicBool::new(false),
            segment_ns: AtomicU64::new(now),
            bytes: Mutex::new(Account { owed: 0, paid_ns: now }),
        }))
    }

    fn shared(&self) -> Result<Arc<Shared>> {
        self.0.shared.upgrade().ok_or_else(|| Error::new(Status::Closed, "the orchestrator has been closed"))
    }

    /// The run's number.
    pub fn run(&self) -> u64 {
        self.0.attempt.run
    }

    /// The schedule's id.
    pub fn schedule(&self) -> &str {
        &self.0.attempt.schedule.id
    }

    /// The target: empty for a singleton, this node's name, or a shard's.
    pub fn target(&self) -> &str {
        &self.0.attempt.target
    }

    /// The task's kind.
    pub fn kind(&self) -> &str {
        &self.0.attempt.schedule.tasks[self.0.task].kind
    }

    /// The task's name within the schedule.
    pub fn task(&self) -> &str {
        self.0.attempt.schedule.tasks[self.0.task].name()
    }

    /// The nominal instant, UTC ms.
    pub fn tick_ms(&self) -> i64 {
        self.0.attempt.tick_ms
    }

    /// Number of the attempt, from 1: a larger one means that a former attempt was lost or put off.
    pub fn attempt(&self) -> u32 {
        self.0.attempt.number
    }

    /// Number of this try of the task within the attempt, from 1.
    pub fn try_number(&self) -> u32 {
        self.0.number
    }

    /// The fencing token: larger than that of every former attempt. Hand it to the resource that is written to.
    pub fn token(&self) -> Token {
        self.0.attempt.token
    }

    /// `schedule/target/tick`: the same for all attempts.
    pub fn idempotency_key(&self) -> String {
        format!("{}/{}/{}", self.schedule(), self.target(), self.tick_ms())
    }

    /// Parameters: the trigger's, else the task's, else the schedule's.
    pub fn params(&self) -> &str {
        let (attempt, task) = (&self.0.attempt, &self.0.attempt.schedule.tasks[self.0.task]);
        match &attempt.params {
            Some(params) => params,
            None if task.params.is_empty() => &attempt.schedule.params,
            None => &task.params,
        }
    }

    /// The latest checkpoint of this task, of this or a former attempt; empty for none.
    pub fn checkpoint(&self) -> Vec<u8> {
        self.0.checkpoint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps bytes for the next try and the next attempt. Waits for the ledger.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] above 64 KiB, [`Status::Fenced`] when this attempt is not the present one, and what every call may answer.
    pub fn save_checkpoint(&self, data: &[u8]) -> Result<()> {
        if data.len() > CHECKPOINT_MAX {
            return Err(Error::invalid("checkpoint", format_args!("{} bytes are above {CHECKPOINT_MAX}", data.len())));
        }
        let (run, token, task) = (self.run(), self.token(), self.0.task as u16);
        let shared = self.shared()?;
        match shared.execute(OrchOp::Checkpoint { run, token, task, data: data.to_vec() })? {
            OrchAnswer::Done => {
                shared.keep_checkpoint(run, token, self.0.task, data);
                *self.0.checkpoint.lock().unwrap_or_else(PoisonError::into_inner) = data.to_vec();
                Ok(())
            }
            other => Err(other.into()),
        }
    }

    /// Says how far the run is, 0 to 1. It goes out with the next renewal.
    pub fn progress(&self, done: f64) {
        self.0.attempt.progress.store((done.clamp(0.0, 1.0) * 1000.0) as u16, Relaxed);
    }

    /// Whether and why the handler is to stop.
    pub fn stop(&self) -> Stop {
        if self.0.attempt.stop() == Stop::No && self.remaining().is_zero() {
            return Stop::Lost;
        }
        self.0.attempt.stop()
    }

    /// Waits until the handler is to stop, at most `timeout`; whether it is.
    pub fn wait_stop(&self, timeout: Duration) -> bool {
        let mut left = timeout;
        while !left.is_zero() && self.stop() == Stop::No {
            // Renewals prolong the lease meanwhile.
            let step = left.min(self.remaining());
            self.rest(step);
            left = left.saturating_sub(step.max(Duration::from_millis(1)));
        }
        self.stop() != Stop::No
    }

    /// Sleeps, on the clock that the orchestrator goes by, and wakes when the handler is told to stop.
    fn rest(&self, time: Duration) {
        match self.0.shared.upgrade().and_then(|s| s.pass.get().cloned()) {
            None => drop(self.0.attempt.wait_stop(time)),
            Some(pass) => pass(time, &|| self.0.attempt.stop() != Stop::No),
        }
    }

    /// The attempt's gate: whether it still holds the run, by its own clocks. Ask before and after every write that a later attempt must not
    /// find undone.
    ///
    /// # Errors
    /// [`Status::Expired`] once the lease may be over, or the run is.
    pub fn check(&self) -> Result<()> {
        if self.remaining().is_zero() {
            return Err(Error::new(Status::Expired, "the attempt is over, or its lease may be").with_token(self.token().0));
        }
        Ok(())
    }

    /// What is left of the lease in this node's own view, without asking anybody.
    pub fn remaining(&self) -> Duration {
        let shared = self.0.shared.upgrade().filter(|_| !self.0.attempt.over.load(SeqCst));
        shared.map_or(Duration::ZERO, |s| Duration::from_nanos(self.0.attempt.left_ns(s.now())))
    }

    /// How hard it may press now, by the schedule as it is now.
    pub fn throttle(&self) -> Throttle {
        let Ok(shared) = self.shared() else { return Throttle::default() };
        let latest = shared.definition_of(self.schedule());
        let schedule = latest.unwrap_or_else(|| self.0.attempt.schedule.clone());
        if schedule.throttle_at.is_empty() {
            return schedule.throttle;
        }
        Calendar::new(&schedule).map_or(schedule.throttle, |c| c.throttle(shared.wall_ms(), &schedule))
    }

    /// To be called after each piece of work with the bytes that it read and wrote: sleeps as long as intensity and byte rate ask for (an edit of the
    /// schedule counts within a second), and wakes when the handler is to stop. False: it is to stop.
    pub fn pace(&self, bytes: u64) -> bool {
        let Ok(shared) = self.shared() else { return false };
        let now_ns = shared.now().boottime_ns;
        let worked_ns = now_ns.saturating_sub(self.0.segment_ns.load(Relaxed));
        self.0.account().spend(bytes, self.throttle().bytes_per_s, now_ns);
        let mut rested_ns = 0;
        while self.stop() == Stop::No {
            let (throttle, now) = (self.throttle(), shared.now().boottime_ns);
            let intensity = u64::from(throttle.intensity.clamp(1, 1000));
            let rest_ns = (worked_ns.saturating_mul(1000 - intensity) / intensity).saturating_sub(rested_ns);
            let left_ns = rest_ns.max(self.0.account().owes_ns(throttle.bytes_per_s, now));
            if left_ns == 0 {
                break;
            }
            let step_ns = left_ns.min(LOOK_NS);
            self.wait_stop(Duration::from_nanos(step_ns));
            rested_ns += step_ns;
            self.0.account().pay(throttle.bytes_per_s, now.saturating_add(step_ns));
        }
        self.0.segment_ns.store(shared.now().boottime_ns, Relaxed);
        self.stop() == Stop::No
    }

    /// The try has ended. The first call counts.
    pub fn finish(&self, result: TaskResult) {
        self.0.end(result);
    }
}
