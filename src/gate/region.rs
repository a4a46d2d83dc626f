//! The memory of a gate: one private mapping per gate, wiped in forked children and never unmapped.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use super::cell::{Cell, SLOTS, SLOTS_OFFSET, STRIPES, Slot};
use super::permit::CellRef;
use crate::base::{Clock, Error, Result};

/// Bytes of a gate's mapping. Pages are only occupied once touched: one for the cell, one for each 32 threads.
pub(super) const BYTES: usize = SLOTS_OFFSET + (SLOTS + STRIPES) * size_of::<Slot>();

/// Maps a new gate. It stays mapped for the life of the process, so that a stale pointer still reads as closed.
pub(super) fn map() -> Result<CellRef> {
    // SAFETY: a fresh anonymous mapping; no existing memory is named.
    let base = unsafe {
        libc::mmap(std::ptr::null_mut(), BYTES, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    };
    if base == libc::MAP_FAILED {
        return Err(Error::io("mapping a gate", &std::io::Error::last_os_error()));
    }
    // SAFETY: the range is the mapping just made.
    if unsafe { libc::madvise(base, BYTES, libc::MADV_WIPEONFORK) } != 0 {
        let cause = std::io::Error::last_os_error();
        // SAFETY: nobody has seen the mapping yet.
        unsafe { libc::munmap(base, BYTES) };
        return Err(Error::io("madvise(MADV_WIPEONFORK) for a gate", &cause));
    }
    let cell = base.cast::<Cell>();
    // SAFETY: page-aligned, writable and large enough; zeroed slots are valid as they are.
    unsafe { cell.write(Cell::new()) };
    // SAFETY: mmap did not return NULL here, the cell is initialised and lives as long as the process.
    Ok(unsafe { CellRef::from_ptr(NonNull::new_unchecked(cell)) })
}

/// Where slot `index`, counted from 1, lies in every mapping; those above [`SLOTS`] are shared stripes.
#[inline(always)]
pub(super) fn offset_of(index: u32) -> u32 {
    SLOTS_OFFSET as u32 + (index - 1) * size_of::<Slot>() as u32
}

/// The slot at an offset made by [`offset_of`]; any other number, which only a damaged permit can hold, gives the last stripe.
#[inline(always)]
pub(super) fn slot(cell: CellRef, offset: u32) -> &'static Slot {
    const LAST: usize = SLOTS + STRIPES - 1;
    let index = (offset as usize).wrapping_sub(SLOTS_OFFSET) / size_of::<Slot>();
    // SAFETY: every `CellRef` starts a mapping of `BYTES`, which has this many slots at this offset, for ever.
    unsafe { &*cell.as_ptr().cast::<u8>().add(SLOTS_OFFSET).cast::<Slot>().add(index.min(LAST)) }
}

/// Whether the slot at `offset` may belong to one thread alone.
#[inline(always)]
pub(super) fn is_owned(offset: u32) -> bool {
    offset <= offset_of(SLOTS as u32)
}

type ClockFn = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> c_int;

/// Address of the kernel's own `clock_gettime` in the vDSO, or of libc's where there is none.
pub(super) fn vdso_clock() -> u64 {
    static ADDRESS: OnceLock<u64> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        #[cfg(target_arch = "aarch64")]
        const NAME: &std::ffi::CStr = c"__kernel_clock_gettime";
        #[cfg(not(target_arch = "aarch64"))]
        const NAME: &std::ffi::CStr = c"__vdso_clock_gettime";
        let libc_clock: ClockFn = libc::clock_gettime;
        // SAFETY: both calls take NUL-terminated names; the vDSO is mapped for the life of the process, so the handle need not
        // be kept and the address stays good.
        unsafe {
            let vdso = libc::dlopen(c"linux-vdso.so.1".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
            let found = if vdso.is_null() { std::ptr::null_mut() } else { libc::dlsym(vdso, NAME.as_ptr()) };
            if found.is_null() { libc_clock as usize as u64 } else { found as u64 }
        }
    })
}

/// CLOCK_BOOTTIME through the function at `address`; `None` when there is none or it fails.
#[inline(always)]
pub(super) fn boottime(address: u64) -> Option<u64> {
    if address == 0 {
        return None;
    }
    // SAFETY: the publisher only ever stores the address of a function of this signature; 0 was ruled out.
    let clock: ClockFn = unsafe { std::mem::transmute(address as usize) };
    let mut t = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: `t` is writable; it is initialised when the call succeeds.
    unsafe {
        if clock(libc::CLOCK_BOOTTIME, t.as_mut_ptr()) != 0 {
            return None;
        }
        let t = t.assume_init();
        Some((t.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(t.tv_nsec as u64))
    }
}

/// Gives a clock object a fixed address for the life of the process.
pub(super) fn pin_clock(clock: Arc<dyn Clock>) -> u64 {
    Box::into_raw(Box::new(clock)) as u64
}

/// BOOTTIME of a pinned clock; `None` when there is none.
pub(super) fn injected(address: u64) -> Option<u64> {
    let clock = std::ptr::NonNull::new(address as usize as *mut Arc<dyn Clock>)?;
    // SAFETY: the address came from `pin_clock`, which leaks the object.
    Some(unsafe { clock.as_ref() }.boottime_ns())
}
