//! What this process holds of a host's lock service and asks of it: the book-keeping, without I/O, threads or clocks.
//!
//! At most one call that changes a key is under way for it. Everything that follows from an operation, an answer or the time
//! is put into an [`Out`], which the engine carries out when it has left the lock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::base::clock::holder_ttl;
use crate::base::{Error, Key, Moment, Result, Rng, SessionId, Status, Token};
use crate::engine::Completion;
use crate::ledger::{
    Counts, Event, Fault, LimitKind, Mode, Obstacle, Op, Outcome, Params, Refusal, Renew, Request, SessionInfo, Spec, WaitEnd, Waiter,
};
use crate::plug::{Attempt, Capabilities, unsupported};

pub(super) const NS_PER_MS: u64 = 1_000_000;

/// What does not change while the engine lives.
pub(super) struct Terms {
    pub(super) caps: Capabilities,
    pub(super) params: Params,
    /// Within this a call is answered, or given up.
    pub(super) limit: Duration,
    /// Between two attempts of a waiter.
    pub(super) poll: Duration,
}

/// A call to be made.
pub(super) struct Call {
    pub(super) id: u64,
    pub(super) key: Key,
    pub(super) verb: Verb,
    pub(super) limit: Duration,
}

#[derive(Clone, Copy)]
pub(super) enum Verb {
    TryAcquire { ttl: Duration },
    Acquire { ttl: Duration, wait: Duration },
    Release { token: u64 },
    Renew { token: u64, ttl: Duration },
}

/// What a call came to.
pub(super) enum Answer {
    Attempt(Result<Attempt>),
    Done(Result<bool>),
}

/// A grant that was acquired or renewed by a call sent at `sent`.
pub(super) struct Renewed {
    pub(super) session: SessionId,
    pub(super) token: Token,
    pub(super) ttl_ms: u32,
    pub(super) sent: Moment,
}

/// What is to be done once the lock is left, in this order.
#[derive(Default)]
pub(super) struct Out {
    pub(super) renewed: Vec<Renewed>,
    pub(super) events: Vec<Event>,
    pub(super) answers: Vec<(Completion, Result<Outcome>)>,
    pub(super) calls: Vec<Call>,
    /// There is an earlier deadline than before.
    pub(super) nearer: bool,
}

impl Out {
    pub(super) fn answer(&mut self, done: Completion, outcome: Outcome) {
        self.answers.push((done, Ok(outcome)));
    }

    pub(super) fn fail(&mut self, done: Completion, error: Error) {
        self.answers.push((done, Err(error)));
    }
}

/// A grant of this process.
pub(super) struct Held {
    pub(super) session: SessionId,
    pub(super) req: u64,
    /// The token that is shown.
    pub(super) token: Token,
    /// The service's.
    pub(super) service_token: u64,
    pub(super) ttl_ms: u32,
    pub(super) auto: bool,
    /// When the last acknowledged acquisition or renewal was sent.
    pub(super) sent: Moment,
    pub(super) since: Moment,
    /// When the next renewal is due, BOOTTIME ns.
    pub(super) renew_ns: u64,
}

impl Held {
    /// What is left of it by this process's own reckoning, ns.
    pub(super) fn left_ns(&self, now: Moment) -> u64 {
        left_ns(self.ttl_ms, self.sent, now)
    }
}

pub(super) fn left_ns(ttl_ms: u32, sent: Moment, now: Moment) -> u64 {
    holder_ttl(u64::from(ttl_ms) * NS_PER_MS).saturating_sub(sent.elapsed_ns(now))
}

/// Somebody who wants a key.
pub(super) struct Ask {
    pub(super) session: SessionId,
    pub(super) req: u64,
    pub(super) ttl_ms: u32,
    pub(super) auto: bool,
    /// Whether it waits; until when, BOOTTIME ns.
    pub(super) until_ns: Option<u64>,
    pub(super) since: Moment,
    /// Why the last attempt could not be made.
    pub(super) trouble: Option<Error>,
    pub(super) done: Completion,
}

/// A renewal that the holder asked for.
pub(super) struct Asked {
    pub(super) token: Token,
    pub(super) ttl_ms: u32,
    pub(super) done: Completion,
}

/// A key that is held, wanted, or being given back.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) held: Option<Held>,
    /// The call that is under way for it.
    pub(super) busy: Option<u64>,
    /// Grants to be given back, and who is to be told.
    pub(super) releases: VecDeque<(u64, Option<Completion>)>,
    pub(super) renewals: VecDeque<Asked>,
    pub(super) queue: VecDeque<Ask>,
    /// When the head of the queue tries again, BOOTTIME ns.
    pub(super) again_ns: u64,
    /// When it will be looked at by itself.
    pub(super) armed_ns: Option<u64>,
}

impl Entry {
    fn is_empty(&self) -> bool {
        self.held.is_none() && self.busy.is_none() && self.releases.is_empty() && self.renewals.is_empty() && self.queue.is_empty()
    }

    pub(super) fn held_by(&self, session: SessionId, token: Token) -> Option<&Held> {
        self.held.as_ref().filter(|h| h.session == session && h.token == token)
    }
}

pub(super) enum What {
    Acquire {
        session: SessionId,
        req: u64,
        waits: bool,
    },
    /// A grant that came so late that it is renewed before anybody is told of it.
    Confirm {
        session: SessionId,
        req: u64,
        service_token: u64,
    },
    Release {
        done: Option<Completion>,
    },
    Renew {
        token: Token,
        ttl_ms: u32,
        done: Option<Completion>,
    },
}

/// A call under way.
pub(super) struct InFlight {
    pub(super) key: Key,
    pub(super) what: What,
    pub(super) given_up: bool,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Key(Key),
    Call(u64),
}

struct SessionRow {
    name: String,
    ttl_ms: u32,
}

pub(super) struct Desk {
    pub(super) terms: Terms,
    pub(super) rng: Box<dyn Rng>,
    sessions: BTreeMap<u64, SessionRow>,
    pub(super) entries: HashMap<Key, Entry>,
    pub(super) calls: HashMap<u64, InFlight>,
    pub(super) timers: BinaryHeap<Reverse<(u64, Timer)>>,
    /// The highest token seen of each key, of as many keys as [`HIGHEST_MAX`].
    pub(super) highest: HashMap<Key, u64>,
    /// The tokens of the grants that are held.
    pub(super) live: HashSet<u64>,
    next_session: u64,
    pub(super) next_call: u64,
    pub(super) last_token: u64,
    pub(super) closed: bool,
}

/// So many keys are remembered to check that their tokens increase.
pub(super) const HIGHEST_MAX: usize = 1 << 16;

/// Tells one completion when several things are over.
struct Together {
    left: usize,
    count: u64,
    failed: Option<Error>,
    done: Option<(Completion, bool)>,
}

/// Completions for `n` releases that together are one answer: [`Outcome::Closed`], or how many there were.
fn together(n: usize, done: Completion, closing: bool) -> Vec<Completion> {
    let shared = Arc::new(Mutex::new(Together { left: n, count: 0, failed: None, done: Some((done, closing)) }));
    let one = |_| -> Completion {
        let shared = shared.clone();
        Box::new(move |answer| {
            let ended = {
                // Plain counts: whole at every step.
                let mut all = shared.lock().unwrap_or_else(PoisonError::into_inner);
                all.left -= 1;
                match answer {
                    Ok(Outcome::Released { .. }) => all.count += 1,
                    Ok(_) => {}
                    Err(error) => all.failed = Some(error),
                }
                if all.left > 0 {
                    return;
                }
                let count = all.count;
                all.done.take().map(|(done, closing)| (done, closing, count, all.failed.take()))
            };
            match ended {
                Some((done, _, _, Some(error))) => done(Err(error)),
                Some((done, true, ..)) => done(Ok(Outcome::Closed)),
                Some((done, false, count, None)) => done(Ok(Outcome::ReleasedMany { count })),
                None => {}
            }
        })
    };
    (0..n).map(one).collect()
}

impl Desk {
    pub(super) fn new(terms: Terms, rng: Box<dyn Rng>) -> Desk {
        Desk {
            terms,
            rng,
            sessions: BTreeMap::new(),
            entries: HashMap::new(),
            calls: HashMap::new(),
            timers: BinaryHeap::new(),
            highest: HashMap::new(),
            live: HashSet::new(),
            next_session: 1,
            next_call: 1,
            last_token: 0,
            closed: false,
        }
    }

    /// Takes an operation; its answer is in `out` now or later.
    pub(super) fn submit(&mut self, request: &Request, done: Completion, now: Moment, out: &mut Out) {
        if self.closed {
            return out.fail(done, Status::Closed.into());
        }
        let session = request.session;
        let known = self.sessions.contains_key(&session.0);
        match &request.op {
            Op::OpenSession { name, ttl_ms, .. } => self.open(name, *ttl_ms, done, out),
            Op::Tick => out.answer(done, Outcome::Ticked),
            Op::ForceRelease { .. } => out.fail(done, unsupported("force_release")),
            Op::Orch(_) => out.fail(done, unsupported("orchestrator")),
            Op::Revoke { .. } => out.fail(done, unsupported("revoke")),
            Op::Annotate { .. } => out.fail(done, unsupported("annotate")),
            Op::HandOver { .. } => out.fail(done, unsupported("resign_to")),
            Op::TakeOver { .. } => out.fail(done, unsupported("take_over")),
            Op::CloseSession if !known => out.answer(done, Outcome::Closed),
            _ if !known => out.answer(done, Outcome::Refused(Refusal::NoSession)),
            Op::RenewSession => {
                let ttl_ms = self.sessions.get(&session.0).map_or(0, |s| s.ttl_ms);
                out.answer(done, Outcome::Renewed { remaining_ms: u64::from(ttl_ms), clock_ms: 0 });
            }
            Op::CloseSession => self.close_session(session, done, now, out),
            Op::Acquire { key, spec, wait_ms, req } => self.acquire(session, key, spec, *wait_ms, *req, done, now, out),
            Op::AcquireAll { .. } => out.fail(done, unsupported("acquire_all")),
            Op::Promise(_) => out.fail(done, unsupported("promises")),
            Op::Cancel { keys, req } => self.cancel(session, keys, *req, done, now, out),
            Op::Release { key, token } => self.release(session, key, *token, done, now, out),
            Op::ReleaseAll => self.release_all(session, done, false, now, out),
            Op::Renew { key, token, ttl_ms } => self.renew(session, key, Asked { token: *token, ttl_ms: *ttl_ms, done }, now, out),
        }
    }

    fn open(&mut self, name: &str, ttl_ms: u32, done: Completion, out: &mut Out) {
        let max = self.terms.params.max_sessions;
        if self.sessions.len() as u64 >= max {
            return out.answer(done, Outcome::Refused(Refusal::Limit { kind: LimitKind::Sessions, max }));
        }
        let id = self.next_session;
        self.next_session += 1;
        self.sessions.insert(id, SessionRow { name: name.to_owned(), ttl_ms });
        out.answer(done, Outcome::Session { id: SessionId(id), remaining_ms: u64::from(ttl_ms) });
    }

    fn close_session(&mut self, session: SessionId, done: Completion, now: Moment, out: &mut Out) {
        self.sessions.remove(&session.0);
        let asked: Vec<Key> =
            self.entries.iter().filter(|(_, e)| e.queue.iter().any(|a| a.session == session)).map(|(k, _)| k.clone()).collect();
        for key in asked {
            for ask in self.take_asks(&key, |a| a.session == session) {
                out.answer(ask.done, Outcome::WaitEnded(WaitEnd::SessionClosed));
            }
            self.pump(&key, now, out);
        }
        self.release_all(session, done, true, now, out);
    }

    fn release_all(&mut self, session: SessionId, done: Completion, closing: bool, now: Moment, out: &mut Out) {
        let mine = |e: &Entry| e.held.as_ref().is_some_and(|h| h.session == session);
        let keys: Vec<Key> = self.entries.iter().filter(|(_, e)| mine(e)).map(|(k, _)| k.clone()).collect();
        if keys.is_empty() {
            return out.answer(done, if closing { Outcome::Closed } else { Outcome::ReleasedMany { count: 0 } });
        }
        for (key, done) in keys.iter().zip(together(keys.len(), done, closing)) {
            self.give_back(key, Some(done));
            self.pump(key, now, out);
        }
    }

    /// The grant is no longer held here, and the service is told.
    pub(super) fn give_back(&mut self, key: &Key, done: Option<Completion>) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if let Some(held) = entry.held.take() {
            self.live.remove(&held.token.0);
            entry.releases.push_back((held.service_token, done));
            entry.again_ns = 0;
        }
    }

    /// What is wrong with the terms of an acquisition over a service.
    fn refusal(&self, spec: &Spec) -> Option<Error> {
        let missing = match spec.mode {
            Mode::Shared => Some("shared locks"),
            Mode::Permits { .. } => Some("semaphores"),
            Mode::Exclusive if spec.lock_delay_ms > 0 => Some("lock_delay"),
            Mode::Exclusive if spec.reentrant => Some("reentrant"),
            Mode::Exclusive if !spec.metadata.is_empty() => Some("metadata"),
            Mode::Exclusive => None,
        };
        let ttl = Duration::from_millis(u64::from(spec.ttl_ms));
        match missing {
            Some(verb) => Some(unsupported(verb)),
            None if ttl > self.terms.caps.ttl_max => {
                Some(Error::invalid("ttl", format_args!("{ttl:?} is above {:?}, the lock service's longest", self.terms.caps.ttl_max)))
            }
            None => None,
        }
    }

    #[allow(clippy::too_many_arguments)] // The fields of one operation.
    fn acquire(
        &mut self,
        session: SessionId,
        key: &Key,
        spec: &Spec,
        wait_ms: Option<u64>,
        req: u64,
        done: Completion,
        now: Moment,
        out: &mut Out,
    ) {
        if let Some(error) = self.refusal(spec) {
            return out.fail(done, error);
        }
        let (params, used) = (self.terms.params, self.entries.len() as u64);
        if spec.ttl_ms < params.min_ttl_ms || spec.ttl_ms > params.max_ttl_ms {
            return out.answer(done, Outcome::Refused(Refusal::Invalid(Fault::Ttl)));
        }
        if used >= params.max_locks && !self.entries.contains_key(key) {
            return out.answer(done, Outcome::Refused(Refusal::Limit { kind: LimitKind::Locks, max: params.max_locks }));
        }
        let until_ns = wait_ms.filter(|w| *w > 0).map(|w| now.boottime_ns.saturating_add(w.saturating_mul(NS_PER_MS)));
        let entry = self.entries.entry(key.clone()).or_default();
        if until_ns.is_none() {
            if let Some(held) = &entry.held {
                let remaining_ms = held.left_ns(now) / NS_PER_MS;
                return out.answer(done, Outcome::Held(Obstacle { token: held.token, session: held.session, remaining_ms, delay_ms: 0 }));
            }
            if entry.queue.iter().any(|a| a.until_ns.is_some()) {
                return out.answer(done, Outcome::Held(Obstacle::default()));
            }
        } else if entry.queue.len() as u64 >= u64::from(params.max_waiters_per_key) {
            let max = u64::from(params.max_waiters_per_key);
            return out.answer(done, Outcome::Refused(Refusal::Limit { kind: LimitKind::WaitersPerKey, max }));
        }
        let auto = spec.renew == Renew::Session;
        entry.queue.push_back(Ask { session, req, ttl_ms: spec.ttl_ms, auto, until_ns, since: now, trouble: None, done });
        self.pump(key, now, out);
    }

    fn cancel(&mut self, session: SessionId, keys: &[Key], req: u64, done: Completion, now: Moment, out: &mut Out) {
        for key in keys {
            if let Some(ask) = self.take_asks(key, |a| a.session == session && a.req == req).pop() {
                out.answer(ask.done, Outcome::WaitEnded(WaitEnd::Cancelled));
                out.answer(done, Outcome::Cancelled { was_granted: false });
                return self.pump(key, now, out);
            }
            let Some(entry) = self.entries.get(key) else { continue };
            if entry.held.as_ref().is_some_and(|h| h.session == session && h.req == req && req != 0) {
                self.give_back(key, None);
                out.answer(done, Outcome::Cancelled { was_granted: true });
                return self.pump(key, now, out);
            }
        }
        out.answer(done, Outcome::Cancelled { was_granted: false });
    }

    fn release(&mut self, session: SessionId, key: &Key, token: Token, done: Completion, now: Moment, out: &mut Out) {
        match self.entries.get(key).and_then(|e| e.held_by(session, token)) {
            Some(_) => {
                self.give_back(key, Some(done));
                self.pump(key, now, out);
            }
            None => out.answer(done, Outcome::NotHolder { current: self.current(key) }),
        }
    }

    fn current(&self, key: &Key) -> Token {
        self.entries.get(key).and_then(|e| e.held.as_ref()).map_or(Token(0), |h| h.token)
    }

    fn renew(&mut self, session: SessionId, key: &Key, asked: Asked, now: Moment, out: &mut Out) {
        let caps = self.terms.caps;
        let current = self.current(key);
        let Some(entry) = self.entries.get_mut(key).filter(|e| e.held_by(session, asked.token).is_some()) else {
            return out.answer(asked.done, Outcome::NotHolder { current });
        };
        if !caps.renew {
            return out.fail(asked.done, unsupported("renew"));
        }
        if Duration::from_millis(u64::from(asked.ttl_ms)) > caps.ttl_max {
            return out.answer(asked.done, Outcome::Refused(Refusal::Invalid(Fault::Ttl)));
        }
        entry.renewals.push_back(asked);
        self.pump(key, now, out);
    }

    /// Ends everything: whoever waits is told.
    pub(super) fn close(&mut self, out: &mut Out) {
        self.closed = true;
        for (_, entry) in self.entries.drain() {
            let renewals = entry.renewals.into_iter().map(|a| a.done);
            let releases = entry.releases.into_iter().filter_map(|(_, done)| done);
            entry.queue.into_iter().map(|a| a.done).chain(renewals).chain(releases).for_each(|d| out.fail(d, Status::Closed.into()));
        }
        for (_, call) in self.calls.drain() {
            if let What::Release { done: Some(done) } | What::Renew { done: Some(done), .. } = call.what {
                out.fail(done, Status::Closed.into());
            }
        }
        self.timers.clear();
    }

    /// Forgets a key about which nothing is left to know.
    pub(super) fn tidy(&mut self, key: &Key) {
        if self.entries.get(key).is_some_and(Entry::is_empty) {
            self.entries.remove(key);
        }
    }

    pub(super) fn held(&self, key: &Key) -> Option<(&Held, &str)> {
        let held = self.entries.get(key)?.held.as_ref()?;
        Some((held, self.name(held.session)))
    }

    fn name(&self, session: SessionId) -> &str {
        self.sessions.get(&session.0).map_or("", |s| s.name.as_str())
    }

    pub(super) fn waiters(&self, key: &Key, now: Moment) -> Vec<Waiter> {
        let waiter = |a: &Ask| Waiter {
            session: a.session,
            name: self.name(a.session).to_owned(),
            req: a.req,
            mode: Mode::Exclusive,
            waited_ms: a.since.elapsed_ns(now) / NS_PER_MS,
            metadata: Vec::new(),
        };
        self.entries.get(key).map(|e| e.queue.iter().filter(|a| a.until_ns.is_some()).map(waiter).collect()).unwrap_or_default()
    }

    pub(super) fn sessions(&self) -> Vec<SessionInfo> {
        let info = |(id, s): (&u64, &SessionRow)| SessionInfo {
            id: SessionId(*id),
            name: s.name.clone(),
            ttl_ms: s.ttl_ms,
            remaining_ms: u64::from(s.ttl_ms),
        };
        self.sessions.iter().map(info).collect()
    }

    pub(super) fn counts(&self) -> Counts {
        let locks = self.entries.values().map(|e| u64::from(e.held.is_some()) + e.queue.len() as u64).sum();
        Counts {
            sessions: self.sessions.len() as u64,
            keys: self.entries.len() as u64,
            locks,
            last_token: if self.terms.caps.fencing { self.last_token } else { 0 },
            clamped: 0,
        }
    }
}
