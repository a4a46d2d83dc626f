//! How operations get to a member and their answers back: which member is asked, in what portions, and what is asked again elsewhere.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::link::{Done, Listener};
use super::targets::Targets;
use super::wire::{self, Answer, Ask, CALL, MemberInfo, Query, Told, View};
use crate::base::{Error, Result, SessionId, Status};
use crate::ledger::{Outcome, Request};
use crate::net::{self, Class, Connection, Net, Party};

/// Operations in one message.
const BATCH_OPS: usize = 1024;
/// About how many bytes of operations in one message.
const BATCH_BYTES: usize = 256 << 10;
/// Messages under way at once: while they are, what comes gathers for the next.
pub(super) const UNDER_WAY: usize = 4;
/// Between two attempts.
pub(super) const PAUSE: Duration = Duration::from_millis(20);
/// The shortest attempt.
const ATTEMPT_MIN: Duration = Duration::from_millis(200);

/// An operation on its way.
pub(super) struct Pending {
    pub request: Request,
    pub deadline: Instant,
    pub done: Done,
}

impl Pending {
    fn tell(self, result: Result<Outcome>) {
        (self.done)(self.request, result);
    }
}

#[derive(Default)]
pub(super) struct Queue {
    pub waiting: VecDeque<Pending>,
    pub under_way: usize,
    /// By session, the number of its last operation.
    pub numbers: HashMap<SessionId, u64>,
    pub ended: Option<Error>,
}

impl Queue {
    /// What must not be done twice gets a number, by which a session knows it again. In the order in which it is sent.
    pub fn number(&mut self, request: &mut Request) {
        if request.session.0 != 0 && !request.may_repeat() {
            let last = self.numbers.entry(request.session).or_default();
            *last += 1;
            request.seq = *last;
        }
    }
}

/// What the thread of a link and its users share.
pub(super) struct Shared {
    pub timeout: Duration,
    pub listener: Arc<dyn Listener>,
    pub queue: Mutex<Queue>,
    pub stirred: Notify,
    pub targets: Mutex<Targets>,
    pub net: OnceLock<Net>,
    /// Number of the connection whose news count; 0 for none.
    pub attached: AtomicU64,
    pub attaching: tokio::sync::Mutex<()>,
    pub slots: Arc<Semaphore>,
    /// The term and the members, as they were told last.
    pub members: Mutex<(u64, Vec<MemberInfo>)>,
}

pub(super) fn now() -> Instant {
    Instant::now()
}

pub(super) fn unavailable(why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Status::Unavailable, why)
}

pub(super) fn name_of(connection: &Connection) -> String {
    match &connection.remote().hello.party {
        Party::Node(name) | Party::Client(name) => name.clone(),
    }
}

impl Shared {
    pub fn queue(&self) -> MutexGuard<'_, Queue> {
        // No callback runs under this lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn targets(&self) -> MutexGuard<'_, Targets> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<Pending> {
        let mut queue = self.queue();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(next) = queue.waiting.front() {
            bytes += next.request.weight();
            if !batch.is_empty() && (batch.len() >= BATCH_OPS || bytes > BATCH_BYTES) {
                break;
            }
            batch.extend(queue.waiting.pop_front());
        }
        queue.under_way += batch.len();
        batch
    }

    /// An attempt is given up in time for others.
    fn attempt(&self, deadline: Instant) -> Duration {
        let left = deadline.saturating_duration_since(now());
        (self.timeout / 3).max(ATTEMPT_MIN).min(left).max(Duration::from_millis(1))
    }

    /// The connection in use, and which target it is of. Its member knows which sessions it is to tell about.
    pub async fn connection(self: &Arc<Shared>, limit: Duration) -> std::result::Result<(usize, Connection), (usize, Error)> {
        let Some(net) = self.net.get() else { return Err((0, unavailable("the client is starting"))) };
        let (index, peer) = self.targets().current(net);
        let connection = peer.connection(Class::Client, limit).await.map_err(|e| (index, e))?;
        if self.attached.load(SeqCst) != connection.number() {
            self.attach(&connection, limit).await.map_err(|e| (index, e))?;
        }
        Ok((index, connection))
    }

    async fn attach(self: &Arc<Shared>, connection: &Connection, limit: Duration) -> Result<()> {
        let _one = self.attaching.lock().await;
        if self.attached.load(SeqCst) == connection.number() {
            return Ok(());
        }
        // Before the question, so that no news that follow it are missed.
        self.attached.store(connection.number(), SeqCst);
        let ask = Ask::Attach { sessions: self.listener.sessions() };
        if let Err(error) = self.ask(connection, &ask, limit).await {
            self.attached.store(0, SeqCst);
            return Err(error);
        }
        self.listener.reconnected();
        self.learn(connection.clone());
        Ok(())
    }

    /// Asks who the members are, beside everything else.
    fn learn(self: &Arc<Shared>, connection: Connection) {
        let shared = self.clone();
        drop(tokio::spawn(async move {
            let answer = shared.ask(&connection, &Ask::Look(Query::Members), shared.timeout).await;
            if let Ok(Answer { view: Some(View::Members(term, members)), .. }) = answer {
                shared.targets().learn(members.iter().map(|m| m.address.clone()));
                *shared.members.lock().unwrap_or_else(PoisonError::into_inner) = (term, members);
            }
        }));
    }

    async fn ask(&self, connection: &Connection, ask: &Ask, limit: Duration) -> Result<Answer> {
        let bytes = connection.call(net::Ask::new(CALL, limit), &wire::encode_ask(ask)?).await?;
        wire::decode_answer(&bytes)
    }

    /// The member at the leader's address is asked from now on, once there is a connection to it. `leader` is what `from` answered.
    fn prefer(self: &Arc<Shared>, leader: Option<String>, from: &Connection) {
        let Some(net) = self.net.get() else { return };
        let name = name_of(from);
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let known = members.1.iter().any(|m| m.leader && leader.as_ref().map_or(m.name == name, |address| m.address == *address));
        drop(members);
        if !known {
            self.learn(from.clone());
        }
        if let Some(leader) = leader {
            self.targets().prefer(net, leader);
        }
    }

    /// Sends operations until they are answered, or their time is over.
    async fn deliver(self: Arc<Shared>, mut batch: Vec<Pending>) {
        let mut last = unavailable("no member was reached");
        loop {
            batch = self.fail_late(batch, &last);
            let Some(deadline) = batch.iter().map(|p| p.deadline).max() else { return };
            let limit = self.attempt(deadline);
            let index = match self.connection(limit).await {
                Err((index, error)) => {
                    last = error;
                    index
                }
                Ok((index, connection)) => {
                    let ops = batch.iter().map(|p| p.request.clone()).collect();
                    let ask = Ask::Run { ops, timeout_ms: limit.as_millis() as u64 };
                    match self.ask(&connection, &ask, limit).await {
                        Ok(answer) => match self.settle(batch, answer, &connection) {
                            (left, _) if left.is_empty() => return,
                            (left, error) => (batch, last) = (left, error),
                        },
                        Err(error) => {
                            // It may have been done all the same.
                            let (again, over): (Vec<_>, Vec<_>) = batch.into_iter().partition(|p| p.request.may_repeat());
                            self.answer_all(over, &unavailable(format!("{}; whether it was done is not known", error.message())));
                            (batch, last) = (again, error);
                        }
                    }
                    index
                }
            };
            self.targets().leave(index);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Tells what was answered; what may be asked again elsewhere is left, with the reason.
    fn settle(self: &Arc<Shared>, batch: Vec<Pending>, answer: Answer, from: &Connection) -> (Vec<Pending>, Error) {
        let mut last = Error::new(Status::Internal, "a member answered less than it was asked");
        if answer.told.len() != batch.len() {
            self.answer_all(batch, &last);
            return (Vec::new(), last);
        }
        let (mut left, mut answered) = (Vec::new(), Vec::with_capacity(batch.len()));
        for (pending, told) in batch.into_iter().zip(answer.told) {
            match told {
                Told::Outcome(Outcome::Refused(crate::ledger::Refusal::Forgotten)) => {
                    let why = "it was asked again too late: whether it was done is not known";
                    answered.push((pending, Err(unavailable(why))));
                }
                Told::Outcome(outcome) => answered.push((pending, Ok(outcome))),
                Told::Failed(failure) => {
                    let error = Error::from(failure);
                    if error.status() == Status::Unavailable && pending.request.may_repeat() {
                        last = error;
                        left.push(pending);
                    } else {
                        answered.push((pending, Err(error)));
                    }
                }
            }
        }
        self.queue().under_way -= answered.len();
        answered.into_iter().for_each(|(pending, result)| pending.tell(result));
        if left.is_empty() {
            self.prefer(answer.leader, from);
        }
        (left, last)
    }

    fn fail_late(&self, batch: Vec<Pending>, last: &Error) -> Vec<Pending> {
        let now = now();
        let (late, left): (Vec<_>, Vec<_>) = batch.into_iter().partition(|p| p.deadline <= now);
        if !late.is_empty() {
            let why = format!("the cluster did not answer in time ({}); whether it was done is not known", last.message());
            self.answer_all(late, &unavailable(why));
        }
        left
    }

    fn answer_all(&self, batch: Vec<Pending>, error: &Error) {
        self.queue().under_way -= batch.len();
        batch.into_iter().for_each(|p| p.tell(Err(error.clone())));
    }

    /// Asks members until one answers, or the time is over.
    pub async fn ask_any(self: Arc<Shared>, ask: Ask) -> Result<Answer> {
        let deadline = now() + self.timeout;
        loop {
            let limit = self.attempt(deadline);
            let (index, error) = match self.connection(limit).await {
                Err(failed) => failed,
                Ok((index, connection)) => match self.ask(&connection, &ask, limit).await {
                    Err(error) if error.status() == Status::Unavailable => (index, error),
                    answer => return answer,
                },
            };
            if now() >= deadline {
                return Err(unavailable(format!("the cluster did not answer in time ({})", error.message())));
            }
            self.targets().leave(index);
            tokio::time::sleep(PAUSE).await;
        }
    }

    pub async fn look(self: Arc<Shared>, query: Query) -> Result<View> {
        let nothing = || Error::new(Status::Internal, "a member answered a look with nothing to see");
        self.ask_any(Ask::Look(query)).await?.view.ok_or_else(nothing)
    }

    pub async fn pump(self: Arc<Shared>) {
        loop {
            loop {
                let Ok(slot) = self.slots.clone().acquire_owned().await else { return };
                let batch = self.take();
                if batch.is_empty() {
                    break;
                }
                let shared = self.clone();
                drop(tokio::spawn(async move {
                    shared.deliver(batch).await;
                    drop(slot);
                }));
            }
            self.stirred.notified().await;
        }
    }

    pub fn end(&self, why: &Error) {
        let mut queue = self.queue();
        queue.ended.get_or_insert_with(|| why.clone());
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        waiting.into_iter().for_each(|p| p.tell(Err(why.clone())));
    }
}
