//! The orchestrator of a node: schedules, handlers, and the two threads that give out work and do it.
//!
//! One node at a time gives out work: the holder of a lock. That is for economy only; the ledger judges every proposal, so two
//! at once start nothing twice. Neither thread waits for an answer of the ledger: answers come on others, and ring the first one's bell. The second
//! thread only sends renewals.

mod asked;
mod context;
mod drive;
mod drop_in;
mod figures;
mod given;
mod host;
mod locked;
mod runner;
mod verbs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

pub use context::{Stop, TaskContext, TaskResult};
pub use host::ShardList;
pub use verbs::RunNow;

use self::drive::Driver;
use self::drop_in::Churn;
use self::figures::Figures;
use self::host::Shards;
use self::locked::{LockEnd, RunLocks};
use self::runner::Running;
use super::Node;
use super::session::Session;
use super::wake::{Deadline, Wake};
use crate::base::{Config, Error, Result, SessionId, Status, Token, process};
use crate::engine::Engine;
use crate::ledger::orch::{OrchAnswer, OrchOp, Schedule};
use crate::ledger::{Op, Outcome, Request};

const NS_PER_MS: u64 = 1_000_000;
/// The longest sleep of the thread that gives out work: the wall clock may be set meanwhile.
const LONGEST: Duration = Duration::from_secs(1);

/// Names a host's shards, each with the names of the nodes that have it; or says why it cannot.
pub type Topology = dyn Fn(&Schedule) -> std::result::Result<ShardList, String> + Send + Sync;
/// Says why a run must not start now; `None` when it may. Given the schedule and the target.
pub type HostGate = dyn Fn(&Schedule, &str) -> Option<String> + Send + Sync;

/// Lets so much time pass, or less when there is enough: for a clock that nobody else moves.
pub(in crate::node) type Pass = dyn Fn(Duration, &dyn Fn() -> bool) + Send + Sync;

/// What does a kind of task.
#[derive(Clone)]
pub enum Handler {
    /// Called on a thread of its own, which it may keep busy. A panic fails the try. With [`super::Env::manual`] it is called inside
    /// [`Orchestrator::step`].
    Blocking(Arc<dyn Fn(&TaskContext) -> TaskResult + Send + Sync>),
    /// Called on the orchestrator's thread, and returns at once; [`TaskContext::finish`] is called later, from anywhere.
    Deferred(Arc<dyn Fn(TaskContext) + Send + Sync>),
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Handler::Blocking(_)) { "Blocking" } else { "Deferred" })
    }
}

/// How an orchestrator takes part.
#[derive(Clone, Debug)]
pub struct OrchestratorOptions {
    /// Labels that schedules may ask for.
    pub labels: BTreeMap<String, String>,
    /// The version that schedules may ask for.
    pub version: u32,
    /// Most runs at once on this node; 0 for no bound.
    pub capacity: u32,
    /// Whether it may be the one that gives out work.
    pub drive: bool,
    /// For so long after it began to give out work it starts at most [`OrchestratorOptions::ramp_starts`] runs a second and worker.
    pub ramp_up: Duration,
    /// See above.
    pub ramp_starts: u32,
    /// The weaker mode of a host that comes from ThemisDB: schedules and ticks are this orchestrator's own, kept in memory, and nodes are coordinated by
    /// nothing but the lock of [`Orchestrator::set_distributed_lock`], at first the locks of this session. A tick can run on several nodes.
    pub lock_only: bool,
    /// What this orchestrator's wall clock is off by, ms: to show what skew does. A named weaker mode unless it is 0.
    pub wall_offset_ms: i64,
}

impl Default for OrchestratorOptions {
    fn default() -> OrchestratorOptions {
        OrchestratorOptions {
            labels: BTreeMap::new(),
            version: 0,
            capacity: 0,
            drive: true,
            ramp_up: Duration::from_secs(30),
            ramp_starts: 10,
            lock_only: false,
            wall_offset_ms: 0,
        }
    }
}

/// As whom it takes part: the session, and how many kinds it has named.
#[derive(Default)]
struct Joined {
    known: (SessionId, usize),
    /// Asked for, and not answered yet.
    asked: Option<(SessionId, usize)>,
}

/// The end of a try, on its way to the orchestrator's thread.
type TaskEnd = (u64, Token, usize, TaskResult);

pub(super) struct Shared {
    session: Session,
    options: OrchestratorOptions,
    /// Whether runs can be given out, and done, here.
    works: bool,
    manual: bool,
    pass: OnceLock<Arc<Pass>>,
    handlers: Mutex<BTreeMap<String, Handler>>,
    gates: Mutex<Vec<Arc<HostGate>>>,
    /// Calls of gates that have not returned.
    asking: Arc<AtomicU32>,
    shards: Mutex<Shards>,
    joined: Mutex<Joined>,
    driver: Mutex<Driver>,
    /// In order: those that begin at one instant begin in the order in which they were made, in every run of a simulation.
    runs: Mutex<BTreeMap<(u64, u64), Running>>,
    /// Attempts of this session that are not begun here: those that are over, as far as this node is concerned, and those that it had when this was
    /// opened, which another orchestrator may have begun. What the ledger still has of them runs out.
    left: Mutex<BTreeSet<(u64, u64)>>,
    /// Whether the session's place is still taken by this one.
    placed: AtomicBool,
    ends: Mutex<Vec<TaskEnd>>,
    /// The lock that is taken round each run.
    locks: Mutex<Option<Arc<RunLocks>>>,
    lock_ends: Mutex<Vec<LockEnd>>,
    churn: Mutex<Churn>,
    /// Session and version at which the runs were read last.
    seen: Mutex<(SessionId, u64)>,
    figures: Mutex<Figures>,
    wake: Arc<Wake>,
    renewals: Arc<Wake>,
    closed: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Panics of handlers and callbacks are caught; what these locks guard is whole at every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The orchestrator of a session. Clones are the same one; any thread may use it. Dropping the last clone closes it without waiting: its runs are
/// told to stop, and what does not end runs out.
#[derive(Clone)]
pub struct Orchestrator(Arc<Owner>);

struct Owner {
    shared: Arc<Shared>,
    /// With `lock_only`: what it keeps its schedules in.
    own: Option<Node>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Orchestrator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Orchestrator").field("node", &self.0.shared.session.name()).finish_non_exhaustive()
    }
}

impl Shared {
    /// Lets another orchestrator work under the session's name.
    fn leave_place(&self) {
        if self.placed.swap(false, SeqCst) {
            self.session.state.orchestrated.store(false, SeqCst);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.leave_place();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if !self.shared.closed.swap(true, SeqCst) {
            self.shared.leave();
        }
        self.shared.tell_all(Stop::Closing);
        self.shared.wake.stop();
        self.shared.renewals.stop();
    }
}

impl Session {
    /// Makes an orchestrator that works under this session's name. `manual`: no threads, the caller moves it with [`Orchestrator::step`].
    ///
    /// # Errors
    /// What every call may answer; [`Status::Misuse`] over a host's lock service, and while another orchestrator of this session is open; [`Status::Io`] when the system gives no thread.
    pub fn orchestrator(&self, options: OrchestratorOptions, manual: bool) -> Result<Orchestrator> {
        self.core.check()?;
        if options.lock_only {
            return self.alone(options, manual);
        }
        self.open_orchestrator(options, manual, None)
    }

    /// An orchestrator over a ledger of its own, with this session's locks.
    fn alone(&self, options: OrchestratorOptions, manual: bool) -> Result<Orchestrator> {
        if manual {
            return Err(Error::invalid("lock_only", "a lock is taken by threads, and there are none"));
        }
        let mut config = Config::new();
        config.set("node_id", self.name())?;
        let own = Node::open(&config)?;
        let orchestrator = own.session().open_orchestrator(options, false, Some(own))?;
        orchestrator.set_distributed_lock(Some(self.lock_service()))?;
        Ok(orchestrator)
    }

    fn open_orchestrator(&self, options: OrchestratorOptions, manual: bool, own: Option<Node>) -> Result<Orchestrator> {
        let works = match &self.core.engine {
            Engine::Plugged(_) => return Err(Error::new(Status::Misuse, "a host's lock service keeps no schedules")),
            // It reads and writes schedules; what is due is read by members only.
            Engine::Client(_) => false,
            _ => true,
        };
        // Two of one session would each begin what is given to it.
        if works && self.state.orchestrated.swap(true, SeqCst) {
            return Err(Error::new(Status::Misuse, format!("{} has an orchestrator already", self.name())));
        }
        let session = self.id();
        let left = self.core.engine.orch(move |state, _| state.runs_of(session).map(|r| (r.id, r.token.0)).collect()).unwrap_or_default();
        let shared = Arc::new(Shared {
            session: self.clone(),
            options,
            works,
            manual,
            pass: OnceLock::new(),
            handlers: Mutex::default(),
            gates: Mutex::default(),
            asking: Arc::default(),
            shards: Mutex::default(),
            joined: Mutex::default(),
            driver: Mutex::default(),
            runs: Mutex::default(),
            left: Mutex::new(left),
            placed: AtomicBool::new(works),
            ends: Mutex::default(),
            locks: Mutex::default(),
            lock_ends: Mutex::default(),
            churn: Mutex::default(),
            seen: Mutex::new((SessionId(0), u64::MAX)),
            figures: Mutex::default(),
            wake: Arc::default(),
            renewals: Arc::default(),
            closed: AtomicBool::new(false),
        });
        // A client sees the schedules through a member, and neither gives out work nor takes it: it needs no threads.
        let threads_wanted = !manual && !shared.is_client();
        let weak = Arc::downgrade(&shared);
        self.core.bells().push(Box::new(move |session| ring(&weak, session)));
        let mut threads = Vec::new();
        if threads_wanted {
            let (weak, wake) = (Arc::downgrade(&shared), shared.wake.clone());
            threads.push(process::spawn("tenure-orch", move || {
                turn(&weak, &wake, |shared| Duration::from_nanos(shared.step()).min(LONGEST))
            })?);
            let (weak, wake) = (Arc::downgrade(&shared), shared.renewals.clone());
            threads.push(process::spawn("tenure-lease", move || {
                turn(&weak, &wake, |shared| Duration::from_nanos(shared.renew_step()).min(LONGEST));
            })?);
        }
        Ok(Orchestrator(Arc::new(Owner { shared, own, threads: Mutex::new(threads) })))
    }
}

/// The ledger says that something has changed. False when nobody listens any more.
fn ring(shared: &Weak<Shared>, session: SessionId) -> bool {
    let Some(shared) = shared.upgrade() else { return false };
    if session.0 == 0 || session == shared.session.id() {
        shared.wake.raise();
    }
    true
}

/// A thread's body: it holds the orchestrator only while it works.
fn turn(shared: &Weak<Shared>, wake: &Wake, step: impl Fn(&Arc<Shared>) -> Duration) {
    loop {
        let next = {
            let Some(shared) = shared.upgrade() else { return };
            if shared.session.core.check().is_err() {
                return;
            }
            step(&shared)
        };
        if !wake.wait(next) {
            return;
        }
    }
}

impl Shared {
    fn engine(&self) -> &Engine {
        &self.session.core.engine
    }

    fn is_client(&self) -> bool {
        matches!(self.engine(), Engine::Client(_))
    }

    fn wall_ms(&self) -> i64 {
        let now_ms = i64::try_from(self.clock().realtime_ns() / NS_PER_MS).unwrap_or(i64::MAX);
        now_ms.saturating_add(self.options.wall_offset_ms)
    }

    fn local_ms(&self) -> u64 {
        self.clock().monotonic_ns() / NS_PER_MS
    }

    fn lot(&self) -> u64 {
        self.session.core.with_rng(|rng| rng.next_u64())
    }

    fn check(&self) -> Result<()> {
        self.session.core.check()?;
        if self.is_closed() {
            return Err(Error::new(Status::Closed, "the orchestrator has been closed"));
        }
        Ok(())
    }

    fn execute(&self, op: OrchOp) -> Result<OrchAnswer> {
        self.execute_as(SessionId(0), op)
    }

    fn execute_as(&self, session: SessionId, op: OrchOp) -> Result<OrchAnswer> {
        self.session.core.check()?;
        match self.engine().execute(&Request { session, seq: 0, op: Op::Orch(op) })? {
            Outcome::Orch(answer) => Ok(answer),
            other => Err(super::answer::unexpected(other)),
        }
    }

    fn submit(&self, op: OrchOp) {
        self.engine().submit(&Request { session: SessionId(0), seq: 0, op: Op::Orch(op) }, Box::new(|_| {}));
    }

    /// One round of everything that the first thread does. Returns ns until the next is due.
    fn step(self: &Arc<Self>) -> u64 {
        if !self.works {
            return u64::MAX;
        }
        self.join();
        let work = self.run_step();
        let drive = self.drive_step();
        // What was given out to this node just now is begun at once.
        let work = work.min(self.run_step());
        self.renewals.raise();
        work.min(drive)
    }

    fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    /// Sees to it that the ledger knows this worker, under its present session.
    fn join(self: &Arc<Self>) {
        let kinds: Vec<String> = lock(&self.handlers).keys().cloned().collect();
        let now = (self.session.id(), kinds.len());
        if now.0.0 == 0 || kinds.is_empty() || self.is_closed() {
            return;
        }
        {
            let mut joined = lock(&self.joined);
            if joined.known == now || joined.asked.is_some() {
                return;
            }
            joined.asked = Some(now);
        }
        let op = OrchOp::Join {
            kinds,
            labels: self.options.labels.clone(),
            version: self.options.version,
            capacity: self.options.capacity,
            now_ms: self.wall_ms(),
        };
        self.ask_ledger(now.0, op, move |shared, answer| shared.has_joined(now, answer));
    }

    fn has_joined(self: &Arc<Self>, who: (SessionId, usize), answer: Result<OrchAnswer>) {
        lock(&self.joined).asked = None;
        match answer {
            Ok(OrchAnswer::Done) => {
                lock(&self.joined).known = who;
                self.wake.raise();
                if self.is_closed() {
                    // It has left before it was let in.
                    self.leave();
                }
            }
            Ok(other) => tracing::warn!(node = self.session.name(), ?other, "the ledger does not take this worker"),
            Err(error) => tracing::warn!(node = self.session.name(), %error, "joining as a worker failed"),
        }
    }

    /// Takes no more work, and gives out none. Waits for nothing.
    fn leave(&self) {
        if !self.works || self.session.core.check().is_err() {
            return;
        }
        lock(&self.driver).resign(&self.session);
        let session = self.session.id();
        if session.0 != 0 {
            self.engine().submit(&Request { session, seq: 0, op: Op::Orch(OrchOp::Leave) }, Box::new(|_| {}));
        }
    }

    fn definition_of(&self, id: &str) -> Option<Arc<Schedule>> {
        let id = id.to_owned();
        self.engine().orch(move |state, _| state.schedule(&id).map(|e| e.definition.clone())).ok().flatten()
    }
}

impl Orchestrator {
    /// One round, for an orchestrator made with `manual`: gives out what is due, begins and ends runs, sends renewals. Handlers that block are called in
    /// it. What the ledger answers later is taken in the next round. Returns how long until that is due.
    pub fn step(&self) -> Duration {
        let shared = &self.0.shared;
        let mut next = shared.step();
        // What handlers have done in this round may let the next begin.
        while !lock(&shared.ends).is_empty() || !lock(&shared.lock_ends).is_empty() {
            next = shared.step();
        }
        Duration::from_nanos(next.min(shared.renew_step()))
    }

    /// Handlers that wait or rest let virtual time pass. The first one stays.
    pub(in crate::node) fn let_pass(&self, pass: Arc<Pass>) {
        let _ = self.0.shared.pass.set(pass);
    }

    /// Ends it: it takes no more work, its runs are told to stop, and what has stopped within `timeout` is recorded. Closing twice is no error.
    ///
    /// # Errors
    /// [`Status::Timeout`] when handlers did not stop in time: their runs are lost when their leases end.
    pub fn close(&self, timeout: Duration) -> Result<()> {
        let shared = &self.0.shared;
        super::delivery::check_may_block()?;
        if shared.closed.swap(true, SeqCst) {
            return Ok(());
        }
        let session = shared.session.id();
        if session.0 != 0 && shared.session.core.check().is_ok() {
            let _ = shared.execute_as(session, OrchOp::Leave);
        }
        let deadline = Deadline::after(timeout);
        let mut left = shared.tell_all(Stop::Closing);
        while left > 0 && !deadline.left().is_zero() && shared.session.core.check().is_ok() {
            if self.0.shared.manual {
                self.step();
            } else {
                shared.wake.raise();
            }
            left = lock(&shared.runs).len();
            if left > 0 {
                lock(&shared.driver).pause(Duration::from_millis(2));
            }
        }
        lock(&shared.driver).resign(&shared.session);
        shared.wake.stop();
        shared.renewals.stop();
        for thread in std::mem::take(&mut *lock(&self.0.threads)) {
            if thread.thread().id() != std::thread::current().id() {
                // A panic there was logged by the thread's own end.
                let _ = thread.join();
            }
        }
        shared.leave_place();
        if let Some(own) = &self.0.own {
            own.close(deadline.left())?;
        }
        if left == 0 { Ok(()) } else { Err(Error::new(Status::Timeout, format!("{left} runs did not stop in time"))) }
    }
}
