"""``python -m tenure``: what this installation is, and whether it can work on this machine."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import tenure


def _version() -> int:
    print(f"tenure {tenure.__version__} (Python {platform.python_version()}, {platform.system()} {platform.release()})")
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


def _doctor(data_dir: str | None) -> int:
    _version()
    checks: list[tuple[str, Callable[[], str]]] = [("lock", _lock), ("gate", _gate)]
    if data_dir is not None:
        checks.append(("disk", lambda: _disk(data_dir)))
    failed = 0
    for name, check in checks:
        try:
            print(f"ok      {name}: {check()}")
        except (tenure.Error, OSError) as error:
            failed = 1
            print(f"FAILED  {name}: {error}")
    return failed


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="tenure", description="Leases, fencing locks and a write gate inside a process.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("version", help="print the versions of this installation")
    doctor = commands.add_parser("doctor", help="try what Tenure needs on this machine; exit status 1 when something fails")
    doctor.add_argument("--data-dir", metavar="DIR", help="also time syncs on the disk that would hold this directory")
    given = parser.parse_args(arguments)
    return _version() if given.command == "version" else _doctor(given.data_dir)


if __name__ == "__main__":
    sys.exit(main())
