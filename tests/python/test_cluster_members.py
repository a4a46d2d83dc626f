"""Who belongs to a cluster: handing over, coming in, going out, and those who are not let in."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

import tenure
from cluster import LIMIT, Cluster, Member, free_address, until
from test_cluster import acquired


def names(member: Member) -> list[str]:
    return sorted(m["name"] for m in member.members())


def poisoned(member: Member) -> str:
    """Waits until the cluster has refused this node, and says why."""
    refused = member.opened.exception(LIMIT)
    if refused is not None:
        assert isinstance(refused, tenure.PoisonedError)
        return str(refused)
    return until(f"{member.name} is told", lambda: member.status()["poisoned"])


def wipe(cluster: Cluster, name: str) -> None:
    """Removes a member's directory and the mark beside it that remembers that there was one."""
    for place in cluster.where.iterdir():
        if place.suffix != ".log" and name in place.name:
            shutil.rmtree(place) if place.is_dir() else place.unlink()


def test_the_leadership_is_handed_over(tmp_path):
    with Cluster(tmp_path) as cluster:
        held = cluster[0].try_acquire("k", ttl=600)
        for _ in range(3):
            old = cluster.leader()
            to = (old + 1) % 3
            cluster[(old + 2) % 3].transfer_leader(f"n{to}")
            until(f"n{to} leads", lambda to=to: cluster[to].view()["role"] == "leader")
        assert cluster[2].holder("k")["token"] == held
        with pytest.raises(tenure.InvalidArgumentError, match="nobody"):
            cluster[0].transfer_leader("nobody")


# F31.
def test_a_removed_member_is_told_so_and_replaced(tmp_path):
    with Cluster(tmp_path) as cluster:
        gone = cluster.others(cluster.leader())[0]
        held = cluster[gone].try_acquire("k", ttl=600)
        rest = cluster.others(gone)
        cluster[rest[0]].remove_member(f"n{gone}")
        assert names(cluster[rest[1]]) == sorted(f"n{i}" for i in rest)
        with pytest.raises(tenure.InvalidArgumentError):
            cluster[rest[0]].remove_member(f"n{gone}")
        # With its old directory it may not take part, and is told why.
        cluster.kill(gone)
        back = cluster.restart(gone, wait=False)
        assert "removed" in poisoned(back)
        if back.opened.exception(LIMIT) is None:
            with pytest.raises(tenure.PoisonedError, match="removed"):
                back.wait_ready(LIMIT)
        back.kill()
        # The one that takes its place has an empty directory; the name may be the same.
        seeds = [cluster.addresses[i] for i in rest]
        new = cluster.start_member("n3", free_address(), peers=None, seeds=seeds)
        cluster.members[gone] = new
        new.wait_ready(LIMIT)
        until("it votes", lambda: all(m["voter"] for m in new.members()))
        assert names(cluster[rest[0]]) == sorted([f"n{i}" for i in rest] + ["n3"])
        assert new.holder("k")["token"] == held
        assert acquired(new, "other") > held


def test_nodes_that_start_at_once_with_the_same_seeds_are_one_cluster(tmp_path):
    with Cluster(tmp_path, 0) as cluster:
        addresses = [free_address() for _ in range(4)]
        # Three know each other; the fourth knows one of them.
        for i, address in enumerate(addresses):
            seeds = addresses[:3] if i < 3 else addresses[1:2]
            cluster.members.append(cluster.start_member(f"n{i}", address, peers=None, seeds=seeds))
        for member in cluster:
            member.wait_ready(LIMIT)
        until("all four vote", lambda: all(sum(m["voter"] for m in member.members()) == 4 for member in cluster))
        token = acquired(cluster[3], "k")
        assert all(member.holder("k")["token"] == token for member in cluster)
        # Asking again changes nothing: it comes back with the same settings.
        cluster.kill(3)
        cluster.restart(3)
        assert names(cluster[3]) == ["n0", "n1", "n2", "n3"]
        assert cluster[3].holder("k")["token"] == token


# I-34.
def test_a_join_token_lets_one_node_in_once(tmp_path):
    with Cluster(tmp_path, 1, join_tokens="required") as cluster:

        def joiner(name: str, **settings: object) -> Member:
            member = cluster.start_member(name, free_address(), peers=None, join_tokens=None, seeds=cluster.addresses, **settings)
            cluster.members.append(member)
            return member

        assert "token" in poisoned(joiner("n1"))
        assert "token" in poisoned(joiner("n2", join_token="0" * 64))
        token = cluster[0].join_token_create("n3", 60)
        assert len(token) == 64
        assert "token" in poisoned(joiner("n4", join_token=token)), "it is another node's"
        late = cluster[0].join_token_create("n5", 1)
        let_in = joiner("n3", join_token=token)
        let_in.wait_ready(LIMIT)
        assert names(let_in) == ["n0", "n3"]
        # What was used is used, and what is over by the cluster's clock is over.
        cluster[0].remove_member("n3")
        let_in.kill()
        wipe(cluster, "n3")
        assert "token" in poisoned(joiner("n3", join_token=token))
        made = time.monotonic()
        until("the second token has run out", lambda: time.monotonic() > made + 2)
        assert "token" in poisoned(joiner("n5", join_token=late))
        for path in cluster.where.rglob("*"):
            assert not path.is_file() or token.encode() not in path.read_bytes(), path


# F29.
def test_a_wiped_member_is_refused_by_the_others(tmp_path):
    with Cluster(tmp_path) as cluster:
        token = acquired(cluster[0], "k", ttl=600)
        cluster.kill(2)
        wipe(cluster, "n2")
        wiped = cluster.restart(2, wait=False)
        assert "another data directory" in poisoned(wiped)
        if wiped.opened.exception(LIMIT) is None:
            assert wiped.view()["role"] == "none"
        assert cluster[1].holder("k")["token"] == token


@pytest.mark.parametrize("taken", ["before its last start", "since its last start"])
def test_an_old_backup_is_refused_whoever_leads(tmp_path, taken):
    def copy(source: Path, target: Path, name: str) -> None:
        # The mark beside the directory is of the backup too: the node itself sees nothing wrong.
        shutil.copytree(source / name, target / name)
        shutil.copy(source / f".{name}.tenure", target)

    with Cluster(tmp_path / "now") as cluster:
        backup = tmp_path / "backup"
        backup.mkdir()
        leader = cluster.leader()
        behind = cluster.others(leader)[0]
        if taken == "before its last start":
            cluster.kill(behind)
            copy(cluster.where, backup, f"n{behind}")
            cluster.restart(behind)
        else:
            cluster.stop(behind)
            copy(cluster.where, backup, f"n{behind}")
            cluster.cont(behind)
        session = cluster[leader]
        token = acquired(session, "k", ttl=600)
        for _ in range(100):
            session.release(acquired(session, "often"))
        cluster.converged()
        if taken == "since its last start":
            # What it has acknowledged is written down for whoever leads later.
            until("that is noted", lambda: session.view()["marked"].get(f"n{behind}", 0) > 100)
        cluster.kill(behind)
        # The leader that has seen it goes as well, and comes back: nobody's memory but the ledger's is asked.
        cluster.kill(leader)
        cluster.restart(leader, wait=False)
        wipe(cluster, f"n{behind}")
        copy(backup, cluster.where, f"n{behind}")
        old = cluster.restart(behind, wait=False)
        why = poisoned(old)
        assert "older than what the cluster remembers" in why or "another process runs with a copy" in why
        until("the others go on", lambda: cluster[leader].view()["leader"])
        assert cluster[leader].holder("k")["token"] == token


def test_a_lock_that_was_granted_without_an_answer_is_given_back(tmp_path):
    with Cluster(tmp_path, 3) as cluster:
        leader = cluster.leader()
        others = cluster.others(leader)
        for i in others:
            cluster.stop(i)
        with pytest.raises(tenure.UnavailableError):
            cluster[leader].try_acquire("k")
        for i in others:
            cluster.cont(i)
        # It may be granted now, to a session that is alive and knows nothing of it.
        assert acquired(cluster[others[0]], "k")


# F30.
def test_two_clusters_of_one_name_refuse_each_other(tmp_path):
    with Cluster(tmp_path / "one", 2) as one:
        assert one[0].try_acquire("k")
        one.kill(0)
        one.kill(1)
        two = Cluster(tmp_path / "two", 2, peers=one.settings["peers"])
        two.addresses = one.addresses
        with two:
            assert two[0].try_acquire("k")
            two.kill(1)
            # A member of the first one comes back where the other's was.
            stray = one.restart(1, wait=False)
            for member in (two[0], stray):
                until("it refuses", lambda member=member: member.view()["net"]["refused"].get("Lineage", 0) > 0)
            for member in (two[0], stray):
                with pytest.raises(tenure.UnavailableError):
                    member.try_acquire("other")
            stray.kill()
            two.restart(1)
            assert acquired(two[1], "other")
