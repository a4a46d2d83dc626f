"""The orchestrators of several members: what they all say alike, also after a restart, and what one says that is alone."""

from __future__ import annotations

import contextlib
import gc
import threading
from datetime import datetime, timezone

import pytest

import tenure
from cluster import TIMING, free_address, until


class Members:
    """Nodes of one cluster in this process, each with an orchestrator that does ``work``."""

    def __init__(self, where, count):
        names = [f"n{i}" for i in range(count)]
        self.where, self.listen = where, {name: free_address() for name in names}
        self.peers = ",".join(f"{name}={address}" for name, address in self.listen.items())
        self.ran: list[datetime] = []
        self.nodes: dict[str, tenure.Node] = {}
        self.orchs: dict[str, tenure.Orchestrator] = {}
        self.begin(*names)

    def open(self, name):
        """``None`` while what was closed there is not gone."""
        gc.collect()
        settings = {"node_id": name, "data_dir": str(self.where / name), "listen": self.listen[name], "peers": self.peers}
        try:
            return tenure.Node(**settings, **TIMING)
        except tenure.DataLockedError:
            return None

    def begin(self, *names):
        for name in names:
            self.nodes[name] = until("its directory is free", lambda name=name: self.open(name))
        for name in names:
            self.nodes[name].wait_ready(60)
            self.orchs[name] = self.nodes[name].orchestrator(ramp_up=0)
            self.orchs[name].task("work")(lambda task: self.ran.append(task.tick))

    def end(self, *names):
        for name in names:
            # The last ones have no majority to tell of their end.
            with contextlib.suppress(tenure.LockTimeout, tenure.UnavailableError):
                if name in self.orchs:
                    self.orchs.pop(name).close(2.0)
            with contextlib.suppress(tenure.LockTimeout, tenure.UnavailableError):
                self.nodes.pop(name).close(2.0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end(*list(self.nodes))


def test_every_member_says_the_same_also_after_a_restart_and_nothing_runs_again(tmp_path):
    after = datetime(2026, 3, 28, tzinfo=timezone.utc)
    with Members(tmp_path, 3) as members:
        # No reference of this function's keeps a member that is closed.
        members.orchs["n1"].schedule("s", "work", every=1, scope="singleton", misfire={"run_all": 2})
        members.orchs["n1"].schedule("nightly", "work", cron="30 2 * * *", zone="Europe/Berlin", scope="singleton", enabled=False)
        until("several ticks run", lambda: len(members.ran) >= 4)
        members.orchs["n2"].pause("s", note="restart")
        until("what runs has ended", lambda: members.orchs["n0"].get("s")["runs"] == [])

        def told(one):
            return one.history("s"), one.next_fires("nightly", after=after), one.get("s")

        def alike():
            first, *others = [told(one) for one in members.orchs.values()]
            return first if all(one == first for one in others) else None

        before = until("all say the same", alike)
        lines, fires, entry = before
        assert len(fires) == 10
        assert [f"{fire:%d %H:%M}" for fire in fires[:3]] == ["28 01:30", "29 01:00", "30 00:30"]
        done = {line["tick"] for line in lines if line["state"] == "succeeded"}
        assert len(done) >= 4
        assert done <= set(members.ran)
        assert entry["paused"]["note"] == "restart"

        members.end("n0", "n1", "n2")
        members.begin("n0", "n1", "n2")
        assert until("all say what they said before", lambda: alike() == before)
        first = len(members.ran)
        members.orchs["n0"].unpause("s")
        until("ticks go on", lambda: len(members.ran) >= first + 3)
    assert members.ran == sorted(set(members.ran)), "a tick ran twice"


def test_who_has_no_majority_begins_nothing_and_says_that_it_cannot(tmp_path):
    with Members(tmp_path, 2) as members:
        orch = members.orchs["n0"]
        orch.schedule("s", "work", every=1, scope="singleton")
        orch.schedule("busy", "work", scope="singleton", budgets={"none": 1})
        until("ticks run", lambda: len(members.ran) >= 2)
        members.end("n1")
        # Not "busy", "paused" or "there is none": nobody can say.
        asked = [lambda: orch.run_now("busy", key="k"), lambda: orch.cancel(1), lambda: orch.set_budget("none", 1)]
        seen = []
        for ask in asked:
            with pytest.raises(tenure.UnavailableError):
                ask()
            seen.append(len(members.ran))
        # What was asked for first has been answered seconds ago.
        assert seen[1] == seen[2] == len(members.ran)
        members.begin("n1")
        until("ticks go on", lambda: len(members.ran) > seen[2])
        run = until("it is asked for", lambda: orch.run_now("busy", key="k"))
        assert members.orchs["n1"].run_now("busy", key="k") == run
    assert len(members.ran) == len(set(members.ran)), "a tick ran twice"


def test_a_key_is_one_run_whoever_asks_at_the_same_moment(tmp_path):
    with Members(tmp_path, 3) as members:
        members.orchs["n0"].schedule("s", "work", scope="singleton")
        together, runs = threading.Barrier(3), []

        def ask(orch):
            together.wait(60)
            runs.append(orch.run_now("s", key="deploy-7"))

        threads = [threading.Thread(target=ask, args=(orch,)) for orch in members.orchs.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(runs) == 3
        assert len(set(runs)) == 1
        until("it has run", lambda: members.orchs["n2"].run(runs[0])["state"] == "succeeded")
        assert len(members.ran) == 1
        assert members.orchs["n1"].run_now("s", key="deploy-7") == runs[0]
