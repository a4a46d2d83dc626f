//! What is random below us follows the seed too: the order in which hash maps are walked, and whom tokio wakes first.
//!
//! Both get their seeds from the standard library's keys for hash maps, which are drawn once a thread, through a symbol that it
//! leaves open to be put in the place of the system's. So each run has a thread of its own, and what that draws comes from the run's seed.
//! Other threads have the system's randomness.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::{c_uint, c_void};

use crate::base::{Rng, SeededRng};

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// In the place of the system's function of this name, in this build of the tests alone.
///
/// # Safety
/// `buffer` is good for `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    match SEED.get() {
        None => {
            // SAFETY: the caller's contract, passed on.
            unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as isize }
        }
        Some(seed) => {
            let mut rng = SeededRng::new(seed);
            // SAFETY: the caller's contract.
            let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
            bytes.iter_mut().for_each(|byte| *byte = rng.next_u64() as u8);
            SEED.set(Some(rng.next_u64()));
            length as isize
        }
    }
}

/// From now on this thread's chances follow from the seed.
pub fn follow(seed: u64) {
    SEED.set(Some(seed));
}

/// Runs `body` where nothing is random but by this seed; its panic is the caller's.
pub fn on_a_thread_of_its_own<T: Send>(seed: u64, body: impl FnOnce() -> T + Send) -> T {
    let seeded = move || {
        follow(seed);
        body()
    };
    std::thread::scope(|scope| scope.spawn(seeded).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::on_a_thread_of_its_own;

    #[test]
    fn hash_maps_are_walked_as_the_seed_says() {
        let walk = |seed| on_a_thread_of_its_own(seed, || (0..100).collect::<HashSet<u32>>().into_iter().collect::<Vec<_>>());
        assert_eq!(walk(1), walk(1));
        assert_ne!(walk(1), walk(2));
    }
}
