//! How a thread keeps an object that another one frees: the protocol of the handle table, with its words and barriers as parameters,
//! so that the model checker runs the very code that ships. Source: Michael, "Hazard pointers", IEEE TPDS 2004.

use std::ptr::null_mut;
use std::sync::atomic::Ordering::{self, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicPtr, AtomicUsize};

/// A pointer that threads share.
pub(super) trait Pointer<T> {
    fn load(&self, order: Ordering) -> *mut T;
    fn store(&self, object: *mut T, order: Ordering);
    fn swap(&self, object: *mut T, order: Ordering) -> *mut T;
}

/// How many objects are unlinked and not yet destroyed.
pub(super) trait Count {
    fn load(&self, order: Ordering) -> usize;
    fn add(&self, objects: usize);
    fn take(&self, objects: usize);
}

macro_rules! shared_words {
    ($pointer:ident, $count:ty) => {
        impl<T> Pointer<T> for $pointer<T> {
            #[inline(always)]
            fn load(&self, order: Ordering) -> *mut T {
                self.load(order)
            }
            #[inline(always)]
            fn store(&self, object: *mut T, order: Ordering) {
                self.store(object, order);
            }
            #[inline(always)]
            fn swap(&self, object: *mut T, order: Ordering) -> *mut T {
                self.swap(object, order)
            }
        }
        impl Count for $count {
            #[inline(always)]
            fn load(&self, order: Ordering) -> usize {
                self.load(order)
            }
            fn add(&self, objects: usize) {
                self.fetch_add(objects, SeqCst);
            }
            fn take(&self, objects: usize) {
                self.fetch_sub(objects, SeqCst);
            }
        }
    };
}
shared_words!(AtomicPtr, AtomicUsize);

/// Says in `using` that the object of `source` is in use, and gives it: it is not destroyed until [`leave`].
///
/// `fence` is for the model checker, which knows no order among sequentially consistent accesses but that of fences.
#[inline(always)]
pub(super) fn protect<T>(source: &impl Pointer<T>, using: &impl Pointer<T>, fence: impl Fn()) -> *mut T {
    let mut object = source.load(Acquire);
    loop {
        // The swap is the full fence between "I use it" and "is it still there".
        using.swap(object, SeqCst);
        fence();
        let now = source.load(SeqCst);
        if now == object {
            return object;
        }
        object = now;
    }
}

/// Ends the use. True: something waits to be destroyed, perhaps for this, so the caller has to [`collect`].
///
/// `light` is the fast side of a barrier whose slow side is `heavy` there.
#[inline(always)]
pub(super) fn leave<T>(using: &impl Pointer<T>, waiting: &impl Count, light: impl Fn()) -> bool {
    using.store(null_mut(), Release);
    light();
    waiting.load(Relaxed) != 0
}

/// Takes the object out of `source`, to be destroyed once nobody uses it.
pub(super) fn unlink<T>(source: &impl Pointer<T>, retired: &mut Vec<*mut T>, waiting: &impl Count) {
    retired.push(source.load(Relaxed));
    source.store(null_mut(), SeqCst);
    waiting.add(1);
}

/// What of `retired` nobody uses: the caller destroys it.
pub(super) fn collect<T>(
    retired: &mut Vec<*mut T>,
    waiting: &impl Count,
    used: impl Fn(*mut T) -> bool,
    fence: impl Fn(),
    heavy: impl Fn(),
) -> Vec<*mut T> {
    fence();
    let mut free: Vec<*mut T> = retired.extract_if(.., |o| !used(*o)).collect();
    if !retired.is_empty() {
        // Whoever leaves either did so before this barrier and is seen now, or sees that something waits and comes here himself.
        heavy();
        free.extend(retired.extract_if(.., |o| !used(*o)));
    }
    waiting.take(free.len());
    free
}

#[cfg(test)]
#[path = "hazard_model_test.rs"]
mod model;
