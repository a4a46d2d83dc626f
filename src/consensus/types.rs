//! What openraft is told of our types. Nothing of this leaves the module.

use std::fmt;

use bytes::Bytes;
use openraft::raft::responder::Responder;
use openraft::{OptionalSend, RaftTypeConfig};

use crate::base::codec::{Decode, Encode};
use crate::ledger::Outcome;

/// A member as the others know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Member {
    /// Its node id.
    pub name: String,
    /// Where it can be reached.
    pub address: String,
    /// The random number of its data directory.
    pub disk: u128,
}

/// What an entry of ours holds.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Command {
    /// One encoded change, see [`super::change`].
    pub bytes: Bytes,
    /// On the node that proposes it: the number of the batch under way that it is made of, else 0. Neither stored nor sent.
    pub batch: u64,
}

impl Command {
    pub fn new(bytes: Bytes) -> Command {
        Command { bytes, batch: 0 }
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying an entry answers: one outcome for each operation.
pub(super) type Outcomes = Vec<Outcome>;

/// Told how a proposal ended, on the consensus thread. Dropped untold when the node ends first.
pub(super) struct Reply<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Reply<T> {
    pub fn new(tell: impl FnOnce(T) + Send + 'static) -> Reply<T> {
        Reply(Box::new(tell))
    }
}

impl<T: OptionalSend + 'static> Responder<Config, T> for Reply<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

/// Our choice of types.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Config;

type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;

impl RaftTypeConfig for Config {
    type D = Command;
    type R = Outcomes;
    type NodeId = u64;
    type Node = Member;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = openraft::impls::Vote<LeaderId>;
    type Payload = openraft::EntryPayload<Command, u64, Member>;
    type Entry = openraft::Entry<LeaderId, Self::Payload>;
    #[cfg(not(test))]
    type AsyncRuntime = openraft::TokioRuntime;
    #[cfg(test)]
    type AsyncRuntime = super::simulated::SimulatedRuntime;
    type Responder<T>
        = Reply<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(super) type LogId = openraft::alias::LogIdOf<Config>;
pub(super) type Vote = openraft::alias::VoteOf<Config>;
pub(super) type Entry = openraft::alias::EntryOf<Config>;
pub(super) type Membership = openraft::Membership<u64, Member>;
pub(super) type StoredMembership = openraft::alias::StoredMembershipOf<Config>;
pub(super) type SnapshotMeta = openraft::alias::SnapshotMetaOf<Config>;
pub(super) type SmSnapshot = openraft::alias::SnapshotOf<Config, super::snapshot::Data>;
pub(super) type Raft = openraft::Raft<Config, super::machine::Machine>;
