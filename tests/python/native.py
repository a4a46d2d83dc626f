"""Builds the C library and installs it for the tests of its users, and compiles and runs their programs."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
CXX_WITHOUT = ["-fno-exceptions", "-fno-rtti"]


def run(command: list[str | Path], seconds: float = 120.0, **kwargs: object) -> subprocess.CompletedProcess[str]:
    """Runs a command that has to succeed within a time; what it said is in the failure."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=seconds, check=False, **kwargs)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Keeps other test processes out. Under the address sanitizer, which every process inherits, nothing is built."""
    if "TENURE_ASAN" in os.environ:
        pytest.skip("no compiler is run under the address sanitizer")
    TARGET.mkdir(parents=True, exist_ok=True)
    with open(TARGET / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def library(features: str) -> Path:
    """The folder with libtenure.so and libtenure.a of the development profile with these features; cargo rebuilds what changed."""
    out = TARGET / "native" / features
    with alone("native"):
        out.mkdir(parents=True, exist_ok=True)
        build = ["cargo", "rustc", "-q", "--lib", "--crate-type", "cdylib,staticlib", "--features", features]
        run([*build, "--target-dir", TARGET], seconds=1200, cwd=ROOT)
        for name in ("libtenure.so", "libtenure.a"):
            new, old = TARGET / "debug" / name, out / name
            if not old.exists() or old.stat().st_mtime_ns != new.stat().st_mtime_ns:
                # Renamed into place: a process that runs with the old one keeps it.
                shutil.copy2(new, out / f"{name}.new")
                os.replace(out / f"{name}.new", old)
    return out


@functools.cache
def history_checker() -> Path:
    """The simulator's checker of histories, as a program."""
    with alone("native"):
        run(["cargo", "build", "-q", "--example", "check-history", "--features", "capi", "--target-dir", TARGET], seconds=1200, cwd=ROOT)
    return TARGET / "debug/examples/check-history"


def installed(features: str, prefix: Path) -> Path:
    """Installs that library under ``prefix``."""
    run([ROOT / "bindings/cpp/install.sh", prefix, library(features)])
    return prefix


def compile_program(prefix: Path, sources: list[str], out: Path, *flags: str, compiler: str = "cc") -> Path:
    """Compiles sources (relative to the repository) against an installed library, warnings being errors."""
    files = [ROOT / s for s in sources]
    paths = ["-I", prefix / "include", "-L", prefix / "lib", f"-Wl,-rpath,{prefix}/lib"]
    run([compiler, "-g", *WARNINGS, *flags, *files, "-o", out, *paths, "-ltenure", "-pthread", "-ldl"])
    return out
