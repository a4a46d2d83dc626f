"""Tries out a lock service: what every implementation of Tenure's locks has to do, as a suite that a host can run.

``python -m tenure.conformance module:factory`` runs it against a service of the host's. ``factory(node_id)`` gives a
:class:`tenure.LockService` that knows its node by this name; all services that it gives share one set of locks. The same suite
runs against nodes in memory, durable nodes and members of a cluster in Tenure's own tests.

The exit status is 0 when everything holds that the service claims, 1 otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tenure._types import Event, Key
from tenure.errors import Error, InvalidArgumentError, LockTimeout, NotHolderError
from tenure.node import Locks, Node, Session
from tenure.plug import Capabilities, LockService

__all__ = ["BEHAVIOURS", "Behaviour", "Failure", "Parties", "applicable", "main", "run"]

PATIENCE = 60.0
"""Seconds after which something that has to happen counts as not having happened: long, so that a slow machine fails nobody."""


class Failure(AssertionError):
    """A behaviour that was not shown."""


@dataclass
class Parties:
    """Three identities that compete for one set of locks, each with the node that it belongs to."""

    a: Locks
    b: Locks
    c: Locks
    capabilities: Capabilities = field(default_factory=lambda: Capabilities(fencing=True, renew=True, linearizable_reads=True))
    ttl: float = 1.0
    """Of grants that shall run out: at least the shortest that the service takes."""

    @property
    def all(self) -> tuple[Locks, Locks, Locks]:
        """The three."""
        return (self.a, self.b, self.c)

    def name(self, party: Locks) -> str:
        """The name under which others see it as a holder."""
        return party.name if isinstance(party, Session) else party._node.node_id


@dataclass(frozen=True)
class Behaviour:
    """One thing that has to hold."""

    name: str
    needs: tuple[str, ...]
    """The capabilities without which it need not hold."""
    check: Callable[[Parties, str], None]
    """Called with a key that nobody has used; raises :class:`Failure`."""


BEHAVIOURS: list[Behaviour] = []


def _behaviour(*needs: str) -> Callable[[Callable[[Parties, str], None]], Callable[[Parties, str], None]]:
    def add(check: Callable[[Parties, str], None]) -> Callable[[Parties, str], None]:
        BEHAVIOURS.append(Behaviour(check.__name__, needs, check))
        return check

    return add


def _expect(condition: object, what: str) -> None:
    if not condition:
        raise Failure(what)


def _until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        _expect(time.monotonic() < end, f"{what}: not within {PATIENCE} s")
        time.sleep(0.01)


@contextlib.contextmanager
def _refused(kind: type[Error], what: str) -> Iterator[None]:
    try:
        yield
    except kind:
        return
    raise Failure(f"{what}: no {kind.__name__}")


@_behaviour()
def a_free_lock_is_acquired_and_released(p: Parties, key: str) -> None:
    """Who asks first gets it; a release frees it for the next."""
    for party in (p.a, p.b, p.a):
        grant = party.try_acquire(key)
        _expect(grant is not None, "a free lock was refused")
        if grant is not None:
            _expect(grant.held and grant.remaining > 0, "a fresh grant is not held")
            grant.release()
            _expect(not grant.held, "a released grant is held")


@_behaviour()
def a_held_lock_is_refused(p: Parties, key: str) -> None:
    """To another holder and to the same."""
    with p.a.lock(key):
        _expect(p.b.try_acquire(key) is None, "another got a lock that is held")
        _expect(p.a.try_acquire(key) is None, "its holder got it once more")
    _expect((again := p.b.try_acquire(key)) is not None, "it was not free after its release")
    if again is not None:
        again.release()


@_behaviour()
def keys_are_independent(p: Parties, key: str) -> None:
    """Also long ones, and ones that are no text."""
    names: list[Key] = [key, f"{key}/2", (key.encode() + b"\x00\xff\xfe").ljust(1024, b"\x80")]
    grants = [p.a.acquire(name, timeout=PATIENCE) for name in names]
    for name in names:
        _expect(p.b.try_acquire(name) is None, f"{name!r} is not held")
    for grant in grants:
        grant.release()


@_behaviour()
def a_second_release_has_no_effect(p: Parties, key: str) -> None:
    """It is refused, and the next holder keeps the lock."""
    grant = p.a.acquire(key, timeout=PATIENCE)
    grant.release()
    with p.b.lock(key, timeout=PATIENCE) as theirs:
        with _refused(NotHolderError, "a second release"):
            grant.release()
        _expect(theirs.held and p.c.try_acquire(key) is None, "a second release freed another's lock")


@_behaviour()
def holder_tells_who_holds_it(p: Parties, key: str) -> None:
    """By the name of its node, to everybody; nobody after the release."""
    _until(lambda: p.b.holder(key) is None, "nobody holds an unused lock")
    with p.a.lock(key, timeout=PATIENCE):
        for party in p.all:
            _until(lambda party=party: (h := party.holder(key)) is not None and h.node == p.name(p.a), "holder names the holder")  # type: ignore[misc]
    _until(lambda: p.b.holder(key) is None, "nobody holds a released lock")


@_behaviour("fencing")
def holder_tells_the_token(p: Parties, key: str) -> None:
    """The one that the holder was given."""
    with p.a.lock(key, timeout=PATIENCE) as grant:
        for party in p.all:
            _until(lambda party=party: (h := party.holder(key)) is not None and h.token == grant.token, "holder tells the token")  # type: ignore[misc]


@_behaviour("linearizable_reads")
def holder_is_never_old(p: Parties, key: str) -> None:
    """What it tells is at least as new as every answer before it."""
    for _ in range(10):
        for party, other in ((p.a, p.b), (p.b, p.c), (p.c, p.a)):
            with party.lock(key, timeout=PATIENCE):
                holder = other.holder(key)
                _expect(holder is not None and holder.node == p.name(party), f"an old answer: {holder}")
            _expect(other.holder(key) is None, "an old answer after a release")


@_behaviour("fencing")
def tokens_increase(p: Parties, key: str) -> None:
    """Strictly, whoever is granted the lock, however its former grant ended."""
    last = 0
    for party in p.all * 5:
        with party.lock(key, timeout=PATIENCE) as grant:
            _expect(grant.token > last, f"token {grant.token} after {last}")
            last = grant.token
    left = p.a.acquire(key, ttl=p.ttl, timeout=PATIENCE, renew="manual")
    with p.b.lock(key, timeout=PATIENCE) as grant:
        _expect(grant.token > left.token > last, f"token {grant.token} after {last}, and one that ran out")


@_behaviour()
def a_grant_runs_out(p: Parties, key: str) -> None:
    """Not before its time, not in its holder's view when another has it, and a release of it afterwards has no effect."""
    before = time.monotonic()
    grant = p.a.acquire(key, ttl=p.ttl, timeout=PATIENCE, renew="manual")
    theirs = p.b.acquire(key, timeout=PATIENCE)
    _expect(not grant.held, "two holders at once")
    _expect(time.monotonic() - before >= p.ttl * 0.9, "it ran out before its time")
    with _refused(NotHolderError, "the release of a grant that has run out"):
        grant.release()
    _expect(theirs.held and p.c.try_acquire(key) is None, "a late release freed another's lock")
    theirs.release()


@_behaviour("renew")
def a_grant_is_renewed(p: Parties, key: str) -> None:
    """While its node lives it outlives its ttl."""
    ttl = max(2.0, p.ttl)
    with p.a.lock(key, ttl=ttl, timeout=PATIENCE) as grant:
        end = time.monotonic() + 2 * ttl
        while time.monotonic() < end:
            _expect(grant.held, "a grant that its node renews was lost")
            _expect(p.b.try_acquire(key) is None, "another got a lock that is renewed")
            time.sleep(0.05)


@_behaviour("renew")
def a_holder_renews_by_itself(p: Parties, key: str) -> None:
    """With ``renew="manual"``: from now, and not after the end."""
    ttl = max(2.0, p.ttl)
    grant = p.a.acquire(key, ttl=ttl, timeout=PATIENCE, renew="manual")
    _expect(grant.renew(3 * ttl) > ttl, "a renewal did not extend the grant")
    _expect(grant.remaining > ttl, "the holder does not see its renewal")
    grant.release()
    with _refused(NotHolderError, "a renewal after the release"):
        grant.renew()


@_behaviour()
def a_wait_ends_with_the_lock(p: Parties, key: str) -> None:
    """When it is released, and in no other hands."""
    grant = p.a.acquire(key, timeout=PATIENCE)
    got: list[float] = []

    def wait() -> None:
        with p.b.lock(key, timeout=PATIENCE) as theirs:
            got.append(theirs.remaining)

    waiter = threading.Thread(target=wait)
    waiter.start()
    waiter.join(0.2)
    _expect(waiter.is_alive() and not got, "a waiter got a lock that is held")
    grant.release()
    waiter.join(PATIENCE)
    _expect(not waiter.is_alive() and got and got[0] > 0, "a released lock did not reach its waiter")


@_behaviour()
def a_wait_ends_in_time(p: Parties, key: str) -> None:
    """Without the lock, and without leaving anything behind."""
    with p.a.lock(key, timeout=PATIENCE):
        with _refused(LockTimeout, "waiting for a held lock"):
            p.b.acquire(key, timeout=0.3)
        with _refused(LockTimeout, "not waiting for a held lock"):
            p.b.acquire(key, timeout=0)
    p.c.acquire(key, timeout=PATIENCE).release()
    _until(lambda: p.a.holder(key) is None, "nothing is left of a wait that ended")


@_behaviour()
def a_loss_is_told_once(p: Parties, key: str) -> None:
    """To the holder, with the token and the reason; a release is no loss."""
    told: list[Event] = []
    stop = p.a._node.on_event(lambda e: told.append(e) if e.kind == "lost" and e.key == key.encode() else None)
    p.a.acquire(key, timeout=PATIENCE).release()
    grant = p.a.acquire(key, ttl=p.ttl, timeout=PATIENCE, renew="manual")
    _expect(grant.lost.wait(PATIENCE), "a loss was not told")
    p.b.acquire(key, timeout=PATIENCE).release()
    _until(lambda: told, "the event of a loss")
    stop()
    _expect([(e.token, e.reason) for e in told] == [(grant.token, "expired")], f"told: {told}")


@_behaviour()
def the_end_of_a_holder_frees_its_locks(p: Parties, key: str) -> None:
    """At once: a session that closes gives its locks back."""
    session = p.a._node.session(f"ends-{secrets.token_hex(4)}")
    grant = session.acquire(key, ttl=600.0, timeout=PATIENCE)
    _expect(p.b.try_acquire(key) is None, "another got a lock that a session holds")
    session.close()
    _expect(not grant.held, "a closed session holds a lock")
    p.b.acquire(key, timeout=PATIENCE).release()


@_behaviour()
def one_holder_at_a_time(p: Parties, key: str) -> None:
    """Whatever the contention: nobody enters before another has left, and everybody's turn comes."""
    inside, entered, wrong = [0], [0], [0]
    tokens: list[int] = []

    def work(party: Locks) -> None:
        for _ in range(8):
            with party.lock(key, timeout=PATIENCE) as grant:
                inside[0] += 1
                wrong[0] += inside[0] != 1
                tokens.append(grant.token)
                seen = entered[0]
                time.sleep(0.001)
                entered[0] = seen + 1
                inside[0] -= 1

    threads = [threading.Thread(target=work, args=(party,)) for party in p.all * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    _expect(wrong[0] == 0, f"{wrong[0]} times two were inside")
    _expect(entered[0] == 48, f"{entered[0]} of 48 updates are left")
    if p.capabilities.fencing:
        _expect(tokens == sorted(set(tokens)), f"tokens out of order: {tokens}")


@_behaviour()
def one_of_many_attempts_succeeds(p: Parties, key: str) -> None:
    """Of those that are made at once."""
    for turn in range(10):
        name, start, won = f"{key}/{turn}", threading.Barrier(6), list[object]()

        def attempt(party: Locks, name: str = name, start: threading.Barrier = start, won: list[object] = won) -> None:
            start.wait(PATIENCE)
            grant = party.try_acquire(name)
            if grant is not None:
                won.append(grant)

        threads = [threading.Thread(target=attempt, args=(party,)) for party in p.all * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        _expect(len(won) == 1, f"{len(won)} of 6 attempts on a free lock succeeded")
        for grant in won:
            grant.release()  # type: ignore[attr-defined]


@_behaviour()
def a_ttl_out_of_range_is_refused(p: Parties, key: str) -> None:
    """By name, and nothing is held."""
    for ttl in (0.01, 25 * 3600.0):
        with _refused(InvalidArgumentError, f"a ttl of {ttl} s"):
            p.a.try_acquire(key, ttl=ttl)
    p.b.acquire(key, timeout=PATIENCE).release()


@_behaviour("fencing")
def a_gate_holds_office(p: Parties, key: str) -> None:
    """Under the lock's token as its epoch; when it resigns the lock is free."""
    gate = p.a._node.gate(f"conformance-{secrets.token_hex(4)}")
    try:
        _expect(not gate.check(), "a gate without an office is open")
        gate.hold(key, ttl=max(5.0, p.ttl))
        _until(gate.check, "a gate that holds office opens")
        holder = p.b.holder(key)
        _expect(holder is not None and holder.token == gate.require(), "the epoch is not the lock's token")
        _expect(p.b.try_acquire(key) is None, "the office is free")
        gate.resign(timeout=PATIENCE)
        _expect(not gate.check(), "a gate that has resigned is open")
        with p.b.lock(key, timeout=PATIENCE) as grant:
            _expect(holder is not None and grant.token > holder.token, "the successor's epoch is not higher")
    finally:
        gate.close()


def applicable(behaviour: Behaviour, parties: Parties) -> str:
    """Why a behaviour need not hold: the capability that it needs and the service does not claim; empty when it has to hold."""
    missing = [need for need in behaviour.needs if not getattr(parties.capabilities, need)]
    return f"needs {', '.join(missing)}" if missing else ""


def run(parties: Parties, behaviour: Behaviour) -> None:
    """Checks one behaviour. Raises :class:`Failure`, or what the service failed with."""
    behaviour.check(parties, f"conformance/{behaviour.name}/{secrets.token_hex(8)}")


@contextlib.contextmanager
def plugged(factory: Callable[[str], LockService], **settings: object) -> Iterator[Parties]:
    """Three nodes over services of one factory."""
    suffix = secrets.token_hex(4)
    services = [factory(f"{name}-{suffix}") for name in ("a", "b", "c")]
    caps: Capabilities = getattr(services[0], "capabilities", None) or Capabilities()
    with contextlib.ExitStack() as stack:
        a, b, c = (stack.enter_context(Node(lock_service=service, **settings)) for service in services)
        shortest = caps.ttl_min.total_seconds() if not isinstance(caps.ttl_min, (int, float)) else caps.ttl_min
        yield Parties(a, b, c, caps, max(1.0, shortest))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tenure.conformance", description="Tries out a lock service.")
    parser.add_argument("factory", metavar="module:factory", help="a function of a node id that gives a tenure.LockService")
    parser.add_argument("--only", default="", help="run only the behaviours whose names contain this")
    options = parser.parse_args(arguments)
    module, _, name = options.factory.partition(":")
    sys.path.insert(0, os.getcwd())
    factory = getattr(importlib.import_module(module), name or "factory")
    failed = 0
    with plugged(factory) as parties:
        for behaviour in (b for b in BEHAVIOURS if options.only in b.name):
            reason = applicable(behaviour, parties)
            line = f"skip  {behaviour.name}: {reason}" if reason else f"ok    {behaviour.name}"
            if not reason:
                try:
                    run(parties, behaviour)
                except (Failure, Error) as error:
                    failed += 1
                    line = f"FAIL  {behaviour.name}: {type(error).__name__}: {error}"
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    sys.stdout.write(f"{failed} failed\n" if failed else "everything holds that was claimed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
