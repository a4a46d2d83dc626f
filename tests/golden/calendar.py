"""Makes calendar.jsonl: ticks of cron expressions in time zones, found by looking at every minute with zoneinfo.

Nothing here is shared with the library: the expression is read by a few lines of its own, and civil times come from Python's time zone
data (package ``tzdata`` or the system's). Run it to make the vectors anew: ``python tests/golden/calendar.py``.
"""

import itertools
import json
import pathlib
import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
NAMES = {n: i for i, n in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}
NAMES |= {n: i + 1 for i, n in enumerate(["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"])}


def field(text: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        body, _, step = part.partition("/")
        first, _, last = body.partition("-")
        number = lambda word: NAMES.get(word.lower(), int(word) if word.isdigit() else -1)  # noqa: E731
        start = low if first == "*" else number(first)
        end = high if first == "*" else number(last) if last else (high if step else start)
        found.update(range(start, end + 1, int(step or 1)))
    return found


def matcher(expression: str):
    minute, hour, day, month, weekday = expression.split()
    minutes, hours = field(minute, 0, 59), field(hour, 0, 23)
    days, months = field(day, 1, 31), field(month, 1, 12)
    weekdays = {d % 7 for d in field(weekday, 0, 7)}

    def matches(t: datetime) -> bool:
        if t.minute not in minutes or t.hour not in hours or t.month not in months:
            return False
        on_day, on_weekday = t.day in days, t.isoweekday() % 7 in weekdays
        # Of day and weekday one will do, unless one of them is a plain star.
        return on_day and on_weekday if "*" in (day, weekday) else on_day or on_weekday

    return matches


def ticks(expression: str, zone: ZoneInfo, gap: str, fold: str, start: datetime, end: datetime) -> list[int]:
    matches, found = matcher(expression), []
    previous = (start - MINUTE).astimezone(zone).replace(tzinfo=None)
    instant = start
    while instant <= end:
        local = instant.astimezone(zone)
        civil = local.replace(tzinfo=None, fold=0)
        twice = local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()
        hit = matches(civil)
        if hit and twice:
            hit = fold == "both" or (fold == "first") == (local.fold == 0)
        missed = previous + MINUTE
        while gap == "shift" and not hit and missed < civil:
            hit, missed = matches(missed), missed + MINUTE
        if hit:
            found.append(int(instant.timestamp()))
        previous, instant = civil, instant + MINUTE
    return found


PLACES = [
    ("America/New_York", (2026, 3, 8), (2026, 11, 1)),
    ("Europe/Berlin", (2026, 3, 29), (2026, 10, 25)),
    ("Australia/Lord_Howe", (2026, 4, 5), (2026, 10, 4)),
    ("America/Sao_Paulo", (2018, 11, 4), (2019, 2, 17)),
    ("Africa/Casablanca", (2026, 2, 15), (2026, 3, 22)),
    ("Pacific/Apia", (2011, 12, 30), (2011, 9, 24)),
    ("Asia/Kathmandu", (2026, 5, 5), (1986, 1, 1)),
    ("UTC", (2024, 2, 29), (2026, 12, 31)),
]
FIXED = ["30 2 * * *", "30 1 * * *", "0 0 * * *", "15 */2 * * *", "*/30 1-3 * * *", "0 3 * * sun", "0 2 29 2 *", "59 23 31 12 *"]


def draw(rng: random.Random) -> str:
    minute = rng.choice(["0", str(rng.randrange(60)), "*/20", "5,35", "10-12"])
    hour = rng.choice(["*", str(rng.randrange(24)), "*/3", "1-3", "0,2,23"])
    day = rng.choice(["*", "*", str(rng.randrange(1, 32)), "1-7", "*/5"])
    month = rng.choice(["*", "*", "*", "mar-nov", "1,3,4,10,12", "*/2"])
    weekday = rng.choice(["*", "*", "mon-fri", "sun", "7", "2,sat"])
    return " ".join([minute, hour, day, month, weekday])


def main() -> None:
    rng, lines = random.Random(5), []
    for name, *changes in PLACES:
        zone = ZoneInfo(name)
        for date in changes:
            start = datetime(*date, tzinfo=UTC) - timedelta(days=2)
            end = start + timedelta(days=4)
            for expression in [*FIXED, *(draw(rng) for _ in range(6))]:
                for gap, fold in itertools.product(["shift", "skip"], ["first", "last", "both"]):
                    found = ticks(expression, zone, gap, fold, start, end)
                    case = {"cron": expression, "zone": name, "gap": gap, "fold": fold}
                    lines.append({**case, "from": int(start.timestamp()), "to": int(end.timestamp()), "ticks": found})
    for name, expression in [("Europe/Berlin", "30 2 * * *"), ("America/New_York", "0 1 * * 0"), ("Australia/Lord_Howe", "45 1 1,15 * *")]:
        start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
        found = ticks(expression, ZoneInfo(name), "shift", "first", start, end)
        case = {"cron": expression, "zone": name, "gap": "shift", "fold": "first"}
        lines.append({**case, "from": int(start.timestamp()), "to": int(end.timestamp()), "ticks": found})
    path = pathlib.Path(__file__).with_name("calendar.jsonl")
    path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


if __name__ == "__main__":
    main()
