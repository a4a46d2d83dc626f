"""Three servers, each with a member of one cluster inside: the cluster's leader is killed, the master is stopped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import redis
from history import Write, check
from kvgate import BLOCKED, wait_until
from tell import Claims, say
from trio import NAMES, Client, Trio

TTL_MS = 2_000
# The lease's end, the election of a new leader, and the comparison of the logs; the rest is for a slow machine.
BOUND_S = 6.0


@dataclass
class Result(Claims):
    """What the story came to."""

    acknowledged: int = 0
    by_two: int = 0
    lost: int = 0


class ThreeServers:
    """The story. No controller takes part in it."""

    def __init__(self, directory: Path) -> None:
        self.trio = Trio(directory, TTL_MS)
        self.clients = [Client(self.trio, number) for number in range(3)]
        self.result = Result()

    def tell(self) -> Result:
        with self.trio:
            master = self.trio.wait_master(NAMES)
            for client in self.clients:
                client.thread.start()
            self.work()
            leader = self.trio.wait_leader(NAMES)
            say(f"    {master} holds the lease and is master; the cluster of members is led by {leader}.")
            try:
                say()
                say(f"  1. The leader's server, {leader}, is killed (kill -9).")
                self.leader_is_killed(leader)
                say()
                say("  2. The master is stopped (SIGSTOP) with writes waiting in its sockets, and wakes when another serves.")
                self.master_is_stopped()
            finally:
                for client in self.clients:
                    client.stopped.set()
            for client in self.clients:
                client.thread.join(60)
            self.count()
        return self.result

    def work(self, writes: int = 500) -> None:
        """Waits until the clients have had so many more writes acknowledged."""
        goal = len(self.history()) + writes
        wait_until(lambda: len(self.history()) >= goal, 120, "acknowledged writes")

    def history(self) -> list[Write]:
        return [Write(*where[:2], key, *where[2:]) for client in self.clients for key, where in list(client.acknowledged.items())]

    def gap_after(self, moment: float, epoch: int = 0) -> float:
        """How long after the moment a write was sent and acknowledged under a later epoch."""
        wait_until(lambda: any(w.sent > moment and w.epoch > epoch for w in self.history()), 120, "a new master's writes")
        return min(w.acknowledged for w in self.history() if w.sent > moment and w.epoch > epoch) - moment

    def leader_is_killed(self, leader: str) -> None:
        rest = [name for name in NAMES if name != leader]
        was_master = self.trio.wait_master(NAMES) == leader
        epoch = max(w.epoch for w in self.history())
        killed = time.monotonic()
        self.trio.servers[leader].kill()
        gap = self.gap_after(killed, epoch if was_master else 0)
        successor = self.trio.wait_leader(rest)
        master = self.trio.wait_master(rest)
        say(
            f"    {successor} leads the cluster now. {leader} was {'the' if was_master else 'not the'} master; {master} "
            f"acknowledged a write {gap * 1000:.0f} ms after the kill."
        )
        self.result.expect(gap < BOUND_S, f"writes went on within {BOUND_S:.0f} s (the lease is {TTL_MS / 1000:.0f} s)")
        self.work()
        self.trio.servers[leader].start()
        wait_until(lambda: self.caught_up(leader, rest), 120, "the killed server to catch up")
        info = self.trio.servers[leader].replication()
        say(f"    {leader} is started again, follows {master} as a replica and has caught up.")
        self.result.expect(info["role"] == "slave", "the killed server comes back as a replica")

    def caught_up(self, name: str, others: Sequence[str]) -> bool:
        sequence = self.trio.servers[self.trio.wait_master(others)].sequence()
        info = self.trio.servers[name].replication()
        return info["role"] == "slave" and info["master_link_status"] == "up" and info["slave_repl_offset"] >= sequence

    def master_is_stopped(self) -> None:
        old = self.trio.wait_master(NAMES)
        rest = [name for name in NAMES if name != old]
        server = self.trio.servers[old]
        waiting = [server.client() for _ in range(20)]
        for client in waiting:
            client.ping()
        epoch = max(w.epoch for w in self.history())
        stopped = time.monotonic()
        server.freeze()
        for number, client in enumerate(waiting):
            client.connection.send_command("SET", f"queued:{number}", old)
        gap = self.gap_after(stopped, epoch)
        master = self.trio.wait_master(rest)
        self.work()
        thawed = time.monotonic()
        server.thaw()
        taken = refused = moved = 0
        for client in waiting:
            try:
                client.connection.read_response()
                taken += 1
            except redis.ResponseError as error:
                refused += BLOCKED in str(error)
                moved += BLOCKED not in str(error)
            client.close()
        wait_until(lambda: self.caught_up(old, rest), 120, "the stopped server to catch up")
        after = [w for w in self.history() if w.server == old and w.sent > thawed]
        say(
            f"    {master} acknowledged a write {gap * 1000:.0f} ms after {old} had been stopped. {old} woke with 20 writes in its "
            f"sockets: {taken} acknowledged, {refused} refused by the gate, {moved} sent on to the new master."
        )
        self.result.expect(gap < BOUND_S, f"the replacement served within {BOUND_S:.0f} s (the lease is {TTL_MS / 1000:.0f} s)")
        self.result.expect(taken == 0 and not after, f"{old} acknowledged nothing after it had been replaced")

    def count(self) -> None:
        history = self.history()
        master = self.trio.wait_master(NAMES)
        with self.trio.servers[master].client() as reader:
            survived = {w.key for w in history if reader.get(w.key) is not None}
        verdict = check(history, survived)
        self.result.acknowledged = len(history)
        self.result.by_two, self.result.lost = len(verdict.by_two), len(verdict.lost)
        epochs = len({w.epoch for w in history})
        say()
        say(f"    {len(history)} writes were acknowledged under {epochs} epochs; {master} has {len(survived)} of them.")
        self.result.expect(not verdict.lost, "no acknowledged write is lost")
        self.result.expect(not verdict.by_two, "none was acknowledged by two masters at once")
