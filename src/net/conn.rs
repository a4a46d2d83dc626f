//! One established connection: requests multiplexed by id, streams with windows, events; its task is in [`super::drive`].
//!
//! The dialler asks, the acceptor answers; events go both ways. Everything that a peer can make this side keep is bounded:
//! requests in progress, unread bytes, bytes waiting to be sent.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

use crate::base::codec::Kind;
use crate::base::{Error, Result, Status};

use super::frame::{self, Method};
use super::hello::{Class, Hello};
use super::stream::{Stream, StreamState};
use super::tls::Certificate;

/// Items of a stream that one side may send before the other has taken any.
pub const WINDOW: u32 = 64;

/// Bounds of one connection.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes waiting to be sent above which calls, events and stream items find no room.
    pub out_bytes: usize,
    /// Bytes of received requests and stream items, not yet taken, above which nothing more is read.
    pub in_bytes: usize,
    /// Requests and streams in progress, each way.
    pub in_flight: usize,
    /// Silence after which the dialler asks whether the other side is there.
    pub ping_after: Duration,
    /// Silence after which the connection is over.
    pub dead_after: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            out_bytes: 16 << 20,
            in_bytes: 16 << 20,
            in_flight: 4096,
            ping_after: Duration::from_secs(2),
            dead_after: Duration::from_secs(6),
        }
    }
}

/// The future of an answer.
pub type Reply = Pin<Box<dyn Future<Output = Result<Bytes>> + Send>>;
/// The future of a stream's end.
pub type Task = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// What the layer above does with what arrives. Methods are called on the connection's task and must not block.
pub trait Service: Send + Sync + 'static {
    /// The largest payload, in bytes, of a request, event or stream item of `method`; 0 refuses the method.
    fn cap(&self, class: Class, method: Method) -> usize {
        let _ = method;
        class.payload_cap()
    }

    /// Answers a request. The future is dropped when the asker gives up or the connection ends: work that must not stop half
    /// way is spawned by it.
    fn handle(&self, from: Connection, request: Request) -> Reply;

    /// Serves a stream until the future ends. A vanished asker shows as an error of the stream's ends, the future is not dropped.
    fn stream(&self, from: Connection, open: Request, stream: Stream) -> Task {
        let _ = (from, stream);
        let method = open.method.0;
        Box::pin(async move { Err(Error::new(Status::InvalidArgument, format!("method {method} is no stream"))) })
    }

    /// Takes an event. Those of one connection come in order.
    fn event(&self, from: &Connection, method: Method, body: Bytes) {
        let _ = (from, method, body);
    }

    /// A connection has passed the handshake.
    fn opened(&self, connection: &Connection) {
        let _ = connection;
    }

    /// A connection is over.
    fn closed(&self, connection: &Connection, why: &Error) {
        let _ = (connection, why);
    }
}

/// A request, or the opening of a stream.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub method: Method,
    /// The asker waits no longer than this; `None` for as long as the connection lives.
    pub deadline: Option<Duration>,
    /// What it is asked with. Counts against the connection's unread bytes until the request is dropped.
    pub body: Bytes,
    _charge: Charge,
}

impl Request {
    pub(super) fn new(core: &Arc<Core>, method: Method, deadline: Option<Duration>, body: Bytes) -> Request {
        let bytes = body.len();
        core.state().unread += bytes;
        Request { method, deadline, body, _charge: Charge { core: core.clone(), bytes } }
    }
}

#[derive(Debug)]
struct Charge {
    core: Arc<Core>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.core.taken(self.bytes);
    }
}

/// The other end, as the handshake found it.
#[derive(Clone, Debug)]
pub struct Remote {
    /// What it says of itself, checked.
    pub hello: Hello,
    /// Its address as the transport shows it.
    pub address: String,
    /// Its certificate; `None` without TLS.
    pub certificate: Option<Certificate>,
}

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// This end connected: it asks.
    Dialler,
    /// This end accepted: it answers.
    Acceptor,
}

pub(super) struct Asked {
    pub cap: usize,
    pub answer: oneshot::Sender<Result<Bytes>>,
}

#[derive(Default)]
pub(super) struct State {
    pub out: Vec<u8>,
    pub driver: Option<Waker>,
    pub room: VecDeque<Waker>,
    pub last_id: u64,
    pub asked: BTreeMap<u64, Asked>,
    pub serving: BTreeMap<u64, AbortHandle>,
    pub streams: BTreeMap<u64, StreamState>,
    pub unread: usize,
    pub stalled: bool,
    pub ended: Option<Error>,
}

pub(super) struct Core {
    pub number: u64,
    pub side: Side,
    pub class: Class,
    pub remote: Remote,
    pub limits: Limits,
    pub service: Arc<dyn Service>,
    state: Mutex<State>,
    over: watch::Sender<bool>,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({} {:?} {:?} {})", self.number, self.side, self.class, self.remote.hello.party)
    }
}

impl Core {
    pub fn new(number: u64, side: Side, class: Class, remote: Remote, limits: Limits, service: Arc<dyn Service>) -> Arc<Core> {
        let over = watch::Sender::new(false);
        Arc::new(Core { number, side, class, remote, limits, service, state: Mutex::default(), over })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        // Only this module and its siblings run under the lock, nothing that calls out: the state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that had been received have been taken; reads go on if they had stopped.
    pub fn taken(&self, bytes: usize) {
        let mut state = self.state();
        state.unread = state.unread.saturating_sub(bytes);
        if state.stalled && state.unread <= self.limits.in_bytes {
            state.stalled = false;
            wake(state.driver.as_ref());
        }
    }

    /// Queues a frame that may find no room.
    pub fn send(&self, state: &mut State, kind: Kind, id: u64, method: Method, arg: u32, payload: &[u8]) -> Result<()> {
        if let Some(error) = &state.ended {
            return Err(error.clone());
        }
        if !self.has_room(state, payload.len()) {
            return Err(Error::new(
                Status::Unavailable,
                format!("{} bytes wait to be sent to {}, limit {}", state.out.len(), self.remote.hello.party, self.limits.out_bytes),
            ));
        }
        frame::encode_into(kind, id, method, arg, payload, &mut state.out)?;
        wake(state.driver.as_ref());
        Ok(())
    }

    pub fn has_room(&self, state: &State, bytes: usize) -> bool {
        state.out.is_empty() || state.out.len() + bytes <= self.limits.out_bytes
    }

    /// Queues a small frame that the protocol owes. A peer that takes nothing loses the connection.
    pub fn owe(&self, state: &mut State, kind: Kind, id: u64, arg: u32, payload: &[u8]) {
        if state.ended.is_some() {
            return;
        }
        if state.out.len() > 2 * self.limits.out_bytes {
            state.ended = Some(Error::new(Status::Unavailable, format!("{} takes no data", self.remote.hello.party)));
        } else if let Err(error) = frame::encode_into(kind, id, Method(0), arg, payload, &mut state.out) {
            state.ended = Some(error);
        }
        wake(state.driver.as_ref());
    }

    pub fn end(&self, why: Error) {
        let mut state = self.state();
        state.ended.get_or_insert(why);
        wake(state.driver.as_ref());
    }

    /// The connection's task is over: everybody who waits is told.
    pub fn finish(self: &Arc<Core>) {
        let mut state = self.state();
        let why = state.ended.get_or_insert_with(|| Error::new(Status::Unavailable, "the connection's task ended")).clone();
        let (asked, serving) = (std::mem::take(&mut state.asked), std::mem::take(&mut state.serving));
        let room = std::mem::take(&mut state.room);
        for stream in state.streams.values_mut() {
            stream.end(Err(why.clone()));
        }
        drop(state);
        room.into_iter().for_each(Waker::wake);
        asked.into_values().for_each(|a| drop(a.answer.send(Err(why.clone()))));
        serving.into_values().for_each(|task| task.abort());
        self.over.send_replace(true);
        self.service.closed(&Connection(self.clone()), &why);
    }

    /// Waits until `bytes` more may be queued.
    pub async fn room(&self, bytes: usize) -> Result<()> {
        std::future::poll_fn(|cx| {
            let mut state = self.state();
            if let Some(error) = &state.ended {
                return std::task::Poll::Ready(Err(error.clone()));
            }
            if self.has_room(&state, bytes) {
                return std::task::Poll::Ready(Ok(()));
            }
            if !state.room.iter().any(|waker| waker.will_wake(cx.waker())) {
                state.room.push_back(cx.waker().clone());
            }
            std::task::Poll::Pending
        })
        .await
    }
}

pub(super) fn wake(waker: Option<&Waker>) {
    if let Some(waker) = waker {
        waker.wake_by_ref();
    }
}

/// How a request is made.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// What is asked.
    pub method: Method,
    /// The answer is waited for this long.
    pub timeout: Duration,
    /// The largest answer taken, in bytes; `None` for the class's payload cap.
    pub answer_cap: Option<usize>,
}

impl Ask {
    /// A request with the class's answer cap.
    pub fn new(method: Method, timeout: Duration) -> Ask {
        Ask { method, timeout, answer_cap: None }
    }
}

/// An established connection. Clones are the same connection; dropping all of them does not close it.
#[derive(Clone, Debug)]
pub struct Connection(pub(super) Arc<Core>);

impl Connection {
    /// The other end.
    pub fn remote(&self) -> &Remote {
        &self.0.remote
    }

    /// What the connection is for.
    pub fn class(&self) -> Class {
        self.0.class
    }

    /// A number that no other connection of this process has.
    pub fn number(&self) -> u64 {
        self.0.number
    }

    /// Which end this is.
    pub fn side(&self) -> Side {
        self.0.side
    }

    /// Whether it is still up.
    pub fn is_open(&self) -> bool {
        self.0.state().ended.is_none()
    }

    /// Ends it at once; what waits for answers fails with `why`.
    pub fn close(&self, why: Error) {
        self.0.end(why);
    }

    /// Waits until it is over, and says why.
    pub async fn closed(&self) -> Error {
        // The sender lives in the core that `self` keeps alive, so waiting cannot fail.
        let _ = self.0.over.subscribe().wait_for(|over| *over).await;
        self.0.state().ended.clone().unwrap_or_else(|| Status::Closed.into())
    }

    /// Requests, streams and answers in progress.
    pub fn in_flight(&self) -> usize {
        let state = self.0.state();
        state.asked.len() + state.serving.len() + state.streams.len()
    }

    /// Sends an event. It is queued, not confirmed.
    ///
    /// # Errors
    /// [`Status::Unavailable`] when the connection is over or too much waits to be sent already.
    pub fn push(&self, method: Method, body: &[u8]) -> Result<()> {
        self.0.send(&mut self.0.state(), Kind::NetEvent, 0, method, 0, body)
    }

    fn begin(&self, state: &mut State) -> Result<u64> {
        if self.0.side == Side::Acceptor {
            return Err(Error::new(Status::Misuse, "only the end that dialled asks"));
        }
        if state.asked.len() + state.streams.len() >= self.0.limits.in_flight {
            return Err(Error::new(
                Status::Unavailable,
                format!("{} requests to {} are in progress, which is the limit", self.0.limits.in_flight, self.0.remote.hello.party),
            ));
        }
        Ok(state.last_id + 1)
    }

    /// Asks and waits for the answer. Dropping the future cancels the request on both sides.
    ///
    /// # Errors
    /// The other side's failure as it is; [`Status::Unavailable`] when no answer came in time, when the connection ended, or
    /// when a bound of this side is reached.
    pub async fn call(&self, ask: Ask, body: &[u8]) -> Result<Bytes> {
        let (id, mut answer) = {
            let mut state = self.0.state();
            let id = self.begin(&mut state)?;
            let deadline = u32::try_from(ask.timeout.as_millis()).unwrap_or(u32::MAX).max(1);
            self.0.send(&mut state, Kind::NetRequest, id, ask.method, deadline, body)?;
            state.last_id = id;
            let (sender, receiver) = oneshot::channel();
            let cap = ask.answer_cap.unwrap_or(self.0.class.payload_cap());
            state.asked.insert(id, Asked { cap, answer: sender });
            (id, receiver)
        };
        let _cancel = CancelOnDrop { core: &self.0, id };
        match tokio::time::timeout(ask.timeout, &mut answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(self.0.state().ended.clone().unwrap_or_else(|| Status::Closed.into())),
            Err(_) => {
                Err(Error::new(Status::Unavailable, format!("no answer from {} within {:?}", self.0.remote.hello.party, ask.timeout)))
            }
        }
    }

    /// Opens a stream; `head` is what the other side's [`Service::stream`] gets. Nothing is waited for.
    ///
    /// # Errors
    /// [`Status::Unavailable`] when the connection is over or a bound is reached.
    pub fn open(&self, method: Method, head: &[u8]) -> Result<Stream> {
        let mut state = self.0.state();
        let id = self.begin(&mut state)?;
        self.0.send(&mut state, Kind::NetOpen, id, method, 0, head)?;
        state.last_id = id;
        state.streams.insert(id, StreamState::new(self.0.class.payload_cap()));
        drop(state);
        Ok(Stream::new(self.0.clone(), id))
    }
}

struct CancelOnDrop<'a> {
    core: &'a Arc<Core>,
    id: u64,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        let mut state = self.core.state();
        if state.asked.remove(&self.id).is_some() {
            self.core.owe(&mut state, Kind::NetCancel, self.id, 0, &[]);
        }
    }
}
