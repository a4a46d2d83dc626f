"""Randomised split brain on real servers: a short selection. ``make test-faults`` is the long form."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from faults import Run
from history import Write, check
from kvgate import BINARY

# Another one for each day of a machine's life: TENURE_SEED=... make test
SEED = int(os.environ.get("TENURE_SEED", "1"))


@pytest.fixture(autouse=True)
def _binary() -> None:
    if not BINARY.exists():
        pytest.fail(f"{BINARY} is missing: `make server` builds it")


def test_the_checker_finds_what_it_is_to_find() -> None:
    one = Write("a", 1, "k1", 1.0, 1.1)
    two = Write("b", 2, "k2", 2.0, 2.1)
    assert check([one, two], {"k1", "k2"}).by_two == []
    overlapping = Write("a", 1, "k3", 2.05, 2.2)  # sent before the first acknowledgement under 2: nobody can tell
    late = Write("a", 1, "k4", 2.15, 2.2)
    again = Write("a", 3, "k5", 3.0, 3.1)
    verdict = check([one, two, overlapping, late, again], {"k1", "k2", "k4", "k5"})
    assert verdict.by_two == [late]
    assert verdict.lost == [overlapping]


# I-01, I-02.
@pytest.mark.parametrize("seed", [SEED, SEED + 1])
def test_no_write_by_two_masters_and_none_lost(tmp_path: Path, seed: int) -> None:
    with Run(seed, tmp_path, gated=True) as run:
        faults = run.plan(5)
        verdict = run.play(faults)
        report = run.describe(verdict)
    assert not verdict.by_two, report
    assert not verdict.lost, report
    # A run in which nothing happened proves nothing.
    assert sum(run.injected.values()) == 5, report
    assert len(run.history) > 250, report
    assert len({write.epoch for write in run.history}) >= 2, report


def test_without_the_gate_the_checker_finds_violations(tmp_path: Path) -> None:
    with Run(SEED, tmp_path, gated=False) as run:
        verdict = run.play(["cut_from_controller", "stopped", "killed"])
        report = run.describe(verdict)
    assert verdict.by_two, report
