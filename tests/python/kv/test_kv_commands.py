"""The kvgate server's commands, its wire protocol and its life as a process."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from kvgate import BINARY, BLOCKED, Server, node_id, wait_until

StartServer = Callable[..., Server]


@pytest.fixture
def open_server(start_server: StartServer) -> Server:
    """A server outside a cluster whose gate is off."""
    return start_server(cluster_enabled="no", master_lease_mode="disabled")


def batch(*puts: tuple[bytes, bytes]) -> bytes:
    """A RocksDB write batch in its serialised form: a header, then tagged records."""
    body = b""
    for key, value in puts:
        assert len(key) < 128
        assert len(value) < 128
        body += b"\x01" + bytes([len(key)]) + key + bytes([len(value)]) + value
    return struct.pack("<QI", 0, len(puts)) + body


def stamp(epoch: int) -> bytes:
    """What the server stamps into a batch."""
    return b"TnE1" + struct.pack("<Q", epoch)


# -- Data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
def test_strings(open_server: Server, protocol: int) -> None:
    with open_server.client(protocol=protocol) as client:
        assert client.set("a", b"\x00\r\n\xff")
        assert client.get("a") == b"\x00\r\n\xff"
        assert client.get("missing") is None
        assert client.set("a", "new", nx=True) is None
        assert client.set("b", "new", xx=True) is None
        assert client.set("b", "new", nx=True)
        assert client.mset({"x": "1", "y": "2"})
        assert client.mget("x", "missing", "y") == [b"1", None, b"2"]
        assert client.incr("x") == 2
        assert client.incrby("x", 40) == 42
        assert client.decr("x") == 41
        assert client.exists("x", "y", "missing") == 2
        assert client.delete("x", "x", "y") == 2
        assert client.type("a") == b"string"
        assert client.type("x") == b"none"
        client.set("large", b"v" * 3_000_000)
        assert len(client.get("large")) == 3_000_000


def test_numbers_that_are_none(open_server: Server) -> None:
    with open_server.client() as client:
        client.set("a", "ten")
        with pytest.raises(redis.ResponseError, match="not an integer"):
            client.incr("a")
        client.set("a", 2**63 - 1)
        with pytest.raises(redis.ResponseError, match="overflow"):
            client.incr("a")
        assert client.get("a") == b"%d" % (2**63 - 1)


@pytest.mark.parametrize("protocol", [2, 3])
def test_hashes_and_lists(open_server: Server, protocol: int) -> None:
    with open_server.client(protocol=protocol) as client:
        assert client.hset("h", mapping={"f": "1", "g": "2"}) == 2
        assert client.hset("h", mapping={"g": "3", "i": "4"}) == 1
        assert client.hget("h", "g") == b"3"
        assert client.hget("h", "none") is None
        assert client.hgetall("h") == {b"f": b"1", b"g": b"3", b"i": b"4"}
        assert client.hlen("h") == 3
        assert client.hdel("h", "f", "f", "zz") == 1
        assert client.lpush("l", "b", "a") == 2
        assert client.rpush("l", "c") == 3
        assert client.lrange("l", 0, -1) == [b"a", b"b", b"c"]
        assert client.lrange("l", -2, 100) == [b"b", b"c"]
        assert client.lrange("l", 5, 9) == []
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            client.get("h")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            client.hset("l", "f", "1")
        assert client.delete("h", "l") == 2
        assert client.hgetall("h") == {}
        assert client.llen("l") == 0
        # What was removed does not come back with a new value of the same name.
        client.hset("h", "only", "1")
        assert client.hgetall("h") == {b"only": b"1"}


def test_counters_are_exact_with_many_clients(open_server: Server) -> None:
    def count() -> None:
        with open_server.client() as client:
            for _ in range(200):
                client.incr("counter")
                client.rpush("list", "x")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with open_server.client() as client:
        assert client.get("counter") == b"800"
        assert client.llen("list") == 800


# -- Transactions and batches ----------------------------------------------------------------------


def test_transaction_is_one_batch_under_one_permit(server: Server) -> None:
    server.take_office(epoch=6)
    before = server.sequence()
    with server.client() as client:
        with client.pipeline(transaction=True) as pipe:
            pipe.set("{t}a", "1").incr("{t}a").hset("{t}h", "f", "v").get("{t}a")
            assert pipe.execute() == [True, 2, 1, b"2"]
        log = client.execute_command("DEBUG", "WAL-EPOCHS", before + 1, 10)
    assert [(epoch, count) for _, count, epoch in log] == [(6, 4)]


def test_transaction_is_refused_as_a_whole(server: Server) -> None:
    with server.client() as client:
        with client.pipeline(transaction=True) as pipe:
            pipe.set("{t}a", "1").set("{t}b", "2")
            with pytest.raises(redis.ResponseError, match=BLOCKED):
                pipe.execute()
        assert client.mget("{t}a", "{t}b") == [None, None]
        # A transaction that only reads needs no lease, and one that was discarded does nothing.
        with client.pipeline(transaction=True) as pipe:
            assert pipe.get("{t}a").exists("{t}b").execute() == [None, 0]
        client.execute_command("MULTI")
        client.execute_command("SET", "{t}a", "1")
        client.execute_command("DISCARD")
        assert client.get("{t}a") is None


def test_transaction_with_a_wrong_command_does_nothing(open_server: Server) -> None:
    with open_server.client() as client:
        client.execute_command("MULTI")
        client.execute_command("SET", "a", "1")
        with pytest.raises(redis.ResponseError, match="wrong number of arguments"):
            client.execute_command("GET")
        with pytest.raises(redis.exceptions.ExecAbortError):
            client.execute_command("EXEC")
        assert client.get("a") is None
        with pytest.raises(redis.ResponseError, match="without MULTI"):
            client.execute_command("EXEC")


def test_apply_batch_passes_the_gate(server: Server) -> None:
    raw = batch((b"mbatched", b"svalue"))
    with server.client() as client:
        with pytest.raises(redis.ResponseError, match=BLOCKED):
            client.execute_command("APPLYBATCH", raw)
        assert client.execute_command("APPLYBATCH", batch()) == b"OK"  # nothing to refuse
        server.take_office(epoch=2)
        before = server.sequence()
        assert client.execute_command("APPLYBATCH", raw) == b"OK"
        assert client.get("batched") == b"value"
        log = client.execute_command("DEBUG", "WAL-EPOCHS", before + 1, 10)
        assert [epoch for _, _, epoch in log] == [2]
        for broken in (b"", b"short", raw[:-1], struct.pack("<QI", 0, 9)):
            with pytest.raises(redis.ResponseError, match="the write failed"):
                client.execute_command("APPLYBATCH", broken)
        forged = batch((b"mforged", b"s1")) + b"\x03" + bytes([len(stamp(9))]) + stamp(9)
        for meddling in (batch((b"!epoch", b"9")), forged):
            with pytest.raises(redis.ResponseError, match="the server's own"):
                client.execute_command("APPLYBATCH", meddling)
        assert server.replication()["log_epoch"] == 2


def test_every_acknowledged_write_carries_its_epoch(server: Server) -> None:
    before = server.sequence()
    with server.client() as client:
        for epoch in (1, 2, 7):
            server.take_office(epoch)
            client.set("key", epoch)
            client.hset("{key}h", "f", epoch)
        log = client.execute_command("DEBUG", "WAL-EPOCHS", before + 1, 100)
        assert client.execute_command("LASTEPOCH") == b"7"
    # The first batch of each is the epoch's record.
    assert [epoch for _, _, epoch in log] == [1, 1, 1, 2, 2, 2, 7, 7, 7]


def test_disabled_gate_stamps_nothing(open_server: Server) -> None:
    with open_server.client() as client:
        client.set("key", "1")
        log = client.execute_command("DEBUG", "WAL-EPOCHS", 1, 100)
    assert [epoch for _, _, epoch in log] == [None, None]


def test_replica_keeps_the_stamps_and_refuses_an_older_epoch(start_server: StartServer) -> None:
    master, replica = start_server("m"), start_server("r")
    master.take_office(epoch=5)
    replica.command("REPLICAOF", "127.0.0.1", master.port)
    with master.client() as to_master, replica.client() as to_replica:
        for number in range(20):
            to_master.set(f"k{number}", number)
        wait_until(lambda: replica.sequence() == master.sequence(), what="replication")
        log = to_replica.execute_command("DEBUG", "WAL-EPOCHS", 2, 100)
        assert [epoch for _, _, epoch in log] == [5] * 21
        for epoch, why in ((4, r"epoch 4 .* epoch 5"), (6, r"first of epoch 6 and has no record")):
            stale = batch((b"mstale", b"s1")) + b"\x03" + bytes([len(stamp(epoch))]) + stamp(epoch)
            with pytest.raises(redis.ResponseError, match=why):
                to_replica.execute_command("APPLYBATCH", stale)
        assert to_replica.get("stale") is None


# -- Clients and the wire --------------------------------------------------------------------------


def test_what_clients_ask_at_connect(server: Server) -> None:
    with server.client(client_name="test") as client:
        assert client.ping()
        assert client.echo("hi") == b"hi"
        assert client.client_getname() == "test"
        assert client.client_id() > 0
        assert client.execute_command("SELECT", 0)
        assert client.command_count() > 30
        names = {entry["name"] for entry in client.command().values()}
        assert {"get", "set", "multi"} <= names
        info = client.info()
        assert info["role"] == "master"
        assert info["cluster_enabled"] == 1
        assert client.execute_command("ROLE")[0] == b"master"
        with pytest.raises(redis.ResponseError, match="unknown command"):
            client.execute_command("FLUSHEVERYTHING")


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"PING\r\n", b"+PONG\r\n"),
        (b"\r\n*0\r\nPING\r\n", b"+PONG\r\n"),
        (b"*1\r\n$4\r\nPING\r\n" * 3, b"+PONG\r\n" * 3),
        (b"*9999999999\r\n", b"-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*1\r\nPING\r\n", b"-ERR Protocol error: expected '$'\r\n"),
        (b"*1\r\n$-4\r\n", b"-ERR Protocol error: invalid bulk length\r\n"),
        (b"*1\r\n$99999999999999\r\n", b"-ERR Protocol error: invalid bulk length\r\n"),
        (b"*1\r\n$4\r\nPINGPONG", b"-ERR Protocol error: bulk without line end\r\n"),
        (b"x" * 70_000, b"-ERR Protocol error: too big inline request\r\n"),
    ],
)
def test_wire(open_server: Server, sent: bytes, answer: bytes) -> None:
    with socket.create_connection(("127.0.0.1", open_server.port), 10) as raw:
        raw.sendall(sent)
        received = b""
        while len(received) < len(answer):
            received += raw.recv(4096)
        assert received == answer
    assert open_server.command("PING")


def test_request_in_single_bytes(open_server: Server) -> None:
    with socket.create_connection(("127.0.0.1", open_server.port), 10) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\r\n\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n":
            raw.sendall(bytes([byte]))
        received = b""
        while len(received) < 13:
            received += raw.recv(64)
        assert received == b"+OK\r\n$2\r\n\r\n\r\n"


def test_large_pipeline(open_server: Server) -> None:
    with open_server.client() as client, client.pipeline(transaction=False) as pipe:
        for number in range(20_000):
            pipe.set(f"k{number % 100}", "v" * 100).get(f"k{number % 100}")
        answers = pipe.execute()
    assert len(answers) == 40_000
    assert answers[1::2] == [b"v" * 100] * 20_000


def test_topology(start_server: StartServer) -> None:
    a, b = start_server("a"), start_server("b")
    b.set_nodes(2, (b, "master"), (a, "slave"))
    a.set_nodes(2, (b, "master"), (a, "slave"))
    with a.client() as client:
        assert client.execute_command("CLUSTERX", "VERSION") == b"2"
        assert client.execute_command("CLUSTERX", "MYID") == a.id.encode()
        assert client.execute_command("CLUSTER", "KEYSLOT", "123456789") == 12739
        assert client.info("replication")["role"] == "slave"
        with pytest.raises(redis.exceptions.MovedError, match=f"12182 127.0.0.1:{b.port}$"):
            client.get("foo")
        with pytest.raises(redis.ResponseError, match="Invalid cluster version"):
            a.set_nodes(1, (a, "master"))
        with pytest.raises(redis.ResponseError, match="two masters"):
            text = "\n".join(f"{node_id(n)} 127.0.0.1 1 master - 5" for n in "xy")
            client.execute_command("CLUSTERX", "SETNODES", text, 3)
    with b.client() as client, pytest.raises(redis.exceptions.ClusterCrossSlotError):
        client.mget("a", "b")
    a.kill()
    a.start()
    assert a.command("CLUSTERX", "VERSION") == b"2"
    with a.client() as client:
        assert client.info("replication")["role"] == "slave"


def test_redis_cluster_client(server: Server) -> None:
    assert server.heartbeat(epoch=1, ttl_ms=60_000).accepted
    with redis.RedisCluster(host="127.0.0.1", port=server.port) as client:
        assert client.set("key", "value")
        assert client.get("key") == b"value"


def test_compact_leaves_what_was_written(open_server: Server) -> None:
    with open_server.client() as client:
        client.mset({f"k{i}": i for i in range(500)})
        client.delete("k7")
        assert client.execute_command("COMPACT")
        assert (client.get("k8"), client.get("k7")) == (b"8", None)


def test_redis_cli_and_benchmark(open_server: Server) -> None:
    port = str(open_server.port)
    for tool in ("redis-cli", "redis-benchmark"):
        assert shutil.which(tool), f"{tool} is missing: it is in the package redis-tools"
    cli = ["redis-cli", "-p", port]
    assert subprocess.run([*cli, "SET", "a", "b"], capture_output=True, check=False).stdout == b"OK\n"
    assert b"# Lease" in subprocess.run([*cli, "INFO"], capture_output=True, check=False).stdout
    benchmark = subprocess.run(
        ["redis-benchmark", "-p", port, "-n", "2000", "-c", "20", "-q", "-t", "ping,set,get,incr,lpush,hset,mset"],
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert benchmark.returncode == 0, benchmark.stderr
    finished = re.findall(rb"([A-Z]+)[^\n\r]*: [\d.]+ requests per second", benchmark.stdout)
    assert {b"SET", b"GET", b"INCR", b"LPUSH", b"HSET"} <= set(finished), benchmark.stdout


# -- The process -----------------------------------------------------------------------------------


def test_bad_settings_end_the_start(tmp_path: Path) -> None:
    for arguments, error in (
        (["--port", "seven"], b"not acceptable for 'port'"),
        (["--master-lease-mode", "maybe"], b"not acceptable for 'master-lease-mode'"),
        (["--colour", "red"], b"no setting has the name 'colour'"),
        (["--port"], b"expected --name value"),
    ):
        run = subprocess.run([BINARY, *arguments], capture_output=True, check=False, cwd=tmp_path, timeout=20)
        assert run.returncode == 2
        assert error in run.stderr
    taken = tmp_path / "file"
    taken.write_text("not a directory")
    run = subprocess.run([BINARY, "--dir", taken], capture_output=True, check=False, timeout=20)
    assert run.returncode == 1
    assert run.stderr


def test_shutdown_command(start_server: StartServer) -> None:
    server = start_server(master_lease_mode="disabled", cluster_enabled="no")
    server.command("SET", "key", "kept")
    with server.client() as client:
        client.shutdown(nosave=True)
    assert server.process is not None
    assert server.process.wait(20) == 0
    server.start()
    assert server.command("GET", "key") == b"kept"


def test_daemonised_server_is_gated(tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    server = Server(tmp_path / "d", "d", daemonize="yes", pidfile=str(pidfile))
    server.start()
    assert server.process is not None
    assert server.process.wait(20) == 0
    pid = int(pidfile.read_text())
    try:
        for fd in range(3):
            assert os.readlink(f"/proc/{pid}/fd/{fd}") == "/dev/null"
        with server.client() as client:
            with pytest.raises(redis.ResponseError, match=BLOCKED):
                client.set("key", "1")
            assert server.heartbeat(epoch=1, ttl_ms=60_000).accepted
            assert client.set("key", "1")
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not pidfile.exists(), what="the server's end")
