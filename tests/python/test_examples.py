"""The examples say what they are expected to say."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

EXAMPLES = sorted((pathlib.Path(__file__).parents[2] / "examples/python").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_says_what_is_expected(example):
    ended = subprocess.run([sys.executable, "-W", "error", example], capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout) == (0, example.with_suffix(".expected").read_text()), ended.stderr


def test_there_are_examples():
    assert len(EXAMPLES) >= 3
