//! What the ledger answers. Everything here has a stored form, since sessions remember answers for retries: variants and fields are
//! append-only under one codec version. All times are milliseconds of the ledger's own clock.

use crate::base::codec::{Decode, Encode};
use crate::base::error::Error;
use crate::base::{SessionId, Status, Token};

use super::orch::OrchAnswer;
use super::promise::Promised;

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
    /// It was asked back, and not given back in time.
    Revoked,
    /// The session's owner has come back as another process, which took its place.
    Superseded,
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
    /// Offices with a promise.
    Offices,
    /// Locks that move to another session at once.
    LocksPerTakeOver,
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
    /// The reason given is too long.
    Why,
    /// The time after which a lock is to be taken away is out of bounds.
    ForceAfter,
    /// A session cannot take its own place.
    Nonce,
    /// Only an exclusive lock is handed over.
    Exclusive,
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
                    LimitKind::Offices => "offices",
                    LimitKind::LocksPerTakeOver => "locks of the session to be taken over",
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
                    Fault::Why => "why: longer than 256 bytes",
                    Fault::ForceAfter => "force_after: out of range",
                    Fault::Nonce => "nonce: that of the session to be taken over",
                    Fault::Exclusive => "key: only an exclusive lock is handed over",
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
    /// The session asked for by `OpenSession`, or by a `TakeOver` that was done before.
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
        /// The ledger's clock, ms: how much time has passed between two renewals, as everybody but the asker sees it. 0 where there is none.
        clock_ms: u64,
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
    /// The request waits; an [`super::Event`] will say how that ends.
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
    /// How an operation on a promise ended.
    Promise(Promised),
    /// The answer to an operation of the orchestrator.
    Orch(OrchAnswer),
    /// The holders are being asked to give the lock back.
    Revoking {
        /// How many there are.
        count: u64,
    },
    /// The grant has the new metadata.
    Annotated,
    /// The session asked for by `TakeOver`.
    TakenOver {
        /// Its number.
        id: SessionId,
        /// How long it lives from now, ms.
        remaining_ms: u64,
        /// What it holds by tokens up to this one came with the session whose place it takes.
        upto: Token,
    },
    /// Nobody of the name given to `HandOver` waits for the lock alone: nothing was done.
    NoSuccessor,
}
