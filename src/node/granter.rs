//! The granter's side of an office: who may act, until when, and when a successor may be promoted.
//!
//! A controller that pushes leases to others is a granter while it holds a lock of its own. Each lease is recorded in the ledger
//! before it is sent, on the ledger's clock; so it is as durable, and as replicated, as the ledger is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::answer::unexpected;
use super::core::Core;
use super::options::{LockOptions, ttl_ms};
use super::session::Session;
use crate::base::{Error, Key, NodeId, Result, SessionId, Status, Token};
use crate::ledger::{self, Granting, Op, Outcome, PromiseOp, Promised, Request};

/// A lease to be sent to a holder: what [`super::Gate::heartbeat`] takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The office's epoch.
    pub epoch: u64,
    /// How long the holder may act, counted from when it made the nonce.
    pub ttl: Duration,
    /// The holder's nonce.
    pub nonce: Option<u64>,
    /// Whom to send it to.
    pub holder: String,
    /// From now on, for how long the office cannot be given to another: the ttl and the clocks' margin.
    pub promised: Duration,
}

/// An office as the granter's ledger has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Promise {
    /// The office.
    #[serde(serialize_with = "text")]
    pub office: Key,
    /// Its epoch.
    pub epoch: u64,
    /// Who has it.
    pub holder: String,
    /// For how long that holder may act at most.
    #[serde(rename = "remaining_ms", serialize_with = "ms")]
    pub remaining: Duration,
    /// The holder has said that it stepped down.
    pub settled: bool,
    /// The granter that gave it: the token of its lock.
    #[serde(serialize_with = "number")]
    pub term: Token,
}

fn text<S: serde::Serializer>(key: &Key, s: S) -> std::result::Result<S::Ok, S::Error> {
    s.serialize_str(&String::from_utf8_lossy(key.as_bytes()))
}

fn ms<S: serde::Serializer>(time: &Duration, s: S) -> std::result::Result<S::Ok, S::Error> {
    s.serialize_u64(time.as_millis() as u64)
}

fn number<S: serde::Serializer>(token: &Token, s: S) -> std::result::Result<S::Ok, S::Error> {
    s.serialize_u64(token.0)
}

/// A controller in office: it gives offices to others and keeps them alive. It is one as long as it holds its lock; then every
/// call answers [`Status::Fenced`], and what it had recorded binds its successor. Clones are the same; any thread may use it.
#[derive(Clone)]
pub struct Granter {
    session: Session,
    by: Granting,
    /// Offices and who has them, as last heard: nobody else changes them while this granter is in office.
    known: Arc<Mutex<HashMap<Key, (u64, String)>>>,
}

impl Granter {
    /// Waits for the lock that makes this node the granter.
    pub(super) fn open(session: Session, key: &[u8], ttl: Duration, timeout: Option<Duration>) -> Result<Granter> {
        let options = LockOptions { ttl, ..LockOptions::default() };
        let term = match timeout {
            Some(Duration::ZERO) => session.try_acquire_token(key, &options)?,
            timeout => session.acquire_token(key, &options, timeout)?,
        };
        Ok(Granter { session, by: Granting { key: Key::new(key)?, term }, known: Arc::default() })
    }

    fn core(&self) -> &Arc<Core> {
        &self.session.core
    }

    /// As [`super::Node::poison`], of the node that it belongs to.
    pub fn poison_node(&self, why: &str) {
        self.core().poison(why);
    }

    /// The token of its lock: of two granters the one with the higher term is the later one.
    pub fn term(&self) -> Token {
        self.by.term
    }

    /// Whether it still holds its lock, in its own view.
    pub fn in_office(&self) -> bool {
        self.session.is_held(self.by.key.as_bytes(), self.by.term)
    }

    fn ask(&self, op: PromiseOp) -> Result<Promised> {
        self.core().check()?;
        let session = match self.session.id() {
            SessionId(0) => return Err(self.replaced(Token(0))),
            id => id,
        };
        match self.core().engine.execute(&Request { session, seq: 0, op: Op::Promise(op) })? {
            Outcome::Promise(Promised::NotGranter { current }) => Err(self.replaced(current)),
            Outcome::Promise(promised) => Ok(promised),
            Outcome::Refused(ledger::Refusal::NoSession) => Err(self.replaced(Token(0))),
            other => Err(unexpected(other)),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, (u64, String)>> {
        // Plain insertions and removals: whole at every step.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replaced(&self, current: Token) -> Error {
        let text = format!("this granter, of term {}, does not hold its lock any more", self.by.term);
        Error::new(Status::Fenced, text).with_token(current.0)
    }

    /// Gives `office` to `holder`, under a new epoch, which it returns: `epoch`, or one above the last. The holder is told by its first
    /// [`Granter::heartbeat`]; until then nothing is promised to it.
    ///
    /// # Errors
    /// [`Status::TooEarly`] while the former holder may still act, with the time to wait in [`Error::retry_after_ms`] and the former epoch as
    /// token: by the ledger's clock and the clocks' margin, never early. [`Status::Fenced`] when this granter has lost its lock,
    /// [`Status::InvalidArgument`] for an epoch that is not above the last (which is the error's token), for the office (a lock's name) or the
    /// holder (a node id), [`Status::Limit`], and what every call may answer.
    pub fn promote(&self, office: &[u8], holder: &str, epoch: Option<u64>) -> Result<u64> {
        NodeId::new(holder).map_err(|e| Error::new(e.status(), e.message().replace("node_id", "holder")))?;
        if epoch == Some(0) {
            return Err(Error::invalid("epoch", "0 is none"));
        }
        let op =
            PromiseOp::Promote { by: self.by.clone(), office: Key::new(office)?, holder: holder.to_owned(), epoch: epoch.unwrap_or(0) };
        match self.ask(op)? {
            Promised::Promoted { epoch } => {
                self.known().insert(Key::new(office)?, (epoch, holder.to_owned()));
                Ok(epoch)
            }
            Promised::TooEarly { remaining_ms, epoch } => {
                let text = format!("the holder of epoch {epoch} may act for another {remaining_ms} ms");
                Err(Error::new(Status::TooEarly, text).with_token(epoch).with_retry_after(remaining_ms))
            }
            Promised::Stale { epoch } => {
                Err(Error::invalid("epoch", format_args!("is not above {epoch}, the office's last, and below 2^63")).with_token(epoch))
            }
            other => Err(misfit(other)),
        }
    }

    /// Lets the office's holder act for another `ttl`, and returns what to send to it. `nonce` is one that the holder has made
    /// ([`super::Gate::next_nonce`], or the answer to the last heartbeat): its lease counts from then, so that a message that is late grants
    /// nothing that was not promised here. A message without one is unbounded: see the setting `granter_trust_receipt`.
    ///
    /// # Errors
    /// [`Status::Fenced`] when this granter has lost its lock; [`Status::NotHolder`] when the office was given to nobody, or its holder
    /// has stepped down; [`Status::InvalidArgument`] for the ttl, or for want of a nonce; and what every call may answer.
    pub fn heartbeat(&self, office: &[u8], ttl: Duration, nonce: Option<u64>) -> Result<Order> {
        let core = self.core();
        let ttl_ms = ttl_ms(ttl)?;
        if nonce.is_none() && !core.config.flag("granter_trust_receipt")? {
            return Err(Error::invalid("nonce", "none is given, and the setting granter_trust_receipt is off"));
        }
        let key = Key::new(office)?;
        let known = self.known().get(&key).cloned();
        let (epoch, holder) = match known {
            Some(known) => known,
            None => {
                let promise = self.promise(office)?.ok_or_else(|| Error::new(Status::NotHolder, "the office was given to nobody"))?;
                self.known().insert(key.clone(), (promise.epoch, promise.holder.clone()));
                (promise.epoch, promise.holder)
            }
        };
        match self.ask(PromiseOp::Extend { by: self.by.clone(), office: key, epoch, ttl_ms })? {
            Promised::Extended { remaining_ms } => Ok(Order { epoch, ttl, nonce, holder, promised: Duration::from_millis(remaining_ms) }),
            Promised::Stale { epoch } => Err(Error::new(Status::NotHolder, "the office has another holder, or none").with_token(epoch)),
            other => Err(misfit(other)),
        }
    }

    /// The holder has said that it acts no more in this epoch (its gate was drained): the office can be given to another at once.
    ///
    /// # Errors
    /// [`Status::Fenced`] when this granter has lost its lock; [`Status::NotHolder`], with the office's epoch, for another epoch.
    pub fn acknowledge(&self, office: &[u8], epoch: u64) -> Result<()> {
        match self.ask(PromiseOp::Settle { by: self.by.clone(), office: Key::new(office)?, epoch })? {
            Promised::Settled => Ok(()),
            Promised::Stale { epoch: current } => {
                Err(Error::new(Status::NotHolder, format!("the office is in epoch {current}, not {epoch}")).with_token(current))
            }
            other => Err(misfit(other)),
        }
    }

    /// What is recorded of an office; `None` when it was never given.
    ///
    /// # Errors
    /// What every call may answer.
    pub fn promise(&self, office: &[u8]) -> Result<Option<Promise>> {
        let key = Key::new(office)?;
        Ok(promises(self.core(), office, 1)?.into_iter().find(|p| p.office == key))
    }

    /// Gives the lock back: another granter may take it at once. What was promised stands.
    ///
    /// # Errors
    /// [`Status::NotHolder`] when it was lost before; what every call may answer.
    pub fn resign(&self) -> Result<()> {
        self.session.release(self.by.key.as_bytes(), self.by.term)
    }

    /// As [`Granter::resign`], without waiting and without an answer: for destructors.
    pub fn resign_later(&self) {
        self.session.release_later(self.by.key.as_bytes(), self.by.term);
    }
}

fn misfit(promised: Promised) -> Error {
    unexpected(Outcome::Promise(promised))
}

/// The offices whose names begin with `prefix`, by name, at most `limit` of them.
pub(super) fn promises(core: &Core, prefix: &[u8], limit: usize) -> Result<Vec<Promise>> {
    core.check()?;
    let found = core.engine.promises(prefix, limit)?;
    let promise = |p: ledger::PromiseInfo| Promise {
        office: p.office,
        epoch: p.epoch,
        holder: p.holder,
        remaining: Duration::from_millis(p.remaining_ms),
        settled: p.settled,
        term: p.term,
    };
    Ok(found.into_iter().map(promise).collect())
}
