"""The controller that comes with kvgate, as a program; and cluster clients that follow what it decides."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from kvgate import ROOT, Server, wait_until

StartServer = Callable[..., Server]
PROGRAM = ROOT / "bindings/cpp/examples/kvgate/controller.py"


class Program:
    """controller.py, which keeps its promises in a directory."""

    def __init__(self, servers: list[Server], directory: Path) -> None:
        self.directory = directory
        words = [f"{server.name}={server.host}:{server.port}" for server in servers]
        self.command = [sys.executable, str(PROGRAM), "--ttl", "1", "--data-dir", str(directory / "promises"), *words]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.directory / "controller.log", "ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)

    def log(self) -> str:
        return (self.directory / "controller.log").read_text()


@pytest.fixture
def cluster(start_server: StartServer, tmp_path: Path) -> Iterator[tuple[list[Server], Program]]:
    servers = [start_server(name) for name in "abc"]
    program = Program(servers, tmp_path)
    program.start()
    yield servers, program
    program.kill()


def master_of(servers: list[Server], among: str = "abc") -> Server | None:
    """The server that takes writes; it may be any of those named."""
    for server in servers:
        if server.name not in among:
            continue
        try:
            with server.client(socket_timeout=2) as client:
                client.set("{probe}", "1")
            return server
        except (redis.RedisError, OSError):
            continue
    return None


def test_it_promotes_another_and_remembers_its_promises(cluster: tuple[list[Server], Program]) -> None:
    servers, program = cluster
    first = wait_until(lambda: master_of(servers), 60, "a master")
    epoch = first.lease()["lease_epoch"]
    others = "abc".replace(first.name, "")
    followers = [server for server in servers if server is not first]
    wait_until(lambda: all(s.replication()["role"] == "slave" for s in followers), 60, "replicas")
    with first.client() as client:
        client.set("key", "replicated")
    wait_until(lambda: all(s.sequence() == first.sequence() for s in followers), 60, "replication")
    first.kill()
    second = wait_until(lambda: master_of(servers, others), 60, "another master")
    with second.client() as client:
        assert client.get("key") == b"replicated"
        assert int(client.execute_command("LASTEPOCH")) == 0
    after = second.lease()["lease_epoch"]
    assert after > epoch
    # A controller that was killed promised for a while; the next one knows it, and goes on with higher epochs.
    program.kill()
    program.start()
    third = wait_until(lambda: next((s for s in servers if s.process and s.lease()["lease_epoch"] > after), None), 60, "a new epoch")
    wait_until(lambda: master_of([third]), 60, "its writes")
    assert program.log().count("is promoted under epoch") == 3, program.log()
    # The killed server comes back as a replica of whoever is master.
    first.start()
    wait_until(lambda: first.replication()["role"] == "slave" and first.sequence() >= third.sequence(), 60, "replication")


def test_cluster_clients_follow(cluster: tuple[list[Server], Program]) -> None:
    servers, _ = cluster
    first = wait_until(lambda: master_of(servers), 60, "a master")
    replica = next(server for server in servers if server is not first)
    wait_until(lambda: replica.replication()["role"] == "slave", 60, "a replica")
    # redis-cli is sent on by MOVED, and prints the answer of the server that it was sent to.
    cli = subprocess.run(
        ["redis-cli", "-c", "-p", str(replica.port), "SET", "by", "redis-cli"], capture_output=True, check=False, timeout=60
    )
    assert cli.stdout.strip().endswith(b"OK"), cli
    with redis.RedisCluster(host="127.0.0.1", port=replica.port, socket_timeout=5) as client:
        assert client.get("by") == b"redis-cli"
        assert client.get_node_from_key("by").port == first.port
        client.set("before", "1")
        wait_until(lambda: all(s.sequence() == first.sequence() for s in servers), 60, "replication")
        first.kill()
        rest = "abc".replace(first.name, "")
        wait_until(lambda: master_of(servers, rest), 60, "another master")

        def sees_the_new_master() -> bool:
            try:
                return bool(client.set("after", "1"))
            except (redis.RedisError, OSError):
                return False

        wait_until(sees_the_new_master, 60, "the client to follow")
        assert client.get("before") == b"1"
    shards = replica.command("CLUSTER", "SHARDS")
    assert len([shard for shard in shards if shard]) >= 1
    first.start()
