"""A real etcd on the loopback, with a directory of its own."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import tenure
from cluster import LIMIT, free_address


@contextlib.contextmanager
def etcd(where: Path) -> Iterator[str]:
    """Its address. Skips, and says what is missing, where there is no etcd or the build has no adapter."""
    address, peers = (f"http://{free_address()}" for _ in range(2))
    program = shutil.which("etcd")
    if program is None:
        pytest.skip("no etcd: Debian's package etcd-server is missing (scripts/setup.sh VENV etcd installs it for root)")
    command = [program, "--data-dir", str(where / "etcd"), "--listen-client-urls", address, "--advertise-client-urls", address]
    command += ["--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}"]
    with (where / "etcd.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        end = time.monotonic() + LIMIT
        while True:
            try:
                tenure.Node(etcd=address).close()
                break
            except tenure.UnsupportedError as error:
                pytest.skip(f"{error}: make test-etcd builds it")
            except tenure.UnavailableError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)
        yield address
    finally:
        server.kill()
        server.wait()
