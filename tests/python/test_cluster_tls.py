"""Members and clients over TLS: who a process is stands in its certificate, and nobody else is believed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import tenure
from certs import Authority
from cluster import LIMIT, TIMING, Cluster, Member, free_address, until
from test_cluster import acquired

CLIENT = {"request_timeout": 10.0, "session_ttl": 20.0}


class Sealed(Cluster):
    """A cluster whose members have certificates of one authority."""

    def __init__(self, where: Path, count: int = 3, **settings: object) -> None:
        super().__init__(where, count, **settings)
        self.authority = Authority(where / "certs")

    def start_member(self, name: str, address: str, **settings: object) -> Member:
        return super().start_member(name, address, **{**self.authority.member(name), **settings})


def test_members_and_clients_talk_tls(tmp_path: Path) -> None:
    with Sealed(tmp_path) as cluster:
        view = cluster[0].view()["net"]
        assert view["security"] == "tls"
        assert 29 * 86400 < view["certificate_expires_s"] <= 30 * 86400
        assert cluster[0].status()["weaker_modes"] == []
        with tenure.connect(cluster.addresses, node_id="web", **CLIENT, **cluster.authority.client("web")) as client:
            client.wait_ready(LIMIT)
            with client.lock("k") as grant:
                assert cluster[1].holder("k")["token"] == grant.token
                assert cluster[2].try_acquire("k") is None
            cluster.kill(cluster.leader())
            with client.lock("k") as grant:
                assert grant.token > 0


# F58.
def test_a_certificate_of_another_name_is_refused_where_it_is_opened(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certs")
    address = free_address()
    settings = {**TIMING, "node_id": "n0", "data_dir": tmp_path / "n0", "listen": address, "peers": {"n0": address}}
    for files, why in [
        (authority.member("n1"), "certificate of"),
        (authority.issue("foreign", "tenure://other/n0"), "of cluster other"),
        (authority.issue("plain"), "no subject alternative name"),
        (authority.issue("two", "tenure://tenure/n0", "tenure://tenure/n1"), "more than one"),
        (authority.client("n0"), "certificate of"),
        (authority.issue("late", "tenure://tenure/n0", days=0), "expired"),
    ]:
        with pytest.raises(tenure.RefusedError, match=why):
            tenure.Node(**settings, **files)
    good = authority.member("n0")
    os.chmod(good["tls_key"], 0o644)
    with pytest.raises(tenure.RefusedError, match="everybody"):
        tenure.Node(**settings, **good)
    os.chmod(good["tls_key"], 0o600)
    with pytest.raises(tenure.RefusedError, match="not the key"):
        tenure.Node(**settings, **{**good, "tls_key": authority.member("n5")["tls_key"]})
    with pytest.raises(tenure.InvalidArgumentError, match="insecure"):
        tenure.Node(**settings, **good, insecure=True)
    with tenure.Node(**settings, **good) as node:
        node.wait_ready(LIMIT)
        with pytest.raises(tenure.RefusedError, match="certificate of"):
            tenure.connect(address, node_id="app", **authority.client("web"))


# F58.
def test_strangers_are_not_let_in(tmp_path: Path) -> None:
    with Sealed(tmp_path) as cluster:
        token = acquired(cluster[0], "k", ttl=600)
        stranger = Authority(tmp_path / "stranger")
        limits = {"request_timeout": 2.0, "session_ttl": 20.0}

        def refused() -> int:
            return sum(sum(member.view()["net"]["refused"].values()) for member in cluster)

        for files in ({}, stranger.client("web")):
            before = refused()
            with tenure.connect(cluster.addresses, node_id="web", **limits, **files) as client, pytest.raises(tenure.UnavailableError):
                client.try_acquire("other")
            assert until("it is counted", lambda before=before: refused() > before)
        # A member with another authority's certificate hears nobody and is heard by nobody; with its own it is back.
        cluster.kill(2)
        cluster.members[2] = cluster.start_member("n2", cluster.addresses[2], **stranger.member("n2"))
        cluster[2].opened.result(LIMIT)
        with pytest.raises(tenure.UnavailableError):
            cluster[2].holder("k")
        assert cluster[1].holder("k")["token"] == token
        cluster.kill(2)
        cluster.members[2] = cluster.start_member("n2", cluster.addresses[2])
        cluster[2].wait_ready(LIMIT)
        assert cluster[2].holder("k")["token"] == token


def test_renewed_certificates_are_taken_over_while_running(tmp_path: Path) -> None:
    with Sealed(tmp_path) as cluster:
        token = acquired(cluster[0], "k", ttl=600)
        authority = cluster.authority
        # Only half of the pair: the old one stays in use, and the status says why.
        (tmp_path / "certs" / "n0.key").rename(tmp_path / "certs" / "n0.old")
        until("it is told", lambda: cluster[0].view()["net"]["reload_error"])
        assert cluster[0].holder("k")["token"] == token
        for name in cluster.names:
            authority.member(name, days=365)

        def taken_over(member: Member) -> bool:
            net = member.view()["net"]
            return net["certificate_expires_s"] > 300 * 86400 and net["reload_error"] is None

        for member in cluster:
            until(f"{member.name} has the new one", lambda member=member: taken_over(member))
        cluster.kill(1)
        cluster.restart(1)
        assert cluster[1].holder("k")["token"] == token
        assert acquired(cluster[2], "other") > token


def test_plain_text_beyond_loopback_has_to_be_asked_for_by_name(tmp_path: Path) -> None:
    port = free_address().rsplit(":", 1)[1]
    settings = {**TIMING, "node_id": "n0", "data_dir": tmp_path / "n0", "listen": f"0.0.0.0:{port}", "peers": {"n0": f"127.0.0.1:{port}"}}
    with pytest.raises(tenure.InvalidArgumentError, match="insecure"):
        tenure.Node(**settings)
    with pytest.raises(tenure.InvalidArgumentError, match="insecure"):
        tenure.connect("192.0.2.1:7001")
    with tenure.Node(**settings, insecure=True) as node:
        node.wait_ready(LIMIT)
        assert node.status()["cluster"]["net"]["security"] == "insecure"
        assert any(mode.startswith("insecure=true") for mode in node.status()["weaker_modes"])
