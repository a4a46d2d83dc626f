//! The extension module `tenure._core`: the node's verbs for the Python package around it, which holds the public interface.
//!
//! Every Python object here is immutable and may be used from any thread. No thread of the core enters the interpreter (`inbox`).

mod args;
mod errors;
mod fence;
mod gate;
mod granter;
mod inbox;
mod kept;
mod log;
mod node;
mod orchestrator;
mod plug;
mod session;
mod watch;

use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use serde::Serialize;
use tenure::base::config::SETTINGS;
use tenure::base::{Error, Status, process};

use crate::errors::raise;
use crate::inbox::{Answer, Item};

fn json(py: Python<'_>, value: &impl Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(|e| raise(py, &Error::new(Status::Internal, e.to_string())))
}

/// The core with its Python-facing types.
#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use super::fence::{EpochFence, EpochPass, admit_epoch, read_epoch};
    #[pymodule_export]
    use super::gate::{Gate, Permit, Verdict};
    #[pymodule_export]
    use super::granter::Granter;
    #[pymodule_export]
    use super::node::Node;
    #[pymodule_export]
    use super::orchestrator::{Orchestrator, Question, Simulation, Task};
    #[pymodule_export]
    use super::plug::Plug;
    #[pymodule_export]
    use super::session::Session;
    #[pymodule_export]
    use super::watch::Watch;
    #[pymodule_export]
    use super::{inbox_close, inbox_mark, inbox_reset, inbox_take, set_log_level, settings, version};

    use super::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        inbox::claim(module.py())?;
        process::watch_forks();
        log::install();
        Ok(())
    }
}

/// Version of the library.
#[pyfunction]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Every setting: name, default, what it does.
#[pyfunction]
fn settings() -> Vec<(&'static str, &'static str, &'static str)> {
    SETTINGS.iter().map(|s| (s.name, s.default, s.text)).collect()
}

/// Passes on log records of this level of `logging` and above.
#[pyfunction]
fn set_log_level(level: u32) {
    log::set_level(level);
}

/// Waits for at most `timeout` seconds for what reaches Python without being asked for. `None` once the inbox is closed and empty.
///
/// Items are `("done", tag, token, exception)`, `("event", node, fields)`, `("ready", tag)`, `("task", orchestrator, task)`, `("question", tag, question)`, `("log", level, target, text)`.
#[pyfunction]
fn inbox_take(py: Python<'_>, timeout: f64) -> PyResult<Option<Vec<Bound<'_, PyTuple>>>> {
    let timeout = Duration::try_from_secs_f64(timeout).unwrap_or(Duration::from_secs(3600));
    let Some(inbox) = inbox::current() else { return Ok(None) };
    let Some(items) = py.detach(|| inbox.take(timeout)) else { return Ok(None) };
    items.into_iter().map(|item| convert(py, item)).collect::<PyResult<Vec<_>>>().map(Some)
}

fn convert(py: Python<'_>, item: Item) -> PyResult<Bound<'_, PyTuple>> {
    match item {
        Item::Done { tag, answer } => match answer {
            Answer::Granted(untaken) => ("done", tag, untaken.take().0, py.None()).into_pyobject(py),
            Answer::Released => ("done", tag, 0, py.None()).into_pyobject(py),
            Answer::Failed(error) => ("done", tag, 0, raise(py, &error).into_value(py)).into_pyobject(py),
        },
        Item::Event { node, event } => ("event", node, node::event_fields(py, &event)?).into_pyobject(py),
        Item::Ready { tag } => ("ready", tag).into_pyobject(py),
        Item::Task { orchestrator, context } => ("task", orchestrator, orchestrator::Task::new(context)).into_pyobject(py),
        Item::Question { tag, question } => ("question", tag, question).into_pyobject(py),
        Item::Log { level, target, text } => ("log", level, target, text).into_pyobject(py),
    }
}

/// Closes the inbox: what arrives from now on is dropped, and a lock in it is given back.
#[pyfunction]
fn inbox_close() {
    if let Some(inbox) = inbox::current() {
        inbox.close();
    }
}

/// Puts an answer without a token into the inbox: it comes out after everything that is in it now.
#[pyfunction]
fn inbox_mark(tag: u64) {
    inbox::push(Item::Done { tag, answer: Answer::Released });
}

/// Starts with an empty inbox in a forked child.
#[pyfunction]
fn inbox_reset() {
    inbox::reset();
}
