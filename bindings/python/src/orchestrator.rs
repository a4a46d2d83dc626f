//! The orchestrator: its verbs, the tasks that it hands to Python, and its virtual time.

use std::sync::{Arc, mpsc};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tenure::base::Result;
use tenure::ledger::orch::Schedule;
use tenure::node::orchestrator::{Handler, Orchestrator as Core, OrchestratorOptions, RunNow, ShardList, TaskContext, Topology};
use tenure::node::{self, Simulation as CoreSimulation};

use crate::args;
use crate::errors::{guard, raise};
use crate::inbox::{self, Item};
use crate::kept::Kept;
use crate::node::Node;
use crate::plug::Plug;

/// An orchestrator. `number` is what its tasks carry in the inbox.
#[pyclass(frozen, module = "tenure._core")]
pub struct Orchestrator {
    inner: Kept<Core>,
    node: Option<Kept<node::Node>>,
    number: u64,
}

impl Orchestrator {
    pub fn open(py: Python<'_>, node: &node::Node, session: node::Session, options: &str, number: u64) -> PyResult<Orchestrator> {
        let options = OrchestratorOptions::from_json(options).map_err(|e| raise(py, &e))?;
        let inner = guard(py, |why| node.poison(why), || session.orchestrator(options, false))?;
        Ok(Orchestrator { inner: Kept::new(inner), node: Some(Kept::new(node.clone())), number })
    }

    fn call<T: Send>(&self, py: Python<'_>, f: impl FnOnce(&Core) -> Result<T> + Send) -> PyResult<T> {
        let core = self.inner.get(py)?;
        let poison = |why: &str| self.node.iter().for_each(|n| n.poison(why));
        guard(py, poison, || py.detach(|| f(core)))
    }
}

#[pymethods]
impl Orchestrator {
    /// Tasks of this kind arrive in the inbox.
    fn register(&self, py: Python<'_>, kind: &str) -> PyResult<()> {
        let number = self.number;
        let push = move |context: TaskContext| inbox::push(Item::Task { orchestrator: number, context });
        self.call(py, |o| o.register(kind, Handler::Deferred(Arc::new(push))))
    }

    /// Writes a schedule given as JSON.
    fn put(&self, py: Python<'_>, text: &str, expected: Option<u64>) -> PyResult<u64> {
        self.call(py, |o| o.put_json(text, expected))
    }

    /// Writes a schedule given as ThemisDB's JSON.
    fn put_themis(&self, py: Python<'_>, text: &str, expected: Option<u64>) -> PyResult<u64> {
        self.call(py, |o| o.put_themis(text, expected))
    }

    /// A schedule as ThemisDB's JSON.
    fn get_themis(&self, py: Python<'_>, schedule: &str) -> PyResult<String> {
        self.call(py, |o| o.get_themis(schedule)).map(|v| v.to_string())
    }

    /// Changes fields given as ThemisDB's JSON.
    fn patch_themis(&self, py: Python<'_>, schedule: &str, patch: &str) -> PyResult<u64> {
        self.call(py, |o| o.patch_themis(schedule, patch))
    }

    /// Sets the lock that is taken round each run: a service, a node's, or none.
    fn set_lock(&self, py: Python<'_>, plug: Option<&Plug>, node: Option<&Node>) -> PyResult<()> {
        let own = node.map(|node| node.lock_service(py)).transpose()?;
        let service = plug.map(Plug::service).or(own);
        self.call(py, |o| o.set_distributed_lock(service))
    }

    /// Adds a gate: its questions arrive in the inbox under this tag.
    fn add_gate(&self, py: Python<'_>, tag: u64) -> PyResult<()> {
        let ask = move |schedule: &Schedule, target: &str| match Question::ask(tag, &schedule.id, target) {
            Some(Answer::Gate(said)) => said,
            _ => Some("a gate went away without an answer".to_owned()),
        };
        self.call(py, |o| o.add_gate(Arc::new(ask)))
    }

    /// Sets the topology: its questions arrive in the inbox under this tag; or none.
    fn set_topology(&self, py: Python<'_>, tag: Option<u64>) -> PyResult<()> {
        let topology = tag.map(|tag| {
            let ask = move |schedule: &Schedule| match Question::ask(tag, &schedule.id, "") {
                Some(Answer::Shards(said)) => said,
                _ => Err("the topology went away without an answer".to_owned()),
            };
            Arc::new(ask) as Arc<Topology>
        });
        self.call(py, |o| o.set_topology(topology))
    }

    /// Removes a schedule.
    fn remove(&self, py: Python<'_>, schedule: &str, expected: Option<u64>) -> PyResult<()> {
        self.call(py, |o| o.remove(schedule, expected))
    }

    /// Switches a schedule on or off.
    fn enable(&self, py: Python<'_>, schedule: &str, enabled: bool) -> PyResult<()> {
        self.call(py, |o| o.enable(schedule, enabled))
    }

    /// A question, answered as JSON.
    fn ask(&self, py: Python<'_>, what: &str, name: &str, number: u64) -> PyResult<String> {
        self.call(py, |o| o.ask_about(what, name, number)).map(|v| v.to_string())
    }

    /// What it says of itself, as JSON.
    fn status(&self, py: Python<'_>) -> PyResult<String> {
        self.call(py, Core::status).map(|v| v.to_string())
    }

    /// Asks for a run.
    #[allow(clippy::too_many_arguments)]
    fn run_now(
        &self,
        py: Python<'_>,
        schedule: &str,
        target: String,
        key: String,
        force: bool,
        tick_ms: Option<i64>,
        params: Option<String>,
    ) -> PyResult<u64> {
        let how = RunNow { target, key, force, tick_ms, params };
        self.call(py, |o| o.run_now(schedule, &how))
    }

    /// Asks for a run of each tick of a range.
    fn backfill(&self, py: Python<'_>, schedule: &str, target: &str, from_ms: i64, to_ms: i64) -> PyResult<Vec<u64>> {
        self.call(py, |o| o.backfill(schedule, target, from_ms, to_ms))
    }

    /// Asks a run to stop.
    fn cancel(&self, py: Python<'_>, run: u64, reason: &str) -> PyResult<()> {
        self.call(py, |o| o.cancel(run, reason))
    }

    /// Starts nothing more for a while.
    fn pause(&self, py: Python<'_>, schedule: Option<&str>, note: &str, until_ms: Option<i64>) -> PyResult<()> {
        self.call(py, |o| o.pause(schedule, note, until_ms.unwrap_or(i64::MAX)))
    }

    /// Ends a pause.
    fn unpause(&self, py: Python<'_>, schedule: Option<&str>) -> PyResult<()> {
        self.call(py, |o| o.unpause(schedule))
    }

    /// Sets a budget's limit.
    fn set_budget(&self, py: Python<'_>, name: &str, limit: u32) -> PyResult<()> {
        self.call(py, |o| o.set_budget(name, limit))
    }

    /// The next fire times, UTC ms.
    fn next_fires(&self, py: Python<'_>, schedule: &str, after_ms: Option<i64>, count: usize) -> PyResult<Vec<i64>> {
        self.call(py, |o| o.next_fires(schedule, after_ms, count))
    }

    /// The journal's digest.
    fn journal(&self, py: Python<'_>) -> PyResult<String> {
        self.call(py, Core::journal).map(|digest| format!("{digest:016x}"))
    }

    /// Ends it.
    fn close(&self, py: Python<'_>, timeout: &Bound<'_, PyAny>) -> PyResult<()> {
        let timeout = args::duration("timeout", timeout)?;
        self.call(py, |o| o.close(timeout))
    }
}

/// One try of a task.
#[pyclass(frozen, module = "tenure._core")]
pub struct Task {
    inner: Kept<TaskContext>,
}

impl Task {
    pub fn new(inner: TaskContext) -> Task {
        Task { inner: Kept::new(inner) }
    }

    fn call<T: Send>(&self, py: Python<'_>, f: impl FnOnce(&TaskContext) -> Result<T> + Send) -> PyResult<T> {
        let context = self.inner.get(py)?;
        guard(py, |_| (), || py.detach(|| f(context)))
    }
}

#[pymethods]
impl Task {
    #[getter]
    fn run(&self) -> u64 {
        self.inner.run()
    }
    #[getter]
    fn schedule(&self) -> &str {
        self.inner.schedule()
    }
    #[getter]
    fn target(&self) -> &str {
        self.inner.target()
    }
    #[getter]
    fn kind(&self) -> &str {
        self.inner.kind()
    }
    #[getter]
    fn name(&self) -> &str {
        self.inner.task()
    }
    #[getter]
    fn tick_ms(&self) -> i64 {
        self.inner.tick_ms()
    }
    #[getter]
    fn attempt(&self) -> u32 {
        self.inner.attempt()
    }
    #[getter]
    fn try_number(&self) -> u32 {
        self.inner.try_number()
    }
    #[getter]
    fn token(&self) -> u64 {
        self.inner.token().0
    }
    #[getter]
    fn idempotency_key(&self) -> String {
        self.inner.idempotency_key()
    }
    #[getter]
    fn params(&self) -> &str {
        self.inner.params()
    }
    #[getter]
    fn checkpoint<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.checkpoint())
    }
    #[getter]
    fn remaining(&self) -> f64 {
        self.inner.remaining().as_secs_f64()
    }

    /// Why it is to stop; empty when it is not.
    fn stop(&self) -> &'static str {
        self.inner.stop().as_str()
    }

    /// Keeps bytes for the next attempt.
    fn save_checkpoint(&self, py: Python<'_>, data: &[u8]) -> PyResult<()> {
        self.call(py, |t| t.save_checkpoint(data))
    }

    /// How far the run is, 0 to 1.
    fn progress(&self, done: f64) {
        self.inner.progress(done);
    }

    /// Raises once the lease may be over.
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, TaskContext::check)
    }

    /// Waits until it is to stop.
    fn wait_stop(&self, py: Python<'_>, timeout: &Bound<'_, PyAny>) -> PyResult<bool> {
        let timeout = args::duration("timeout", timeout)?;
        self.call(py, |t| Ok(t.wait_stop(timeout)))
    }

    /// Rests as the throttle asks; false when it is to stop.
    fn pace(&self, py: Python<'_>, byte_count: u64) -> PyResult<bool> {
        self.call(py, |t| Ok(t.pace(byte_count)))
    }

    /// It has ended: with this message when it has failed.
    fn finish(&self, py: Python<'_>, failure: Option<String>) -> PyResult<()> {
        self.call(py, |t| {
            t.finish(failure.map_or(Ok(()), Err));
            Ok(())
        })
    }
}

/// What the host says.
pub enum Answer {
    /// Why a run may not begin, if it may not.
    Gate(Option<String>),
    Shards(std::result::Result<ShardList, String>),
}

/// What the orchestrator asks its host. A native thread waits for the answer; dropped without one, it waits no longer.
#[pyclass(frozen, module = "tenure._core")]
pub struct Question {
    #[pyo3(get)]
    schedule: String,
    #[pyo3(get)]
    target: String,
    answer: mpsc::SyncSender<Answer>,
}

impl Question {
    fn ask(tag: u64, schedule: &str, target: &str) -> Option<Answer> {
        let (answer, told) = mpsc::sync_channel(1);
        let question = Question { schedule: schedule.to_owned(), target: target.to_owned(), answer };
        inbox::push(Item::Question { tag, question });
        // The orchestrator itself does not wait for ever for whoever asks.
        told.recv().ok()
    }
}

#[pymethods]
impl Question {
    /// Answers a gate's question: `None` when the run may begin, else why not. The first answer counts.
    fn gate(&self, why: Option<String>) {
        let _ = self.answer.try_send(Answer::Gate(why));
    }

    /// Answers a topology's question.
    fn shards(&self, shards: ShardList) {
        let _ = self.answer.try_send(Answer::Shards(Ok(shards)));
    }

    /// The topology has failed.
    fn failed(&self, why: String) {
        let _ = self.answer.try_send(Answer::Shards(Err(why)));
    }
}

/// A node and its orchestrator in virtual time.
#[pyclass(frozen, module = "tenure._core")]
pub struct Simulation {
    inner: Kept<CoreSimulation>,
}

#[pymethods]
impl Simulation {
    #[new]
    fn new(py: Python<'_>, start_ms: u64, seed: u64) -> PyResult<Simulation> {
        let inner = guard(py, |_| (), || CoreSimulation::new(start_ms, seed))?;
        Ok(Simulation { inner: Kept::new(inner) })
    }

    /// Its orchestrator.
    fn orchestrator(&self, py: Python<'_>) -> PyResult<Orchestrator> {
        Ok(Orchestrator { inner: Kept::new(self.inner.get(py)?.orchestrator().clone()), node: None, number: 0 })
    }

    /// Tasks of this kind come out of `next_task`.
    fn handle(&self, py: Python<'_>, kind: &str) -> PyResult<()> {
        let sim = self.inner.get(py)?;
        guard(py, |_| (), || sim.handle(kind))
    }

    /// Lets time pass until a task is to be done.
    fn next_task(&self, py: Python<'_>, until_ms: u64) -> PyResult<Option<Task>> {
        let sim = self.inner.get(py)?;
        guard(py, |_| (), || Ok(py.detach(|| sim.next_task(until_ms)).map(Task::new)))
    }

    /// The present, UTC ms.
    #[getter]
    fn now_ms(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.inner.get(py)?.now_ms())
    }
}
