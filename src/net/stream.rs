//! Streams: items in both directions under one request id, at most [`WINDOW`] ahead of the taker.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use bytes::Bytes;

use crate::base::codec::Kind;
use crate::base::{Error, Result, Status};

use super::conn::{Core, WINDOW, wake};
use super::frame::{self, Method};

pub(super) struct StreamState {
    inbox: VecDeque<Bytes>,
    /// How many more items the other side may send.
    granted: u32,
    /// Items taken and not granted anew yet.
    owed: u32,
    /// How many more items this side may send.
    credit: u32,
    pub cap: usize,
    /// How the other side ended.
    remote_end: Option<Result<()>>,
    cancelled: bool,
    finished: bool,
    receiver: Option<Waker>,
    sender: Option<Waker>,
}

impl StreamState {
    pub fn new(cap: usize) -> StreamState {
        StreamState {
            inbox: VecDeque::new(),
            granted: WINDOW,
            owed: 0,
            credit: WINDOW,
            cap,
            remote_end: None,
            cancelled: false,
            finished: false,
            receiver: None,
            sender: None,
        }
    }

    /// An item has arrived; whether it was kept. What was under way when this side failed is dropped.
    pub fn push(&mut self, item: Bytes) -> Result<bool> {
        match &self.remote_end {
            Some(Err(_)) => return Ok(false),
            None if self.granted > 0 => {}
            _ => return Err(Error::new(Status::DataCorrupt, "a stream item that was not granted")),
        }
        self.granted -= 1;
        self.inbox.push_back(item);
        wake(self.receiver.as_ref());
        Ok(true)
    }

    /// The other side has dropped the stream: it neither sends nor takes any more.
    pub fn cancel(&mut self, why: Error) {
        self.cancelled = true;
        self.end(Err(why));
    }

    pub fn grant(&mut self, items: u32) {
        self.credit = self.credit.saturating_add(items).min(WINDOW);
        wake(self.sender.as_ref());
    }

    pub fn end(&mut self, how: Result<()>) {
        self.remote_end.get_or_insert(how);
        wake(self.receiver.as_ref());
        wake(self.sender.as_ref());
    }

    fn failure(&self) -> Option<Error> {
        self.remote_end.as_ref().and_then(|end| end.as_ref().err()).cloned()
    }
}

/// The life of a stream on this side: when both ends are gone, so is the stream.
pub(super) struct Life {
    core: Arc<Core>,
    id: u64,
}

impl Drop for Life {
    fn drop(&mut self) {
        let mut state = self.core.state();
        if let Some(stream) = state.streams.remove(&self.id) {
            if !(stream.finished && stream.remote_end.is_some()) && stream.failure().is_none() {
                self.core.owe(&mut state, Kind::NetCancel, self.id, 0, &[]);
            }
            let unread = stream.inbox.iter().map(Bytes::len).sum();
            drop(state);
            self.core.taken(unread);
        }
    }
}

/// Both ends of a stream. Dropping it before both sides have finished cancels it.
pub struct Stream {
    /// This side's items out.
    pub sender: StreamSender,
    /// The other side's items in.
    pub receiver: StreamReceiver,
}

impl Stream {
    pub(super) fn new(core: Arc<Core>, id: u64) -> Stream {
        let life = Arc::new(Life { core, id });
        Stream { sender: StreamSender(life.clone()), receiver: StreamReceiver(life) }
    }

    pub(super) fn hold(&self) -> Arc<Life> {
        self.sender.0.clone()
    }

    /// The ends apart, for two tasks.
    pub fn split(self) -> (StreamSender, StreamReceiver) {
        (self.sender, self.receiver)
    }
}

/// The end that sends.
pub struct StreamSender(Arc<Life>);

impl StreamSender {
    /// Queues an item as soon as the other side takes more and there is room.
    ///
    /// # Errors
    /// The other side's failure; [`Status::Unavailable`] when the connection is over; [`Status::Misuse`] after
    /// [`StreamSender::finish`].
    pub async fn send(&mut self, item: &[u8]) -> Result<()> {
        let Life { core, id } = &*self.0;
        loop {
            poll_fn(|cx| {
                let mut state = core.state();
                let Some(stream) = state.streams.get_mut(id) else { return Poll::Ready(Err(Status::Closed.into())) };
                if stream.finished {
                    return Poll::Ready(Err(Error::new(Status::Misuse, "the stream is finished")));
                }
                if let Some(error) = stream.failure() {
                    return Poll::Ready(Err(error));
                }
                if stream.cancelled {
                    return Poll::Ready(Err(Error::new(Status::Cancelled, "the other side takes no more")));
                }
                if stream.credit > 0 {
                    return Poll::Ready(Ok(()));
                }
                stream.sender = Some(cx.waker().clone());
                Poll::Pending
            })
            .await?;
            core.room(item.len()).await?;
            let mut state = core.state();
            if !core.has_room(&state, item.len()) {
                continue;
            }
            core.send(&mut state, Kind::NetItem, *id, Method(0), 0, item)?;
            if let Some(stream) = state.streams.get_mut(id) {
                stream.credit = stream.credit.saturating_sub(1);
            }
            return Ok(());
        }
    }

    /// Nothing more comes from this side.
    pub fn finish(&mut self) {
        let Life { core, id } = &*self.0;
        let mut state = core.state();
        if let Some(stream) = state.streams.get_mut(id)
            && !std::mem::replace(&mut stream.finished, true)
        {
            core.owe(&mut state, Kind::NetFinish, *id, 0, &[]);
        }
    }
}

/// The end that receives.
pub struct StreamReceiver(Arc<Life>);

impl StreamReceiver {
    /// The next item, or `None` when the other side has finished. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The other side's failure, [`Status::Cancelled`] when it gave up, [`Status::Unavailable`] when the connection is over;
    /// what arrived before is given first.
    pub async fn recv(&mut self) -> Result<Option<Bytes>> {
        let Life { core, id } = &*self.0;
        let item = poll_fn(|cx| {
            let mut state = core.state();
            let Some(stream) = state.streams.get_mut(id) else { return Poll::Ready(Err(Status::Closed.into())) };
            if let Some(item) = stream.inbox.pop_front() {
                stream.owed += 1;
                if stream.owed >= WINDOW / 4 && stream.remote_end.is_none() {
                    let items = std::mem::take(&mut stream.owed);
                    stream.granted += items;
                    core.owe(&mut state, Kind::NetWindow, *id, items, &[]);
                }
                return Poll::Ready(Ok(Some(item)));
            }
            if let Some(end) = &stream.remote_end {
                return Poll::Ready(end.clone().map(|()| None));
            }
            stream.receiver = Some(cx.waker().clone());
            Poll::Pending
        })
        .await?;
        if let Some(item) = &item {
            core.taken(item.len());
        }
        Ok(item)
    }
}

/// Ends a served stream as its task says.
pub(super) fn conclude(life: &Life, how: &Result<()>) {
    let Life { core, id } = life;
    let (id, mut state) = (*id, core.state());
    let Some(stream) = state.streams.get_mut(&id) else { return };
    let finished = std::mem::replace(&mut stream.finished, true);
    match how {
        Ok(()) if finished => {}
        Ok(()) => core.owe(&mut state, Kind::NetFinish, id, 0, &[]),
        Err(error) => {
            stream.end(Err(error.clone()));
            core.owe(&mut state, Kind::NetFailure, id, 0, &frame::encode_error(error));
        }
    }
}
