"""Scenarios of docs/testing.md that nothing else plays, by their numbers; no root is needed."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from pathlib import Path

import tenure
import tenure.aio
from cluster import LIMIT, Cluster, until
from test_cluster import acquired
from test_cluster_lessons import passed, process


def test_f09_a_host_that_blocks_in_a_callback_keeps_its_other_locks(tmp_path: Path) -> None:
    ttl = 3.0
    blocked, done = threading.Event(), threading.Event()

    def block(_: object) -> None:
        blocked.set()
        done.wait(LIMIT)

    with Cluster(tmp_path, 1) as cluster, tenure.connect(cluster.addresses, request_timeout=20.0, session_ttl=30.0) as client:
        grants = [client.acquire(f"k{i}", ttl=ttl, timeout=LIMIT) for i in range(5)]
        grants[0].lost.add_callback(block)
        cluster[0].force_release("k0")
        try:
            assert blocked.wait(LIMIT)
            passed(2 * ttl)
            assert not done.is_set()
            assert all(grant.held for grant in grants[1:])
            assert [cluster[0].holder(grant.key)["token"] for grant in grants[1:]] == [grant.token for grant in grants[1:]]
        finally:
            done.set()


def test_f14_a_challenger_with_a_shorter_ttl_changes_nothing(node: tenure.Node) -> None:
    """The grant's own time counts, not that of whoever would like to have it."""
    grant = node.acquire("k", ttl=30.0, renew="manual")
    with node.session("challenger", ttl=30.0) as challenger:
        start = time.monotonic()
        assert challenger.try_acquire("k", ttl=0.1) is None
        with contextlib.suppress(tenure.LockTimeout):
            challenger.acquire("k", ttl=0.1, timeout=0.5).release()
            raise AssertionError("it was given to the challenger")
        assert time.monotonic() - start >= 0.5
        assert grant.held
        assert node.holder("k").token == grant.token
    grant.release()


def test_f20_holder_and_leader_die_at_once(tmp_path: Path) -> None:
    """I-04: the next grant comes within the bound of docs/guarantees.md, not after several times the ttl."""
    ttl = 3.0
    with Cluster(tmp_path) as cluster:
        leader = cluster.leader()
        rest = cluster.others(leader)
        holder = process(cluster, "holder", session_ttl=ttl)
        try:
            token = holder.acquire("k", ttl=ttl)
            asked = cluster[rest[0]].start("acquire", "k", timeout=3 * LIMIT)
            until("it waits", lambda: cluster[rest[0]].holder("k")["waiters"] == 1)
            holder.kill()
            cluster.kill(leader)
            start = time.monotonic()
            assert asked.result(3 * LIMIT) > token
            took = time.monotonic() - start
            print(f"free {took:.2f} s after both deaths, of {ttl} s")
            # What is left of its time, an election, and a busy machine.
            assert took < ttl + 30
        finally:
            if holder.alive:
                holder.kill()


def test_f22_a_leader_that_is_back_before_an_election_grants_nothing_twice(tmp_path: Path) -> None:
    """I-05, I-16: the killed leader starts again while nobody has missed it, and answers nothing before it knows what it had answered."""
    with Cluster(tmp_path, election_min=2.0, election_max=3.0, session_ttl=600.0) as cluster:
        highest = 0
        for turn in range(3):
            leader = cluster.leader()
            held = {f"k{turn}-{i}": acquired(cluster[leader], f"k{turn}-{i}", ttl=600) for i in range(10)}
            assert min(held.values()) > highest
            term = cluster[leader].view()["term"]
            cluster.kill(leader)
            back = cluster.restart(leader, wait=False)

            # The first answers count, so nothing is waited for but an answer.
            def given(back=back, turn=turn) -> int | None:  # type: ignore[no-untyped-def]
                with contextlib.suppress(tenure.UnavailableError):
                    token: int | None = back.try_acquire(f"new-{turn}", ttl=600)
                    assert token, "it was free"
                    return token
                return None

            highest = until("the member that is back grants", given)
            assert highest > max(held.values())
            for key, token in held.items():
                assert back.holder(key)["token"] == token, key
                assert back.try_acquire(key) is None
            print(f"turn {turn}: term {term}, now {back.view()['term']}")


def test_f57_a_flood_of_waiters_is_refused_by_its_number(tmp_path: Path) -> None:
    """I-32: a queue is bounded; whoever is too many is told so, and the leader goes on."""
    most, many = 200, 3000
    with Cluster(tmp_path, max_waiters_per_key=most, request_timeout=20.0) as cluster:
        leader = cluster.leader()
        term = cluster[leader].view()["term"]
        token = acquired(cluster[leader], "k", ttl=600)

        async def flood() -> tuple[int, int]:
            async with tenure.aio.connect(cluster.addresses, request_timeout=30.0, session_ttl=60.0) as client:
                await client.wait_ready(LIMIT)
                waits = [asyncio.create_task(client.acquire("k", ttl=10.0, timeout=2 * LIMIT)) for _ in range(many)]
                limit = time.monotonic() + LIMIT
                while sum(wait.done() for wait in waits) < many - most:
                    assert time.monotonic() < limit, f"{sum(wait.done() for wait in waits)} were refused"
                    await asyncio.sleep(0.05)
                refused = [wait.exception() for wait in waits if wait.done()]
                assert all(isinstance(why, tenure.LimitError) for why in refused), set(map(repr, refused))
                waiting = cluster[leader].holder("k")["waiters"]
                for wait in waits:
                    wait.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
                return len(refused), waiting

        refused, waiting = asyncio.run(flood())
        print(f"{waiting} wait, {refused} of {many} were refused")
        assert (refused, waiting) == (many - most, most)
        assert cluster[leader].holder("k")["token"] == token
        assert acquired(cluster[leader], "other") > token
        assert cluster[leader].view()["term"] == term
