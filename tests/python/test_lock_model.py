"""The lock table against a model that says what it should be, driven from Python through the wheel."""

from __future__ import annotations

import gc
import warnings

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

import tenure

KEYS = st.sampled_from(["a", "b", b"\xff\x00", "a/b"])
SESSIONS = st.integers(0, 2)


class Locks(RuleBasedStateMachine):
    """Exclusive and shared locks of three sessions of one node."""

    grants = Bundle("grants")

    @initialize()
    def open(self):
        self.node = tenure.Node()
        self.sessions = [self.node, self.node.session("s1"), self.node.session("s2")]
        self.held: dict[bytes, dict[int, tuple[str, int]]] = {}
        self.last = 0

    def name(self, key):
        return key.encode() if isinstance(key, str) else key

    def free_for(self, key, mode, who):
        holders = self.held.get(self.name(key), {}).values()
        if any(w == who for _, w in holders):
            return False
        return not holders or (mode == "shared" and all(m == "shared" for m, _ in holders))

    @rule(target=grants, key=KEYS, who=SESSIONS, mode=st.sampled_from(["exclusive", "shared"]))
    def take(self, key, who, mode):
        free = self.free_for(key, mode, who)
        mine = [t for t, (_, w) in self.held.get(self.name(key), {}).items() if w == who]
        if mine:
            return None
        grant = self.sessions[who].try_acquire(key, ttl=3600, mode=mode)
        assert (grant is not None) == free
        if grant is None:
            return None
        assert grant.token > self.last
        self.last = grant.token
        self.held.setdefault(self.name(key), {})[grant.token] = (mode, who)
        return grant

    @rule(keys=st.lists(KEYS, min_size=1, max_size=3, unique=True), who=SESSIONS)
    def take_all(self, keys, who):
        free = all(self.free_for(key, "exclusive", who) for key in keys)
        if any(w == who for key in keys for _, w in self.held.get(self.name(key), {}).values()):
            return
        try:
            with self.sessions[who].acquire_all(keys, timeout=0) as grants:
                assert free
                tokens = [g.token for g in grants]
                assert tokens == sorted(set(tokens))
                assert tokens[0] > self.last
                self.last = tokens[-1]
        except tenure.LockTimeout:
            assert not free

    @rule(grant=consumes(grants))
    def release(self, grant):
        if grant is None:
            return
        current = grant.token in self.held.get(self.name(grant.key), {})
        if current:
            grant.release()
            del self.held[self.name(grant.key)][grant.token]
        else:
            with pytest.raises(tenure.NotHolderError):
                grant.release()
            grant._given_back()

    @rule(key=KEYS)
    def force(self, key):
        assert self.node.force_release(key) == bool(self.held.pop(self.name(key), {}))

    @rule(who=SESSIONS)
    def release_all(self, who):
        mine = [(k, t) for k, holders in self.held.items() for t, (_, w) in holders.items() if w == who]
        assert self.sessions[who].release_all() == len(mine)
        for key, token in mine:
            del self.held[key][token]

    @invariant()
    def the_table_is_the_models(self):
        if not hasattr(self, "node"):
            return
        found = {info.key: {h.token: h.mode for h in info.holders} for info in self.node.locks()}
        wanted = {key: {t: mode for t, (mode, _) in holders.items()} for key, holders in self.held.items() if holders}
        assert found == wanted

    def teardown(self):
        if hasattr(self, "node"):
            self.node.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


TestLocks = Locks.TestCase
TestLocks.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
