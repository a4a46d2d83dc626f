//! What is asked of a lock, as C says it.

use std::mem::offset_of;
use std::time::Duration;

use super::args::{bytes, reserved, sized};
use super::types::{TENURE_LOCK_MANUAL, TENURE_LOCK_REENTRANT, tenure_bytes, tenure_lock_mode, tenure_lock_opts};
use crate::base::{Error, Result};
use crate::node::{LockMode, LockOptions, METADATA_MAX, Renew};

/// The smallest struct that a caller may pass: that of the first release, whole.
const FIRST_VERSION: usize = offset_of!(tenure_lock_opts, reserved) + size_of::<[u64; 4]>();

const EMPTY: tenure_lock_opts = tenure_lock_opts {
    struct_size: 0,
    flags: 0,
    mode: 0,
    permits: 0,
    permits_limit: 0,
    reserved0: 0,
    ttl_ms: 0,
    lock_delay_ms: 0,
    metadata: tenure_bytes { ptr: std::ptr::null(), len: 0 },
    reserved: [0; 4],
};

/// # Safety
/// `given` must be NULL or a readable struct of the size that it says.
#[inline(always)]
pub(super) unsafe fn lock_options(given: *const tenure_lock_opts) -> Result<LockOptions> {
    if given.is_null() {
        return Ok(LockOptions::default());
    }
    // SAFETY: the caller's promise.
    let o = unsafe { sized(given, "opts", FIRST_VERSION, EMPTY)? };
    if o.flags & !(TENURE_LOCK_REENTRANT | TENURE_LOCK_MANUAL) != 0 {
        return Err(unknown_flags(o.flags));
    }
    reserved("opts", &[u64::from(o.reserved0), o.reserved[0], o.reserved[1], o.reserved[2], o.reserved[3]])?;
    const EXCLUSIVE: i32 = tenure_lock_mode::Exclusive as i32;
    const SHARED: i32 = tenure_lock_mode::Shared as i32;
    const PERMITS: i32 = tenure_lock_mode::Permits as i32;
    let mode = match o.mode {
        EXCLUSIVE => LockMode::Exclusive,
        SHARED => LockMode::Shared,
        PERMITS => LockMode::Permits { count: o.permits, limit: o.permits_limit },
        other => return Err(unknown_mode(other)),
    };
    // SAFETY: the caller's promise holds for what the struct points to as well.
    let metadata = unsafe { bytes(o.metadata, "opts.metadata", METADATA_MAX)? };
    Ok(LockOptions {
        mode,
        ttl: Duration::from_millis(o.ttl_ms),
        renew: if o.flags & TENURE_LOCK_MANUAL == 0 { Renew::Auto } else { Renew::Manual },
        lock_delay: Duration::from_millis(o.lock_delay_ms),
        reentrant: o.flags & TENURE_LOCK_REENTRANT != 0,
        metadata: metadata.to_vec(),
    })
}

#[cold]
fn unknown_flags(flags: u32) -> Error {
    Error::invalid("opts.flags", format_args!("{flags:#x} has unknown bits"))
}

#[cold]
fn unknown_mode(mode: i32) -> Error {
    Error::invalid("opts.mode", format_args!("{mode} is no lock mode"))
}
