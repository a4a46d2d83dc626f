//! Which disk belongs to which node: the rule by which a node that lost or swapped its disk, an old copy, a twin and a removed
//! node are refused.
//!
//! Every message between members names its sender: node, disk, how often the disk has been opened, and a random number of this
//! opening. A node is refused when
//! - its disk was taken out of the cluster ([`Refused::Removed`]);
//! - the cluster knows the name with another disk ([`Refused::OtherDisk`]): it was wiped or replaced, and what it promised is
//!   forgotten. It may come back as a new member, once the old one is removed;
//! - its disk has been opened less often than the cluster remembers, or its log ends before what it has acknowledged to this
//!   leader ([`Refused::Old`]): it was restored from a copy;
//! - it was opened as often as remembered, but by another process ([`Refused::Twin`]): two copies of a disk are running, and the
//!   first one goes on.
//!
//! The rule is asked of both sides of every exchange, so that neither the requests nor the answers of such a node count. What is
//! remembered is part of the replicated state. Source: spec/reliability.md 3.2; openraft's release build does not notice.

use std::collections::{BTreeMap, BTreeSet};

use super::change::Note;
use crate::base::codec::{Decode, Encode};
use crate::base::{Error, Status};

/// What a node says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Sighting {
    /// The random number of its data directory.
    pub disk: u128,
    /// How often that has been opened.
    pub opens: u64,
    /// Random number of this opening.
    pub boot: u64,
    /// One more than the index of the last entry it had when it was opened.
    pub log_end: u64,
    /// One more than the index of the last entry that it knew to be committed then: its log never ends before that again.
    pub settled: u64,
}

/// Why a node is not listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Removed,
    OtherDisk,
    /// It was opened so often, or its log has so many entries; it should be this many at least.
    Old {
        has: u64,
        at_least: u64,
    },
    Twin,
}

impl Refused {
    pub fn error(self, name: &str) -> Error {
        match self {
            Refused::Removed => Error::new(Status::DataForeign, format!("node {name}: this data directory was removed from the cluster")),
            Refused::OtherDisk => Error::new(
                Status::DataForeign,
                format!("node {name}: the cluster knows it with another data directory. Remove it before it joins again"),
            ),
            Refused::Old { has, at_least } => Error::new(
                Status::DataLost,
                format!("node {name}: its data is older than what the cluster remembers of it: {has}, not {at_least}"),
            ),
            Refused::Twin => Error::new(Status::DataLocked, format!("node {name}: another process runs with a copy of its data directory")),
        }
    }
}

/// Most join tokens that are good at once.
pub(super) const TOKENS_MAX: usize = 1024;

/// What is remembered and shown of a join token: it itself is known to nobody but those who carry it.
pub fn token_digest(token: &str) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}

/// A join token, known by its digest only.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct JoinToken {
    node: String,
    /// By the ledger's clock.
    expires_ms: u64,
    /// The disk that it let in.
    used_by: Option<u128>,
}

/// What the cluster remembers of its nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Roster {
    known: BTreeMap<String, Sighting>,
    retired: BTreeSet<u128>,
    lineage: u128,
    tokens_required: bool,
    tokens: BTreeMap<[u8; 32], JoinToken>,
}

impl Roster {
    /// `clock_ms` is the ledger's.
    pub fn apply(&mut self, note: Note, clock_ms: u64) {
        match note {
            Note::Seen { name, mut sighting } => {
                let known = self.known.get(&name);
                let newer = known.is_none_or(|k| k.disk == sighting.disk && k.opens < sighting.opens);
                // Whoever noted it may not have known yet what it must have: a leader applies the marks after it was elected.
                let whole = known.is_none_or(|k| sighting.log_end >= k.settled);
                if newer && whole && !self.retired.contains(&sighting.disk) {
                    sighting.settled = sighting.settled.max(known.map_or(0, |k| k.settled));
                    self.known.insert(name, sighting);
                }
            }
            Note::Founded { lineage, tokens, .. } if self.lineage == 0 => {
                self.lineage = lineage;
                self.tokens_required = tokens;
            }
            Note::Founded { .. } => {}
            Note::TokenMade { hash, node, ttl_ms } => {
                self.tokens.retain(|_, t| t.expires_ms > clock_ms);
                if self.tokens.len() < TOKENS_MAX {
                    self.tokens.insert(hash, JoinToken { node, expires_ms: clock_ms.saturating_add(ttl_ms), used_by: None });
                }
            }
            Note::TokenShown { hash, node, disk } => {
                if let Some(token) = self.tokens.get_mut(&hash)
                    && token.node == node
                    && token.used_by.is_none()
                    && token.expires_ms > clock_ms
                {
                    token.used_by = Some(disk);
                }
            }
            Note::Marked { ends } => {
                for (name, disk, end) in ends {
                    if let Some(known) = self.known.get_mut(&name).filter(|k| k.disk == disk) {
                        known.settled = known.settled.max(end);
                    }
                }
            }
            Note::Retired { name, disk } => {
                self.retired.insert(disk);
                if self.known.get(&name).is_some_and(|k| k.disk == disk) {
                    self.known.remove(&name);
                }
            }
        }
    }

    /// Whether this node may be listened to. `acknowledged` is one more than the last index that it is known to have had on disk.
    pub fn check(&self, name: &str, s: &Sighting, acknowledged: u64) -> Result<(), Refused> {
        if self.retired.contains(&s.disk) {
            return Err(Refused::Removed);
        }
        let Some(k) = self.known.get(name) else { return Ok(()) };
        if k.disk != s.disk {
            return Err(Refused::OtherDisk);
        }
        if s.opens < k.opens {
            return Err(Refused::Old { has: s.opens, at_least: k.opens });
        }
        if s.opens == k.opens {
            return if s.boot == k.boot { Ok(()) } else { Err(Refused::Twin) };
        }
        let at_least = acknowledged.max(k.settled);
        if s.log_end < at_least { Err(Refused::Old { has: s.log_end, at_least }) } else { Ok(()) }
    }

    /// Whether this very opening is the last one remembered.
    pub fn is_known(&self, name: &str, s: &Sighting) -> bool {
        self.known.get(name).is_some_and(|k| (k.disk, k.opens, k.boot) == (s.disk, s.opens, s.boot)) && !self.retired.contains(&s.disk)
    }

    /// Whether this opening is in the records.
    pub fn has(&self, name: &str, s: &Sighting) -> bool {
        self.known.get(name).is_some_and(|k| k.disk == s.disk && k.opens >= s.opens)
    }

    /// What tells this cluster from others of its name; 0 before it is founded.
    pub fn lineage(&self) -> u128 {
        self.lineage
    }

    /// Whether a node that comes in shows a token.
    pub fn tokens_required(&self) -> bool {
        self.tokens_required
    }

    /// Whether there is such a token.
    pub fn has_token(&self, hash: &[u8; 32]) -> bool {
        self.tokens.contains_key(hash)
    }

    /// Whether this token has let this disk in.
    pub fn was_let_in(&self, hash: &[u8; 32], disk: u128) -> bool {
        self.tokens.get(hash).is_some_and(|t| t.used_by == Some(disk))
    }

    /// When the next token that nobody has shown yet runs out, by the ledger's clock.
    pub fn next_deadline(&self) -> Option<u64> {
        self.tokens.values().filter(|t| t.used_by.is_none()).map(|t| t.expires_ms).min()
    }

    /// For each node, one more than the index of the last entry that it is known to have on disk, whoever leads.
    pub fn marks(&self) -> BTreeMap<String, u64> {
        self.known.iter().map(|(name, k)| (name.clone(), k.settled)).collect()
    }

    /// The disk with which the cluster knows this node, member or not.
    pub fn disk_of(&self, name: &str) -> Option<u128> {
        self.known.get(name).map(|k| k.disk)
    }

    /// What this node is known to have on disk at least: one more than an index.
    pub fn settled(&self, name: &str, disk: u128) -> Option<u64> {
        self.known.get(name).filter(|k| k.disk == disk).map(|k| k.settled)
    }

    /// Whether this disk was taken out of the cluster.
    pub fn is_retired(&self, disk: u128) -> bool {
        self.retired.contains(&disk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule() {
        let mut roster = Roster::default();
        let first = Sighting { disk: 1, opens: 3, boot: 100, log_end: 50, settled: 40 };
        assert_eq!(roster.check("a", &first, 0), Ok(()));
        roster.apply(Note::Seen { name: "a".into(), sighting: first }, 0);
        let cases = [
            ("the same process", first, 90, Ok(())),
            ("a restart", Sighting { opens: 4, boot: 101, log_end: 90, ..first }, 90, Ok(())),
            ("wiped", Sighting { disk: 2, opens: 1, boot: 102, log_end: 0, settled: 0 }, 0, Err(Refused::OtherDisk)),
            ("an old copy, opened less often", Sighting { opens: 2, boot: 103, ..first }, 0, Err(Refused::Old { has: 2, at_least: 3 })),
            ("a copy of the same opening", Sighting { boot: 104, ..first }, 0, Err(Refused::Twin)),
            (
                "a copy from during this opening, behind what was acknowledged",
                Sighting { opens: 4, boot: 105, log_end: 80, ..first },
                90,
                Err(Refused::Old { has: 80, at_least: 90 }),
            ),
            (
                "a log without what was committed",
                Sighting { opens: 4, boot: 106, log_end: 39, ..first },
                0,
                Err(Refused::Old { has: 39, at_least: 40 }),
            ),
            ("a log whose uncommitted end was replaced", Sighting { opens: 4, boot: 107, log_end: 45, ..first }, 0, Ok(())),
        ];
        for (what, sighting, acknowledged, want) in cases {
            assert_eq!(roster.check("a", &sighting, acknowledged), want, "{what}");
        }
        roster.apply(Note::Retired { name: "a".into(), disk: 1 }, 0);
        assert_eq!(roster.check("a", &first, 0), Err(Refused::Removed));
        assert_eq!(roster.check("a", &Sighting { disk: 2, ..first }, 0), Ok(()), "the name may be used again");
        roster.apply(Note::Seen { name: "a".into(), sighting: first }, 0);
        assert_eq!(roster.check("b", &first, 0), Err(Refused::Removed), "a disk does not come back under another name");
    }

    #[test]
    fn an_older_sighting_changes_nothing() {
        let mut roster = Roster::default();
        let new = Sighting { disk: 1, opens: 3, boot: 100, log_end: 50, settled: 40 };
        roster.apply(Note::Seen { name: "a".into(), sighting: new }, 0);
        roster.apply(Note::Seen { name: "a".into(), sighting: Sighting { opens: 2, boot: 9, ..new } }, 0);
        assert!(roster.has("a", &new) && roster.check("a", &new, 0).is_ok());
    }

    #[test]
    fn an_opening_with_less_than_is_remembered_is_not_let_in_by_a_note() {
        let mut roster = Roster::default();
        let before = Sighting { disk: 1, opens: 3, boot: 100, log_end: 50, settled: 0 };
        roster.apply(Note::Seen { name: "a".into(), sighting: before }, 0);
        roster.apply(Note::Marked { ends: vec![("a".into(), 1, 200)] }, 0);
        // Noted by a leader that did not know of the mark when it met the node.
        let old = Sighting { opens: 4, boot: 101, ..before };
        roster.apply(Note::Seen { name: "a".into(), sighting: old }, 0);
        assert_eq!(roster.check("a", &old, 0), Err(Refused::Old { has: 50, at_least: 200 }));
        let whole = Sighting { opens: 4, boot: 102, log_end: 200, ..before };
        roster.apply(Note::Seen { name: "a".into(), sighting: whole }, 0);
        assert!(roster.check("a", &whole, 0).is_ok());
    }
}
