"""The orchestrator of asyncio."""

from __future__ import annotations

import asyncio
import inspect

import pytest

import tenure
import tenure.aio


def test_asyncio_has_what_the_plain_orchestrator_has():
    plain, awaitable = tenure.Orchestrator, tenure.aio.Orchestrator
    for name, member in inspect.getmembers(plain):
        if not name.startswith("_"):
            mirrored = getattr(awaitable, name, None)
            assert mirrored is not None, f"tenure.aio.Orchestrator has no {name}"
            if inspect.isfunction(member):
                assert list(inspect.signature(member).parameters) == list(inspect.signature(mirrored).parameters), name


def on_a_node(story, **settings):
    async def main():
        async with tenure.aio.Node(**settings) as node, await node.orchestrator(ramp_up=0) as orch:
            await asyncio.wait_for(story(node, orch), 60)

    asyncio.run(main())


async def ended(orch, run, state):
    while (line := await orch.run(run))["state"] != state:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return line


def test_coroutines_do_tasks_on_the_loop_that_they_came_from(tmp_path):
    async def story(_node, orch):
        loop, seen, begun = asyncio.get_running_loop(), [], asyncio.Event()

        @orch.task("work")
        async def work(task):
            assert asyncio.get_running_loop() is loop
            await task.save_checkpoint(b"half")
            assert await task.pace(1)
            seen.append((task.checkpoint, task.params))

        @orch.task("long")
        async def long(task):
            begun.set()
            assert await task.wait_cancelled(60)
            raise RuntimeError(task.stop_reason)

        @orch.task("plain")
        def plain(task):
            raise ValueError(task.kind)

        assert orch.handlers == ["long", "plain", "work"]
        await orch.schedule("s", "work", scope="singleton")
        await ended(orch, await orch.run_now("s", params={"n": 1}), "succeeded")
        assert seen == [(b"half", {"n": 1})]
        await orch.schedule("l", "long", scope="singleton")
        run = await orch.run_now("l")
        await begun.wait()
        await orch.cancel(run, "by hand")
        await ended(orch, run, "cancelled")
        await orch.schedule("p", "plain", scope="singleton")
        line = await ended(orch, await orch.run_now("p"), "failed")
        assert line["reason"] == "plain: ValueError: plain"
        assert [s["definition"]["id"] for s in await orch.schedules()] == ["l", "p", "s"]

    on_a_node(story, data_dir=str(tmp_path / "d"), node_id="n1")


def test_coroutines_are_gates_and_topologies():
    async def story(node, orch):
        loop, held, done = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

        @orch.task("work")
        async def work(task):
            assert task.target == "x"
            done.set()

        @orch.add_gate
        async def gate(_schedule, target):
            assert asyncio.get_running_loop() is loop
            assert target == "x"
            if not held.is_set():
                held.set()
                return "not yet"
            return None

        async def topology(schedule):
            assert asyncio.get_running_loop() is loop
            assert schedule == "e"
            return {"x": [node.node_id], "y": ["elsewhere"]}

        orch.set_topology(topology)
        await orch.schedule("e", "work", scope={"each_shard": {}}, every=1)
        await held.wait()
        await done.wait()
        assert (await orch.status())["shards"] == {"e": {"count": 2, "failure": None}}
        assert (await orch.health())["status"] == "healthy"
        await orch.remove("e")
        assert await orch.history("e") is None
        with pytest.raises(tenure.InvalidArgumentError, match="scope"):
            await orch.schedule("bad", "work")

    on_a_node(story)


def test_a_handler_whose_loop_is_gone_fails_its_task():
    with tenure.Node() as node, node.orchestrator(ramp_up=0) as plain:

        async def register():
            orch = tenure.aio.Orchestrator(plain, False)

            @orch.task("work")
            async def work(_task):
                raise AssertionError("on a loop that is closed")

        asyncio.run(register())
        plain.schedule("s", "work", scope="singleton")
        run = plain.run_now("s")

        async def failed():
            return await ended(tenure.aio.Orchestrator(plain, False), run, "failed")

        assert "Event loop is closed" in asyncio.run(failed())["reason"]
