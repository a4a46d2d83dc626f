//! What operators ask of a member: who belongs to the cluster, who leads, who comes and goes.

use std::fmt::Write;
use std::time::Duration;

use super::Node;
use super::delivery::check_may_block;
use super::status::{self, Member};
use crate::base::{Error, NodeId, Result, Status};
use crate::client::Order;
use crate::engine::{ClientEngine, Engine, RaftEngine};

/// Shortest life of a join token.
pub const JOIN_TOKEN_TTL_MIN: Duration = Duration::from_secs(1);
/// Longest life of a join token.
pub const JOIN_TOKEN_TTL_MAX: Duration = Duration::from_secs(7 * 86_400);

enum Way<'a> {
    Member(&'a RaftEngine),
    Client(&'a ClientEngine),
}

/// The calls about a cluster. All but [`Node::members`] are carried out by the leader, wherever that is, and wait for it for at most
/// `request_timeout_ms`, then answer [`Status::Unavailable`]; asking again changes nothing that has been done. A node that is neither a
/// member nor a client of a cluster answers [`Status::Misuse`]. Inside a callback they answer [`Status::WouldDeadlock`].
impl Node {
    fn way(&self) -> Result<Way<'_>> {
        check_may_block()?;
        let core = &self.0.core;
        core.check()?;
        match &core.engine {
            Engine::Raft(engine) => Ok(Way::Member(engine)),
            Engine::Client(engine) => Ok(Way::Client(engine)),
            _ => Err(Error::new(Status::Misuse, "this node belongs to no cluster")),
        }
    }

    /// The members, as this node knows them: none until it has heard of the cluster. A client asks the member that it is connected to.
    ///
    /// # Errors
    /// As said of all.
    pub fn members(&self) -> Result<Vec<Member>> {
        match self.way()? {
            Way::Member(engine) => Ok(status::cluster(self.0.core.id.as_str(), engine).members),
            Way::Client(engine) => Ok(engine.members()?.1.into_iter().map(Member::from).collect()),
        }
    }

    /// Hands the leadership to the member `to`, or to the one that is furthest, and waits until the leader has given it away.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] when `to` is no voter; and as said of all.
    pub fn transfer_leader(&self, to: Option<&str>) -> Result<()> {
        match self.way()? {
            Way::Member(engine) => engine.consensus().transfer(to),
            Way::Client(engine) => engine.order(Order::Transfer(to.map(str::to_owned))),
        }
    }

    /// Takes a member out of the cluster for good. Its data directory is refused from then on, and it is told so; its name may be used by a
    /// node with an empty directory. A lost or worn machine is replaced so: remove it, then let the new one join.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] when there is no such member, [`Status::Misuse`] for the last voter; and as said of all.
    pub fn remove_member(&self, name: &str) -> Result<()> {
        match self.way()? {
            Way::Member(engine) => engine.consensus().remove(name),
            Way::Client(engine) => engine.order(Order::Remove(name.to_owned())),
        }
    }

    /// Makes a token by which the node `node_id` can join once within `ttl` ([`JOIN_TOKEN_TTL_MIN`] to [`JOIN_TOKEN_TTL_MAX`], by the cluster's
    /// clock). The cluster keeps a digest of it only.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] for the name or the ttl, [`Status::Limit`] when too many are good at once; and as said of all.
    pub fn join_token_create(&self, node_id: &str, ttl: Duration) -> Result<String> {
        let way = self.way()?;
        NodeId::new(node_id)?;
        if ttl < JOIN_TOKEN_TTL_MIN || ttl > JOIN_TOKEN_TTL_MAX {
            return Err(Error::invalid("ttl", format_args!("{ttl:?} is not in {JOIN_TOKEN_TTL_MIN:?}..={JOIN_TOKEN_TTL_MAX:?}")));
        }
        let mut token = String::with_capacity(64);
        for _ in 0..2 {
            let _ = write!(token, "{:032x}", self.0.core.nonce());
        }
        let hash = crate::consensus::token_digest(&token);
        match way {
            Way::Member(engine) => engine.consensus().make_token(hash, node_id, ttl)?,
            Way::Client(engine) => engine.order(Order::MakeToken { hash, node: node_id.to_owned(), ttl_ms: ttl.as_millis() as u64 })?,
        }
        Ok(token)
    }
}
