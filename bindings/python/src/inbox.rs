//! What reaches Python without being asked for: completions, events, log records.
//!
//! No thread of the core ever enters the interpreter. They put plain data here, and one thread that Python owns takes it
//! out; it is stopped before the interpreter ends. (A native thread that enters a finalising interpreter is ended or hung by it.)

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::ptr;
use std::sync::atomic::{AtomicI64, AtomicPtr, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;
use tenure::base::{Error, Key, Token};
use tenure::node::orchestrator::TaskContext;
use tenure::node::{Event, Session};

use crate::orchestrator::Question;

/// Log records beyond this many waiting are dropped.
const LOGS_MAX: usize = 10_000;

/// Locks that were granted and that nobody has taken over: given back when dropped.
pub struct Untaken {
    pub session: Session,
    pub keys: Vec<Key>,
    pub first: Token,
}

impl Untaken {
    /// The tokens now belong to the caller.
    pub fn take(mut self) -> Token {
        self.keys.clear();
        self.first
    }
}

impl Drop for Untaken {
    fn drop(&mut self) {
        for (i, key) in self.keys.iter().enumerate() {
            self.session.release_later(key.as_bytes(), Token(self.first.0 + i as u64));
        }
    }
}

/// What a submitted operation came to.
pub enum Answer {
    Granted(Untaken),
    Released,
    Failed(Error),
}

pub enum Item {
    Done {
        tag: u64,
        answer: Answer,
    },
    Event {
        node: u64,
        event: Event,
    },
    /// A watch has something to take.
    Ready {
        tag: u64,
    },
    Task {
        orchestrator: u64,
        context: TaskContext,
    },
    /// The orchestrator asks its host something, and waits for the answer.
    Question {
        tag: u64,
        question: Question,
    },
    Log {
        level: u32,
        target: String,
        text: String,
    },
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    logs: usize,
    closed: bool,
}

#[derive(Default)]
pub struct Inbox {
    queue: Mutex<Queue>,
    filled: Condvar,
}

static CURRENT: AtomicPtr<Inbox> = AtomicPtr::new(ptr::null_mut());

/// Number of the interpreter whose inbox it is; -1 before the first import.
static OWNER: AtomicI64 = AtomicI64::new(-1);

/// Sets up the inbox of the interpreter that imports the extension. Another one is refused: there is one inbox a process.
pub fn claim(py: Python<'_>) -> PyResult<()> {
    // SAFETY: called with an interpreter attached.
    let id = unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) };
    if id < 0 {
        return Err(PyErr::fetch(py));
    }
    match OWNER.compare_exchange(-1, id, SeqCst, SeqCst) {
        Ok(_) => reset(),
        Err(owner) if owner == id => {}
        Err(_) => return Err(PyImportError::new_err("tenure serves one interpreter of a process, and another has imported it")),
    }
    Ok(())
}

/// Starts with an empty inbox: at import, and in a forked child, where the parent's may be locked for ever.
pub fn reset() {
    CURRENT.store(Box::into_raw(Box::default()), SeqCst);
}

/// The inbox of this process.
pub fn current() -> Option<&'static Inbox> {
    // SAFETY: the pointer is null or comes from a box that is never freed.
    unsafe { CURRENT.load(SeqCst).as_ref() }
}

/// Puts an item into this process's inbox.
pub fn push(item: Item) {
    if let Some(inbox) = current() {
        inbox.push(item);
    }
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Whole at every step: only pushes and takes.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, item: Item) {
        let mut queue = self.lock();
        if let Item::Log { .. } = item {
            if queue.logs >= LOGS_MAX {
                return;
            }
            queue.logs += 1;
        }
        if queue.closed {
            // Outside the lock: dropping a grant that nobody takes gives it back.
            drop(queue);
            return;
        }
        queue.items.push_back(item);
        self.filled.notify_one();
    }

    /// Waits for items and takes all of them; empty when the time ran out, `None` when the inbox is closed and empty.
    pub fn take(&self, timeout: Duration) -> Option<VecDeque<Item>> {
        let empty = |q: &mut Queue| q.items.is_empty() && !q.closed;
        let (mut queue, _) = self.filled.wait_timeout_while(self.lock(), timeout, empty).unwrap_or_else(PoisonError::into_inner);
        if queue.closed && queue.items.is_empty() {
            return None;
        }
        queue.logs = 0;
        Some(std::mem::take(&mut queue.items))
    }

    /// Nothing is taken in any more; what waits can still be taken out.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }
}
