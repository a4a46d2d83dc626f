//! The queue between those who have something for the host and whoever runs it. Each item is taken once, whatever happens at once.
//!
//! The locks are those of the module around it, so that the model checker runs the very code that ships.

use std::collections::VecDeque;

use super::sync::{Condvar, Mutex, MutexGuard, PoisonError};

struct State<T> {
    items: VecDeque<T>,
    closed: bool,
}

pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Queue<T> {
        Queue { state: Mutex::new(State { items: VecDeque::new(), closed: false }), filled: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Host code never runs under this lock, and ours leaves the data whole at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends an item, or gives it back when the queue is closed. `raise` is called, under the lock, when it is the only one.
    pub(super) fn push(&self, item: T, raise: impl FnOnce()) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed {
            return Err(item);
        }
        state.items.push_back(item);
        if state.items.len() == 1 {
            raise();
            self.filled.notify_one();
        }
        Ok(())
    }

    /// The first item, if there is one. `lower` is called, under the lock, when none is left.
    pub(super) fn take(&self, lower: impl FnOnce()) -> Option<T> {
        let mut state = self.lock();
        let item = state.items.pop_front();
        if state.items.is_empty() {
            lower();
        }
        item
    }

    /// The first item, waited for; None when the queue is closed and empty. One thread at a time.
    pub(super) fn wait(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(item) = state.items.pop_front() {
                return Some(item);
            }
            if state.closed {
                return None;
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nothing more gets in; what is in it can still be taken.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }
}
