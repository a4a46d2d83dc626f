//! The data directory: whose it is, that nobody else has it open, and that it is what it was.
//!
//! The identity file is written first and completed last, so a directory whose making was cut short is told from one that has lost
//! its files. A marker beside the directory (`.NAME.tenure` in its parent) remembers that it was made and how often it has been opened:
//! with it, a directory that was wiped, or replaced by an older copy, is refused. Where the parent cannot be written the
//! directory is *unmarked*, which [`DataDir::is_marked`] tells.

use crate::base::planted::planted;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, OsDisk, read_all, replace};
use super::in_file;
use crate::base::codec::{self, Decode, Encode};
use crate::base::{Error, NodeId, Result, Rng, Status, process};

const IDENTITY: &str = "identity";
/// The longest identity file, header included.
const IDENTITY_CAP: u64 = 4096;
/// The longest cluster id, in bytes.
const CLUSTER_ID_MAX: usize = 255;

/// What a data directory says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Identity {
    /// The cluster it belongs to.
    pub cluster_id: String,
    /// The node it belongs to.
    pub node_id: String,
    /// Random, drawn when the directory was made; in every file of it.
    pub disk_id: u128,
    /// How often an operator has recovered it by force, which makes all earlier tokens void. 0 so far.
    pub generation: u64,
    /// How often it has been opened.
    pub opens: u64,
    /// Whether everything that belongs into it was made.
    pub complete: bool,
}

/// A data directory, open and ours alone until dropped.
#[derive(Debug)]
pub struct DataDir {
    disk: Arc<dyn Disk>,
    /// `None` on a disk that is none of the system's.
    lock: Option<Lock>,
    identity: Identity,
    marked: bool,
}

/// The directory, locked until dropped.
#[derive(Debug)]
struct Lock {
    disk: OsDisk,
    generation: u64,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the descriptor would not do: forked children have it too, and would keep the directory locked while they live.
        if process::check_generation(self.generation).is_ok()
            && let Err(error) = self.disk.dir().unlock()
        {
            tracing::warn!(%error, "unlocking the data directory");
        }
    }
}

/// Who asks for the directory.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// The cluster's name.
    pub cluster_id: &'a str,
    /// The node's name; `None` takes the one in the directory, or a random one for a new directory.
    pub node_id: Option<&'a NodeId>,
    /// Whether a directory that does not exist, or is empty and unmarked, may be made.
    pub create: bool,
}

/// Puts the first files into a directory that is being made, given its disk and its random id.
pub type Fill<'a> = &'a mut dyn FnMut(&Arc<dyn Disk>, u128) -> Result<()>;

impl DataDir {
    /// Opens the data directory at `path`, making it if it has never been made and `owner.create` allows.
    ///
    /// `fill` is called for a directory that is being made.
    ///
    /// # Errors
    /// [`Status::DataLost`], [`Status::DataCorrupt`], [`Status::DataForeign`], [`Status::DataVersion`], each naming the file;
    /// [`Status::DataLocked`] when somebody has it open, [`Status::InvalidArgument`] for a path or permissions that cannot be used,
    /// [`Status::Io`], or what `fill` answers.
    pub fn open(path: &Path, owner: &Owner<'_>, rng: &mut dyn Rng, fill: Fill<'_>) -> Result<DataDir> {
        let (parent, name) = locate(path)?;
        let path = parent.join(&name);
        let beside: Arc<dyn Disk> =
            Arc::new(OsDisk::open(&parent).map_err(|e| Error::io(format_args!("opening {}", parent.display()), &e))?);
        if !path.exists() {
            may_create(beside.as_ref(), &name, &path, owner, "does not exist")?;
            std::fs::DirBuilder::new()
                .mode(0o700)
                .create(&path)
                .and_then(|()| beside.sync_dir())
                .map_err(|e| Error::io(format_args!("creating {}", path.display()), &e))?;
        }
        let disk = OsDisk::open(&path).map_err(|e| Error::io(format_args!("opening {}", path.display()), &e))?;
        check_permissions(&disk)?;
        // Through a descriptor of its own, so that it ends with this object and not with the last file.
        let lock = OsDisk::open(&path).map_err(|e| Error::io(format_args!("opening {}", path.display()), &e))?;
        match lock.dir().try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(Error::new(
                    Status::DataLocked,
                    format!("{}: another process, or another node of this one, has it open", path.display()),
                ));
            }
            Err(std::fs::TryLockError::Error(e)) => return Err(Error::io(format_args!("locking {}", path.display()), &e)),
        }
        let lock = Lock { disk: lock, generation: process::generation() };
        let opened = DataDir::open_on(Arc::new(disk), beside.as_ref(), &name, owner, rng, fill)?;
        Ok(DataDir { lock: Some(lock), ..opened })
    }

    /// As [`DataDir::open`], on a directory that exists and is locked, with the disk that its marker is on.
    pub(super) fn open_on(
        disk: Arc<dyn Disk>,
        beside: &dyn Disk,
        name: &str,
        owner: &Owner<'_>,
        rng: &mut dyn Rng,
        fill: Fill<'_>,
    ) -> Result<DataDir> {
        if owner.cluster_id.is_empty() || owner.cluster_id.len() > CLUSTER_ID_MAX {
            return Err(Error::invalid("cluster_id", format_args!("its length is not in 1..={CLUSTER_ID_MAX} bytes")));
        }
        let at = |file: &str| disk.path().join(file).display().to_string();
        let names = disk.list().map_err(|e| Error::io(format_args!("listing {}", disk.path().display()), &e))?;
        let known = if names.iter().any(|n| n == IDENTITY) {
            Some(read_identity(disk.as_ref(), IDENTITY).map_err(|e| in_file(at(IDENTITY), &e))?)
        } else {
            None
        };
        if let Some(identity) = &known {
            check_owner(identity, owner).map_err(|e| in_file(at(IDENTITY), &e))?;
        }
        let marker = read_marker(beside, name)?;
        let marker_at = || beside.path().join(marker_name(name)).display().to_string();
        let mut identity = match known {
            Some(identity) if identity.complete => {
                if let Some(marker) = &marker {
                    if marker.disk_id != identity.disk_id {
                        let why = format!("{}: not the directory that was here when {} was written", at(IDENTITY), marker_at());
                        return Err(Error::new(Status::DataForeign, why));
                    }
                    if (marker.opens > identity.opens || marker.generation > identity.generation) && !planted!("old-copy-accepted") {
                        let why = format!("{}: older than {} remembers, as if restored from a copy", at(IDENTITY), marker_at());
                        return Err(Error::new(Status::DataLost, why));
                    }
                }
                identity
            }
            // The making was cut short before anything could be stored: it starts again.
            unfinished => {
                if unfinished.is_none()
                    && let Some(stranger) = names.iter().find(|n| !is_scrap(n))
                {
                    let (status, why) = if is_ours(stranger) {
                        (Status::DataLost, format!("{}: missing beside {stranger}", at(IDENTITY)))
                    } else {
                        (Status::DataForeign, format!("{}: not a file of a data directory", at(stranger)))
                    };
                    return Err(Error::new(status, why));
                }
                may_create(beside, name, disk.path(), owner, "holds nothing")?;
                for file in names.iter().filter(|n| is_ours(n) && *n != IDENTITY) {
                    disk.remove(file).map_err(|e| Error::io(format_args!("removing {}", at(file)), &e))?;
                }
                let node_id = match (owner.node_id, &unfinished) {
                    (Some(given), _) => given.to_string(),
                    (None, Some(begun)) => begun.node_id.clone(),
                    (None, None) => format!("node-{:016x}", rng.next_u64()),
                };
                let fresh = Identity {
                    cluster_id: owner.cluster_id.to_owned(),
                    node_id,
                    disk_id: rng.next_u128(),
                    generation: 0,
                    opens: 0,
                    complete: false,
                };
                write_identity(disk.as_ref(), IDENTITY, &fresh)?;
                fill(&disk, fresh.disk_id)?;
                Identity { complete: true, ..fresh }
            }
        };
        identity.opens += 1;
        write_identity(disk.as_ref(), IDENTITY, &identity)?;
        // After the identity, so that a crash between the two leaves the marker behind and never ahead.
        let marked = match write_identity(beside, &marker_name(name), &identity) {
            Ok(()) => true,
            Err(e) if marker.is_none() && [libc::EACCES, libc::EPERM, libc::EROFS].contains(&e.os_errno()) => {
                tracing::warn!(directory = %disk.path().display(), error = %e, "the data directory stays unmarked: it would not be missed if it were wiped");
                false
            }
            Err(e) => return Err(e),
        };
        Ok(DataDir { disk, lock: None, identity, marked })
    }

    /// What it says of itself.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Its files.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Whether it is locked against everybody else.
    pub fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// Whether its parent directory remembers it. Without that a wiped directory is taken for a new one, unless
    /// `data_dir_create` is off.
    pub fn is_marked(&self) -> bool {
        self.marked
    }
}

fn marker_name(name: &str) -> String {
    format!(".{name}.tenure")
}

/// Files that belong into a data directory.
fn is_ours(name: &str) -> bool {
    name == IDENTITY || name == super::state::FILE || name == super::BALLAST || name.starts_with("wal")
}

/// What an empty directory may hold all the same: the file system's own, and a first identity that was never put in place.
fn is_scrap(name: &str) -> bool {
    name == "lost+found" || name == format!("{IDENTITY}.new")
}

/// The parent, without symbolic links, and the name in it.
fn locate(path: &Path) -> Result<(PathBuf, String)> {
    let not_usable = |why: &str| Error::invalid("data_dir", format_args!("{}: {why}", path.display()));
    let whole = match path.canonicalize() {
        Ok(whole) => whole,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let name = path.file_name().ok_or_else(|| not_usable("has no name"))?;
            let parent = match path.parent() {
                Some(parent) if parent != Path::new("") => parent,
                _ => Path::new("."),
            };
            parent.canonicalize().map_err(|e| Error::io(format_args!("data_dir: opening {}", parent.display()), &e))?.join(name)
        }
        Err(e) => return Err(Error::io(format_args!("data_dir: opening {}", path.display()), &e)),
    };
    let name = whole.file_name().and_then(|n| n.to_str()).ok_or_else(|| not_usable("its name is not usable"))?;
    let parent = whole.parent().ok_or_else(|| not_usable("has no parent"))?;
    Ok((parent.to_owned(), name.to_owned()))
}

/// Nobody but the owner may be able to put files there.
fn check_permissions(disk: &OsDisk) -> Result<()> {
    let failed = |e: std::io::Error| Error::io(format_args!("reading the permissions of {}", disk.path().display()), &e);
    let found = disk.dir().metadata().map_err(failed)?;
    let refuse = |why: String| Err(Error::invalid("data_dir", format_args!("{}: {why}", disk.path().display())));
    if found.mode() & 0o022 != 0 {
        return refuse(format!("mode {:03o} lets others write there", found.mode() & 0o777));
    }
    // A file of our own has our own user id, whatever user namespace we are in.
    let us = std::fs::metadata("/proc/self").map_err(failed)?.uid();
    if found.uid() != us && found.uid() != 0 {
        return refuse(format!("it belongs to user {}, not to {us}", found.uid()));
    }
    Ok(())
}

fn may_create(beside: &dyn Disk, name: &str, path: &Path, owner: &Owner<'_>, how: &str) -> Result<()> {
    if read_marker(beside, name)?.is_some() && !planted!("create-on-open") {
        let marker = beside.path().join(marker_name(name));
        return Err(Error::new(
            Status::DataLost,
            format!(
                "{}: {how}, although {} says that it was made. A node that lost its data may not come back under its name",
                path.display(),
                marker.display()
            ),
        ));
    }
    if !owner.create {
        return Err(Error::new(Status::DataLost, format!("{}: {how}, and data_dir_create is off", path.display())));
    }
    Ok(())
}

fn check_owner(identity: &Identity, owner: &Owner<'_>) -> Result<()> {
    if identity.cluster_id != owner.cluster_id {
        return Err(Error::new(Status::DataForeign, format!("of cluster {:?}, not {:?}", identity.cluster_id, owner.cluster_id)));
    }
    if owner.node_id.is_some_and(|n| n.as_str() != identity.node_id) {
        let ours = owner.node_id.map_or("", NodeId::as_str);
        return Err(Error::new(Status::DataForeign, format!("of node {:?}, not {ours:?}", identity.node_id)));
    }
    Ok(())
}

fn read_identity(disk: &dyn Disk, name: &str) -> Result<Identity> {
    let bytes = match read_all(disk, name, IDENTITY_CAP) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::FileTooLarge => return Err(Error::new(Status::DataCorrupt, e.to_string())),
        Err(e) => return Err(Error::io("reading", &e)),
    };
    if bytes.is_empty() {
        return Err(Error::new(Status::DataLost, "the file is empty"));
    }
    let identity: Identity = codec::decode(codec::Kind::Identity, &bytes, IDENTITY_CAP as usize)?;
    NodeId::new(&identity.node_id).map_err(|e| Error::new(Status::DataCorrupt, e.message().to_owned()))?;
    Ok(identity)
}

fn read_marker(beside: &dyn Disk, name: &str) -> Result<Option<Identity>> {
    let marker = marker_name(name);
    match beside.open(&marker) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        _ => read_identity(beside, &marker).map(Some).map_err(|e| in_file(beside.path().join(&marker).display(), &e)),
    }
}

fn write_identity(disk: &dyn Disk, name: &str, identity: &Identity) -> Result<()> {
    let bytes = codec::encode(codec::Kind::Identity, identity)?;
    replace(disk, name, &bytes).map_err(|e| Error::io(format_args!("writing {}", disk.path().join(name).display()), &e))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::base::SeededRng;
    use crate::store::crash_disk::{CrashDisk, Fault};

    fn owner<'a>() -> Owner<'a> {
        Owner { cluster_id: "c", node_id: None, create: true }
    }

    fn fill(disk: &Arc<dyn Disk>, _: u128) -> Result<()> {
        replace(disk.as_ref(), "wal-1", b"log").map_err(|e| Error::io("filling", &e))
    }

    fn open(path: &Path, owner: &Owner<'_>) -> Result<DataDir> {
        DataDir::open(path, owner, &mut SeededRng::new(1), &mut fill)
    }

    fn refused(path: &Path, owner: &Owner<'_>, status: Status, names: &str) {
        let before = std::fs::read_dir(path).map(|d| d.count()).ok();
        let e = open(path, owner).unwrap_err();
        assert_eq!(e.status(), status, "{e}");
        assert!(e.message().contains(names), "{e}");
        assert_eq!(std::fs::read_dir(path).map(|d| d.count()).ok(), before, "nothing is created");
    }

    #[test]
    fn it_is_made_once_and_remembered() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("data");
        refused(&path, &Owner { create: false, ..owner() }, Status::DataLost, "data");
        let made = open(&path, &owner()).unwrap();
        assert!(made.is_marked());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let id = made.identity().clone();
        assert_eq!((id.opens, id.complete), (1, true));
        refused(&path, &owner(), Status::DataLocked, "data");
        drop(made);
        let again = open(&path, &Owner { create: false, ..owner() }).unwrap();
        assert_eq!(*again.identity(), Identity { opens: 2, ..id });
    }

    #[test]
    fn a_wiped_directory_is_not_made_anew() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("data");
        drop(open(&path, &owner()).unwrap());
        let identity = path.join("identity");
        std::fs::remove_file(&identity).unwrap();
        refused(&path, &owner(), Status::DataLost, "identity");
        std::fs::remove_file(path.join("wal-1")).unwrap();
        refused(&path, &owner(), Status::DataLost, ".data.tenure");
        std::fs::remove_dir(&path).unwrap();
        refused(&path, &owner(), Status::DataLost, ".data.tenure");
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("data");
        let (a, b) = (NodeId::new("a").unwrap(), NodeId::new("b").unwrap());
        drop(open(&path, &Owner { node_id: Some(&a), ..owner() }).unwrap());
        refused(&path, &Owner { node_id: Some(&b), ..owner() }, Status::DataForeign, "identity");
        refused(&path, &Owner { cluster_id: "other", ..owner() }, Status::DataForeign, "identity");

        let strange = temporary.path().join("strange");
        std::fs::create_dir(&strange).unwrap();
        std::fs::set_permissions(&strange, PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::write(strange.join("thesis.tex"), b"").unwrap();
        refused(&strange, &owner(), Status::DataForeign, "thesis.tex");

        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o770)).unwrap();
        refused(&path, &owner(), Status::InvalidArgument, "770");
        refused(&temporary.path().join("no/such"), &owner(), Status::Io, "no");
        refused(Path::new("/"), &owner(), Status::InvalidArgument, "data_dir");
    }

    #[test]
    fn an_older_or_another_copy_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let (path, copy, other) = (temporary.path().join("data"), temporary.path().join("copy"), temporary.path().join("other"));
        drop(open(&path, &owner()).unwrap());
        std::fs::copy(path.join("identity"), &copy).unwrap();
        drop(open(&path, &owner()).unwrap());
        std::fs::copy(&copy, path.join("identity")).unwrap();
        refused(&path, &owner(), Status::DataLost, "identity");

        DataDir::open(&other, &owner(), &mut SeededRng::new(2), &mut fill).unwrap();
        std::fs::copy(other.join("identity"), path.join("identity")).unwrap();
        refused(&path, &owner(), Status::DataForeign, "identity");
        // Moved as a whole it is what it was, and gets a marker at its new place.
        let moved = temporary.path().join("moved");
        std::fs::rename(&other, &moved).unwrap();
        assert!(open(&moved, &Owner { create: false, ..owner() }).unwrap().is_marked());
    }

    #[test]
    fn a_damaged_or_empty_identity_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("data");
        drop(open(&path, &owner()).unwrap());
        for file in [path.join("identity"), temporary.path().join(".data.tenure")] {
            let name = file.file_name().unwrap().to_str().unwrap();
            let good = std::fs::read(&file).unwrap();
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                std::fs::write(&file, bad).unwrap();
                refused(&path, &owner(), Status::DataCorrupt, name);
            }
            std::fs::write(&file, b"").unwrap();
            refused(&path, &owner(), Status::DataLost, name);
            std::fs::write(&file, vec![0; 5000]).unwrap();
            refused(&path, &owner(), Status::DataCorrupt, name);
            std::fs::write(&file, good).unwrap();
        }
        open(&path, &owner()).unwrap();
    }

    // F26.
    #[test]
    fn making_it_may_be_cut_short_anywhere() {
        let open = |disk: &CrashDisk, beside: &CrashDisk| {
            let (disk, mut rng): (Arc<dyn Disk>, _) = (Arc::new(disk.clone()), SeededRng::new(1));
            DataDir::open_on(disk, beside, "data", &owner(), &mut rng, &mut fill)
        };
        let mut made_again = 0;
        for seed in 0..20 {
            for cut in 0.. {
                let (disk, beside) = (CrashDisk::new(seed), CrashDisk::new(seed + 1));
                let at_parent = cut >= 100;
                if at_parent {
                    beside.plan(cut - 100, Fault::PowerCut)
                } else {
                    disk.plan(cut, Fault::PowerCut)
                }
                let first = open(&disk, &beside);
                let hits = disk.hits() + beside.hits();
                let (disk, beside) = (disk.power_cycle(), beside.power_cycle());
                let second = open(&disk, &beside).unwrap_or_else(|e| panic!("seed {seed}, cut {cut}: {e}"));
                assert!(second.identity().complete && disk.list().unwrap().contains(&"wal-1".to_owned()));
                made_again += u32::from(first.is_err() && second.identity().opens == 1);
                // From then on it is never made again.
                let third = open(&disk.power_cycle(), &beside.power_cycle()).unwrap();
                assert_eq!(third.identity().disk_id, second.identity().disk_id);
                if hits == 0 {
                    if at_parent {
                        break;
                    }
                    assert!(first.is_ok());
                }
                assert!(cut < 150, "the number of operations is bounded");
            }
        }
        assert!(made_again > 20);
    }
}
