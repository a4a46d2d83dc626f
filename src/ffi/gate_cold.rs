//! The library's side of `include/tenure_gate.h`, which declares these functions itself: what the inline functions call when their
//! fast path does not apply. No handle is involved, and no panic leaves: after one the answer is the closed one.

#![allow(unsafe_code, clippy::missing_safety_doc)]

use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::gate::{self, Cell, CellRef, RawPermit, Reason, Verdict, WriteClass};

const GRANTED: i32 = 0;
const HELD: i32 = 0;
const UNCERTAIN: i32 = 1;

fn guarded<R>(fallback: R, body: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        // The destructor of a payload is foreign code and may panic again.
        std::mem::forget(payload);
        fallback
    })
}

fn code(verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Held => HELD,
        Verdict::Uncertain => UNCERTAIN,
    }
}

/// The cell that C passes back.
fn cell_of(cell: *const Cell) -> Option<CellRef> {
    // SAFETY: the header says that a cell pointer comes from this library; it stays good for the life of the process.
    unsafe { CellRef::from_raw(cell) }
}

#[unsafe(no_mangle)]
pub extern "C" fn tenure_gate_thread_index() -> u32 {
    // 0 would be taken for "not asked yet": a thread that panicked here asks again.
    guarded(0, gate::thread_index)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_gate_enter_slow(cell: *const Cell, write_class: u32, out_permit: *mut RawPermit) -> i32 {
    guarded(Reason::Poisoned as i32, || {
        let (Some(cell), Some(class)) = (cell_of(cell), WriteClass::from_code(write_class)) else { return Reason::Closed as i32 };
        if out_permit.is_null() {
            return Reason::Closed as i32;
        }
        match gate::enter_slow(cell, class) {
            Ok(permit) => {
                // SAFETY: not NULL, and the caller's to write to; what was in it needs no drop.
                unsafe { out_permit.write(permit) };
                GRANTED
            }
            Err(reason) => reason as i32,
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_gate_finish_slow(permit: *mut RawPermit) -> i32 {
    guarded(UNCERTAIN, || {
        // SAFETY: NULL, or a permit of the caller's that no other thread uses meanwhile.
        unsafe { permit.as_mut() }.map_or(UNCERTAIN, |permit| code(gate::finish_slow(permit)))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_gate_precommit_slow(permit: *const RawPermit) -> i32 {
    guarded(UNCERTAIN, || {
        // SAFETY: as above.
        unsafe { permit.as_ref() }.map_or(UNCERTAIN, |permit| code(gate::precommit_slow(permit)))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_gate_leave_slow(permit: *mut RawPermit) {
    guarded((), || {
        // SAFETY: as above.
        if let Some(permit) = unsafe { permit.as_mut() } {
            gate::leave_slow(permit);
        }
    });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_gate_check_slow(cell: *const Cell, out_epoch: *mut u64) -> i32 {
    guarded(Reason::Poisoned as i32, || match cell_of(cell).map_or(Err(Reason::Closed), gate::check_slow) {
        Ok(epoch) => {
            if !out_epoch.is_null() {
                // SAFETY: not NULL, and the caller's to write to.
                unsafe { out_epoch.write(epoch) };
            }
            GRANTED
        }
        Err(reason) => reason as i32,
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn tenure_gate_reason_name(reason: i32) -> *const c_char {
    let name = match u32::try_from(reason).ok().and_then(Reason::from_code) {
        None if reason == GRANTED => c"granted",
        None => c"unknown",
        Some(Reason::NeverGranted) => c"never_granted",
        Some(Reason::Expired) => c"expired",
        Some(Reason::Superseded) => c"superseded",
        Some(Reason::Draining) => c"draining",
        Some(Reason::Clock) => c"clock",
        Some(Reason::Poisoned) => c"poisoned",
        Some(Reason::Forked) => c"forked",
        Some(Reason::Closed) => c"closed",
        Some(Reason::Suspended) => c"suspended",
        Some(Reason::Restored) => c"restored",
        Some(Reason::HostSilent) => c"host_silent",
    };
    name.as_ptr()
}
