"""A member of the cluster that is measured. Its argument is JSON; lines of JSON on its input are calls, answered by a line each."""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from typing import Any

import tenure


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    given = json.loads(sys.argv[1])
    node = tenure.Node(**given)
    node.wait_ready(60)
    orch = node.orchestrator(ramp_up=0)
    ends: list[tuple[float, float]] = []
    lock = threading.Lock()

    @orch.task("nothing")
    def nothing(_task: tenure.Task) -> None:
        return

    @orch.task("timed")
    def timed(_task: tenure.Task) -> None:
        began = time.monotonic()
        with lock:
            ends.append((began, time.monotonic()))

    def call(what: str, *args: Any) -> Any:
        if what == "put":
            for text in args[0]:
                orch.schedule(**text)
            return len(args[0])
        if what == "remove":
            for schedule in args[0]:
                orch.remove(schedule)
            return len(args[0])
        if what == "trigger":
            for i in range(args[1]):
                orch.run_now(args[0], key=f"{args[2]}-{i}")
            return args[1]
        if what == "ends":
            return list(ends)
        if what == "next":
            began = time.perf_counter()
            count = len(orch.next_fires(args[0], args[1]))
            return (time.perf_counter() - began) / count
        return {"status": orch.status(), "cpu": cpu_s(), "now": time.monotonic()}[what]

    for line in sys.stdin:
        what, *args = json.loads(line)
        print(json.dumps(call(what, *args)), flush=True)


if __name__ == "__main__":
    main()
