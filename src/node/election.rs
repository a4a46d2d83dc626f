//! Leader election: a lock whose holder leads, and whose metadata is what the leader proclaims.

use std::time::Duration;

use super::grant::Grant;
use super::options::{LockOptions, METADATA_MAX, ttl_ms};
use super::session::Session;
use super::watch::Watch;
use crate::base::{Error, Key, Result, SessionId, Token};

/// An election, as one session takes part in it. It is the lock of the same name: `holder`, `contenders` and `watch` of that lock tell of
/// the election, and the leader's term is the grant's fencing token.
#[derive(Clone)]
pub struct Election {
    session: Session,
    key: Key,
    ttl: Duration,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Name of the leader's session: a node id, for the node's own.
    pub node: String,
    /// The session.
    pub session: SessionId,
    /// Its term: larger than that of every leader before it.
    pub token: Token,
    /// What it has proclaimed.
    pub value: Vec<u8>,
}

impl Election {
    pub(super) fn new(session: Session, name: &[u8], ttl: Duration) -> Result<Election> {
        ttl_ms(ttl)?;
        Ok(Election { session, key: Key::new(name)?, ttl })
    }

    /// The election's name.
    pub fn name(&self) -> &Key {
        &self.key
    }

    /// Stands for election with `value` (at most [`METADATA_MAX`] bytes) and waits, first come first served, until elected; at most
    /// `timeout`, `None` for as long as it takes.
    ///
    /// # Errors
    /// As [`Session::acquire`].
    pub fn campaign(&self, value: &[u8], timeout: Option<Duration>) -> Result<Leadership> {
        let options = LockOptions { ttl: self.ttl, metadata: value.to_vec(), ..LockOptions::default() };
        let grant = self.session.acquire(self.key.as_bytes(), &options, timeout)?;
        Ok(Leadership { grant })
    }

    /// Who leads now; `None` when nobody does. Linearizable.
    ///
    /// # Errors
    /// What every call may answer.
    pub fn leader(&self) -> Result<Option<Leader>> {
        let holder = self.session.holder(self.key.as_bytes())?;
        Ok(holder.map(|h| Leader { node: h.node, session: h.session, token: h.token, value: h.metadata }))
    }

    /// Watches who leads and what is proclaimed, beginning with the present: a [`super::WatchedHolder`] is a leader, its metadata the value.
    ///
    /// # Errors
    /// What every call may answer.
    pub fn observe(&self) -> Result<Watch> {
        self.session.watch(self.key.as_bytes())
    }
}

/// The office of a leader. Dropping it resigns without waiting.
#[must_use = "dropping a leadership resigns"]
pub struct Leadership {
    grant: Grant,
}

impl Leadership {
    /// The leader's term, to be sent with everything that it does: larger than that of every leader before it.
    pub fn token(&self) -> Token {
        self.grant.token()
    }

    /// The grant behind it: what is left of it, why it was lost.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Tells everybody a new value, at most [`METADATA_MAX`] bytes, in the order of proclamations.
    ///
    /// # Errors
    /// [`crate::base::Status::NotHolder`] when it does not lead any more: nothing was proclaimed.
    pub fn proclaim(&self, value: &[u8]) -> Result<()> {
        if value.len() > METADATA_MAX {
            return Err(Error::invalid("value", format_args!("{} bytes are above {METADATA_MAX}", value.len())));
        }
        self.grant.annotate(value)
    }

    /// Gives the office up: the next in the queue leads at once.
    ///
    /// # Errors
    /// As [`Grant::release`].
    pub fn resign(self) -> Result<()> {
        self.grant.release()
    }
}
