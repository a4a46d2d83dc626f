//! The clocks of one simulated machine: their rate, where they stand, and whether they do.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::time::Instant;

use crate::base::Clock;

/// How clocks stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    /// They do not.
    Runs,
    /// The machine is suspended: BOOTTIME and the wall clock go on.
    Suspended,
    /// The virtual machine is: none goes on, and nobody is told.
    Frozen,
}

#[derive(Debug)]
struct Hands {
    at: Instant,
    /// BOOTTIME, RAW, MONOTONIC and REALTIME, ns.
    now: [u64; 4],
    /// Millionths of the true time.
    rate: u64,
    stand: Stand,
}

/// One machine's clocks. Clones are the same ones.
#[derive(Clone, Debug)]
pub struct HostClock(Arc<Mutex<Hands>>);

impl HostClock {
    /// Clocks as of a machine that has been up for a while, by a wall clock of its own.
    pub fn new(up_ns: u64, wall_ns: u64) -> HostClock {
        let hands = Hands { at: Instant::now(), now: [up_ns, up_ns, up_ns, wall_ns], rate: 1_000_000, stand: Stand::Runs };
        HostClock(Arc::new(Mutex::new(hands)))
    }

    fn hands(&self) -> MutexGuard<'_, Hands> {
        let mut hands = self.0.lock().unwrap();
        let now = Instant::now();
        let passed = (u128::from(now.duration_since(hands.at).as_nanos() as u64) * u128::from(hands.rate) / 1_000_000) as u64;
        hands.at = now;
        let moves = match hands.stand {
            Stand::Runs => [true; 4],
            Stand::Suspended => [true, false, false, true],
            Stand::Frozen => [false; 4],
        };
        for (hand, moves) in hands.now.iter_mut().zip(moves) {
            *hand += if moves { passed } else { 0 };
        }
        hands
    }

    /// They run so fast from now on, in millionths.
    pub fn set_rate(&self, rate: u64) {
        self.hands().rate = rate;
    }

    /// They stand from now on, or run again.
    pub fn set_stand(&self, stand: Stand) {
        self.hands().stand = stand;
    }

    /// Somebody sets the wall clock.
    pub fn set_wall(&self, by_ms: i64) {
        let mut hands = self.hands();
        hands.now[3] = hands.now[3].saturating_add_signed(by_ms * 1_000_000);
    }
}

impl Clock for HostClock {
    fn boottime_ns(&self) -> u64 {
        self.hands().now[0]
    }
    fn raw_ns(&self) -> u64 {
        self.hands().now[1]
    }
    fn monotonic_ns(&self) -> u64 {
        self.hands().now[2]
    }
    fn realtime_ns(&self) -> u64 {
        self.hands().now[3]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_machine_has_its_own_time() {
        let clock = HostClock::new(1_000, 5_000);
        let read = |c: &HostClock| [c.boottime_ns(), c.raw_ns(), c.monotonic_ns(), c.realtime_ns()];
        let pass = async |ns| tokio::time::advance(Duration::from_nanos(ns)).await;
        pass(1_000).await;
        assert_eq!(read(&clock), [2_000, 2_000, 2_000, 6_000]);
        clock.set_rate(500_000);
        pass(1_000).await;
        assert_eq!(read(&clock), [2_500, 2_500, 2_500, 6_500]);
        clock.set_rate(1_000_000);
        clock.set_stand(Stand::Suspended);
        pass(1_000).await;
        clock.set_stand(Stand::Frozen);
        pass(1_000).await;
        clock.set_stand(Stand::Runs);
        assert_eq!(read(&clock), [3_500, 2_500, 2_500, 7_500]);
        clock.set_wall(1);
        pass(1).await;
        assert_eq!(read(&clock), [3_501, 2_501, 2_501, 1_007_501]);
    }
}
