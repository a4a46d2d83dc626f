"""``tenure status``, ``locks``, ``members`` and ``transfer``: a look into a cluster, and changes to it."""

from __future__ import annotations

import argparse
import dataclasses
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import tenure
from tenure.cli.common import connect
from tenure.cli.output import Output, printable

T = TypeVar("T")

_MEMBER_COLUMNS = ("name", "address", "role", "behind")
_LOCK_COLUMNS = ("key", "holder", "token", "mode", "remaining", "held_for", "waiters", "metadata")


def status_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = "Exit status 69 when no member answers or there is no leader."


def locks_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("prefix", nargs="?", default="", help="only names that start with it")
    parser.add_argument("--limit", type=int, default=1000, help="at most so many names (default: 1000)")
    parser.add_argument("--waiters", action="store_true", help="also those who wait, in the order in which they are served")
    parser.add_argument("--force-release", metavar="KEY", help="take KEY away from whoever holds it, instead of listing")


def members_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    change = parser.add_mutually_exclusive_group()
    change.add_argument("--remove", metavar="NAME", help="remove this member for good; its name can be used again only by a new, empty one")
    change.add_argument("--join-token", metavar="NAME", help="print a token that lets one new node of this name join, once")
    parser.add_argument("--ttl", metavar="SECONDS", type=float, default=3600.0, help="how long the token is good for (default: 3600)")


def transfer_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("to", metavar="NAME", help="the member that is to lead")


def status(given: argparse.Namespace, out: Output) -> int:
    """Shows the leader and the members, and that a majority works."""
    with connect(given) as client:
        rows = _members(client)
        # A linearizable read: it proves that a majority works, which a list of members does not.
        client.holder("tenure.status")
        own = client.status()
    cluster = own["cluster"]
    leader = next((row["name"] for row in rows if row["role"] == "leader"), None)
    value = {
        "leader": leader,
        "term": cluster["term"],
        "members": rows,
        "asked": cluster["connected_to"],
        "weaker_modes": own["weaker_modes"],
    }
    if out.as_json:
        out.value(value, "")
        return 0
    out.value(value, f"leader {leader or 'not known'}, term {cluster['term']}, as {cluster['connected_to']} says")
    out.table(rows, _MEMBER_COLUMNS, "no members")
    for mode in own["weaker_modes"]:
        out.value(mode, f"weaker mode: {mode}")
    return 0


def locks(given: argparse.Namespace, out: Output) -> int:
    """Lists locks, or takes one away."""
    with connect(given) as client:
        if given.force_release is not None:
            freed = client.force_release(given.force_release)
            text = f"{printable(given.force_release)}: {'taken away from its holder' if freed else 'nobody held it'}"
            out.value({"key": given.force_release, "released": freed}, text)
            return 0
        rows = []
        for lock in client.locks(given.prefix, given.limit):
            rows += [_holder(lock.key, holder) for holder in lock.holders] or [{"key": lock.key, "holder": None}]
            if given.waiters:
                waiting = client.contenders(lock.key).waiters
                rows += [{"key": lock.key, "holder": None, "waiter": w.node, "mode": w.mode, "waited": w.waited} for w in waiting]
    columns = (*_LOCK_COLUMNS, "waiter", "waited") if given.waiters else _LOCK_COLUMNS
    out.table(rows, columns, "no locks" if not given.prefix else f"no locks that start with {printable(given.prefix)}")
    return 0


def members(given: argparse.Namespace, out: Output) -> int:
    """Lists the members, removes one, or issues a join token."""
    with connect(given) as client:
        if given.join_token is not None:
            token = client.join_token_create(given.join_token, given.ttl)
            out.value({"node": given.join_token, "token": token, "ttl": given.ttl}, token)
        elif given.remove is not None:
            _with_progress(out, f"removing {printable(given.remove)}", lambda: client.remove_member(given.remove))
            out.value({"removed": given.remove}, f"{printable(given.remove)} is no member any more")
        else:
            out.table(_members(client), _MEMBER_COLUMNS, "no members")
    return 0


def transfer(given: argparse.Namespace, out: Output) -> int:
    """Hands the leadership over."""
    with connect(given) as client:
        _with_progress(out, f"handing over to {printable(given.to)}", lambda: client.transfer_leader(given.to))
        out.value({"leader": given.to}, f"{printable(given.to)} leads")
    return 0


def _members(client: tenure.Node) -> list[dict[str, Any]]:
    found = client.members()
    ends = [m.log_end for m in found if m.log_end is not None]
    newest = max(ends, default=None)
    rows = []
    for m in found:
        role = "leader" if m.leader else "voter" if m.voter else "learner"
        behind = None if m.log_end is None or newest is None else newest - m.log_end
        rows.append({**dataclasses.asdict(m), "role": role, "behind": behind})
    return rows


def _holder(key: bytes, holder: tenure.Holder) -> dict[str, Any]:
    return {"key": key, "holder": holder.node, **{k: v for k, v in dataclasses.asdict(holder).items() if k != "node"}}


def _with_progress(out: Output, text: str, work: Callable[[], T]) -> T:
    """Runs ``work``, which may take a while, and says so meanwhile."""
    done = threading.Event()

    def tell() -> None:
        waited = 0
        while not done.wait(1.0):
            waited += 1
            out.progress(f"tenure: {text}: {waited} s")

    teller = threading.Thread(target=tell, name="tenure-progress")
    teller.start()
    try:
        return work()
    finally:
        done.set()
        teller.join()
        out.progress_done()
