//! What all shards share: parameters, sessions, tokens, the budget of locks, multi-key requests, the nearest deadline.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::DefaultHashBuilder;

use crate::base::{Key, SessionId, Token};

use super::command::{Event, Fault, LimitKind, Mode, Outcome, Refusal, Spec};
use super::orch;
use super::params::Params;
use super::promise::{Promise, PromiseInfo};
use super::session::Sessions;
use super::slab::{AMOUNT_MAX, Name, Probe};
use super::view::SessionInfo;
use super::watch::Watched;

/// No deadline.
pub(crate) const NEVER: u64 = u64::MAX;

/// On cache lines of its own: a neighbour that is only read must not travel with it.
#[repr(align(128))]
pub(crate) struct Apart<T>(pub(crate) T);

/// A request for several keys that waits. Key `i` has the place in its queue with ticket `first + i`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) session: SessionId,
    pub(super) req: u64,
    pub(super) keys: Vec<Key>,
}

pub(crate) struct Hub {
    pub(super) params: Params,
    /// Several threads work at once, so what one has just seen another may have changed.
    pub(super) shared: bool,
    pub(super) sessions: Sessions,
    /// Which keys are watched on this replica: no part of the state.
    pub(crate) watched: Arc<Watched>,
    hasher: DefaultHashBuilder,
    seeds: [u64; 3],
    /// By first ticket.
    groups: Mutex<BTreeMap<u64, Group>>,
    /// By office.
    promises: Mutex<BTreeMap<Key, Promise>>,
    /// A counter for tokens and tickets both, so that one order covers them.
    counter: Apart<AtomicU64>,
    budget: Apart<AtomicU64>,
    /// How many places a shard takes from the budget at once.
    batch: u64,
    nearest: Apart<AtomicU64>,
    orch: Mutex<orch::State>,
}

impl Hub {
    pub(crate) fn new(params: Params, shards: usize, shared: bool) -> Hub {
        let hasher = DefaultHashBuilder::default();
        Hub {
            params,
            shared,
            sessions: Sessions::new(),
            watched: Arc::default(),
            seeds: [0u64, 1, 2].map(|n| hasher.hash_one(n) | 1),
            hasher,
            groups: Mutex::default(),
            promises: Mutex::default(),
            counter: Apart(AtomicU64::new(0)),
            budget: Apart(AtomicU64::new(params.max_locks)),
            batch: (params.max_locks / (4 * shards as u64)).clamp(1, 64),
            nearest: Apart(AtomicU64::new(NEVER)),
            orch: Mutex::default(),
        }
    }

    /// Makes ready to look for a key.
    #[inline]
    pub(crate) fn probe<'k>(&self, key: &'k Key) -> Probe<'k> {
        match key.words() {
            Some(words) => Probe { hash: self.hash_words(words), words, key },
            None => Probe { hash: self.hasher.hash_one(key.as_bytes()), words: [0; 3], key },
        }
    }

    pub(super) fn hash_name(&self, name: &Name) -> u64 {
        match name {
            Name::Short(words) => self.hash_words(*words),
            Name::Long(bytes) => self.hasher.hash_one(&**bytes),
            Name::Vacant => 0,
        }
    }

    /// Two folded multiplications with secret seeds, as in wyhash.
    #[inline]
    fn hash_words(&self, [a, b, c]: [u64; 3]) -> u64 {
        let fold = |x: u64, y: u64| {
            let product = u128::from(x) * u128::from(y);
            product as u64 ^ (product >> 64) as u64
        };
        let [s, t, u] = self.seeds;
        fold(fold(a ^ s, b ^ t) ^ c, u)
    }

    /// The next `n` tokens or tickets; the first of them.
    #[inline]
    pub(super) fn take_tokens(&self, n: u64) -> u64 {
        let first = self.counter.0.fetch_add(n, Relaxed) + 1;
        debug_assert!(first < 1 << 63, "I-05: tokens stay below 2^63");
        first
    }

    pub(super) fn last_token(&self) -> u64 {
        self.counter.0.load(Relaxed)
    }

    pub(super) fn set_last_token(&self, last: u64) {
        self.counter.0.store(last, Relaxed);
    }

    /// Takes up to a batch of places; 0 when there are none.
    #[cold]
    pub(super) fn take_places(&self, at_least: u64) -> u64 {
        let mut got = 0;
        let want = at_least.max(self.batch);
        let _ = self.budget.0.fetch_update(AcqRel, Acquire, |left| {
            got = if left >= at_least { left.min(want) } else { 0 };
            (got != 0).then(|| left - got)
        });
        got
    }

    pub(super) fn give_places(&self, n: u64) {
        self.budget.0.fetch_add(n, AcqRel);
    }

    pub(super) fn batch(&self) -> u64 {
        self.batch
    }

    pub(super) fn groups(&self) -> MutexGuard<'_, BTreeMap<u64, Group>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn promises(&self) -> MutexGuard<'_, BTreeMap<Key, Promise>> {
        self.promises.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The offices whose names begin with `prefix` and what was promised to their holders, by name, at most `limit` of them.
    pub(crate) fn promise_infos(&self, prefix: &[u8], limit: usize, now: u64) -> Vec<PromiseInfo> {
        let promises = self.promises();
        let matching = promises.iter().filter(|(office, _)| office.as_bytes().starts_with(prefix)).take(limit);
        matching.map(|(office, p)| p.info(office.clone(), now)).collect()
    }

    /// The orchestrator's part of the state.
    pub(crate) fn orch(&self) -> MutexGuard<'_, orch::State> {
        self.orch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The group that a ticket belongs to, by its first ticket.
    pub(super) fn group_of(&self, ticket: u64) -> Option<u64> {
        self.groups().range(..=ticket).next_back().map(|(first, _)| *first)
    }

    /// Notes a deadline; whether it is nearer than all before it.
    #[inline]
    pub(super) fn note_deadline(&self, at: u64) -> bool {
        at < self.nearest.0.load(Relaxed) && at < self.nearest.0.fetch_min(at, AcqRel)
    }

    pub(crate) fn nearest(&self) -> u64 {
        self.nearest.0.load(Acquire)
    }

    pub(super) fn set_nearest(&self, at: u64) {
        self.nearest.0.store(at, Release);
    }

    /// Renews a session without looking at its locks; `None` when some of them may have run out since the last renewal, which a
    /// renewal must not bring back.
    pub(crate) fn renew_session(&self, session: SessionId, now: u64) -> Option<Outcome> {
        let slot = self.sessions.find(session);
        if slot.is_some_and(|slot| Sessions::gap(slot, now) > u64::from(slot.shortest())) {
            return None;
        }
        Some(match self.sessions.renew(session, now) {
            Some(remaining_ms) => Outcome::Renewed { remaining_ms, clock_ms: now },
            None => Outcome::Refused(Refusal::NoSession),
        })
    }

    pub(crate) fn session_infos(&self, now: u64) -> Vec<SessionInfo> {
        self.sessions.infos(now)
    }

    /// Sessions that are open, and the last token.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.sessions.index().open, self.last_token())
    }

    /// Whether a request with these terms is acceptable, whatever the state.
    #[inline]
    pub(super) fn check_spec(&self, spec: &Spec, keys: usize) -> Result<(), Refusal> {
        let p = &self.params;
        if !(p.min_ttl_ms..=p.max_ttl_ms).contains(&spec.ttl_ms) {
            return Err(Refusal::Invalid(Fault::Ttl));
        }
        if spec.lock_delay_ms > p.max_ttl_ms {
            return Err(Refusal::Invalid(Fault::LockDelay));
        }
        if let Mode::Permits { count, limit } = spec.mode
            && (count == 0 || count > limit || limit > AMOUNT_MAX)
        {
            return Err(Refusal::Invalid(Fault::Permits));
        }
        if spec.reentrant && (keys != 1 || spec.mode != Mode::Exclusive) {
            return Err(Refusal::Invalid(Fault::Reentrant));
        }
        if spec.metadata.len() > p.max_metadata as usize {
            return Err(Refusal::Limit { kind: LimitKind::MetadataBytes, max: u64::from(p.max_metadata) });
        }
        Ok(())
    }
}

/// The time of an operation, read when it is first needed: a release that nobody waits for needs none.
pub(crate) enum Now<'a> {
    At(u64),
    Unread(&'a dyn Fn() -> u64),
}

/// What an operation carries through the state: its time, whether it sees every shard, and what it causes beside its answer.
pub(crate) struct Cx<'a> {
    pub(crate) hub: &'a Hub,
    pub(crate) now: Now<'a>,
    /// Every shard is at hand, so requests for several keys can be served.
    pub(crate) whole: bool,
    pub(crate) events: Vec<Event>,
    /// Groups that have come to the head of a queue whose key they could have.
    pub(super) ready: Vec<u64>,
    /// A deadline nearer than all others was noted.
    pub(crate) nearer: bool,
    /// A deadline that is already past was noted.
    pub(super) overdue: bool,
    /// Nothing was done, and the answer means nothing: the operation concerns other shards as well.
    pub(crate) escalated: bool,
}

impl<'a> Cx<'a> {
    #[inline]
    pub(crate) fn new(hub: &'a Hub, now: Now<'a>, whole: bool) -> Cx<'a> {
        Cx { hub, now, whole, events: Vec::new(), ready: Vec::new(), nearer: false, overdue: false, escalated: false }
    }

    #[inline]
    pub(super) fn now(&mut self) -> u64 {
        match self.now {
            Now::At(now) => now,
            Now::Unread(read) => {
                let now = read();
                self.now = Now::At(now);
                now
            }
        }
    }

    /// Says that the operation needs every shard; the answer to return with it is of no account.
    #[cold]
    pub(super) fn escalate(&mut self) -> Outcome {
        debug_assert!(!self.whole, "every shard is at hand");
        self.escalated = true;
        Outcome::Ticked
    }

    pub(super) fn known_now(&self) -> Option<u64> {
        match self.now {
            Now::At(now) => Some(now),
            Now::Unread(_) => None,
        }
    }
}

pub(super) fn refuse(refusal: Refusal) -> Outcome {
    Outcome::Refused(refusal)
}

pub(super) fn granted(token: u64, remaining_ms: u64, depth: u32) -> Outcome {
    Outcome::Granted { token: Token(token), remaining_ms, depth }
}
