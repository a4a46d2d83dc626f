"""Watches and elections, in their blocking form."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from tenure._types import Duration, Key, Leader, Watched
from tenure.errors import ClosedError, MisuseError

if TYPE_CHECKING:
    from typing_extensions import Self

    from tenure import _core
    from tenure._grant import Grant
    from tenure.node import Locks


def watched(fields: tuple[bytes, tuple[str, int, int, bytes, int] | None]) -> Watched:
    """What the core tells of a lock."""
    key, holder = fields
    return Watched(key, False) if holder is None else Watched(key, True, *holder)


def leader_of(state: Watched) -> Leader | None:
    """The leader that a watch of an election tells of."""
    return Leader(state.node, state.token, state.metadata) if state.held else None


class Watch:
    """Who holds a lock, or the locks of a prefix, as that changes: an iterator, and a context manager that closes.

    What it tells first is the present state (of a prefix: the locks that are held). Then come the changes, each lock's in order. Who is
    slow may miss some in between, never the last. Nothing is polled. The iteration ends when the watch or its node is closed.
    """

    def __init__(self, core: _core.Watch) -> None:
        self._core = core

    def next(self, timeout: Duration | None = None) -> Watched | None:
        """The next state, waited for for at most ``timeout``; ``None`` when there was none. Ctrl-C ends the wait.

        Raises ``ClosedError`` once the watch or its node is closed, ``PoisonedError``, ``ForkedError``.
        """
        fields = self._core.next(timeout)
        return None if fields is None else watched(fields)

    def close(self) -> None:
        """Ends it. Closing twice is no error."""
        self._core.close()

    def __iter__(self) -> Iterator[Watched]:
        return self

    def __next__(self) -> Watched:
        try:
            while (state := self.next()) is None:
                pass
        except ClosedError:
            raise StopIteration from None
        return state

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Leaders:
    """The leaders of an election and what they proclaim, beginning with the present: an iterator, and a context manager that closes.

    ``None`` stands for nobody. As :class:`Watch` otherwise.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def next(self, timeout: Duration | None = None) -> tuple[Leader | None] | None:
        """``(leader,)``, or ``None`` when nothing came in time. Raises as :meth:`Watch.next`."""
        state = self._watch.next(timeout)
        return None if state is None else (leader_of(state),)

    def close(self) -> None:
        """Ends it."""
        self._watch.close()

    def __iter__(self) -> Iterator[Leader | None]:
        return self

    def __next__(self) -> Leader | None:
        return leader_of(next(self._watch))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Leadership:
    """The office of a leader. A context manager that resigns at its end."""

    def __init__(self, grant: Grant) -> None:
        self.grant = grant
        """The grant behind it: ``remaining``, ``lost``, ``ensure()``."""

    @property
    def token(self) -> int:
        """The leader's term, to be sent with everything that it does: larger than that of every leader before it."""
        return self.grant.token

    def proclaim(self, value: Key) -> None:
        """Tells everybody a new value, up to 1024 bytes. Raises ``NotHolderError`` when it does not lead any more."""
        self.grant.annotate(value)

    def resign(self) -> None:
        """Gives the office up: the next in the queue leads at once. Raises ``NotHolderError`` when it was lost."""
        self.grant.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.grant.__exit__(kind, error, trace)


class Election:
    """An election, as one session takes part in it: the lock of its name, whose holder leads.

    ``with node.election("x") as leadership:`` runs the block as leader. ``contenders()`` of that lock tells who stands.
    """

    def __init__(self, owner: Locks, name: Key, ttl: Duration, value: Key) -> None:
        self._owner = owner
        self._name = name
        self._ttl = ttl
        self._value = value
        self._leading: Leadership | None = None

    def campaign(self, value: Key | None = None, timeout: Duration | None = None) -> Leadership:
        """Stands with ``value`` (up to 1024 bytes) and waits, first come first served, until elected, for at most ``timeout``.

        Raises as ``acquire()``.
        """
        shown = self._value if value is None else value
        return Leadership(self._owner.acquire(self._name, self._ttl, timeout, metadata=shown))

    def leader(self) -> Leader | None:
        """Who leads now; ``None`` when nobody does. Linearizable."""
        holder = self._owner.holder(self._name)
        return None if holder is None else Leader(holder.node, holder.token, holder.metadata)

    def observe(self) -> Leaders:
        """The present leader, and every change of leader or value from now on."""
        return Leaders(self._owner.watch(self._name))

    def __enter__(self) -> Leadership:
        if self._leading is not None:
            raise MisuseError("this election() object is in use by another block")
        self._leading = self.campaign()
        return self._leading

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        leading, self._leading = self._leading, None
        if leading is not None:
            leading.__exit__(kind, error, trace)
