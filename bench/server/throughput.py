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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "demo"))

from kvgate import Granter, Server

REQUESTS = os.environ.get("REQUESTS", "40000")
# What is measured: redis-benchmark's arguments. Random keys, so that no two clients wait for one another's.
LOADS = {
    "set, 50 clients": ["-c", "50", "-t", "set"],
    "set, 50 clients, pipelines of 16": ["-c", "50", "-P", "16", "-t", "set"],
}


def requests_a_second(port: int, arguments: list[str]) -> float:
    command = ["redis-benchmark", "-p", str(port), "-n", REQUESTS, "-r", "100000", "--csv", *arguments]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = list(csv.DictReader(io.StringIO(output)))
    return float(rows[-1]["rps"])


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 21
    with tempfile.TemporaryDirectory(prefix="kvgate-bench-") as directory:
        # One server has all slots, so that nobody is redirected.
        server = Server(Path(directory), "a", workers="2").start()
        try:
            with Granter(server, 1, 5_000):
                for name, arguments in LOADS.items():
                    figures: dict[str, list[float]] = {"block-write": [], "disabled": []}
                    for number in range(rounds + 1):
                        # Each mode goes first in every other round: what drifts meets both alike.
                        for mode in sorted(figures, reverse=number % 2 == 0):
                            server.command("CONFIG", "SET", "master-lease-mode", mode)
                            measured = requests_a_second(server.port, arguments)
                            if number > 0:  # the first warms up
                                figures[mode].append(measured)
                    on, off = (statistics.median(figures[mode]) for mode in ("block-write", "disabled"))
                    ratios = [a / b for a, b in zip(figures["block-write"], figures["disabled"], strict=True)]
                    line = {
                        "figure": f"server: {name}, gate on",
                        "unit": "requests/s",
                        "ours": round(on),
                        "reference": "the same server, gate disabled",
                        "ref": round(off),
                        "ratio": round(statistics.median(ratios), 4),
                        "n": rounds,
                    }
                    print(json.dumps(line), flush=True)
        finally:
            server.kill()


if __name__ == "__main__":
    main()
