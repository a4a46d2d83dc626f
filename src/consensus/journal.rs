//! The raft log in a [`LogStore`]: a journal whose records are entries and, where the raft state changes otherwise, the state.
//!
//! The journal only grows at its end, so one write and one sync make everything durable that has gathered, entries and votes
//! alike, in the order in which they came. A record of the state says all of it anew (vote, what is committed, where the log
//! begins and ends); the newest one counts. So nothing of the journal's start is needed once the entries there are purged.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use super::form::{self, Ballot, Place, STATE};
use crate::base::codec::{self, Decode, Encode, Kind};
use crate::base::{Error, Result, Status};
use crate::store::LogStore;

const STATE_CAP: usize = 512;
/// Bytes of recent entries that are kept in memory, for those who follow closely and for snapshots.
const CACHE: usize = 12 << 20;

/// The raft state beside the entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Marks {
    pub vote: Option<Ballot>,
    pub committed: Option<Place>,
    /// The last entry that is only in a snapshot.
    pub purged: Option<Place>,
    /// Index after the last entry.
    pub end: u64,
}

/// An entry that is there.
#[derive(Clone, Debug)]
struct Slot {
    /// Number of its record in the journal.
    number: u64,
    term: u64,
    leader: u64,
    record: Option<Bytes>,
}

/// What is in the journal, kept beside it: changed first, written after.
#[derive(Debug)]
pub(super) struct Index {
    pub marks: Marks,
    slots: VecDeque<Slot>,
    /// Index of the first slot.
    first: u64,
    /// Number of the next record.
    next: u64,
    cached: usize,
    /// Position of the first slot whose record is cached; all after it are.
    cold: usize,
}

/// A piece of the log: in memory, or to be read from the journal.
#[derive(Debug)]
pub(super) enum Found {
    Cached(Bytes),
    Stored(u64),
}

impl Index {
    /// Reads a journal. It must hold every record since the last purge.
    pub fn load(store: &dyn LogStore) -> Result<Index> {
        let mut index =
            Index { marks: Marks::default(), slots: VecDeque::new(), first: 0, next: store.last_index() + 1, cached: 0, cold: 0 };
        if store.first_index() > store.last_index() {
            return Ok(index);
        }
        store.read(store.first_index()..=store.last_index(), &mut |number, bytes| {
            if bytes.first() == Some(&STATE) {
                let marks: Marks = codec::decode(Kind::Meta, &bytes[1..], STATE_CAP)?;
                index.set(marks);
                return Ok(());
            }
            let place = form::place(bytes)?;
            // Records of entries that are purged are still around until their part of the journal is given up.
            let expected = index.end();
            if index.slots.is_empty() && index.marks.purged.is_none() && index.marks.vote.is_none() && expected == 0 {
                index.first = place.index;
            } else if place.index != expected {
                return Err(Error::new(Status::DataCorrupt, format!("the log has entry {} where {expected} belongs", place.index)));
            }
            index.slots.push_back(Slot { number, term: place.term, leader: place.leader, record: None });
            index.cold = index.slots.len();
            Ok(())
        })?;
        if index.slots.front().is_some() && index.first != index.marks.purged.map_or(0, |p| p.index + 1) {
            return Err(Error::new(
                Status::DataCorrupt,
                format!("the log begins with entry {}, which does not follow what is purged", index.first),
            ));
        }
        Ok(index)
    }

    fn set(&mut self, marks: Marks) {
        self.marks = marks;
        self.drop_after(marks.end);
        self.drop_before(marks.purged.map_or(0, |p| p.index + 1));
    }

    /// Index after the last entry.
    pub fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// The last entry, purged ones included.
    pub fn last(&self) -> Option<Place> {
        match self.slots.back() {
            Some(slot) => Some(Place { term: slot.term, leader: slot.leader, index: self.end() - 1 }),
            None => self.marks.purged,
        }
    }

    /// Adds an entry; it must follow.
    pub fn push(&mut self, place: Place, record: Bytes) -> Result<()> {
        if self.slots.is_empty() && self.marks.purged.is_none() {
            self.first = place.index;
        }
        if place.index != self.end() {
            return Err(Error::new(Status::Internal, format!("entry {} added to a log that ends at {}", place.index, self.end())));
        }
        self.cached += record.len();
        self.slots.push_back(Slot { number: self.next, term: place.term, leader: place.leader, record: Some(record) });
        self.next += 1;
        while self.cached > CACHE && self.cold + 1 < self.slots.len() {
            self.cached -= self.slots[self.cold].record.take().map_or(0, |r| r.len());
            self.cold += 1;
        }
        Ok(())
    }

    fn drop_after(&mut self, end: u64) {
        while self.end() > end.max(self.first) {
            if let Some(slot) = self.slots.pop_back() {
                self.cached -= slot.record.map_or(0, |r| r.len());
            }
        }
        self.cold = self.cold.min(self.slots.len());
    }

    fn drop_before(&mut self, start: u64) {
        while self.first < start {
            self.first += 1;
            if let Some(slot) = self.slots.pop_front() {
                self.cached -= slot.record.map_or(0, |r| r.len());
            }
            if self.slots.is_empty() {
                self.first = start;
            }
            self.cold = self.cold.saturating_sub(1);
        }
    }

    /// Forgets the entries from `end` on.
    pub fn truncate(&mut self, end: u64) {
        self.drop_after(end);
    }

    /// Forgets the entries up to `upto`, which may be after the last one.
    pub fn purge(&mut self, upto: Place) {
        if self.marks.purged.is_none_or(|p| p.index < upto.index) {
            self.marks.purged = Some(upto);
        }
        self.drop_before(upto.index + 1);
    }

    /// The record of the state, which gets the next number, and the last number that is not needed once it is written.
    pub fn state_record(&mut self) -> Result<(Bytes, u64)> {
        self.marks.end = self.end();
        let mut out = BytesMut::with_capacity(64);
        out.put_u8(STATE);
        out.put_slice(&codec::encode(Kind::Meta, &self.marks)?);
        let number = self.next;
        self.next += 1;
        let needed = self.slots.front().map_or(number, |s| s.number);
        Ok((out.freeze(), needed.saturating_sub(1)))
    }

    /// The entries in `start..end` that there are, up to about `budget` bytes and at least one.
    pub fn find(&self, start: u64, end: u64, budget: usize) -> Vec<Found> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        for at in start.max(self.first)..end.min(self.end()) {
            if bytes > budget {
                break;
            }
            let slot = &self.slots[(at - self.first) as usize];
            // What an entry on disk weighs is not known; a typical one is small.
            bytes += slot.record.as_ref().map_or(4096, Bytes::len);
            found.push(slot.record.clone().map_or(Found::Stored(slot.number), Found::Cached));
        }
        found
    }

    #[cfg(test)]
    fn cached(&self) -> usize {
        self.cached
    }
}

/// For those who look from outside.
#[cfg(test)]
impl Index {
    /// The entry at an index, if it is there.
    pub fn place(&self, index: u64) -> Option<Place> {
        let slot = self.slots.get(index.checked_sub(self.first)? as usize)?;
        Some(Place { term: slot.term, leader: slot.leader, index })
    }

    /// Index of the first entry.
    pub fn start(&self) -> u64 {
        self.first
    }

    /// Index after the last entry whose record has at most this number.
    pub fn end_upto(&self, number: u64) -> u64 {
        self.first + self.slots.partition_point(|slot| slot.number <= number) as u64
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::memory_log::MemoryLog;
    use super::super::types::{Command, Entry};
    use super::*;
    use openraft::EntryPayload;

    fn entry(index: u64) -> (Place, Bytes) {
        let place = Place { term: 1, leader: 2, index };
        let payload = EntryPayload::Normal(Command::new(Bytes::from(index.to_le_bytes().to_vec())));
        (place, form::record(&Entry { log_id: place.into(), payload }).unwrap())
    }

    fn write(log: &mut MemoryLog, index: &mut Index, entries: std::ops::Range<u64>) {
        for i in entries {
            let (place, record) = entry(i);
            log.append(index.next, &[&record]).unwrap();
            index.push(place, record).unwrap();
        }
    }

    fn mark(log: &mut MemoryLog, index: &mut Index) -> u64 {
        let number = index.next;
        let (record, unneeded) = index.state_record().unwrap();
        log.append(number, &[&record]).unwrap();
        unneeded
    }

    // I-15.
    #[test]
    fn a_journal_is_read_back_after_truncation_and_purge() {
        let mut log = MemoryLog::default();
        let mut index = Index::load(&log).unwrap();
        write(&mut log, &mut index, 0..10);
        index.marks.vote = Some(Ballot { term: 4, node: 2, won: true });
        index.truncate(7);
        mark(&mut log, &mut index);
        write(&mut log, &mut index, 7..9);
        index.purge(entry(3).0);
        let unneeded = mark(&mut log, &mut index);
        let before = Index::load(&log).unwrap();
        log.purge_upto(unneeded).unwrap();
        for back in [before, Index::load(&log).unwrap()] {
            assert_eq!((back.first, back.end(), back.marks), (4, 9, index.marks));
            assert_eq!(back.last(), index.last());
            assert_eq!(back.find(0, 100, usize::MAX).len(), 5);
        }
    }

    // I-15, I-20.
    #[test]
    fn a_vote_after_a_restart_keeps_the_entries() {
        let mut log = MemoryLog::default();
        let mut index = Index::load(&log).unwrap();
        mark(&mut log, &mut index);
        write(&mut log, &mut index, 0..9);
        let mut again = Index::load(&log).unwrap();
        again.marks.vote = Some(Ballot { term: 2, node: 1, won: false });
        mark(&mut log, &mut again);
        write(&mut log, &mut again, 9..11);
        assert_eq!(Index::load(&log).unwrap().end(), 11);
    }

    // F25.
    #[test]
    fn a_snapshot_ahead_of_the_log_empties_it() {
        let mut log = MemoryLog::default();
        let mut index = Index::load(&log).unwrap();
        write(&mut log, &mut index, 0..3);
        index.purge(entry(20).0);
        let unneeded = mark(&mut log, &mut index);
        log.purge_upto(unneeded).unwrap();
        write(&mut log, &mut index, 21..23);
        let back = Index::load(&log).unwrap();
        assert_eq!((back.first, back.end(), back.last().unwrap().index), (21, 23, 22));
        assert!(index.push(entry(30).0, entry(30).1).is_err(), "a hole");
    }

    #[test]
    fn old_entries_leave_the_cache_and_stay_in_the_log() {
        let mut index = Index::load(&MemoryLog::default()).unwrap();
        for i in 0..5 {
            let place = Place { term: 1, leader: 2, index: i };
            index.push(place, Bytes::from(vec![0; CACHE / 2])).unwrap();
        }
        assert!(index.cached() <= CACHE);
        assert!(matches!(index.find(0, 1, 1)[..], [Found::Stored(1)]));
        assert!(matches!(index.find(4, 5, 1)[..], [Found::Cached(_)]));
        assert_eq!(index.find(0, 5, 1).len(), 1, "at least one, and no more than fits");
    }
}
