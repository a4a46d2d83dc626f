//! The queue under the model checker: every interleaving of two who push, one who runs, and one who closes. What is left out is planted in
//! turn, and the checker has to notice.

#![allow(clippy::unwrap_used, clippy::panic)]
// The same file with other locks is the point.
#![allow(clippy::duplicate_mod)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use loom::sync::Arc;
use loom::sync::atomic::AtomicUsize;
use loom::sync::atomic::Ordering::SeqCst;
use loom::thread;

mod sync {
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
    pub(super) use std::sync::PoisonError;
}
#[path = "queue.rs"]
mod queue;
use queue::Queue;

const SOUND: u8 = 0;
/// Who closes does not look for what came after the thread's last look.
const NO_LAST_LOOK: u8 = 1;
/// What a closed queue gives back is run by nobody.
const DROPPED: u8 = 2;
/// The descriptor is raised once it is too late to be under the lock.
const RAISED_LATE: u8 = 3;
const PUSHERS: usize = 2;

struct World<const MISTAKE: u8> {
    queue: Queue<usize>,
    runs: [AtomicUsize; PUSHERS],
    /// Whether the descriptor is readable.
    readable: AtomicUsize,
}

impl<const MISTAKE: u8> World<MISTAKE> {
    fn new() -> Arc<Self> {
        let runs = [AtomicUsize::new(0), AtomicUsize::new(0)];
        Arc::new(World { queue: Queue::new(), runs, readable: AtomicUsize::new(0) })
    }

    fn run(&self, item: usize) {
        self.runs[item].fetch_add(1, SeqCst);
    }

    fn push(&self, item: usize) {
        let raise = || self.readable.store(1, SeqCst);
        let mut first = false;
        let pushed = self.queue.push(item, || if MISTAKE == RAISED_LATE { first = true } else { raise() });
        if first {
            raise();
        }
        if let Err(item) = pushed
            && MISTAKE != DROPPED
        {
            self.run(item);
        }
    }

    fn take(&self) -> bool {
        let item = self.queue.take(|| self.readable.store(0, SeqCst));
        item.inspect(|item| self.run(*item)).is_some()
    }
}

fn pushers<const MISTAKE: u8>(world: &Arc<World<MISTAKE>>) -> Vec<thread::JoinHandle<()>> {
    let one = |item| {
        let world = world.clone();
        thread::spawn(move || world.push(item))
    };
    (0..PUSHERS).map(one).collect()
}

fn check(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(run);
}

/// A thread runs what comes; the queue is closed while things come.
fn each_item_runs_once<const MISTAKE: u8>() {
    check(|| {
        let world = World::<MISTAKE>::new();
        let runner = {
            let world = world.clone();
            thread::spawn(move || {
                if MISTAKE == NO_LAST_LOOK {
                    // It leaves with the close, not with the last item.
                    return world.queue.wait().into_iter().for_each(|item| world.run(item));
                }
                while let Some(item) = world.queue.wait() {
                    world.run(item);
                }
            })
        };
        let pushers = pushers(&world);
        world.queue.close();
        runner.join().unwrap();
        while MISTAKE != NO_LAST_LOOK && world.take() {}
        pushers.into_iter().for_each(|t| t.join().unwrap());
        assert!(world.runs.iter().all(|runs| runs.load(SeqCst) == 1), "each accepted or given back, and run once");
    });
}

/// The host runs what comes when its descriptor is readable.
fn what_waits_is_readable<const MISTAKE: u8>() {
    check(|| {
        let world = World::<MISTAKE>::new();
        let pushers = pushers(&world);
        world.take();
        world.take();
        pushers.into_iter().for_each(|t| t.join().unwrap());
        let waits = world.runs.iter().any(|runs| runs.load(SeqCst) == 0);
        assert_eq!(world.readable.load(SeqCst) == 1, waits, "readable while something waits, and only then");
    });
}

#[test]
fn sound_with_a_thread() {
    each_item_runs_once::<SOUND>();
}

#[test]
fn sound_with_a_descriptor() {
    what_waits_is_readable::<SOUND>();
}

#[test]
fn each_mistake_is_found() {
    let found = |run: fn()| catch_unwind(AssertUnwindSafe(run)).is_err();
    assert!(found(each_item_runs_once::<NO_LAST_LOOK>), "no last look");
    assert!(found(each_item_runs_once::<DROPPED>), "dropped");
    assert!(found(what_waits_is_readable::<RAISED_LATE>), "raised late");
}
