"""Epochs at a resource: the record, the file, and the RocksDB example."""

from __future__ import annotations

import os
import threading

import pytest

import tenure
from native import ROOT, installed, run


def test_the_record_travels_with_the_data():
    first = tenure.admit_epoch(None, 7)
    assert first.raised
    assert tenure.admit_epoch(first.record, 7) == (first.record, False)
    with pytest.raises(tenure.FencedError) as fenced:
        tenure.admit_epoch(first.record, 6)
    assert fenced.value.token == 7
    assert (tenure.read_epoch(None), tenure.read_epoch(tenure.admit_epoch(first.record, 9).record)) == (0, 9)
    with pytest.raises(tenure.DataCorruptError):
        tenure.admit_epoch(first.record[:-1], 8)
    for epoch in (0, 1 << 63):
        with pytest.raises(tenure.InvalidArgumentError):
            tenure.admit_epoch(None, epoch)


def test_the_file_is_made_once_and_never_by_itself(tmp_path):
    path = tmp_path / "fence"
    with pytest.raises(tenure.DataLostError, match="fence"):
        tenure.EpochFence(path)
    tenure.EpochFence.create(path)
    with pytest.raises(tenure.MisuseError):
        tenure.EpochFence.create(path)
    with tenure.EpochFence(path) as fence:
        with pytest.raises(tenure.DataLockedError):
            tenure.EpochFence(str(path))
        with fence.enter(5, "a") as one:
            assert one.epoch == 5
    with pytest.raises(tenure.ClosedError):
        fence.enter(5)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(tenure.DataCorruptError):
        tenure.EpochFence(path)


def test_a_higher_epoch_waits_for_what_is_under_way(tmp_path):
    tenure.EpochFence.create(tmp_path / "fence")
    with tenure.EpochFence(tmp_path / "fence") as fence:
        old = fence.enter(5)
        with pytest.raises(tenure.LockTimeout):
            fence.enter(6, timeout=0)
        with pytest.raises(tenure.FencedError) as fenced:
            fence.enter(5)
        assert (fenced.value.token, fence.highest()) == (6, 6)
        entered = threading.Event()

        def successor() -> None:
            with fence.enter(6, timeout=60):
                entered.set()

        thread = threading.Thread(target=successor)
        thread.start()
        assert not entered.is_set()
        old.leave()
        thread.join(60)
        assert entered.is_set()


def test_a_forked_child_has_no_fence(tmp_path):
    tenure.EpochFence.create(tmp_path / "fence")
    with tenure.EpochFence(tmp_path / "fence") as fence:
        child = os.fork()
        if child == 0:
            try:
                fence.enter(1)
            except tenure.ForkedError:
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert fence.highest() == 0


def test_the_rocksdb_guard(tmp_path):
    """Old writers, a new epoch, a replica that tails the log, a restart: bindings/cpp/examples/epoch_guard."""
    prefix, build = installed("capi", tmp_path / "installed"), tmp_path / "build"
    run(["cmake", "-S", ROOT / "bindings/cpp/examples/epoch_guard", "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}"])
    run(["cmake", "--build", build], seconds=300)
    assert "refused" in run([build / "epoch_guard", tmp_path]).stdout
