"""Processes that take locks and write under their tokens, and the check of what they say they did.

Each process writes down what it did, line by line, in a file of its own: what it has written it has done, even if it is killed.
Times are of CLOCK_MONOTONIC, which is one for all processes of a machine.
"""

from __future__ import annotations

import json
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import tenure
from native import history_checker


class Resource:
    """What the lock protects: a service that remembers the highest token that has touched a key, and refuses lower ones.

    Each key has a list of what was added to it, rewritten as a whole: two writers at once would lose some of it.
    """

    def __init__(self) -> None:
        self.values: dict[str, list[int]] = {}
        self._tokens: dict[str, int] = {}
        self._lock = threading.Lock()
        # A socket of the file system: other network namespaces reach it, and its name must be short.
        self._directory = tempfile.TemporaryDirectory(prefix="tenure-")
        self.path = f"{self._directory.name}/resource"
        resource = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                for line in self.rfile:
                    self.wfile.write(json.dumps(resource.answer(**json.loads(line))).encode() + b"\n")

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A killed client's connection breaks."""

        self._server = Server(self.path, Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def answer(self, key: str, token: int, value: list[int] | None = None) -> Any:
        """To a read: what is there, or nothing when a higher token was here. To a write: whether it was done."""
        with self._lock:
            if self._tokens.get(key, 0) > token:
                return None
            self._tokens[key] = max(self._tokens.get(key, 0), token)
            if value is not None:
                self.values[key] = value
                return True
            return self.values.get(key, [])

    def __enter__(self) -> Resource:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._directory.cleanup()


class Remote:
    """A connection to the resource."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._lines = self._socket.makefile("rwb")

    def ask(self, **question: Any) -> Any:
        self._lines.write(json.dumps(question).encode() + b"\n")
        self._lines.flush()
        return json.loads(self._lines.readline())

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


class Work:
    """Threads that acquire, read, write and release until they are told to stop."""

    def __init__(self, node: tenure.Node, number: int, resource: str, record: str, keys: Sequence[str], ttl: float) -> None:
        self.node = node
        self.ttl = ttl
        self.done = 0
        self._element = number * 1_000_000
        self._resource = Remote(resource)
        self._record = Path(record).open("a", buffering=1)  # noqa: SIM115
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(list(keys),), daemon=True)
        self._thread.start()

    def _say(self, what: str, **about: Any) -> None:
        self._record.write(json.dumps({"what": what, **about}) + "\n")

    def _run(self, keys: list[str]) -> None:
        turn = 0
        while not self._stop.is_set():
            turn += 1
            key = keys[turn % len(keys)]
            asked = time.monotonic()
            try:
                grant = self.node.acquire(key, ttl=self.ttl, timeout=2.0)
            except tenure.LockTimeout:
                continue
            except tenure.UnavailableError:
                self._say("lost", key=key, asked=asked)
                self._stop.wait(0.02)
                continue
            except tenure.Error as error:
                self._say("refused", why=repr(error))
                self._stop.wait(0.1)
                continue
            granted = time.monotonic()
            self._say("granted", key=key, token=grant.token, asked=asked, granted=granted, ttl=self.ttl)
            self._write(key, grant, granted)
            self._release(key, grant)
            self._stop.wait(0.002)

    def _release(self, key: str, grant: tenure.Grant) -> None:
        # Written down before it is done: whoever is killed in between may have done it.
        asked = time.monotonic()
        self._say("releasing", key=key, token=grant.token, asked=asked)
        try:
            grant.release()
        except tenure.NotHolderError:
            self._say("stale-release", key=key, token=grant.token, asked=asked, answered=time.monotonic())
        except tenure.Error:
            pass

    def _write(self, key: str, grant: tenure.Grant, granted: float) -> None:
        there = self._resource.ask(key=key, token=grant.token)
        self._held(key, grant, granted)
        if there is None:
            self._say("stale", key=key, token=grant.token)
            return
        self._element += 1
        if self._resource.ask(key=key, token=grant.token, value=[*there, self._element]):
            self.done += 1
            self._say("added", key=key, token=grant.token, element=self._element)
        else:
            self._say("stale", key=key, token=grant.token)
        self._held(key, grant, granted)

    def _held(self, key: str, grant: tenure.Grant, granted: float) -> None:
        """Writes down that it believed to hold the lock at this time: read before it was asked, so true then."""
        now = time.monotonic()
        if grant.remaining > 0:
            self._say("held", key=key, token=grant.token, since=granted, to=now)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._record.close()
        self._resource.close()


def history(where: Path) -> list[dict[str, Any]]:
    """What all processes have written down in files ``*.history``; a line that a kill has cut off is none."""
    lines = []
    for path in sorted(where.glob("*.history")):
        whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        lines += [{**json.loads(line), "by": path.stem} for line in whole]
    return lines


def operations(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same in the form of ``sim/history.rs``."""

    def ns(seconds: float) -> int:
        return int(seconds * 1e9)

    found = []
    # Of a release that found nothing to give back the answer counts, not the question.
    stale = {(line["by"], line["token"]) for line in lines if line["what"] == "stale-release"}
    for line in lines:
        about = {"key": line.get("key"), "by": line["by"], "token": line.get("token")}
        match line["what"]:
            case "granted":
                times = {"call": ns(line["asked"]), "ret": ns(line["granted"]), "ttl": ns(line.get("ttl", 0))}
                found.append({**about, **times, "op": "acquire", "result": "granted"})
            case "lost":
                found.append({**about, "call": ns(line["asked"]), "op": "acquire", "result": "unknown"})
            case "held":
                found.append({**about, "call": ns(line["to"]), "op": "held", "result": "held"})
            case "releasing" if (line["by"], line["token"]) not in stale:
                # A release may be answered before it is durable; should its leader fail it is made again, so its effect can come later.
                found.append({**about, "call": ns(line["asked"]), "op": "release", "result": "unknown"})
            case "stale-release":
                times = {"call": ns(line["asked"]), "ret": ns(line["answered"])}
                found.append({**about, **times, "op": "release", "result": "stale"})
    return found


def check_order(lines: Sequence[dict[str, Any]], where: Path) -> str:
    """Asserts that there is an order of all operations that explains every answer (I-17); what the simulator's checker says."""
    path = where / "operations.jsonl"
    path.write_text("".join(json.dumps(operation) + "\n" for operation in operations(lines)))
    run = subprocess.run([history_checker(), path], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def check(lines: Sequence[dict[str, Any]], stored: dict[str, list[int]]) -> dict[str, int]:
    """Asserts what must hold of any history, and counts what was in it."""
    grants = [line for line in lines if line["what"] == "granted"]
    tokens = [line["token"] for line in grants]
    assert len(set(tokens)) == len(tokens), f"given twice: {sorted(t for t in tokens if tokens.count(t) > 1)}"
    # A grant that was asked for after another had been told has a larger token, whatever the key.
    by_time = sorted(grants, key=lambda g: g["granted"])
    highest, told = 0, iter(by_time)
    nearest = next(told, None)
    for grant in sorted(grants, key=lambda g: g["asked"]):
        while nearest is not None and nearest["granted"] < grant["asked"]:
            highest = max(highest, nearest["token"])
            nearest = next(told, None)
        assert grant["token"] > highest, f"{grant} was asked for after {highest} had been granted"
    for key in stored:
        spans: dict[int, tuple[float, float, str]] = {}
        for line in lines:
            if line["what"] == "held" and line["key"] == key:
                spans[line["token"]] = (line["since"], line["to"], line["by"])
        in_order = sorted((since, to, token, by) for token, (since, to, by) in spans.items())
        for one, other in pairwise(in_order):
            assert one[1] <= other[0], f"two holders of {key} at once: {one} and {other}"
        added = [line["element"] for line in lines if line["what"] == "added" and line["key"] == key]
        lost = set(added) - set(stored[key])
        assert not lost, f"acknowledged additions to {key} that are gone: {sorted(lost)}"
        assert len(set(stored[key])) == len(stored[key])
    return {what: sum(line["what"] == what for line in lines) for what in ("granted", "held", "added", "stale", "refused")}
