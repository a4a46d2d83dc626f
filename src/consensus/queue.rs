//! Operations on their way into the log: those that wait to be proposed, and those whose proposal is under way.
//!
//! Both are bounded, and every operation has a deadline at which it is answered whatever happens.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::core::now;
use crate::base::{Error, Result, Status};
use crate::ledger::{Outcome, Request};

/// Told once how an operation ended, on the consensus thread or on the one that submitted it. Must not block.
pub type Done = Box<dyn FnOnce(Result<Outcome>) + Send>;

/// Most operations in one entry.
const BATCH_OPS: usize = 1024;
/// About how many bytes of operations are put into one entry.
const BATCH_BYTES: usize = 256 << 10;
/// What was put back is not tried again sooner than this: a leader without its majority refuses at once.
const PAUSE: Duration = Duration::from_millis(3);

/// An operation and who waits for its answer.
pub(super) struct Pending {
    pub request: Request,
    pub bytes: usize,
    pub waiting: Waiting,
}

/// Who waits for an operation's answer.
pub(super) struct Waiting {
    pub deadline: Instant,
    /// A release may be answered as soon as the leader has given it its place in the log, before that is on any disk. Who asks for
    /// it sees to it that a release which is lost then is made again.
    pub early: bool,
    pub done: Done,
}

/// Operations that were taken out together, in order.
pub(super) struct Batch {
    pub requests: Vec<Request>,
    /// Who waits for each. Gone when answered already.
    waiting: Vec<Option<Waiting>>,
}

impl Batch {
    /// A batch that nobody waits for.
    pub fn of(request: Request) -> Batch {
        Batch { requests: vec![request], waiting: vec![None] }
    }

    /// Answers each operation.
    pub fn answer(self, results: impl IntoIterator<Item = Result<Outcome>>) {
        let mut results = results.into_iter();
        for waiting in self.waiting {
            let result = results.next();
            if let Some(Waiting { done, .. }) = waiting {
                done(result.unwrap_or_else(|| Err(Error::new(Status::Internal, "an operation was applied without an answer"))));
            }
        }
    }

    pub fn fail(self, error: &Error) {
        for waiting in self.waiting.into_iter().flatten() {
            (waiting.done)(Err(error.clone()));
        }
    }

    /// For each operation whether its release may be answered early.
    pub fn early(&self) -> Vec<bool> {
        self.waiting.iter().map(|w| w.as_ref().is_some_and(|w| w.early)).collect()
    }

    /// Has releases wait for their commit after all unless `keep` says that they will succeed.
    pub fn settle_early(&mut self, keep: impl Fn(&Request) -> bool) {
        for (request, waiting) in self.requests.iter().zip(&mut self.waiting) {
            if let Some(waiting) = waiting {
                waiting.early = waiting.early && keep(request);
            }
        }
    }

    fn fail_late(&mut self, now: Instant, error: &Error) {
        for waiting in &mut self.waiting {
            if waiting.as_ref().is_some_and(|w| w.deadline <= now)
                && let Some(waiting) = waiting.take()
            {
                (waiting.done)(Err(error.clone()));
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.waiting.iter().flatten().map(|w| w.deadline).min()
    }

    #[cfg(test)]
    fn is_answered(&self) -> bool {
        self.waiting.iter().all(Option::is_none)
    }
}

/// Bounds of what waits.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most operations that wait to be proposed.
    pub ops: usize,
    /// Most bytes of them, about.
    pub bytes: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { ops: 65_536, bytes: 32 << 20 }
    }
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Pending>,
    bytes: usize,
    under_way: BTreeMap<u64, Batch>,
    last: u64,
    /// Nothing is taken out before.
    held: Option<Instant>,
    ended: Option<Error>,
}

/// The operations of one node.
pub(super) struct Queue {
    inner: Mutex<Inner>,
    bounds: Bounds,
    /// Something has come, or has ended.
    pub stirred: Notify,
}

impl Queue {
    pub fn new(bounds: Bounds) -> Queue {
        Queue { inner: Mutex::default(), bounds, stirred: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No callback runs under this lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an operation in, or says at once why not. `early`: see [`Waiting::early`].
    pub fn submit(&self, request: Request, timeout: Duration, early: bool, done: Done) {
        let bytes = request.weight();
        let mut inner = self.lock();
        let refused = if let Some(error) = &inner.ended {
            error.clone()
        } else if inner.waiting.len() >= self.bounds.ops {
            Error::new(Status::Limit, format!("{} operations wait already, which is the limit", self.bounds.ops))
        } else if inner.bytes + bytes > self.bounds.bytes {
            Error::new(Status::Limit, format!("{} bytes of operations wait already, limit {}", inner.bytes, self.bounds.bytes))
        } else {
            let first = inner.waiting.is_empty();
            inner.bytes += bytes;
            inner.waiting.push_back(Pending { request, bytes, waiting: Waiting { deadline: now() + timeout, early, done } });
            drop(inner);
            if first {
                self.stirred.notify_one();
            }
            return;
        };
        drop(inner);
        done(Err(refused));
    }

    /// Until when nothing is to be tried, if that is later than now.
    pub fn held(&self) -> Option<Instant> {
        self.lock().held.filter(|h| *h > now())
    }

    /// How many batches are under way.
    pub fn under_way(&self) -> usize {
        self.lock().under_way.len()
    }

    /// Operations that wait, and those under way.
    pub fn counts(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.waiting.len(), inner.under_way.values().map(|b| b.requests.len()).sum())
    }

    /// What has gathered, up to one entry's worth.
    pub fn take(&self) -> Option<Batch> {
        let mut inner = self.lock();
        let (mut batch, mut bytes) = (Batch { requests: Vec::new(), waiting: Vec::new() }, 0);
        while let Some(next) = inner.waiting.front() {
            let full = batch.requests.len() >= BATCH_OPS || bytes + next.bytes > BATCH_BYTES;
            if full && !batch.requests.is_empty() {
                break;
            }
            if let Some(next) = inner.waiting.pop_front() {
                inner.bytes -= next.bytes;
                bytes += next.bytes;
                batch.requests.push(next.request);
                batch.waiting.push(Some(next.waiting));
            }
        }
        (!batch.requests.is_empty()).then_some(batch)
    }

    /// Keeps a batch while it is under way; the number gets it back.
    pub fn set_off(&self, batch: Batch) -> u64 {
        let mut inner = self.lock();
        inner.last += 1;
        let number = inner.last;
        inner.under_way.insert(number, batch);
        number
    }

    /// A batch has its place in the leader's log: answers the releases that may be answered now.
    pub fn ordered(&self, number: u64) {
        let mut inner = self.lock();
        let Some(batch) = inner.under_way.get_mut(&number) else { return };
        let early: Vec<Waiting> = batch.waiting.iter_mut().filter_map(|w| w.take_if(|w| w.early)).collect();
        drop(inner);
        for waiting in early {
            (waiting.done)(Ok(Outcome::Released { left: 0 }));
        }
    }

    /// A batch that was under way; gone when the queue has ended meanwhile.
    pub fn arrive(&self, number: u64) -> Option<Batch> {
        let batch = self.lock().under_way.remove(&number);
        self.stirred.notify_one();
        batch
    }

    /// Puts back what was certainly not applied, and of what may have been applied that which may be repeated; the rest fails.
    pub fn put_back(&self, batch: Batch, maybe_applied: bool) {
        let mut lost = Vec::new();
        let mut inner = self.lock();
        inner.held = Some(now() + PAUSE);
        let ended = inner.ended.clone();
        let pairs: Vec<_> = batch.requests.into_iter().zip(batch.waiting).collect();
        for (request, waiting) in pairs.into_iter().rev() {
            let Some(waiting) = waiting else { continue };
            if ended.is_some() || (maybe_applied && !request.may_repeat()) {
                lost.push(waiting.done);
                continue;
            }
            let bytes = request.weight();
            inner.bytes += bytes;
            inner.waiting.push_front(Pending { request, bytes, waiting });
        }
        drop(inner);
        let error = ended.unwrap_or_else(|| unavailable("the leader changed; whether the operation was applied is not known"));
        for done in lost.into_iter().rev() {
            done(Err(error.clone()));
        }
    }

    /// Answers everything whose time is over. Says when to look again.
    pub fn sweep(&self) -> Option<Instant> {
        let now = now();
        let mut late = Vec::new();
        let mut inner = self.lock();
        let mut nearest: Option<Instant> = None;
        let mut near = |at: Instant| nearest = Some(nearest.map_or(at, |n| n.min(at)));
        if inner.waiting.iter().any(|p| p.waiting.deadline <= now) {
            let (gone, kept) = std::mem::take(&mut inner.waiting).into_iter().partition::<Vec<_>, _>(|p| p.waiting.deadline <= now);
            inner.waiting = kept.into();
            inner.bytes -= gone.iter().map(|p| p.bytes).sum::<usize>();
            late = gone;
        }
        inner.waiting.iter().for_each(|p| near(p.waiting.deadline));
        let overdue: Vec<u64> = inner.under_way.iter().filter(|(_, b)| b.deadline().is_some_and(|d| d <= now)).map(|(n, _)| *n).collect();
        let mut partly: Vec<(u64, Batch)> = overdue.into_iter().filter_map(|n| inner.under_way.remove(&n).map(|b| (n, b))).collect();
        inner.under_way.values().filter_map(Batch::deadline).for_each(&mut near);
        drop(inner);
        let error = unavailable("no leader could be reached in time; the operation was not applied");
        late.into_iter().for_each(|p| (p.waiting.done)(Err(error.clone())));
        let error = unavailable("no majority has answered in time; whether the operation was applied is not known");
        for (_, batch) in &mut partly {
            batch.fail_late(now, &error);
        }
        let mut inner = self.lock();
        let ended = inner.ended.clone();
        for (number, batch) in partly {
            if let Some(error) = &ended {
                batch.fail(error);
                continue;
            }
            batch.deadline().into_iter().for_each(&mut near);
            // Even when nobody waits any more, it counts as under way until its end is known.
            inner.under_way.insert(number, batch);
        }
        nearest
    }

    /// Ends the queue: everything there and everything later gets this error.
    pub fn end(&self, error: &Error) {
        let mut inner = self.lock();
        inner.ended.get_or_insert_with(|| error.clone());
        let (waiting, under_way) = (std::mem::take(&mut inner.waiting), std::mem::take(&mut inner.under_way));
        inner.bytes = 0;
        drop(inner);
        for batch in under_way.into_values() {
            batch.fail(error);
        }
        for pending in waiting {
            (pending.waiting.done)(Err(error.clone()));
        }
        self.stirred.notify_one();
    }
}

/// What a caller hears of a leader that could not be asked: between members [`Status::Io`] says that the question was never sent.
pub(super) fn unreached(error: Error) -> Error {
    if error.status() == Status::Io { unavailable(error.message().to_owned()) } else { error }
}

pub(super) fn unavailable(why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Status::Unavailable, why)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ledger::Op;
    use std::sync::mpsc::{Receiver, channel};

    fn request(seq: u64, op: Op) -> Request {
        Request { session: crate::base::SessionId(1), seq, op }
    }

    fn submit(queue: &Queue, request: Request, timeout_ms: u64) -> Receiver<Result<Outcome>> {
        let (tell, told) = channel();
        queue.submit(request, Duration::from_millis(timeout_ms), false, Box::new(move |r| tell.send(r).unwrap()));
        told
    }

    #[test]
    fn a_full_queue_refuses() {
        let queue = Queue::new(Bounds { ops: 2, bytes: 1 << 20 });
        let _waiting = [submit(&queue, request(1, Op::Tick), 9_000), submit(&queue, request(2, Op::Tick), 9_000)];
        assert_eq!(submit(&queue, request(3, Op::Tick), 9_000).recv().unwrap().unwrap_err().status(), Status::Limit);
    }

    #[test]
    fn what_is_uncertain_is_repeated_only_if_it_may_be() {
        let queue = Queue::new(Bounds::default());
        let once = submit(&queue, request(0, Op::ReleaseAll), 9_000);
        let twice = submit(&queue, request(7, Op::ReleaseAll), 9_000);
        queue.put_back(queue.take().unwrap(), true);
        assert_eq!(once.recv().unwrap().unwrap_err().status(), Status::Unavailable);
        let again = queue.take().unwrap();
        assert_eq!(again.requests.len(), 1);
        again.answer([Ok(Outcome::Ticked)]);
        assert_eq!(twice.recv().unwrap().unwrap(), Outcome::Ticked);
    }

    #[test]
    fn order_survives_putting_back() {
        let queue = Queue::new(Bounds::default());
        let _waiting: Vec<_> = (1..=3).map(|seq| submit(&queue, request(seq, Op::Tick), 9_000)).collect();
        queue.put_back(queue.take().unwrap(), false);
        assert_eq!(queue.take().unwrap().requests.iter().map(|r| r.seq).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn deadlines_are_kept_before_and_after_proposing() {
        let queue = Queue::new(Bounds::default());
        let under_way = submit(&queue, request(1, Op::Tick), 100);
        let number = queue.set_off(queue.take().unwrap());
        let waiting = submit(&queue, request(2, Op::Tick), 50);
        tokio::time::advance(Duration::from_millis(60)).await;
        assert_eq!(queue.sweep().unwrap(), Instant::now() + Duration::from_millis(40));
        assert_eq!(waiting.try_recv().unwrap().unwrap_err().status(), Status::Unavailable);
        assert!(under_way.try_recv().is_err());
        tokio::time::advance(Duration::from_millis(60)).await;
        assert_eq!(queue.sweep(), None);
        assert_eq!(under_way.try_recv().unwrap().unwrap_err().status(), Status::Unavailable);
        assert!(queue.arrive(number).unwrap().is_answered());
    }

    #[test]
    fn an_ended_queue_answers_everybody() {
        let queue = Queue::new(Bounds::default());
        let under_way = submit(&queue, request(1, Op::Tick), 9_000);
        queue.set_off(queue.take().unwrap());
        let waiting = submit(&queue, request(2, Op::Tick), 9_000);
        queue.end(&Status::Closed.into());
        for told in [under_way, waiting, submit(&queue, request(3, Op::Tick), 9_000)] {
            assert_eq!(told.recv().unwrap().unwrap_err().status(), Status::Closed);
        }
    }
}
