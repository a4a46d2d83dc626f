"""Starts and drives kvgate servers: what the demo and the tests of the server share."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from typing_extensions import Self

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BINARY = Path(os.environ.get("KVGATE", TARGET / "kvgate" / "kvgate"))
BLOCKED = "master lease expired"
UNCERTAIN = "UNCERTAIN"
READY = re.compile(r"ready on port (\d+)")


def node_id(name: str) -> str:
    """A cluster node id: 40 characters, the name first."""
    return name.ljust(40, "0")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], Any], seconds: float = 10.0, what: str = "") -> Any:
    """Polls until `condition` gives something true, and returns it."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what or condition}")
        time.sleep(0.005)


@dataclass
class Beat:
    """The answer to a heartbeat with a nonce."""

    accepted: bool
    epoch: int
    remaining_ms: int
    next_nonce: int
    reason: str


class Server:
    """One kvgate process with a data directory of its own."""

    def __init__(self, directory: Path, name: str = "a", tenure: Sequence[str] = (), **settings: str) -> None:
        self.directory = directory
        self.name = name
        self.id = node_id(name)
        self.settings = {"cluster-enabled": "yes", "master-lease-mode": "block-write"}
        self.settings.update({key.replace("_", "-"): value for key, value in settings.items()})
        self.host = "127.0.0.1"
        self.prefix: list[str] = []  # what its command line starts with
        self.tenure = tenure  # "name=value" settings of the library
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.starts = 0

    def start(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.starts += 1
        self.log = self.directory / f"log.{self.starts}"
        arguments = [*self.prefix, str(BINARY), "--port", str(self.port), "--dir", str(self.directory / "data")]
        arguments += ["--logfile", str(self.log)]
        for key, value in self.settings.items():
            arguments += [f"--{key}", value]
        for pair in self.tenure:
            arguments += ["--tenure", pair]
        self.process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)
        self.port = int(wait_until(self._ready_port, 20, f"{self.name} ready").group(1))
        if self.settings["cluster-enabled"] == "yes" and self.starts == 1 and "election-peers" not in self.settings:
            self.command("CLUSTERX", "SETNODEID", self.id)
            self.set_nodes(1, (self, "master"))
        return self

    def _ready_port(self) -> re.Match[str] | None:
        if self.process is not None and self.process.poll() not in (None, 0):
            raise RuntimeError(f"kvgate ended with {self.process.returncode}: {self.log_text()}")
        return READY.search(self.log_text())

    def log_text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def client(self, **options: Any) -> redis.Redis:
        """A client with one connection that never repeats a command by itself."""
        options.setdefault("socket_timeout", 20)
        retry = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        return redis.Redis(self.host, self.port, single_connection_client=True, retry=retry, **options)

    def command(self, *arguments: Any) -> Any:
        with self.client() as client:
            return client.execute_command(*arguments)

    def set_nodes(self, version: int, *members: tuple[Server, str]) -> None:
        """Tells the server a topology in which the first member, the master, has all slots."""
        master = members[0][0]
        lines = []
        for server, role in members:
            whose = "-" if role == "master" else master.id
            slots = " 0-16383" if role == "master" else ""
            lines.append(f"{server.id} {server.host} {server.port} {role} {whose}{slots}")
        self.command("CLUSTERX", "SETNODES", "\n".join(lines), version)

    def lease(self) -> dict[str, Any]:
        with self.client() as client:
            return dict(client.info("lease"))

    def sequence(self) -> int:
        with self.client() as client:
            return int(client.info("keyspace")["sequence"])

    def nonce(self) -> int:
        return int(self.command("CLUSTERX", "NONCE"))

    def heartbeat(self, epoch: int, ttl_ms: int, nonce: int | None = None, to: str = "") -> Beat:
        """Grants or renews office until `ttl_ms` after the nonce was handed out."""
        if nonce is None:
            nonce = self.nonce()
        answer = self.command("CLUSTERX", "HEARTBEAT", to or self.id, ttl_ms, epoch, "NONCE", nonce)
        return read_beat(answer)

    def replication(self) -> dict[str, Any]:
        with self.client() as client:
            return dict(client.info("replication"))

    def take_office(self, epoch: int, ttl_ms: int = 60_000) -> None:
        """Grants office, and waits until the epoch's record is in the database: what is written from then on are clients' writes."""
        beat = self.heartbeat(epoch, ttl_ms)
        if not beat.accepted:
            raise RuntimeError(f"no office for {self.name}: {beat.reason}")
        wait_until(lambda: self.replication()["log_epoch"] == epoch, 30, "the epoch's record")

    def stop(self) -> int:
        """Ends the server in order and returns its exit status."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        status = self.process.wait(30)
        self.process = None
        return status

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)
            self.process = None

    def freeze(self) -> None:
        """Stops the process (SIGSTOP) and waits until it is stopped."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self.process.pid}/stat")
        wait_until(lambda: stat.read_text().rsplit(")", 1)[1].split()[0] == "T", what="stopped")

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


def read_beat(answer: Any) -> Beat:
    if isinstance(answer, list):
        answer = dict(zip(answer[::2], answer[1::2], strict=True))
    fields = {_text(key): value for key, value in answer.items()}
    return Beat(
        accepted=fields["accepted"] == 1,
        epoch=int(fields["epoch"]),
        remaining_ms=int(fields["remaining_ms"]),
        next_nonce=int(fields["next_nonce"]),
        reason=_text(fields["reason"]),
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class Granter:
    """A controller's heartbeat loop for one server: renews its office until it is stopped."""

    def __init__(self, server: Server, epoch: int, ttl_ms: int) -> None:
        self.server = server
        self.epoch = epoch
        self.ttl_ms = ttl_ms
        self.beats: list[Beat] = []
        # Until when the server may believe that it holds office, by this process's clock: a lease
        # counts from its nonce, which the server handed out before the heartbeat was sent.
        self.promised_until = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> Self:
        """Returns once the office is granted."""
        with self.server.client() as client:
            nonce = int(client.execute_command("CLUSTERX", "NONCE"))
            self._beat(client, nonce)
        if not self.beats[-1].accepted:
            raise RuntimeError(f"no office for {self.server.name}: {self.beats[-1].reason}")
        self._thread.start()
        return self

    def _beat(self, client: redis.Redis, nonce: int) -> None:
        self.promised_until = time.monotonic() + self.ttl_ms / 1000
        execute: Callable[..., Any] = client.execute_command
        answer = execute("CLUSTERX", "HEARTBEAT", self.server.id, self.ttl_ms, self.epoch, "NONCE", nonce)
        self.beats.append(read_beat(answer))

    def _run(self) -> None:
        try:
            with self.server.client(socket_timeout=self.ttl_ms / 1000) as client:
                nonce = int(client.execute_command("CLUSTERX", "NONCE"))
                while not self._stop.wait(self.ttl_ms / 4000):
                    self._beat(client, nonce)
                    nonce = self.beats[-1].next_nonce
        except (redis.RedisError, OSError):
            return  # the server has gone, or answers no more: it gets no more heartbeats

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(30)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
