"""Split brain, and what the write gate does about it, on real servers and with real Redis clients.

First two RocksDB servers and a controller that grants the master's office by heartbeats: with the gate, and the same without
it. Then three servers with a member of one cluster in each, which settle among themselves who is master. Exits with 0 only if with the gate
no write was acknowledged by two masters and none was lost, and without it some were.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from kvgate import BINARY, BLOCKED, Granter, Server, read_beat, wait_until
from load import Load, Write, overlap
from tell import Claims, say
from three import ThreeServers

TTL_MS = 1_000
# The controller's allowance for its clock and the server's not running alike.
MARGIN_S = 0.02


@dataclass
class Tally(Claims):
    """What the whole run came to."""

    acknowledged: int = 0
    late: int = 0
    doubled: int = 0

    def add(self, old: list[Write], new: list[Write]) -> int:
        late, doubled = overlap(old, new)
        self.acknowledged += len(old) + len(new)
        self.late += len(late)
        self.doubled += len(doubled)
        return len(late)


def connection_of(client: redis.Redis) -> Any:
    """The one connection of a client, ready for requests whose answers are read later."""
    client.ping()
    return client.connection


class Story:
    """The same scenes with the gate or without it."""

    def __init__(self, directory: Path, mode: str) -> None:
        self.gated = mode == "block-write"
        self.tally = Tally()
        settings = {"master_lease_mode": mode, "workers": "4"}
        self.a = Server(directory / "a", "A", **settings)
        self.b = Server(directory / "b", "B", **settings)

    def tell(self) -> Tally:
        scenes: list[Callable[[], None]] = [
            self.heartbeats_stop,
            self.stopped_process,
            self.higher_epoch_elsewhere,
            self.restart,
            self.drain,
        ]
        try:
            self.a.start()
            self.b.start()
            for number, scene in enumerate(scenes, 1):
                say()
                say(f"  {number}. {scene.__doc__}")
                scene()
        finally:
            self.a.kill()
            self.b.kill()
        return self.tally

    def promote(self, server: Server, epoch: int, ttl_ms: int = TTL_MS) -> Granter:
        return Granter(server, epoch, ttl_ms).start()

    def wait_out(self, granter: Granter) -> None:
        """What a controller does before it promotes another: waits until its promise has ended."""
        until = granter.promised_until + MARGIN_S
        wait_until(lambda: time.monotonic() > until, 60, "the old lease's end")

    def report_overlap(self, old: list[Write], new: list[Write], old_name: str) -> None:
        late = self.tally.add(old, new)
        if self.gated:
            self.tally.expect(
                late == 0,
                f"once the new master had acknowledged a write, {old_name} acknowledged none",
            )
        else:
            self.tally.expect(late > 0, f"{old_name} acknowledged {late} more after the new master's first write")

    def heartbeats_stop(self) -> None:
        """The network between the controller and the master A is cut. Clients still reach A."""
        granter = self.promote(self.a, 1)
        with Load(self.a, 1) as on_a:
            wait_until(lambda: on_a.writes > 1_000, 60, "load on A")
            granter.stop()
            last_promise = granter.promised_until
            before = on_a.writes
            say(f"    A is master under epoch 1 and has acknowledged {before} writes.")
            self.wait_out(granter)
            say("    Heartbeats to A stop; the controller waits the lease out and promotes B.")
            successor = self.promote(self.b, 2)
            with Load(self.b, 2, first=on_a.writes) as on_b:
                wait_until(lambda: on_b.writes > 1_000, 60, "load on B")
        successor.stop()
        last = max(write.acknowledged for write in on_a.acknowledged)
        left_ms = (last_promise - last) * 1000
        say(
            f"    A acknowledged {on_a.writes} writes in all, {on_a.writes - before} after its last "
            f"heartbeat, and refused {on_a.refused}; B acknowledged {on_b.writes} under epoch 2."
        )
        if self.gated:
            self.tally.expect(
                left_ms > 0,
                f"A's last acknowledgement came {left_ms:.0f} ms before its lease's end",
            )
        self.report_overlap(on_a.acknowledged, on_b.acknowledged, "A")

    def stopped_process(self) -> None:
        """Master B is stopped (SIGSTOP) with writes and a heartbeat waiting in its sockets."""
        granter = self.promote(self.b, 3)
        with Load(self.b, 3) as on_b:
            wait_until(lambda: on_b.writes > 500, 60, "load on B")
        granter.stop()
        nonce = self.b.nonce()
        clients = [self.b.client() for _ in range(21)]  # the last is the controller's
        connections = [connection_of(client) for client in clients]
        self.b.freeze()
        for number, connection in enumerate(connections[:-1]):
            connection.send_command("SET", f"order:{number}", "B/3")
        connections[-1].send_command("CLUSTERX", "HEARTBEAT", self.b.id, TTL_MS, 3, "NONCE", nonce)
        # The heartbeat lies in the socket, so the controller must reckon with it.
        granter.promised_until = max(granter.promised_until, time.monotonic() + TTL_MS / 1000)
        self.wait_out(granter)
        successor = self.promote(self.a, 4)
        with Load(self.a, 4) as on_a:
            wait_until(lambda: on_a.writes > 500, 60, "load on A")
            thawed = time.monotonic()
            self.b.thaw()
            queued: list[Write] = []
            refused = 0
            for number, connection in enumerate(connections[:-1]):
                try:
                    connection.read_response()
                except redis.ResponseError as error:
                    refused += BLOCKED in str(error)
                else:
                    key, done = f"order:{number}", time.monotonic()
                    queued.append(Write("B", 3, key, thawed, done))
            beat = read_beat(connections[-1].read_response())
        successor.stop()
        for client in clients:
            client.close()
        say(
            f"    While B stood still, A became master under epoch 4 and acknowledged {on_a.writes} "
            f"writes. B woke with 20 writes and a heartbeat of epoch 3 queued:"
        )
        verdict = "accepted" if beat.accepted else f"refused ({beat.reason})"
        say(f"    the heartbeat was {verdict}, {len(queued)} writes acknowledged, {refused} refused.")
        if self.gated:
            self.tally.expect(not beat.accepted and refused == 20, "a queued heartbeat does not reopen the gate")
        self.report_overlap([*on_b.acknowledged, *queued], on_a.acknowledged, "B")

    def higher_epoch_elsewhere(self) -> None:
        """A holds a lease of 30 s when the news comes that epoch 6 is B's."""
        granter = self.promote(self.a, 5, ttl_ms=30_000)
        granter.stop()
        with Load(self.a, 5) as on_a:
            wait_until(lambda: on_a.writes > 500, 60, "load on A")
            self.a.command("CLUSTERX", "HEARTBEAT", self.b.id, TTL_MS, 6)
            told = time.monotonic()
            successor = self.promote(self.b, 6)
            with Load(self.b, 6, first=on_a.writes) as on_b:
                wait_until(lambda: on_b.writes > 500, 60, "load on B")
        successor.stop()
        after = [write for write in on_a.acknowledged if write.not_before > told]
        say(
            f"    A acknowledged {on_a.writes} writes, {len(after)} of them sent after it was told, "
            f"and refused {on_a.refused}; B acknowledged {on_b.writes}."
        )
        if self.gated:
            self.tally.expect(not after, "A closed at once, 30 s before its lease's end")
        self.report_overlap(on_a.acknowledged, on_b.acknowledged, "A")

    def restart(self) -> None:
        """Master B is killed (SIGKILL) and started again, while A has taken over."""
        granter = self.promote(self.b, 7)
        with Load(self.b, 7) as on_b:
            wait_until(lambda: on_b.writes > 500, 60, "load on B")
            granter.stop()
            self.b.kill()
        self.wait_out(granter)
        successor = self.promote(self.a, 8)
        with Load(self.a, 8) as on_a:
            wait_until(lambda: on_a.writes > 500, 60, "load on A")
            self.b.start()
            with Load(self.b, 7) as restarted:
                wait_until(lambda: restarted.writes + restarted.refused > 200, 60, "load on B")
        successor.stop()
        remembered = self.b.lease()["lease_epoch_seen"]
        say(
            f"    B acknowledged {on_b.writes} writes and was killed; started again it acknowledged "
            f"{restarted.writes} and refused {restarted.refused}. It remembers epoch {remembered}."
        )
        if self.gated:
            self.tally.expect(
                restarted.writes == 0 and remembered == 7,
                "a restarted master comes up closed and remembers its epoch",
            )
        self.report_overlap([*on_b.acknowledged, *restarted.acknowledged], on_a.acknowledged, "B")

    def drain(self) -> None:
        """A planned switch from A to B: A is drained, and B is granted the office at once."""
        granter = self.promote(self.a, 9)
        if self.gated:
            wait_until(lambda: self.a.replication()["log_epoch"] == 9, 60, "the epoch's record")
        before = self.a.sequence()
        with Load(self.a, 9) as on_a:
            wait_until(lambda: on_a.writes > 1_000, 60, "load on A")
            granter.stop()
            begun = time.monotonic()
            self.a.command("CLUSTERX", "DRAIN", 10_000)
            drained = time.monotonic()
            stored = self.a.sequence() - before
            successor = self.promote(self.b, 10)
            with Load(self.b, 10, first=on_a.writes) as on_b:
                wait_until(lambda: on_b.writes > 500, 60, "load on B")
        successor.stop()
        stored_later = self.a.sequence() - before - stored
        first = min(write.acknowledged for write in on_b.acknowledged)
        say(
            f"    The drain took {(drained - begun) * 1000:.1f} ms. A acknowledged {on_a.writes} "
            f"writes; its database held {stored} new ones when the drain ended, {stored_later} more came "
            f"later. B's first acknowledgement came {(first - begun) * 1000:.0f} ms after the "
            "drain began, without waiting a lease out."
        )
        if self.gated:
            exact = stored == on_a.writes and stored_later == 0 and on_a.uncertain == 0
            self.tally.expect(exact, "after the drain no write of the old epoch was on its way")
        self.report_overlap(on_a.acknowledged, on_b.acknowledged, "A")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the servers' directories")
    keep = parser.parse_args().keep
    if not BINARY.exists():
        say(f"{BINARY} is missing: `make demo` builds it")
        return 2
    started = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="tenure-demo-"))
    say(
        "Two database servers on RocksDB, clients that write to both, and a controller that makes one of them "
        f"master by heartbeats of {TTL_MS} ms. A write counts when it is acknowledged."
    )
    try:
        say()
        say("With the gate (master-lease-mode block-write)")
        gated = Story(directory / "gated", "block-write").tell()
        say()
        say("The same without the gate (master-lease-mode disabled)")
        open_ = Story(directory / "open", "disabled").tell()
        say()
        say("Three servers with an embedded member each, and no controller: a write is acknowledged when a second server has it")
        three = ThreeServers(directory / "three").tell()
    finally:
        if keep:
            say()
            say(f"The servers' directories are in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    say()
    say(f"In {time.monotonic() - started:.0f} s:")
    for name, tally in (("with the gate", gated), ("without it", open_)):
        say(
            f"  {name}: {tally.acknowledged} writes acknowledged; {tally.late} by an old master after "
            f"a new one was at work, {tally.doubled} keys promised with two values"
        )
    say(
        f"  three servers: {three.acknowledged} writes acknowledged; {three.by_two} by an old master after a new one was at work, "
        f"{three.lost} lost"
    )
    good = gated.wrong + open_.wrong + three.wrong == 0 and gated.late == 0 and open_.doubled > 0
    say("All of it was shown." if good else "NOT all of it was shown.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
