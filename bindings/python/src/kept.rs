//! Objects of the core behind Python objects: usable and dropped only in the process that opened them.

use std::ops::Deref;

use pyo3::prelude::*;
use tenure::base::process;

use crate::errors::raise;

/// In a forked child it refuses use, and is leaked when it is dropped: its threads are not there, its locks may be taken for ever.
pub struct Kept<T> {
    inner: Option<T>,
    generation: u64,
}

impl<T> Kept<T> {
    pub fn new(inner: T) -> Kept<T> {
        Kept { inner: Some(inner), generation: process::generation() }
    }

    /// The object, in its own process.
    pub fn get(&self, py: Python<'_>) -> PyResult<&T> {
        process::check_generation(self.generation).map_err(|e| raise(py, &e))?;
        Ok(self)
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.inner {
            Some(inner) => inner,
            None => unreachable!("taken only by drop"),
        }
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        if process::check_generation(self.generation).is_err() {
            std::mem::forget(self.inner.take());
        }
    }
}
