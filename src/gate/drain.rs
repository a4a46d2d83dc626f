//! Waiting until no permit is left.

use std::time::Duration;

use super::permit::CellRef;
use super::stats;

/// Looks without giving the processor away: most writes end within this.
const SPINS: u32 = 2_000;
/// Pause between later looks, well below what a drain may take longer than the writes it waits for.
const PAUSE: Duration = Duration::from_micros(20);

impl CellRef {
    /// Permits not finished yet. Exact once [`super::GateCore::begin_drain`] has returned, a snapshot before.
    pub fn in_flight(self) -> u64 {
        stats::in_flight(self)
    }

    /// Waits until no permit is left, or until `expired` says so: then false. To be called without the core's lock, so that the lease
    /// goes on being renewed and writes in flight can still be acknowledged.
    pub fn wait_idle(self, mut expired: impl FnMut() -> bool) -> bool {
        for _ in 0..SPINS {
            if self.in_flight() == 0 {
                return true;
            }
            std::hint::spin_loop();
        }
        loop {
            if self.in_flight() == 0 {
                return true;
            }
            if expired() {
                return false;
            }
            std::thread::sleep(PAUSE);
        }
    }
}
