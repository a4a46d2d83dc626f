//! A [`LogStore`] in memory, for tests and simulations: what is not synced is lost in a crash, and it fails when told to.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use crate::base::{Error, Result, Status};
use crate::store::LogStore;
use crate::store::wal::Upkeep;

#[derive(Debug, Default)]
struct Records {
    first: u64,
    all: Vec<Vec<u8>>,
    synced: usize,
}

/// Clones share the records.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryLog {
    records: Arc<Mutex<Records>>,
    broken: Arc<AtomicBool>,
}

impl MemoryLog {
    /// Every write and sync from now on fails.
    pub fn break_it(&self) {
        self.broken.store(true, SeqCst);
    }

    /// The machine stops: what was not synced is gone.
    pub fn crash(&self) -> MemoryLog {
        let mut records = self.records.lock().unwrap_or_else(|e| e.into_inner());
        let synced = records.synced;
        records.all.truncate(synced);
        drop(records);
        MemoryLog { records: self.records.clone(), broken: Arc::default() }
    }

    /// A copy as a backup would make it.
    pub fn copy(&self) -> MemoryLog {
        let records = self.records.lock().unwrap_or_else(|e| e.into_inner());
        let copy = Records { first: records.first, all: records.all[..records.synced].to_vec(), synced: records.synced };
        MemoryLog { records: Arc::new(Mutex::new(copy)), broken: Arc::default() }
    }

    fn works(&self) -> Result<()> {
        if self.broken.load(SeqCst) { Err(Error::new(Status::Io, "the disk is broken").with_errno(libc::EIO)) } else { Ok(()) }
    }

    fn with<T>(&self, body: impl FnOnce(&mut Records) -> T) -> T {
        body(&mut self.records.lock().unwrap_or_else(|e| e.into_inner()))
    }
}

impl LogStore for MemoryLog {
    fn append(&mut self, first_index: u64, records: &[&[u8]]) -> Result<()> {
        self.works()?;
        assert_eq!(first_index, self.last_index() + 1);
        self.with(|r| r.all.extend(records.iter().map(|b| b.to_vec())));
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.works()?;
        self.with(|r| r.synced = r.all.len());
        Ok(())
    }

    fn truncate_after(&mut self, _index: u64) -> Result<()> {
        Err(Status::Internal.into())
    }

    fn purge_upto(&mut self, index: u64) -> Result<()> {
        self.sync()?;
        self.with(|r| {
            let gone = (index.saturating_sub(r.first) as usize).min(r.all.len());
            r.all.drain(..gone);
            r.first += gone as u64;
            r.synced = r.all.len();
        });
        Ok(())
    }

    fn read(&self, range: RangeInclusive<u64>, each: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        for index in range {
            let bytes = self.with(|r| r.all.get((index - r.first - 1) as usize).cloned());
            each(index, &bytes.ok_or_else(|| Error::from(Status::Internal))?)?;
        }
        Ok(())
    }

    fn first_index(&self) -> u64 {
        self.with(|r| r.first + 1)
    }

    fn last_index(&self) -> u64 {
        self.with(|r| r.first + r.all.len() as u64)
    }

    fn max_record(&self) -> usize {
        64 << 20
    }

    fn written_bytes(&self) -> u64 {
        self.with(|r| r.all.iter().map(|b| b.len() as u64).sum())
    }

    fn wants_upkeep(&self) -> bool {
        false
    }

    fn upkeep(&mut self) -> Option<Upkeep> {
        None
    }

    fn close(&mut self) -> Result<()> {
        self.sync()
    }
}
