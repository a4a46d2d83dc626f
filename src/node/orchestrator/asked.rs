//! What the ledger has been asked and has not answered: answers come on whatever thread ends them, and ring the bell.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::drive::KEY;
use super::{Shared, lock};
use crate::base::{Key, Result, SessionId, Status, Token};
use crate::ledger::orch::{OrchAnswer, OrchOp};
use crate::ledger::{Op, Outcome, Request};
use crate::node::answer::unexpected;
use crate::node::options::LockOptions;
use crate::node::session::Session;

/// Calls back once, also when whoever should have answered has gone without a word.
struct Once<F: FnOnce(Result<OrchAnswer>)>(Option<F>);

impl<F: FnOnce(Result<OrchAnswer>)> Once<F> {
    fn tell(&mut self, answer: Result<OrchAnswer>) {
        if let Some(done) = self.0.take() {
            done(answer);
        }
    }
}

impl<F: FnOnce(Result<OrchAnswer>)> Drop for Once<F> {
    fn drop(&mut self) {
        self.tell(Err(Status::Closed.into()));
    }
}

/// Proposals that were made at once.
pub(super) struct Batch {
    pub(super) ops: Vec<OrchOp>,
    asked_ms: u64,
    answers: Arc<Mutex<Answers>>,
}

struct Answers {
    all: Vec<Option<Result<OrchAnswer>>>,
    missing: usize,
    /// When the last of them came.
    ended_ms: u64,
}

impl Batch {
    /// The answers in the order of the proposals, and how long the last of them took, ms; `None` until all have come.
    pub(super) fn take(&self) -> Option<(Vec<Result<OrchAnswer>>, u64)> {
        let mut answers = lock(&self.answers);
        if answers.missing > 0 {
            return None;
        }
        let took_ms = answers.ended_ms.saturating_sub(self.asked_ms);
        Some((std::mem::take(&mut answers.all).into_iter().flatten().collect(), took_ms))
    }
}

/// That this node gives out work from now on, if nobody else does. A grant that nobody takes from here is given back.
pub(super) struct Wish {
    session: Session,
    answer: Mutex<Option<Result<Token>>>,
}

impl Wish {
    /// The answer, once it has come.
    pub(super) fn take(&self) -> Option<Result<Token>> {
        lock(&self.answer).take()
    }
}

impl Drop for Wish {
    fn drop(&mut self) {
        if let Some(Ok(token)) = self.take() {
            self.session.release_later(KEY, token);
        }
    }
}

impl Shared {
    /// Asks the ledger, as a session or as nobody; `done` is told the answer once, on whatever thread that comes on, or at once. Nobody is told any
    /// more when the orchestrator is gone.
    pub(super) fn ask_ledger(
        self: &Arc<Self>,
        session: SessionId,
        op: OrchOp,
        done: impl FnOnce(&Arc<Shared>, Result<OrchAnswer>) + Send + 'static,
    ) {
        let weak: Weak<Shared> = Arc::downgrade(self);
        let mut once = Once(Some(move |answer| {
            if let Some(shared) = weak.upgrade() {
                done(&shared, answer);
            }
        }));
        let told = move |answer: Result<Outcome>| {
            once.tell(answer.and_then(|outcome| match outcome {
                Outcome::Orch(answer) => Ok(answer),
                other => Err(unexpected(other)),
            }));
        };
        self.engine().submit(&Request { session, seq: 0, op: Op::Orch(op) }, Box::new(told));
    }

    /// Proposes all of them at once.
    pub(super) fn propose(self: &Arc<Self>, ops: Vec<OrchOp>) -> Batch {
        let none = Answers { all: ops.iter().map(|_| None).collect(), missing: ops.len(), ended_ms: 0 };
        let (asked_ms, answers) = (self.local_ms(), Arc::new(Mutex::new(none)));
        for (at, op) in ops.iter().enumerate() {
            let answers = answers.clone();
            self.ask_ledger(SessionId(0), op.clone(), move |shared, answer| {
                let mut answers = lock(&answers);
                answers.all[at] = Some(answer);
                answers.missing -= 1;
                if answers.missing == 0 {
                    answers.ended_ms = shared.local_ms();
                    shared.wake.raise();
                }
            });
        }
        Batch { ops, asked_ms, answers }
    }

    /// Asks for the lock of whoever gives out work, without waiting for it; `None` while there is no session to ask for.
    pub(super) fn wish(self: &Arc<Self>) -> Option<Arc<Wish>> {
        let wish = Arc::new(Wish { session: self.session.clone(), answer: Mutex::default() });
        let (told, wake) = (wish.clone(), self.wake.clone());
        let options = LockOptions { ttl: self.session.state.ttl(), ..LockOptions::default() };
        let key = Key::new(KEY).ok()?;
        let done = Box::new(move |answer| {
            *lock(&told.answer) = Some(answer);
            wake.raise();
        });
        self.session.ask(vec![key], &options, Some(Duration::ZERO), done).ok()?;
        Some(wish)
    }
}
