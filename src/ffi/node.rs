//! Nodes.

use std::collections::HashMap;
use std::ffi::{c_char, c_int};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::args::{Out, TextOut, bytes, text};
use super::config::settings;
use super::guard::{guard, guard_clone, guard_on, guard_or};
use super::log;
use super::session::SessionObject;
use super::table::{self, Object};
use super::types::{tenure_bytes, tenure_config, tenure_error, tenure_node, tenure_session};
use crate::base::{Error, Result, Status, process};
use crate::node::{Holder, LockInfo, LockMode, Node, Watch};

/// Bytes of a list of addresses, at most.
const ADDRESSES_MAX: usize = 1 << 16;
/// Most locks in one listing.
const LISTING_MAX: usize = 1 << 20;

#[derive(Clone)]
pub(super) struct NodeObject {
    pub(super) node: Node,
    shared: Arc<Shared>,
}

struct Shared {
    /// The handle of the node's own session: it lives as long as the node's.
    session: u64,
    closed: AtomicBool,
    watches: Mutex<HashMap<u64, Watch>>,
    next_watch: AtomicU64,
}

impl NodeObject {
    pub(super) fn add_watch(&self, watch: Watch) -> u64 {
        let number = self.shared.next_watch.fetch_add(1, SeqCst) + 1;
        self.shared.watches.lock().unwrap_or_else(PoisonError::into_inner).insert(number, watch);
        number
    }

    pub(super) fn take_watch(&self, number: u64) -> Option<Watch> {
        self.shared.watches.lock().unwrap_or_else(PoisonError::into_inner).remove(&number)
    }
}

impl Object for NodeObject {
    const TYPE: u8 = 2;
    const NAME: &'static str = "node";
    fn poison(&self, why: &str) {
        self.node.poison(why);
    }
}

/// A handle for an open node.
pub(super) fn published(node: Node) -> Result<tenure_node> {
    let session = table::insert(SessionObject::own(node.session()))?;
    let shared = Arc::new(Shared { session, closed: AtomicBool::new(false), watches: Mutex::default(), next_watch: AtomicU64::new(0) });
    Ok(tenure_node { id: table::insert(NodeObject { node, shared })? })
}

/// Opens a node: in memory, or, with `data_dir`, durable in that directory.
///
/// A program that daemonises opens its node after the fork: see #TENURE_FORKED.
///
/// Parameters: config - the settings, copied; 0 for the defaults: a node in memory; out_node - where the handle goes; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT for settings that contradict each other; #TENURE_DATA_LOST, #TENURE_DATA_CORRUPT,
/// #TENURE_DATA_FOREIGN, #TENURE_DATA_LOCKED, #TENURE_DATA_VERSION for a directory that is refused, the message names the
/// file; #TENURE_IO; #TENURE_LIMIT; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE.
/// Memory: close the node with tenure_node_close(), then free the handle with tenure_node_free(). Threads: any; waits for the
/// disk. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_node_open(config: tenure_config, out_node: *mut tenure_node, err: *mut tenure_error) -> i32 {
    guard(err, || {
        log::install_panic_hook();
        log::check_may_wait()?;
        let out = Out::required(out_node, "out_node")?;
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(published(Node::open(&settings(config)?)?)?) };
        Ok(())
    })
}

/// Opens a node that is a client: it uses a cluster without being a member, with all the calls of a node. It keeps nothing on disk, and
/// does not wait for a member: the first call that needs one does.
///
/// Parameters: addresses - where members may be reached, `host:port,...`: any of them will do, the others are learnt from it; config - more
/// settings, copied, or 0; out_node - where the handle goes; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT for an address or settings that contradict each other; #TENURE_IO; #TENURE_LIMIT;
/// #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE.
/// Memory: as tenure_node_open(). Threads: any. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_client_open(
    addresses: tenure_bytes,
    config: tenure_config,
    out_node: *mut tenure_node,
    err: *mut tenure_error,
) -> i32 {
    guard(err, || {
        log::install_panic_hook();
        log::check_may_wait()?;
        let out = Out::required(out_node, "out_node")?;
        // SAFETY: the header asks for readable memory.
        let addresses = unsafe { text(addresses, "addresses", ADDRESSES_MAX)? };
        if addresses.is_empty() {
            return Err(Error::invalid("addresses", "names no address"));
        }
        let mut config = settings(config)?;
        config.set("connect", addresses)?;
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(published(Node::open(&config)?)?) };
        Ok(())
    })
}

/// Closes a node: its gates close, its sessions end, which frees their locks, its threads end, and all callbacks that are due are
/// called. No callback runs after it has returned. Closing twice is no error; a poisoned node can be closed.
///
/// Parameters: node; timeout_ms - how long to wait for the end of the sessions to be recorded, or TENURE_FOREVER; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_TIMEOUT, the node is closed all the same, and what it held runs out by itself;
/// #TENURE_WOULD_DEADLOCK in a callback; #TENURE_FORKED; #TENURE_BAD_HANDLE.
/// Memory: the handle stays until tenure_node_free(). Threads: any; waits. With `delivery` = `fd` it runs callbacks. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_node_close(node: tenure_node, timeout_ms: u64, err: *mut tenure_error) -> i32 {
    guard_clone(node.id, err, |n: NodeObject| {
        log::check_may_wait()?;
        let ended = n.node.close(Duration::from_millis(timeout_ms));
        if !matches!(&ended, Err(e) if e.status() == Status::WouldDeadlock) {
            n.shared.closed.store(true, SeqCst);
        }
        ended
    })
}

/// Frees the handle, and that of the node's own session. A node that was not closed is closed by a thread of the library,
/// which nobody waits for: its locks are freed, or run out.
///
/// Parameters: node - also 0, also one that was freed already. Other threads may be inside calls on it.
/// Returns: nothing. Threads: any, also in callbacks; never waits. In a forked child it does nothing. Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn tenure_node_free(node: tenure_node) {
    guard_or((), || {
        let Ok(object) = table::pin::<NodeObject>(node.id).map(|n| n.clone()) else {
            table::remove::<NodeObject>(node.id);
            return;
        };
        table::remove::<NodeObject>(node.id);
        table::remove::<SessionObject>(object.shared.session);
        if !object.shared.closed.load(SeqCst) {
            // Without a thread to be had, the drop waits here.
            let _ = process::spawn("tenure-free", move || drop(object));
        }
    });
}

/// The host is alive, for all gates of the node: as tenure_gate_beat().
///
/// Parameters: node; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_BAD_HANDLE; #TENURE_FORKED. Threads: any, also in callbacks; never waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_node_beat(node: tenure_node, err: *mut tenure_error) -> i32 {
    guard_on(node.id, err, |n: &NodeObject| {
        n.node.beat();
        Ok(())
    })
}

/// The node's own session, under which it holds its locks: its name is the node's id.
///
/// Parameters: node; out_session - where the handle goes, the same at each call; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: the handle is the node's and goes with it; freeing it does nothing. Threads: any, also in callbacks. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_node_session(node: tenure_node, out_session: *mut tenure_session, err: *mut tenure_error) -> i32 {
    guard_on(node.id, err, |n: &NodeObject| {
        let out = Out::required(out_session, "out_session")?;
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(tenure_session { id: n.shared.session }) };
        Ok(())
    })
}

/// The node's id: the setting `node_id`, or the one that it gave itself.
///
/// Parameters: node; buf, len - the buffer; out_needed - the size needed, with the NUL; at most 65; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE;
/// #TENURE_FORKED. Memory: the caller's. Threads: any, also in callbacks. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_node_id(
    node: tenure_node,
    buf: *mut c_char,
    len: usize,
    out_needed: *mut usize,
    err: *mut tenure_error,
) -> i32 {
    guard_on(node.id, err, |n: &NodeObject| {
        let out = TextOut::new(buf, len, out_needed)?;
        // SAFETY: the header asks for a writable buffer.
        unsafe { out.put(n.node.id().as_str().as_bytes()) }
    })
}

/// The node's state as JSON: `{"version", "node_id", "form", "state", "weaker_modes", ..., "gates": [...]}`. It may grow between the two
/// calls that find the size and fetch the text: go on until it fits.
///
/// Parameters: node; buf, len - the buffer; out_needed - the size needed, with the NUL; err - or NULL.
/// Returns: #TENURE_OK, also of a node that is closed or poisoned; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written;
/// #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: the caller's. Threads: any, also in callbacks. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_node_status(
    node: tenure_node,
    buf: *mut c_char,
    len: usize,
    out_needed: *mut usize,
    err: *mut tenure_error,
) -> i32 {
    guard_on(node.id, err, |n: &NodeObject| {
        let out = TextOut::new(buf, len, out_needed)?;
        let text = json(&n.node.status())?;
        // SAFETY: the header asks for a writable buffer.
        unsafe { out.put(&text) }
    })
}

/// The locks whose names begin with a prefix, by name, as JSON:
/// `[{"key", "holders": [{"node", "session", "token", "mode", "remaining_ms", "held_ms", "waiters", "metadata"}]}]`.
/// In keys and metadata, bytes that are not printable ASCII are written `\xNN`, a backslash is doubled.
///
/// Parameters: node; prefix - at most 1024 bytes, may be empty; limit - most locks to list, 1 to 1048576; buf, len - the buffer;
/// out_needed - the size needed, with the NUL; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED;
/// #TENURE_POISONED; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: the caller's. Threads: any, also in callbacks. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_node_locks(
    node: tenure_node,
    prefix: tenure_bytes,
    limit: usize,
    buf: *mut c_char,
    len: usize,
    out_needed: *mut usize,
    err: *mut tenure_error,
) -> i32 {
    guard_on(node.id, err, |n: &NodeObject| {
        let out = TextOut::new(buf, len, out_needed)?;
        // SAFETY: the header asks for readable bytes.
        let prefix = unsafe { bytes(prefix, "prefix", crate::base::key::KEY_MAX)? };
        if !(1..=LISTING_MAX).contains(&limit) {
            return Err(Error::invalid("limit", format_args!("{limit} is not in 1..={LISTING_MAX}")));
        }
        let rows: Vec<_> = n.node.locks(prefix, limit)?.iter().map(lock_json).collect();
        let text = json(&rows)?;
        // SAFETY: the header asks for a writable buffer.
        unsafe { out.put(&text) }
    })
}

/// A descriptor that is readable while callbacks wait for tenure_node_dispatch(), for a host with an event loop.
///
/// Parameters: node - opened with `delivery` = `fd`; out_fd - where it goes, 3 or above; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_MISUSE for another `delivery`; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: the descriptor is the library's: wait for it, do not read or close it. It is gone after tenure_node_free().
/// Threads: any, also in callbacks. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_node_event_fd(node: tenure_node, out_fd: *mut c_int, err: *mut tenure_error) -> i32 {
    guard_on(node.id, err, |n: &NodeObject| {
        let out = Out::required(out_fd, "out_fd")?;
        let fd = n.node.event_fd()?;
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(fd) };
        Ok(())
    })
}

/// Runs callbacks that are due, on the calling thread.
///
/// Parameters: node - opened with `delivery` = `fd`; max - most callbacks to run; out_done - how many were run, or NULL; err - or NULL.
/// Returns: #TENURE_OK, also when none was due; #TENURE_MISUSE for another `delivery`; #TENURE_WOULD_DEADLOCK in a callback;
/// #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Threads: any; does not wait. Two threads may dispatch at once, and callbacks then run at once. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_node_dispatch(node: tenure_node, max: usize, out_done: *mut usize, err: *mut tenure_error) -> i32 {
    guard_clone(node.id, err, |n: NodeObject| {
        let out = Out::optional(out_done, "out_done")?;
        log::check_may_wait()?;
        let done = n.node.dispatch(max)?;
        // SAFETY: the header asks for a writable place or NULL.
        unsafe { out.set(done) };
        Ok(())
    })
}

pub(super) fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::new(Status::Internal, format!("writing JSON: {e}")))
}

fn lock_json(lock: &LockInfo) -> serde_json::Value {
    let holders: Vec<_> = lock.holders.iter().map(holder_json).collect();
    serde_json::json!({ "key": lock.key.as_bytes().escape_ascii().to_string(), "holders": holders })
}

pub(super) fn mode_text(mode: LockMode) -> String {
    match mode {
        LockMode::Exclusive => "exclusive".to_owned(),
        LockMode::Shared => "shared".to_owned(),
        LockMode::Permits { count, limit } => format!("{count} of {limit} permits"),
    }
}

pub(super) fn holder_json(h: &Holder) -> serde_json::Value {
    serde_json::json!({
        "node": h.node,
        "session": h.session.0,
        "token": h.token.0,
        "mode": mode_text(h.mode),
        "remaining_ms": h.remaining.as_millis() as u64,
        "held_ms": h.held_for.as_millis() as u64,
        "waiters": h.waiters,
        "metadata": h.metadata.escape_ascii().to_string(),
    })
}
