"""Epochs at the resource that is written: a write under a lower epoch than one seen before is refused in the same step."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from tenure import _core
from tenure._core import EpochPass
from tenure._types import Duration

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["EpochAdmission", "EpochFence", "EpochPass", "admit_epoch", "read_epoch"]


class EpochAdmission(NamedTuple):
    """What becomes of a write that may be done."""

    record: bytes
    """To be stored in the same transaction as the write."""
    raised: bool
    """Whether it has to be stored: the epoch is higher than the one stored."""


def admit_epoch(stored: bytes | None, epoch: int) -> EpochAdmission:
    """For a resource with transactions: whether a write under ``epoch`` may be done where ``stored`` is the record stored last.

    Read ``stored`` (``None`` or ``b""`` when nothing was ever stored) in the write's own transaction. Raises ``FencedError`` with the
    higher epoch as ``token`` when the write must not be done, ``DataCorruptError`` when ``stored`` is no record.
    """
    return EpochAdmission(*_core.admit_epoch(stored or b"", epoch))


def read_epoch(stored: bytes | None) -> int:
    """The epoch in a stored record; 0 when there is none."""
    return _core.read_epoch(stored or b"")


class EpochFence:
    """For a resource without transactions: the highest epochs in a file that :meth:`create` has made; a context manager that closes it.

    One process at a time has it open; any thread may use it. Raises ``DataLostError`` when there is no file: none is made in its
    place, for it would have forgotten every epoch.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._core = _core.EpochFence(os.fspath(path))

    @staticmethod
    def create(path: str | os.PathLike[str]) -> None:
        """Makes the file of a fence, once, when the resource itself is made. Raises ``MisuseError`` when there is one."""
        _core.EpochFence.create(os.fspath(path))

    def enter(self, epoch: int, resource: str = "", timeout: Duration = 10.0) -> EpochPass:
        """``with fence.enter(epoch):`` lets a write begin, which is under way until the end of the block.

        Raises ``FencedError`` with the higher epoch as ``token`` when the write must not be done. A new epoch is durable before
        this returns, and waits for at most ``timeout`` for writes of lower ones: then it raises ``LockTimeout``, and they are the last.
        """
        return self._core.enter(epoch, resource, timeout)

    def highest(self, resource: str = "") -> int:
        """The highest epoch that was admitted; 0 for none."""
        return self._core.highest(resource)

    def close(self) -> None:
        """Lets another process open the file, once the passes given are over as well."""
        self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
