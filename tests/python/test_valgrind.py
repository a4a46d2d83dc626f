"""The programs of tests/c under valgrind: no invalid access, no use of what was never set, nothing that is definitely lost.

`make test-valgrind` runs it; otherwise, and without valgrind, it is skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from native import compile_program, installed

C = ["-std=c11", "-D_GNU_SOURCE", "-DTENURE_ENABLE_INJECT"]
FOUND = 99
"""The exit code when valgrind has found something."""
MISTAKES = {
    "freed": "char *p = malloc(8); free(p); return p[3] == 1;",
    "unset": "char *p = malloc(8); int n = p[3] == 1 ? 1 : 0; free(p); return n;",
    "lost": "char *volatile p = malloc(8); p = 0; return p != 0;",
}

pytestmark = pytest.mark.skipif(
    "TENURE_VALGRIND" not in os.environ or shutil.which("valgrind") is None, reason="make test-valgrind runs it"
)


def checked(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a program under valgrind. Threads take turns, as the host's own do not."""
    words = [
        "valgrind",
        "-q",
        f"--error-exitcode={FOUND}",
        "--leak-check=full",
        "--show-leak-kinds=definite",
        "--errors-for-leak-kinds=definite",
    ]
    return subprocess.run([*words, "--fair-sched=yes", str(program), *arguments], capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="session")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed("inject", tmp_path_factory.mktemp("inject"))


@pytest.mark.parametrize("name", ["layout", "arguments", "verbs", "gates", "granter", "orchestrator", "panics"])
def test_program(prefix: Path, tmp_path: Path, name: str) -> None:
    ended = checked(compile_program(prefix, [f"tests/c/{name}.c"], tmp_path / name, *C))
    assert ended.returncode == 0, ended.stderr[-4000:]


@pytest.mark.parametrize("name", ["verbs", "gates"])
def test_program_on_disk(prefix: Path, tmp_path: Path, name: str) -> None:
    ended = checked(compile_program(prefix, [f"tests/c/{name}.c"], tmp_path / name, *C), str(tmp_path))
    assert ended.returncode == 0, ended.stderr[-4000:]


@pytest.mark.parametrize("mistake", sorted(MISTAKES))
def test_a_mistake_is_found(tmp_path: Path, mistake: str) -> None:
    source = tmp_path / f"{mistake}.c"
    source.write_text(f"#include <stdlib.h>\nint main(void) {{ {MISTAKES[mistake]} }}\n")
    subprocess.run(["cc", "-g", "-O0", "-w", str(source), "-o", str(tmp_path / mistake)], check=True)
    assert checked(tmp_path / mistake).returncode == FOUND
