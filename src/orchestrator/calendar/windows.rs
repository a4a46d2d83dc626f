//! Windows and blackouts: stretches of the civil day, to the minute.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::ledger::orch::{Schedule, Throttle, View, Window};

const MINUTE: i64 = 60;
const DAY: i64 = 86_400;
/// Days ahead that are looked at: a week, and the changes of the clocks at its ends.
const AHEAD: i64 = 9;

#[derive(Debug)]
pub(super) struct Windows {
    zone: TimeZone,
    open: Vec<Window>,
    closed: Vec<Window>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Open,
    Outside,
    Blackout,
}

/// Whether the civil second lies within.
fn contains(window: &Window, civil: i64) -> bool {
    let (day, minute) = (civil.div_euclid(DAY), civil.rem_euclid(DAY) / MINUTE);
    // 1 January 1970 was a Thursday.
    let opens_on = |day: i64| window.days >> (day + 4).rem_euclid(7) & 1 == 1;
    let (from, to) = (i64::from(window.from_min), i64::from(window.to_min));
    if from < to {
        opens_on(day) && (from..to).contains(&minute)
    } else {
        (opens_on(day) && minute >= from) || (opens_on(day - 1) && minute < to)
    }
}

impl Windows {
    pub(super) fn new(schedule: &Schedule, zone: TimeZone) -> Windows {
        Windows { zone, open: schedule.windows.clone(), closed: schedule.blackouts.clone() }
    }

    fn offset(&self, at: i64) -> i64 {
        Timestamp::from_second(at).map_or(0, |t| i64::from(self.zone.to_offset(t).seconds()))
    }

    fn kind(&self, at: i64) -> Kind {
        let civil = at + self.offset(at);
        if self.closed.iter().any(|w| contains(w, civil)) {
            Kind::Blackout
        } else if self.open.is_empty() || self.open.iter().any(|w| contains(w, civil)) {
            Kind::Open
        } else {
            Kind::Outside
        }
    }

    pub(super) fn view(&self, at_ms: i64) -> View {
        if self.open.is_empty() && self.closed.is_empty() {
            return View::Open { until_ms: i64::MAX };
        }
        let at = at_ms.div_euclid(1000);
        let kind = self.kind(at);
        let until_ms = self.next_change(at, kind).map_or(i64::MAX, |s| s * 1000);
        match kind {
            Kind::Open => View::Open { until_ms },
            Kind::Outside => View::Outside { until_ms },
            Kind::Blackout => View::Blackout { until_ms },
        }
    }

    /// The first instant after `at` that is of another kind: one of the windows' edges, or a change of the clocks.
    fn next_change(&self, at: i64, kind: Kind) -> Option<i64> {
        let mut offsets = vec![self.offset(at)];
        let mut candidates = Vec::new();
        if let Ok(from) = Timestamp::from_second(at) {
            let changes = self.zone.following(from).map(|t| t.timestamp().as_second());
            for change in changes.take_while(|c| *c <= at + AHEAD * DAY) {
                candidates.push(change);
                offsets.push(self.offset(change));
            }
        }
        for offset in offsets {
            let today = (at + offset).div_euclid(DAY);
            for day in today - 1..=today + AHEAD {
                for window in self.open.iter().chain(&self.closed) {
                    for minute in [window.from_min, window.to_min] {
                        candidates.push(day * DAY + i64::from(minute) * MINUTE - offset);
                    }
                }
            }
        }
        candidates.retain(|c| *c > at);
        candidates.sort_unstable();
        candidates.dedup();
        candidates.into_iter().find(|c| self.kind(*c) != kind)
    }

    pub(super) fn throttle(&self, at_ms: i64, schedule: &Schedule) -> Throttle {
        let at = at_ms.div_euclid(1000);
        let civil = at + self.offset(at);
        schedule.throttle_at.iter().find(|t| contains(&t.window, civil)).map_or(schedule.throttle, |t| t.throttle)
    }
}
