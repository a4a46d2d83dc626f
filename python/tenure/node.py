"""Nodes and sessions, in their blocking form."""

from __future__ import annotations

import json
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tenure import _core
from tenure._grant import Grant, Grants, Lost
from tenure._inbox import inbox, logger
from tenure._settings import milliseconds, settings
from tenure._types import (
    DEFAULT_TTL,
    Contenders,
    Duration,
    Event,
    GateMode,
    Holder,
    Key,
    LocalHolder,
    LockInfo,
    Member,
    Waiter,
    lock_info,
)
from tenure._watch import Election, Watch
from tenure.errors import Error, ForkedError, MisuseError
from tenure.gate import Gate
from tenure.granter import Granter, Promise
from tenure.orchestrator import Orchestrator, make
from tenure.plug import LockService, Runner

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from tenure._types import LockOptions

_TOLD_MAX = 4096
"""So many losses that nobody watches are remembered with their reason."""


class Locks:
    """The verbs of a node and of a session."""

    _core: _core.Session
    _node: Node

    def try_acquire(self, key: Key, ttl: Duration = DEFAULT_TTL, **options: Unpack[LockOptions]) -> Grant | None:
        """Takes the lock if it is free; ``None`` when it is not.

        ``ttl``: how long the grant outlives its last renewal, 0.1 s to 24 h. ``options``: see :class:`tenure.LockOptions`.
        Raises ``InvalidArgumentError``, ``LimitError``, ``ClosedError``, ``ForkedError``.
        """
        token = self._core.try_acquire(key, ttl, options)
        return Grant(self, key, token, ttl) if token else None

    def acquire(
        self,
        key: Key,
        ttl: Duration = DEFAULT_TTL,
        timeout: Duration | None = None,
        **options: Unpack[LockOptions],
    ) -> Grant:
        """Takes the lock, waiting in its queue (first come, first served) for at most ``timeout``; ``None`` waits as long as it takes.

        Raises ``LockTimeout`` when it was not acquired, otherwise as ``try_acquire``. Ctrl-C ends the wait and leaves nothing held.
        """
        return Grant(self, key, self._core.acquire(key, ttl, timeout, options), ttl)

    def acquire_all(
        self,
        keys: Iterable[Key],
        ttl: Duration = DEFAULT_TTL,
        timeout: Duration | None = None,
        **options: Unpack[LockOptions],
    ) -> Grants:
        """Takes all the locks in one step or none of them, in the order of ``keys``. Callers whose sets overlap cannot deadlock.

        Raises as ``acquire``.
        """
        if isinstance(keys, (str, bytes)):
            raise TypeError("keys: expected several keys, not one")
        wanted = list(keys)
        first = self._core.acquire_all(wanted, ttl, timeout, options)
        return Grants(Grant(self, key, first + i, ttl) for i, key in enumerate(wanted))

    def lock(
        self,
        key: Key,
        ttl: Duration = DEFAULT_TTL,
        timeout: Duration | None = None,
        **options: Unpack[LockOptions],
    ) -> LockContext:
        """``with node.lock("k") as grant:`` runs the block only with the lock held.

        Entering raises ``LockTimeout`` when it was not acquired in time; leaving raises ``NotHolderError`` when it was lost before the
        end of the block.
        """
        return LockContext(self, key, ttl, timeout, options)

    def holder(self, key: Key) -> Holder | None:
        """Who holds the lock: its first holder, where there are several. Linearizable."""
        fields = self._core.holder(key)
        return None if fields is None else Holder(*fields)

    def holder_local(self, key: Key) -> LocalHolder:
        """Who holds the lock as far as this node knows, asking nobody: it may be old, and says how old."""
        fields, applied, age = self._core.holder_local(key)
        return LocalHolder(None if fields is None else Holder(*fields), applied, age)

    def contenders(self, key: Key) -> Contenders:
        """Everybody around the lock: its holders, and its queue in order. Linearizable."""
        holders, waiters, delay = self._core.contenders(key)
        return Contenders(tuple(Holder(*h) for h in holders), tuple(Waiter(*w) for w in waiters), delay)

    def watch(self, key: Key) -> Watch:
        """Watches who holds the lock: ``for state in node.watch("k"): ...``."""
        return Watch(self._node._open.watch_locks(key, False))

    def election(self, name: Key, ttl: Duration = DEFAULT_TTL, value: Key = b"") -> Election:
        """The election of this name; see :class:`tenure.Election`. ``value``: what a leader proclaims until it says otherwise."""
        return Election(self, name, ttl, value)

    def revoke(
        self,
        key: Key,
        why: str = "",
        force_after: Duration | None = None,
        token: int | None = None,
    ) -> int:
        """Asks whoever holds the lock to give it back: each holder gets an event ``revoke_requested``. Returns how many were asked.

        ``why``: up to 256 bytes for the holder to read. ``force_after``: when it is taken away from those who still hold it then, by the
        ledger's clock; a second request can bring that forward, and not put it off. ``token``: only that grant.
        """
        return self._core.revoke(key, why, force_after, token)

    @property
    def secret(self) -> bytes:
        """What proves that a caller owns this session, for :meth:`Node.take_over` by a later process. Keep it secret.

        It changes when the session is opened anew after a loss.
        """
        return self._core.secret()

    def inherited(self) -> Grants:
        """The locks that came with a session that this one has taken over. They are the caller's: the next answer is empty."""
        return Grants(Grant(self, key, token, DEFAULT_TTL) for key, token in self._core.inherited())

    def release_all(self) -> int:
        """Gives back every lock held under this name; returns how many."""
        return self._core.release_all()

    def force_release(self, key: Key, delay: Duration = 0.0) -> bool:
        """Takes a lock away from whoever holds it, for operators; nobody is granted it for ``delay``. False when nobody held it.

        The former holder is told (its ``lost`` is set), but may be in the middle of a write: fence with tokens.
        """
        return self._core.force_release(key, delay)

    def _remaining(self, key: Key, token: int) -> float:
        return self._core.remaining(key, token)


class LockContext:
    """What ``lock()`` returns; usable again after its block has ended."""

    __slots__ = ("_arguments", "_grant", "_owner")

    def __init__(
        self,
        owner: Locks,
        key: Key,
        ttl: Duration,
        timeout: Duration | None,
        options: LockOptions,
    ) -> None:
        self._owner = owner
        self._arguments = (key, ttl, timeout, options)
        self._grant: Grant | None = None

    def __enter__(self) -> Grant:
        if self._grant is not None:
            raise MisuseError("this lock() object is in use by another block")
        key, ttl, timeout, options = self._arguments
        self._grant = self._owner.acquire(key, ttl, timeout, **options)
        return self._grant

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        grant, self._grant = self._grant, None
        if grant is not None:
            grant.__exit__(kind, error, trace)


class Session(Locks):
    """Another identity inside a node: its locks are held in its own name, and all end with it.

    A context manager that closes. Collected as garbage, which its grants prevent while they live, it is closed too.
    """

    def __init__(self, node: Node, core: _core.Session) -> None:
        self._node = node
        self._core = core
        self._closed = False

    @property
    def name(self) -> str:
        """Name that ``holder()`` shows."""
        return self._core.name

    @property
    def id(self) -> int:
        """Number of the session in the ledger; 0 while it is being opened anew after a loss."""
        return self._core.id

    def close(self) -> None:
        """Gives back its locks and ends it. Closing twice is no error."""
        self._core.close()
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_closed", True) or self._node.closed or self._node._process != os.getpid():
            return
        try:
            self.close()
        except Error as error:
            logger.warning("closing a session that was dropped: %s", error)

    def __repr__(self) -> str:
        return f"<tenure.Session {self.name!r}>"


class Node(Locks):
    """A node of this process: in memory, durable when ``data_dir`` is given, or, with ``listen`` and ``peers`` or ``seeds``
    besides, a member of a cluster. A context manager that closes.

    Keyword arguments are the settings of ``docs/configuration.md``: ``Node(data_dir="/var/lib/db", node_id="a1", session_ttl=5)``.
    Settings that end in ``_ms`` may be given without the ending in seconds or as a ``timedelta``; ``gate.mode`` is ``gate_mode``.

    A member: ``Node(node_id="a", data_dir=..., listen="10.0.0.1:7000", peers={"a": "10.0.0.1:7000", ...}, tls_ca=..., ...)``.
    It is open once it runs; it does not wait for the others (``wait_ready`` does). Without a majority calls raise
    ``UnavailableError`` within ``request_timeout``.
    With ``lock_service`` (a :class:`tenure.LockService`) it works over a lock service that the host already runs, see ``docs/plug-ins.md``.

    Any thread may use it. After a fork the child's calls raise ``ForkedError``; it can open nodes of its own. A node that is
    open when the interpreter exits is closed, and its locks are free then.

    Raises ``UnknownOptionError`` and ``InvalidArgumentError`` naming the setting; for a directory that is refused ``DataLostError``,
    ``DataCorruptError``, ``DataForeignError``, ``DataLockedError`` or ``DataVersionError`` naming the file; ``IoError``.
    """

    def __init__(self, *, lock_service: LockService | None = None, **options: Any) -> None:
        self._closed = True
        self._process = os.getpid()
        wanted = settings(options)
        self._runner = None if lock_service is None else Runner(lock_service)
        _core.set_log_level(logging.getLogger("tenure").getEffectiveLevel())
        number = inbox().number()
        try:
            self._open = _core.Node(wanted, number, None if self._runner is None else self._runner.plug)
        except BaseException:
            if self._runner is not None:
                self._runner.close()
            raise
        # Whether a call may take long: then it must not be made on an event loop.
        elsewhere = lock_service is not None or any(wanted.get(key) for key in ("etcd", "connect"))
        self._waits = self._open.durable or elsewhere
        self._core = self._open.session()
        self._node = self
        self._lock = threading.Lock()
        self._losses: dict[int, list[Lost]] = {}
        self._told: dict[int, str] = {}
        self._listeners: list[Callable[[Event], object]] = []
        self._closed = False
        inbox().start()
        inbox().add_node(number, self)
        self._open.watch()

    @property
    def node_id(self) -> str:
        """The node's name, as ``holder()`` shows it."""
        return self._open.id

    @property
    def durable(self) -> bool:
        """Whether it keeps its locks in a directory."""
        return self._open.durable

    @property
    def closed(self) -> bool:
        """Whether ``close()`` was called."""
        return self._closed

    def wait_ready(self, timeout: Duration = 30.0) -> None:
        """Waits until a member of a cluster can be used: a majority is there, and the node's session is open. Others always can.

        Raises ``LockTimeout`` when that took longer than ``timeout``, ``PoisonedError`` when the cluster has refused this node: the
        message says why.
        """
        self._open.wait_ready(timeout)

    def members(self) -> list[Member]:
        """The members of the cluster, as this node knows them. Raises ``MisuseError`` for a node that is no member."""
        return [Member(**row) for row in json.loads(self._open.members())]

    def transfer_leader(self, to: str | None = None) -> None:
        """Hands the leadership to the member ``to``, or to the one that is furthest, and waits until it is given away.

        Raises ``InvalidArgumentError`` when there is no such voter, ``UnavailableError`` when no leader could be asked in time.
        """
        self._open.transfer_leader(to)

    def remove_member(self, name: str) -> None:
        """Takes a member out of the cluster for good: its data directory is refused from then on.

        To replace one, remove it and let a node with an empty directory join. Raises as ``transfer_leader``.
        """
        self._open.remove_member(name)

    def join_token_create(self, node_id: str, ttl: Duration = 3600.0) -> str:
        """A token by which the node ``node_id`` can join the cluster, once, within ``ttl`` (1 s to 7 days): its ``join_token``."""
        return self._open.join_token_create(node_id, ttl)

    def session(self, name: str, ttl: Duration = DEFAULT_TTL) -> Session:
        """Opens another session, renewed by the node like its own. ``name``: 1 to 64 characters, as a node id."""
        return Session(self, self._open.open_session(name, ttl))

    def locks(self, prefix: Key = b"", limit: int = 1000) -> list[LockInfo]:
        """Locks whose names start with ``prefix``, by name, at most ``limit`` of them."""
        return [lock_info(row) for row in self._open.locks(prefix, limit)]

    def granter(self, lock: Key, ttl: Duration = 10.0, timeout: Duration | None = None) -> Granter:
        """Makes this node the granter of offices: waits for ``lock`` for at most ``timeout`` (``None``: as long as it takes) and holds it.

        ``with node.granter("controller") as granter:``. Raises ``LockTimeout``, or ``HeldError`` for a timeout of 0.
        """
        return Granter(self._open.granter(lock, ttl, timeout))

    def promises(self, prefix: Key = b"", limit: int = 1000) -> list[Promise]:
        """What granters have promised about the offices whose names start with ``prefix``, by name, at most ``limit`` of them."""
        return [Promise(*row) for row in self._open.promises(prefix, limit)]

    def watch_prefix(self, prefix: Key = b"") -> Watch:
        """Watches who holds the locks whose names start with ``prefix``: first those that are held, then every change."""
        return Watch(self._open.watch_locks(prefix, True))

    def take_over(self, name: str, secret: bytes, ttl: Duration = DEFAULT_TTL, keep: bool = True) -> Session:
        """Opens a session in the place of another one, which may be that of a process that is gone or stopped.

        The old one ends: whatever it still asks for is refused. With ``keep`` its locks become the new session's, each under a
        new and larger token: ``session.inherited()``. Without, they are lost, and free when their lock-delays are over.
        ``secret`` is the old session's.

        Raises ``ExpiredError`` when the old session has ended, ``LimitError`` when it holds more than 4096 locks.
        """
        return Session(self, self._open.take_over(name, secret, ttl, keep))

    def gate(self, name: str = "writes", mode: GateMode | None = None, **options: Any) -> Gate:
        """Opens a write gate. Options are the ``gate.*`` settings without the prefix: ``node.gate("writes", leash=0.5)``.

        Raises ``MisuseError`` when a gate of this name is open.
        """
        return Gate(self._open.gate(name, settings({"mode": mode, **options}, "gate.")))

    def orchestrator(
        self,
        labels: Mapping[str, str] | None = None,
        version: int = 0,
        capacity: int = 0,
        drive: bool = True,
        ramp_up: Duration = 30.0,
        lock_only: bool = False,
        wall_offset: Duration = 0.0,
    ) -> Orchestrator:
        """Makes an orchestrator that works under the node's name, see :mod:`tenure.orchestrator`.

        ``labels``, ``version``: what schedules may ask for. ``capacity``: most runs at once on this node, 0 for no bound.
        ``drive``: whether it may be the one that gives out work. ``ramp_up``: for so long after it began to give out work it starts
        ten runs a second and worker at most. ``lock_only``: the weaker mode of ThemisDB: schedules of its own, in memory, and nothing
        but a lock between the nodes, so that a tick can run on several. ``wall_offset``: sets its wall clock wrong by so much, which may be
        negative, to show what skew does.
        """
        seconds = wall_offset.total_seconds() if isinstance(wall_offset, timedelta) else wall_offset
        offset_ms = round(seconds * 1000)
        options = {"version": version, "capacity": capacity, "drive": drive, "lock_only": lock_only, "wall_offset_ms": offset_ms}
        return make(self, labels, ramp_up_ms=milliseconds("ramp_up", ramp_up), **options)

    def status(self) -> dict[str, Any]:
        """What the node says of itself: its form, state, counts, gates, and which named weaker modes are on. Answered in every state."""
        answer: dict[str, Any] = json.loads(self._open.status())
        return answer

    def on_event(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """Calls ``callback(event)`` for every event from now on, on the thread "tenure-inbox"; returns a function that ends it.

        The callback may call anything, but delays the callbacks after it. What it raises is logged.
        """
        with self._lock:
            self._listeners.append(callback)

        def stop() -> None:
            with self._lock:
                if callback in self._listeners:
                    self._listeners.remove(callback)

        return stop

    def close(self, timeout: Duration = 5.0) -> None:
        """Closes the node: its gates close, its locks are given back, its threads end. Closing twice is no error.

        Waits at most ``timeout``; raises ``LockTimeout`` when the end of the sessions was not recorded by then (they run out by
        themselves). No callback runs after it.
        """
        if self._closed:
            return
        try:
            self._open.close(timeout)
        except ForkedError:
            # A forked child's copy has nothing to close.
            self._closed = True
            return
        finally:
            self._closed = True
        if self._runner is not None:
            self._runner.close()
        inbox().flush(1.0)
        with self._lock:
            self._listeners.clear()
            losses, self._losses = self._losses, {}
        for watchers in losses.values():
            for lost in watchers:
                lost._set("closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_closed", True) or self._process != os.getpid():
            return
        warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=2, source=self)
        try:
            self.close(timeout=1.0)
        except Error as error:
            logger.warning("closing a node that was dropped: %s", error)

    def __repr__(self) -> str:
        try:
            return f"<tenure.Node {self.node_id!r}{' closed' if self._closed else ''}>"
        except ForkedError:
            return "<tenure.Node of the parent process>"

    def _watch_loss(self, token: int, lost: Lost) -> str | None:
        """The reason, when the loss was told before anybody watched."""
        with self._lock:
            self._losses.setdefault(token, []).append(lost)
            return self._told.get(token)

    def _unwatch_loss(self, token: int, lost: Lost) -> None:
        with self._lock:
            watchers = self._losses.get(token, [])
            if lost in watchers:
                watchers.remove(lost)
            if not watchers:
                self._losses.pop(token, None)

    def _deliver(self, fields: dict[str, Any]) -> None:
        event = Event(**fields)
        watchers: list[Lost] = []
        with self._lock:
            if event.kind == "lost" and event.token is not None:
                watchers = self._losses.pop(event.token, [])
                if not watchers:
                    self._told[event.token] = event.reason or "expired"
                    if len(self._told) > _TOLD_MAX:
                        del self._told[next(iter(self._told))]
            listeners = list(self._listeners)
        for lost in watchers:
            lost._set(event.reason or "expired")
        for listener in listeners:
            try:
                listener(event)
            except BaseException:
                # Even a sys.exit() in it: the others are told all the same.
                logger.exception("an event callback failed")


def connect(addresses: str | Iterable[str], **options: Any) -> Node:
    """A client of a cluster: a node that is no member, with all the verbs of one.

    ``addresses``: where members may be reached, ``"host:port,..."`` or several such; any of them will do, the others are learnt from it.
    ``options`` are settings as for :class:`Node`. It keeps nothing on disk. No member is waited for: the first call that needs
    one does, for at most ``request_timeout``, and raises ``UnavailableError`` then; ``wait_ready()`` waits longer.
    """
    listed = addresses if isinstance(addresses, str) else ",".join(addresses)
    return Node(connect=listed, **options)
