//! The forms of the lock verbs that do not wait: the end goes to a callback.

use std::ffi::c_void;

use super::args::{Out, User, timeout};
use super::error::plain;
use super::guard::guard_on;
use super::inject;
use super::options::lock_options;
use super::session::{SessionObject, key};
use super::types::{tenure_bytes, tenure_done, tenure_error, tenure_lock_opts, tenure_session};
use crate::base::{Error, Result, Token};
use crate::node::OpId;

/// A callback that somebody waits for.
struct Done {
    call: unsafe extern "C" fn(*mut c_void, i32, u64, *const tenure_error),
    user: User,
}

impl Done {
    fn required(done: tenure_done, user: *mut c_void) -> Result<Done> {
        let call = done.ok_or_else(|| Error::invalid("done", "is NULL"))?;
        Ok(Done { call, user: User(user) })
    }

    fn run(&self, ended: Result<Token>) {
        inject::callback();
        let token = ended.as_ref().map_or(0, |t| t.0);
        let error = plain(&ended.map(|_| ()));
        // SAFETY: the host's function; the header forbids it to throw, and says how long the error is valid.
        unsafe { (self.call)(self.user.get(), error.status, token, &error) };
    }
}

/// Starts what tenure_session_acquire() does, without waiting for its end.
///
/// Parameters: session; key; opts - or NULL; timeout_ms - how long to wait in the lock's queue, 0 to try, or TENURE_FOREVER; done, user - called with the end, see
/// #tenure_done; a grant belongs to whoever it is told; out_op - the number for tenure_session_cancel(), or NULL; err - or NULL.
/// Returns: #TENURE_OK: `done` will be called, even if the node is closed first; otherwise it will not: #TENURE_INVALID_ARGUMENT;
/// #TENURE_CLOSED; #TENURE_POISONED; #TENURE_UNAVAILABLE; #TENURE_IO; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: key and opts are copied; `user` is the caller's. Threads: any, also in callbacks; never waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_session_acquire_async(
    session: tenure_session,
    key: tenure_bytes,
    opts: *const tenure_lock_opts,
    timeout_ms: u64,
    done: tenure_done,
    user: *mut c_void,
    out_op: *mut u64,
    err: *mut tenure_error,
) -> i32 {
    guard_on(session.id, err, |s: &SessionObject| {
        let out = Out::optional(out_op, "out_op")?;
        let done = Done::required(done, user)?;
        // SAFETY: the header asks for readable bytes and options.
        let (key, options) = unsafe { (self::key(key)?, lock_options(opts)?) };
        let op = s.session.submit_acquire(key, &options, timeout(timeout_ms), Box::new(move |ended| done.run(ended)))?;
        // SAFETY: the header asks for a writable place or NULL.
        unsafe { out.set(op.0) };
        Ok(())
    })
}

/// Starts what tenure_session_release() does, without waiting for its end.
///
/// Parameters: session; key; token - the grant's; done, user - called with the end, see #tenure_done; err - or NULL.
/// Returns: as tenure_session_acquire_async(). Memory: the key is copied; `user` is the caller's.
/// Threads: any, also in callbacks; never waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_session_release_async(
    session: tenure_session,
    key: tenure_bytes,
    token: u64,
    done: tenure_done,
    user: *mut c_void,
    err: *mut tenure_error,
) -> i32 {
    guard_on(session.id, err, |s: &SessionObject| {
        let done = Done::required(done, user)?;
        // SAFETY: the header asks for readable bytes.
        let key = unsafe { self::key(key)? };
        s.session.submit_release(key, Token(token), Box::new(move |ended| done.run(ended.map(|()| Token(0)))))?;
        Ok(())
    })
}

/// Ends an operation of tenure_session_acquire_async() that may still be waiting.
///
/// Parameters: session - the same; op - its number; out_cancelled - true: its callback gets #TENURE_CANCELLED, and a grant given in the
/// meantime is given back; false: it has ended already, and its callback has been or will be told how; or NULL; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Threads: any, also in callbacks; never waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_session_cancel(session: tenure_session, op: u64, out_cancelled: *mut bool, err: *mut tenure_error) -> i32 {
    guard_on(session.id, err, |s: &SessionObject| {
        let out = Out::optional(out_cancelled, "out_cancelled")?;
        let cancelled = s.session.cancel(OpId(op));
        // SAFETY: the header asks for a writable place or NULL.
        unsafe { out.set(cancelled) };
        Ok(())
    })
}
