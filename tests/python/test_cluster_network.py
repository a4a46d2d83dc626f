"""Members in network namespaces of their own, whose cables are pulled: no two holders, nothing lost, and work goes on with a majority.

Needs root, iproute2 and, for ways that are closed in one direction and for lost packets, nftables: `make test-faults` installs them
where it may, and goes through more seeds.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import tenure
from cluster import LIMIT, Cluster, until
from netns import Network
from test_cluster import acquired
from test_cluster_faults import SEEDS, Site, kept


@pytest.fixture
def network() -> Iterator[Network]:
    network = Network()
    try:
        if network.missing:
            pytest.skip(network.missing)
        yield network
    finally:
        network.close()


@pytest.fixture
def filters(network: Network) -> Network:
    why = network.cannot_filter
    if why:
        pytest.skip(why)
    return network


class Spaces(Cluster):
    """A cluster with a namespace for each member, beyond loopback, so in the named weaker mode. Its clients are on the bridge."""

    def __init__(self, where: Path, network: Network, count: int = 3, **settings: object) -> None:
        addresses = {f"n{i}": f"{network.add(f'n{i}')[0]}:7000" for i in range(count)}
        super().__init__(where, count, **{"peers": addresses, "insecure": True, **settings})
        self.addresses = list(addresses.values())
        self.network = network

    def prefix(self, name: str) -> list[str]:
        return self.network.prefix(name)

    def client(self, **settings: object) -> tenure.Node:
        client = tenure.connect(self.addresses, insecure=True, **{"request_timeout": 20.0, "session_ttl": 300.0, **settings})
        client.wait_ready(LIMIT)
        return client


# F15, F21.
def test_a_leader_that_is_cut_off_is_replaced_and_says_so(tmp_path: Path, network: Network) -> None:
    limit = 2.0
    with Spaces(tmp_path, network, request_timeout=limit) as cluster, cluster.client() as client:
        assert cluster[0].view()["net"]["security"] == "insecure"
        assert any("insecure" in mode for mode in cluster[0].status()["weaker_modes"])
        leader = cluster.leader()
        rest = cluster.others(leader)
        are_held = kept(cluster, client)
        held = acquired(cluster[leader], "k", ttl=2.0)
        network.cut(f"n{leader}", True)
        # Its own view ends in time, though nobody tells it; then the lock is free for others, under a larger token.
        until("it knows that it has lost the lock", lambda: cluster[leader].remaining(held) == 0)
        for call in [("try_acquire", "other"), ("holder", "k"), ("locks",)]:
            start = time.monotonic()
            with pytest.raises(tenure.UnavailableError):
                cluster[leader].start(*call).result(LIMIT)
            took = time.monotonic() - start
            assert took < limit + 10, f"{call} was answered after {took:.1f} s"
        until("it leads no longer", lambda: cluster[leader].view()["role"] != "leader")
        assert cluster.leader(rest) in rest
        grant = client.acquire("k", ttl=300, timeout=LIMIT)
        assert grant.token > held
        network.cut(f"n{leader}", False)
        until("it follows", lambda: cluster[leader].view()["leader"] in {f"n{i}" for i in rest})
        assert acquired(cluster[leader], "after") > grant.token
        grant.release()
        are_held()
        cluster.converged()


# F24.
def test_ways_that_are_closed_in_one_direction(tmp_path: Path, filters: Network) -> None:
    with Spaces(tmp_path, filters) as cluster, cluster.client() as client:
        are_held = kept(cluster, client)
        for hears in (True, False):
            # The leader hears the others and is not heard by them; then the other way round.
            leader = cluster.leader()
            rest = cluster.others(leader)
            if hears:
                for i in rest:
                    filters.filter(f"n{i}", {f"n{leader}": 100})
            else:
                filters.filter(f"n{leader}", {f"n{i}": 100 for i in rest})
            new = cluster.leader(rest)
            assert new != leader
            until("the old one leads no longer", lambda leader=leader: cluster[leader].view()["role"] != "leader")
            client.acquire(f"closed-{hears}", timeout=LIMIT).release()
            filters.heal()
            until("all follow one", lambda: len({member.view()["leader"] for member in cluster} - {None}) == 1)
            are_held()
        cluster.converged()


def test_a_majority_that_meets_in_one_member_only_has_a_leader(tmp_path: Path, filters: Network) -> None:
    # n0 and n1 reach n2 only, n3 and n4 too: whoever of the four leads, leads nobody but n2.
    with Spaces(tmp_path, filters, 5) as cluster, cluster.client() as client:
        are_held = kept(cluster, client)
        cluster[0].transfer_leader("n0")
        cluster.leader()
        sides = (["n0", "n1"], ["n3", "n4"])
        for one, other in (sides, sides[::-1]):
            for name in one:
                filters.filter(name, dict.fromkeys(other, 100))
        # n2 and either side are three of five: somebody leads them, and a client that reaches all finds that one.
        for i in range(5):
            client.acquire(f"split-{i}", timeout=LIMIT).release()
        until("one leads", lambda: sum(member.view()["role"] == "leader" for member in cluster) == 1)
        # Without the leader the other side takes over.
        leader = cluster.leader()
        cluster.network.cut(f"n{leader}", True)
        if leader != 2:
            client.acquire("after", timeout=LIMIT).release()
        filters.heal()
        are_held()
        cluster.converged()


# F10.
@pytest.mark.parametrize("seed", SEEDS)
def test_cuts_and_losses_lose_nothing(tmp_path: Path, filters: Network, seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    with Spaces(tmp_path, filters) as cluster, Site(cluster, insecure=True) as site, cluster.client() as client:
        are_held = kept(cluster, client)
        site.progress("before any fault")
        faults = ["cut", "one way", "loss"]
        chance.shuffle(faults)
        for fault in faults:
            leader = cluster.leader()
            victim = leader if chance.random() < 0.6 else chance.choice(cluster.others(leader))
            name, rest = f"n{victim}", [f"n{i}" for i in cluster.others(victim)]
            match fault:
                case "cut":
                    filters.cut(name, True)
                case "one way":
                    filters.filter(name, dict.fromkeys(rest, 100))
                case _:
                    for one in (name, *rest):
                        filters.filter(one, {other: 10 for other in (name, *rest) if other != one})
            took = site.progress(f"with {name}: {fault}")
            print(f"{name} {'led' if victim == leader else 'followed'}, {fault}: 10 additions after {took:.2f} s")
            filters.heal()
            site.progress("with all members")
        are_held()
        cluster.converged()
        site.verdict()
