//! The protocol under the model checker: every interleaving of those who use an object and the one who frees it. What is left out of it
//! is planted in turn, and the checker has to notice.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

use loom::cell::UnsafeCell;
use loom::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use loom::sync::atomic::{AtomicPtr, AtomicUsize, fence};
use loom::sync::{Arc, Mutex};
use loom::thread;

use super::*;

shared_words!(AtomicPtr, AtomicUsize);

const SOUND: u8 = 0;
/// The user does not look again after it has said what it uses.
const NO_SECOND_LOOK: u8 = 1;
/// The user looks for work before the end of its use can be seen.
const NO_LIGHT_BARRIER: u8 = 2;
/// The one who frees does not look again behind the barrier.
const NO_HEAVY_BARRIER: u8 = 3;

/// What a handle names. Any access is told to the checker, which refuses one beside the destruction or after it.
struct Object(UnsafeCell<bool>);

struct World<const MISTAKE: u8> {
    source: AtomicPtr<Object>,
    using: Vec<AtomicPtr<Object>>,
    retired: Mutex<Vec<*mut Object>>,
    waiting: AtomicUsize,
    destroyed: AtomicUsize,
    object: Box<Object>,
}

// SAFETY: the checker is to find out.
unsafe impl<const MISTAKE: u8> Sync for World<MISTAKE> {}
// SAFETY: as above.
unsafe impl<const MISTAKE: u8> Send for World<MISTAKE> {}

impl<const MISTAKE: u8> World<MISTAKE> {
    fn new(users: usize) -> Arc<Self> {
        let mut object = Box::new(Object(UnsafeCell::new(true)));
        Arc::new(World {
            source: AtomicPtr::new(&raw mut *object),
            using: (0..users).map(|_| AtomicPtr::new(null_mut())).collect(),
            retired: Mutex::new(Vec::new()),
            waiting: AtomicUsize::new(0),
            destroyed: AtomicUsize::new(0),
            object,
        })
    }

    fn reclaim(&self) {
        let used = |o| self.using.iter().any(|u| u.load(SeqCst) == o);
        let heavy = || {
            if MISTAKE != NO_HEAVY_BARRIER {
                fence(SeqCst)
            }
        };
        let mut retired = self.retired.lock().unwrap();
        let free = match MISTAKE {
            NO_HEAVY_BARRIER => collect(&mut retired, &self.waiting, used, || {}, heavy),
            _ => collect(&mut retired, &self.waiting, used, || fence(SeqCst), heavy),
        };
        drop(retired);
        for _ in free {
            self.object.0.with_mut(|whole| unsafe { *whole = false });
            self.destroyed.fetch_add(1, SeqCst);
        }
    }

    fn user(&self, number: usize) {
        let using = &self.using[number];
        let object = match MISTAKE {
            NO_SECOND_LOOK => {
                let object = self.source.load(Acquire);
                using.swap(object, SeqCst);
                object
            }
            _ => protect(&self.source, using, || fence(SeqCst)),
        };
        if !object.is_null() {
            self.object.0.with(|whole| assert!(unsafe { *whole }, "used after its end"));
        }
        let light = || {
            if MISTAKE != NO_LIGHT_BARRIER {
                fence(SeqCst)
            }
        };
        if leave(using, &self.waiting, light) {
            self.reclaim();
        }
    }

    fn free(&self) {
        unlink(&self.source, &mut self.retired.lock().unwrap(), &self.waiting);
        self.reclaim();
    }
}

fn freed_once_and_never_too_early<const MISTAKE: u8>(users: usize) {
    let mut builder = loom::model::Builder::new();
    // Those of three threads take minutes without a bound.
    builder.preemption_bound = (users > 1).then_some(2);
    builder.check(move || {
        let world = World::<MISTAKE>::new(users);
        let threads: Vec<_> = (0..users)
            .map(|number| {
                let world = world.clone();
                thread::spawn(move || world.user(number))
            })
            .collect();
        world.free();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(world.destroyed.load(SeqCst), 1, "destroyed once, by the last call at the latest");
        assert_eq!(world.waiting.load(Relaxed), 0);
    });
}

#[test]
fn sound_with_one_user() {
    freed_once_and_never_too_early::<SOUND>(1);
}

#[test]
fn sound_with_two_users() {
    freed_once_and_never_too_early::<SOUND>(2);
}

#[test]
fn each_mistake_is_found() {
    let found = |run: fn(usize)| catch_unwind(AssertUnwindSafe(|| run(1))).is_err();
    assert!(found(freed_once_and_never_too_early::<NO_SECOND_LOOK>), "no second look");
    assert!(found(freed_once_and_never_too_early::<NO_LIGHT_BARRIER>), "no light barrier");
    assert!(found(freed_once_and_never_too_early::<NO_HEAVY_BARRIER>), "no heavy barrier");
}
