//! A disk in memory that fails as disks do: it loses what was not synced, tears writes, answers EIO, fills up, flips bits.
//!
//! Everything follows from the seed and from the order of the calls, so a failing case is repeated by its seed.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Disk, DiskFile};
use crate::base::{Rng, SeededRng};

/// The unit that a power cut leaves whole.
const SECTOR: usize = 512;

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

#[derive(Debug, Clone, Default)]
struct Inode {
    durable: Vec<u8>,
    current: Vec<u8>,
    pending: Vec<Change>,
}

impl Inode {
    fn change(bytes: &mut Vec<u8>, change: &Change) {
        match change {
            Change::Write(at, data) => {
                let end = *at as usize + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*at as usize..end].copy_from_slice(data);
            }
            Change::Length(len) => bytes.resize(*len as usize, 0),
        }
    }

    fn settle(&mut self) {
        for change in self.pending.drain(..) {
            Inode::change(&mut self.durable, &change);
        }
    }
}

#[derive(Debug, Clone)]
enum Naming {
    Put(String, usize),
    Move(String, String),
    Drop(String),
}

fn name_change(names: &mut BTreeMap<String, usize>, change: &Naming) {
    match change {
        Naming::Put(name, inode) => {
            names.insert(name.clone(), *inode);
        }
        Naming::Move(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
        Naming::Drop(name) => {
            names.remove(name);
        }
    }
}

/// What goes wrong, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The power goes at this operation: it may or may not take effect, nothing after it does.
    PowerCut,
    /// The operation fails with this errno; a failed sync also drops what it should have written.
    Errno(i32),
}

#[derive(Debug)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<Naming>,
    rng: SeededRng,
    ops: u64,
    faults: BTreeMap<u64, Fault>,
    off: bool,
    hits: u64,
    capacity: u64,
}

/// The disk; clones are the same disk.
#[derive(Debug, Clone)]
pub struct CrashDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct CrashFile {
    disk: CrashDisk,
    inode: usize,
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

impl CrashDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> CrashDisk {
        CrashDisk(Arc::new(Mutex::new(State {
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            rng: SeededRng::new(seed),
            ops: 0,
            faults: BTreeMap::new(),
            off: false,
            hits: 0,
            capacity: u64::MAX,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Changing operations (writes, syncs, names) so far.
    pub fn ops(&self) -> u64 {
        self.state().ops
    }

    /// Plans a fault for the `n`-th changing operation from now, counted from 0.
    pub fn plan(&self, n: u64, fault: Fault) {
        let mut s = self.state();
        let at = s.ops + n;
        s.faults.insert(at, fault);
    }

    /// Nothing that was planned happens any more.
    pub fn forget_plans(&self) {
        self.state().faults.clear();
    }

    /// How many planned faults have struck.
    pub fn hits(&self) -> u64 {
        self.state().hits
    }

    /// Bytes that the files may have in all.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().capacity = bytes;
    }

    /// Bytes that the files have.
    pub fn used(&self) -> u64 {
        let s = self.state();
        s.names.values().map(|i| s.inodes[*i].current.len() as u64).sum()
    }

    /// Cuts the power now, and puts it on again: what was synced is there; of the rest, any sectors and the first so many names.
    pub fn power_cycle(&self) -> CrashDisk {
        let mut s = self.state();
        s.off = true;
        let mut rng = SeededRng::new(s.rng.next_u64());
        let mut names = s.durable_names.clone();
        let kept = rng.below(s.pending_names.len() as u64 + 1) as usize;
        for change in &s.pending_names[..kept] {
            name_change(&mut names, change);
        }
        // Only files with a name are of interest.
        let mut inodes = vec![Inode::default(); s.inodes.len()];
        for inode in names.values() {
            inodes[*inode] = s.inodes[*inode].clone();
        }
        for inode in &mut inodes {
            let keep_all = rng.below(4) == 0;
            for change in std::mem::take(&mut inode.pending) {
                match change {
                    Change::Write(at, data) => {
                        let mut from = 0;
                        while from < data.len() {
                            let to = data.len().min(from + SECTOR - (at as usize + from) % SECTOR);
                            if keep_all || rng.below(2) == 0 {
                                Inode::change(&mut inode.durable, &Change::Write(at + from as u64, data[from..to].to_vec()));
                            }
                            from = to;
                        }
                    }
                    length if keep_all || rng.below(2) == 0 => Inode::change(&mut inode.durable, &length),
                    Change::Length(_) => {}
                }
            }
            inode.current = inode.durable.clone();
        }
        let next = CrashDisk::new(rng.next_u64());
        {
            let mut n = next.state();
            n.inodes = inodes;
            n.names = names.clone();
            n.durable_names = names;
            n.capacity = s.capacity;
        }
        next
    }

    /// The power is cut, and nothing that was not synced has got to the medium.
    pub fn only_synced(&self) -> CrashDisk {
        {
            let mut s = self.state();
            s.pending_names.clear();
            s.inodes.iter_mut().for_each(|inode| inode.pending.clear());
        }
        self.power_cycle()
    }

    /// This disk, with other chances.
    pub fn with_chances(self, seed: u64) -> CrashDisk {
        self.state().rng = SeededRng::new(seed);
        self
    }

    /// The process is killed, the machine is not: everything written is there, and old handles are dead.
    pub fn kill_process(&self) -> CrashDisk {
        let mut s = self.state();
        s.off = true;
        let next = CrashDisk::new(s.rng.next_u64());
        {
            let mut n = next.state();
            n.inodes = s.inodes.clone();
            n.names = s.names.clone();
            n.durable_names = s.durable_names.clone();
            n.pending_names = s.pending_names.clone();
            n.capacity = s.capacity;
        }
        next
    }

    /// Another disk with the same files, durable.
    pub fn copy(&self) -> CrashDisk {
        let next = CrashDisk::new(1);
        for name in self.list().unwrap() {
            next.put(&name, &self.content(&name));
        }
        next
    }

    /// The content of a file.
    pub fn content(&self, name: &str) -> Vec<u8> {
        let s = self.state();
        s.inodes[s.names[name]].current.clone()
    }

    /// Puts a file there, durable.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut s = self.state();
        s.inodes.push(Inode { durable: bytes.to_vec(), current: bytes.to_vec(), pending: Vec::new() });
        let inode = s.inodes.len() - 1;
        s.names.insert(name.to_owned(), inode);
        s.durable_names.insert(name.to_owned(), inode);
    }

    /// Takes a file away, durably.
    pub fn take(&self, name: &str) {
        let mut s = self.state();
        s.names.remove(name);
        s.durable_names.remove(name);
    }

    /// Flips one bit of a file on the medium.
    pub fn flip(&self, name: &str, bit: u64) {
        let mut bytes = self.content(name);
        bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
        self.put(name, &bytes);
    }

    /// Counts a changing operation and says whether it strikes a fault.
    fn strike(s: &mut State) -> io::Result<Option<i32>> {
        if s.off {
            return Err(power_is_off());
        }
        let at = s.ops;
        s.ops += 1;
        match s.faults.remove(&at) {
            None => Ok(None),
            Some(Fault::Errno(errno)) => {
                s.hits += 1;
                Ok(Some(errno))
            }
            Some(Fault::PowerCut) => {
                s.hits += 1;
                s.off = true;
                // The operation under way: half the time it reached the disk's queue.
                if s.rng.below(2) == 0 { Err(power_is_off()) } else { Ok(None) }
            }
        }
    }

    /// After a power cut in the middle of an operation that took effect, its caller still never hears of it.
    fn answer(s: &State) -> io::Result<()> {
        if s.off { Err(power_is_off()) } else { Ok(()) }
    }

    fn naming(&self, change: Naming) -> io::Result<()> {
        let mut s = self.state();
        if let Some(errno) = CrashDisk::strike(&mut s)? {
            return Err(io::Error::from_raw_os_error(errno));
        }
        name_change(&mut s.names, &change);
        s.pending_names.push(change);
        CrashDisk::answer(&s)
    }
}

impl Disk for CrashDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let s = self.state();
        if s.off {
            return Err(power_is_off());
        }
        let inode = *s.names.get(name).ok_or(ErrorKind::NotFound)?;
        Ok(Arc::new(CrashFile { disk: self.clone(), inode }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let inode = {
            let mut s = self.state();
            if s.names.contains_key(name) {
                return Err(ErrorKind::AlreadyExists.into());
            }
            s.inodes.push(Inode::default());
            s.inodes.len() - 1
        };
        self.naming(Naming::Put(name.to_owned(), inode))?;
        Ok(Arc::new(CrashFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if !self.state().names.contains_key(from) {
            return Err(ErrorKind::NotFound.into());
        }
        self.naming(Naming::Move(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        if !self.state().names.contains_key(name) {
            return Err(ErrorKind::NotFound.into());
        }
        self.naming(Naming::Drop(name.to_owned()))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut s = self.state();
        if let Some(errno) = CrashDisk::strike(&mut s)? {
            return Err(io::Error::from_raw_os_error(errno));
        }
        s.durable_names = s.names.clone();
        s.pending_names.clear();
        CrashDisk::answer(&s)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let capacity = self.state().capacity;
        Ok(capacity.saturating_sub(self.used()))
    }

    fn path(&self) -> &Path {
        static PLACE: std::sync::LazyLock<PathBuf> = std::sync::LazyLock::new(|| PathBuf::from("/crash-disk"));
        &PLACE
    }
}

impl CrashFile {
    fn apply(&self, change: Change) -> io::Result<()> {
        let used = self.disk.used();
        let mut s = self.disk.state();
        if let Some(errno) = CrashDisk::strike(&mut s)? {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let len = s.inodes[self.inode].current.len() as u64;
        let end = match &change {
            Change::Write(at, data) => at + data.len() as u64,
            Change::Length(end) => *end,
        };
        if used + end.saturating_sub(len) > s.capacity {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let inode = &mut s.inodes[self.inode];
        Inode::change(&mut inode.current, &change);
        inode.pending.push(change);
        CrashDisk::answer(&s)
    }
}

impl DiskFile for CrashFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().inodes[self.inode].current.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let s = self.disk.state();
        if s.off {
            return Err(power_is_off());
        }
        let end = offset as usize + into.len();
        into.copy_from_slice(s.inodes[self.inode].current.get(offset as usize..end).ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.apply(Change::Write(offset, bytes.to_vec()))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.apply(Change::Length(len))
    }

    fn sync(&self) -> io::Result<()> {
        let mut s = self.disk.state();
        if let Some(errno) = CrashDisk::strike(&mut s)? {
            // As ext4 does: the pages are marked clean, so a second sync would succeed without them.
            s.inodes[self.inode].pending.clear();
            return Err(io::Error::from_raw_os_error(errno));
        }
        s.inodes[self.inode].settle();
        CrashDisk::answer(&s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::{read_all, replace};

    #[test]
    fn what_is_synced_survives_and_a_name_needs_its_directory() {
        let mut lost = 0;
        for seed in 0..40 {
            let disk = CrashDisk::new(seed);
            let file = disk.create("a").unwrap();
            file.write_at(0, &[7; 2000]).unwrap();
            file.sync().unwrap();
            let after = disk.power_cycle();
            lost += u32::from(after.open("a").is_err());
            disk.0.lock().unwrap().off = false;
            disk.sync_dir().unwrap();
            file.write_at(0, &[8; 2000]).unwrap();
            let after = disk.power_cycle();
            let bytes = read_all(&after, "a", 4000).unwrap();
            assert!(bytes.chunks(SECTOR).all(|c| c.iter().all(|b| *b == c[0])), "sectors are whole");
        }
        assert!((5..35).contains(&lost), "{lost} of 40 names lost");
    }

    #[test]
    fn a_replaced_file_is_whole_at_every_power_cut() {
        let total = {
            let disk = CrashDisk::new(1);
            replace(&disk, "n", b"old").unwrap();
            let before = disk.ops();
            replace(&disk, "n", b"newer").unwrap();
            disk.ops() - before
        };
        for cut in 0..total {
            for seed in 0..20 {
                let disk = CrashDisk::new(seed);
                replace(&disk, "n", b"old").unwrap();
                disk.plan(cut, Fault::PowerCut);
                assert!(replace(&disk, "n", b"newer").is_err());
                let found = read_all(&disk.power_cycle(), "n", 10).unwrap();
                assert!(found == b"old" || found == b"newer", "cut {cut}, seed {seed}: {found:?}");
            }
        }
    }

    #[test]
    fn faults_strike_where_planned() {
        let disk = CrashDisk::new(1);
        let file = disk.create("a").unwrap();
        disk.plan(1, Fault::Errno(libc::EIO));
        file.write_at(0, b"x").unwrap();
        assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(libc::EIO));
        assert_eq!(disk.hits(), 1);
        disk.set_capacity(2);
        assert_eq!(file.write_at(1, b"xy").unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        disk.flip("a", 0);
        assert_eq!(disk.content("a"), [b'x' ^ 1]);
    }
}
