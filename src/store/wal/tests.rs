//! The log against a disk that fails.

use std::collections::BTreeMap;

use super::*;
use crate::base::SeededRng;
use crate::store::crash_disk::{CrashDisk, Fault};
use crate::store::disk::Disk;

const SEGMENT: u64 = 8 << 10;
const ID: u128 = 77;

fn create(disk: &CrashDisk, seed: u64) -> Result<Wal> {
    Wal::create(Arc::new(disk.clone()), ID, SEGMENT, Box::new(SeededRng::new(seed)))
}

fn open(disk: &CrashDisk) -> Result<(Wal, Recovery)> {
    Wal::open(Arc::new(disk.clone()), ID, SEGMENT, Box::new(SeededRng::new(9)))
}

fn record(seed: u64, index: u64) -> Vec<u8> {
    let mut rng = SeededRng::new(seed.wrapping_mul(31).wrapping_add(index));
    let len = rng.below(700) as usize;
    (0..len).map(|_| rng.next_u64() as u8).collect()
}

fn content(wal: &Wal) -> BTreeMap<u64, Vec<u8>> {
    let mut found = BTreeMap::new();
    if wal.last_index() >= wal.first_index() {
        wal.read(wal.first_index()..=wal.last_index(), &mut |i, r| {
            found.insert(i, r.to_vec());
            Ok(())
        })
        .unwrap();
    }
    found
}

/// What a log must and may hold.
#[derive(Default, Clone)]
struct Model {
    /// Entries as the log has them, with what was done to it last.
    entries: BTreeMap<u64, Vec<u8>>,
    purged: u64,
}

impl Model {
    fn last(&self) -> u64 {
        self.entries.keys().next_back().copied().unwrap_or(self.purged)
    }
}

/// Runs random operations until the disk fails or `steps` are done. Returns the state at the last sync and all states since.
fn run(wal: &mut Wal, rng: &mut SeededRng, steps: u32, start: Model) -> (Vec<Model>, bool) {
    let mut now = start;
    // The first is durable, the others may be.
    let mut states = vec![now.clone()];
    for _ in 0..steps {
        let (done, durable) = match rng.below(20) {
            0..10 => {
                let first = now.last() + 1;
                let records: Vec<Vec<u8>> = (0..1 + rng.below(4)).map(|i| record(rng.next_u64(), first + i)).collect();
                let slices: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
                let mut partial = now.clone();
                for (i, r) in records.iter().enumerate() {
                    partial.entries.insert(first + i as u64, r.clone());
                    // A crash may cut an append between its records.
                    if i + 1 < records.len() {
                        states.push(partial.clone());
                    }
                }
                now = partial;
                (wal.append(first, &slices), false)
            }
            10..16 => (wal.sync(), true),
            16 => {
                let to = now.purged + rng.below(now.last() - now.purged + 1);
                now.entries.split_off(&(to + 1));
                (wal.truncate_after(to), false)
            }
            17 | 18 => {
                let to = now.purged + rng.below(now.last() - now.purged + 1);
                let something = to > now.purged;
                now.entries = now.entries.split_off(&(to + 1));
                now.purged = to;
                (wal.purge_upto(to), something)
            }
            _ => {
                let made = wal.upkeep().map_or(Ok(()), Upkeep::run);
                (made, false)
            }
        };
        states.push(now.clone());
        if done.is_err() {
            return (states, false);
        }
        if durable {
            states = vec![now.clone()];
        }
        assert_eq!((wal.first_index(), wal.last_index()), (now.purged + 1, now.last()));
    }
    (states, true)
}

// F26.
#[test]
fn after_any_crash_the_log_holds_what_was_synced_and_a_prefix_of_the_rest() {
    let mut torn = 0;
    for seed in 0..800 {
        let mut rng = SeededRng::new(seed);
        let mut disk = CrashDisk::new(seed);
        let mut wal = create(&disk, seed).unwrap();
        let mut model = Model::default();
        for life in 0..4 {
            disk.plan(rng.below(60), Fault::PowerCut);
            let (states, whole) = run(&mut wal, &mut rng, 60, model);
            torn += u32::from(!whole);
            disk = if rng.below(4) == 0 { disk.kill_process() } else { disk.power_cycle() };
            wal = open(&disk).unwrap_or_else(|e| panic!("seed {seed}, life {life}: {e}")).0;
            let found = content(&wal);
            let purged = wal.first_index() - 1;
            let fits = |m: &Model| m.purged == purged && m.entries == found;
            // A purge is synced by itself: it may be found although nobody heard of its success.
            let matched = states.iter().rev().find(|m| fits(m));
            model = matched
                .unwrap_or_else(|| panic!("seed {seed}, life {life}: {:?} after {:?}", found.keys(), states[0].entries.keys()))
                .clone();
        }
    }
    assert!(torn > 1600, "only {torn} crashes struck");
}

#[test]
fn a_killed_process_loses_nothing_it_wrote() {
    let disk = CrashDisk::new(3);
    let mut wal = create(&disk, 3).unwrap();
    for i in 1..=200 {
        wal.append(i, &[&record(1, i)]).unwrap();
    }
    let (wal, recovery) = open(&disk.kill_process()).unwrap();
    assert!(!recovery.clean);
    let found = content(&wal);
    assert_eq!(found.len(), 200);
    assert!(found.iter().all(|(i, r)| *r == record(1, *i)));
}

#[test]
fn segments_are_used_again() {
    let disk = CrashDisk::new(4);
    let mut wal = create(&disk, 4).unwrap();
    for i in 1..=2000 {
        wal.append(i, &[&record(2, i)]).unwrap();
        wal.sync().unwrap();
        if i % 20 == 0 {
            wal.purge_upto(i - 5).unwrap();
            wal.upkeep().map_or(Ok(()), Upkeep::run).unwrap();
        }
    }
    assert!(wal.active().unwrap().number > 50);
    assert!(disk.used() <= 5 * SEGMENT, "{} bytes", disk.used());
    wal.close().unwrap();
    assert_eq!(wal.append(2001, &[b"x"]).unwrap_err().status(), Status::Poisoned);
    let (wal, recovery) = open(&disk.power_cycle()).unwrap();
    assert!(recovery.clean);
    assert_eq!((wal.first_index(), wal.last_index()), (1996, 2000));
}

/// A log over several segments, closed or not, and the names of its files.
fn sample(clean: bool) -> (CrashDisk, u64) {
    let disk = CrashDisk::new(5);
    let mut wal = create(&disk, 5).unwrap();
    let mut i = 0;
    while wal.active().unwrap().number < 3 || wal.position < SEGMENT / 2 {
        i += 1;
        wal.append(i, &[&record(3, i)]).unwrap();
        wal.sync().unwrap();
    }
    if clean {
        wal.close().unwrap();
    }
    (disk, i)
}

fn places(disk: &CrashDisk) -> Vec<Place> {
    open(disk).unwrap().0.places.iter().copied().collect()
}

// F34.
#[test]
fn damage_in_the_middle_is_refused_and_a_torn_end_is_dropped() {
    let (disk, last) = sample(false);
    {
        let (mut wal, _) = open(&disk).unwrap();
        wal.append(last + 1, &[&record(3, last + 1)]).unwrap();
    }
    let places = places(&disk.copy());
    let (mut refused, mut dropped) = (0, 0);
    for (n, place) in places.iter().enumerate() {
        let name = format!("wal-{:016x}", 1 + place.segment);
        // What is found damaged is not written to, so each has a copy of its own.
        let disk = disk.copy();
        disk.flip(&name, u64::from(place.at) * 8 + 11 * n as u64 % 200);
        let opened = open(&disk);
        // The last was never synced: it may be a write that was cut short.
        if n as u64 == last {
            let (wal, recovery) = opened.unwrap();
            assert_eq!((wal.last_index(), recovery.clean), (last, false));
            dropped += 1;
        } else {
            let e = opened.unwrap_err();
            assert_eq!(e.status(), Status::DataCorrupt, "entry {}: {e}", n + 1);
            assert!(e.message().contains("/crash-disk/wal-"), "{e}");
            refused += 1;
        }
    }
    assert_eq!((refused, dropped), (last, 1));
}

// I-16.
/// Every bit of the last record that was synced, by a process that is killed then: refused by name, never dropped.
#[test]
fn damage_in_what_was_synced_last_is_no_torn_write() {
    for end in ["append", "purge", "truncate", "reopen"] {
        let disk = CrashDisk::new(5);
        let mut wal = create(&disk, 5).unwrap();
        for i in 1..=4 {
            wal.append(i, &[&record(3, i)]).unwrap();
            wal.sync().unwrap();
        }
        match end {
            "append" => {}
            "purge" => wal.purge_upto(2).unwrap(),
            "truncate" => {
                wal.truncate_after(3).unwrap();
                wal.append(4, &[b"another"]).unwrap();
                wal.sync().unwrap();
            }
            _ => {
                wal.append(5, &[b"not synced, and made durable by the next process"]).unwrap();
                wal = open(&disk).unwrap().0;
            }
        }
        let place = wal.place(wal.last_index()).unwrap();
        let (from, to) = (u64::from(place.at), wal.position - frame_size(0) as u64);
        drop(wal);
        assert!(to > from);
        for bit in from * 8..to * 8 {
            let disk = disk.copy();
            disk.flip("wal-0000000000000001", bit);
            let opened = open(&disk).map(|(wal, _)| wal.last_index());
            // The zeros behind a record are no part of it.
            assert!(
                matches!(&opened, Err(e) if e.status() == Status::DataCorrupt) || opened == Ok(4 + u64::from(end == "reopen")),
                "{end}, bit {bit}: {opened:?}"
            );
        }
    }
}

/// Nobody waits for the mark behind what was synced: a power cut takes it, and nothing else.
#[test]
fn a_sync_is_one_sync_and_a_lost_mark_costs_nothing() {
    let disk = CrashDisk::new(11);
    let mut wal = create(&disk, 11).unwrap();
    wal.append(1, &[b"one"]).unwrap();
    let before = disk.ops();
    wal.sync().unwrap();
    wal.sync().unwrap();
    assert_eq!(disk.ops() - before, 2, "the sync, and the write of the mark");
    let (wal, _) = open(&disk.power_cycle()).unwrap();
    assert_eq!(wal.last_index(), 1);
    let failing = CrashDisk::new(12);
    let mut wal = create(&failing, 12).unwrap();
    wal.append(1, &[b"one"]).unwrap();
    failing.plan(1, Fault::Errno(libc::EIO));
    assert_eq!(wal.sync().unwrap_err().status(), Status::Io, "a mark that cannot be written");
    assert_eq!(wal.append(2, &[b"two"]).unwrap_err().status(), Status::Poisoned);
}

#[test]
fn after_a_good_end_no_entry_can_be_taken_for_torn() {
    let (disk, last) = sample(true);
    let (wal, recovery) = open(&disk).unwrap();
    assert!(recovery.clean);
    let place = wal.places[last as usize - 1];
    drop(wal);
    disk.flip(&format!("wal-{:016x}", 1 + place.segment), u64::from(place.at) * 8 + 70);
    assert_eq!(open(&disk).unwrap_err().status(), Status::DataCorrupt);
}

#[test]
fn missing_empty_foreign_and_swapped_files_are_refused_by_name() {
    let names = ["wal-0000000000000001", "wal-0000000000000002", "wal-0000000000000003"];
    for name in names {
        let (disk, _) = sample(false);
        let bytes = disk.content(name);
        disk.take(name);
        let e = open(&disk).unwrap_err();
        assert_eq!(e.status(), Status::DataLost, "{e}");
        assert!(e.message().contains(name), "{e}");

        disk.put(name, b"");
        let e = open(&disk).unwrap_err();
        assert_eq!(e.status(), Status::DataLost, "{e}");
        assert!(e.message().contains(name), "{e}");

        disk.put(name, &bytes[..bytes.len() - 512]);
        assert_eq!(open(&disk).unwrap_err().status(), Status::DataCorrupt);

        for other in names.iter().filter(|n| **n != name) {
            disk.put(name, &disk.content(other));
            let e = open(&disk).unwrap_err();
            assert_eq!(e.status(), Status::DataCorrupt);
            assert!(e.message().contains(name), "{e}");
        }
        disk.put(name, &bytes);
        open(&disk).unwrap();
        let foreign = Wal::open(Arc::new(disk.clone()), ID + 1, SEGMENT, Box::new(SeededRng::new(1))).unwrap_err();
        assert_eq!(foreign.status(), Status::DataForeign);
    }
    let empty = CrashDisk::new(1);
    assert_eq!(open(&empty).unwrap_err().status(), Status::DataLost);
    assert!(empty.list().unwrap().is_empty(), "nothing was created");
}

#[test]
fn a_failed_write_or_sync_is_the_end() {
    for op in 0..2 {
        let disk = CrashDisk::new(6);
        let mut wal = create(&disk, 6).unwrap();
        wal.append(1, &[b"one"]).unwrap();
        wal.sync().unwrap();
        disk.plan(op, Fault::Errno(libc::EIO));
        let e = wal.append(2, &[b"two"]).and_then(|()| wal.sync()).unwrap_err();
        assert_eq!((e.status(), e.os_errno()), (Status::Io, libc::EIO));
        assert!(e.message().contains("wal-"), "{e}");
        // The kernel would let the next sync succeed.
        for again in [wal.sync(), wal.append(2, &[b"two"]), wal.truncate_after(1), wal.purge_upto(1), wal.close()] {
            let e = again.unwrap_err();
            assert_eq!((e.status(), e.os_errno()), (Status::Poisoned, libc::EIO));
        }
        assert!(wal.upkeep().is_none());
        let (wal, _) = open(&disk.power_cycle()).unwrap();
        assert_eq!(wal.last_index(), 1);
    }
}

#[test]
fn without_space_an_append_is_refused_whole_and_later_done() {
    let disk = CrashDisk::new(7);
    disk.set_capacity(SEGMENT);
    let mut wal = create(&disk, 7).unwrap();
    let big = vec![1; 900];
    let mut i = 1;
    let e = loop {
        match wal.append(i, &[&big]) {
            Ok(()) => i += 1,
            Err(e) => break e,
        }
    };
    assert_eq!(e.status(), Status::Limit);
    assert_eq!(wal.last_index(), i - 1);
    assert_eq!(disk.list().unwrap().len(), 1, "nothing half made stays");
    wal.append(i, &[b"a small one still fits"]).unwrap();
    disk.set_capacity(3 * SEGMENT);
    wal.append(i + 1, &[&big]).unwrap();
    wal.sync().unwrap();
    let (wal, _) = open(&disk.power_cycle()).unwrap();
    assert_eq!(wal.last_index(), i + 1);
}

#[test]
fn a_record_too_long_is_refused_and_a_longest_one_is_not() {
    let disk = CrashDisk::new(8);
    let mut wal = create(&disk, 8).unwrap();
    let longest = vec![7; wal.max_record()];
    wal.append(1, &[b"x"]).unwrap();
    wal.append(2, &[&longest, &longest]).unwrap();
    assert_eq!(wal.append(4, &[&vec![7; wal.max_record() + 1]]).unwrap_err().status(), Status::Limit);
    wal.append(4, &[b"y"]).unwrap();
    let (wal, _) = open(&disk.kill_process()).unwrap();
    assert_eq!(content(&wal)[&3], longest);
    assert_eq!(wal.last_index(), 4);
}

#[test]
fn another_segment_size_is_taken_up_with_the_next_segment() {
    let (disk, last) = sample(true);
    let sized = |bytes| Wal::open(Arc::new(disk.clone()), ID, bytes, Box::new(SeededRng::new(3))).unwrap().0;
    let mut wal = sized(2 * SEGMENT);
    wal.append(last + 1, &[&vec![9; 12_000]]).unwrap();
    wal.close().unwrap();
    let mut wal = sized(SEGMENT);
    assert_eq!(content(&wal)[&(last + 1)].len(), 12_000);
    wal.purge_upto(last + 1).unwrap();
    for i in last + 2..last + 100 {
        wal.append(i, &[&record(1, i)]).unwrap();
        wal.sync().unwrap();
    }
    assert_eq!(content(&wal).len(), 98);
}

#[test]
fn a_long_range_is_read_in_parts_and_a_short_one_without_the_rest() {
    const LARGE: u64 = 4 << 20;
    let disk = CrashDisk::new(5);
    let mut wal = Wal::create(Arc::new(disk.clone()), ID, LARGE, Box::new(SeededRng::new(1))).unwrap();
    let bytes = |i: u64| vec![i as u8; 1500 + (i % 7) as usize];
    let count = 3 * READ_AT_ONCE as u64 / 1500;
    for i in 1..=count {
        wal.append(i, &[&bytes(i)]).unwrap();
    }
    wal.sync().unwrap();
    assert!(content(&wal).into_iter().all(|(i, r)| r == bytes(i)) && content(&wal).len() as u64 == count);
    let mut part = Vec::new();
    let (_, start, run) = wal.run(count..=count, &mut part).unwrap();
    assert!(start > 2 * READ_AT_ONCE && run == (count..=count) && part.len() < 2000, "{start} {run:?} {}", part.len());
}
