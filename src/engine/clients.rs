//! What a member does for processes that are none: runs their operations, shows them the ledger, tells them what happens to their sessions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::client_watches::ClientWatches;
use super::watch::Watches;
use crate::base::{Error, Result, SessionId, Status};
use crate::client::{self, Answer, Ask, CALL, MemberInfo, NEWS, News, Order, Query, Told, View};
use crate::consensus::{Access, elsewhere};
use crate::ledger::{Event, Ledger, Outcome, Pattern, Request};
use crate::net::{self, Connection, Reply, Service};

/// The clients of one member.
#[derive(Default)]
pub(super) struct Clients {
    /// Where each session is heard of: the connection over which it was named last.
    attached: Mutex<HashMap<SessionId, Connection>>,
    watches: ClientWatches,
    member: OnceLock<(Access, Arc<Watches>)>,
}

impl Clients {
    /// The member that serves them has started.
    pub fn bind(&self, member: Access, watches: Arc<Watches>) {
        drop(self.member.set((member, watches)));
    }

    fn member(&self) -> Result<&Access> {
        self.member.get().map(|(member, _)| member).ok_or_else(|| Error::new(Status::Unavailable, "the member is starting"))
    }

    fn attached(&self) -> MutexGuard<'_, HashMap<SessionId, Connection>> {
        // Plain insertions and removals: whole at every step.
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attach(&self, connection: &Connection, sessions: impl Iterator<Item = SessionId>) {
        let mut attached = self.attached();
        for session in sessions.filter(|s| s.0 != 0) {
            let known = attached.get(&session).is_some_and(|c| c.number() == connection.number());
            if !known {
                attached.insert(session, connection.clone());
            }
        }
    }

    /// Tells what has happened, each connection what concerns its sessions.
    pub fn tell(&self, events: &[Event]) {
        let mut attached = self.attached();
        if attached.is_empty() {
            return;
        }
        let mut news: HashMap<u64, (Connection, Vec<News>)> = HashMap::new();
        for (session, piece) in events.iter().filter_map(News::of) {
            let Some(connection) = attached.get(&session).cloned() else { continue };
            if matches!(piece, News::SessionEnded(..)) {
                attached.remove(&session);
            }
            news.entry(connection.number()).or_insert_with(|| (connection, Vec::new())).1.push(piece);
        }
        drop(attached);
        for (connection, news) in news.into_values() {
            for part in news.chunks(1024) {
                let sent = client::encode_news(part).and_then(|bytes| connection.push(NEWS, &bytes));
                if let Err(error) = sent {
                    // It is told by another connection, which begins with a look at what has become of everything.
                    connection.close(error);
                    break;
                }
            }
        }
    }

    /// Something may have happened that this member does not know of.
    pub fn skipped(&self) {
        for connection in std::mem::take(&mut *self.attached()).into_values() {
            connection.close(Error::new(Status::Unavailable, "this member fell behind and may have missed what happened"));
        }
    }

    fn run(self: &Arc<Clients>, from: Connection, ops: Vec<Request>, limit: Duration) -> Reply {
        let member = match self.member() {
            Ok(member) => member.clone(),
            Err(error) => return refuse(error),
        };
        self.attach(&from, ops.iter().map(|r| r.session));
        // Handed in here and not in the future, so that what comes first is first.
        let told: Vec<oneshot::Receiver<Result<Outcome>>> = ops
            .into_iter()
            .map(|request| {
                let (tell, told) = oneshot::channel();
                // A client looks later whether what it released is free.
                member.submit_early(request, limit, Box::new(move |result| drop(tell.send(result))));
                told
            })
            .collect();
        let clients = self.clone();
        Box::pin(async move {
            let mut answers = Vec::with_capacity(told.len());
            for answer in told {
                answers.push(match answer.await.unwrap_or_else(|_| Err(Status::Closed.into())) {
                    Ok(outcome) => {
                        if let Outcome::Session { id, .. } = outcome {
                            clients.attach(&from, std::iter::once(id));
                        }
                        Told::Outcome(outcome)
                    }
                    Err(error) => Told::Failed((&elsewhere(error)).into()),
                });
            }
            reply(&Answer { leader: member.leader(), told: answers, view: None })
        })
    }

    fn look(&self, query: Query) -> Reply {
        let member = match self.member() {
            Ok(member) => member.clone(),
            Err(error) => return refuse(error),
        };
        Box::pin(async move {
            let view = match query {
                Query::Members => members(&member)?,
                Query::Local(key) => {
                    let age = member.applied_age()?.as_millis() as u64;
                    member.read_local(|ledger| View::Local(ledger.lock(&key), ledger.applied().index, age))?
                }
                query => member.read(move |ledger| view(ledger, query)).await.map_err(elsewhere)?,
            };
            reply(&Answer { leader: member.leader(), told: Vec::new(), view: Some(view) })
        })
    }

    fn watch(&self, from: &Connection, pattern: Pattern) -> Result<Bytes> {
        let member = self.member()?;
        let (_, watches) = self.member.get().ok_or(Status::Unavailable)?;
        self.watches.begin(from, pattern, watches, member)?;
        reply(&Answer { leader: member.leader(), told: Vec::new(), view: None })
    }

    fn order(&self, order: Order) -> Reply {
        let member = match self.member() {
            Ok(member) => member.clone(),
            Err(error) => return refuse(error),
        };
        Box::pin(async move {
            let obeyed = match order {
                Order::Transfer(to) => member.transfer(to).await,
                Order::Remove(name) => member.remove(name).await,
                Order::MakeToken { hash, node, ttl_ms } => member.make_token(hash, node, ttl_ms).await,
            };
            obeyed.map_err(elsewhere)?;
            reply(&Answer { leader: member.leader(), told: Vec::new(), view: None })
        })
    }
}

fn view(ledger: &Ledger, query: Query) -> View {
    match query {
        Query::Lock(key) => View::Lock(ledger.lock(&key)),
        Query::Locks { prefix, after, limit } => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            View::Locks(ledger.locks(&prefix, after.as_ref(), limit))
        }
        Query::Sessions => View::Sessions(ledger.sessions()),
        Query::Held(sessions) => {
            let held = |session| ledger.held_by(session).into_iter().map(move |held| (session, held));
            View::Held(sessions.into_iter().flat_map(held).collect())
        }
        Query::Promises { prefix, limit } => View::Promises(ledger.promises(&prefix, usize::try_from(limit).unwrap_or(usize::MAX))),
        Query::Orch(query) => View::Orch(ledger.ask(&query).to_string()),
        // The others are answered without asking a majority, above.
        Query::Counts | Query::Members | Query::Local(_) => View::Counts(ledger.counts()),
    }
}

fn members(member: &Access) -> Result<View> {
    let status = member.status()?;
    if let Some(why) = status.ended {
        return Err(elsewhere(why));
    }
    let row = |m: crate::consensus::MemberStatus| MemberInfo {
        leader: status.leader.as_ref() == Some(&m.name),
        name: m.name,
        address: m.address,
        voter: m.voter,
        log_end: m.log_end,
    };
    Ok(View::Members(status.term, status.members.iter().cloned().map(row).collect()))
}

fn reply(answer: &Answer) -> Result<Bytes> {
    client::encode_answer(answer).map(Bytes::from)
}

fn refuse(error: Error) -> Reply {
    Box::pin(async move { Err(error) })
}

impl Service for Arc<Clients> {
    fn handle(&self, from: Connection, request: net::Request) -> Reply {
        if request.method != CALL {
            return Box::pin(async { Err(Error::new(Status::InvalidArgument, "not a question of clients")) });
        }
        match client::decode_ask(&request.body) {
            Err(error) => refuse(error),
            Ok(Ask::Watch(pattern)) => {
                let answer = self.watch(&from, pattern);
                Box::pin(async move { answer })
            }
            Ok(Ask::Unwatch(pattern)) => {
                self.watches.end(&from, &pattern);
                Box::pin(async { reply(&Answer { leader: None, told: Vec::new(), view: None }) })
            }
            Ok(Ask::Order(order)) => self.order(order),
            Ok(Ask::Run { ops, timeout_ms }) => self.run(from, ops, Duration::from_millis(timeout_ms)),
            Ok(Ask::Attach { sessions }) => {
                self.attach(&from, sessions.into_iter());
                Box::pin(async { reply(&Answer { leader: None, told: Vec::new(), view: None }) })
            }
            Ok(Ask::Look(query)) => self.look(query),
        }
    }

    fn closed(&self, connection: &Connection, _why: &Error) {
        self.attached().retain(|_, c| c.number() != connection.number());
        self.watches.closed(connection);
    }
}
