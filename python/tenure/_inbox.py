"""The one thread on which the core's completions, events and log records arrive.

The core's own threads never enter the interpreter: they put what they have to say into an inbox in native memory, and this
thread, which Python owns, takes it out. It is stopped at exit before the interpreter ends.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from tenure import _core
from tenure._types import InboxItem
from tenure.errors import Error

if TYPE_CHECKING:
    from tenure.node import Node
    from tenure.orchestrator import Orchestrator

logger = logging.getLogger("tenure")

Answer = Callable[[int, "Error | None"], None]
"""Called with the first token (0 where there is none) and the error, on the inbox's thread."""

#: How long the exit of the process waits for a callback that is running.
_EXIT_WAIT_S = 2.0


class Bell(Protocol):
    """Rung on the inbox's thread when a watch has something to take."""

    def ring(self) -> None:
        """Must not wait."""


class Host(Protocol):
    """Answers an orchestrator's questions."""

    def ask(self, question: _core.Question) -> None:
        """Must not wait."""


class Inbox:
    """What this process waits for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._answers: dict[int, Answer] = {}
        self._bells: weakref.WeakValueDictionary[int, Bell] = weakref.WeakValueDictionary()
        self._nodes: weakref.WeakValueDictionary[int, Node] = weakref.WeakValueDictionary()
        self._orchestrators: weakref.WeakValueDictionary[int, Orchestrator] = weakref.WeakValueDictionary()
        self._hosts: weakref.WeakValueDictionary[int, Host] = weakref.WeakValueDictionary()
        self._numbers = itertools.count(1)

    def number(self) -> int:
        """A number that no other node or request of this process has."""
        return next(self._numbers)

    def start(self) -> None:
        """Makes sure that the thread runs."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tenure-inbox", daemon=True)
                self._thread.start()

    def add_node(self, number: int, node: Node) -> None:
        """Events that carry ``number`` are this node's from now on, as long as it lives."""
        with self._lock:
            self._nodes[number] = node

    def add_orchestrator(self, number: int, orchestrator: Orchestrator) -> None:
        """Tasks that carry ``number`` are this orchestrator's from now on, as long as it lives."""
        with self._lock:
            self._orchestrators[number] = orchestrator

    def expect(self, answer: Answer) -> int:
        """A tag under which ``answer`` is called once."""
        self.start()
        tag = self.number()
        with self._lock:
            self._answers[tag] = answer
        return tag

    def hang(self, bell: Bell) -> int:
        """A tag under which ``bell.ring()`` is called as long as it lives."""
        self.start()
        tag = self.number()
        with self._lock:
            self._bells[tag] = bell
        return tag

    def house(self, host: Host) -> int:
        """A tag under which ``host.ask()`` is called as long as it lives."""
        self.start()
        tag = self.number()
        with self._lock:
            self._hosts[tag] = host
        return tag

    def forget(self, tag: int) -> None:
        """The request was refused: nothing will arrive under this tag."""
        with self._lock:
            self._answers.pop(tag, None)

    def flush(self, timeout: float) -> None:
        """Waits until what has arrived so far was delivered, unless called by a delivery."""
        if self._thread is None or threading.current_thread() is self._thread:
            return
        delivered = threading.Event()
        _core.inbox_mark(self.expect(lambda _token, _error: delivered.set()))
        delivered.wait(timeout)

    def close(self) -> None:
        """At exit: closes what is open, then ends the thread."""
        with self._lock:
            nodes = list(self._nodes.values())
        for node in nodes:
            try:
                node.close(timeout=1.0)
            except Error as error:
                logger.warning("closing node %s at exit: %s", node.node_id, error)
        _core.inbox_close()
        if self._thread is not None:
            self._thread.join(_EXIT_WAIT_S)

    def _run(self) -> None:
        while (items := _core.inbox_take(3600.0)) is not None:
            while items:
                try:
                    self._deliver(items.pop(0))
                except BaseException:
                    # A callback's failure, even its sys.exit(), must not end the deliveries to the others.
                    logger.exception("a callback failed")
            # Nothing that was delivered is kept alive while waiting for more.
            del items

    def _deliver(self, item: InboxItem) -> None:
        if item[0] == "done":
            _, tag, token, error = item
            with self._lock:
                answer = self._answers.pop(tag, None)
            if answer is not None:
                answer(token, error)
        elif item[0] == "task":
            _, number, task = item
            with self._lock:
                orchestrator = self._orchestrators.get(number)
            if orchestrator is None:
                task.finish("its orchestrator is gone")
            else:
                orchestrator._deliver(task)
        elif item[0] == "question":
            _, tag, question = item
            with self._lock:
                host = self._hosts.get(tag)
            if host is not None:
                host.ask(question)
        elif item[0] == "event":
            _, number, fields = item
            with self._lock:
                node = self._nodes.get(number)
            if node is not None:
                node._deliver(fields)
        elif item[0] == "ready":
            with self._lock:
                bell = self._bells.get(item[1])
            if bell is not None:
                bell.ring()
        else:
            _, level, target, text = item
            logging.getLogger(target).log(level, "%s", text)


_current = Inbox()


def inbox() -> Inbox:
    """The inbox of this process."""
    return _current


def _after_fork_in_child() -> None:
    global _current  # noqa: PLW0603
    _core.inbox_reset()
    _current = Inbox()


_last: list[Callable[[], None]] = []


def at_last(close: Callable[[], None]) -> None:
    """Calls ``close`` at exit, after the nodes have been closed."""
    _last.append(close)


def _at_exit() -> None:
    # Looked up here and now: the inbox of a forked child is another one.
    _current.close()
    for close in _last:
        close()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
