"""A job for the members of ``cluster.py``: it writes to a database that checks tokens, and tells what became of it."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

import tenure


class Database:
    """A SQLite file that takes no write under a token below one that it has seen."""

    def __init__(self, path: str) -> None:
        self.path = path
        with self.open() as db:
            db.execute("CREATE TABLE IF NOT EXISTS fence (one INTEGER PRIMARY KEY, record BLOB)")
            db.execute("CREATE TABLE IF NOT EXISTS writes (number INTEGER PRIMARY KEY, token INTEGER)")

    @contextlib.contextmanager
    def open(self) -> Any:
        db = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        try:
            db.execute("BEGIN IMMEDIATE")
            with db:
                yield db
        finally:
            db.close()

    def write(self, token: int) -> None:
        with self.open() as db:
            stored = db.execute("SELECT record FROM fence").fetchone()
            admitted = tenure.admit_epoch(stored[0] if stored else None, token)
            db.execute("INSERT OR REPLACE INTO fence VALUES (1, ?)", (admitted.record,))
            db.execute("INSERT INTO writes (token) VALUES (?)", (token,))

    def tokens(self) -> list[int]:
        """Of all writes, in their order."""
        with self.open() as db:
            return [token for (token,) in db.execute("SELECT token FROM writes ORDER BY number")]


class Jobs:
    """An orchestrator with one kind of task, ``work``: it writes once, and goes on until it is let go or told to stop."""

    def __init__(self, node: tenure.Node, database: str) -> None:
        self.database = Database(database)
        self.go = threading.Event()
        self.told: list[dict[str, Any]] = []
        self.orch = node.orchestrator(ramp_up=0)
        self.orch.task("work")(self.work)

    def work(self, task: tenure.Task) -> None:
        self.database.write(task.token)
        seen: dict[str, Any] = {"key": task.idempotency_key, "run": task.run, "attempt": task.attempt, "token": task.token}
        self.told.append(seen)
        while not self.go.is_set() and not task.wait_cancelled(0.05):
            pass
        # Whatever it is told, it does what it came for: everything that it can be refused by.
        seen["stop"] = task.stop_reason
        seen["check"] = said(task.check)
        seen["write"] = said(lambda: self.database.write(task.token))
        seen["checkpoint"] = said(lambda: task.save_checkpoint(b"mine"))
        seen["ended"] = True


def said(call: Callable[[], object]) -> str:
    """The name of what it raises; empty when it does not."""
    try:
        call()
    except tenure.Error as error:
        return type(error).__name__
    return ""
