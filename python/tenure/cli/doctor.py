"""``tenure version`` and ``tenure doctor``: what this installation is, and whether it can work on this machine."""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import tenure
from tenure.cli.common import connect
from tenure.cli.output import Output


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = "Exit status 1 when something fails."
    parser.add_argument("--data-dir", metavar="DIR", help="also time syncs on the disk that would hold this directory")


def version(_given: argparse.Namespace, out: Output) -> int:
    """Prints the versions."""
    known = {"tenure": tenure.__version__, "python": platform.python_version(), "system": platform.system(), "kernel": platform.release()}
    out.value(known, f"tenure {known['tenure']} (Python {known['python']}, {known['system']} {known['kernel']})")
    return 0


def _lock() -> str:
    with tenure.Node() as node:
        started = time.perf_counter()
        rounds = 1000
        for _ in range(rounds):
            with node.lock("doctor"):
                pass
        took = time.perf_counter() - started
    return f"a node in memory: {took / rounds * 1e6:.1f} us a lock taken and released"


def _gate() -> str:
    with tenure.Node() as node, node.gate("doctor") as gate:
        if gate.check():
            raise tenure.InternalError("a gate without a lease is open")
        reply = gate.heartbeat(1, ttl=10.0, nonce=gate.next_nonce())
        if not reply.accepted:
            raise tenure.InternalError(f"the heartbeat was refused: {reply.reason}")
        started = time.perf_counter()
        rounds = 1000
        for _ in range(rounds):
            with gate.write():
                pass
        took = time.perf_counter() - started
        gate.drain(timeout=1.0)
        if gate.check():
            raise tenure.InternalError("a drained gate is open")
    return f"a gate: opened, drained; {took / rounds * 1e6:.1f} us a guarded block"


def _disk(data_dir: str) -> str:
    """Syncs a file beside where the data would be. Nothing is created in ``data_dir`` itself."""
    where = Path(data_dir)
    while not where.is_dir() and where != where.parent:
        where = where.parent
    times = []
    with tempfile.NamedTemporaryFile(dir=where, prefix=".tenure-doctor-") as file:
        for _ in range(50):
            file.write(b"x" * 512)
            file.flush()
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - started)
    times.sort()
    return f"{where}: fdatasync {times[len(times) // 2] * 1e6:.0f} us (median), {times[-1] * 1e6:.0f} us (worst of {len(times)})"


def _cluster(given: argparse.Namespace) -> str:
    """Takes and releases a lock in the cluster that ``--connect`` names."""
    with connect(given) as client:
        members = client.members()
        key = f"tenure.doctor.{os.getpid()}"
        times = []
        for _ in range(20):
            started = time.perf_counter()
            with client.lock(key):
                pass
            times.append(time.perf_counter() - started)
    leader = next((m.name for m in members if m.leader), "not known")
    times.sort()
    return f"{len(members)} members, leader {leader}; {times[len(times) // 2] * 1e3:.2f} ms a lock taken and released (median)"


def doctor(given: argparse.Namespace, out: Output) -> int:
    """Tries what Tenure needs."""
    version(given, out)
    checks: list[tuple[str, Callable[[], str]]] = [("lock", _lock), ("gate", _gate)]
    if given.data_dir is not None:
        checks.append(("disk", lambda: _disk(given.data_dir)))
    if given.connect:
        checks.append(("cluster", lambda: _cluster(given)))
    failed = 0
    for name, check in checks:
        try:
            text = check()
        except (tenure.Error, OSError) as error:
            failed = 1
            out.value({"check": name, "ok": False, "text": str(error)}, f"FAILED  {name}: {error}")
        else:
            out.value({"check": name, "ok": True, "text": text}, f"ok      {name}: {text}")
    return failed
