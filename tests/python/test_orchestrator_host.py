"""What the orchestrator asks its host: gates that hold runs back, shards and their owners."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from datetime import timedelta

import tenure
from cluster import TIMING, free_address, until

START = "2026-01-01T00:00:00+00:00"


def test_a_gate_holds_a_run_back_and_its_reason_is_seen():
    with tenure.Simulation(START) as sim:
        orch, ran, asked = sim.orchestrator(), [], []
        answers = {"said": "disk 12 % free"}
        orch.task("work")(lambda task: ran.append((task.schedule, sim.now)))

        @orch.add_gate
        def disk(schedule, target):
            asked.append((schedule, target))
            said = answers["said"]
            if isinstance(said, Exception):
                raise said
            return said if schedule == "s" else None

        orch.schedule("s", "work", scope="singleton")
        orch.schedule("other", "work", scope="singleton")
        run = orch.run_now("s")
        orch.run_now("other")
        for said, reason in (
            ("disk 12 % free", "disk 12 % free"),
            (OSError("no such disk"), "OSError: no such disk"),
            (False, "TypeError: a gate says None or why not, and this one said False"),
        ):
            answers["said"] = said
            sim.run(seconds=11)
            held = orch.run(run)
            assert (held["state"], held["reason"]) == ("due", reason)
            # When it is asked about again.
            assert 0 < held["remaining_ms"] <= 5_000
            answers["said"] = None if said is False else said
        assert [schedule for schedule, _ in ran] == ["other"]
        opened = sim.now
        sim.run(seconds=6)
        assert ran[1][0] == "s"
        assert ran[1][1] - opened <= timedelta(seconds=6)
        assert orch.run(run)["state"] == "succeeded"
        assert ("s", "") in asked
        # It was put off and never lost, and nothing failed.
        counts = orch.status()["counts"]
        assert (counts["failed"], counts["lost"]) == (0, 0)


def test_a_gate_that_hangs_has_said_no():
    with tenure.Node() as node, node.orchestrator(ramp_up=0) as orch:
        ran, hung, let = [], threading.Event(), threading.Event()
        orch.task("work")(lambda task: ran.append(task.attempt))

        @orch.add_gate
        def slow(_schedule, _target):
            if not hung.is_set():
                hung.set()
                let.wait(60)

        orch.schedule("s", "work", scope="singleton")
        run = orch.run_now("s")
        assert hung.wait(60)
        # Nobody waits for it: this is answered, and so is the next question about the run.
        assert orch.status()["running"] == 1
        until("it is put off", lambda: orch.run(run)["reason"] == "a gate has not answered in time")
        until("it runs", lambda: orch.run(run)["state"] == "succeeded")
        assert ran == [2]
        let.set()


def test_each_shard_runs_once_a_tick_and_a_topology_that_fails_leaves_the_former():
    with tenure.Simulation(START) as sim:
        orch, ran = sim.orchestrator(), []
        shards = {"a": ["sim", "elsewhere"], "b": ["sim"], "c": ["elsewhere"]}
        orch.task("work")(lambda task: ran.append((task.target, task.tick)))
        orch.schedule("s", "work", scope={"each_shard": {}}, every=60)
        sim.run(minutes=3)
        assert ran == []
        assert "this node has no topology" in str(orch.health()["reasons"])

        def topology(schedule_id):
            assert schedule_id == "s"
            if shards is None:
                raise OSError("no catalogue")
            return shards

        # The latest tick that was missed, and three more.
        orch.set_topology(topology)
        sim.run(minutes=3)
        assert Counter(target for target, _ in ran) == {"a": 4, "b": 4}
        assert max(Counter(ran).values()) == 1
        assert orch.status()["shards"] == {"s": {"count": 3, "failure": None}}
        assert orch.health()["status"] == "healthy"

        ran.clear()
        shards = None
        sim.run(minutes=2)
        assert Counter(target for target, _ in ran) == {"a": 2, "b": 2}
        assert orch.status()["shards"] == {"s": {"count": 3, "failure": "OSError: no catalogue"}}
        assert orch.health()["status"] == "degraded"

        # A shard that moves here is done here, from its schedule's present on.
        ran.clear()
        shards = {"b": ["sim"], "c": ["sim"]}
        sim.run(minutes=2)
        assert {target for target, _ in ran} == {"b", "c"}
        assert max(Counter(ran).values()) == 1
        orch.set_topology(None)
        ran.clear()
        sim.run(minutes=2)
        assert ran == []


def test_shards_run_on_their_owners_in_a_cluster(tmp_path):
    names = ["n0", "n1", "n2"]
    listen = {name: free_address() for name in names}
    peers = ",".join(f"{name}={address}" for name, address in listen.items())
    ran: list[tuple[str, str, object]] = []
    owners = {"a": ["n0"], "b": ["n1"], "c": ["n2"], "d": ["n0", "n1", "n2"]}
    nodes, orchestrators = [], []
    try:
        nodes.extend(tenure.Node(node_id=n, data_dir=str(tmp_path / n), listen=listen[n], peers=peers, **TIMING) for n in names)
        for name, node in zip(names, nodes, strict=True):
            node.wait_ready(60)
            orch = node.orchestrator(ramp_up=0)
            orch.task("work")(lambda task, name=name: ran.append((name, task.target, task.tick)))
            orch.set_topology(lambda _schedule: owners)
            orchestrators.append(orch)
        # Who comes later may be the owner that a shard goes to from then on.
        until("all take part", lambda: {worker["node"] for worker in orchestrators[0].status()["workers"]} == set(names))
        until("it is written", lambda: orchestrators[0].schedule("s", "work", scope={"each_shard": {}}, every=1))
        until("each shard has run", lambda: {target for _, target, _ in ran} == set(owners))
        until("several times", lambda: len({tick for _, _, tick in ran}) >= 3)
        assert all(name in owners[target] for name, target, _ in ran)
        assert max(Counter((target, tick) for _, target, tick in ran).values()) == 1
        # One of several owners does a shard's work, always the same one.
        assert len({name for name, target, _ in ran if target == "d"}) == 1
    finally:
        for open_one in [*orchestrators, *nodes]:
            # Whoever closes last has nobody left to record the end of its session with.
            with contextlib.suppress(tenure.LockTimeout):
                open_one.close()


def test_what_belongs_to_a_node_waits_for_it():
    """The run of a node that is gone is nobody else's, and no obstacle to the others' either."""
    with tenure.Simulation(START) as sim:
        orch, ran = sim.orchestrator(), []
        orch.task("work")(lambda task: ran.append((task.target, task.tick)))
        orch.schedule("s", "work", scope={"each_node": {"max_parallel": 1}}, every=60)
        gone = orch.run_now("s", target="gone")
        sim.run(minutes=3)
        assert Counter(target for target, _ in ran) == {"sim": 3}
        assert orch.run(gone)["state"] == "due"
        orch.cancel(gone)
        assert orch.run(gone)["state"] == "cancelled"
