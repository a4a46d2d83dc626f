//! A held lock as a value that gives it back when it goes out of scope.

use std::time::Duration;

use super::event::LossReason;
use super::session::Session;
use crate::base::{Key, Result, Token};

/// A held lock. Dropping it gives the lock back without blocking; [`Grant::release`] waits for the answer.
/// It may be used and dropped on any thread: ownership is the value, not the thread.
#[must_use = "dropping a grant gives the lock back"]
pub struct Grant {
    session: Session,
    key: Key,
    token: Token,
    given_back: bool,
}

impl Grant {
    pub(super) fn new(session: Session, key: Key, token: Token) -> Grant {
        Grant { session, key, token, given_back: false }
    }

    /// The lock's name.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The fencing token: larger than that of every grant before it.
    pub fn token(&self) -> Token {
        self.token
    }

    /// What is left of it in the holder's own view; zero when it is lost.
    pub fn remaining(&self) -> Duration {
        self.session.remaining(self.key.as_bytes(), self.token)
    }

    /// Whether it is held, in the holder's own view.
    pub fn is_held(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// Extends it by `ttl` from now; returns what is left.
    ///
    /// # Errors
    /// As [`Session::renew`].
    pub fn renew(&self, ttl: Duration) -> Result<Duration> {
        self.session.renew(self.key.as_bytes(), self.token, ttl)
    }

    /// Says whether at least `left` of it is left; see [`Session::ensure`].
    ///
    /// # Errors
    /// As [`Session::ensure`].
    pub fn ensure(&self, left: Duration) -> Result<Duration> {
        self.session.ensure(self.key.as_bytes(), self.token, left)
    }

    /// Why it was lost; `None` while it is held.
    pub fn loss(&self) -> Option<LossReason> {
        self.session.loss(self.token)
    }

    /// Replaces its metadata; see [`Session::annotate`].
    ///
    /// # Errors
    /// As [`Session::annotate`].
    pub fn annotate(&self, metadata: &[u8]) -> Result<()> {
        self.session.annotate(self.key.as_bytes(), self.token, metadata)
    }

    /// Gives the lock back and waits for the answer.
    ///
    /// # Errors
    /// As [`Session::release`].
    pub fn release(mut self) -> Result<()> {
        self.given_back = true;
        self.session.release(self.key.as_bytes(), self.token)
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if !self.given_back {
            self.session.release_later(self.key.as_bytes(), self.token);
        }
    }
}
