//! Time without a clock: the session-delta replicated clock.
//!
//! The ledger's clock moves by the differences of stamps that one process took in one term, so an election gap is not counted,
//! what remains of a ttl survives a change of leader, and one bad stamp moves it at most one step. A lease granted at this
//! clock is never over early: see spec/reliability.md 2.5 for the argument, whose model found no unsafe run in 400 000.

use crate::base::codec::{Decode, Encode};
use crate::base::planted::planted;

use super::command::Stamp;

/// A grant at clock `c` with ttl `t` is over when the clock reads `c + t + HIDDEN_MS` or more: a stamp in whole milliseconds
/// may hide up to one.
pub(super) const HIDDEN_MS: u64 = 1;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct ReplicatedClock {
    term: u64,
    boot: u64,
    last_ticks: u64,
    now: u64,
    clamped: u64,
}

impl ReplicatedClock {
    pub(super) fn now(&self) -> u64 {
        self.now
    }

    /// The stamp from which the next one counts.
    pub(super) fn anchor(&self) -> Stamp {
        Stamp { term: self.term, boot: self.boot, ticks_ms: self.last_ticks }
    }

    pub(super) fn clamped(&self) -> u64 {
        self.clamped
    }

    /// Takes the stamp of an entry that the log holds under `log_term`.
    pub(super) fn advance(&mut self, stamp: &Stamp, log_term: u64, max_step: u64) {
        if stamp.term != log_term && !planted!("clock-counts-old-terms") {
            // Stamped under an older term and appended later: what passed in between is unknown.
            return;
        }
        if stamp.term != self.term || (stamp.boot != self.boot && !planted!("clock-anchored-by-term")) {
            (self.term, self.boot, self.last_ticks) = (stamp.term, stamp.boot, stamp.ticks_ms);
            return;
        }
        let passed = stamp.ticks_ms.saturating_sub(self.last_ticks);
        self.clamped += u64::from(passed > max_step);
        // The full reading is remembered even when the step is cut, so the rest is never made up for later.
        self.last_ticks = self.last_ticks.max(stamp.ticks_ms);
        self.now += if planted!("clock-step-uncut") { passed } else { passed.min(max_step) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(term: u64, boot: u64, ticks_ms: u64) -> Stamp {
        Stamp { term, boot, ticks_ms }
    }

    // I-12.
    #[test]
    fn only_differences_within_one_process_and_term_count() {
        let mut c = ReplicatedClock::default();
        for (s, log_term, want) in [
            (stamp(1, 7, 5_000), 1, 0), // the first stamp of a process counts nothing
            (stamp(1, 7, 5_040), 1, 40),
            (stamp(1, 7, 5_030), 1, 40), // out of order
            (stamp(1, 7, 5_050), 1, 50),
            (stamp(2, 7, 9_000), 2, 50), // another term
            (stamp(2, 7, 9_010), 2, 60),
            (stamp(2, 8, 100), 2, 60), // the same term, another process
            (stamp(2, 8, 110), 2, 70),
            (stamp(2, 8, 900), 3, 70), // stamped before the election that its log entry follows
            (stamp(2, 8, 120), 2, 80),
        ] {
            c.advance(&s, log_term, 100);
            assert_eq!(c.now(), want, "{s:?}");
        }
    }

    // I-12.
    #[test]
    fn a_long_sleep_moves_it_one_step_and_is_never_made_up() {
        let mut c = ReplicatedClock::default();
        c.advance(&stamp(1, 1, 0), 1, 100);
        c.advance(&stamp(1, 1, 3_600_000), 1, 100);
        assert_eq!((c.now(), c.clamped()), (100, 1));
        c.advance(&stamp(1, 1, 3_600_001), 1, 100);
        assert_eq!((c.now(), c.clamped()), (101, 1));
    }
}
