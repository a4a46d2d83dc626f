"""Processes that use a cluster without being members of it."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
import time

import pytest

import tenure
import tenure.aio
from cluster import LIMIT, Cluster, free_address, until
from native import compile_program, installed

SETTINGS = {"request_timeout": 10.0, "session_ttl": 20.0}


def connect(cluster, *which, **settings):
    """A client of the cluster; of these members, where they are named."""
    addresses = [cluster.addresses[i] for i in which] or cluster.addresses
    return tenure.connect(addresses, **{**SETTINGS, **settings})


def test_a_client_does_what_a_node_does(tmp_path):
    # The first address is dead: any that works will do.
    with Cluster(tmp_path) as cluster, tenure.connect([free_address(), *cluster.addresses], node_id="web", **SETTINGS) as client:
        client.wait_ready(LIMIT)
        with client.lock("k", metadata=b"hello") as grant:
            holder = cluster[1].holder("k")
            assert (holder["node"], holder["token"]) == ("web", grant.token)
            assert cluster[2].try_acquire("k") is None
            assert [info.key for info in client.locks("k")] == [b"k"]
        assert client.holder("k") is None
        # A wait of a client ends by the release of a member, and the other way round.
        token = cluster[0].try_acquire("k")
        got = []
        waiter = threading.Thread(target=lambda: got.append(client.acquire("k", timeout=LIMIT)))
        waiter.start()
        until("it waits", lambda: client.holder("k").waiters == 1)
        cluster[0].release(token)
        waiter.join(LIMIT)
        assert got[0].token > token
        waiting = cluster[1].start("acquire", "k")
        until("it waits", lambda: client.holder("k").waiters == 1)
        got[0].release()
        assert waiting.result(LIMIT) > got[0].token
        status = client.status()
        assert (status["form"], status["cluster"]["role"]) == ("client", "client")
        assert status["cluster"]["connected_to"] in cluster.names
        until("the members are known", lambda: len(client.status()["cluster"]["members"]) == 3)


def test_a_client_looks_after_the_cluster(tmp_path):
    with Cluster(tmp_path, join_tokens="required") as cluster, connect(cluster) as client:
        client.wait_ready(LIMIT)
        assert {m.name for m in client.members()} == set(cluster.names)
        to = cluster.others(cluster.leader())[0]
        client.transfer_leader(f"n{to}")
        until("it leads", lambda: cluster[to].view()["role"] == "leader")
        until("the client knows", lambda: client.status()["cluster"]["leader"] == f"n{to}")
        with pytest.raises(tenure.InvalidArgumentError, match="nobody"):
            client.remove_member("nobody")
        token = client.join_token_create("n3", 60)
        seeds = cluster.addresses[:1]
        new = cluster.start_member("n3", free_address(), peers=None, join_tokens=None, seeds=seeds, join_token=token)
        cluster.members.append(new)
        new.wait_ready(LIMIT)
        client.remove_member("n0" if to != 0 else "n1")
        # Whoever was connected to the one that is gone goes to another.
        until("it is gone", lambda: len(client.members()) == 3)
        with client.lock("k"):
            pass


def test_a_watch_goes_on_with_another_member(tmp_path):
    with Cluster(tmp_path) as cluster, connect(cluster) as client:
        client.wait_ready(LIMIT)
        with client.watch("k") as watch, client.watch_prefix("k") as every:
            assert watch.next(LIMIT).held is False
            token = cluster[0].try_acquire("k", ttl=600)
            assert watch.next(LIMIT).token == every.next(LIMIT).token == token
            # The member that is asked goes; what changes is told by the next one.
            asked = int(client.status()["cluster"]["connected_to"][1:])
            cluster.stop(asked)
            rest = cluster.others(asked)

            def freed():
                with contextlib.suppress(tenure.UnavailableError):
                    cluster[rest[0]].force_release("k")
                    return cluster[rest[0]].holder("k") is None

            until("the lock is free", freed)
            assert watch.next(LIMIT).held is every.next(LIMIT).held is False
            with client.lock("k") as grant:
                assert watch.next(LIMIT).token == every.next(LIMIT).token == grant.token
            cluster.cont(asked)


def test_a_client_holds_an_office(tmp_path):
    with Cluster(tmp_path) as cluster, connect(cluster) as client, client.gate("writes") as gate:
        gate.hold("office", ttl=20.0)
        until("the gate opens", gate.check)
        with gate.write() as permit:
            assert permit.epoch == client.holder("office").token
        client.force_release("office")
        until("the gate closes", lambda: not gate.check())


def test_losses_are_told(tmp_path):
    with Cluster(tmp_path) as cluster, connect(cluster) as client:
        grant = client.try_acquire("k")
        cluster[0].force_release("k")
        assert grant.lost.wait(LIMIT)
        assert grant.lost.reason == "forced"


def test_a_killed_leader_costs_a_client_nothing(tmp_path):
    with Cluster(tmp_path) as cluster, connect(cluster) as client:
        held = client.acquire("held", timeout=LIMIT)
        blocked = client.session("other", ttl=20.0)
        got = []
        waiter = threading.Thread(target=lambda: got.append(blocked.acquire("held", timeout=None)))
        waiter.start()
        until("it waits", lambda: client.holder("held").waiters == 1)
        seen = []
        stop = threading.Event()

        def work():
            while not stop.is_set():
                # A grant that was made and not told would still be held: nobody else takes this lock.
                grant = client.acquire("work", timeout=LIMIT)
                seen.append(grant.token)
                grant.release()

        worker = threading.Thread(target=work)
        worker.start()
        until("it works", lambda: len(seen) > 20)
        cluster.kill(cluster.leader())
        before = len(seen)
        until("it works on", lambda: len(seen) > before + 20)
        stop.set()
        worker.join(LIMIT)
        assert seen == sorted(set(seen)), "each token is given once, and they increase"
        assert not held.lost
        held.release()
        waiter.join(LIMIT)
        assert got[0].token > held.token


def test_a_stopped_leader_is_left(tmp_path):
    with Cluster(tmp_path) as cluster, connect(cluster) as client:
        client.wait_ready(LIMIT)
        leader = cluster.leader()
        cluster.stop(leader)
        try:
            grant = client.acquire("k", timeout=LIMIT)
        finally:
            cluster.cont(leader)
        until("the old leader sees it", lambda: cluster[leader].holder("k")["token"] == grant.token)


def test_without_a_cluster_a_client_says_so_in_time():
    with tenure.connect(free_address(), request_timeout=0.5) as client:
        start = time.monotonic()
        with pytest.raises(tenure.UnavailableError) as refused:
            client.try_acquire("k")
        assert time.monotonic() - start < LIMIT
        assert refused.value.retriable
        assert client.status()["state"] == "running"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"connect": "here"}, "connect: "),
        ({"connect": "10.1.2.3:7001"}, "connect: "),
        ({"connect": "127.0.0.1:7001", "data_dir": "/x"}, "data_dir: "),
        ({"connect": "127.0.0.1:7001", "listen": "127.0.0.1:7002"}, "listen: "),
    ],
)
def test_contradictions_are_named(settings, named):
    with pytest.raises(tenure.InvalidArgumentError, match=f"^{named}"):
        tenure.Node(**settings)


def test_a_dead_clients_locks_are_free_when_its_time_is_over(tmp_path):
    program = """
import sys, tenure
client = tenure.connect(sys.argv[1], session_ttl=1.0)
print(client.acquire("k", ttl=1.0).token, flush=True)
sys.stdin.read()
"""
    with Cluster(tmp_path) as cluster, connect(cluster) as client:
        command = [sys.executable, "-c", program, ",".join(cluster.addresses)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            token = int(process.stdout.readline())
            process.kill()
        with client.lock("k", timeout=LIMIT) as grant:
            assert grant.token > token


def test_a_client_in_cpp(tmp_path):
    prefix = installed("capi", tmp_path / "prefix")
    program = compile_program(prefix, ["tests/cpp/client.cpp"], tmp_path / "client", "-std=c++17", compiler="c++")
    with Cluster(tmp_path) as cluster:
        before = cluster[0].try_acquire("k")
        client = subprocess.Popen([program, ",".join(cluster.addresses), "k"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        until("it waits", lambda: cluster[1].holder("k")["waiters"] == 1)
        cluster[0].release(before)
        token = int(client.stdout.readline())
        assert token > before
        assert (cluster[2].holder("k")["node"], cluster[2].holder("k")["token"]) == ("cpp", token)
        client.communicate("\n", timeout=LIMIT)
        assert client.returncode == 0
        until("it is free", lambda: cluster[1].holder("k") is None)


def test_asyncio(tmp_path):
    async def main(addresses):
        async with tenure.aio.connect(addresses, **SETTINGS) as client:
            await client.wait_ready(LIMIT)
            async with client.lock("k") as grant:
                holder = await client.holder("k")
                assert holder.token == grant.token
            grants = await asyncio.gather(*(client.acquire(f"k{i}") for i in range(20)))
            assert len({g.token for g in grants}) == 20

    with Cluster(tmp_path) as cluster:
        asyncio.run(main(cluster.addresses))


LEFT = """
import gc, os, sys, tempfile, tenure

def opened(number):
    with tenure.connect(sys.argv[1]) as client:
        client.acquire('k').release()
    address = sys.argv[2]
    with tempfile.TemporaryDirectory() as where:
        with tenure.Node(node_id='n0', listen=address, peers={'n0': address}, data_dir=where + '/n0') as member:
            member.wait_ready(60)

def left():
    gc.collect()
    return len(os.listdir('/proc/self/fd')), len(os.listdir('/proc/self/task'))

opened(0)
before = left()
for n in range(5):
    opened(n)
print(before == left() or (before, left()))
"""


def test_what_is_closed_leaves_no_descriptor_and_no_thread(tmp_path, program):
    with Cluster(tmp_path, 1) as cluster:
        ended = program(LEFT, cluster.addresses[0], free_address(), seconds=2 * LIMIT)
    # Nor does anything write to a directory that was given back: it is gone by then.
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True\n", "")
