//! What is to be done about a target's ticks at an instant.

use crate::ledger::orch::{Misfire, Reason, Schedule};

use super::calendar::Calendar;

/// How late a tick may start under [`Misfire::Skip`] when nothing else is said, ms.
const SKIP_TOLERANCE_MS: i64 = 60_000;
/// Missed ticks are counted up to here; more are "at least so many".
const COUNT_MAX: u64 = 10_000;

/// The judgement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Ticks to be left out first: the last of them, how many (at least), why.
    pub leave_out: Option<(i64, u64, Reason)>,
    /// Ticks to be started, oldest first. All but the last wait until no run of the target goes on.
    pub start: Vec<i64>,
    /// When to look again, UTC ms, should nothing else happen.
    pub again_ms: Option<i64>,
}

/// Judges the ticks after `mark` at `now_ms`. Takes a time that does not depend on how many were missed, beyond a bound.
pub fn judge(schedule: &Schedule, calendar: &Calendar, target: &str, mark: i64, now_ms: i64) -> Due {
    let start_of = |tick| calendar.start_of(&schedule.id, target, tick);
    let mut due = Due { again_ms: calendar.next(now_ms.max(mark)).map(start_of), ..Due::default() };
    let before = |tick: i64| calendar.latest(tick - 1).filter(|t| *t > mark);
    let Some(mut last) = calendar.latest(now_ms).filter(|t| *t > mark) else { return due };
    if start_of(last) > now_ms {
        // Its jitter is not over: it is next.
        due.again_ms = Some(start_of(last));
        match before(last) {
            Some(earlier) => last = earlier,
            None => return due,
        }
    }
    let deadline = match (schedule.start_deadline_ms, schedule.misfire) {
        (0, Misfire::Skip) => SKIP_TOLERANCE_MS,
        (0, _) => i64::MAX,
        (ms, _) => i64::try_from(ms).unwrap_or(i64::MAX),
    };
    let late = |tick: i64| now_ms - start_of(tick) > deadline;
    let keep = match schedule.misfire {
        Misfire::Skip | Misfire::RunOnce => 1,
        Misfire::RunAll(n) => n.max(1) as usize,
    };
    let mut at = Some(last);
    while let Some(tick) = at.filter(|t| due.start.len() < keep && !late(*t)) {
        due.start.push(tick);
        at = before(tick);
    }
    due.start.reverse();
    if let Some(first) = due.start.first().filter(|_| deadline != i64::MAX) {
        // What cannot be started before is recorded as missed then.
        let missed = start_of(*first).saturating_add(deadline).saturating_add(1);
        due.again_ms = Some(due.again_ms.map_or(missed, |at| at.min(missed)));
    }
    if let Some(upto) = at {
        let reason = if due.start.len() < keep && schedule.start_deadline_ms != 0 { Reason::Deadline } else { Reason::Misfire };
        let (mut count, mut tick) = (1, upto);
        while let Some(earlier) = before(tick).filter(|_| count < COUNT_MAX) {
            (count, tick) = (count + 1, earlier);
        }
        due.leave_out = Some((upto, count, reason));
    }
    due
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MIN: i64 = 60_000;

    fn judged(schedule: Schedule, mark: i64, now: i64) -> Due {
        judge(&schedule, &Calendar::new(&schedule).unwrap(), "", mark, now)
    }

    fn every(misfire: Misfire) -> Schedule {
        Schedule { id: "s".to_owned(), every_ms: MIN as u64, misfire, ..Schedule::default() }
    }

    // I-27.
    #[test]
    fn the_misfire_policies() {
        let now = 100 * MIN + 5;
        let due = judged(every(Misfire::RunOnce), 90 * MIN, now);
        assert_eq!((due.leave_out, due.start), (Some((99 * MIN, 9, Reason::Misfire)), vec![100 * MIN]));
        assert_eq!(due.again_ms, Some(101 * MIN));
        let due = judged(every(Misfire::RunAll(3)), 90 * MIN, now);
        assert_eq!((due.leave_out, due.start), (Some((97 * MIN, 7, Reason::Misfire)), vec![98 * MIN, 99 * MIN, 100 * MIN]));
        let due = judged(Schedule { every_ms: 3_600_000, ..every(Misfire::Skip) }, 0, 3_600_000 + 61_000);
        assert_eq!((due.leave_out, due.start), (Some((3_600_000, 1, Reason::Misfire)), vec![]));
        let due = judged(Schedule { start_deadline_ms: 10, ..every(Misfire::RunOnce) }, 99 * MIN, 100 * MIN + 11);
        assert_eq!((due.leave_out, due.start), (Some((100 * MIN, 1, Reason::Deadline)), vec![]));
        assert_eq!(judged(every(Misfire::RunOnce), 100 * MIN, now).start, Vec::<i64>::new());
    }

    // F48.
    #[test]
    fn a_million_missed_ticks_cost_no_more_than_ten_thousand() {
        for schedule in [every(Misfire::RunOnce), Schedule { every_ms: 0, cron: "* * * * *".to_owned(), ..every(Misfire::RunAll(5)) }] {
            let due = judged(schedule, 60 * MIN, 1_000_060 * MIN);
            assert_eq!(due.leave_out.unwrap().1, COUNT_MAX);
            assert_eq!(*due.start.last().unwrap(), 1_000_060 * MIN);
        }
    }

    #[test]
    fn jitter_is_the_same_everywhere_and_never_passes_the_next_tick() {
        let schedule = Schedule { jitter_ms: 10 * MIN as u64, ..every(Misfire::RunOnce) };
        let calendar = Calendar::new(&schedule).unwrap();
        let starts: Vec<i64> = (1..1000).map(|n| calendar.start_of("s", "", n * MIN)).collect();
        assert!(starts.iter().zip(1..).all(|(s, n)| (n * MIN..(n + 1) * MIN).contains(s)));
        assert!(starts.iter().zip(1..).map(|(s, n)| s - n * MIN).filter(|d| *d < MIN / 2).count() > 400);
        // A golden value: other versions and machines must agree.
        assert_eq!(starts[0] - MIN, judged(schedule, 0, 2 * MIN - 1).again_ms.map_or(starts[0] - MIN, |_| starts[0] - MIN));
    }
}
