//! Cron expressions in a time zone.
//!
//! The time line is cut where the zone's offset changes. Within a stretch of constant offset civil time and instants run
//! together, so the library's matches of civil times are ticks; at its ends the policies decide.

use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};

use crate::base::{Error, Result};
use crate::ledger::orch::{Fold, Gap};

/// Stretches that are looked at before the search is given up: 40 years with two changes each.
const STRETCHES_MAX: usize = 80;

#[derive(Debug)]
pub(super) struct Cron {
    pattern: croner::Cron,
    zone: TimeZone,
    gap: Gap,
    fold: Fold,
}

/// A stretch of constant offset, in seconds; `from` belongs to it, `to` does not.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    from: i64,
    to: i64,
    offset: i64,
    /// The offset before and after; the same as `offset` at the ends of time.
    before: i64,
    after: i64,
}

fn civil(seconds: i64) -> Option<DateTime> {
    Timestamp::from_second(seconds).ok().map(|t| Offset::UTC.to_datetime(t))
}

fn seconds(civil: DateTime) -> Option<i64> {
    Offset::UTC.to_timestamp(civil).ok().map(Timestamp::as_second)
}

impl Cron {
    pub(super) fn new(expression: &str, zone: TimeZone, gap: Gap, fold: Fold) -> Result<Cron> {
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let pattern = parser.parse(expression).map_err(|e| Error::invalid("cron", format_args!("{expression:?}: {e}")))?;
        let cron = Cron { pattern, zone, gap, fold };
        // 30 February never comes.
        if cron.civil_from(0).is_none() {
            return Err(Error::invalid("cron", format_args!("{expression:?} never comes")));
        }
        Ok(cron)
    }

    /// The first matching civil time at or after `from`, as if it were UTC.
    fn civil_from(&self, from: i64) -> Option<i64> {
        self.pattern.find_next_occurrence(&civil(from)?, true).ok().and_then(seconds)
    }

    /// The last matching civil time at or before `to`, as if it were UTC.
    fn civil_to(&self, to: i64) -> Option<i64> {
        self.pattern.find_previous_occurrence(&civil(to)?, true).ok().and_then(seconds)
    }

    fn stretch(&self, at: i64) -> Option<Stretch> {
        let instant = Timestamp::from_second(at).ok()?;
        let offset_at = |t: i64| Timestamp::from_second(t).ok().map(|t| i64::from(self.zone.to_offset(t).seconds()));
        let offset = offset_at(at)?;
        let from = Timestamp::from_second(at + 1).ok().and_then(|t| self.zone.preceding(t).next()).map(|t| t.timestamp().as_second());
        let to = self.zone.following(instant).next().map(|t| t.timestamp().as_second());
        Some(Stretch {
            before: from.and_then(|t| offset_at(t - 1)).unwrap_or(offset),
            after: to.and_then(offset_at).unwrap_or(offset),
            from: from.unwrap_or(i64::MIN / 2),
            to: to.unwrap_or(i64::MAX / 2),
            offset,
        })
    }

    /// The civil times of a stretch that are ticks: from the first, up to but without the second.
    fn civil_range(&self, s: &Stretch) -> (i64, i64) {
        let first = if s.offset < s.before && self.fold == Fold::First { s.from + s.before } else { s.from + s.offset };
        let end = if s.after < s.offset && self.fold == Fold::Last { s.to + s.after } else { s.to + s.offset };
        (first, end)
    }

    /// Whether a match fell into the gap before this stretch and is made up for at its beginning.
    fn shifted(&self, s: &Stretch) -> bool {
        let gap = (s.from.saturating_add(s.before), s.from.saturating_add(s.offset));
        self.gap == Gap::Shift && gap.0 < gap.1 && self.civil_from(gap.0).is_some_and(|m| m < gap.1)
    }

    /// The first tick at or after `at`.
    pub(super) fn next(&self, mut at: i64) -> Option<i64> {
        for _ in 0..STRETCHES_MAX {
            let s = self.stretch(at)?;
            if at == s.from && self.shifted(&s) {
                return Some(at);
            }
            let (first, end) = self.civil_range(&s);
            let found = self.civil_from((at + s.offset).max(first))?;
            if found < end {
                return Some(found - s.offset);
            }
            at = s.to;
        }
        None
    }

    /// The last tick at or before `at`.
    pub(super) fn latest(&self, mut at: i64) -> Option<i64> {
        for _ in 0..STRETCHES_MAX {
            let s = self.stretch(at)?;
            let (first, end) = self.civil_range(&s);
            if let Some(found) = self.civil_to((at + s.offset).min(end - 1)).filter(|m| *m >= first) {
                return Some(found - s.offset);
            }
            if self.shifted(&s) {
                return Some(s.from);
            }
            if s.from <= 0 {
                return None;
            }
            at = s.from - 1;
        }
        None
    }
}
