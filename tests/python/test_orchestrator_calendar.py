"""Which instants are ticks, and when they may start: cron, periods, windows, through the orchestrator in virtual time."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

import tenure

# A Thursday.
START = datetime(2026, 1, 1, tzinfo=timezone.utc)
EVERY_FORM = [
    ("*/20 * * * *", ["2026-01-01T00:20", "2026-01-01T00:40", "2026-01-01T01:00"]),
    ("15 30 4 * * *", ["2026-01-01T04:30:15", "2026-01-02T04:30:15"]),
    ("*/15 * * * * *", ["2026-01-01T00:00:15", "2026-01-01T00:00:30"]),
    ("5,10 0 * * *", ["2026-01-01T00:05", "2026-01-01T00:10", "2026-01-02T00:05"]),
    ("0 9-11 * * *", ["2026-01-01T09:00", "2026-01-01T10:00", "2026-01-01T11:00", "2026-01-02T09:00"]),
    ("0 0-12/6 * * *", ["2026-01-01T06:00", "2026-01-01T12:00", "2026-01-02T00:00"]),
    ("0 0 * * mon-FRI", ["2026-01-02T00:00", "2026-01-05T00:00"]),
    ("0 0 1 JAN,jul *", ["2026-07-01T00:00", "2027-01-01T00:00"]),
    ("0 0 * * 0", ["2026-01-04T00:00", "2026-01-11T00:00"]),
    ("0 0 * * 7", ["2026-01-04T00:00", "2026-01-11T00:00"]),
    ("0 0 * * 4,6", ["2026-01-03T00:00", "2026-01-08T00:00"]),
    ("0 0 13 * 5", ["2026-01-02T00:00", "2026-01-09T00:00", "2026-01-13T00:00"]),
    ("0 0 L * *", ["2026-01-31T00:00", "2026-02-28T00:00"]),
    ("0 0 * * 5#2", ["2026-01-09T00:00", "2026-02-13T00:00"]),
    ("0 0 * * 5L", ["2026-01-30T00:00", "2026-02-27T00:00"]),
    ("@hourly", ["2026-01-01T01:00", "2026-01-01T02:00"]),
    ("@daily", ["2026-01-02T00:00", "2026-01-03T00:00"]),
    ("@weekly", ["2026-01-04T00:00", "2026-01-11T00:00"]),
    ("@monthly", ["2026-02-01T00:00", "2026-03-01T00:00"]),
    ("@yearly", ["2027-01-01T00:00", "2028-01-01T00:00"]),
]


@pytest.mark.parametrize(("cron", "wanted"), EVERY_FORM, ids=[cron for cron, _ in EVERY_FORM])
def test_every_form_of_an_expression(cron, wanted):
    with tenure.Simulation(START) as sim:
        orch, ran = sim.orchestrator(), []
        orch.task("work")(lambda task: ran.append(task.tick))
        orch.schedule("s", "work", cron=cron, scope="singleton")
        ticks = [datetime.fromisoformat(text).replace(tzinfo=timezone.utc) for text in wanted]
        assert orch.next_fires("s", len(ticks)) == ticks
        assert len(orch.next_fires("s")) == 10
        sim.run(until=ticks[-1])
        assert ran == ticks


# On the 29th of March clocks go forward in Berlin, on the 25th of October back.
@pytest.mark.parametrize("first", [datetime(2026, 3, 27, tzinfo=timezone.utc), datetime(2026, 10, 23, tzinfo=timezone.utc)])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_windows_are_in_the_zone_of_the_schedule_to_the_minute_and_on_their_days(first, zone):
    def minute(hours, minutes):
        return hours * 60 + minutes

    def may_run(tick):
        local = tick.astimezone(ZoneInfo(zone or "UTC"))
        at, yesterday = minute(local.hour, local.minute), local - timedelta(days=1)
        # Weekdays of Python: 4 is Friday, 6 is Sunday.
        night = (local.weekday() in (4, 6) and at >= minute(23, 35)) or (yesterday.weekday() in (4, 6) and at < minute(3, 10))
        return (night or minute(12, 5) <= at < minute(13, 50)) and not minute(12, 30) <= at < minute(12, 45)

    with tenure.Simulation(first) as sim:
        orch, ran = sim.orchestrator(), []
        orch.task("work")(lambda task: ran.append(task.tick))
        fields = {} if zone is None else {"zone": zone}
        windows = [("23:35", "03:10", ["fri", "sun"]), ("12:05", "13:50")]
        orch.schedule("s", "work", every=300, scope="singleton", windows=windows, blackouts=[("12:30", "12:45")], **fields)
        sim.run(days=4)
        all_ticks = [first + timedelta(minutes=5 * n) for n in range(1, 4 * 288 + 1)]
        assert ran == [tick for tick in all_ticks if may_run(tick)]
        counts = orch.status()["counts"]
        assert counts["skipped"] == len(all_ticks) - len(ran) == counts["reasons"]["window"] + counts["reasons"]["blackout"]
        assert counts["reasons"]["blackout"] == 4 * 3
