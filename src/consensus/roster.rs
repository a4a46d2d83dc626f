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

/// What the cluster remembers of its nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Roster {
    known: BTreeMap<String, Sighting>,
    retired: BTreeSet<u128>,
}

impl Roster {
    pub fn apply(&mut self, note: Note) {
        match note {
            Note::Seen { name, sighting } => {
                let newer = self.known.get(&name).is_none_or(|k| k.disk == sighting.disk && k.opens < sighting.opens);
                if newer && !self.retired.contains(&sighting.disk) {
                    self.known.insert(name, sighting);
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
        roster.apply(Note::Seen { name: "a".into(), sighting: first });
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
        roster.apply(Note::Retired { name: "a".into(), disk: 1 });
        assert_eq!(roster.check("a", &first, 0), Err(Refused::Removed));
        assert_eq!(roster.check("a", &Sighting { disk: 2, ..first }, 0), Ok(()), "the name may be used again");
        roster.apply(Note::Seen { name: "a".into(), sighting: first });
        assert_eq!(roster.check("b", &first, 0), Err(Refused::Removed), "a disk does not come back under another name");
    }

    #[test]
    fn an_older_sighting_changes_nothing() {
        let mut roster = Roster::default();
        let new = Sighting { disk: 1, opens: 3, boot: 100, log_end: 50, settled: 40 };
        roster.apply(Note::Seen { name: "a".into(), sighting: new });
        roster.apply(Note::Seen { name: "a".into(), sighting: Sighting { opens: 2, boot: 9, ..new } });
        assert!(roster.has("a", &new) && roster.check("a", &new, 0).is_ok());
    }
}
