//! Arguments from Python: keys, durations, what is asked of a lock. A value of a wrong type is a `TypeError`, a wrong value
//! of the right type an `InvalidArgumentError`; both name the argument.

use std::time::Duration;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDelta, PyDict, PyFloat, PyInt, PyString};
use tenure::base::Key;
use tenure::node::{LockMode, LockOptions, Renew};

use crate::errors::{invalid, raise};

fn wrong_type(argument: &str, wanted: &str, found: &Bound<'_, PyAny>) -> PyErr {
    let found = found.get_type().name().map(|n| n.to_string()).unwrap_or_default();
    PyTypeError::new_err(format!("{argument}: expected {wanted}, not {found}"))
}

/// The bytes of a `str` (as UTF-8) or `bytes`.
pub fn bytes<'a>(argument: &str, value: &'a Bound<'_, PyAny>) -> PyResult<&'a [u8]> {
    if value.is_instance_of::<PyString>() {
        return utf8(argument, value).map(str::as_bytes);
    }
    match value.cast::<PyBytes>() {
        Ok(bytes) => Ok(bytes.as_bytes()),
        Err(_) => Err(wrong_type(argument, "str or bytes", value)),
    }
}

/// The text of a `str`.
pub fn utf8<'a>(argument: &str, value: &'a Bound<'_, PyAny>) -> PyResult<&'a str> {
    match value.cast::<PyString>() {
        Ok(text) => text.to_str().map_err(|_| invalid(value.py(), argument, "holds a lone surrogate, which UTF-8 cannot express")),
        Err(_) => Err(wrong_type(argument, "str", value)),
    }
}

/// A lock's name: `str` or `bytes`, 1 to 1024 bytes.
pub fn key(value: &Bound<'_, PyAny>) -> PyResult<Key> {
    Key::new(bytes("key", value)?).map_err(|e| raise(value.py(), &e))
}

/// Lock names; a lone `str` is refused, for it would be taken letter by letter.
pub fn keys(values: &Bound<'_, PyAny>) -> PyResult<Vec<Key>> {
    if values.is_instance_of::<PyString>() || values.is_instance_of::<PyBytes>() {
        return Err(wrong_type("keys", "several keys", values));
    }
    values.try_iter()?.map(|k| key(&k?)).collect()
}

/// Seconds as a number, or a `timedelta`.
pub fn duration(argument: &str, value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    let py = value.py();
    if value.is_instance_of::<PyBool>() {
        return Err(wrong_type(argument, "seconds or a timedelta", value));
    }
    if value.is_instance_of::<PyFloat>() || value.is_instance_of::<PyInt>() {
        let shown = || value.repr().map(|r| r.to_string().chars().take(40).collect::<String>()).unwrap_or_default();
        // An int beyond the range of a float is out of any range here.
        let seconds = value.extract::<f64>().unwrap_or(f64::INFINITY);
        return Duration::try_from_secs_f64(seconds)
            .map_err(|_| invalid(py, argument, format_args!("{} is no duration in seconds", shown())));
    }
    if value.is_instance_of::<PyDelta>() {
        return value.extract().map_err(|_| invalid(py, argument, "a negative timedelta"));
    }
    Err(wrong_type(argument, "seconds or a timedelta", value))
}

/// A time to wait: `None` for as long as it takes.
pub fn timeout(value: &Bound<'_, PyAny>) -> PyResult<Option<Duration>> {
    if value.is_none() { Ok(None) } else { duration("timeout", value).map(Some) }
}

fn count(argument: &str, value: &Bound<'_, PyAny>) -> PyResult<u32> {
    if value.is_instance_of::<PyBool>() || !value.is_instance_of::<PyInt>() {
        return Err(wrong_type(argument, "int", value));
    }
    value.extract().map_err(|_| invalid(value.py(), argument, "is not in 0..=4294967295"))
}

/// What is asked of a lock. `more` holds the keyword arguments that were given besides the ttl.
pub fn lock_options(ttl: &Bound<'_, PyAny>, more: &Bound<'_, PyDict>) -> PyResult<LockOptions> {
    let py = ttl.py();
    let mut options = LockOptions { ttl: duration("ttl", ttl)?, ..LockOptions::default() };
    if more.is_empty() {
        return Ok(options);
    }
    let mut mode = String::from("exclusive");
    let (mut permits, mut limit) = (None, None);
    for (name, value) in more.iter() {
        match utf8("keyword", &name)? {
            "mode" => mode = utf8("mode", &value)?.to_owned(),
            "permits" => permits = Some(count("permits", &value)?),
            "limit" => limit = Some(count("limit", &value)?),
            "renew" => {
                options.renew = match utf8("renew", &value)? {
                    "auto" => Renew::Auto,
                    "manual" => Renew::Manual,
                    other => return Err(invalid(py, "renew", format_args!("{other:?} is none of auto, manual"))),
                };
            }
            "lock_delay" => options.lock_delay = duration("lock_delay", &value)?,
            "reentrant" => options.reentrant = value.is_truthy()?,
            "metadata" => options.metadata = bytes("metadata", &value)?.to_vec(),
            other => return Err(PyTypeError::new_err(format!("unexpected keyword argument {other:?}"))),
        }
    }
    options.mode = match (mode.as_str(), permits, limit) {
        ("semaphore", permits, Some(limit)) => LockMode::Permits { count: permits.unwrap_or(1), limit },
        ("semaphore", _, None) => return Err(invalid(py, "limit", "a semaphore states its limit")),
        ("exclusive", None, None) => LockMode::Exclusive,
        ("shared", None, None) => LockMode::Shared,
        ("exclusive" | "shared", ..) => return Err(invalid(py, "mode", "permits and limit belong to mode=\"semaphore\"")),
        (other, ..) => return Err(invalid(py, "mode", format_args!("{other:?} is none of exclusive, shared, semaphore"))),
    };
    Ok(options)
}
