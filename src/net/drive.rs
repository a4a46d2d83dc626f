//! The task of a connection: it alone reads and writes the wire, and hands over what arrives.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWrite as _};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::base::codec::Kind;
use crate::base::{Error, Result, Status};

use super::conn::{Connection, Core, Request, Side};
use super::frame::{self, Frame, Method};
use super::now;
use super::stream::{Stream, StreamState, conclude};
use super::transport::Duplex;

/// How much is read at once, at least and at most.
const READ_MIN: usize = 16 << 10;
const READ: usize = 256 << 10;
/// Reads in one turn, so that a busy connection lets the others have theirs.
const READS_A_TURN: usize = 16;
/// A buffer that has grown beyond this is given back once it is empty.
const KEEP: usize = 1 << 20;

pub(super) struct Driver {
    core: Arc<Core>,
    wire: Box<dyn Duplex>,
    input: BytesMut,
    writing: Vec<u8>,
    written: usize,
    flushed: bool,
    heard: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.core.finish();
    }
}

impl Driver {
    /// `input` is what was read beyond the handshake.
    pub fn new(core: Arc<Core>, wire: Box<dyn Duplex>, input: BytesMut) -> Driver {
        let heard = now();
        let timer = Box::pin(sleep_until(heard + core.limits.ping_after));
        Driver { core, wire, input, writing: Vec::new(), written: 0, flushed: true, heard, timer }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let failed =
            |core: &Core, e: &std::io::Error| Error::new(Status::Unavailable, format!("sending to {}: {e}", core.remote.hello.party));
        loop {
            if self.written == self.writing.len() {
                self.writing.clear();
                self.writing.shrink_to(KEEP);
                self.written = 0;
                let mut state = self.core.state();
                std::mem::swap(&mut self.writing, &mut state.out);
                if self.writing.is_empty() {
                    drop(state);
                    if self.flushed {
                        return Poll::Ready(Ok(()));
                    }
                    std::task::ready!(Pin::new(&mut self.wire).poll_flush(cx)).map_err(|e| failed(&self.core, &e))?;
                    self.flushed = true;
                    continue;
                }
                let room = std::mem::take(&mut state.room);
                drop(state);
                room.into_iter().for_each(Waker::wake);
                self.flushed = false;
            }
            let part = &self.writing[self.written..];
            match std::task::ready!(Pin::new(&mut self.wire).poll_write(cx, part)) {
                Ok(0) => return Poll::Ready(Err(failed(&self.core, &std::io::ErrorKind::WriteZero.into()))),
                Ok(n) => self.written += n,
                Err(e) => return Poll::Ready(Err(failed(&self.core, &e))),
            }
        }
    }

    fn frames(&mut self) -> Result<()> {
        loop {
            let core = &self.core;
            let frame = frame::decode(&mut self.input, |kind, id, method| cap(core, kind, id, method))
                .map_err(|e| Error::new(e.status(), format!("from {}: {}", core.remote.hello.party, e.message())))?;
            match frame {
                Some(frame) => take(core, frame)?,
                None => return Ok(()),
            }
        }
    }

    /// Reads and hands over until nothing is there, or the turn is long enough.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<()> {
        for _ in 0..READS_A_TURN {
            {
                let mut state = self.core.state();
                if state.unread > self.core.limits.in_bytes {
                    state.stalled = true;
                    return Ok(());
                }
            }
            // As much again as is there: a claimed length alone makes no room.
            self.input.reserve(self.input.len().clamp(READ_MIN, READ));
            let Poll::Ready(read) = pin!(self.wire.read_buf(&mut self.input)).poll(cx) else { return Ok(()) };
            let party = &self.core.remote.hello.party;
            match read {
                Ok(0) => return Err(Error::new(Status::Unavailable, format!("{party} closed the connection"))),
                Ok(_) => {
                    self.heard = now();
                    self.frames()?;
                }
                Err(e) => return Err(Error::new(Status::Unavailable, format!("receiving from {party}: {e}"))),
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Result<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let silent = self.heard.elapsed();
            let limits = &self.core.limits;
            if self.core.state().stalled {
                self.heard = now();
            } else if silent >= limits.dead_after {
                return Err(Error::new(Status::Unavailable, format!("{} is silent for {silent:?}", self.core.remote.hello.party)));
            } else if silent >= limits.ping_after && self.core.side == Side::Dialler {
                self.core.owe(&mut self.core.state(), Kind::NetPing, 0, 0, &[]);
            }
            let next = limits.ping_after.min(limits.dead_after.saturating_sub(silent)).max(Duration::from_millis(1));
            self.timer.as_mut().reset(now() + next);
        }
        Ok(())
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        // What this turn itself queues needs no wake-up.
        self.core.state().driver = None;
        loop {
            self.poll_timer(cx)?;
            self.read(cx)?;
            // After the read, because what was read is often answered at once.
            let blocked = self.poll_write(cx)?.is_pending();
            let mut state = self.core.state();
            if let Some(error) = &state.ended {
                return Poll::Ready(Err(error.clone()));
            }
            if blocked || state.out.is_empty() {
                state.driver = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
    }

    /// Runs until the connection is over.
    pub async fn run(mut self) {
        let first = self.frames();
        let ended = match first {
            Ok(()) => std::future::poll_fn(|cx| self.turn(cx)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            self.core.state().ended.get_or_insert(error);
        }
    }
}

/// The largest payload that is wanted now.
fn cap(core: &Core, kind: Kind, id: u64, method: Method) -> usize {
    match kind {
        Kind::NetResponse => core.state().asked.get(&id).map_or(core.class.payload_cap(), |asked| asked.cap),
        Kind::NetItem => core.state().streams.get(&id).map_or(core.class.payload_cap(), |stream| stream.cap),
        _ => core.service.cap(core.class, method).min(core.class.payload_cap()),
    }
}

fn take(core: &Arc<Core>, frame: Frame) -> Result<()> {
    let Frame { kind, id, method, arg, payload } = frame;
    match (kind, core.side) {
        (Kind::NetRequest | Kind::NetOpen, Side::Acceptor) => {
            let mut state = core.state();
            if id <= state.last_id {
                return Err(Error::new(Status::DataCorrupt, format!("request {id} after {}", state.last_id)));
            }
            state.last_id = id;
            if state.serving.len() + state.streams.len() >= core.limits.in_flight {
                let error =
                    Error::new(Status::Unavailable, format!("{} requests are in progress, which is the limit", core.limits.in_flight));
                core.owe(&mut state, Kind::NetFailure, id, 0, &frame::encode_error(&error));
                return Ok(());
            }
            drop(state);
            let deadline = (arg != 0).then(|| Duration::from_millis(u64::from(arg)));
            serve(core, kind, id, Request::new(core, method, deadline, payload));
        }
        (Kind::NetResponse, Side::Dialler) => {
            let asked = core.state().asked.remove(&id);
            if let Some(asked) = asked {
                drop(asked.answer.send(Ok(payload)));
            }
        }
        (Kind::NetFailure, Side::Dialler) => {
            let error = frame::decode_error(&payload);
            let mut state = core.state();
            if let Some(stream) = state.streams.get_mut(&id) {
                stream.end(Err(error));
            } else if let Some(asked) = state.asked.remove(&id) {
                drop(asked.answer.send(Err(error)));
            }
        }
        (Kind::NetCancel, _) => {
            let mut state = core.state();
            if let Some(stream) = state.streams.get_mut(&id) {
                stream.cancel(Error::new(Status::Cancelled, format!("{} gave up the stream", core.remote.hello.party)));
            } else {
                let task = state.serving.remove(&id);
                drop(state);
                if let Some(task) = task {
                    task.abort();
                }
            }
        }
        (Kind::NetItem, _) => {
            let mut state = core.state();
            let bytes = payload.len();
            if let Some(stream) = state.streams.get_mut(&id)
                && stream.push(payload)?
            {
                state.unread += bytes;
            }
        }
        (Kind::NetFinish, _) => {
            if let Some(stream) = core.state().streams.get_mut(&id) {
                stream.end(Ok(()));
            }
        }
        (Kind::NetWindow, _) => {
            if let Some(stream) = core.state().streams.get_mut(&id) {
                stream.grant(arg);
            }
        }
        (Kind::NetEvent, _) => core.service.event(&Connection(core.clone()), method, payload),
        (Kind::NetPing, _) => core.owe(&mut core.state(), Kind::NetPong, 0, 0, &[]),
        (Kind::NetPong, _) => {}
        (kind, side) => return Err(Error::new(Status::DataCorrupt, format!("{kind:?} sent to the {side:?}"))),
    }
    Ok(())
}

/// Removes a request from those in progress however its task ends, and answers for a task that panicked.
struct Serving {
    core: Arc<Core>,
    id: u64,
    answered: bool,
}

impl Serving {
    fn done(mut self) {
        self.answered = true;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let mut state = self.core.state();
        // A cancelled request was removed by the one who cancelled it.
        if state.serving.remove(&self.id).is_some() && !self.answered {
            let error = Error::new(Status::Internal, "the handler of the request panicked");
            self.core.owe(&mut state, Kind::NetFailure, self.id, 0, &frame::encode_error(&error));
        }
    }
}

fn serve(core: &Arc<Core>, kind: Kind, id: u64, request: Request) {
    let from = Connection(core.clone());
    if kind == Kind::NetOpen {
        let cap = core.service.cap(core.class, request.method).min(core.class.payload_cap());
        core.state().streams.insert(id, StreamState::new(cap));
        let stream = Stream::new(core.clone(), id);
        // Kept until the end is told, however early the task drops its own ends.
        let hold = stream.hold();
        let task = core.service.stream(from, request, stream);
        tokio::spawn(async move {
            let how = task.await;
            conclude(&hold, &how);
        });
        return;
    }
    let reply = core.service.handle(from, request);
    let serving = Serving { core: core.clone(), id, answered: false };
    // Under the lock, so that the task cannot end before it is entered.
    let mut state = core.state();
    let task = tokio::spawn(async move {
        let answer = reply.await;
        let core = serving.core.clone();
        if let Ok(body) = &answer
            && core.room(body.len()).await.is_err()
        {
            return;
        }
        let mut state = core.state();
        match answer {
            Ok(body) => {
                if let Err(error) = frame::encode_into(Kind::NetResponse, id, Method(0), 0, &body, &mut state.out) {
                    core.owe(&mut state, Kind::NetFailure, id, 0, &frame::encode_error(&error));
                } else {
                    super::conn::wake(state.driver.as_ref());
                }
            }
            Err(error) => core.owe(&mut state, Kind::NetFailure, id, 0, &frame::encode_error(&error)),
        }
        drop(state);
        serving.done();
    });
    state.serving.insert(id, task.abort_handle());
}
