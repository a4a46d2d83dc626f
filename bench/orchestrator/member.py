"""A member of the cluster that is measured. Its argument is JSON; lines of JSON on its input are calls, answered by a line each."""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from typing import Any

import tenure


class Calls:
    """What a line asks for, by its first word."""

    def __init__(self, node: tenure.Node) -> None:
        self.node = node
        self.spans: list[tuple[float, float]] = []
        self.lock = threading.Lock()

    def timed(self, _task: tenure.Task) -> None:
        began = time.monotonic()
        with self.lock:
            self.spans.append((began, time.monotonic()))

    def cpu(self) -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    def open(self) -> None:
        self.orch = self.node.orchestrator(ramp_up=0)
        self.orch.task("nothing")(lambda _task: None)
        self.orch.task("timed")(self.timed)

    def put(self, schedules: list[dict[str, Any]]) -> None:
        for fields in schedules:
            self.orch.schedule(**fields)

    def remove(self, schedules: list[str]) -> None:
        for schedule in schedules:
            self.orch.remove(schedule)

    def budget(self, name: str, limit: int) -> None:
        self.orch.set_budget(name, limit)

    def trigger(self, name: str, count: int, key: float) -> None:
        for i in range(count):
            self.orch.run_now(name.format(i), key=f"{key}-{i}")

    def ends(self) -> list[tuple[float, float]]:
        return list(self.spans)

    def forget(self) -> None:
        self.spans.clear()

    def next(self, schedule: str, count: int) -> float:
        """What a tick takes, without the making of a datetime of it."""
        began = time.perf_counter()
        found = len(self.orch._core.next_fires(schedule, None, count))
        return (time.perf_counter() - began) / found

    def status(self) -> dict[str, Any]:
        return self.orch.status()


def main() -> None:
    node = tenure.Node(**json.loads(sys.argv[1]))
    node.wait_ready(60)
    calls = Calls(node)
    for line in sys.stdin:
        what, *args = json.loads(line)
        print(json.dumps(getattr(calls, what)(*args)), flush=True)


if __name__ == "__main__":
    main()
