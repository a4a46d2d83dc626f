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
    fn system_clocks_run() {
        let c = SystemClock;
        let (b, r, m) = (c.boottime_ns(), c.raw_ns(), c.monotonic_ns());
        while c.raw_ns() == r {}
        assert!(c.boottime_ns() >= b && c.monotonic_ns() >= m && c.realtime_ns() > 1_600_000_000_000_000_000);
    }
}
