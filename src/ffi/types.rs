//! The plain data of the C interface. cbindgen puts these into `tenure.h` as they stand.

use std::ffi::{c_char, c_void};

/// Bytes that the caller lends for the duration of the call: a key, a name, a text. `{NULL, 0}` is the empty one. Text is UTF-8
/// and need not end in a NUL.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tenure_bytes {
    /// First byte; may be NULL only when `len` is 0.
    pub ptr: *const c_void,
    /// Number of bytes.
    pub len: usize,
}

/// What went wrong, in the caller's own memory: there is nothing to free, and no other call changes it. It need not be
/// initialised. Every call that takes one accepts NULL. After success `status` is #TENURE_OK and `message` is empty.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tenure_error {
    /// 256, written by the library. This struct never changes.
    pub struct_size: u32,
    /// The same status as the call returned.
    pub status: i32,
    /// What holds for it: TENURE_IS_RETRIABLE, TENURE_IS_MAYBE_APPLIED, TENURE_IS_FATAL.
    pub flags: u32,
    /// errno of the system call that failed, or 0.
    pub os_errno: i32,
    /// The fencing token or epoch that it is about, for example the holder's with #TENURE_HELD; or 0.
    pub token: u64,
    /// After how long the same call can succeed, in ms, where that is known (#TENURE_TOO_EARLY); or 0.
    pub retry_after_ms: u64,
    /// 0.
    pub reserved: u64,
    /// One sentence that names the argument, file, key or limit concerned. Always ends in a NUL, cut at a whole character.
    pub message: [c_char; 216],
}

/// A set of settings, see docs/configuration.md. 0 names none. Only one thread at a time may fill one in.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tenure_config {
    /// Opaque.
    pub id: u64,
}

/// A node: in memory, or with a data directory durable. 0 names none. Any thread may use it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tenure_node {
    /// Opaque.
    pub id: u64,
}

/// A session: an identity that holds locks and loses them all when it is not renewed. 0 names none. Any thread may use it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tenure_session {
    /// Opaque.
    pub id: u64,
}

/// A write gate. 0 names none. Any thread may use it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tenure_gate {
    /// Opaque.
    pub id: u64,
}

/// Epochs at a resource, in a file. 0 names none. Any thread may use it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tenure_epoch_fence {
    /// Opaque.
    pub id: u64,
}

/// A write that an epoch fence has let in. 0 names none. Any thread may free it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tenure_epoch_pass {
    /// Opaque.
    pub id: u64,
}

/// The highest epoch at a resource, with a checksum, to be stored as it is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tenure_epoch_record {
    /// Opaque; the same on every machine.
    pub bytes: [u8; 24],
}

/// A granter of offices. 0 names none. Any thread may use it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tenure_granter {
    /// Opaque.
    pub id: u64,
}

/// How a lock is shared.
#[repr(i32)]
pub enum tenure_lock_mode {
    /// One holder.
    Exclusive = 0,
    /// Any number of shared holders, or one exclusive one.
    Shared = 1,
    /// A semaphore: a grant takes `permits` of `permits_limit`. All users of one name state the same limit.
    Permits = 2,
}

/// The session may take the lock again while it holds it; each grant has a token of its own.
pub const TENURE_LOCK_REENTRANT: u32 = 1;
/// The caller renews the grant: it ends `ttl_ms` after it was given or last renewed. Otherwise the library renews it for as long
/// as the process runs.
pub const TENURE_LOCK_MANUAL: u32 = 2;

/// What is asked of a lock. Start from TENURE_LOCK_OPTS_INIT; a NULL pointer stands for it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tenure_lock_opts {
    /// sizeof(tenure_lock_opts) of the header that the caller was compiled with.
    pub struct_size: u32,
    /// TENURE_LOCK_REENTRANT, TENURE_LOCK_MANUAL. Others are refused.
    pub flags: u32,
    /// A #tenure_lock_mode.
    pub mode: i32,
    /// Permits taken, at least 1. For #TENURE_LOCK_MODE_PERMITS only.
    pub permits: u32,
    /// Permits there are in all. For #TENURE_LOCK_MODE_PERMITS only.
    pub permits_limit: u32,
    /// 0.
    pub reserved0: u32,
    /// How long the grant outlives its last renewal, in ms: 100 to 86400000.
    pub ttl_ms: u64,
    /// How long nobody else is granted the lock after this grant was lost (not: released), in ms: at most 3600000.
    pub lock_delay_ms: u64,
    /// Shown to whoever asks for the holder; at most 1024 bytes.
    pub metadata: tenure_bytes,
    /// 0.
    pub reserved: [u64; 4],
}

/// Wait for ever: a timeout.
pub const TENURE_FOREVER: u64 = u64::MAX;

/// The end of an operation that was started with a callback.
///
/// Called exactly once, never inside the call that started the operation, with no lock of the library held: on the library's
/// delivery thread, or inside tenure_node_dispatch() and tenure_node_close() when the node's `delivery` is `fd`. `token` is 0
/// unless a lock was granted. `err` is never NULL and valid only until the callback returns. It may call anything that does
/// not wait; what waits, closes or dispatches answers #TENURE_WOULD_DEADLOCK in it. It must not throw, longjmp or end its thread.
pub type tenure_done = Option<unsafe extern "C" fn(user: *mut c_void, status: i32, token: u64, err: *const tenure_error)>;

/// What an event tells.
#[repr(i32)]
pub enum tenure_event_kind {
    /// A grant will be lost soon unless a renewal succeeds: key, token, session, remaining_ms.
    AtRisk = 1,
    /// A grant is lost: key, token, session; text says why. Told once for each grant.
    Lost = 2,
    /// A gate changed: name is the gate's, text says what happened (granted, at_risk, lost, drained, ...), token is the epoch.
    Gate = 3,
    /// The node is poisoned, text says why. Every call but status, close and free answers #TENURE_POISONED.
    Poisoned = 4,
    /// The holder of a grant is asked to give it back: key, token, session; name says who asks, text why; remaining_ms is how long until it
    /// is taken away, TENURE_FOREVER if never.
    RevokeRequested = 5,
    /// A watched lock is held: key, token, session; name is that of the first holder's session, text its metadata.
    Held = 6,
    /// A watched lock is free, or in its lock-delay: key.
    Freed = 7,
}

/// The name given to tenure_node_watch() is the beginning of names.
pub const TENURE_WATCH_PREFIX: u32 = 1;

/// An event. The library's memory: valid, with all that it points to, until the callback returns.
#[repr(C)]
pub struct tenure_event {
    /// Size of this struct in the library; fields beyond it do not exist.
    pub struct_size: u32,
    /// A #tenure_event_kind; ignore those you do not know.
    pub kind: i32,
    /// The session's number, or 0.
    pub session: u64,
    /// A fencing token or an epoch, or 0.
    pub token: u64,
    /// What is left, in ms, or 0.
    pub remaining_ms: u64,
    /// The lock, or empty.
    pub key: tenure_bytes,
    /// Name of the gate or the session, or empty.
    pub name: tenure_bytes,
    /// What happened, as a word or a sentence, or empty.
    pub text: tenure_bytes,
}

/// Receives events. Same rules as #tenure_done, except that it is called any number of times.
pub type tenure_event_fn = Option<unsafe extern "C" fn(user: *mut c_void, event: *const tenure_event)>;

/// The heartbeat carries a nonce.
pub const TENURE_HEARTBEAT_NONCE: u32 = 1;

/// A lease that a controller pushes. Start from TENURE_HEARTBEAT_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tenure_heartbeat {
    /// sizeof(tenure_heartbeat) of the header that the caller was compiled with.
    pub struct_size: u32,
    /// TENURE_HEARTBEAT_NONCE, or 0. Others are refused.
    pub flags: u32,
    /// The election's version.
    pub epoch: u64,
    /// Length of the lease in ms, counted from the issue of the nonce; without one, under the weaker mode `gate.trust_receipt`, from now.
    pub ttl_ms: u64,
    /// A nonce of this gate's, with TENURE_HEARTBEAT_NONCE.
    pub nonce: u64,
    /// 0.
    pub reserved: [u64; 4],
}

/// The answer to a heartbeat. Start from TENURE_HEARTBEAT_REPLY_INIT: `struct_size` says how much may be written.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tenure_heartbeat_reply {
    /// Given: sizeof(tenure_heartbeat_reply). Returned: how much of it was written.
    pub struct_size: u32,
    /// 1 when the lease was granted or renewed, else 0.
    pub accepted: i32,
    /// The lease's epoch, or the highest one known where there is no lease.
    pub epoch: u64,
    /// Until the lease ends, in ms; 0 for none.
    pub remaining_ms: u64,
    /// To be sent with the next heartbeat, whose lease will count from now.
    pub next_nonce: u64,
    /// Why it was not accepted, as a word: "no_nonce", "unknown_nonce", "expired", "draining"; otherwise "". Static, never NULL.
    pub reason: *const c_char,
}

/// How much is logged. Each level holds those before it.
#[repr(i32)]
pub enum tenure_log_level {
    /// Nothing.
    Off = 0,
    /// Failures that somebody has to look at.
    Error = 1,
    /// What may become one.
    Warn = 2,
    /// Changes of state.
    Info = 3,
    /// What helps to find a fault.
    Debug = 4,
    /// Everything.
    Trace = 5,
}

/// Receives log lines, one at a time, on a thread of the library's own that holds no lock. `target` names the part of the
/// library, `message` has no line end; both are valid until the callback returns. It may take its time: lines are dropped, and
/// the number of those dropped is logged, when more than 1024 wait. Same rules as #tenure_done otherwise.
pub type tenure_log_fn = Option<unsafe extern "C" fn(user: *mut c_void, level: i32, target: tenure_bytes, message: tenure_bytes)>;
