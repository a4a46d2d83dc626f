//! A session's own view of its grants: what it holds, until when it may believe so, and what it has been told.
//!
//! It looks after the grants that the node renews. The view ends before the ledger's does (`base::clock::holder_ttl`), needs no answer from anybody to end, and
//! an end is told exactly once.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::clock::holder_ttl;
use crate::base::{Key, Moment, Token};

/// A grant that its session looks after.
#[derive(Clone, Debug)]
struct Tracked {
    key: Key,
    ttl_ns: u64,
    warned: bool,
}

/// What has to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    AtRisk { key: Key, token: Token, remaining_ns: u64 },
    Lost { key: Key, token: Token },
}

#[derive(Default)]
struct Table {
    /// When the last acknowledged renewal of the session was sent.
    renewed: Moment,
    grants: HashMap<Token, Tracked>,
    /// Losses that were told before the ledger told them.
    told: HashSet<Token>,
}

#[derive(Default)]
pub(super) struct Grants {
    table: Mutex<Table>,
    /// How many grants there are: a session without any is not asked further.
    count: AtomicUsize,
    /// The shortest ttl, ns; 0 without a grant. It only ever shrinks while grants live.
    shortest_ns: AtomicU64,
}

impl Table {
    fn remaining(&self, g: &Tracked, now: Moment) -> u64 {
        holder_ttl(g.ttl_ns).saturating_sub(self.renewed.elapsed_ns(now))
    }
}

impl Grants {
    /// To be called with the table locked, after every change of its size.
    fn resized(&self, table: &Table) {
        self.count.store(table.grants.len(), SeqCst);
        if table.grants.is_empty() {
            self.shortest_ns.store(0, SeqCst);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing of the host runs under this lock and each step leaves the table whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A grant was given. It lives as long as its session is renewed.
    pub(super) fn add(&self, key: Key, token: Token, ttl_ns: u64) {
        let mut table = self.lock();
        table.grants.insert(token, Tracked { key, ttl_ns, warned: false });
        self.resized(&table);
        let shortest = self.shortest_ns.load(SeqCst);
        if shortest == 0 || ttl_ns < shortest {
            self.shortest_ns.store(ttl_ns, SeqCst);
        }
    }

    /// The grant is given back. False when it was not tracked.
    pub(super) fn remove(&self, token: Token) -> bool {
        if self.count.load(SeqCst) == 0 {
            return false;
        }
        let mut table = self.lock();
        let found = table.grants.remove(&token).is_some();
        self.resized(&table);
        found
    }

    /// The ledger says that the grant is lost. True when that has to be told, false when it has been.
    pub(super) fn lost(&self, token: Token) -> bool {
        let mut table = self.lock();
        table.grants.remove(&token);
        self.resized(&table);
        !table.told.remove(&token)
    }

    /// The session's renewal sent at `sent` was acknowledged. A late acknowledgement never shortens the view.
    pub(super) fn renewed(&self, sent: Moment) {
        let mut table = self.lock();
        if sent.boottime_ns >= table.renewed.boottime_ns {
            table.renewed = sent;
        }
        for g in table.grants.values_mut() {
            g.warned = false;
        }
    }

    /// What is left of a grant in the holder's view, ns; `None` when it is not tracked (any more).
    pub(super) fn remaining_ns(&self, token: Token, now: Moment) -> Option<u64> {
        let table = self.lock();
        table.grants.get(&token).map(|g| table.remaining(g, now))
    }

    /// When the last acknowledged renewal was sent.
    pub(super) fn last_renewed(&self) -> Moment {
        self.lock().renewed
    }

    /// The shortest ttl that the session's renewals must serve, ns; 0 for none.
    pub(super) fn shortest_ns(&self) -> u64 {
        self.shortest_ns.load(SeqCst)
    }

    /// Looks at the clock: grants that ran out are removed and told, those with less than a third left are told once.
    pub(super) fn look(&self, now: Moment) -> Vec<Change> {
        if self.count.load(SeqCst) == 0 {
            return Vec::new();
        }
        let mut table = self.lock();
        let mut changes = Vec::new();
        let mut lost = Vec::new();
        for (token, g) in &table.grants {
            let remaining = table.remaining(g, now);
            if remaining == 0 {
                lost.push(*token);
            } else if !g.warned && remaining < g.ttl_ns / 3 {
                changes.push(Change::AtRisk { key: g.key.clone(), token: *token, remaining_ns: remaining });
            }
        }
        for change in &changes {
            if let Change::AtRisk { token, .. } = change
                && let Some(g) = table.grants.get_mut(token)
            {
                g.warned = true;
            }
        }
        lost.sort_unstable();
        for token in lost {
            if let Some(g) = table.grants.remove(&token) {
                table.told.insert(token);
                changes.push(Change::Lost { key: g.key, token });
            }
        }
        self.resized(&table);
        changes
    }

    /// The session is gone: everything that it held.
    pub(super) fn take_all(&self) -> Vec<(Key, Token)> {
        let mut table = self.lock();
        let mut all: Vec<_> = table.grants.drain().map(|(token, g)| (g.key, token)).collect();
        // What belongs to the session that has ended is never heard of again.
        table.told.clear();
        self.resized(&table);
        all.sort_unstable_by_key(|(_, token)| *token);
        all
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn at(ns: u64) -> Moment {
        Moment { boottime_ns: ns, raw_ns: ns }
    }

    fn key() -> Key {
        Key::new(b"k").unwrap()
    }

    #[test]
    fn the_view_counts_from_the_sending_and_ends_early() {
        let g = Grants::default();
        g.renewed(at(5 * S));
        g.add(key(), Token(1), 10 * S);
        assert_eq!(g.remaining_ns(Token(1), at(5 * S)), Some(10 * S * 99 / 101));
        assert_eq!(g.remaining_ns(Token(1), at(15 * S)), Some(0));
        // A renewal that was sent earlier but answered later takes nothing away and adds nothing.
        g.renewed(at(2 * S));
        assert_eq!(g.last_renewed(), at(5 * S));
    }

    #[test]
    fn each_change_is_told_once() {
        let g = Grants::default();
        g.renewed(at(0));
        g.add(key(), Token(7), 9 * S);
        assert_eq!(g.look(at(S)), []);
        let warned = g.look(at(7 * S));
        assert!(matches!(warned[..], [Change::AtRisk { token: Token(7), .. }]), "{warned:?}");
        assert_eq!(g.look(at(7 * S)), []);
        g.renewed(at(7 * S));
        assert!(matches!(g.look(at(14 * S))[..], [Change::AtRisk { .. }]));
        assert_eq!(g.look(at(17 * S)), [Change::Lost { key: key(), token: Token(7) }]);
        assert_eq!(g.look(at(18 * S)), []);
        assert!(!g.remove(Token(7)));
        assert_eq!(g.shortest_ns(), 0);
    }
}
