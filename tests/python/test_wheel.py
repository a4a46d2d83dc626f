"""What is in the extension: one symbol, one version, types."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import tenure
from tenure import _core

ROOT = pathlib.Path(__file__).parents[2]


def test_it_exports_its_initialisation_and_nothing_else():
    listing = subprocess.run(["nm", "-D", "--defined-only", "--format=posix", _core.__file__], capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in listing.stdout.splitlines()] == ["PyInit__core"]


def test_it_needs_no_libpython_and_serves_every_python_from_310():
    assert pathlib.Path(_core.__file__).name == "_core.abi3.so"
    listing = subprocess.run(["readelf", "-d", _core.__file__], capture_output=True, text=True, check=True)
    needed = [line for line in listing.stdout.splitlines() if "NEEDED" in line]
    assert needed
    assert not any("python" in line for line in needed)
    # It must not answer to the C library's name: a process may load both.
    assert "SONAME" not in listing.stdout


def test_versions_agree():
    cargo = (ROOT / "Cargo.toml").read_text()
    assert f'version = "{tenure.__version__}"' in cargo


def test_the_command_line_says_what_it_is():
    answer = subprocess.run([sys.executable, "-m", "tenure", "version"], capture_output=True, text=True, check=True)
    assert answer.stdout.split()[:2] == ["tenure", tenure.__version__]


def test_the_doctor_examines_this_machine(tmp_path):
    answer = subprocess.run(
        [sys.executable, "-m", "tenure", "doctor", "--data-dir", tmp_path / "n"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert not (tmp_path / "n").exists()
    failed = subprocess.run(
        [sys.executable, "-m", "tenure", "doctor", "--data-dir", "/proc/none"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert failed.returncode == 1
    assert "FAILED" in failed.stdout
