"""Locks from Python: what the verbs do, and what they refuse."""

from __future__ import annotations

import gc
import threading
import time
import warnings
from datetime import timedelta

import pytest

import tenure


def test_a_lock_is_held_by_one_and_tokens_rise(node):
    first = node.try_acquire("k", ttl=5)
    assert first is not None
    assert (first.key, first.held, first.lost.is_set()) == ("k", True, False)
    assert 0 < first.remaining <= 5
    assert node.try_acquire(b"k") is None, "str and bytes name the same lock"
    first.release()
    assert (first.held, first.remaining, first.lost.is_set()) == (False, 0.0, False)
    second = node.acquire("k", timeout=0)
    assert second.token > first.token
    with pytest.raises(tenure.NotHolderError) as refused:
        first.release()
    assert refused.value.token == second.token
    assert node.holder("k").token == second.token
    second.release()
    assert node.holder("k") is None


def test_the_holder_is_told_to_others(node):
    with node.lock("k", ttl=timedelta(seconds=30), metadata="who: me") as grant:
        holder = node.holder("k")
        assert (holder.node, holder.token, holder.mode, holder.metadata) == ("n1", grant.token, "exclusive", b"who: me")
        assert 0 < holder.remaining <= 30
        [info] = node.locks("k")
        assert (info.key, info.holders[0].token) == (b"k", grant.token)
        assert node.locks("other") == []


def test_lock_raises_when_it_did_not_acquire(node):
    entered = []
    with node.lock("k"):
        started = time.monotonic()
        with pytest.raises(tenure.LockTimeout), node.session("other") as other, other.lock("k", timeout=0.2):
            entered.append("the block ran without the lock")
        assert time.monotonic() - started > 0.19, "it waited (the ledger counts in milliseconds)"
        with pytest.raises(TimeoutError):
            node.acquire("k", timeout=timedelta(0))
    assert entered == []


def test_leaving_the_block_says_that_the_lock_was_lost(node):
    with pytest.raises(tenure.NotHolderError), node.lock("k"):
        assert node.force_release("k")
    with pytest.raises(KeyError, match="the block's own"), node.lock("k"):
        assert node.force_release("k")
        raise KeyError("the block's own")
    assert node.locks() == []


def test_a_lock_object_serves_one_block_at_a_time(node):
    context = node.lock("k")
    for _ in range(2):
        with context as grant:
            assert grant.held
            with pytest.raises(tenure.MisuseError), context:
                pytest.fail("entered twice")
            assert grant.held


def test_a_waiter_gets_the_lock_when_it_is_released(node):
    held = node.acquire("k")
    waiting = threading.Thread(target=lambda: got.append(node.session("w").acquire("k", timeout=10)))
    got: list[tenure.Grant] = []
    waiting.start()
    while node.holder("k").waiters == 0:
        time.sleep(0.001)
    held.release()
    waiting.join(10)
    assert got[0].token > held.token
    assert node.holder("k").node == "w"
    got[0].release()


def test_shared_and_semaphore(node):
    readers = [node.try_acquire("r", mode="shared") for _ in range(3)]
    assert all(readers)
    assert node.session("w").try_acquire("r") is None
    for reader in readers:
        reader.release()
    two = node.acquire("s", mode="semaphore", permits=2, limit=3)
    one = node.session("b").try_acquire("s", mode="semaphore", limit=3)
    assert one is not None
    assert node.session("c").try_acquire("s", mode="semaphore", limit=3) is None
    assert {(h.permits, h.limit) for h in node.locks("s")[0].holders} == {(2, 3), (1, 3)}
    two.release()
    one.release()


def test_several_locks_in_one_step(node):
    with node.acquire_all(["a", "b", "c"]) as grants:
        assert [g.key for g in grants] == ["a", "b", "c"]
        assert [node.holder(g.key).token for g in grants] == [g.token for g in grants]
        other = node.session("other")
        with pytest.raises(tenure.LockTimeout):
            other.acquire_all(["z", "b"], timeout=0.05)
        with pytest.raises(tenure.LockTimeout):
            other.acquire_all(["z", "b"], timeout=0)
        assert node.holder("z") is None, "all of them or none"
    assert node.locks() == []


def test_a_session_is_another_holder_and_ends_with_its_locks(node):
    with node.session("worker-7", ttl=2) as session:
        assert session.name == "worker-7"
        grant = session.acquire("k")
        assert node.holder("k").node == "worker-7"
        assert session.release_all() == 1
        with pytest.raises(tenure.NotHolderError):
            grant.release()
        kept = session.acquire("k")
    assert node.holder("k") is None
    assert not kept.held
    with pytest.raises(tenure.ClosedError):
        session.try_acquire("k")


def test_a_reentrant_lock_is_asked_for(node):
    first = node.acquire("k", reentrant=True)
    second = node.try_acquire("k", reentrant=True)
    assert second is not None
    first.release()
    assert node.session("other").try_acquire("k") is None
    second.release()


def test_a_grant_renewed_by_hand_ends_without_it(node, until):
    grant = node.acquire("k", ttl=0.2, renew="manual")
    for _ in range(4):
        assert grant.renew(0.3) > 0.2
    assert grant.held
    assert grant.lost.wait(5)
    assert not grant.held
    with pytest.raises(tenure.Error):
        grant.renew()
    until(lambda: node.holder("k") is None)
    again = node.acquire("k", ttl=0.5)
    assert not again.lost.wait(1.5), "the node renews it"
    assert again.held
    again.release()


def test_a_loss_is_told_once_with_its_reason(node, until):
    told, events = [], []
    stop = node.on_event(events.append)
    grant = node.acquire("k")
    grant.lost.add_callback(lambda lost: told.append(lost.reason))
    assert not grant.lost.wait(0.01)
    node.force_release("k")
    assert grant.lost.wait(5)
    until(lambda: told and events)
    assert (told, grant.lost.reason) == (["forced"], "forced")
    [event] = [e for e in events if e.kind == "lost"]
    assert (event.key, event.token, event.reason) == (b"k", grant.token, "forced")
    late: list[str | None] = []
    grant.lost.add_callback(lambda lost: late.append(lost.reason))
    assert late == ["forced"], "who asks after the loss is told at once"
    stop()
    released = node.acquire("k")
    released.lost.add_callback(lambda lost: told.append("wrong"))
    released.release()
    other = node.acquire("k")
    other.lost.add_callback(lambda lost: told.append("last"))
    node.force_release("k")
    until(lambda: told[-1] == "last")
    assert told == ["forced", "last"]
    assert len(events) == 1


def test_a_failing_callback_harms_nobody_else(node, until, caplog):
    seen = []

    def bad(_):
        raise SystemExit(3)

    node.on_event(bad)
    node.on_event(seen.append)
    grant = node.acquire("k")
    node.force_release("k")
    until(lambda: seen)
    assert grant.lost.is_set()
    assert "an event callback failed" in caplog.text


def test_collected_grant_is_released_with_a_warning(node):
    """F16: a guard that is collected without a release must not be renewed for ever."""
    grant = node.acquire("k")
    with pytest.warns(ResourceWarning, match="never released"):
        del grant
        gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        node.acquire("k", timeout=1).release()
        gc.collect()


def test_a_collected_session_is_closed(node):
    session = node.session("s")
    grant = session.acquire("k")
    before = node.status()["sessions"]
    del session
    gc.collect()
    assert node.holder("k").token == grant.token, "a grant keeps its session"
    grant.release()
    del grant
    gc.collect()
    assert node.status()["sessions"] == before - 1


def test_closing_a_node_loses_its_locks_and_ends_its_waits(until):
    node = tenure.Node()
    grant = node.acquire("k")
    told: list[str | None] = []
    grant.lost.add_callback(lambda lost: told.append(lost.reason))
    ended: list[BaseException] = []

    def wait():
        try:
            node.acquire("k")
        except tenure.Error as error:
            ended.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    until(lambda: node.holder("k").waiters == 1)
    node.close()
    waiting.join(10)
    assert isinstance(ended[0], (tenure.ClosedError, tenure.CancelledError))
    assert (grant.held, grant.lost.is_set(), told) == (False, True, ["closed"])
    assert node.closed
    node.close()
    with pytest.raises(tenure.ClosedError):
        node.try_acquire("k")
    assert node.status()["state"] == "closed"


def test_eight_threads_and_one_lock(node):
    inside, worst, order = [0], [0], []

    def work():
        for _ in range(50):
            with node.lock("k", ttl=30) as grant:
                inside[0] += 1
                worst[0] = max(worst[0], inside[0])
                order.append(grant.token)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (worst[0], len(order)) == (1, 400)
    assert order == sorted(set(order))


BAD_ARGUMENTS = [
    ({"key": ""}, tenure.InvalidArgumentError, "key"),
    ({"key": b""}, tenure.InvalidArgumentError, "key"),
    ({"key": "x" * 1025}, tenure.InvalidArgumentError, "key"),
    ({"key": "\udc80"}, tenure.InvalidArgumentError, "key"),
    ({"key": 7}, TypeError, "key"),
    ({"key": None}, TypeError, "key"),
    ({"ttl": 0}, tenure.InvalidArgumentError, "ttl"),
    ({"ttl": 0.05}, tenure.InvalidArgumentError, "ttl"),
    ({"ttl": -1}, tenure.InvalidArgumentError, "ttl"),
    ({"ttl": timedelta(seconds=-1)}, tenure.InvalidArgumentError, "ttl"),
    ({"ttl": float("nan")}, tenure.InvalidArgumentError, "ttl"),
    ({"ttl": float("inf")}, tenure.InvalidArgumentError, "ttl"),
    ({"ttl": float("-inf")}, tenure.InvalidArgumentError, "ttl"),
    ({"ttl": 2**64 - 1}, tenure.InvalidArgumentError, "ttl"),
    ({"ttl": 10**400}, tenure.InvalidArgumentError, "ttl"),
    ({"ttl": 24 * 3600 + 1}, tenure.InvalidArgumentError, "ttl"),
    ({"ttl": "5"}, TypeError, "ttl"),
    ({"ttl": True}, TypeError, "ttl"),
    ({"mode": "exclusiv"}, tenure.InvalidArgumentError, "mode"),
    ({"mode": "semaphore"}, tenure.InvalidArgumentError, "limit"),
    ({"mode": "semaphore", "limit": 0}, tenure.InvalidArgumentError, "permits"),
    ({"mode": "semaphore", "limit": 2, "permits": 3}, tenure.InvalidArgumentError, "permits"),
    ({"mode": "semaphore", "limit": 2, "permits": 0}, tenure.InvalidArgumentError, "permits"),
    ({"mode": "semaphore", "limit": -1}, tenure.InvalidArgumentError, "limit"),
    ({"mode": "semaphore", "limit": 2**32}, tenure.InvalidArgumentError, "limit"),
    ({"limit": 3}, tenure.InvalidArgumentError, "mode"),
    ({"lock_delay": 3601}, tenure.InvalidArgumentError, "lock_delay"),
    ({"lock_delay": -1}, tenure.InvalidArgumentError, "lock_delay"),
    ({"metadata": b"x" * 1025}, tenure.InvalidArgumentError, "metadata"),
    ({"metadata": 5}, TypeError, "metadata"),
    ({"renew": "sometimes"}, tenure.InvalidArgumentError, "renew"),
    ({"tll": 5}, TypeError, "tll"),
]


@pytest.mark.parametrize(("bad", "error", "named"), BAD_ARGUMENTS, ids=lambda v: repr(v)[:60])
def test_bad_arguments_are_refused_by_name_and_change_nothing(node, bad, error, named):
    with node.lock("other") as grant:
        before = node.locks(), node.status()
        for verb in (node.try_acquire, node.acquire):
            with pytest.raises(error) as refused:
                verb(**{"key": "k", **bad})
            assert named in str(refused.value)
        if "key" not in bad:
            with pytest.raises(error):
                node.acquire_all(["k", "l"], **bad)
        after = node.locks(), node.status()
        assert [i.holders[0].token for i in after[0]] == [grant.token]
        assert [i.key for i in after[0]] == [i.key for i in before[0]]
        assert after[1]["last_token"] == before[1]["last_token"]


@pytest.mark.parametrize(
    ("timeout", "error"),
    [(-1, tenure.InvalidArgumentError), (float("nan"), tenure.InvalidArgumentError), ("1", TypeError)],
)
def test_bad_timeouts(node, timeout, error):
    with pytest.raises(error, match="timeout"):
        node.acquire("k", timeout=timeout)
    assert node.locks() == []


def test_bad_keys_of_several(node):
    for keys, error in (("ab", TypeError), ([], tenure.InvalidArgumentError), ([""], tenure.InvalidArgumentError)):
        with pytest.raises(error):
            node.acquire_all(keys)
    with pytest.raises(tenure.Error):
        node.acquire_all(["a", "a"])
    assert node.locks() == []


def test_bad_tokens_release_nothing(node):
    with node.lock("k") as grant:
        core = node._core
        for token in (0, grant.token + 1, 2**64 - 1):
            with pytest.raises(tenure.NotHolderError):
                core.release("k", token)
        for token in (-1, 2**64):
            with pytest.raises(OverflowError):
                core.release("k", token)
        assert node.holder("k").token == grant.token


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"sesion_ttl": 5}, tenure.UnknownOptionError, "sesion_ttl"),
        ({"gate_mood": "x"}, tenure.UnknownOptionError, "gate_mood"),
        ({"session_ttl": 0}, tenure.InvalidArgumentError, "session_ttl_ms"),
        ({"session_ttl": -5}, tenure.InvalidArgumentError, "session_ttl"),
        ({"session_ttl": float("nan")}, tenure.InvalidArgumentError, "session_ttl"),
        ({"session_ttl": 2**64 - 1}, tenure.InvalidArgumentError, "session_ttl_ms"),
        ({"session_ttl": "5"}, TypeError, "session_ttl"),
        ({"session_ttl": 5, "session_ttl_ms": 5000}, tenure.InvalidArgumentError, "session_ttl"),
        ({"session_ttl_ms": 2**64}, tenure.InvalidArgumentError, "session_ttl_ms"),
        ({"gate_mode": "blok"}, tenure.InvalidArgumentError, "gate.mode"),
        ({"node_id": "\udcff"}, tenure.InvalidArgumentError, "node_id"),
        ({"node_id": "x" * 65}, tenure.InvalidArgumentError, "node_id"),
        ({"data_dir": 5.5}, TypeError, "data_dir"),
        ({"data_dir": "a\0b"}, tenure.InvalidArgumentError, "data_dir"),
        ({"delivery": "fd"}, tenure.InvalidArgumentError, "delivery"),
    ],
)
def test_bad_settings_are_refused_by_name(options, error, named):
    with pytest.raises(error, match=named.replace(".", r"\.")):
        tenure.Node(**options)


def test_settings_have_units():
    for options in (
        {"session_ttl": 2.5},
        {"session_ttl_ms": 2500},
        {"session_ttl": timedelta(seconds=2.5)},
        {"session_ttl": None},
    ):
        with tenure.Node(node_id="a1", **options) as node:
            assert node.node_id == "a1"


def test_a_node_that_is_dropped_is_closed_with_a_warning():
    node = tenure.Node()
    with pytest.warns(ResourceWarning, match="never closed"):
        del node
        gc.collect()
