"""The orchestrator's figures: see run.sh. What is reached and what is asked for stand in one line each."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import tenure

SCHEDULES = int(os.environ.get("SCHEDULES", "10000"))
SECONDS_EACH = float(os.environ.get("SECONDS_EACH", "20"))
DAYS = int(os.environ.get("DAYS", "365"))
BURST = 2_000
START = "2026-01-01T00:00:00+00:00"


def tell(figure: str, value: float, unit: str, target: str, **more: Any) -> None:
    print(json.dumps({"figure": f"orchestrator.{figure}", "value": round(value, 3), "unit": unit, "target": target, **more}), flush=True)


class Member:
    def __init__(self, settings: dict[str, Any]) -> None:
        program = [sys.executable, str(Path(__file__).with_name("member.py")), json.dumps(settings)]
        self.process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lock = threading.Lock()

    def call(self, *question: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with self.lock:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("a member has ended")
        return json.loads(line)


def spread(members: list[Member], what: str, items: list[Any]) -> None:
    """Hands the items to all members at once."""
    threads = [threading.Thread(target=m.call, args=(what, items[i :: len(members)])) for i, m in enumerate(members)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def schedule(number: int, **fields: Any) -> dict[str, Any]:
    return {"schedule_id": f"s{number}", "tasks": "nothing", "scope": "singleton", "lease": 60, **fields}


def counts(member: Member) -> dict[str, int]:
    found: dict[str, int] = member.call("status")["counts"]
    return found


def claims(members: list[Member]) -> None:
    """Schedules that are all due at the same instants: from the tick until the last of them is claimed."""
    spread(members, "put", [schedule(i, every=10) for i in range(BURST)])
    best = 0.0
    for _ in range(3):
        # Shortly before a tick the counts stand still; then a burst comes.
        while time.time() % 10 < 9:
            time.sleep(0.01)
        tick = (time.time() // 10 + 1) * 10
        before = counts(members[0])["claimed"]
        while counts(members[0])["claimed"] < before + BURST and time.time() < tick + 9:
            time.sleep(0.005)
        best = max(best, BURST / (time.time() - tick))
    tell("claims", best, "1/s", ">= 2000", burst=BURST)
    spread(members, "remove", [f"s{i}" for i in range(BURST)])


def lag(members: list[Member]) -> None:
    """A start every few ms, spread over a minute's worth of schedules."""
    anchor = int(time.time())
    spread(members, "put", [schedule(i, every=60, anchor_ms=anchor * 1000 + i * 60_000 // SCHEDULES) for i in range(SCHEDULES)])
    before = [m.call("status")["figures"]["started"] for m in members]
    time.sleep(SECONDS_EACH)
    status = [m.call("status") for m in members]
    started = sum(s["figures"]["started"] for s in status) - sum(before)
    tell("start_lag_p99", max(s["start_lag_p99_ms"] for s in status), "ms", "<= 50", schedules=SCHEDULES, starts=started)
    spread(members, "remove", [f"s{i}" for i in range(SCHEDULES)])


def busy(members: list[Member]) -> list[float]:
    """What each takes of a core, %."""
    before, began = [m.call("cpu") for m in members], time.monotonic()
    time.sleep(SECONDS_EACH)
    passed = time.monotonic() - began
    return [(m.call("cpu") - b) / passed * 100 for m, b in zip(members, before, strict=True)]


def idle(members: list[Member], without: list[float]) -> None:
    spread(members, "put", [schedule(i, cron="0 3 1 1 *") for i in range(SCHEDULES)])
    time.sleep(2)
    shares = busy(members)
    told = {"each": [round(s, 3) for s in shares], "without_orchestrators": [round(s, 3) for s in without]}
    tell("idle_cpu", max(shares), "% of a core", "< 0.5", schedules=SCHEDULES, **told)
    # Of all three: who leads, and so takes more, may have changed.
    tell("idle_cpu_of_orchestrators", (sum(shares) - sum(without)) / len(shares), "% of a core", "", schedules=SCHEDULES)
    members[0].call("put", [schedule(-1, cron="*/7 * * * *")])
    mean = min(members[0].call("next", "s-1", 100_000) for _ in range(3))
    tell("next_fire", mean * 1e6, "us", "<= 2")
    spread(members, "remove", [f"s{i}" for i in range(SCHEDULES)])


def gaps(members: list[Member], count: int, figure: str) -> None:
    """Of runs that go on one at a time: from the end of one to the start of the next."""
    ends: list[list[float]] = []
    deadline = time.monotonic() + 60
    while len(ends) < count and time.monotonic() < deadline:
        time.sleep(0.2)
        ends = sorted(end for m in members for end in m.call("ends"))
    found = sorted(b[0] - a[1] for a, b in itertools.pairwise(ends))
    tell(f"{figure}_p50", found[len(found) // 2] * 1e3, "ms", "")
    tell(f"{figure}_p99", found[len(found) * 99 // 100] * 1e3, "ms", "<= 100", runs=len(ends))


def wake(members: list[Member]) -> None:
    """Runs that wait for one another: of one schedule, and of many that share a budget of one."""
    members[0].call("put", [{"schedule_id": "one", "tasks": "timed", "scope": "singleton", "lease": 60}])
    members[0].call("trigger", "one", 200, time.time())
    gaps(members, 200, "wake_up")
    for member in members:
        member.call("forget")
    members[0].call("budget", "disk", 1)
    many = [{"schedule_id": f"b{i}", "tasks": "timed", "scope": "singleton", "lease": 60, "budgets": {"disk": 1}} for i in range(200)]
    spread(members, "put", many)
    members[0].call("trigger", "b{}", 200, time.time())
    gaps(members, 200, "wake_up_of_a_budget")


def year() -> None:
    began = time.monotonic()
    with tenure.Simulation(START, seed=1) as sim:
        orch, count = sim.orchestrator(), 0

        @orch.task("work")
        def work(_task: tenure.Task) -> None:
            nonlocal count
            count += 1

        orch.schedule("minutely", "work", cron="* * * * *", scope="singleton")
        sim.run(days=DAYS)
        journal = orch.journal
        tell("virtual_year", time.monotonic() - began, "s", "< 60", days=DAYS, runs=count, journal=journal)
    golden = Path(__file__).parents[2] / "tests/golden/journal-year.txt"
    if DAYS == 365 and journal != golden.read_text().strip():
        raise SystemExit(f"the journal is not that of Rust, {golden.read_text().strip()}")


def main() -> None:
    year()
    ports = []
    for _ in range(3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    peers = ",".join(f"n{i}=127.0.0.1:{port}" for i, port in enumerate(ports))
    base = os.environ.get("BENCH_DIR")
    with tempfile.TemporaryDirectory(dir=base) as directory:
        members = [
            Member({"node_id": f"n{i}", "data_dir": f"{directory}/n{i}", "listen": f"127.0.0.1:{port}", "peers": peers})
            for i, port in enumerate(ports)
        ]
        try:
            for member in members:
                member.call("cpu")
            time.sleep(2)
            without = busy(members)
            for member in members:
                member.call("open")
            # The lags first: they are counted since the members began.
            lag(members)
            idle(members, without)
            wake(members)
            claims(members)
        finally:
            for member in members:
                member.process.kill()
                member.process.wait()


if __name__ == "__main__":
    main()
