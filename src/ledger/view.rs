//! What queries answer. Nothing that has run out is shown as held, whether or not its end has been recorded yet.

use crate::base::codec::{Decode, Encode};
use crate::base::{Key, SessionId, Token};

use super::command::{Mode, Renew};

/// A grant, seen from outside.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Holder {
    /// Whose.
    pub session: SessionId,
    /// That session's name.
    pub name: String,
    /// The fencing token.
    pub token: Token,
    /// Exclusive, shared or permits.
    pub mode: Mode,
    /// How long it lives from now without a renewal, ms.
    pub remaining_ms: u64,
    /// Since when it has been held, ms.
    pub held_ms: u64,
    /// How often its session holds it.
    pub depth: u32,
    /// The holder's own bytes.
    pub metadata: Vec<u8>,
}

/// A grant as its own session finds it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Held {
    /// The lock.
    pub key: Key,
    /// The fencing token.
    pub token: Token,
    /// Its ttl, ms.
    pub ttl_ms: u32,
    /// What renews it.
    pub renew: Renew,
}

/// A place in a queue, seen from outside.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Waiter {
    /// Whose.
    pub session: SessionId,
    /// That session's name.
    pub name: String,
    /// The request.
    pub req: u64,
    /// What it waits for.
    pub mode: Mode,
    /// How long it has waited, ms.
    pub waited_ms: u64,
    /// The waiter's own bytes.
    pub metadata: Vec<u8>,
}

/// A lock and everybody around it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LockInfo {
    /// Its name.
    pub key: Key,
    /// Its holders, by token.
    pub holders: Vec<Holder>,
    /// Its queue, first come first.
    pub waiters: Vec<Waiter>,
    /// How long nobody gets it, ms; 0 for no lock-delay.
    pub delay_ms: u64,
}

/// A session, seen from outside.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SessionInfo {
    /// Its number.
    pub id: SessionId,
    /// Its name.
    pub name: String,
    /// Its ttl, ms.
    pub ttl_ms: u32,
    /// How long it lives from now without a renewal, ms.
    pub remaining_ms: u64,
}

/// Counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Counts {
    /// Living sessions, and dead ones that still have something to clear away.
    pub sessions: u64,
    /// Keys that are held, waited for, or in their delay.
    pub keys: u64,
    /// Grants and places in queues.
    pub locks: u64,
    /// The last token given.
    pub last_token: u64,
    /// Entries whose step was cut to the maximum.
    pub clamped: u64,
}
