//! The boundary: what every exported function's body runs in. No panic passes it, and what panicked is poisoned.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::error::{failed, report};
use super::inject;
use super::table::{self, Object};
use super::types::tenure_error;
use crate::base::{Error, Result, Status};

/// Runs a body that needs no object, and reports its end in the return value and in `err`.
#[inline]
pub(super) fn guard(err: *mut tenure_error, body: impl FnOnce() -> Result<()>) -> i32 {
    let run = || {
        inject::call();
        report(err, body())
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| failed(err, &panicked(payload)))
}

/// Runs a body on the object that `handle` names. After a panic the object's node is poisoned.
#[inline]
pub(super) fn guard_on<T: Object>(handle: u64, err: *mut tenure_error, body: impl FnOnce(&T) -> Result<()>) -> i32 {
    // The lookup runs no code that could panic, so that one catch does for the whole call.
    let object = match table::pin::<T>(handle) {
        Ok(object) => object,
        Err(e) => return failed(err, &e),
    };
    // The status comes out and not the result: a result is large, and to move it costs more than the rest of this function.
    let run = || {
        inject::call();
        report(err, body(&object))
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| poisoned(&*object, payload, err))
}

/// As [`guard_on`], for bodies that wait or that run callbacks: works on a clone, so that the object can be freed meanwhile.
pub(super) fn guard_clone<T: Object + Clone>(handle: u64, err: *mut tenure_error, body: impl FnOnce(T) -> Result<()>) -> i32 {
    let object = match table::pin::<T>(handle) {
        Ok(object) => object.clone(),
        Err(e) => return failed(err, &e),
    };
    let used = object.clone();
    let run = || {
        inject::call();
        report(err, body(used))
    };
    let status = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| poisoned(&object, payload, err));
    // The last share of an object that was freed meanwhile ends it here.
    contained(|| drop(object));
    status
}

/// Runs a body that cannot fail; `fallback` is the answer after a panic.
pub(super) fn guard_or<R>(fallback: R, body: impl FnOnce() -> R) -> R {
    let run = AssertUnwindSafe(|| {
        inject::call();
        body()
    });
    catch_unwind(run).unwrap_or_else(|payload| {
        discard(payload);
        fallback
    })
}

/// Runs what must not panic into a caller that has no guard around it.
pub(super) fn contained(body: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(body)) {
        discard(payload);
    }
}

#[cold]
fn poisoned<T: Object>(object: &T, payload: Box<dyn Any + Send>, err: *mut tenure_error) -> i32 {
    let error = panicked(payload);
    // A second panic leaves the node as poisoned as the first one could make it.
    contained(|| object.poison(error.message()));
    failed(err, &error)
}

#[cold]
fn panicked(payload: Box<dyn Any + Send>) -> Error {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let error = Error::new(Status::Panic, format!("a panic was caught: {}", text.unwrap_or("without a message")));
    discard(payload);
    error
}

/// The destructor of a payload is foreign code and may panic again; what that one leaves is not looked at.
fn discard(payload: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
}
