"""Lock services in Python, over one table in memory: what a host could plug in, with and without the optional verbs."""

from __future__ import annotations

import itertools
import threading
import time

import tenure


class Table:
    """The locks that services share."""

    def __init__(self):
        self.changed = threading.Condition()
        self.grants = {}
        self.tokens = itertools.count(1)

    def live(self, key):
        """The grant, while it has not run out: node, token, end."""
        grant = self.grants.get(key)
        return grant if grant and grant[2] > time.monotonic() else None

    def take(self, key, node, ttl):
        if self.live(key):
            return None
        token = next(self.tokens)
        self.grants[key] = (node, token, time.monotonic() + ttl)
        return token


class Plain:
    """Four verbs, no tokens: the least that can be plugged in. As in ThemisDB's interface a release names no grant."""

    def __init__(self, table: Table, node_id: str):
        self.table, self.node_id = table, node_id

    def try_acquire(self, key, ttl, timeout):
        with self.table.changed:
            return None if self.table.take(key, self.node_id, ttl) is None else 0

    def release(self, key, token, timeout):
        with self.table.changed:
            grant = self.table.live(key)
            if not grant or grant[0] != self.node_id:
                return False
            del self.table.grants[key]
            self.table.changed.notify_all()
            return True

    def holder(self, key, timeout):
        with self.table.changed:
            grant = self.table.live(key)
            return grant and grant[0]


class Fenced:
    """Tokens, renewals, waiting in the service."""

    capabilities = tenure.Capabilities(fencing=True, renew=True, wait=True, linearizable_reads=True)

    def __init__(self, table: Table, node_id: str):
        self.table, self.node_id = table, node_id

    def try_acquire(self, key, ttl, timeout):
        with self.table.changed:
            return self.table.take(key, self.node_id, ttl)

    def acquire(self, key, ttl, wait):
        end = time.monotonic() + wait
        with self.table.changed:
            while (token := self.table.take(key, self.node_id, ttl)) is None:
                grant = self.table.live(key)
                left = min(end, grant[2] if grant else end) - time.monotonic()
                if time.monotonic() >= end:
                    return None
                self.table.changed.wait(max(left, 0.001))
            return token

    def release(self, key, token, timeout):
        with self.table.changed:
            grant = self.table.live(key)
            if not grant or grant[1] != token:
                return False
            del self.table.grants[key]
            self.table.changed.notify_all()
            return True

    def renew(self, key, token, ttl, timeout):
        with self.table.changed:
            grant = self.table.live(key)
            if not grant or grant[1] != token:
                return False
            self.table.grants[key] = (grant[0], token, time.monotonic() + ttl)
            return True

    def holder(self, key, timeout):
        with self.table.changed:
            grant = self.table.live(key)
            return grant and tenure.LockHolder(grant[0], grant[1], max(0.0, grant[2] - time.monotonic()))


class Polled(Fenced):
    """The same without waiting in the service."""

    capabilities = tenure.Capabilities(fencing=True, renew=True, linearizable_reads=True)


_shared = Table()


def factory(node_id: str) -> Fenced:
    """For ``python -m tenure.conformance``."""
    return Fenced(_shared, node_id)


class Forgetful(Fenced):
    """A service that breaks its promises: it grants a lock that is held."""

    def try_acquire(self, key, ttl, timeout):
        with self.table.changed:
            self.table.grants.pop(key, None)
        return super().try_acquire(key, ttl, timeout)

    acquire = Fenced.acquire


def broken(node_id: str) -> Forgetful:
    """For ``python -m tenure.conformance``: has to be found out."""
    return Forgetful(_shared, node_id)
