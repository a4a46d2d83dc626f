//! Epochs at a resource.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tenure::base::{Error, Result, Status};
use tenure::fence;

use crate::args;
use crate::errors::{guard, raise};
use crate::kept::Kept;

/// The record to store with a write under `epoch`, and whether it has to be stored.
#[pyfunction]
pub fn admit_epoch<'py>(py: Python<'py>, stored: &[u8], epoch: u64) -> PyResult<(Bound<'py, PyBytes>, bool)> {
    let admission = fence::admit(stored, epoch).map_err(|e| raise(py, &e))?;
    Ok((PyBytes::new(py, &admission.record), admission.raised))
}

/// The epoch in a record.
#[pyfunction]
pub fn read_epoch(py: Python<'_>, stored: &[u8]) -> PyResult<u64> {
    fence::read(stored).map_err(|e| raise(py, &e))
}

/// A fence in a file.
#[pyclass(frozen, module = "tenure._core")]
pub struct EpochFence {
    inner: Mutex<Option<Kept<fence::EpochFence>>>,
}

impl EpochFence {
    fn call<T: Send>(&self, py: Python<'_>, f: impl FnOnce(&fence::EpochFence) -> Result<T> + Send) -> PyResult<T> {
        let fence = {
            let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            let closed = || raise(py, &Error::new(Status::Closed, "the fence has been closed"));
            inner.as_ref().ok_or_else(closed)?.get(py)?.clone()
        };
        guard(py, |_| (), || py.detach(|| f(&fence)))
    }
}

#[pymethods]
impl EpochFence {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<EpochFence> {
        let fence = guard(py, |_| (), || py.detach(|| fence::EpochFence::open(&path)))?;
        Ok(EpochFence { inner: Mutex::new(Some(Kept::new(fence))) })
    }

    /// Makes the file.
    #[staticmethod]
    fn create(py: Python<'_>, path: PathBuf) -> PyResult<()> {
        guard(py, |_| (), || py.detach(|| fence::EpochFence::create(&path)))
    }

    /// The highest epoch admitted.
    fn highest(&self, py: Python<'_>, resource: &str) -> PyResult<u64> {
        self.call(py, |f| f.highest(resource))
    }

    /// Lets a write begin.
    fn enter(&self, py: Python<'_>, epoch: u64, resource: &str, timeout: &Bound<'_, PyAny>) -> PyResult<EpochPass> {
        let timeout = args::duration("timeout", timeout)?;
        let pass = self.call(py, |f| f.enter(resource, epoch, timeout))?;
        Ok(EpochPass { epoch, inner: Mutex::new(Some(pass)) })
    }

    /// Unlocks the file when the last pass has gone.
    fn close(&self) {
        drop(self.inner.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// A write under way at a resource. A context manager: the end of the block ends it.
#[pyclass(frozen, module = "tenure")]
pub struct EpochPass {
    epoch: u64,
    inner: Mutex<Option<fence::Pass>>,
}

#[pymethods]
impl EpochPass {
    /// The epoch under which the write is done.
    #[getter]
    fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The write is over, done or not.
    fn leave(&self) {
        drop(self.inner.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn __enter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __exit__(&self, _kind: &Bound<'_, PyAny>, _error: &Bound<'_, PyAny>, _trace: &Bound<'_, PyAny>) {
        self.leave();
    }
}
