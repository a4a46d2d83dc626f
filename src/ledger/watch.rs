//! Watching keys: a registry beside the replicated state, the same for every ledger that one replica goes through. What it holds
//! decides which events are made and nothing else.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{PoisonError, RwLock};

use crate::base::codec::{Decode, Encode};
use crate::base::{Key, SessionId, Token};

use super::hub::Cx;
use super::shard::Shard;
use super::slab::{NONE, Probe};

/// Which keys a watch is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Pattern {
    /// This one.
    Key(Key),
    /// Those whose names begin so; all of them for an empty one.
    Prefix(Vec<u8>),
}

impl Pattern {
    /// Whether it is about this key.
    pub fn matches(&self, key: &Key) -> bool {
        match self {
            Pattern::Key(wanted) => wanted == key,
            Pattern::Prefix(prefix) => key.as_bytes().starts_with(prefix),
        }
    }
}

/// The first holder of a key, as watchers see it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Holding {
    /// Whose grant.
    pub session: SessionId,
    /// That session's name.
    pub name: String,
    /// The fencing token.
    pub token: Token,
    /// The holder's own bytes.
    pub metadata: Vec<u8>,
    /// How many hold the key, for shared locks and semaphores.
    pub holders: u32,
}

/// What is known of a key's holders after a change.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Change {
    /// Orders the changes of one key on one replica: a larger number is later. It means nothing elsewhere.
    pub revision: u64,
    /// The key.
    pub key: Key,
    /// Its first holder; `None` when it is free.
    pub holding: Option<Holding>,
}

/// Where a watch begins, or begins anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchStart {
    /// Changes up to this number are in it.
    pub floor: u64,
    /// The key of the watch, or all held keys of its prefix.
    pub changes: Vec<Change>,
}

#[derive(Debug, Default)]
struct Patterns {
    keys: HashMap<Key, usize>,
    prefixes: Vec<Vec<u8>>,
}

/// What is watched on one replica. Any thread.
#[derive(Debug, Default)]
pub struct Watched {
    any: AtomicBool,
    revision: AtomicU64,
    patterns: RwLock<Patterns>,
}

impl Watched {
    /// From the next change on, changes of these keys are told.
    pub fn add(&self, pattern: &Pattern) {
        let mut patterns = self.patterns.write().unwrap_or_else(PoisonError::into_inner);
        match pattern {
            Pattern::Key(key) => *patterns.keys.entry(key.clone()).or_default() += 1,
            Pattern::Prefix(prefix) => patterns.prefixes.push(prefix.clone()),
        }
        self.any.store(true, SeqCst);
    }

    /// Takes back one [`Watched::add`].
    pub fn remove(&self, pattern: &Pattern) {
        let mut patterns = self.patterns.write().unwrap_or_else(PoisonError::into_inner);
        match pattern {
            Pattern::Key(key) => {
                if let Some(count) = patterns.keys.get_mut(key) {
                    *count -= 1;
                    if *count == 0 {
                        patterns.keys.remove(key);
                    }
                }
            }
            Pattern::Prefix(prefix) => {
                if let Some(at) = patterns.prefixes.iter().position(|p| p == prefix) {
                    patterns.prefixes.swap_remove(at);
                }
            }
        }
        self.any.store(!(patterns.keys.is_empty() && patterns.prefixes.is_empty()), SeqCst);
    }

    /// The last change's number.
    pub(crate) fn revision(&self) -> u64 {
        self.revision.load(Acquire)
    }

    /// Whether anything is watched at all.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.any.load(Relaxed)
    }

    fn wants(&self, key: &Key) -> bool {
        let patterns = self.patterns.read().unwrap_or_else(PoisonError::into_inner);
        patterns.keys.contains_key(key) || patterns.prefixes.iter().any(|p| key.as_bytes().starts_with(p))
    }
}

impl Shard {
    /// Tells those who watch this key that its holders, or what they say of themselves, have changed.
    #[inline]
    pub(super) fn tell(&self, cx: &mut Cx<'_>, entry: u32) {
        if cx.hub.watched.any() {
            self.tell_watchers(cx, entry);
        }
    }

    #[cold]
    fn tell_watchers(&self, cx: &mut Cx<'_>, entry: u32) {
        let Some(key) = self.entries[entry].name.key().filter(|key| cx.hub.watched.wants(key)) else { return };
        let revision = cx.hub.watched.revision.fetch_add(1, AcqRel) + 1;
        let holding = self.holding(cx, entry);
        cx.events.push(super::event::Event::Changed(Box::new(Change { revision, key, holding })));
    }

    fn holding(&self, cx: &Cx<'_>, entry: u32) -> Option<Holding> {
        let first = self.entries[entry].holds;
        if first == NONE {
            return None;
        }
        let slot = self.slot_of(cx, first)?;
        let (mut holders, mut at) = (0, first);
        while at != NONE {
            (holders, at) = (holders + 1, self.records[at].next());
        }
        let r = &self.records[first];
        Some(Holding { session: slot.id(), name: slot.body().name.clone(), token: Token(r.id), metadata: r.meta().to_vec(), holders })
    }

    /// Where a watch of this key begins.
    pub(crate) fn change(&self, cx: &Cx<'_>, probe: &Probe<'_>) -> Change {
        let revision = cx.hub.watched.revision();
        Change { revision, key: probe.key.clone(), holding: self.find(probe).and_then(|entry| self.holding(cx, entry)) }
    }

    /// Where a watch of these names begins: those that are held.
    pub(crate) fn changes(&self, cx: &Cx<'_>, prefix: &[u8]) -> Vec<Change> {
        let revision = cx.hub.watched.revision();
        let held = self.table.iter().filter_map(|&entry| {
            let key = self.entries[entry].name.key().filter(|key| key.as_bytes().starts_with(prefix))?;
            let holding = self.holding(cx, entry)?;
            Some(Change { revision, key, holding: Some(holding) })
        });
        held.collect()
    }
}
