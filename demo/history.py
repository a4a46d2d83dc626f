"""What was acknowledged, and the check of it: by one master at a time, and not lost."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Write:
    """An acknowledged write, by this process's clock."""

    server: str
    epoch: int
    key: str
    sent: float
    acknowledged: float


@dataclass
class Verdict:
    """What the checker found in a history."""

    # Acknowledged under an epoch although a higher one had acknowledged before the write was even sent.
    by_two: list[Write] = field(default_factory=list)
    lost: list[Write] = field(default_factory=list)


def check(history: list[Write], survived: Collection[str]) -> Verdict:
    """``survived``: the keys that the last master has."""
    first: dict[int, float] = {}
    for write in history:
        first[write.epoch] = min(first.get(write.epoch, write.acknowledged), write.acknowledged)
    # For each epoch, when the first acknowledgement under a higher one came.
    after: dict[int, float] = {}
    soonest = float("inf")
    for epoch in sorted(first, reverse=True):
        after[epoch] = soonest
        soonest = min(soonest, first[epoch])
    return Verdict([w for w in history if w.sent > after[w.epoch]], [w for w in history if w.key not in survived])
