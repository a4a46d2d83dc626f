"""Watches and elections for asyncio."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING

from tenure._inbox import inbox
from tenure._types import Duration, Key, Leader, Watched
from tenure._watch import leader_of, watched
from tenure.errors import ClosedError, MisuseError

if TYPE_CHECKING:
    from typing_extensions import Self

    from tenure import _core
    from tenure.aio import Grant, _Locks


class Watch:
    """As :class:`tenure.Watch`: an async iterator, and an async context manager that closes. One task at a time waits on it."""

    def __init__(self, core: _core.Watch) -> None:
        self._core = core
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()
        core.ring(inbox().hang(self))

    def ring(self) -> None:
        """Called on the inbox's thread."""
        try:
            self._loop.call_soon_threadsafe(self._rung.set)
        except RuntimeError:
            # The loop is closed, and with it whoever waited.
            return

    async def next(self) -> Watched:
        """The next state. Raises ``ClosedError`` once the watch or its node is closed, ``PoisonedError``, ``ForkedError``."""
        while True:
            self._rung.clear()
            fields = self._core.next(0)
            if fields is not None:
                return watched(fields)
            await self._rung.wait()

    def close(self) -> None:
        """Ends it, and whoever waits on it. Closing twice is no error."""
        self._core.close()
        self.ring()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Watched:
        try:
            return await self.next()
        except ClosedError:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class Leaders:
    """As :class:`tenure.Leaders`, an async iterator."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def close(self) -> None:
        """Ends it."""
        self._watch.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Leader | None:
        return leader_of(await self._watch.__anext__())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class Leadership:
    """As :class:`tenure.Leadership`. An async context manager that resigns at its end."""

    def __init__(self, grant: Grant) -> None:
        self.grant = grant
        """The grant behind it."""

    @property
    def token(self) -> int:
        """The leader's term."""
        return self.grant.token

    async def proclaim(self, value: Key) -> None:
        """As :meth:`tenure.Leadership.proclaim`."""
        await self.grant.annotate(value)

    async def resign(self) -> None:
        """As :meth:`tenure.Leadership.resign`."""
        await self.grant.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.grant.__aexit__(kind, error, trace)


class Election:
    """As :class:`tenure.Election`. ``async with node.election("x") as leadership:`` runs the block as leader."""

    def __init__(self, owner: _Locks, name: Key, ttl: Duration, value: Key) -> None:
        self._owner = owner
        self._name = name
        self._ttl = ttl
        self._value = value
        self._leading: Leadership | None = None

    async def campaign(self, value: Key | None = None, timeout: Duration | None = None) -> Leadership:
        """As :meth:`tenure.Election.campaign`; cancelling it leaves nothing held or queued."""
        shown = self._value if value is None else value
        return Leadership(await self._owner.acquire(self._name, self._ttl, timeout, metadata=shown))

    async def leader(self) -> Leader | None:
        """As :meth:`tenure.Election.leader`."""
        holder = await self._owner.holder(self._name)
        return None if holder is None else Leader(holder.node, holder.token, holder.metadata)

    def observe(self) -> Leaders:
        """As :meth:`tenure.Election.observe`."""
        return Leaders(self._owner.watch(self._name))

    async def __aenter__(self) -> Leadership:
        if self._leading is not None:
            raise MisuseError("this election() object is in use by another block")
        leading = await self.campaign()
        self._leading = leading
        return leading

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        leading, self._leading = self._leading, None
        if leading is not None:
            await leading.__aexit__(kind, error, trace)
