"""Fixtures for the tests of the kvgate server."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "demo"))

from kvgate import BINARY, Server

StartServer = Callable[..., Server]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers, each with a directory of its own, and ends them after the test."""
    if not BINARY.exists():
        pytest.fail(f"{BINARY} is missing: `make server` builds it")
    started: list[Server] = []

    def start(name: str = "a", tenure: Sequence[str] = (), **settings: str) -> Server:
        server = Server(tmp_path / name, name, tenure, **settings)
        started.append(server)
        return server.start()

    yield start
    ended = [(server.name, server.stop(), server.log_text()) for server in started]
    assert all(status == 0 for _, status, _ in ended), ended


@pytest.fixture
def server(start_server: StartServer) -> Server:
    """A clustered master in block-write mode that holds no lease yet."""
    return start_server()
