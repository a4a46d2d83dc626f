//! What a session can do besides taking and giving back: ask a holder, look around, proclaim, prove who it is.

use std::time::Duration;

use super::answer::{not_holder, unexpected};
use super::election::Election;
use super::event::LossReason;
use super::options::{Contenders, LocalHolder, TTL_MAX};
use super::session::Session;
use super::watch::Watch;
use crate::base::{Error, Key, Moment, Result, Status, Token};
use crate::ledger::{Op, Outcome, Pattern, Request};

impl Session {
    /// Asks whoever holds the lock to give it back: each holder is told by [`super::Event::RevokeRequested`] who asks and why (at most
    /// 256 bytes). With `force_after` it is taken away from those who still hold it then, by the ledger's clock; their lock-delay begins
    /// there. A second request can bring that time forward, and not put it off. `token` names one grant, `None` every holder.
    /// Returns how many were asked.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] for a time above [`super::TTL_MAX`] or a reason that is too long, and what every call may answer.
    pub fn revoke(&self, key: &[u8], token: Option<Token>, why: &str, force_after: Option<Duration>) -> Result<u64> {
        let session = self.ready()?;
        let force_after_ms = match force_after {
            None => None,
            Some(t) if t > TTL_MAX => return Err(Error::invalid("force_after", format_args!("{t:?} is above {TTL_MAX:?}"))),
            Some(t) => Some(t.as_millis() as u32),
        };
        let op = Op::Revoke { key: Key::new(key)?, token, why: why.to_owned(), force_after_ms };
        match self.core.engine.execute(&Request { session, seq: 0, op })? {
            Outcome::Revoking { count } => Ok(count),
            other => Err(unexpected(other)),
        }
    }

    /// Everybody around the lock: its holders, and its queue in order. Linearizable.
    ///
    /// # Errors
    /// What every call may answer.
    pub fn contenders(&self, key: &[u8]) -> Result<Contenders> {
        self.core.check()?;
        let info = self.core.engine.lock(&Key::new(key)?)?;
        Ok(info.map_or_else(|| Contenders { holders: Vec::new(), waiters: Vec::new(), delay: Duration::ZERO }, super::options::contenders))
    }

    /// Who holds the lock as far as this node knows, asking nobody: it may be old, and says how old.
    ///
    /// # Errors
    /// What every call may answer.
    pub fn holder_local(&self, key: &[u8]) -> Result<LocalHolder> {
        self.core.check()?;
        let local = self.core.engine.lock_local(&Key::new(key)?)?;
        let holder = local.value.and_then(|i| super::options::holders(i).into_iter().next());
        Ok(LocalHolder { holder, applied: local.applied, age: local.age })
    }

    /// Replaces what a grant shows to whoever asks for the holder, or watches it.
    ///
    /// # Errors
    /// [`Status::NotHolder`] (with the present holder's token) when `token` is not this session's current grant;
    /// [`Status::InvalidArgument`] above [`super::METADATA_MAX`] bytes.
    pub fn annotate(&self, key: &[u8], token: Token, metadata: &[u8]) -> Result<()> {
        let session = self.ready()?;
        let op = Op::Annotate { key: Key::new(key)?, token, metadata: metadata.to_vec() };
        match self.core.engine.execute(&Request { session, seq: 0, op })? {
            Outcome::Annotated => Ok(()),
            Outcome::NotHolder { current } => {
                self.state.grants.remove(token);
                Err(not_holder(current))
            }
            other => Err(unexpected(other)),
        }
    }

    /// Watches who holds the lock. As [`super::Node::watch`].
    ///
    /// # Errors
    /// As [`super::Node::watch`].
    pub fn watch(&self, key: &[u8]) -> Result<Watch> {
        self.core.check()?;
        Ok(Watch::new(&self.core, self.core.engine.watch(Pattern::Key(Key::new(key)?))?))
    }

    /// The election of this name: that of the lock `name`, whose holder leads. `ttl`: how long a leadership outlives its last renewal.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] for the name or the ttl, as of a lock.
    pub fn election(&self, name: &[u8], ttl: Duration) -> Result<Election> {
        Election::new(self.clone(), name, ttl)
    }

    /// What proves that a caller owns this session, for [`super::Node::take_over`] by a later process: to be kept secret, and stored where
    /// only that process finds it. It changes when the session is opened anew after a loss.
    ///
    /// # Errors
    /// What every call may answer.
    pub fn secret(&self) -> Result<u128> {
        self.ready()?;
        Ok(self.state.secret())
    }

    /// The locks that came with a session that this one has taken over, by their new tokens. They are the caller's from here on: the
    /// answer is empty after that.
    ///
    /// # Errors
    /// What every call may answer.
    pub fn inherited(&self) -> Result<Vec<(Key, Token)>> {
        self.ready()?;
        self.state.take_inherited(&self.core)
    }

    /// Says whether at least `left` of a grant is left in the holder's own view, asking nobody: before a step that takes so long.
    ///
    /// # Errors
    /// [`Status::Expired`] when less is left, or nothing; [`Status::InvalidArgument`] for the key.
    pub fn ensure(&self, key: &[u8], token: Token, left: Duration) -> Result<Duration> {
        self.check()?;
        Key::new(key)?;
        match self.remaining(key, token) {
            Duration::ZERO => Err(Error::new(Status::Expired, "the grant is not held any more").with_token(token.0)),
            have if have < left => {
                let text = format!("{} ms of the grant are left, {} are wanted", have.as_millis(), left.as_millis());
                Err(Error::new(Status::Expired, text).with_token(token.0))
            }
            have => Ok(have),
        }
    }

    /// Why a grant was lost; `None` while it is held, and after it was given back. The last 1024 losses are remembered.
    pub fn loss(&self, token: Token) -> Option<LossReason> {
        if self.core.forked() {
            return Some(LossReason::Forked);
        }
        if let Some(reason) = self.state.loss(token) {
            return Some(reason);
        }
        // Its time may be over, and the node's thread has not looked yet.
        let left = self.state.grants.remaining_ns(token, Moment::now(&*self.core.clock));
        (left == Some(0)).then_some(LossReason::Expired)
    }
}
