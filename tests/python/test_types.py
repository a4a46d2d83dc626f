"""The types that the package promises are those that it has."""

from __future__ import annotations

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def run(*command):
    ended = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_package_and_the_examples_are_typed(tmp_path):
    run("mypy", "--cache-dir", str(tmp_path))


def test_the_stubs_are_those_of_the_extension(tmp_path):
    run("mypy.stubtest", "--mypy-config-file", "pyproject.toml", "tenure._core")
