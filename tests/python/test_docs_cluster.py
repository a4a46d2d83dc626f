"""The commands of docs/cluster.md, in the order in which they stand there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from cluster import LIMIT, free_address

PAGE = Path(__file__).parents[2] / "docs/cluster.md"


def test_what_the_page_shows_works(tmp_path: Path) -> None:
    shown = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(shown) == 4
    script = "set -e -o pipefail\n" + "\n".join(shown)
    for port in sorted(set(re.findall(r"127\.0\.0\.1:\d+", script))):
        script = script.replace(port, free_address())
    command = tmp_path / "bin/tenure"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m tenure "$@"\n')
    command.chmod(0o755)
    env = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}"}
    shell = subprocess.Popen(
        ["bash", "-c", script], cwd=tmp_path, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        said, _ = shell.communicate(timeout=3 * LIMIT)
    finally:
        if shell.poll() is None:
            os.killpg(shell.pid, signal.SIGKILL)
            print(shell.communicate()[0])
    assert shell.returncode == 0, said
    assert re.search(r"this runs once in the cluster, under token \d+", said)
    last = said[said.rindex("NAME ") :]
    members = re.findall(r"^(\w) +\S+:\d+ +(?:leader|voter)", last, re.MULTILINE)
    assert sorted(members) == ["a", "b", "d"], "c has gone, d has come"
