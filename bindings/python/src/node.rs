//! A node, and what listings and events look like on their way to Python.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use tenure::base::{Config, Status};
use tenure::node::{self, Event};
use tenure::plug::LockService;

use crate::args;
use crate::errors::{guard, invalid, raise};
use crate::gate::Gate;
use crate::granter::{Granter, PromiseFields, promise_fields};
use crate::inbox::{self, Item};
use crate::kept::Kept;
use crate::orchestrator::Orchestrator;
use crate::plug::Plug;
use crate::session::{HolderFields, Session, holder_fields};
use crate::watch::Watch;

/// How often a waiting call looks whether a signal has arrived for Python.
const SIGNAL_CHECK: Duration = Duration::from_millis(500);

/// A node. `number` is what its events carry in the inbox.
#[pyclass(frozen, module = "tenure._core")]
pub struct Node {
    inner: Kept<node::Node>,
    number: u64,
    durable: bool,
    /// Whether a call may take long, so that the interpreter is left to others meanwhile.
    waits: bool,
    watched: AtomicBool,
}

/// Settings by name, as text.
fn config(py: Python<'_>, settings: &Bound<'_, PyDict>) -> PyResult<Config> {
    let mut config = Config::new();
    for (name, value) in settings.iter() {
        let (name, value) = (name.extract::<String>()?, value.extract::<String>()?);
        config.set(&name, &value).map_err(|e| raise(py, &e))?;
    }
    Ok(config)
}

impl Node {
    /// Its locks, for the runs of an orchestrator.
    pub fn lock_service(&self, py: Python<'_>) -> PyResult<Arc<dyn LockService>> {
        Ok(self.inner.get(py)?.session().lock_service())
    }

    fn call<T: Send>(&self, py: Python<'_>, f: impl FnOnce(&node::Node) -> tenure::base::Result<T> + Send) -> PyResult<T> {
        let node = self.inner.get(py)?;
        guard(py, |why| node.poison(why), || py.detach(|| f(node)))
    }
}

#[pymethods]
impl Node {
    #[new]
    #[pyo3(signature = (settings, number, plug=None))]
    fn new(py: Python<'_>, settings: &Bound<'_, PyDict>, number: u64, plug: Option<&Plug>) -> PyResult<Node> {
        let config = config(py, settings)?;
        let set = |name| config.get(name).map_err(|e| raise(py, &e));
        if set("delivery")? != "thread" {
            return Err(invalid(py, "delivery", "Python takes completions and events from the library's thread"));
        }
        let durable = !set("data_dir")?.is_empty();
        let service = plug.map(Plug::service);
        let waits = durable || service.is_some() || !set("etcd")?.is_empty();
        let open = || match service {
            Some(service) => node::Node::open_with_service(&config, service),
            None => node::Node::open(&config),
        };
        let node = guard(py, |_| (), || py.detach(open))?;
        Ok(Node { inner: Kept::new(node), number, durable, waits, watched: AtomicBool::new(false) })
    }

    /// Name of the node.
    #[getter]
    fn id(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.inner.get(py)?.id().to_string())
    }

    /// Whether operations write to disk.
    #[getter]
    fn durable(&self) -> bool {
        self.durable
    }

    /// The node's own session.
    fn session(&self, py: Python<'_>) -> PyResult<Session> {
        let node = self.inner.get(py)?;
        Ok(Session::new(node.session(), node.clone(), self.waits))
    }

    /// Waits until the node can be used.
    fn wait_ready(&self, py: Python<'_>, timeout: &Bound<'_, PyAny>) -> PyResult<()> {
        let timeout = args::duration("timeout", timeout)?;
        self.call(py, |n| n.wait_ready(timeout))
    }

    /// The members of the cluster, as JSON.
    fn members(&self, py: Python<'_>) -> PyResult<String> {
        let members = self.call(py, |n| n.members())?;
        crate::json(py, &members)
    }

    /// Hands the leadership over.
    fn transfer_leader(&self, py: Python<'_>, to: Option<String>) -> PyResult<()> {
        self.call(py, |n| n.transfer_leader(to.as_deref()))
    }

    /// Takes a member out for good.
    fn remove_member(&self, py: Python<'_>, name: String) -> PyResult<()> {
        self.call(py, |n| n.remove_member(&name))
    }

    /// Makes a join token.
    fn join_token_create(&self, py: Python<'_>, node_id: String, ttl: &Bound<'_, PyAny>) -> PyResult<String> {
        let ttl = args::duration("ttl", ttl)?;
        self.call(py, |n| n.join_token_create(&node_id, ttl))
    }

    /// Opens another session.
    fn open_session(&self, py: Python<'_>, name: &Bound<'_, PyAny>, ttl: &Bound<'_, PyAny>) -> PyResult<Session> {
        let (name, ttl) = (args::utf8("name", name)?, args::duration("ttl", ttl)?);
        let session = self.call(py, |n| n.open_session(name, ttl))?;
        Ok(Session::new(session, self.inner.get(py)?.clone(), self.waits))
    }

    /// Makes an orchestrator; `options` is JSON.
    fn orchestrator(&self, py: Python<'_>, options: &str, number: u64) -> PyResult<Orchestrator> {
        let node = self.inner.get(py)?;
        Orchestrator::open(py, node, node.session(), options, number)
    }

    /// Opens a gate.
    fn gate(&self, py: Python<'_>, name: &Bound<'_, PyAny>, settings: &Bound<'_, PyDict>) -> PyResult<Gate> {
        let name = args::utf8("name", name)?;
        let over = config(py, settings)?;
        let gate = self.call(py, |n| n.gate(name, &over))?;
        Ok(Gate::new(gate, self.inner.get(py)?.clone()))
    }

    /// Waits for the granter's lock.
    fn granter(&self, py: Python<'_>, lock: &Bound<'_, PyAny>, ttl: &Bound<'_, PyAny>, timeout: &Bound<'_, PyAny>) -> PyResult<Granter> {
        let (lock, ttl) = (args::bytes("lock", lock)?, args::duration("ttl", ttl)?);
        let deadline = args::timeout(timeout)?.map(|t| (Instant::now(), t));
        loop {
            let left = deadline.map(|(from, t)| t.saturating_sub(from.elapsed()));
            let slice = match left {
                // Not at all: the lock is taken if it is free.
                Some(Duration::ZERO) if deadline.is_some_and(|(_, t)| t.is_zero()) => Duration::ZERO,
                Some(left) => left.clamp(Duration::from_millis(1), SIGNAL_CHECK),
                None => SIGNAL_CHECK,
            };
            let asked = self.call(py, |n| match n.granter(lock, ttl, Some(slice)) {
                Err(e) if e.status() == Status::Timeout && left.is_none_or(|l| l > slice) => Ok(None),
                granter => granter.map(Some),
            })?;
            if let Some(granter) = asked {
                return Ok(Granter::new(granter, self.inner.get(py)?.clone()));
            }
            py.check_signals()?;
        }
    }

    /// What granters have promised.
    fn promises(&self, py: Python<'_>, prefix: &Bound<'_, PyAny>, limit: usize) -> PyResult<Vec<PromiseFields>> {
        let prefix = args::bytes("prefix", prefix)?;
        Ok(self.call(py, |n| n.promises(prefix, limit))?.into_iter().map(promise_fields).collect())
    }

    /// Locks whose names start with `prefix`: pairs of a name and its holders' fields.
    fn locks<'py>(
        &self,
        py: Python<'py>,
        prefix: &Bound<'py, PyAny>,
        limit: usize,
    ) -> PyResult<Vec<(Bound<'py, PyBytes>, Vec<HolderFields<'py>>)>> {
        let prefix = args::bytes("prefix", prefix)?;
        let found = self.call(py, |n| n.locks(prefix, limit))?;
        let row = |info: node::LockInfo| {
            let holders = info.holders.into_iter().map(|h| holder_fields(py, h)).collect();
            (PyBytes::new(py, info.key.as_bytes()), holders)
        };
        Ok(found.into_iter().map(row).collect())
    }

    /// Watches a lock, or with `prefix` all whose names start with it.
    fn watch_locks(&self, py: Python<'_>, name: &Bound<'_, PyAny>, prefix: bool) -> PyResult<Watch> {
        let name = args::bytes(if prefix { "prefix" } else { "key" }, name)?;
        let watch = self.call(py, |n| if prefix { n.watch_prefix(name) } else { n.watch(name) })?;
        Ok(Watch::new(watch, self.inner.get(py)?.clone()))
    }

    /// Opens a session in the place of another one.
    fn take_over(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyAny>,
        secret: &Bound<'_, PyAny>,
        ttl: &Bound<'_, PyAny>,
        keep: bool,
    ) -> PyResult<Session> {
        let (name, ttl) = (args::utf8("name", name)?, args::duration("ttl", ttl)?);
        let secret = args::bytes("secret", secret)?;
        let secret = secret.try_into().map_err(|_| invalid(py, "secret", format_args!("{} bytes are not 16", secret.len())))?;
        let secret = u128::from_le_bytes(secret);
        let session = self.call(py, |n| n.take_over(name, ttl, secret, keep))?;
        Ok(Session::new(session, self.inner.get(py)?.clone(), self.durable))
    }

    /// What the node says of itself, as JSON.
    fn status(&self, py: Python<'_>) -> PyResult<String> {
        let node = self.inner.get(py)?;
        let status = py.detach(|| node.status());
        crate::json(py, &status)
    }

    /// Lets the node's events arrive in the inbox from now on.
    fn watch(&self, py: Python<'_>) -> PyResult<()> {
        if self.watched.swap(true, SeqCst) {
            return Ok(());
        }
        let number = self.number;
        let listener: node::Listener = Box::new(move |event: &Event| inbox::push(Item::Event { node: number, event: event.clone() }));
        self.call(py, |n| n.subscribe(listener).map(|_| ()))
    }

    /// Closes the node. In a forked child nothing is done.
    fn close(&self, py: Python<'_>, timeout: &Bound<'_, PyAny>) -> PyResult<()> {
        let timeout = args::duration("timeout", timeout)?;
        self.call(py, |n| n.close(timeout))
    }
}

/// The fields of `tenure.Event` that the event gives, by name.
pub fn event_fields<'py>(py: Python<'py>, event: &Event) -> PyResult<Bound<'py, PyDict>> {
    let fields = PyDict::new(py);
    match event {
        Event::AtRisk { session, key, token, remaining } => {
            fields.set_item("kind", "at_risk")?;
            fields.set_item("session", session.0)?;
            fields.set_item("key", PyBytes::new(py, key.as_bytes()))?;
            fields.set_item("token", token.0)?;
            fields.set_item("remaining", remaining.as_secs_f64())?;
        }
        Event::Lost { session, key, token, reason } => {
            fields.set_item("kind", "lost")?;
            fields.set_item("session", session.0)?;
            fields.set_item("key", PyBytes::new(py, key.as_bytes()))?;
            fields.set_item("token", token.0)?;
            fields.set_item("reason", reason.as_str())?;
        }
        Event::RevokeRequested { session, key, token, by, why, force_after } => {
            fields.set_item("kind", "revoke_requested")?;
            fields.set_item("session", session.0)?;
            fields.set_item("key", PyBytes::new(py, key.as_bytes()))?;
            fields.set_item("token", token.0)?;
            fields.set_item("by", by)?;
            fields.set_item("reason", why)?;
            fields.set_item("remaining", force_after.map(|t| t.as_secs_f64()))?;
        }
        Event::Gate { name, event } => crate::gate::event_fields(&fields, name, event)?,
        Event::Poisoned { message } => {
            fields.set_item("kind", "poisoned")?;
            fields.set_item("reason", message)?;
        }
    }
    Ok(fields)
}
