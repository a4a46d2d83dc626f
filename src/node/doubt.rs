//! Requests of which it is not known whether they were granted: the answer was lost with a leader, a majority or the way to it.
//!
//! Whoever asked was told so, and holds nothing. What the cluster may have granted all the same is given back: the request is
//! cancelled, again after every renewal that is answered, until the cancellation is. Otherwise the session's renewals would keep
//! the lock for nobody. So it is with a release that nobody waits for: it is sent again, under its number, which counts once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::core::Core;
use super::kept::State;
use crate::base::planted::planted;
use crate::base::{Error, Key, Result, Status, Token};
use crate::ledger::{Op, Outcome, Refusal, Request};

/// Whether this answer to a request for locks leaves open whether they were granted.
pub(super) fn in_doubt(error: &Error) -> bool {
    error.status() == Status::Unavailable
}

enum Doubt {
    Asked(Vec<Key>, u64),
    Released(Request),
    Left(Key, Token),
}

/// The requests of one session.
#[derive(Default)]
pub(super) struct Doubts(Mutex<Vec<Doubt>>);

impl Doubts {
    fn list(&self) -> MutexGuard<'_, Vec<Doubt>> {
        // Plain pushes and takes: whole at every step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session behind it is gone, and everything it may hold.
    pub(super) fn clear(&self) {
        self.list().clear();
    }
}

impl State {
    /// Gives back what is in doubt: the cluster answers again.
    pub(super) fn resolve_doubts(self: &Arc<State>, core: &Arc<Core>) {
        let doubts = std::mem::take(&mut *self.doubts.list());
        for doubt in doubts {
            match doubt {
                Doubt::Asked(keys, req) => self.give_back(core, keys, req),
                Doubt::Released(request) if request.session == self.id() => self.release_surely(core, request),
                // With its session what it was to free has ended.
                Doubt::Released(_) => {}
                Doubt::Left(key, token) => self.let_go(core, key, token),
            }
        }
    }

    /// Releases what nobody waits for, however long it takes.
    pub(super) fn release_surely(self: &Arc<State>, core: &Arc<Core>, request: Request) {
        let state = self.clone();
        let done = Box::new(move |request: Request, answer: Result<Outcome>| match answer {
            Err(e) if in_doubt(&e) && state.id() == request.session && !planted!("release-forgotten") => {
                state.doubts.list().push(Doubt::Released(request));
            }
            Ok(Outcome::Refused(Refusal::Forgotten)) => {
                tracing::warn!(
                    session = state.name(),
                    ?request,
                    "whether a release was lost is not known; the lock may be held until the session ends"
                );
            }
            Ok(_) | Err(_) => {}
        });
        core.engine.submit_numbered(request, done);
    }

    /// Releases a grant that was lost in its holder's view, however often it was taken: once too often does no harm.
    pub(super) fn let_go(self: &Arc<State>, core: &Arc<Core>, key: Key, token: Token) {
        let (state, keeper, session) = (self.clone(), core.clone(), self.id());
        if session.0 == 0 {
            return;
        }
        let op = Op::Release { key: key.clone(), token };
        let done = Box::new(move |answer: Result<Outcome>| match answer {
            Err(e) if in_doubt(&e) && state.id() == session && !planted!("release-forgotten") => {
                state.doubts.list().push(Doubt::Left(key, token));
            }
            Ok(Outcome::Released { left: 1.. }) => state.let_go(&keeper, key, token),
            Ok(_) | Err(_) => {}
        });
        core.engine.submit(&Request { session, seq: 0, op }, done);
    }

    /// Gives back what this request may have been granted.
    pub(super) fn give_back(self: &Arc<State>, core: &Arc<Core>, keys: Vec<Key>, req: u64) {
        if planted!("doubt-forgotten") {
            return;
        }
        let (state, session) = (self.clone(), self.id());
        let op = Op::Cancel { keys: keys.clone(), req };
        let done = Box::new(move |answer: Result<Outcome>| match answer {
            Err(e) if in_doubt(&e) && state.id() == session => state.doubts.list().push(Doubt::Asked(keys, req)),
            Ok(Outcome::Cancelled { was_granted: true }) => {
                tracing::info!(session = state.name(), "a lock was granted without an answer; it was given back");
            }
            Ok(_) | Err(_) => {}
        });
        core.engine.submit(&Request { session, seq: 0, op }, done);
    }
}
