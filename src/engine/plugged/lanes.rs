//! The threads on which a host's lock service is called. A call that hangs costs a thread of its lane, and nobody else waits for it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::{Result, process};

pub(super) type Job = Box<dyn FnOnce() + Send>;

/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(10);

/// What a lane is for, so that calls of one kind that hang do not keep those of another from being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Acquiring, releasing, asking.
    Calls,
    /// Renewals.
    Renewals,
    /// Waiting inside the service.
    Waits,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    idle: usize,
    threads: usize,
    stopped: bool,
}

struct Lane {
    name: &'static str,
    most: usize,
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Lane {
    fn new(name: &'static str, most: usize) -> Arc<Lane> {
        Arc::new(Lane { name, most, queue: Mutex::default(), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Jobs run without it; every step leaves it whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(self: &Arc<Lane>, job: Job) -> Result<()> {
        let mut queue = self.lock();
        if queue.stopped {
            return Ok(());
        }
        queue.jobs.push_back(job);
        if queue.jobs.len() > queue.idle && queue.threads < self.most {
            let lane = self.clone();
            match process::spawn(self.name, move || lane.run()) {
                Ok(_) => queue.threads += 1,
                // Those that are there will come to it.
                Err(error) if queue.threads > 0 => tracing::warn!(%error, "a thread for the lock service"),
                Err(error) => {
                    queue.jobs.pop_back();
                    return Err(error);
                }
            }
        }
        drop(queue);
        self.changed.notify_one();
        Ok(())
    }

    fn run(&self) {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                job();
                queue = self.lock();
                continue;
            }
            if queue.stopped {
                break;
            }
            queue.idle += 1;
            let nothing = |q: &mut Queue| q.jobs.is_empty() && !q.stopped;
            let (woken, slept) = self.changed.wait_timeout_while(queue, IDLE, nothing).unwrap_or_else(PoisonError::into_inner);
            queue = woken;
            queue.idle -= 1;
            if slept.timed_out() && queue.jobs.is_empty() {
                break;
            }
        }
        queue.threads -= 1;
        drop(queue);
        self.changed.notify_all();
    }

    /// Takes no more jobs, and forgets those that nobody has begun.
    fn stop(&self) {
        let forgotten = {
            let mut queue = self.lock();
            queue.stopped = true;
            std::mem::take(&mut queue.jobs)
        };
        drop(forgotten);
        self.changed.notify_all();
    }

    /// Waits for the threads to end; those that hang are left behind.
    fn wait(&self, most: Duration) {
        let running = |q: &mut Queue| q.threads > 0;
        drop(self.changed.wait_timeout_while(self.lock(), most, running).unwrap_or_else(PoisonError::into_inner));
    }
}

pub(super) struct Lanes {
    calls: Arc<Lane>,
    renewals: Arc<Lane>,
    waits: Arc<Lane>,
}

impl Lanes {
    pub(super) fn new() -> Lanes {
        Lanes { calls: Lane::new("tenure-plug", 64), renewals: Lane::new("tenure-plug-rnw", 32), waits: Lane::new("tenure-plug-wt", 128) }
    }

    fn lane(&self, kind: Kind) -> &Arc<Lane> {
        match kind {
            Kind::Calls => &self.calls,
            Kind::Renewals => &self.renewals,
            Kind::Waits => &self.waits,
        }
    }

    /// # Errors
    /// [`crate::base::Status::Io`] when the system gives no thread and there is none.
    pub(super) fn submit(&self, kind: Kind, job: Job) -> Result<()> {
        self.lane(kind).submit(job)
    }

    /// Whether a thread can be had for another wait.
    pub(super) fn may_wait(&self) -> bool {
        let queue = self.waits.lock();
        queue.jobs.len() < queue.idle + (self.waits.most - queue.threads)
    }

    pub(super) fn stop(&self) {
        [&self.calls, &self.renewals, &self.waits].into_iter().for_each(|lane| lane.stop());
    }

    /// After [`Lanes::stop`]: waits at most `most` for each kind of call in progress.
    pub(super) fn wait(&self, most: Duration) {
        [&self.calls, &self.renewals, &self.waits].into_iter().for_each(|lane| lane.wait(most));
    }
}
