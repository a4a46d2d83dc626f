//! What the ledger says without being asked.

use crate::base::{Key, SessionId, Token};

use super::outcome::{LossReason, WaitEnd};
use super::watch::Change;

/// What happened beside the answers. In the order in which it happened, for each lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A waiting request was granted.
    Granted {
        /// Whose.
        session: SessionId,
        /// The request.
        req: u64,
        /// The (first) token.
        token: Token,
        /// How long the grant lives from now, ms.
        remaining_ms: u64,
    },
    /// A waiting request ended without a grant.
    WaitEnded {
        /// Whose.
        session: SessionId,
        /// The request.
        req: u64,
        /// Why.
        why: WaitEnd,
    },
    /// A holder lost its lock without giving it back.
    Lost {
        /// Whose.
        session: SessionId,
        /// The lock.
        key: Key,
        /// The grant.
        token: Token,
        /// Why.
        why: LossReason,
    },
    /// A holder is asked to give its lock back.
    RevokeRequested {
        /// Whose.
        session: SessionId,
        /// The lock.
        key: Key,
        /// The grant.
        token: Token,
        /// The name of the session that asks; empty for an operator without one.
        by: String,
        /// Why, in its words.
        why: String,
        /// How long until the lock is taken away, ms; `None` if never.
        force_after_ms: Option<u64>,
    },
    /// The holders of a key that somebody watches have changed. See [`super::Watched`].
    Changed(Box<Change>),
    /// A session is over, all its locks and waits included.
    SessionEnded {
        /// Which.
        session: SessionId,
        /// Why.
        why: LossReason,
    },
    /// Something has changed that the orchestrator has to look at. Only a bell: the next look makes up for one that is missed.
    Orch {
        /// The worker whose runs have changed; 0 is whoever gives work out.
        session: SessionId,
    },
}
