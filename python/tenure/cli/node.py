"""``tenure node``: one member of a cluster, in a process of its own."""

from __future__ import annotations

import argparse
import contextlib
import signal
import threading
from typing import Any

import tenure
from tenure.cli.common import Usage, settings
from tenure.cli.output import Output

_LOOK = 0.2
"""Seconds between two looks at the member."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = (
        "The first members found a cluster together: all are started with the same --peers, themselves included, or with the same --seeds. "
        "Later ones join through --seeds. SIGTERM and SIGINT end the member in good order: a leader hands over first."
    )
    parser.add_argument("--node-id", metavar="NAME", help="the member's name, unique in the cluster")
    parser.add_argument("--data-dir", metavar="DIR", help="where it keeps its log")
    parser.add_argument("--listen", metavar="HOST:PORT", help="where it listens")
    parser.add_argument("--advertise", metavar="HOST:PORT", help="where the others reach it (default: where it listens)")
    parser.add_argument("--peers", metavar="NAME=HOST:PORT,...", help="the founders of the cluster")
    parser.add_argument("--seeds", metavar="HOST:PORT,...", help="members that let this one in")
    parser.add_argument("--join-token", metavar="TOKEN", help="what `tenure members --join-token` printed")
    parser.add_argument("--close-timeout", metavar="SECONDS", type=float, default=5.0, help="longest end in good order (default: 5)")


def run(given: argparse.Namespace, out: Output) -> int:
    """Runs the member until a signal ends it."""
    wanted = settings(given)
    for name in ("node_id", "data_dir", "listen", "advertise", "peers", "seeds", "join_token"):
        value = getattr(given, name)
        if value is not None:
            wanted[name] = value
    for name in ("node_id", "data_dir", "listen"):
        if not wanted.get(name):
            raise Usage(f"a member needs --{name.replace('_', '-')}")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    node = tenure.Node(**wanted)
    try:
        out.value(
            {"event": "started", "node": node.node_id, "listen": wanted["listen"], "data_dir": wanted["data_dir"]},
            f"member {node.node_id}: listening at {wanted['listen']}, data in {wanted['data_dir']}",
        )
        return _watch(node, stop, out)
    finally:
        _leave(node)
        with contextlib.suppress(tenure.LockTimeout):
            node.close(given.close_timeout)
        out.value({"event": "closed", "node": node.node_id}, f"member {node.node_id}: closed")


def _leave(node: tenure.Node) -> None:
    """A leader that goes hands over first: nobody has to wait for an election."""
    status = node.status()
    cluster = status["cluster"] or {}
    if cluster.get("role") == "leader" and len(cluster["members"]) > 1 and not status["poisoned"]:
        with contextlib.suppress(tenure.Error):
            node.transfer_leader()


def _watch(node: tenure.Node, stop: threading.Event, out: Output) -> int:
    """Tells who leads and who belongs to the cluster, each time that it changes."""
    told: Any = None
    while not stop.is_set():
        status = node.status()
        if status["poisoned"]:
            out.error(status["state"], f"the member has ended: {status['poisoned']}")
            return 1
        cluster = status["cluster"]
        seen = (cluster["leader"], sorted(m["name"] for m in cluster["members"]))
        if seen != told:
            told = seen
            leader, members = seen
            out.value(
                {"event": "cluster", "node": node.node_id, "leader": leader, "term": cluster["term"], "members": members},
                f"member {node.node_id}: leader {leader or 'not known'}, members {', '.join(members) or 'not known'}",
            )
        stop.wait(_LOOK)
    return 0
