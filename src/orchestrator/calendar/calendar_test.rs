//! The calendar against vectors made with Python's zoneinfo, and its windows against every minute.

use std::collections::BTreeSet;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use proptest::prelude::*;

use super::*;
use crate::ledger::orch::{Fold, Gap, Window};

#[derive(serde::Deserialize)]
struct Vector {
    cron: String,
    zone: String,
    gap: Gap,
    fold: Fold,
    from: i64,
    to: i64,
    ticks: Vec<i64>,
}

#[test]
fn ticks_are_those_that_zoneinfo_finds() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/calendar.jsonl")).unwrap();
    let vectors: Vec<Vector> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(vectors.len() > 1000);
    for v in vectors {
        let name = format!("{} in {} with {:?}, {:?}", v.cron, v.zone, v.gap, v.fold);
        let calendar = Calendar::new(&Schedule { cron: v.cron, zone: v.zone, gap: v.gap, fold: v.fold, ..Schedule::default() }).unwrap();
        let (mut at, mut found) = (v.from * 1000 - 1, Vec::new());
        while let Some(tick) = calendar.next(at).filter(|t| *t <= v.to * 1000) {
            found.push(tick / 1000);
            at = tick;
        }
        assert_eq!(found, v.ticks, "{name}, forward");
        let (mut at, mut found) = (v.to * 1000, Vec::new());
        while let Some(tick) = calendar.latest(at).filter(|t| *t >= v.from * 1000) {
            found.push(tick / 1000);
            at = tick - 1;
        }
        found.reverse();
        assert_eq!(found, v.ticks, "{name}, backward");
    }
}

#[test]
fn what_is_no_expression_or_zone_is_refused_by_name() {
    for bad in ["", "* * *", "61 * * * *", "* * * * * * *", "a b c d e", "0 0 30 2 *", "*/0 * * * *", "5-1 * * * *"] {
        let error = Calendar::new(&Schedule { cron: format!("{bad} "), ..Schedule::default() }).unwrap_err();
        assert!(error.message().starts_with("cron: "), "{bad}: {error}");
    }
    let error = Calendar::new(&Schedule { zone: "Mars/Olympus".to_owned(), ..Schedule::default() }).unwrap_err();
    assert!(error.message().contains("Mars/Olympus"));
    assert!(zone_data().starts_with("20"));
}

#[test]
fn nicknames_seconds_lists_and_the_last_day() {
    // 2026-01-01T00:00:00Z, a Thursday.
    let start = 1_767_225_600_000;
    let next = |cron: &str| Calendar::new(&Schedule { cron: cron.to_owned(), ..Schedule::default() }).unwrap().next(start).unwrap() - start;
    let (minute, hour, day) = (60_000, 3_600_000, 86_400_000);
    assert_eq!(next("@hourly"), hour);
    assert_eq!(next("@daily"), day);
    assert_eq!(next("@weekly"), 3 * day);
    assert_eq!(next("*/15 * * * * *"), 15_000);
    assert_eq!(next("5,10 * * * mon-FRI"), 5 * minute);
    assert_eq!(next("0 0 L * *"), 30 * day);
    assert_eq!(next("0 0 * * 5#2"), 8 * day);
    assert_eq!(next("0 0 * * 7"), 3 * day);
    assert_eq!(next("0 0 * * 0"), 3 * day);
    assert_eq!(next("0 0 29 2 *"), (365 + 365 + 31 + 28) * day);
}

#[test]
fn a_quarter_of_minutes_in_a_zone() {
    let calendar = Calendar::new(&Schedule {
        cron: "* * * * *".to_owned(),
        zone: "Europe/Berlin".to_owned(),
        fold: Fold::Both,
        ..Schedule::default()
    });
    let calendar = calendar.unwrap();
    let (mut at, mut count) = (1_767_225_600_000 - 1, 0);
    while let Some(tick) = calendar.next(at).filter(|t| *t < 1_775_001_600_000) {
        assert_eq!(tick % 60_000, 0);
        (at, count) = (tick, count + 1);
    }
    assert_eq!(count, 90 * 1440);
}

fn window() -> impl Strategy<Value = Window> {
    (0u16..1440, 0u16..1440, 1u8..=0x7f).prop_map(|(from_min, to_min, days)| Window { from_min, to_min, days })
}

/// Every civil minute of the window in the days around `start`, marked one by one from each of its openings.
fn minutes(window: &Window, start: i64) -> BTreeSet<DateTime> {
    let first = Timestamp::from_second(start).unwrap().to_zoned(TimeZone::UTC).date().checked_sub(Span::new().days(3)).unwrap();
    let length = (i64::from(window.to_min) - i64::from(window.from_min)).rem_euclid(1440);
    let length = if length == 0 { 1440 } else { length };
    let mut marked = BTreeSet::new();
    for day in (0..8).map(|n| first.checked_add(Span::new().days(n)).unwrap()) {
        if window.days >> day.weekday().to_sunday_zero_offset() & 1 == 1 {
            let opens = day.at(0, 0, 0, 0).checked_add(Span::new().minutes(i64::from(window.from_min))).unwrap();
            marked.extend((0..length).map(|n| opens.checked_add(Span::new().minutes(n)).unwrap()));
        }
    }
    marked
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    // I-27.
    #[test]
    fn windows_are_those_of_every_minute(
        windows in proptest::collection::vec(window(), 0..3),
        blackouts in proptest::collection::vec(window(), 0..2),
        place in 0usize..4,
        day in 0i64..365,
    ) {
        let name = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"][place];
        let schedule = Schedule { windows: windows.clone(), blackouts: blackouts.clone(), zone: name.to_owned(), ..Schedule::default() };
        let calendar = Calendar::new(&schedule).unwrap();
        let zone = super::zone(name).unwrap();
        // Half of the cases begin on a day on which clocks change.
        let changes = [1_774_742_400, 1_792_886_400, 1_772_928_000, 1_793_491_200, 1_775_347_200, 1_791_072_000];
        let start = if day % 2 == 0 { changes[(day as usize / 2) % changes.len()] - 43_200 } else { 1_767_225_600 + day * 86_400 };
        let wide: Vec<_> = windows.iter().map(|w| minutes(w, start)).collect();
        let shut: Vec<_> = blackouts.iter().map(|w| minutes(w, start)).collect();
        let mut promised: Option<(View, i64)> = None;
        for at in (start..start + 2 * 86_400).step_by(60) {
            let local = Timestamp::from_second(at).unwrap().to_zoned(zone.clone()).datetime();
            let closed = shut.iter().any(|w| w.contains(&local));
            let open = windows.is_empty() || wide.iter().any(|w| w.contains(&local));
            let view = calendar.view(at * 1000);
            let until = match view {
                View::Blackout { until_ms } => { prop_assert!(closed, "{at}"); until_ms }
                View::Open { until_ms } => { prop_assert!(open && !closed, "{at}"); until_ms }
                View::Outside { until_ms } => { prop_assert!(!open && !closed, "{at}"); until_ms }
            };
            if let Some((before, until_before)) = promised {
                let same = std::mem::discriminant(&before) == std::mem::discriminant(&view);
                prop_assert_eq!(same, at * 1000 < until_before, "what was promised until {} changed at {}", until_before, at);
                prop_assert!(!same || until == until_before);
            }
            promised = Some((view, until));
        }
    }
}
