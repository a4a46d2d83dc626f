"""The write gate from Python: opened by heartbeats or by an office, closed by time, epochs, drains and mode."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import textwrap
import threading
import time

import pytest

import tenure
import tenure.aio


@pytest.fixture
def gate(node):
    with node.gate("writes") as gate:
        yield gate


def beat(gate, epoch=1, ttl=5.0):
    return gate.heartbeat(epoch, ttl, gate.next_nonce())


def test_it_is_closed_until_it_is_granted_a_lease(gate):
    assert (gate.name, gate.mode, gate.check()) == ("writes", "block-write", False)
    with pytest.raises(tenure.DeniedError) as denied, gate.write():
        pytest.fail("the block ran without a lease")
    assert denied.value.reason == "never_granted"
    with pytest.raises(tenure.DeniedError):
        gate.require()
    reply = beat(gate, epoch=7)
    assert (reply.accepted, reply.epoch, reply.reason, reply.closed) == (True, 7, None, None)
    assert 0 < reply.remaining <= 5
    assert gate.check()
    assert gate.require() == 7
    with gate.write() as permit:
        assert permit.epoch == 7
        assert permit.precommit() is tenure.Verdict.HELD
    renewed = gate.heartbeat(7, 5.0, reply.next_nonce)
    assert renewed.accepted


def test_a_lease_ends_by_itself_and_a_late_write_is_uncertain(gate, until):
    beat(gate, ttl=0.25)
    late = gate.enter()
    with pytest.raises(tenure.UncertainError) as uncertain, gate.write() as permit:
        until(lambda: not gate.check())
        until(lambda: permit.precommit() is tenure.Verdict.UNCERTAIN)
    assert uncertain.value.token == 1
    assert late.finish() is tenure.Verdict.UNCERTAIN
    with pytest.raises(tenure.MisuseError):
        late.finish()
    with pytest.raises(tenure.DeniedError) as denied:
        gate.enter()
    assert denied.value.reason == "expired"


def test_verdicts_in_a_condition():
    assert tenure.Verdict.HELD
    assert not tenure.Verdict.UNCERTAIN
    assert len({tenure.Verdict.HELD, tenure.Verdict.UNCERTAIN}) == 2


def test_a_block_that_fails_says_its_own_error(gate, until):
    beat(gate, ttl=0.2)
    with pytest.raises(KeyError), gate.write():
        until(lambda: not gate.check())
        raise KeyError
    assert gate.status()["in_flight"] == 0


def test_a_heartbeat_counts_from_its_nonce(gate, until):
    assert gate.heartbeat(1, 5.0).reason == "no_nonce"
    assert gate.heartbeat(1, 5.0, 12345).reason == "unknown_nonce"
    nonce = gate.next_nonce()
    asked = time.monotonic()
    until(lambda: time.monotonic() > asked + 0.15)
    reply = gate.heartbeat(1, 0.1, nonce)
    assert (reply.accepted, reply.reason) == (False, "expired")
    assert not gate.check()


def test_trust_receipt_is_a_named_weaker_mode(node):
    with node.gate("w", trust_receipt=True) as gate:
        assert gate.heartbeat(1, 5.0).accepted
        assert gate.check()
        assert any("trust_receipt" in mode for mode in node.status()["weaker_modes"])


def test_epochs_never_go_back(gate):
    beat(gate, epoch=5)
    with pytest.raises(tenure.FencedError) as fenced:
        beat(gate, epoch=4)
    assert fenced.value.token == 5
    gate.check_epoch(5)
    with pytest.raises(tenure.FencedError):
        gate.check_epoch(4)
    with gate.write() as permit:
        gate.observe(6, "n2")
        assert not gate.check()
        assert permit.finish() is tenure.Verdict.UNCERTAIN
    with pytest.raises(tenure.DeniedError) as denied:
        gate.enter()
    assert denied.value.reason == "superseded"
    with pytest.raises(tenure.FencedError):
        beat(gate, epoch=5)
    with pytest.raises(tenure.InvalidArgumentError):
        beat(gate, epoch=6 + 2**40)


def test_a_drain_is_exact(gate):
    beat(gate)
    permit = gate.enter()
    with pytest.raises(tenure.LockTimeout):
        gate.drain(timeout=0.1)
    with pytest.raises(tenure.DeniedError) as denied:
        gate.enter()
    assert denied.value.reason == "draining"
    finished = []

    def finish():
        finished.append((time.monotonic(), permit.finish()))

    thread = threading.Timer(0.1, finish)
    thread.start()
    gate.drain(timeout=10)
    drained = time.monotonic()
    thread.join()
    assert finished[0][1] is tenure.Verdict.HELD
    assert finished[0][0] <= drained
    assert not gate.check()


def test_a_drain_may_be_given_up(gate):
    beat(gate)
    permit = gate.enter()
    with pytest.raises(tenure.LockTimeout):
        gate.drain(timeout=0)
    gate.cancel_drain()
    assert gate.check()
    permit.leave()
    with pytest.raises(tenure.MisuseError):
        gate.cancel_drain()


def test_an_office_opens_the_gate_and_resigning_hands_it_over(node, until):
    events = []
    node.on_event(events.append)
    gate = node.gate("office")
    gate.hold("master", ttl=5)
    until(gate.check)
    assert gate.require() == node.holder("master").token
    other = node.session("n2")
    waiting = threading.Thread(target=lambda: got.append(other.acquire("master", timeout=10)))
    got: list[tenure.Grant] = []
    waiting.start()
    until(lambda: node.holder("master").waiters == 1)
    epoch = gate.require()
    gate.resign(timeout=5)
    waiting.join(10)
    assert got[0].token > epoch
    assert not gate.check()
    until(lambda: [e for e in events if e.kind == "gate_drained"])
    kinds = [e.kind for e in events if e.gate == "office"]
    assert kinds[0] == "gate_granted"
    with pytest.raises(tenure.MisuseError):
        gate.resign()
    got[0].release()
    gate.close()


def test_a_lost_office_closes_the_gate(node, until):
    with node.gate("office") as gate:
        gate.hold("master", ttl=5)
        until(gate.check)
        first = gate.require()
        assert node.force_release("master", delay=0.3)
        until(lambda: not gate.check() or gate.require() > first)
        until(gate.check)
        assert gate.require() > first, "it campaigns again"


def test_modes_change_while_it_is_in_use(gate):
    gate.mode = "log-only"
    with gate.write():
        assert gate.mode == "log-only"
    gate.mode = "disabled"
    with gate.write():
        assert gate.mode == "disabled"
    gate.mode = "block-write"
    with pytest.raises(tenure.DeniedError):
        gate.enter()
    with pytest.raises(tenure.InvalidArgumentError, match="mode"):
        gate.mode = "blok"
    assert gate.mode == "block-write"


def test_write_classes(gate):
    with gate.write("replication"):
        pass
    with pytest.raises(tenure.DeniedError):
        gate.write("deferrable")
    with pytest.raises(tenure.InvalidArgumentError, match="write_class"):
        gate.write("admin")


def test_a_reset_closes_it_and_keeps_the_epochs(gate):
    beat(gate, epoch=3)
    gate.reset()
    assert not gate.check()
    with pytest.raises(tenure.FencedError):
        beat(gate, epoch=2)
    assert beat(gate, epoch=4).accepted


def test_a_closed_gate_is_closed_for_good(node):
    gate = node.gate("g")
    with pytest.raises(tenure.MisuseError):
        node.gate("g")
    beat(gate)
    gate.close()
    gate.close()
    assert not gate.check()
    with pytest.raises(tenure.ClosedError):
        gate.enter()
    with node.gate("g") as again:
        assert not again.check()


def test_closing_the_node_closes_its_gates(until):
    node = tenure.Node()
    gate = node.gate()
    beat(gate)
    permit = gate.enter()
    node.close()
    assert not gate.check()
    assert permit.finish() is tenure.Verdict.UNCERTAIN


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"mode": "blok"}, tenure.InvalidArgumentError),
        ({"leash": 0}, tenure.InvalidArgumentError),
        ({"leash": float("nan")}, tenure.InvalidArgumentError),
        ({"leesh": 1}, tenure.UnknownOptionError),
        ({"session_ttl": 1}, tenure.UnknownOptionError),
        ({"name": ""}, tenure.InvalidArgumentError),
        ({"name": "\udc80"}, tenure.InvalidArgumentError),
    ],
)
def test_bad_options(node, options, error):
    with pytest.raises(error):
        node.gate(**options)
    assert node.status()["gates"] == []


@pytest.mark.parametrize(
    ("ttl", "error"),
    [
        (0, tenure.InvalidArgumentError),
        (-1, tenure.InvalidArgumentError),
        (float("nan"), tenure.InvalidArgumentError),
        ("1", TypeError),
    ],
)
def test_bad_heartbeats(gate, ttl, error):
    with pytest.raises(error):
        gate.heartbeat(1, ttl, gate.next_nonce())
    with pytest.raises(OverflowError):
        gate.heartbeat(-1, 5, gate.next_nonce())
    assert not gate.check()


def test_permits_are_counted_on_every_thread(gate):
    beat(gate, ttl=60)
    permits = []

    def enter():
        permits.extend(gate.enter() for _ in range(50))

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gate.status()["in_flight"] == 400
    assert all(p.finish() is tenure.Verdict.HELD for p in permits), "finished on another thread"
    assert gate.status()["in_flight"] == 0
    gate.enter()
    assert gate.status()["in_flight"] == 0, "a collected permit is left"


async def test_from_asyncio():
    async with tenure.aio.Node(node_id="n1") as node, await node.gate("w") as gate:
        assert not gate.check()
        await gate.heartbeat(2, 5.0, gate.next_nonce())
        with gate.write() as permit:
            await asyncio.sleep(0)
            assert permit.epoch == 2
        permit = gate.enter()
        drain = asyncio.create_task(gate.drain(timeout=10))
        await asyncio.sleep(0.02)
        assert not drain.done()
        permit.leave()
        await drain
        assert gate.status()["epoch"] == 2


async def test_an_office_is_handed_over_from_asyncio():
    async with tenure.aio.Node(node_id="n1") as node, await node.gate("w") as gate:
        await gate.hold("office", 60.0)
        end = asyncio.get_running_loop().time() + 60
        while not gate.check():
            assert asyncio.get_running_loop().time() < end
            await asyncio.sleep(0.002)
        with pytest.raises(tenure.UnavailableError):
            await gate.resign_to("n3")
        assert gate.check()
        sessions = [await node.session(name) for name in ("n2", "n3")]
        waiting = []
        for place, session in enumerate(sessions, 1):
            waiting.append(asyncio.create_task(session.acquire("office", timeout=60)))
            while (await node.holder("office")).waiters < place:
                assert asyncio.get_running_loop().time() < end
                await asyncio.sleep(0.002)
        epoch = gate.status()["epoch"]
        await gate.resign_to("n3", timeout=60)
        grant = await waiting[1]
        assert grant.token > epoch
        assert not waiting[0].done()
        assert not gate.check()
        await grant.release()
        await (await waiting[0]).release()


@pytest.mark.parametrize(
    ("on_expiry", "in_flight", "aborted"),
    [("abort", True, True), ("abort", False, False), ("abort-always", False, True), ("none", True, False)],
)
def test_the_process_is_aborted_when_its_lease_ends_under_a_write(program, on_expiry, in_flight, aborted):
    ended = program(
        textwrap.dedent(f"""
        import time, tenure
        with tenure.Node() as node:
            gate = node.gate("writes", on_expiry={on_expiry!r})
            gate.heartbeat(1, 0.3, gate.next_nonce())
            permit = gate.enter() if {in_flight} else None
            end = time.monotonic() + 60
            while gate.status()["remaining_ms"] or gate.status()["losses"] == 0:
                assert time.monotonic() < end
                time.sleep(0.01)
            if {aborted}:
                time.sleep(60)
    """)
    )
    assert ended.returncode == (-signal.SIGABRT if aborted else 0), ended.stderr


# F62.
def test_a_host_that_does_not_beat_loses_its_gate(node, until):
    gate = node.gate("writes", beat_timeout_ms=200)
    gate.heartbeat(1, 60.0, gate.next_nonce())
    until(lambda: not gate.check())
    with pytest.raises(tenure.DeniedError) as denied:
        gate.enter()
    assert denied.value.reason == "host_silent"
    assert gate.heartbeat(1, 60.0, gate.next_nonce()).reason == "host_silent"
    gate.beat()
    assert gate.heartbeat(1, 60.0, gate.next_nonce()).accepted


def test_a_machine_that_was_restored_needs_a_higher_epoch(tmp_path, until):
    generation = tmp_path / "vmgenid"
    generation.write_bytes(b"one")
    with tenure.Node(vmgenid_path=generation) as node, node.gate("writes") as gate:
        gate.heartbeat(4, 60.0, gate.next_nonce())
        generation.write_bytes(b"two")
        until(lambda: not gate.check())
        assert gate.status()["reason"] == "restored"
        assert node.status()["clock"]["restores"] == 1
        assert not gate.heartbeat(4, 60.0, gate.next_nonce()).accepted
        assert gate.heartbeat(5, 60.0, gate.next_nonce()).accepted


def test_a_watchdog_is_fed_and_disarmed(tmp_path, until):
    device = tmp_path / "watchdog"
    os.mkfifo(device)
    # Somebody has the other end open, as the device has.
    reader = os.open(device, os.O_RDONLY | os.O_NONBLOCK)
    try:
        fed = bytearray()

        def read() -> bytes:
            with contextlib.suppress(BlockingIOError):
                fed.extend(os.read(reader, 65536))
            return bytes(fed)

        with tenure.Node() as node, node.gate("writes", watchdog=str(device)) as gate:
            assert read() == b""
            gate.heartbeat(1, 60.0, gate.next_nonce())
            until(lambda: len(read()) >= 3)
            assert set(fed) == {0}
            gate.drain()
            until(lambda: read().endswith(b"V"))
    finally:
        os.close(reader)


def test_step_downs_are_told_in_order(node, until):
    told = []
    node.on_event(lambda event: told.append(event.kind))
    with node.gate("writes") as gate:
        gate.heartbeat(1, 0.3, gate.next_nonce())
        until(lambda: "gate_drained" in told)
        assert told == ["gate_granted", "gate_at_risk", "gate_lost", "gate_drained"]
        told.clear()
        gate.heartbeat(2, 60.0, gate.next_nonce())
        gate.drain()
        until(lambda: "gate_drained" in told)
        assert told == ["gate_granted", "gate_stepping_down", "gate_drained"]
