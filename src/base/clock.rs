//! Clocks as an argument. Nothing outside this file and the gate's hot path reads a clock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Readings of the clocks that matter, each in nanoseconds.
///
/// Any thread may read at any time. Readings of one clock never go back, `realtime_ns` apart.
pub trait Clock: Send + Sync + fmt::Debug {
    /// CLOCK_BOOTTIME: counts time spent suspended.
    fn boottime_ns(&self) -> u64;
    /// CLOCK_MONOTONIC_RAW: not slewed by time synchronisation.
    fn raw_ns(&self) -> u64;
    /// CLOCK_MONOTONIC: stands still while suspended.
    fn monotonic_ns(&self) -> u64;
    /// CLOCK_REALTIME since the epoch: for people and calendars, never for safety.
    fn realtime_ns(&self) -> u64;
    /// Whether these are the machine's own clocks, so that the gate's hot path may read them by itself.
    fn is_system(&self) -> bool {
        false
    }
}

/// An instant on the two clocks by which a holder judges its own time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// CLOCK_BOOTTIME, ns.
    pub boottime_ns: u64,
    /// CLOCK_MONOTONIC_RAW, ns.
    pub raw_ns: u64,
}

impl Moment {
    /// Now, by `clock`.
    #[inline]
    pub fn now(clock: &dyn Clock) -> Moment {
        Moment { boottime_ns: clock.boottime_ns(), raw_ns: clock.raw_ns() }
    }

    /// Nanoseconds from `self` to `later`: the *longer* of what the two clocks say, because a holder must never think
    /// that less time has passed than has. A clock that went back counts as zero.
    #[inline]
    pub fn elapsed_ns(self, later: Moment) -> u64 {
        let boottime = later.boottime_ns.saturating_sub(self.boottime_ns);
        let raw = later.raw_ns.saturating_sub(self.raw_ns);
        boottime.max(raw)
    }
}

/// The part of a ttl for which a holder may believe in its lease, in the unit of `ttl`: with clocks that are wrong by at most
/// 1 % each way it ends before the ledger's view does, counted from the sending of the request.
#[inline]
pub fn holder_ttl(ttl: u64) -> u64 {
    // ttl * (1 - e) / (1 + e) for e = 1/100.
    (u128::from(ttl) * 99 / 101) as u64
}

/// The operating system's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[allow(unsafe_code)]
#[inline]
fn read(id: libc::clockid_t) -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a live timespec; the ids used here exist on every supported kernel.
    unsafe { libc::clock_gettime(id, &mut t) };
    (t.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(t.tv_nsec as u64)
}

impl Clock for SystemClock {
    #[inline]
    fn boottime_ns(&self) -> u64 {
        read(libc::CLOCK_BOOTTIME)
    }
    #[inline]
    fn raw_ns(&self) -> u64 {
        read(libc::CLOCK_MONOTONIC_RAW)
    }
    #[inline]
    fn monotonic_ns(&self) -> u64 {
        read(libc::CLOCK_MONOTONIC)
    }
    #[inline]
    fn realtime_ns(&self) -> u64 {
        read(libc::CLOCK_REALTIME)
    }
    fn is_system(&self) -> bool {
        true
    }
}

/// A clock that moves only when told to; clones share the hands. For tests, simulations and virtual time.
#[derive(Clone, Debug, Default)]
pub struct VirtualClock(Arc<Hands>);

#[derive(Debug, Default)]
struct Hands {
    boottime: AtomicU64,
    raw: AtomicU64,
    monotonic: AtomicU64,
    realtime: AtomicU64,
}

impl VirtualClock {
    /// All clocks at `ns`.
    pub fn new(ns: u64) -> VirtualClock {
        let clock = VirtualClock::default();
        clock.advance(ns);
        clock
    }

    /// Time passes: every clock moves on by `ns`.
    pub fn advance(&self, ns: u64) {
        self.0.boottime.fetch_add(ns, SeqCst);
        self.0.raw.fetch_add(ns, SeqCst);
        self.0.monotonic.fetch_add(ns, SeqCst);
        self.0.realtime.fetch_add(ns, SeqCst);
    }

    /// The machine was suspended for `ns`: only BOOTTIME and the wall clock move on.
    pub fn suspend(&self, ns: u64) {
        self.0.boottime.fetch_add(ns, SeqCst);
        self.0.realtime.fetch_add(ns, SeqCst);
    }

    /// Time synchronisation slews: `ns` pass on RAW, `slewed_ns` on the others.
    pub fn slew(&self, ns: u64, slewed_ns: u64) {
        self.0.raw.fetch_add(ns, SeqCst);
        self.0.boottime.fetch_add(slewed_ns, SeqCst);
        self.0.monotonic.fetch_add(slewed_ns, SeqCst);
        self.0.realtime.fetch_add(slewed_ns, SeqCst);
    }

    /// Somebody sets the wall clock.
    pub fn set_realtime(&self, ns: u64) {
        self.0.realtime.store(ns, SeqCst);
    }
}

impl Clock for VirtualClock {
    fn boottime_ns(&self) -> u64 {
        self.0.boottime.load(SeqCst)
    }
    fn raw_ns(&self) -> u64 {
        self.0.raw.load(SeqCst)
    }
    fn monotonic_ns(&self) -> u64 {
        self.0.monotonic.load(SeqCst)
    }
    fn realtime_ns(&self) -> u64 {
        self.0.realtime.load(SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspend_moves_boottime_and_not_monotonic() {
        let c = VirtualClock::new(5);
        c.suspend(10);
        assert_eq!((c.boottime_ns(), c.raw_ns(), c.monotonic_ns()), (15, 5, 5));
    }

    #[test]
    fn a_holder_counts_the_longer_time() {
        let c = VirtualClock::new(100);
        let start = Moment::now(&c);
        c.suspend(1_000);
        assert_eq!(start.elapsed_ns(Moment::now(&c)), 1_000);
        c.slew(3_000, 500);
        assert_eq!(start.elapsed_ns(Moment::now(&c)), 3_000);
        assert_eq!((holder_ttl(0), holder_ttl(101), holder_ttl(10_000)), (0, 99, 9_801));
    }

    #[test]
    fn system_clocks_run() {
        let c = SystemClock;
        let (b, r, m) = (c.boottime_ns(), c.raw_ns(), c.monotonic_ns());
        while c.raw_ns() == r {}
        assert!(c.boottime_ns() >= b && c.monotonic_ns() >= m && c.realtime_ns() > 1_600_000_000_000_000_000);
    }
}
