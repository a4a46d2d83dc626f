//! The write gate and its permits.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::{PyAny, PyDict};
use tenure::base::{Error, Result, Status};
use tenure::gate::{self, GateEvent, Mode, Reason, WriteClass};
use tenure::node;

use crate::args;
use crate::errors::{guard, invalid, raise, raise_because};
use crate::kept::Kept;

/// How often a waiting call looks whether a signal has arrived for Python.
const SIGNAL_CHECK: Duration = Duration::from_millis(50);

/// A gate of a node.
#[pyclass(frozen, module = "tenure._core")]
pub struct Gate {
    inner: Kept<node::Gate>,
    node: Kept<node::Node>,
}

/// A refused write. Three reasons are those of the process or the node, and so are their exceptions.
#[cold]
fn denied(py: Python<'_>, reason: Reason) -> PyErr {
    let status = match reason {
        Reason::Forked => Status::Forked,
        Reason::Closed => Status::Closed,
        Reason::Poisoned => Status::Poisoned,
        _ => Status::Denied,
    };
    raise_because(py, &Error::new(status, format!("the gate is closed: {reason}")), reason.name())
}

/// The fields of `tenure.HeartbeatReply`, in its order.
type ReplyFields = (bool, u64, f64, u64, Option<&'static str>, Option<&'static str>);

fn write_class(py: Python<'_>, name: &str) -> PyResult<WriteClass> {
    match name {
        "client" => Ok(WriteClass::Client),
        "replication" => Ok(WriteClass::Replication),
        "bootstrap" => Ok(WriteClass::Bootstrap),
        "deferrable" => Ok(WriteClass::Deferrable),
        other => Err(invalid(py, "write_class", format_args!("{other:?} is none of client, replication, bootstrap, deferrable"))),
    }
}

impl Gate {
    pub fn new(inner: node::Gate, node: node::Node) -> Gate {
        Gate { inner: Kept::new(inner), node: Kept::new(node) }
    }

    fn call<T: Send>(&self, py: Python<'_>, f: impl FnOnce(&node::Gate) -> Result<T> + Send) -> PyResult<T> {
        let gate = self.inner.get(py)?;
        guard(py, |why| self.node.poison(why), || py.detach(|| f(gate)))
    }

    /// Repeats a wait in slices, so that Ctrl-C ends it. The gate stays draining then.
    fn patiently(&self, py: Python<'_>, timeout: Duration, step: impl Fn(&node::Gate, Duration) -> Result<()> + Sync) -> PyResult<()> {
        let started = Instant::now();
        loop {
            let left = timeout.saturating_sub(started.elapsed());
            let slice = left.min(SIGNAL_CHECK);
            let waited = self.call(py, |g| match step(g, slice) {
                Err(e) if e.status() == Status::Timeout && slice < left => Ok(false),
                other => other.map(|()| true),
            })?;
            if waited {
                return Ok(());
            }
            py.check_signals()?;
        }
    }
}

#[pymethods]
impl Gate {
    /// Name of the gate within its node.
    #[getter]
    fn name(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.inner.get(py)?.name().to_owned())
    }

    /// What a closed gate does.
    #[getter]
    fn mode(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(self.inner.get(py)?.mode().name())
    }

    /// Changes what a closed gate does.
    fn set_mode(&self, py: Python<'_>, mode: &Bound<'_, PyAny>) -> PyResult<()> {
        let mode: Mode = args::utf8("mode", mode)?.parse().map_err(|e| raise(py, &e))?;
        self.call(py, |g| g.set_mode(mode))
    }

    /// Lets a write in.
    fn enter(&self, py: Python<'_>, write_class: &Bound<'_, PyAny>) -> PyResult<Permit> {
        let class = self::write_class(py, args::utf8("write_class", write_class)?)?;
        let permit = self.inner.get(py)?.cell().enter_class(class).map_err(|reason| denied(py, reason))?;
        Ok(Permit { epoch: permit.epoch(), inner: Mutex::new(Some(permit)) })
    }

    /// The epoch under which a write would be let in now.
    fn check(&self, py: Python<'_>) -> PyResult<u64> {
        self.inner.get(py)?.cell().check().map_err(|reason| denied(py, reason))
    }

    /// Whether a write would be let in now.
    fn is_open(&self, py: Python<'_>) -> bool {
        self.inner.get(py).is_ok_and(|gate| gate.cell().check().is_ok())
    }

    /// Refuses an epoch below the highest one seen.
    fn check_epoch(&self, py: Python<'_>, epoch: u64) -> PyResult<()> {
        self.call(py, |g| g.check_epoch(epoch))
    }

    /// Grants or renews the lease; returns the fields of `tenure.HeartbeatReply`.
    fn heartbeat(&self, py: Python<'_>, epoch: u64, ttl: &Bound<'_, PyAny>, nonce: Option<u64>) -> PyResult<ReplyFields> {
        let ttl = args::duration("ttl", ttl)?;
        let ttl_ns = u64::try_from(ttl.as_nanos()).map_err(|_| invalid(py, "ttl", "too long"))?;
        let reply = self.call(py, |g| g.heartbeat(&gate::Heartbeat { epoch, ttl_ns, nonce }))?;
        let lease = reply.grant;
        Ok((
            lease.accepted,
            lease.epoch,
            Duration::from_nanos(lease.remaining_ns).as_secs_f64(),
            reply.next_nonce,
            lease.refusal.map(gate::Refusal::name),
            lease.closed.map(Reason::name),
        ))
    }

    /// A nonce for a heartbeat.
    fn next_nonce(&self, py: Python<'_>) -> PyResult<u64> {
        self.call(py, node::Gate::next_nonce)
    }

    /// Tells the gate who is in office.
    fn observe(&self, py: Python<'_>, epoch: u64, holder: &str) -> PyResult<()> {
        self.call(py, |g| g.observe(epoch, holder))
    }

    /// The host is alive.
    fn beat(&self, py: Python<'_>) -> PyResult<()> {
        self.inner.get(py)?.beat();
        Ok(())
    }

    /// Drops the lease.
    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, node::Gate::reset)
    }

    /// Campaigns for an office.
    fn hold(&self, py: Python<'_>, key: &Bound<'_, PyAny>, ttl: &Bound<'_, PyAny>) -> PyResult<()> {
        let (key, ttl) = (args::bytes("key", key)?, args::duration("ttl", ttl)?);
        self.call(py, |g| g.hold(key, ttl))
    }

    /// Waits until no write is in flight; none is let in any more.
    fn drain(&self, py: Python<'_>, timeout: &Bound<'_, PyAny>) -> PyResult<()> {
        let timeout = args::duration("timeout", timeout)?;
        self.patiently(py, timeout, |g, slice| g.drain(slice))
    }

    /// Gives up a drain.
    fn cancel_drain(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, node::Gate::cancel_drain)
    }

    /// Drains and gives the office back.
    fn resign(&self, py: Python<'_>, timeout: &Bound<'_, PyAny>) -> PyResult<()> {
        let timeout = args::duration("timeout", timeout)?;
        self.patiently(py, timeout, |g, slice| g.resign(slice))
    }

    /// The same, with a successor of this name.
    fn resign_to(&self, py: Python<'_>, node: &str, timeout: &Bound<'_, PyAny>) -> PyResult<()> {
        let timeout = args::duration("timeout", timeout)?;
        self.patiently(py, timeout, |g, slice| g.resign_to(node, slice))
    }

    /// What the gate says of itself, as JSON.
    fn status(&self, py: Python<'_>) -> PyResult<String> {
        let gate = self.inner.get(py)?;
        crate::json(py, &gate.status())
    }

    /// Closes the gate for good.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, node::Gate::close)
    }
}

/// What is known of a write when it is finished. True in a condition only when it may be acknowledged.
#[pyclass(frozen, eq, hash, rename_all = "UPPERCASE", module = "tenure")]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The effect was complete while the lease was provably valid: it may be acknowledged.
    Held,
    /// It was not, or nobody can tell: it must not be acknowledged. The effect may stay.
    Uncertain,
}

#[pymethods]
impl Verdict {
    fn __bool__(&self) -> bool {
        *self == Verdict::Held
    }
}

impl From<gate::Verdict> for Verdict {
    fn from(verdict: gate::Verdict) -> Verdict {
        match verdict {
            gate::Verdict::Held => Verdict::Held,
            gate::Verdict::Uncertain => Verdict::Uncertain,
        }
    }
}

/// Leave to write, counted as a write in flight until it is finished, left or collected. Any thread may finish it.
///
/// A context manager: the end of the block finishes it and raises `UncertainError` when the write must not be acknowledged.
#[pyclass(frozen, module = "tenure")]
pub struct Permit {
    epoch: u64,
    inner: Mutex<Option<gate::Permit>>,
}

impl Permit {
    fn take(&self) -> Option<gate::Permit> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[pymethods]
impl Permit {
    /// The epoch to be stored with the write.
    #[getter]
    fn epoch(&self) -> u64 {
        self.epoch
    }

    /// To be asked right before the irrevocable step: could the write still be acknowledged if it were done now?
    fn precommit(&self) -> Verdict {
        let permit = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        permit.as_ref().map_or(Verdict::Uncertain, |p| p.precommit().into())
    }

    /// To be called when the write's effect is complete and before it is acknowledged. A second call raises `MisuseError`.
    fn finish(&self, py: Python<'_>) -> PyResult<Verdict> {
        match self.take() {
            Some(permit) => Ok(permit.finish().into()),
            None => Err(raise(py, &Error::new(Status::Misuse, "the permit was finished or left already"))),
        }
    }

    /// Gives the permit back without a verdict: nothing was written.
    fn leave(&self) {
        drop(self.take());
    }

    fn __enter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __exit__(&self, py: Python<'_>, kind: &Bound<'_, PyAny>, _error: &Bound<'_, PyAny>, _trace: &Bound<'_, PyAny>) -> PyResult<()> {
        let Some(permit) = self.take() else { return Ok(()) };
        if !kind.is_none() {
            return Ok(());
        }
        match permit.finish() {
            gate::Verdict::Held => Ok(()),
            gate::Verdict::Uncertain => {
                let message = "the write ran past its lease or its epoch and must not be acknowledged";
                Err(raise(py, &Error::new(Status::Uncertain, message).with_token(self.epoch)))
            }
        }
    }
}

/// The fields of `tenure.Event` that a gate's event gives.
pub fn event_fields(fields: &Bound<'_, PyDict>, name: &str, event: &GateEvent) -> PyResult<()> {
    let seconds = |ns: u64| Duration::from_nanos(ns).as_secs_f64();
    fields.set_item("gate", name)?;
    match event {
        GateEvent::Granted { epoch, remaining_ns } => {
            fields.set_item("kind", "gate_granted")?;
            fields.set_item("epoch", epoch)?;
            fields.set_item("remaining", seconds(*remaining_ns))
        }
        GateEvent::AtRisk { epoch, remaining_ns } => {
            fields.set_item("kind", "gate_at_risk")?;
            fields.set_item("epoch", epoch)?;
            fields.set_item("remaining", seconds(*remaining_ns))
        }
        GateEvent::Lost { epoch, reason } => {
            fields.set_item("kind", "gate_lost")?;
            fields.set_item("epoch", epoch)?;
            fields.set_item("reason", reason.name())
        }
        GateEvent::SteppingDown { epoch } => {
            fields.set_item("kind", "gate_stepping_down")?;
            fields.set_item("epoch", epoch)
        }
        GateEvent::Overrun { epoch, in_flight } => {
            fields.set_item("kind", "gate_overrun")?;
            fields.set_item("epoch", epoch)?;
            fields.set_item("in_flight", in_flight)
        }
        GateEvent::Drained { epoch, took_ns } => {
            fields.set_item("kind", "gate_drained")?;
            fields.set_item("epoch", epoch)?;
            fields.set_item("took", seconds(*took_ns))
        }
        GateEvent::ClockFallback => fields.set_item("kind", "gate_clock_fallback"),
        GateEvent::Refused(counts) => {
            fields.set_item("kind", "gate_refused")?;
            let refused = PyDict::new(fields.py());
            for (reason, count) in &counts.by_reason {
                refused.set_item(reason.name(), count)?;
            }
            refused.set_item("passed", counts.passed)?;
            refused.set_item("uncertain", counts.uncertain)?;
            fields.set_item("refused", refused)
        }
    }
}
