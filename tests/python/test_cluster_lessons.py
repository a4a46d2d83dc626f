"""What other lock services got wrong, tried on a cluster of processes. The numbers C1-C30 are those of docs/guarantees.md."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

import tenure
from cluster import LIMIT, Cluster, Member, until
from test_cluster import acquired
from test_cluster_faults import stopped

CLIENT = {"request_timeout": 20.0, "session_ttl": 15.0}


def passed(seconds: float) -> None:
    """Waits for a time that is itself what the test is about."""
    end = time.monotonic() + seconds
    until(f"{seconds} s have passed", lambda: time.monotonic() >= end, seconds + LIMIT)


def hand_over(cluster: Cluster) -> bool:
    """Hands the leadership to whoever is furthest; not, when an election is under way anyway."""
    with contextlib.suppress(tenure.UnavailableError):
        cluster[cluster.leader()].transfer_leader()
        return True
    return False


def process(cluster: Cluster, name: str, **settings: object) -> Member:
    """A client in a process of its own."""
    given = {"node_id": name, "connect": ",".join(cluster.addresses), **CLIENT, **settings}
    member = Member(given, cluster.where / f"{name}.log")
    member.opened.result(LIMIT)
    return member


# F04.
def test_c6_a_leader_that_was_stopped_ends_no_lease_when_it_goes_on(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster, tenure.connect(cluster.addresses, **CLIENT) as client:
        client.wait_ready(LIMIT)
        grant = client.acquire("k", ttl=CLIENT["session_ttl"], timeout=LIMIT)
        old = cluster.leader()
        with stopped(cluster[old]):
            # By the clock of the stopped leader the lease is over when it wakes up, for it has heard of no renewal.
            passed(CLIENT["session_ttl"] + 1)
        until("it follows", lambda: cluster[old].view()["role"] == "follower" and cluster[old].view()["leader"])
        cluster.converged()
        assert not grant.lost
        assert all(member.holder("k")["token"] == grant.token for member in cluster)
        grant.release()


def test_c7_a_renewal_that_was_answered_lasts_its_time(tmp_path: Path) -> None:
    ttl = 4.0
    with Cluster(tmp_path) as cluster, tenure.connect(cluster.addresses, **CLIENT) as client:
        client.wait_ready(LIMIT)
        other = process(cluster, "other")
        try:
            grant = client.acquire("k", ttl=ttl, renew="manual", timeout=LIMIT)
            last = time.monotonic()
            waiting = other.start("acquire", "k", timeout=3 * LIMIT)
            until("it waits", lambda: cluster[0].holder("k")["waiters"] == 1)
            for _ in range(4):
                passed(ttl / 4)
                hand_over(cluster)
                sent = time.monotonic()
                try:
                    grant.renew()
                except tenure.Error:
                    # It came too late, or nobody knows: what was answered before still holds.
                    break
                last = sent
            token = waiting.result(3 * LIMIT)
            took = time.monotonic() - last
            print(f"free {took:.2f} s after the last renewal, of {ttl} s")
            assert token > grant.token
            assert took >= ttl * 0.98, f"granted to another {took:.2f} s after a renewal for {ttl} s"
        finally:
            other.kill()


# I-04, F05.
def test_c8_c9_leaders_that_change_neither_keep_the_dead_nor_end_the_living(tmp_path: Path) -> None:
    ttl = 4.0
    with Cluster(tmp_path) as cluster, tenure.connect(cluster.addresses, **CLIENT) as client:
        client.wait_ready(LIMIT)
        living = [client.acquire(f"living-{i}", ttl=CLIENT["session_ttl"], timeout=LIMIT) for i in range(20)]
        dead = process(cluster, "dead", session_ttl=ttl)
        waiting = process(cluster, "waiting")
        try:
            token = dead.acquire("k", ttl=ttl)
            asked = waiting.start("acquire", "k", timeout=3 * LIMIT)
            until("it waits", lambda: cluster[0].holder("k")["waiters"] == 1)
            dead.kill()
            start = time.monotonic()
            changes = 0
            # Were the lease begun anew by each leader, it would never end.
            while not asked.done() and time.monotonic() < start + 20 * ttl:
                changes += hand_over(cluster)
                half = time.monotonic() + ttl / 2
                until("half a ttl has passed, or it is free", lambda half=half: asked.done() or time.monotonic() > half)
            took = time.monotonic() - start
            print(f"free {took:.2f} s after the holder's death, of {ttl} s, over {changes} changes of the leader")
            assert asked.done(), "the lock of a dead process is not free"
            assert asked.result() > token
            for _ in range(5):
                hand_over(cluster)
            assert not any(grant.lost for grant in living)
            for grant in living:
                assert cluster[cluster.leader()].holder(grant.key)["token"] == grant.token
                grant.release()
        finally:
            for one in (dead, waiting):
                if one.alive:
                    one.kill()


def test_c18_after_all_members_were_stopped_nobody_believes_what_it_held(tmp_path: Path) -> None:
    ttl = 4.0
    with Cluster(tmp_path) as cluster, contextlib.ExitStack() as ends:
        clients = [ends.enter_context(tenure.connect(cluster.addresses, **{**CLIENT, "session_ttl": ttl})) for _ in range(2)]
        old = clients[0].acquire("k", ttl=ttl, timeout=LIMIT)
        told: list[object] = []
        old.lost.add_callback(told.append)
        with contextlib.ExitStack() as pauses:
            for member in cluster:
                pauses.enter_context(stopped(member))
            assert old.lost.wait(LIMIT), "nobody has to tell it"
            passed(ttl)
        # Whichever of them comes first: there is one holder, and its token is larger.
        new = clients[1].acquire("k", ttl=LIMIT, timeout=LIMIT)
        assert new.token > old.token
        assert clients[0].try_acquire("k") is None
        with contextlib.suppress(tenure.Error):
            old.release()
        assert len(told) == 1, "C17: once"
        assert old.lost.reason in {"expired", "session_expired", "node_lost"}
        assert {member.holder("k")["token"] for member in cluster} == {new.token}
        new.release()


def test_c17_renewals_need_no_python(tmp_path: Path) -> None:
    ttl = 6.0
    with Cluster(tmp_path, 1) as cluster, tenure.connect(cluster.addresses, **{**CLIENT, "session_ttl": ttl}) as client:
        client.wait_ready(LIMIT)
        with client.lock("k", ttl=ttl) as grant:
            # A function of the C library that is called without giving up the interpreter's lock.
            start = time.monotonic()
            ctypes.PyDLL(None).usleep(int(1.5 * ttl * 1e6))
            assert time.monotonic() - start > ttl
            assert not grant.lost
            assert cluster[0].holder("k")["token"] == grant.token


# I-16, F34.
def test_c20_what_was_answered_is_on_the_disks_of_a_majority(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster, tenure.connect(cluster.addresses, **{**CLIENT, "session_ttl": 600.0}) as client:
        client.wait_ready(LIMIT)
        kept: list[tenure.Grant] = []
        for turn in range(2):
            kept += [client.acquire(f"k{turn}-{i}", ttl=600, timeout=LIMIT) for i in range(20)]
            for member in cluster:
                member.signal(signal.SIGKILL)
            for i in range(3):
                cluster[i]._gone()
                cluster.restart(i, wait=False)
            for member in cluster:
                member.wait_ready(LIMIT)
            for grant, member in zip(kept, itertools.cycle(cluster), strict=False):
                assert member.holder(grant.key)["token"] == grant.token
        # One flipped bit in the middle of a member's log: it does not serve with what is left of it, and the others do.
        victim = cluster.others(cluster.leader())[0]
        cluster.kill(victim)
        log = max((tmp_path / f"n{victim}").glob("wal-*"), key=lambda path: len(path.read_bytes().rstrip(b"\0")))
        content = bytearray(log.read_bytes())
        content[len(content.rstrip(b"\0")) // 2] ^= 0x10
        log.write_bytes(content)
        damaged = cluster.restart(victim, wait=False)
        assert isinstance(damaged.opened.exception(), tenure.DataCorruptError)
        damaged._gone()
        rest = cluster.others(victim)
        assert acquired(cluster[rest[0]], "next") > max(grant.token for grant in kept)
        for grant in kept:
            assert cluster[rest[1]].holder(grant.key)["token"] == grant.token
            grant.release()


# I-17, F27.
def test_c23_reads_are_never_older_than_what_was_answered(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster, tenure.connect(cluster.addresses, **CLIENT) as client:
        client.wait_ready(LIMIT)

        def seen(member: Member) -> int | None:
            holder = until(f"{member.name} answers", lambda: answered(member))
            return holder[0]

        def answered(member: Member) -> list[int | None]:
            with contextlib.suppress(tenure.UnavailableError):
                holder = member.holder("k")
                return [holder and holder["token"]]
            return []

        for turn in range(8):
            grant = client.acquire("k", ttl=CLIENT["session_ttl"], timeout=LIMIT)
            assert [seen(member) for member in cluster] == [grant.token] * 3, f"turn {turn}"
            if turn % 4 == 1:
                hand_over(cluster)
            assert [seen(member) for member in cluster] == [grant.token] * 3, f"turn {turn}"
            if turn % 4 == 3:
                # A leader that was stopped meanwhile answers nothing of the time before.
                old = cluster.leader()
                with stopped(cluster[old]):
                    grant.release()
                    grant = client.acquire("k", ttl=CLIENT["session_ttl"], timeout=LIMIT)
                    late = cluster[old].start("holder", "k")
                with contextlib.suppress(tenure.UnavailableError):
                    assert late.result(LIMIT)["token"] == grant.token
            grant.release()
            until("the release is applied", lambda turn=turn: seen(cluster[turn % 3]) is None)


@pytest.mark.parametrize("mode", ["release", "keep"])
def test_c19_a_member_that_was_killed_takes_its_session_over(tmp_path: Path, mode: str) -> None:
    with Cluster(tmp_path, take_over=mode, session_ttl=120.0) as cluster:
        token = acquired(cluster[1], "k", ttl=120)
        cluster.kill(1)
        cluster.restart(1)
        if mode == "release":
            # Long before its time is over, and under a new token.
            assert cluster[2].acquire("k", timeout=LIMIT) > token
        else:
            assert cluster[2].try_acquire("k") is None
            assert cluster[2].holder("k")["node"] == "n1"


SLOW_DISK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>
int fdatasync(int fd) {
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
  if (access(getenv("SLOW_DISK"), F_OK) == 0) usleep(2000000);
  return real(fd);
}
"""


class SlowDisks(Cluster):
    """A cluster whose members' disks can be made to take two seconds to sync."""

    def __init__(self, where: Path) -> None:
        super().__init__(where, 3, request_timeout=20.0)
        self.library = where / "slow.so"
        source = where / "slow.c"
        source.write_text(SLOW_DISK)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", str(self.library), str(source), "-ldl"], check=True)

    def start_member(self, name: str, address: str, **settings: object) -> Member:
        given = {**self.settings, "node_id": name, "listen": address, "data_dir": str(self.where / name), **settings}
        # Behind what is preloaded into this process: a sanitizer has to come first.
        env = {"LD_PRELOAD": f"{os.environ.get('LD_PRELOAD', '')} {self.library}", "SLOW_DISK": str(self.where / f"{name}.slow")}
        return Member(given, self.where / f"{name}.log", env=env)

    def slow(self, *which: int) -> None:
        for i in range(3):
            mark = self.where / f"n{i}.slow"
            mark.touch() if i in which else mark.unlink(missing_ok=True)


# F35.
def test_c22_a_slow_disk_holds_up_nobody_and_a_majority_of_them_every_grant(tmp_path: Path) -> None:
    with SlowDisks(tmp_path) as cluster, tenure.connect(cluster.addresses, request_timeout=30.0, session_ttl=60.0) as client:
        client.wait_ready(LIMIT)

        def cycles(count: int) -> list[float]:
            took = []
            for _ in range(count):
                start = time.monotonic()
                client.acquire("k", timeout=LIMIT).release()
                took.append(time.monotonic() - start)
            return took

        leader = cluster.leader()
        for slow in (leader, cluster.others(leader)[0]):
            # The other two are a majority, and their disks are fast.
            cluster.slow(slow)
            took = cycles(20)
            print(f"n{slow} is slow: {sum(took):.2f} s for 20 cycles")
            assert sum(took) < 20 * 2.0, "each waited for the slow disk"
        cluster.slow()
        cluster.converged()
        term = cluster[leader].view()["term"]
        cluster.slow(*cluster.others(leader))
        took = cycles(3)
        print(f"both followers are slow: {[f'{t:.2f}' for t in took]}, term {term} and now {cluster[leader].view()['term']}")
        # C20: nothing is told before a majority has it on disk, however long that takes.
        assert min(took) >= 1.9
        cluster.slow()
