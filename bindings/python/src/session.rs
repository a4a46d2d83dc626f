//! The verbs of a session: `tenure.Node` and `tenure.Session` are built on this.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use tenure::base::{Error, Key, Result, Status, Token};
use tenure::node::{self, LockMode, LockOptions};

use crate::args;
use crate::errors::{guard, raise};
use crate::inbox::{self, Answer, Item, Untaken};
use crate::kept::Kept;

/// How often a waiting call looks whether a signal has arrived for Python.
pub const SIGNAL_CHECK: Duration = Duration::from_millis(50);
/// The shortest turn of waiting: after the timeout, for an answer that is on its way.
const TURN_MIN: Duration = Duration::from_millis(1);

/// A session of a node.
#[pyclass(frozen, module = "tenure._core")]
pub struct Session {
    inner: Kept<node::Session>,
    node: Kept<node::Node>,
    /// Whether a call may take long.
    waits: bool,
}

impl Session {
    pub fn new(inner: node::Session, node: node::Node, waits: bool) -> Session {
        Session { inner: Kept::new(inner), node: Kept::new(node), waits }
    }

    /// Runs a call of the core. In memory it is over before another thread could make use of the interpreter; one that writes to disk or asks elsewhere
    /// leaves the interpreter to the others meanwhile.
    fn call<T: Send>(&self, py: Python<'_>, f: impl FnOnce(&node::Session) -> Result<T> + Send) -> PyResult<T> {
        let session = self.inner.get(py)?;
        let poison = |why: &str| self.node.poison(why);
        if self.waits { guard(py, poison, || py.detach(|| f(session))) } else { guard(py, poison, || f(session)) }
    }

    fn submit(&self, py: Python<'_>, keys: &[Key], options: &LockOptions, timeout: Option<Duration>, done: Done) -> PyResult<node::OpId> {
        let names: Vec<&[u8]> = keys.iter().map(Key::as_bytes).collect();
        self.call(py, |s| s.submit_acquire_all(&names, options, timeout, done))
    }

    /// Waits in slices, so that Ctrl-C ends the wait, gives up the request and what it may have been granted meanwhile.
    fn wait(&self, py: Python<'_>, keys: Vec<Key>, options: &LockOptions, timeout: Option<Duration>) -> PyResult<u64> {
        let session = self.inner.get(py)?;
        let slot = Arc::new(Slot::default());
        let (set, owner, names) = (slot.clone(), session.clone(), keys.clone());
        let done: Done = Box::new(move |result| {
            set.set(result.map(|first| Untaken { session: owner, keys: names, first }));
        });
        let started = Instant::now();
        let op = self.submit(py, &keys, options, timeout, done)?;
        loop {
            let left = timeout.map_or(SIGNAL_CHECK, |t| t.saturating_sub(started.elapsed()).clamp(TURN_MIN, SIGNAL_CHECK));
            if let Some(result) = py.detach(|| slot.wait(left)) {
                return result.map(|granted| granted.take().0).map_err(|e| raise(py, &not_free(e)));
            }
            if let Err(signal) = py.check_signals() {
                session.cancel(op);
                slot.abandon();
                return Err(signal);
            }
            // The ledger ends the wait by its own clock as well; this bound holds even when the ledger cannot answer. What does not wait in the
            // queue still takes as long as a commit takes, and is answered within the request's own limit.
            if timeout.is_some_and(|t| !t.is_zero() && started.elapsed() >= t) && session.cancel(op) {
                slot.abandon();
                return Err(raise(py, &Error::new(Status::Timeout, "the lock was not free in time")));
            }
        }
    }
}

/// What a caller of `acquire` is told: that it was not acquired in time, even if there was no time.
fn not_free(error: Error) -> Error {
    match error.status() {
        Status::Held | Status::LockDelay => Error::new(Status::Timeout, "the lock is not free").with_token(error.token()),
        _ => error,
    }
}

type Done = Box<dyn FnOnce(Result<Token>) + Send>;

#[pymethods]
impl Session {
    /// Name under which others see the session as a holder.
    #[getter]
    fn name(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.inner.get(py)?.name().to_owned())
    }

    /// Number of the session in the ledger; 0 while it is being opened anew.
    #[getter]
    fn id(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.inner.get(py)?.id().0)
    }

    /// The token, or 0 when the lock is not free.
    fn try_acquire(&self, py: Python<'_>, key: &Bound<'_, PyAny>, ttl: &Bound<'_, PyAny>, options: &Bound<'_, PyDict>) -> PyResult<u64> {
        let name = args::bytes("key", key)?;
        let options = args::lock_options(ttl, options)?;
        self.call(py, |s| match s.try_acquire_token(name, &options) {
            Ok(token) => Ok(token.0),
            Err(e) if matches!(e.status(), Status::Held | Status::LockDelay) => Ok(0),
            Err(e) => Err(e),
        })
    }

    /// The token of the lock, waited for.
    fn acquire(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        ttl: &Bound<'_, PyAny>,
        timeout: &Bound<'_, PyAny>,
        options: &Bound<'_, PyDict>,
    ) -> PyResult<u64> {
        let key = args::key(key)?;
        let (options, timeout) = (args::lock_options(ttl, options)?, args::timeout(timeout)?);
        if self.waits {
            // Asked once, in a way that Ctrl-C can end.
            return self.wait(py, vec![key], &options, timeout);
        }
        // Most locks are free: those need no hop to another thread.
        let refused = self.call(py, |s| match s.try_acquire_token(key.as_bytes(), &options) {
            Ok(token) => Ok(Ok(token.0)),
            Err(e) if matches!(e.status(), Status::Held | Status::LockDelay) => Ok(Err(e)),
            Err(e) => Err(e),
        })?;
        match refused {
            Ok(token) => Ok(token),
            Err(e) if timeout == Some(Duration::ZERO) => Err(raise(py, &not_free(e))),
            Err(_) => self.wait(py, vec![key], &options, timeout),
        }
    }

    /// The token of the first of the locks, all of them taken in one step; the others' follow it one by one.
    fn acquire_all(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        ttl: &Bound<'_, PyAny>,
        timeout: &Bound<'_, PyAny>,
        options: &Bound<'_, PyDict>,
    ) -> PyResult<u64> {
        let (keys, options, timeout) = (args::keys(keys)?, args::lock_options(ttl, options)?, args::timeout(timeout)?);
        self.wait(py, keys, &options, timeout)
    }

    /// Asks for locks without waiting; the answer arrives in the inbox with `tag`. Returns the number to cancel it by.
    fn submit_acquire(
        &self,
        py: Python<'_>,
        tag: u64,
        keys: &Bound<'_, PyAny>,
        ttl: &Bound<'_, PyAny>,
        timeout: &Bound<'_, PyAny>,
        options: &Bound<'_, PyDict>,
    ) -> PyResult<u64> {
        let (keys, options, timeout) = (args::keys(keys)?, args::lock_options(ttl, options)?, args::timeout(timeout)?);
        let (owner, names) = (self.inner.get(py)?.clone(), keys.clone());
        let done: Done = Box::new(move |result| {
            let answer = match result {
                Ok(first) => Answer::Granted(Untaken { session: owner, keys: names, first }),
                Err(e) => Answer::Failed(e),
            };
            inbox::push(Item::Done { tag, answer });
        });
        Ok(self.submit(py, &keys, &options, timeout, done)?.0)
    }

    /// Gives a lock back without waiting; the answer arrives in the inbox with `tag`.
    fn submit_release(&self, py: Python<'_>, tag: u64, key: &Bound<'_, PyAny>, token: u64) -> PyResult<()> {
        let key = args::key(key)?;
        let done = Box::new(move |result: Result<()>| {
            let answer = result.map_or_else(Answer::Failed, |()| Answer::Released);
            inbox::push(Item::Done { tag, answer });
        });
        self.call(py, |s| s.submit_release(key.as_bytes(), Token(token), done).map(|_| ()))
    }

    /// Gives up a submitted request. False when it has ended already.
    fn cancel(&self, py: Python<'_>, op: u64) -> PyResult<bool> {
        self.call(py, |s| Ok(s.cancel(node::OpId(op))))
    }

    /// Gives a lock back.
    fn release(&self, py: Python<'_>, key: &Bound<'_, PyAny>, token: u64) -> PyResult<()> {
        let name = args::bytes("key", key)?;
        self.call(py, |s| s.release(name, Token(token)))
    }

    /// Gives a lock back without waiting and without an answer. Does nothing in a forked child.
    fn release_later(&self, py: Python<'_>, key: &Bound<'_, PyAny>, token: u64) -> PyResult<()> {
        let name = args::bytes("key", key)?;
        if let Ok(session) = self.inner.get(py) {
            session.release_later(name, Token(token));
        }
        Ok(())
    }

    /// Extends a grant; returns the seconds that are left of it.
    fn renew(&self, py: Python<'_>, key: &Bound<'_, PyAny>, token: u64, ttl: &Bound<'_, PyAny>) -> PyResult<f64> {
        let (name, ttl) = (args::bytes("key", key)?, args::duration("ttl", ttl)?);
        self.call(py, |s| s.renew(name, Token(token), ttl).map(|left| left.as_secs_f64()))
    }

    /// Gives back every lock of the session; returns how many.
    fn release_all(&self, py: Python<'_>) -> PyResult<u64> {
        self.call(py, node::Session::release_all)
    }

    /// Takes a lock away from whoever holds it. False when nobody held it.
    fn force_release(&self, py: Python<'_>, key: &Bound<'_, PyAny>, delay: &Bound<'_, PyAny>) -> PyResult<bool> {
        let (name, delay) = (args::bytes("key", key)?, args::duration("delay", delay)?);
        self.call(py, |s| s.force_release(name, delay))
    }

    /// Asks whoever holds the lock to give it back; returns how many were asked.
    fn revoke(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        why: &Bound<'_, PyAny>,
        force_after: &Bound<'_, PyAny>,
        token: Option<u64>,
    ) -> PyResult<u64> {
        let (name, why) = (args::bytes("key", key)?, args::utf8("why", why)?);
        let force_after = if force_after.is_none() { None } else { Some(args::duration("force_after", force_after)?) };
        self.call(py, |s| s.revoke(name, token.map(Token), why, force_after))
    }

    /// Replaces the metadata of a grant.
    fn annotate(&self, py: Python<'_>, key: &Bound<'_, PyAny>, token: u64, metadata: &Bound<'_, PyAny>) -> PyResult<()> {
        let (name, metadata) = (args::bytes("key", key)?, args::bytes("metadata", metadata)?);
        self.call(py, |s| s.annotate(name, Token(token), metadata))
    }

    /// Seconds left of a grant, at least `left` of them.
    fn ensure(&self, py: Python<'_>, key: &Bound<'_, PyAny>, token: u64, left: &Bound<'_, PyAny>) -> PyResult<f64> {
        let (name, left) = (args::bytes("key", key)?, args::duration("left", left)?);
        self.call(py, |s| s.ensure(name, Token(token), left).map(|left| left.as_secs_f64()))
    }

    /// Why a grant was lost; `None` while it is held.
    fn loss(&self, token: u64) -> Option<&'static str> {
        self.inner.loss(Token(token)).map(node::LossReason::as_str)
    }

    /// Everybody around the lock: the fields of its holders, those of `tenure.Waiter`, and the seconds of its lock-delay.
    fn contenders<'py>(&self, py: Python<'py>, key: &Bound<'py, PyAny>) -> PyResult<(Vec<HolderFields<'py>>, Vec<WaiterFields<'py>>, f64)> {
        let name = args::bytes("key", key)?;
        let found = self.call(py, |s| s.contenders(name))?;
        let waiter = |w: node::Waiter| {
            let (mode, permits, limit) = mode_fields(w.mode);
            (w.node, w.session.0, w.waited.as_secs_f64(), mode, permits, limit, PyBytes::new(py, &w.metadata))
        };
        let holders = found.holders.into_iter().map(|h| holder_fields(py, h)).collect();
        Ok((holders, found.waiters.into_iter().map(waiter).collect(), found.delay.as_secs_f64()))
    }

    /// Who holds the lock as far as this node knows: the holder's fields, the applied index, the seconds since.
    fn holder_local<'py>(&self, py: Python<'py>, key: &Bound<'py, PyAny>) -> PyResult<(Option<HolderFields<'py>>, u64, f64)> {
        let name = args::bytes("key", key)?;
        let local = self.call(py, |s| s.holder_local(name))?;
        Ok((local.holder.map(|h| holder_fields(py, h)), local.applied, local.age.as_secs_f64()))
    }

    /// The proof of who owns the session.
    fn secret<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let secret = self.call(py, node::Session::secret)?;
        Ok(PyBytes::new(py, &secret.to_le_bytes()))
    }

    /// The locks that came with a session that this one has taken over: names, tokens, ttls are the caller's.
    fn inherited<'py>(&self, py: Python<'py>) -> PyResult<Vec<(Bound<'py, PyBytes>, u64)>> {
        let found = self.call(py, node::Session::inherited)?;
        Ok(found.into_iter().map(|(key, token)| (PyBytes::new(py, key.as_bytes()), token.0)).collect())
    }

    /// Who holds the lock, as the fields of `tenure.Holder`.
    fn holder<'py>(&self, py: Python<'py>, key: &Bound<'py, PyAny>) -> PyResult<Option<HolderFields<'py>>> {
        let name = args::bytes("key", key)?;
        Ok(self.call(py, |s| s.holder(name))?.map(|h| holder_fields(py, h)))
    }

    /// Seconds left of a grant in the holder's own view; 0 when it is lost.
    fn remaining(&self, py: Python<'_>, key: &Bound<'_, PyAny>, token: u64) -> PyResult<f64> {
        let name = args::bytes("key", key)?;
        self.call(py, |s| Ok(s.remaining(name, Token(token)).as_secs_f64()))
    }

    /// Ends the session.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, node::Session::close)
    }
}

/// The fields of `tenure.Waiter`, in its order.
pub type WaiterFields<'py> = (String, u64, f64, &'static str, u32, u32, Bound<'py, PyBytes>);

fn mode_fields(mode: LockMode) -> (&'static str, u32, u32) {
    match mode {
        LockMode::Exclusive => ("exclusive", 1, 1),
        LockMode::Shared => ("shared", 1, 0),
        LockMode::Permits { count, limit } => ("semaphore", count, limit),
    }
}

/// The fields of `tenure.Holder`, in its order.
pub type HolderFields<'py> = (String, u64, u64, f64, f64, &'static str, u32, u32, Bound<'py, PyBytes>, u32);

pub fn holder_fields(py: Python<'_>, h: node::Holder) -> HolderFields<'_> {
    let (mode, permits, limit) = mode_fields(h.mode);
    let metadata = PyBytes::new(py, &h.metadata);
    (h.node, h.session.0, h.token.0, h.remaining.as_secs_f64(), h.held_for.as_secs_f64(), mode, permits, limit, metadata, h.waiters)
}

/// Where a waiting caller finds its answer.
#[derive(Default)]
struct Slot {
    state: Mutex<SlotState>,
    filled: Condvar,
}

#[derive(Default)]
struct SlotState {
    result: Option<Result<Untaken>>,
    abandoned: bool,
}

impl Slot {
    fn set(&self, result: Result<Untaken>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.abandoned {
            state.result = Some(result);
            self.filled.notify_one();
        }
    }

    /// `None` when the time ran out first.
    fn wait(&self, timeout: Duration) -> Option<Result<Untaken>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let empty = |s: &mut SlotState| s.result.is_none();
        let (mut state, _) = self.filled.wait_timeout_while(state, timeout, empty).unwrap_or_else(PoisonError::into_inner);
        state.result.take()
    }

    /// Nobody waits any more: what has been granted or will be is given back.
    fn abandon(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.abandoned = true;
        let result = state.result.take();
        drop(state);
        drop(result);
    }
}
