//! What a simulation's judge sees of a member's log and votes, and of those that a disk without a member holds. It changes nothing.

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;

use super::super::form::{self, STATE};
use super::super::journal::{Index, Marks};
use super::super::node::Access;
use super::super::snapshot;
use super::{Log, Result, Writer, lock};
use crate::base::codec::{self, Kind};
use crate::store::{LogStore, StateStore};

/// What is on disk for certain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Synced {
    /// Number of the last record.
    number: u64,
    marks: Marks,
}

impl Synced {
    /// A log that has just been read is on disk: opening it sees to that.
    pub fn read(index: &Index, store: &dyn LogStore) -> Synced {
        Synced { number: store.last_index(), marks: index.marks }
    }

    /// These records were synced, the last of which has this number.
    pub fn add(&mut self, number: u64, records: &[&[u8]]) {
        self.number = number;
        let state = records.iter().rev().find(|record| record.first() == Some(&STATE));
        if let Some(marks) = state.and_then(|record| codec::decode::<Marks>(Kind::Meta, &record[1..], usize::MAX).ok()) {
            self.marks = marks;
        }
    }
}

/// Where an entry stands, and who led when it was proposed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub term: u64,
    pub leader: u64,
    pub index: u64,
}

impl Place {
    pub(in super::super) fn of(p: form::Place) -> Place {
        Place { term: p.term, leader: p.leader, index: p.index }
    }
}

/// A vote, given or won; in the order of votes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ballot {
    pub term: u64,
    pub node: u64,
    pub won: bool,
}

impl Ballot {
    fn of(b: form::Ballot) -> Ballot {
        Ballot { term: b.term, node: b.node, won: b.won }
    }
}

/// What one member says of itself. Of places in the log the index after them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sight {
    pub number: u64,
    pub leads: bool,
    pub term: u64,
    /// The vote that it takes for stored.
    pub vote: Ballot,
    pub purged: u64,
    pub snapshot: u64,
    pub applied: u64,
    pub committed: u64,
    pub end: u64,
}

/// What a disk holds for certain.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    pub vote: Ballot,
    /// Index after the entries that are only in the snapshot.
    pub purged: u64,
    /// Index after the last entry.
    pub end: u64,
}

/// A log, entry by entry. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct LogView(Log);

impl LogView {
    pub(in super::super) fn of(log: &Log) -> LogView {
        LogView(log.clone())
    }

    /// The log on a disk, and up to where its snapshot is (the index after it).
    pub fn of_disk(log: Box<dyn LogStore>, state: &dyn StateStore) -> Result<(LogView, u64)> {
        let (log, _) = Log::open(log, true)?;
        let snapshot = snapshot::stored_about(state)?.map_or(0, |about| about.last.index + 1);
        Ok((LogView(log), snapshot))
    }

    pub fn held(&self) -> Held {
        let inner = self.0.lock();
        let synced = match &inner.writer {
            Writer::Inline(writing) => writing.synced,
            Writer::Thread(thread) => lock(&thread.writing).synced,
        };
        Held {
            vote: Ballot::of(synced.marks.vote.unwrap_or_default()),
            purged: synced.marks.purged.map_or(0, |p| p.index + 1),
            end: inner.index.end_upto(synced.number),
        }
    }

    /// The entries from this index on that there are, on disk or on their way there, with a digest of each. None if they cannot be read.
    pub fn entries(&self, from: u64) -> Option<Vec<(Place, u32)>> {
        let (mut all, mut next) = (Vec::new(), from);
        loop {
            let records = self.0.read_blocking(next, u64::MAX).ok()?;
            if records.is_empty() {
                return Some(all);
            }
            for record in &records {
                let place = Place::of(form::place(record).ok()?);
                next = place.index + 1;
                all.push((place, digest(record)));
            }
        }
    }

    /// The entry that the log has at an index, on disk or on its way there.
    pub fn place(&self, index: u64) -> Option<Place> {
        self.0.lock().index.place(index).map(Place::of)
    }

    /// Index of the first entry.
    pub fn start(&self) -> u64 {
        self.0.lock().index.start()
    }
}

/// What an entry's record is known by.
pub(crate) fn digest(record: &Bytes) -> u32 {
    crc32c::crc32c(record)
}

impl Access {
    pub(crate) fn log_view(&self) -> Result<LogView> {
        Ok(LogView::of(&self.core()?.shared.log))
    }

    /// Has the member make a snapshot.
    pub(crate) async fn make_snapshot(&self) {
        if let Ok(core) = self.core()
            && let Ok(raft) = core.raft()
        {
            // One that has ended makes none.
            let _ = raft.trigger().snapshot().await;
        }
    }

    /// None before it has begun and after it was given back.
    pub(crate) fn sight(&self) -> Option<Sight> {
        let core = self.core().ok()?;
        let metrics = core.raft.get()?.metrics();
        let metrics = metrics.borrow_watched();
        let end = |at: &Option<super::super::types::LogId>| at.as_ref().map_or(0, |id| id.index + 1);
        Some(Sight {
            number: core.number,
            leads: metrics.state.is_leader(),
            term: metrics.current_term,
            vote: Ballot::of((&metrics.vote).into()),
            purged: end(&metrics.purged),
            snapshot: end(&metrics.snapshot),
            applied: end(&metrics.last_applied),
            committed: end(&metrics.local_committed),
            end: metrics.last_log_index.map_or(0, |index| index + 1),
        })
    }
}
