"""Held locks."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING

from tenure._inbox import inbox
from tenure._types import Duration, Key
from tenure.errors import Error

if TYPE_CHECKING:
    from tenure.node import Locks


class Lost:
    """Whether a grant was lost: an event that is set when its holder may no longer believe that it holds the lock.

    It answers from the holder's own view, which ends before the lock can be granted to another and needs no
    answer from anybody. A grant that was released is not lost.
    """

    def __init__(self, owner: Locks, key: Key, token: int) -> None:
        self._owner = owner
        self._key = key
        self._token = token
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._callbacks: list[Callable[[Lost], object]] = []
        self._watched = False
        self._released = False
        self._reason: str | None = None

    def is_set(self) -> bool:
        """Whether the grant is lost, even if its reason was not told yet. Never waits."""
        if self._event.is_set() or self._owner._node._process != os.getpid():
            return True
        return not self._released and self._owner._remaining(self._key, self._token) <= 0

    __bool__ = is_set

    def wait(self, timeout: Duration | None = None) -> bool:
        """Waits until the grant is lost, for at most ``timeout``; whether it is. Ctrl-C ends the wait."""
        self._watch()
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        return self._event.wait(seconds) or self.is_set()

    @property
    def reason(self) -> str | None:
        """Why it was lost. ``None`` while it is not lost, and for the moment between the loss and the telling of it.

        ``expired``, ``session_expired``: not renewed in time. ``node_lost``: the renewals were not answered. ``clock``: the
        machine's clocks disagree, as after a suspend. ``revoked``: asked back, and not given back in time. ``forced``: an operator
        took it. ``superseded``: another process has taken the session over. ``closed``, ``poisoned``: the session or the node.
        ``forked``: this is a child.
        """
        if self._owner._node._process != os.getpid():
            return "forked"
        self._watch()
        return self._reason

    def add_callback(self, callback: Callable[[Lost], object]) -> None:
        """Calls ``callback(lost)`` once when the grant is lost, on the thread "tenure-inbox"; at once, if it is lost already."""
        with self._lock:
            if not self._event.is_set():
                self._callbacks.append(callback)
                callback = _nothing
        if callback is not _nothing:
            callback(self)
            return
        self._watch()

    def _forget(self, callback: Callable[[Lost], object]) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

    def _watch(self) -> None:
        with self._lock:
            if self._watched or self._released:
                return
            self._watched = True
        node = self._owner._node
        reason = node._watch_loss(self._token, self)
        if reason is not None:
            self._set(reason)
        elif self.is_set():
            # Lost, but not told yet: the answer to a release comes after what is on its way. It changes nothing any more.
            tag = inbox().expect(lambda _token, _error: self._set(self._owner._core.loss(self._token) or "expired"))
            try:
                self._owner._core.submit_release(tag, self._key, self._token)
            except Error:
                inbox().forget(tag)
                self._set(self._owner._core.loss(self._token) or ("closed" if node.closed else "expired"))

    def _set(self, reason: str) -> None:
        with self._lock:
            if self._event.is_set() or self._released:
                return
            self._reason = reason
            self._event.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    def _given_back(self) -> None:
        with self._lock:
            self._released = True
            self._callbacks = []
            watched = self._watched
        if watched:
            self._owner._node._unwatch_loss(self._token, self)


def _nothing(_: Lost) -> None:
    """Stands for no callback."""


class BaseGrant:
    """What ``tenure.Grant`` and ``tenure.aio.Grant`` have in common."""

    __slots__ = ("__weakref__", "_key", "_lost", "_owner", "_released", "_token", "_ttl")

    def __init__(self, owner: Locks, key: Key, token: int, ttl: Duration) -> None:
        self._owner = owner
        self._key = key
        self._token = token
        self._ttl = ttl
        self._lost: Lost | None = None
        self._released = False

    @property
    def key(self) -> Key:
        """The lock's name, as it was given."""
        return self._key

    @property
    def token(self) -> int:
        """The fencing token: larger than that of every grant before it, of any lock. Send it along with every write that the lock
        protects, and let the receiver refuse a smaller one than it has seen.
        """
        return self._token

    @property
    def remaining(self) -> float:
        """Seconds left in the holder's own view; 0 once lost, released or closed, or when it cannot be learnt.

        Asks nobody, unless the grant is one that its caller renews: then the ledger, and in a cluster waits for as long as a read may.
        """
        return 0.0 if self._released else self._owner._remaining(self._key, self._token)

    @property
    def held(self) -> bool:
        """Whether the lock is held, in the holder's own view."""
        return self.remaining > 0

    def ensure(self, left: Duration) -> float:
        """Seconds left in the holder's own view, asking nobody; raises ``ExpiredError`` unless they are at least ``left``.

        To be asked before a step that takes so long.
        """
        return self._owner._core.ensure(self._key, self._token, left)

    @property
    def lost(self) -> Lost:
        """Tells when the lock was lost against the holder's will."""
        if self._lost is None:
            self._lost = Lost(self._owner, self._key, self._token)
            self._lost._released = self._released
        return self._lost

    def _given_back(self) -> None:
        self._released = True
        if self._lost is not None:
            self._lost._given_back()

    def _give_back_later(self) -> None:
        """Releases without waiting and without an answer."""
        if not self._released:
            self._given_back()
            self._owner._core.release_later(self._key, self._token)

    def __repr__(self) -> str:
        module = type(self).__module__.partition("._")[0]
        return f"<{module}.Grant {self._key!r} token={self._token}>"

    def __del__(self) -> None:
        # Absent when the constructor itself failed.
        if getattr(self, "_released", True) or sys.is_finalizing():
            return
        try:
            left = self.remaining
            self._give_back_later()
        except Error:
            # A forked child's copy: the lock is the parent's.
            return
        if left > 0:
            warnings.warn(f"{self!r} was never released", ResourceWarning, stacklevel=2, source=self)


class Grant(BaseGrant):
    """A held lock.

    A context manager that releases at its end. Collected as garbage it releases too, with a ``ResourceWarning``. It may be used
    on any thread: the owner is the object, not the thread.
    """

    __slots__ = ()

    def release(self) -> None:
        """Gives the lock back.

        Raises ``NotHolderError`` when it was lost or released already: nothing was done then.
        """
        self._owner._core.release(self._key, self._token)
        self._given_back()

    def renew(self, ttl: Duration | None = None) -> float:
        """Extends the grant to ``ttl`` from now (default: that of the acquisition); returns the seconds left.

        Needed only for ``renew="manual"``. Raises ``NotHolderError`` or ``ExpiredError`` when it was lost.
        """
        return self._owner._core.renew(self._key, self._token, self._ttl if ttl is None else ttl)

    def annotate(self, metadata: Key) -> None:
        """Replaces the metadata that ``holder()`` and watches show. Raises ``NotHolderError`` when the lock was lost."""
        self._owner._core.annotate(self._key, self._token, metadata)

    def __enter__(self) -> Grant:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Releases. Raises ``NotHolderError`` when the lock was lost before the end of the block, unless the block has failed anyway."""
        if self._released:
            return
        try:
            self.release()
        except Error:
            self._given_back()
            if error is None:
                raise


class Grants(tuple[Grant, ...]):
    """Locks that were taken in one step. A context manager that releases all of them at its end."""

    __slots__ = ()

    def release(self) -> None:
        """Releases all of them; raises the first error, after all were tried."""
        failed: Error | None = None
        for grant in self:
            try:
                grant.release()
            except Error as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def __enter__(self) -> Grants:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        failed: Error | None = None
        for grant in self:
            try:
                grant.__exit__(kind, error, trace)
            except Error as lost:
                failed = failed or lost
        if failed is not None:
            raise failed
