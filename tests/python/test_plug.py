"""A node over a host's lock service written in Python: what it does when the service is slow, wrong, stuck or limited."""

from __future__ import annotations

import os
import textwrap
import threading
import time

import pytest

import tenure
from locktable import Fenced, Plain, Polled, Table
from nativeservice import NativeService, compiled
from tenure import aio

PATIENCE = 60.0


@pytest.fixture
def table():
    return Table()


class Stuck(Polled):
    """Hangs in the named verb for the named key until it is let go."""

    def __init__(self, table, node_id="n1"):
        super().__init__(table, node_id)
        self.where = None
        self.stuck = threading.Event()
        self.go = threading.Event()

    def _meet(self, verb, key):
        if self.where == (verb, key):
            self.stuck.set()
            self.go.wait(PATIENCE)

    def try_acquire(self, key, ttl, timeout):
        token = super().try_acquire(key, ttl, timeout)
        self._meet("try_acquire", key)
        return token

    def renew(self, key, token, ttl, timeout):
        self._meet("renew", key)
        return super().renew(key, token, ttl, timeout)

    def release(self, key, token, timeout):
        self._meet("release", key)
        return super().release(key, token, timeout)


@pytest.fixture
def stuck(table):
    service = Stuck(table)
    yield service
    service.go.set()


def test_a_renewal_that_hangs_costs_its_own_key_only(stuck, until):
    with tenure.Node(lock_service=stuck) as node:
        told = []
        node.on_event(told.append)
        other = node.acquire("other", ttl=3)
        gate, healthy = node.gate("stuck"), node.gate("healthy")
        stuck.where = ("renew", b"office")
        gate.hold("office", ttl=3)
        healthy.hold("healthy", ttl=3)
        until(lambda: gate.check() and healthy.check(), PATIENCE)
        office = node.holder("office").token
        acquired = stuck.table.grants[b"office"][2] - 3
        assert stuck.stuck.wait(PATIENCE)
        until(lambda: not gate.check(), PATIENCE)
        # Closed before the service may grant it to another.
        assert time.monotonic() <= acquired + 3 + 1.0
        until(lambda: [e for e in told if e.kind == "lost"], PATIENCE)
        assert {e.token for e in told if e.kind == "lost"} == {office}
        end = time.monotonic() + 2
        while time.monotonic() < end:
            assert other.held
            assert healthy.check()
            time.sleep(0.02)
        stuck.go.set()


def test_a_gate_over_a_stuck_service_is_closed_when_another_is_granted(table, stuck, until):
    with tenure.Node(lock_service=stuck) as node, tenure.Node(lock_service=Fenced(table, "n2")) as other:
        gate = node.gate("writes")
        stuck.where = ("renew", b"office")
        gate.hold("office", ttl=1)
        until(gate.check, PATIENCE)
        with other.lock("office", ttl=5, timeout=PATIENCE):
            assert not gate.check()
        stuck.go.set()


def test_a_grant_counts_from_the_sending(table):
    class Slow(Polled):
        def try_acquire(self, key, ttl, timeout):
            token = super().try_acquire(key, ttl, timeout)
            time.sleep(0.4)
            return token

    with tenure.Node(lock_service=Slow(table, "n1")) as node:
        grant = node.try_acquire("k", ttl=5, renew="manual")
        assert 0 < grant.remaining <= 4.6
        grant.release()


def test_what_is_granted_after_the_call_was_given_up_is_released(table, stuck, until):
    stuck.where = ("try_acquire", b"k")
    with tenure.Node(lock_service=stuck, request_timeout=0.3) as node:
        with pytest.raises(tenure.UnavailableError, match="did not answer in time"):
            node.try_acquire("k", ttl=600)
        assert table.live(b"k")
        stuck.where = None
        stuck.go.set()
        until(lambda: not table.live(b"k"), PATIENCE)
        node.acquire("k", timeout=PATIENCE).release()


def test_a_release_that_hangs_is_answered_in_time(stuck):
    with tenure.Node(lock_service=stuck, request_timeout=0.3) as node:
        grant = node.acquire("k")
        stuck.where = ("release", b"k")
        with pytest.raises(tenure.UnavailableError):
            grant.release()
        node.acquire("other").release()
        stuck.go.set()


def test_closing_a_node_waits_for_no_stuck_call(stuck):
    node = tenure.Node(lock_service=stuck, request_timeout=60)
    grant = node.acquire("k")
    stuck.where = ("release", b"k")
    with pytest.raises(tenure.LockTimeout):
        node.close(timeout=0.2)
    assert not grant.held
    stuck.go.set()


@pytest.mark.parametrize(
    ("verb", "call"),
    [
        ("shared locks", lambda n: n.try_acquire("k", mode="shared")),
        ("semaphores", lambda n: n.try_acquire("k", mode="semaphore", limit=2)),
        ("lock_delay", lambda n: n.try_acquire("k", lock_delay=1)),
        ("reentrant", lambda n: n.try_acquire("k", reentrant=True)),
        ("metadata", lambda n: n.try_acquire("k", metadata=b"x")),
        ("acquire_all", lambda n: n.acquire_all(["k", "l"])),
        ("force_release", lambda n: n.force_release("k")),
        ("locks", lambda n: n.locks()),
    ],
)
def test_what_the_service_cannot_do_is_named(table, verb, call):
    with tenure.Node(lock_service=Fenced(table, "n1")) as node:
        with pytest.raises(tenure.UnsupportedError, match=f"^{verb}: ") as caught:
            call(node)
        assert not caught.value.retriable
        assert node.holder("k") is None


def test_without_renewals_a_grant_ends_and_its_holder_is_told(table):
    with tenure.Node(lock_service=Plain(table, "n1")) as node:
        grant = node.try_acquire("k", ttl=0.5)
        with pytest.raises(tenure.UnsupportedError, match=r"^renew: "):
            grant.renew()
        assert grant.lost.wait(PATIENCE)
        assert node.status()["weaker_modes"] == [
            "lock_service: no fencing, tokens are this process's own count",
            "lock_service: no renewals, a grant ends after its ttl",
            "lock_service: holder may be old",
        ]
        assert node.status()["last_token"] == 0


def test_without_fencing_a_gate_holds_office_only_when_it_is_allowed(table, until):
    with tenure.Node(lock_service=Plain(table, "n1")) as node:
        gate = node.gate()
        with pytest.raises(tenure.UnsupportedError, match="service_unfenced_gates"):
            gate.hold("office")
    with tenure.Node(lock_service=Plain(table, "n1"), service_unfenced_gates=True) as node:
        gate = node.gate()
        gate.hold("office", ttl=600)
        until(gate.check, PATIENCE)
        assert "service_unfenced_gates=true" in node.status()["weaker_modes"]


@pytest.mark.parametrize(
    ("failure", "expected", "says"),
    [
        (ConnectionError("no route"), tenure.UnavailableError, "no route"),
        (TimeoutError("slow"), tenure.UnavailableError, "slow"),
        (KeyError("k"), tenure.LockServiceError, "KeyError"),
        (SystemExit(3), tenure.LockServiceError, "SystemExit"),
        (NotImplementedError(), tenure.UnsupportedError, "try_acquire"),
        (tenure.LimitError("too many"), tenure.LimitError, "too many"),
    ],
)
def test_what_the_service_raises_reaches_the_caller(table, failure, expected, says):
    class Failing(Polled):
        def try_acquire(self, key, ttl, timeout):
            raise failure

    with tenure.Node(lock_service=Failing(table, "n1")) as node, pytest.raises(expected, match=says):
        node.try_acquire("k")


@pytest.mark.parametrize("answer", [True, -1, "7", 1 << 63, 0])
def test_an_answer_that_is_none_is_refused(table, answer):
    class Wrong(Polled):
        def try_acquire(self, key, ttl, timeout):
            return answer

    with tenure.Node(lock_service=Wrong(table, "n1")) as node:
        with pytest.raises(tenure.LockServiceError):
            node.try_acquire("k")
        with pytest.raises(tenure.LockServiceError):
            node.acquire("k", timeout=PATIENCE)


def test_tokens_that_do_not_increase_are_refused(table):
    class Backwards(Polled):
        def try_acquire(self, key, ttl, timeout):
            return 100 - super().try_acquire(key, ttl, timeout)

        def release(self, key, token, timeout):
            return super().release(key, 100 - token, timeout)

    with tenure.Node(lock_service=Backwards(table, "n1")) as node:
        node.try_acquire("k").release()
        with pytest.raises(tenure.LockServiceError, match="99 was given before"):
            node.try_acquire("k")


def test_a_waiter_outlasts_trouble(table):
    class Moody(Polled):
        def __init__(self, *args):
            super().__init__(*args)
            self.left = 3

        def try_acquire(self, key, ttl, timeout):
            self.left -= 1
            if self.left >= 0:
                raise ConnectionError("not now")
            return super().try_acquire(key, ttl, timeout)

    service = Moody(table, "n1")
    with tenure.Node(lock_service=service, service_poll=0.01) as node:
        node.acquire("k", timeout=PATIENCE).release()
        service.left = 1 << 60
        # Whichever clock ends the wait: the caller's, or the engine's, which knows of the trouble.
        with pytest.raises((tenure.UnavailableError, tenure.LockTimeout)):
            node.acquire("k", timeout=0.2)


def test_a_node_is_known_by_the_services_name(table, tmp_path):
    service = Fenced(table, "n1")
    with tenure.Node(lock_service=service) as node:
        assert node.node_id == "n1"
    with pytest.raises(tenure.InvalidArgumentError, match=r"^node_id: "):
        tenure.Node(lock_service=service, node_id="n2")
    with pytest.raises(tenure.InvalidArgumentError, match=r"^data_dir: "):
        tenure.Node(lock_service=service, data_dir=tmp_path)
    with pytest.raises(tenure.InvalidArgumentError, match=r"^node_id: "):
        tenure.Node(lock_service=Fenced(table, "not a name"))
    with pytest.raises(TypeError, match=r"has no node_id, try_acquire"):
        tenure.Node(lock_service=object())


def test_a_build_without_etcd_says_so():
    with pytest.raises(tenure.UnsupportedError, match=r"^etcd: "):
        tenure.Node(etcd="http://127.0.0.1:2379")


def test_claims_without_a_method_are_refused(table):
    class Claims(Plain):
        capabilities = tenure.Capabilities(renew=True)

    with pytest.raises(TypeError, match="claims renew"):
        tenure.Node(lock_service=Claims(table, "n1"))


def test_ttls_are_rounded_up_to_what_the_service_can(table):
    class Coarse(Polled):
        capabilities = tenure.Capabilities(fencing=True, renew=True, ttl_granularity=1.0, ttl_min=2.0, ttl_max=60.0)

    with tenure.Node(lock_service=Coarse(table, "n1")) as node:
        before = time.monotonic()
        grant = node.acquire("k", ttl=0.5, renew="manual")
        assert table.live(b"k")[2] >= before + 2
        assert grant.remaining <= 0.5
        with pytest.raises(tenure.InvalidArgumentError, match=r"^ttl: "):
            node.try_acquire("l", ttl=61)


async def test_the_asynchronous_face_works_over_a_service_too(table):
    async with aio.Node(lock_service=Fenced(table, "n1")) as node, aio.Node(lock_service=Fenced(table, "n2")) as other:
        async with node.lock("k") as grant:
            assert await other.try_acquire("k") is None
            assert (await other.holder("k")).token == grant.token
        async with other.lock("k", timeout=PATIENCE) as later:
            assert later.token > grant.token


HANGING = """
import sys, threading, time
import tenure
from locktable import Table, Fenced

class Hangs(Fenced):
    def renew(self, key, token, ttl, timeout):
        threading.Event().wait()
    def release(self, key, token, timeout):
        threading.Event().wait()

node = tenure.Node(lock_service=Hangs(Table(), "n1"), request_timeout=600)
grant = node.acquire("k", ttl=0.5)
time.sleep(0.3)
print("leaving", flush=True)
"""


def test_an_interpreter_ends_with_a_call_in_progress(program, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    done = program(textwrap.dedent(HANGING), seconds=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "leaving\n"


LEFT_OPEN = """
import tenure
from locktable import Table, Fenced
table = Table()

class Noisy(Fenced):
    def release(self, key, token, timeout):
        done = super().release(key, token, timeout)
        print("released", done, flush=True)
        return done

node = tenure.Node(lock_service=Noisy(table, "n1"))
grant = node.acquire("k", ttl=600)
"""


def test_a_node_left_open_at_exit_gives_its_locks_back_through_the_service(program, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    done = program(textwrap.dedent(LEFT_OPEN), seconds=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "released True\n"


FORK = """
import os, sys
import tenure
from locktable import Table, Fenced
node = tenure.Node(lock_service=Fenced(Table(), "n1"))
grant = node.acquire("k")
child = os.fork()
if child == 0:
    try:
        node.try_acquire("l")
        os._exit(1)
    except tenure.ForkedError:
        del node, grant
        os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert grant.held
node.close()
print("done")
"""


def test_a_forked_child_owns_nothing(program, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    done = program(textwrap.dedent(FORK), seconds=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


@pytest.fixture(scope="module", params=["c", "c++"])
def plugin(request, tmp_path_factory):
    return compiled(request.param, tmp_path_factory.mktemp("plugin"))


def test_what_a_native_service_answers_reaches_the_caller(plugin):
    service = NativeService(plugin, "n1")
    with pytest.raises(tenure.LimitError, match="the table is full"):
        service.try_acquire(b"fails", 5.0, 1.0)
    with pytest.raises(tenure.LockServiceError, match=r"12345, which is no status|thrown by the service"):
        service.try_acquire(b"wrong", 5.0, 1.0)
    assert service.status()["form"] == "plugged"
    assert service.status()["weaker_modes"] == []
    service.close()


def test_a_native_service_is_given_back_once(plugin, until):
    before = plugin.plugin_live()
    service = NativeService(plugin, "n1")
    token = service.try_acquire(b"k", 60.0, 1.0)
    assert plugin.plugin_live() == before + 1
    service.close()
    until(lambda: plugin.plugin_live() == before, PATIENCE)
    # Closing the node has given its lock back.
    other = NativeService(plugin, "n2")
    assert other.try_acquire(b"k", 60.0, 1.0) > token
    other.close()
    with pytest.raises(tenure.InvalidArgumentError):
        NativeService(plugin, "not a name")
    assert plugin.plugin_live() == before


def test_a_lock_with_four_methods_is_named_weaker(plugin):
    if not hasattr(plugin, "plugin_open_distributed"):
        pytest.skip("the adapter is C++'s")
    service = NativeService(plugin, "n1", "plugin_open_distributed")
    assert [mode.partition(",")[0] for mode in service.status()["weaker_modes"]] == [
        "lock_service: no fencing",
        "lock_service: no renewals",
        "lock_service: holder may be old",
    ]
    service.close()
