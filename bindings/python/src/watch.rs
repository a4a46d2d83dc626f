//! Watches.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tenure::node;

use crate::errors::guard;
use crate::inbox::{self, Item};
use crate::kept::Kept;
use crate::session::SIGNAL_CHECK;

/// A watch of one lock or of a prefix.
#[pyclass(frozen, module = "tenure._core")]
pub struct Watch {
    inner: Kept<node::Watch>,
    node: Kept<node::Node>,
}

impl Watch {
    pub fn new(inner: node::Watch, node: node::Node) -> Watch {
        Watch { inner: Kept::new(inner), node: Kept::new(node) }
    }

    fn call<T: Send>(&self, py: Python<'_>, f: impl FnOnce(&node::Watch) -> tenure::base::Result<T> + Send) -> PyResult<T> {
        let watch = self.inner.get(py)?;
        guard(py, |why| self.node.poison(why), || py.detach(|| f(watch)))
    }
}

/// The fields of `tenure.Held`: the holder is `None` when the lock is free.
type Fields<'py> = (Bound<'py, PyBytes>, Option<(String, u64, u64, Bound<'py, PyBytes>, u32)>);

fn fields(py: Python<'_>, told: node::WatchEvent) -> Fields<'_> {
    let holder = told.holder.map(|h| (h.node, h.session.0, h.token.0, PyBytes::new(py, &h.metadata), h.holders));
    (PyBytes::new(py, told.key.as_bytes()), holder)
}

#[pymethods]
impl Watch {
    /// The next event, waited for in slices so that Ctrl-C ends the wait; `None` when there was none in time. `None` for the timeout
    /// waits as long as it takes, 0 not at all.
    fn next<'py>(&self, py: Python<'py>, timeout: &Bound<'py, PyAny>) -> PyResult<Option<Fields<'py>>> {
        let timeout = crate::args::timeout(timeout)?;
        let started = Instant::now();
        loop {
            let left = timeout.map(|t| t.saturating_sub(started.elapsed()));
            if left == Some(Duration::ZERO) {
                return Ok(self.call(py, node::Watch::try_next)?.map(|told| fields(py, told)));
            }
            let turn = left.map_or(SIGNAL_CHECK, |l| l.min(SIGNAL_CHECK));
            if let Some(told) = self.call(py, |w| w.next(Some(turn)))? {
                return Ok(Some(fields(py, told)));
            }
            py.check_signals()?;
        }
    }

    /// Puts `("ready", tag)` into the inbox whenever something has come from where nothing was.
    fn ring(&self, py: Python<'_>, tag: u64) -> PyResult<()> {
        self.inner.get(py)?.on_ready(Arc::new(move || inbox::push(Item::Ready { tag })));
        Ok(())
    }

    /// Ends it. Does nothing in a forked child.
    fn close(&self, py: Python<'_>) {
        if let Ok(watch) = self.inner.get(py) {
            py.detach(|| watch.close());
        }
    }
}
