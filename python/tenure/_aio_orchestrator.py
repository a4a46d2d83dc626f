"""The orchestrator for asyncio."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from tenure._types import Duration
from tenure.orchestrator import Orchestrator as _SyncOrchestrator
from tenure.orchestrator import Task as _SyncTask

if TYPE_CHECKING:
    from typing_extensions import ParamSpec, Self

    from tenure.node import Node
    from tenure.plug import LockService

    P = ParamSpec("P")

T = TypeVar("T")
Handled = TypeVar("Handled", bound=Callable[..., Any])


class Task(_SyncTask):
    """As :class:`tenure.Task`; what waits is awaitable."""

    async def save_checkpoint(self, data: bytes) -> None:  # type: ignore[override]
        """As :meth:`tenure.Task.save_checkpoint`."""
        await asyncio.to_thread(super().save_checkpoint, data)

    async def wait_cancelled(self, timeout: Duration) -> bool:  # type: ignore[override]
        """As :meth:`tenure.Task.wait_cancelled`. It takes a thread of the loop's pool while it waits."""
        return await asyncio.to_thread(super().wait_cancelled, timeout)

    async def pace(self, byte_count: int = 0) -> bool:  # type: ignore[override]
        """As :meth:`tenure.Task.pace`."""
        return await asyncio.to_thread(super().pace, byte_count)


def _on_loop(function: Callable[..., Any]) -> Callable[..., Any]:
    """A coroutine function as one that other threads call: it runs on the present loop, and they wait for it."""
    loop = asyncio.get_running_loop()

    def call(*args: Any) -> Any:
        coroutine = function(*args)
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, loop).result()
        except RuntimeError:
            # Of a loop that is closed: it was never begun.
            coroutine.close()
            raise

    return call


class Orchestrator:
    """As :class:`tenure.Orchestrator`, awaitable. An async context manager that closes.

    Coroutine functions that are given to ``task``, ``add_gate`` and ``set_topology`` run on the loop that was running then; plain
    functions on threads of their own.
    """

    def __init__(self, orchestrator: _SyncOrchestrator, waits: bool) -> None:
        self._sync = orchestrator
        self._waits = waits

    async def _run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._waits:
            return await asyncio.to_thread(call, *args, **kwargs)
        return call(*args, **kwargs)

    def task(self, kind: str) -> Callable[[Handled], Handled]:
        """As :meth:`tenure.Orchestrator.task`. A coroutine function is given a :class:`tenure.aio.Task`."""

        def register(handler: Handled) -> Handled:
            if inspect.iscoroutinefunction(handler):
                on_loop = _on_loop(handler)
                self._sync.task(kind)(lambda task: on_loop(Task(task._core)))
            else:
                self._sync.task(kind)(handler)
            return handler

        return register

    def add_gate(self, gate: Handled) -> Handled:
        """As :meth:`tenure.Orchestrator.add_gate`."""
        self._sync.add_gate(_on_loop(gate) if inspect.iscoroutinefunction(gate) else gate)
        return gate

    def set_topology(self, topology: Callable[[str], Any] | None) -> None:
        """As :meth:`tenure.Orchestrator.set_topology`."""
        self._sync.set_topology(_on_loop(topology) if topology and inspect.iscoroutinefunction(topology) else topology)

    async def schedule(self, schedule_id: str, tasks: Any, *, expected: int | None = None, **fields: Any) -> int:
        """As :meth:`tenure.Orchestrator.schedule`."""
        return await self._run(lambda: self._sync.schedule(schedule_id, tasks, expected=expected, **fields))

    async def put_themis(self, entry: Mapping[str, Any], expected: int | None = None) -> int:
        """As :meth:`tenure.Orchestrator.put_themis`."""
        return await self._run(self._sync.put_themis, entry, expected)

    async def get_themis(self, schedule_id: str) -> dict[str, Any]:
        """As :meth:`tenure.Orchestrator.get_themis`."""
        return await self._run(self._sync.get_themis, schedule_id)

    async def patch_themis(self, schedule_id: str, **fields: Any) -> int:
        """As :meth:`tenure.Orchestrator.patch_themis`."""
        return await self._run(lambda: self._sync.patch_themis(schedule_id, **fields))

    async def get(self, schedule_id: str) -> dict[str, Any] | None:
        """As :meth:`tenure.Orchestrator.get`."""
        return await self._run(self._sync.get, schedule_id)

    async def schedules(self, after: str = "", limit: int = 1000) -> list[dict[str, Any]]:
        """As :meth:`tenure.Orchestrator.schedules`."""
        return await self._run(self._sync.schedules, after, limit)

    async def remove(self, schedule_id: str, expected: int | None = None) -> None:
        """As :meth:`tenure.Orchestrator.remove`."""
        await self._run(self._sync.remove, schedule_id, expected)

    async def enable(self, schedule_id: str, enabled: bool = True) -> None:
        """As :meth:`tenure.Orchestrator.enable`."""
        await self._run(self._sync.enable, schedule_id, enabled)

    async def disable(self, schedule_id: str) -> None:
        """As :meth:`tenure.Orchestrator.disable`."""
        await self._run(self._sync.disable, schedule_id)

    async def run_now(
        self,
        schedule_id: str,
        *,
        key: str = "",
        target: str = "",
        force: bool = False,
        tick: datetime | None = None,
        params: Any = None,
    ) -> int:
        """As :meth:`tenure.Orchestrator.run_now`."""
        return await self._run(lambda: self._sync.run_now(schedule_id, key=key, target=target, force=force, tick=tick, params=params))

    async def backfill(self, schedule_id: str, start: datetime, end: datetime, target: str = "") -> list[int]:
        """As :meth:`tenure.Orchestrator.backfill`."""
        return await self._run(self._sync.backfill, schedule_id, start, end, target)

    async def cancel(self, run: int, reason: str = "") -> None:
        """As :meth:`tenure.Orchestrator.cancel`."""
        await self._run(self._sync.cancel, run, reason)

    async def pause(self, schedule_id: str | None = None, note: str = "", until: datetime | None = None) -> None:
        """As :meth:`tenure.Orchestrator.pause`."""
        await self._run(self._sync.pause, schedule_id, note, until)

    async def unpause(self, schedule_id: str | None = None) -> None:
        """As :meth:`tenure.Orchestrator.unpause`."""
        await self._run(self._sync.unpause, schedule_id)

    async def set_distributed_lock(self, lock: LockService | Node | None) -> None:
        """As :meth:`tenure.Orchestrator.set_distributed_lock`."""
        await self._run(self._sync.set_distributed_lock, lock)

    async def history(self, schedule_id: str, limit: int = 100) -> list[dict[str, Any]] | None:
        """As :meth:`tenure.Orchestrator.history`."""
        return await self._run(self._sync.history, schedule_id, limit)

    async def run(self, run: int) -> dict[str, Any] | None:
        """As :meth:`tenure.Orchestrator.run`."""
        return await self._run(self._sync.run, run)

    async def runs(self, limit: int = 1000) -> list[dict[str, Any]]:
        """As :meth:`tenure.Orchestrator.runs`."""
        return await self._run(self._sync.runs, limit)

    async def next_fires(self, schedule_id: str, count: int = 10, after: datetime | None = None) -> list[datetime]:
        """As :meth:`tenure.Orchestrator.next_fires`."""
        return await self._run(self._sync.next_fires, schedule_id, count, after)

    async def set_budget(self, name: str, limit: int) -> None:
        """As :meth:`tenure.Orchestrator.set_budget`."""
        await self._run(self._sync.set_budget, name, limit)

    async def health(self) -> dict[str, Any]:
        """As :meth:`tenure.Orchestrator.health`."""
        return await self._run(self._sync.health)

    async def themis_job(self, run: int) -> dict[str, Any] | None:
        """As :meth:`tenure.Orchestrator.themis_job`."""
        return await self._run(self._sync.themis_job, run)

    async def status(self) -> dict[str, Any]:
        """As :meth:`tenure.Orchestrator.status`."""
        return await self._run(self._sync.status)

    @property
    def handlers(self) -> list[str]:
        """As :attr:`tenure.Orchestrator.handlers`."""
        return self._sync.handlers

    @property
    def journal(self) -> str:
        """As :attr:`tenure.Orchestrator.journal`."""
        return self._sync.journal

    async def close(self, timeout: Duration = 5.0) -> None:
        """As :meth:`tenure.Orchestrator.close`."""
        await asyncio.to_thread(self._sync.close, timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
