"""ThemisDB's lock round each run: its tests that mean a peer, with two nodes; and how weak the lock is when it is all there is."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter

import pytest

import tenure
from cluster import TIMING, free_address, until
from locktable import Plain, Table


def closed(node):
    """The last ones have no majority to tell of their end."""
    with contextlib.suppress(tenure.LockTimeout):
        node.close(1.0)


@pytest.fixture
def pair(tmp_path, caplog):
    """Two nodes of one cluster, in this process, that log everything."""
    caplog.set_level(logging.DEBUG, "tenure")
    addresses = {name: free_address() for name in ("node-a", "node-b")}
    peers = ",".join(f"{name}={address}" for name, address in addresses.items())
    nodes = []
    try:
        for name, address in addresses.items():
            nodes.append(tenure.Node(node_id=name, data_dir=str(tmp_path / name), listen=address, peers=peers, **TIMING))
        for node in nodes:
            node.wait_ready(60)
        yield nodes
    finally:
        for node in nodes:
            closed(node)


def entry(schedule_id, **fields):
    return {"id": schedule_id, "name": "N", "tasks": ["compact"], "enforce_window": False, **fields}


def ended(orch, run):
    busy = ("pending", "running")
    return until("the job ends", lambda: (orch.themis_job(run) or {}).get("state", "pending") not in busy and orch.themis_job(run))


def test_a_job_whose_lock_a_peer_holds_is_skipped_and_names_it(pair, caplog):
    a, b = pair
    ran = []
    with a.orchestrator(ramp_up=0) as orch:
        orch.task("compact")(lambda task: ran.append(task.run))
        orch.set_distributed_lock(a)
        orch.put_themis(entry("s"))
        held = b.acquire("s", 60)
        run = orch.run_now("s", force=True)
        job = ended(orch, run)
        assert (job["state"], "node-b" in job["error_message"], ran) == ("skipped", True, [])
        until("the line", lambda: "schedule s skipped — lock held by peer node-b" in [r.getMessage() for r in caplog.records])
        # The peer gives it back: the next job runs, and its own lock is free when it has ended.
        held.release()
        again = orch.run_now("s", force=True)
        assert ended(orch, again)["state"] == "succeeded"
        assert ran == [again]
        assert b.holder("s") is None


def test_the_lock_is_this_nodes_while_a_job_runs_and_free_after_every_end(pair):
    a, b = pair
    with a.orchestrator(ramp_up=0) as orch:
        seen, go_on = [], threading.Event()

        @orch.task("compact")
        def compact(task):
            seen.append(b.holder("s").node)
            task.wait_cancelled(60)
            go_on.wait(60)
            raise RuntimeError("stopped")

        orch.set_distributed_lock(a)
        orch.put_themis(entry("s"))
        run = orch.run_now("s", force=True)
        until("the job runs", lambda: seen)
        orch.cancel(run)
        assert b.try_acquire("s") is None
        go_on.set()
        assert ended(orch, run)["state"] == "cancelled"
        assert seen == ["node-a"]
        with b.acquire("s", 60):
            pass


def test_a_lock_whose_ttl_is_over_is_the_peers_to_take(pair):
    """The ttl runs from the start: a job that outlives it does so without the lock, which is why ticks are claimed as well."""
    a, b = pair
    with a.orchestrator(ramp_up=0) as orch:
        go_on = threading.Event()
        orch.task("compact")(lambda task: go_on.wait(60))
        orch.set_distributed_lock(a)
        orch.put_themis(entry("s", lock_ttl_ms=300))
        run = orch.run_now("s", force=True)
        until("the lock is held", lambda: (b.holder("s") or None) is not None and b.holder("s").node == "node-a")
        until("its time is over", lambda: b.holder("s") is None)
        with b.acquire("s", 60):
            go_on.set()
            assert ended(orch, run)["state"] == "succeeded"
            # The late release of the first holder frees nobody else's lock.
            assert b.holder("s").node == "node-b"


def test_nobody_runs_what_nobody_can_tell_of():
    class Broken:
        node_id = "n"

        def try_acquire(self, key, ttl, timeout):
            raise ConnectionError("no route")

        def release(self, key, token, timeout):
            raise ConnectionError("no route")

        def holder(self, key, timeout):
            raise ConnectionError("no route")

    ran = []
    with tenure.Node() as node, node.orchestrator(ramp_up=0) as orch:
        orch.task("compact")(lambda task: ran.append(task.run))
        orch.put_themis(entry("s"))
        orch.set_distributed_lock(Broken())
        run = orch.run_now("s", force=True)
        # It waits, and is neither failed nor skipped: no answer is not a refusal.
        until("it is put off", lambda: "no route" in orch.run(run)["reason"])
        assert (orch.run(run)["state"], ran) == ("due", [])
        orch.set_distributed_lock(None)
        assert ended(orch, run)["state"] == "succeeded"


def ticks_and_runs(make, ticks):
    """Runs per tick of a job of 10 ms every second on three nodes, whose clocks are 50 ms apart."""
    runs: Counter = Counter()
    orchestrators = []
    try:
        for i in range(3):
            orch = make(i, (i - 1) * 0.05)
            orchestrators.append(orch)

            @orch.task("compact")
            def compact(task):
                runs[task.tick] += 1
                time.sleep(0.01)

        for orch in orchestrators:
            orch.schedule("s", "compact", every=1, scope="singleton")
        until("ticks pass", lambda: len(runs) > ticks)
    finally:
        for orch in orchestrators:
            orch.close()
    return runs


def test_a_lock_alone_runs_ticks_several_times_and_says_that_it_is_weak():
    table = Table()
    nodes = [tenure.Node(node_id=f"n{i}") for i in range(3)]
    try:

        def lock_only(i, offset):
            orch = nodes[i].orchestrator(ramp_up=0, lock_only=True, wall_offset=offset)
            orch.set_distributed_lock(Plain(table, f"n{i}"))
            assert any("lock_only" in mode for mode in orch.status()["weaker_modes"])
            assert orch.health()["status"] == "degraded"
            return orch

        runs = ticks_and_runs(lock_only, 6)
        assert sum(runs.values()) > len(runs), runs
    finally:
        for node in nodes:
            node.close()


def test_with_claims_the_same_ticks_run_once(tmp_path):
    with contextlib.ExitStack() as stack:
        addresses = {f"n{i}": free_address() for i in range(3)}
        peers = ",".join(f"{name}={address}" for name, address in addresses.items())
        nodes = [
            tenure.Node(node_id=name, data_dir=str(tmp_path / name), listen=address, peers=peers, **TIMING)
            for name, address in addresses.items()
        ]
        for node in nodes:
            stack.callback(closed, node)
        for node in nodes:
            node.wait_ready(60)
        runs = ticks_and_runs(lambda i, offset: nodes[i].orchestrator(ramp_up=0, wall_offset=offset), 6)
        assert max(runs.values()) == 1, runs


def test_a_node_has_one_orchestrator():
    """Two would each begin what is given to the node; and what one of them had begun, the next does not begin again."""
    with tenure.Node() as node:
        begun, orch = [], node.orchestrator(ramp_up=0)
        with pytest.raises(tenure.MisuseError):
            node.orchestrator()
        orch.task("t")(lambda task: (begun.append(task.attempt), task.wait_cancelled(60), time.sleep(0.5)))
        orch.schedule("s", "t", scope="singleton", lease=2, lost_retries=1)
        run = orch.run_now("s")
        until("it runs", lambda: begun)
        with pytest.raises(tenure.LockTimeout):
            orch.close(0.05)
        with node.orchestrator(ramp_up=0) as later:
            later.task("t")(lambda task: begun.append(task.attempt))
            until("the lease ends", lambda: later.run(run)["state"] == "succeeded")
        assert begun == [1, 2]
