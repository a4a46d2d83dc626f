//! What a client and a member say to each other.

use crate::base::codec::{self, Decode, Encode, Kind};
use crate::base::{Error, Key, Result, SessionId, Status, Token};
use crate::ledger::orch::OrchQuery;
use crate::ledger::{Change, Counts, Event, Held, LockInfo, LossReason, Outcome, Pattern, PromiseInfo, Request, SessionInfo, WaitEnd};
use crate::net::Method;

/// A question and its answer.
pub const CALL: Method = Method(16);
/// What happened to the sessions of a connection: a list of [`News`].
pub const NEWS: Method = Method(17);

/// The longest message either way.
const CAP: usize = 1 << 20;

/// What a client asks of a member.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Ask {
    /// Operations, to be done in this order and answered together. The connection hears of the sessions that they name from now on.
    Run {
        /// The operations.
        ops: Vec<Request>,
        /// The asker waits no longer than this, ms.
        timeout_ms: u64,
    },
    /// The connection hears of these sessions from now on.
    Attach {
        /// The sessions.
        sessions: Vec<SessionId>,
    },
    /// A look at the cluster as of now or later.
    Look(Query),
    /// The connection hears of these keys from now on, first how they stand.
    Watch(Pattern),
    /// No more.
    Unwatch(Pattern),
    /// Something for the leader to do with the cluster itself.
    Order(Order),
}

/// What an operator wants done.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Order {
    /// Another leader: this one, or the member that is furthest.
    Transfer(Option<String>),
    /// A member is to go for good.
    Remove(String),
    /// A node may join once.
    MakeToken {
        /// What the token's digest is.
        hash: [u8; 32],
        /// The node's name.
        node: String,
        /// Until when, ms from now.
        ttl_ms: u64,
    },
}

/// What a client wants to see.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Query {
    /// A lock and everybody around it.
    Lock(Key),
    /// Locks by name.
    Locks {
        /// What the names begin with.
        prefix: Vec<u8>,
        /// What they come after.
        after: Option<Key>,
        /// How many at most.
        limit: u64,
    },
    /// The living sessions.
    Sessions,
    /// Counts.
    Counts,
    /// What these sessions hold.
    Held(Vec<SessionId>),
    /// The members, as the answering one knows them: no majority is asked.
    Members,
    /// A lock as the answering member knows it, which may be old.
    Local(Key),
    /// Promises by the name of their office.
    Promises {
        /// What the names begin with.
        prefix: Vec<u8>,
        /// How many at most.
        limit: u64,
    },
    /// Something about the orchestrator.
    Orch(OrchQuery),
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MemberInfo {
    /// Its node id.
    pub name: String,
    /// Where it can be reached.
    pub address: String,
    /// Whether its vote counts.
    pub voter: bool,
    /// Whether it leads, as far as the answering member knows.
    pub leader: bool,
    /// Index after the last entry that it has, where that is known.
    pub log_end: Option<u64>,
}

/// What a look shows.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum View {
    /// Of [`Query::Lock`].
    Lock(Option<LockInfo>),
    /// Of [`Query::Locks`].
    Locks(Vec<LockInfo>),
    /// Of [`Query::Sessions`].
    Sessions(Vec<SessionInfo>),
    /// Of [`Query::Counts`].
    Counts(Counts),
    /// Of [`Query::Held`].
    Held(Vec<(SessionId, Held)>),
    /// Of [`Query::Members`]: the term, and who there is.
    Members(u64, Vec<MemberInfo>),
    /// Of [`Query::Local`]: the lock, the last entry that was applied, and how long ago, ms.
    Local(Option<LockInfo>, u64, u64),
    /// Of [`Query::Promises`].
    Promises(Vec<PromiseInfo>),
    /// Of [`Query::Orch`]: JSON.
    Orch(String),
}

/// A failure of one operation.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Failure {
    status: i32,
    token: u64,
    message: String,
}

impl From<&Error> for Failure {
    fn from(e: &Error) -> Failure {
        Failure { status: e.status() as i32, token: e.token(), message: e.message().to_owned() }
    }
}

impl From<Failure> for Error {
    fn from(f: Failure) -> Error {
        Error::new(Status::from_code(f.status).unwrap_or(Status::Internal), f.message).with_token(f.token)
    }
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Told {
    /// It was done.
    Outcome(Outcome),
    /// It was not, or nobody knows.
    Failed(Failure),
}

/// A member's answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Answer {
    /// Where the leader can be reached, where that is another member and known.
    pub leader: Option<String>,
    /// Of [`Ask::Run`]: one for each operation.
    pub told: Vec<Told>,
    /// Of [`Ask::Look`].
    pub view: Option<View>,
}

/// What happened to a session, or to what a connection watches.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum News {
    /// As [`Event::Granted`].
    Granted(SessionId, u64, Token, u64),
    /// As [`Event::WaitEnded`].
    WaitEnded(SessionId, u64, WaitEnd),
    /// As [`Event::Lost`].
    Lost(SessionId, Key, Token, LossReason),
    /// As [`Event::SessionEnded`].
    SessionEnded(SessionId, LossReason),
    /// As [`Event::RevokeRequested`]: session, key, token, by whom, why, forced after ms.
    RevokeRequested(SessionId, Key, Token, String, String, Option<u64>),
    /// How the keys of a watch stand when it begins; in parts, of which the last one says so. Revisions mean nothing.
    WatchBegins(Pattern, Vec<Change>, bool),
    /// What has changed since.
    WatchTells(Pattern, Vec<Change>),
}

impl News {
    /// The news in an event, and whose they are.
    pub fn of(event: &Event) -> Option<(SessionId, News)> {
        Some(match event {
            Event::Granted { session, req, token, remaining_ms } => (*session, News::Granted(*session, *req, *token, *remaining_ms)),
            Event::WaitEnded { session, req, why } => (*session, News::WaitEnded(*session, *req, *why)),
            Event::Lost { session, key, token, why } => (*session, News::Lost(*session, key.clone(), *token, *why)),
            Event::SessionEnded { session, why } => (*session, News::SessionEnded(*session, *why)),
            Event::RevokeRequested { session, key, token, by, why, force_after_ms } => {
                (*session, News::RevokeRequested(*session, key.clone(), *token, by.clone(), why.clone(), *force_after_ms))
            }
            Event::Changed(_) | Event::Orch { .. } => return None,
        })
    }

    /// The event that it was. `None` for what a watch tells.
    pub fn into_event(self) -> Option<Event> {
        Some(match self {
            News::Granted(session, req, token, remaining_ms) => Event::Granted { session, req, token, remaining_ms },
            News::WaitEnded(session, req, why) => Event::WaitEnded { session, req, why },
            News::Lost(session, key, token, why) => Event::Lost { session, key, token, why },
            News::SessionEnded(session, why) => Event::SessionEnded { session, why },
            News::RevokeRequested(session, key, token, by, why, force_after_ms) => {
                Event::RevokeRequested { session, key, token, by, why, force_after_ms }
            }
            News::WatchBegins(..) | News::WatchTells(..) => return None,
        })
    }
}

/// The bytes of a question.
///
/// # Errors
/// [`Status::Limit`] when it is too long.
pub(super) fn encode_ask(ask: &Ask) -> Result<Vec<u8>> {
    codec::encode(Kind::Client, ask)
}

/// Reads a question.
///
/// # Errors
/// [`Status::DataCorrupt`] for what is none.
pub fn decode_ask(bytes: &[u8]) -> Result<Ask> {
    codec::decode(Kind::Client, bytes, CAP)
}

/// The bytes of an answer.
///
/// # Errors
/// [`Status::Limit`] when it is too long.
pub fn encode_answer(answer: &Answer) -> Result<Vec<u8>> {
    let bytes = codec::encode(Kind::Client, answer)?;
    if bytes.len() > CAP {
        return Err(Error::new(Status::Limit, format!("the answer has {} bytes, limit {CAP}: ask for less at once", bytes.len())));
    }
    Ok(bytes)
}

/// Reads an answer.
///
/// # Errors
/// [`Status::DataCorrupt`] for what is none.
pub(super) fn decode_answer(bytes: &[u8]) -> Result<Answer> {
    codec::decode(Kind::Client, bytes, CAP)
}

/// The bytes of news.
///
/// # Errors
/// [`Status::Limit`] when they are too long.
pub fn encode_news(news: &[News]) -> Result<Vec<u8>> {
    codec::encode(Kind::Client, &news.to_vec())
}

/// Reads news.
///
/// # Errors
/// [`Status::DataCorrupt`] for what are none.
pub fn decode_news(bytes: &[u8]) -> Result<Vec<News>> {
    codec::decode(Kind::Client, bytes, CAP)
}

/// Takes any bytes for a message of each kind.
#[cfg(any(test, tenure_fuzz))]
pub(crate) fn survive(bytes: &[u8]) {
    let _ = (decode_ask(bytes), decode_answer(bytes), decode_news(bytes));
}

/// Valid messages.
#[cfg(any(test, tenure_fuzz))]
#[allow(clippy::unwrap_used)]
pub(crate) fn samples() -> Vec<Vec<u8>> {
    let ops = vec![Request { session: SessionId(3), seq: 7, op: crate::ledger::Op::RenewSession }];
    let failed = Told::Failed((&Error::new(Status::Unavailable, "no leader")).into());
    let answer = Answer { leader: Some("h:1".into()), told: vec![Told::Outcome(Outcome::Ticked), failed], view: None };
    let news = [News::Granted(SessionId(1), 2, Token(3), 4), News::SessionEnded(SessionId(1), LossReason::Closed)];
    let asks = [Ask::Run { ops, timeout_ms: 500 }, Ask::Watch(Pattern::Prefix(b"p".to_vec())), Ask::Order(Order::Remove("n".into()))];
    let asked = asks.iter().map(|ask| encode_ask(ask).unwrap());
    asked.chain([encode_answer(&answer).unwrap(), encode_news(&news).unwrap()]).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_come_back_as_they_were() {
        let ops = vec![Request { session: SessionId(3), seq: 7, op: crate::ledger::Op::RenewSession }];
        let ask = Ask::Run { ops, timeout_ms: 500 };
        assert_eq!(decode_ask(&encode_ask(&ask).unwrap()).unwrap(), ask);
        let failed = Told::Failed((&Error::new(Status::Unavailable, "no leader")).into());
        let answer = Answer { leader: Some("h:1".into()), told: vec![Told::Outcome(Outcome::Ticked), failed], view: None };
        assert_eq!(decode_answer(&encode_answer(&answer).unwrap()).unwrap(), answer);
        let news = vec![News::Granted(SessionId(1), 2, Token(3), 4), News::SessionEnded(SessionId(1), LossReason::Closed)];
        assert_eq!(decode_news(&encode_news(&news).unwrap()).unwrap(), news);
    }

    #[test]
    fn an_event_is_the_news_that_it_makes() {
        let event = Event::WaitEnded { session: SessionId(1), req: 2, why: WaitEnd::Timeout };
        let (session, news) = News::of(&event).unwrap();
        assert_eq!((session, news.into_event()), (SessionId(1), Some(event)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let mut sealed = Vec::new();
            codec::seal_into(Kind::Client, &[&bytes], &mut sealed).unwrap();
            survive(&bytes);
            survive(&sealed);
        }
    }
}
