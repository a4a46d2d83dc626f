//! The rules by which writers and the publisher share a cell: the twin of the inline functions in `include/tenure_gate.h`.
//!
//! Why each order is as it is (every one of them is a mistake that `model_test` plants and finds):
//! - `enter` counts itself *before* it looks at the deadline; the drainer takes the deadline away *before* it counts. With the
//!   drainer's process-wide barrier between its two steps, one of them sees the other.
//! - The publisher takes the old deadlines away, sets the epoch, then sets the new deadlines. `finish` reads the deadline, then the
//!   epoch: with its own epoch there, the deadline is its own too, or none.
//! - `finish` leaves after it has its verdict, so that no verdict follows the end of a drain.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::cell::{Cell, NEVER, Slot, Window};
use super::platform::{Mistake, Platform, Word};

/// A thread's way to its counters.
pub(super) enum Seat<'a, P: Platform> {
    /// The slot is this thread's alone.
    Own(&'a Slot<P>),
    /// Other threads count on the same slot.
    Shared(&'a Slot<P>),
}

impl<P: Platform> Clone for Seat<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<P: Platform> Copy for Seat<'_, P> {}

impl<P: Platform> Seat<'_, P> {
    #[inline(always)]
    pub(super) fn enter(self) {
        match self {
            Seat::Own(s) => s.entered.store(s.entered.load(Relaxed).wrapping_add(1), Relaxed),
            Seat::Shared(s) => {
                s.entered.fetch_add(1, Relaxed);
            }
        }
    }

    /// Takes an `enter` back. Not counted as a leave, so that `entered - left` is never too small.
    #[inline(always)]
    fn undo(self) {
        match self {
            Seat::Own(s) => s.entered.store(s.entered.load(Relaxed).wrapping_sub(1), Release),
            Seat::Shared(s) => {
                s.entered.fetch_sub(1, Release);
            }
        }
    }

    #[inline(always)]
    pub(super) fn leave(self) {
        match self {
            Seat::Own(s) => s.left.store(s.left.load(Relaxed).wrapping_add(1), Release),
            Seat::Shared(s) if P::planted(Mistake::RemotePlain) => s.left.store(s.left.load(Relaxed).wrapping_add(1), Release),
            Seat::Shared(s) => {
                s.left_remote.fetch_add(1, Release);
            }
        }
    }
}

#[inline(always)]
fn open<P: Platform>(window: &Window<P>, deadline: u64, now: u64) -> Option<u64> {
    let margin = deadline.wrapping_sub(now);
    (margin < window.limit.load(Relaxed)).then_some(margin)
}

/// Asks to let a write in. The epoch under which it is in, or `None` and nothing is counted.
#[inline(always)]
pub(super) fn admit<P: Platform>(
    cell: &Cell<P>,
    window: &Window<P>,
    seat: Seat<'_, P>,
    fenced: bool,
    clock: impl FnOnce() -> u64,
) -> Option<u64> {
    if P::planted(Mistake::CountLate) {
        let epoch = look(cell, window, clock);
        seat.enter();
        P::light_barrier();
        return epoch.or_else(|| {
            seat.undo();
            None
        });
    }
    seat.enter();
    if fenced {
        P::full_fence();
    } else {
        P::light_barrier();
    }
    let epoch = look(cell, window, clock);
    if epoch.is_none() {
        seat.undo();
    }
    epoch
}

/// The epoch that would let a write in now, without counting one.
#[inline(always)]
pub(super) fn look<P: Platform>(cell: &Cell<P>, window: &Window<P>, clock: impl FnOnce() -> u64) -> Option<u64> {
    let epoch = cell.epoch.load(Acquire);
    let soft = window.soft.load(Acquire);
    open(window, soft, clock()).map(|_| epoch)
}

/// Whether a write under `epoch` may still be acknowledged: the time left, or `None`.
#[inline(always)]
pub(super) fn verdict<P: Platform>(cell: &Cell<P>, window: &Window<P>, epoch: u64, clock: impl FnOnce() -> u64) -> Option<u64> {
    let (last, current) = if P::planted(Mistake::EpochReadFirst) {
        let current = cell.epoch.load(Acquire);
        (window.last.load(Acquire), current)
    } else {
        let last = window.last.load(Acquire);
        (last, cell.epoch.load(Acquire))
    };
    let same = current == epoch || P::planted(Mistake::EpochIgnored);
    open(window, last, clock()).filter(|_| same)
}

/// The verdict on a write that is done, then the leave: never the other way round.
#[inline(always)]
pub(super) fn finish<P: Platform, V>(seat: Seat<'_, P>, judge: impl FnOnce() -> V) -> V {
    if P::planted(Mistake::LeaveEarly) {
        seat.leave();
        return judge();
    }
    let verdict = judge();
    seat.leave();
    verdict
}

/// Permits of this slot that have not left.
#[inline]
pub(super) fn in_flight<P: Platform>(slot: &Slot<P>) -> u64 {
    // What has left is read first: `entered` can only be newer, so the difference is never too small.
    let left = slot.left.load(Acquire).wrapping_add(slot.left_remote.load(Acquire));
    slot.entered.load(Acquire).wrapping_sub(left)
}

/// Publisher: no write is let in from here on; those in flight may finish. Once the process-wide `barrier` has returned, every
/// write that was let in is seen by [`in_flight`].
pub(super) fn begin_drain<P: Platform, R: Default>(cell: &Cell<P>, barrier: impl FnOnce() -> R) -> R {
    cell.boottime.soft.store(NEVER, Relaxed);
    cell.tsc.soft.store(NEVER, Relaxed);
    if P::planted(Mistake::NoBarrier) { R::default() } else { barrier() }
}

/// Publisher: nothing is let in and nothing is held from here on.
pub(super) fn retract<P: Platform>(cell: &Cell<P>) {
    for window in [&cell.boottime, &cell.tsc] {
        window.soft.store(NEVER, Relaxed);
        window.hard.store(NEVER, Relaxed);
        window.last.store(NEVER, Relaxed);
    }
    P::full_fence();
}

/// Publisher: `epoch` from here on, with the deadlines that `extend` sets.
pub(super) fn publish<P: Platform>(cell: &Cell<P>, epoch: u64, extend: impl FnOnce()) {
    if !P::planted(Mistake::NoRetract) {
        retract(cell);
    }
    if P::planted(Mistake::WindowFirst) {
        extend();
        cell.epoch.store(epoch, Release);
        return;
    }
    cell.epoch.store(epoch, Release);
    extend();
}

/// Publisher: these deadlines hold for the epoch that is set.
pub(super) fn extend<P: Platform>(window: &Window<P>, soft: u64, hard: u64, last: u64) {
    window.last.store(last, Release);
    window.hard.store(hard, Release);
    window.soft.store(soft, Release);
}
