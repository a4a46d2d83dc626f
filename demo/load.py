"""Writers that keep a record of what was acknowledged to them, and the check for split brain."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import redis
from kvgate import BLOCKED, UNCERTAIN, Server
from typing_extensions import Self


@dataclass(frozen=True)
class Write:
    """One acknowledged write, by this process's monotonic clock."""

    server: str
    epoch: int
    key: str
    not_before: float  # the server cannot have carried it out earlier
    acknowledged: float


class Load:
    """Writers at one server. Each has a connection of its own and waits for each answer."""

    def __init__(self, server: Server, epoch: int, writers: int = 4, first: int = 0) -> None:
        self.server = server
        self.epoch = epoch
        self.acknowledged: list[Write] = []
        self.refused = 0
        self.uncertain = 0
        self.broken = 0
        self._first = first
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(writer, writers), daemon=True) for writer in range(writers)]

    def start(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> Self:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def writes(self) -> int:
        return len(self.acknowledged)

    def _run(self, writer: int, step: int) -> None:
        number = self._first + writer
        with self.server.client() as client:
            while not self._stop.is_set():
                key = f"order:{number}"
                sent = time.monotonic()
                try:
                    client.set(key, f"{self.server.name}/{self.epoch}")
                except redis.ResponseError as error:
                    self._count(str(error))
                    self._stop.wait(0.002)
                    continue
                except (redis.RedisError, OSError):
                    with self._lock:
                        self.broken += 1
                    return
                done = time.monotonic()
                self.acknowledged.append(Write(self.server.name, self.epoch, key, sent, done))
                number += step

    def _count(self, error: str) -> None:
        with self._lock:
            if BLOCKED in error:
                self.refused += 1
            elif UNCERTAIN in error:
                self.uncertain += 1
            else:
                raise RuntimeError(error)


def overlap(old: list[Write], new: list[Write]) -> tuple[list[Write], set[str]]:
    """What the old master acknowledged although the new one was at work, and the keys of it that
    the new one acknowledged as well: those have two values that a client was promised."""
    if not new:
        return [], set()
    takeover = min(write.acknowledged for write in new)
    late = [write for write in old if write.not_before > takeover]
    return late, {write.key for write in late} & {write.key for write in new}
