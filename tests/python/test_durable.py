"""A node with a directory: what it holds outlives it, and a directory that is not its own is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

import tenure


@pytest.fixture
def where(tmp_path):
    return tmp_path / "n"


def test_tokens_and_the_name_outlive_the_node(where):
    with tenure.Node(data_dir=where) as node:
        assert (node.durable, node.status()["form"]) == (True, "durable")
        name = node.node_id
        with node.lock("k") as grant:
            first = grant.token
    with tenure.Node(data_dir=str(where)) as node:
        assert node.node_id == name
        assert node.locks() == [], "a node that closes gives its locks back"
        with node.lock("k") as grant:
            assert grant.token > first


def test_a_killed_nodes_locks_run_out_and_its_tokens_are_never_given_again(where, until):
    code = (
        "import sys, tenure\n"
        "node = tenure.Node(data_dir=sys.argv[1], session_ttl=1.0)\n"
        "grants = [node.acquire(f'k{i}', ttl=1.0) for i in range(20)]\n"
        "print(grants[-1].token, flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, where], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    last = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with tenure.Node(data_dir=where) as node:
        assert len(node.locks()) == 20, "acknowledged grants survive a kill"
        assert node.holder("k0").token <= last
        assert node.try_acquire("k0") is None
        taken = node.acquire("k0", timeout=20)
        assert taken.token > last
        taken.release()
        until(lambda: node.locks() == [])


def test_a_directory_in_use_is_refused(where):
    with tenure.Node(data_dir=where), pytest.raises(tenure.DataLockedError) as refused:
        tenure.Node(data_dir=where)
    assert str(where) in str(refused.value)
    tenure.Node(data_dir=where).close()


def test_a_forked_child_does_not_keep_the_directory(where, program):
    code = (
        "import os, sys, warnings, tenure\n"
        "warnings.simplefilter('ignore', DeprecationWarning)\n"
        "node = tenure.Node(data_dir=sys.argv[1]); grant = node.acquire('k')\n"
        "stay, leave = os.pipe()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os.close(leave); os.read(stay, 1); sys.exit(0)\n"
        "grant.release(); node.close()\n"
        "with tenure.Node(data_dir=sys.argv[1]) as again, again.lock('k'): print(os.waitpid(child, os.WNOHANG)[0])\n"
        "os.close(leave)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
    )
    ended = program(code, str(where))
    assert (ended.returncode, ended.stdout) == (0, "0\n"), ended.stderr


def test_a_foreign_directory_is_refused(where):
    tenure.Node(data_dir=where, node_id="a1", cluster_id="one").close()
    for other in ({"node_id": "b1", "cluster_id": "one"}, {"node_id": "a1", "cluster_id": "two"}):
        with pytest.raises(tenure.DataForeignError) as refused:
            tenure.Node(data_dir=where, **other)
        assert str(where) in str(refused.value)
    tenure.Node(data_dir=where, node_id="a1", cluster_id="one").close()


def test_a_directory_that_has_lost_a_file_is_refused(where):
    with tenure.Node(data_dir=where) as node:
        node.acquire("k").release()
    logs = sorted(where.glob("wal-*"))
    # Not the last part of the log alone: it is prepared and still empty.
    for lost in ([where / "identity"], [where / "state.redb"], logs[:1], logs):
        kept = {path: path.read_bytes() for path in lost}
        for path in lost:
            path.unlink()
        with pytest.raises((tenure.DataLostError, tenure.DataCorruptError), match=str(where)):
            tenure.Node(data_dir=where)
        assert not any(path.exists() for path in lost), "nothing is created in its place"
        for path, content in kept.items():
            path.write_bytes(content)
    with tenure.Node(data_dir=where) as node, node.lock("k") as grant:
        assert grant.token > 1


def test_nothing_is_created_where_it_should_exist(tmp_path):
    with pytest.raises(tenure.Error) as refused:
        tenure.Node(data_dir=tmp_path / "absent", data_dir_create=False)
    assert isinstance(refused.value, (tenure.DataLostError, tenure.IoError))
    assert list(tmp_path.iterdir()) == []
    file = tmp_path / "file"
    file.write_text("not a directory")
    with pytest.raises((tenure.IoError, tenure.DataForeignError, tenure.DataLostError)) as refused:
        tenure.Node(data_dir=file)
    assert str(file) in str(refused.value)
    assert file.read_text() == "not a directory"
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "precious.txt").write_text("somebody's")
    with pytest.raises((tenure.DataForeignError, tenure.DataLostError)):
        tenure.Node(data_dir=strange)
    assert os.listdir(strange) == ["precious.txt"]


def test_epochs_of_a_gate_outlive_the_node(where):
    with tenure.Node(data_dir=where) as node, node.gate("w") as gate:
        assert gate.heartbeat(9, 5.0, gate.next_nonce()).accepted
    with tenure.Node(data_dir=where) as node, node.gate("w") as gate:
        assert not gate.check(), "it comes up closed"
        with pytest.raises(tenure.FencedError) as fenced:
            gate.heartbeat(8, 5.0, gate.next_nonce())
        assert fenced.value.token == 9
        assert gate.heartbeat(9, 5.0, gate.next_nonce()).accepted
