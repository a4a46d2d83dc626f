//! A fence with a file of its own, for resources that have no transaction.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::record::{check_range, fenced};
use crate::base::codec::{self, Kind};
use crate::base::{Clock, Error, Result, Status, SystemClock, process};
use crate::store::disk::{Disk, OsDisk, read_all, replace};

/// Longest name of a resource, bytes.
const NAME_MAX: usize = 256;
/// Most resources in one file.
const RESOURCES_MAX: usize = 4096;
/// The file is refused unread beyond this.
const FILE_MAX: u64 = 4 << 20;

#[derive(Default)]
struct Resource {
    highest: u64,
    /// Writes under way, by epoch.
    inside: BTreeMap<u64, u64>,
}

struct State {
    resources: BTreeMap<String, Resource>,
    /// A write of the file failed: what is on the disk is not known any more.
    broken: Option<Error>,
}

struct Inner {
    disk: Box<dyn Disk>,
    name: String,
    /// Held for its lock; `None` in tests.
    lock: Option<File>,
    generation: u64,
    state: Mutex<State>,
    left: Condvar,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Closing the descriptor would not do: forked children have it too.
        if let Some(lock) = self.lock.as_ref().filter(|_| process::check_generation(self.generation).is_ok())
            && let Err(error) = lock.unlock()
        {
            tracing::warn!(%error, "unlocking an epoch fence");
        }
    }
}

/// The highest epoch of each of some resources, in a file. One process at a time has it open; clones are the same fence, and any thread
/// may use it.
#[derive(Clone)]
pub struct EpochFence(Arc<Inner>);

impl std::fmt::Debug for EpochFence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("EpochFence").field(&self.path()).finish()
    }
}

fn parts(path: &Path) -> Result<(PathBuf, String)> {
    let name = path.file_name().and_then(|n| n.to_str()).filter(|n| !n.is_empty());
    let Some(name) = name else { return Err(Error::invalid("path", "names no file, or one whose name is not UTF-8")) };
    if path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(Error::invalid("path", "names a directory"));
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Through links on the way; the file itself is never a link.
    let parent = parent.canonicalize().map_err(|e| Error::io(format_args!("looking for {}", parent.display()), &e))?;
    Ok((parent, name.to_owned()))
}

fn locked(path: &Path) -> Result<(OsDisk, String, File)> {
    process::watch_forks();
    let (parent, name) = parts(path)?;
    let disk = OsDisk::open(&parent).map_err(|e| Error::io(format_args!("opening {}", parent.display()), &e))?;
    let io = |what: &str, e: &std::io::Error| Error::io(format_args!("{what} {}.lock", parent.join(&name).display()), e);
    // A file of its own: the fence's is replaced when an epoch is raised.
    let lock = disk.lock_file(&format!("{name}.lock")).map_err(|e| io("opening", &e))?;
    match lock.try_lock() {
        Ok(()) => Ok((disk, name, lock)),
        Err(TryLockError::WouldBlock) => {
            let why = format!("{}: another process, or another fence of this one, has it open", path.display());
            Err(Error::new(Status::DataLocked, why))
        }
        Err(TryLockError::Error(e)) => Err(io("locking", &e)),
    }
}

impl EpochFence {
    /// Makes the file of a fence, in a directory that exists. To be done once, when the resource itself is made: a fence that comes into being by
    /// itself would have forgotten every epoch.
    ///
    /// # Errors
    /// [`Status::Misuse`] when there is a file, [`Status::DataLocked`], [`Status::InvalidArgument`] for the path, [`Status::Io`].
    pub fn create(path: &Path) -> Result<()> {
        let (disk, name, lock) = locked(path)?;
        let made = EpochFence::create_on(&disk, &name);
        let _ = lock.unlock();
        made
    }

    pub(super) fn create_on(disk: &dyn Disk, name: &str) -> Result<()> {
        let at = || disk.path().join(name).display().to_string();
        let names = disk.list().map_err(|e| Error::io(format_args!("listing {}", disk.path().display()), &e))?;
        if names.iter().any(|n| n == name) {
            return Err(Error::new(Status::Misuse, format!("{}: exists already", at())));
        }
        let bytes = codec::encode(Kind::EpochFence, &Vec::<(String, u64)>::new())?;
        replace(disk, name, &bytes).map_err(|e| Error::io(format_args!("writing {}", at()), &e))
    }

    /// Opens the fence in this file, which [`EpochFence::create`] has made.
    ///
    /// # Errors
    /// [`Status::DataLost`] when there is no file: none is made in its place. [`Status::DataCorrupt`], [`Status::DataVersion`],
    /// [`Status::DataLocked`] when somebody has it open, [`Status::InvalidArgument`] for the path, [`Status::Io`].
    pub fn open(path: &Path) -> Result<EpochFence> {
        let (disk, name, lock) = locked(path)?;
        EpochFence::open_on(Box::new(disk), &name, Some(lock))
    }

    pub(super) fn open_on(disk: Box<dyn Disk>, name: &str, lock: Option<File>) -> Result<EpochFence> {
        let at = disk.path().join(name).display().to_string();
        let bytes = read_all(disk.as_ref(), name, FILE_MAX).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Error::new(Status::DataLost, format!("{at}: there is no such file, and none is made in its place"))
            }
            _ => Error::io(format_args!("reading {at}"), &e),
        })?;
        let stored: Vec<(String, u64)> = codec::decode(Kind::EpochFence, &bytes, FILE_MAX as usize)
            .map_err(|e| Error::new(e.status(), format!("{at}: {}", e.message())))?;
        let resources = stored.into_iter().map(|(name, highest)| (name, Resource { highest, ..Resource::default() })).collect();
        let state = Mutex::new(State { resources, broken: None });
        let (name, generation) = (name.to_owned(), process::generation());
        Ok(EpochFence(Arc::new(Inner { disk, name, lock, generation, state, left: Condvar::new() })))
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.0.disk.path().join(&self.0.name)
    }

    fn state(&self) -> Result<MutexGuard<'_, State>> {
        process::check_generation(self.0.generation)?;
        // Nothing of the host runs under this lock, and each step leaves the state whole.
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.broken {
            Some(error) => Err(error.clone()),
            None => Ok(state),
        }
    }

    /// The highest epoch admitted to `resource`; 0 for none.
    ///
    /// # Errors
    /// [`Status::Forked`]; [`Status::Poisoned`] once a write of the file has failed.
    pub fn highest(&self, resource: &str) -> Result<u64> {
        Ok(self.state()?.resources.get(resource).map_or(0, |r| r.highest))
    }

    /// Lets a write under `epoch` begin. While the pass lives the write is under way; checking the epoch and writing are one step, since
    /// an epoch is raised, durably, before this returns, and the first pass of a higher epoch is given only when those of lower ones have
    /// ended. Lower ones are refused from the moment at which the higher one asked. Waits for the disk when the epoch is new, and
    /// for at most `timeout` for writes of lower epochs.
    ///
    /// # Errors
    /// [`Status::Fenced`] with the higher epoch: the write must not be done. [`Status::Timeout`] while writes of lower epochs are under
    /// way: they are the last ones, ask again. [`Status::InvalidArgument`] for the epoch or the name, [`Status::Limit`] for one resource
    /// too many, [`Status::Io`] when the epoch cannot be made durable and [`Status::Poisoned`] from then on, [`Status::Forked`].
    pub fn enter(&self, resource: &str, epoch: u64, timeout: Duration) -> Result<Pass> {
        check_range(epoch)?;
        if resource.len() > NAME_MAX {
            return Err(Error::invalid("resource", format_args!("{} bytes are above {NAME_MAX}", resource.len())));
        }
        let mut state = self.state()?;
        self.raise(&mut state, resource, epoch)?;
        let from = SystemClock.boottime_ns();
        loop {
            let Some(known) = state.resources.get_mut(resource) else { return Err(Status::Internal.into()) };
            if epoch < known.highest {
                return Err(fenced(epoch, known.highest));
            }
            let lower: u64 = known.inside.range(..epoch).map(|(_, count)| count).sum();
            if lower == 0 {
                *known.inside.entry(epoch).or_insert(0) += 1;
                return Ok(Pass { fence: self.clone(), resource: resource.to_owned(), epoch });
            }
            let spent = Duration::from_nanos(SystemClock.boottime_ns().saturating_sub(from));
            let Some(wait) = timeout.checked_sub(spent).filter(|w| !w.is_zero()) else {
                return Err(Error::new(Status::Timeout, format!("{lower} writes of lower epochs are under way")));
            };
            state = self.0.left.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
            if let Some(error) = &state.broken {
                return Err(error.clone());
            }
        }
    }

    /// Makes a higher epoch durable. The lock is held meanwhile: what is refused and what is on the disk never differ.
    fn raise(&self, state: &mut State, resource: &str, epoch: u64) -> Result<()> {
        let highest = state.resources.get(resource).map_or(0, |r| r.highest);
        if epoch <= highest {
            return if epoch < highest { Err(fenced(epoch, highest)) } else { Ok(()) };
        }
        if highest == 0 && state.resources.len() >= RESOURCES_MAX {
            return Err(Error::new(Status::Limit, format!("resources: the limit of {RESOURCES_MAX} is reached")));
        }
        let mut next: BTreeMap<&str, u64> = state.resources.iter().map(|(n, r)| (n.as_str(), r.highest)).collect();
        next.insert(resource, epoch);
        let stored: Vec<(String, u64)> = next.into_iter().map(|(n, e)| (n.to_owned(), e)).collect();
        let bytes = codec::encode(Kind::EpochFence, &stored)?;
        if let Err(e) = replace(self.0.disk.as_ref(), &self.0.name, &bytes) {
            let error = Error::io(format_args!("writing {}", self.path().display()), &e);
            state.broken = Some(Error::new(Status::Poisoned, error.message().to_owned()).with_errno(error.os_errno()));
            self.0.left.notify_all();
            return Err(error);
        }
        state.resources.entry(resource.to_owned()).or_default().highest = epoch;
        Ok(())
    }
}

/// A write under way. Its end, which is dropping it, lets the first write of a higher epoch begin.
#[must_use = "the write is over when the pass is dropped"]
pub struct Pass {
    fence: EpochFence,
    resource: String,
    epoch: u64,
}

impl std::fmt::Debug for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pass").field("resource", &self.resource).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Pass {
    /// The epoch under which the write is done.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if process::check_generation(self.fence.0.generation).is_err() {
            return;
        }
        let mut state = self.fence.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inside) = state.resources.get_mut(&self.resource).map(|r| &mut r.inside)
            && let Some(count) = inside.get_mut(&self.epoch)
        {
            *count -= 1;
            if *count == 0 {
                inside.remove(&self.epoch);
            }
        }
        drop(state);
        self.fence.0.left.notify_all();
    }
}
