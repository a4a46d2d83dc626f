"""Three servers with embedded members: they settle among themselves who is master, and lose nothing that was acknowledged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from kvgate import BINARY, wait_until
from trio import NAMES, Client, Trio


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Trio]:
    if not BINARY.exists():
        pytest.fail(f"{BINARY} is missing: `make server` builds it")
    with Trio(tmp_path, ttl_ms=2_000) as servers:
        yield servers


def test_the_master_is_killed_and_the_next_has_what_was_acknowledged(trio: Trio) -> None:
    first = trio.wait_master(NAMES)
    with Client(trio, 0) as client:
        wait_until(lambda: len(client.acknowledged) > 200, 60, "load")
        trio.servers[first].kill()
        rest = [name for name in NAMES if name != first]
        second = trio.wait_master(rest)
        before = len(client.acknowledged)
        wait_until(lambda: len(client.acknowledged) > before + 200, 60, "load on the new master")
    with trio.servers[second].client() as reader:
        missing = [key for key in client.acknowledged if reader.get(key) is None]
        assert reader.execute_command("CLUSTERX", "VERSION") == str(max(epoch for _, epoch, _, _ in client.acknowledged.values())).encode()
    assert not missing
    # The killed server comes back as a replica, and holds the same.
    trio.servers[first].start()
    wait_until(lambda: trio.servers[first].sequence() == trio.servers[second].sequence(), 60, "replication")
    with trio.servers[first].client() as reader:
        reader.readonly()
        assert all(reader.get(key) is not None for key in client.acknowledged)
        with pytest.raises(redis.exceptions.MovedError):
            reader.set("key", "1")


def test_a_server_whose_log_is_behind_gives_the_office_up(trio: Trio) -> None:
    master = trio.wait_master(NAMES)
    behind, other = (name for name in NAMES if name != master)
    trio.servers[behind].kill()
    with trio.servers[master].client() as client:
        for number in range(50):
            client.set(f"k{number}", "acknowledged")
    # All are ended, so that the lock's queue says nothing of who was ahead; the one that is behind comes first.
    for name in (master, other):
        trio.servers[name].kill()
    trio.servers[behind].start()
    trio.servers[other].start()
    winner = trio.wait_master([behind, other])
    with trio.servers[winner].client() as client:
        assert client.get("k49") == b"acknowledged"
    wait_until(lambda: trio.servers[behind].sequence() == trio.servers[other].sequence(), 60, "replication")


def test_an_operator_does_not_make_masters_here(trio: Trio) -> None:
    master = trio.servers[trio.wait_master(NAMES)]
    for words in (("SLAVEOF", "NO", "ONE"), ("CLUSTERX", "SETNODEID", master.id), ("CLUSTERX", "SETNODES", "x", 99)):
        with pytest.raises(redis.ResponseError, match="elect their master themselves"):
            master.command(*words)
    assert not master.heartbeat(epoch=10_000, ttl_ms=60_000).accepted
