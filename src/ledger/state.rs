//! The ledger as one value: entries in, answers and events out.

use std::sync::Arc;

use crate::base::codec::{Decode, Encode};
use crate::base::{Key, SessionId, Token};

use super::clock::ReplicatedClock;
use super::command::{Entry, Event, Outcome, Stamp};
use super::hub::{Cx, Hub, NEVER, Now};
use super::orch;
use super::params::Params;
use super::promise::PromiseInfo;
use super::query;
use super::shard::Shard;
use super::view::{Counts, Held, LockInfo, SessionInfo};
use super::watch::{Pattern, WatchStart, Watched};
use super::world::{World, shard_of};

/// How far a recovery raises the tokens: more than can have been given since the last snapshot.
const RECOVERY_STEP: u64 = 1 << 32;

/// Where an entry stands in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct LogId {
    /// The term under which the log holds it.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

/// The replicated state. Used by one thread at a time.
pub struct Ledger {
    pub(super) hub: Hub,
    pub(super) shards: Vec<Shard>,
    pub(super) clock: ReplicatedClock,
    pub(super) applied: LogId,
    pub(super) generation: u64,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("applied", &self.applied).field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl Ledger {
    /// An empty ledger.
    pub fn new(params: Params) -> Ledger {
        Ledger::with_shards(params, 1)
    }

    /// An empty ledger that keeps its locks in `shards` parts (rounded up to a power of two). It behaves as with one.
    pub fn with_shards(params: Params, shards: usize) -> Ledger {
        let count = shards.clamp(1, 1 << 16).next_power_of_two();
        Ledger {
            hub: Hub::new(params, count, false),
            shards: (0..count).map(Shard::new).collect(),
            clock: ReplicatedClock::default(),
            applied: LogId::default(),
            generation: 0,
        }
    }

    /// Applies the log's entry at `at`: moves the clock, ends what has run out (a slice of it), then does the operations in order.
    /// Appends one outcome for each operation, and what happened besides to `events`.
    pub fn apply(&mut self, at: LogId, entry: &Entry, outcomes: &mut Vec<Outcome>, events: &mut Vec<Event>) {
        debug_assert!(at.index > self.applied.index, "entries are applied once, in order");
        self.applied = at;
        self.clock.advance(&entry.stamp, at.term, self.hub.params.max_step_ms);
        let now = self.clock.now();
        let mut world = World { shards: &mut self.shards, cx: Cx::new(&self.hub, Now::At(now), true) };
        if world.cx.hub.nearest() <= now {
            world.expire();
        }
        outcomes.reserve(entry.ops.len());
        for request in &entry.ops {
            let tokens = world.cx.hub.last_token();
            outcomes.push(world.execute(request));
            debug_assert!(world.cx.hub.last_token() >= tokens, "I-05: tokens strictly increase");
        }
        events.append(&mut world.cx.events);
    }

    /// Which keys are watched here.
    pub fn watched(&self) -> &Arc<Watched> {
        &self.hub.watched
    }

    /// Goes on with the watches of the ledger that this one replaces.
    pub fn watch_as(&mut self, before: &Ledger) {
        self.hub.watched = before.hub.watched.clone();
    }

    /// Where a watch of these keys begins.
    pub fn watch_start(&self, pattern: &Pattern) -> WatchStart {
        let changes = match pattern {
            Pattern::Key(key) => {
                let probe = self.hub.probe(key);
                vec![self.shards[shard_of(probe.hash, self.shards.len())].change(&self.cx(), &probe)]
            }
            Pattern::Prefix(prefix) => self.shards.iter().flat_map(|s| s.changes(&self.cx(), prefix)).collect(),
        };
        WatchStart { floor: self.hub.watched.revision(), changes }
    }

    /// What a session holds, by token.
    pub fn held_by(&self, session: SessionId) -> Vec<Held> {
        let mut held: Vec<_> = self.shards.iter().flat_map(|s| s.held_by(session)).collect();
        held.sort_unstable_by_key(|h| h.token);
        held
    }

    /// The last entry applied.
    pub fn applied(&self) -> LogId {
        self.applied
    }

    /// The ledger's parameters.
    pub fn params(&self) -> &Params {
        &self.hub.params
    }

    /// The ledger's clock, ms.
    pub fn clock_ms(&self) -> u64 {
        self.clock.now()
    }

    /// The stamp from which the next one counts: time passes only between stamps of one process in one term.
    pub fn anchor(&self) -> Stamp {
        self.clock.anchor()
    }

    /// When something may run out next, on the ledger's clock: a lower bound. At or before [`Ledger::clock_ms`] when another tick is
    /// wanted now; `None` when nothing ever will.
    pub fn next_deadline(&self) -> Option<u64> {
        match self.hub.nearest() {
            NEVER => None,
            at if self.hub.sessions.index().dying.is_empty() => Some(at),
            _ => Some(0),
        }
    }

    /// How often the ledger was recovered by force.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// For a recovery from what may be an old state: every token given from now on is above `known` and above everything that this
    /// state or its lost successors can have given.
    pub fn recover(&mut self, known: u64) {
        self.generation += 1;
        self.hub.set_last_token(self.hub.last_token().max(known) + RECOVERY_STEP);
    }

    fn cx(&self) -> Cx<'_> {
        Cx::new(&self.hub, Now::At(self.clock.now()), false)
    }

    /// A lock and everybody around it; `None` when nobody holds it, waits for it, or must wait out its delay.
    pub fn lock(&self, key: &Key) -> Option<LockInfo> {
        let probe = self.hub.probe(key);
        self.shards[shard_of(probe.hash, self.shards.len())].lock_info(&mut self.cx(), &probe)
    }

    /// The largest token that was ever given.
    pub fn last_token(&self) -> Token {
        Token(self.hub.last_token())
    }

    /// Whether a release of this grant, now, would free it: it is `session`'s, and taken once. Time is not looked at: a grant
    /// that has run out and was not noticed yet is not in the way either.
    pub fn frees(&self, key: &Key, session: SessionId, token: Token) -> bool {
        let probe = self.hub.probe(key);
        self.shards[shard_of(probe.hash, self.shards.len())].frees(&self.cx(), &probe, session, token)
    }

    /// The locks whose names begin with `prefix` and come after `after`, in order of bytes: from the first `limit` names in use.
    pub fn locks(&self, prefix: &[u8], after: Option<&Key>, limit: usize) -> Vec<LockInfo> {
        let keys = self.shards.iter().flat_map(|s| s.keys(prefix, after, limit)).collect();
        query::page(keys, limit).iter().filter_map(|k| self.lock(k)).collect()
    }

    /// The offices whose names begin with `prefix` and what was promised to their holders, by name, at most `limit` of them.
    pub fn promises(&self, prefix: &[u8], limit: usize) -> Vec<PromiseInfo> {
        self.hub.promise_infos(prefix, limit, self.clock.now())
    }

    /// The living sessions, by number.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.hub.sessions.infos(self.clock.now())
    }

    /// Looks at the orchestrator's part.
    pub fn orch<R>(&self, look: impl FnOnce(&orch::State) -> R) -> R {
        look(&self.hub.orch())
    }

    /// Answers a question about the orchestrator.
    pub fn ask(&self, query: &orch::OrchQuery) -> serde_json::Value {
        self.hub.orch().ask(query, self.clock.now())
    }

    /// Counts.
    pub fn counts(&self) -> Counts {
        Counts {
            sessions: self.hub.sessions.index().open,
            keys: self.shards.iter().map(Shard::key_count).sum(),
            locks: self.shards.iter().map(Shard::lock_count).sum(),
            last_token: self.hub.last_token(),
            clamped: self.clock.clamped(),
        }
    }
}
