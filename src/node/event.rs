//! What a node tells its host without being asked.

use std::time::Duration;

use crate::base::{Key, SessionId, Token};
use crate::ledger;

/// Why a grant, a session or an office ended against the holder's will.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LossReason {
    /// It was not renewed in time, though nothing is known to have gone wrong.
    Expired,
    /// The session that held it was not renewed in time.
    SessionExpired,
    /// An operator took it away.
    Forced,
    /// The node was closed.
    Closed,
    /// The node was poisoned by an earlier failure.
    Poisoned,
    /// Its holder was asked to give it back, and had not done so in time.
    Revoked,
    /// Another process of the same owner has taken the session over.
    Superseded,
    /// The renewals were not answered: what keeps the ledger (the cluster's majority, the disk) was out of reach for too long.
    NodeLost,
    /// The machine's clocks disagree on how much time has passed, as after a suspend, and by one of them it has run out.
    Clock,
    /// This process is a forked child: what was held is its parent's.
    Forked,
    /// The machine was restored from a snapshot, cloned or moved: another copy may hold the same.
    Restored,
}

impl LossReason {
    /// The reason as a word for logs and status.
    pub fn as_str(self) -> &'static str {
        match self {
            LossReason::Expired => "expired",
            LossReason::SessionExpired => "session_expired",
            LossReason::Forced => "forced",
            LossReason::Closed => "closed",
            LossReason::Poisoned => "poisoned",
            LossReason::Revoked => "revoked",
            LossReason::Superseded => "superseded",
            LossReason::NodeLost => "node_lost",
            LossReason::Clock => "clock",
            LossReason::Forked => "forked",
            LossReason::Restored => "restored",
        }
    }
}

impl From<ledger::LossReason> for LossReason {
    fn from(reason: ledger::LossReason) -> LossReason {
        match reason {
            ledger::LossReason::Expired => LossReason::Expired,
            ledger::LossReason::SessionExpired => LossReason::SessionExpired,
            ledger::LossReason::Forced => LossReason::Forced,
            ledger::LossReason::Closed => LossReason::Closed,
            ledger::LossReason::Revoked => LossReason::Revoked,
            ledger::LossReason::Superseded => LossReason::Superseded,
        }
    }
}

/// An event. Each is told once, in order, on the delivery that the node's `delivery` setting names; never with a lock held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A grant will be lost unless it is renewed: less than a third of its ttl is left.
    AtRisk {
        /// The session that holds it.
        session: SessionId,
        /// The lock.
        key: Key,
        /// The grant.
        token: Token,
        /// What is left of it, by the holder's own clock.
        remaining: Duration,
    },
    /// A grant is lost. From here on another may hold the lock.
    Lost {
        /// The session that held it.
        session: SessionId,
        /// The lock.
        key: Key,
        /// The grant.
        token: Token,
        /// Why.
        reason: LossReason,
    },
    /// The holder of a grant is asked to give it back.
    RevokeRequested {
        /// The session that holds it.
        session: SessionId,
        /// The lock.
        key: Key,
        /// The grant.
        token: Token,
        /// Name of the session that asks; empty for an operator without one.
        by: String,
        /// Why, in its words.
        why: String,
        /// How long until it is taken away, by the ledger's clock when it was asked; `None` if never.
        force_after: Option<Duration>,
    },
    /// A gate changed.
    Gate {
        /// The gate's name.
        name: String,
        /// What happened.
        event: crate::gate::GateEvent,
    },
    /// The node is poisoned: every call but status and close is refused from now on.
    Poisoned {
        /// What happened.
        message: String,
    },
}
