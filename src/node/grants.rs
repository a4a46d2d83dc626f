//! A session's own view of its grants: what it holds, until when it may believe so, and what it has been told.
//!
//! It looks after the grants that the node renews. The view ends before the ledger's does (`base::clock::holder_ttl`), needs no answer from anybody to end, and
//! an end is told exactly once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hashbrown::{HashMap, HashSet};

use crate::base::clock::holder_ttl;
use crate::base::{Key, Moment, Token};

/// A grant that its session looks after.
#[derive(Clone, Debug)]
struct Tracked {
    key: Key,
    ttl_ns: u64,
    warned: bool,
    from: From,
}

/// What a grant's life counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// The last acknowledged renewal of its session, or, if that is later, the sending of the request for it.
    Session {
        /// When that was sent.
        asked: Moment,
    },
    /// The last acknowledged renewal of its own, sent then.
    Own(Moment),
}

impl From {
    fn moment(self, renewed: Moment) -> Moment {
        match self {
            From::Own(sent) => sent,
            From::Session { asked } if asked.boottime_ns > renewed.boottime_ns => asked,
            From::Session { .. } => renewed,
        }
    }
}

/// What has to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    AtRisk {
        key: Key,
        token: Token,
        remaining_ns: u64,
    },
    /// `clock`: only by one of the two clocks that holders go by.
    Lost {
        key: Key,
        token: Token,
        clock: bool,
    },
}

#[derive(Default)]
struct Table {
    grants: HashMap<Token, Tracked>,
    /// Losses that were told before the ledger told them.
    told: HashSet<Token>,
}

/// On a cache line of its own: threads that take different locks of one session do not meet here.
#[derive(Default)]
#[repr(align(128))]
struct Part(Mutex<Table>);

const PARTS: usize = 32;

#[derive(Default)]
pub(super) struct Grants {
    /// By token. Tokens are consecutive, and so spread evenly.
    parts: [Part; PARTS],
    /// When the last acknowledged renewal of the session was sent.
    renewed: Mutex<Moment>,
    /// Whether there may be grants: a session that never had one is not asked further. Raised with the grant's part locked,
    /// lowered with all parts locked.
    any: AtomicBool,
    /// The shortest ttl, ns; 0 without a grant. It only ever shrinks while grants live. Changed as `any` is.
    shortest_ns: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing of the host runs under these locks and each step leaves the data whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Grants {
    #[inline]
    fn part(&self, token: Token) -> MutexGuard<'_, Table> {
        lock(&self.parts[token.0 as usize % PARTS].0)
    }

    /// All parts, in order, and after them the renewal's time.
    fn all(&self) -> (Vec<MutexGuard<'_, Table>>, MutexGuard<'_, Moment>) {
        (self.parts.iter().map(|p| lock(&p.0)).collect(), lock(&self.renewed))
    }

    /// With all parts locked: forgets that there were grants when there are none.
    fn settle(&self, parts: &[MutexGuard<'_, Table>]) {
        if parts.iter().all(|p| p.grants.is_empty()) {
            self.any.store(false, SeqCst);
            self.shortest_ns.store(0, SeqCst);
        }
    }

    /// A grant was given. `warn`: whether its holder is told when it is at risk. One that is held already, and was taken again, lives no
    /// longer for that: the ledger counts it from the first time.
    pub(super) fn add(&self, key: Key, token: Token, ttl_ns: u64, from: From, warn: bool) {
        let mut part = self.part(token);
        part.grants.entry(token).or_insert(Tracked { key, ttl_ns, warned: !warn, from });
        if !self.any.load(SeqCst) {
            self.any.store(true, SeqCst);
        }
        let mut shortest = self.shortest_ns.load(SeqCst);
        while shortest == 0 || ttl_ns < shortest {
            match self.shortest_ns.compare_exchange_weak(shortest, ttl_ns, SeqCst, SeqCst) {
                Ok(_) => break,
                Err(now) => shortest = now,
            }
        }
    }

    /// The grant is given back. False when it was not tracked.
    pub(super) fn remove(&self, token: Token) -> bool {
        self.any.load(SeqCst) && self.part(token).grants.remove(&token).is_some()
    }

    /// The ledger says that the grant is lost. True when that has to be told, false when it has been.
    pub(super) fn lost(&self, token: Token) -> bool {
        let mut part = self.part(token);
        part.grants.remove(&token);
        !part.told.remove(&token)
    }

    /// The session's renewal sent at `sent` was acknowledged. A late acknowledgement never shortens the view.
    pub(super) fn renewed(&self, sent: Moment) {
        let (mut parts, mut renewed) = self.all();
        if sent.boottime_ns >= renewed.boottime_ns {
            *renewed = sent;
        }
        for g in parts.iter_mut().flat_map(|p| p.grants.values_mut()).filter(|g| matches!(g.from, From::Session { .. })) {
            g.warned = false;
        }
    }

    /// What is left of a grant in the holder's view, ns; `None` when it is not tracked (any more).
    pub(super) fn remaining_ns(&self, token: Token, now: Moment) -> Option<u64> {
        let part = self.part(token);
        let renewed = *lock(&self.renewed);
        part.grants.get(&token).map(|g| remaining(g, renewed, now))
    }

    /// The renewal sent at `sent` of a grant with a deadline of its own was acknowledged.
    pub(super) fn grant_renewed(&self, token: Token, ttl_ns: u64, sent: Moment) {
        if let Some(g) = self.part(token).grants.get_mut(&token)
            && matches!(g.from, From::Own(last) if sent.boottime_ns >= last.boottime_ns)
        {
            (g.from, g.ttl_ns, g.warned) = (From::Own(sent), ttl_ns, false);
        }
    }

    /// What a grant's life counts from at present; `None` when it is not tracked (any more).
    pub(super) fn since(&self, token: Token) -> Option<Moment> {
        let part = self.part(token);
        let renewed = *lock(&self.renewed);
        part.grants.get(&token).map(|g| g.from.moment(renewed))
    }

    /// The shortest ttl that the session's renewals must serve, ns; 0 for none.
    pub(super) fn shortest_ns(&self) -> u64 {
        self.shortest_ns.load(SeqCst)
    }

    /// Looks at the clock: grants that ran out are removed and told, those with less than a third left are told once.
    pub(super) fn look(&self, now: Moment) -> Vec<Change> {
        if !self.any.load(SeqCst) {
            return Vec::new();
        }
        let (mut parts, renewed) = self.all();
        let (mut risky, mut lost) = (Vec::new(), Vec::new());
        for part in &mut parts {
            let Table { grants, told } = &mut **part;
            grants.retain(|token, g| {
                let remaining_ns = remaining(g, *renewed, now);
                if remaining_ns == 0 {
                    told.insert(*token);
                    lost.push((*token, g.key.clone(), by_all_clocks(g, *renewed, now) != 0));
                } else if !g.warned && remaining_ns < g.ttl_ns / 3 {
                    g.warned = true;
                    risky.push((*token, g.key.clone(), remaining_ns));
                }
                remaining_ns != 0
            });
        }
        // In one order everywhere, whatever the tables' order is.
        risky.sort_unstable_by_key(|(token, ..)| *token);
        lost.sort_unstable_by_key(|(token, ..)| *token);
        self.settle(&parts);
        let risky = risky.into_iter().map(|(token, key, remaining_ns)| Change::AtRisk { key, token, remaining_ns });
        risky.chain(lost.into_iter().map(|(token, key, clock)| Change::Lost { key, token, clock })).collect()
    }

    /// The session is gone: everything that it held.
    pub(super) fn take_all(&self) -> Vec<(Key, Token)> {
        let (mut parts, _renewed) = self.all();
        let mut all: Vec<_> = parts.iter_mut().flat_map(|p| p.grants.drain().map(|(token, g)| (g.key, token))).collect();
        for part in &mut parts {
            // What belongs to the session that has ended is never heard of again.
            part.told.clear();
        }
        self.settle(&parts);
        all.sort_unstable_by_key(|(_, token)| *token);
        all
    }
}

fn remaining(g: &Tracked, renewed: Moment, now: Moment) -> u64 {
    holder_ttl(g.ttl_ns).saturating_sub(g.from.moment(renewed).elapsed_ns(now))
}

/// What would be left if the clock on which less has passed were right.
fn by_all_clocks(g: &Tracked, renewed: Moment, now: Moment) -> u64 {
    let from = g.from.moment(renewed);
    let boottime = now.boottime_ns.saturating_sub(from.boottime_ns);
    let raw = now.raw_ns.saturating_sub(from.raw_ns);
    holder_ttl(g.ttl_ns).saturating_sub(boottime.min(raw))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn at(ns: u64) -> Moment {
        Moment { boottime_ns: ns, raw_ns: ns }
    }

    /// Asked for before every renewal.
    const OLD: From = From::Session { asked: Moment { boottime_ns: 0, raw_ns: 0 } };

    fn key() -> Key {
        Key::new(b"k").unwrap()
    }

    #[test]
    fn a_grant_that_is_taken_again_lives_no_longer_for_it() {
        let g = Grants::default();
        g.renewed(at(0));
        g.add(key(), Token(1), 2 * S, OLD, true);
        g.add(key(), Token(1), 2 * S, From::Session { asked: at(S) }, true);
        assert_eq!(g.remaining_ns(Token(1), at(S)), Some(2 * S * 99 / 101 - S));
    }

    // I-03.
    #[test]
    fn the_view_counts_from_the_sending_and_ends_early() {
        let g = Grants::default();
        g.renewed(at(5 * S));
        g.add(key(), Token(1), 10 * S, OLD, true);
        assert_eq!(g.remaining_ns(Token(1), at(5 * S)), Some(10 * S * 99 / 101));
        assert_eq!(g.remaining_ns(Token(1), at(15 * S)), Some(0));
        // A renewal that was sent earlier but answered later takes nothing away and adds nothing.
        g.renewed(at(2 * S));
        assert_eq!(g.since(Token(1)), Some(at(5 * S)));
    }

    #[test]
    fn a_deadline_of_its_own_is_moved_by_its_own_renewals_only() {
        let g = Grants::default();
        g.renewed(at(0));
        g.add(key(), Token(1), 10 * S, From::Own(at(5 * S)), true);
        g.renewed(at(9 * S));
        assert_eq!(g.remaining_ns(Token(1), at(9 * S)), Some(10 * S * 99 / 101 - 4 * S));
        g.grant_renewed(Token(1), 20 * S, at(8 * S));
        g.grant_renewed(Token(1), 20 * S, at(6 * S));
        assert_eq!((g.since(Token(1)), g.remaining_ns(Token(1), at(8 * S))), (Some(at(8 * S)), Some(20 * S * 99 / 101)));
        assert!(matches!(g.look(at(30 * S))[..], [Change::Lost { token: Token(1), .. }]));
    }

    #[test]
    fn a_session_renewed_long_ago_does_not_shorten_a_new_grant() {
        let g = Grants::default();
        g.renewed(at(0));
        g.add(key(), Token(1), 2 * S, From::Session { asked: at(3 * S) }, true);
        assert_eq!(g.look(at(3 * S)), []);
        assert_eq!(g.remaining_ns(Token(1), at(4 * S)), Some(2 * S * 99 / 101 - S));
        g.renewed(at(4 * S));
        assert_eq!(g.remaining_ns(Token(1), at(4 * S)), Some(2 * S * 99 / 101));
    }

    #[test]
    fn each_change_is_told_once() {
        let g = Grants::default();
        g.renewed(at(0));
        g.add(key(), Token(7), 9 * S, OLD, true);
        assert_eq!(g.look(at(S)), []);
        let warned = g.look(at(7 * S));
        assert!(matches!(warned[..], [Change::AtRisk { token: Token(7), .. }]), "{warned:?}");
        assert_eq!(g.look(at(7 * S)), []);
        g.renewed(at(7 * S));
        assert!(matches!(g.look(at(14 * S))[..], [Change::AtRisk { .. }]));
        assert_eq!(g.look(at(17 * S)), [Change::Lost { key: key(), token: Token(7), clock: false }]);
        assert_eq!(g.look(at(18 * S)), []);
        assert!(!g.remove(Token(7)));
        assert_eq!(g.shortest_ns(), 0);
    }

    #[test]
    fn changes_are_told_in_the_order_of_their_tokens() {
        let g = Grants::default();
        g.renewed(at(0));
        // All in one table.
        let tokens: Vec<_> = (0..40).map(|i| Token(7 + i * PARTS as u64)).collect();
        tokens.iter().for_each(|token| g.add(key(), *token, 9 * S, OLD, true));
        let told = |changes: Vec<Change>| {
            changes.iter().map(|(Change::AtRisk { token, .. } | Change::Lost { token, .. })| *token).collect::<Vec<_>>()
        };
        assert_eq!(told(g.look(at(7 * S))), tokens);
        assert_eq!(told(g.look(at(17 * S))), tokens);
    }

    #[test]
    fn a_loss_by_one_clock_alone_is_told_as_such() {
        let g = Grants::default();
        g.renewed(at(0));
        g.add(key(), Token(7), 9 * S, OLD, true);
        // As after a suspend.
        let now = Moment { boottime_ns: 30 * S, raw_ns: S };
        assert_eq!(g.look(now), [Change::Lost { key: key(), token: Token(7), clock: true }]);
    }

    #[test]
    fn the_shortest_ttl_is_never_lost_to_a_grant_that_goes() {
        let g = std::sync::Arc::new(Grants::default());
        g.renewed(at(0));
        let adders: Vec<_> = (0..4u64)
            .map(|t| {
                let g = g.clone();
                std::thread::spawn(move || {
                    for n in 0..2_000 {
                        let token = Token(1 + t + 4 * n);
                        g.add(key(), token, (2 + t) * S, OLD, true);
                        let shortest = g.shortest_ns();
                        assert!(shortest != 0 && shortest <= (2 + t) * S, "{shortest}");
                        assert!(g.remove(token));
                    }
                })
            })
            .collect();
        while adders.iter().any(|a| !a.is_finished()) {
            assert_eq!(g.look(at(S / 2)), []);
        }
        for a in adders {
            a.join().unwrap();
        }
        assert_eq!(g.look(at(S)), []);
        assert_eq!((g.shortest_ns(), g.take_all()), (0, vec![]));
    }
}
