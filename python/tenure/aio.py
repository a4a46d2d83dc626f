"""The same verbs for asyncio: ``async with tenure.aio.Node() as node: grant = await node.acquire("k")``.

Calls that may wait are awaitable; those that never do (``remaining``, ``lost.is_set()``, ``gate.write()``) are plain. A cancelled
acquisition leaves nothing held, even when the grant was already on its way; so does a loop that is closed before it arrives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from tenure import node as _sync
from tenure._aio_gate import Gate
from tenure._aio_granter import Granter, open_granter
from tenure._aio_orchestrator import Orchestrator, Task
from tenure._aio_watch import Election, Leaders, Leadership, Watch
from tenure._grant import BaseGrant
from tenure._grant import Lost as _Lost
from tenure._inbox import inbox
from tenure._types import DEFAULT_TTL, Contenders, Duration, Event, GateMode, Holder, Key, LocalHolder, LockInfo, Member
from tenure.errors import Error, HeldError, LockDelayError, LockTimeout, MisuseError
from tenure.gate import Permit, Verdict
from tenure.granter import Order, Promise

if TYPE_CHECKING:
    from typing_extensions import ParamSpec, Self, Unpack

    from tenure import _core
    from tenure._types import LockOptions

    P = ParamSpec("P")

T = TypeVar("T")

__all__ = [
    "Election",
    "Gate",
    "Grant",
    "Granter",
    "Grants",
    "Leaders",
    "Leadership",
    "Lost",
    "Node",
    "Orchestrator",
    "Order",
    "Permit",
    "Promise",
    "Session",
    "Task",
    "Verdict",
    "Watch",
    "connect",
]


class _Claim:
    """Locks that were granted and are on their way to a task. Given back when nobody takes them over."""

    __slots__ = ("_core", "_keys", "token")

    def __init__(self, core: _core.Session, keys: list[Key], token: int) -> None:
        self._core = core
        self._keys = keys
        self.token = token

    def take(self) -> int:
        self._keys = []
        return self.token

    def give_back(self) -> None:
        keys, self._keys = self._keys, []
        for i, key in enumerate(keys):
            self._core.release_later(key, self.token + i)

    def __del__(self) -> None:
        self.give_back()


def _settle(future: asyncio.Future[_Claim], claim: _Claim, error: Error | None) -> None:
    if future.done():
        claim.give_back()
    elif error is not None:
        future.set_exception(error)
    else:
        future.set_result(claim)


class _Request:
    """A submitted operation: its answer goes from the inbox's thread to the loop that asked."""

    def __init__(self, core: _core.Session, keys: list[Key]) -> None:
        loop = asyncio.get_running_loop()
        self.future: asyncio.Future[_Claim] = loop.create_future()
        future = self.future

        def answer(token: int, error: Error | None) -> None:
            claim = _Claim(core, keys if token else [], token)
            try:
                loop.call_soon_threadsafe(_settle, future, claim, error)
            except RuntimeError:
                # The loop is closed: nobody will take the grant over.
                claim.give_back()

        self.tag = inbox().expect(answer)

    def submit(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except BaseException:
            inbox().forget(self.tag)
            self.future.cancel()
            raise


class _Locks:
    """The verbs of a node and of a session."""

    _sync: _sync.Locks
    _waits: bool

    async def _run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """In memory a call is over at once; one that writes to disk is made on a thread."""
        if self._waits:
            return await asyncio.to_thread(call, *args, **kwargs)
        return call(*args, **kwargs)

    async def _ask(self, keys: list[Key], ttl: Duration, timeout: Duration | None, options: LockOptions) -> int:
        core = self._sync._core
        request = _Request(core, keys)
        op = request.submit(lambda: core.submit_acquire(request.tag, keys, ttl, timeout, options))
        try:
            claim = await request.future
        except asyncio.CancelledError:
            core.cancel(op)
            future = request.future
            # Granted and cancelled in one turn of the loop.
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().give_back()
            raise
        return claim.take()

    async def try_acquire(self, key: Key, ttl: Duration = DEFAULT_TTL, **options: Unpack[LockOptions]) -> Grant | None:
        """Takes the lock if it is free; ``None`` when it is not. As :meth:`tenure.Node.try_acquire`."""
        if not self._waits:
            token = self._sync._core.try_acquire(key, ttl, options)
            return Grant(self._sync, key, token, ttl) if token else None
        try:
            return Grant(self._sync, key, await self._ask([key], ttl, 0.0, options), ttl)
        except (HeldError, LockDelayError):
            return None

    async def acquire(
        self,
        key: Key,
        ttl: Duration = DEFAULT_TTL,
        timeout: Duration | None = None,
        **options: Unpack[LockOptions],
    ) -> Grant:
        """Takes the lock, waiting for at most ``timeout``. As :meth:`tenure.Node.acquire`; cancelling it leaves nothing held."""
        if not self._waits:
            token = self._sync._core.try_acquire(key, ttl, options)
            if token:
                return Grant(self._sync, key, token, ttl)
        return (await self.acquire_all([key], ttl, timeout, **options))[0]

    async def acquire_all(
        self,
        keys: Iterable[Key],
        ttl: Duration = DEFAULT_TTL,
        timeout: Duration | None = None,
        **options: Unpack[LockOptions],
    ) -> Grants:
        """Takes all the locks in one step or none of them. As :meth:`tenure.Node.acquire_all`; cancelling it leaves nothing held."""
        if isinstance(keys, (str, bytes)):
            raise TypeError("keys: expected several keys, not one")
        keys = list(keys)
        try:
            first = await self._ask(keys, ttl, timeout, options)
        except (HeldError, LockDelayError) as error:
            raise LockTimeout("the lock is not free", token=error.token) from None
        return Grants(Grant(self._sync, key, first + i, ttl) for i, key in enumerate(keys))

    def lock(
        self,
        key: Key,
        ttl: Duration = DEFAULT_TTL,
        timeout: Duration | None = None,
        **options: Unpack[LockOptions],
    ) -> LockContext:
        """``async with node.lock("k") as grant:`` runs the block only with the lock held. As :meth:`tenure.Node.lock`."""
        return LockContext(self, key, ttl, timeout, options)

    async def holder(self, key: Key) -> Holder | None:
        """As :meth:`tenure.Node.holder`."""
        return await self._run(self._sync.holder, key)

    async def holder_local(self, key: Key) -> LocalHolder:
        """As :meth:`tenure.Node.holder_local`."""
        return self._sync.holder_local(key)

    async def contenders(self, key: Key) -> Contenders:
        """As :meth:`tenure.Node.contenders`."""
        return await self._run(self._sync.contenders, key)

    def watch(self, key: Key) -> Watch:
        """Watches who holds the lock: ``async for state in node.watch("k"): ...``. As :meth:`tenure.Node.watch`."""
        return Watch(self._sync._node._open.watch_locks(key, False))

    def election(self, name: Key, ttl: Duration = DEFAULT_TTL, value: Key = b"") -> Election:
        """As :meth:`tenure.Node.election`."""
        return Election(self, name, ttl, value)

    async def revoke(
        self,
        key: Key,
        why: str = "",
        force_after: Duration | None = None,
        token: int | None = None,
    ) -> int:
        """As :meth:`tenure.Node.revoke`."""
        return await self._run(self._sync.revoke, key, why, force_after, token)

    @property
    def secret(self) -> bytes:
        """As :attr:`tenure.Node.secret`."""
        return self._sync.secret

    async def inherited(self) -> Grants:
        """As :meth:`tenure.Node.inherited`."""
        found = await self._run(self._sync._core.inherited)
        return Grants(Grant(self._sync, key, token, DEFAULT_TTL) for key, token in found)

    async def release_all(self) -> int:
        """As :meth:`tenure.Node.release_all`."""
        return await self._run(self._sync.release_all)

    async def force_release(self, key: Key, delay: Duration = 0.0) -> bool:
        """As :meth:`tenure.Node.force_release`."""
        return await self._run(self._sync.force_release, key, delay)


class Lost:
    """As :class:`tenure.Lost`, waited for without a thread."""

    def __init__(self, lost: _Lost) -> None:
        self._lost = lost

    def is_set(self) -> bool:
        """Whether the grant is lost. Never waits."""
        return self._lost.is_set()

    __bool__ = is_set

    @property
    def reason(self) -> str | None:
        """As :attr:`tenure.Lost.reason`."""
        return self._lost.reason

    async def wait(self) -> None:
        """Waits until the grant is lost."""
        loop = asyncio.get_running_loop()
        lost = asyncio.Event()

        def tell(_: _Lost) -> None:
            try:
                loop.call_soon_threadsafe(lost.set)
            except RuntimeError:
                # The loop is closed, and with it whoever waited.
                return

        self._lost.add_callback(tell)
        try:
            await lost.wait()
        finally:
            self._lost._forget(tell)

    def add_callback(self, callback: Callable[[Lost], object]) -> None:
        """Calls ``callback(lost)`` once, on the running loop, when the grant is lost."""
        tell = _on_loop(asyncio.get_running_loop(), callback)
        self._lost.add_callback(lambda _: tell(self))


class Grant(BaseGrant):
    """A held lock. An async context manager that releases at its end; collected as garbage it releases too, with a warning."""

    __slots__ = ()

    @property
    def lost(self) -> Lost:  # type: ignore[override]
        """Tells when the lock was lost against the holder's will."""
        return Lost(super().lost)

    async def release(self) -> None:
        """Gives the lock back. Raises ``NotHolderError`` when it was lost or released already."""
        core = self._owner._core
        if self._owner._node._waits:
            request = _Request(core, [])
            request.submit(lambda: core.submit_release(request.tag, self._key, self._token))
            await request.future
        else:
            core.release(self._key, self._token)
        self._given_back()

    async def renew(self, ttl: Duration | None = None) -> float:
        """Extends the grant to ``ttl`` from now (default: that of the acquisition); returns the seconds left."""
        core = self._owner._core
        wanted = self._ttl if ttl is None else ttl
        if self._owner._node._waits:
            return await asyncio.to_thread(core.renew, self._key, self._token, wanted)
        return core.renew(self._key, self._token, wanted)

    async def annotate(self, metadata: Key) -> None:
        """Replaces the metadata that ``holder()`` and watches show. Raises ``NotHolderError`` when the lock was lost."""
        core = self._owner._core
        if self._owner._node.durable:
            await asyncio.to_thread(core.annotate, self._key, self._token, metadata)
        else:
            core.annotate(self._key, self._token, metadata)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Releases. Raises ``NotHolderError`` when the lock was lost before the end of the block, unless the block has failed anyway."""
        if self._released:
            return
        try:
            await self.release()
        except Error:
            self._given_back()
            if error is None:
                raise
        except asyncio.CancelledError:
            # The request is on its way and takes effect all the same.
            self._give_back_later()
            raise


class Grants(tuple[Grant, ...]):
    """Locks that were taken in one step. An async context manager that releases all of them at its end."""

    __slots__ = ()

    async def release(self) -> None:
        """Releases all of them; raises the first error, after all were tried."""
        await _all(grant.release() for grant in self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await _all(grant.__aexit__(kind, error, trace) for grant in self)


async def _all(releases: Iterable[Awaitable[None]]) -> None:
    for result in await asyncio.gather(*releases, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


class LockContext:
    """What ``lock()`` returns; usable again after its block has ended."""

    __slots__ = ("_arguments", "_grant", "_owner")

    def __init__(
        self,
        owner: _Locks,
        key: Key,
        ttl: Duration,
        timeout: Duration | None,
        options: LockOptions,
    ) -> None:
        self._owner = owner
        self._arguments = (key, ttl, timeout, options)
        self._grant: Grant | None = None

    async def __aenter__(self) -> Grant:
        key, ttl, timeout, options = self._arguments
        grant = await self._owner.acquire(key, ttl, timeout, **options)
        if self._grant is not None:
            await grant.release()
            raise MisuseError("this lock() object is in use by another block")
        self._grant = grant
        return grant

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        grant, self._grant = self._grant, None
        if grant is not None:
            await grant.__aexit__(kind, error, trace)


class Session(_Locks):
    """As :class:`tenure.Session`. An async context manager that closes."""

    def __init__(self, session: _sync.Session) -> None:
        self._sync: _sync.Session = session
        self._waits = session._node._waits

    @property
    def name(self) -> str:
        """Name that ``holder()`` shows."""
        return self._sync.name

    @property
    def id(self) -> int:
        """Number of the session in the ledger; 0 while it is being opened anew after a loss."""
        return self._sync.id

    async def close(self) -> None:
        """Gives back its locks and ends it."""
        await self._run(self._sync.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Node(_Locks):
    """As :class:`tenure.Node`. An async context manager that closes.

    ``async with Node(...)`` and ``await Node(...)`` open it; one that has a directory or a lock service
    is opened on a thread, for that may take long.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._opened: _sync.Node | None = None

    @property
    def _sync(self) -> _sync.Node:  # type: ignore[override]
        if self._opened is None:
            raise MisuseError("the node is not open: use `async with` or `await Node(...)`")
        return self._opened

    @property
    def _waits(self) -> bool:  # type: ignore[override]
        return self._sync._waits

    async def _open(self) -> Self:
        if self._opened is None:
            if self._options.get("data_dir") or self._options.get("lock_service"):
                self._opened = await asyncio.to_thread(lambda: _sync.Node(**self._options))
            else:
                self._opened = _sync.Node(**self._options)
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self._open().__await__()

    async def __aenter__(self) -> Self:
        return await self._open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def node_id(self) -> str:
        """The node's name, as ``holder()`` shows it."""
        return self._sync.node_id

    @property
    def closed(self) -> bool:
        """Whether it was closed, or has not been opened."""
        return self._opened is None or self._opened.closed

    async def wait_ready(self, timeout: Duration = 30.0) -> None:
        """As :meth:`tenure.Node.wait_ready`."""
        await asyncio.to_thread(self._sync.wait_ready, timeout)

    async def members(self) -> list[Member]:
        """As :meth:`tenure.Node.members`."""
        return await self._run(self._sync.members)

    async def transfer_leader(self, to: str | None = None) -> None:
        """As :meth:`tenure.Node.transfer_leader`."""
        await self._run(self._sync.transfer_leader, to)

    async def remove_member(self, name: str) -> None:
        """As :meth:`tenure.Node.remove_member`."""
        await self._run(self._sync.remove_member, name)

    async def join_token_create(self, node_id: str, ttl: Duration = 3600.0) -> str:
        """As :meth:`tenure.Node.join_token_create`."""
        return await self._run(self._sync.join_token_create, node_id, ttl)

    async def session(self, name: str, ttl: Duration = DEFAULT_TTL) -> Session:
        """Opens another session. As :meth:`tenure.Node.session`."""
        return Session(await self._run(self._sync.session, name, ttl))

    async def locks(self, prefix: Key = b"", limit: int = 1000) -> list[LockInfo]:
        """As :meth:`tenure.Node.locks`."""
        return await self._run(self._sync.locks, prefix, limit)

    async def granter(self, lock: Key, ttl: Duration = 10.0, timeout: Duration | None = None) -> Granter:
        """As :meth:`tenure.Node.granter`. Cancelled, it holds nothing in the end."""
        return await open_granter(lambda: self._sync.granter(lock, ttl, timeout))

    async def promises(self, prefix: Key = b"", limit: int = 1000) -> list[Promise]:
        """As :meth:`tenure.Node.promises`."""
        return await self._run(self._sync.promises, prefix, limit)

    def watch_prefix(self, prefix: Key = b"") -> Watch:
        """As :meth:`tenure.Node.watch_prefix`."""
        return Watch(self._sync._open.watch_locks(prefix, True))

    async def take_over(self, name: str, secret: bytes, ttl: Duration = DEFAULT_TTL, keep: bool = True) -> Session:
        """As :meth:`tenure.Node.take_over`."""
        return Session(await self._run(self._sync.take_over, name, secret, ttl, keep))

    async def gate(self, name: str = "writes", mode: GateMode | None = None, **options: Any) -> Gate:
        """Opens a write gate. As :meth:`tenure.Node.gate`."""
        return Gate(await self._run(lambda: self._sync.gate(name, mode, **options)), self._waits)

    async def orchestrator(self, labels: Mapping[str, str] | None = None, **options: Any) -> Orchestrator:
        """Makes an orchestrator. As :meth:`tenure.Node.orchestrator`."""
        return Orchestrator(await self._run(lambda: self._sync.orchestrator(labels, **options)), self._waits)

    async def status(self) -> dict[str, Any]:
        """As :meth:`tenure.Node.status`."""
        return await self._run(self._sync.status)

    def on_event(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """Calls ``callback(event)`` on the running loop for every event from now on; returns a function that ends it."""
        return self._sync.on_event(_on_loop(asyncio.get_running_loop(), callback))

    async def close(self, timeout: Duration = 5.0) -> None:
        """As :meth:`tenure.Node.close`."""
        if self._opened is not None:
            await asyncio.to_thread(self._opened.close, timeout)


def _on_loop(loop: asyncio.AbstractEventLoop, callback: Callable[[T], object]) -> Callable[[T], None]:
    def tell(value: T) -> None:
        try:
            loop.call_soon_threadsafe(callback, value)
        except RuntimeError:
            # The loop is closed, and with it whoever wanted to know.
            return

    return tell


def connect(addresses: str | Iterable[str], **options: Any) -> Node:
    """A client of a cluster, to be opened like a :class:`Node`. Arguments as those of :func:`tenure.connect`."""
    listed = addresses if isinstance(addresses, str) else ",".join(addresses)
    return Node(connect=listed, **options)
