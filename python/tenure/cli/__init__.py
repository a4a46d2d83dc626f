"""The ``tenure`` command: runs a member, looks into a cluster, runs programs under a lock.

Exit statuses: 0 done; 1 it could not be done (``lock``: the lock was not had, as flock(1)); 64 wrong usage; 69 the cluster does not
answer; 75 the lock was lost while the program ran. With ``--json`` everything on standard output is JSON, one value a line.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

import tenure
from tenure.cli import cluster, doctor, lock, node, schedules
from tenure.cli.common import EX_UNAVAILABLE, EX_USAGE, Usage
from tenure.cli.output import Output

Run = Callable[[argparse.Namespace, Output], int]


class _Parser(argparse.ArgumentParser):
    """Exits with ``EX_USAGE``, so that a script can tell a typing error from a lock that is held."""

    def error(self, message: str) -> None:  # type: ignore[override]  # It does not return.
        self.print_usage(sys.stderr)
        self.exit(EX_USAGE, f"{self.prog}: error: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tenure",
        description="Leases, fencing locks and a write gate inside a process.",
        epilog="Each command has a --help of its own.",
    )
    everywhere = _Parser(add_help=False)
    everywhere.add_argument("--json", action="store_true", help="print JSON, one value a line")
    remote = _Parser(add_help=False)
    remote.add_argument(
        "--connect",
        metavar="HOST:PORT,...",
        default=os.environ.get("TENURE_CONNECT", ""),
        help="addresses of members, any of them will do (default: $TENURE_CONNECT)",
    )
    settings = _Parser(add_help=False)
    settings.add_argument("--config", metavar="FILE", help="read settings from FILE: key = value lines")
    settings.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="a setting of docs/configuration.md")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def add(name: str, run: Run, text: str, *parents: _Parser) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", parents=[*parents, everywhere])
        command.set_defaults(run=run)
        return command

    add("version", doctor.version, "print the versions of this installation")
    doctor.arguments(add("doctor", doctor.doctor, "try what Tenure needs on this machine", remote, settings))
    node.arguments(add("node", node.run, "run a member of a cluster until SIGTERM or SIGINT", settings))
    lock.arguments(add("lock", lock.run, "run a program while holding a lock", remote, settings))
    cluster.status_arguments(add("status", cluster.status, "show who leads, the members, whether a majority works", remote, settings))
    cluster.locks_arguments(add("locks", cluster.locks, "list locks, their holders and waiters", remote, settings))
    cluster.members_arguments(add("members", cluster.members, "list members, remove one, or issue a join token", remote, settings))
    schedules.arguments(add("schedules", schedules.run, "look at schedules, pause them, run them", remote, settings))
    cluster.transfer_arguments(add("transfer", cluster.transfer, "hand the leadership to another member", remote, settings))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    given = _parser().parse_args(arguments)
    out = Output(as_json=given.json)
    run: Run = given.run
    try:
        return run(given, out)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has enough of it; the interpreter must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (Usage, tenure.Error, OSError) as error:
        out.error(getattr(error, "status", type(error).__name__), str(error))
        return _exit_status(error)


def _exit_status(error: Exception) -> int:
    if isinstance(error, (Usage, tenure.UnknownOptionError, tenure.InvalidArgumentError)):
        return EX_USAGE
    return EX_UNAVAILABLE if isinstance(error, tenure.UnavailableError) else 1
