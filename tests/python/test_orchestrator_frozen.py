"""A process that runs a job is stopped (SIGSTOP) for longer than its lease, and then goes on as if nothing had been."""

from __future__ import annotations

from cluster import Cluster, until
from jobs import Database

LEASE_S = 3.0


def test_a_runner_that_was_frozen_is_refused_everything_when_it_goes_on(tmp_path):
    database = str(tmp_path / "writes.db")
    resource = Database(database)
    with Cluster(tmp_path, 3) as cluster:
        for member in cluster:
            member.job(database)
        cluster[0].job_schedule("s", scope="singleton", lease=LEASE_S, lost_retries=5)
        run = cluster[0].job_run("s", key="once")
        frozen = until("it runs", lambda: [i for i in range(3) if cluster[i].job_told()])[0]
        first = cluster[frozen].job_told()[0]
        cluster.stop(frozen)

        # The next attempt begins elsewhere, with a larger token, while the first one sleeps.
        others = cluster.others(frozen)
        second_at = until("it is taken over", lambda: [i for i in others if cluster[i].job_told()])[0]
        second = cluster[second_at].job_told()[0]
        assert (second["key"], second["run"], second["attempt"]) == (first["key"], run, first["attempt"] + 1)
        assert second["token"] > first["token"]

        cluster.cont(frozen)
        zombie = until("the first one has ended", lambda: [t for t in cluster[frozen].job_told() if t.get("ended")])[0]
        assert zombie["stop"] == "lost"
        assert (zombie["check"], zombie["write"], zombie["checkpoint"]) == ("ExpiredError", "FencedError", "FencedError")
        # Its end has ended nothing: the run is the second one's, which is refused nothing and completes it.
        line = cluster[second_at].job_line(run)
        assert (line["state"], line["attempt"], line["token"]) == ("running", second["attempt"], second["token"])
        assert cluster[second_at].job_counts()["stale_tokens"] >= 1
        cluster[second_at].job_go()
        until("the run has succeeded", lambda: cluster[second_at].job_line(run)["state"] == "succeeded")
        line = cluster[frozen].job_line(run)
        assert (line["attempt"], line["token"]) == (second["attempt"], second["token"])
        ended = cluster[second_at].job_told()[0]
        assert (ended["stop"], ended["check"], ended["write"], ended["checkpoint"]) == ("", "", "", "")
        assert resource.tokens() == [first["token"], second["token"], second["token"]]
        assert [len(member.job_told()) for member in cluster] == [int(i in (frozen, second_at)) for i in range(3)]


def test_who_gave_out_work_and_was_frozen_gives_out_none_when_it_goes_on(tmp_path):
    database = str(tmp_path / "writes.db")
    Database(database)
    with Cluster(tmp_path, 3, session_ttl=5.0) as cluster:
        for member in cluster:
            member.job(database)
            member.job_go()
        cluster[0].job_schedule("s", scope="singleton", every=1, lease=LEASE_S, lost_retries=5)
        drives = lambda among: [i for i in among if cluster[i].job_drives()]  # noqa: E731
        ran = lambda among: sum(len(cluster[i].job_told()) for i in among)  # noqa: E731
        first = until("somebody gives out work", lambda: drives(range(3)))[0]
        until("ticks run", lambda: ran(range(3)) >= 2)
        cluster.stop(first)
        others = cluster.others(first)
        second = until("another one gives out work", lambda: drives(others))[0]
        before = ran(others)
        until("ticks go on", lambda: ran(others) >= before + 2)
        cluster.cont(first)
        until("one gives out work, and it is the other one", lambda: drives(range(3)) == [second])
        before = ran(range(3))
        until("ticks go on", lambda: ran(range(3)) >= before + 2)
        assert drives([first]) == []
        keys = [told["key"] for member in cluster for told in member.job_told() if told["attempt"] == 1]
        assert len(keys) == len(set(keys)), "a tick was started twice"
