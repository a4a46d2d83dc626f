//! What entries of the log say, and the state that follows from it: the ledger, and who has been here.

use bytes::Bytes;

use super::form::Place;
use super::roster::{Roster, Sighting};
use crate::base::codec::{self, Decode, Encode, Kind};
use crate::base::{Error, Result, Status};
use crate::ledger::{self, Event, Ledger, Outcome, Params};

/// The longest encoded entry of a ledger that is read.
pub(super) const ENTRY_CAP: usize = 8 << 20;
const NOTE_CAP: usize = 64 << 10;
const OPERATIONS: u8 = 0;
const NOTE: u8 = 1;

/// A change to what the cluster knows of its nodes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Note {
    /// A node has started.
    Seen { name: String, sighting: Sighting },
    /// An operator has taken a node's disk out of the cluster for good.
    Retired { name: String, disk: u128 },
    /// The cluster's first entry: what tells it from others of its name, and what all its members keep to.
    Founded { lineage: u128, params: Params, tokens: bool },
    /// A node of this name may come in once, until the ledger's clock says so.
    TokenMade { hash: [u8; 32], node: String, ttl_ms: u64 },
    /// A node shows a token.
    TokenShown { hash: [u8; 32], node: String, disk: u128 },
    /// What nodes have on disk for certain: for each, one more than the index of a committed entry that it has acknowledged.
    Marked { ends: Vec<(String, u128, u64)> },
}

/// The bytes of an entry with operations.
pub(super) fn operations(entry: &ledger::Entry) -> Result<Bytes> {
    encode(OPERATIONS, Kind::Entry, entry)
}

/// The bytes of an entry with a note.
pub(super) fn note(note: &Note) -> Result<Bytes> {
    encode(NOTE, Kind::Meta, note)
}

fn encode<T: Encode>(tag: u8, kind: Kind, value: &T) -> Result<Bytes> {
    let mut out = Vec::with_capacity(256);
    out.push(tag);
    codec::encode_into(kind, value, &mut out)?;
    Ok(out.into())
}

/// The replicated state. Applying is a function of it and the entry.
#[derive(Debug)]
pub(super) struct State {
    pub ledger: Ledger,
    pub roster: Roster,
    pub applied: Option<Place>,
}

impl State {
    pub fn new(params: Params) -> State {
        State { ledger: Ledger::new(params), roster: Roster::default(), applied: None }
    }

    /// Applies the command of the entry at `at`; what it answers goes to `outcomes`.
    pub fn apply(&mut self, at: Place, command: &[u8], outcomes: &mut Vec<Outcome>, events: &mut Vec<Event>) -> Result<()> {
        match command.split_first() {
            Some((&OPERATIONS, body)) => {
                let entry: ledger::Entry = codec::decode(Kind::Entry, body, ENTRY_CAP)?;
                self.ledger.apply(ledger::LogId { term: at.term, index: at.index }, &entry, outcomes, events);
            }
            Some((&NOTE, body)) => self.note(codec::decode(Kind::Meta, body, NOTE_CAP)?),
            _ => return Err(Error::new(Status::DataVersion, format!("entry {}: of a form that this version does not know", at.index))),
        }
        self.applied = Some(at);
        Ok(())
    }

    fn note(&mut self, note: Note) {
        // What the members' own settings say does not matter any more: all start from the same.
        if let Note::Founded { params, .. } = &note
            && self.roster.lineage() == 0
            && self.ledger.applied() == ledger::LogId::default()
        {
            let before = std::mem::replace(&mut self.ledger, Ledger::new(*params));
            self.ledger.watch_as(&before);
        }
        self.roster.apply(note, self.ledger.clock_ms());
    }
}
