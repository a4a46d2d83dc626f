//! Where an operation goes: one interface over the forms of a ledger.

mod client;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod client_test;
mod client_watches;
mod clients;
mod delivery;
mod durable;
mod memory;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod memory_test;
mod plugged;
mod raft;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod raft_test;
mod watch;

use std::time::Duration;

use crate::base::{Error, Key, Moment, Result, SessionId, Status, Token};
use crate::ledger::{Counts, Event, Held, LockInfo, Outcome, Pattern, PromiseInfo, Request, SessionInfo, Spec, orch};

pub use client::ClientEngine;
pub use durable::{DurableEngine, DurableOptions, DurableStatus, Values};
pub use memory::MemoryEngine;
pub use plugged::{PluggedEngine, PluggedOptions};
pub use raft::{RaftEngine, RaftOptions};
pub use watch::{Ready, Watch};

/// Told exactly once how an operation ended. Called on whatever thread ended it, with no lock of the engine held.
pub type Completion = Box<dyn FnOnce(Result<Outcome>) + Send>;

/// As [`Completion`], with the operation as it was sent.
pub type NumberedCompletion = Box<dyn FnOnce(Request, Result<Outcome>) + Send>;

/// A request of a session that may still be waiting: what [`crate::ledger::Op::Cancel`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpId {
    /// The asking session.
    pub session: SessionId,
    /// Its number for the request.
    pub req: u64,
}

/// Receives what happens beside the answers. Called on any thread, one call at a time, with no lock of the engine held; must not block.
pub trait EventSink: Send + Sync {
    /// Something happened. The end of a wait that has a [`Completion`] goes there and not here.
    fn event(&self, event: Event);

    /// A deadline nearer than all others has appeared: whoever sleeps until the next tick must look again.
    fn nearer_deadline(&self);

    /// The service has acknowledged a renewal of one grant that was sent at `sent`, and gives it `ttl_ms` from then. Only engines with
    /// [`Engine::counts_each_grant`] call it, in any order; it does not wait for the delivery of events.
    fn renewed(&self, session: SessionId, token: Token, ttl_ms: u32, sent: Moment) {
        let _ = (session, token, ttl_ms, sent);
    }

    /// The engine has ended by a failure of its store, and told everybody who waited. Called once.
    fn ended(&self, cause: &Error) {
        let _ = cause;
    }
}

/// What one replica knew when it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local<T> {
    /// What it knew.
    pub value: T,
    /// Index of the last log entry that it had applied; 0 for a ledger in memory, which has no log.
    pub applied: u64,
    /// How long ago that was. Zero where there is no other replica, and so nothing newer. What is older than this is in the value.
    pub age: Duration,
}

/// A ledger in one of its forms. Every method may be called from any thread.
#[derive(Debug)]
// One per node; a pointer more on the way to a lock in memory would cost more than the bytes.
#[allow(clippy::large_enum_variant)]
pub enum Engine {
    /// In this process's memory, gone when it ends.
    Memory(MemoryEngine),
    /// In a data directory.
    Durable(DurableEngine),
    /// Replicated: this node is a member of a cluster.
    Raft(RaftEngine),
    /// At a lock service of the host's.
    Plugged(PluggedEngine),
    /// Replicated, and this node is no member: a client of the cluster.
    Client(ClientEngine),
}

/// All methods fail with [`crate::base::Status::Closed`] after [`Engine::close`] and with [`crate::base::Status::Poisoned`] after a failure
/// inside; what an operation itself has to say is in its [`Outcome`].
impl Engine {
    /// Runs an operation and, if it has to wait for a lock, blocks until the wait ends.
    ///
    /// # Errors
    /// As said of all methods.
    pub fn execute(&self, request: &Request) -> Result<Outcome> {
        match self {
            Engine::Memory(engine) => engine.execute(request),
            Engine::Durable(engine) => engine.execute(request),
            Engine::Raft(engine) => engine.execute(request),
            Engine::Plugged(engine) => engine.execute(request),
            Engine::Client(engine) => engine.execute(request),
        }
    }

    /// Runs an operation without blocking the caller on a lock; `done` is called once, at once or when the wait ends.
    pub fn submit(&self, request: &Request, done: Completion) {
        match self {
            Engine::Memory(engine) => engine.submit(request, done),
            Engine::Durable(engine) => engine.submit(request, done),
            Engine::Raft(engine) => engine.submit(request, done),
            Engine::Plugged(engine) => engine.submit(request, done),
            Engine::Client(engine) => engine.submit(request, done),
        }
    }

    /// Runs an operation that waits for no lock. `done` gets it back; with its number, when it has one, it may be sent again without a second effect.
    pub fn submit_numbered(&self, request: Request, done: NumberedCompletion) {
        match self {
            Engine::Client(engine) => engine.submit_numbered(request, done),
            _ => self.submit(&request.clone(), Box::new(move |answer| done(request, answer))),
        }
    }

    /// Whether an operation's number is the caller's to give. A client's connection gives them itself.
    pub fn takes_numbers(&self) -> bool {
        matches!(self, Engine::Raft(_))
    }

    /// Takes a lock if it is free. `req` is the caller's number for the request.
    ///
    /// # Errors
    /// As said of all methods.
    #[inline]
    pub fn try_acquire(&self, session: SessionId, key: &Key, spec: &Spec, req: u64) -> Result<Outcome> {
        match self {
            Engine::Memory(engine) => engine.try_acquire(session, key, spec, req),
            Engine::Durable(engine) => engine.try_acquire(session, key, spec, req),
            Engine::Raft(engine) => engine.try_acquire(session, key, spec, req),
            Engine::Plugged(engine) => engine.try_acquire(session, key, spec, req),
            Engine::Client(engine) => engine.try_acquire(session, key, spec, req),
        }
    }

    /// Gives a lock back.
    ///
    /// # Errors
    /// As said of all methods.
    #[inline]
    pub fn release(&self, session: SessionId, key: &Key, token: Token) -> Result<Outcome> {
        match self {
            Engine::Memory(engine) => engine.release(session, key, token),
            Engine::Durable(engine) => engine.release(session, key, token),
            Engine::Raft(engine) => engine.release(session, key, token),
            Engine::Plugged(engine) => engine.release(session, key, token),
            Engine::Client(engine) => engine.release(session, key, token),
        }
    }

    /// Ends what has run out, at most one slice of it.
    ///
    /// # Errors
    /// As said of all methods.
    pub fn tick(&self) -> Result<()> {
        match self {
            Engine::Memory(engine) => engine.tick(),
            Engine::Durable(engine) => engine.tick(),
            Engine::Raft(engine) => engine.tick(),
            Engine::Plugged(engine) => engine.tick(),
            Engine::Client(_) => Ok(()),
        }
    }

    /// How long until the next tick is wanted; `None` while nothing can run out. It may be too early, never too late.
    pub fn next_tick(&self) -> Option<Duration> {
        match self {
            Engine::Memory(engine) => engine.next_tick(),
            Engine::Durable(engine) => engine.next_tick(),
            // The leader moves the clock, whoever that is.
            Engine::Raft(_) | Engine::Client(_) => None,
            Engine::Plugged(engine) => engine.next_tick(),
        }
    }

    /// Ends every wait and refuses everything from now on.
    pub fn close(&self) {
        match self {
            Engine::Memory(engine) => engine.close(),
            Engine::Durable(engine) => engine.close(),
            Engine::Raft(engine) => engine.close(),
            Engine::Plugged(engine) => engine.close(),
            Engine::Client(engine) => engine.close(),
        }
    }

    /// A lock and everybody around it; `None` when nobody holds it, waits for it, or must wait out its delay.
    ///
    /// # Errors
    /// As said of all methods.
    pub fn lock(&self, key: &Key) -> Result<Option<LockInfo>> {
        match self {
            Engine::Memory(engine) => engine.lock(key),
            Engine::Durable(engine) => engine.lock(key),
            Engine::Raft(engine) => engine.lock(key),
            Engine::Plugged(engine) => engine.lock(key),
            Engine::Client(engine) => engine.lock(key),
        }
    }

    /// The locks whose names begin with `prefix` and come after `after`, in order of bytes: from the first `limit` names in use.
    ///
    /// # Errors
    /// As said of all methods.
    pub fn locks(&self, prefix: &[u8], after: Option<&Key>, limit: usize) -> Result<Vec<LockInfo>> {
        match self {
            Engine::Memory(engine) => engine.locks(prefix, after, limit),
            Engine::Durable(engine) => engine.locks(prefix, after, limit),
            Engine::Raft(engine) => engine.locks(prefix, after, limit),
            Engine::Plugged(engine) => engine.locks(),
            Engine::Client(engine) => engine.locks(prefix, after, limit),
        }
    }

    /// The offices whose names begin with `prefix` and what was promised to their holders, by name, at most `limit` of them.
    ///
    /// # Errors
    /// As said of all methods.
    pub fn promises(&self, prefix: &[u8], limit: usize) -> Result<Vec<PromiseInfo>> {
        match self {
            Engine::Memory(engine) => engine.promises(prefix, limit),
            Engine::Durable(engine) => engine.promises(prefix, limit),
            Engine::Raft(engine) => engine.promises(prefix, limit),
            Engine::Plugged(_) => Err(Error::new(Status::Misuse, "promises are not offered by this lock service")),
            Engine::Client(engine) => engine.promises(prefix, limit),
        }
    }

    /// What this replica knows of a lock, without asking anybody else: it may be old.
    ///
    /// # Errors
    /// As said of all methods.
    pub fn lock_local(&self, key: &Key) -> Result<Local<Option<LockInfo>>> {
        match self {
            Engine::Memory(engine) => engine.lock_local(key),
            Engine::Durable(engine) => engine.lock_local(key),
            Engine::Raft(engine) => engine.lock_local(key),
            Engine::Plugged(engine) => engine.lock_local(key),
            Engine::Client(engine) => engine.lock_local(key),
        }
    }

    /// Watches the holders of a key, or of all keys of a prefix, on this replica.
    ///
    /// # Errors
    /// As said of all methods.
    pub fn watch(&self, pattern: Pattern) -> Result<Watch> {
        match self {
            Engine::Memory(engine) => engine.watch(pattern),
            Engine::Durable(engine) => engine.watch(pattern),
            Engine::Raft(engine) => engine.watch(pattern),
            Engine::Plugged(engine) => engine.watch(pattern),
            Engine::Client(engine) => engine.watch(pattern),
        }
    }

    /// What a session holds, by token.
    ///
    /// # Errors
    /// As said of all methods.
    pub fn held_by(&self, session: SessionId) -> Result<Vec<Held>> {
        match self {
            Engine::Memory(engine) => engine.held_by(session),
            Engine::Durable(engine) => engine.held_by(session),
            Engine::Raft(engine) => engine.held_by(session),
            Engine::Plugged(engine) => engine.held_by(session),
            Engine::Client(engine) => engine.held_by(session),
        }
    }

    /// The living sessions, by number.
    ///
    /// # Errors
    /// As said of all methods.
    pub fn sessions(&self) -> Result<Vec<SessionInfo>> {
        match self {
            Engine::Memory(engine) => engine.sessions(),
            Engine::Durable(engine) => engine.sessions(),
            Engine::Raft(engine) => engine.sessions(),
            Engine::Plugged(engine) => engine.sessions(),
            Engine::Client(engine) => engine.sessions(),
        }
    }

    /// Looks at the orchestrator's part of the ledger: of a cluster, at what this member has applied so far.
    ///
    /// # Errors
    /// As said of all methods.
    pub fn orch<R: Send + 'static>(&self, look: impl FnOnce(&orch::State, u64) -> R + Send + 'static) -> Result<R> {
        match self {
            Engine::Memory(engine) => engine.orch(look),
            Engine::Durable(engine) => engine.orch(look),
            Engine::Raft(engine) => engine.orch(look),
            Engine::Plugged(_) => Err(Error::new(Status::Misuse, "a host's lock service keeps no schedules")),
            Engine::Client(_) => Err(Error::new(Status::Misuse, "a client runs no schedules: a member does")),
        }
    }

    /// Answers a question about the orchestrator: JSON, see [`orch::OrchQuery`].
    ///
    /// # Errors
    /// As said of all methods.
    pub fn ask(&self, query: &orch::OrchQuery) -> Result<serde_json::Value> {
        match self {
            Engine::Raft(engine) => engine.ask(query),
            Engine::Client(engine) => engine.ask(query),
            _ => {
                let query = query.clone();
                self.orch(move |state, now| state.ask(&query, now))
            }
        }
    }

    /// Counts.
    ///
    /// # Errors
    /// As said of all methods.
    pub fn counts(&self) -> Result<Counts> {
        match self {
            Engine::Memory(engine) => engine.counts(),
            Engine::Durable(engine) => engine.counts(),
            Engine::Raft(engine) => engine.counts(),
            Engine::Plugged(engine) => engine.counts(),
            Engine::Client(engine) => engine.counts(),
        }
    }

    /// Whether each grant has a deadline of its own, counted from its own last renewal ([`EventSink::renewed`]) and not from its session's.
    pub fn counts_each_grant(&self) -> bool {
        matches!(self, Engine::Plugged(_))
    }

    /// Whether an operation may run without its caller being told, because the answer was lost on its way.
    pub fn answers_may_be_lost(&self) -> bool {
        matches!(self, Engine::Raft(_) | Engine::Client(_))
    }

    /// When the call was sent by which a grant with a deadline of its own was acquired or last renewed. `None` where its session's renewals
    /// count, and for a grant that is gone.
    pub fn since(&self, session: SessionId, key: &Key, token: Token) -> Option<Moment> {
        match self {
            Engine::Plugged(engine) => engine.since(session, key, token),
            _ => None,
        }
    }
}
