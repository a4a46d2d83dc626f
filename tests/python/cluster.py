"""Clusters of processes: each member is a Python process of its own, with a directory and a port of its own.

    with Cluster(tmp_path, 3) as cluster:
        token = cluster[0].try_acquire("k")
        cluster.kill(cluster.leader())

Whoever waits does so for a condition and with a generous limit: no test depends on how fast the machine is.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any

import tenure

LIMIT = 60.0
"""Seconds within which anything that should come true does, on a machine that is very busy."""

TIMING: dict[str, Any] = {
    "heartbeat": 0.1,
    "election_min": 0.5,
    "election_max": 1.0,
    "request_timeout": 5.0,
    "session_ttl": 10.0,
}
"""Slower than the defaults: a busy machine shall not be taken for a dead one."""

_PROGRAM = Path(__file__).with_name("member.py")
_ports = itertools.count(7000)


def host() -> str:
    """A loopback address that no other test process uses, so that its ports are this process's."""
    pid = os.getpid()
    return f"127.{64 + (pid >> 16) % 128}.{(pid >> 8) % 256}.{pid % 256}"


def free_address() -> str:
    """An address of this machine at which nobody listens."""
    return f"{host()}:{next(_ports)}"


def until(what: str, condition: Callable[[], Any], seconds: float = LIMIT) -> Any:
    """Waits until the condition is true, and answers what it said."""
    end = time.monotonic() + seconds
    while True:
        said = condition()
        if said:
            return said
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


class Member:
    """One process with one node. Its methods are the node's: ``member.holder("k")``; ``start`` does not wait for the answer."""

    def __init__(self, settings: dict[str, Any], log: Path, prefix: Sequence[str] = (), env: dict[str, str] | None = None) -> None:
        self.settings = settings
        self.log = log
        self.prefix = prefix
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, str(_PROGRAM), json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **(env or {})},
            )
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._asked: dict[int, Future[Any]] = {}
        self._ended = False
        self.opened: Future[Any] = Future()
        self._asked[0] = self.opened
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def name(self) -> str:
        return str(self.settings["node_id"])

    @property
    def address(self) -> str:
        return str(self.settings["listen"])

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            with self._lock:
                asked = self._asked.pop(said["n"], None)
            if asked is None:
                continue
            if "error" in said:
                asked.set_exception(getattr(tenure, said["error"], RuntimeError)(said["message"]))
            else:
                asked.set_result(said["value"])
        with self._lock:
            left, self._asked, self._ended = list(self._asked.values()), {}, True
        for asked in left:
            asked.set_exception(EOFError(f"the process of {self.name} has ended: see {self.log}"))

    def start(self, call: str, *args: Any, **kwargs: Any) -> Future[Any]:
        """Asks without waiting."""
        answer: Future[Any] = Future()
        number = next(self._numbers)
        with self._lock:
            if self._ended:
                answer.set_exception(EOFError(f"the process of {self.name} has ended"))
                return answer
            self._asked[number] = answer
        assert self.process.stdin is not None
        question = {"n": number, "call": call, "args": args, "kwargs": kwargs}
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
        except (OSError, ValueError):
            with self._lock:
                waiting = self._asked.pop(number, None)
            if waiting is not None:
                waiting.set_exception(EOFError(f"the process of {self.name} has ended"))
        return answer

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self.start(name, *args, **kwargs).result(timeout=2 * LIMIT)

    def view(self) -> dict[str, Any]:
        """What it says of its cluster."""
        view: dict[str, Any] = self.status()["cluster"]
        return view

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and waits until the process is gone."""
        self.signal(signal.SIGKILL)
        self._gone()

    def end(self) -> None:
        """Closes the node in good order."""
        if self.alive and self.process.stdin is not None:
            self.process.stdin.close()
        self._gone()

    def _gone(self) -> None:
        """Reaps the process, and closes its pipes once everything it said is read."""
        self.process.wait(LIMIT)
        self._reader.join(LIMIT)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class Cluster:
    """Members ``n0``, ``n1``, ... that found a cluster together. Killed when the block is left."""

    def __init__(self, where: Path, count: int = 3, wait: bool = True, **settings: Any) -> None:
        self.where = where
        self.names = [f"n{i}" for i in range(count)]
        self.addresses = [free_address() for _ in self.names]
        self.settings = {**TIMING, "peers": dict(zip(self.names, self.addresses, strict=True)), **settings}
        self.members: list[Member] = []
        self._wait = wait

    def start_member(self, name: str, address: str, **settings: Any) -> Member:
        """Starts a process; it is not waited for."""
        given = {**self.settings, "node_id": name, "listen": address, "data_dir": str(self.where / name), **settings}
        return Member({k: v for k, v in given.items() if v is not None}, self.where / f"{name}.log", self.prefix(name))

    def prefix(self, name: str) -> Sequence[str]:
        """What a member's command line begins with."""
        return ()

    def __enter__(self) -> Cluster:
        try:
            self.members = [self.start_member(n, a) for n, a in zip(self.names, self.addresses, strict=True)]
            for member in self.members:
                member.opened.result(LIMIT)
            if self._wait:
                for member in self.members:
                    member.wait_ready(LIMIT)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for member in self.members:
            if member.alive:
                member.signal(signal.SIGKILL)
        for member in self.members:
            member._gone()
            if kind is not None:
                sys.stderr.write(f"--- {member.name}\n{member.log.read_text(errors='replace')[-4000:]}\n")

    def __getitem__(self, i: int) -> Member:
        return self.members[i]

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)

    def others(self, i: int) -> list[int]:
        return [j for j in range(len(self.members)) if j != i]

    def leader(self, among: Sequence[int] | None = None) -> int:
        """The index of the member that leads by its own account and by that of a majority, waited for."""
        asked = [i for i in (range(len(self.members)) if among is None else among) if self.members[i].alive]

        def found() -> list[int]:
            views = {i: self.members[i].view() for i in asked}
            leaders = [i for i in asked if views[i]["role"] == "leader"]
            agreed = [i for i in leaders if sum(v["leader"] == self.members[i].name for v in views.values()) * 2 > len(self.members)]
            return agreed[:1]

        return int(until(f"one of {asked} leads", found)[0])

    def kill(self, i: int) -> None:
        """SIGKILL."""
        self.members[i].kill()

    def stop(self, i: int) -> None:
        """SIGSTOP, and waits until the process has stopped."""
        member = self.members[i]
        member.signal(signal.SIGSTOP)
        until(f"{member.name} is stopped", lambda: state_of(member.process.pid) == "T")

    def cont(self, i: int) -> None:
        """SIGCONT."""
        self.members[i].signal(signal.SIGCONT)

    def restart(self, i: int, wait: bool = True, **settings: Any) -> Member:
        """Starts a member that has ended, with its directory and address."""
        old = self.members[i]
        assert not old.alive, "it still runs"
        given = {**old.settings, **settings}
        self.members[i] = Member({k: v for k, v in given.items() if v is not None}, old.log, old.prefix)
        if wait:
            self.members[i].opened.result(LIMIT)
            self.members[i].wait_ready(LIMIT)
        else:
            self.members[i].opened.exception(LIMIT)
        return self.members[i]

    def converged(self) -> None:
        """Waits until all living members have applied the same, or, as others may go on working, all that any of them has now."""
        living = [m for m in self.members if m.alive]

        def logs() -> list[dict[str, int]]:
            return [m.view()["log"] for m in living]

        goal = max(log["end"] for log in logs())

        def same() -> bool:
            now = logs()
            ends = {end for log in now for end in (log["end"], log["applied_end"])}
            return len(ends) == 1 or all(log["applied_end"] >= goal for log in now)

        until(f"all members have applied the same, or what is before {goal}", same)


def state_of(pid: int) -> str:
    """The letter of a process's state in /proc: R, S, T, Z..."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
