//! What the ledger is told and what it answers: the stored and replicated vocabulary.
//!
//! Everything here has a stored form. Variants and fields are append-only under one codec version.
//! All times are milliseconds of the ledger's own clock.

use crate::base::codec::{Decode, Encode};
use crate::base::error::Error;
use crate::base::{Key, SessionId, Status, Token};

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
    /// The asking session; 0 where none is needed ([`Op::OpenSession`], [`Op::ForceRelease`], [`Op::Tick`]).
    pub session: SessionId,
    /// Number of this operation within its session, increasing: the same number applied again gives the same answer and has
    /// no second effect. 0 asks for no such memory.
    pub seq: u64,
    /// What to do.
    pub op: Op,
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
}

/// What was in the way of an acquisition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Obstacle {
    /// The first holder's token; 0 when nobody holds it (a lock-delay, or a queue).
    pub token: Token,
    /// The first holder's session.
    pub session: SessionId,
    /// How long that holder has left, ms.
    pub remaining_ms: u64,
    /// How long the lock-delay lasts, ms; 0 for none.
    pub delay_ms: u64,
}

/// Why a wait ended without a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum WaitEnd {
    /// Its time ran out.
    Timeout,
    /// It was cancelled.
    Cancelled,
    /// Its session ran out of time.
    SessionExpired,
    /// Its session was closed.
    SessionClosed,
}

/// Why a holder lost its lock, or a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum LossReason {
    /// The grant was not renewed in time.
    Expired,
    /// The session was not renewed in time.
    SessionExpired,
    /// An operator took it away.
    Forced,
    /// The session was closed by its owner.
    Closed,
}

/// A limit of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum LimitKind {
    /// Grants and places in queues, together.
    Locks,
    /// Sessions.
    Sessions,
    /// Waiters in the queue of one key.
    WaitersPerKey,
    /// Bytes of metadata of one grant.
    MetadataBytes,
    /// Keys in one request.
    KeysPerRequest,
}

/// What is wrong with a request, whatever the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Fault {
    /// The ttl is outside the ledger's bounds.
    Ttl,
    /// The lock-delay is outside the ledger's bounds.
    LockDelay,
    /// No permits, or more than there are.
    Permits,
    /// The semaphore is in use with another limit.
    PermitLimit,
    /// No keys, or one of them twice.
    Keys,
    /// Reentrancy is for exclusive locks, one key at a time.
    Reentrant,
    /// The session's name is empty or longer than a node id.
    Name,
}

/// A typed refusal: nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Refusal {
    /// The session has ended, or never was.
    NoSession,
    /// A limit is reached.
    Limit {
        /// Which.
        kind: LimitKind,
        /// Its value.
        max: u64,
    },
    /// The request is not acceptable.
    Invalid(Fault),
    /// The request was cancelled before it came.
    Cancelled,
    /// The operation's number is older than the session's memory: it may have been applied, and its answer is forgotten.
    Forgotten,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        match refusal {
            Refusal::NoSession => Error::new(Status::Expired, "the session has ended"),
            Refusal::Limit { kind, max } => {
                let name = match kind {
                    LimitKind::Locks => "max_locks",
                    LimitKind::Sessions => "max_sessions",
                    LimitKind::WaitersPerKey => "max_waiters_per_key",
                    LimitKind::MetadataBytes => "metadata",
                    LimitKind::KeysPerRequest => "keys",
                };
                let status = match kind {
                    LimitKind::MetadataBytes | LimitKind::KeysPerRequest => Status::InvalidArgument,
                    _ => Status::Limit,
                };
                Error::new(status, format!("{name}: the limit of {max} is reached"))
            }
            Refusal::Invalid(fault) => Error::new(
                Status::InvalidArgument,
                match fault {
                    Fault::Ttl => "ttl: out of range",
                    Fault::LockDelay => "lock_delay: out of range",
                    Fault::Permits => "permits: not in 1..=limit",
                    Fault::PermitLimit => "permits: the semaphore is in use with another limit",
                    Fault::Keys => "keys: none, or one of them twice",
                    Fault::Reentrant => "reentrant: only for one exclusive lock",
                    Fault::Name => "name: not in 1..=64 bytes",
                },
            ),
            Refusal::Cancelled => Error::from(Status::Cancelled),
            Refusal::Forgotten => Error::new(Status::Misuse, "seq: older than the session remembers"),
        }
    }
}

/// The answer to an operation. Its tag is a word so that the compiler moves it in words.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Outcome {
    /// The session asked for by `OpenSession`.
    Session {
        /// Its number.
        id: SessionId,
        /// How long it lives from now, ms.
        remaining_ms: u64,
    },
    /// A session or a grant lives for this long from now, ms.
    Renewed {
        /// How long, ms.
        remaining_ms: u64,
    },
    /// The session is closed.
    Closed,
    /// The lock is the session's; with `AcquireAll` all of them are, and `token` is that of the first key.
    Granted {
        /// The fencing token.
        token: Token,
        /// How long the grant lives from now without a renewal, ms.
        remaining_ms: u64,
        /// How often this session now holds it: 1, or more with reentrancy.
        depth: u32,
    },
    /// Not granted, and waiting was not wanted.
    Held(Obstacle),
    /// The request waits; an [`Event`] will say how that ends.
    Queued {
        /// Requests before it, in the queue of its (first) key.
        position: u32,
    },
    /// The wait is over, without a grant.
    WaitEnded(WaitEnd),
    /// The lock was given back.
    Released {
        /// How often the session still holds it: 0, or more with reentrancy.
        left: u32,
    },
    /// Locks given back by `ReleaseAll`, or taken away by `ForceRelease`.
    ReleasedMany {
        /// How many.
        count: u64,
    },
    /// The token is not that of a current grant of this session: there was nothing to do.
    NotHolder {
        /// The token of the present (first) holder; 0 for none.
        current: Token,
    },
    /// The request is cancelled.
    Cancelled {
        /// Whether it had been granted, and was released.
        was_granted: bool,
    },
    /// The clock was moved.
    Ticked,
    /// Nothing was done.
    Refused(Refusal),
}

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
    /// A session is over, all its locks and waits included.
    SessionEnded {
        /// Which.
        session: SessionId,
        /// Why.
        why: LossReason,
    },
}
