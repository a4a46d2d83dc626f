"""The write gate: may this process acknowledge a write now?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tenure import _core
from tenure._core import Permit, Verdict
from tenure._types import Duration, GateMode, HeartbeatReply, Key, WriteClass

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Gate", "Permit", "Verdict"]


class Gate:
    """A write gate. Closed until it is granted a lease, by :meth:`heartbeat` or :meth:`hold`; a context manager that closes it.

    Any thread may use it; :meth:`write` and :meth:`check` never wait.
    """

    def __init__(self, core: _core.Gate) -> None:
        self._core = core

    @property
    def name(self) -> str:
        """The gate's name within its node."""
        return self._core.name

    @property
    def mode(self) -> GateMode:
        """What a closed gate does: ``block-write``, or the named weaker ``log-only`` and ``disabled``. May be set while it is in use."""
        return self._core.mode

    @mode.setter
    def mode(self, mode: GateMode) -> None:
        self._core.set_mode(mode)

    def write(self, write_class: WriteClass = "client") -> Permit:
        """``with gate.write() as permit:`` lets a write in; acknowledge it after the block, never inside.

        Raises ``DeniedError`` (its ``reason`` says why) when the gate is closed; ``ClosedError``, ``ForkedError`` or ``PoisonedError``
        when it cannot open again. The end of the block raises ``UncertainError`` when
        the lease was not provably valid until then: the write may stay, but must not be acknowledged. ``permit.epoch`` is to be
        stored with the write.
        """
        return self._core.enter(write_class)

    def enter(self, write_class: WriteClass = "client") -> Permit:
        """As :meth:`write`, for code that calls ``permit.finish()`` itself."""
        return self._core.enter(write_class)

    def check(self) -> bool:
        """Whether a write would be let in now. It takes no permit: a drain does not wait for what follows."""
        return self._core.is_open()

    def require(self) -> int:
        """The epoch under which a write would be let in now; raises as :meth:`write` otherwise. It takes no permit."""
        return self._core.check()

    def check_epoch(self, epoch: int) -> None:
        """For a receiver of records: raises ``FencedError`` when a higher epoch than ``epoch`` has been seen."""
        self._core.check_epoch(epoch)

    def heartbeat(self, epoch: int, ttl: Duration, nonce: int | None = None) -> HeartbeatReply:
        """A controller grants or renews the lease: office in ``epoch`` until ``ttl`` after ``nonce`` was made.

        Without a nonce it counts only under the named weaker setting ``trust_receipt``. A heartbeat that is in order but does not renew
        says why in the reply. Raises ``FencedError`` when a higher epoch was seen, ``InvalidArgumentError`` for the ttl or a too large
        step of the epoch.
        """
        return HeartbeatReply(*self._core.heartbeat(epoch, ttl, nonce))

    def next_nonce(self) -> int:
        """A nonce for a heartbeat: its lease will count from this call."""
        return self._core.next_nonce()

    def beat(self) -> None:
        """The host is alive, for the setting ``beat_timeout_ms``: call it from where the host would be stuck if it were."""
        self._core.beat()

    def observe(self, epoch: int, holder: str) -> None:
        """Tells the gate that ``holder`` is in office in ``epoch``. A higher epoch that names another node closes it at once."""
        self._core.observe(epoch, holder)

    def reset(self) -> None:
        """The role has become replica: the lease is dropped and an office given back; what is known of epochs is kept."""
        self._core.reset()

    def hold(self, key: Key, ttl: Duration = 10.0) -> None:
        """Campaigns for the office ``key`` under the node's own session: the gate is open while this node holds that lock, in the epoch
        that is the lock's token. Returns at once; an event tells the opening.
        """
        self._core.hold(key, ttl)

    def drain(self, timeout: Duration = 10.0) -> None:
        """Lets no new write in and waits until none is in flight.

        Raises ``LockTimeout`` when writes are still in flight after ``timeout``: the gate stays draining then: drain it again, or
        :meth:`cancel_drain`. Ctrl-C leaves it draining as well.
        """
        self._core.drain(timeout)

    def cancel_drain(self) -> None:
        """Gives up a drain that ran out of time: while the lease holds, writes are let in again. Raises ``MisuseError`` without one."""
        self._core.cancel_drain()

    def resign(self, timeout: Duration = 10.0) -> None:
        """Drains, then gives the office of :meth:`hold` back. Raises ``LockTimeout``, the office kept, when writes are still in flight."""
        self._core.resign(timeout)

    def resign_to(self, node: str, timeout: Duration = 10.0) -> None:
        """As :meth:`resign`, but the successor is ``node``, which must be campaigning for the same office.

        Raises ``UnavailableError`` when nobody of that name is waiting: nothing was drained, or, when it left during the drain, the office
        was given back.
        """
        self._core.resign_to(node, timeout)

    def status(self) -> dict[str, Any]:
        """What the gate says of itself: phase, epoch, time left, reason, counts of refusals, named weaker modes."""
        answer: dict[str, Any] = json.loads(self._core.status())
        return answer

    def close(self) -> None:
        """Closes the gate for good; its name may be used again."""
        self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<tenure.Gate {self.name!r}>"
