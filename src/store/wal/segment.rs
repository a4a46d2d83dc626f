//! Segments as files: making them, used again or new, ahead of their use.

use std::io::ErrorKind;
use std::sync::{Arc, Mutex};

use super::frame::{SEGMENT_HEADER, SegmentHeader};
use crate::base::{Error, Result, Status};
use crate::store::disk::{Disk, DiskFile};
use crate::store::lock;

/// A segment being made has this name until it is whole.
pub(super) const UNFINISHED: &str = "wal.new";
const PREFIX: &str = "wal-";
/// Zeros are written in pieces of this many bytes.
const ZEROS: usize = 1 << 20;

pub(super) fn file_name(number: u64) -> String {
    format!("{PREFIX}{number:016x}")
}

pub(super) fn file_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (file_name(number) == name).then_some(number)
}

/// A segment, open.
#[derive(Debug)]
pub(super) struct Segment {
    pub number: u64,
    pub salt: u64,
    pub size: u64,
    pub file: Arc<dyn DiskFile>,
    /// The highest index of an entry in it, 0 for none.
    pub last_index: u64,
}

impl Segment {
    pub fn name(&self) -> String {
        file_name(self.number)
    }
}

/// Where the segment after the active one is made ready and waits.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub ready: Option<Segment>,
    /// Purged segments, oldest first, under the names they had.
    pub retired: Vec<Segment>,
}

/// Makes segments. Shared by the log and the thread that prepares.
#[derive(Debug)]
pub(super) struct Workshop {
    pub disk: Arc<dyn Disk>,
    pub disk_id: u128,
    pub size: u64,
    pub slot: Mutex<Slot>,
}

impl Workshop {
    /// A failed operation on `name`; what is lack of space is not a broken disk.
    fn failed(&self, what: &str, name: &str, cause: &std::io::Error) -> Error {
        let path = self.disk.path().join(name);
        match cause.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => {
                Error::new(Status::Limit, format!("no space for the log: {what} {}: {cause}", path.display()))
            }
            _ => Error::io(format_args!("{what} {}", path.display()), cause),
        }
    }

    /// Makes segment `number`, from a retired one if there is one. It is durable under its name on return.
    pub fn make(&self, slot: &mut Slot, number: u64, salt: u64) -> Result<Segment> {
        let header = SegmentHeader { number, salt, disk: self.disk_id, size: self.size };
        let name = file_name(number);
        // A retired segment of another size (the setting was changed) gives way to a new one.
        let recycled = loop {
            match slot.retired.first() {
                None => break None,
                Some(old) if old.size == self.size => {
                    let old = old.name();
                    self.disk.rename(&old, UNFINISHED).map_err(|e| self.failed("renaming", &old, &e))?;
                    let file = slot.retired.remove(0).file;
                    // Before its header is another one's, its name must be gone for good.
                    self.disk.sync_dir().map_err(|e| self.failed("syncing", "", &e))?;
                    break Some(file);
                }
                Some(old) => {
                    let old = old.name();
                    self.disk.remove(&old).map_err(|e| self.failed("removing", &old, &e))?;
                    self.disk.sync_dir().map_err(|e| self.failed("syncing", "", &e))?;
                    slot.retired.remove(0);
                }
            }
        };
        let written = match recycled {
            Some(file) => file.write_at(0, &header.encode()).map(|()| file),
            None => self.zeroed(&header),
        };
        let file = written.and_then(|file| file.sync().map(|()| file)).map_err(|e| {
            let error = self.failed("writing", UNFINISHED, &e);
            if error.status() == Status::Limit {
                // What was written so far would only keep the space from those who need it; left there it is removed at the next start.
                let _ = self.disk.remove(UNFINISHED);
            }
            error
        })?;
        self.disk.rename(UNFINISHED, &name).map_err(|e| self.failed("renaming", UNFINISHED, &e))?;
        self.disk.sync_dir().map_err(|e| self.failed("syncing", "", &e))?;
        Ok(Segment { number, salt: header.frame_salt(), size: self.size, file, last_index: 0 })
    }

    /// A new file full of zeros: blocks that were never written would cost a journal commit at each first write.
    fn zeroed(&self, header: &SegmentHeader) -> std::io::Result<Arc<dyn DiskFile>> {
        match self.disk.remove(UNFINISHED) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = self.disk.create(UNFINISHED)?;
        let head = header.encode();
        file.write_at(0, &head)?;
        let zeros = vec![0; ZEROS.min(self.size as usize)];
        let mut at = SEGMENT_HEADER as u64;
        while at < self.size {
            let piece = zeros.len().min((self.size - at) as usize);
            file.write_at(at, &zeros[..piece])?;
            at += piece as u64;
        }
        Ok(file)
    }
}

/// Makes the next segment ready while the log goes on; see [`crate::store::LogStore::upkeep`].
#[derive(Debug)]
pub struct Upkeep {
    pub(super) workshop: Arc<Workshop>,
    pub(super) number: u64,
    pub(super) salt: u64,
}

impl Upkeep {
    /// Does it. The log finds the result by itself; one that needs it in the meantime waits for it.
    ///
    /// # Errors
    /// [`Status::Limit`] when there is no space: the log still has what it had. [`Status::Io`] otherwise.
    pub fn run(self) -> Result<()> {
        let mut slot = lock(&self.workshop.slot);
        if slot.ready.is_none() {
            slot.ready = Some(self.workshop.make(&mut slot, self.number, self.salt)?);
        }
        Ok(())
    }
}
