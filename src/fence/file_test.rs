//! The fence on a disk that fails as disks do, and its rule about writes under way.

use std::sync::mpsc;
use std::time::Duration;

use super::EpochFence;
use crate::base::{Error, Status};
use crate::store::crash_disk::{CrashDisk, Fault};

const NOW: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(60);

fn open(disk: &CrashDisk) -> Result<EpochFence, Error> {
    EpochFence::open_on(Box::new(disk.clone()), "fence", None)
}

#[test]
fn what_was_admitted_outlives_every_power_cut() {
    for seed in 1..200u64 {
        let mut disk = CrashDisk::new(seed);
        EpochFence::create_on(&disk, "fence").unwrap();
        let (mut admitted, mut asked) = (0, 0);
        for life in 0..6 {
            let fence = open(&disk).unwrap();
            let found = fence.highest("a").unwrap();
            assert!((admitted..=asked).contains(&found), "seed {seed}: {admitted} was admitted, {asked} asked, {found} found");
            admitted = found;
            disk.plan(1 + (seed + life * 7) % 9, Fault::PowerCut);
            loop {
                asked = admitted + 1 + seed % 3;
                match fence.enter("a", asked, NOW) {
                    Ok(_) => admitted = asked,
                    Err(e) => {
                        assert_eq!(e.status(), Status::Io, "seed {seed}");
                        break;
                    }
                }
                let low = fence.enter("a", admitted - 1, NOW).unwrap_err();
                assert!(admitted == 1 || (low.status(), low.token()) == (Status::Fenced, admitted), "seed {seed}: {low:?}");
            }
            // Once a write of the file has failed, nothing is admitted, not even what was.
            assert_eq!(fence.enter("a", admitted.max(1), NOW).unwrap_err().status(), Status::Poisoned);
            assert_eq!(fence.highest("a").unwrap_err().status(), Status::Poisoned);
            disk = disk.power_cycle();
        }
    }
}

#[test]
fn a_file_that_is_gone_or_damaged_is_refused_and_not_made_anew() {
    let disk = CrashDisk::new(1);
    assert_eq!(open(&disk).unwrap_err().status(), Status::DataLost);
    EpochFence::create_on(&disk, "fence").unwrap();
    assert_eq!(EpochFence::create_on(&disk, "fence").unwrap_err().status(), Status::Misuse);
    drop(open(&disk).unwrap().enter("", 1 << 40, NOW).unwrap());
    let whole = disk.content("fence");
    for bit in 0..whole.len() as u64 * 8 {
        let copy = disk.copy();
        copy.flip("fence", bit);
        let e = open(&copy).unwrap_err();
        assert!(matches!(e.status(), Status::DataCorrupt | Status::DataVersion), "bit {bit}: {e:?}");
        assert!(e.message().contains("fence"), "{e}");
    }
    disk.put("fence", &whole[..whole.len() - 1]);
    assert_eq!(open(&disk).unwrap_err().status(), Status::DataCorrupt);
    disk.put("fence", b"");
    assert_eq!(open(&disk).unwrap_err().status(), Status::DataCorrupt);
}

// I-06.
#[test]
fn a_higher_epoch_waits_for_writes_of_lower_ones_and_refuses_new_ones_at_once() {
    let disk = CrashDisk::new(1);
    EpochFence::create_on(&disk, "fence").unwrap();
    let fence = open(&disk).unwrap();
    let old = fence.enter("table", 4, NOW).unwrap();
    let also = fence.enter("table", 4, NOW).unwrap();
    assert_eq!(fence.enter("table", 5, NOW).unwrap_err().status(), Status::Timeout);
    // The epoch is raised all the same: nobody below it gets in any more, here or after a restart.
    assert_eq!(fence.enter("table", 4, LONG).unwrap_err().token(), 5);
    assert_eq!(open(&disk).unwrap().highest("table").unwrap(), 5);
    // Another resource is another matter.
    drop(fence.enter("index", 1, NOW).unwrap());
    let (tell, told) = mpsc::channel();
    let waiter = std::thread::spawn({
        let fence = fence.clone();
        move || {
            let pass = fence.enter("table", 5, LONG);
            tell.send(()).unwrap();
            pass.map(|p| p.epoch())
        }
    });
    drop(old);
    assert!(told.try_recv().is_err(), "a write of epoch 4 is under way");
    drop(also);
    assert_eq!(waiter.join().unwrap().unwrap(), 5);
}

#[test]
fn a_waiter_that_is_overtaken_is_refused() {
    let disk = CrashDisk::new(1);
    EpochFence::create_on(&disk, "fence").unwrap();
    let fence = open(&disk).unwrap();
    let old = fence.enter("", 1, NOW).unwrap();
    let waiter = std::thread::spawn({
        let fence = fence.clone();
        move || fence.enter("", 2, LONG).map(|p| p.epoch())
    });
    while fence.highest("").unwrap() != 2 {
        std::thread::yield_now();
    }
    assert_eq!(fence.enter("", 3, NOW).unwrap_err().status(), Status::Timeout);
    drop(old);
    assert!(matches!(waiter.join().unwrap(), Err(e) if e.token() == 3));
    assert_eq!(fence.enter("", 3, LONG).unwrap().epoch(), 3);
}
