"""Three processes, one ledger: what is granted by one is known to all, and outlives any one of them."""

from __future__ import annotations

import time

import pytest

import tenure
from cluster import LIMIT, TIMING, Cluster, free_address, until


def acquired(member, key, **options):
    """Takes the lock, asking again while no leader is there: how long that takes is not this test's."""

    def ask():
        try:
            return member.try_acquire(key, **options)
        except tenure.UnavailableError:
            return None

    return until(f"{key} is granted by {member.name}", ask)


def test_three_processes_are_one_cluster(tmp_path):
    with Cluster(tmp_path) as cluster:
        tokens = [cluster[i].try_acquire(f"k{i}") for i in range(3)]
        assert tokens == sorted(set(tokens))
        for member in cluster:
            for i in range(3):
                holder = member.holder(f"k{i}")
                assert (holder["node"], holder["token"]) == (f"n{i}", tokens[i])
            assert member.try_acquire("k0") is None
        leader = cluster.leader()
        view = cluster[leader].view()
        assert (view["role"], view["leader"], view["cluster_id"]) == ("leader", f"n{leader}", "tenure")
        assert view["net"]["security"] == "loopback"
        assert sorted(m["name"] for m in view["members"]) == cluster.names
        assert all(m["voter"] and m["leader"] == (m["name"] == f"n{leader}") for m in view["members"])
        assert {m.view()["role"] for m in cluster} == {"leader", "follower"}
        assert all(m.status()["form"] == "raft" for m in cluster)

        # A wait on one member ends by a release on another.
        waiting = cluster[2].start("acquire", "k0")
        until("it waits", lambda: cluster[1].holder("k0")["waiters"] == 1)
        assert not waiting.done()
        cluster[0].release(tokens[0])
        assert waiting.result(LIMIT) > tokens[2]


def test_a_killed_leaders_grants_survive_and_others_go_on(tmp_path):
    with Cluster(tmp_path) as cluster:
        leader = cluster.leader()
        held = {f"k{i}": cluster[i % 3].try_acquire(f"k{i}", ttl=600) for i in range(30)}
        cluster.kill(leader)
        rest = cluster.others(leader)
        token = acquired(cluster[rest[0]], "next")
        assert token > max(held.values())
        assert cluster.leader(rest) in rest
        for i, (key, token) in enumerate(held.items()):
            holder = cluster[rest[1]].holder(key)
            # What the dead process held runs out in its time; the others' is renewed.
            assert holder is not None or i % 3 == leader, key
            assert holder is None or holder["token"] == token
        back = cluster.restart(leader)
        assert back.holder("next")["node"] == f"n{rest[0]}"
        assert acquired(back, "again") > token
        cluster.converged()


def test_a_minority_answers_within_its_deadline(tmp_path):
    with Cluster(tmp_path, request_timeout=2.0) as cluster:
        token = cluster[0].try_acquire("k", ttl=600)
        cluster.kill(1)
        cluster.kill(2)
        for call in [("try_acquire", "other"), ("holder", "k"), ("locks",)]:
            start = time.monotonic()
            with pytest.raises(tenure.UnavailableError):
                cluster[0].start(*call).result(LIMIT)
            took = time.monotonic() - start
            assert took < 2.0 + 3.0, f"{call} was answered after {took:.1f} s"
        assert cluster[0].status()["state"] == "running"
        cluster.restart(1)
        assert cluster[0].holder("k")["token"] == token
        assert acquired(cluster[0], "after") > token


def test_all_members_stop_and_start(tmp_path):
    with Cluster(tmp_path) as cluster:
        token = cluster[1].try_acquire("k", ttl=600)
        for i in range(3):
            cluster.kill(i)
        for i in range(3):
            cluster.restart(i, wait=False)
        for member in cluster:
            member.wait_ready(LIMIT)
            assert member.holder("k")["token"] == token
        assert acquired(cluster[2], "other") > token


def test_a_member_opens_without_the_others(tmp_path):
    settings = {**TIMING, "request_timeout": 0.5, "node_id": "a", "listen": free_address(), "data_dir": tmp_path / "a"}
    peers = {"a": settings["listen"], "b": free_address(), "c": free_address()}
    with tenure.Node(**settings, peers=peers) as node:
        assert (node.status()["cluster"]["role"], node.status()["cluster"]["leader"]) == ("none", None)
        with pytest.raises(tenure.UnavailableError):
            node.try_acquire("k")
        with pytest.raises(tenure.LockTimeout):
            node.wait_ready(0.1)
    with tenure.Node(**{**settings, "node_id": "d", "data_dir": tmp_path / "d"}, peers={"d": settings["listen"]}) as alone:
        alone.wait_ready(LIMIT)
        with alone.lock("k") as grant:
            assert grant.token > 0
        assert alone.status()["cluster"]["role"] == "leader"


def test_contradictory_settings_are_refused(tmp_path):
    good = {"node_id": "a", "data_dir": tmp_path / "a", "listen": free_address(), **TIMING}
    peers = {"a": good["listen"], "b": free_address()}
    for over, word in [
        ({"listen": None}, "listen"),
        ({"data_dir": None}, "data_dir"),
        ({"node_id": "c"}, "peers"),
        ({"election_min": 0.1}, "election_min_ms"),
        ({"session_ttl": 3.0}, "session_ttl_ms"),
        ({"tls_cert": "/x"}, "tls_"),
        ({"listen": "0.0.0.0:7001"}, "listen"),
    ]:
        with pytest.raises(tenure.InvalidArgumentError, match=word):
            tenure.Node(**{**good, "peers": peers, **over})
    with pytest.raises(tenure.InvalidArgumentError, match="peers"):
        tenure.Node(**good, peers=[f"a={good['listen']}", "b=x"])
    assert not (tmp_path / "a").exists()
