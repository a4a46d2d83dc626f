"""One suite of behaviours against everything that Tenure's locks can run on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import etcdserver
import tenure
from cluster import TIMING, free_address
from locktable import Fenced, Plain, Polled, Table
from nativeservice import NativeService, compiled
from tenure.conformance import BEHAVIOURS, Parties, applicable, plugged, run

HERE = Path(__file__).parent


@contextlib.contextmanager
def one_node(**settings):
    """Three sessions of one node."""
    with tenure.Node(**settings) as node:
        yield Parties(node.session("a"), node.session("b"), node.session("c"))


def memory(tmp_path):
    return one_node()


def durable(tmp_path):
    return one_node(data_dir=tmp_path / "node")


def close_member(node):
    # The last ones are no majority: nobody records the end of their sessions.
    with contextlib.suppress(tenure.LockTimeout):
        node.close(timeout=0.5)


@contextlib.contextmanager
def members(tmp_path):
    """Three nodes of one cluster, in one process."""
    peers = {name: free_address() for name in ("a", "b", "c")}
    with contextlib.ExitStack() as stack:
        nodes = [tenure.Node(node_id=n, data_dir=tmp_path / n, listen=at, peers=peers, **TIMING) for n, at in peers.items()]
        for node in nodes:
            stack.callback(close_member, node)
        for node in nodes:
            node.wait_ready(60.0)
        yield Parties(*nodes)


@contextlib.contextmanager
def clients(tmp_path):
    """Three processes' worth of clients, each of which knows one member of a cluster to begin with."""
    with members(tmp_path) as cluster, contextlib.ExitStack() as stack:
        opened = []
        for member in cluster.all:
            at = next(m.address for m in member.members() if m.name == member.node_id)
            opened.append(stack.enter_context(tenure.connect(at, node_id=f"client-{member.node_id}")))
        for client in opened:
            client.wait_ready(60.0)
        yield Parties(*opened)


def plain(tmp_path):
    table = Table()
    return plugged(lambda name: Plain(table, name), service_poll=0.02)


def polled(tmp_path):
    table = Table()
    return plugged(lambda name: Polled(table, name), service_poll=0.02)


def fenced(tmp_path):
    table = Table()
    return plugged(lambda name: Fenced(table, name))


@contextlib.contextmanager
def native(plugin, opener="plugin_open"):
    """Nodes over services that are compiled, seen through the C interface."""
    services = []

    def service(name):
        services.append(NativeService(plugin, name, opener))
        return services[-1]

    with plugged(service, service_poll=0.02) as parties:
        yield parties
    for each in services:
        each.close()


def c(tmp_path):
    return native(compiled("c", tmp_path))


def cpp(tmp_path):
    return native(compiled("c++", tmp_path))


def distributed(tmp_path):
    """ThemisDB's four methods."""
    return native(compiled("c++", tmp_path), "plugin_open_distributed")


@contextlib.contextmanager
def etcd(tmp_path):
    """Nodes over a real etcd."""
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(etcdserver.etcd(tmp_path))
        nodes = [stack.enter_context(tenure.Node(etcd=address, node_id=name, request_timeout=30.0)) for name in ("a", "b", "c")]
        caps = tenure.Capabilities(fencing=True, renew=True, wait=True, fair=True, linearizable_reads=True)
        yield Parties(*nodes, caps, ttl=2.0)


PROVIDERS = [memory, durable, members, clients, plain, polled, fenced, c, cpp, distributed, etcd]


@pytest.fixture(scope="module", params=PROVIDERS, ids=lambda provider: provider.__name__)
def parties(request, tmp_path_factory):
    with request.param(tmp_path_factory.mktemp("conformance")) as parties:
        yield parties


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda behaviour: behaviour.name)
def test_behaviour(parties, behaviour):
    reason = applicable(behaviour, parties)
    if reason:
        pytest.skip(reason)
    run(parties, behaviour)


def command(factory: str, *arguments: str):
    return subprocess.run(
        [sys.executable, "-X", "dev", "-m", "tenure.conformance", factory, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=HERE,
        env={**os.environ, "PYTHONPATH": str(HERE)},
    )


def test_the_command_finds_a_service_good():
    done = command("locktable:factory", "--only", "lock")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok    a_held_lock_is_refused" in done.stdout
    assert done.stdout.endswith("everything holds that was claimed\n")


def test_the_command_finds_a_service_out():
    done = command("locktable:broken", "--only", "a_held_lock_is_refused")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAIL  a_held_lock_is_refused" in done.stdout


def test_no_thread_of_a_closed_node_is_left():
    table, before = Table(), set(threading.enumerate())
    with plugged(lambda name: Fenced(table, name)) as parties:
        parties.a.acquire("k").release()
    assert [t for t in set(threading.enumerate()) - before if t.name == "tenure-plug"] == []
