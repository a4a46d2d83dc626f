"""What a machine can do to a process: disks that fill, fail and lose power, clocks of its own, hardly any processor. Mostly for root.

Each fault counts what it did, so that a test can say that it happened. A test whose fault cannot be had here is skipped, and says why.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import until

CPU = Path("/sys/fs/cgroup/cpu")
EXT4_IOC_SHUTDOWN = 0x8004587D
WITHOUT_THE_JOURNAL = 2
"""As when the power goes: what is not on the disk stays away."""


def needs_root(what: str) -> None:
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip(f"{what}: only for root on Linux")


def run(what: str, *words: str) -> None:
    """Runs a tool; what it cannot do, cannot be had here."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"{what}: {error}")
    if done.returncode != 0:
        pytest.skip(f"{what}: {done.stderr.strip() or words}")


@contextlib.contextmanager
def small_disk(where: Path, megabytes: int) -> Iterator[SmallDisk]:
    """A file system in memory, of this size."""
    needs_root("a small disk")
    where.mkdir()
    run("a small disk", "mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tenure", str(where))
    try:
        yield SmallDisk(where)
    finally:
        subprocess.run(["umount", "-l", str(where)], check=False)


class SmallDisk:
    def __init__(self, where: Path) -> None:
        self.where = where
        self.filled = 0

    def fill(self) -> None:
        """Takes all that is left."""
        with (self.where / "filler").open("ab", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                self.filled += filler.write(b"\1" * 4096)

    def free(self) -> None:
        (self.where / "filler").unlink()


class Power:
    """A file system in a file, that can lose its power: whatever was not synced is gone."""

    def __init__(self, image: Path, where: Path, megabytes: int) -> None:
        needs_root("a power cut")
        self.image, self.where = image, where
        self.cuts = 0
        with image.open("wb") as disk:
            disk.truncate(megabytes << 20)
        run("a power cut", "mkfs.ext4", "-q", "-F", str(image))
        where.mkdir()
        self.on()

    def on(self) -> None:
        run("a power cut", "mount", "-o", "loop", str(self.image), str(self.where))

    def cut(self) -> None:
        """From here on nothing reaches the disk: a file that was not synced shows it."""
        (self.where / "never-synced").write_bytes(b"\1" * 65536)
        root = os.open(self.where, os.O_RDONLY)
        try:
            fcntl.ioctl(root, EXT4_IOC_SHUTDOWN, struct.pack("I", WITHOUT_THE_JOURNAL))
        except OSError as error:
            pytest.skip(f"a power cut: {error}")
        finally:
            os.close(root)

    def back(self) -> None:
        """The power is back. Nobody may have a file open there."""
        subprocess.run(["umount", str(self.where)], check=True)
        # Where a copy of the mount lives on in a namespace, the next mount would be the dead file system again.
        until("the file system is gone", lambda: not self.loops())
        self.on()
        lost = self.where / "never-synced"
        assert not lost.exists() or lost.read_bytes() != b"\1" * 65536, "what was never synced is there: no power was cut"
        self.cuts += 1

    def loops(self) -> str:
        """The devices that the image is still behind."""
        return subprocess.run(["losetup", "-j", str(self.image)], capture_output=True, text=True, check=True).stdout

    def off(self) -> None:
        subprocess.run(["umount", "-l", str(self.where)], check=False)
        self.image.unlink(missing_ok=True)


class Injected:
    """Makes system calls of a running process and its threads fail, by strace."""

    def __init__(self, pid: int, calls: str, what: str, log: Path) -> None:
        self.log = log
        words = ["strace", "-f", "-qq", "-p", str(pid), "-e", f"trace={calls}", "-e", f"inject={calls}:{what}", "-o", str(log)]
        try:
            self.tracer = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        except OSError as error:
            pytest.skip(f"failing system calls: {error}")

        def traced() -> bool:
            if self.tracer.poll() is not None:
                assert self.tracer.stderr is not None
                pytest.skip(f"failing system calls: {self.tracer.stderr.read()}")
            tasks = Path(f"/proc/{pid}/task").iterdir()
            return all(f"TracerPid:\t{self.tracer.pid}\n" in (task / "status").read_text() for task in tasks)

        until("all its threads are traced", traced)

    @property
    def count(self) -> int:
        return self.log.read_text().count("(INJECTED)")

    def end(self) -> None:
        self.tracer.send_signal(signal.SIGINT)
        self.tracer.wait(60)
        if self.tracer.stderr is not None:
            self.tracer.stderr.close()


@contextlib.contextmanager
def injected(pid: int, calls: str, what: str, log: Path) -> Iterator[Injected]:
    fault = Injected(pid, calls, what, log)
    try:
        yield fault
    finally:
        fault.end()


@contextlib.contextmanager
def starved(pid: int, percent: float) -> Iterator[Starved]:
    """So much of one processor, and no more."""
    needs_root("a CPU quota")
    group = CPU / f"tenure-{pid}"
    try:
        group.mkdir()
        (group / "cpu.cfs_period_us").write_text("1000000")
        (group / "cpu.cfs_quota_us").write_text(str(int(percent * 10_000)))
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        pytest.skip(f"a CPU quota: {error}")
    try:
        yield Starved(group)
    finally:
        with contextlib.suppress(ProcessLookupError):
            (CPU / "cgroup.procs").write_text(str(pid))
        until("the group is empty", lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


class Starved:
    def __init__(self, group: Path) -> None:
        self.group = group

    @property
    def count(self) -> int:
        """How many times it had to wait for its next share."""
        stat = dict(line.split() for line in (self.group / "cpu.stat").read_text().splitlines())
        return int(stat["nr_throttled"])


def clock_ahead(seconds: int) -> list[str]:
    """What a command line begins with whose BOOTTIME and MONOTONIC are so far ahead."""
    needs_root("a clock of its own")
    prefix = ["unshare", "-T", "--boottime", str(seconds), "--monotonic", str(seconds)]
    run("a clock of its own", *prefix, "true")
    return prefix


def clock_of(pid: int) -> int:
    """By how many seconds its BOOTTIME is ahead."""
    lines = dict(line.split()[:2] for line in Path(f"/proc/{pid}/timens_offsets").read_text().splitlines())
    return int(lines["boottime"])
