//! The engine over a lock service of the host's: sessions, queues and deadlines are kept here, who holds what is the service's word.
//!
//! The service is called on threads of its own, so that one that hangs delays nobody's deadline. A grant counts from the sending of the call
//! that acquired or last renewed it, and is renewed by itself, at a third of its ttl.

mod desk;
mod flow;
mod lanes;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::Duration;

use self::desk::{Answer, Call, Desk, NS_PER_MS, Out, Terms, Verb};
use self::lanes::{Kind, Lanes};
use super::delivery::Delivery;
use super::{Completion, EventSink, Local, Watch};
use crate::base::{Clock, Error, Key, Moment, NodeId, Result, Rng, SessionId, Status, Token, process};
use crate::ledger::{Counts, Held, Holder, LockInfo, Mode, Op, Outcome, Params, Pattern, Request, SessionInfo, Spec};
use crate::plug::{Attempt, Capabilities, Holding, LockService, unsupported};

/// How long the end of the engine waits for the end of calls in progress.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// What an engine over a service is told when it is opened.
pub struct PluggedOptions {
    /// The limits on sessions, locks and waiters, and the bounds of a ttl.
    pub params: Params,
    /// Within this a call of the service is answered, or given up.
    pub limit: Duration,
    /// Between two attempts of a waiter, a quarter more or less.
    pub poll: Duration,
}

struct Shared {
    service: Arc<dyn LockService>,
    caps: Capabilities,
    node: NodeId,
    limit: Duration,
    clock: Arc<dyn Clock>,
    desk: Mutex<Desk>,
    lanes: Lanes,
    delivery: Delivery,
    generation: u64,
}

/// Locks of a lock service that the host has. Every method may be called from any thread but those on which completions and events
/// are called.
pub struct PluggedEngine {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for PluggedEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluggedEngine").field("node", &self.shared.node).field("caps", &self.shared.caps).finish_non_exhaustive()
    }
}

/// Calls the host's code: what it panics with is an error.
fn contained<R>(call: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err(Error::new(Status::ServiceFailed, "the lock service panicked")))
}

impl Shared {
    fn now(&self) -> Moment {
        Moment::now(&*self.clock)
    }

    fn desk(&self) -> Result<MutexGuard<'_, Desk>> {
        self.desk.lock().map_err(|_| Error::new(Status::Poisoned, "the book-keeping of the lock service failed"))
    }

    /// Changes the book-keeping, and carries out what follows.
    fn step<R>(self: &Arc<Shared>, change: impl FnOnce(&mut Desk, Moment, &mut Out) -> R) -> Result<R> {
        let mut out = Out::default();
        let mut desk = self.desk()?;
        let result = change(&mut desk, self.now(), &mut out);
        // In the outbox while the lock is held: in the order of the changes.
        self.delivery.post(out.events);
        for (done, answer) in out.answers {
            self.delivery.hand(done, answer);
        }
        drop(desk);
        for r in out.renewed {
            self.delivery.sink().renewed(r.session, r.token, r.ttl_ms, r.sent);
        }
        for call in out.calls {
            self.start(call);
        }
        if out.nearer {
            self.delivery.sink().nearer_deadline();
        }
        self.delivery.deliver();
        Ok(result)
    }

    fn start(self: &Arc<Shared>, mut call: Call) {
        let kind = match call.verb {
            Verb::Acquire { .. } if self.lanes.may_wait() => Kind::Waits,
            Verb::Acquire { ttl, .. } => {
                // All threads wait already: this one asks again and again.
                call.verb = Verb::TryAcquire { ttl };
                Kind::Calls
            }
            Verb::Renew { .. } => Kind::Renewals,
            Verb::TryAcquire { .. } | Verb::Release { .. } => Kind::Calls,
        };
        let (this, id, verb) = (self.clone(), call.id, call.verb);
        if let Err(error) = self.lanes.submit(kind, Box::new(move || this.make(&call))) {
            let failed = match verb {
                Verb::TryAcquire { .. } | Verb::Acquire { .. } => Answer::Attempt(Err(error)),
                Verb::Release { .. } | Verb::Renew { .. } => Answer::Done(Err(error)),
            };
            let ended = self.step(|desk, now, out| desk.finished(id, now, failed, now, out));
            tracing::debug!(?ended, "a call for which there is no thread");
        }
    }

    /// Makes a call, on a thread that may hang in it.
    fn make(self: &Arc<Shared>, call: &Call) {
        if !self.desk().is_ok_and(|desk| desk.wanted(call.id)) {
            return;
        }
        let (service, key) = (&self.service, call.key.as_bytes());
        let sent = self.now();
        let answer = match call.verb {
            Verb::TryAcquire { ttl } => Answer::Attempt(contained(|| service.try_acquire(key, ttl, call.limit))),
            Verb::Acquire { ttl, wait } => Answer::Attempt(contained(|| service.acquire(key, ttl, wait))),
            Verb::Release { token } => Answer::Done(contained(|| service.release(key, token, call.limit))),
            Verb::Renew { token, ttl } => Answer::Done(contained(|| service.renew(key, token, ttl, call.limit))),
        };
        let orphan = match answer {
            Answer::Attempt(Ok(Attempt::Acquired { token })) => Some(token),
            _ => None,
        };
        let known = self.step(|desk, now, out| desk.finished(call.id, sent, answer, now, out));
        if let (Some(token), Ok(false)) = (orphan, known) {
            // Granted after the engine was closed.
            let released = contained(|| service.release(key, token, self.limit));
            tracing::debug!(key = %call.key, ?released, "a grant for nobody");
        }
    }
}

impl PluggedEngine {
    /// Runs over `service`.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] for capabilities that contradict each other or a node id that is none; what the service says when
    /// it is asked for its name.
    pub fn open(
        service: Arc<dyn LockService>,
        options: PluggedOptions,
        clock: Arc<dyn Clock>,
        rng: Box<dyn Rng>,
        sink: Arc<dyn EventSink>,
    ) -> Result<PluggedEngine> {
        let node = NodeId::new(&contained(|| service.node_id())?)?;
        let caps = contained(|| Ok(service.capabilities()))?;
        caps.check()?;
        let terms = Terms { caps, params: options.params, limit: options.limit, poll: options.poll };
        let shared = Shared {
            service,
            caps,
            node,
            limit: options.limit,
            clock,
            desk: Mutex::new(Desk::new(terms, rng)),
            lanes: Lanes::new(),
            delivery: Delivery::new(sink),
            generation: process::generation(),
        };
        Ok(PluggedEngine { shared: Arc::new(shared) })
    }

    /// The name under which the service knows this node.
    pub fn node(&self) -> &NodeId {
        &self.shared.node
    }

    /// What the service can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.shared.caps
    }

    /// When the call was sent by which this session's grant was acquired or last renewed; `None` when it does not hold it.
    pub fn since(&self, session: SessionId, key: &Key, token: Token) -> Option<Moment> {
        self.shared.desk().ok()?.entries.get(key)?.held_by(session, token).map(|h| h.sent)
    }

    pub(super) fn execute(&self, request: &Request) -> Result<Outcome> {
        let (tx, rx) = mpsc::sync_channel(1);
        self.submit(request, Box::new(move |answer| _ = tx.send(answer)));
        rx.recv().map_err(|_| Error::from(Status::Closed))?
    }

    pub(super) fn submit(&self, request: &Request, done: Completion) {
        let slot = Mutex::new(Some(done));
        let taken = || slot.lock().ok().and_then(|mut s| s.take());
        let asked = self.shared.step(|desk, now, out| {
            if let Some(done) = taken() {
                desk.submit(request, done, now, out);
            }
        });
        if let (Err(error), Some(done)) = (asked, taken()) {
            done(Err(error));
        }
    }

    pub(super) fn try_acquire(&self, session: SessionId, key: &Key, spec: &Spec, req: u64) -> Result<Outcome> {
        let op = Op::Acquire { key: key.clone(), spec: spec.clone(), wait_ms: None, req };
        self.execute(&Request { session, seq: 0, op })
    }

    pub(super) fn release(&self, session: SessionId, key: &Key, token: Token) -> Result<Outcome> {
        self.execute(&Request { session, seq: 0, op: Op::Release { key: key.clone(), token } })
    }

    pub(super) fn tick(&self) -> Result<()> {
        self.shared.step(|desk, now, out| desk.tick(now, out))
    }

    pub(super) fn next_tick(&self) -> Option<Duration> {
        let desk = self.shared.desk().ok()?;
        desk.next_ns(self.shared.now()).map(Duration::from_nanos)
    }

    /// Ends everything; waits a little for calls in progress.
    pub(super) fn close(&self) {
        let ended = self.shared.step(|desk, _, out| desk.close(out));
        tracing::debug!(?ended, "the lock service is left");
        self.shared.lanes.stop();
        self.shared.lanes.wait(CLOSE_WAIT);
    }

    /// Asks the service who holds the lock.
    pub(super) fn lock(&self, key: &Key) -> Result<Option<LockInfo>> {
        if self.shared.desk()?.closed {
            return Err(Status::Closed.into());
        }
        let (tx, rx) = mpsc::sync_channel(1);
        let (service, asked, limit) = (self.shared.service.clone(), key.clone(), self.shared.limit);
        let ask = move || _ = tx.send(contained(|| service.holder(asked.as_bytes(), limit)));
        self.shared.lanes.submit(Kind::Calls, Box::new(ask))?;
        let late = |_| Error::new(Status::Unavailable, "the lock service did not answer in time");
        let Some(holding) = rx.recv_timeout(limit).map_err(late)?? else { return Ok(None) };
        self.seen(key, holding).map(Some)
    }

    /// What the service says, and what is known here beside it.
    fn seen(&self, key: &Key, holding: Holding) -> Result<LockInfo> {
        let (now, desk) = (self.shared.now(), self.shared.desk()?);
        let token = if self.shared.caps.fencing { holding.token } else { 0 };
        let mut holder = Holder {
            session: SessionId(0),
            name: holding.node,
            token: Token(token),
            mode: Mode::Exclusive,
            remaining_ms: holding.remaining.map_or(0, |left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            held_ms: 0,
            depth: 1,
            metadata: Vec::new(),
        };
        let here = |h: &desk::Held| holder.name == self.shared.node.as_str() && (token == 0 || h.token.0 == token);
        if let Some((held, name)) = desk.held(key).filter(|(h, _)| here(h)) {
            (holder.session, holder.token, holder.name) = (held.session, held.token, name.to_owned());
            holder.held_ms = held.since.elapsed_ns(now) / NS_PER_MS;
            if holding.remaining.is_none() {
                holder.remaining_ms = held.left_ns(now) / NS_PER_MS;
            }
        }
        Ok(LockInfo { key: key.clone(), holders: vec![holder], waiters: desk.waiters(key, now), delay_ms: 0 })
    }

    pub(super) fn lock_local(&self, _: &Key) -> Result<Local<Option<LockInfo>>> {
        Err(unsupported("holder_local"))
    }

    pub(super) fn watch(&self, _: Pattern) -> Result<Watch> {
        Err(unsupported("watch"))
    }

    pub(super) fn held_by(&self, _: SessionId) -> Result<Vec<Held>> {
        Err(unsupported("inherited"))
    }

    pub(super) fn locks(&self) -> Result<Vec<LockInfo>> {
        Err(unsupported("locks"))
    }

    pub(super) fn sessions(&self) -> Result<Vec<SessionInfo>> {
        Ok(self.shared.desk()?.sessions())
    }

    pub(super) fn counts(&self) -> Result<Counts> {
        Ok(self.shared.desk()?.counts())
    }
}

impl Drop for PluggedEngine {
    fn drop(&mut self) {
        if process::check_generation(self.shared.generation).is_ok() {
            self.shared.lanes.stop();
        } else {
            // The host's service, and the threads, are the parent's.
            std::mem::forget(self.shared.clone());
        }
    }
}
