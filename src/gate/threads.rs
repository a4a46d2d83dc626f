//! Thread indices: which slot of every gate belongs to which thread of the process.
//!
//! An index is given to another thread only when the kernel says that its owner is gone, never on the word of a thread-exit
//! hook: a host's own hooks may still write after ours ran, with the index cached in the header's thread-local variable.
//! The table takes no lock, so that a fork cannot leave one taken in the child.

#![allow(unsafe_code)]

use std::cell::Cell as Local;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, AtomicUsize};

use super::cell::{SLOTS, STRIPES};

/// Who has an index: the thread's number in the low half, in the high half a count of the times it changed hands, so that a
/// number used again by the kernel is not taken for the thread that had it before.
type Owner = u64;
/// An index that is never given out again.
const RETIRED: u32 = u32::MAX;
/// Owners looked at in one claim. Two would do to keep up with thread churn.
const PROBES: usize = 4;

struct Table {
    /// Process that filled the table in.
    pid: AtomicI32,
    owners: [AtomicU64; SLOTS],
    given: AtomicUsize,
    /// Where the search for dead owners goes on.
    cursor: AtomicUsize,
    /// Threads sent to the stripes.
    beyond: AtomicUsize,
}

static TABLE: Table = Table::new();
/// Highest index ever given out; the drainer looks no further.
static HIGHEST: AtomicU32 = AtomicU32::new(0);

thread_local! {
    static INDEX: Local<u32> = const { Local::new(0) };
}

/// This thread's slot in every gate, counted from 1; above [`SLOTS`] it is one that threads share. The first call of a thread
/// makes a few system calls, the others read a thread-local variable. Never fails, never allocates, takes no lock.
#[inline]
pub fn thread_index() -> u32 {
    let index = INDEX.get();
    if index != 0 { index } else { claim() }
}

/// The highest index in use, stripes included.
pub(super) fn highest() -> u32 {
    HIGHEST.load(SeqCst)
}

#[cold]
fn claim() -> u32 {
    // SAFETY: neither call has arguments or can fail.
    let (pid, tid) = unsafe { (libc::getpid(), libc::syscall(libc::SYS_gettid) as u32) };
    if TABLE.pid.load(Acquire) != pid {
        TABLE.retire_all();
        TABLE.pid.store(pid, SeqCst);
    }
    let index = TABLE.claim(tid, |owner| is_gone(pid, owner));
    // Raised before the thread can count anything.
    HIGHEST.fetch_max(index, SeqCst);
    INDEX.set(index);
    index
}

impl Table {
    const fn new() -> Table {
        Table {
            pid: AtomicI32::new(0),
            owners: [const { AtomicU64::new(0) }; SLOTS],
            given: AtomicUsize::new(0),
            cursor: AtomicUsize::new(0),
            beyond: AtomicUsize::new(0),
        }
    }

    /// After a fork the one surviving thread may have its index cached, and which one that is cannot be told.
    fn retire_all(&self) {
        for owner in &self.owners[..self.given.load(Acquire).min(SLOTS)] {
            owner.store(u64::from(RETIRED), SeqCst);
        }
    }

    fn take(&self, at: usize, seen: Owner, tid: u32) -> bool {
        let next = ((seen >> 32).wrapping_add(1) << 32) | u64::from(tid);
        self.owners[at].compare_exchange(seen, next, SeqCst, Relaxed).is_ok()
    }

    fn claim(&self, tid: u32, is_gone: impl Fn(u32) -> bool) -> u32 {
        let given = self.given.load(Acquire).min(SLOTS);
        for at in 0..given {
            // Our own number is that of ourselves, or of a thread that is gone.
            let seen = self.owners[at].load(Acquire);
            if seen as u32 == tid && self.take(at, seen, tid) {
                return at as u32 + 1;
            }
        }
        let probes = if given == SLOTS { SLOTS } else { PROBES.min(given) };
        for _ in 0..probes {
            let at = self.cursor.fetch_add(1, Relaxed) % given;
            let seen = self.owners[at].load(Acquire);
            let owner = seen as u32;
            if owner != 0 && owner != RETIRED && is_gone(owner) && self.take(at, seen, tid) {
                return at as u32 + 1;
            }
        }
        let at = self.given.fetch_add(1, SeqCst);
        if at < SLOTS {
            self.owners[at].store(u64::from(tid), SeqCst);
            return at as u32 + 1;
        }
        self.given.store(SLOTS, SeqCst);
        (SLOTS + self.beyond.fetch_add(1, Relaxed) % STRIPES) as u32 + 1
    }
}

fn is_gone(pid: i32, tid: u32) -> bool {
    // SAFETY: signal 0 only asks whether the thread is there.
    let answer = unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, 0) };
    answer != 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_its_owners_until_the_owner_is_gone() {
        let t = Table::new();
        assert_eq!((t.claim(10, |_| false), t.claim(11, |_| false), t.claim(10, |_| false)), (1, 2, 1));
        assert_eq!(t.claim(12, |owner| owner == 10), 1);
        assert_eq!(t.claim(11, |_| true), 2);
    }

    #[test]
    fn thread_churn_does_not_use_up_the_table() {
        let t = Table::new();
        for tid in 1..10_000 {
            t.claim(tid, |owner| owner + 3 < tid);
        }
        assert!(t.given.load(Relaxed) < 16, "{:?}", t.given);
    }

    #[test]
    fn threads_beyond_the_table_share_stripes() {
        let t = Table::new();
        for tid in 1..=SLOTS as u32 {
            assert_eq!(t.claim(tid, |_| false), tid);
        }
        let beyond = t.claim(5_000, |_| false) as usize;
        assert!(beyond > SLOTS && beyond <= SLOTS + STRIPES);
        assert_eq!(t.claim(5_001, |owner| owner == 77), 77);
    }

    #[test]
    fn a_forked_child_reuses_no_index_of_its_parent() {
        let t = Table::new();
        assert_eq!((t.claim(10, |_| false), t.claim(11, |_| false)), (1, 2));
        t.retire_all();
        assert_eq!((t.claim(12, |_| true), t.claim(10, |owner| owner != 12)), (3, 4));
    }

    #[test]
    fn an_owner_that_came_back_keeps_its_index() {
        let t = Table::new();
        t.claim(10, |_| false);
        let seen = t.owners[0].load(Relaxed);
        // A new thread with the old number takes it over after somebody else found the old thread gone.
        assert_eq!(t.claim(10, |_| false), 1);
        assert!(!t.take(0, seen, 12));
    }

    #[test]
    fn live_threads_have_different_indices() {
        let mine = thread_index();
        let other = std::thread::spawn(|| (thread_index(), thread_index())).join().unwrap();
        assert_eq!(other.0, other.1);
        assert_ne!(mine, other.0);
        assert_eq!(mine, thread_index());
    }
}
