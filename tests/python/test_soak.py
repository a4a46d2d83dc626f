"""A short soak: see ``soak.py``. ``make soak`` runs it for long, under ten thousand sessions."""

from __future__ import annotations

from pathlib import Path

import pytest

from soak import TTL, Usage, soak


# I-35.
def test_a_short_soak_is_flat_and_loses_nothing(tmp_path: Path) -> None:
    """I-32, on real processes: what comes and goes leaves nothing behind."""
    verdict = soak(tmp_path, TTL + 3, sessions=100)
    print(verdict.describe())
    assert not verdict.wrong


@pytest.mark.parametrize("leak", ["memory", "files", "threads"])
def test_what_grows_is_noticed(tmp_path: Path, leak: str) -> None:
    verdict = soak(tmp_path, 6.0, sessions=4, gates=1, leak=leak)
    print(verdict.describe())
    assert any(wrong.startswith(f"load0, {leak}") for wrong in verdict.wrong)


@pytest.mark.parametrize(
    ("values", "grown"),
    [([50.0] * 30, False), ([50.0] * 10 + [51.0, 49.0] * 10, False), (list(range(30)), True), ([50.0] * 20 + [60.0] * 10, True)],
)
def test_chance_is_no_growth(values: list[float], grown: bool) -> None:
    assert bool(Usage(values, [1.0] * 30, [1.0] * 30).grown()) is grown
    assert bool(Usage([1.0] * 30, values, [1.0] * 30).grown()) is grown
