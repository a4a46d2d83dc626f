//! One directory of files, as the store sees it: a small trait, so that tests put a disk that fails in its place.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::fmt::Debug;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open file. Any thread may use it; positions are given with each call.
pub trait DiskFile: Send + Sync + Debug {
    /// Its length in bytes.
    ///
    /// # Errors
    /// As the system's.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    ///
    /// # Errors
    /// As [`DiskFile::len`].
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `into` from `offset`.
    ///
    /// # Errors
    /// [`ErrorKind::UnexpectedEof`] past the end, otherwise as the system's.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`. Durable only after [`DiskFile::sync`].
    ///
    /// # Errors
    /// As the system's; how much was written is unknown then.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts or extends the file; new bytes read as zero.
    ///
    /// # Errors
    /// As the system's.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes what was written before durable, and the length with it (`fdatasync`).
    ///
    /// # Errors
    /// As the system's. What was written since the last success is then neither known to be durable nor to be lost, and a
    /// second call proves nothing: the kernel may have dropped the pages.
    fn sync(&self) -> io::Result<()>;
}

/// A directory. Names are single components.
pub trait Disk: Send + Sync + Debug {
    /// Opens a regular file that exists, for reading and writing.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], a symbolic link, or as the system's.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates a file that does not exist. Its name is durable only after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`], or as the system's.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames, replacing `to`. Durable only after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// As the system's.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Durable only after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// As the system's.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// The names in it, sorted.
    ///
    /// # Errors
    /// As the system's.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes creations, renames and removals durable.
    ///
    /// # Errors
    /// As the system's.
    fn sync_dir(&self) -> io::Result<()>;

    /// Bytes that may still be allocated here.
    ///
    /// # Errors
    /// As the system's.
    fn free_bytes(&self) -> io::Result<u64>;

    /// Where it is, for messages.
    fn path(&self) -> &Path;
}

/// A file's content replaced as a whole: the old or the new one is found afterwards, whatever happens in between.
///
/// # Errors
/// As the system's.
pub fn replace(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}.new");
    match disk.remove(&temporary) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = disk.create(&temporary)?;
    file.write_at(0, bytes)?;
    file.sync()?;
    drop(file);
    disk.rename(&temporary, name)?;
    disk.sync_dir()
}

/// All of a small file; one longer than `cap` is refused unread.
///
/// # Errors
/// [`ErrorKind::FileTooLarge`], or as the system's.
pub fn read_all(disk: &dyn Disk, name: &str, cap: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(name)?;
    let len = file.len()?;
    if len > cap {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("{len} bytes, at most {cap} are expected")));
    }
    let mut bytes = vec![0; len as usize];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// A directory of the operating system. Files are opened relative to it, never through a symbolic link, with mode 0600,
/// closed on `exec`, and never as one of the descriptors 0 to 2, which belong to the host.
#[derive(Debug)]
pub struct OsDisk {
    dir: File,
    path: PathBuf,
}

impl OsDisk {
    /// Opens an existing directory.
    ///
    /// # Errors
    /// As the system's; a symbolic link is refused.
    pub fn open(path: &Path) -> io::Result<OsDisk> {
        let name = c_string(path.as_os_str().as_bytes())?;
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        // SAFETY: the name is NUL-terminated and lives through the call.
        let dir = unsafe { take(libc::open(name.as_ptr(), flags)) }?;
        Ok(OsDisk { dir: File::from(dir), path: path.to_owned() })
    }

    /// The directory itself.
    pub fn dir(&self) -> &File {
        &self.dir
    }

    /// Opens a file that is only there to be locked, and makes it if it is not there.
    ///
    /// # Errors
    /// As the system's.
    pub fn lock_file(&self, name: &str) -> io::Result<File> {
        self.file(name, libc::O_CREAT)
    }

    fn file(&self, name: &str, flags: libc::c_int) -> io::Result<File> {
        if name.contains('/') {
            return Err(io::Error::new(ErrorKind::InvalidInput, "the name of a file holds a slash"));
        }
        let c_name = c_string(name.as_bytes())?;
        let flags = flags | libc::O_RDWR | libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: the directory is open and the name NUL-terminated.
        let file = File::from(unsafe { take(libc::openat(self.dir.as_raw_fd(), c_name.as_ptr(), flags, 0o600)) }?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(file)
    }
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::new(ErrorKind::InvalidInput, "the path holds a NUL byte"))
}

/// Takes ownership of what a system call returned, moved out of the host's descriptors 0 to 2.
///
/// # Safety
/// `fd` is negative with `errno` set, or an open descriptor that nobody owns.
unsafe fn take(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the caller's contract.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    if fd > 2 {
        return Ok(owned);
    }
    // SAFETY: duplicates a live descriptor; the copy is owned at once and the original closed on return.
    let moved = unsafe { libc::fcntl(owned.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) };
    if moved < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(moved) })
}

/// Turns the result of a system call that returns 0 or -1 into ours.
fn done(code: libc::c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Disk for OsDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OsFile(self.file(name, 0)?)))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OsFile(self.file(name, libc::O_CREAT | libc::O_EXCL)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to, dir) = (c_string(from.as_bytes())?, c_string(to.as_bytes())?, self.dir.as_raw_fd());
        // SAFETY: both names are NUL-terminated, the directory is open.
        done(unsafe { libc::renameat(dir, from.as_ptr(), dir, to.as_ptr()) })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let name = c_string(name.as_bytes())?;
        // SAFETY: the name is NUL-terminated, the directory is open.
        done(unsafe { libc::unlinkat(self.dir.as_raw_fd(), name.as_ptr(), 0) })
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.dir.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: the directory is open and `found` is writable; it is read only after success.
        let found = unsafe {
            done(libc::fstatvfs(self.dir.as_raw_fd(), found.as_mut_ptr()))?;
            found.assume_init()
        };
        Ok((found.f_bavail as u64).saturating_mul(found.f_frsize as u64))
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

#[derive(Debug)]
struct OsFile(File);

impl DiskFile for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(into, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let old = self.0.metadata()?.len();
        if len > old {
            // With its blocks, so that lack of space shows now and not at some later write.
            // SAFETY: the descriptor is open.
            match done(unsafe { libc::fallocate(self.0.as_raw_fd(), 0, old as libc::off_t, (len - old) as libc::off_t) }) {
                Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                answer => return answer,
            }
        }
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn files_are_private_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let disk = OsDisk::open(dir.path()).unwrap();
        disk.create("a").unwrap().write_at(3, b"x").unwrap();
        let mode = std::fs::metadata(dir.path().join("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(disk.create("a").unwrap_err().kind(), ErrorKind::AlreadyExists);
        symlink(dir.path().join("a"), dir.path().join("b")).unwrap();
        assert_eq!(disk.open("b").unwrap_err().raw_os_error(), Some(libc::ELOOP));
        std::fs::create_dir(dir.path().join("c")).unwrap();
        assert!(disk.open("c").is_err());
        assert!(disk.open("../a").is_err());
        assert_eq!(disk.list().unwrap(), ["a", "b", "c"]);
        assert!(disk.free_bytes().unwrap() > 0);
    }

    #[test]
    fn replacing_leaves_one_whole_file() {
        let dir = tempfile::tempdir().unwrap();
        let disk = OsDisk::open(dir.path()).unwrap();
        disk.create("n.new").unwrap();
        replace(&disk, "n", b"first").unwrap();
        replace(&disk, "n", b"second").unwrap();
        assert_eq!(read_all(&disk, "n", 6).unwrap(), b"second");
        assert_eq!(read_all(&disk, "n", 5).unwrap_err().kind(), ErrorKind::FileTooLarge);
        assert_eq!(disk.list().unwrap(), ["n"]);
    }

    #[test]
    fn descriptors_of_the_host_are_not_taken() {
        // In a child, so that this process keeps its own descriptors.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        // SAFETY: the child makes system calls and short allocations only, then leaves without handlers.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: closes the child's own standard input.
            unsafe { libc::close(0) };
            let safe = OsDisk::open(&path).is_ok_and(|disk| disk.dir().as_raw_fd() > 2);
            // SAFETY: asks about a closed descriptor; leaves without handlers.
            unsafe { libc::_exit(i32::from(!(safe && libc::fcntl(0, libc::F_GETFD) == -1))) };
        }
        let mut code = -1;
        // SAFETY: waits for the child just made.
        unsafe { libc::waitpid(child, &mut code, 0) };
        assert_eq!(code, 0);
    }
}
