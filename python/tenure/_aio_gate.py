"""The write gate for asyncio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tenure._types import Duration, GateMode, HeartbeatReply, Key, WriteClass
from tenure.gate import Gate as _SyncGate
from tenure.gate import Permit

if TYPE_CHECKING:
    from typing_extensions import Self


class Gate:
    """As :class:`tenure.Gate`: what never waits is plain, the rest awaitable. ``with gate.write():`` may hold awaits in its block."""

    def __init__(self, gate: _SyncGate, waits: bool) -> None:
        self._sync = gate
        self._waits = waits

    @property
    def name(self) -> str:
        """The gate's name within its node."""
        return self._sync.name

    @property
    def mode(self) -> GateMode:
        """As :attr:`tenure.Gate.mode`."""
        return self._sync.mode

    @mode.setter
    def mode(self, mode: GateMode) -> None:
        self._sync.mode = mode

    def write(self, write_class: WriteClass = "client") -> Permit:
        """As :meth:`tenure.Gate.write`."""
        return self._sync.write(write_class)

    def enter(self, write_class: WriteClass = "client") -> Permit:
        """As :meth:`tenure.Gate.enter`."""
        return self._sync.enter(write_class)

    def check(self) -> bool:
        """As :meth:`tenure.Gate.check`."""
        return self._sync.check()

    def require(self) -> int:
        """As :meth:`tenure.Gate.require`."""
        return self._sync.require()

    def check_epoch(self, epoch: int) -> None:
        """As :meth:`tenure.Gate.check_epoch`."""
        self._sync.check_epoch(epoch)

    async def heartbeat(self, epoch: int, ttl: Duration, nonce: int | None = None) -> HeartbeatReply:
        """As :meth:`tenure.Gate.heartbeat`."""
        if self._waits:
            return await asyncio.to_thread(self._sync.heartbeat, epoch, ttl, nonce)
        return self._sync.heartbeat(epoch, ttl, nonce)

    def next_nonce(self) -> int:
        """As :meth:`tenure.Gate.next_nonce`."""
        return self._sync.next_nonce()

    def beat(self) -> None:
        """As :meth:`tenure.Gate.beat`."""
        self._sync.beat()

    async def observe(self, epoch: int, holder: str) -> None:
        """As :meth:`tenure.Gate.observe`."""
        await asyncio.to_thread(self._sync.observe, epoch, holder)

    async def reset(self) -> None:
        """As :meth:`tenure.Gate.reset`."""
        await asyncio.to_thread(self._sync.reset)

    async def hold(self, key: Key, ttl: Duration = 10.0) -> None:
        """As :meth:`tenure.Gate.hold`."""
        await asyncio.to_thread(self._sync.hold, key, ttl)

    async def drain(self, timeout: Duration = 10.0) -> None:
        """As :meth:`tenure.Gate.drain`. Cancelled, it goes on by itself until ``timeout``."""
        await asyncio.to_thread(self._sync.drain, timeout)

    async def cancel_drain(self) -> None:
        """As :meth:`tenure.Gate.cancel_drain`."""
        await asyncio.to_thread(self._sync.cancel_drain)

    async def resign(self, timeout: Duration = 10.0) -> None:
        """As :meth:`tenure.Gate.resign`. Cancelled, it goes on by itself until ``timeout``."""
        await asyncio.to_thread(self._sync.resign, timeout)

    async def resign_to(self, node: str, timeout: Duration = 10.0) -> None:
        """As :meth:`tenure.Gate.resign_to`. Cancelled, it goes on by itself until ``timeout``."""
        await asyncio.to_thread(self._sync.resign_to, node, timeout)

    def status(self) -> dict[str, Any]:
        """As :meth:`tenure.Gate.status`."""
        return self._sync.status()

    async def close(self) -> None:
        """As :meth:`tenure.Gate.close`."""
        await asyncio.to_thread(self._sync.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
