//! The granter's side of an office.

use std::time::Duration;

use pyo3::prelude::*;
use tenure::base::Result;
use tenure::node;

use crate::args;
use crate::errors::guard;
use crate::kept::Kept;

/// A granter.
#[pyclass(frozen, module = "tenure._core")]
pub struct Granter {
    inner: Kept<node::Granter>,
    node: Kept<node::Node>,
}

/// The fields of `tenure.Order`, in its order.
type OrderFields = (u64, f64, Option<u64>, String, f64);
/// The fields of `tenure.Promise`, in its order.
pub type PromiseFields = (Vec<u8>, u64, String, f64, bool, u64);

pub fn promise_fields(p: node::Promise) -> PromiseFields {
    (p.office.as_bytes().to_vec(), p.epoch, p.holder, p.remaining.as_secs_f64(), p.settled, p.term.0)
}

impl Granter {
    pub fn new(inner: node::Granter, node: node::Node) -> Granter {
        Granter { inner: Kept::new(inner), node: Kept::new(node) }
    }

    fn call<T: Send>(&self, py: Python<'_>, f: impl FnOnce(&node::Granter) -> Result<T> + Send) -> PyResult<T> {
        let granter = self.inner.get(py)?;
        guard(py, |why| self.node.poison(why), || py.detach(|| f(granter)))
    }
}

#[pymethods]
impl Granter {
    /// The token of its lock.
    #[getter]
    fn term(&self) -> u64 {
        self.inner.term().0
    }

    /// Whether it holds its lock.
    fn in_office(&self, py: Python<'_>) -> PyResult<bool> {
        self.call(py, |g| Ok(g.in_office()))
    }

    /// Gives an office.
    fn promote(&self, py: Python<'_>, office: &Bound<'_, PyAny>, holder: &str, epoch: Option<u64>) -> PyResult<u64> {
        let office = args::bytes("office", office)?;
        self.call(py, |g| g.promote(office, holder, epoch))
    }

    /// Keeps an office alive.
    fn heartbeat(&self, py: Python<'_>, office: &Bound<'_, PyAny>, ttl: &Bound<'_, PyAny>, nonce: Option<u64>) -> PyResult<OrderFields> {
        let (office, ttl): (_, Duration) = (args::bytes("office", office)?, args::duration("ttl", ttl)?);
        let o = self.call(py, |g| g.heartbeat(office, ttl, nonce))?;
        Ok((o.epoch, o.ttl.as_secs_f64(), o.nonce, o.holder, o.promised.as_secs_f64()))
    }

    /// The holder has stepped down.
    fn acknowledge(&self, py: Python<'_>, office: &Bound<'_, PyAny>, epoch: u64) -> PyResult<()> {
        let office = args::bytes("office", office)?;
        self.call(py, |g| g.acknowledge(office, epoch))
    }

    /// What is recorded of an office.
    fn promise(&self, py: Python<'_>, office: &Bound<'_, PyAny>) -> PyResult<Option<PromiseFields>> {
        let office = args::bytes("office", office)?;
        Ok(self.call(py, |g| g.promise(office))?.map(promise_fields))
    }

    /// Gives the lock back.
    fn resign(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, node::Granter::resign)
    }
}
