"""The granter's side of an office: a controller that gives offices to others and keeps them alive."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tenure import _core
from tenure._types import Duration, Key

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Granter", "Order", "Promise"]


class Order(NamedTuple):
    """A lease to be sent to a holder, who passes it to ``gate.heartbeat(order.epoch, order.ttl, order.nonce)``."""

    epoch: int
    """The office's epoch."""
    ttl: float
    """How long the holder may act, in seconds from when it made the nonce."""
    nonce: int | None
    """The holder's nonce."""
    holder: str
    """Whom to send it to."""
    promised: float
    """For how long from now the office cannot be given to another, in seconds: the ttl and the clocks' margin."""


class Promise(NamedTuple):
    """An office as the granters' ledger has it."""

    office: bytes
    """Its name."""
    epoch: int
    """Its epoch."""
    holder: str
    """Who has it."""
    remaining: float
    """For how long that holder may act at most, in seconds."""
    settled: bool
    """The holder has said that it stepped down."""
    term: int
    """The granter that gave it: the token of its lock."""


class Granter:
    """A controller in office, as long as it holds its lock; then its calls raise ``FencedError``. A context manager that resigns.

    What it has promised is kept in the node's ledger and binds the next granter. Any thread may use it.
    """

    def __init__(self, core: _core.Granter) -> None:
        self._core = core

    @property
    def term(self) -> int:
        """The token of its lock: of two granters the one with the higher term is the later one."""
        return self._core.term

    @property
    def in_office(self) -> bool:
        """Whether it still holds its lock, in its own view."""
        return self._core.in_office()

    def promote(self, office: Key, holder: str, epoch: int | None = None) -> int:
        """Gives the office to ``holder`` under a new epoch, which it returns: ``epoch``, or one above the last.

        Raises ``TooEarlyError`` while the former holder may still act; its ``retry_after`` says for how many seconds at most. Nothing is
        promised to the new holder before its first :meth:`heartbeat`.
        """
        return self._core.promote(office, holder, epoch)

    def heartbeat(self, office: Key, ttl: Duration, nonce: int | None = None) -> Order:
        """Records that the holder may act for another ``ttl``, and returns what to send to it.

        ``nonce`` is the holder's: from ``gate.next_nonce()`` or its last answer. None at all is the named weaker setting
        ``granter_trust_receipt``. Raises ``NotHolderError`` when the office was given to nobody, or its holder has stepped down.
        """
        return Order(*self._core.heartbeat(office, ttl, nonce))

    def acknowledge(self, office: Key, epoch: int) -> None:
        """The holder has said that it acts no more in ``epoch``, as after ``gate.drain()``: the office can be given to another at once."""
        self._core.acknowledge(office, epoch)

    def promise(self, office: Key) -> Promise | None:
        """What is recorded of the office; ``None`` when it was never given."""
        fields = self._core.promise(office)
        return None if fields is None else Promise(*fields)

    def resign(self) -> None:
        """Gives the granter's lock back. What was promised stands."""
        self._core.resign()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.in_office:
            self.resign()

    def __repr__(self) -> str:
        return f"<tenure.Granter term={self.term}>"
