//! Handles: numbers that name objects, so that a stale, forged or mistyped one is an error and never a bad access.
//!
//! A handle is `generation:31 | type:8 | slot:24` and is compared in full with the one that its slot's object was given. A
//! slot's generation goes up with each object and the slot retires when it wraps, so a number is never given twice.
//!
//! A lookup takes no lock and writes to no shared cache line: the caller publishes the object's address in a hazard slot of
//! its own thread and looks again whether it is still there. Freeing unlinks the object first and destroys it when no hazard
//! slot names it, at the latest when the last call that uses it returns (where the kernel has no membarrier(2), or with the next call).
//! The protocol itself is in `hazard.rs`.

use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::null_mut;
use std::sync::Once;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, compiler_fence, fence};

use super::guard::contained;
use super::hazard;
use crate::base::{Error, Result, Status, process};
use crate::gate::{process_barrier, register_barrier};

const SLOT_BITS: u32 = 24;
const TYPE_BITS: u32 = 8;
const GENERATION_MAX: u32 = (1 << 31) - 1;
const CHUNK: usize = 1024;
const CHUNKS: usize = 256;
/// Most objects alive at once; the limit that the error names.
const SLOTS_MAX: usize = CHUNK * CHUNKS;
/// Objects that one thread may be using at once: a call, a callback inside it, a call inside that, with two handles each.
const DEPTH: usize = 8;

/// What a handle may name.
pub(super) trait Object: Send + Sync + Sized + 'static {
    /// Tells this type's handles from all others; never 0.
    const TYPE: u8;
    /// For messages.
    const NAME: &'static str;
    /// Ends the object after a panic inside one of its calls.
    fn poison(&self, why: &str);
}

#[repr(C)]
struct Head {
    handle: u64,
    /// The process generation in which the object was made.
    born: u64,
    destroy: unsafe fn(*mut Head),
}

#[repr(C)]
struct Entry<T> {
    head: Head,
    value: T,
}

/// # Safety
/// `head` must point to an `Entry<T>` that came out of a box and that nobody uses.
unsafe fn destroy<T>(head: *mut Head) {
    // SAFETY: the caller's promise; the head is the entry's first field.
    drop(unsafe { Box::from_raw(head.cast::<Entry<T>>()) });
}

struct Slot {
    object: AtomicPtr<Head>,
}

struct Chunk([Slot; CHUNK]);

static CHUNK_LIST: [AtomicPtr<Chunk>; CHUNKS] = [const { AtomicPtr::new(null_mut()) }; CHUNKS];

fn slot(at: usize) -> Option<&'static Slot> {
    let chunk = CHUNK_LIST.get(at / CHUNK)?.load(Acquire);
    // SAFETY: a chunk is written once, whole, before its address is published, and is never freed.
    let chunk = unsafe { chunk.as_ref() }?;
    chunk.0.get(at % CHUNK)
}

/// What only a thread that makes or frees an object touches.
struct Ledger {
    /// The last generation given, per slot that was ever used.
    generations: Vec<u32>,
    free: Vec<u32>,
    /// Unlinked, but in use by a call when last looked at.
    retired: Vec<*mut Head>,
}

struct Guarded(UnsafeCell<Ledger>);

// SAFETY: only `with_ledger` looks inside, and lets one thread in at a time.
unsafe impl Sync for Guarded {}

// A lock that can be taken before a fork and given back on both sides of it, so that a child finds the table whole.
static BUSY: AtomicBool = AtomicBool::new(false);
static LEDGER: Guarded = Guarded(UnsafeCell::new(Ledger { generations: Vec::new(), free: Vec::new(), retired: Vec::new() }));
static RETIRED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn take() {
    while BUSY.compare_exchange_weak(false, true, Acquire, Relaxed).is_err() {
        std::thread::yield_now();
    }
}

extern "C" fn give() {
    BUSY.store(false, Release);
}

fn with_ledger<R>(f: impl FnOnce(&mut Ledger) -> R) -> R {
    static REGISTER: Once = Once::new();
    REGISTER.call_once(|| {
        process::watch_forks();
        register_barrier();
        // SAFETY: the handlers touch one atomic. Without memory for the registration a fork in the instant in which another
        // thread opens or frees an object leaves a child that cannot open any, and nothing worse.
        unsafe { libc::pthread_atfork(Some(take), Some(give), Some(give)) };
    });
    struct Give;
    impl Drop for Give {
        fn drop(&mut self) {
            give();
        }
    }
    take();
    let _give = Give;
    // SAFETY: the flag taken above makes this the only reference.
    f(unsafe { &mut *LEDGER.0.get() })
}

/// Places an object in the table and names it.
///
/// # Errors
/// [`Status::Limit`].
pub(super) fn insert<T: Object>(value: T) -> Result<u64> {
    let entry = Box::new(Entry { head: Head { handle: 0, born: 0, destroy: destroy::<T> }, value });
    with_ledger(move |ledger| {
        let at = match ledger.free.pop() {
            Some(at) => at as usize,
            None => new_slot(ledger)?,
        };
        let full = || Error::new(Status::Limit, format!("{SLOTS_MAX} handles are open"));
        let (Some(slot), Some(generation)) = (slot(at), ledger.generations.get_mut(at)) else { return Err(full()) };
        *generation += 1;
        let handle = u64::from(*generation) << (SLOT_BITS + TYPE_BITS) | u64::from(T::TYPE) << SLOT_BITS | at as u64;
        let mut entry = entry;
        entry.head.handle = handle;
        // Read here and not earlier: only now is it sure that forks are counted.
        entry.head.born = process::generation();
        slot.object.store(Box::into_raw(entry).cast(), SeqCst);
        Ok(handle)
    })
}

fn new_slot(ledger: &mut Ledger) -> Result<usize> {
    let at = ledger.generations.len();
    let full = || Error::new(Status::Limit, format!("{SLOTS_MAX} handles are open"));
    let place = CHUNK_LIST.get(at / CHUNK).ok_or_else(full)?;
    if place.load(Acquire).is_null() {
        let chunk = Box::new(Chunk([const { Slot { object: AtomicPtr::new(null_mut()) } }; CHUNK]));
        place.store(Box::into_raw(chunk), Release);
    }
    ledger.generations.push(0);
    Ok(at)
}

/// Takes the object out of the table: from now on its handle names nothing. False when it names nothing already.
///
/// The object is destroyed here, or, while other threads are inside calls on it, by the last of them. In a forked child it
/// is left alone: it belongs to the parent, whose threads and locks the child does not have.
pub(super) fn remove<T: Object>(handle: u64) -> bool {
    if !is_type::<T>(handle) {
        return false;
    }
    let found = with_ledger(|ledger| {
        let at = slot_of(handle);
        let Some(slot) = slot(at) else { return false };
        let object = slot.object.load(SeqCst);
        // SAFETY: objects are destroyed only after they were unlinked, which takes the lock held here.
        let Some(head) = (unsafe { object.as_ref() }) else { return false };
        if head.handle != handle {
            return false;
        }
        if ledger.generations.get(at).is_some_and(|g| *g < GENERATION_MAX) {
            ledger.free.push(at as u32);
        }
        if head.born == process::generation() {
            hazard::unlink(&slot.object, &mut ledger.retired, &RETIRED);
        } else {
            slot.object.store(null_mut(), SeqCst);
        }
        true
    });
    if found {
        reclaim();
    }
    found
}

/// Destroys what is unlinked and in nobody's use.
#[cold]
fn reclaim() {
    // An object in use as it is freed is rare, so the barrier that its user need not pay for is affordable.
    let heavy = || drop(process_barrier());
    let free = with_ledger(|ledger| hazard::collect(&mut ledger.retired, &RETIRED, is_used, || fence(SeqCst), heavy));
    for object in free {
        // SAFETY: unlinked, so no lookup finds it, and in no hazard slot, so no call has it; taken off the list by us alone.
        unsafe { ((*object).destroy)(object) };
    }
}

fn slot_of(handle: u64) -> usize {
    (handle & ((1 << SLOT_BITS) - 1)) as usize
}

fn is_type<T: Object>(handle: u64) -> bool {
    (handle >> SLOT_BITS) as u8 == T::TYPE && handle >> (SLOT_BITS + TYPE_BITS) != 0
}

/// A thread's hazard slots. Records are linked for ever and pass from threads that end to threads that start.
struct Record {
    using: [AtomicPtr<Head>; DEPTH],
    depth: Cell<usize>,
    claimed: AtomicBool,
    next: AtomicPtr<Record>,
}

// SAFETY: `depth` is touched only by the thread that has claimed the record; everything else is atomic.
unsafe impl Sync for Record {}

static RECORDS: AtomicPtr<Record> = AtomicPtr::new(null_mut());

fn records() -> impl Iterator<Item = &'static Record> {
    let mut at = RECORDS.load(Acquire);
    std::iter::from_fn(move || {
        // SAFETY: records are published whole and never freed.
        let record = unsafe { at.as_ref() }?;
        at = record.next.load(Acquire);
        Some(record)
    })
}

fn is_used(object: *mut Head) -> bool {
    records().any(|r| r.using.iter().any(|u| u.load(SeqCst) == object))
}

thread_local! {
    static MINE: Cell<Option<&'static Record>> = const { Cell::new(None) };
    static RETURN: Return = const { Return };
}

struct Return;

impl Drop for Return {
    fn drop(&mut self) {
        if let Some(record) = MINE.take() {
            record.claimed.store(false, Release);
        }
    }
}

/// A record for this thread; it goes back when the thread ends, or, in a thread whose end has begun, never.
#[cold]
fn claim() -> &'static Record {
    let free = records().find(|r| r.claimed.compare_exchange(false, true, Acquire, Relaxed).is_ok());
    let record = free.unwrap_or_else(|| {
        let record: &'static Record = Box::leak(Box::new(Record {
            using: [const { AtomicPtr::new(null_mut()) }; DEPTH],
            depth: Cell::new(0),
            claimed: AtomicBool::new(true),
            next: AtomicPtr::new(null_mut()),
        }));
        let mut first = RECORDS.load(Acquire);
        loop {
            record.next.store(first, Relaxed);
            match RECORDS.compare_exchange_weak(first, (&raw const *record).cast_mut(), Release, Acquire) {
                Ok(_) => break record,
                Err(now) => first = now,
            }
        }
    });
    record.depth.set(0);
    MINE.set(Some(record));
    // Touching it has its destructor run at the thread's end.
    let _ = RETURN.try_with(|_| ());
    record
}

/// An object in use: it is not destroyed while this lives, whoever frees it.
pub(super) struct Pin<T> {
    object: *const Entry<T>,
    record: &'static Record,
    at: usize,
    /// Pins end in the reverse order of their making, on their own thread.
    here: PhantomData<*const ()>,
}

/// Finds the object that a handle names.
///
/// # Errors
/// [`Status::BadHandle`], [`Status::Forked`].
#[inline]
pub(super) fn pin<T: Object>(handle: u64) -> Result<Pin<T>> {
    let slot = slot(slot_of(handle)).filter(|_| is_type::<T>(handle)).ok_or_else(bad::<T>)?;
    let record = MINE.get().unwrap_or_else(claim);
    let at = record.depth.get();
    let Some(using) = record.using.get(at) else {
        return Err(Error::new(Status::Limit, format!("calls on handles are nested more than {DEPTH} deep")));
    };
    let object = hazard::protect(&slot.object, using, || {});
    record.depth.set(at + 1);
    let pin = Pin { object: object.cast_const().cast::<Entry<T>>(), record, at, here: PhantomData };
    // SAFETY: not null, and protected from now on by the hazard slot.
    let head = unsafe { object.as_ref() }.ok_or_else(bad::<T>)?;
    if head.handle != handle {
        return Err(bad::<T>());
    }
    process::check_generation(head.born)?;
    Ok(pin)
}

#[cold]
fn bad<T: Object>() -> Error {
    Error::new(Status::BadHandle, format!("{}: the handle was never issued, is freed, or is of another type", T::NAME))
}

impl<T> Deref for Pin<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: made only of an object whose handle has T's type in it; the hazard slot keeps it alive.
        unsafe { &(*self.object).value }
    }
}

impl<T> Drop for Pin<T> {
    #[inline]
    fn drop(&mut self) {
        let waits = self.record.using.get(self.at).is_some_and(|using| hazard::leave(using, &RETIRED, || compiler_fence(SeqCst)));
        self.record.depth.set(self.at);
        if waits {
            // The destructors of whole objects may run here.
            contained(reclaim);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    struct Thing(Arc<AtomicU64>, u64);

    impl Object for Thing {
        const TYPE: u8 = 200;
        const NAME: &'static str = "thing";
        fn poison(&self, _: &str) {}
    }

    impl Drop for Thing {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    struct Other;

    impl Object for Other {
        const TYPE: u8 = 201;
        const NAME: &'static str = "other";
        fn poison(&self, _: &str) {}
    }

    fn status<T: Object>(handle: u64) -> Status {
        pin::<T>(handle).err().map_or(Status::Ok, |e| e.status())
    }

    #[test]
    fn only_the_number_that_was_issued_names_the_object() {
        let drops = Arc::default();
        let h = insert(Thing(Arc::clone(&drops), 7)).unwrap();
        assert_eq!(pin::<Thing>(h).unwrap().1, 7);
        for bit in 0..64 {
            assert_eq!(status::<Thing>(h ^ (1 << bit)), Status::BadHandle, "bit {bit}");
        }
        for forged in [0, u64::MAX, SLOTS_MAX as u64] {
            assert_eq!(status::<Thing>(forged), Status::BadHandle);
        }
        assert_eq!(status::<Other>(h), Status::BadHandle);
        assert!(!remove::<Other>(h));
        assert!(remove::<Thing>(h));
        assert!(!remove::<Thing>(h));
        assert_eq!((status::<Thing>(h), drops.load(SeqCst)), (Status::BadHandle, 1));
        let again = insert(Thing(Arc::clone(&drops), 8)).unwrap();
        assert_ne!(again, h);
        assert_eq!(status::<Thing>(h), Status::BadHandle);
        assert!(remove::<Thing>(again));
    }

    #[test]
    fn an_object_in_use_outlives_its_handle() {
        let drops = Arc::default();
        let h = insert(Thing(Arc::clone(&drops), 1)).unwrap();
        let pinned = pin::<Thing>(h).unwrap();
        assert!(std::thread::spawn(move || remove::<Thing>(h)).join().unwrap());
        assert_eq!((drops.load(SeqCst), pinned.1), (0, 1));
        drop(pinned);
        assert_eq!(drops.load(SeqCst), 1);
    }

    #[test]
    fn threads_that_free_what_others_use() {
        let drops: Arc<AtomicU64> = Arc::default();
        let current = Arc::new(AtomicU64::new(insert(Thing(Arc::clone(&drops), 0)).unwrap()));
        let rounds = 2_000u64;
        let users: Vec<_> = (0..3)
            .map(|_| {
                let current = current.clone();
                std::thread::spawn(move || {
                    let mut found = 0u64;
                    loop {
                        let h = current.load(SeqCst);
                        if h == 0 {
                            return found;
                        }
                        if let Ok(thing) = pin::<Thing>(h) {
                            // The value is wiped at the end of its life; a used one is whole.
                            assert!(thing.1 <= rounds);
                            found += 1;
                        }
                    }
                })
            })
            .collect();
        for n in 1..=rounds {
            let next = insert(Thing(Arc::clone(&drops), n)).unwrap();
            let old = current.swap(next, SeqCst);
            assert!(remove::<Thing>(old));
        }
        assert!(remove::<Thing>(current.swap(0, SeqCst)));
        for user in users {
            user.join().unwrap();
        }
        reclaim();
        assert_eq!(drops.load(SeqCst), rounds + 1);
    }

    #[test]
    fn a_forked_child_is_told() {
        let h = insert(Thing(Arc::default(), 1)).unwrap();
        // SAFETY: the child calls nothing that another thread of the parent could hold a lock of.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let told = status::<Thing>(h) == Status::Forked && insert(Other).is_ok() && remove::<Thing>(h);
            // SAFETY: `_exit` runs no handlers of the test process.
            unsafe { libc::_exit(i32::from(!told)) };
        }
        let mut code = -1;
        // SAFETY: waits for the child just made.
        unsafe { libc::waitpid(child, &mut code, 0) };
        assert_eq!(code, 0);
        assert!(remove::<Thing>(h));
    }
}
