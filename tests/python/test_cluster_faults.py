"""Members that are killed and stopped while processes work under the cluster's locks: what was acknowledged stays, and none overlap.

Seeds are printed; ``FAULT_SEEDS=7,8`` picks others. Nothing here needs root: see ``test_cluster_network.py`` for cut networks.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tenure
from cluster import LIMIT, Cluster, Member, free_address, state_of, until
from test_cluster import acquired
from test_cluster_members import poisoned
from workload import Resource, check, check_order, history

SEEDS = [int(seed) for seed in os.environ.get("FAULT_SEEDS", "1").split(",")]
KEYS = ["a", "b", "c"]
TTL = 1.5
CLIENT = {"request_timeout": 5.0, "session_ttl": 3.0}


class Site:
    """A cluster, a resource, and processes that write to it under the cluster's locks: the members, and clients."""

    def __init__(self, cluster: Cluster, clients: int = 2, **settings: object) -> None:
        self.cluster = cluster
        self.resource = Resource()
        self.settings = settings
        self.where = cluster.where
        self.clients = clients
        self.workers: list[Member] = []
        self._number = 0

    def __enter__(self) -> Site:
        self.resource.__enter__()
        for i in range(self.clients):
            settings = {"node_id": f"w{i}", "connect": ",".join(self.cluster.addresses), **CLIENT, **self.settings}
            self.workers.append(Member(settings, self.where / f"w{i}.log", self.cluster.prefix(f"w{i}")))
        for worker in self.workers:
            worker.opened.result(LIMIT)
            self.work(worker)
        for member in self.cluster:
            self.work(member)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            if worker.alive:
                worker.signal(signal.SIGKILL)
            worker._gone()
        self.resource.__exit__()

    def work(self, process: Member) -> None:
        self._number += 1
        record = self.where / f"{process.name}-{self._number}.history"
        process.work(self._number, self.resource.path, str(record), KEYS, TTL)

    def progress(self, what: str, by: int = 10) -> float:
        """Waits until so many additions were made by whoever can; for how long it waited."""
        start = time.monotonic()
        before = self.additions()
        until(f"{by} additions {what}", lambda: self.additions() >= before + by)
        return time.monotonic() - start

    def additions(self) -> int:
        return sum(len(value) for value in self.resource.values.copy().values())

    def verdict(self) -> dict[str, int]:
        """Ends the work and checks what was written down."""
        for process in [*self.workers, *self.cluster]:
            if process.alive:
                process.work_stop()
        lines = history(self.where)
        counts = check(lines, self.resource.values)
        print(counts, check_order(lines, self.where))
        assert counts["added"] >= 20
        return counts


@contextlib.contextmanager
def stopped(process: Member) -> Iterator[None]:
    process.signal(signal.SIGSTOP)
    until(f"{process.name} is stopped", lambda: state_of(process.process.pid) == "T")
    try:
        yield
    finally:
        process.signal(signal.SIGCONT)


def kept(cluster: Cluster, client: tenure.Node, count: int = 20) -> Callable[[], None]:
    """Grants that are held throughout; what it returns asserts that each is still held, by whichever member is asked."""
    grants = {f"kept-{i}": client.acquire(f"kept-{i}", ttl=300, timeout=LIMIT) for i in range(count)}

    def are_held() -> None:
        for key, grant in grants.items():
            assert not grant.lost, key
            for member in cluster:
                if member.alive:
                    holder = until(f"{member.name} answers", lambda member=member, key=key: answered(member, key))
                    assert holder["token"] == grant.token, (key, member.name)

    return are_held


def answered(member: Member, key: str) -> object:
    """The holder; nothing while no majority is reached."""
    with contextlib.suppress(tenure.UnavailableError):
        return member.holder(key)
    return None


# I-01.
@pytest.mark.parametrize(("members", "seed"), [(3, seed) for seed in SEEDS] + [(5, seed) for seed in SEEDS[1:]])
def test_killed_and_stopped_members_lose_nothing(tmp_path: Path, members: int, seed: int) -> None:
    print(f"seed {seed}, {members} members")
    chance = random.Random(seed)
    with (
        Cluster(tmp_path, members) as cluster,
        Site(cluster) as site,
        tenure.connect(cluster.addresses, request_timeout=20.0, session_ttl=300.0) as client,
    ):
        client.wait_ready(LIMIT)
        are_held = kept(cluster, client)
        site.progress("before any fault")
        for _ in range(3):
            # As many as may fail, and more often than not the leader among them.
            leader = cluster.leader()
            victims = chance.sample(cluster.others(leader), (members - 1) // 2)
            if chance.random() < 0.6:
                victims[0] = leader
            killed = [victim for victim in victims if chance.random() < 0.5]
            with contextlib.ExitStack() as pauses:
                for victim in victims:
                    if victim in killed:
                        cluster.kill(victim)
                    else:
                        pauses.enter_context(stopped(cluster[victim]))
                took = site.progress(f"without {victims}")
            for victim in killed:
                cluster.restart(victim)
                site.work(cluster[victim])
            what = ", ".join(f"n{v} {'led' if v == leader else 'followed'}, {'killed' if v in killed else 'stopped'}" for v in victims)
            print(f"{what}: 10 additions after {took:.2f} s")
            site.progress("with all members")
        are_held()
        cluster.converged()
        site.verdict()


# F01.
def test_a_stopped_holder_writes_nothing_under_its_old_token(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster, Site(cluster, clients=2) as site:
        holder, other = site.workers
        token = holder.acquire("k", ttl=TTL)
        assert site.resource.answer(key="k", token=token, value=[1]) is True
        with stopped(holder):
            # Longer than its grants live: whatever it held is somebody else's by now, the locks of its work too.
            start = time.monotonic()
            while time.monotonic() < start + 2 * TTL:
                site.progress(f"while {holder.name} is stopped", by=3)
            later = other.acquire("k", ttl=TTL)
            assert later > token
            assert site.resource.answer(key="k", token=later, value=[1, 2]) is True
        assert holder.remaining(token) == 0
        assert site.resource.answer(key="k", token=token, value=[1, 3]) is None
        until("it is told", lambda: [e for e in holder.seen() if e.get("token") == token])
        site.progress("after it goes on")
        site.verdict()
    assert site.resource.values["k"] == [1, 2]


def test_a_stopped_majority_is_answered_unavailable_in_time(tmp_path: Path) -> None:
    limit = 2.0
    with Cluster(tmp_path, request_timeout=limit) as cluster:
        token = acquired(cluster[0], "k", ttl=600)
        with stopped(cluster[1]), stopped(cluster[2]):
            for call in [("try_acquire", "other"), ("holder", "k"), ("locks",)]:
                start = time.monotonic()
                with pytest.raises(tenure.UnavailableError):
                    cluster[0].start(*call).result(LIMIT)
                took = time.monotonic() - start
                assert took < limit + 10, f"{call} was answered after {took:.1f} s"
            with pytest.raises(tenure.UnavailableError), tenure.connect(cluster.addresses[0], request_timeout=limit) as client:
                client.try_acquire("other")
        assert acquired(cluster[0], "other") > token
        assert cluster[1].holder("k")["token"] == token


# I-19.
def test_a_live_twin_is_refused(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        leader = cluster.leader()
        victim, other = cluster.others(leader)
        token = acquired(cluster[other], "k", ttl=600)
        name = f"n{victim}"
        # The directory itself is locked by the process that has it.
        second = cluster.start_member(name, cluster[victim].address)
        assert isinstance(second.opened.exception(LIMIT), tenure.Error)
        second._gone()
        with stopped(cluster[victim]):
            copy = tmp_path / "copy"
            copy.mkdir()
            shutil.copytree(tmp_path / name, copy / name)
            shutil.copy(tmp_path / f".{name}.tenure", copy)
        address = free_address()
        twin = cluster.start_member(name, address, data_dir=str(copy / name), peers={**cluster.settings["peers"], name: address})
        try:
            why = poisoned(twin)
            assert "older than what the cluster remembers" in why or "another process runs with a copy" in why
        finally:
            twin.kill()
        # The first one goes on, or has ended too when both were heard at once; the rest of the cluster goes on in any case.
        assert cluster[leader].holder("k")["token"] == token
        assert acquired(cluster[other], "next") > token


def line(what: str, token: int, at: float, to: float = 0.0, **about: object) -> dict[str, object]:
    times = {"asked": at, "granted": at} if what == "granted" else {"since": at, "to": to}
    return {"what": what, "key": "k", "token": token, "by": "w", **times, **about}


# I-17.
def test_an_order_that_cannot_be_is_found(tmp_path: Path) -> None:
    one = [line("granted", 5, 1.0), line("releasing", 5, 2.0, asked=2.0), line("granted", 6, 3.0)]
    assert "linearizable, 3 operations" in check_order(one, tmp_path)
    # Nobody gave the first one back, and it was believed to be held after the second one had been granted.
    with pytest.raises(AssertionError, match="key k is not linearizable"):
        check_order([one[0], one[2], line("held", 5, 1.0, 9.0)], tmp_path)
    # Lost without time for it.
    two = [line("granted", 5, 1.0, ttl=100.0), line("stale-release", 5, 0.0, asked=2.0, answered=3.0)]
    with pytest.raises(AssertionError, match="key k is not linearizable"):
        check_order(two, tmp_path)


@pytest.mark.parametrize(
    ("lines", "stored", "says"),
    [
        ([line("granted", 5, 1.0), line("granted", 5, 2.0)], [], "given twice"),
        ([line("granted", 5, 1.0), line("granted", 4, 2.0)], [], "was asked for after 5"),
        ([line("held", 5, 1.0, 3.0), line("held", 6, 2.0, 4.0)], [], "two holders of k"),
        ([line("held", 5, 1.0, 2.0), line("added", 5, 1.0, element=7), line("held", 6, 2.0, 4.0)], [6], "are gone: [7]"),
    ],
)
# I-17.
def test_the_check_finds_what_it_is_to_find(lines: list[dict[str, object]], stored: list[int], says: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(says)):
        check(lines, {"k": stored})
