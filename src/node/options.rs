//! What a caller asks of a lock, and what it is told about one.

use std::time::Duration;

use crate::base::{Error, Key, Result, SessionId, Token};
use crate::ledger;

/// Shortest ttl of a grant.
pub const TTL_MIN: Duration = Duration::from_millis(100);
/// Longest ttl of a grant.
pub const TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// Longest lock-delay.
pub const LOCK_DELAY_MAX: Duration = Duration::from_secs(3600);
/// Most bytes of metadata on a grant.
pub const METADATA_MAX: usize = 1024;

/// How a lock is shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LockMode {
    /// One holder.
    #[default]
    Exclusive,
    /// Any number of shared holders, or one exclusive one.
    Shared,
    /// A semaphore: this grant takes `count` of `limit` permits. All users of one name state the same limit.
    Permits {
        /// Permits taken by this grant, at least 1.
        count: u32,
        /// Permits there are in all.
        limit: u32,
    },
}

/// Who keeps a grant alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Renew {
    /// The node's own thread, for as long as the process runs: one renewal for all grants of a session.
    #[default]
    Auto,
    /// The caller: the grant ends `ttl` after it was given or last renewed.
    Manual,
}

/// What is asked of a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockOptions {
    /// How it is shared. Default: exclusive.
    pub mode: LockMode,
    /// How long the grant outlives its last renewal, [`TTL_MIN`] to [`TTL_MAX`]. Default: 10 s.
    pub ttl: Duration,
    /// Who renews it. Default: the node.
    pub renew: Renew,
    /// How long nobody else is granted the lock after this grant was lost (not: released). Default: none.
    pub lock_delay: Duration,
    /// Whether the session may take the lock again while it holds it; each grant has its own token. Default: no.
    pub reentrant: bool,
    /// Shown to whoever asks for the holder; at most [`METADATA_MAX`] bytes.
    pub metadata: Vec<u8>,
}

impl Default for LockOptions {
    fn default() -> LockOptions {
        LockOptions {
            mode: LockMode::Exclusive,
            ttl: Duration::from_secs(10),
            renew: Renew::Auto,
            lock_delay: Duration::ZERO,
            reentrant: false,
            metadata: Vec::new(),
        }
    }
}

/// Checks a ttl and gives it in milliseconds.
///
/// # Errors
/// [`crate::base::Status::InvalidArgument`] naming the range.
#[inline]
pub(super) fn ttl_ms(ttl: Duration) -> Result<u32> {
    if ttl < TTL_MIN || ttl > TTL_MAX {
        return Err(Error::invalid("ttl", format_args!("{ttl:?} is not in {TTL_MIN:?}..={TTL_MAX:?}")));
    }
    Ok(ttl.as_millis() as u32)
}

impl LockOptions {
    /// Checks every field.
    ///
    /// # Errors
    /// [`crate::base::Status::InvalidArgument`] naming the field.
    #[inline]
    pub(super) fn check(&self) -> Result<()> {
        ttl_ms(self.ttl)?;
        if self.lock_delay > LOCK_DELAY_MAX {
            return Err(Error::invalid("lock_delay", format_args!("{:?} is above {LOCK_DELAY_MAX:?}", self.lock_delay)));
        }
        if self.metadata.len() > METADATA_MAX {
            return Err(Error::invalid("metadata", format_args!("{} bytes are above {METADATA_MAX}", self.metadata.len())));
        }
        if let LockMode::Permits { count, limit } = self.mode
            && (count == 0 || count > limit)
        {
            return Err(Error::invalid("permits", format_args!("{count} of {limit}: at least 1 and at most the limit")));
        }
        Ok(())
    }
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Holder {
    /// Name of the holder's session: a node id, for the node's own.
    pub node: String,
    /// The session.
    #[serde(serialize_with = "session_number")]
    pub session: SessionId,
    /// The grant.
    #[serde(serialize_with = "token_number")]
    pub token: Token,
    /// How the lock is shared.
    pub mode: LockMode,
    /// How long the grant lasts if it is not renewed, by the ledger's clock.
    pub remaining: Duration,
    /// How long ago it was given, by the ledger's clock.
    pub held_for: Duration,
    /// What the holder attached to it.
    pub metadata: Vec<u8>,
    /// How many wait for the lock.
    pub waiters: u32,
}

/// Who waits for a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Name of the waiter's session: a node id, for the node's own.
    pub node: String,
    /// The session.
    pub session: SessionId,
    /// What it waits for.
    pub mode: LockMode,
    /// How long it has waited, by the ledger's clock.
    pub waited: Duration,
    /// What it will attach to the grant.
    pub metadata: Vec<u8>,
}

/// Everybody around a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contenders {
    /// Its holders, by token.
    pub holders: Vec<Holder>,
    /// Its queue, first come first.
    pub waiters: Vec<Waiter>,
    /// How long nobody gets it: what is left of its lock-delay.
    pub delay: Duration,
}

/// Who holds a lock as far as one node knows, which may be old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalHolder {
    /// Its first holder, by token.
    pub holder: Option<Holder>,
    /// Index of the last log entry that this node had applied; 0 for a node in memory, which has no log.
    pub applied: u64,
    /// How long ago that was: the answer is at most so old, and what was under way to this node then. Zero for a node that is alone.
    pub age: Duration,
}

/// One row of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockInfo {
    /// The lock.
    pub key: Key,
    /// Its holders; several for shared and semaphore locks, none while it is in its lock-delay.
    pub holders: Vec<Holder>,
}

fn session_number<S: serde::Serializer>(id: &SessionId, s: S) -> std::result::Result<S::Ok, S::Error> {
    s.serialize_u64(id.0)
}

fn token_number<S: serde::Serializer>(token: &Token, s: S) -> std::result::Result<S::Ok, S::Error> {
    s.serialize_u64(token.0)
}

fn mode(mode: ledger::Mode) -> LockMode {
    match mode {
        ledger::Mode::Exclusive => LockMode::Exclusive,
        ledger::Mode::Shared => LockMode::Shared,
        ledger::Mode::Permits { count, limit } => LockMode::Permits { count, limit },
    }
}

/// As [`holders`], with the queue.
pub(super) fn contenders(info: ledger::LockInfo) -> Contenders {
    let waiter = |w: &ledger::Waiter| Waiter {
        node: w.name.clone(),
        session: w.session,
        mode: mode(w.mode),
        waited: Duration::from_millis(w.waited_ms),
        metadata: w.metadata.clone(),
    };
    let (waiters, delay) = (info.waiters.iter().map(waiter).collect(), Duration::from_millis(info.delay_ms));
    Contenders { holders: holders(info), waiters, delay }
}

/// The ledger's view of a lock, for callers.
pub(super) fn holders(info: ledger::LockInfo) -> Vec<Holder> {
    let waiters = info.waiters.len() as u32;
    let holder = |h: ledger::Holder| Holder {
        node: h.name,
        session: h.session,
        token: h.token,
        mode: mode(h.mode),
        remaining: Duration::from_millis(h.remaining_ms),
        held_for: Duration::from_millis(h.held_ms),
        metadata: h.metadata,
        waiters,
    };
    info.holders.into_iter().map(holder).collect()
}
