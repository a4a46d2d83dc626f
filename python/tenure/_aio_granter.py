"""The granter's side of an office for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from tenure._types import Duration, Key
from tenure.errors import Error
from tenure.granter import Granter as _SyncGranter
from tenure.granter import Order, Promise

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self


class Granter:
    """As :class:`tenure.Granter`, awaitable."""

    def __init__(self, granter: _SyncGranter) -> None:
        self._sync = granter

    @property
    def term(self) -> int:
        """As :attr:`tenure.Granter.term`."""
        return self._sync.term

    @property
    def in_office(self) -> bool:
        """As :attr:`tenure.Granter.in_office`."""
        return self._sync.in_office

    async def promote(self, office: Key, holder: str, epoch: int | None = None) -> int:
        """As :meth:`tenure.Granter.promote`."""
        return await asyncio.to_thread(self._sync.promote, office, holder, epoch)

    async def heartbeat(self, office: Key, ttl: Duration, nonce: int | None = None) -> Order:
        """As :meth:`tenure.Granter.heartbeat`."""
        return await asyncio.to_thread(self._sync.heartbeat, office, ttl, nonce)

    async def acknowledge(self, office: Key, epoch: int) -> None:
        """As :meth:`tenure.Granter.acknowledge`."""
        await asyncio.to_thread(self._sync.acknowledge, office, epoch)

    async def promise(self, office: Key) -> Promise | None:
        """As :meth:`tenure.Granter.promise`."""
        return await asyncio.to_thread(self._sync.promise, office)

    async def resign(self) -> None:
        """As :meth:`tenure.Granter.resign`."""
        await asyncio.to_thread(self._sync.resign)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.in_office:
            await self.resign()


async def open_granter(wait: Callable[[], _SyncGranter]) -> Granter:
    """Waits on a thread. What a cancelled caller is granted later is given back."""
    asked = asyncio.ensure_future(asyncio.to_thread(wait))
    try:
        return Granter(await asyncio.shield(asked))
    except asyncio.CancelledError:
        asked.add_done_callback(_give_back)
        raise


def _give_back(asked: asyncio.Future[_SyncGranter]) -> None:
    with contextlib.suppress(Error, asyncio.CancelledError):
        asked.result().resign()
