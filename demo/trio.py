"""Three kvgate servers with a cluster member embedded in each: they settle among themselves who is master."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis
from kvgate import Server, free_port, wait_until
from typing_extensions import Self

NAMES = ("n1", "n2", "n3")
OFFICE = "office/kv"


class Trio:
    """The servers n1, n2 and n3. A write is acknowledged when one other server has it too."""

    def __init__(self, directory: Path, ttl_ms: int = 2_000, mode: str = "block-write", names: Sequence[str] = NAMES) -> None:
        serve = {name: free_port() for name in names}
        listen = {name: free_port() for name in names}
        self.ttl_ms = ttl_ms
        elects = ",".join(f"{name}=127.0.0.1:{port}" for name, port in serve.items())
        peers = ",".join(f"{name}=127.0.0.1:{port}" for name, port in listen.items())
        self.servers = {}
        for name in names:
            member = [f"node_id={name}", f"listen=127.0.0.1:{listen[name]}", f"peers={peers}", "session_ttl_ms=" + str(ttl_ms)]
            server = Server(
                directory / name,
                name,
                tenure=member,
                election_peers=elects,
                master_lease_mode=mode,
                master_lease_key=OFFICE,
                master_lease_ttl_ms=str(ttl_ms),
                min_replicas_ack="1",
                workers="4",
            )
            server.port = serve[name]
            self.servers[name] = server

    def __enter__(self) -> Self:
        threads = [threading.Thread(target=server.start) for server in self.servers.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers.values():
            server.kill()

    def member(self, name: str) -> dict[str, Any]:
        with self.servers[name].client(socket_timeout=2) as client:
            return dict(client.info("member"))

    def leader(self, among: Sequence[str]) -> str:
        """The server whose member leads the cluster; empty when none of them says so."""
        for name in among:
            try:
                if self.member(name).get("node_cluster_role") == "leader":
                    return name
            except (redis.RedisError, OSError):
                continue
        return ""

    def master(self, among: Sequence[str]) -> str:
        """The server that acknowledges writes; empty when none of them does."""
        for name in among:
            try:
                with self.servers[name].client(socket_timeout=2) as client:
                    client.set("{probe}", name)
                    return name
            except (redis.RedisError, OSError):
                continue
        return ""

    def wait_master(self, among: Sequence[str], seconds: float = 60.0) -> str:
        return str(wait_until(lambda: self.master(among), seconds, "a master"))

    def wait_leader(self, among: Sequence[str], seconds: float = 60.0) -> str:
        return str(wait_until(lambda: self.leader(among), seconds, "a leader"))


class Client:
    """A writer that goes to whoever is master. Every key is its own, and every acknowledgement is noted with its epoch."""

    def __init__(self, trio: Trio, number: int) -> None:
        self.trio = trio
        self.number = number
        # key -> server, epoch, when it was sent, when it was acknowledged
        self.acknowledged: dict[str, tuple[str, int, float, float]] = {}
        self.refused = 0
        self.uncertain = 0
        self.unreachable = 0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        names = list(self.trio.servers)
        at = self.number % len(names)
        written = 0
        while not self.stopped.is_set():
            server = self.trio.servers[names[at]]
            try:
                with server.client(socket_timeout=1, socket_connect_timeout=1) as client:
                    while not self.stopped.is_set():
                        key = f"w{self.number}:{written}"
                        written += 1
                        sent = time.monotonic()
                        client.set(key, server.name)
                        done = time.monotonic()
                        epoch = int(client.execute_command("LASTEPOCH"))
                        self.acknowledged[key] = (server.name, epoch, sent, done)
            except redis.ResponseError as error:
                if str(error).startswith("UNCERTAIN"):
                    self.uncertain += 1
                else:
                    self.refused += 1
            except (TimeoutError, redis.RedisError, OSError):
                self.unreachable += 1
            at = (at + 1) % len(names)
            self.stopped.wait(0.01)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join(60)
