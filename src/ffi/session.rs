//! Sessions and their locks.

use std::ffi::c_char;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::args::{Out, TextOut, bytes, ms_up, text, timeout};
use super::guard::{guard_clone, guard_on, guard_or};
use super::log;
use super::node::NodeObject;
use super::options::lock_options;
use super::table::{self, Object};
use super::types::{tenure_bytes, tenure_error, tenure_lock_opts, tenure_node, tenure_session};
use crate::base::ids::NODE_ID_MAX;
use crate::base::key::KEY_MAX;
use crate::base::{Error, Key, Result, Status, Token};
use crate::node::Session;

/// Most keys of one tenure_session_acquire_all().
pub(super) const KEYS_MAX: usize = 4096;

#[derive(Clone)]
pub(super) struct SessionObject {
    pub(super) session: Session,
    /// The node's own session, whose handle is freed with the node's.
    own: bool,
    /// What came with a session that it has taken over, once somebody has asked.
    inherited: Arc<Mutex<Vec<(Key, Token)>>>,
}

impl SessionObject {
    pub(super) fn own(session: Session) -> SessionObject {
        SessionObject { session, own: true, inherited: Arc::default() }
    }

    pub(super) fn other(session: Session) -> SessionObject {
        SessionObject { session, own: false, inherited: Arc::default() }
    }

    /// The same answer each time, for a caller who asks for its length first.
    pub(super) fn inherited(&self) -> Result<Vec<(Key, Token)>> {
        let mut known = self.inherited.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(self.session.inherited()?);
        Ok(known.clone())
    }
}

impl Object for SessionObject {
    const TYPE: u8 = 3;
    const NAME: &'static str = "session";
    fn poison(&self, why: &str) {
        self.session.poison_node(why);
    }
}

/// A lock's name. The longest is checked before it is read; the node layer refuses the empty one.
///
/// # Safety
/// As [`bytes`].
#[inline]
pub(super) unsafe fn key<'a>(given: tenure_bytes) -> Result<&'a [u8]> {
    // SAFETY: the caller's promise.
    unsafe { bytes(given, "key", KEY_MAX) }
}

/// Opens another session: another identity in this process, which the library renews like the node's own.
///
/// Parameters: node; name - 1 to 64 printable ASCII characters, seen by others as the holder's; ttl_ms - how long the session lives
/// without a renewal, 100 to 86400000; out_session - where the handle goes; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_LIMIT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_IO;
/// #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: end it with tenure_session_close(), free the handle with tenure_session_free().
/// Threads: any; waits for the disk of a durable node. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_session_open(
    node: tenure_node,
    name: tenure_bytes,
    ttl_ms: u64,
    out_session: *mut tenure_session,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(node.id, err, |n: NodeObject| {
        let out = Out::required(out_session, "out_session")?;
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        let name = unsafe { text(name, "name", NODE_ID_MAX)? };
        let session = n.node.open_session(name, Duration::from_millis(ttl_ms))?;
        let object = SessionObject::other(session);
        let id = table::insert(object.clone()).inspect_err(|_| object.session.close_later())?;
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(tenure_session { id }) };
        Ok(())
    })
}

/// Ends a session: its locks are released, its waits end with #TENURE_CLOSED. Closing twice is no error. To close the node's own is.
///
/// Parameters: session; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_MISUSE for the node's own; #TENURE_CLOSED for a closed node; #TENURE_POISONED; #TENURE_IO;
/// #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: the handle stays until tenure_session_free(). Threads: any; waits for the disk of a durable node. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_session_close(session: tenure_session, err: *mut tenure_error) -> i32 {
    guard_clone(session.id, err, |s: SessionObject| {
        log::check_may_wait()?;
        if s.own {
            return Err(Error::new(Status::Misuse, "the node's own session ends with the node"));
        }
        s.session.close()
    })
}

/// Frees the handle. A session that was not closed ends now, without being waited for. The handle of a node's own session
/// stays until the node's is freed.
///
/// Parameters: session - also 0, also one that was freed already. Other threads may be inside calls on it.
/// Returns: nothing. Threads: any, also in callbacks; never waits. In a forked child it does nothing. Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn tenure_session_free(session: tenure_session) {
    guard_or((), || {
        let Ok(object) = table::pin::<SessionObject>(session.id).map(|s| s.clone()) else {
            table::remove::<SessionObject>(session.id);
            return;
        };
        if !object.own && table::remove::<SessionObject>(session.id) {
            object.session.close_later();
        }
    });
}

/// Takes a lock if it is free.
///
/// Parameters: session; key - 1 to 1024 bytes; opts - or NULL: exclusive, 10 s, renewed by the library; out_token - where the grant's
/// fencing token goes, which increases with every grant of any lock; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_HELD, err->token is the holder's; #TENURE_LOCK_DELAY; #TENURE_INVALID_ARGUMENT; #TENURE_LIMIT;
/// #TENURE_CLOSED; #TENURE_POISONED; #TENURE_UNAVAILABLE; #TENURE_IO; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: nothing is kept. Threads: any, also in callbacks of a node in memory; waits for the disk of a durable node. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_session_try_acquire(
    session: tenure_session,
    key: tenure_bytes,
    opts: *const tenure_lock_opts,
    out_token: *mut u64,
    err: *mut tenure_error,
) -> i32 {
    guard_on(session.id, err, |s: &SessionObject| {
        let out = Out::required(out_token, "out_token")?;
        // SAFETY: the header asks for readable bytes and options.
        let (key, options) = unsafe { (self::key(key)?, lock_options(opts)?) };
        let token = s.session.try_acquire_token(key, &options)?;
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(token.0) };
        Ok(())
    })
}

/// Takes a lock, waiting in its queue, first come first served.
///
/// Parameters: session; key - 1 to 1024 bytes; opts - or NULL; timeout_ms - how long to wait, or TENURE_FOREVER; out_token - where the
/// fencing token goes; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_TIMEOUT, the lock is not held; #TENURE_HELD for a timeout of 0; #TENURE_CLOSED, #TENURE_EXPIRED when the session ends;
/// #TENURE_WOULD_DEADLOCK in a callback; #TENURE_INVALID_ARGUMENT; #TENURE_LIMIT; #TENURE_POISONED; #TENURE_UNAVAILABLE;
/// #TENURE_IO; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: nothing is kept. Threads: any; waits. Freeing the handle does not end the wait, closing the session does. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_session_acquire(
    session: tenure_session,
    key: tenure_bytes,
    opts: *const tenure_lock_opts,
    timeout_ms: u64,
    out_token: *mut u64,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(session.id, err, |s: SessionObject| {
        let out = Out::required(out_token, "out_token")?;
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes and options.
        let (key, options) = unsafe { (self::key(key)?, lock_options(opts)?) };
        let token = s.session.acquire_token(key, &options, timeout(timeout_ms))?;
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(token.0) };
        Ok(())
    })
}

/// Takes several locks in one step, or none of them; waits for all of them. Callers that want overlapping sets do not deadlock.
///
/// Parameters: session; keys, count - 1 to 4096 names, each once; opts - or NULL, for each of them; timeout_ms - how long to wait, 0 to try,
/// or TENURE_FOREVER; out_tokens - where `count` fencing tokens go, in the order of the keys; err - or NULL.
/// Returns: as tenure_session_acquire(). Memory: nothing is kept. Threads: any; waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_session_acquire_all(
    session: tenure_session,
    keys: *const tenure_bytes,
    count: usize,
    opts: *const tenure_lock_opts,
    timeout_ms: u64,
    out_tokens: *mut u64,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(session.id, err, |s: SessionObject| {
        if out_tokens.is_null() || !out_tokens.is_aligned() {
            return Err(Error::invalid("out_tokens", "is NULL or misaligned"));
        }
        if keys.is_null() || !keys.is_aligned() {
            return Err(Error::invalid("keys", "is NULL or misaligned"));
        }
        if !(1..=KEYS_MAX).contains(&count) {
            return Err(Error::invalid("count", format_args!("{count} is not in 1..={KEYS_MAX}")));
        }
        log::check_may_wait()?;
        // SAFETY: not NULL, aligned, of sane length; that they are readable the header asks for.
        let (keys, options) = unsafe {
            let given = std::slice::from_raw_parts(keys, count);
            (given.iter().map(|k| self::key(*k)).collect::<Result<Vec<_>>>()?, lock_options(opts)?)
        };
        let tokens = s.session.acquire_all_tokens(&keys, &options, timeout(timeout_ms))?;
        for (i, token) in tokens.iter().take(count).enumerate() {
            // SAFETY: the header asks for `count` writable places.
            unsafe { out_tokens.add(i).write(token.0) };
        }
        Ok(())
    })
}

/// Gives a lock back.
///
/// Parameters: session; key; token - the grant's; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_NOT_HOLDER when that is not this session's current grant: nothing was done, err->token is that of the
/// present holder, or 0; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_UNAVAILABLE; #TENURE_IO;
/// #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: nothing is kept. Threads: any, also in callbacks of a node in memory; waits for the disk of a durable node. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_session_release(session: tenure_session, key: tenure_bytes, token: u64, err: *mut tenure_error) -> i32 {
    guard_on(session.id, err, |s: &SessionObject| {
        // SAFETY: the header asks for readable bytes.
        let key = unsafe { self::key(key)? };
        s.session.release(key, Token(token))
    })
}

/// Gives a lock back without waiting and without an answer, for destructors. Should the release be lost with a
/// leader or a majority, it is made again until it is answered, or the session ends.
///
/// Parameters: session; key; token - the grant's. Bad ones are ignored.
/// Returns: nothing. Memory: nothing is kept. Threads: any, also in callbacks; never waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_session_release_later(session: tenure_session, key: tenure_bytes, token: u64) {
    guard_on(session.id, std::ptr::null_mut(), |s: &SessionObject| {
        // SAFETY: the header asks for readable bytes.
        let key = unsafe { self::key(key)? };
        s.session.release_later(key, Token(token));
        Ok(())
    });
}

/// Extends a grant by `ttl_ms` from now; of one that the library renews, says whether it is still held.
///
/// Parameters: session; key; token - the grant's; ttl_ms - 100 to 86400000; out_remaining_ms - what is left of it in the holder's view, or NULL;
/// err - or NULL.
/// Returns: #TENURE_OK; #TENURE_NOT_HOLDER when the grant is gone; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED;
/// #TENURE_UNAVAILABLE; #TENURE_IO; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: nothing is kept. Threads: any, also in callbacks of a node in memory; waits for the disk of a durable node. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_session_renew(
    session: tenure_session,
    key: tenure_bytes,
    token: u64,
    ttl_ms: u64,
    out_remaining_ms: *mut u64,
    err: *mut tenure_error,
) -> i32 {
    guard_on(session.id, err, |s: &SessionObject| {
        let out = Out::optional(out_remaining_ms, "out_remaining_ms")?;
        // SAFETY: the header asks for readable bytes.
        let key = unsafe { self::key(key)? };
        let remaining = s.session.renew(key, Token(token), Duration::from_millis(ttl_ms))?;
        // SAFETY: the header asks for a writable place or NULL.
        unsafe { out.set(remaining.as_millis() as u64) };
        Ok(())
    })
}

/// Gives back every lock of the session.
///
/// Parameters: session; out_count - how many there were, or NULL; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_UNAVAILABLE; #TENURE_IO;
/// #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Threads: any, also in callbacks of a node in memory; waits for the disk of a durable node. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_session_release_all(session: tenure_session, out_count: *mut u64, err: *mut tenure_error) -> i32 {
    guard_on(session.id, err, |s: &SessionObject| {
        let out = Out::optional(out_count, "out_count")?;
        let count = s.session.release_all()?;
        // SAFETY: the header asks for a writable place or NULL.
        unsafe { out.set(count) };
        Ok(())
    })
}

/// Takes a lock away from whoever holds it. For operators: the holder learns of it by its `lost` event, and until then believes in its
/// lease. A delay that covers the holder's ttl keeps the lock free for so long.
///
/// Parameters: session; key; delay_ms - how long nobody gets it, at most 3600000; out_released - whether anybody held it, or NULL; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_UNAVAILABLE; #TENURE_IO;
/// #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: nothing is kept. Threads: any, also in callbacks of a node in memory; waits for the disk of a durable node. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_session_force_release(
    session: tenure_session,
    key: tenure_bytes,
    delay_ms: u64,
    out_released: *mut bool,
    err: *mut tenure_error,
) -> i32 {
    guard_on(session.id, err, |s: &SessionObject| {
        let out = Out::optional(out_released, "out_released")?;
        // SAFETY: the header asks for readable bytes.
        let key = unsafe { self::key(key)? };
        let released = s.session.force_release(key, Duration::from_millis(delay_ms))?;
        // SAFETY: the header asks for a writable place or NULL.
        unsafe { out.set(released) };
        Ok(())
    })
}

/// Who holds a lock: of several holders, the one with the smallest token. tenure_node_locks() lists them all.
///
/// Parameters: session; key; buf, len - the buffer for the name of the holder's session, its node's id; empty when nobody holds the lock;
/// out_needed - the size needed, with the NUL; at most 65; out_token - its fencing token, 0 when nobody holds it, or NULL; out_remaining_ms -
/// how long the grant lasts by the ledger's clock unless it is renewed, or NULL; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED;
/// #TENURE_POISONED; #TENURE_UNAVAILABLE; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: the caller's. Threads: any, also in callbacks. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_session_holder(
    session: tenure_session,
    key: tenure_bytes,
    buf: *mut c_char,
    len: usize,
    out_needed: *mut usize,
    out_token: *mut u64,
    out_remaining_ms: *mut u64,
    err: *mut tenure_error,
) -> i32 {
    guard_on(session.id, err, |s: &SessionObject| {
        let out = TextOut::new(buf, len, out_needed)?;
        let token = Out::optional(out_token, "out_token")?;
        let remaining = Out::optional(out_remaining_ms, "out_remaining_ms")?;
        // SAFETY: the header asks for readable bytes.
        let key = unsafe { self::key(key)? };
        let holder = s.session.holder(key)?;
        // SAFETY: the header asks for writable places.
        unsafe {
            out.put(holder.as_ref().map_or("", |h| h.node.as_str()).as_bytes())?;
            token.set(holder.as_ref().map_or(0, |h| h.token.0));
            remaining.set(holder.as_ref().map_or(0, |h| ms_up(h.remaining)));
        }
        Ok(())
    })
}

/// What is left of a grant in the holder's own view: the time for which it may believe to hold the lock. Of a grant that the library renews
/// nobody is asked, also when it is lost; one that its caller renews is judged by the ledger, less the time that its answer took.
///
/// Parameters: session; key; token - the grant's; out_remaining_ms - where it goes, 0 when the grant is lost, or when that cannot be learnt;
/// err - or NULL.
/// Returns: #TENURE_OK, also for a grant that never was; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: nothing is kept. Threads: any, also in callbacks; never waits, but in a cluster for a grant that its caller renews:
/// there for as long as a read may. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_session_remaining(
    session: tenure_session,
    key: tenure_bytes,
    token: u64,
    out_remaining_ms: *mut u64,
    err: *mut tenure_error,
) -> i32 {
    guard_on(session.id, err, |s: &SessionObject| {
        let out = Out::required(out_remaining_ms, "out_remaining_ms")?;
        // SAFETY: the header asks for readable bytes.
        let key = unsafe { self::key(key)? };
        let remaining = s.session.remaining(key, Token(token));
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(remaining.as_millis() as u64) };
        Ok(())
    })
}
