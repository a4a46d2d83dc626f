//! An office: a lock of the node's own session whose token is a gate's epoch.

use std::time::Duration;

use super::options::{LockOptions, ttl_ms};
use super::session::{OpId, Session};
use crate::base::{Key, Moment, Result, Token};

enum Phase {
    /// To be asked for, once this much BOOTTIME has passed.
    Idle {
        retry_ns: u64,
    },
    /// Asked for: the request waits in the lock's queue. Its number comes a moment later.
    Waiting(Option<OpId>),
    Held(Token),
}

pub(super) struct Office {
    pub(super) key: Key,
    options: LockOptions,
    phase: Phase,
}

impl Office {
    pub(super) fn new(key: &[u8], ttl: Duration) -> Result<Office> {
        ttl_ms(ttl)?;
        let options = LockOptions { ttl, ..LockOptions::default() };
        Ok(Office { key: Key::new(key)?, options, phase: Phase::Idle { retry_ns: 0 } })
    }

    pub(super) fn ttl_ns(&self) -> u64 {
        self.options.ttl.as_nanos() as u64
    }

    /// What to ask for, if now is the time to ask.
    pub(super) fn campaign(&mut self, now: Moment) -> Option<(Key, LockOptions)> {
        match self.phase {
            Phase::Idle { retry_ns } if now.boottime_ns >= retry_ns => {
                self.phase = Phase::Waiting(None);
                Some((self.key.clone(), self.options.clone()))
            }
            _ => None,
        }
    }

    /// The request's number; the answer may have come before it.
    pub(super) fn asked(&mut self, op: OpId) {
        if let Phase::Waiting(number) = &mut self.phase {
            *number = Some(op);
        }
    }

    pub(super) fn won(&mut self, token: Token) {
        self.phase = Phase::Held(token);
    }

    /// The request failed: it is made again after a third of the ttl.
    pub(super) fn failed(&mut self, now: Moment) {
        self.phase = Phase::Idle { retry_ns: now.boottime_ns.saturating_add(self.ttl_ns() / 3) };
    }

    /// The token and the ttl, while it is held.
    pub(super) fn held(&self) -> Option<(Token, u64)> {
        match self.phase {
            Phase::Held(token) => Some((token, self.ttl_ns())),
            _ => None,
        }
    }

    /// The grant is not to be relied on: it is given back, and campaigned for anew. The grant, if there was one.
    pub(super) fn doubt(&mut self) -> Option<(Key, Token)> {
        let Phase::Held(token) = self.phase else { return None };
        self.phase = Phase::Idle { retry_ns: 0 };
        Some((self.key.clone(), token))
    }

    /// The grant is lost. Whether it was this office's.
    pub(super) fn lost(&mut self, token: Token) -> bool {
        let mine = matches!(self.phase, Phase::Held(held) if held == token);
        if mine {
            self.phase = Phase::Idle { retry_ns: 0 };
        }
        mine
    }

    /// Gives it back, or up, without waiting.
    pub(super) fn leave(self, session: &Session) {
        match self.phase {
            Phase::Held(token) => session.release_later(self.key.as_bytes(), token),
            Phase::Waiting(Some(op)) => drop(session.cancel(op)),
            Phase::Waiting(None) | Phase::Idle { .. } => {}
        }
    }

    /// Gives it to the node named `to`, or back when that one waits for it no longer. Whether it was given to that one.
    pub(super) fn give_to(self, session: &Session, to: &str) -> Result<bool> {
        let given = match self.phase {
            Phase::Held(token) => {
                let key = self.key.as_bytes();
                session.hand_over(key, token, to).inspect_err(|_| session.release_later(key, token))?
            }
            _ => false,
        };
        if !given {
            self.give_back(session)?;
        }
        Ok(given)
    }

    /// Gives it back and waits for the answer.
    pub(super) fn give_back(self, session: &Session) -> Result<()> {
        match self.phase {
            // Nobody looks after it from here on: it must not live on with the session.
            Phase::Held(token) => {
                session.release(self.key.as_bytes(), token).inspect_err(|_| session.release_later(self.key.as_bytes(), token))
            }
            _ => {
                self.leave(session);
                Ok(())
            }
        }
    }
}
