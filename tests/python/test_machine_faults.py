"""Clusters on a machine that fails: F06, F08, F28, F32 and F33 of docs/testing.md, each with a count that shows that it happened.

Only for root, and where the kernel has what it takes: otherwise skipped with the reason. `make test-faults` runs them.
"""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

import tenure
from cluster import LIMIT, Cluster, Member, until
from machine import Power, clock_ahead, clock_of, injected, small_disk, starved
from test_cluster import acquired
from test_cluster_faults import TTL, Site, kept, stopped
from test_cluster_lessons import hand_over, passed, process

CLIENT = {"request_timeout": 20.0, "session_ttl": 300.0}
DAY = 86_400


class Placed(Cluster):
    """A cluster whose members' directories are where they are told, and whose command lines may begin with something."""

    def __init__(self, where: Path, places: list[Path], prefixes: list[list[str]] | None = None, **settings: object) -> None:
        super().__init__(where, len(places), **settings)
        self.places = dict(zip(self.names, places, strict=True))
        self.prefixes = dict(zip(self.names, prefixes or [[]] * len(places), strict=True))

    def start_member(self, name: str, address: str, **settings: object) -> Member:
        return super().start_member(name, address, data_dir=str(self.places[name] / name), **settings)

    def prefix(self, name: str) -> list[str]:
        return self.prefixes[name]


def answered(asked: Future[int]) -> int | None:
    """The token, if one was told."""
    if asked.done() and asked.exception() is None:
        return asked.result()
    return None


def test_f28_all_members_lose_power_at_once(tmp_path: Path) -> None:
    """I-16, I-20: what was answered outlives a power cut of all members, and the term does not go back."""
    power = Power(tmp_path / "disk", tmp_path / "mounted", 256)
    try:
        with Placed(tmp_path, [power.where] * 3, wal_segment_bytes=1 << 20, session_ttl=3600.0) as cluster:
            grants: dict[str, int] = {}
            for turn in range(3):
                term = cluster[cluster.leader()].view()["term"]
                asked = {f"k{turn}-{i}": cluster[i % 3].start("try_acquire", f"k{turn}-{i}", ttl=3600) for i in range(300)}
                # The power goes in the middle of the work: what is answered counts, whenever it was.
                until("some are answered", lambda asked=asked: sum(one.done() for one in asked.values()) >= 20)
                power.cut()
                for member in cluster:
                    member.kill()
                told = {key: answered(one) for key, one in asked.items()}
                grants |= {key: token for key, token in told.items() if token}
                power.back()
                for i in range(3):
                    cluster.restart(i, wait=False)
                for member in cluster:
                    member.wait_ready(LIMIT)
                later = acquired(cluster[0], f"after-{turn}", ttl=3600)
                assert later > max(grants.values())
                assert cluster[cluster.leader()].view()["term"] > term
                for key, token in grants.items():
                    assert cluster[turn].holder(key)["token"] == token, key
                grants[f"after-{turn}"] = later
            print(f"{power.cuts} power cuts, {len(grants)} grants kept")
            assert power.cuts == 3
    finally:
        power.off()


def test_f32_the_leaders_disk_is_full(tmp_path: Path) -> None:
    """The others have space: work goes on. With space again the member is one of them again, and nothing is lost."""
    with contextlib.ExitStack() as ends:
        disks = [ends.enter_context(small_disk(tmp_path / f"disk{i}", 8)) for i in range(3)]
        places = [disk.where for disk in disks]
        cluster = ends.enter_context(Placed(tmp_path, places, wal_segment_bytes=1 << 16, snapshot_bytes=1 << 20))
        client = ends.enter_context(tenure.connect(cluster.addresses, **CLIENT))
        client.wait_ready(LIMIT)
        are_held = kept(cluster, client)
        victim = cluster.leader()
        disks[victim].fill()
        full = disks[victim].filled
        assert full > 0
        # More than fits into the segments that were there.
        for i in range(1000):
            client.acquire(f"{i}-{'x' * 200}", ttl=300, timeout=LIMIT).release()
        rest = cluster.others(victim)
        assert acquired(cluster[rest[0]], "k", ttl=300)
        said = cluster[victim].alive and cluster[victim].view()["role"]
        print(f"{full} bytes were taken, 1000 cycles were done, n{victim} led and is now: {said}")
        disks[victim].free()
        cluster.kill(victim)
        cluster.restart(victim)
        cluster.converged()
        are_held()


# I-35.
@pytest.mark.parametrize("role", ["leader", "follower"])
def test_f33_a_disk_fails(tmp_path: Path, role: str) -> None:
    """I-18: a member whose sync has failed says nothing any more, to nobody; the others go on without it."""
    with Cluster(tmp_path) as cluster, tenure.connect(cluster.addresses, **CLIENT) as client:
        client.wait_ready(LIMIT)
        are_held = kept(cluster, client)
        leader = cluster.leader()
        victim = leader if role == "leader" else cluster.others(leader)[0]
        rest = cluster.others(victim)
        with injected(cluster[victim].process.pid, "fdatasync,fsync", "error=EIO", tmp_path / "strace") as fault:
            until("work goes on, and a sync fails", lambda: client.acquire("k", timeout=LIMIT).release() or fault.count)
            until("it has ended", lambda: has_ended(cluster[victim]))
            count = fault.count
        assert count >= 1
        leader = cluster.leader(rest)
        client.acquire("k", timeout=LIMIT).release()
        # Its disk would work again. But it is silent: with one of the others stopped there is no majority.
        with stopped(cluster[next(i for i in rest if i != leader)]), pytest.raises(tenure.UnavailableError):
            cluster[leader].start("try_acquire", "silent").result(LIMIT)
        print(f"{count} syncs failed, n{leader} leads")
        cluster.kill(victim)
        cluster.restart(victim)
        cluster.converged()
        are_held()


def has_ended(member: Member) -> bool:
    try:
        member.try_acquire("ended")
    except tenure.PoisonedError:
        return True
    except tenure.UnavailableError:
        return False
    return False


def test_f06_clocks_a_day_apart_end_no_lease_and_prolong_none(tmp_path: Path) -> None:
    """I-04: each member's clocks are days from the others', and its next life's from those of this one."""
    ttl = 6.0
    prefixes = [clock_ahead(DAY), clock_ahead(10 * DAY), []]
    with (
        Placed(tmp_path, [tmp_path] * 3, prefixes) as cluster,
        tenure.connect(cluster.addresses, request_timeout=20.0, session_ttl=ttl) as client,
    ):
        client.wait_ready(LIMIT)
        assert [clock_of(member.process.pid) for member in cluster] == [DAY, 10 * DAY, 0]
        living = [client.acquire(f"living-{i}", ttl=ttl, timeout=LIMIT) for i in range(10)]
        dead, waiting = process(cluster, "dead", session_ttl=ttl), process(cluster, "waiting")
        try:
            token = dead.acquire("k", ttl=ttl)
            until("what it holds is known", lambda: cluster[0].holder("k")["token"] == token)
            asked = waiting.start("acquire", "k", timeout=3 * LIMIT)
            renewed = time.monotonic()
            dead.kill()
            leaders = set()
            for i in range(3):
                # The next leader's clocks are days from this one's; who led comes back with a clock that has gone back, or ahead.
                old = cluster.leader()
                leaders.add(old)
                cluster.kill(old)
                cluster[old].prefix = clock_ahead((20 + i) * DAY) if old == 2 else []
                cluster.restart(old)
            hand_over(cluster)
            assert asked.result(3 * LIMIT) > token
            took = time.monotonic() - renewed
            # The holder had up to a third of its time less when it died, as its last renewal was up to that long ago.
            assert took > ttl * 0.6, f"free {took:.1f} s after the holder's death, of {ttl} s"
            passed(ttl / 3)
            assert not [grant.key for grant in living if grant.lost]
            offsets = [clock_of(member.process.pid) // DAY for member in cluster]
            print(f"free {took:.1f} s after the holder's death, of {ttl} s; leaders {leaders}, days ahead now {offsets}")
        finally:
            for one in (dead, waiting):
                if one.alive:
                    one.kill()


@pytest.mark.parametrize("who", ["leader", "worker"])
def test_f08_hardly_any_processor(tmp_path: Path, who: str) -> None:
    """I-01, I-02: with half a percent of one processor a leader is replaced, and a holder's lease ends by its own view first."""
    with Cluster(tmp_path) as cluster, Site(cluster, clients=2) as site:
        site.progress("before")
        victim = cluster[cluster.leader()] if who == "leader" else site.workers[0]
        end = time.monotonic() + 4 * TTL
        with starved(victim.process.pid, 0.5) as fault:
            while time.monotonic() < end:
                site.progress(f"while {victim.name} is starved", by=3)
            count = fault.count
        assert count >= 3, "it had all the time that it wanted"
        site.progress("with all")
        counts = site.verdict()
        print(f"{victim.name} had to wait {count} times: {counts}")
