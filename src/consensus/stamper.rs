//! The proposer's clock: what the ledger is told of time.

use std::sync::Arc;

use crate::base::Clock;
use crate::ledger::Stamp;

const NS_PER_MS: u64 = 1_000_000;

/// Adds up, step by step, the smaller of what CLOCK_MONOTONIC and CLOCK_MONOTONIC_RAW say: never more than has passed on either.
#[derive(Debug)]
pub(super) struct Stamper {
    clock: Arc<dyn Clock>,
    boot: u64,
    monotonic_ns: u64,
    raw_ns: u64,
    sum_ns: u64,
}

impl Stamper {
    pub fn new(clock: Arc<dyn Clock>, boot: u64) -> Stamper {
        let (monotonic_ns, raw_ns) = (clock.monotonic_ns(), clock.raw_ns());
        Stamper { clock, boot, monotonic_ns, raw_ns, sum_ns: 0 }
    }

    /// The running sum now, ms.
    pub fn ticks_ms(&mut self) -> u64 {
        let (monotonic_ns, raw_ns) = (self.clock.monotonic_ns(), self.clock.raw_ns());
        let step = monotonic_ns.saturating_sub(self.monotonic_ns).min(raw_ns.saturating_sub(self.raw_ns));
        (self.monotonic_ns, self.raw_ns) = (self.monotonic_ns.max(monotonic_ns), self.raw_ns.max(raw_ns));
        self.sum_ns += step;
        self.sum_ns / NS_PER_MS
    }

    /// A stamp for a proposal in this term.
    pub fn stamp(&mut self, term: u64) -> Stamp {
        Stamp { term, boot: self.boot, ticks_ms: self.ticks_ms() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::VirtualClock;

    // I-12.
    #[test]
    fn each_step_counts_the_smaller_of_both_clocks() {
        let clock = VirtualClock::new(50);
        let mut stamper = Stamper::new(Arc::new(clock.clone()), 7);
        clock.advance(3_000_000);
        assert_eq!(stamper.stamp(2), Stamp { term: 2, boot: 7, ticks_ms: 3 });
        clock.slew(10_000_000, 4_000_000);
        assert_eq!(stamper.ticks_ms(), 7);
        clock.slew(1_000_000, 9_000_000);
        assert_eq!(stamper.ticks_ms(), 8, "a slow step is not made up for by a fast one");
        clock.suspend(60_000_000_000);
        assert_eq!(stamper.ticks_ms(), 8);
    }
}
