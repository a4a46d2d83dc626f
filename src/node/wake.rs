//! A bell for the keeper thread.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::base::{Clock, SystemClock};

#[derive(Default)]
pub(super) struct Wake {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Default)]
struct State {
    raised: bool,
    stopped: bool,
}

impl Wake {
    /// The keeper looks again at once.
    pub(super) fn raise(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).raised = true;
        self.bell.notify_all();
    }

    /// The keeper ends.
    pub(super) fn stop(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stopped = true;
        self.bell.notify_all();
    }

    /// Waits for the bell, at most `timeout`. False: it is time to end.
    pub(super) fn wait(&self, timeout: Duration) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = |s: &mut State| !s.raised && !s.stopped;
        let (mut state, _) = self.bell.wait_timeout_while(state, timeout, quiet).unwrap_or_else(PoisonError::into_inner);
        state.raised = false;
        !state.stopped
    }
}

/// A bound on a wait that has several parts.
pub(super) struct Deadline {
    clock: SystemClock,
    at_ns: u64,
}

impl Deadline {
    /// `timeout` from now.
    pub(super) fn after(timeout: Duration) -> Deadline {
        let now = SystemClock.monotonic_ns();
        let ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        Deadline { clock: SystemClock, at_ns: now.saturating_add(ns) }
    }

    /// What is left of it.
    pub(super) fn left(&self) -> Duration {
        Duration::from_nanos(self.at_ns.saturating_sub(self.clock.monotonic_ns()))
    }
}
