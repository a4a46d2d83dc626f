//! Requests of which it is not known whether they were granted: the answer was lost with a leader, a majority or the way to it.
//!
//! Whoever asked was told so, and holds nothing. What the cluster may have granted all the same is given back: the request is
//! cancelled, again after every renewal that is answered, until the cancellation is. Otherwise the session's renewals would keep
//! the lock for nobody.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::core::Core;
use super::kept::State;
use crate::base::planted::planted;
use crate::base::{Error, Key, Result, Status};
use crate::ledger::{Op, Outcome, Request};

/// Whether this answer to a request for locks leaves open whether they were granted.
pub(super) fn in_doubt(error: &Error) -> bool {
    error.status() == Status::Unavailable
}

/// The requests of one session.
#[derive(Default)]
pub(super) struct Doubts(Mutex<Vec<(Vec<Key>, u64)>>);

impl Doubts {
    fn list(&self) -> MutexGuard<'_, Vec<(Vec<Key>, u64)>> {
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
        for (keys, req) in doubts {
            self.give_back(core, keys, req);
        }
    }

    /// Gives back what this request may have been granted.
    pub(super) fn give_back(self: &Arc<State>, core: &Arc<Core>, keys: Vec<Key>, req: u64) {
        if planted!("doubt-forgotten") {
            return;
        }
        let (state, session) = (self.clone(), self.id());
        let op = Op::Cancel { keys: keys.clone(), req };
        let done = Box::new(move |answer: Result<Outcome>| match answer {
            Err(e) if in_doubt(&e) && state.id() == session => state.doubts.list().push((keys, req)),
            Ok(Outcome::Cancelled { was_granted: true }) => {
                tracing::info!(session = state.name(), "a lock was granted without an answer; it was given back");
            }
            Ok(_) | Err(_) => {}
        });
        core.engine.submit(&Request { session, seq: 0, op }, done);
    }
}
