//! A lock service that the host already runs, and what the library asks of it.
//!
//! A host implements [`LockService`] over what it has; a node opened with it runs sessions, renewals, grants and gates over that
//! service instead of a ledger of its own. What a service can do besides the five verbs it says in [`Capabilities`]; what it
//! cannot do is a named weaker mode in the node's status, or answers [`Status::Unsupported`].
//!
//! Source of the capabilities: what OpenStack's tooz calls the characteristics of a driver.

#[cfg(feature = "etcd")]
mod etcd;

use std::time::Duration;

use crate::base::{Error, Result, Status};

#[cfg(feature = "etcd")]
pub use etcd::Etcd;

/// What a service can do. The default claims nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Every grant has a token: above 0, below 2^63, larger than that of every grant of the same key before it, and never that of
    /// another key's grant. Without it there is no fencing: nothing tells a late write of a former holder from one of the present holder.
    pub fencing: bool,
    /// [`LockService::renew`] works. Without it a grant ends after its ttl whatever its holder does.
    pub renew: bool,
    /// [`LockService::acquire`] works. Without it, waiting is asking again and again.
    pub wait: bool,
    /// Those who wait in [`LockService::acquire`], on all nodes, are granted the lock in the order in which they came.
    pub fair: bool,
    /// [`LockService::holder`] tells what every earlier answer implies. Without it the answer may be old.
    pub linearizable_reads: bool,
    /// The service's ttl is a multiple of this, at least 1 ms; the library rounds up to it.
    pub ttl_granularity: Duration,
    /// The shortest ttl that it takes; the library asks for at least this. Its holders count the ttl that they asked for.
    pub ttl_min: Duration,
    /// The longest ttl that it takes; a longer one is refused.
    pub ttl_max: Duration,
}

impl Default for Capabilities {
    fn default() -> Capabilities {
        Capabilities {
            fencing: false,
            renew: false,
            wait: false,
            fair: false,
            linearizable_reads: false,
            ttl_granularity: Duration::from_millis(1),
            ttl_min: Duration::from_millis(1),
            ttl_max: Duration::from_secs(24 * 3600),
        }
    }
}

impl Capabilities {
    /// Checks that the claims fit together.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] naming the capability.
    pub fn check(&self) -> Result<()> {
        if self.ttl_granularity < Duration::from_millis(1) {
            return Err(Error::invalid("ttl_granularity", format_args!("{:?} is below 1 ms", self.ttl_granularity)));
        }
        if self.ttl_min > self.ttl_max {
            return Err(Error::invalid("ttl_min", format_args!("{:?} is above ttl_max, {:?}", self.ttl_min, self.ttl_max)));
        }
        if self.fair && !self.wait {
            return Err(Error::invalid("fair", "is claimed without wait"));
        }
        Ok(())
    }

    /// The ttl that the service is asked for when a holder wants `ttl`.
    pub(crate) fn ttl(&self, ttl: Duration) -> Duration {
        let step = self.ttl_granularity.as_nanos().max(1);
        let rounded = ttl.max(self.ttl_min).as_nanos().div_ceil(step) * step;
        Duration::from_nanos(u64::try_from(rounded).unwrap_or(u64::MAX))
    }
}

/// How an attempt to take a lock ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The caller's node holds the lock.
    Acquired {
        /// The fencing token; 0 from a service without.
        token: u64,
    },
    /// Somebody else holds it.
    Held {
        /// The holder's token; 0 when it is not known.
        token: u64,
    },
}

/// Who holds a lock, as the service sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The holder's node id.
    pub node: String,
    /// Its token; 0 when it is not known.
    pub token: u64,
    /// What is left of its ttl, if the service tells.
    pub remaining: Option<Duration>,
}

/// A lock service of the host.
///
/// The library calls it on threads of its own, several at a time, never two at a time for acquiring, renewing and releasing one key unless
/// a call was given up. A call is given up after `limit`: its caller is told [`Status::Unavailable`], and the library goes on without the
/// thread that is stuck in it. What a call that was given up grants after all is released. A call that cannot be answered
/// in `limit` should fail with [`Status::Unavailable`] by itself. A panic in it is caught and is [`Status::ServiceFailed`] for the caller.
pub trait LockService: Send + Sync + 'static {
    /// The name under which the service knows this node: what [`LockService::holder`] tells other nodes. Asked once.
    ///
    /// # Errors
    /// What keeps the node from opening.
    fn node_id(&self) -> Result<String>;

    /// What the service can do. Asked once.
    fn capabilities(&self) -> Capabilities;

    /// Takes the lock for `ttl` if it is free. A lock that this node holds is not asked for again before it was released.
    ///
    /// # Errors
    /// [`Status::Unavailable`] when nobody can tell; anything else ends a wait.
    fn try_acquire(&self, key: &[u8], ttl: Duration, limit: Duration) -> Result<Attempt>;

    /// Gives the lock back. False, and no effect, when `token` is not that of the current grant.
    ///
    /// # Errors
    /// [`Status::Unavailable`]; the lock then runs out by itself.
    fn release(&self, key: &[u8], token: u64, limit: Duration) -> Result<bool>;

    /// Extends the grant to `ttl` from now. False, and no effect, when `token` is not that of the current grant.
    /// Only called with [`Capabilities::renew`].
    ///
    /// # Errors
    /// [`Status::Unavailable`]; it is tried again.
    fn renew(&self, key: &[u8], token: u64, ttl: Duration, limit: Duration) -> Result<bool> {
        let _ = (key, token, ttl, limit);
        Err(unsupported("renew"))
    }

    /// Who holds the lock; `None` when nobody does.
    ///
    /// # Errors
    /// [`Status::Unavailable`].
    fn holder(&self, key: &[u8], limit: Duration) -> Result<Option<Holding>>;

    /// Takes the lock, waiting for it for at most `wait`; [`Attempt::Held`] when it was not free in time.
    /// Only called with [`Capabilities::wait`]. It keeps a thread busy.
    ///
    /// # Errors
    /// As [`LockService::try_acquire`].
    fn acquire(&self, key: &[u8], ttl: Duration, wait: Duration) -> Result<Attempt> {
        let _ = (key, ttl, wait);
        Err(unsupported("acquire"))
    }
}

/// [`Status::Unsupported`] naming the verb.
pub fn unsupported(verb: &str) -> Error {
    Error::new(Status::Unsupported, format!("{verb}: the lock service does not offer it"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_never_rounded_down() {
        let caps = Capabilities { ttl_granularity: Duration::from_secs(1), ttl_min: Duration::from_secs(2), ..Capabilities::default() };
        assert_eq!(caps.ttl(Duration::from_millis(100)), Duration::from_secs(2));
        assert_eq!(caps.ttl(Duration::from_millis(2001)), Duration::from_secs(3));
        assert_eq!(caps.ttl(Duration::from_secs(3)), Duration::from_secs(3));
    }

    #[test]
    fn claims_that_contradict_each_other_are_named() {
        assert!(Capabilities::default().check().is_ok());
        let fair = Capabilities { fair: true, ..Capabilities::default() };
        assert!(fair.check().unwrap_err().message().starts_with("fair: "));
        let backwards = Capabilities { ttl_min: Duration::from_secs(9), ttl_max: Duration::from_secs(1), ..Capabilities::default() };
        assert!(backwards.check().unwrap_err().message().starts_with("ttl_min: "));
    }
}
