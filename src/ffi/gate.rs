//! Write gates: everything but the hot path, which `tenure_gate.h` has inline.

use std::ffi::c_char;
use std::mem::offset_of;
use std::time::Duration;

use super::args::{Out, TextOut, reserved, sized, text};
use super::config::settings;
use super::guard::{guard_clone, guard_on, guard_or};
use super::log;
use super::node::{NodeObject, json};
use super::session::key;
use super::table::{self, Object};
use super::types::{
    TENURE_HEARTBEAT_NONCE, tenure_bytes, tenure_config, tenure_error, tenure_gate, tenure_heartbeat, tenure_heartbeat_reply, tenure_node,
};
use crate::base::{Error, Result};
use crate::gate::{Cell, Heartbeat, Mode, Refusal};
use crate::node::Gate;

/// Longest name of a gate or of a holder.
const NAME_MAX: usize = 256;
const NS_PER_MS: u64 = 1_000_000;

#[derive(Clone)]
pub(super) struct GateObject(Gate);

impl Object for GateObject {
    const TYPE: u8 = 4;
    const NAME: &'static str = "gate";
    fn poison(&self, why: &str) {
        self.0.poison_node(why);
    }
}

/// Opens a gate. It is closed until the first lease is granted, by tenure_gate_hold() or tenure_gate_heartbeat().
///
/// Parameters: node; name - 1 to 64 printable ASCII characters, the node's only gate of that name; config - `gate.*` settings that go before the
/// node's, or 0; out_gate - where the handle goes; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_MISUSE when a gate of that name is open; #TENURE_INVALID_ARGUMENT; #TENURE_LIMIT; #TENURE_IO; #TENURE_CLOSED;
/// #TENURE_POISONED; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: end it with tenure_gate_close(), free the handle with tenure_gate_free(). Threads: any; waits for the disk of a durable
/// node. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_gate_open(
    node: tenure_node,
    name: tenure_bytes,
    config: tenure_config,
    out_gate: *mut tenure_gate,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(node.id, err, |n: NodeObject| {
        let out = Out::required(out_gate, "out_gate")?;
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        let name = unsafe { text(name, "name", NAME_MAX)? };
        let gate = n.node.gate(name, &settings(config)?)?;
        let object = GateObject(gate);
        let id = table::insert(object.clone()).inspect_err(|_| drop(object.0.close()))?;
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(tenure_gate { id }) };
        Ok(())
    })
}

/// What the inline functions of tenure_gate.h work on. Ask once, and keep the pointer beside the handle.
///
/// Parameters: gate; out_cell - where the pointer goes; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: the library's; it stays readable for as long as the process lives, and reads as closed once the gate is closed and in a
/// forked child. Threads: any, also in callbacks. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_gate_cell_of(gate: tenure_gate, out_cell: *mut *const Cell, err: *mut tenure_error) -> i32 {
    guard_on(gate.id, err, |g: &GateObject| {
        let out = Out::required(out_cell, "out_cell")?;
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(g.0.cell().as_ptr()) };
        Ok(())
    })
}

/// What a closed gate does: "disabled", "log-only" or "block-write".
///
/// Parameters: gate; out_mode - where the word goes; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: static, not to be freed. Threads: any, also in callbacks. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_gate_mode(gate: tenure_gate, out_mode: *mut *const c_char, err: *mut tenure_error) -> i32 {
    guard_on(gate.id, err, |g: &GateObject| {
        let out = Out::required(out_mode, "out_mode")?;
        let word = match g.0.mode() {
            Mode::Disabled => c"disabled",
            Mode::LogOnly => c"log-only",
            Mode::Block => c"block-write",
        };
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(word.as_ptr()) };
        Ok(())
    })
}

/// Changes what a closed gate does, at once. "disabled" and "log-only" let every write pass and are shown as weaker modes.
///
/// Parameters: gate; mode - one of the words of tenure_gate_mode(); err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: nothing is kept. Threads: any, also in callbacks. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_gate_set_mode(gate: tenure_gate, mode: tenure_bytes, err: *mut tenure_error) -> i32 {
    guard_on(gate.id, err, |g: &GateObject| {
        // SAFETY: the header asks for readable bytes.
        let word = unsafe { text(mode, "mode", NAME_MAX)? };
        g.0.set_mode(word.parse()?)
    })
}

/// Takes a lease that a controller has pushed. Takes no lock that a writer could hold up, and waits for nobody.
///
/// A heartbeat that is well-formed and not stale is answered with #TENURE_OK whether it renewed or not: see `accepted` of the reply.
///
/// Parameters: gate; heartbeat - start from TENURE_HEARTBEAT_INIT; out_reply - start from TENURE_HEARTBEAT_REPLY_INIT; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_FENCED when its epoch is below the highest seen, which is err->token: the lease is as it was;
/// #TENURE_INVALID_ARGUMENT for a ttl or a step of the epoch out of bounds; #TENURE_IO when a new epoch cannot be made durable, then it
/// does not count; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: nothing is kept. Threads: any, also in callbacks; waits for the disk of a durable node when the epoch is new. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_gate_heartbeat(
    gate: tenure_gate,
    heartbeat: *const tenure_heartbeat,
    out_reply: *mut tenure_heartbeat_reply,
    err: *mut tenure_error,
) -> i32 {
    const FIRST_VERSION: usize = offset_of!(tenure_heartbeat, reserved) + size_of::<[u64; 4]>();
    const EMPTY: tenure_heartbeat = tenure_heartbeat { struct_size: 0, flags: 0, epoch: 0, ttl_ms: 0, nonce: 0, reserved: [0; 4] };
    guard_on(gate.id, err, |g: &GateObject| {
        if heartbeat.is_null() {
            return Err(Error::invalid("heartbeat", "is NULL"));
        }
        // SAFETY: the header asks for a writable struct of the size that it says.
        let reply = unsafe { SizedReply::new(out_reply)? };
        // SAFETY: not NULL; the header asks for a readable struct of the size that it says.
        let h = unsafe { sized(heartbeat, "heartbeat", FIRST_VERSION, EMPTY)? };
        if h.flags & !TENURE_HEARTBEAT_NONCE != 0 {
            return Err(Error::invalid("heartbeat.flags", format_args!("{:#x} has unknown bits", h.flags)));
        }
        reserved("heartbeat", &h.reserved)?;
        let nonce = (h.flags & TENURE_HEARTBEAT_NONCE != 0).then_some(h.nonce);
        let answer = g.0.heartbeat(&Heartbeat { epoch: h.epoch, ttl_ns: h.ttl_ms.saturating_mul(NS_PER_MS), nonce })?;
        // SAFETY: checked above.
        unsafe {
            reply.set(tenure_heartbeat_reply {
                struct_size: 0,
                accepted: i32::from(answer.grant.accepted),
                epoch: answer.grant.epoch,
                remaining_ms: answer.grant.remaining_ns / NS_PER_MS,
                next_nonce: answer.next_nonce,
                reason: reason_text(answer.grant.refusal),
            });
        }
        Ok(())
    })
}

/// A size-prefixed struct to be filled in: the caller's size bounds what is written.
struct SizedReply {
    place: *mut tenure_heartbeat_reply,
    size: usize,
}

impl SizedReply {
    /// # Safety
    /// `place` must be NULL or point to at least as many writable bytes as its first field says.
    unsafe fn new(place: *mut tenure_heartbeat_reply) -> Result<SizedReply> {
        if place.is_null() || !place.is_aligned() {
            return Err(Error::invalid("out_reply", "is NULL or misaligned"));
        }
        // SAFETY: the caller's promise.
        let size = unsafe { place.cast::<u32>().read() } as usize;
        let first_version = offset_of!(tenure_heartbeat_reply, reason) + size_of::<*const c_char>();
        if size < first_version || size > 4096 {
            return Err(Error::invalid("out_reply", format_args!("struct_size {size} is not in {first_version}..=4096")));
        }
        Ok(SizedReply { place, size })
    }

    /// # Safety
    /// As for the construction.
    unsafe fn set(self, mut value: tenure_heartbeat_reply) {
        let known = self.size.min(size_of::<tenure_heartbeat_reply>());
        value.struct_size = known as u32;
        // SAFETY: the caller's promise; both sides have `known` bytes.
        unsafe { std::ptr::copy_nonoverlapping((&raw const value).cast::<u8>(), self.place.cast::<u8>(), known) };
    }
}

/// The host is alive: see the setting `gate.beat_timeout_ms`. To be called from where the host would be stuck if it were, such as its main
/// loop.
///
/// Parameters: gate; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_BAD_HANDLE; #TENURE_FORKED. Threads: any, also in callbacks; never waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_gate_beat(gate: tenure_gate, err: *mut tenure_error) -> i32 {
    guard_on(gate.id, err, |g: &GateObject| {
        g.0.beat();
        Ok(())
    })
}

/// A nonce for the controller's next heartbeat, whose lease will count from now. For a controller that asks before it sends; each reply to a
/// heartbeat brings one too.
///
/// Parameters: gate; out_nonce - where it goes; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Threads: any, also in callbacks. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_gate_next_nonce(gate: tenure_gate, out_nonce: *mut u64, err: *mut tenure_error) -> i32 {
    guard_on(gate.id, err, |g: &GateObject| {
        let out = Out::required(out_nonce, "out_nonce")?;
        let nonce = g.0.next_nonce()?;
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(nonce) };
        Ok(())
    })
}

/// Reports an epoch that was seen elsewhere: in a record from another node, in the cluster's topology. A higher one that names another
/// node closes the gate at once.
///
/// Parameters: gate; epoch; holder - the node whose it is, 1 to 64 printable ASCII characters; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT, also for too large a step; #TENURE_IO; #TENURE_CLOSED; #TENURE_POISONED;
/// #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: nothing of the caller's is kept. Threads: any, also in callbacks; waits for the disk of a durable node when the epoch is new. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_gate_observe(gate: tenure_gate, epoch: u64, holder: tenure_bytes, err: *mut tenure_error) -> i32 {
    guard_on(gate.id, err, |g: &GateObject| {
        // SAFETY: the header asks for readable bytes.
        let holder = unsafe { text(holder, "holder", NAME_MAX)? };
        g.0.observe(epoch, holder)
    })
}

/// Drops the lease, for a node that has become a replica. The epochs seen are remembered.
///
/// Parameters: gate; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Threads: any, also in callbacks. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_gate_reset(gate: tenure_gate, err: *mut tenure_error) -> i32 {
    guard_on(gate.id, err, |g: &GateObject| g.0.reset())
}

/// Has the gate stand on a lock that the library takes in the node's own session and renews: while it is held the gate is open, and the
/// grant's fencing token is the epoch. The library goes on trying to get the lock until tenure_gate_resign(), reset or close.
///
/// Parameters: gate; key - the office's lock, 1 to 1024 bytes; ttl_ms - 100 to 86400000; err - or NULL.
/// Returns: #TENURE_OK, the gate opens when the lock is granted; #TENURE_MISUSE when it holds an office already; #TENURE_INVALID_ARGUMENT;
/// #TENURE_CLOSED; #TENURE_POISONED; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: the key is copied. Threads: any, also in callbacks; never waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_gate_hold(gate: tenure_gate, key: tenure_bytes, ttl_ms: u64, err: *mut tenure_error) -> i32 {
    guard_on(gate.id, err, |g: &GateObject| {
        // SAFETY: the header asks for readable bytes.
        let key = unsafe { self::key(key)? };
        g.0.hold(key, Duration::from_millis(ttl_ms))
    })
}

/// Lets in no more writes and waits until none is in flight. After #TENURE_OK no permit of the old epoch lives.
///
/// Parameters: gate; timeout_ms - how long to wait; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_TIMEOUT, writes are still in flight, and no more are let in; #TENURE_WOULD_DEADLOCK in a callback;
/// #TENURE_CLOSED; #TENURE_POISONED; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Threads: any, but one that holds no permit of this gate; waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_gate_drain(gate: tenure_gate, timeout_ms: u64, err: *mut tenure_error) -> i32 {
    guard_clone(gate.id, err, |g: GateObject| {
        log::check_may_wait()?;
        g.0.drain(Duration::from_millis(timeout_ms))
    })
}

/// Ends a drain that timed out or that is not wanted any more: writes are let in again for what is left of the lease.
///
/// Parameters: gate; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_MISUSE when no drain is under way; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Threads: any, also in callbacks. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_gate_cancel_drain(gate: tenure_gate, err: *mut tenure_error) -> i32 {
    guard_on(gate.id, err, |g: &GateObject| g.0.cancel_drain())
}

/// Drains the gate and then gives up the office that tenure_gate_hold() took: the next holder need not wait for the lease to end.
///
/// Parameters: gate; timeout_ms - how long to wait; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_MISUSE without tenure_gate_hold(); #TENURE_TIMEOUT, the office is not given up; otherwise as tenure_gate_drain().
/// Threads: any, but one that holds no permit of this gate; waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_gate_resign(gate: tenure_gate, timeout_ms: u64, err: *mut tenure_error) -> i32 {
    guard_clone(gate.id, err, |g: GateObject| {
        log::check_may_wait()?;
        g.0.resign(Duration::from_millis(timeout_ms))
    })
}

/// As tenure_gate_resign(), but the successor is the node (or session) of this name, which must be campaigning for the same office; those
/// who came before it go on waiting.
///
/// Parameters: gate; to - the name; timeout_ms - how long to wait; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_UNAVAILABLE when nobody of that name is waiting: nothing was drained, or, when it left during the drain,
/// the office was given back; #TENURE_INVALID_ARGUMENT for the name; otherwise as tenure_gate_resign().
/// Threads: any, but one that holds no permit of this gate; waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_gate_resign_to(gate: tenure_gate, to: tenure_bytes, timeout_ms: u64, err: *mut tenure_error) -> i32 {
    guard_clone(gate.id, err, |g: GateObject| {
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        let to = unsafe { text(to, "to", NAME_MAX)? };
        g.0.resign_to(to, Duration::from_millis(timeout_ms))
    })
}

/// The gate's state and counts as JSON: `{"name", "mode", "phase", "reason", "epoch", "remaining_ms", ...}`. It may grow between two calls:
/// go on until it fits.
///
/// Parameters: gate; buf, len - the buffer; out_needed - the size needed, with the NUL; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE;
/// #TENURE_FORKED. Memory: the caller's. Threads: any, also in callbacks. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_gate_status(
    gate: tenure_gate,
    buf: *mut c_char,
    len: usize,
    out_needed: *mut usize,
    err: *mut tenure_error,
) -> i32 {
    guard_on(gate.id, err, |g: &GateObject| {
        let out = TextOut::new(buf, len, out_needed)?;
        let text = json(&g.0.status())?;
        // SAFETY: the header asks for a writable buffer.
        unsafe { out.put(&text) }
    })
}

/// Closes the gate for good, without waiting for writes in flight: they finish as uncertain. An office is given up when nothing is in flight, and
/// runs out otherwise. Closing twice is no error.
///
/// Parameters: gate; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: the handle stays until tenure_gate_free(). Threads: any, also in callbacks. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_gate_close(gate: tenure_gate, err: *mut tenure_error) -> i32 {
    guard_on(gate.id, err, |g: &GateObject| g.0.close())
}

/// Frees the handle. A gate that was not closed is closed first.
///
/// Parameters: gate - also 0, also one that was freed already. Other threads may be inside calls on it, and writes may be in flight.
/// Returns: nothing. Threads: any, also in callbacks. In a forked child it does nothing. Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn tenure_gate_free(gate: tenure_gate) {
    guard_or((), || {
        if let Ok(object) = table::pin::<GateObject>(gate.id).map(|g| g.clone()) {
            // A gate of a node that is closed, or poisoned, is closed.
            let _ = object.0.close();
        }
        table::remove::<GateObject>(gate.id);
    });
}

/// Why a heartbeat did not renew, as C has it.
fn reason_text(reason: Option<Refusal>) -> *const c_char {
    let word = match reason {
        None => c"",
        Some(Refusal::NoNonce) => c"no_nonce",
        Some(Refusal::UnknownNonce) => c"unknown_nonce",
        Some(Refusal::Expired) => c"expired",
        Some(Refusal::Draining) => c"draining",
        Some(Refusal::HostSilent) => c"host_silent",
    };
    word.as_ptr()
}
