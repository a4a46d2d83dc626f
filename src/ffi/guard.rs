//! The boundary: what every exported function's body runs in. No panic passes it, and what panicked is poisoned.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::error::report;
use super::inject;
use super::table::{self, Object};
use super::types::tenure_error;
use crate::base::{Error, Result, Status};

/// Runs a body that needs no object, and reports its end in the return value and in `err`.
#[inline]
pub(super) fn guard(err: *mut tenure_error, body: impl FnOnce() -> Result<()>) -> i32 {
    let ended = caught(|| {
        inject::call();
        body()
    });
    report(err, ended)
}

/// Runs a body on the object that `handle` names. After a panic the object's node is poisoned.
#[inline]
pub(super) fn guard_on<T: Object>(handle: u64, err: *mut tenure_error, body: impl FnOnce(&T) -> Result<()>) -> i32 {
    let ended = caught(|| {
        let object = table::pin::<T>(handle)?;
        let ended = caught(|| {
            inject::call();
            body(&object)
        });
        poison_after(&*object, &ended);
        ended
    });
    report(err, ended)
}

/// As [`guard_on`], for bodies that wait or that run callbacks: works on a clone, so that the object can be freed meanwhile.
pub(super) fn guard_clone<T: Object + Clone>(handle: u64, err: *mut tenure_error, body: impl FnOnce(T) -> Result<()>) -> i32 {
    let ended = caught(|| {
        let object = table::pin::<T>(handle)?.clone();
        let used = object.clone();
        let ended = caught(|| {
            inject::call();
            body(used)
        });
        poison_after(&object, &ended);
        ended
    });
    report(err, ended)
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

fn poison_after<T: Object>(object: &T, ended: &Result<()>) {
    if let Err(e) = ended
        && e.status() == Status::Panic
    {
        object.poison(e.message());
    }
}

#[inline]
fn caught(body: impl FnOnce() -> Result<()>) -> Result<()> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| Err(panicked(payload)))
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
