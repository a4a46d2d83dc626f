"""A cluster under load for a long time: memory, files and threads stay flat, and no lease is lost.

``make soak MINUTES=10``, or ``python tests/python/soak.py --minutes 10 --sessions 10000``. Prints the figures; exit 1 when one is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tenure
from cluster import LIMIT, Cluster, Member, until

TTL = 15.0
NONE = (("lost", "held"), ("closed", "gates"))
"""What a load may not report any of, and of what."""
WARM = 1 / 3
"""That part of the time that is not looked at: until then caches fill and pools grow."""


@dataclass
class Usage:
    """What a process has used at each look."""

    rss_mb: list[float] = field(default_factory=list)
    files: list[float] = field(default_factory=list)
    threads: list[float] = field(default_factory=list)

    def look(self, pid: int) -> None:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        self.rss_mb.append(int(status["VmRSS"].split()[0]) / 1024)
        self.threads.append(int(status["Threads"]))
        self.files.append(len(os.listdir(f"/proc/{pid}/fd")))

    def grown(self, alike: Sequence[Usage] = ()) -> list[str]:
        """What has grown: the middle of the last part is more than the most of the part before it, by more than chance explains.

        ``alike``: processes of the same part. Who leads has more connections, and may not have led before.
        """
        wrong = []
        for what, part, slack in (
            ("memory (MB)", "rss_mb", 4.0 + 0.03 * max(self.rss_mb)),
            ("files", "files", 3.0),
            ("threads", "threads", 3.0),
        ):
            before = max(max(halves(getattr(used, part))[0]) for used in (self, *alike))
            after = statistics.median(halves(getattr(self, part))[1])
            if after > before + slack:
                wrong.append(f"{what}: {after:.0f} after at most {before:.0f}")
        return wrong


def halves(values: list[float]) -> tuple[list[float], list[float]]:
    """The two halves of what comes after the warming up."""
    seen = values[int(len(values) * WARM) :]
    assert len(seen) >= 6, f"{len(values)} looks are too few to judge"
    return seen[: len(seen) // 2], seen[len(seen) // 2 :]


@dataclass
class Verdict:
    usage: dict[str, Usage]
    counts: Counter[str]
    seconds: float
    wrong: list[str]

    def describe(self) -> str:
        lines = [f"{self.seconds:.0f} s, " + ", ".join(f"{n} {what}" for what, n in sorted(self.counts.items()))]
        for name, usage in self.usage.items():
            parts = []
            for what, values in (("MB", usage.rss_mb), ("files", usage.files), ("threads", usage.threads)):
                before, after = halves(values)
                parts.append(f"{max(before):.0f} then {statistics.median(after):.0f} {what}")
            lines.append(f"{name}: {', '.join(parts)}")
        return "\n".join([*lines, *(f"WRONG {what}" for what in self.wrong)])


def soak(where: Path, seconds: float, sessions: int, clients: int = 2, gates: int = 10, threads: int = 4, leak: str = "") -> Verdict:
    """Three members and some clients, each with its share of the sessions; the leadership is handed over now and then."""
    usage: dict[str, Usage] = {}
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    with Cluster(where, 3, request_timeout=20.0) as cluster, contextlib.ExitStack() as ends:
        loads = []
        for i in range(clients):
            given = {"node_id": f"load{i}", "connect": ",".join(cluster.addresses), "request_timeout": 20.0, "session_ttl": TTL}
            loads.append(Member(given, where / f"load{i}.log"))
            ends.callback(loads[-1].kill)
        for load in loads:
            load.opened.result(LIMIT)
            load.wait_ready(LIMIT)
        asked = [
            load.start("load", load.name, sessions // clients, gates, threads, TTL, cluster.addresses, leak if load is loads[0] else "")
            for load in loads
        ]
        for one in asked:
            one.result(LIMIT + sessions / 10)
        until("the gates are open", lambda: all(load.load_report()["closed"] == 0 for load in loads))
        start = time.monotonic()
        handed = start
        interval = max(0.2, min(seconds / 60, 10.0))
        while time.monotonic() < start + seconds:
            for process in [*cluster, *loads]:
                usage.setdefault(process.name, Usage()).look(process.process.pid)
            if time.monotonic() > handed + max(seconds / 10, 3.0):
                handed = time.monotonic()
                with contextlib.suppress(tenure.UnavailableError):
                    cluster[cluster.leader()].transfer_leader()
                    counts["leaders"] += 1
            look = time.monotonic() + interval
            until("the next look", lambda look=look: time.monotonic() >= look)
        took = time.monotonic() - start
        reports = [load.load_report() for load in loads]
        for load, report in zip(loads, reports, strict=True):
            counts.update(report)
            wrong += [f"{load.name} has {report[what]} {what} of {report[of]} {of}" for what, of in NONE if report[what]]
            load.load_rest()
        # What the holders believe, the cluster says too.
        for key, token in [pair for load in loads for pair in load.load_tokens().items()]:
            holder = cluster[0].holder(key)
            counts["asked"] += 1
            if holder is None or holder["token"] != token:
                wrong.append(f"{key} is not held under {token}, but: {holder}")
    for names in ([member.name for member in cluster], [load.name for load in loads]):
        alike = [usage[name] for name in names]
        wrong += [f"{name}, {what}" for name in names for what in usage[name].grown(alike)]
    # A run in which little happened shows nothing.
    least = {"cycles": 50, "sessions": 5, "watches": 2, "writes": 2, "clients": 1, "leaders": 1, "asked": 1}
    wrong += [f"too little happened: {counts[what]} {what}" for what, n in least.items() if counts[what] < n]
    wrong += [f"{took:.0f} s are less than the time to live of a lease"] if took < TTL else []
    return Verdict(usage, counts, took, wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tenure-soak-") as where:
        verdict = soak(Path(where), options.minutes * 60, options.sessions, options.clients)
    print(verdict.describe(), flush=True)
    return 1 if verdict.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
