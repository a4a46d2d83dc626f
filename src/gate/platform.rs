//! Atomics and barriers as a parameter, so that the model checker runs the very code that ships.

#![allow(unsafe_code)]

#[cfg(tenure_mutants)]
use crate::base::planted::planted;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, compiler_fence, fence};

use crate::base::{Error, Result};

/// What the protocol needs of an atomic integer.
pub trait Word<T>: Send + Sync {
    /// A word that holds `value`.
    fn new(value: T) -> Self;
    /// Loads.
    fn load(&self, order: Ordering) -> T;
    /// Stores.
    fn store(&self, value: T, order: Ordering);
    /// Adds, and returns what was there.
    fn fetch_add(&self, value: T, order: Ordering) -> T;
    /// Subtracts, and returns what was there.
    fn fetch_sub(&self, value: T, order: Ordering) -> T;
}

macro_rules! native_word {
    ($atomic:ty, $int:ty) => {
        impl Word<$int> for $atomic {
            #[inline(always)]
            fn new(value: $int) -> Self {
                <$atomic>::new(value)
            }
            #[inline(always)]
            fn load(&self, order: Ordering) -> $int {
                self.load(order)
            }
            #[inline(always)]
            fn store(&self, value: $int, order: Ordering) {
                self.store(value, order);
            }
            #[inline(always)]
            fn fetch_add(&self, value: $int, order: Ordering) -> $int {
                self.fetch_add(value, order)
            }
            #[inline(always)]
            fn fetch_sub(&self, value: $int, order: Ordering) -> $int {
                self.fetch_sub(value, order)
            }
        }
    };
}
native_word!(AtomicU32, u32);
native_word!(AtomicU64, u64);

/// Faults that the model checker must find when they are planted. None is in the product: [`Native`] plants nothing, and
/// the tests compile away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// The drain does without its barrier.
    NoBarrier,
    /// `enter` looks at the deadline before it counts itself.
    CountLate,
    /// `finish` leaves before it has its verdict.
    LeaveEarly,
    /// `finish` does not compare the epoch.
    EpochIgnored,
    /// `finish` reads the epoch before the deadline.
    EpochReadFirst,
    /// The publisher sets the new deadline before the new epoch.
    WindowFirst,
    /// The publisher leaves the old deadline in place while it changes the epoch.
    NoRetract,
    /// A `finish` on another thread writes the owner's counter.
    RemotePlain,
}

/// The machine that the protocol runs on.
pub trait Platform: Send + Sync + 'static {
    /// 32-bit word.
    type U32: Word<u32>;
    /// 64-bit word.
    type U64: Word<u64>;
    /// Keeps the compiler from moving the count past the look; the drainer's barrier does the rest.
    fn light_barrier();
    /// The full fence that stands in where no process-wide barrier is to be had.
    fn full_fence();
    /// Whether this fault is planted.
    #[inline(always)]
    fn planted(_: Mistake) -> bool {
        false
    }
}

/// The real machine.
#[derive(Debug)]
pub enum Native {}

impl Platform for Native {
    type U32 = AtomicU32;
    type U64 = AtomicU64;
    #[inline(always)]
    fn light_barrier() {
        compiler_fence(Ordering::SeqCst);
    }
    #[inline(always)]
    fn full_fence() {
        fence(Ordering::SeqCst);
    }
    #[cfg(tenure_mutants)]
    fn planted(mistake: Mistake) -> bool {
        match mistake {
            Mistake::NoBarrier => planted!("drain-without-barrier"),
            Mistake::EpochIgnored => planted!("finish-ignores-epoch"),
            Mistake::LeaveEarly => planted!("leave-before-verdict"),
            Mistake::NoRetract => planted!("old-window-under-new-epoch"),
            _ => false,
        }
    }
}

const REGISTER: libc::c_long = 1 << 4;
const PRIVATE_EXPEDITED: libc::c_long = 1 << 3;

fn membarrier(command: libc::c_long) -> std::io::Result<()> {
    // SAFETY: membarrier(2) touches no memory of ours; flags and cpu_id are 0 as its commands here require.
    let answer = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    if answer == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Asks the kernel for the process-wide barrier. False: not to be had (old kernel, seccomp), so every writer must fence.
/// Cheap after the first time in a process.
pub fn register_barrier() -> bool {
    membarrier(REGISTER).is_ok() && membarrier(PRIVATE_EXPEDITED).is_ok()
}

/// A full barrier on every thread of this process.
///
/// # Errors
/// [`crate::base::Status::Io`] when the kernel refuses, although it had promised it at [`register_barrier`].
pub fn process_barrier() -> Result<()> {
    fence(Ordering::SeqCst);
    membarrier(PRIVATE_EXPEDITED).map_err(|e| Error::io("membarrier", &e))
}
