//! An identity that holds locks: what a host asks of it.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::answer::{Slot, granted, not_holder, several, spec, tracked, unexpected};
use super::core::Core;
use super::delivery::{check_may_block, in_callback};
use super::doubt::in_doubt;
use super::event::LossReason;
use super::grant::Grant;
use super::grants::From;
use super::kept::{Pending, State};
use super::options::{Holder, LockOptions, Renew, ttl_ms};
use crate::base::clock::holder_ttl;
use crate::base::{Error, Key, Moment, Result, SessionId, Status, Token};
use crate::ledger::{self, Op, Outcome, Request};

const NS_PER_MS: u64 = 1_000_000;

/// A request that waits, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpId(pub u64);

/// A session: an identity under which locks are held. Clones are the same session; any thread may use it.
#[derive(Clone)]
pub struct Session {
    pub(super) core: Arc<Core>,
    pub(super) state: Arc<State>,
}

impl Session {
    /// The ledger's number for it; 0 while it is being opened anew after a loss.
    pub fn id(&self) -> SessionId {
        self.state.id()
    }

    /// The name that other callers see as the holder's: the node id, for the node's own session.
    pub fn name(&self) -> &str {
        self.state.name()
    }

    #[inline]
    pub(super) fn check(&self) -> Result<SessionId> {
        self.core.check()?;
        if self.state.closed.load(SeqCst) {
            return Err(Error::new(Status::Closed, "the session has been closed"));
        }
        match self.state.id() {
            SessionId(0) => {
                Err(Error::new(Status::Unavailable, "the session is not open: it is being opened, or has expired and is being opened anew"))
            }
            id => Ok(id),
        }
    }

    /// As `check`, for calls that may wait: a member of a cluster opens its sessions when a majority can be had.
    #[inline]
    pub(super) fn ready(&self) -> Result<SessionId> {
        match self.state.id() {
            SessionId(0) => self.opened(),
            _ => self.check(),
        }
    }

    #[cold]
    fn opened(&self) -> Result<SessionId> {
        if self.core.waits_for_a_majority() && !in_callback() {
            let timeout = Duration::from_millis(self.core.config.number("request_timeout_ms")?);
            self.state.wait_open(&self.core, timeout)?;
        }
        self.check()
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    /// [`Status::Held`] (with the holder's token), [`Status::LockDelay`], [`Status::Limit`], and what every call may answer.
    #[inline]
    pub fn try_acquire_token(&self, key: &[u8], options: &LockOptions) -> Result<Token> {
        let session = self.ready()?;
        let key = Key::new(key)?;
        let tracked = tracked(options)? || self.core.engine.counts_each_grant();
        let asked = self.asked(options);
        let token = if self.core.engine.answers_may_be_lost() {
            let req = self.state.next_req.fetch_add(1, SeqCst);
            let answer = self.core.engine.try_acquire(session, &key, &spec(options), req);
            if answer.as_ref().is_err_and(in_doubt) {
                self.state.give_back(&self.core, vec![key.clone()], req);
            }
            granted(answer?)?
        } else {
            granted(self.core.engine.try_acquire(session, &key, &spec(options), 0)?)?
        };
        if tracked {
            self.track(key, token, options, asked);
        }
        Ok(token)
    }

    /// When a request is sent whose grant may be shorter than what the session's last renewal has to serve anyway; otherwise long ago.
    #[inline]
    fn asked(&self, options: &LockOptions) -> Moment {
        if options.ttl.as_millis() < u128::from(self.state.ttl_ms()) { self.core.now() } else { Moment::default() }
    }

    fn track(&self, key: Key, token: Token, options: &LockOptions, asked: Moment) {
        let ttl_ns = options.ttl.as_nanos() as u64;
        let period = self.state.period_ns();
        let from = match self.core.engine.since(self.id(), &key, token) {
            Some(sent) => From::Own(sent),
            None => From::Session { asked },
        };
        self.state.grants.add(key, token, ttl_ns, from, options.renew == Renew::Auto);
        if self.state.period_ns() < period {
            self.core.wake.raise();
        }
    }

    /// Takes the lock, waiting in its queue for at most `timeout`; `None` waits for as long as it takes.
    ///
    /// # Errors
    /// [`Status::Timeout`], [`Status::WouldDeadlock`] inside a callback, and what [`Session::try_acquire_token`] answers
    /// except `Held` and `LockDelay`, which are waited for.
    pub fn acquire_token(&self, key: &[u8], options: &LockOptions, timeout: Option<Duration>) -> Result<Token> {
        let key = Key::new(key)?;
        let tokens = self.acquire_keys(vec![key], options, timeout)?;
        tokens.first().copied().ok_or_else(|| Status::Internal.into())
    }

    /// Takes all the locks in one step, or none of them; waits for all of them for at most `timeout`.
    /// The tokens are in the order of the keys.
    ///
    /// # Errors
    /// As [`Session::acquire_token`]; [`Status::Held`] for a timeout of zero.
    pub fn acquire_all_tokens(&self, keys: &[&[u8]], options: &LockOptions, timeout: Option<Duration>) -> Result<Vec<Token>> {
        self.acquire_keys(several(keys)?, options, timeout)
    }

    fn acquire_keys(&self, keys: Vec<Key>, options: &LockOptions, timeout: Option<Duration>) -> Result<Vec<Token>> {
        check_may_block()?;
        self.ready()?;
        let slot = Arc::new(Slot::default());
        let set = slot.clone();
        let count = keys.len() as u64;
        let req = self.ask(keys, options, timeout, Box::new(move |result| set.set(result)))?;
        let first = match slot.wait(timeout) {
            Some(result) => result?,
            // The ledger ends the wait by its own clock as well; this bound holds even when the ledger cannot answer.
            None if self.cancel(req) => return Err(Error::new(Status::Timeout, "the lock was not free in time")),
            // Too late to cancel: it has just ended, and the answer is on its way.
            None => slot.wait(None).unwrap_or_else(|| Err(Status::Internal.into()))?,
        };
        Ok((0..count).map(|i| Token(first.0 + i)).collect())
    }

    /// Sends a request for locks; `done` is told the first token, on whatever thread ends it.
    pub(super) fn ask(
        &self,
        keys: Vec<Key>,
        options: &LockOptions,
        timeout: Option<Duration>,
        done: Box<dyn FnOnce(Result<Token>) + Send>,
    ) -> Result<OpId> {
        let session = self.check()?;
        let tracked = tracked(options)? || self.core.engine.counts_each_grant();
        let req = self.state.next_req.fetch_add(1, SeqCst);
        let wait_ms = match timeout {
            None => Some(u64::MAX),
            Some(Duration::ZERO) => None,
            Some(t) => Some(u64::try_from(t.as_millis()).unwrap_or(u64::MAX).max(1)),
        };
        let spec = spec(options);
        let op = match <[Key; 1]>::try_from(keys.clone()) {
            Ok([key]) => Op::Acquire { key, spec, wait_ms, req },
            Err(keys) => Op::AcquireAll { keys, spec, wait_ms, req },
        };
        self.state.pending().insert(req, Pending { keys, cancelled: false });
        let (this, options, asked) = (self.clone(), options.clone(), self.asked(options));
        let ended = Box::new(move |outcome: Result<Outcome>| {
            let pending = this.state.pending().remove(&req);
            let keys = pending.as_ref().map(|p| p.keys.clone()).unwrap_or_default();
            let result = match outcome.and_then(granted) {
                Ok(token) if pending.is_some_and(|p| p.cancelled) => {
                    // The cancellation that is on its way releases it too; whichever comes second does nothing.
                    for (i, key) in keys.iter().enumerate() {
                        this.release_later(key.as_bytes(), Token(token.0 + i as u64));
                    }
                    Err(Status::Cancelled.into())
                }
                Ok(token) => {
                    if tracked {
                        for (i, key) in keys.into_iter().enumerate() {
                            this.track(key, Token(token.0 + i as u64), &options, asked);
                        }
                    }
                    Ok(token)
                }
                Err(error) => {
                    if in_doubt(&error) {
                        this.state.give_back(&this.core, keys, req);
                    }
                    Err(error)
                }
            };
            done(result);
        });
        self.core.engine.submit(&Request { session, seq: 0, op }, ended);
        Ok(OpId(req))
    }

    /// The form of [`Session::acquire_token`] that does not wait: `done` is called exactly once, never inside this call, on the
    /// delivery that the node was opened with. A grant that arrives belongs to whoever `done` gives it to.
    ///
    /// # Errors
    /// Those of the arguments; everything else goes to `done`.
    pub fn submit_acquire(
        &self,
        key: &[u8],
        options: &LockOptions,
        timeout: Option<Duration>,
        done: Box<dyn FnOnce(Result<Token>) + Send>,
    ) -> Result<OpId> {
        self.submit_keys(vec![Key::new(key)?], options, timeout, done)
    }

    /// The form of [`Session::acquire_all_tokens`] that does not wait: `done` as in [`Session::submit_acquire`], told the token of the
    /// first key; the others' follow it one by one.
    ///
    /// # Errors
    /// As [`Session::submit_acquire`].
    pub fn submit_acquire_all(
        &self,
        keys: &[&[u8]],
        options: &LockOptions,
        timeout: Option<Duration>,
        done: Box<dyn FnOnce(Result<Token>) + Send>,
    ) -> Result<OpId> {
        self.submit_keys(several(keys)?, options, timeout, done)
    }

    fn submit_keys(
        &self,
        keys: Vec<Key>,
        options: &LockOptions,
        timeout: Option<Duration>,
        done: Box<dyn FnOnce(Result<Token>) + Send>,
    ) -> Result<OpId> {
        self.core.delivery.start()?;
        let core = self.core.clone();
        self.ask(keys, options, timeout, Box::new(move |result| core.delivery.complete(Box::new(move || done(result)))))
    }

    /// Gives a lock back without waiting for it; `done` as in [`Session::submit_acquire`].
    ///
    /// # Errors
    /// Those of the arguments; everything else goes to `done`.
    pub fn submit_release(&self, key: &[u8], token: Token, done: Box<dyn FnOnce(Result<()>) + Send>) -> Result<()> {
        let session = self.check()?;
        let key = Key::new(key)?;
        self.core.delivery.start()?;
        let this = self.clone();
        let ended = Box::new(move |outcome: Result<Outcome>| {
            let result = outcome.and_then(|o| this.released(token, o));
            this.core.delivery.complete(Box::new(move || done(result)));
        });
        self.core.engine.submit(&Request { session, seq: 0, op: Op::Release { key, token } }, ended);
        Ok(())
    }

    /// Ends a request that may still wait. True: its `done` gets [`Status::Cancelled`], and should it have been granted in the meantime it is
    /// released. False: it has ended already, and its `done` has been or will be told how.
    pub fn cancel(&self, op: OpId) -> bool {
        let keys = match self.state.pending().get_mut(&op.0) {
            Some(pending) => {
                pending.cancelled = true;
                pending.keys.clone()
            }
            None => return false,
        };
        let request = Request { session: self.state.id(), seq: 0, op: Op::Cancel { keys, req: op.0 } };
        self.core.engine.submit(&request, Box::new(|_| {}));
        true
    }

    /// Gives a lock back.
    ///
    /// # Errors
    /// [`Status::NotHolder`] (with the present holder's token) when `token` is not this session's current grant: nothing was done.
    #[inline]
    pub fn release(&self, key: &[u8], token: Token) -> Result<()> {
        let session = self.ready()?;
        let key = Key::new(key)?;
        let outcome = self.core.engine.release(session, &key, token)?;
        self.released(token, outcome)
    }

    #[inline]
    fn released(&self, token: Token, outcome: Outcome) -> Result<()> {
        match outcome {
            Outcome::Released { left } => {
                if left == 0 {
                    self.state.grants.remove(token);
                }
                Ok(())
            }
            Outcome::NotHolder { current } => {
                self.state.grants.remove(token);
                Err(not_holder(current))
            }
            other => Err(unexpected(other)),
        }
    }

    /// Gives an exclusive lock, however often it is held, to a session named `to` that waits for it, past those who came before. False,
    /// and nothing done, when there is none.
    ///
    /// # Errors
    /// As [`Session::release`]; [`Status::InvalidArgument`] for a lock that is not exclusive.
    pub fn hand_over(&self, key: &[u8], token: Token, to: &str) -> Result<bool> {
        let session = self.ready()?;
        let op = Op::HandOver { key: Key::new(key)?, token, to: to.to_owned() };
        match self.core.engine.execute(&Request { session, seq: 0, op })? {
            Outcome::NoSuccessor => Ok(false),
            outcome => self.released(token, outcome).map(|()| true),
        }
    }

    /// Gives a lock back without waiting and without an answer: for destructors. It never blocks and never fails; should the
    /// release be lost with a leader or a majority, it is made again until it is answered, or the session ends.
    pub fn release_later(&self, key: &[u8], token: Token) {
        self.state.grants.remove(token);
        if let (Ok(session), Ok(key)) = (self.check(), Key::new(key)) {
            let seq = if self.core.engine.takes_numbers() { self.state.next_seq.fetch_add(1, SeqCst) } else { 0 };
            self.state.release_surely(&self.core, Request { session, seq, op: Op::Release { key, token } });
        }
    }

    /// Extends a grant by `ttl` from now and returns what is left of it in the holder's view.
    /// For a grant that the node renews it confirms that it is still held.
    ///
    /// # Errors
    /// [`Status::NotHolder`] when the grant is gone.
    pub fn renew(&self, key: &[u8], token: Token, ttl: Duration) -> Result<Duration> {
        let session = self.check()?;
        let (key, ttl_ms) = (Key::new(key)?, ttl_ms(ttl)?);
        let sent = Moment::now(&*self.core.clock);
        match self.core.engine.execute(&Request { session, seq: 0, op: Op::Renew { key, token, ttl_ms } })? {
            Outcome::Renewed { remaining_ms, .. } => {
                let ttl_ns = ttl.as_nanos() as u64;
                let spent = sent.elapsed_ns(Moment::now(&*self.core.clock));
                let own = holder_ttl(ttl_ns.min(remaining_ms.saturating_mul(NS_PER_MS))).saturating_sub(spent);
                Ok(Duration::from_nanos(own))
            }
            Outcome::NotHolder { current } => {
                self.state.grants.remove(token);
                Err(not_holder(current))
            }
            other => Err(unexpected(other)),
        }
    }

    /// Gives back every lock of the session; returns how many. Waiting requests go on.
    ///
    /// # Errors
    /// What every call may answer.
    pub fn release_all(&self) -> Result<u64> {
        let session = self.check()?;
        match self.core.engine.execute(&Request { session, seq: 0, op: Op::ReleaseAll })? {
            Outcome::ReleasedMany { count } => {
                self.state.grants.take_all();
                Ok(count)
            }
            other => Err(unexpected(other)),
        }
    }

    /// Takes a lock away from whoever holds it, for operators; nobody gets it for `delay`. False when nobody held it.
    ///
    /// # Errors
    /// What every call may answer.
    pub fn force_release(&self, key: &[u8], delay: Duration) -> Result<bool> {
        self.ready()?;
        let delay_ms = u32::try_from(delay.as_millis()).map_err(|_| Error::invalid("delay", "too long"))?;
        let op = Op::ForceRelease { key: Key::new(key)?, token: None, delay_ms: Some(delay_ms) };
        match self.core.engine.execute(&Request { session: SessionId(0), seq: 0, op })? {
            Outcome::ReleasedMany { count } => Ok(count > 0),
            other => Err(unexpected(other)),
        }
    }

    /// Who holds the lock: its first holder, by token. Linearizable.
    ///
    /// # Errors
    /// What every call may answer.
    pub fn holder(&self, key: &[u8]) -> Result<Option<Holder>> {
        self.core.check()?;
        let info = self.core.engine.lock(&Key::new(key)?)?;
        Ok(info.and_then(|i| super::options::holders(i).into_iter().next()))
    }

    /// What is left of a grant in the holder's own view: zero when it is lost, or when that cannot be learnt.
    ///
    /// A grant that the node renews is judged without asking anybody, also when it is lost. One that the caller renews by itself is judged by
    /// the ledger, less the holder's margin and the time that the answer took: in a cluster that is a read, which waits for as long as one may.
    pub fn remaining(&self, key: &[u8], token: Token) -> Duration {
        if self.check().is_err() {
            return Duration::ZERO;
        }
        if let Some(ns) = self.state.grants.remaining_ns(token, Moment::now(&*self.core.clock)) {
            return Duration::from_nanos(ns);
        }
        if self.core.engine.counts_each_grant() || self.state.loss(token).is_some() {
            return Duration::ZERO;
        }
        let sent = Moment::now(&*self.core.clock);
        let Ok(Some(info)) = Key::new(key).and_then(|k| self.core.engine.lock(&k)) else { return Duration::ZERO };
        let mine = info.holders.iter().find(|h| h.token == token && h.session == self.id());
        let left = Duration::from_millis(mine.map_or(0, |h| holder_ttl(h.remaining_ms)));
        left.saturating_sub(Duration::from_nanos(sent.elapsed_ns(Moment::now(&*self.core.clock))))
    }

    /// Whether a grant that the node renews is held, in the holder's own view and nobody else's: asks nobody, also when it is lost.
    pub(crate) fn believes(&self, token: Token) -> bool {
        self.check().is_ok() && self.state.grants.remaining_ns(token, Moment::now(&*self.core.clock)).is_some_and(|left| left > 0)
    }

    /// Whether the grant is held, in the holder's own view.
    pub fn is_held(&self, key: &[u8], token: Token) -> bool {
        !self.remaining(key, token).is_zero()
    }

    /// Takes the lock if it is free; `None` when it is not.
    ///
    /// # Errors
    /// As [`Session::try_acquire_token`] except `Held` and `LockDelay`.
    pub fn try_acquire(&self, key: &[u8], options: &LockOptions) -> Result<Option<Grant>> {
        match self.try_acquire_token(key, options) {
            Ok(token) => Ok(Some(Grant::new(self.clone(), Key::new(key)?, token))),
            Err(e) if matches!(e.status(), Status::Held | Status::LockDelay) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Takes the lock, waiting for at most `timeout`.
    ///
    /// # Errors
    /// As [`Session::acquire_token`].
    pub fn acquire(&self, key: &[u8], options: &LockOptions, timeout: Option<Duration>) -> Result<Grant> {
        let token = self.acquire_token(key, options, timeout)?;
        Ok(Grant::new(self.clone(), Key::new(key)?, token))
    }

    /// As [`Session::close`], without waiting and without an answer: for destructors.
    pub fn close_later(&self) {
        if self.core.check().is_ok() && !self.state.closed.load(SeqCst) {
            self.state.end(&self.core, Box::new(|| {}));
        }
    }

    /// As [`super::Node::poison`], of the node that this session belongs to.
    pub fn poison_node(&self, why: &str) {
        self.core.poison(why);
    }

    /// Ends the session: its locks are released, its waits end. Closing twice is no error.
    ///
    /// # Errors
    /// What every call may answer; the session is closed all the same, and the ledger ends it when its ttl has run out.
    pub fn close(&self) -> Result<()> {
        self.core.check()?;
        if self.state.closed.swap(true, SeqCst) {
            return Ok(());
        }
        let id = self.state.id();
        self.core.forget_session(&self.state);
        self.state.lose_all(&self.core, LossReason::Closed);
        if id.0 == 0 {
            return Ok(());
        }
        match self.core.engine.execute(&Request { session: id, seq: 0, op: Op::CloseSession })? {
            Outcome::Closed | Outcome::Refused(ledger::Refusal::NoSession) => Ok(()),
            other => Err(unexpected(other)),
        }
    }
}
