"""redis-benchmark against one server, with its gate on and off in turn: rounds of both, medians."""

from __future__ import annotations

import csv
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "demo"))

from kvgate import Granter, Server

REQUESTS = int(os.environ.get("REQUESTS", "40000"))
# What is measured: redis-benchmark's arguments. Random keys, so that no two clients wait for one another's.
LOADS = {
    "set, 50 clients": ["-c", "50", "-t", "set"],
    "set, 50 clients, pipelines of 16": ["-c", "50", "-P", "16", "-t", "set"],
}


@dataclass
class Sample:
    requests_a_second: float
    cpu_us: float  # of the server, for one request


def cpu_seconds(server: Server) -> float:
    assert server.process is not None
    tasks = Path(f"/proc/{server.process.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def pinned(processor: int) -> list[str]:
    """Runs a command on one processor. Server and load each on their own: what the one gains is not the other's loss."""
    return ["taskset", "-c", str(processor)] if (os.cpu_count() or 1) > 1 else []


def measure(server: Server, mode: str, arguments: list[str]) -> Sample:
    server.command("CONFIG", "SET", "master-lease-mode", mode)
    command = [*pinned(1), "redis-benchmark", "-p", str(server.port), "-n", str(REQUESTS), "-r", "100000", "--csv", *arguments]
    before = cpu_seconds(server)
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = cpu_seconds(server) - before
    rows = list(csv.DictReader(io.StringIO(output)))
    return Sample(float(rows[-1]["rps"]), 1e6 * used / REQUESTS)


def report(name: str, unit: str, on: list[float], off: list[float]) -> None:
    line = {
        "figure": f"server: {name}, gate on",
        "unit": unit,
        "ours": round(statistics.median(on), 2),
        "reference": "the same server, gate disabled",
        "ref": round(statistics.median(off), 2),
        # Of neighbouring runs: what drifts from round to round is in neither.
        "ratio": round(statistics.median(a / b for a, b in zip(on, off, strict=True)), 4),
        "n": len(on),
    }
    print(json.dumps(line), flush=True)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 21
    with tempfile.TemporaryDirectory(prefix="kvgate-bench-") as directory:
        # One server has all slots, so that nobody is redirected.
        server = Server(Path(directory), "a", workers="1").start()
        try:
            assert server.process is not None
            if pinned(0):
                subprocess.run([*pinned(0)[:1], "-a", "-c", "-p", "0", str(server.process.pid)], check=True, stdout=subprocess.DEVNULL)
            with Granter(server, 1, 5_000):
                for name, arguments in LOADS.items():
                    on: list[Sample] = []
                    off: list[Sample] = []
                    for number in range(rounds + 1):
                        # Each goes first in every other round, and the first round warms up.
                        for samples, mode in ((on, "block-write"), (off, "disabled"))[:: 1 if number % 2 else -1]:
                            sample = measure(server, mode, arguments)
                            if number > 0:
                                samples.append(sample)
                    report(f"{name}", "requests/s", [s.requests_a_second for s in on], [s.requests_a_second for s in off])
                    report(f"{name}, the server's CPU for each", "us", [s.cpu_us for s in on], [s.cpu_us for s in off])
        finally:
            server.kill()


if __name__ == "__main__":
    main()
