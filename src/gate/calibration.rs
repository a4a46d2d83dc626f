//! The TSC as a clock: what it is worth, measured against CLOCK_BOOTTIME at every look.

use crate::base::{Clock, Moment};

/// Two TSC readings that enclose a reading of BOOTTIME.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscPair {
    /// Before.
    pub before: u64,
    /// After.
    pub after: u64,
}

/// An instant as the publisher reads it: both holder clocks, and the TSC where that is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// BOOTTIME and RAW.
    pub moment: Moment,
    /// The TSC around the BOOTTIME reading.
    pub tsc: Option<TscPair>,
}

impl Reading {
    /// Now, by `clock`; with the machine's TSC when `tsc`.
    pub fn now(clock: &dyn Clock, tsc: bool) -> Reading {
        if !tsc {
            return Reading { moment: Moment::now(clock), tsc: None };
        }
        let mut best: Option<Reading> = None;
        // A reading during which this thread was taken off its processor says little; a few tries find a clean one.
        for _ in 0..4 {
            let before = ticks();
            let boottime_ns = clock.boottime_ns();
            let after = ticks();
            let moment = Moment { boottime_ns, raw_ns: clock.raw_ns() };
            let next = Reading { moment, tsc: Some(TscPair { before, after }) };
            let width = after.wrapping_sub(before);
            if best.and_then(|b| b.tsc).is_none_or(|b| width < b.after.wrapping_sub(b.before)) {
                best = Some(next);
            }
            if width < 2_000 {
                break;
            }
        }
        best.unwrap_or_default()
    }
}

impl From<Moment> for Reading {
    fn from(moment: Moment) -> Reading {
        Reading { moment, tsc: None }
    }
}

/// The TSC; 0 on machines that have none.
#[allow(unsafe_code)]
#[inline(always)]
pub(super) fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// Whether the processor says that its TSC runs at one rate in all states (constant_tsc and nonstop_tsc). The kernel must have
/// found it good as well: see [`super::Setup::kernel_uses_tsc`].
pub fn tsc_is_invariant() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        const LEAF: u32 = 0x8000_0007;
        core::arch::x86_64::__cpuid(0x8000_0000).eax >= LEAF && core::arch::x86_64::__cpuid(LEAF).edx & (1 << 8) != 0
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Time over which the rate is measured before it is believed, ns.
const BASELINE_NS: u64 = 50_000_000;
/// Time that has to agree with the rate before it is used, ns.
const CONFIRM_NS: u64 = 5_000_000;
/// A pair further apart than this, in ticks, was interrupted and is passed over.
const WIDTH_MAX: u64 = 20_000;
/// Rates that a TSC can have: 0.1 to 16 GHz, in ticks per 2^32 ns.
const RATES: std::ops::Range<u64> = (1 << 32) / 10..16 << 32;
/// What the hot path's unordered TSC reading, and the difference between processors, may hide, ns.
pub(super) const GUARD_NS: u64 = 20_000;

/// The rate of the TSC, as long as it can be believed.
#[derive(Debug, Default)]
pub(super) struct Calibration {
    base: Option<(u64, u64)>,
    /// The reading that later ones are compared with: some milliseconds old, so that no drift hides in many short steps.
    last: Option<(u64, u64)>,
    /// Ticks in 2^32 ns; 0 while it is not known.
    rate: u64,
    /// A later stretch of time has agreed with the rate.
    confirmed: bool,
    /// The TSC has been caught; it is not asked again.
    failed: bool,
}

impl Calibration {
    pub(super) fn failed(&self) -> bool {
        self.failed
    }

    /// The processor or the kernel does not vouch for the TSC.
    pub(super) fn refuse(&mut self) {
        self.failed = true;
    }

    /// Takes a reading in. The current TSC when it may be published by.
    pub(super) fn observe(&mut self, now: &Reading) -> Option<u64> {
        let pair = now.tsc.filter(|_| !self.failed)?;
        let boottime = now.moment.boottime_ns;
        let width = pair.after.wrapping_sub(pair.before);
        if width > WIDTH_MAX {
            return None;
        }
        let reading = (pair.before, boottime);
        let (base_ticks, base_ns) = *self.base.get_or_insert(reading);
        let (last_ticks, last_ns) = *self.last.get_or_insert(reading);
        let (ticks, ns) = (pair.before.wrapping_sub(last_ticks), boottime.saturating_sub(last_ns));
        if self.rate != 0 {
            let tolerance = ns / 1_024 + GUARD_NS + self.ns(width);
            if self.ns(ticks).abs_diff(ns) > tolerance {
                self.failed = true;
                return None;
            }
            if ns >= CONFIRM_NS {
                self.confirmed = true;
                self.last = Some(reading);
            }
        }
        let total_ns = boottime.saturating_sub(base_ns);
        if total_ns >= BASELINE_NS {
            if self.rate == 0 {
                // What confirms the rate must not be what it was made of.
                self.last = Some(reading);
            }
            let total_ticks = pair.before.wrapping_sub(base_ticks);
            let rate = (u128::from(total_ticks) << 32) / u128::from(total_ns);
            match u64::try_from(rate) {
                Ok(rate) if RATES.contains(&rate) => self.rate = rate,
                _ => self.failed = true,
            }
        }
        (self.confirmed && !self.failed).then_some(pair.before)
    }

    /// Nanoseconds in so many ticks.
    fn ns(&self, ticks: u64) -> u64 {
        if self.rate == 0 {
            return 0;
        }
        u64::try_from((u128::from(ticks) << 32) / u128::from(self.rate)).unwrap_or(u64::MAX)
    }

    /// Ticks that surely pass in less than so many nanoseconds: what the rate may be wrong by is taken off.
    pub(super) fn ticks_within(&self, ns: u64) -> u64 {
        let safe = (ns - ns / 512).saturating_sub(GUARD_NS);
        self.ticks(safe)
    }

    /// Ticks in so many nanoseconds.
    pub(super) fn ticks(&self, ns: u64) -> u64 {
        u64::try_from((u128::from(ns) * u128::from(self.rate)) >> 32).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(ns: u64, ticks: u64) -> Reading {
        Reading { moment: Moment { boottime_ns: ns, raw_ns: ns }, tsc: Some(TscPair { before: ticks, after: ticks + 60 }) }
    }

    fn calibrated() -> Calibration {
        let mut c = Calibration::default();
        assert_eq!(c.observe(&at(1_000, 0)), None);
        assert_eq!(c.observe(&at(20_001_000, 52_000_000)), None, "too short to know the rate");
        assert_eq!(c.observe(&at(90_001_000, 234_000_000)), None, "nothing has confirmed it yet");
        assert_eq!(c.observe(&at(100_001_000, 260_000_000)), Some(260_000_000));
        c
    }

    #[test]
    fn learns_the_rate_and_keeps_a_margin() {
        let c = calibrated();
        assert_eq!(c.ticks(1_000_000_000).div_ceil(1_000_000), 2_600);
        let safe = c.ticks_within(1_000_000_000);
        assert!(safe < 2_595_000_000 && safe > 2_590_000_000, "{safe}");
        assert_eq!(c.ticks_within(GUARD_NS), 0);
    }

    #[test]
    fn a_tsc_that_stood_still_or_was_set_back_is_never_believed_again() {
        for (ns, ticks) in [(1_100_001_000, 262_000_000), (110_001_000, 1_000), (200_001_000, 1_260_000_000)] {
            let mut c = calibrated();
            assert_eq!(c.observe(&at(ns, ticks)), None);
            assert!(c.failed());
            assert_eq!(c.observe(&at(ns + 1_000_000, ticks + 2_600_000)), None);
        }
    }

    #[test]
    fn slewing_within_half_a_thousandth_is_no_fault() {
        let mut c = calibrated();
        assert!(c.observe(&at(1_100_501_000, 260_000_000 + 2_600_000_000)).is_some());
    }

    #[test]
    fn an_interrupted_reading_is_not_published_by() {
        let mut c = calibrated();
        let mut late = at(101_001_000, 262_600_000);
        late.tsc.as_mut().unwrap().after += 2_600_000;
        assert_eq!(c.observe(&late), None);
        assert!(!c.failed());
    }

    #[test]
    fn a_jump_while_the_rate_is_being_learnt_is_not_believed() {
        let mut c = Calibration::default();
        c.observe(&at(1_000, 0));
        assert_eq!(c.observe(&at(60_001_000, 900_000_000)), None);
        assert_eq!(c.observe(&at(70_001_000, 926_000_000)), None);
        assert!(c.failed());
    }

    #[test]
    fn the_system_clock_and_the_tsc_agree() {
        if !tsc_is_invariant() {
            return;
        }
        let clock = crate::base::SystemClock;
        let mut c = Calibration::default();
        let start = clock.boottime_ns();
        while clock.boottime_ns() - start < 2 * BASELINE_NS {
            c.observe(&Reading::now(&clock, true));
        }
        assert!(!c.failed() && c.rate > 0, "{c:?}");
    }
}
