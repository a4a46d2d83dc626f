"""What the tests share: waiting for a condition, running a program, an in-memory node."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tenure


@pytest.fixture
def until() -> Callable[..., None]:
    """``until(condition)`` waits until it is true, and fails after ten seconds."""

    def wait(condition: Callable[[], object], seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not come true in time"
            time.sleep(0.002)

    return wait


@pytest.fixture
def program() -> Callable[..., subprocess.CompletedProcess[str]]:
    """``program(code, *arguments)`` runs Python code in a process of its own; it must end within ``seconds``."""

    def run(code: str, *arguments: str, seconds: float = 30.0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-X", "dev", "-c", code, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, cwd=cwd)

    return run


@pytest.fixture
def node() -> Iterator[tenure.Node]:
    """A node in memory."""
    with tenure.Node(node_id="n1") as node:
        yield node
