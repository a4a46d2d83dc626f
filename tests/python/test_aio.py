"""Locks from asyncio: a cancelled, abandoned or interrupted acquisition leaves nothing held."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import pytest

import tenure
import tenure.aio


async def eventually(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        await asyncio.sleep(0.002)


@pytest.fixture(params=["memory", "durable"])
async def node(request, tmp_path):
    settings = {} if request.param == "memory" else {"data_dir": tmp_path / "n", "wal_segment_bytes": 1 << 17}
    async with tenure.aio.Node(node_id="n1", **settings) as node:
        yield node


async def test_the_verbs(node):
    assert node.node_id == "n1"
    grant = await node.try_acquire("k", ttl=5)
    assert grant is not None
    assert await node.try_acquire("k") is None
    with pytest.raises(tenure.LockTimeout):
        await node.acquire("k", timeout=0.05)
    with pytest.raises(tenure.LockTimeout):
        await node.acquire("k", timeout=0)
    assert (await node.holder("k")).token == grant.token
    assert [i.key for i in await node.locks()] == [b"k"]
    assert await grant.renew(5) > 0
    await grant.release()
    with pytest.raises(tenure.NotHolderError):
        await grant.release()
    async with node.lock("k") as again, await node.acquire_all(["a", "b"]) as both:
        assert again.token > grant.token
        assert (await node.holder("b")).token == both[1].token
    assert await node.locks() == []
    assert (await node.status())["state"] == "running"


async def test_sessions(node):
    async with await node.session("other") as other:
        async with other.lock("k"):
            assert (await node.holder("k")).node == "other"
        kept = await other.acquire("k2")
        assert await other.release_all() == 1
        kept = await other.acquire("k2")
    assert await node.holder("k2") is None
    assert not kept.held


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_lost_lock_is_told(node):
    events = []
    node.on_event(events.append)
    with pytest.raises(tenure.NotHolderError):
        async with node.lock("k") as grant:
            assert not grant.lost.is_set()
            await node.force_release("k")
            await asyncio.wait_for(grant.lost.wait(), 5)
            assert grant.lost.reason == "forced"
    await eventually(lambda: events)
    assert (events[0].kind, events[0].key) == ("lost", b"k")


async def test_a_hundred_wait_at_once(node):
    held = await node.acquire("k")
    order = []

    async def worker(n):
        async with node.lock("k"):
            order.append(n)

    workers = [asyncio.create_task(worker(n)) for n in range(100)]
    await eventually(lambda: node._sync.holder("k").waiters == 100)
    await held.release()
    await asyncio.wait_for(asyncio.gather(*workers), 30)
    assert order == list(range(100)), "first come, first served"
    assert await node.holder("k") is None


async def test_a_cancelled_wait_leaves_nothing(node):
    held = await node.acquire("k")
    waits = [asyncio.create_task(node.acquire("k")) for _ in range(10)]
    await eventually(lambda: node._sync.holder("k").waiters == 10)
    for wait in waits:
        wait.cancel()
    results = await asyncio.gather(*waits, return_exceptions=True)
    assert all(isinstance(r, asyncio.CancelledError) for r in results)
    await eventually(lambda: node._sync.holder("k").waiters == 0)
    with pytest.raises((TimeoutError, asyncio.TimeoutError)):
        await asyncio.wait_for(node.acquire("k"), 0.02)
    await held.release()
    await eventually(lambda: node._sync.holder("k") is None)


async def test_a_cancel_that_crosses_the_grant_leaves_nothing(node):
    for delay in range(40):
        held = await node.acquire("k")
        wait = asyncio.create_task(node.acquire("k"))
        await eventually(lambda: node._sync.holder("k").waiters == 1)
        await held.release()
        for _ in range(delay % 8):
            await asyncio.sleep(0)
        wait.cancel()
        try:
            await (await wait).release()
        except asyncio.CancelledError:
            await eventually(lambda: node._sync.holder("k") is None)
    await eventually(lambda: node._sync.holder("k") is None)


async def test_a_cancelled_release_releases(node):
    for _ in range(20):
        grant = await node.acquire("k")
        task = asyncio.create_task(grant.__aexit__(None, None, None))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await eventually(lambda: node._sync.holder("k") is None)


async def test_a_collected_grant_is_released(node):
    grant = await node.acquire("k")
    with pytest.warns(ResourceWarning, match="never released"):
        del grant
        gc.collect()
    await eventually(lambda: node._sync.holder("k") is None)


async def test_bad_arguments(node):
    for bad, error in (
        ({"key": ""}, tenure.InvalidArgumentError),
        ({"ttl": 0}, tenure.InvalidArgumentError),
        ({"key": 5}, TypeError),
    ):
        for verb in (node.try_acquire, node.acquire):
            with pytest.raises(error):
                await verb(**{"key": "k", **bad})
    with pytest.raises(TypeError):
        await node.acquire_all("ab")
    assert await node.locks() == []


async def test_a_node_must_be_opened():
    node = tenure.aio.Node()
    with pytest.raises(tenure.MisuseError):
        await node.try_acquire("k")
    with pytest.raises(tenure.UnknownOptionError):
        await tenure.aio.Node(nonsense=1)
    opened = await node
    async with opened.lock("k") as grant:
        assert grant.held
    await opened.close()
    await opened.close()


def test_a_closed_loop_leaves_nothing(until):
    with tenure.Node() as shared:
        node = tenure.aio.Node()
        node._opened = shared
        held = shared.acquire("k")
        loop = asyncio.new_event_loop()
        loop.create_task(node.acquire("k"))
        loop.run_until_complete(asyncio.sleep(0.01))
        assert shared.holder("k").waiters == 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "call_exception_handler", lambda context: None)
            loop.close()
            held.release()
            until(lambda: shared.holder("k") is None)


def test_two_loops_share_a_node(until):
    with tenure.Node() as shared:
        counts = []

        def run():
            async def main():
                node = tenure.aio.Node()
                node._opened = shared
                for _ in range(50):
                    async with node.lock("k"):
                        counts.append(shared.holder("k").token)

            asyncio.run(main())

        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert counts == sorted(set(counts))
        assert len(counts) == 100
