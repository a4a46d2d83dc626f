//! Watches and elections.

use std::ffi::{c_char, c_void};
use std::time::Duration;

use super::args::{Out, TextOut, User, bytes, timeout};
use super::event;
use super::guard::{guard_clone, guard_on};
use super::inject;
use super::log;
use super::node::NodeObject;
use super::session::{SessionObject, key};
use super::types::{TENURE_WATCH_PREFIX, tenure_bytes, tenure_error, tenure_event_fn, tenure_node, tenure_session};
use crate::base::key::KEY_MAX;
use crate::base::{Error, Result, Token};
use crate::node::{LockOptions, METADATA_MAX};

/// Watches who holds a lock, or all locks whose names begin alike. The first events are the present: #TENURE_EVENT_KIND_HELD or, for one
/// lock, #TENURE_EVENT_KIND_FREED. Then comes each change, those of one lock in order. A host that is slow may miss some in between,
/// never the last one. Served by this node's own copy of the ledger: nothing is polled, and nothing is written.
///
/// Parameters: node; name - a key, or with TENURE_WATCH_PREFIX the beginning of keys, which may be empty; flags - 0 or TENURE_WATCH_PREFIX;
/// on_event, user - see #tenure_event_fn; out_watch - the number for tenure_node_unwatch(), or NULL; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_IO; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: `user` is the caller's and must live until tenure_node_unwatch() or tenure_node_close() has returned.
/// Threads: any, also in callbacks. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_node_watch(
    node: tenure_node,
    name: tenure_bytes,
    flags: u32,
    on_event: tenure_event_fn,
    user: *mut c_void,
    out_watch: *mut u64,
    err: *mut tenure_error,
) -> i32 {
    guard_on(node.id, err, |n: &NodeObject| {
        let out = Out::optional(out_watch, "out_watch")?;
        let call = on_event.ok_or_else(|| Error::invalid("on_event", "is NULL"))?;
        if flags & !TENURE_WATCH_PREFIX != 0 {
            return Err(Error::invalid("flags", format_args!("{flags:#x} has unknown bits")));
        }
        // SAFETY: the header asks for readable bytes.
        let name = unsafe { bytes(name, "name", KEY_MAX)? };
        let user = User(user);
        let listener = Box::new(move |told: &crate::node::WatchEvent| {
            inject::callback();
            // SAFETY: the host's function; the header forbids it to throw, and says how long the event is valid.
            event::with_watched(told, |plain| unsafe { call(user.get(), plain) });
        });
        let number = n.add_watch(n.node.watch_with(name, flags & TENURE_WATCH_PREFIX != 0, listener)?);
        // SAFETY: the header asks for a writable place or NULL.
        unsafe { out.set(number) };
        Ok(())
    })
}

/// Ends a watch. After it has returned the callback does not run and never will; called inside that callback, after the callback has
/// returned.
///
/// Parameters: node; watch - its number; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT when there is none of that number; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Threads: any, also in callbacks; waits for the callback if it is running on another thread. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_node_unwatch(node: tenure_node, watch: u64, err: *mut tenure_error) -> i32 {
    guard_clone(node.id, err, |n: NodeObject| match n.take_watch(watch) {
        Some(watch) => {
            watch.close();
            Ok(())
        }
        None => Err(Error::invalid("watch", format_args!("there is none of number {watch}"))),
    })
}

/// # Safety
/// As [`bytes`].
unsafe fn value<'a>(given: tenure_bytes) -> Result<&'a [u8]> {
    // SAFETY: the caller's promise.
    unsafe { bytes(given, "value", METADATA_MAX) }
}

/// Stands for election and waits, first come first served, until elected. An election is the lock of its name: tenure_node_watch() tells
/// who leads (the first holder) and what is proclaimed (its metadata), tenure_session_contenders() who stands.
///
/// Parameters: session; name - 1 to 1024 bytes; value - what the leader proclaims, at most 1024 bytes; ttl_ms - how long the leadership
/// outlives its last renewal, 100 to 86400000; timeout_ms - how long to wait, 0 to try, or TENURE_FOREVER; out_token - the leader's term,
/// larger than that of every leader before it; err - or NULL.
/// Returns: as tenure_session_acquire(). Memory: nothing is kept. Threads: any; waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_election_campaign(
    session: tenure_session,
    name: tenure_bytes,
    value: tenure_bytes,
    ttl_ms: u64,
    timeout_ms: u64,
    out_token: *mut u64,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(session.id, err, |s: SessionObject| {
        let out = Out::required(out_token, "out_token")?;
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        let (name, value) = unsafe { (key(name)?, self::value(value)?) };
        let options = LockOptions { ttl: Duration::from_millis(ttl_ms), metadata: value.to_vec(), ..LockOptions::default() };
        let token = s.session.acquire_token(name, &options, timeout(timeout_ms))?;
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(token.0) };
        Ok(())
    })
}

/// Tells everybody the leader's new value, in the order of proclamations.
///
/// Parameters: session; name; token - the leader's term; value - at most 1024 bytes; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_NOT_HOLDER when it does not lead any more: nothing was proclaimed, err->token is the present leader's term, or 0;
/// #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_UNAVAILABLE; #TENURE_IO; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: nothing is kept. Threads: any, also in callbacks of a node in memory; waits for the disk of a durable node. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_election_proclaim(
    session: tenure_session,
    name: tenure_bytes,
    token: u64,
    value: tenure_bytes,
    err: *mut tenure_error,
) -> i32 {
    guard_on(session.id, err, |s: &SessionObject| {
        // SAFETY: the header asks for readable bytes.
        let (name, value) = unsafe { (key(name)?, self::value(value)?) };
        s.session.annotate(name, Token(token), value)
    })
}

/// Who leads, and what it has proclaimed. Linearizable. tenure_session_holder() gives the leader's name.
///
/// Parameters: session; name; buf, len - the buffer for the value, which may hold NULs; out_needed - the size needed, with the NUL at its
/// end; out_token - the leader's term, 0 when nobody leads, or NULL; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED;
/// #TENURE_POISONED; #TENURE_UNAVAILABLE; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: the caller's. Threads: any, also in callbacks of a node that is no member of a cluster. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_election_leader(
    session: tenure_session,
    name: tenure_bytes,
    buf: *mut c_char,
    len: usize,
    out_needed: *mut usize,
    out_token: *mut u64,
    err: *mut tenure_error,
) -> i32 {
    guard_on(session.id, err, |s: &SessionObject| {
        let out = TextOut::new(buf, len, out_needed)?;
        let token = Out::optional(out_token, "out_token")?;
        // SAFETY: the header asks for readable bytes.
        let name = unsafe { key(name)? };
        let holder = s.session.holder(name)?;
        // SAFETY: the header asks for writable places.
        unsafe {
            out.put(holder.as_ref().map_or(&[][..], |h| &h.metadata))?;
            token.set(holder.as_ref().map_or(0, |h| h.token.0));
        }
        Ok(())
    })
}

/// Gives the leadership up: the next in the queue leads at once.
///
/// Parameters: session; name; token - the leader's term; err - or NULL.
/// Returns: as tenure_session_release(). Memory: nothing is kept.
/// Threads: any, also in callbacks of a node in memory; waits for the disk of a durable node. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_election_resign(session: tenure_session, name: tenure_bytes, token: u64, err: *mut tenure_error) -> i32 {
    guard_on(session.id, err, |s: &SessionObject| {
        // SAFETY: the header asks for readable bytes.
        let name = unsafe { key(name)? };
        s.session.release(name, Token(token))
    })
}
