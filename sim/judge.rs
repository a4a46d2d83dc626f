//! What must hold at every moment of a run, looked at from outside of it: the judge sees all machines at once, and true time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::host::{OFFICE, Up};
use super::load::KEYS;
use super::world::World;
use crate::base::Key;
use crate::ledger::{Ledger, Mode};

/// What a process has shown of itself before.
#[derive(Default)]
struct Shown {
    clock_ms: u64,
    index: u64,
    last_token: u64,
}

/// What is remembered between two looks.
#[derive(Default)]
pub struct Judge {
    /// The state at each index, as the first to get there had it.
    states: BTreeMap<u64, u64>,
    shown: BTreeMap<String, Shown>,
    /// Tokens that were granted, and the largest one that anybody has been told.
    tokens: BTreeSet<u64>,
    told: u64,
    /// The epoch of the last write that was acknowledged through a gate, and whose.
    written: (u64, String),
    /// The fastest that a leader's clock ever is, in millionths.
    fastest: u64,
}

fn key(name: &str) -> Key {
    Key::new(name.as_bytes()).unwrap()
}

/// The ledgers of all processes that live, with their names.
pub fn ledgers(world: &World, mut look: impl FnMut(&Arc<Up>, &Ledger)) {
    for up in world.processes() {
        if up.lives() {
            let _ = up.access.read_local(|ledger| look(&up, ledger));
        }
    }
}

impl Judge {
    pub fn new(fastest: u64) -> Judge {
        Judge { fastest, ..Judge::default() }
    }

    /// A grant is told to its holder, who had asked when `told` was the largest token known. `again`: it may be one that it has already.
    pub fn granted(&mut self, token: u64, told: u64, again: bool) {
        let known = !self.tokens.insert(token);
        assert!(!known || again, "I-05: token {token} was granted twice");
        assert!(token > told || again, "I-05: token {token} was asked for when {told} had been told");
        self.told = self.told.max(token);
    }

    /// The largest token that anybody was told.
    pub fn told(&self) -> u64 {
        self.told
    }

    /// A write through a gate was acknowledged just now.
    pub fn written(&mut self, world: &World, epoch: u64, by: &str) {
        world.counts.done("write");
        if !world.calm {
            return;
        }
        assert!(epoch >= self.written.0, "I-01: {by} wrote under epoch {epoch} after {:?}", self.written);
        self.written = (epoch, by.to_owned());
        ledgers(world, |up, ledger| {
            let granted = ledger.lock(&key(OFFICE)).and_then(|l| l.holders.first().map(|h| h.token.0));
            assert!(
                granted.is_none_or(|token| token <= epoch),
                "I-02: {by} had a write acknowledged under epoch {epoch} when {} had applied the grant of {granted:?}",
                up.name
            );
        });
    }

    /// Looks at everything there is; `whole`: also at what costs more to see.
    pub fn look(&mut self, world: &World, whole: bool) {
        let passed_ms = world.trace.now() / 1_000_000;
        let bound_ms = passed_ms * self.fastest / 1_000_000 + 5;
        ledgers(world, |up, ledger| {
            let shown = self.shown.entry(up.name.clone()).or_default();
            let (clock_ms, index, last) = (ledger.clock_ms(), ledger.applied().index, ledger.counts().last_token);
            assert!(clock_ms >= shown.clock_ms && index >= shown.index, "I-12: {}'s ledger went back", up.name);
            assert!(clock_ms <= bound_ms, "I-12: {}'s ledger says {clock_ms} ms when {passed_ms} have passed", up.name);
            assert!(last >= shown.last_token, "I-05: {}'s last token went back", up.name);
            (shown.clock_ms, shown.index, shown.last_token) = (clock_ms, index, last);
            if whole {
                let hash = ledger.state_hash().unwrap();
                let known = *self.states.entry(index).or_insert(hash);
                assert_eq!(known, hash, "I-13: {} has another state at index {index}", up.name);
            }
            for name in KEYS {
                let Some(lock) = ledger.lock(&key(name)) else { continue };
                let exclusive = lock.holders.iter().any(|h| h.mode == Mode::Exclusive);
                assert!(!exclusive || lock.holders.len() == 1, "I-07: {}: {lock:?}", up.name);
                let permits =
                    |h: &crate::ledger::Holder| if let Mode::Permits { count, limit } = h.mode { Some((count, limit)) } else { None };
                let taken: u32 = lock.holders.iter().filter_map(permits).map(|(count, _)| count).sum();
                let limit = lock.holders.iter().filter_map(permits).map(|(_, limit)| limit).min();
                assert!(limit.is_none_or(|limit| taken <= limit), "I-07: {}: {lock:?}", up.name);
            }
        });
        if world.calm {
            self.views(world);
        }
    }

    /// I-03: whoever believes that it holds a lock does, in every copy of the ledger that has come so far.
    fn views(&self, world: &World) {
        let believed = {
            let mut believed = world.believed.lock().unwrap();
            believed.retain(|_, belief| !belief.up.machine.is_dead());
            believed.clone()
        };
        for (token, belief) in believed {
            if !belief.up.lives() || !belief.up.machine.runs() || !belief.session.believes(crate::base::Token(token)) {
                continue;
            }
            world.counts.done("view compared");
            ledgers(world, |up, ledger| {
                let held = ledger.lock(&key(belief.key)).is_some_and(|l| l.holders.iter().any(|h| h.token.0 == token));
                assert!(
                    held || ledger.counts().last_token < token,
                    "I-03: {} believes that it holds {} under {token}, and {} has applied its end",
                    belief.up.name,
                    belief.key,
                    up.name
                );
            });
        }
    }
}
