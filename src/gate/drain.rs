//! Waiting until no permit is left.

use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::Duration;

use super::permit::CellRef;
use super::{stats, threads};

/// Slots looked at without a break, some hundreds of microseconds: most writes end within this, and a processor given away may
/// not come back for milliseconds.
const SPINS: u32 = 50_000;
/// Looks with the processor offered to others in between: they may be the writers.
const YIELDS: u32 = 1_000;
/// Pause between later looks.
const PAUSE: Duration = Duration::from_micros(50);

impl CellRef {
    /// Permits not finished yet. While a drain is under way, a writer that is just being refused may be counted for a moment.
    pub fn in_flight(self) -> u64 {
        stats::in_flight(self)
    }

    /// Waits until no permit is left, or until `expired` says so: then false. To be called after [`super::GateCore::begin_drain`],
    /// without the core's lock, so that the lease goes on being renewed and writes in flight can still be acknowledged.
    pub fn wait_idle(self, mut expired: impl FnMut() -> bool) -> bool {
        let words = self.words();
        // The drain that is waited for: what is seen here says nothing of a later one.
        let drain = words.drain.load(Acquire);
        let spins = SPINS / threads::highest().max(1);
        let mut looks = 0;
        while self.in_flight() != 0 {
            looks += 1;
            if looks < spins {
                std::hint::spin_loop();
                continue;
            }
            if expired() {
                return false;
            }
            if looks < spins + YIELDS {
                std::thread::yield_now();
            } else {
                std::thread::sleep(PAUSE);
            }
        }
        words.idle.store(drain, Release);
        true
    }
}
