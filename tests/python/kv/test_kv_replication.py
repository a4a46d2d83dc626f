"""Replication of the kvgate server: it follows the master's log, and refuses what is of an earlier epoch."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from kvgate import BLOCKED, UNCERTAIN, Server, free_port, wait_until

StartServer = Callable[..., Server]


def follow(replica: Server, master: Server) -> None:
    replica.command("SLAVEOF", "127.0.0.1", master.port)


def caught_up(replica: Server, master: Server) -> bool:
    return replica.sequence() == master.sequence() and replica.replication()["master_link_status"] == "up"


@pytest.fixture
def pair(start_server: StartServer) -> tuple[Server, Server]:
    """A master in office under epoch 1, and its replica."""
    master, replica = start_server("m"), start_server("r")
    master.take_office(epoch=1)
    follow(replica, master)
    wait_until(lambda: caught_up(replica, master), 30, "replication")
    return master, replica


def test_the_stream_reaches_the_replica_with_lag_reported(pair: tuple[Server, Server]) -> None:
    master, replica = pair
    with master.client() as client:
        for number in range(500):
            client.set(f"k{number}", number)
        client.execute_command("MULTI")
        client.hset("{h}", "f", "v")
        client.execute_command("EXEC")
    wait_until(lambda: caught_up(replica, master), 30, "replication")
    info = replica.replication()
    assert (info["role"], info["slave_lag"], info["full_syncs"]) == ("slave", 0, 0)
    assert info["log_epoch"] == 1
    wait_until(lambda: master.replication()["slave0"]["lag"] == 0, 30, "the replica's confirmation")
    info = master.replication()
    assert (info["connected_slaves"], info["slave0"]["state"], info["slave0"]["port"]) == (1, "online", replica.port)
    with replica.client() as client:
        client.readonly()
        assert client.get("k499") == b"499"
        assert client.hget("{h}", "f") == b"v"
    # Stopped, it falls behind; it goes on where it stopped.
    replica.freeze()
    with master.client() as client:
        client.set("more", "1")
    assert master.replication()["slave0"]["lag"] == 1
    replica.thaw()
    wait_until(lambda: caught_up(replica, master), 30, "replication")


def test_a_replica_restarts_where_it_stopped(pair: tuple[Server, Server]) -> None:
    master, replica = pair
    replica.kill()
    with master.client() as client:
        client.set("key", "while it was away")
    replica.start()
    follow(replica, master)
    wait_until(lambda: caught_up(replica, master), 30, "replication")
    assert replica.replication()["full_syncs"] == 0
    with replica.client() as client:
        assert client.get("key") == b"while it was away"


def test_logs_that_parted_are_brought_together_by_a_full_sync(start_server: StartServer) -> None:
    a, b = start_server("a"), start_server("b")
    a.take_office(epoch=1)
    with a.client() as client:
        for number in range(50):
            client.set(f"a{number}", "x" * 1000)
    b.take_office(epoch=2)
    with b.client() as client:
        client.set("b", "1")
    follow(a, b)
    wait_until(lambda: a.replication()["full_syncs"] == 1 and caught_up(a, b), 30, "the full synchronisation")
    with a.client() as client:
        assert client.get("b") == b"1"
        assert client.get("a0") is None
    assert a.replication()["log_epoch"] == 2
    # From there on by the log, through a restart too.
    with b.client() as client:
        client.set("b", "2")
    wait_until(lambda: caught_up(a, b), 30, "replication")
    a.kill()
    a.start()
    follow(a, b)
    wait_until(lambda: caught_up(a, b), 30, "replication")
    assert a.replication()["full_syncs"] == 0
    assert not list(Path(a.directory).glob("data/snapshot-*"))
    assert not list(Path(b.directory).glob("data/snapshot-*"))


def test_a_master_of_an_earlier_epoch_is_refused_for_good(start_server: StartServer) -> None:
    old, new, replica = start_server("old"), start_server("new"), start_server("r")
    old.take_office(epoch=4)
    new.take_office(epoch=5)
    follow(replica, new)
    wait_until(lambda: caught_up(replica, new), 30, "replication")
    sequence = replica.sequence()
    for restarted in (False, True):
        if restarted:
            replica.kill()
            replica.start()
        follow(replica, old)
        with old.client() as client:
            client.set("late", "1")
        wait_until(lambda: replica.replication()["refused_for_epoch"] > 0, 30, "the refusal")
        assert "is behind ours" in replica.log_text()
        assert replica.sequence() == sequence
        assert replica.replication()["log_epoch"] == 5


def test_a_master_whose_log_is_shorter_takes_nothing_away(start_server: StartServer) -> None:
    """In one epoch one server writes: its replica does not throw away what another replica has not received."""
    master, ahead, short = start_server("m"), start_server("r1"), start_server("r2")
    master.take_office(epoch=3)
    follow(short, master)
    wait_until(lambda: caught_up(short, master), 30, "replication")
    short.command("SLAVEOF", "NO", "ONE")
    follow(ahead, master)
    with master.client() as client:
        client.set("key", "acknowledged")
    wait_until(lambda: caught_up(ahead, master), 30, "replication")
    follow(ahead, short)
    wait_until(lambda: ahead.replication()["refused_for_epoch"] > 0, 30, "the refusal")
    with ahead.client() as client:
        client.readonly()
        assert client.get("key") == b"acknowledged"


def test_a_replica_feeds_nobody(pair: tuple[Server, Server], start_server: StartServer) -> None:
    master, replica = pair
    with pytest.raises(redis.ResponseError, match="not a master"):
        replica.command("PSYNC", 2, "-", 1)
    second = start_server("r2")
    follow(second, master)
    wait_until(lambda: caught_up(second, master), 30, "replication")
    assert master.replication()["connected_slaves"] == 2
    # A role change ends the feeds.
    follow(master, replica)
    wait_until(lambda: second.replication()["master_link_status"] == "down", 30, "the end of the feed")


def test_a_write_is_acknowledged_only_with_enough_replicas(pair: tuple[Server, Server]) -> None:
    master, replica = pair
    with master.client() as client:
        client.config_set("min-replicas-ack", "1")
        client.config_set("replica-ack-timeout-ms", "30000")
        assert client.set("key", "1")
        with replica.client() as reader:
            reader.readonly()
            assert reader.get("key") == b"1", "it is there when it is acknowledged"
        client.config_set("replica-ack-timeout-ms", "300")
        replica.freeze()
        with pytest.raises(redis.ResponseError, match=rf"^{UNCERTAIN} .*too few replicas"):
            client.set("key", "2")
        replica.thaw()
        client.config_set("replica-ack-timeout-ms", "30000")
        assert client.set("key", "3")


class RawReplica:
    """A replica's side of the wire, as a test needs it: it confirms whatever it is told to."""

    def __init__(self, master: Server, *request: object) -> None:
        self.socket = socket.create_connection((master.host, master.port), 30)
        self.reader = self.socket.makefile("rb")
        self.send("PSYNC", *request)

    def send(self, *words: object) -> None:
        parts = [str(word).encode() for word in words]
        self.socket.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))

    def frame(self) -> list[bytes]:
        count = int(self.reader.readline()[1:])
        return [self.reader.read(int(self.reader.readline()[1:]) + 2)[:-2] for _ in range(count)]

    def close(self) -> None:
        self.reader.close()
        self.socket.close()


def test_two_connections_of_one_replica_are_one_replica(server: Server) -> None:
    server.take_office(epoch=1)
    first = RawReplica(server, 0, "-", 7777)
    what, epoch, sequence, name = first.frame()
    assert (what, int(epoch), int(sequence)) == (b"snapshot", 1, server.sequence())
    while first.frame()[0] != b"end":
        pass
    first.close()
    follow_on = (int(sequence) + 1, f"snapshot:{name.decode()}")
    same = [RawReplica(server, *follow_on, 7777) for _ in range(2)]
    other = RawReplica(server, *follow_on, 8888)
    for replica in (same[1], other):
        assert replica.frame() == [b"continue"]
    with server.client() as client:
        client.config_set("min-replicas-ack", "2")
        client.config_set("replica-ack-timeout-ms", "500")
        for replica in same:
            with contextlib.suppress(OSError):  # the first has been sent away
                replica.send("ACK", int(sequence) + 100)
        with pytest.raises(redis.ResponseError, match="too few replicas"):
            client.set("key", "1")
        other.send("ACK", int(sequence) + 100)
        client.config_set("replica-ack-timeout-ms", "30000")
        assert client.set("key", "2")
    for replica in (*same, other):
        replica.close()


def test_a_write_in_flight_when_the_role_changes_is_not_acknowledged(pair: tuple[Server, Server]) -> None:
    """It waits for its replicas; meanwhile its server becomes a replica: the write must not be confirmed, and must not wait on."""
    master, replica = pair
    with master.client() as client:
        client.config_set("min-replicas-ack", "1")
        client.config_set("replica-ack-timeout-ms", "60000")
    replica.freeze()
    answers: list[str] = []

    def write() -> None:
        with master.client() as client:
            try:
                answers.append(str(client.set("key", "in flight")))
            except redis.ResponseError as error:
                answers.append(str(error))

    writer = threading.Thread(target=write)
    writer.start()
    wait_until(lambda: master.lease()["lease_in_flight"] == 1, 30, "the write")
    follow(master, replica)
    writer.join(30)
    replica.thaw()
    assert len(answers) == 1
    assert answers[0].startswith(UNCERTAIN)


# -- What else a server of this kind has -----------------------------------------------------------


def test_reads_are_gated_when_asked_to_be(server: Server) -> None:
    with server.client() as client:
        assert client.get("key") is None
        client.config_set("master-lease-gate-reads", "yes")
        with pytest.raises(redis.ResponseError, match=f"{BLOCKED}.*read.*never_granted"):
            client.get("key")
        server.take_office(epoch=1)
        client.set("key", "1")
        assert client.get("key") == b"1"
        client.execute_command("CLUSTERX", "DRAIN", 5_000)
        with pytest.raises(redis.ResponseError, match=f"{BLOCKED}.*read.*draining"):
            client.mget("key")
        assert client.ping()
        client.config_set("master-lease-gate-reads", "no")
        assert client.get("key") == b"1"


def test_a_script_writes_several_times_under_one_permit(server: Server) -> None:
    script = ["EVALWRITES", 3, 3, "SET", "{s}a", "1", 2, "INCR", "{s}a", 3, "LPUSH", "{s}l", "x"]
    with server.client() as client:
        with pytest.raises(redis.ResponseError, match=BLOCKED):
            client.execute_command(*script)
        server.take_office(epoch=2)
        before, entered = server.sequence(), server.lease()["lease_in_flight"]
        assert client.execute_command(*script) == [b"OK", 2, 1]
        log = client.execute_command("DEBUG", "WAL-EPOCHS", before + 1, 100)
        assert [epoch for _, _, epoch in log] == [2, 2, 2], "three batches, not one"
        assert server.lease()["lease_in_flight"] == entered
        assert client.execute_command("EVALWRITES", 1, 2, "GET", "{s}a") == [b"2"]
        for wrong in (["0", "1", "x"], ["2", "2", "GET", "a"], ["1", "9", "GET", "a"], ["1", "2", "GET", "a", "b"], ["x", "2", "GET", "a"]):
            with pytest.raises(redis.ResponseError, match="EVALWRITES"):
                client.execute_command("EVALWRITES", *wrong)
        with pytest.raises(redis.ResponseError, match="cannot be called"):
            client.execute_command("EVALWRITES", 1, 1, "PING")
        with pytest.raises(redis.exceptions.ClusterCrossSlotError):
            client.execute_command("EVALWRITES", 2, 2, "GET", "a", 2, "GET", "b")


def test_a_script_that_outlives_its_lease_is_not_acknowledged(start_server: StartServer) -> None:
    server = start_server(workers="8")
    with server.client() as client:
        client.get("key")
        server.take_office(epoch=1, ttl_ms=1_000)
        stalled = threading.Thread(target=server.command, args=("DEBUG", "STALL", 2_500))
        stalled.start()
        with pytest.raises(redis.ResponseError, match=f"^{UNCERTAIN} .*lease ended|{BLOCKED}"):
            while True:
                client.execute_command("EVALWRITES", 2, 3, "SET", "{s}a", "1", 3, "SET", "{s}b", "2")
        stalled.join(30)


def test_metrics_as_a_command_and_over_http(start_server: StartServer) -> None:
    port = free_port()
    server = start_server(metrics_port=str(port))
    server.take_office(epoch=7)
    text = server.command("METRICS").decode()
    for line in text.splitlines():
        assert re.fullmatch(r'kvgate_[a-z0-9_]+(\{value="[^\n]*"\})? -?[0-9.e+-]+', line), line
    assert "\nkvgate_lease_epoch 7\n" in text
    assert '\nkvgate_lease_phase_info{value="open"} 1\n' in text
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert "kvgate_replication_log_epoch 7" in answer.read().decode()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20)


def test_settings_of_the_library_are_passed_on(start_server: StartServer) -> None:
    server = start_server(tenure=["node_id=kv-7", "max_locks=100"])
    with server.client() as client:
        assert client.info("member")["node_id"] == "kv-7"
