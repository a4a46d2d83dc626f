"""The granter's side: who may act, until when, and what a cluster keeps of it."""

from __future__ import annotations

import asyncio
import time

import pytest

import tenure
import tenure.aio


def test_a_successor_waits_for_the_former_holder():
    with tenure.Node() as controller, tenure.Node() as server, server.gate("master") as gate:
        with controller.granter("controller") as granter:
            assert granter.in_office
            assert granter.promote("shard", "a") == 1
            order = granter.heartbeat("shard", 1.0, gate.next_nonce())
            assert (order.epoch, order.holder, order.ttl) == (1, "a", 1.0)
            assert order.promised > 1.01
            assert gate.heartbeat(order.epoch, order.ttl, order.nonce).accepted
            with pytest.raises(tenure.TooEarlyError) as early:
                granter.promote("shard", "b")
            assert early.value.token == 1
            assert 0 < early.value.retry_after <= order.promised
            end = time.monotonic() + 60
            while True:
                try:
                    assert granter.promote("shard", "b") == 2
                    break
                except tenure.TooEarlyError as again:
                    assert time.monotonic() < end
                    time.sleep(again.retry_after)
            assert not gate.check()
            promise = granter.promise("shard")
            assert promise is not None
            assert (promise.office, promise.holder, promise.epoch, promise.settled) == (b"shard", "b", 2, False)
        with pytest.raises(tenure.FencedError):
            granter.heartbeat("shard", 1.0, 1)
        assert [p.holder for p in controller.promises("sh")] == ["b"]


def test_an_acknowledged_step_down_needs_no_wait():
    with tenure.Node() as controller, tenure.Node() as server, server.gate("master") as gate:
        granter = controller.granter("controller", timeout=0)
        with pytest.raises(tenure.HeldError):
            controller.granter("controller", timeout=0)
        with pytest.raises(tenure.LockTimeout):
            controller.granter("controller", timeout=0.02)
        granter.promote("shard", "a", epoch=7)
        order = granter.heartbeat("shard", 60.0, gate.next_nonce())
        gate.heartbeat(order.epoch, order.ttl, order.nonce)
        gate.drain()
        granter.acknowledge("shard", 7)
        with pytest.raises(tenure.NotHolderError):
            granter.heartbeat("shard", 60.0, gate.next_nonce())
        assert granter.promote("shard", "b") == 8
        with pytest.raises(tenure.InvalidArgumentError, match="nonce"):
            granter.heartbeat("shard", 1.0)


def test_a_lease_without_a_nonce_is_reported():
    with tenure.Node(granter_trust_receipt=True) as controller, tenure.Node() as server:
        granter = controller.granter("controller")
        granter.promote("shard", "a")
        order = granter.heartbeat("shard", 1.0)
        assert order.nonce is None
        assert any("granter_trust_receipt" in mode for mode in controller.status()["weaker_modes"])
        with server.gate("master", trust_receipt=True) as gate:
            assert gate.heartbeat(order.epoch, order.ttl).accepted
            assert any("trust_receipt" in mode for mode in server.status()["weaker_modes"])


def test_asyncio():
    async def main() -> None:
        async with tenure.aio.Node() as node:
            granter = await node.granter("controller")
            waiter = asyncio.ensure_future(node.granter("controller"))
            await asyncio.sleep(0)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            async with granter:
                assert await granter.promote("shard", "a") == 1
                assert (await granter.heartbeat("shard", 60.0, 5)).epoch == 1
                with pytest.raises(tenure.TooEarlyError):
                    await granter.promote("shard", "b")
                await granter.acknowledge("shard", 1)
                assert (await granter.promise("shard")).settled
            assert (await node.promises())[0].holder == "a"
            # What the cancelled one was granted is given back.
            async with await node.granter("controller", timeout=60) as again:
                assert again.term > granter.term

    asyncio.run(main())
