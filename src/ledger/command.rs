//! What the ledger is told: the stored and replicated vocabulary. What it answers is in [`super::outcome`] and [`super::event`].
//!
//! Everything here has a stored form. Variants and fields are append-only under one codec version.
//! All times are milliseconds of the ledger's own clock.

use crate::base::codec::{Decode, Encode};
use crate::base::{Key, SessionId, Token};

use super::promise::PromiseOp;

pub use super::event::Event;
pub use super::outcome::{Fault, LimitKind, LossReason, Obstacle, Outcome, Refusal, WaitEnd};

use super::orch::OrchOp;

/// A reading of the proposer's clock: the running sum, in whole milliseconds, of the smaller of what CLOCK_MONOTONIC and
/// CLOCK_MONOTONIC_RAW say of each step. Source: the session-delta replicated clock, see [`super::clock`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Stamp {
    /// Term in which the stamp was taken.
    pub term: u64,
    /// Random number of the process that took it: two processes never share a running sum.
    pub boot: u64,
    /// The running sum, ms.
    pub ticks_ms: u64,
}

/// One log entry: a stamp and the operations that were proposed together, applied in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Entry {
    /// When it was proposed.
    pub stamp: Stamp,
    /// The operations.
    pub ops: Vec<Request>,
}

/// An operation and who asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Request {
    /// The asking session; 0 where none is needed ([`Op::OpenSession`], [`Op::TakeOver`], [`Op::ForceRelease`], [`Op::Revoke`], [`Op::Tick`]).
    pub session: SessionId,
    /// Number of this operation within its session, increasing: the same number applied again gives the same answer and has
    /// no second effect. 0 asks for no such memory.
    pub seq: u64,
    /// What to do.
    pub op: Op,
}

impl Request {
    /// Whether applying it twice does what applying it once does, and answers the same.
    pub fn may_repeat(&self) -> bool {
        // A second release answers that there is nothing to release, which is a wrong answer though not a wrong deed.
        let orch = matches!(&self.op, Op::Orch(op) if op.may_be_repeated());
        self.seq != 0
            || orch
            || matches!(self.op, Op::OpenSession { .. } | Op::TakeOver { .. } | Op::RenewSession | Op::Cancel { .. } | Op::Tick)
    }

    /// About how many bytes it takes in the log.
    pub fn weight(&self) -> usize {
        let key = |k: &Key| k.as_bytes().len() + 2;
        48 + match &self.op {
            Op::Acquire { key: k, spec, .. } => key(k) + spec.metadata.len(),
            Op::AcquireAll { keys, spec, .. } => keys.iter().map(key).sum::<usize>() + spec.metadata.len(),
            Op::Cancel { keys, .. } => keys.iter().map(key).sum(),
            Op::Release { key: k, .. } | Op::Renew { key: k, .. } | Op::ForceRelease { key: k, .. } => key(k),
            Op::OpenSession { name, .. } => name.len(),
            Op::Orch(op) => op.size(),
            Op::Revoke { key: k, why, .. } => key(k) + why.len(),
            Op::Annotate { key: k, metadata, .. } => key(k) + metadata.len(),
            Op::TakeOver { name, .. } => name.len() + 32,
            Op::HandOver { key: k, to, .. } => key(k) + to.len(),
            Op::Promise(op) => op.bytes(),
            Op::RenewSession | Op::CloseSession | Op::ReleaseAll | Op::Tick => 0,
        }
    }
}

/// How holders of a lock exclude each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum Mode {
    /// One holder.
    #[default]
    Exclusive,
    /// Any number of shared holders, and no exclusive one beside them.
    Shared,
    /// A semaphore: `count` of `limit` permits. Every user of the key states the same limit.
    Permits {
        /// Permits taken by this grant, at least 1.
        count: u32,
        /// Permits there are.
        limit: u32,
    },
}

/// What keeps a grant alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum Renew {
    /// Renewals of the session: the grant lives while the last one is younger than its own ttl.
    #[default]
    Session,
    /// Only [`Op::Renew`] of this grant, and never longer than its session.
    Manual,
}

/// The terms of a grant.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Spec {
    /// Exclusive, shared or permits.
    pub mode: Mode,
    /// How long the grant lives without a renewal, ms.
    pub ttl_ms: u32,
    /// What renews it.
    pub renew: Renew,
    /// How long nobody gets the key after this grant was lost to expiry or force, ms. Never after a release.
    pub lock_delay_ms: u32,
    /// Whether the same session may take the same exclusive lock again, to be released as often.
    pub reentrant: bool,
    /// The holder's own bytes, shown to whoever asks.
    pub metadata: Vec<u8>,
}

impl Default for Spec {
    fn default() -> Spec {
        Spec { mode: Mode::Exclusive, ttl_ms: 10_000, renew: Renew::Session, lock_delay_ms: 0, reentrant: false, metadata: Vec::new() }
    }
}

/// Most bytes of the reason given with [`Op::Revoke`].
pub const WHY_MAX: usize = 256;

/// How long to wait for a lock: `None` or 0 not at all, otherwise at most this long in ms; `u64::MAX` for as long as the session lives.
pub type Wait = Option<u64>;

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Op {
    /// Opens a session, or finds the living one that was opened with the same nonce.
    OpenSession {
        /// Random number of the caller's choice; makes the opening idempotent.
        nonce: u128,
        /// Who it is, for people: a node id.
        name: String,
        /// How long it lives without a renewal, ms.
        ttl_ms: u32,
    },
    /// The session lives for another ttl.
    RenewSession,
    /// Ends the session: its locks are released without lock-delay, its waits end.
    CloseSession,
    /// Takes one lock.
    Acquire {
        /// The lock.
        key: Key,
        /// The terms.
        spec: Spec,
        /// How long to wait.
        wait_ms: Wait,
        /// The caller's number for this request, by which it can be cancelled and its grant is announced.
        req: u64,
    },
    /// Takes several locks at once, or none of them. `keys[i]` gets the token `first + i`.
    AcquireAll {
        /// The locks, each once.
        keys: Vec<Key>,
        /// The terms, the same for each.
        spec: Spec,
        /// How long to wait for all of them.
        wait_ms: Wait,
        /// As in `Acquire`.
        req: u64,
    },
    /// Ends the request `req` for these keys: a wait ends, a grant is released, and if neither is known yet the request is refused
    /// when it comes.
    Cancel {
        /// The keys that were asked for.
        keys: Vec<Key>,
        /// The request's number.
        req: u64,
    },
    /// Gives one lock back. Without effect unless `token` is this session's current grant of `key`.
    Release {
        /// The lock.
        key: Key,
        /// The grant.
        token: Token,
    },
    /// Gives every lock of the session back. Waits go on.
    ReleaseAll,
    /// Extends one grant, from now, with a new ttl. Without effect unless `token` is this session's current grant of `key`.
    Renew {
        /// The lock.
        key: Key,
        /// The grant.
        token: Token,
        /// The new ttl, ms.
        ttl_ms: u32,
    },
    /// Takes a lock away from its holders, for operators.
    ForceRelease {
        /// The lock.
        key: Key,
        /// Only this grant; `None` takes it from every holder.
        token: Option<Token>,
        /// How long nobody gets it afterwards, ms; `None` applies the grant's own lock-delay.
        delay_ms: Option<u32>,
    },
    /// Only moves the clock.
    Tick,
    /// Records until when the holder of an office may act.
    Promise(PromiseOp),
    /// An operation of the orchestrator. Those that join or leave need a session, the others none.
    Orch(OrchOp),
    /// Asks the holders of a lock to give it back: each is told by [`Event::RevokeRequested`].
    Revoke {
        /// The lock.
        key: Key,
        /// Only this grant; `None` asks every holder.
        token: Option<Token>,
        /// For the holder to read, at most [`WHY_MAX`] bytes.
        why: String,
        /// When it is taken away if it was not given back by then, ms from now; `None` never. An earlier time set before stays.
        force_after_ms: Option<u32>,
    },
    /// Replaces the metadata of a grant. Without effect unless `token` is this session's current grant of `key`.
    Annotate {
        /// The lock.
        key: Key,
        /// The grant.
        token: Token,
        /// The new metadata.
        metadata: Vec<u8>,
    },
    /// Opens a session in the place of a living one, which ends as superseded. Who knows its nonce is its owner.
    TakeOver {
        /// The nonce with which the old session was opened.
        old: u128,
        /// That of the new one; makes it idempotent.
        nonce: u128,
        /// As in `OpenSession`.
        name: String,
        /// As in `OpenSession`.
        ttl_ms: u32,
        /// Its locks become the new session's, each under a new token. Otherwise they are lost, and their lock-delays begin.
        keep: bool,
    },
    /// Gives an exclusive lock, however often it is held, to a session of this name that waits for it, past those who came before.
    /// Without effect unless `token` is this session's current grant of `key`.
    HandOver {
        /// The lock.
        key: Key,
        /// The grant.
        token: Token,
        /// Name of the session, the first of the queue if several have it.
        to: String,
    },
}
