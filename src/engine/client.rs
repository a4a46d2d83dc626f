//! The engine of a process that is no member: operations go to the cluster, and what happens to its sessions comes back.
//!
//! Waits are kept here. When the connection changes, what was not told meanwhile is made good: waits are asked for again under their
//! old numbers, and what the sessions hold is compared with what they are believed to hold.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak, mpsc};
use std::time::Duration;

use super::delivery::Delivery;
use super::raft::waits;
use super::{Completion, EventSink, Local, NumberedCompletion, OpId, Watch};
use crate::base::{Error, Key, Result, SessionId, Status, Token};
use crate::client::{Ask, Link, LinkStatus, Listener, MemberInfo, News, Options, Order, Query, View};
use crate::ledger::{
    Change, Counts, Event, Held, LockInfo, LossReason, Op, Outcome, Pattern, PromiseInfo, Request, SessionInfo, Spec, WatchStart, orch,
};

/// After this it is looked whether what was released is free.
const SETTLE: Duration = Duration::from_secs(1);
/// Locks in one answer.
const PAGE: usize = 64;

#[derive(Default)]
struct Kept {
    /// By session, what it is believed to hold.
    sessions: HashMap<SessionId, HashMap<Token, Key>>,
    /// Requests that wait in the cluster, as they were sent.
    waits: HashMap<OpId, Request>,
    /// Grants whose release was answered, perhaps before it was durable.
    released: Vec<(SessionId, Token, Key)>,
    /// Whether somebody will look at them.
    will_look: bool,
    /// Beginnings of watches of which the last part has not come.
    begins: HashMap<Pattern, Vec<Change>>,
    /// Number of the last change: a member's own numbers mean nothing to the next member.
    revision: u64,
}

impl Kept {
    fn number(&mut self, mut change: Change) -> Change {
        self.revision += 1;
        change.revision = self.revision;
        change
    }

    fn granted(&mut self, request: &Request, first: Token) {
        let Some(held) = self.sessions.get_mut(&request.session) else { return };
        match &request.op {
            Op::Acquire { key, .. } => drop(held.insert(first, key.clone())),
            Op::AcquireAll { keys, .. } => held.extend((0..).zip(keys).map(|(i, key)| (Token(first.0 + i), key.clone()))),
            _ => {}
        }
    }

    /// Takes note of an operation that was answered.
    fn note(&mut self, request: &Request, outcome: &Outcome) {
        match (outcome, &request.op) {
            (Outcome::Session { id, .. }, _) => drop(self.sessions.entry(*id).or_default()),
            (Outcome::Granted { token, .. }, _) => self.granted(request, *token),
            (Outcome::Released { left: 0 } | Outcome::NotHolder { .. }, Op::Release { token, key }) => {
                if let Some(held) = self.sessions.get_mut(&request.session) {
                    held.remove(token);
                }
                if matches!(outcome, Outcome::Released { .. }) {
                    self.released.push((request.session, *token, key.clone()));
                }
            }
            (Outcome::ReleasedMany { .. }, Op::ReleaseAll) => {
                if let Some(held) = self.sessions.get_mut(&request.session) {
                    held.clear();
                }
            }
            (Outcome::Closed, _) => drop(self.sessions.remove(&request.session)),
            _ => {}
        }
    }
}

struct Front {
    delivery: Delivery,
    kept: Mutex<Kept>,
    link: OnceLock<Weak<Link>>,
}

impl Front {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Plain insertions and removals: whole at every step.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, op: OpId, answer: Result<Outcome>) {
        self.kept().waits.remove(&op);
        self.delivery.answer(op, answer);
        self.delivery.deliver();
    }

    /// How the asking for a wait was answered.
    fn asked(&self, op: OpId, request: Request, answer: Result<Outcome>) {
        match answer {
            // Its end may have been told before it.
            Ok(Outcome::Queued { .. }) if self.delivery.is_parked(op) => drop(self.kept().waits.insert(op, request)),
            Ok(Outcome::Queued { .. }) => {}
            answer => {
                if let Ok(outcome) = &answer
                    && self.delivery.is_parked(op)
                {
                    self.kept().note(&request, outcome);
                }
                self.answer(op, answer);
            }
        }
    }

    /// Looks, a while after releases were answered, whether the locks are free: the leader that answered may have failed before a
    /// majority had them. What is still held is released again.
    fn look_later(self: &Arc<Front>) {
        let Some(link) = self.link.get().and_then(Weak::upgrade) else { return };
        let mut kept = self.kept();
        if kept.released.is_empty() || std::mem::replace(&mut kept.will_look, true) {
            return;
        }
        drop(kept);
        let front = self.clone();
        link.after(SETTLE, move || front.look());
    }

    fn look(self: &Arc<Front>) {
        let Some(link) = self.link.get().and_then(Weak::upgrade) else { return };
        let released = std::mem::take(&mut self.kept().released);
        let mut sessions: Vec<SessionId> = released.iter().map(|(session, ..)| *session).collect();
        sessions.sort_unstable();
        sessions.dedup();
        let front = self.clone();
        link.look_later(Query::Held(sessions), move |view| {
            let mut left = released;
            if let Ok(View::Held(held)) = view {
                let held: HashSet<(SessionId, Token)> = held.into_iter().map(|(session, held)| (session, held.token)).collect();
                left.retain(|(session, token, _)| held.contains(&(*session, *token)));
                for (session, token, key) in &left {
                    let again = Request { session: *session, seq: 0, op: Op::Release { key: key.clone(), token: *token } };
                    if let Some(link) = front.link.get().and_then(Weak::upgrade) {
                        link.submit(again, Box::new(|_, _| {}));
                    }
                }
            }
            let mut kept = front.kept();
            kept.released.append(&mut left);
            kept.will_look = false;
            drop(kept);
            front.look_later();
        });
    }

    /// What is believed to be held and is not, is lost.
    fn compare(&self, believed: Vec<(SessionId, Token, Key)>, view: Result<View>) {
        let Ok(View::Held(held)) = view else { return };
        let mut lost = Vec::new();
        let mut kept = self.kept();
        for (session, token, key) in believed {
            let still = kept.sessions.get_mut(&session);
            if !held.iter().any(|(s, h)| (*s, h.token) == (session, token)) && still.is_some_and(|held| held.remove(&token).is_some()) {
                lost.push(Event::Lost { session, key, token, why: LossReason::Forced });
            }
        }
        drop(kept);
        self.delivery.post(lost);
        self.delivery.deliver();
    }
}

impl Front {
    /// Called by one thread only, so that what comes first is passed on first; without a lock, since whoever watches is called.
    fn watch_told(&self, news: News) {
        let watches = self.delivery.watches();
        let mut kept = self.kept();
        let (pattern, wanted) = match news {
            News::WatchBegins(pattern, part, last) => {
                kept.begins.entry(pattern.clone()).or_default().extend(part);
                if !last {
                    return;
                }
                let changes = kept.begins.remove(&pattern).unwrap_or_default();
                let changes: Vec<Change> = changes.into_iter().map(|change| kept.number(change)).collect();
                let start = WatchStart { floor: kept.revision, changes };
                drop(kept);
                let wanted = watches.begin_only(&pattern, &start);
                (pattern, wanted)
            }
            News::WatchTells(pattern, part) => {
                let changes: Vec<Change> = part.into_iter().map(|change| kept.number(change)).collect();
                drop(kept);
                let wanted = changes.iter().all(|change| watches.feed_only(&pattern, change));
                (pattern, wanted)
            }
            _ => return,
        };
        if !wanted && let Some(link) = self.link.get().and_then(Weak::upgrade) {
            link.ask_later(Ask::Unwatch(pattern), |_| {});
        }
    }

    /// The member that is asked now is told what is watched here.
    fn watch_again(&self, link: &Link) {
        self.kept().begins.clear();
        for pattern in self.delivery.watches().patterns() {
            link.ask_later(Ask::Watch(pattern), |_| {});
        }
    }
}

impl Listener for Arc<Front> {
    fn sessions(&self) -> Vec<SessionId> {
        self.kept().sessions.keys().copied().collect()
    }

    fn news(&self, news: Vec<News>) {
        let mut events = Vec::with_capacity(news.len());
        let mut kept = self.kept();
        for news in news {
            match &news {
                News::Granted(session, req, token, _) => {
                    if let Some(request) = kept.waits.remove(&OpId { session: *session, req: *req }) {
                        kept.granted(&request, *token);
                    }
                }
                News::WaitEnded(session, req, _) => drop(kept.waits.remove(&OpId { session: *session, req: *req })),
                News::Lost(session, _, token, _) => {
                    if let Some(held) = kept.sessions.get_mut(session) {
                        held.remove(token);
                    }
                }
                News::RevokeRequested(..) => {}
                News::WatchBegins(..) | News::WatchTells(..) => {
                    drop(kept);
                    self.watch_told(news);
                    kept = self.kept();
                    continue;
                }
                News::SessionEnded(session, _) => {
                    kept.sessions.remove(session);
                    if let Some(link) = self.link.get().and_then(Weak::upgrade) {
                        link.forget(*session);
                    }
                }
            }
            events.extend(news.into_event());
        }
        drop(kept);
        self.delivery.post(events);
        self.delivery.deliver();
    }

    fn reconnected(&self) {
        let Some(link) = self.link.get().and_then(Weak::upgrade) else { return };
        self.watch_again(&link);
        let kept = self.kept();
        let asked: Vec<(OpId, Request)> = kept.waits.iter().map(|(op, request)| (*op, request.clone())).collect();
        let held = kept.sessions.iter().flat_map(|(s, held)| held.iter().map(|(t, k)| (*s, *t, k.clone())));
        let believed: Vec<(SessionId, Token, Key)> = held.collect();
        drop(kept);
        for (op, request) in asked {
            let front = self.clone();
            link.submit(
                request,
                Box::new(move |request, answer| {
                    // Nothing is known: it is asked for once more by the next connection, or its own time ends it.
                    if !matches!(&answer, Err(e) if e.status() == Status::Unavailable) {
                        front.asked(op, request, answer);
                    }
                }),
            );
        }
        if !believed.is_empty() {
            let mut sessions: Vec<SessionId> = believed.iter().map(|(session, ..)| *session).collect();
            sessions.dedup();
            let front = self.clone();
            link.look_later(Query::Held(sessions), move |view| front.compare(believed, view));
        }
    }
}

/// A process that uses a cluster and is no member of it. Every method may be called from any thread but those on which completions and
/// events are called.
pub struct ClientEngine {
    link: Arc<Link>,
    front: Arc<Front>,
    cluster: String,
    timeout: Duration,
}

impl std::fmt::Debug for ClientEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientEngine").field("link", &self.link).finish_non_exhaustive()
    }
}

impl ClientEngine {
    /// Opens the way to the cluster. It does not wait for a member.
    ///
    /// # Errors
    /// As [`Link::open`].
    pub fn open(options: Options, sink: Arc<dyn EventSink>) -> Result<ClientEngine> {
        let (timeout, cluster) = (options.timeout, options.cluster.clone());
        let front = Arc::new(Front { delivery: Delivery::new(sink), kept: Mutex::default(), link: OnceLock::new() });
        let link = Arc::new(Link::open(options, Arc::new(front.clone()))?);
        drop(front.link.set(Arc::downgrade(&link)));
        Ok(ClientEngine { link, front, cluster, timeout })
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// How the connection stands.
    pub fn status(&self) -> Option<LinkStatus> {
        self.link.status()
    }

    /// The term and the members, as they were told last; nobody is asked.
    pub fn known_members(&self) -> (u64, Vec<MemberInfo>) {
        self.link.members()
    }

    /// The term and the members, as the member that is asked knows them.
    ///
    /// # Errors
    /// [`Status::Unavailable`] when none answers.
    pub fn members(&self) -> Result<(u64, Vec<MemberInfo>)> {
        match self.link.look(Query::Members)? {
            View::Members(term, members) => Ok((term, members)),
            other => Err(unexpected(&other)),
        }
    }

    /// Runs an operation without blocking; `done` is called once, when it is answered or when the wait for a lock ends.
    pub fn submit(&self, request: &Request, done: Completion) {
        let Some((op, wait_ms)) = waits(request) else {
            return self.submit_numbered(request.clone(), Box::new(|_, answer| done(answer)));
        };
        let front = self.front.clone();
        front.delivery.park(op, done);
        self.link.submit(request.clone(), Box::new(move |request, answer| front.asked(op, request, answer)));
        if wait_ms != u64::MAX {
            let front = self.front.clone();
            let late = Error::new(Status::Unavailable, "the cluster has not said in time how the wait ended");
            let limit = Duration::from_millis(wait_ms).saturating_add(self.timeout);
            self.link.after(limit, move || front.answer(op, Err(late)));
        }
    }

    /// Runs an operation that waits for no lock. `done` gets it back as it was sent, with the number by which the cluster knows it again.
    pub fn submit_numbered(&self, request: Request, done: NumberedCompletion) {
        let front = self.front.clone();
        let note = move |request: Request, answer: Result<Outcome>| {
            if let Ok(outcome) = &answer {
                front.kept().note(&request, outcome);
                front.look_later();
            }
            done(request, answer);
        };
        self.link.submit(request, Box::new(note));
    }

    /// Runs an operation and, if it has to wait for a lock, blocks until the wait ends.
    ///
    /// # Errors
    /// [`Status::Unavailable`] when the cluster does not answer in time, [`Status::Closed`]. Everything else is in the outcome.
    pub fn execute(&self, request: &Request) -> Result<Outcome> {
        let (tell, told) = mpsc::sync_channel(1);
        self.submit(request, Box::new(move |answer| drop(tell.send(answer))));
        told.recv().unwrap_or_else(|_| Err(Status::Closed.into()))
    }

    /// Takes a lock if it is free. `req` is the caller's number for the request.
    ///
    /// # Errors
    /// As [`ClientEngine::execute`].
    pub fn try_acquire(&self, session: SessionId, key: &Key, spec: &Spec, req: u64) -> Result<Outcome> {
        let op = Op::Acquire { key: key.clone(), spec: spec.clone(), wait_ms: None, req };
        self.execute(&Request { session, seq: 0, op })
    }

    /// Gives a lock back.
    ///
    /// # Errors
    /// As [`ClientEngine::execute`].
    pub fn release(&self, session: SessionId, key: &Key, token: Token) -> Result<Outcome> {
        self.execute(&Request { session, seq: 0, op: Op::Release { key: key.clone(), token } })
    }

    /// Ends every wait and the connection.
    pub fn close(&self) {
        self.link.close();
        self.front.delivery.fail(&Status::Closed.into());
        self.front.delivery.deliver();
    }

    /// A lock and everybody around it, as of this call or later.
    ///
    /// # Errors
    /// As [`ClientEngine::execute`].
    pub fn lock(&self, key: &Key) -> Result<Option<LockInfo>> {
        match self.link.look(Query::Lock(key.clone()))? {
            View::Lock(info) => Ok(info),
            other => Err(unexpected(&other)),
        }
    }

    /// The locks whose names begin with `prefix` and come after `after`, in order of bytes: from the first `limit` names in use. Each
    /// page of them is of one moment.
    ///
    /// # Errors
    /// As [`ClientEngine::execute`].
    pub fn locks(&self, prefix: &[u8], after: Option<&Key>, limit: usize) -> Result<Vec<LockInfo>> {
        let (mut found, mut after): (Vec<LockInfo>, _) = (Vec::new(), after.cloned());
        while found.len() < limit {
            let want = PAGE.min(limit - found.len());
            let query = Query::Locks { prefix: prefix.to_vec(), after: after.take(), limit: want as u64 };
            match self.link.look(query)? {
                View::Locks(page) => {
                    let last = page.len() < want;
                    after = page.last().map(|info| info.key.clone());
                    found.extend(page);
                    if last || after.is_none() {
                        break;
                    }
                }
                other => return Err(unexpected(&other)),
            }
        }
        Ok(found)
    }

    /// What the member that is asked knows of a lock: it may be old.
    ///
    /// # Errors
    /// As [`ClientEngine::execute`].
    pub fn lock_local(&self, key: &Key) -> Result<Local<Option<LockInfo>>> {
        match self.link.look_timed(Query::Local(key.clone()))? {
            (View::Local(value, applied, age_ms), took) => Ok(Local { value, applied, age: took + Duration::from_millis(age_ms) }),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Watches the holders of a key, or of all keys of a prefix, as the member that is asked comes to know of them. When another
    /// member is asked, it goes on there: what has become different is told, what came and went meanwhile is not.
    ///
    /// # Errors
    /// As [`ClientEngine::execute`]; [`Status::Limit`] when too many locks are held to begin with.
    pub fn watch(&self, pattern: Pattern) -> Result<Watch> {
        self.front.delivery.watches().open(pattern, |pattern| {
            // The member tells how it begins before it answers.
            self.link.ask(Ask::Watch(pattern.clone()))?;
            Ok(WatchStart::default())
        })
    }

    /// What a session holds, by token.
    ///
    /// # Errors
    /// As [`ClientEngine::execute`].
    pub fn held_by(&self, session: SessionId) -> Result<Vec<Held>> {
        match self.link.look(Query::Held(vec![session]))? {
            View::Held(held) => {
                let held: Vec<Held> = held.into_iter().map(|(_, held)| held).collect();
                if let Some(known) = self.front.kept().sessions.get_mut(&session) {
                    known.extend(held.iter().map(|h| (h.token, h.key.clone())));
                }
                Ok(held)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// The offices whose names begin with `prefix` and what was promised to their holders, by name, at most `limit` of them.
    ///
    /// # Errors
    /// As [`ClientEngine::execute`].
    pub fn promises(&self, prefix: &[u8], limit: usize) -> Result<Vec<PromiseInfo>> {
        match self.link.look(Query::Promises { prefix: prefix.to_vec(), limit: limit as u64 })? {
            View::Promises(promises) => Ok(promises),
            other => Err(unexpected(&other)),
        }
    }

    /// Answers a question about the orchestrator, as of this call or later.
    ///
    /// # Errors
    /// As [`ClientEngine::execute`].
    pub fn ask(&self, query: &orch::OrchQuery) -> Result<serde_json::Value> {
        match self.link.look(Query::Orch(query.clone()))? {
            View::Orch(json) => {
                serde_json::from_str(&json).map_err(|e| Error::new(Status::DataCorrupt, format!("a member's answer is no JSON: {e}")))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Has the leader do something with the cluster itself.
    ///
    /// # Errors
    /// What the cluster has against it; [`Status::Unavailable`].
    pub fn order(&self, order: Order) -> Result<()> {
        self.link.ask(Ask::Order(order))
    }

    /// The living sessions, by number.
    ///
    /// # Errors
    /// As [`ClientEngine::execute`].
    pub fn sessions(&self) -> Result<Vec<SessionInfo>> {
        match self.link.look(Query::Sessions)? {
            View::Sessions(sessions) => Ok(sessions),
            other => Err(unexpected(&other)),
        }
    }

    /// Counts of the cluster.
    ///
    /// # Errors
    /// As [`ClientEngine::execute`].
    pub fn counts(&self) -> Result<Counts> {
        match self.link.look(Query::Counts)? {
            View::Counts(counts) => Ok(counts),
            other => Err(unexpected(&other)),
        }
    }
}

fn unexpected(view: &View) -> Error {
    Error::new(Status::Internal, format!("a member showed something else than was asked for: {view:?}"))
}
