//! The log as openraft sees it, and the one thread that writes it.
//!
//! What is changed is changed in the [`Index`] at once, under its lock, and handed to the writer in the same order. The writer
//! takes all that has gathered, writes it with one call, syncs once, and only then tells those who asked. Votes go the same way.
//! The first failure ends the log: everybody who waits and everybody who comes later is told, and the node's part in the
//! cluster is over until it is opened again.

use crate::base::planted::planted;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{
    AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{EntryPayload, LogState, OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use super::form::{self, Ballot, Place};
use super::journal::{Found, Index};
use super::types::{Command, Config, Entry, LogId, Vote};
use crate::base::{Error, Result, Status, process};
use crate::store::LogStore;

#[cfg(test)]
#[path = "simulated_sight.rs"]
pub(super) mod sight;

/// Most bytes of entries in one answer to who reads the log.
const READ_BUDGET: usize = 1 << 20;
/// Most bytes of entries in one answer to who replays the log.
const REPLAY_BUDGET: usize = 8 << 20;
/// What is committed is written down after so many entries.
const MARK_EVERY: u64 = 64;
/// Most records that are written together.
const GROUP: usize = 4096;
/// Most bytes that a lone member's consensus thread writes itself.
const SMALL: usize = 768;

type Tell = Box<dyn FnOnce(&Result<()>) + Send>;
type TellRecords = Box<dyn FnOnce(Result<Vec<Bytes>>) + Send>;

enum Job {
    /// Writes these records and syncs; the last number that is no longer needed afterwards may be given up.
    Write {
        records: Vec<Bytes>,
        give_up: Option<u64>,
        tell: Tell,
    },
    Read {
        numbers: Vec<u64>,
        tell: TellRecords,
    },
    Close {
        tell: Tell,
    },
}

/// Where jobs go.
#[derive(Debug)]
enum Writer {
    Thread(Thread),
    /// The caller does it: for simulations, which have one thread, and for clusters of one.
    Inline(Box<Writing>),
}

/// The thread that writes, and what it shares with who sometimes writes in its place.
#[derive(Debug)]
struct Thread {
    jobs: Sender<Job>,
    writing: Arc<Mutex<Writing>>,
    /// Jobs that it has not finished.
    pending: Arc<AtomicUsize>,
    /// No other member waits for this one, so that the caller may write itself.
    alone: bool,
}

impl Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}

struct Inner {
    index: Index,
    writer: Writer,
    /// Entries since what is committed was last written down.
    unmarked: u64,
    /// Told which batches of this node's have their place in the log.
    order: Option<OnOrder>,
}

/// See [`Log::on_order`].
pub(super) type OnOrder = Arc<dyn Fn(u64) + Send + Sync>;

/// The log of this node. Clones are the same log.
#[derive(Clone)]
pub(super) struct Log(Arc<Mutex<Inner>>);

impl Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("last", &self.lock().index.last()).finish_non_exhaustive()
    }
}

fn to_io(e: &Error) -> io::Error {
    match e.os_errno() {
        0 => io::Error::other(e.to_string()),
        errno => io::Error::new(io::Error::from_raw_os_error(errno).kind(), e.to_string()),
    }
}

impl Log {
    /// Reads a log and starts its writer; `inline` starts no thread.
    pub fn open(store: Box<dyn LogStore>, inline: bool) -> Result<(Log, Option<JoinHandle<()>>)> {
        let index = Index::load(store.as_ref())?;
        let writing = Writing {
            #[cfg(test)]
            synced: sight::Synced::read(&index, store.as_ref()),
            store,
            dead: None,
            preparing: Vec::new(),
        };
        if inline {
            return Ok((Log::of(index, Writer::Inline(Box::new(writing))), None));
        }
        let (jobs, queue) = channel();
        let (writing, pending) = (Arc::new(Mutex::new(writing)), Arc::new(AtomicUsize::new(0)));
        let shared = (writing.clone(), pending.clone());
        let thread = process::spawn("tenure-log", move || run(&shared.0, &shared.1, &queue))?;
        Ok((Log::of(index, Writer::Thread(Thread { jobs, writing, pending, alone: false })), Some(thread)))
    }

    fn of(index: Index, writer: Writer) -> Log {
        Log(Arc::new(Mutex::new(Inner { index, writer, unmarked: 0, order: None })))
    }

    /// Has `tell` called with each [`super::types::Command::batch`] that has its place in the log, on the consensus thread.
    pub fn on_order(&self, tell: OnOrder) {
        self.lock().order = Some(tell);
    }

    /// Says whether this node is the only member: then who appends a little writes it too, which saves two changes of thread.
    pub fn set_alone(&self, alone: bool) {
        if let Writer::Thread(thread) = &mut self.lock().writer {
            thread.alone = alone;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last entry, and the last one known to be committed.
    pub fn ends(&self) -> (Option<Place>, Option<Place>) {
        let inner = self.lock();
        (inner.index.last(), inner.index.marks.committed)
    }

    /// The vote that is stored.
    pub fn vote(&self) -> Option<Ballot> {
        self.lock().index.marks.vote
    }

    /// Calls `tell` with the records of the entries in `start..end` that there are, at most about `budget` bytes of them.
    fn fetch(&self, start: u64, end: u64, budget: usize, tell: TellRecords) {
        let mut inner = self.lock();
        let found = inner.index.find(start, end, budget);
        let numbers: Vec<u64> = found.iter().filter_map(|f| if let Found::Stored(n) = f { Some(*n) } else { None }).collect();
        let merge = move |stored: Result<Vec<Bytes>>| {
            stored.map(|stored| {
                let mut stored = stored.into_iter();
                let take = |f| match f {
                    Found::Cached(bytes) => Some(bytes),
                    Found::Stored(_) => stored.next(),
                };
                found.into_iter().filter_map(take).collect()
            })
        };
        if numbers.is_empty() {
            drop(inner);
            tell(merge(Ok(Vec::new())));
        } else {
            inner.writer.give(Job::Read { numbers, tell: Box::new(move |stored| tell(merge(stored))) });
        }
    }

    /// The records of entries `start..end`, at least one and not too many. Blocks; not for the consensus thread.
    pub fn read_blocking(&self, start: u64, end: u64) -> Result<Vec<Bytes>> {
        let (tell, told) = channel();
        self.fetch(start, end, REPLAY_BUDGET, Box::new(move |records| drop(tell.send(records))));
        told.recv().unwrap_or_else(|_| Err(Error::new(Status::Poisoned, "the log's thread has ended")))
    }

    async fn read(&self, start: u64, end: u64, budget: usize) -> io::Result<Vec<Entry>> {
        let (tell, told) = oneshot::channel();
        self.fetch(start, end, budget, Box::new(move |records| drop(tell.send(records))));
        let records = told.await.map_err(io::Error::other)?.map_err(|e| to_io(&e))?;
        records.iter().map(|r| form::entry(r).map_err(|e| to_io(&e))).collect()
    }

    /// Writes the marks as `change` leaves them, and waits until that is durable.
    async fn mark(&self, give_up: bool, change: impl FnOnce(&mut Index)) -> io::Result<()> {
        let (tell, told) = oneshot::channel();
        let tell: Tell = Box::new(move |done| drop(tell.send(done.clone())));
        {
            let mut inner = self.lock();
            change(&mut inner.index);
            let (record, unneeded) = inner.index.state_record().map_err(|e| to_io(&e))?;
            inner.writer.give(Job::Write { records: vec![record], give_up: give_up.then_some(unneeded), tell });
        }
        told.await.map_err(io::Error::other)?.map_err(|e| to_io(&e))
    }

    /// Ends the log in good order; the writer's thread leaves.
    pub fn close(&self) -> Result<()> {
        let (tell, told) = channel();
        self.lock().writer.give(Job::Close { tell: Box::new(move |done| drop(tell.send(done.clone()))) });
        told.recv().unwrap_or_else(|_| Err(Error::new(Status::Poisoned, "the log's thread has ended")))
    }
}

impl RaftLogReader<Config> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(&mut self, range: RB) -> io::Result<Vec<Entry>> {
        let start = match range.start_bound() {
            Bound::Included(at) => *at,
            Bound::Excluded(at) => at + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(at) => at + 1,
            Bound::Excluded(at) => *at,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, READ_BUDGET).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.vote().map(Vote::from))
    }
}

impl RaftLogStorage<Config> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> io::Result<LogState<Config>> {
        let inner = self.lock();
        Ok(LogState { last_purged_log_id: inner.index.marks.purged.map(LogId::from), last_log_id: inner.index.last().map(LogId::from) })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        if planted!("vote-not-stored") {
            return Ok(());
        }
        self.mark(false, |index| index.marks.vote = Some(vote.into())).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        // It is written with the entries that come later, now and then: what a restart does not find it learns from the leader.
        self.lock().index.marks.committed = committed.map(Place::from);
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.lock().index.marks.committed.map(LogId::from))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Config>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut inner = self.lock();
        let (mut records, mut batches) = (Vec::new(), Vec::new());
        for entry in entries {
            let record = form::record(&entry).map_err(|e| to_io(&e))?;
            inner.index.push(entry.log_id.into(), record.clone()).map_err(|e| to_io(&e))?;
            records.push(record);
            if let EntryPayload::Normal(Command { batch: batch @ 1.., .. }) = entry.payload {
                batches.push(batch);
            }
        }
        inner.unmarked += records.len() as u64;
        if inner.unmarked >= MARK_EVERY {
            inner.unmarked = 0;
            records.push(inner.index.state_record().map_err(|e| to_io(&e))?.0);
        }
        let tell: Tell = Box::new(move |done| callback.io_completed(done.clone().map_err(|e| to_io(&e))));
        if let Some(order) = inner.order.clone().filter(|_| !batches.is_empty()) {
            drop(inner);
            // Their place is theirs whatever becomes of the writing: what comes later comes after them.
            batches.into_iter().for_each(|batch| order(batch));
            inner = self.lock();
        }
        inner.writer.give(Job::Write { records, give_up: None, tell });
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.mark(false, |index| index.truncate(last.map_or(0, |l| l.index + 1))).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.mark(true, |index| index.purge(upto.into())).await
    }
}

impl Debug for Writing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writing").field("dead", &self.dead).finish_non_exhaustive()
    }
}

/// The writer's own.
struct Writing {
    store: Box<dyn LogStore>,
    dead: Option<Error>,
    /// Threads that make the next segment. They write to the directory, so none may outlive the log.
    preparing: Vec<JoinHandle<()>>,
    #[cfg(test)]
    synced: sight::Synced,
}

impl Writer {
    fn give(&mut self, job: Job) {
        match self {
            Writer::Inline(writing) => writing.work(vec![job]),
            // Without a receiver the job is dropped, and with it the other end of every answer.
            Writer::Thread(thread) => thread.give(job),
        }
    }
}

impl Thread {
    fn give(&self, job: Job) {
        // Jobs are given under one lock: with none pending there is none before this one.
        if self.alone && job.is_small() && self.pending.load(Acquire) == 0 {
            let mut writing = lock(&self.writing);
            writing.work(vec![job]);
            prepare(&mut writing);
        } else {
            self.pending.fetch_add(1, Relaxed);
            drop(self.jobs.send(job));
        }
    }
}

impl Job {
    /// Whether there is little that others would gather behind.
    fn is_small(&self) -> bool {
        matches!(self, Job::Write { records, give_up: None, .. } if records.iter().map(Bytes::len).sum::<usize>() <= SMALL)
    }
}

fn lock(writing: &Mutex<Writing>) -> MutexGuard<'_, Writing> {
    writing.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has the next segment made while this one is being filled.
fn prepare(writing: &mut Writing) {
    if let Some(upkeep) = writing.store.upkeep() {
        // Without a thread the log prepares the space itself when it comes to need it.
        let prepared = process::spawn("tenure-log-prep", move || {
            if let Err(error) = upkeep.run() {
                tracing::warn!(%error, "no space was prepared for the log");
            }
        });
        writing.preparing.retain(|thread| !thread.is_finished());
        writing.preparing.extend(prepared.ok());
    }
}

fn run(writing: &Mutex<Writing>, pending: &AtomicUsize, queue: &Receiver<Job>) {
    let mut closed = false;
    while !closed {
        let Ok(first) = queue.recv() else { return };
        let mut jobs = vec![first];
        while jobs.len() < GROUP
            && let Ok(job) = queue.try_recv()
        {
            jobs.push(job);
        }
        closed = jobs.iter().any(|j| matches!(j, Job::Close { .. }));
        let done = jobs.len();
        let mut writing = lock(writing);
        writing.work(jobs);
        if !closed {
            prepare(&mut writing);
        }
        drop(writing);
        pending.fetch_sub(done, Release);
    }
}

impl Writing {
    fn work(&mut self, jobs: Vec<Job>) {
        let (mut records, mut tells, mut give_up) = (Vec::new(), Vec::new(), None);
        for job in jobs {
            match job {
                Job::Write { records: more, give_up: upto, tell } => {
                    records.extend(more);
                    tells.push(tell);
                    give_up = give_up.max(upto);
                }
                Job::Read { numbers, tell } => {
                    self.flush(&mut records, &mut tells, &mut give_up);
                    tell(self.read(&numbers));
                }
                Job::Close { tell } => {
                    self.flush(&mut records, &mut tells, &mut give_up);
                    for thread in self.preparing.drain(..) {
                        // One that panicked has nothing more to do either.
                        drop(thread.join());
                    }
                    let done = match &self.dead {
                        None => self.store.close(),
                        Some(e) => Err(e.clone()),
                    };
                    tell(&done);
                }
            }
        }
        self.flush(&mut records, &mut tells, &mut give_up);
    }

    fn flush(&mut self, records: &mut Vec<Bytes>, tells: &mut Vec<Tell>, give_up: &mut Option<u64>) {
        let done = self.write(&std::mem::take(records), give_up.take());
        if let Err(error) = &done
            && self.dead.is_none()
        {
            tracing::error!(%error, "the log failed; this node's part in the cluster is over until it is opened again");
            self.dead = Some(error.clone());
        }
        for tell in tells.drain(..) {
            tell(&done);
        }
    }

    fn write(&mut self, records: &[Bytes], give_up: Option<u64>) -> Result<()> {
        if let Some(error) = &self.dead {
            return Err(error.clone());
        }
        if !records.is_empty() {
            let records: Vec<&[u8]> = records.iter().map(|r| &r[..]).collect();
            self.store.append(self.store.last_index() + 1, &records)?;
            if !planted!("replica-acknowledges-before-sync") {
                self.store.sync()?;
                #[cfg(test)]
                self.synced.add(self.store.last_index(), &records);
            }
        }
        match give_up {
            Some(upto) if upto >= self.store.first_index() => self.store.purge_upto(upto),
            _ => Ok(()),
        }
    }

    fn read(&self, numbers: &[u64]) -> Result<Vec<Bytes>> {
        let mut records = Vec::with_capacity(numbers.len());
        let (Some(&first), Some(&last)) = (numbers.first(), numbers.last()) else { return Ok(records) };
        // One pass over all of it: between entries there are only a few records of other kinds.
        let mut wanted = numbers.iter().peekable();
        self.store.read(first..=last, &mut |number, bytes| {
            if wanted.next_if(|w| **w == number).is_some() {
                records.push(Bytes::copy_from_slice(bytes));
            }
            Ok(())
        })?;
        Ok(records)
    }
}
