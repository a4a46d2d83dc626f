//! What members say to each other: one message each way, in forms of our own.

use bytes::{Buf, Bytes};

use super::form::{Ballot, Place};
use super::roster::Sighting;
use super::types::Member;
use crate::base::codec::{self, Decode, Encode, Kind};
use crate::base::{Error, Result, Status};
use crate::ledger::{Outcome, Request};

/// The longest part of a message before the records that follow it.
const HEAD_CAP: usize = 16 << 20;

/// A connection of its own for each, so that nothing small waits behind something big.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Votes, heartbeats, membership.
    Control,
    /// Log appends.
    Bulk,
    /// Snapshots.
    Snapshot,
    /// Forwarded operations and reads.
    Client,
}

/// Who sends a message.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Sender {
    pub name: String,
    pub address: String,
    pub sighting: Sighting,
}

impl Sender {
    pub fn member(&self) -> Member {
        Member { name: self.name.clone(), address: self.address.clone(), disk: self.sighting.disk }
    }
}

/// The number of a disk within the cluster's own workings: a node with another disk is another member.
pub(super) fn number_of(disk: u128) -> u64 {
    match disk as u64 ^ (disk >> 64) as u64 {
        0 => 1,
        n => n,
    }
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub(super) enum Ask {
    /// Followed by the records of the entries.
    Append {
        ballot: Ballot,
        prev: Option<Place>,
        commit: Option<Place>,
    },
    Vote {
        ballot: Ballot,
        last: Option<Place>,
        transfer: bool,
        pre: bool,
    },
    TakeOver {
        ballot: Ballot,
        to: u64,
        last: Option<Place>,
    },
    SnapshotBegin {
        id: u64,
        about: Vec<u8>,
    },
    SnapshotPart {
        id: u64,
        number: u64,
        bytes: Vec<u8>,
    },
    SnapshotEnd {
        id: u64,
        parts: u64,
        ballot: Ballot,
    },
    Operations {
        ops: Vec<Request>,
        /// For each operation whether it is a release that may be answered before it is durable.
        early: Vec<bool>,
        timeout_ms: u64,
    },
    /// From which index on a read sees everything that was answered before it.
    ReadIndex,
    /// Who are you?
    Probe,
    /// The sender wants to be a voter. It shows the digest of its token, if it has one.
    Join {
        token: Option<[u8; 32]>,
    },
    /// For operators.
    Order(Order),
}

/// What an operator wants of the leader.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Order {
    Remove {
        name: String,
    },
    Transfer {
        to: Option<String>,
    },
    /// Let a node of this name in once.
    MakeToken {
        hash: [u8; 32],
        node: String,
        ttl_ms: u64,
    },
}

/// An operation's answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Told {
    Outcome(Outcome),
    Failed(Failure),
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Failure {
    status: i32,
    message: String,
}

impl From<&Error> for Failure {
    fn from(e: &Error) -> Failure {
        Failure { status: e.status() as i32, message: e.message().to_owned() }
    }
}

impl From<Failure> for Error {
    fn from(f: Failure) -> Error {
        Error::new(Status::from_code(f.status).unwrap_or(Status::Internal), f.message)
    }
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub(super) enum Answer {
    Appended,
    AppendedUpTo(Option<Place>),
    Conflict,
    HigherVote(Ballot),
    Voted {
        ballot: Ballot,
        last: Option<Place>,
        granted: bool,
    },
    TakenOver,
    VoteChanged {
        expected: Ballot,
        actual: Ballot,
    },
    NotFlushed {
        expected: Option<Place>,
        actual: Option<Place>,
    },
    Installed(Ballot),
    Operations(Vec<Told>),
    ReadFrom(u64),
    /// Where the leader can be reached, if known. Nothing was done.
    NotLeader(Option<String>),
    /// Whether the node has a log, and whether the asker is a member by it.
    Probed {
        founded: bool,
        member: bool,
    },
    Done,
    Failed(Failure),
}

fn encode<T: Encode>(sender: &Sender, message: &T, records: &[Bytes]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(160 + records.iter().map(|r| r.len() + 4).sum::<usize>());
    out.extend_from_slice(&[0; 4]);
    codec::encode_into(Kind::Consensus, &(sender, message), &mut out)?;
    let head = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&head.to_le_bytes());
    for record in records {
        out.extend_from_slice(&(record.len() as u32).to_le_bytes());
        out.extend_from_slice(record);
    }
    Ok(out)
}

fn decode<T: Decode<()>>(mut bytes: Bytes) -> Result<(Sender, T, Vec<Bytes>)> {
    let head = take(&mut bytes)?;
    let (sender, message) = codec::decode(Kind::Consensus, &head, HEAD_CAP)?;
    let mut records = Vec::new();
    while !bytes.is_empty() {
        records.push(take(&mut bytes)?);
    }
    Ok((sender, message, records))
}

fn take(bytes: &mut Bytes) -> Result<Bytes> {
    let cut = || Error::new(Status::DataCorrupt, "a message between members is cut short");
    if bytes.len() < 4 {
        return Err(cut());
    }
    let length = bytes.get_u32_le() as usize;
    if bytes.len() < length {
        return Err(cut());
    }
    Ok(bytes.split_to(length))
}

/// The bytes of a question, followed by `records`.
pub(super) fn ask(sender: &Sender, ask: &Ask, records: &[Bytes]) -> Result<Vec<u8>> {
    encode(sender, ask, records)
}

/// Reads a question.
pub(super) fn asked(bytes: Bytes) -> Result<(Sender, Ask, Vec<Bytes>)> {
    decode(bytes)
}

/// The bytes of an answer.
pub(super) fn answer(sender: &Sender, answer: &Answer) -> Result<Vec<u8>> {
    encode(sender, answer, &[])
}

/// Reads an answer.
pub(super) fn answered(bytes: Bytes) -> Result<(Sender, Answer)> {
    decode(bytes).map(|(sender, answer, _)| (sender, answer))
}

/// Takes any bytes as a question and as an answer, and what can be read must be read again from what is written.
#[cfg(any(test, tenure_fuzz))]
#[allow(clippy::unwrap_used)]
pub(crate) fn survive_message(bytes: Bytes) {
    if let Ok((sender, question, records)) = asked(bytes.clone()) {
        let again = asked(ask(&sender, &question, &records).unwrap().into()).unwrap();
        assert_eq!(again, (sender, question, records));
    }
    let _ = answered(bytes);
}

/// Valid messages.
#[cfg(any(test, tenure_fuzz))]
#[allow(clippy::unwrap_used)]
pub(crate) fn sample_messages() -> Vec<Vec<u8>> {
    let sender = Sender { name: "a".into(), address: "h:1".into(), sighting: Sighting { disk: 9, ..Sighting::default() } };
    let ballot = Ballot { term: 1, node: 2, won: true };
    let request = Request { session: crate::base::SessionId(1), seq: 4, op: crate::ledger::Op::RenewSession };
    let asks = [
        Ask::Append { ballot, prev: Some(Place::default()), commit: None },
        Ask::Vote { ballot, last: None, transfer: false, pre: true },
        Ask::SnapshotPart { id: 1, number: 2, bytes: vec![1, 2, 3] },
        Ask::Operations { ops: vec![request], timeout_ms: 500, early: vec![false] },
        Ask::Order(Order::Transfer { to: Some("b".into()) }),
    ];
    let answers = [Answer::Operations(vec![Told::Outcome(Outcome::Ticked)]), Answer::NotLeader(Some("h:2".into()))];
    let questions = asks.iter().map(|a| ask(&sender, a, &[]).unwrap());
    questions.chain(answers.iter().map(|a| answer(&sender, a).unwrap())).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sender() -> Sender {
        Sender { name: "a".into(), address: "h:1".into(), sighting: Sighting { disk: 9, ..Sighting::default() } }
    }

    #[test]
    fn messages_come_back_as_they_were() {
        let question = Ask::Append { ballot: Ballot { term: 1, node: 2, won: true }, prev: None, commit: Some(Place::default()) };
        let records = vec![Bytes::from_static(b"one"), Bytes::new(), Bytes::from_static(b"three")];
        let bytes = ask(&sender(), &question, &records).unwrap();
        assert_eq!(asked(bytes.into()).unwrap(), (sender(), question, records));
        let bytes = answer(&sender(), &Answer::Operations(vec![Told::Outcome(Outcome::Ticked)])).unwrap();
        assert_eq!(answered(bytes.into()).unwrap().1, Answer::Operations(vec![Told::Outcome(Outcome::Ticked)]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>, cut in 0usize..200) {
            let _ = asked(bytes.clone().into());
            let good = ask(&sender(), &Ask::Probe, &[Bytes::from(bytes)]).unwrap();
            let _ = asked(Bytes::from(good).slice(..).split_to(cut.min(4)));
        }
    }
}
