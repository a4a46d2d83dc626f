//! A lock service written in Python, as the core sees it.
//!
//! The core's threads leave their calls here and wait; threads that Python owns take them, call the service and bring the
//! answers. So no thread of the core enters the interpreter, and a service that hangs at exit is left behind with its own thread.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tenure::base::{Error, Result, Status};
use tenure::plug::{Attempt, Capabilities, Holding, LockService};

use crate::args;
use crate::errors::invalid;

/// What a call came to. Absent: it failed in a way that has a status.
enum Answer {
    Token(u64),
    Held(u64),
    Done(bool),
    Holding(Option<Holding>),
    Failed(Error),
}

struct Call {
    id: u64,
    verb: &'static str,
    key: Vec<u8>,
    token: u64,
    ttl: f64,
    timeout: f64,
}

#[derive(Default)]
struct Calls {
    waiting: VecDeque<Call>,
    taken: HashMap<u64, SyncSender<Answer>>,
    next: u64,
    /// Python threads that wait for a call.
    idle: usize,
    closed: bool,
}

struct Inner {
    node_id: String,
    caps: Capabilities,
    calls: Mutex<Calls>,
    changed: Condvar,
}

fn gone() -> Error {
    Error::new(Status::Unavailable, "the lock service's threads have ended")
}

fn confused() -> Error {
    Error::new(Status::ServiceFailed, "the lock service answered another question")
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Calls> {
        // Whole at every step: only pushes and takes.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, verb: &'static str, key: &[u8], token: u64, ttl: Duration, timeout: Duration) -> Result<Answer> {
        let (tx, rx) = sync_channel(1);
        {
            let mut calls = self.lock();
            if calls.closed {
                return Err(gone());
            }
            calls.next += 1;
            let id = calls.next;
            calls.taken.insert(id, tx);
            let (ttl, timeout) = (ttl.as_secs_f64(), timeout.as_secs_f64());
            calls.waiting.push_back(Call { id, verb, key: key.to_vec(), token, ttl, timeout });
        }
        self.changed.notify_one();
        match rx.recv() {
            Ok(Answer::Failed(error)) => Err(error),
            Ok(answer) => Ok(answer),
            Err(_) => Err(gone()),
        }
    }

    fn close(&self) {
        let dropped = {
            let mut calls = self.lock();
            calls.closed = true;
            (std::mem::take(&mut calls.waiting), std::mem::take(&mut calls.taken))
        };
        drop(dropped);
        self.changed.notify_all();
    }
}

fn attempt(answer: Answer) -> Result<Attempt> {
    match answer {
        Answer::Token(token) => Ok(Attempt::Acquired { token }),
        Answer::Held(token) => Ok(Attempt::Held { token }),
        _ => Err(confused()),
    }
}

fn done(answer: Answer) -> Result<bool> {
    match answer {
        Answer::Done(done) => Ok(done),
        _ => Err(confused()),
    }
}

/// What the core holds. Dropped by it when the node is closed and no call is in progress.
pub struct Service(Arc<Inner>);

impl Drop for Service {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl LockService for Service {
    fn node_id(&self) -> Result<String> {
        Ok(self.0.node_id.clone())
    }

    fn capabilities(&self) -> Capabilities {
        self.0.caps
    }

    fn try_acquire(&self, key: &[u8], ttl: Duration, limit: Duration) -> Result<Attempt> {
        self.0.call("try_acquire", key, 0, ttl, limit).and_then(attempt)
    }

    fn release(&self, key: &[u8], token: u64, limit: Duration) -> Result<bool> {
        self.0.call("release", key, token, Duration::ZERO, limit).and_then(done)
    }

    fn renew(&self, key: &[u8], token: u64, ttl: Duration, limit: Duration) -> Result<bool> {
        self.0.call("renew", key, token, ttl, limit).and_then(done)
    }

    fn holder(&self, key: &[u8], limit: Duration) -> Result<Option<Holding>> {
        match self.0.call("holder", key, 0, Duration::ZERO, limit)? {
            Answer::Holding(holding) => Ok(holding),
            _ => Err(confused()),
        }
    }

    fn acquire(&self, key: &[u8], ttl: Duration, wait: Duration) -> Result<Attempt> {
        self.0.call("acquire", key, 0, ttl, wait).and_then(attempt)
    }
}

/// A service's calls on their way to Python. `fencing` and the following are its capabilities, times in seconds.
#[pyclass(frozen, module = "tenure._core")]
pub struct Plug(Arc<Inner>);

impl Plug {
    pub fn service(&self) -> Arc<dyn LockService> {
        Arc::new(Service(self.0.clone()))
    }

    fn answer(&self, id: u64, answer: Answer) {
        let tx = self.0.lock().taken.remove(&id);
        if let Some(tx) = tx {
            // Nobody waits for it any more when the service was closed meanwhile.
            let _ = tx.send(answer);
        }
    }
}

#[pymethods]
impl Plug {
    #[new]
    #[allow(clippy::too_many_arguments)]
    fn new(
        node_id: &Bound<'_, PyAny>,
        fencing: bool,
        renew: bool,
        wait: bool,
        fair: bool,
        linearizable_reads: bool,
        ttl_granularity: &Bound<'_, PyAny>,
        ttl_min: &Bound<'_, PyAny>,
        ttl_max: &Bound<'_, PyAny>,
    ) -> PyResult<Plug> {
        let caps = Capabilities {
            fencing,
            renew,
            wait,
            fair,
            linearizable_reads,
            ttl_granularity: args::duration("ttl_granularity", ttl_granularity)?,
            ttl_min: args::duration("ttl_min", ttl_min)?,
            ttl_max: args::duration("ttl_max", ttl_max)?,
        };
        let node_id = args::utf8("node_id", node_id)?.to_owned();
        Ok(Plug(Arc::new(Inner { node_id, caps, calls: Mutex::default(), changed: Condvar::new() })))
    }

    /// The next call: its number, verb, key, token, ttl and timeout, and whether another thread is needed for what waits behind it.
    /// `None` when the time runs out, or the service is closed (`closed`).
    #[allow(clippy::type_complexity)]
    fn take<'py>(&self, py: Python<'py>, timeout: f64) -> PyResult<Option<(u64, &'static str, Bound<'py, PyBytes>, u64, f64, f64, bool)>> {
        let timeout = Duration::try_from_secs_f64(timeout).map_err(|_| invalid(py, "timeout", "is no duration"))?;
        let taken = py.detach(|| {
            let mut calls = self.0.lock();
            calls.idle += 1;
            let nothing = |c: &mut Calls| c.waiting.is_empty() && !c.closed;
            let (mut calls, _) = self.0.changed.wait_timeout_while(calls, timeout, nothing).unwrap_or_else(PoisonError::into_inner);
            calls.idle -= 1;
            let call = calls.waiting.pop_front();
            call.map(|call| (call, calls.idle <= calls.waiting.len()))
        });
        Ok(taken.map(|(c, more)| (c.id, c.verb, PyBytes::new(py, &c.key), c.token, c.ttl, c.timeout, more)))
    }

    #[getter]
    fn closed(&self) -> bool {
        self.0.lock().closed
    }

    /// An acquisition succeeded.
    fn acquired(&self, number: u64, token: u64) {
        self.answer(number, Answer::Token(token));
    }

    /// Somebody else holds the lock, under this token if it is not 0.
    fn held(&self, number: u64, token: u64) {
        self.answer(number, Answer::Held(token));
    }

    /// A release or a renewal: whether there was something to do.
    fn done(&self, number: u64, done: bool) {
        self.answer(number, Answer::Done(done));
    }

    /// The answer to `holder`; without a name, nobody.
    fn holding(&self, py: Python<'_>, number: u64, node: Option<String>, token: u64, remaining: Option<f64>) -> PyResult<()> {
        let remaining = match remaining.map(Duration::try_from_secs_f64) {
            None => None,
            Some(Ok(left)) => Some(left),
            Some(Err(_)) => return Err(invalid(py, "remaining", "is no duration in seconds")),
        };
        self.answer(number, Answer::Holding(node.map(|node| Holding { node, token, remaining })));
        Ok(())
    }

    /// The call failed.
    fn failed(&self, number: u64, code: i32, message: String) {
        let status = Status::from_code(code).filter(|s| *s != Status::Ok).unwrap_or(Status::ServiceFailed);
        self.answer(number, Answer::Failed(Error::new(status, message)));
    }

    /// Every call fails from now on, those in progress too.
    fn close(&self) {
        self.0.close();
    }
}
