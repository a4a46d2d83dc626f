//! How answers and events leave an engine: in order, one at a time, and with none of its locks held.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::{Error, Result};
use crate::ledger::{Event, Outcome};

use super::watch::Watches;
use super::{Completion, EventSink, OpId};

/// The requests that wait, and what is on its way out.
pub(crate) struct Delivery {
    sink: Arc<dyn EventSink>,
    parked: Mutex<HashMap<OpId, Vec<Completion>>>,
    outbox: Mutex<Outbox>,
    watches: Arc<Watches>,
}

#[derive(Default)]
struct Outbox {
    items: VecDeque<Item>,
    /// Somebody is delivering, and will deliver what is added.
    busy: bool,
}

enum Item {
    Event(Event),
    Answer(Completion, Result<Outcome>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing here is left half done by a panic: callbacks run without these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Delivery {
    pub(crate) fn new(sink: Arc<dyn EventSink>) -> Delivery {
        Delivery { sink, parked: Mutex::default(), outbox: Mutex::default(), watches: Arc::new(Watches::new()) }
    }

    pub(crate) fn sink(&self) -> &Arc<dyn EventSink> {
        &self.sink
    }

    /// Keeps `done` until the wait of this request ends. Call it while nothing can end that wait.
    pub(crate) fn park(&self, op: OpId, done: Completion) {
        lock(&self.parked).entry(op).or_default().push(done);
    }

    /// Whether this request is still waiting.
    pub(crate) fn is_parked(&self, op: OpId) -> bool {
        lock(&self.parked).contains_key(&op)
    }

    /// Puts events into the outbox. Call it while nothing can follow them, so that their order is that of the changes;
    /// then, without any lock, [`Delivery::deliver`].
    pub(crate) fn post(&self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let mut parked = lock(&self.parked);
        let mut outbox = lock(&self.outbox);
        for event in events {
            let (op, outcome) = match event {
                Event::Granted { session, req, token, remaining_ms } => {
                    (OpId { session, req }, Outcome::Granted { token, remaining_ms, depth: 1 })
                }
                Event::WaitEnded { session, req, why } => (OpId { session, req }, Outcome::WaitEnded(why)),
                Event::Lost { .. }
                | Event::SessionEnded { .. }
                | Event::Orch { .. }
                | Event::RevokeRequested { .. }
                | Event::Changed(_) => {
                    outbox.items.push_back(Item::Event(event));
                    continue;
                }
            };
            match parked.remove(&op) {
                Some(waiting) => outbox.items.extend(waiting.into_iter().map(|done| Item::Answer(done, Ok(outcome)))),
                None => outbox.items.push_back(Item::Event(event)),
            }
        }
    }

    /// Ends the wait of this request with this answer, if it is still waiting.
    pub(crate) fn answer(&self, op: OpId, answer: Result<Outcome>) {
        let waiting = lock(&self.parked).remove(&op).unwrap_or_default();
        let mut outbox = lock(&self.outbox);
        outbox.items.extend(waiting.into_iter().map(|done| Item::Answer(done, answer.clone())));
    }

    /// Puts an answer into the outbox, after what is in it.
    pub(crate) fn hand(&self, done: Completion, answer: Result<Outcome>) {
        lock(&self.outbox).items.push_back(Item::Answer(done, answer));
    }

    /// Who watches keys here.
    pub(crate) fn watches(&self) -> &Arc<Watches> {
        &self.watches
    }

    /// The engine has ended: so has every wait and every watch.
    pub(crate) fn end(&self, error: &Error) {
        self.fail(error);
        self.watches.end(error);
    }

    /// Ends every wait with this error.
    pub(crate) fn fail(&self, error: &Error) {
        let waiting: Vec<Completion> = lock(&self.parked).drain().flat_map(|(_, waiting)| waiting).collect();
        let mut outbox = lock(&self.outbox);
        outbox.items.extend(waiting.into_iter().map(|done| Item::Answer(done, Err(error.clone()))));
    }

    /// Delivers what is in the outbox, unless another thread (or a caller further up this one) is at it already.
    pub(crate) fn deliver(&self) {
        let mut outbox = lock(&self.outbox);
        if outbox.busy {
            return;
        }
        outbox.busy = true;
        drop(outbox);
        let _idle = Idle(self);
        loop {
            let Some(item) = lock(&self.outbox).pop() else { return };
            match item {
                Item::Event(Event::Changed(change)) => self.watches.feed(&change),
                Item::Event(event) => self.sink.event(event),
                Item::Answer(done, answer) => done(answer),
            }
        }
    }
}

impl Outbox {
    /// The next item; none means that the deliverer leaves, and nobody may add something in between.
    fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front();
        self.busy = item.is_some();
        item
    }
}

/// A callback that panics must not silence all that follow.
struct Idle<'a>(&'a Delivery);

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(&self.0.outbox).busy = false;
        }
    }
}
