//! The core's errors as the exceptions of `tenure.errors`, and its panics as one of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use tenure::base::{Error, Result, Status};

static FROM_STATUS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// The exception for a failure of the core.
pub fn raise(py: Python<'_>, error: &Error) -> PyErr {
    raise_because(py, error, "")
}

/// The same, with the cause as a word.
pub fn raise_because(py: Python<'_>, error: &Error, reason: &str) -> PyErr {
    let made = FROM_STATUS.get_or_try_init(py, || Ok(py.import("tenure.errors")?.getattr("from_status")?.unbind())).and_then(|f| {
        f.call1(
            py,
            (
                error.status() as i32,
                error.message(),
                error.os_errno(),
                error.token(),
                reason,
                Duration::from_millis(error.retry_after_ms()).as_secs_f64(),
            ),
        )
    });
    match made {
        Ok(exception) => PyErr::from_value(exception.into_bound(py)),
        Err(error) => error,
    }
}

/// [`Status::InvalidArgument`] naming the argument and the reason.
pub fn invalid(py: Python<'_>, argument: &str, why: impl std::fmt::Display) -> PyErr {
    raise(py, &Error::invalid(argument, why))
}

/// Runs a call of the core. A panic in it becomes a `PanicError`, after `poison` was told, and never goes further.
pub fn guard<T>(py: Python<'_>, poison: impl FnOnce(&str), call: impl FnOnce() -> Result<T>) -> PyResult<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| raise(py, &error)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            let text = text.unwrap_or("a panic without a text");
            poison(text);
            Err(raise(py, &Error::new(Status::Panic, format!("a panic was caught inside the library: {text}"))))
        }
    }
}
