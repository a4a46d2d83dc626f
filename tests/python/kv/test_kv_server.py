"""The master's lease of the kvgate server: what Kvrocks specifies, and what the gate adds to it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import pytest
import redis
from kvgate import BLOCKED, Granter, Server, node_id, wait_until

StartServer = Callable[..., Server]


def is_blocked(client: redis.Redis, key: str = "probe") -> bool:
    """Whether a write is refused for want of the lease; any other error is raised."""
    try:
        client.set(key, "1")
    except redis.ResponseError as error:
        if BLOCKED in str(error):
            return True
        raise
    return False


def heartbeat_request(*arguments: object) -> bytes:
    """One request as it goes over the wire."""
    words = [str(argument).encode() for argument in ("CLUSTERX", "HEARTBEAT", *arguments)]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


# -- What Kvrocks specifies ------------------------------------------------------------------------


def test_cold_start_is_closed(server: Server) -> None:
    with server.client() as client:
        with pytest.raises(redis.ResponseError, match=f"{BLOCKED}.*never") as refused:
            client.set("key", "value")
        assert "\n" not in str(refused.value)
        assert client.get("key") is None
    lease = server.lease()
    assert lease["master_lease_mode"] == "block-write"
    assert lease["lease_phase"] == "closed"
    assert lease["lease_reason"] == "never_granted"
    assert lease["lease_epoch"] == 0
    assert lease["lease_grants"] == 0
    assert lease["lease_refused_never_granted"] == 1


def test_valid_lease_admits_writes(server: Server) -> None:
    beat = server.heartbeat(epoch=1, ttl_ms=10_000)
    assert beat.accepted
    assert beat.epoch == 1
    assert 0 < beat.remaining_ms <= 10_000
    with server.client() as client:
        assert client.set("key", "value")
        assert client.get("key") == b"value"
    lease = server.lease()
    assert lease["lease_phase"] == "open"
    assert lease["lease_epoch"] == 1
    assert 0 < lease["lease_remaining_ms"] <= 10_000


def test_writes_stop_when_the_lease_ends(server: Server) -> None:
    ttl_ms = 400
    nonce = server.nonce()
    counts_at_latest_from = time.monotonic()
    assert server.heartbeat(epoch=1, ttl_ms=ttl_ms, nonce=nonce).accepted
    last_sent = 0.0
    with server.client() as client:
        while True:
            sent = time.monotonic()
            assert sent < counts_at_latest_from + 10, "writes went on after the lease"
            if is_blocked(client):
                break
            last_sent = sent
        assert counts_at_latest_from < last_sent < counts_at_latest_from + ttl_ms / 1000
        wait_until(lambda: server.lease()["lease_reason"] == "expired", what="the reason")
        with pytest.raises(redis.ResponseError, match=f"{BLOCKED}.*expired"):
            client.set("late", "1")
        assert client.get("late") is None


def test_renewed_lease_stays_open(server: Server) -> None:
    ttl_ms = 600
    with Granter(server, epoch=3, ttl_ms=ttl_ms), server.client() as client:
        until = time.monotonic() + 3 * ttl_ms / 1000
        while time.monotonic() < until:
            assert not is_blocked(client)
    assert server.lease()["lease_epoch"] == 3


def test_log_only_admits_and_counts(start_server: StartServer) -> None:
    server = start_server(master_lease_mode="log-only")
    with server.client() as client:
        assert client.set("key", "1")
        assert client.get("key") == b"1"
    assert server.lease()["lease_passed"] == 1


def test_disabled_ignores_the_lease(start_server: StartServer) -> None:
    server = start_server(master_lease_mode="disabled")
    with server.client() as client:
        assert client.set("key", "1")


def test_mode_changes_at_run_time(server: Server) -> None:
    with server.client() as client:
        assert is_blocked(client)
        for mode, blocked in (
            ("disabled", False),
            ("block-write", True),
            ("log-only", False),
            ("block-write", True),
        ):
            client.config_set("master-lease-mode", mode)
            assert client.config_get("master-lease-mode") == {"master-lease-mode": mode}
            assert is_blocked(client) is blocked, mode
        with pytest.raises(redis.ResponseError, match="not acceptable"):
            client.config_set("master-lease-mode", "half-open")
        assert is_blocked(client)


def test_stale_version_is_an_error_and_changes_nothing(server: Server) -> None:
    assert server.heartbeat(epoch=5, ttl_ms=10_000).accepted
    before = server.lease()["lease_remaining_ms"]
    with server.client() as client:
        for arguments in (
            (server.id, 60_000, 4),
            (4, 60_000),
            (server.id, 60_000, 4, "NONCE", server.nonce()),
        ):
            with pytest.raises(redis.ResponseError, match=r"^election version mismatch: local=5, received=4$"):
                client.execute_command("CLUSTERX", "HEARTBEAT", *arguments)
        assert not is_blocked(client)
    after = server.lease()
    assert after["lease_epoch"] == 5
    assert after["lease_remaining_ms"] <= before


def test_heartbeat_for_another_node_renews_nothing(server: Server) -> None:
    answer = server.command("CLUSTERX", "HEARTBEAT", node_id("b"), 60_000, 0)
    assert b"accepted:0" in answer
    assert b"role:master" in answer
    with server.client() as client:
        assert is_blocked(client)


def test_higher_version_is_taken_over(server: Server) -> None:
    assert server.heartbeat(epoch=5, ttl_ms=10_000).accepted
    assert server.heartbeat(epoch=7, ttl_ms=10_000).accepted
    assert server.lease()["lease_epoch"] == 7


def test_shorter_heartbeat_does_not_shorten_the_lease(server: Server) -> None:
    assert server.heartbeat(epoch=1, ttl_ms=30_000).accepted
    assert server.heartbeat(epoch=1, ttl_ms=500).accepted
    assert server.lease()["lease_remaining_ms"] > 10_000


def test_slaveof_resets_the_lease_and_replication_applies_again(
    start_server: StartServer,
) -> None:
    master = start_server("m")
    replica = start_server("r")
    assert replica.heartbeat(epoch=1, ttl_ms=60_000).accepted
    assert master.heartbeat(epoch=2, ttl_ms=60_000).accepted
    with master.client() as client:
        client.set("key", "from the master")

    replica.command("SLAVEOF", "127.0.0.1", master.port)
    with replica.client() as client:
        wait_until(lambda: client.get("key") == b"from the master", what="replication")
        assert client.info("replication")["role"] == "slave"
        with pytest.raises(redis.ResponseError, match="write against a read only replica"):
            client.set("key", "1")
        beat = replica.heartbeat(epoch=2, ttl_ms=60_000)
        assert not beat.accepted

        client.execute_command("SLAVEOF", "NO", "ONE")
        assert client.info("replication")["role"] == "master"
        assert is_blocked(client)
        assert replica.heartbeat(epoch=3, ttl_ms=60_000).accepted
        assert not is_blocked(client)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("ID", 0, 1), r"^invalid lease_ms: must be greater than 0$"),
        ((1, 0), r"^invalid lease_ms: must be greater than 0$"),
        (("ID", "soon", 1), r"lease_ms is not an integer or out of range$"),
        (("ID", -5, 1), r"lease_ms is not an integer or out of range$"),
        (("ID", "18446744073709551616", 1), r"lease_ms is not an integer or out of range$"),
        (("ID", 1000, "first"), r"election_version is not an integer or out of range$"),
        (("ID", 1000, -1), r"election_version is not an integer or out of range$"),
        (("first", 1000), r"election_version is not an integer or out of range$"),
        ((1, "soon"), r"ttl_ms is not an integer or out of range$"),
        ((1, 1000, "NONCE", "x"), r"nonce is not an integer or out of range$"),
        ((), r"^wrong number of arguments"),
        ((1,), r"^wrong number of arguments"),
        (("ID", 1, 2, 3), r"^wrong number of arguments"),
        (("ID", 1, 2, "NONCE", 4, 5), r"^wrong number of arguments"),
    ],
)
def test_bad_arguments(server: Server, arguments: tuple[object, ...], error: str) -> None:
    arguments = tuple(server.id if argument == "ID" else argument for argument in arguments)
    with server.client() as client:
        with pytest.raises(redis.ResponseError, match=error):
            client.execute_command("CLUSTERX", "HEARTBEAT", *arguments)
        assert is_blocked(client)
    assert server.lease()["lease_epoch"] == 0


def test_absurd_lease_and_version_do_not_lock_the_node(server: Server) -> None:
    with server.client() as client:
        beat = server.heartbeat(epoch=1, ttl_ms=2**64 - 1)
        assert beat.remaining_ms < 2**40
        with pytest.raises(redis.ResponseError, match="epoch"):
            server.heartbeat(epoch=2**64 - 1, ttl_ms=10_000)
        assert server.heartbeat(epoch=2, ttl_ms=10_000).accepted
        assert not is_blocked(client)


def test_cluster_mode_off(start_server: StartServer) -> None:
    server = start_server(cluster_enabled="no")
    for command in (
        ("CLUSTERX", "HEARTBEAT", 1, 1000),
        ("CLUSTERX", "NONCE"),
        ("CLUSTERX", "VERSION"),
        ("CLUSTER", "NODES"),
    ):
        with pytest.raises(redis.ResponseError, match="Cluster mode is not enabled"):
            server.command(*command)


def test_prefix_of_the_error_is_configurable(server: Server) -> None:
    with server.client() as client:
        client.config_set("master-lease-error-prefix", "LEASEEXPIRED")
        with pytest.raises(redis.ResponseError, match=f"^LEASEEXPIRED {BLOCKED}"):
            client.set("key", "1")


# -- What the gate adds ----------------------------------------------------------------------------


def test_nonce_form_answers_and_counts_from_the_nonce(server: Server) -> None:
    nonce = server.nonce()
    issued = time.monotonic()
    wait_until(lambda: time.monotonic() - issued > 0.3, what="time to pass")
    beat = server.heartbeat(epoch=4, ttl_ms=1_000, nonce=nonce)
    assert beat.accepted
    assert beat.epoch == 4
    assert beat.remaining_ms <= 700
    assert beat.next_nonce != nonce
    # A nonce counts from the same moment however often it is sent.
    assert server.heartbeat(epoch=4, ttl_ms=1_000, nonce=nonce).remaining_ms <= 700
    never_issued = server.heartbeat(epoch=4, ttl_ms=60_000, nonce=nonce + 10**9)
    assert not never_issued.accepted
    assert "nonce" in never_issued.reason


def test_heartbeat_without_nonce_opens_nothing(server: Server) -> None:
    for arguments in ((server.id, 60_000, 1), (1, 60_000)):
        answer = server.command("CLUSTERX", "HEARTBEAT", *arguments)
        assert b"accepted:0" in answer
        assert b"nonce" in answer.split(b"reason:")[1]
    with server.client() as client:
        assert is_blocked(client)


def test_trust_receipt_is_the_named_weaker_mode(start_server: StartServer) -> None:
    server = start_server(master_lease_trust_receipt="yes")
    assert server.lease()["lease_trust_receipt"] == 1
    with server.client() as client:
        for arguments in ((server.id, 60_000, 1), (2, 60_000)):
            answer = client.execute_command("CLUSTERX", "HEARTBEAT", *arguments)
            assert b"accepted:1" in answer
        assert not is_blocked(client)


@pytest.mark.parametrize("trust_receipt", ["no", "yes"])
def test_heartbeat_queued_in_a_stopped_process(start_server: StartServer, trust_receipt: str) -> None:
    """The trap: a heartbeat lies in the socket of a stopped process while its office passes on."""
    server = start_server(master_lease_trust_receipt=trust_receipt)
    ttl_ms = 400
    nonce = server.nonce()
    assert server.heartbeat(epoch=1, ttl_ms=ttl_ms, nonce=nonce).accepted
    with server.client() as client, socket.create_connection(("127.0.0.1", server.port)) as queued:
        assert not is_blocked(client)
        next_nonce = server.nonce()
        server.freeze()
        frozen = time.monotonic()
        if trust_receipt == "yes":
            queued.sendall(heartbeat_request(server.id, 60_000, 1))
        else:
            queued.sendall(heartbeat_request(server.id, ttl_ms, 1, "NONCE", next_nonce))
        wait_until(lambda: time.monotonic() > frozen + 2 * ttl_ms / 1000, what="the lease's end")
        server.thaw()
        queued.settimeout(10)
        answer = queued.recv(4096)
        assert answer
        # Only the mode that trusts the receipt is taken in by the late heartbeat.
        assert is_blocked(client) is (trust_receipt == "no"), answer


def test_restart_comes_up_closed_with_the_epoch_remembered(server: Server) -> None:
    assert server.heartbeat(epoch=9, ttl_ms=60_000).accepted
    with server.client() as client:
        client.set("key", "kept")
    server.kill()
    server.start()
    with server.client() as client:
        assert is_blocked(client)
        assert client.get("key") == b"kept"
        with pytest.raises(redis.ResponseError, match="local=9, received=8"):
            client.execute_command("CLUSTERX", "HEARTBEAT", server.id, 60_000, 8)
        assert is_blocked(client)
        assert server.heartbeat(epoch=9, ttl_ms=60_000).accepted
        assert not is_blocked(client)


def test_higher_epoch_of_another_node_closes_at_once(server: Server) -> None:
    assert server.heartbeat(epoch=1, ttl_ms=60_000).accepted
    with server.client() as client:
        assert not is_blocked(client)
        client.execute_command("CLUSTERX", "HEARTBEAT", node_id("b"), 60_000, 2)
        with pytest.raises(redis.ResponseError, match=f"{BLOCKED}.*superseded"):
            client.set("key", "1")
        with pytest.raises(redis.ResponseError, match="local=2, received=1"):
            client.execute_command("CLUSTERX", "HEARTBEAT", server.id, 60_000, 1)


def test_heartbeats_do_not_wait_for_a_write_stall(start_server: StartServer) -> None:
    server = start_server(workers="2")
    ttl_ms = 600
    with Granter(server, epoch=1, ttl_ms=ttl_ms) as granter:
        before = len(granter.beats)
        stalled = threading.Thread(target=server.command, args=("DEBUG", "STALL", 1_500))
        stalled.start()
        writers = [threading.Thread(target=server.command, args=("SET", f"k{i}", i)) for i in range(4)]
        for thread in writers:
            thread.start()
        for thread in (stalled, *writers):
            thread.join(20)
            assert not thread.is_alive()
        during = granter.beats[before:]
        assert len(during) >= 6
        assert all(beat.accepted and beat.remaining_ms > 0 for beat in during)
        with server.client() as client:
            assert not is_blocked(client)


# I-02, F02.
def test_write_that_outlives_its_lease_is_not_acknowledged(start_server: StartServer) -> None:
    server = start_server(workers="16")
    with server.client() as client:
        client.get("key")  # gives the connection a worker of its own
        assert server.heartbeat(epoch=1, ttl_ms=800).accepted
        stalled = threading.Thread(target=server.command, args=("DEBUG", "STALL", 2_000))
        stalled.start()
        wait_until(lambda: _stalls(server), what="the stall")
        with pytest.raises(redis.ResponseError, match=r"^UNCERTAIN .* not acknowledged"):
            client.set("key", "written all the same")
        stalled.join(20)
        assert client.get("key") == b"written all the same"
    assert server.lease()["lease_uncertain"] >= 1


def _stalls(server: Server) -> bool:
    """Whether writes wait: one whose answer does not come at once."""
    with server.client(socket_timeout=0.05) as client:
        try:
            client.set("probe", "1")
        except redis.TimeoutError:
            return True
    return False


def test_own_lease_of_the_library(start_server: StartServer) -> None:
    server = start_server(master_lease_key="office/kv", master_lease_ttl_ms="2000")
    with server.client() as client:
        wait_until(lambda: not is_blocked(client), what="the office")
        lease = client.info("lease")
        assert lease["lease_source"] == "own"
        assert lease["lease_epoch"] > 0
        epoch = lease["lease_epoch"]
        client.execute_command("CLUSTERX", "DRAIN", 5_000)
        assert is_blocked(client)
        client.execute_command("SLAVEOF", "127.0.0.1", 1)
        client.execute_command("SLAVEOF", "NO", "ONE")
        wait_until(lambda: not is_blocked(client), what="the office again")
        assert client.info("lease")["lease_epoch"] > epoch
    assert not server.heartbeat(epoch=epoch + 10, ttl_ms=60_000).accepted


# -- Drain -----------------------------------------------------------------------------------------


def test_drain_is_exact_under_load(start_server: StartServer) -> None:
    server = start_server(workers="4")
    assert server.heartbeat(epoch=1, ttl_ms=60_000).accepted
    acknowledged: list[list[int]] = [[] for _ in range(4)]
    unclear: list[int] = []

    def write(writer: int) -> None:
        with server.client() as client:
            for number in range(1_000_000):
                try:
                    client.set(f"w{writer}:{number}", number)
                except redis.ResponseError as error:
                    if BLOCKED not in str(error):
                        unclear.append(writer)
                    return
                acknowledged[writer].append(number)

    writers = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in writers:
        thread.start()
    wait_until(lambda: all(len(numbers) > 50 for numbers in acknowledged), what="load")
    server.command("CLUSTERX", "DRAIN", 5_000)
    after_drain = server.sequence()
    for thread in writers:
        thread.join(20)
        assert not thread.is_alive()
    assert server.sequence() == after_drain
    # One write for each acknowledged one, the one that every database starts with, and the epoch's record.
    assert not unclear
    assert after_drain == sum(len(numbers) for numbers in acknowledged) + 2
    lease = server.lease()
    assert lease["lease_phase"] == "closed"
    assert lease["lease_reason"] == "draining"
    assert lease["lease_drains"] == 1
    assert lease["lease_in_flight"] == 0
    # The office was given up: it takes a fresh one to write again.
    assert server.heartbeat(epoch=2, ttl_ms=60_000).accepted
    with server.client() as client:
        assert not is_blocked(client)


def test_drain_is_not_kept_waiting_by_busy_workers(start_server: StartServer) -> None:
    server = start_server(workers="1")
    assert server.heartbeat(epoch=1, ttl_ms=60_000).accepted
    asleep = threading.Thread(target=server.command, args=("DEBUG", "SLEEP", 2))
    asleep.start()
    wait_until(lambda: _stalls(server), what="the only worker to sleep")
    started = time.monotonic()
    assert server.command("CLUSTERX", "DRAIN", 10_000) == b"OK"
    assert time.monotonic() - started < 1
    assert asleep.is_alive()
    asleep.join(20)


# F50.
def test_drain_waits_for_the_write_in_flight(start_server: StartServer) -> None:
    server = start_server(workers="16")
    assert server.heartbeat(epoch=1, ttl_ms=60_000).accepted
    answers: list[object] = []
    stalled = threading.Thread(target=server.command, args=("DEBUG", "STALL", 1_000))
    stalled.start()
    wait_until(lambda: _stalls(server), what="the stall")
    writer = threading.Thread(target=lambda: answers.append(server.command("SET", "in", "flight")))
    in_flight = server.lease()["lease_in_flight"]
    writer.start()
    wait_until(lambda: server.lease()["lease_in_flight"] > in_flight, what="a write in flight")
    with pytest.raises(redis.ResponseError, match="not drained"):
        server.command("CLUSTERX", "DRAIN", 50)
    assert server.command("CLUSTERX", "DRAIN", 10_000) == b"OK"
    sequence = server.sequence()
    for thread in (stalled, writer):
        thread.join(20)
    assert answers == [True]
    assert server.sequence() == sequence
    with server.client() as client:
        assert is_blocked(client)
