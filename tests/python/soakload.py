"""What a process does to a cluster in the soak: it holds much throughout, and comes and goes with little."""

from __future__ import annotations

import gc
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import tenure

SHARED = 8
"""Locks that the threads of all processes take in turn."""


class Load:
    """Sessions, their locks and gates that are held and renewed throughout, and threads that open, take, write, give back and close.

    ``leak``: what to lose with each turn, to show that it is noticed: ``memory``, ``files`` or ``threads``.
    """

    def __init__(
        self, node: tenure.Node, name: str, sessions: int, gates: int, threads: int, ttl: float, addresses: list[str], leak: str = ""
    ) -> None:
        self.node = node
        self.name = name
        self.ttl = ttl
        self.addresses = addresses
        self.leak = leak
        self.done: Counter[str] = Counter()
        self._leaked: list[object] = []
        self._stop = threading.Event()
        with ThreadPoolExecutor(32) as pool:
            held = list(pool.map(self._held, range(sessions)))
        self.sessions = [session for session, _ in held]
        self.grants = [grant for _, grant in held]
        self.gates = [node.gate(f"gate-{i}") for i in range(gates)]
        for i, gate in enumerate(self.gates):
            gate.hold(f"office-{name}-{i}", ttl)
        self._threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    def _held(self, i: int) -> tuple[tenure.Session, tenure.Grant]:
        session = self.node.session(f"{self.name}-{i}", ttl=self.ttl)
        return session, session.acquire(f"held-{self.name}-{i}", ttl=self.ttl, timeout=60.0)

    def _run(self, number: int) -> None:
        turn = number
        while not self._stop.is_set():
            turn += 1
            try:
                self._turn(number, turn)
            except (tenure.LockTimeout, tenure.UnavailableError):
                # The leader changes now and then: in doubt, the next turn.
                self.done["unavailable"] += 1
            self._lose()

    def _turn(self, number: int, turn: int) -> None:
        with self.node.acquire(f"shared-{turn % SHARED}", ttl=self.ttl, timeout=10.0):
            self.done["cycles"] += 1
        if turn % 5 == 0:
            with self.node.session(f"short-{self.name}-{number}", ttl=self.ttl) as session:
                session.acquire(f"short-{self.name}-{number}", ttl=self.ttl, timeout=10.0).release()
            self.done["sessions"] += 1
        if turn % 10 == 0:
            with self.node.watch(f"shared-{turn % SHARED}"):
                self.done["watches"] += 1
        if turn % 20 == 0:
            with self.node.gate(f"short-{number}") as gate:
                gate.hold(f"short-office-{self.name}-{number}", self.ttl)
                self._written(gate)
                gate.resign()
        if turn % 50 == 0:
            with tenure.connect(self.addresses, request_timeout=20.0) as client:
                client.acquire(f"visit-{self.name}-{number}", timeout=20.0).release()
            del client
            # A node refers to itself: Python takes it, and the last of its descriptors, when it looks for such.
            gc.collect()
            self.done["clients"] += 1

    def _written(self, gate: tenure.Gate) -> None:
        """One write, as soon as the gate is open; none when that takes too long."""
        for _ in range(1000):
            if gate.check():
                with gate.write():
                    self.done["writes"] += 1
                return
            self._stop.wait(0.01)

    def _lose(self) -> None:
        match self.leak:
            case "memory":
                self._leaked.append(bytearray(1 << 20))
            case "files":
                self._leaked.append(os.open(os.devnull, os.O_RDONLY))
            case "threads":
                threading.Thread(target=threading.Event().wait, daemon=True).start()

    def report(self) -> dict[str, int]:
        """What was done, and what of that which is to be held is not: by the holder's own view."""
        lost = sum(not grant.held for grant in self.grants)
        closed = sum(not gate.check() for gate in self.gates)
        return {**self.done, "held": len(self.grants), "lost": lost, "gates": len(self.gates), "closed": closed}

    def tokens(self) -> dict[str, int]:
        """Every tenth of the locks that are held, at least one, with its token."""
        return {str(grant.key): grant.token for grant in self.grants[::10]}

    def rest(self) -> None:
        """Ends the threads; what is held stays."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads), "a thread of the load is stuck"
