//! What a session can do besides taking and giving back.

use std::ffi::c_char;
use std::time::Duration;

use super::args::{Out, TextOut, bytes, ms_up, text, timeout};
use super::guard::{guard_clone, guard_on};
use super::log;
use super::node::{NodeObject, holder_json, json, mode_text};
use super::session::{SessionObject, key};
use super::table;
use super::types::{tenure_bytes, tenure_error, tenure_node, tenure_session};
use crate::base::ids::NODE_ID_MAX;
use crate::base::{Error, Token};
use crate::node::{METADATA_MAX, WHY_MAX};

/// Bytes of a session's secret.
pub const TENURE_SECRET_SIZE: usize = 16;

/// Asks whoever holds a lock to give it back: each holder gets a #TENURE_EVENT_KIND_REVOKE_REQUESTED event that says who asks and why.
///
/// Parameters: session; key; token - only this grant, or 0 for every holder; why - for the holder to read, at most 256 bytes of UTF-8;
/// force_after_ms - when it is taken away from those who still hold it then, by the ledger's clock, at most 86400000, or TENURE_FOREVER for
/// never. A second request can bring that time forward, and not put it off. The grant's lock-delay begins then. out_asked - how many holders
/// were asked, or NULL; err - or NULL.
/// Returns: #TENURE_OK, also when nobody holds it; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_UNAVAILABLE;
/// #TENURE_IO; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: nothing is kept. Threads: any, also in callbacks of a node in memory; waits for the disk of a durable node. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_session_revoke(
    session: tenure_session,
    key: tenure_bytes,
    token: u64,
    why: tenure_bytes,
    force_after_ms: u64,
    out_asked: *mut u64,
    err: *mut tenure_error,
) -> i32 {
    guard_on(session.id, err, |s: &SessionObject| {
        let out = Out::optional(out_asked, "out_asked")?;
        // SAFETY: the header asks for readable bytes.
        let (key, why) = unsafe { (self::key(key)?, text(why, "why", WHY_MAX)?) };
        let only = (token != 0).then_some(Token(token));
        let asked = s.session.revoke(key, only, why, timeout(force_after_ms))?;
        // SAFETY: the header asks for a writable place or NULL.
        unsafe { out.set(asked) };
        Ok(())
    })
}

/// Everybody around a lock as JSON: `{"holders": [as tenure_node_locks()], "waiters": [{"node", "session", "mode", "waited_ms", "metadata"}],
/// "delay_ms"}`, holders by token, waiters in the order in which they will be served. Linearizable.
///
/// Parameters: session; key; buf, len - the buffer; out_needed - the size needed, with the NUL; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED;
/// #TENURE_POISONED; #TENURE_UNAVAILABLE; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: the caller's. Threads: any, also in callbacks of a node that is no member of a cluster. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_session_contenders(
    session: tenure_session,
    key: tenure_bytes,
    buf: *mut c_char,
    len: usize,
    out_needed: *mut usize,
    err: *mut tenure_error,
) -> i32 {
    guard_on(session.id, err, |s: &SessionObject| {
        let out = TextOut::new(buf, len, out_needed)?;
        // SAFETY: the header asks for readable bytes.
        let key = unsafe { self::key(key)? };
        let found = s.session.contenders(key)?;
        let waiter = |w: &crate::node::Waiter| {
            serde_json::json!({
                "node": w.node,
                "session": w.session.0,
                "mode": mode_text(w.mode),
                "waited_ms": w.waited.as_millis() as u64,
                "metadata": w.metadata.escape_ascii().to_string(),
            })
        };
        let text = json(&serde_json::json!({
            "holders": found.holders.iter().map(holder_json).collect::<Vec<_>>(),
            "waiters": found.waiters.iter().map(waiter).collect::<Vec<_>>(),
            "delay_ms": ms_up(found.delay),
        }))?;
        // SAFETY: the header asks for a writable buffer.
        unsafe { out.put(&text) }
    })
}

/// Who holds a lock as far as this node knows, asking nobody: the answer may be old.
///
/// Parameters: session; key; buf, len - the buffer for the name of the (first) holder's session, empty when nobody holds the lock;
/// out_needed - the size needed, with the NUL; at most 65; out_token - its fencing token, or 0, or NULL; out_applied - the log index up to which
/// this node has applied, 0 for a node in memory, or NULL; out_age_ms - how long ago that was: so old the answer may be; 0 for a node that is
/// alone; or NULL; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED;
/// #TENURE_POISONED; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: the caller's. Threads: any, also in callbacks. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_session_holder_local(
    session: tenure_session,
    key: tenure_bytes,
    buf: *mut c_char,
    len: usize,
    out_needed: *mut usize,
    out_token: *mut u64,
    out_applied: *mut u64,
    out_age_ms: *mut u64,
    err: *mut tenure_error,
) -> i32 {
    guard_on(session.id, err, |s: &SessionObject| {
        let out = TextOut::new(buf, len, out_needed)?;
        let token = Out::optional(out_token, "out_token")?;
        let (applied, age) = (Out::optional(out_applied, "out_applied")?, Out::optional(out_age_ms, "out_age_ms")?);
        // SAFETY: the header asks for readable bytes.
        let key = unsafe { self::key(key)? };
        let local = s.session.holder_local(key)?;
        // SAFETY: the header asks for writable places.
        unsafe {
            out.put(local.holder.as_ref().map_or("", |h| h.node.as_str()).as_bytes())?;
            token.set(local.holder.as_ref().map_or(0, |h| h.token.0));
            applied.set(local.applied);
            age.set(ms_up(local.age));
        }
        Ok(())
    })
}

/// Replaces what a grant shows to whoever asks for the holder, or watches it.
///
/// Parameters: session; key; token - the grant's; metadata - at most 1024 bytes; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_NOT_HOLDER when the grant is gone, err->token is that of the present holder, or 0; #TENURE_INVALID_ARGUMENT;
/// #TENURE_CLOSED; #TENURE_POISONED; #TENURE_UNAVAILABLE; #TENURE_IO; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: nothing is kept. Threads: any, also in callbacks of a node in memory; waits for the disk of a durable node. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_session_annotate(
    session: tenure_session,
    key: tenure_bytes,
    token: u64,
    metadata: tenure_bytes,
    err: *mut tenure_error,
) -> i32 {
    guard_on(session.id, err, |s: &SessionObject| {
        // SAFETY: the header asks for readable bytes.
        let (key, metadata) = unsafe { (self::key(key)?, bytes(metadata, "metadata", METADATA_MAX)?) };
        s.session.annotate(key, Token(token), metadata)
    })
}

/// Says whether at least `left_ms` of a grant is left in the holder's own view, asking nobody: before a step that takes so long.
///
/// Parameters: session; key; token - the grant's; left_ms; out_remaining_ms - what is left, or NULL; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_EXPIRED when less is left, or nothing; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED;
/// #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: nothing is kept. Threads: any, also in callbacks; never waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_session_ensure(
    session: tenure_session,
    key: tenure_bytes,
    token: u64,
    left_ms: u64,
    out_remaining_ms: *mut u64,
    err: *mut tenure_error,
) -> i32 {
    guard_on(session.id, err, |s: &SessionObject| {
        let out = Out::optional(out_remaining_ms, "out_remaining_ms")?;
        // SAFETY: the header asks for readable bytes.
        let key = unsafe { self::key(key)? };
        let left = s.session.ensure(key, Token(token), Duration::from_millis(left_ms))?;
        // SAFETY: the header asks for a writable place or NULL.
        unsafe { out.set(left.as_millis() as u64) };
        Ok(())
    })
}

/// Why a grant was lost: a word as in the `lost` event, or "" while it is held and after it was given back. The last 1024 losses of a session
/// are remembered.
///
/// Parameters: session; token - the grant's; buf, len - the buffer; out_needed - the size needed, with the NUL; at most 16; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: the caller's. Threads: any, also in callbacks; never waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_session_loss(
    session: tenure_session,
    token: u64,
    buf: *mut c_char,
    len: usize,
    out_needed: *mut usize,
    err: *mut tenure_error,
) -> i32 {
    guard_on(session.id, err, |s: &SessionObject| {
        let out = TextOut::new(buf, len, out_needed)?;
        let reason = s.session.loss(Token(token)).map_or("", |reason| reason.as_str());
        // SAFETY: the header asks for a writable buffer.
        unsafe { out.put(reason.as_bytes()) }
    })
}

/// What proves that a caller owns this session, for tenure_node_take_over() by a later process. Keep it secret, and where only that process
/// finds it. It changes when the session is opened anew after a loss.
///
/// Parameters: session; out_secret - where 16 bytes go; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_UNAVAILABLE; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: the caller's. Threads: any, also in callbacks. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_session_secret(session: tenure_session, out_secret: *mut u8, err: *mut tenure_error) -> i32 {
    guard_on(session.id, err, |s: &SessionObject| {
        let out = Out::required(out_secret.cast::<[u8; TENURE_SECRET_SIZE]>(), "out_secret")?;
        let secret = s.session.secret()?.to_le_bytes();
        // SAFETY: the header asks for 16 writable bytes.
        unsafe { out.set(secret) };
        Ok(())
    })
}

/// The locks that came with the session whose place this one has taken, as JSON by token: `[{"key", "token"}]`, keys as in
/// tenure_node_locks(). They are the caller's, to be released like any other, from the first call on.
///
/// Parameters: session; buf, len - the buffer; out_needed - the size needed, with the NUL; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED;
/// #TENURE_UNAVAILABLE; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: the caller's. Threads: any, also in callbacks of a node that is no member of a cluster. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_session_inherited(
    session: tenure_session,
    buf: *mut c_char,
    len: usize,
    out_needed: *mut usize,
    err: *mut tenure_error,
) -> i32 {
    guard_on(session.id, err, |s: &SessionObject| {
        let out = TextOut::new(buf, len, out_needed)?;
        let rows: Vec<_> = s
            .inherited()?
            .iter()
            .map(|(key, token)| serde_json::json!({ "key": key.as_bytes().escape_ascii().to_string(), "token": token.0 }))
            .collect();
        let text = json(&rows)?;
        // SAFETY: the header asks for a writable buffer.
        unsafe { out.put(&text) }
    })
}

/// Opens a session in the place of another one, which may be that of a process that is gone or stopped. The old one ends: whatever it still
/// asks for is refused. With `keep` its locks become the new session's, each under a new and larger fencing token, so that writes that still
/// carry the old one are fenced: tenure_session_inherited() names them. Without, they are lost, and free when their lock-delays are over.
///
/// Parameters: node; name, ttl_ms - as for tenure_session_open(); secret - the 16 bytes of the old session's tenure_session_secret(); keep;
/// out_session - where the handle goes; err - or NULL.
/// Returns: as tenure_session_open(); #TENURE_EXPIRED when the old session has ended; #TENURE_LIMIT when it holds more than 4096 locks.
/// Memory: end it with tenure_session_close(), free the handle with tenure_session_free().
/// Threads: any; waits for the disk of a durable node. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_node_take_over(
    node: tenure_node,
    name: tenure_bytes,
    ttl_ms: u64,
    secret: tenure_bytes,
    keep: bool,
    out_session: *mut tenure_session,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(node.id, err, |n: NodeObject| {
        let out = Out::required(out_session, "out_session")?;
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        let (name, secret) = unsafe { (text(name, "name", NODE_ID_MAX)?, bytes(secret, "secret", TENURE_SECRET_SIZE)?) };
        let wrong = |_| Error::invalid("secret", format_args!("{} bytes are not {TENURE_SECRET_SIZE}", secret.len()));
        let secret = u128::from_le_bytes(secret.try_into().map_err(wrong)?);
        let session = n.node.take_over(name, Duration::from_millis(ttl_ms), secret, keep)?;
        let object = SessionObject::other(session);
        let id = table::insert(object.clone()).inspect_err(|_| object.session.close_later())?;
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(tenure_session { id }) };
        Ok(())
    })
}
