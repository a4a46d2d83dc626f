//! Statuses and errors, as C sees them.

use std::ffi::{CStr, c_char};
use std::sync::OnceLock;

use super::guard::guard_or;
use super::types::tenure_error;
use crate::base::status::{FATAL, MAYBE_APPLIED, RETRIABLE};
use crate::base::{Error, Result, Status};

/// The same call, with the same arguments, may succeed later.
pub const TENURE_IS_RETRIABLE: u32 = 1;
/// The operation may have taken effect although it did not report success.
pub const TENURE_IS_MAYBE_APPLIED: u32 = 2;
/// The object cannot be used any more.
pub const TENURE_IS_FATAL: u32 = 4;

const _: () = assert!(TENURE_IS_RETRIABLE == RETRIABLE && TENURE_IS_MAYBE_APPLIED == MAYBE_APPLIED && TENURE_IS_FATAL == FATAL);
const _: () = assert!(size_of::<tenure_error>() == 256);

/// Turns the end of a call into its return value and fills in the caller's error, if there is one.
#[inline]
pub(super) fn report(err: *mut tenure_error, ended: Result<()>) -> i32 {
    match ended {
        Ok(()) => {
            fill(err, Status::Ok, 0, 0, "");
            Status::Ok as i32
        }
        Err(e) => failed(err, &e),
    }
}

#[cold]
pub(super) fn failed(err: *mut tenure_error, e: &Error) -> i32 {
    fill(err, e.status(), e.os_errno(), e.token(), e.message());
    if e.retry_after_ms() != 0 && !err.is_null() && err.is_aligned() {
        // SAFETY: as in `fill`.
        unsafe { (&raw mut (*err).retry_after_ms).write(e.retry_after_ms()) };
    }
    e.status() as i32
}

/// The error as C data.
pub(super) fn plain(ended: &Result<()>) -> tenure_error {
    let mut out =
        tenure_error { struct_size: 256, status: 0, flags: 0, os_errno: 0, token: 0, retry_after_ms: 0, reserved: 0, message: [0; 216] };
    if let Err(e) = ended {
        fill(&mut out, e.status(), e.os_errno(), e.token(), e.message());
        out.retry_after_ms = e.retry_after_ms();
    }
    out
}

#[inline]
fn fill(err: *mut tenure_error, status: Status, os_errno: i32, token: u64, message: &str) {
    if err.is_null() || !err.is_aligned() {
        return;
    }
    let mut end = message.len().min(215);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    // SAFETY: the header asks for NULL or a writable tenure_error, which need not be initialised; each write stays inside it.
    unsafe {
        (&raw mut (*err).struct_size).write(256);
        (&raw mut (*err).status).write(status as i32);
        (&raw mut (*err).flags).write(status.spec().flags);
        (&raw mut (*err).os_errno).write(os_errno);
        (&raw mut (*err).token).write(token);
        (&raw mut (*err).retry_after_ms).write(0);
        (&raw mut (*err).reserved).write(0);
        let to = (&raw mut (*err).message).cast::<u8>();
        std::ptr::copy_nonoverlapping(message.as_ptr(), to, end);
        to.add(end).write(0);
    }
}

fn names() -> &'static [(i32, std::ffi::CString, std::ffi::CString)] {
    static NAMES: OnceLock<Vec<(i32, std::ffi::CString, std::ffi::CString)>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let c = |text: String| std::ffi::CString::new(text).unwrap_or_default();
        let row = |s: &Status| (*s as i32, c(format!("TENURE_{}", s.spec().name)), c(s.spec().text.to_owned()));
        Status::ALL.iter().map(row).collect()
    })
}

fn static_text(status: i32, pick: fn(&(i32, std::ffi::CString, std::ffi::CString)) -> &CStr, unknown: &'static CStr) -> *const c_char {
    guard_or(unknown.as_ptr(), || names().iter().find(|row| row.0 == status).map_or(unknown, pick).as_ptr())
}

/// The name of a status, for example "TENURE_HELD".
///
/// Parameters: status - any number.
/// Returns: the name; "TENURE_?" for a number that this library does not know. Never NULL.
/// Memory: static, not to be freed. Threads: any, also in callbacks and after fork(). Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn tenure_status_name(status: i32) -> *const c_char {
    static_text(status, |row| row.1.as_c_str(), c"TENURE_?")
}

/// What a status means, in a few words.
///
/// Parameters: status - any number.
/// Returns: the text; "unknown status" for a number that this library does not know. Never NULL.
/// Memory: static, not to be freed. Threads: any, also in callbacks and after fork(). Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn tenure_status_text(status: i32) -> *const c_char {
    static_text(status, |row| row.2.as_c_str(), c"unknown status")
}

/// Whether something holds for a status. Ask this, and not for single numbers, about statuses you do not know.
///
/// Parameters: status - any number; predicate - one or more of TENURE_IS_RETRIABLE, TENURE_IS_MAYBE_APPLIED, TENURE_IS_FATAL.
/// Returns: true when all of them hold. A number that this library does not know is none of them.
/// Threads: any, also in callbacks and after fork(). Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn tenure_status_is(status: i32, predicate: u32) -> bool {
    guard_or(false, || predicate != 0 && Status::from_code(status).is_some_and(|s| s.is(predicate)))
}
