"""Offices on a cluster: handed over without a wait, and promised by granters that die."""

from __future__ import annotations

import signal

import pytest

import tenure
from cluster import LIMIT, Cluster, until


def test_an_office_is_handed_to_a_node_of_choice_with_no_wait_out(tmp_path):
    with Cluster(tmp_path, session_ttl=600.0) as cluster:
        # Nobody could wait for the end of such a lease here.
        cluster[0].campaign("office", 600.0)
        first = until("n0 is in office", cluster[0].epoch)
        cluster[1].campaign("office", 600.0)
        until("n1 waits", lambda: cluster[0].holder("office")["waiters"] == 1)
        with pytest.raises(tenure.UnavailableError, match="n2 does not wait"):
            cluster[0].resign_to("n2")
        assert cluster[0].epoch() == first
        cluster[2].campaign("office", 600.0)
        until("both wait", lambda: cluster[0].holder("office")["waiters"] == 2)
        cluster[0].resign_to("n2")
        assert cluster[0].epoch() is None
        second = until("n2 is in office", cluster[2].epoch)
        assert second > first
        assert cluster[1].epoch() is None
        assert cluster[1].holder("office")["node"] == "n2"
        cluster[2].resign_to("n1")
        assert until("n1 is in office", cluster[1].epoch) > second


def test_promises_outlive_the_member_whose_granter_made_them(tmp_path):
    with Cluster(tmp_path) as cluster, tenure.Node() as server, server.gate("master") as gate:
        one, two = cluster[0], cluster[1]

        def asked(call, *args):
            """Asks again while there is no leader; that is not this test's."""

            def ask():
                try:
                    return [getattr(two, call)(*args)]
                except (tenure.UnavailableError, tenure.HeldError):
                    return None

            return until(call, ask)[0]

        old = one.govern("controller", 3.0)
        assert one.promote("shard", "a") == 1
        epoch, ttl, nonce, holder, _ = one.send("shard", 600.0, gate.next_nonce())
        assert (epoch, holder) == (1, "a")
        assert gate.heartbeat(epoch, ttl, nonce).accepted
        with pytest.raises(tenure.HeldError):
            two.govern("controller", 3.0)
        # Stopped, not dead: it does not know that it is replaced when it goes on.
        one.signal(signal.SIGSTOP)
        assert asked("govern", "controller", 3.0) > old
        late = one.start("send", "shard", 600.0, gate.next_nonce())
        with pytest.raises(tenure.TooEarlyError):
            asked("promote", "shard", "b")
        one.signal(signal.SIGCONT)
        with pytest.raises(tenure.FencedError):
            late.result(LIMIT)
        cluster.kill(0)
        with pytest.raises(tenure.TooEarlyError):
            asked("promote", "shard", "b")
        # It is the later one's to renew now.
        epoch, ttl, nonce, holder, _ = asked("send", "shard", 600.0, gate.next_nonce())
        assert (epoch, holder) == (1, "a")
        assert gate.heartbeat(epoch, ttl, nonce).accepted
