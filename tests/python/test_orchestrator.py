"""The orchestrator from Python: in virtual time, and in real time with several workers and processes."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time
from datetime import datetime, timedelta, timezone

import pytest

import tenure

START = "2026-01-01T00:00:00+00:00"


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def test_a_month_of_minutes_has_the_journal_that_rust_has():
    with tenure.Simulation(START, seed=1) as sim:
        orch, count = sim.orchestrator(), 0

        @orch.task("work")
        def work(_task):
            nonlocal count
            count += 1

        orch.schedule("minutely", "work", cron="* * * * *", scope="singleton")
        sim.run(days=30)
        assert count == 30 * 1440
        golden = pathlib.Path(__file__).parent.parent / "golden" / "journal.txt"
        assert orch.journal == golden.read_text().strip()


def test_virtual_time_shows_windows_failures_and_history():
    with tenure.Simulation(START) as sim:
        orch, ran = sim.orchestrator(), []

        @orch.task("compaction")
        def compact(task):
            ran.append(task.tick)
            if task.tick.hour == 3:
                raise OSError("disk full")

        revision = orch.schedule("c", ["compaction"], cron="0 * * * *", scope="singleton", windows=[("22:00", "04:00")], expected=0)
        with pytest.raises(tenure.FencedError) as refused:
            orch.schedule("c", ["compaction"], cron="@daily", scope="singleton", expected=0)
        assert refused.value.token == revision
        sim.run(days=1)
        assert [tick.hour for tick in ran] == [1, 2, 3, 22, 23, 0]
        failed = [line for line in orch.history("c") if line["state"] == "failed"]
        assert [line["reason"] for line in failed] == ["compaction: OSError: disk full"]
        assert orch.next_fires("c", 2) == [sim.now + timedelta(hours=1), sim.now + timedelta(hours=2)]
        run = orch.run_now("c", key="by-hand", params={"level": 2})
        assert orch.run_now("c", key="by-hand") == run
        sim.run(minutes=1)
        assert orch.run(run)["state"] == "succeeded"
        orch.pause("c", note="repair", until=sim.now + timedelta(hours=2))
        assert orch.get("c")["paused"]["note"] == "repair"
        orch.remove("c")
        assert orch.get("c") is None


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, "scope"),
        ({"scope": "singleton", "cron": "nonsense"}, "cron"),
        ({"scope": "singleton", "zone": "Mars/Olympus"}, "zone"),
        ({"scope": "singleton", "colour": 1}, "colour"),
        ({"scope": "singleton", "lease": 0.001}, "lease_ms"),
    ],
)
def test_what_is_wrong_with_a_schedule_is_named(fields, names):
    with tenure.Node() as node, node.orchestrator() as orch, pytest.raises(tenure.InvalidArgumentError, match=names):
        orch.schedule("s", "work", **fields)


def test_handlers_run_on_threads_of_their_own_and_fail_alone():
    with tenure.Node() as node, node.orchestrator() as orch:
        seen = {}

        @orch.task("good")
        def good(task):
            seen["good"] = (task.token, task.params, task.run, threading.current_thread().name)
            task.save_checkpoint(b"here")
            task.check()

        @orch.task("bad")
        def bad(_task):
            raise SystemExit("no")

        @orch.task("later")
        async def later(task):
            seen["later"] = task.idempotency_key

        orch.schedule("s", ["good", "bad", "later"], scope="singleton", width=0)
        run = orch.run_now("s", params={"n": 1})
        line = until(lambda: (orch.run(run) or {}).get("state") == "failed" and orch.run(run))
        assert line["reason"] == "bad: SystemExit: no"
        assert seen["good"][1:3] == ({"n": 1}, run)
        assert seen["later"].startswith("s//")
        assert orch.handlers == ["bad", "good", "later"]
        assert orch.status()["counts"]["failed"] == 1


def test_a_cancel_reaches_a_running_handler():
    with tenure.Node() as node, node.orchestrator() as orch:
        started, reasons = threading.Event(), []

        @orch.task("long")
        def long(task):
            started.set()
            assert task.wait_cancelled(60)
            reasons.append(task.stop_reason)
            raise RuntimeError("stopped")

        orch.schedule("s", "long", scope="singleton")
        run = orch.run_now("s")
        assert started.wait(60)
        orch.cancel(run, "by hand")
        until(lambda: orch.run(run)["state"] == "cancelled")
        assert reasons == ["cancelled"]


def test_a_run_that_does_not_stop_is_fenced_off_and_somebody_is_told(caplog):
    caplog.set_level(logging.ERROR, "tenure")
    with tenure.Node() as node, node.orchestrator(ramp_up=0) as orch:
        go, refused = threading.Event(), []

        @orch.task("deaf")
        def deaf(task):
            go.wait(60)
            for call in (task.check, lambda: task.save_checkpoint(b"late")):
                try:
                    call()
                except tenure.Error as error:
                    refused.append(type(error).__name__)

        orch.schedule("s", "deaf", scope="singleton", max_runtime=0.2, grace=0.1)
        run = orch.run_now("s")
        until(lambda: orch.run(run)["state"] == "stuck")
        assert orch.run(run)["reason"] == "told to stop (timed_out), and did not within the grace"
        # A line of the log, a count, and the health.
        until(lambda: [r for r in caplog.records if "a handler does not stop" in r.getMessage() and r.levelno == logging.ERROR])
        assert orch.status()["counts"]["stuck"] == 1
        assert orch.health() == {"status": "degraded", "reasons": ["1 runs did not stop when told"], "running": 0}
        go.set()
        until(lambda: refused == ["ExpiredError", "FencedError"])
        assert orch.status()["counts"]["stale_tokens"] == 1


def test_a_checkpoint_has_at_most_64_kib_and_any_bytes():
    with tenure.Simulation(START) as sim:
        orch, kept = sim.orchestrator(), []

        @orch.task("work")
        def work(task):
            if task.try_number == 1:
                task.save_checkpoint(bytes(range(256)) * 256)
                with pytest.raises(tenure.InvalidArgumentError, match="65537 bytes are above 65536"):
                    task.save_checkpoint(b"x" * 65_537)
                raise RuntimeError("again")
            kept.append(task.checkpoint)

        orch.schedule("s", {"kind": "work", "retry": {"max": 1}}, scope="singleton")
        orch.run_now("s")
        sim.run(minutes=1)
        assert kept == [bytes(range(256)) * 256]


def test_a_handler_that_lets_nothing_else_run_keeps_its_lease():
    """A native thread sends renewals: not even a handler that keeps the interpreter to itself for longer than the lease starves it."""
    with tenure.Node() as node, node.orchestrator() as orch:
        tokens = []

        @orch.task("busy")
        def busy(task):
            # A foreign function that, against good manners, keeps the interpreter's lock.
            ctypes.PyDLL(None).usleep(4_000_000)
            task.check()
            tokens.append((task.attempt, task.token))

        orch.schedule("s", "busy", scope="singleton", lease=2, lost_retries=3)
        run = orch.run_now("s")
        assert until(lambda: orch.run(run)["state"] not in ("due", "running") and orch.run(run))["state"] == "succeeded"
        assert [attempt for attempt, _ in tokens] == [1]
        assert orch.status()["counts"]["lost"] == 0


def test_every_second_runs_once_and_a_restart_forgets_nothing(tmp_path):
    ticks: list[datetime] = []
    for _ in range(2):
        with tenure.Node(data_dir=str(tmp_path / "d"), node_id="n1") as node, node.orchestrator() as orch:
            first = len(ticks)

            @orch.task("work")
            def work(task):
                ticks.append(task.tick)

            if orch.get("s") is None:
                orch.schedule("s", "work", every=1, scope="singleton")
            until(lambda first=first: len(ticks) >= first + 2)
    assert len(ticks) == len(set(ticks))
    assert ticks == sorted(ticks)


WORKER = textwrap.dedent("""
    import json, sys, time, tenure
    name, directory, peers, listen, offset = sys.argv[1:6]
    node = tenure.Node(data_dir=directory, node_id=name, listen=listen, peers=peers, session_ttl=2)
    orch = node.orchestrator(ramp_up=0)
    @orch.task("work")
    def work(task):
        print(json.dumps([name, task.idempotency_key, task.attempt, task.token, time.time()]), flush=True)
        task.wait_cancelled(float(task.params["seconds"]))
    while True:
        try:
            orch.schedule("s", "work", every=2, scope="singleton", lease=3, lost_retries=5, params={"seconds": 1.0})
            break
        except tenure.Error:
            time.sleep(0.2)
    print(json.dumps(["ready"]), flush=True)
    time.sleep(3600)
""")


def ports(count):
    import socket

    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    found = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return found


def test_a_killed_runner_is_followed_by_another_with_a_larger_token(tmp_path):
    numbers = ports(3)
    peers = ",".join(f"n{i}=127.0.0.1:{port}" for i, port in enumerate(numbers))
    lines: list[list] = []
    processes = []
    for i, port in enumerate(numbers):
        args = [sys.executable, "-c", WORKER, f"n{i}", str(tmp_path / f"n{i}"), peers, f"127.0.0.1:{port}", "0"]
        process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ.copy())
        processes.append(process)
        threading.Thread(target=lambda p=process: [lines.append(json.loads(line)) for line in p.stdout], daemon=True).start()
    try:
        runs = lambda: [line for line in list(lines) if len(line) > 1]  # noqa: E731
        until(lambda: len(runs()) >= 2)
        seen = len(runs())
        until(lambda: len(runs()) > seen)
        # It has just begun: kill it in the middle.
        name, key, attempt, token, _ = runs()[-1]
        processes[int(name[1:])].send_signal(signal.SIGKILL)
        again = until(lambda: [line for line in runs() if line[1] == key and line[2] > attempt])[0]
        assert again[0] != name
        assert again[3] > token
        until(lambda: len({line[1] for line in runs()}) >= 5)
        starts = [(line[1], line[2]) for line in runs()]
        assert len(starts) == len(set(starts)), starts
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
            process.stdout.close()


def test_a_schedule_of_themisdb_comes_and_goes_in_its_own_words():
    with tenure.Simulation(START) as sim:
        orch, ran = sim.orchestrator(), []
        orch.task("flush")(lambda task: ran.append(task.kind))
        orch.task("compact")(lambda task: ran.append(task.kind))
        entry = {
            "id": "nightly",
            "name": "Nightly",
            "frequency": "daily",
            "window_start_hour": 2,
            "window_end_hour": 6,
            "enforce_window": True,
            "tasks": ["compact", "flush"],
            "task_dependencies": [{"task_type": "compact", "depends_on": ["flush"]}],
        }
        orch.put_themis(entry)
        sim.run(days=1)
        assert ran == ["flush", "compact"]
        told = orch.get_themis("nightly")
        assert entry.items() <= told.items()
        assert (told["cron_expression"], told["last_run_state"]) == ("0 2 * * *", "succeeded")
        assert told["next_run_ms"] - told["last_run_ms"] == 86_400_000
        orch.patch_themis("nightly", enabled=False)
        sim.run(days=2)
        assert len(ran) == 2
        with pytest.raises(tenure.InvalidArgumentError, match="cycle"):
            orch.patch_themis("nightly", task_dependencies=[{"task_type": "flush", "depends_on": ["flush"]}])


def test_the_frequencies_of_themisdb():
    every = [
        ("daily", ["2026-01-01T05", "2026-01-02T05"]),
        ("weekly", ["2026-01-04T05", "2026-01-11T05"]),
        ("monthly", ["2026-01-01T05", "2026-02-01T05"]),
        ("quarterly", ["2026-01-01T05", "2026-04-01T05"]),
    ]
    with tenure.Simulation(START) as sim:
        orch, ran = sim.orchestrator(), []
        orch.task("flush")(lambda task: ran.append((task.schedule, sim.now.hour)))
        for frequency, wanted in every:
            orch.put_themis({"id": frequency, "frequency": frequency, "tasks": ["flush"], "window_start_hour": 5, "window_end_hour": 6})
            assert [f"{fire:%Y-%m-%dT%H}" for fire in orch.next_fires(frequency, 2)] == wanted
            orch.remove(frequency)


@pytest.mark.parametrize(("start", "end"), [(22, 4), (5, 5), (6, 8)])
def test_a_window_of_themisdb_goes_over_midnight_and_lasts_a_day_when_it_ends_where_it_begins(start, end):
    inside = {(start + n) % 24 for n in range((end - start) % 24 or 24)}
    for hour in range(24):
        with tenure.Simulation(datetime(2026, 1, 10, hour, 30, tzinfo=timezone.utc)) as sim:
            orch, ran = sim.orchestrator(), []
            orch.task("flush")(lambda task, ran=ran: ran.append(task.run))
            orch.put_themis({"id": "w", "tasks": ["flush"], "frequency": "monthly", "window_start_hour": start, "window_end_hour": end})
            run = orch.run_now("w")
            sim.run(minutes=1)
            assert (ran == [run]) == (hour in inside), hour
            forced = orch.run_now("w", force=True)
            sim.run(minutes=1)
            assert ran[-1] == forced


@pytest.mark.parametrize(
    ("dependencies", "named"),
    [
        ([{"task_type": "flush", "depends_on": ["compact"]}, {"task_type": "compact", "depends_on": ["flush"]}], "cycle"),
        ([{"task_type": "flush", "depends_on": ["nothing"]}], "nothing"),
        ([{"task_type": "nothing", "depends_on": ["flush"]}], "nothing"),
    ],
)
def test_cycles_and_unknown_references_of_themisdbs_tasks_are_refused_however_they_come(dependencies, named):
    with tenure.Simulation(START) as sim:
        orch = sim.orchestrator()
        entry = {"id": "s", "tasks": ["flush", "compact"]}
        with pytest.raises(tenure.InvalidArgumentError, match=named):
            orch.put_themis({**entry, "task_dependencies": dependencies})
        revision = orch.put_themis(entry)
        with pytest.raises(tenure.InvalidArgumentError, match=named):
            orch.put_themis({**entry, "task_dependencies": dependencies}, expected=revision)
        with pytest.raises(tenure.InvalidArgumentError, match=named):
            orch.patch_themis("s", task_dependencies=dependencies)
        assert orch.get("s")["revision"] == revision


def test_instants_need_a_zone():
    with pytest.raises(tenure.InvalidArgumentError, match="start"):
        tenure.Simulation("2026-01-01T00:00:00")
    sim = tenure.Simulation(datetime(2026, 1, 1, tzinfo=timezone.utc))
    assert sim.now == datetime(2026, 1, 1, tzinfo=timezone.utc)
