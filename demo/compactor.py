"""One node of the orchestrator's demo: a member of the cluster that compacts its own database when a run is given to it.

Its argument is JSON; it tells what it does in lines of JSON: ``[name, what, idempotency_key, attempt, token, seconds]``.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import redis

import tenure

_writing = threading.Lock()


def tell(*facts: Any) -> None:
    with _writing:
        print(json.dumps([*facts, time.time()]), flush=True)


def main() -> None:
    given = json.loads(sys.argv[1])
    name = given["name"]
    node = tenure.Node(node_id=name, data_dir=given["directory"], listen=given["listen"], peers=given["peers"], session_ttl=2)
    node.wait_ready(60)
    orch = node.orchestrator(ramp_up=0, lock_only=given["lock_only"], wall_offset=given["offset"])
    database = redis.Redis("127.0.0.1", given["database"])

    @orch.task("compaction")
    def compact(task: tenure.Task) -> None:
        tell(name, "start", task.idempotency_key, task.attempt, task.token)
        database.execute_command("COMPACT")
        tell(name, "compacted", task.idempotency_key, task.attempt, task.token)

    @orch.task("slow")
    def slow(task: tenure.Task) -> None:
        tell(name, "start", task.idempotency_key, task.attempt, task.token)
        first = int(task.checkpoint or b"0")
        for piece in range(first, 8):
            database.execute_command("COMPACT")
            time.sleep(0.3)
            try:
                # Before the piece is called done: is the run still this attempt's?
                task.check()
                task.save_checkpoint(str(piece + 1).encode())
            except tenure.Error as error:
                tell(name, "refused", task.idempotency_key, task.attempt, task.token)
                raise error from None
        tell(name, "done", task.idempotency_key, task.attempt, task.token)

    def put(schedule_id: str, kind: str, **fields: Any) -> None:
        while True:
            try:
                orch.schedule(schedule_id, kind, scope="singleton", **fields)
                return
            except tenure.Error:
                time.sleep(0.1)

    if given["every"]:
        put("compaction", "compaction", every=given["every"])
    tell(name, "ready", "", 0, 0)
    for line in sys.stdin:
        if line.strip() == "slow":
            put("slow", "slow", lease=1.5, lost_retries=3)
            orch.run_now("slow")
        elif line.strip() == "stop":
            break
    orch.close(1)


if __name__ == "__main__":
    main()
