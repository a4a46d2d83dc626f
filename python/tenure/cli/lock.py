"""``tenure lock KEY -- COMMAND``: runs a program while holding a lock of the cluster, with the exit statuses of flock(1)."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from types import FrameType

import tenure
from tenure._types import DEFAULT_TTL
from tenure.cli.common import EX_TEMPFAIL, Usage, connect, seconds
from tenure.cli.output import Output, printable

_LOOK = 0.05
"""Seconds between two looks at whether the program has ended and the lock is still ours."""

_BECOME = """
import ctypes, os, sys
parent, number, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
if number:
    ctypes.CDLL(None).prctl(1, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)
try:
    os.execvp(command[0], command)
except OSError as error:
    print(f"tenure: {command[0]}: {error.strerror}", file=sys.stderr)
    os._exit(127 if isinstance(error, FileNotFoundError) else 126)
"""
"""Becomes the program, told by the kernel (PR_SET_PDEATHSIG) when the process that holds the lock is gone."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.usage = "%(prog)s [options] KEY [--] COMMAND [ARGUMENT ...]"
    parser.epilog = (
        "Exit status: that of COMMAND (128 + N when signal N killed it, 127 when it is not found); 1, or that of -E, when the lock was "
        "not had; 69 when the cluster does not answer; 75 when the lock was lost while COMMAND ran. COMMAND finds the lock's name in "
        "TENURE_LOCK_KEY and the fencing token, to be given to whatever it writes to, in TENURE_LOCK_TOKEN."
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("-s", "--shared", action="store_true", help="a shared lock")
    how.add_argument("-x", "--exclusive", action="store_true", help="an exclusive lock (the default)")
    wait = parser.add_mutually_exclusive_group()
    wait.add_argument("-n", "--nonblock", action="store_true", help="fail rather than wait")
    wait.add_argument("-w", "--timeout", metavar="SECONDS", type=seconds, help="wait at most so long (default: as long as it takes)")
    parser.add_argument("-E", "--conflict-exit-code", metavar="N", type=int, default=1, help="exit status when the lock was not had")
    parser.add_argument("--ttl", metavar="SECONDS", type=seconds, default=DEFAULT_TTL, help="how long it outlives this process")
    parser.add_argument("--metadata", metavar="TEXT", help="shown to others as the holder's note (default: host, process id, command)")
    parser.add_argument(
        "--on-loss",
        choices=["term", "kill", "continue"],
        default="term",
        help="what COMMAND gets when the lock, or this process, is gone: SIGTERM and after --grace SIGKILL (default), SIGKILL, nothing",
    )
    parser.add_argument("--grace", metavar="SECONDS", type=seconds, default=10.0, help="between SIGTERM and SIGKILL (default: 10)")
    parser.add_argument("-v", "--verbose", action="store_true", help="say what is waited for and what was had")
    parser.add_argument("key", metavar="KEY", help="name of the lock")
    parser.add_argument("program", metavar="COMMAND", nargs=argparse.REMAINDER, help="the program and its arguments")


def run(given: argparse.Namespace, out: Output) -> int:
    """Runs the command."""
    program = given.program[1:] if given.program[:1] == ["--"] else given.program
    if not program:
        raise Usage("no command to run under the lock")
    if not 0 <= given.conflict_exit_code <= 255:
        raise Usage(f"-E {given.conflict_exit_code}: an exit status is 0 to 255")
    with connect(given) as node:
        grant = _acquire(node, given, program, out)
        if grant is None:
            out.error("held", f"{given.key} is held{_by(node, given.key)}")
            return int(given.conflict_exit_code)
        if given.verbose:
            out.progress_done()
            print(f"tenure: got {printable(given.key)}, token {grant.token}", file=sys.stderr)
        status, lost = _supervise(program, grant, given)
        if lost:
            out.error("lost", f"{given.key} was lost while the command ran ({grant.lost.reason or 'expired'})")
            return EX_TEMPFAIL
        try:
            grant.release()
        except tenure.NotHolderError:
            out.error("lost", f"{given.key} was lost before the command ended")
            return EX_TEMPFAIL
        return status


def _acquire(node: tenure.Node, given: argparse.Namespace, program: list[str], out: Output) -> tenure.Grant | None:
    note = given.metadata if given.metadata is not None else f"{os.uname().nodename} pid {os.getpid()}: {program[0]}"
    options: tenure.LockOptions = {"mode": "shared" if given.shared else "exclusive", "metadata": note.encode()[:1024]}
    grant = node.try_acquire(given.key, given.ttl, **options)
    if grant is not None or given.nonblock or given.timeout == 0:
        return grant
    if given.verbose:
        out.progress(f"tenure: waiting for {printable(given.key)}{_by(node, given.key)}")
    try:
        return node.acquire(given.key, given.ttl, given.timeout, **options)
    except tenure.LockTimeout:
        return None


def _by(node: tenure.Node, key: str) -> str:
    """Who holds it, for a message; nothing when nobody does any more or nobody can say."""
    try:
        holder = node.holder(key)
    except tenure.Error:
        return ""
    if holder is None:
        return ""
    note = f" ({printable(holder.metadata)})" if holder.metadata else ""
    return f" by {printable(holder.node)}{note}"


def _supervise(program: list[str], grant: tenure.Grant, given: argparse.Namespace) -> tuple[int, bool]:
    """Runs the program to its end: its exit status, and whether the lock was lost meanwhile."""
    deadly = {"term": signal.SIGTERM, "kill": signal.SIGKILL, "continue": 0}[given.on_loss]
    environment = {**os.environ, "TENURE_LOCK_KEY": given.key, "TENURE_LOCK_TOKEN": str(grant.token)}
    become = [sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()), str(int(deadly)), *program]
    # A Ctrl-C reaches the program by itself; the lock is given back when the program has ended of it.
    before = {signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    try:
        child = subprocess.Popen(become, env=environment)  # noqa: S603  # It is the program that the user gave.

        def forward(number: int, _frame: FrameType | None) -> None:
            child.send_signal(number)

        for number in (signal.SIGTERM, signal.SIGHUP):
            before[number] = signal.signal(number, forward)
        lost = _wait(child, grant, deadly, given.grace)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    status = child.returncode
    return (128 - status if status < 0 else status), lost


def _wait(child: subprocess.Popen[bytes], grant: tenure.Grant, deadly: int, grace: float) -> bool:
    lost_at: float | None = None
    while True:
        try:
            child.wait(_LOOK)
        except subprocess.TimeoutExpired:
            pass
        else:
            return lost_at is not None or grant.lost.is_set()
        now = time.monotonic()
        if lost_at is None and grant.lost.is_set():
            lost_at = now
            if deadly:
                child.send_signal(deadly)
        elif lost_at is not None and deadly == signal.SIGTERM and now - lost_at >= grace:
            child.kill()
