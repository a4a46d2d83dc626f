//! What a writer holds: a reference to the cell, and a permit while its write is under way.

#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::Ordering::Acquire;

use super::cell::{Cell, Reason, WriteClass, mode};
use super::slow;

/// A gate as its writers see it. Copies are free; it never dangles, because a gate's memory is never unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellRef(NonNull<Cell>);

// SAFETY: the cell consists of atomics and lives for ever.
unsafe impl Send for CellRef {}
// SAFETY: as above.
unsafe impl Sync for CellRef {}

impl CellRef {
    /// # Safety
    /// `cell` starts a mapping made by this library (`region::map`).
    pub(super) unsafe fn from_ptr(cell: NonNull<Cell>) -> CellRef {
        CellRef(cell)
    }

    /// The cell behind a pointer that a host passes back; `None` for NULL.
    ///
    /// # Safety
    /// The pointer is NULL or was obtained from [`CellRef::as_ptr`] in this process, whenever that was.
    pub unsafe fn from_raw(cell: *const Cell) -> Option<CellRef> {
        NonNull::new(cell.cast_mut()).map(CellRef)
    }

    /// The address to give to C.
    #[inline]
    pub fn as_ptr(self) -> *const Cell {
        self.0.as_ptr()
    }

    #[inline(always)]
    pub(super) fn words(self) -> &'static Cell {
        // SAFETY: initialised before the first `CellRef` was made, and never unmapped; in a forked child it is zeros, which are
        // valid atomics.
        unsafe { &*self.0.as_ptr() }
    }

    /// Asks to let a client's write in.
    ///
    /// # Errors
    /// The reason for which it is refused.
    #[inline]
    pub fn enter(self) -> Result<Permit, Reason> {
        self.enter_class(WriteClass::Client)
    }

    /// Asks to let a write of this class in.
    ///
    /// # Errors
    /// The reason for which it is refused.
    #[inline]
    pub fn enter_class(self, class: WriteClass) -> Result<Permit, Reason> {
        slow::enter_slow(self, class).map(Permit)
    }

    /// As [`CellRef::enter_class`] for a batch of so many writes. One of none, or of reads only, is never refused, and always held.
    ///
    /// # Errors
    /// The reason for which it is refused.
    pub fn enter_batch(self, class: WriteClass, writes: usize) -> Result<Permit, Reason> {
        if writes == 0 { Ok(Permit(RawPermit::uncounted(self, mode::EMPTY))) } else { self.enter_class(class) }
    }

    /// The epoch under which a write would be let in now. No permit is counted: a drain does not wait for what follows.
    ///
    /// # Errors
    /// The reason for which it would be refused.
    pub fn check(self) -> Result<u64, Reason> {
        slow::check_slow(self)
    }

    /// For a receiver of records: whether `epoch` is at least the highest epoch that this gate has seen, and if not, that epoch.
    ///
    /// # Errors
    /// The highest epoch seen.
    pub fn check_epoch(self, epoch: u64) -> Result<(), u64> {
        let seen = self.words().epoch_seen.load(Acquire);
        if epoch >= seen { Ok(()) } else { Err(seen) }
    }
}

/// What `finish` says of a write whose effect is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The effect was complete while the lease was provably valid: acknowledge.
    Held,
    /// It was not, or nobody can tell: do not acknowledge. The effect may stay; a newer epoch's owner decides.
    Uncertain,
}

/// A permit as it crosses the C interface: `tenure_gate_permit`.
#[repr(C)]
#[derive(Debug)]
pub struct RawPermit {
    cell: *const Cell,
    /// The epoch to stamp into the record.
    pub epoch: u64,
    /// Offset of the slot on which it is counted, or 0.
    pub slot: u32,
    /// [`mode`] in which it was given; 0 once it has ended.
    pub mode: u32,
}

/// A permit that has ended.
impl Default for RawPermit {
    fn default() -> RawPermit {
        RawPermit { cell: std::ptr::null(), epoch: 0, slot: 0, mode: mode::WIPED }
    }
}

impl RawPermit {
    pub(super) fn counted(cell: CellRef, epoch: u64, slot: u32, mode: u32) -> RawPermit {
        RawPermit { cell: cell.as_ptr(), epoch, slot, mode }
    }

    pub(super) fn uncounted(cell: CellRef, mode: u32) -> RawPermit {
        RawPermit { cell: cell.as_ptr(), epoch: cell.words().epoch.load(Acquire), slot: 0, mode }
    }

    pub(super) fn spend(&mut self) {
        self.mode = mode::WIPED;
        self.slot = 0;
    }

    pub(super) fn cell(&self) -> Option<CellRef> {
        if self.mode == mode::WIPED { None } else { NonNull::new(self.cell.cast_mut()).map(CellRef) }
    }
}

/// Leave to write, counted until it is finished or dropped. May be finished on another thread, at a little more cost.
#[derive(Debug)]
#[must_use = "a permit is counted as a write in flight until it is finished or dropped"]
pub struct Permit(RawPermit);

// SAFETY: the pointer is to a cell that lives for ever; a finish on another thread counts with an atomic addition.
unsafe impl Send for Permit {}

impl Permit {
    /// The epoch to stamp into the record.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// To be asked right before the irrevocable step: could the write still be acknowledged if it were done now?
    pub fn precommit(&self) -> Verdict {
        slow::precommit_slow(&self.0)
    }

    /// To be asked when the effect is complete (written, synced, replicated, as the host promises) and before acknowledging it.
    #[inline]
    pub fn finish(mut self) -> Verdict {
        slow::finish_slow(&mut self.0)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        slow::leave_slow(&mut self.0);
    }
}
