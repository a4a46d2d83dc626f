"""A lock service that the host already runs, plugged in: ``tenure.Node(lock_service=service)``.

The node's sessions, renewals, events and gates then work over that service. ``docs/plug-ins.md`` says what each capability is
good for and what is weaker without it; ``python -m tenure.conformance module:factory`` tries a service out.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import weakref
from typing import Any, Protocol, Union, runtime_checkable

from tenure import _core
from tenure._inbox import at_last, logger
from tenure._types import Duration
from tenure.errors import Error, LockServiceError, UnavailableError, UnsupportedError

__all__ = ["Capabilities", "LockHolder", "LockService"]

_THREADS_MAX = 256
_IDLE_S = 10.0
_EXIT_WAIT_S = 1.0


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """What a lock service can do. The default claims nothing."""

    fencing: bool = False
    """Every grant has a token: 1 to 2^63-1, larger than that of every grant of the same key before it, and never another key's."""
    renew: bool = False
    """``renew`` works. Without it a grant ends after its ttl whatever its holder does."""
    wait: bool = False
    """``acquire`` works. Without it, waiting is asking again and again."""
    fair: bool = False
    """Those who wait in ``acquire``, on all nodes, are granted the lock in the order in which they came."""
    linearizable_reads: bool = False
    """``holder`` tells what every earlier answer implies. Without it the answer may be old."""
    ttl_granularity: Duration = 0.001
    """The service's ttl is a multiple of this; the library rounds up to it."""
    ttl_min: Duration = 0.001
    """The shortest ttl that it takes; the library asks for at least this."""
    ttl_max: Duration = 86400.0
    """The longest ttl that it takes; a longer one is refused."""


@dataclasses.dataclass(frozen=True)
class LockHolder:
    """Who holds a lock, as a service sees it."""

    node: str
    """Its node id."""
    token: int = 0
    """0 when it is not known."""
    remaining: float | None = None
    """Seconds that are left of its ttl, if the service tells."""


@runtime_checkable
class LockService(Protocol):
    """What a host gives to plug its lock service in.

    The methods are called on threads of the package, several at a time, but never two of ``try_acquire``, ``acquire``, ``renew`` and
    ``release`` for one key, unless a call was given up because it took longer than ``timeout`` seconds. What such a call grants
    after all is released. An ``OSError`` (so also ``ConnectionError`` and ``TimeoutError``) means that nobody can tell: it is tried
    again, or the caller gets an ``UnavailableError``. An exception of ``tenure`` goes to the caller as it is. Anything else is a
    ``LockServiceError`` for the caller, and logged.

    Optional: an attribute ``capabilities`` (:class:`Capabilities`; absent, it claims nothing),
    ``renew(key, token, ttl, timeout) -> bool``, and ``acquire(key, ttl, wait) -> int | None``, which waits at most ``wait`` seconds.
    """

    @property
    def node_id(self) -> str:
        """The name under which the service knows this node. 1 to 64 printable ASCII characters."""

    def try_acquire(self, key: bytes, ttl: float, timeout: float) -> int | None:
        """Takes the lock for ``ttl`` seconds if it is free: its token (0 without fencing); ``None`` when somebody else holds it."""

    def release(self, key: bytes, token: int, timeout: float) -> bool:
        """Gives the lock back. ``False``, and no effect, when ``token`` is not that of the current grant."""

    def holder(self, key: bytes, timeout: float) -> LockHolder | str | None:
        """Who holds the lock: a :class:`LockHolder`, or just the node id; ``None`` when nobody does."""


Holding = Union[LockHolder, str, None]


class Runner:
    """The threads on which one service is called."""

    def __init__(self, service: LockService) -> None:
        if not isinstance(service, LockService):
            missing = [name for name in ("node_id", "try_acquire", "release", "holder") if not hasattr(service, name)]
            raise TypeError(f"lock_service: {type(service).__name__} has no {', '.join(missing)}")
        caps = getattr(service, "capabilities", None) or Capabilities()
        if not isinstance(caps, Capabilities):
            raise TypeError(f"lock_service: capabilities are {type(caps).__name__}, not tenure.Capabilities")
        for verb, claimed in (("renew", caps.renew), ("acquire", caps.wait)):
            if claimed and not callable(getattr(service, verb, None)):
                raise TypeError(f"lock_service: {type(service).__name__} claims {verb} and has no such method")
        self._service: Any = service
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self.plug = _core.Plug(
            service.node_id,
            caps.fencing,
            caps.renew,
            caps.wait,
            caps.fair,
            caps.linearizable_reads,
            caps.ttl_granularity,
            caps.ttl_min,
            caps.ttl_max,
        )
        self._start()
        _runners.add(self)

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="tenure-plug", daemon=True)
        with self._lock:
            if len(self._threads) >= _THREADS_MAX:
                return
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError as error:
            # No more threads, or none any more at exit: those that are there serve.
            logger.debug("a thread for the lock service: %s", error)
            with self._lock:
                self._threads.discard(thread)

    def _run(self) -> None:
        plug = self.plug
        try:
            while not plug.closed:
                call = plug.take(_IDLE_S)
                if call is None:
                    if self._may_leave():
                        return
                    continue
                if call[-1]:
                    self._start()
                self._serve(*call[:-1])
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _may_leave(self) -> bool:
        """Whether this idle thread is not the last one."""
        with self._lock:
            if len(self._threads) <= 1:
                return False
            self._threads.discard(threading.current_thread())
            return True

    def _serve(self, number: int, verb: str, key: bytes, token: int, ttl: float, timeout: float) -> None:
        plug, service = self.plug, self._service
        try:
            if verb == "try_acquire":
                self._attempt(number, service.try_acquire(key, ttl, timeout))
            elif verb == "acquire":
                self._attempt(number, service.acquire(key, ttl, timeout))
            elif verb == "release":
                plug.done(number, bool(service.release(key, token, timeout)))
            elif verb == "renew":
                plug.done(number, bool(service.renew(key, token, ttl, timeout)))
            else:
                self._holding(number, service.holder(key, timeout))
        except Error as error:
            plug.failed(number, error.code, str(error))
        except OSError as error:
            plug.failed(number, UnavailableError.code, f"{verb}: {error!r}")
        except NotImplementedError:
            plug.failed(number, UnsupportedError.code, f"{verb}: the lock service does not offer it")
        except BaseException as error:
            # Even a sys.exit() in it: the thread serves others.
            logger.exception("the lock service failed in %s", verb)
            plug.failed(number, LockServiceError.code, f"{verb}: {error!r}")

    def _attempt(self, number: int, answer: object) -> None:
        if answer is None:
            self.plug.held(number, 0)
        elif isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < 1 << 63:
            self.plug.acquired(number, answer)
        else:
            raise LockServiceError(f"the lock service answered {answer!r}, neither a token nor None")

    def _holding(self, number: int, answer: Holding) -> None:
        if isinstance(answer, str):
            answer = LockHolder(answer)
        if answer is None or (isinstance(answer, LockHolder) and not answer.node):
            self.plug.holding(number, None, 0, None)
        elif isinstance(answer, LockHolder):
            self.plug.holding(number, answer.node, answer.token, answer.remaining)
        else:
            raise LockServiceError(f"the lock service answered {answer!r}, neither a holder nor None")

    def close(self) -> None:
        """Every call fails from now on. Threads end, but for those that hang in the service."""
        self.plug.close()
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(_EXIT_WAIT_S / len(threads))


_runners: weakref.WeakSet[Runner] = weakref.WeakSet()


def _at_exit() -> None:
    for runner in list(_runners):
        runner.close()


def _after_fork_in_child() -> None:
    # The parent's threads are not here; nor are its nodes.
    _runners.clear()


at_last(_at_exit)
os.register_at_fork(after_in_child=_after_fork_in_child)
