//! What survives the process: the data directory, the log, and the state beside it.
//!
//! Three rules hold throughout. Nothing is created where something should exist: what is missing, empty, foreign, old or
//! damaged is refused by an error that names the file. Every stored value has a checksum of ours, whatever the layer below
//! promises. And the first failed write or sync ends a store for good: what it had under way is neither known to be
//! durable nor to be lost, and only opening it again can tell.

#[cfg(any(test, tenure_fuzz))]
#[allow(clippy::unwrap_used)]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) mod crash_disk;
mod dir;
pub mod disk;
mod state;
pub mod wal;

use std::ops::RangeInclusive;

use crate::base::{Error, Result};

/// A file that only takes up space, given back when there is no other.
pub(crate) const BALLAST: &str = "ballast";

pub use dir::{DataDir, Fill, Identity, Owner};
pub use state::RedbState;
pub use wal::{Recovery, Wal};

/// A durable sequence of records with consecutive indexes. One thread at a time.
pub trait LogStore: Send {
    /// Writes records `first_index`, `first_index + 1`, …, which must follow [`LogStore::last_index`]. They survive the
    /// process from then on, and the machine after [`LogStore::sync`].
    ///
    /// # Errors
    /// [`crate::base::Status::Limit`] when a record is longer than [`LogStore::max_record`] or no space can be had: the log is as it
    /// was and stays usable. [`crate::base::Status::Io`] when writing failed and [`crate::base::Status::Poisoned`] from then on.
    fn append(&mut self, first_index: u64, records: &[&[u8]]) -> Result<()>;

    /// Makes everything appended durable: at most one `fdatasync`, none when there is nothing new.
    ///
    /// # Errors
    /// [`crate::base::Status::Io`], and [`crate::base::Status::Poisoned`] from then on. What was appended may come back or not.
    fn sync(&mut self) -> Result<()>;

    /// Voids the records after `index`.
    ///
    /// # Errors
    /// As [`LogStore::append`]; [`crate::base::Status::Internal`] for an index below what is purged.
    fn truncate_after(&mut self, index: u64) -> Result<()>;

    /// Gives up the records up to `index`; durable on return. Their space is used again after the next [`LogStore::upkeep`].
    ///
    /// # Errors
    /// As [`LogStore::append`].
    fn purge_upto(&mut self, index: u64) -> Result<()>;

    /// Calls `each` with the records in `range`, in order.
    ///
    /// # Errors
    /// [`crate::base::Status::Internal`] for a range that is not all there, [`crate::base::Status::DataCorrupt`], [`crate::base::Status::Io`], or what
    /// `each` answers.
    fn read(&self, range: RangeInclusive<u64>, each: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()>;

    /// Index of the oldest record, or the next index when there is none.
    fn first_index(&self) -> u64;

    /// Index of the newest record; one less than [`LogStore::first_index`] when there is none.
    fn last_index(&self) -> u64;

    /// The longest record that can be appended.
    fn max_record(&self) -> usize;

    /// Bytes written since the log was created or opened, purged ones included.
    fn written_bytes(&self) -> u64;

    /// Whether [`LogStore::upkeep`] would have something to prepare.
    fn wants_upkeep(&self) -> bool;

    /// Preparation of space for later appends, to be run by another thread while the log goes on. None when there is nothing to
    /// prepare. Appends do it themselves when they come to need it before it is done.
    fn upkeep(&mut self) -> Option<wal::Upkeep>;

    /// Writes the mark of a good end. Nothing can be appended afterwards.
    ///
    /// # Errors
    /// As [`LogStore::sync`].
    fn close(&mut self) -> Result<()>;
}

/// What a snapshot is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotHead {
    /// The log index up to which everything is in it.
    pub index: u64,
    /// The replicated clock at that index, ms.
    pub clock_ms: u64,
}

/// Snapshots and small values. Any thread.
pub trait StateStore: Send + Sync {
    /// Calls `each` with the parts of the newest snapshot, in order, and says what it is of.
    ///
    /// # Errors
    /// [`crate::base::Status::DataCorrupt`], [`crate::base::Status::Io`], or what `each` answers.
    fn load_snapshot(&self, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<Option<SnapshotHead>>;

    /// Puts a snapshot in the place of the one before; durable on return, and the old one is kept when it fails.
    ///
    /// # Errors
    /// [`crate::base::Status::Limit`] for lack of space, [`crate::base::Status::Io`].
    fn save_snapshot(&self, head: SnapshotHead, parts: &mut dyn Iterator<Item = Result<Vec<u8>>>) -> Result<()>;

    /// The value of a key.
    ///
    /// # Errors
    /// [`crate::base::Status::DataCorrupt`], [`crate::base::Status::Io`].
    fn get_meta(&self, key: &str) -> Result<Option<Vec<u8>>>;

    /// Sets the value of a key; durable on return.
    ///
    /// # Errors
    /// [`crate::base::Status::Limit`] for lack of space, [`crate::base::Status::Io`].
    fn put_meta(&self, key: &str, value: &[u8]) -> Result<()>;

    /// Lets go of the files. Every later call is [`crate::base::Status::Poisoned`].
    fn close(&self);
}

/// Locks; what another thread's panic left behind is guarded by the callers' own state, not by the poison mark.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// `error` with the name of the file that it is about in front.
fn in_file(file: impl std::fmt::Display, error: &Error) -> Error {
    Error::new(error.status(), format!("{file}: {}", error.message())).with_errno(error.os_errno())
}
