"""``tenure schedules``: what the orchestrator does and when, and a hand on it."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import tenure
from tenure.cli.common import Usage, connect, seconds
from tenure.cli.output import Output, printable

Act = Callable[[argparse.Namespace, tenure.Orchestrator, Output], int]

_LOOK = 0.2
"""Seconds between two looks at a run."""
_GOING = ("due", "running", "cancelling")
_PAGE = 500
_SCHEDULE_COLUMNS = ("id", "fires", "tasks", "scope", "enabled", "paused", "next")
_RUN_COLUMNS = ("run", "tick", "target", "state", "attempt", "worker", "started", "ended", "reason")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    acts = parser.add_subparsers(dest="act", metavar="ACTION")
    parser.set_defaults(does=_list)

    def add(name: str, does: Act, text: str, *, schedule: bool = True) -> argparse.ArgumentParser:
        act = acts.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        act.set_defaults(does=does)
        if schedule:
            act.add_argument("schedule", metavar="SCHEDULE", help="its id")
        return act

    add("list", _list, "list the schedules and when each fires next (the default)", schedule=False)
    add("show", _show, "show one schedule: definition, pause, runs")
    pause = add("pause", _pause, "start nothing more of a schedule; what runs goes on")
    pause.add_argument("--note", default="", help="why, for those who look")
    pause.add_argument("--for", metavar="SECONDS", type=seconds, dest="duration", help="until then (default: until `resume`)")
    add("resume", _resume, "end a pause")
    run_now = add("run", _run_now, "start a run now")
    run_now.add_argument("--key", default="", help="asking again with the same key starts nothing more")
    run_now.add_argument("--target", default="", help="the node or shard, for schedules that have one for each")
    run_now.add_argument("--force", action="store_true", help="outside the schedule's windows too")
    run_now.add_argument("--params", metavar="JSON", help="parameters of this run")
    run_now.add_argument("--wait", action="store_true", help="wait until it has ended; exit status 1 unless it succeeded")
    history = add("history", _history, "show how the latest runs ended, oldest first")
    history.add_argument("-n", type=int, default=20, dest="count", metavar="N", help="at most so many (default: 20)")
    following = add("next", _next, "show when a schedule fires next")
    following.add_argument("-n", type=int, default=5, dest="count", metavar="N", help="so many times (default: 5)")


def run(given: argparse.Namespace, out: Output) -> int:
    """Runs the command."""
    with connect(given) as client, client.orchestrator(drive=False) as orch:
        does: Act = given.does
        return does(given, orch, out)


def _list(_given: argparse.Namespace, orch: tenure.Orchestrator, out: Output) -> int:
    rows: list[dict[str, Any]] = []
    while page := orch.schedules(rows[-1]["id"] if rows else "", _PAGE):
        for entry in page:
            definition = entry["definition"]
            rows.append(
                {
                    "id": definition["id"],
                    "fires": _fires(definition),
                    "tasks": ",".join(task["kind"] for task in definition["tasks"]),
                    "scope": _scope(definition["scope"]),
                    "enabled": definition["enabled"],
                    "paused": bool(entry["paused"]),
                    "next": _first(orch, definition["id"]),
                }
            )
    out.table(rows, _SCHEDULE_COLUMNS, "no schedules")
    return 0


def _show(given: argparse.Namespace, orch: tenure.Orchestrator, out: Output) -> int:
    entry = _existing(given, orch)
    if out.as_json:
        out.value(entry, "")
        return 0
    lines = [f"{name}: {value}" for name, value in entry["definition"].items() if value not in (None, "", [], {})]
    out.value(entry, [printable(line) for line in lines])
    if entry["paused"]:
        out.value(entry, printable(f"paused until {entry['paused']['until'] or 'resumed'}: {entry['paused']['note'] or 'no note'}"))
    out.table(entry["runs"], _RUN_COLUMNS, "nothing runs")
    return 0


def _pause(given: argparse.Namespace, orch: tenure.Orchestrator, out: Output) -> int:
    until = None if given.duration is None else datetime.fromtimestamp(time.time() + given.duration).astimezone()
    orch.pause(given.schedule, given.note, until)
    out.value({"paused": given.schedule, "until": until}, f"{printable(given.schedule)}: paused{f' until {until}' if until else ''}")
    return 0


def _resume(given: argparse.Namespace, orch: tenure.Orchestrator, out: Output) -> int:
    orch.unpause(given.schedule)
    out.value({"resumed": given.schedule}, f"{printable(given.schedule)}: goes on")
    return 0


def _run_now(given: argparse.Namespace, orch: tenure.Orchestrator, out: Output) -> int:
    number = orch.run_now(given.schedule, key=given.key, target=given.target, force=given.force, params=given.params)
    out.value({"schedule": given.schedule, "run": number}, f"{printable(given.schedule)}: run {number}")
    if not given.wait:
        return 0
    began = time.monotonic()
    while True:
        found = orch.run(number) or {"state": "forgotten", "reason": "no history remembers how it ended"}
        if found.get("state") not in _GOING:
            break
        out.progress(f"tenure: run {number}: {found['state']}, {time.monotonic() - began:.0f} s")
        time.sleep(_LOOK)
    out.progress_done()
    out.value(found, f"run {number}: {found['state']}{': ' + printable(found['reason']) if found.get('reason') else ''}")
    return 0 if found["state"] == "succeeded" else 1


def _history(given: argparse.Namespace, orch: tenure.Orchestrator, out: Output) -> int:
    _existing(given, orch)
    out.table(orch.history(given.schedule, given.count) or [], _RUN_COLUMNS, "nothing has ended yet")
    return 0


def _next(given: argparse.Namespace, orch: tenure.Orchestrator, out: Output) -> int:
    _existing(given, orch)
    for fire in orch.next_fires(given.schedule, given.count):
        out.value(fire, fire.isoformat())
    return 0


def _existing(given: argparse.Namespace, orch: tenure.Orchestrator) -> dict[str, Any]:
    entry = orch.get(given.schedule)
    if entry is None:
        raise Usage(f"there is no schedule {printable(given.schedule)}")
    return entry


def _first(orch: tenure.Orchestrator, schedule: str) -> datetime | None:
    with contextlib.suppress(tenure.InvalidArgumentError):
        return next(iter(orch.next_fires(schedule, 1)), None)
    return None


def _fires(definition: dict[str, Any]) -> str:
    return str(definition.get("cron") or (definition.get("every_ms") and f"every {definition['every_ms'] / 1000:g} s") or "when asked")


def _scope(scope: Any) -> str:
    return scope if isinstance(scope, str) else ",".join(scope)
