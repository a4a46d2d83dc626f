"""A process with one node in it, moved by lines of JSON on its standard input. Started by ``cluster.py``.

Question: ``{"n": 1, "call": "try_acquire", "args": ["k"], "kwargs": {"ttl": 5}}``; each runs on a thread of its own.
Answer: ``{"n": 1, "value": ...}`` or ``{"n": 1, "error": "UnavailableError", "message": "..."}``, in the order in which they end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import sys
import threading
from typing import Any

import tenure
from jobs import Jobs
from soakload import Load
from workload import Work

_writing = threading.Lock()


def say(answer: dict[str, Any]) -> None:
    with _writing:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


class Calls:
    """What the node can be asked for, and a few things that need to be remembered between questions."""

    def __init__(self, node: tenure.Node) -> None:
        self.node = node
        self.grants: dict[int, tenure.Grant] = {}
        self.events: list[dict[str, Any]] = []
        self.workers: list[Work] = []
        node.on_event(lambda event: self.events.append(plain(event)))

    def keep(self, grant: tenure.Grant | None) -> int | None:
        if grant is None:
            return None
        self.grants[grant.token] = grant
        return grant.token

    def try_acquire(self, *args: Any, **kwargs: Any) -> int | None:
        return self.keep(self.node.try_acquire(*args, **kwargs))

    def acquire(self, *args: Any, **kwargs: Any) -> int | None:
        return self.keep(self.node.acquire(*args, **kwargs))

    def release(self, token: int) -> None:
        self.grants.pop(token).release()

    def remaining(self, token: int) -> float:
        return self.grants[token].remaining

    def campaign(self, office: str, ttl: float) -> None:
        self.gate = self.node.gate("gate")
        self.gate.hold(office, ttl)

    def epoch(self) -> int | None:
        """That of its gate, if a write would be let in."""
        return self.gate.require() if self.gate.check() else None

    def resign_to(self, node: str) -> None:
        self.gate.resign_to(node, 60.0)

    def govern(self, key: str, ttl: float) -> int:
        """Becomes the granter, unless another one is; then it raises HeldError."""
        self.granter = self.node.granter(key, ttl=ttl, timeout=0)
        return self.granter.term

    def promote(self, office: str, holder: str) -> int:
        return self.granter.promote(office, holder)

    def send(self, office: str, ttl: float, nonce: int) -> Any:
        return self.granter.heartbeat(office, ttl, nonce)

    def seen(self) -> list[dict[str, Any]]:
        return list(self.events)

    def work(self, *args: Any, **kwargs: Any) -> None:
        self.workers.append(Work(self.node, *args, **kwargs))

    def work_done(self) -> int:
        return sum(worker.done for worker in self.workers)

    def work_stop(self) -> None:
        while self.workers:
            self.workers.pop().stop()

    def job(self, database: str) -> None:
        self.jobs = Jobs(self.node, database)

    def job_schedule(self, schedule_id: str, **fields: Any) -> int:
        return self.jobs.orch.schedule(schedule_id, "work", **fields)

    def job_run(self, schedule_id: str, **how: Any) -> int:
        return self.jobs.orch.run_now(schedule_id, **how)

    def job_line(self, run: int) -> dict[str, Any]:
        return {name: value for name, value in (self.jobs.orch.run(run) or {}).items() if name in ("state", "attempt", "token", "node")}

    def job_counts(self) -> dict[str, int]:
        counts: dict[str, int] = self.jobs.orch.status()["counts"]
        return counts

    def job_told(self) -> list[dict[str, Any]]:
        return list(self.jobs.told)

    def job_drives(self) -> bool:
        """False also while no majority answers: the status counts what the ledger has counted."""
        with contextlib.suppress(tenure.UnavailableError):
            return bool(self.jobs.orch.status()["drives"])
        return False

    def job_go(self) -> None:
        self.jobs.go.set()

    def load(self, *args: Any) -> None:
        self.loaded = Load(self.node, *args)

    def load_report(self) -> dict[str, int]:
        return self.loaded.report()

    def load_tokens(self) -> dict[str, int]:
        return self.loaded.tokens()

    def load_rest(self) -> None:
        self.loaded.rest()


def plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if value is None or isinstance(value, (str, int, float, bool, dict)):
        return value
    return repr(value)


def answer(calls: Calls, question: dict[str, Any]) -> None:
    try:
        name = question["call"]
        call = getattr(calls, name, None) or getattr(calls.node, name)
        value = call(*question["args"], **question["kwargs"]) if callable(call) else call
        say({"n": question["n"], "value": plain(value)})
    except Exception as error:
        say({"n": question["n"], "error": type(error).__name__, "message": str(error)})


def main() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(relativeCreated)d %(message)s")
    try:
        node = tenure.Node(**json.loads(sys.argv[1]))
    except tenure.Error as error:
        say({"n": 0, "error": type(error).__name__, "message": str(error)})
        return
    calls = Calls(node)
    say({"n": 0, "value": node.node_id})
    for line in sys.stdin:
        threading.Thread(target=answer, args=(calls, json.loads(line)), daemon=True).start()
    with contextlib.suppress(tenure.LockTimeout):
        node.close()


if __name__ == "__main__":
    main()
