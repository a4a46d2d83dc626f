//! The granter's side of an office.

use std::ffi::c_char;
use std::time::Duration;

use super::args::{Out, TextOut, text, timeout};
use super::guard::{guard_clone, guard_on, guard_or};
use super::log;
use super::node::{NodeObject, json};
use super::session::key;
use super::table::{self, Object};
use super::types::{TENURE_HEARTBEAT_NONCE, tenure_bytes, tenure_error, tenure_granter, tenure_heartbeat, tenure_node};
use crate::base::Result;
use crate::node::Granter;

/// Longest name of a holder that is looked at.
const NAME_MAX: usize = 256;
/// Most promises in one listing.
const LISTING_MAX: usize = 1 << 16;

#[derive(Clone)]
struct GranterObject(Granter);

impl Object for GranterObject {
    const TYPE: u8 = 22;
    const NAME: &'static str = "granter";
    fn poison(&self, why: &str) {
        self.0.poison_node(why);
    }
}

/// Makes this node the granter of offices: waits for a lock, and holds it, renewed by the library, until tenure_granter_resign(). It
/// grants for as long as it holds that lock; then its calls answer #TENURE_FENCED, and what it has promised binds the next granter.
///
/// Parameters: node; lock - the granter's lock, 1 to 1024 bytes; ttl_ms - of that lock, 100 to 86400000; timeout_ms - how long to wait for it, 0
/// for not at all, or TENURE_FOREVER; out_granter - where the handle goes; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_HELD without waiting, #TENURE_TIMEOUT; #TENURE_INVALID_ARGUMENT; #TENURE_UNAVAILABLE; #TENURE_LIMIT; #TENURE_CLOSED;
/// #TENURE_POISONED; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: end it with tenure_granter_resign(), free the handle with tenure_granter_free(). Threads: any; waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_granter_open(
    node: tenure_node,
    lock: tenure_bytes,
    ttl_ms: u64,
    timeout_ms: u64,
    out_granter: *mut tenure_granter,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(node.id, err, |n: NodeObject| {
        let out = Out::required(out_granter, "out_granter")?;
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        let lock = unsafe { key(lock)? };
        let object = GranterObject(n.node.granter(lock, Duration::from_millis(ttl_ms), timeout(timeout_ms))?);
        let id = table::insert(object.clone()).inspect_err(|_| object.0.resign_later())?;
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(tenure_granter { id }) };
        Ok(())
    })
}

/// The token of the granter's lock: of two granters the one with the higher term is the later one.
///
/// Parameters: granter; out_term - where it goes; out_in_office - whether it holds its lock still, in its own view, or NULL; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED. Threads: any, also in callbacks. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_granter_term(
    granter: tenure_granter,
    out_term: *mut u64,
    out_in_office: *mut bool,
    err: *mut tenure_error,
) -> i32 {
    guard_on(granter.id, err, |g: &GranterObject| {
        let term = Out::required(out_term, "out_term")?;
        let in_office = Out::optional(out_in_office, "out_in_office")?;
        // SAFETY: the header asks for writable places, or NULL for the second.
        unsafe {
            term.set(g.0.term().0);
            in_office.set(g.0.in_office());
        }
        Ok(())
    })
}

/// Gives an office to a holder, under a new epoch. The holder is told by its first tenure_granter_heartbeat(); until then nothing is
/// promised to it.
///
/// Parameters: granter; office - its name, 1 to 1024 bytes; holder - a node's name, 1 to 64 printable ASCII characters; epoch - to give, above the last;
/// or 0 for one above the last; out_epoch - where it goes; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_TOO_EARLY while the former holder may still act, err->retry_after_ms says for how long at most and err->token in
/// which epoch; #TENURE_FENCED when the granter has lost its lock; #TENURE_INVALID_ARGUMENT; #TENURE_LIMIT; #TENURE_UNAVAILABLE; #TENURE_CLOSED;
/// #TENURE_POISONED; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_granter_promote(
    granter: tenure_granter,
    office: tenure_bytes,
    holder: tenure_bytes,
    epoch: u64,
    out_epoch: *mut u64,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(granter.id, err, |g: GranterObject| {
        let out = Out::required(out_epoch, "out_epoch")?;
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        let (office, holder) = unsafe { (key(office)?, text(holder, "holder", NAME_MAX)?) };
        let given = g.0.promote(office, holder, (epoch != 0).then_some(epoch))?;
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(given) };
        Ok(())
    })
}

/// Records that the office's holder may act for another ttl, and says what to send to it.
///
/// Parameters: granter; office; ttl_ms - 100 to 86400000, counted by the holder from its nonce; nonce - the holder's, from tenure_gate_next_nonce() or
/// its last answer; NULL for none, which the setting granter_trust_receipt must allow; out_heartbeat - what to send; buf, len - where the holder's
/// name goes; out_needed - the size needed, with the NUL, at most 65; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_NOT_HOLDER when the office was given to nobody or its holder stepped down; #TENURE_BUFFER_TOO_SMALL: the promise is
/// recorded, only *out_needed is written; otherwise as tenure_granter_promote().
/// Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_granter_heartbeat(
    granter: tenure_granter,
    office: tenure_bytes,
    ttl_ms: u64,
    nonce: *const u64,
    out_heartbeat: *mut tenure_heartbeat,
    buf: *mut c_char,
    len: usize,
    out_needed: *mut usize,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(granter.id, err, |g: GranterObject| {
        let out = Out::required(out_heartbeat, "out_heartbeat")?;
        let holder = TextOut::new(buf, len, out_needed)?;
        // SAFETY: the header asks for a number or NULL.
        let nonce = unsafe { Out::optional(nonce.cast_mut(), "nonce")?.get() };
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        let order = g.0.heartbeat(unsafe { key(office)? }, Duration::from_millis(ttl_ms), nonce)?;
        // SAFETY: the header asks for writable places.
        unsafe {
            holder.put(order.holder.as_bytes())?;
            out.set(tenure_heartbeat {
                struct_size: size_of::<tenure_heartbeat>() as u32,
                flags: if nonce.is_some() { TENURE_HEARTBEAT_NONCE } else { 0 },
                epoch: order.epoch,
                ttl_ms,
                nonce: nonce.unwrap_or(0),
                reserved: [0; 4],
            });
        }
        Ok(())
    })
}

/// The holder has said that it acts no more in this epoch, as after tenure_gate_drain(): the office can be given to another at once.
///
/// Parameters: granter; office; epoch - that was ended; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_NOT_HOLDER when the office is in another epoch, which is err->token; otherwise as tenure_granter_promote().
/// Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_granter_acknowledge(
    granter: tenure_granter,
    office: tenure_bytes,
    epoch: u64,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(granter.id, err, |g: GranterObject| {
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        g.0.acknowledge(unsafe { key(office)? }, epoch)
    })
}

/// Gives the granter's lock back: another may take it at once. What was promised stands.
///
/// Parameters: granter; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_NOT_HOLDER when it was lost before; #TENURE_UNAVAILABLE; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_WOULD_DEADLOCK in a
/// callback; #TENURE_BAD_HANDLE; #TENURE_FORKED. Threads: any; waits for the disk, or the cluster. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_granter_resign(granter: tenure_granter, err: *mut tenure_error) -> i32 {
    guard_clone(granter.id, err, |g: GranterObject| {
        log::check_may_wait()?;
        g.0.resign()
    })
}

/// Frees the handle; the granter's lock is given back, if it was not, without waiting.
///
/// Parameters: granter - also 0, also one that was freed already. Other threads may be inside calls on it.
/// Returns: nothing. Threads: any, also in callbacks; never waits. In a forked child it does nothing. Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn tenure_granter_free(granter: tenure_granter) {
    guard_or((), || {
        if let Ok(object) = table::pin::<GranterObject>(granter.id).map(|g| g.clone()) {
            object.0.resign_later();
        }
        table::remove::<GranterObject>(granter.id);
    });
}

/// What granters have promised, as JSON: `[{"office", "epoch", "holder", "remaining_ms", "settled", "term"}, ...]`, by office. It may grow between
/// two calls: go on until it fits.
///
/// Parameters: node; prefix - offices whose names begin with it; limit - at most this many; buf, len - the buffer; out_needed - the size needed, with
/// the NUL; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_INVALID_ARGUMENT; #TENURE_UNAVAILABLE; #TENURE_CLOSED;
/// #TENURE_POISONED; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: the caller's. Threads: any; waits for the cluster. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_node_promises(
    node: tenure_node,
    prefix: tenure_bytes,
    limit: usize,
    buf: *mut c_char,
    len: usize,
    out_needed: *mut usize,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(node.id, err, |n: NodeObject| {
        let out = TextOut::new(buf, len, out_needed)?;
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        let prefix = unsafe { super::args::bytes(prefix, "prefix", crate::base::key::KEY_MAX)? };
        let listed: Result<Vec<u8>> = n.node.promises(prefix, limit.min(LISTING_MAX)).and_then(|p| json(&p));
        // SAFETY: the header asks for a writable buffer.
        unsafe { out.put(&listed?) }
    })
}
