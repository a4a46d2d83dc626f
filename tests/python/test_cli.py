"""The ``tenure`` command, as a shell sees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

import tenure
from cluster import LIMIT, TIMING, Cluster, free_address, until

COMMAND = [sys.executable, "-m", "tenure"]


def start(*arguments, **options):
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options
    )


def tenure_command(*arguments, **environment):
    """Runs it to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=4 * LIMIT, env={**os.environ, **environment}, check=False
    )


def values(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def at(cluster):
    return ["--connect", ",".join(cluster.addresses)]


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ([], 64, "usage: tenure"),
        (["nonsense"], 64, "invalid choice: 'nonsense'"),
        (["locks"], 64, "--connect"),
        (["locks", "--connect", "127.0.0.1:1", "--set", "nonsense"], 64, "expected KEY=VALUE"),
        (["locks", "--connect", "127.0.0.1:1", "--set", "no.such=1"], 64, "no.such"),
        (["locks", "--connect", "127.0.0.1:1", "--set", "heartbeat=1"], 64, "heartbeat_ms"),
        (["lock", "--connect", "127.0.0.1:1", "k"], 64, "no command"),
        (["lock", "--connect", "127.0.0.1:1", "-n", "-w", "1", "k", "true"], 64, "not allowed"),
        (["node", "--node-id", "a"], 64, "--data-dir"),
        (["status", "--connect", "127.0.0.1:1", "--set", "request_timeout_ms=100"], 69, "did not answer"),
    ],
)
def test_what_is_wrong_is_named(arguments, status, says):
    ended = tenure_command(*arguments, TENURE_CONNECT="")
    assert (ended.returncode, ended.stdout) == (status, "")
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr


def test_errors_are_json_too():
    ended = tenure_command("status", "--json", "--connect", "127.0.0.1:1", "--set", "request_timeout_ms=100")
    assert ended.returncode == 69
    assert values(ended.stderr)[-1]["error"] == "UNAVAILABLE"


def test_version_and_doctor(cluster, at, tmp_path):
    assert tenure_command("version").stdout.startswith(f"tenure {tenure.__version__} ")
    found = values(tenure_command("doctor", "--json", "--data-dir", tmp_path, *at).stdout)
    assert found
    assert [(row["check"], row["ok"]) for row in found[1:]] == [(name, True) for name in ("lock", "gate", "disk", "cluster")], found


def test_the_cluster_is_shown_and_led_elsewhere(cluster, at):
    shown = json.loads(tenure_command("status", "--json", *at).stdout)
    assert shown["leader"] in cluster.names
    assert sorted(m["name"] for m in shown["members"]) == cluster.names
    text = tenure_command("status", TENURE_CONNECT=at[1])
    assert text.returncode == 0, text.stderr
    assert f"leader {shown['leader']}" in text.stdout
    to = cluster.others(int(shown["leader"][1:]))[0]
    handed = tenure_command("transfer", *at, f"n{to}")
    assert (handed.returncode, handed.stdout) == (0, f"n{to} leads\n"), handed.stderr
    until("it leads", lambda: cluster[to].view()["role"] == "leader")
    assert tenure_command("transfer", *at, "nobody").returncode == 64
    assert sorted(row["name"] for row in values(tenure_command("members", "--json", *at).stdout)) == cluster.names


def test_locks_are_listed_and_taken_away(cluster, at):
    token = cluster[0].try_acquire("jobs/one", ttl=600)
    waiter = cluster[1].start("acquire", "jobs/one")
    until("it waits", lambda: cluster[2].holder("jobs/one")["waiters"] == 1)
    rows = values(tenure_command("locks", "jobs/", "--json", "--waiters", *at).stdout)
    assert [(r["key"], r["holder"], r.get("waiter")) for r in rows] == [("jobs/one", "n0", None), ("jobs/one", None, "n1")]
    assert rows[0]["token"] == token
    assert "no locks that start with none/" in tenure_command("locks", "none/", *at).stdout
    taken = tenure_command("locks", "--force-release", "jobs/one", *at)
    assert "taken away" in taken.stdout, taken.stderr
    cluster[1].release(waiter.result(LIMIT))
    assert "nobody held it" in tenure_command("locks", "--force-release", "jobs/one", *at).stdout


def test_a_program_under_a_lock(cluster, at):
    code = "import os, sys; print(os.environ['TENURE_LOCK_KEY'], os.environ['TENURE_LOCK_TOKEN'], *sys.argv[1:]); sys.exit(7)"
    ended = tenure_command("lock", *at, "nightly", "--", sys.executable, "-c", code, "--flag", "a b")
    assert ended.returncode == 7, ended.stderr
    key, token, *rest = ended.stdout.split()
    assert (key, rest) == ("nightly", ["--flag", "a", "b"])
    assert int(token) > 0
    assert cluster[0].holder("nightly") is None
    assert tenure_command("lock", *at, "nightly", "/no/such/program").returncode == 127
    killed = tenure_command("lock", *at, "nightly", sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    assert killed.returncode == 128 + 9


def test_a_lock_that_is_held_is_not_had(cluster, at):
    token = cluster[0].try_acquire("busy", ttl=600, metadata="backup")
    refused = tenure_command("lock", *at, "-n", "busy", "true")
    assert refused.returncode == 1
    assert "busy is held by n0 (backup)" in refused.stderr
    assert tenure_command("lock", *at, "-w", "0.05", "-E", "42", "busy", "true").returncode == 42
    waiting = start("lock", *at, "-w", "60", "-v", "busy", "echo", "had it")
    until("it waits", lambda: cluster[1].holder("busy")["waiters"] == 1)
    cluster[0].release(token)
    out, err = waiting.communicate(timeout=LIMIT)
    assert (waiting.returncode, out) == (0, "had it\n"), err
    assert "waiting for busy" in err


def test_shared_locks_go_together(cluster, at):
    token = cluster[0].try_acquire("book", mode="shared", ttl=600)
    assert tenure_command("lock", *at, "-n", "-s", "book", "true").returncode == 0
    assert tenure_command("lock", *at, "-n", "-x", "book", "true").returncode == 1
    cluster[0].release(token)


def running(key, cluster):
    return until("the program runs", lambda: cluster[0].holder(key))


def test_a_program_whose_lock_is_lost_is_ended(cluster, at):
    command = start("lock", *at, "robbed", "sleep", "600")
    running("robbed", cluster)
    assert "taken away" in tenure_command("locks", "--force-release", "robbed", *at).stdout
    _, err = command.communicate(timeout=LIMIT)
    assert command.returncode == 75, err
    assert "robbed was lost" in err


def test_a_signal_reaches_the_program_and_the_lock_is_given_back(cluster, at):
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); print('ready', flush=True); time.sleep(600)"
    command = start("lock", *at, "signalled", sys.executable, "-c", code)
    assert command.stdout.readline() == "ready\n"
    command.send_signal(signal.SIGTERM)
    _, err = command.communicate(timeout=LIMIT)
    assert command.returncode == 3, err
    assert cluster[0].holder("signalled") is None


def test_a_program_does_not_outlive_the_one_that_holds_its_lock(cluster, at):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    command = start("lock", *at, "--ttl", "2", "orphan", sys.executable, "-c", code)
    pid = int(command.stdout.readline())
    command.kill()
    command.communicate(timeout=LIMIT)

    def gone():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    until("the program is gone", gone)
    until("its lock runs out", lambda: cluster[0].holder("orphan") is None)


def test_a_member_in_a_process_of_its_own(tmp_path):
    address = free_address()
    timing = [f"--set={name}_ms={round(value * 1000)}" for name, value in TIMING.items()]
    command = start(
        "node", "--json", "--node-id", "solo", "--data-dir", tmp_path / "solo", "--listen", address, "--peers", f"solo={address}", *timing
    )
    lines, led = [], threading.Event()

    def read():
        for line in command.stdout:
            lines.append(json.loads(line))
            if lines[-1].get("leader") == "solo":
                led.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert led.wait(LIMIT), command.poll()
        assert tenure_command("lock", "--connect", address, "k", "true").returncode == 0
        token = values(tenure_command("members", "--connect", address, "--join-token", "other", "--json").stdout)[0]["token"]
        assert len(token) == 64
    finally:
        command.send_signal(signal.SIGTERM)
        command.wait(LIMIT)
        reader.join(LIMIT)
    assert command.returncode == 0, command.stderr.read()
    command.stdout.close()
    command.stderr.close()
    assert [line["event"] for line in lines][:1] == ["started"]
    assert lines[-1] == {"event": "closed", "node": "solo"}


def test_schedules_are_seen_and_handled_from_outside(tmp_path):
    address = free_address()
    with tenure.Node(node_id="a", data_dir=tmp_path / "a", listen=address, peers={"a": address}, **TIMING) as node:
        node.wait_ready(LIMIT)
        at = ["--connect", address]
        with node.orchestrator() as orch:
            fail = threading.Event()

            @orch.task("compaction")
            def compact(task):
                if fail.is_set():
                    raise OSError("disk full")

            orch.schedule("nightly", "compaction", cron="0 3 * * *", zone="Europe/Berlin", scope="singleton")
            (row,) = values(tenure_command("schedules", "--json", *at, "list").stdout)
            assert (row["id"], row["fires"], row["tasks"], row["paused"]) == ("nightly", "0 3 * * *", "compaction", False)
            fires = tenure_command("schedules", *at, "next", "nightly", "-n", "3").stdout.split()
            assert fires == sorted(fires)
            assert len(fires) == 3
            assert fires[0] == orch.next_fires("nightly", 1)[0].isoformat()
            assert "cron: 0 3 * * *" in tenure_command("schedules", *at, "show", "nightly").stdout
            done = tenure_command("schedules", *at, "run", "nightly", "--wait")
            assert (done.returncode, done.stdout.splitlines()[-1].split(": ")[1]) == (0, "succeeded"), done.stderr
            fail.set()
            failed = tenure_command("schedules", *at, "run", "nightly", "--wait")
            assert failed.returncode == 1
            assert "disk full" in failed.stdout
            states = [row["state"] for row in values(tenure_command("schedules", "--json", *at, "history", "nightly").stdout)]
            assert states == ["succeeded", "failed"]
            assert tenure_command("schedules", *at, "pause", "nightly", "--note", "repair").returncode == 0
            assert orch.get("nightly")["paused"]["note"] == "repair"
            assert "repair" in tenure_command("schedules", *at, "show", "nightly").stdout
            assert tenure_command("schedules", *at, "resume", "nightly").returncode == 0
            assert orch.get("nightly")["paused"] is None
            unknown = tenure_command("schedules", *at, "show", "nothing")
            assert unknown.returncode == 64
            assert "no schedule nothing" in unknown.stderr
        with tenure.connect(address) as client, client.orchestrator() as seen, pytest.raises(tenure.MisuseError, match="runs no tasks"):
            seen.task("x")(lambda task: None)
