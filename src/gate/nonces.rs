//! Numbers that a heartbeat carries back, so that its lease counts from a moment that this node chose itself.

use std::collections::VecDeque;

use crate::base::{Moment, Rng};

/// Nonces kept. A controller with more heartbeats under way than this loses the oldest.
const KEPT: usize = 64;

/// The nonces given out, oldest first, with the time of each.
#[derive(Debug, Default)]
pub(super) struct Nonces {
    issued: VecDeque<(u64, Moment)>,
}

impl Nonces {
    /// A new nonce, never 0, whose lease will count from `now`. Random, so that one of an earlier process is not taken for one
    /// of this process.
    pub(super) fn issue(&mut self, now: Moment, rng: &mut dyn Rng) -> u64 {
        let mut nonce = rng.next_u64();
        while nonce == 0 || self.sent(nonce).is_some() {
            nonce = rng.next_u64();
        }
        if self.issued.len() == KEPT {
            self.issued.pop_front();
        }
        self.issued.push_back((nonce, now));
        nonce
    }

    /// When `nonce` was issued; `None` if this gate did not issue it, or has forgotten it. A retry may carry it again: that
    /// adds nothing, as the time stays the same.
    pub(super) fn sent(&self, nonce: u64) -> Option<Moment> {
        self.issued.iter().find(|(n, _)| *n == nonce).map(|(_, at)| *at)
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        self.issued.clear();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::base::SeededRng;

    #[test]
    fn a_nonce_keeps_its_time_until_it_is_pushed_out() {
        let (mut n, mut rng) = (Nonces::default(), SeededRng::new(1));
        let at = |ns| Moment { boottime_ns: ns, raw_ns: ns };
        let first = n.issue(at(5), &mut rng);
        assert_eq!((n.sent(first), n.sent(first ^ 1)), (Some(at(5)), None));
        for i in 0..KEPT as u64 - 1 {
            n.issue(at(i), &mut rng);
        }
        assert!(n.sent(first).is_some());
        n.issue(at(9), &mut rng);
        assert!(n.sent(first).is_none());
        n.clear();
        assert_eq!(n.issued.len(), 0);
    }
}
