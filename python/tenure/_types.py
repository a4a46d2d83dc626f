"""The values that go in and out: keys, durations, options, holders, events."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Union

from tenure.errors import Error

if TYPE_CHECKING:
    from tenure import _core

Key = Union[str, bytes]
"""A lock's name, 1 to 1024 bytes. A ``str`` stands for its UTF-8 bytes: ``"k"`` and ``b"k"`` are one lock."""

Duration = Union[float, timedelta]
"""Seconds, as a number or a ``timedelta``."""

DEFAULT_TTL = 10.0
"""Seconds for which a grant outlives its last renewal, unless the caller says otherwise."""

LockMode = Literal["exclusive", "shared", "semaphore"]
GateMode = Literal["disabled", "log-only", "block-write"]
WriteClass = Literal["client", "replication", "bootstrap", "deferrable"]

InboxItem = Union[
    tuple[Literal["done"], int, int, Union[Error, None]],
    tuple[Literal["event"], int, dict[str, Any]],
    tuple[Literal["ready"], int],
    tuple[Literal["task"], int, "_core.Task"],
    tuple[Literal["question"], int, "_core.Question"],
    tuple[Literal["log"], int, str, str],
]
"""What the core has to say: an answer (tag, token, error), an event (node, fields), a watch that has something (tag),
a task (orchestrator, task), a question of an orchestrator's (tag, question), a log record (level, name, text)."""


class LockOptions(TypedDict, total=False):
    """What may be asked of a lock besides its ttl, as keyword arguments of every acquiring call."""

    mode: LockMode
    """``exclusive`` (default), ``shared`` among shared holders, or ``semaphore``."""
    permits: int
    """How many permits of a semaphore this grant takes; default 1."""
    limit: int
    """How many permits a semaphore has; all users of one key state the same."""
    renew: Literal["auto", "manual"]
    """``auto`` (default): the node renews while the process lives. ``manual``: only ``Grant.renew()`` does."""
    lock_delay: Duration
    """How long nobody is granted the lock after this grant was lost (not: released); at most 1 h, default 0."""
    reentrant: bool
    """Whether the session may take the lock again while it holds it; default no."""
    metadata: Key
    """Up to 1024 bytes that ``holder()`` shows to others."""


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a lock. Times are seconds by the ledger's clock, at the moment of the answer."""

    node: str
    """Name of the holder's session: its node id, for a node's own session."""
    session: int
    token: int
    remaining: float
    """Until the grant ends if it is not renewed."""
    held_for: float
    mode: LockMode
    permits: int
    """Permits taken, for a semaphore; else 1."""
    limit: int
    """Permits there are: 1 for an exclusive lock, 0 (no limit) for a shared one."""
    metadata: bytes
    waiters: int
    """How many wait for the lock."""


@dataclasses.dataclass(frozen=True)
class Waiter:
    """Who waits for a lock."""

    node: str
    """Name of the waiter's session: its node id, for a node's own session."""
    session: int
    waited: float
    """Seconds, by the ledger's clock."""
    mode: LockMode
    permits: int
    limit: int
    metadata: bytes


@dataclasses.dataclass(frozen=True)
class Contenders:
    """Everybody around a lock."""

    holders: tuple[Holder, ...]
    """By token."""
    waiters: tuple[Waiter, ...]
    """In the order in which they will be served."""
    delay: float
    """Seconds that are left of the lock-delay; 0 when there is none."""


@dataclasses.dataclass(frozen=True)
class LocalHolder:
    """Who holds a lock as far as one node knows, which may be old."""

    holder: Holder | None
    applied: int
    """Index of the last log entry that the node had applied; 0 for a node in memory."""
    age: float
    """Seconds since then: so old the answer may be. 0 for a node that is alone."""


@dataclasses.dataclass(frozen=True)
class Watched:
    """Who holds a lock, as a watch tells it: the first holder by token."""

    key: bytes
    held: bool
    """False when it is free, or in its lock-delay; then the rest is empty."""
    node: str = ""
    """Name of the holder's session."""
    session: int = 0
    token: int = 0
    metadata: bytes = b""
    holders: int = 0
    """How many hold it, for shared locks and semaphores."""


@dataclasses.dataclass(frozen=True)
class Leader:
    """Who leads an election."""

    node: str
    """Name of the leader's session: its node id, for a node's own session."""
    token: int
    """Its term, larger than that of every leader before it."""
    value: bytes
    """What it has proclaimed."""


@dataclasses.dataclass(frozen=True)
class Member:
    """A member of a cluster, as one node knows it."""

    name: str
    address: str
    voter: bool
    """Whether its vote counts; otherwise it is catching up."""
    leader: bool
    log_end: int | None
    """On the leader: index after the last entry that this member has on disk."""


@dataclasses.dataclass(frozen=True)
class LockInfo:
    """One row of ``locks()``."""

    key: bytes
    holders: tuple[Holder, ...]
    """Several for shared locks and semaphores; none while the lock is in its lock-delay."""


@dataclasses.dataclass(frozen=True)
class Event:
    """Something happened that nobody asked for. Fields that do not apply are ``None``.

    ``kind`` is ``at_risk`` (a grant was not renewed in time and ends in ``remaining``), ``lost`` (a grant ended against
    its holder's will), ``revoke_requested`` (``by`` asks the holder to give the lock back and says why in ``reason``; it is
    taken away after ``remaining``, if that is given), ``poisoned`` (a failure ended the node), or one of a gate's:
    ``gate_granted``, ``gate_at_risk``, ``gate_lost``, ``gate_stepping_down``, ``gate_drained``, ``gate_overrun``,
    ``gate_clock_fallback``, ``gate_refused``.
    """

    kind: str
    key: bytes | None = None
    token: int | None = None
    session: int | None = None
    reason: str | None = None
    remaining: float | None = None
    """Seconds."""
    by: str | None = None
    """Name of the session that asks."""
    gate: str | None = None
    epoch: int | None = None
    in_flight: int | None = None
    """Writes that were in flight when their lease ended."""
    took: float | None = None
    """Seconds that a drain took."""
    refused: dict[str, int] | None = None
    """Counts since the last ``gate_refused``: by reason, and ``passed`` and ``uncertain``."""


@dataclasses.dataclass(frozen=True)
class HeartbeatReply:
    """A gate's answer to a heartbeat."""

    accepted: bool
    """Whether the lease was granted or renewed."""
    epoch: int
    """Epoch of the lease, or the highest one known where there is none."""
    remaining: float
    """Seconds until the lease ends."""
    next_nonce: int
    """To be sent back with the next heartbeat, whose lease counts from now."""
    reason: str | None
    """Why it was not accepted: ``no_nonce``, ``unknown_nonce``, ``expired``, ``draining``."""
    closed: str | None
    """Why the gate is closed; ``None`` while it is open."""


def lock_info(row: tuple[bytes, list[Any]]) -> LockInfo:
    """A row of the core's listing."""
    key, holders = row
    return LockInfo(key, tuple(Holder(*fields) for fields in holders))
