#!/usr/bin/env python3
"""A controller for kvgate servers, in the manner of Kvrocks's: it probes them, grants the master's office by heartbeats, and when the
master is gone waits out what it was promised and promotes the server whose log is ahead.

    controller.py --ttl 2 --data-dir controller-data a=127.0.0.1:6666 b=127.0.0.1:6667 c=127.0.0.1:6668

Its epochs are the fencing tokens of a lock in a Tenure node of its own, so that they increase over its restarts as well. It holds that lock
while it grants: of two controllers over one cluster of Tenure members, one does nothing. Every server keeps the highest epoch it
has seen, and refuses a controller whose epoch is lower.
"""

from __future__ import annotations

import argparse
import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

import tenure

# Whose clock runs how much slower than another's, at worst.
CLOCK_ERROR = 0.02
ALL_SLOTS = "0-16383"


@dataclass
class Peer:
    """A server as the controller sees it."""

    name: str
    host: str
    port: int
    heard: float = 0.0  # when it was asked what it answered last, monotonic
    position: tuple[int, int] = (0, 0)  # where its log ends: epoch, sequence number
    version: int = 0  # of its topology
    # When it may have believed to hold office at the latest, by this process's clock.
    promised_until: float = 0.0
    nonce: int | None = None
    accepted: int = 0
    refused: int = 0
    error: str = ""
    client: redis.Redis | None = field(default=None, repr=False)

    @property
    def id(self) -> str:
        return self.name.ljust(40, "0")


class Controller:
    """Looks after one shard: servers of which one is master. Start it, or use it as a context manager."""

    def __init__(
        self,
        servers: Mapping[str, tuple[str, int]],
        ttl: float = 2.0,
        *,
        replicas_ack: int = 0,
        node: tenure.Node | None = None,
        reachable: Callable[[str], bool] = lambda _name: True,
        say: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.peers = [Peer(name, host, port) for name, (host, port) in servers.items()]
        self.ttl = ttl
        # What is acknowledged is on the master and on so many replicas: of which one is heard when all but so many are.
        self.quorum = len(self.peers) - min(replicas_ack, len(self.peers) - 1) if replicas_ack else 1
        self.reachable = reachable
        self.say = say
        self.master: Peer | None = None
        self.epoch = 0
        self.promotions: list[tuple[float, str, int]] = []
        self._node = node or tenure.Node()
        self._own_node = node is None
        self._office: tenure.Grant | None = None
        # What a controller before this one may have promised.
        self._not_before = time.monotonic() + ttl * (1 + CLOCK_ERROR)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._watch, args=(peer,), daemon=True) for peer in self.peers]
        self._threads.append(threading.Thread(target=self._decide, daemon=True))

    def __enter__(self) -> Controller:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Controller:
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        if self._own_node:
            self._node.close()

    # -- One thread a server: probes, topology, heartbeats ------------------------------------------------

    def _watch(self, peer: Peer) -> None:
        while not self._stop.wait(self.ttl / 8):
            if not self.reachable(peer.name):
                continue
            asked = time.monotonic()
            try:
                self._visit(peer)
                peer.heard, peer.error = asked, ""
            except (redis.RedisError, OSError, ValueError) as error:
                peer.error = str(error)
                self._disconnect(peer)
        self._disconnect(peer)

    def _disconnect(self, peer: Peer) -> None:
        if peer.client is not None:
            with contextlib.suppress(redis.RedisError, OSError):
                peer.client.close()
        # A nonce is of one connection's time: it may have been the old process's.
        peer.client, peer.nonce = None, None

    def _call(self, peer: Peer, *words: Any) -> Any:
        if peer.client is None:
            retry = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
            peer.client = redis.Redis(
                peer.host, peer.port, single_connection_client=True, retry=retry, socket_timeout=max(self.ttl / 2, 0.2)
            )
        return peer.client.execute_command(*words)

    def _visit(self, peer: Peer) -> None:
        with self._lock:
            master, epoch = self.master, self.epoch
        peer.version = int(self._call(peer, "CLUSTERX", "VERSION"))
        if master is not None:
            if self._call(peer, "CLUSTERX", "MYID") != peer.id.encode():
                self._call(peer, "CLUSTERX", "SETNODEID", peer.id)
            if peer.version < epoch:
                self._call(peer, "CLUSTERX", "SETNODES", self._topology(master), epoch)
            if peer is master:
                self._beat(peer, epoch)
        log_epoch, sequence = self._call(peer, "LOGPOSITION")
        peer.position = (int(log_epoch), int(sequence))

    def _beat(self, peer: Peer, epoch: int) -> None:
        if peer.nonce is None:
            peer.nonce = int(self._call(peer, "CLUSTERX", "NONCE"))
        with self._lock:
            # Once another is to be promoted nothing is promised here any more.
            if self.master is not peer or self.epoch != epoch:
                return
            # The server counts from the nonce, which was handed out before now.
            peer.promised_until = time.monotonic() + self.ttl * (1 + CLOCK_ERROR)
        nonce, peer.nonce = peer.nonce, None
        answer = self._call(peer, "CLUSTERX", "HEARTBEAT", peer.id, int(self.ttl * 1000), epoch, "NONCE", nonce)
        reply = answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
        peer.nonce = int(reply[b"next_nonce"])
        if reply[b"accepted"]:
            peer.accepted += 1
        else:
            peer.refused += 1

    def _topology(self, master: Peer) -> str:
        lines = []
        for peer in self.peers:
            role = f"master - {ALL_SLOTS}" if peer is master else f"slave {master.id}"
            lines.append(f"{peer.id} {peer.host} {peer.port} {role}")
        return "\n".join(lines)

    # -- One thread that decides --------------------------------------------------------------------------

    def _decide(self) -> None:
        while not self._stop.wait(self.ttl / 20):
            now = time.monotonic()
            master = self.master
            if master is not None and now - master.heard < self.ttl / 2:
                continue
            with self._lock:
                # Nothing is promised from here on; what was has to end.
                if master is not None:
                    self.say(f"{master.name} has not been heard for {now - master.heard:.2f} s")
                self.master = None
            self._promote()

    def _promote(self) -> None:
        ends = max([self._not_before, *(peer.promised_until for peer in self.peers)])
        while not self._stop.is_set():
            # The logs are asked for when nothing can be acknowledged any more: after the end of every promise.
            now = time.monotonic()
            fresh = [peer for peer in self.peers if peer.heard > ends]
            waited = now > ends + self.ttl / 4
            if len(fresh) >= self.quorum and (waited or len(fresh) == len(self.peers)) and self._in_office():
                best = max(fresh, key=lambda peer: peer.position)
                with self._lock:
                    assert self._office is not None
                    # A cluster that was looked after by somebody else may be further than our tokens.
                    seen = max(max(peer.version, peer.position[0]) for peer in self.peers)
                    self.epoch, self.master = max(self._office.token, seen + 1), best
                best.heard = time.monotonic()
                self.promotions.append((time.monotonic(), best.name, self.epoch))
                self.say(f"{best.name} is promoted under epoch {self.epoch}")
                return
            self._stop.wait(self.ttl / 50)

    def _in_office(self) -> bool:
        """Takes a new token for a new epoch; False while another controller has the lock."""
        with contextlib.suppress(tenure.Error):
            if self._office is not None:
                self._office.release()
                self._office = None
            self._office = self._node.try_acquire("kvgate/controller", ttl=max(self.ttl, 1.0))
        return self._office is not None


def parse_servers(words: Sequence[str]) -> dict[str, tuple[str, int]]:
    servers = {}
    for word in words:
        name, address = word.split("=", 1)
        host, port = address.rsplit(":", 1)
        servers[name] = (host, int(port))
    return servers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="+", metavar="NAME=HOST:PORT")
    parser.add_argument("--ttl", type=float, default=2.0, help="seconds for which a heartbeat grants office")
    parser.add_argument("--replicas-ack", type=int, default=0, help="the servers' min-replicas-ack")
    parser.add_argument("--data-dir", help="where epochs are kept across restarts")
    arguments = parser.parse_args()
    settings = {"data_dir": arguments.data_dir, "node_id": "controller"} if arguments.data_dir else {}
    with tenure.Node(**settings) as node:
        controller = Controller(
            parse_servers(arguments.servers),
            arguments.ttl,
            replicas_ack=arguments.replicas_ack,
            node=node,
            say=lambda text: print(text, flush=True),
        )
        with controller, contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
