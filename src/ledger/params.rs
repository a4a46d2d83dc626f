//! What is fixed when a ledger is made, and the same on every replica.

use crate::base::codec::{Decode, Encode};

/// The ledger's parameters: part of its state, set once. A snapshot carries them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Params {
    /// The most that one entry may move the clock, ms: a proposer that slept moves it one step, and holders get to renew.
    pub max_step_ms: u64,
    /// How many grants and waits one entry ends at most because their time has come.
    pub slice: u32,
    /// How many answers a session remembers for retries.
    pub window: u32,
    /// Most grants and places in queues, together.
    pub max_locks: u64,
    /// Most sessions, at most 2^24.
    pub max_sessions: u64,
    /// Most waiters in the queue of one key.
    pub max_waiters_per_key: u32,
    /// Most bytes of metadata in one grant.
    pub max_metadata: u32,
    /// Most keys in one request.
    pub max_keys: u32,
    /// Shortest ttl, ms.
    pub min_ttl_ms: u32,
    /// Longest ttl and lock-delay, ms.
    pub max_ttl_ms: u32,
}

impl Params {
    /// How many locks move at most when a session takes another's place: what one entry may do.
    pub(super) fn max_take_over(&self) -> u32 {
        self.slice.max(1)
    }
}

impl Default for Params {
    fn default() -> Params {
        Params {
            max_step_ms: 2_000,
            slice: 4_096,
            window: 128,
            max_locks: 1 << 24,
            max_sessions: 1 << 16,
            max_waiters_per_key: 1_024,
            max_metadata: 1_024,
            max_keys: 256,
            min_ttl_ms: 100,
            max_ttl_ms: 86_400_000,
        }
    }
}
