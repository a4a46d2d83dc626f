//! The protocol under the model checker: every interleaving of a few threads, and every value that the memory model lets a load
//! return. Each fault of [`Mistake`] is planted in turn, and the checker has to find it.
//!
//! The process-wide barrier is modelled by a sequentially consistent fence on both sides, which is what membarrier(2) makes of the
//! compiler barrier on the writers' side.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use loom::sync::Arc;
use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use loom::thread;

use super::cell::{Cell, Slot};
use super::platform::{Mistake, Native, Platform, Word};
use super::protocol::{self, Seat};

macro_rules! model_word {
    ($atomic:ty, $int:ty) => {
        impl Word<$int> for $atomic {
            fn new(value: $int) -> Self {
                <$atomic>::new(value)
            }
            fn load(&self, order: Ordering) -> $int {
                self.load(order)
            }
            fn store(&self, value: $int, order: Ordering) {
                self.store(value, order);
            }
            fn fetch_add(&self, value: $int, order: Ordering) -> $int {
                self.fetch_add(value, order)
            }
            fn fetch_sub(&self, value: $int, order: Ordering) -> $int {
                self.fetch_sub(value, order)
            }
        }
    };
}
model_word!(AtomicU32, u32);
model_word!(AtomicU64, u64);

/// The model machine, with the fault of number `FAULT` planted.
struct Model<const FAULT: u8>;

const SOUND: u8 = u8::MAX;

impl<const FAULT: u8> Platform for Model<FAULT> {
    type U32 = AtomicU32;
    type U64 = AtomicU64;
    fn light_barrier() {
        fence(SeqCst);
    }
    fn full_fence() {
        fence(SeqCst);
    }
    fn planted(mistake: Mistake) -> bool {
        // Without a fault of its own a model has those that the build has: `make mutants`.
        mistake as u8 == FAULT || FAULT == SOUND && Native::planted(mistake)
    }
}

/// What the threads of a scenario share. The clock moves only when a scenario moves it.
struct World<const FAULT: u8> {
    cell: Cell<Model<FAULT>>,
    slot: Slot<Model<FAULT>>,
    clock: AtomicU64,
    drained: AtomicBool,
}

impl<const FAULT: u8> World<FAULT> {
    /// A gate open under epoch 1 until `end`.
    fn new(now: u64, end: u64) -> Arc<Self> {
        let world = World { cell: Cell::new(), slot: Slot::new(), clock: AtomicU64::new(now), drained: AtomicBool::new(false) };
        world.cell.boottime.limit.store(1_000, Relaxed);
        world.grant(1, end);
        Arc::new(world)
    }

    fn grant(&self, epoch: u64, end: u64) {
        protocol::publish(&self.cell, epoch, || self.extend(end));
    }

    fn extend(&self, end: u64) {
        protocol::extend(&self.cell.boottime, end - 1, end - 1, end - 1);
    }

    fn enter(&self, seat: Seat<'_, Model<FAULT>>) -> Option<u64> {
        protocol::admit(&self.cell, &self.cell.boottime, seat, false, || self.clock.load(SeqCst))
    }

    /// The instant at which the write was found to be held, and whether the drain was over by then.
    fn finish(&self, seat: Seat<'_, Model<FAULT>>, epoch: u64) -> Option<(u64, bool)> {
        protocol::finish(seat, || {
            let (mut at, mut drained) = (0, false);
            let margin = protocol::verdict(&self.cell, &self.cell.boottime, epoch, || {
                drained = self.drained.load(Relaxed);
                at = self.clock.load(SeqCst);
                at
            });
            margin.map(|_| (at, drained))
        })
    }

    fn drain(&self) {
        protocol::begin_drain(&self.cell, || fence(SeqCst));
        while protocol::in_flight(&self.slot) != 0 {
            thread::yield_now();
        }
        self.drained.store(true, Relaxed);
        protocol::retract(&self.cell);
    }
}

fn explore(preemptions: Option<usize>, scenario: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 10_000;
    builder.check(scenario);
}

/// A writer against a drain: no effect and no verdict of an admitted write comes after the drain.
fn drain_is_exact<const FAULT: u8>() {
    explore(None, || {
        let world = World::<FAULT>::new(5, 10);
        let writer = {
            let world = world.clone();
            thread::spawn(move || {
                let seat = Seat::Own(&world.slot);
                if let Some(epoch) = world.enter(seat) {
                    assert!(!world.drained.load(Relaxed), "an effect after the drain");
                    let held = world.finish(seat, epoch);
                    assert!(!held.is_some_and(|(_, drained)| drained), "a verdict after the drain");
                }
            })
        };
        world.drain();
        writer.join().unwrap();
        assert_eq!(protocol::in_flight(&world.slot), 0);
    });
}

/// Epoch 1 lapses at 10; the gate opens again under epoch 2 at 20. What was let in under epoch 1 is held only before 10.
fn a_lapsed_epoch_is_not_held<const FAULT: u8>() {
    explore(None, || {
        let world = World::<FAULT>::new(5, 10);
        let writer = {
            let world = world.clone();
            thread::spawn(move || {
                let seat = Seat::Own(&world.slot);
                if let Some(epoch) = world.enter(seat)
                    && let Some((at, _)) = world.finish(seat, epoch)
                {
                    let end = if epoch == 1 { 10 } else { 30 };
                    assert!(at < end, "epoch {epoch} was held at {at}");
                }
            })
        };
        world.clock.store(20, SeqCst);
        world.grant(2, 30);
        writer.join().unwrap();
    });
}

/// Epoch 1 runs until 100; epoch 2, which replaces it at 20, only until 30, and its publisher is held up until 50.
fn a_shorter_epoch_is_not_held_by_the_longer<const FAULT: u8>() {
    explore(None, || {
        let world = World::<FAULT>::new(20, 100);
        let writer = {
            let world = world.clone();
            thread::spawn(move || {
                let seat = Seat::Own(&world.slot);
                if let Some(epoch) = world.enter(seat)
                    && let Some((at, _)) = world.finish(seat, epoch)
                {
                    assert!(epoch == 1 || at < 30, "epoch {epoch} was held at {at}");
                }
            })
        };
        protocol::publish(&world.cell, 2, || {
            world.clock.store(50, SeqCst);
            world.extend(30);
        });
        writer.join().unwrap();
    });
}

/// Two permits of one thread, one of them finished by another thread: both are counted off.
fn a_remote_finish_is_counted<const FAULT: u8>() {
    explore(None, || {
        let world = World::<FAULT>::new(5, 10);
        let own = Seat::Own(&world.slot);
        let (first, second) = (world.enter(own).unwrap(), world.enter(own).unwrap());
        let other = {
            let world = world.clone();
            thread::spawn(move || world.finish(Seat::Shared(&world.slot), second).is_some())
        };
        assert!(world.finish(own, first).is_some());
        assert!(other.join().unwrap());
        assert_eq!(protocol::in_flight(&world.slot), 0, "a permit was lost count of");
    });
}

// I-21.
#[test]
fn sound_drain() {
    drain_is_exact::<SOUND>();
}

#[test]
fn sound_lapse() {
    a_lapsed_epoch_is_not_held::<SOUND>();
}

#[test]
fn sound_shorter_epoch() {
    a_shorter_epoch_is_not_held_by_the_longer::<SOUND>();
}

#[test]
fn sound_remote_finish() {
    a_remote_finish_is_counted::<SOUND>();
}

/// Threads that share a stripe, against a drain.
#[test]
fn sound_stripes() {
    explore(Some(3), || {
        let world = World::<SOUND>::new(5, 10);
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let world = world.clone();
                thread::spawn(move || {
                    let seat = Seat::Shared(&world.slot);
                    if let Some(epoch) = world.enter(seat) {
                        assert!(!world.drained.load(Relaxed), "an effect after the drain");
                        world.finish(seat, epoch);
                    }
                })
            })
            .collect();
        world.drain();
        writers.into_iter().for_each(|w| w.join().unwrap());
        assert_eq!(protocol::in_flight(&world.slot), 0);
    });
}

/// Whoever knows that the gate was closed, or superseded, finds nothing held.
#[test]
fn sound_close() {
    explore(None, || {
        let world = World::<SOUND>::new(5, 10);
        let writer = {
            let world = world.clone();
            thread::spawn(move || {
                let seat = Seat::Own(&world.slot);
                let Some(epoch) = world.enter(seat) else { return };
                let closed = world.drained.load(Acquire);
                let held = world.finish(seat, epoch).is_some();
                assert!(!(closed && held), "held although closed");
                if closed {
                    assert!(world.enter(seat).is_none(), "let in although closed");
                }
            })
        };
        protocol::retract(&world.cell);
        world.drained.store(true, Release);
        writer.join().unwrap();
    });
}

// I-22.
/// A drain, then office again under a higher epoch: a writer caught in between is held under its own epoch or not at all.
#[test]
fn sound_drain_and_new_epoch() {
    explore(None, || {
        let world = World::<SOUND>::new(5, 10);
        let writer = {
            let world = world.clone();
            thread::spawn(move || {
                let seat = Seat::Own(&world.slot);
                if let Some(epoch) = world.enter(seat)
                    && let Some((at, drained)) = world.finish(seat, epoch)
                {
                    assert!(epoch == 2 || (!drained && at < 10), "epoch {epoch} held at {at}");
                }
            })
        };
        world.drain();
        world.clock.store(20, SeqCst);
        world.grant(2, 30);
        writer.join().unwrap();
    });
}

/// The scenario fails, and by its own assertion, the one that says `what`.
fn must_find(mistake: Mistake, scenario: fn(), what: &str) {
    let Err(payload) = catch_unwind(AssertUnwindSafe(scenario)) else { panic!("the model checker did not find {mistake:?}") };
    let said = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
    assert!(said.is_some_and(|said| said.contains(what)), "{mistake:?} was found as {said:?}");
}

macro_rules! planted {
    ($($test:ident: $mistake:ident in $scenario:ident, $what:literal;)*) => {
        $(#[test]
        fn $test() {
            must_find(Mistake::$mistake, $scenario::<{ Mistake::$mistake as u8 }>, $what);
        })*
    };
}
planted! {
    finds_no_barrier: NoBarrier in drain_is_exact, "after the drain";
    finds_count_late: CountLate in drain_is_exact, "an effect after the drain";
    finds_leave_early: LeaveEarly in drain_is_exact, "a verdict after the drain";
    finds_epoch_ignored: EpochIgnored in a_lapsed_epoch_is_not_held, "epoch 1 was held at 20";
    finds_epoch_read_first: EpochReadFirst in a_lapsed_epoch_is_not_held, "epoch 1 was held at 20";
    finds_window_first: WindowFirst in a_lapsed_epoch_is_not_held, "epoch 1 was held at 20";
    finds_no_retract: NoRetract in a_shorter_epoch_is_not_held_by_the_longer, "epoch 2 was held at 50";
    finds_remote_plain: RemotePlain in a_remote_finish_is_counted, "a permit was lost count of";
}
