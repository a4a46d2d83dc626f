//! Snapshots and small values in a redb database.
//!
//! redb does not verify its checksums when it reads, so each value carries one of ours, which also covers the table and the
//! key: a value found under another key is damage too. The file is checked as a whole when it is opened.

use crate::base::planted::planted;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use redb::{Builder, Database, ReadableDatabase, StorageBackend, TableDefinition};

use super::disk::{Disk, DiskFile};
use super::{SnapshotHead, StateStore, in_file, lock};
use crate::base::codec::{self, Decode, Encode};
use crate::base::{Error, Result, Status};

/// The database's file.
pub(super) const FILE: &str = "state.redb";
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const SNAPSHOT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("snapshot");
/// The key of the snapshot's head, after those of all its parts.
const HEAD: u64 = u64::MAX;
const DISK_ID: &str = "disk_id";
/// redb's own default is a gigabyte.
const CACHE: usize = 2 << 20;
/// The longest head, header included.
const HEAD_CAP: usize = 256;

/// The head of a snapshot, stored.
#[derive(Clone, Copy, Debug, Encode, Decode)]
struct Head {
    index: u64,
    clock_ms: u64,
    parts: u64,
    bytes: u64,
    checksum: u32,
}

/// The disk under redb.
#[derive(Debug)]
struct Backend(Arc<dyn DiskFile>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }
}

/// [`StateStore`] in one redb file of a data directory.
#[derive(Debug)]
pub struct RedbState {
    path: String,
    file: Arc<dyn DiskFile>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
enum Inner {
    Open(Database),
    /// There was no space for a write. redb wants to be opened again then, which happens at the next call.
    Shut,
    Dead(Error),
}

impl RedbState {
    /// Creates the database in a directory that has none, and opens it.
    ///
    /// # Errors
    /// [`Status::Limit`] without space, [`Status::Io`].
    pub fn create(disk: &dyn Disk, disk_id: u128) -> Result<RedbState> {
        let path = disk.path().join(FILE).display().to_string();
        let file = disk.create(FILE).map_err(|e| Error::io(format_args!("creating {path}"), &e))?;
        let db = guarded(|| database(&file)).map_err(|e| in_file(&path, &e))?;
        let state = RedbState { path, file, inner: Mutex::new(Inner::Open(db)) };
        state.put_meta(DISK_ID, &disk_id.to_le_bytes())?;
        disk.sync_dir().map_err(|e| Error::io(format_args!("syncing {}", disk.path().display()), &e))?;
        Ok(state)
    }

    /// Opens the database of the directory with this random id. With `rewrite` everything in it is written again: after a failed sync
    /// the kernel takes pages for clean that are not on the disk.
    ///
    /// # Errors
    /// [`Status::DataLost`], [`Status::DataCorrupt`], [`Status::DataForeign`], each naming the file; [`Status::Io`].
    pub fn open(disk: &dyn Disk, disk_id: u128, rewrite: bool) -> Result<RedbState> {
        let path = disk.path().join(FILE).display().to_string();
        let file = disk.open(FILE).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::new(Status::DataLost, format!("{path}: missing")),
            _ => Error::io(format_args!("opening {path}"), &e),
        })?;
        if file.is_empty().map_err(|e| Error::io(format_args!("reading {path}"), &e))? {
            return Err(Error::new(Status::DataLost, format!("{path}: the file is empty")));
        }
        // What a killed process left in the page cache is acted on from now, so it has to be durable first.
        let safe = if rewrite { write_again(file.as_ref()) } else { Ok(()) };
        safe.and_then(|()| file.sync()).map_err(|e| Error::io(format_args!("syncing {path}"), &e))?;
        let checked = guarded(|| {
            let mut db = database(&file)?;
            if db.check_integrity().map_err(|e| Error::new(Status::DataCorrupt, e.to_string()))? {
                Ok(db)
            } else {
                Err(Error::new(Status::DataCorrupt, "its checksums do not match"))
            }
        });
        let db = checked.map_err(|e| in_file(&path, &e))?;
        let state = RedbState { path, file, inner: Mutex::new(Inner::Open(db)) };
        match state.get_meta(DISK_ID)? {
            Some(id) if id == disk_id.to_le_bytes() => Ok(state),
            Some(_) => Err(Error::new(Status::DataForeign, format!("{}: the file is from another data directory", state.path))),
            None => Err(Error::new(Status::DataLost, format!("{}: its values are gone", state.path))),
        }
    }

    /// Runs `body` on the open database. A failure to write ends the store, save for lack of space.
    fn with<T>(&self, body: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        let mut inner = lock(&self.inner);
        if matches!(*inner, Inner::Shut) {
            *inner = Inner::Open(guarded(|| database(&self.file)).map_err(|e| in_file(&self.path, &e))?);
        }
        let answer = match &*inner {
            Inner::Open(db) => guarded(|| body(db)).map_err(|e| in_file(&self.path, &e)),
            Inner::Shut => Err(Error::from(Status::Internal)),
            Inner::Dead(cause) => {
                return Err(Error::new(Status::Poisoned, format!("the state ended: {}", cause.message())).with_errno(cause.os_errno()));
            }
        };
        match &answer {
            Err(e) if e.status() == Status::Limit => *inner = Inner::Shut,
            Err(e) if e.status() == Status::Io => *inner = Inner::Dead(e.clone()),
            _ => {}
        }
        answer
    }

    fn write(&self, body: impl FnOnce(&redb::WriteTransaction) -> Result<()>) -> Result<()> {
        self.with(|db| {
            let mut transaction = db.begin_write().map_err(error)?;
            // Two phases and a stored allocator: redb's own remedy against losing a commit to two crashes, and a quick start.
            transaction.set_quick_repair(true);
            body(&transaction)?;
            transaction.commit().map_err(error)
        })
    }
}

fn write_again(file: &dyn DiskFile) -> io::Result<()> {
    let len = file.len()?;
    let mut buffer = vec![0; (len as usize).min(1 << 20)];
    let mut at = 0;
    while at < len {
        let piece = buffer.len().min((len - at) as usize);
        file.read_at(at, &mut buffer[..piece])?;
        file.write_at(at, &buffer[..piece])?;
        at += piece as u64;
    }
    Ok(())
}

fn database(file: &Arc<dyn DiskFile>) -> Result<Database> {
    Builder::new().set_cache_size(CACHE).create_with_backend(Backend(file.clone())).map_err(error)
}

/// redb panics on some damage; here that is damage.
fn guarded<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err(Error::new(Status::DataCorrupt, "the database cannot be read")))
}

fn error(cause: impl Into<redb::Error>) -> Error {
    match cause.into() {
        redb::Error::Io(e) => match e.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => {
                Error::new(Status::Limit, format!("no space: {e}")).with_errno(e.raw_os_error().unwrap_or(0))
            }
            Some(_) => Error::io("input/output", &e),
            // What redb finds wrong with the file it reports as invalid data, what is cut off as an early end.
            None if matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                Error::new(Status::DataCorrupt, e.to_string())
            }
            None => Error::io("input/output", &e),
        },
        redb::Error::PreviousIo => Error::new(Status::Io, "input/output failed before"),
        redb::Error::UpgradeRequired(version) => Error::new(Status::DataVersion, format!("file format {version}")),
        other => Error::new(Status::DataCorrupt, other.to_string()),
    }
}

fn checksum(table: &str, key: &[u8], value: &[u8]) -> u32 {
    let mut crc = crc32c::crc32c(table.as_bytes());
    crc = crc32c::crc32c_append(crc, &(key.len() as u64).to_le_bytes());
    crc = crc32c::crc32c_append(crc, key);
    crc32c::crc32c_append(crc, value)
}

fn wrap(table: &str, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + value.len());
    out.extend_from_slice(&checksum(table, key, value).to_le_bytes());
    out.extend_from_slice(value);
    out
}

fn verified<'a>(table: &str, key: &[u8], stored: &'a [u8]) -> Result<&'a [u8]> {
    match stored.split_first_chunk::<4>() {
        Some((crc, value)) if planted!("state-without-checksum") || checksum(table, key, value).to_le_bytes() == *crc => Ok(value),
        _ => Err(Error::new(Status::DataCorrupt, format!("a value of table {table} fails its checksum"))),
    }
}

impl StateStore for RedbState {
    fn load_snapshot(&self, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<Option<SnapshotHead>> {
        self.with(|db| {
            let transaction = db.begin_read().map_err(error)?;
            let table = match transaction.open_table(SNAPSHOT) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                Err(e) => return Err(error(e)),
            };
            let Some(head) = table.get(HEAD).map_err(error)? else {
                return Err(Error::new(Status::DataCorrupt, "the snapshot has no head"));
            };
            let head: Head = codec::decode(codec::Kind::Snapshot, verified("snapshot", &HEAD.to_le_bytes(), head.value())?, HEAD_CAP)?;
            let (mut bytes, mut crc) = (0u64, 0u32);
            for part in 0..head.parts {
                let Some(stored) = table.get(part).map_err(error)? else {
                    return Err(Error::new(Status::DataCorrupt, format!("part {part} of {} of the snapshot is missing", head.parts)));
                };
                let value = verified("snapshot", &part.to_le_bytes(), stored.value())?;
                bytes += value.len() as u64;
                crc = crc32c::crc32c_append(crc, value);
                each(value)?;
            }
            if (bytes, crc) != (head.bytes, head.checksum) {
                return Err(Error::new(Status::DataCorrupt, "the snapshot as a whole fails its checksum"));
            }
            Ok(Some(SnapshotHead { index: head.index, clock_ms: head.clock_ms }))
        })
    }

    fn save_snapshot(&self, head: SnapshotHead, parts: &mut dyn Iterator<Item = Result<Vec<u8>>>) -> Result<()> {
        self.write(|transaction| {
            let mut table = transaction.open_table(SNAPSHOT).map_err(error)?;
            table.retain(|_, _| false).map_err(error)?;
            let SnapshotHead { index, clock_ms } = head;
            let mut head = Head { index, clock_ms, parts: 0, bytes: 0, checksum: 0 };
            for part in parts {
                let part = part?;
                let stored = wrap("snapshot", &head.parts.to_le_bytes(), &part);
                table.insert(head.parts, stored.as_slice()).map_err(error)?;
                head.parts += 1;
                head.bytes += part.len() as u64;
                head.checksum = crc32c::crc32c_append(head.checksum, &part);
            }
            let stored = wrap("snapshot", &HEAD.to_le_bytes(), &codec::encode(codec::Kind::Snapshot, &head)?);
            table.insert(HEAD, stored.as_slice()).map_err(error)?;
            Ok(())
        })
    }

    fn get_meta(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.with(|db| {
            let transaction = db.begin_read().map_err(error)?;
            let table = match transaction.open_table(META) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                Err(e) => return Err(error(e)),
            };
            let Some(stored) = table.get(key).map_err(error)? else { return Ok(None) };
            verified("meta", key.as_bytes(), stored.value()).map(|v| Some(v.to_vec()))
        })
    }

    fn put_meta(&self, key: &str, value: &[u8]) -> Result<()> {
        self.write(|transaction| {
            let mut table = transaction.open_table(META).map_err(error)?;
            let stored = wrap("meta", key.as_bytes(), value);
            table.insert(key, stored.as_slice()).map_err(error)?;
            Ok(())
        })
    }

    fn close(&self) {
        *lock(&self.inner) = Inner::Dead(Error::new(Status::Closed, "it was closed"));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::base::{Rng, SeededRng};
    use crate::store::crash_disk::{CrashDisk, Fault};

    fn snapshot(index: u64) -> (SnapshotHead, Vec<Vec<u8>>) {
        let head = SnapshotHead { index, clock_ms: index * 10 };
        (head, (0..index % 5).map(|p| vec![p as u8; 3_000]).collect())
    }

    fn save(state: &RedbState, index: u64) -> Result<()> {
        let (head, parts) = snapshot(index);
        state.save_snapshot(head, &mut parts.into_iter().map(Ok))
    }

    fn load(state: &RedbState) -> Result<Option<u64>> {
        let mut found = Vec::new();
        let head = state.load_snapshot(&mut |p| {
            found.push(p.to_vec());
            Ok(())
        })?;
        Ok(head.map(|h| {
            assert_eq!((h, found), snapshot(h.index));
            h.index
        }))
    }

    // I-20, F25.
    #[test]
    fn values_and_snapshots_survive_any_power_cut() {
        let mut cuts = 0;
        for seed in 0..30 {
            let mut rng = SeededRng::new(seed);
            let mut disk = CrashDisk::new(seed);
            let mut state = RedbState::create(&disk, 5).unwrap();
            let (mut epoch, mut index): (Option<u64>, Option<u64>) = (None, None);
            for _ in 0..3 {
                disk.plan(rng.below(40), Fault::PowerCut);
                let (mut next_epoch, mut next_index) = (epoch, index);
                for _ in 0..30 {
                    let done = if rng.below(2) == 0 {
                        next_epoch = Some(epoch.unwrap_or(0) + 1);
                        state.put_meta("gate.a", &next_epoch.unwrap().to_le_bytes())
                    } else {
                        next_index = Some(index.unwrap_or(0) + 1);
                        save(&state, next_index.unwrap())
                    };
                    if done.is_err() {
                        cuts += 1;
                        break;
                    }
                    (epoch, index) = (next_epoch, next_index);
                }
                disk = disk.power_cycle();
                state = RedbState::open(&disk, 5, true).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                let found = state.get_meta("gate.a").unwrap().map(|v| u64::from_le_bytes(v.try_into().unwrap()));
                assert!(found == epoch || found == next_epoch, "seed {seed}: {found:?}, {epoch:?} was acknowledged");
                let loaded = load(&state).unwrap();
                assert!(loaded == index || loaded == next_index, "seed {seed}: {loaded:?}, {index:?} was acknowledged");
                (epoch, index) = (found, loaded);
            }
        }
        assert!(cuts > 50, "only {cuts} power cuts struck");
    }

    #[test]
    fn no_flipped_bit_gives_another_value() {
        let disk = CrashDisk::new(1);
        {
            let state = RedbState::create(&disk, 5).unwrap();
            state.put_meta("gate.a", &7u64.to_le_bytes()).unwrap();
            save(&state, 4).unwrap();
        }
        let bits = disk.content(FILE).len() as u64 * 8;
        let mut rng = SeededRng::new(2);
        let mut refused = 0;
        for _ in 0..150 {
            // Where there is something: most of the file is empty.
            let bit = loop {
                let bit = rng.below(bits);
                if disk.content(FILE)[(bit / 8) as usize] != 0 {
                    break bit;
                }
            };
            let hurt = disk.copy();
            hurt.flip(FILE, bit);
            match RedbState::open(&hurt, 5, false).and_then(|s| Ok((s.get_meta("gate.a")?, load(&s)?))) {
                Ok(found) => assert_eq!(found, (Some(7u64.to_le_bytes().to_vec()), Some(4)), "bit {bit}"),
                Err(e) => {
                    assert!(
                        matches!(e.status(), Status::DataCorrupt | Status::DataVersion | Status::DataLost | Status::DataForeign),
                        "bit {bit}: {e}"
                    );
                    assert!(e.message().contains(FILE), "{e}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 15, "only {refused} of 150 hit anything that is in use");
    }

    #[test]
    fn a_value_is_bound_to_its_key() {
        let stored = wrap("meta", b"gate.a", b"12345678");
        assert_eq!(verified("meta", b"gate.a", &stored).unwrap(), b"12345678");
        for (table, key) in [("meta", &b"gate.b"[..]), ("snapshot", b"gate.a"), ("meta", b"gate.")] {
            assert_eq!(verified(table, key, &stored).unwrap_err().status(), Status::DataCorrupt);
        }
        assert!(verified("meta", b"gate.a", &stored[..3]).is_err());
        for bit in 0..stored.len() * 8 {
            let mut bad = stored.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(verified("meta", b"gate.a", &bad).unwrap_err().status(), Status::DataCorrupt, "bit {bit}");
        }
    }

    #[test]
    fn missing_empty_and_foreign_are_refused_by_name() {
        let disk = CrashDisk::new(1);
        drop(RedbState::create(&disk, 5).unwrap());
        let refused = |disk: &CrashDisk, id, status| {
            let e = RedbState::open(disk, id, true).unwrap_err();
            assert_eq!(e.status(), status, "{e}");
            assert!(e.message().contains(FILE), "{e}");
        };
        refused(&disk, 6, Status::DataForeign);
        disk.put(FILE, b"");
        refused(&disk, 5, Status::DataLost);
        disk.put(FILE, &[b'x'; 5_000]);
        refused(&disk, 5, Status::DataCorrupt);
        disk.take(FILE);
        refused(&disk, 5, Status::DataLost);
        assert!(disk.list().unwrap().is_empty());
    }

    #[test]
    fn lack_of_space_is_no_end_and_an_input_output_error_is() {
        let disk = CrashDisk::new(1);
        let state = RedbState::create(&disk, 5).unwrap();
        save(&state, 3).unwrap();
        disk.set_capacity(disk.used() + 1000);
        let (head, big) = (snapshot(3).0, vec![1; 8 << 20]);
        let e = state.save_snapshot(head, &mut std::iter::once(Ok(big))).unwrap_err();
        assert_eq!(e.status(), Status::Limit, "{e}");
        assert_eq!(load(&state).unwrap(), Some(3));
        disk.set_capacity(u64::MAX);
        save(&state, 4).unwrap();

        disk.plan(0, Fault::Errno(libc::EIO));
        let e = state.put_meta("a", b"b").unwrap_err();
        assert_eq!((e.status(), e.os_errno()), (Status::Io, libc::EIO), "{e}");
        assert_eq!(state.put_meta("a", b"b").unwrap_err().status(), Status::Poisoned);
        assert_eq!(state.get_meta("a").unwrap_err().status(), Status::Poisoned);
    }
}
