"""Watch, contenders, election, revoke, take-over: what they say through the public interface."""

import asyncio
import os
import threading
import time

import pytest

import tenure
import tenure.aio
from cluster import TIMING, free_address

LIMIT = 30.0


def until(condition, seconds=LIMIT):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.005)


@pytest.fixture(params=["memory", "durable", "member", "client"])
def node(request, tmp_path):
    options = {} if request.param == "memory" else {"data_dir": str(tmp_path / "data")}
    if request.param in ("member", "client"):
        address = free_address()
        options |= {**TIMING, "listen": address, "peers": {"a": address}}
    with tenure.Node(node_id="a", **options) as opened:
        if request.param in ("member", "client"):
            opened.wait_ready(LIMIT)
        if request.param != "client":
            yield opened
        else:
            # Named as the member is, so that what others see of either is the same.
            with tenure.connect(address, node_id="a") as client:
                client.wait_ready(LIMIT)
                yield client


def take(watch):
    state = watch.next(LIMIT)
    assert state is not None
    return state


def test_a_watch_tells_the_present_and_then_every_change_in_order(node):
    with node.watch("k") as watch, node.watch_prefix("k") as prefix:
        assert take(watch) == tenure.Watched(b"k", False)
        tokens = []
        for n in range(5):
            with node.lock("k", metadata=str(n)) as grant:
                tokens.append(grant.token)
        expected = []
        for n, token in enumerate(tokens):
            expected += [(token, str(n).encode()), (0, b"")]
        for watching in (watch, prefix):
            got = [take(watching) for _ in range(10)]
            assert [(s.token, s.metadata) for s in got] == expected
            assert [s.node for s in got if s.held] == ["a"] * 5
        assert watch.next(0) is None
        assert watch.next(0.01) is None


def test_a_watch_of_a_prefix_begins_with_what_is_held(node):
    grants = node.acquire_all(["p/1", "p/2", "q/1"])
    with node.watch_prefix("p/") as watch:
        assert {take(watch).key for _ in range(2)} == {b"p/1", b"p/2"}
        grants[2].release()
        grants[0].release()
        assert take(watch) == tenure.Watched(b"p/1", False)
    grants[1].release()


def test_who_is_slow_sees_the_last_state(node):
    if node.status()["form"] != "memory":
        pytest.skip("ten thousand cycles are for memory")
    with node.watch("k") as watch:
        for _ in range(10_000):
            node.acquire("k").release()
        last = node.acquire("k")
        got = 0
        while (state := watch.next(1.0)) is not None:
            got += 1
            if state.token == last.token:
                break
        assert state is not None
        assert got <= 1100, "bounded"
        last.release()


def test_a_watch_ends_with_its_node_and_when_it_is_closed():
    node = tenure.Node()
    watch, other = node.watch("k"), node.watch("k")
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(watch))
    thread.start()
    other.close()
    other.close()
    with pytest.raises(tenure.ClosedError):
        other.next()
    until(lambda: seen)
    node.close()
    thread.join(LIMIT)
    assert seen == [tenure.Watched(b"k", False)]
    with pytest.raises(tenure.InvalidArgumentError), tenure.Node() as fresh:
        fresh.watch(b"")


def test_contenders_are_the_holders_and_then_the_queue_in_order(node):
    sessions = [node.session(f"s{n}") for n in range(3)]
    held = node.acquire("k", metadata="m0")
    threads = []
    for n, session in enumerate(sessions):
        threads.append(threading.Thread(target=lambda s=session, n=n: s.acquire("k", metadata=f"w{n}").release()))
        threads[-1].start()
        until(lambda n=n: len(node.contenders("k").waiters) == n + 1)
    around = node.contenders("k")
    assert [(h.node, h.metadata) for h in around.holders] == [("a", b"m0")]
    assert [(w.node, w.metadata, w.mode) for w in around.waiters] == [(f"s{n}", f"w{n}".encode(), "exclusive") for n in range(3)]
    held.release()
    for thread in threads:
        thread.join(LIMIT)
    assert node.contenders("k") == tenure.Contenders((), (), 0.0)
    for session in sessions:
        session.close()


def test_a_local_read_says_how_old_it_is(node):
    with node.lock("k") as grant:
        local = node.holder_local("k")
        assert local.holder.token == grant.token
        # Where there is no other replica there is nothing newer.
        assert local.age == 0.0 or (node.status()["cluster"] and local.age < LIMIT)
        assert (local.applied > 0) == (node.status()["form"] != "memory")
    until(lambda: node.holder_local("k").holder is None)


def test_an_election(node):
    rival = node.session("rival")
    election, theirs = node.election("x", value="first"), rival.election("x")
    with theirs.observe() as leaders:
        assert leaders.next(LIMIT) == (None,)
        assert election.leader() is None
        with election as leadership:
            leader = leaders.next(LIMIT)[0]
            assert leader == tenure.Leader("a", leadership.token, b"first") == theirs.leader()
            leadership.proclaim("second")
            assert leaders.next(LIMIT)[0].value == b"second"
            with pytest.raises(tenure.LockTimeout):
                theirs.campaign(timeout=0.01)
            won = []
            thread = threading.Thread(target=lambda: won.append(theirs.campaign("third")))
            thread.start()
            until(lambda: [w.node for w in node.contenders("x").waiters] == ["rival"])
        thread.join(LIMIT)
        while (leader := leaders.next(LIMIT)[0]) is None:
            pass
        assert (leader.node, leader.value, leader.token) == ("rival", b"third", won[0].token)
        assert won[0].token > leadership.token
        with pytest.raises(tenure.NotHolderError):
            leadership.proclaim("late")
        assert theirs.leader().value == b"third"
        won[0].resign()
        assert leaders.next(LIMIT) == (None,)
    rival.close()


def test_a_holder_is_asked_and_may_keep_the_lock(node):
    events = []
    node.on_event(events.append)
    other = node.session("operator")
    grant = node.acquire("k")
    assert other.revoke("k", "maintenance") == 1
    until(lambda: events)
    (asked,) = events
    assert (asked.kind, asked.key, asked.token, asked.by) == ("revoke_requested", b"k", grant.token, "operator")
    assert (asked.reason, asked.remaining) == ("maintenance", None)
    assert grant.held
    assert other.revoke("nobody") == 0
    assert other.revoke("k", token=grant.token + 1) == 0
    grant.release()
    with pytest.raises(tenure.InvalidArgumentError, match="why"):
        other.revoke("k", "x" * 257)
    with pytest.raises(tenure.InvalidArgumentError, match="force_after"):
        other.revoke("k", force_after=100_000)
    other.close()


def test_a_holder_that_does_not_give_back_loses_the_lock(node):
    events = []
    node.on_event(events.append)
    other = node.session("operator")
    grant = node.acquire("k", ttl=60)
    assert other.revoke("k", "now", force_after=0.2) == 1
    assert grant.lost.wait(LIMIT)
    assert grant.lost.reason == "revoked"
    assert [e.kind for e in events] == ["revoke_requested", "lost"]
    assert 0 < events[0].remaining <= 0.2
    taken = other.acquire("k", timeout=LIMIT)
    assert taken.token > grant.token
    with pytest.raises(tenure.NotHolderError):
        grant.release()
    taken.release()
    other.close()


def test_ensure_wants_so_much_time(node):
    with node.lock("k", ttl=10) as grant:
        assert grant.ensure(1) >= 1
        with pytest.raises(tenure.ExpiredError):
            grant.ensure(11)
    with pytest.raises(tenure.ExpiredError):
        grant.ensure(0)


def test_a_session_is_taken_over_by_its_secret(node):
    old = node.session("worker")
    kept = old.acquire("k", metadata="m")
    shared = old.acquire("s", mode="shared")
    new = node.take_over("worker", old.secret)
    grants = new.inherited()
    assert sorted(g.key for g in grants) == [b"k", b"s"]
    assert all(g.token > max(kept.token, shared.token) for g in grants)
    assert new.inherited() == ()
    assert node.holder("k").token == next(g.token for g in grants if g.key == b"k")
    assert node.holder("k").metadata == b"m"
    assert kept.lost.wait(LIMIT)
    assert kept.lost.reason == "superseded"
    with pytest.raises(tenure.Error):
        kept.release()
    with pytest.raises(tenure.ExpiredError):
        node.take_over("worker", b"x" * 16)
    with pytest.raises(tenure.InvalidArgumentError, match="secret"):
        node.take_over("worker", b"x")
    grants.release()
    assert node.holder("k") is None
    new.close()


def crash(path, pipe, **options):
    """Runs a process that takes a lock and ends without closing its node."""
    pid = os.fork()
    if pid == 0:
        try:
            node = tenure.Node(data_dir=path, node_id="a", session_ttl=60, **options)
            grant = node.acquire("k", ttl=60)
            os.write(pipe, str(grant.token).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("mode", ["off", "release", "keep"])
def test_a_node_that_crashed_comes_back(tmp_path, mode):
    path = str(tmp_path / "data")
    read, write = os.pipe()
    crash(path, write, take_over=mode)
    token = int(os.read(read, 100))
    with tenure.Node(data_dir=path, node_id="a", take_over=mode) as node:
        holder = node.holder("k")
        if mode == "off":
            assert holder.token == token
            assert node.try_acquire("k") is None
            assert node.inherited() == ()
        elif mode == "release":
            assert holder is None
            with node.lock("k", timeout=0) as grant:
                assert grant.token > token
        else:
            (grant,) = node.inherited()
            assert holder.token == grant.token > token
            assert grant.held
            grant.release()
    os.close(read)
    os.close(write)
    with pytest.raises(tenure.InvalidArgumentError, match="take_over"):
        tenure.Node(take_over="keep")


def test_a_loss_says_why(node):
    other = node.session("other")
    grant = other.acquire("c")
    other.close()
    assert grant.lost.wait(LIMIT)
    assert grant.lost.reason == "closed"
    forced = node.acquire("f")
    node.force_release("f")
    assert forced.lost.wait(LIMIT)
    assert forced.lost.reason == "forced"


def test_in_a_forked_child_a_lock_is_lost_to_it(node):
    with node.lock("k") as grant:
        pid = os.fork()
        if pid == 0:
            os._exit(0 if grant.lost.is_set() and grant.lost.reason == "forked" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert grant.held


def test_aio_watch_and_election():
    async def main():
        async with tenure.aio.Node(node_id="a") as node:
            watch = node.watch("x")
            assert await asyncio.wait_for(watch.next(), LIMIT) == tenure.Watched(b"x", False)
            rival = await node.session("rival")
            theirs = rival.election("x", value="theirs")
            async with node.election("x", value="mine") as leadership, theirs.observe() as leaders:
                assert (await asyncio.wait_for(leaders.__anext__(), LIMIT)).value == b"mine"
                await leadership.proclaim("more")
                assert (await asyncio.wait_for(leaders.__anext__(), LIMIT)).value == b"more"
                campaign = asyncio.create_task(theirs.campaign())
                while not (await node.contenders("x")).waiters:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            won = await asyncio.wait_for(campaign, LIMIT)
            assert (await node.election("x").leader()).value == b"theirs"
            assert (await node.holder_local("x")).holder.token == won.token
            assert await node.revoke("x", "please") == 1
            await won.resign()
            heir = await node.take_over("heir", rival.secret)
            assert await heir.inherited() == ()

            async def follow():
                return [state.held async for state in watch]

            task = asyncio.create_task(follow())
            await asyncio.sleep(0)
            watch.close()
            await asyncio.wait_for(task, LIMIT)

    asyncio.run(main())
