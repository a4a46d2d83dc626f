//! What simulations need of this layer: machines that stop and go on, chances that come from a seed, a member that runs where it was started.
//!
//! A task belongs to the [`Machine`] whose task made it. While that is stopped none of its tasks is polled, as after SIGSTOP; once it is dead
//! none ever is again. Tasks of no machine run as always.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use openraft::rt::deterministic_rng::DeterministicRng;
use openraft::{AsyncRuntime, OptionalSend, TokioRuntime};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::change;
use super::core::Options;
use super::form;
use super::log::sight::{Place, digest};
use super::node::{Consensus, Parts, Running};
use super::simulated_watch::OrderedWatch;
use super::types::Entry;
use crate::base::{Result, Rng, SeededRng};

tokio::task_local! {
    static HERE: Machine;
}

/// Told of what a member on a machine is about to do, before anything follows from it.
pub(crate) trait Witness: Send + Sync {
    /// It applies an entry.
    fn applies(&self, at: Place, digest: u32);
    /// It has stored the snapshot of a leader's.
    fn installs(&self, at: Place);
}

struct State {
    rng: SeededRng,
    stopped: bool,
    dead: bool,
    waiting: Vec<Waker>,
    witness: Option<Arc<dyn Witness>>,
}

/// A machine, as far as its tasks know. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Machine(Arc<Mutex<State>>);

impl Machine {
    pub fn new(seed: u64) -> Machine {
        let state = State { rng: SeededRng::new(seed), stopped: false, dead: false, waiting: Vec::new(), witness: None };
        Machine(Arc::new(Mutex::new(state)))
    }

    /// Has this one told of what the member does.
    pub fn watch(&self, witness: Arc<dyn Witness>) {
        self.state().witness = Some(witness);
    }

    /// The machine of the task that asks.
    pub fn here() -> Option<Machine> {
        HERE.try_with(Machine::clone).ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None of its tasks runs until [`Machine::go_on`].
    pub fn stop(&self) {
        self.state().stopped = true;
    }

    pub fn go_on(&self) {
        let waiting = {
            let mut state = self.state();
            state.stopped = false;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// None of its tasks ever runs again.
    pub fn die(&self) {
        let mut state = self.state();
        state.dead = true;
        state.waiting.clear();
    }

    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    pub fn runs(&self) -> bool {
        let state = self.state();
        !state.dead && !state.stopped
    }

    /// What runs on it.
    pub fn run<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        HERE.scope(self.clone(), OnMachine { machine: self.clone(), work: Some(Box::pin(work)) })
    }

    /// Has a call that is no task belong to it.
    pub fn enter<T>(&self, body: impl FnOnce() -> T) -> T {
        HERE.sync_scope(self.clone(), body)
    }
}

fn witness() -> Option<Arc<dyn Witness>> {
    Machine::here()?.state().witness.clone()
}

/// The member of this machine applies an entry.
pub(super) fn applies(entry: &Entry) {
    if let (Some(witness), Ok(record)) = (witness(), form::record(entry)) {
        witness.applies(Place::of(entry.log_id.into()), digest(&record));
    }
}

/// The member of this machine has stored a snapshot that came to it.
pub(super) fn installs(state: &change::State) {
    if let (Some(witness), Some(at)) = (witness(), state.applied) {
        witness.installs(Place::of(at));
    }
}

struct OnMachine<F> {
    machine: Machine,
    /// Gone once the machine is dead: nobody is told.
    work: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for OnMachine<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        {
            let mut state = this.machine.state();
            if state.dead {
                drop(state);
                this.work = None;
                return Poll::Pending;
            }
            if state.stopped {
                state.waiting.push(cx.waker().clone());
                return Poll::Pending;
            }
        }
        match &mut this.work {
            Some(work) => work.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

/// A task on the machine of the one that asks.
pub(super) fn spawn<F>(work: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    spawn_on(&Handle::current(), work)
}

/// As [`spawn`], in this runtime.
pub(super) fn spawn_on<F>(runtime: &Handle, work: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    match Machine::here() {
        Some(machine) => runtime.spawn(machine.run(work)),
        None => runtime.spawn(work),
    }
}

type Seeded = DeterministicRng<TokioRuntime>;

/// Tokio, with tasks on machines and chances from the machine's seed; for tasks of no machine it is tokio as it is.
#[derive(Debug)]
pub(super) struct SimulatedRuntime(TokioRuntime);

impl AsyncRuntime for SimulatedRuntime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <Seeded as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = OrderedWatch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match Machine::here() {
            Some(machine) => TokioRuntime::spawn(machine.run(future)),
            None => TokioRuntime::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        let seed = match Machine::here() {
            Some(machine) => machine.state().rng.next_u64(),
            None => std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0),
        };
        // Its only way to a generator of a given seed: a task of that seed asks for one, and has it at once.
        let mut asked = std::pin::pin!(Seeded::scope(seed, async { <Seeded as AsyncRuntime>::thread_rng() }));
        match asked.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(rng) => rng,
            Poll::Pending => unreachable!("it waits for nothing"),
        }
    }

    fn new(threads: usize) -> Self {
        SimulatedRuntime(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

impl Consensus {
    /// A member without threads, in the runtime and on the machine of the task that opens it.
    pub(crate) async fn open_here(options: Options, parts: Parts) -> Result<Consensus> {
        let running = Running::start(Options { inline: true, ..options }, parts).await?;
        Ok(Consensus::inside(running.core))
    }
}
