//! The stored and sent forms of log ids, votes, memberships and entries: ours, whatever the library below does with its own.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use openraft::EntryPayload;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::vote::RaftVote;

use super::types::{Command, Entry, LogId, Member, Membership, StoredMembership, Vote};
use crate::base::codec::{self, Decode, Encode, Kind};
use crate::base::{Error, Result, Status};

/// The longest encoded membership.
const MEMBERSHIP_CAP: usize = 1 << 20;

/// Where an entry stands, and who led when it was proposed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub(super) struct Place {
    pub term: u64,
    pub leader: u64,
    pub index: u64,
}

impl From<LogId> for Place {
    fn from(id: LogId) -> Place {
        Place { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
    }
}

impl From<Place> for LogId {
    fn from(p: Place) -> LogId {
        LogId::new(LeaderId { term: p.term, node_id: p.leader }, p.index)
    }
}

/// A vote, given or won.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Ballot {
    pub term: u64,
    pub node: u64,
    pub won: bool,
}

impl From<&Vote> for Ballot {
    fn from(v: &Vote) -> Ballot {
        let id = v.leader_id();
        Ballot { term: id.term, node: id.node_id, won: v.is_committed() }
    }
}

impl From<Ballot> for Vote {
    fn from(b: Ballot) -> Vote {
        Vote::from_leader_id(LeaderId { term: b.term, node_id: b.node }, b.won)
    }
}

/// Who votes and who listens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Members {
    configs: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, Member>,
}

impl From<&Membership> for Members {
    fn from(m: &Membership) -> Members {
        Members { configs: m.get_joint_config().clone(), nodes: m.nodes().map(|(id, n)| (*id, n.clone())).collect() }
    }
}

impl TryFrom<Members> for Membership {
    type Error = Error;
    fn try_from(m: Members) -> Result<Membership> {
        if m.configs.is_empty() {
            return Ok(Membership::default());
        }
        Membership::new(m.configs, m.nodes).map_err(|e| Error::new(Status::DataCorrupt, format!("membership: {e}")))
    }
}

/// A membership and the entry that holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Seated {
    at: Option<Place>,
    members: Members,
}

impl From<&StoredMembership> for Seated {
    fn from(m: &StoredMembership) -> Seated {
        Seated { at: m.log_id().map(Place::from), members: m.membership().into() }
    }
}

impl TryFrom<Seated> for StoredMembership {
    type Error = Error;
    fn try_from(s: Seated) -> Result<StoredMembership> {
        Ok(StoredMembership::new(s.at.map(LogId::from), s.members.try_into()?))
    }
}

/// Bytes of a record before its body: what it holds, index, term, leader.
pub(super) const RECORD_HEAD: usize = 25;
const BLANK: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;
/// The first byte of a journal record that is not an entry.
pub(super) const STATE: u8 = 3;

/// An entry as it is logged and sent.
pub(super) fn record(entry: &Entry) -> Result<Bytes> {
    let (kind, body) = match &entry.payload {
        EntryPayload::Blank => (BLANK, Bytes::new()),
        EntryPayload::Normal(command) => (COMMAND, command.bytes.clone()),
        EntryPayload::Membership(m) => (MEMBERSHIP, codec::encode(Kind::Meta, &Members::from(m))?.into()),
    };
    let at = Place::from(entry.log_id);
    let mut out = BytesMut::with_capacity(RECORD_HEAD + body.len());
    out.put_u8(kind);
    out.put_u64_le(at.index);
    out.put_u64_le(at.term);
    out.put_u64_le(at.leader);
    out.put_slice(&body);
    Ok(out.freeze())
}

/// Where the entry of a record stands.
pub(super) fn place(record: &[u8]) -> Result<Place> {
    let word = |at: usize| record.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    match (record.first(), word(1), word(9), word(17)) {
        (Some(&(BLANK | COMMAND | MEMBERSHIP)), Some(index), Some(term), Some(leader)) => Ok(Place { term, leader, index }),
        _ => Err(Error::new(Status::DataCorrupt, "not an entry's record")),
    }
}

/// The entry of a record. Commands share the record's bytes.
pub(super) fn entry(record: &Bytes) -> Result<Entry> {
    let at = place(record)?;
    let body = record.slice(RECORD_HEAD..);
    let payload = match record[0] {
        COMMAND => EntryPayload::Normal(Command::new(body)),
        MEMBERSHIP => EntryPayload::Membership(codec::decode::<Members>(Kind::Meta, &body, MEMBERSHIP_CAP)?.try_into()?),
        _ => EntryPayload::Blank,
    };
    Ok(Entry { log_id: at.into(), payload })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_as_they_were() {
        let member = Member { name: "a".into(), address: "127.0.0.1:1".into(), disk: 7 };
        let members = Membership::new(vec![BTreeSet::from([5, 6])], BTreeMap::from([(5, member.clone()), (6, member)])).unwrap();
        let at = LogId::from(Place { term: 3, leader: 9, index: 12 });
        for payload in
            [EntryPayload::Blank, EntryPayload::Normal(Command::new(Bytes::from_static(b"x"))), EntryPayload::Membership(members)]
        {
            let before = Entry { log_id: at, payload };
            let bytes = record(&before).unwrap();
            assert_eq!(place(&bytes).unwrap(), Place { term: 3, leader: 9, index: 12 });
            assert_eq!(entry(&bytes).unwrap(), before);
        }
        assert!(entry(&Bytes::from_static(b"")).is_err());
        assert!(entry(&Bytes::from_static(&[STATE; 40])).is_err());
        assert!(entry(&Bytes::from_static(&[MEMBERSHIP; 40])).is_err());
    }
}
