//! Completions and events on their way to the host: one queue, run by a thread of ours or by the host's own.
//!
//! Source of the shape: librdkafka's queue with its three deliveries (callback thread, poll, event file descriptor).

use std::cell::Cell;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use once_cell::sync::OnceCell;

use super::event::Event;
use super::eventfd::EventFd;
use super::queue::Queue;
use crate::base::process;
use crate::base::{Error, Result, Status};

thread_local! {
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside a callback of the library.
pub fn in_callback() -> bool {
    IN_CALLBACK.get()
}

/// Refuses a call that could wait for the very callback it is made from.
pub(super) fn check_may_block() -> Result<()> {
    if in_callback() {
        return Err(Error::new(Status::WouldDeadlock, "a blocking call or a close inside a callback would wait for itself"));
    }
    Ok(())
}

/// A host's function for events.
pub type Listener = Box<dyn Fn(&Event) + Send + Sync>;

enum Item {
    Completion(Box<dyn FnOnce() + Send>),
    Event(Event),
}

struct Subscription {
    id: u64,
    alive: AtomicBool,
    /// Held while the listener runs, so that unsubscribing can wait for it.
    running: Mutex<()>,
    listener: Listener,
}

/// How items reach the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Thread,
    Fd,
}

struct Shared {
    queue: Queue<Item>,
    subscriptions: Mutex<Vec<Arc<Subscription>>>,
    /// Given in [`Mode::Fd`]: readable while the queue is not empty.
    fd: Option<EventFd>,
}

pub(super) struct Delivery {
    shared: Arc<Shared>,
    thread: OnceCell<Mutex<Option<JoinHandle<()>>>>,
    next_id: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Host code never runs under these locks, and ours leaves the data whole at every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Delivery {
    pub(super) fn new(mode: Mode) -> Result<Delivery> {
        let fd = match mode {
            Mode::Thread => None,
            Mode::Fd => Some(EventFd::new()?),
        };
        let shared = Shared { queue: Queue::new(), subscriptions: Mutex::default(), fd };
        Ok(Delivery { shared: Arc::new(shared), thread: OnceCell::new(), next_id: AtomicU64::new(1) })
    }

    /// Makes sure that what is pushed will be run; to be called before the first push that a host waits for.
    pub(super) fn start(&self) -> Result<()> {
        if self.shared.fd.is_some() {
            return Ok(());
        }
        self.thread.get_or_try_init(|| {
            let shared = self.shared.clone();
            process::spawn("tenure-deliver", move || shared.run()).map(|t| Mutex::new(Some(t)))
        })?;
        Ok(())
    }

    pub(super) fn complete(&self, f: Box<dyn FnOnce() + Send>) {
        self.shared.push(Item::Completion(f));
    }

    /// Queues an event; without listeners it costs a look at the list.
    pub(super) fn event(&self, event: Event) {
        if !lock(&self.shared.subscriptions).is_empty() {
            self.shared.push(Item::Event(event));
        }
    }

    pub(super) fn subscribe(&self, listener: Listener) -> Result<u64> {
        self.start()?;
        let id = self.next_id.fetch_add(1, SeqCst);
        let subscription = Subscription { id, alive: AtomicBool::new(true), running: Mutex::default(), listener };
        lock(&self.shared.subscriptions).push(Arc::new(subscription));
        Ok(id)
    }

    pub(super) fn unsubscribe(&self, id: u64) -> bool {
        let found = {
            let mut list = lock(&self.shared.subscriptions);
            list.iter().position(|s| s.id == id).map(|at| list.remove(at))
        };
        let Some(subscription) = found else { return false };
        subscription.alive.store(false, SeqCst);
        if !in_callback() {
            drop(lock(&subscription.running));
        }
        true
    }

    pub(super) fn fd(&self) -> Result<RawFd> {
        match &self.shared.fd {
            Some(fd) => Ok(fd.raw()),
            None => Err(Error::new(Status::Misuse, "the node was opened with delivery = thread")),
        }
    }

    /// Runs up to `max` items on the calling thread.
    pub(super) fn dispatch(&self, max: usize) -> Result<usize> {
        self.fd()?;
        check_may_block()?;
        let mut done = 0;
        while done < max {
            let Some(item) = self.shared.take() else { break };
            self.shared.run_one(item);
            done += 1;
        }
        Ok(done)
    }

    /// Runs what is queued (on its own thread, or here in [`Mode::Fd`]) and takes nothing more.
    pub(super) fn close(&self) {
        self.shared.queue.close();
        if let Some(slot) = self.thread.get() {
            let thread = lock(slot).take();
            if let Some(thread) = thread {
                // The thread catches the panics of what it runs; it cannot end in one.
                let _ = thread.join();
            }
        }
        while let Some(item) = self.shared.take() {
            self.shared.run_one(item);
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        // Not joined: the last owner may be the delivery thread itself, or a forked child that has no such thread.
        self.shared.queue.close();
    }
}

impl Shared {
    fn push(&self, item: Item) {
        let given_back = self.queue.push(item, || self.fd.iter().for_each(EventFd::raise));
        // Every accepted submit completes exactly once, even one that ends while the node closes.
        if let Err(item @ Item::Completion(_)) = given_back {
            self.run_one(item);
        }
    }

    fn take(&self) -> Option<Item> {
        self.queue.take(|| self.fd.iter().for_each(EventFd::lower))
    }

    fn run(&self) {
        while let Some(item) = self.queue.wait() {
            self.run_one(item);
        }
    }

    fn run_one(&self, item: Item) {
        let before = IN_CALLBACK.replace(true);
        let run = AssertUnwindSafe(|| match item {
            Item::Completion(f) => f(),
            Item::Event(event) => {
                let listeners = lock(&self.subscriptions).clone();
                for s in listeners {
                    let _running = lock(&s.running);
                    if s.alive.load(SeqCst) {
                        (s.listener)(&event);
                    }
                }
            }
        });
        if catch_unwind(run).is_err() {
            tracing::error!("a callback of the host panicked; the library goes on");
        }
        IN_CALLBACK.set(before);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    fn poisoned(n: usize) -> Event {
        Event::Poisoned { message: n.to_string() }
    }

    #[test]
    fn events_arrive_in_order_and_a_panicking_listener_stops_nothing() {
        let d = Delivery::new(Mode::Thread).unwrap();
        let (tx, rx) = mpsc::channel();
        d.subscribe(Box::new(move |e| {
            assert!(in_callback());
            tx.send(e.clone()).unwrap();
            if *e == poisoned(0) {
                panic!("host bug");
            }
        }))
        .unwrap();
        for n in 0..100 {
            d.event(poisoned(n));
        }
        for n in 0..100 {
            assert_eq!(rx.recv_timeout(Duration::from_secs(10)).unwrap(), poisoned(n));
        }
        d.close();
    }

    #[test]
    fn after_unsubscribe_nothing_is_called() {
        let d = Delivery::new(Mode::Thread).unwrap();
        let (tx, rx) = mpsc::sync_channel(0);
        let id = d.subscribe(Box::new(move |_| _ = tx.send(()))).unwrap();
        d.event(poisoned(0));
        d.event(poisoned(1));
        rx.recv().unwrap();
        drop(rx);
        assert!(d.unsubscribe(id));
        assert!(!d.unsubscribe(id));
        d.close();
    }

    #[test]
    fn the_descriptor_is_readable_while_something_waits() {
        let d = Delivery::new(Mode::Fd).unwrap();
        assert!(!EventFd::is_readable(d.fd().unwrap()));
        let (tx, rx) = mpsc::channel();
        for n in 0..3 {
            let tx = tx.clone();
            d.complete(Box::new(move || tx.send(n).unwrap()));
        }
        assert!(EventFd::is_readable(d.fd().unwrap()));
        assert_eq!(d.dispatch(2).unwrap(), 2);
        assert!(EventFd::is_readable(d.fd().unwrap()));
        assert_eq!(d.dispatch(9).unwrap(), 1);
        assert!(!EventFd::is_readable(d.fd().unwrap()));
        assert_eq!(rx.try_iter().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn a_completion_after_close_still_runs_once() {
        let d = Delivery::new(Mode::Thread).unwrap();
        d.close();
        let (tx, rx) = mpsc::channel();
        d.complete(Box::new(move || tx.send(()).unwrap()));
        rx.try_recv().unwrap();
        assert!(rx.try_recv().is_err());
    }
}
