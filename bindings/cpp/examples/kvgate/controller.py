#!/usr/bin/env python3
"""A controller for kvgate servers, in the manner of Kvrocks's: it probes them, grants the master's office by heartbeats, and when the
master is gone waits out what it was promised and promotes the server whose log is ahead.

    controller.py --ttl 2 --data-dir controller-data a=127.0.0.1:6666 b=127.0.0.1:6667 c=127.0.0.1:6668

What it promises is recorded in a Tenure node before it is sent, and so binds it after a restart, and the next controller where the node is
a member of a cluster: of several, one is in office. Every server keeps the highest epoch it has seen, and refuses a controller whose
epoch is lower.
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

OFFICE = "kvgate/master"
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
        self._granter: tenure.Granter | None = None
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
        order = self.promise(peer, epoch, peer.nonce)
        if order is None:
            return
        peer.nonce = None
        answer = self._call(peer, "CLUSTERX", "HEARTBEAT", peer.id, int(order.ttl * 1000), order.epoch, "NONCE", order.nonce)
        reply = answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
        peer.nonce = int(reply[b"next_nonce"])
        if reply[b"accepted"]:
            peer.accepted += 1
        else:
            peer.refused += 1

    def promise(self, peer: Peer, epoch: int, nonce: int) -> tenure.Order | None:
        """Records a heartbeat before it is sent; nothing once another is to be promoted, or while another controller is in office."""
        with self._lock, contextlib.suppress(tenure.Error):
            if self.master is peer and self.epoch == epoch and self._granter is not None:
                return self._granter.heartbeat(OFFICE, self.ttl, nonce)
        return None

    def _topology(self, master: Peer) -> str:
        lines = []
        for peer in self.peers:
            role = f"master - {ALL_SLOTS}" if peer is master else f"slave {master.id}"
            lines.append(f"{peer.id} {peer.host} {peer.port} {role}")
        return "\n".join(lines)

    # -- One thread that decides --------------------------------------------------------------------------

    def _decide(self) -> None:
        while not self._stop.wait(self.ttl / 20):
            master = self.master
            if master is not None and self._in_office() and time.monotonic() - master.heard < self.ttl / 2:
                continue
            with self._lock:
                # From here on nothing is promised; what has been has to end.
                self.master = None
            if master is not None:
                self.say(f"{master.name} has not been heard for {time.monotonic() - master.heard:.2f} s")
            self._promote()

    def _promote(self) -> None:
        ended: float | None = None
        while not self._stop.wait(self.ttl / 50):
            if not self._in_office():
                ended = None
                continue
            now = time.monotonic()
            if ended is None:
                if not self._promises_ended():
                    continue
                ended = now
            # The logs are asked for when nothing can be acknowledged any more: after the end of every promise.
            fresh = [peer for peer in self.peers if peer.heard > ended]
            if len(fresh) < self.quorum or (len(fresh) < len(self.peers) and now < ended + self.ttl / 2):
                continue
            best = max(fresh, key=lambda peer: peer.position)
            if self._give_office(best):
                return

    def _promises_ended(self) -> bool:
        with contextlib.suppress(tenure.Error):
            assert self._granter is not None
            promise = self._granter.promise(OFFICE)
            return promise is None or promise.settled or promise.remaining <= 0
        return False

    def _give_office(self, peer: Peer) -> bool:
        # A cluster that was looked after by somebody else may be further than our epochs.
        seen = max(self.epoch, *(max(other.version, *other.position[:1]) for other in self.peers))
        with contextlib.suppress(tenure.Error):
            assert self._granter is not None
            promise = self._granter.promise(OFFICE)
            epoch = self._granter.promote(OFFICE, peer.name, max(seen, promise.epoch if promise else 0) + 1)
            peer.heard = time.monotonic()
            with self._lock:
                self.epoch, self.master = epoch, peer
            self.promotions.append((time.monotonic(), peer.name, epoch))
            self.say(f"{peer.name} is promoted under epoch {epoch}")
            return True
        return False

    def _in_office(self) -> bool:
        """Whether this controller is the one that grants; it tries to be when it is not."""
        if self._granter is not None and self._granter.in_office:
            return True
        with contextlib.suppress(tenure.Error):
            self._granter = self._node.granter("kvgate/controller", timeout=0)
            return True
        return False


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
