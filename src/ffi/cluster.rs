//! Clusters: who belongs to one, who leads, who comes and goes.

use std::ffi::c_char;
use std::time::Duration;

use super::args::{TextOut, text};
use super::guard::guard_clone;
use super::log;
use super::node::{NodeObject, json};
use super::types::{tenure_bytes, tenure_error, tenure_node};
use crate::base::ids::NODE_ID_MAX;

/// Characters of a join token.
const TOKEN_TEXT: usize = 64;

/// Waits until a node can be used: for a member of a cluster, until a majority is there and the node's session is open. Any other node
/// can be used from its opening on.
///
/// Parameters: node; timeout_ms - how long to wait; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_TIMEOUT; #TENURE_POISONED when the cluster has refused this node, the message says why; #TENURE_CLOSED;
/// #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED. Threads: any; waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_node_wait_ready(node: tenure_node, timeout_ms: u64, err: *mut tenure_error) -> i32 {
    guard_clone(node.id, err, |n: NodeObject| {
        log::check_may_wait()?;
        n.node.wait_ready(Duration::from_millis(timeout_ms))
    })
}

/// The members of the cluster as this node knows them, as JSON: `[{"name", "address", "voter", "leader", "log_end"}]`, empty until it has
/// heard of the cluster; `log_end` is null except on the leader.
///
/// Parameters: node; buf, len - the buffer; out_needed - the size needed, with the NUL; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_MISUSE for a node that is no member of a cluster;
/// #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: the caller's. Threads: any. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_node_members(
    node: tenure_node,
    buf: *mut c_char,
    len: usize,
    out_needed: *mut usize,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(node.id, err, |n: NodeObject| {
        let out = TextOut::new(buf, len, out_needed)?;
        let members = json(&n.node.members()?)?;
        // SAFETY: the header asks for a writable buffer.
        unsafe { out.put(&members) }
    })
}

/// Hands the leadership of the cluster to a member, and waits until the leader has given it away.
///
/// Parameters: node - any member; to - the member's node id, or empty for the one that is furthest; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT when there is no such voter; #TENURE_UNAVAILABLE; #TENURE_MISUSE for a node that is neither
/// member nor client of a cluster; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Threads: any; waits for the leader. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_node_transfer_leader(node: tenure_node, to: tenure_bytes, err: *mut tenure_error) -> i32 {
    guard_clone(node.id, err, |n: NodeObject| {
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        let to = unsafe { text(to, "to", NODE_ID_MAX)? };
        n.node.transfer_leader(Some(to).filter(|name| !name.is_empty()))
    })
}

/// Takes a member out of the cluster for good: its data directory is refused from then on, and it is told so. Its name may be used by a
/// node with an empty directory.
///
/// Parameters: node - any member; name - the node id of the one to remove; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT when there is no such member; #TENURE_UNAVAILABLE, asking again changes nothing that
/// has been done; #TENURE_MISUSE for the last voter, and for a node that is no member of a cluster; #TENURE_CLOSED;
/// #TENURE_POISONED; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED. Threads: any; waits for the leader. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_node_remove_member(node: tenure_node, name: tenure_bytes, err: *mut tenure_error) -> i32 {
    guard_clone(node.id, err, |n: NodeObject| {
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        let name = unsafe { text(name, "name", NODE_ID_MAX)? };
        n.node.remove_member(name)
    })
}

/// Makes a token by which one node can join the cluster, once: its setting `join_token`. The cluster keeps a digest of it only.
///
/// Parameters: node - any member; node_id - who may join by it; ttl_ms - how long it is good by the cluster's clock, 1000 to 604800000;
/// buf, len - the buffer, of 65 bytes at least: with less no token is made; out_needed - 65; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_INVALID_ARGUMENT; #TENURE_LIMIT when too many are
/// good at once; #TENURE_UNAVAILABLE; #TENURE_MISUSE for a node that is no member of a cluster; #TENURE_CLOSED; #TENURE_POISONED;
/// #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: the caller's. Threads: any; waits for the leader. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_node_join_token(
    node: tenure_node,
    node_id: tenure_bytes,
    ttl_ms: u64,
    buf: *mut c_char,
    len: usize,
    out_needed: *mut usize,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(node.id, err, |n: NodeObject| {
        log::check_may_wait()?;
        let out = TextOut::new(buf, len, out_needed)?;
        // SAFETY: the header asks for readable bytes.
        let name = unsafe { text(node_id, "node_id", NODE_ID_MAX)? };
        if len <= TOKEN_TEXT {
            // SAFETY: the header asks for a writable buffer; this one is too small, so only the size is written.
            return unsafe { out.put(&[b'0'; TOKEN_TEXT]) };
        }
        let token = n.node.join_token_create(name, Duration::from_millis(ttl_ms))?;
        // SAFETY: the header asks for a writable buffer.
        unsafe { out.put(token.as_bytes()) }
    })
}
