//! From a caller's options to the ledger's terms, and from its outcomes to the caller's answers.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::options::{LockMode, LockOptions, Renew};
use crate::base::{Error, Key, Result, Status, Token};
use crate::ledger::{self, Outcome, Spec, WaitEnd};

/// Checks the options, and says whether the session's view looks after the grant: one that the caller renews by itself is judged by the
/// ledger of this process when somebody asks.
#[inline]
pub(super) fn tracked(options: &LockOptions) -> Result<bool> {
    options.check()?;
    Ok(options.renew == Renew::Auto)
}

pub(super) fn several(keys: &[&[u8]]) -> Result<Vec<Key>> {
    if keys.is_empty() {
        return Err(Error::invalid("keys", "none given"));
    }
    keys.iter().map(|k| Key::new(k)).collect()
}

#[inline]
pub(super) fn spec(options: &LockOptions) -> Spec {
    Spec {
        mode: match options.mode {
            LockMode::Exclusive => ledger::Mode::Exclusive,
            LockMode::Shared => ledger::Mode::Shared,
            LockMode::Permits { count, limit } => ledger::Mode::Permits { count, limit },
        },
        ttl_ms: options.ttl.as_millis() as u32,
        renew: match options.renew {
            Renew::Auto => ledger::Renew::Session,
            Renew::Manual => ledger::Renew::Manual,
        },
        lock_delay_ms: options.lock_delay.as_millis() as u32,
        reentrant: options.reentrant,
        metadata: options.metadata.clone(),
    }
}

/// What an acquisition's outcome means to its caller.
#[inline]
pub(super) fn granted(outcome: Outcome) -> Result<Token> {
    match outcome {
        Outcome::Granted { token, .. } => Ok(token),
        Outcome::Held(o) if o.token.0 == 0 && o.delay_ms > 0 => Err(Status::LockDelay.into()),
        Outcome::Held(o) => Err(Error::from(Status::Held).with_token(o.token.0)),
        Outcome::WaitEnded(WaitEnd::Timeout) => Err(Error::new(Status::Timeout, "the lock was not free in time")),
        Outcome::WaitEnded(WaitEnd::Cancelled) => Err(Status::Cancelled.into()),
        Outcome::WaitEnded(WaitEnd::SessionExpired) => Err(Error::new(Status::Expired, "the session expired while it waited")),
        Outcome::WaitEnded(WaitEnd::SessionClosed) => Err(Error::new(Status::Closed, "the session was closed while it waited")),
        other => Err(unexpected(other)),
    }
}

pub(super) fn not_holder(current: Token) -> Error {
    Error::from(Status::NotHolder).with_token(current.0)
}

pub(super) fn unexpected(outcome: Outcome) -> Error {
    match outcome {
        Outcome::Refused(refusal) => refusal.into(),
        other => Error::new(Status::Internal, format!("an answer to another question: {other:?}")),
    }
}

/// Where a blocked caller finds its answer.
#[derive(Default)]
pub(super) struct Slot {
    result: Mutex<Option<Result<Token>>>,
    filled: Condvar,
}

impl Slot {
    pub(super) fn set(&self, result: Result<Token>) {
        *self.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        self.filled.notify_one();
    }

    /// `None` when the time ran out first.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> Option<Result<Token>> {
        let guard = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        let empty = |r: &mut Option<Result<Token>>| r.is_none();
        let mut guard = match timeout {
            None => self.filled.wait_while(guard, empty).unwrap_or_else(PoisonError::into_inner),
            // A request that does not wait in the queue still takes as long as a commit takes.
            Some(Duration::ZERO) => self.filled.wait_while(guard, empty).unwrap_or_else(PoisonError::into_inner),
            Some(t) => self.filled.wait_timeout_while(guard, t, empty).unwrap_or_else(PoisonError::into_inner).0,
        };
        guard.take()
    }
}
