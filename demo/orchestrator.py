"""Three nodes, one compaction schedule, clocks that do not agree: how often each tick runs, and what becomes of a run whose node is lost.

Each node is a process of its own: a member of the cluster, beside a database server on RocksDB that it compacts. Exits with 0 only if with
claims every tick ran once, with a lock alone some ran more often, and a lost run was taken over with a larger token while the old
attempt was refused.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kvgate import BINARY, Server, free_port, wait_until
from tell import Claims, say
from typing_extensions import Self

NAMES = ("n1", "n2", "n3")
OFFSETS_S = (-0.05, 0.0, 0.05)
EVERY_S = 2
TICKS = 6


class Nodes:
    """The three processes of one way to coordinate, and what they have told."""

    def __init__(self, directory: Path, servers: Sequence[Server], *, lock_only: bool, every: int) -> None:
        ports = [free_port() for _ in NAMES]
        peers = ",".join(f"{name}=127.0.0.1:{port}" for name, port in zip(NAMES, ports, strict=True))
        self.told: list[list[Any]] = []
        self.processes: dict[str, subprocess.Popen[str]] = {}
        for i, name in enumerate(NAMES):
            given = {
                "name": name,
                "directory": str(directory / name),
                "listen": f"127.0.0.1:{ports[i]}",
                "peers": peers,
                "lock_only": lock_only,
                "offset": OFFSETS_S[i],
                "database": servers[i].port,
                "every": every,
            }
            program = [sys.executable, str(Path(__file__).with_name("compactor.py")), json.dumps(given)]
            with (directory / f"{name}.log").open("w") as log:
                process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
            self.processes[name] = process
            threading.Thread(target=self._read, args=(process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.told.append(json.loads(line))

    def seen(self, what: str) -> list[list[Any]]:
        return [line for line in list(self.told) if line[1] == what]

    def ask(self, name: str, what: str) -> None:
        pipe = self.processes[name].stdin
        assert pipe is not None
        pipe.write(f"{what}\n")
        pipe.flush()

    def __enter__(self) -> Self:
        wait_until(lambda: len(self.seen("ready")) == len(NAMES), 60, "three nodes")
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
        for process in self.processes.values():
            process.wait(30)


def ticks_of(nodes: Nodes) -> Counter[str]:
    """Runs by tick, of the ticks that all nodes had the time to do."""
    wait_until(lambda: len({line[2] for line in nodes.seen("start")}) >= TICKS + 2, 120, "ticks")
    starts = [line[2] for line in nodes.seen("start")]
    whole = sorted(set(starts))[1:-1]
    return Counter(key for key in starts if key in whole)


def count(directory: Path, servers: Sequence[Server], claims: Claims, lock_only: bool) -> float:
    """Runs per tick."""
    directory.mkdir()
    with Nodes(directory, servers, lock_only=lock_only, every=EVERY_S) as nodes:
        runs = ticks_of(nodes)
        done = {line[2] for line in nodes.seen("compacted")}
    each = sum(runs.values()) / len(runs)
    say(f"    {len(runs)} ticks, {sum(runs.values())} compactions: {each:.1f} a tick ({' '.join(str(n) for n in runs.values())})")
    claims.expect(set(runs) <= done | {max(runs)}, "each of them compacted a database")
    if lock_only:
        claims.expect(each > 1, "the lock kept two from running at once, and did not keep a tick from running again")
    else:
        claims.expect(max(runs.values()) == 1, "each tick ran once, whichever clock was first")
    return each


def lose(nodes: Nodes, claims: Claims, how: Callable[[subprocess.Popen[str]], None]) -> tuple[list[Any], list[Any]]:
    """Loses the node of a run in the middle of it; the old attempt and the next."""
    before = len(nodes.seen("start"))
    alive = [name for name, process in nodes.processes.items() if process.poll() is None]
    nodes.ask(alive[0], "slow")
    old = wait_until(lambda: nodes.seen("start")[before:], 60, "the run")[0]
    time.sleep(0.8)
    lost_at = time.time()
    how(nodes.processes[old[0]])
    new = wait_until(lambda: [s for s in nodes.seen("start") if s[2] == old[2] and s[3] > old[3]], 60, "the take-over")[0]
    say(
        f"    {old[0]} had the run with token {old[4]}. {new[0]} took it over {new[5] - lost_at:.1f} s later "
        f"as attempt {new[3]} with token {new[4]}."
    )
    claims.expect(new[0] != old[0] and new[4] > old[4], "another node, a larger token")
    wait_until(lambda: [d for d in nodes.seen("done") if d[2] == old[2]], 60, "the end of the run")
    return old, new


def main() -> int:
    if not BINARY.exists():
        say(f"{BINARY} is missing: `make demo-orchestrator` builds it")
        return 2
    started = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="tenure-demo-"))
    claims = Claims()
    servers = [Server(directory / f"db-{name}", name, cluster_enabled="no", master_lease_mode="disabled") for name in NAMES]
    say(
        f"Three nodes, each a member of one cluster beside a database on RocksDB. A schedule asks for one compaction every {EVERY_S} s. "
        "Their clocks read 50 ms early, right, and 50 ms late."
    )
    try:
        for server in servers:
            server.start()
            with server.client() as client:
                client.mset({f"key:{i}": "x" * 100 for i in range(2_000)})
        say()
        say("  1. The tick is claimed in the cluster's log before any code runs")
        ours = count(directory / "claims", servers, claims, False)
        say()
        say("  2. The same schedule with a lock alone (lock_only): lock, run, release")
        theirs = count(directory / "lock", servers, claims, True)
        say()
        (directory / "loss").mkdir()
        with Nodes(directory / "loss", servers, lock_only=False, every=0) as nodes:
            say("  3. The node of a run is killed in the middle of it (SIGKILL)")
            old, _ = lose(nodes, claims, lambda process: process.kill())
            nodes.processes[old[0]].wait(30)
        say()
        say("  4. The node of a run is frozen in the middle of it, and wakes when another has taken over (SIGSTOP, SIGCONT)")
        (directory / "freeze").mkdir()
        with Nodes(directory / "freeze", servers, lock_only=False, every=0) as nodes:
            old, _ = lose(nodes, claims, lambda process: process.send_signal(signal.SIGSTOP))
            nodes.processes[old[0]].send_signal(signal.SIGCONT)
            refused = wait_until(lambda: [r for r in nodes.seen("refused") if r[4] == old[4]], 60, "the refusal")[0]
            say(f"    {old[0]} woke and went on with token {refused[4]}: refused.")
            claims.expect(not [d for d in nodes.seen("done") if d[4] == old[4]], "what the frozen node still did was not called done")
    finally:
        for server in servers:
            server.kill()
        shutil.rmtree(directory, ignore_errors=True)
    say()
    say(f"In {time.monotonic() - started:.0f} s: {ours:.1f} runs a tick with claims, {theirs:.1f} with a lock alone.")
    say("All of it was shown." if claims.wrong == 0 else "NOT all of it was shown.")
    return 0 if claims.wrong == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
