"""Real kvgate servers under a controller, with faults by a seed, and a checker of what was acknowledged.

Run as a program it goes through many seeds: ``python tests/python/kv/faults.py --seeds 20 --seconds 30``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import redis
from typing_extensions import Self

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "demo"), str(ROOT / "bindings/cpp/examples/kvgate"), str(ROOT / "tests/python")]

from controller import Controller  # noqa: E402
from history import Verdict, Write, check  # noqa: E402
from kvgate import BLOCKED, UNCERTAIN, Server, free_port, wait_until  # noqa: E402

from netns import Network  # noqa: E402

NAMES = ("a", "b", "c")
CPU_CGROUP = Path("/sys/fs/cgroup/cpu")


class Writer:
    """Writes keys of its own: to one server whatever it answers, or to whichever acknowledges."""

    def __init__(self, run: Run, name: str, server: Server | None) -> None:
        self.run = run
        self.name = name
        self.pinned = server
        self.history: list[Write] = []
        self.counts: Counter[str] = Counter()
        self.thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        servers = [self.pinned] if self.pinned else list(self.run.servers.values())
        turn = 0
        while not self.run.ended.is_set():
            server = servers[turn % len(servers)]
            turn += 1
            try:
                with server.client(socket_timeout=3 * self.run.ttl) as client:
                    self._write(server, client)
            except (redis.RedisError, OSError):
                self.counts["unreachable"] += 1
            self.run.ended.wait(0.01)

    def _write(self, server: Server, client: redis.Redis) -> None:
        """Until it is refused, unless this is the only server to write to."""
        while not self.run.ended.is_set():
            key = f"{self.name}:{self.counts['tried']}"
            self.counts["tried"] += 1
            sent = time.monotonic()
            try:
                client.set(key, server.name)
            except redis.ResponseError as error:
                text = str(error)
                self.counts["uncertain" if UNCERTAIN in text else "refused" if BLOCKED in text else "elsewhere"] += 1
                if self.pinned is None:
                    return
                self.run.ended.wait(0.005)
                continue
            done = time.monotonic()
            epoch = self.run.epoch_of(server, client, done)
            self.history.append(Write(server.name, epoch, key, sent, done))
            self.run.ended.wait(0.001)


class Run:
    """One seed: servers, controller, writers, faults, verdict."""

    def __init__(self, seed: int, directory: Path, *, gated: bool, ttl: float = 1.0) -> None:
        self.seed = seed
        self.gated = gated
        self.ttl = ttl
        self.random = random.Random(seed)
        self.network = Network("kv")
        self.injected: Counter[str] = Counter()
        self.ended = threading.Event()
        self.cut_off: set[str] = set()
        self.margins: list[int] = []
        """Microseconds: what was left of a published deadline, at the least, when a server acknowledged."""
        mode, replicas = ("block-write", "1") if gated else ("disabled", "0")
        self.servers: dict[str, Server] = {}
        for name in NAMES:
            host, prefix = self.network.add(name)
            server = Server(directory / name, name, master_lease_mode=mode, min_replicas_ack=replicas, workers="8", bind=host)
            server.host, server.prefix, server.port = host, prefix, free_port()
            self.servers[name] = server
        self.controller = Controller(
            {name: (server.host, server.port) for name, server in self.servers.items()},
            ttl,
            replicas_ack=int(replicas),
            reachable=lambda name: name not in self.cut_off,
        )
        pinned = [Writer(self, f"to-{name}", server) for name, server in self.servers.items()]
        self.writers = [*pinned, *(Writer(self, f"roams-{i}", None) for i in range(2))]

    def __enter__(self) -> Self:
        for server in self.servers.values():
            server.start()
        self.controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.controller.stop()
        for server in self.servers.values():
            server.kill()
        self.network.close()

    def epoch_of(self, server: Server, client: redis.Redis, acknowledged: float) -> int:
        """A gate says under which epoch it acknowledged; without one it is the office that the server was last promoted to."""
        if self.gated:
            return int(client.execute_command("LASTEPOCH"))
        offices = [epoch for at, name, epoch in list(self.controller.promotions) if name == server.name and at <= acknowledged]
        return max(offices, default=0)

    # -- Faults, each at the server that is master ------------------------------------------------------------

    def kinds(self) -> list[str]:
        kinds = ["cut_from_controller", "stopped", "stopped_with_heartbeat_queued", "killed", "stalled"]
        kinds += ["partitioned"] if self.network.usable else []
        kinds += ["starved"] if os.access(CPU_CGROUP / "cpu.cfs_quota_us", os.W_OK) or (CPU_CGROUP.is_dir() and os.geteuid() == 0) else []
        return kinds

    def inject(self, kind: str) -> None:
        name = self.wait_master()
        server = self.servers[name]
        length = self.random.uniform(1.5, 3.5) * self.ttl
        with getattr(self, kind)(name, server, length):
            over = time.monotonic() + length
            wait_until(lambda: time.monotonic() > over, 60, "the fault's end")
        self.injected[kind] += 1

    @contextlib.contextmanager
    def cut_from_controller(self, name: str, _server: Server, _length: float) -> Iterator[None]:
        self.cut_off.add(name)
        yield
        self.cut_off.discard(name)

    @contextlib.contextmanager
    def partitioned(self, name: str, _server: Server, _length: float) -> Iterator[None]:
        self.network.cut(name, True)
        yield
        self.network.cut(name, False)

    @contextlib.contextmanager
    def stopped(self, _name: str, server: Server, _length: float) -> Iterator[None]:
        server.freeze()
        yield
        server.thaw()

    @contextlib.contextmanager
    def stopped_with_heartbeat_queued(self, name: str, server: Server, _length: float) -> Iterator[None]:
        """The trap of a lease that counts from its receipt."""
        peer = next(peer for peer in self.controller.peers if peer.name == name)
        nonce, epoch = server.nonce(), self.controller.epoch
        # It is a promise like any other.
        if self.controller.promise(peer, epoch, nonce) is None:
            raise RuntimeError("the master changed")
        server.freeze()
        words = [str(w).encode() for w in ("CLUSTERX", "HEARTBEAT", server.id, int(self.ttl * 1000), epoch, "NONCE", nonce)]
        with socket.create_connection((server.host, server.port), 10) as queued:
            queued.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
            yield
            server.thaw()
            queued.settimeout(30)
            queued.recv(4096)

    @contextlib.contextmanager
    def killed(self, _name: str, server: Server, _length: float) -> Iterator[None]:
        server.kill()
        yield
        server.start()

    @contextlib.contextmanager
    def stalled(self, _name: str, server: Server, length: float) -> Iterator[None]:
        stall = threading.Thread(target=self._stall, args=(server, int(length * 1000)))
        stall.start()
        yield
        stall.join(60)

    @staticmethod
    def _stall(server: Server, milliseconds: int) -> None:
        with contextlib.suppress(redis.RedisError, OSError):
            server.command("DEBUG", "STALL", milliseconds)

    @contextlib.contextmanager
    def starved(self, _name: str, server: Server, _length: float) -> Iterator[None]:
        """A CPU quota of 3 %."""
        assert server.process is not None
        group = CPU_CGROUP / f"kvgate-{os.getpid()}"
        group.mkdir(exist_ok=True)
        (group / "cpu.cfs_period_us").write_text("100000")
        (group / "cpu.cfs_quota_us").write_text("3000")
        (group / "cgroup.procs").write_text(str(server.process.pid))
        yield
        (CPU_CGROUP / "cgroup.procs").write_text(str(server.process.pid))
        wait_until(lambda: not (group / "cgroup.procs").read_text(), 30, "the group to be empty")
        group.rmdir()

    # -- The whole ----------------------------------------------------------------------------------------------

    def wait_master(self) -> str:
        """The server that is in office and acknowledges."""

        def acknowledges() -> str:
            master = self.controller.master
            if master is None:
                return ""
            try:
                with self.servers[master.name].client(socket_timeout=2 * self.ttl) as client:
                    client.set("probe", "1")
                return master.name
            except (redis.RedisError, OSError):
                return ""

        return str(wait_until(acknowledges, 120, "a master that acknowledges"))

    def play(self, faults: list[str]) -> Verdict:
        self.wait_master()
        for writer in self.writers:
            writer.thread.start()
        for kind in faults:
            before = sum(len(writer.history) for writer in self.writers)
            wait_until(lambda: sum(len(w.history) for w in self.writers) > before + 50, 120, "writes between the faults")  # noqa: B023
            self.note_margins()
            self.inject(kind)
        self.wait_master()
        self.note_margins()
        self.ended.set()
        for writer in self.writers:
            writer.thread.join(60)
        return check(self.history, self.survived())

    def note_margins(self) -> None:
        """While they are up: a server that is killed forgets it."""
        for server in self.servers.values():
            with contextlib.suppress(redis.RedisError, OSError), server.client(socket_timeout=self.ttl) as client:
                margin = client.info("lease").get("lease_least_margin_us")
                self.margins += [margin] if isinstance(margin, int) else []

    def survived(self) -> set[str]:
        """The keys that the master has, read while it stays that: on a busy machine the office may change once more."""
        for _ in range(20):
            try:
                with self.servers[self.wait_master()].client() as client:
                    return {write.key for write in self.history if client.get(write.key) is not None}
            except (redis.RedisError, OSError) as error:
                print(f"reading again: {error}", file=sys.stderr)
        raise AssertionError("no master stayed so for as long as it takes to read what is there")

    @property
    def history(self) -> list[Write]:
        return [write for writer in self.writers for write in writer.history]

    def plan(self, count: int) -> list[str]:
        """Every kind in turn, in an order by the seed, as often as there is room."""
        kinds: list[str] = []
        while len(kinds) < count:
            more = self.kinds()
            self.random.shuffle(more)
            kinds += more
        return kinds[:count]

    def describe(self, verdict: Verdict) -> str:
        counts: Counter[str] = sum((writer.counts for writer in self.writers), Counter())
        words = ", ".join(f"{kind} {count}" for kind, count in sorted(self.injected.items()))
        margin = f"; least margin {min(self.margins) / 1000} ms" if self.margins else ""
        return (
            f"seed {self.seed}, gate {'on' if self.gated else 'off'}: {len(self.history)} writes acknowledged under "
            f"{len({w.epoch for w in self.history})} epochs, {counts['refused']} refused, {counts['uncertain']} uncertain; "
            f"{len(verdict.by_two)} by an old master after a new one, {len(verdict.lost)} lost{margin}; faults: {words}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the first")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--faults", type=int, default=10, help="for each seed")
    options = parser.parse_args()
    found = bad = 0
    for seed in range(options.seed, options.seed + options.seeds):
        for gated in (True, False):
            with tempfile.TemporaryDirectory(prefix="kvgate-faults-") as directory, Run(seed, Path(directory), gated=gated) as run:
                verdict = run.play(run.plan(options.faults))
                print(run.describe(verdict), flush=True)
                if gated:
                    bad += len(verdict.by_two) + len(verdict.lost)
                else:
                    found += len(verdict.by_two)
    print(f"with the gate {bad} violations; without it the same checker found {found}")
    return 0 if bad == 0 and found > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
