//! The inline functions of `include/tenure_gate.h` at work: on real threads against real drains, beside the library's own answers in
//! every state, and with more threads than slots.
#![allow(unsafe_code, clippy::unwrap_used)]

mod gate_support;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use gate_support::{Object, gate, now};
use tenure::base::{Moment, SystemClock};
use tenure::gate::{Cell, GateCore, Mode, RawPermit, SLOTS, Verdict, WriteClass, enter_slow, finish_slow, leave_slow, precommit_slow};

/// `world` of tests/c/gate_stress.c.
#[repr(C)]
#[derive(Default)]
struct World {
    released: AtomicU64,
    stop: AtomicU32,
    mailbox_full: AtomicU32,
    mailbox: [AtomicU64; 3],
    held: AtomicU64,
    uncertain: AtomicU64,
    refused: AtomicU64,
    remote: AtomicU64,
    violations: AtomicU64,
}

type StressWrite = unsafe extern "C" fn(*const Cell, *const World);

fn stress(compiler: &str, source: &str, clock: &str) {
    let object = Object::load(compiler, source);
    // SAFETY: both programs define it with this signature.
    let write: StressWrite = unsafe { object.function(c"stress_write") };
    let mut events = Vec::new();
    let mut core = gate(&[("gate.clock", clock), ("gate.leash_ms", "10000")]);
    let world = Arc::new(World::default());
    let writers: Vec<_> = (0..2)
        .map(|_| {
            let (cell, world) = (core.cell(), world.clone());
            // SAFETY: cell and world outlive the thread, which is joined below.
            std::thread::spawn(move || unsafe { write(cell.as_ptr(), Arc::as_ptr(&world)) })
        })
        .collect();
    let start = Instant::now();
    let mut tsc_used = false;
    for epoch in 1..=100u64 {
        let now = gate_support::now(&core);
        assert!(core.grant(epoch, 60_000_000_000, now.moment, &now, &mut events).unwrap().accepted);
        let before = world.held.load(SeqCst);
        while world.held.load(SeqCst) < before + 20 {
            core.tick(&gate_support::now(&core), &mut events);
            assert!(start.elapsed() < Duration::from_secs(60), "the writers do not get on");
            std::thread::yield_now();
        }
        tsc_used |= core.status(now.moment).clock == "tsc";
        core.begin_drain(now.moment, &mut Vec::new()).unwrap();
        assert!(core.cell().wait_idle(|| start.elapsed() > Duration::from_secs(60)), "{} in flight", core.cell().in_flight());
        core.end_drain(Moment::now(&SystemClock), &mut events).unwrap();
        world.released.store(epoch, SeqCst);
    }
    world.stop.store(1, SeqCst);
    writers.into_iter().for_each(|w| w.join().unwrap());
    let count = |c: &AtomicU64| c.load(SeqCst);
    assert_eq!(count(&world.violations), 0, "writes went on after a drain");
    assert_eq!(core.cell().in_flight(), 0);
    assert!(count(&world.remote) > 0 && count(&world.refused) > 0, "nothing was handed over, or nothing refused");
    assert_eq!(count(&world.uncertain), 0, "no epoch ended otherwise than by a drain");
    let tsc = clock == "tsc" && tenure::gate::tsc_is_invariant();
    assert_eq!(tsc_used, tsc);
}

// I-22.
#[test]
fn c_writers_against_drains() {
    stress("cc", "tests/c/gate_stress.c", "boottime");
}

#[test]
fn cpp_writers_against_drains_by_the_tsc() {
    stress("c++", "tests/cpp/gate_stress.cpp", "tsc");
}

/// tests/c/gate_calls.c.
struct Calls {
    enter: unsafe extern "C" fn(*const Cell, u32, *mut RawPermit) -> i32,
    enter_batch: unsafe extern "C" fn(*const Cell, u32, usize, *mut RawPermit) -> i32,
    finish: unsafe extern "C" fn(*mut RawPermit) -> i32,
    precommit: unsafe extern "C" fn(*const RawPermit) -> i32,
    leave: unsafe extern "C" fn(*mut RawPermit),
    check: unsafe extern "C" fn(*const Cell, *mut u64) -> i32,
    check_epoch: unsafe extern "C" fn(*const Cell, u64) -> u64,
}

fn calls() -> Calls {
    let object = Object::load("cc", "tests/c/gate_calls.c");
    // SAFETY: the source defines each with the type of its field.
    unsafe {
        Calls {
            enter: object.function(c"call_enter"),
            enter_batch: object.function(c"call_enter_batch"),
            finish: object.function(c"call_finish"),
            precommit: object.function(c"call_precommit"),
            leave: object.function(c"call_leave"),
            check: object.function(c"call_check"),
            check_epoch: object.function(c"call_check_epoch"),
        }
    }
}

const SECOND: u64 = 1_000_000_000;

type Step = (&'static str, fn(&mut GateCore));

fn grant(core: &mut GateCore, epoch: u64) {
    let now = now(core);
    // Where it is refused the state is as good a state as any.
    let _ = core.grant(epoch, 3_600 * SECOND, now.moment, &now, &mut Vec::new());
    core.tick(&now, &mut Vec::new());
}

const STEPS: [Step; 13] = [
    ("nothing", |_| {}),
    ("grant", |core| grant(core, 1)),
    ("grant higher", |core| grant(core, 5)),
    ("disabled", |core| drop(core.set_mode(Mode::Disabled))),
    ("log-only", |core| drop(core.set_mode(Mode::LogOnly))),
    ("block", |core| drop(core.set_mode(Mode::Block))),
    ("observe", |core| drop(core.observe(9, "other", &mut Vec::new()))),
    ("draining", |core| drop(core.begin_drain(Moment::now(&SystemClock), &mut Vec::new()))),
    ("drained", |core| {
        drop(core.begin_drain(Moment::now(&SystemClock), &mut Vec::new()));
        drop(core.end_drain(Moment::now(&SystemClock), &mut Vec::new()));
    }),
    ("reset", |core| drop(core.reset(&mut Vec::new()))),
    ("close", |core| core.close(&mut Vec::new())),
    ("poison", |core| core.poison(&mut Vec::new())),
    ("tick", |core| {
        core.tick(&now(core), &mut Vec::new());
    }),
];

fn code(verdict: Verdict) -> i32 {
    i32::from(verdict != Verdict::Held)
}

/// Takes a permit both ways and compares: the header's, and the library's.
fn enter_both(calls: &Calls, core: &GateCore, class: WriteClass, what: &str) -> Option<(RawPermit, RawPermit)> {
    let cell = core.cell();
    let mut c = RawPermit::default();
    let mut epoch = u64::MAX;
    // SAFETY: a live cell, and permits and numbers of our own.
    let (entered, checked) = unsafe { ((calls.enter)(cell.as_ptr(), class as u32, &mut c), (calls.check)(cell.as_ptr(), &mut epoch)) };
    let rust = enter_slow(cell, class);
    assert_eq!(entered, rust.as_ref().map_or_else(|reason| *reason as i32, |_| 0), "{what}: enter");
    let check = cell.check();
    assert_eq!(checked, check.map_or_else(|reason| reason as i32, |_| 0), "{what}: check");
    assert_eq!(epoch, check.unwrap_or(u64::MAX), "{what}: epoch of check");
    let rust = rust.ok()?;
    assert_eq!(c.epoch, rust.epoch, "{what}: epoch");
    Some((c, rust))
}

/// One gate through two steps, with permits of this class taken between them and finished after both. The header's verdict.
fn compare(calls: &Calls, settings: &[(&str, &str)], steps: [Step; 2], class: WriteClass) -> Option<i32> {
    let [(first, before), (second, after)] = steps;
    let what = format!("{settings:?}: {first}, then {second}, {class:?}");
    let mut core = gate(settings);
    before(&mut core);
    let held = enter_both(calls, &core, class, &what);
    after(&mut core);
    let verdict = held.map(|(mut c, mut rust)| {
        // SAFETY: a live permit.
        let (precommit, finish) = unsafe { ((calls.precommit)(&c), (calls.finish)(&mut c)) };
        assert_eq!(precommit, code(precommit_slow(&rust)), "{what}: precommit");
        assert_eq!(finish, code(finish_slow(&mut rust)), "{what}: finish");
        finish
    });
    if let Some((mut c, mut rust)) = enter_both(calls, &core, class, &what) {
        // SAFETY: a live permit.
        unsafe { (calls.leave)(&mut c) };
        leave_slow(&mut rust);
    }
    assert_eq!(core.cell().in_flight(), 0, "{what}");
    for epoch in [0, 1, 5, 9, 10] {
        // SAFETY: a live cell.
        let seen = unsafe { (calls.check_epoch)(core.cell().as_ptr(), epoch) };
        assert_eq!(seen, core.cell().check_epoch(epoch).err().unwrap_or(0), "{what}");
    }
    verdict
}

/// In every state, and for permits taken in one state and finished in another, the header says what the library says.
#[test]
fn the_header_says_what_the_library_says() {
    let calls = calls();
    let mut verdicts = [0, 0];
    for settings in [&[][..], &[("gate.start_open", "true")]] {
        for before in STEPS {
            for after in STEPS {
                for class in [WriteClass::Client, WriteClass::Replication, WriteClass::Bootstrap, WriteClass::Deferrable] {
                    if let Some(verdict) = compare(&calls, settings, [before, after], class) {
                        verdicts[verdict as usize] += 1;
                    }
                }
            }
        }
    }
    assert!(verdicts[0] > 100 && verdicts[1] > 100, "held and uncertain {verdicts:?}");
}

#[test]
fn a_batch_of_no_writes_is_never_refused() {
    let calls = calls();
    let core = gate(&[]);
    for (writes, expected) in [(0, 0), (1, 1)] {
        let mut permit = RawPermit::default();
        // SAFETY: a live cell and a permit of our own.
        unsafe {
            assert_eq!((calls.enter_batch)(core.cell().as_ptr(), 0, writes, &mut permit), expected);
            assert_eq!((calls.finish)(&mut permit), expected);
        }
        assert_eq!(core.cell().enter_batch(WriteClass::Client, writes).is_ok(), writes == 0);
    }
}

#[test]
fn what_is_no_permit_is_uncertain_and_harmless() {
    let calls = calls();
    let mut permit = RawPermit::default();
    // SAFETY: a permit of our own, that never was taken.
    unsafe {
        assert_eq!(((calls.finish)(&mut permit), (calls.precommit)(&permit)), (1, 1));
        (calls.leave)(&mut permit);
    }
}

/// More threads than slots, all in flight at once: each is counted, on its own slot or on a shared one, and a drain waits for all.
#[test]
fn more_threads_than_slots_are_all_counted() {
    const THREADS: usize = SLOTS + 60;
    let calls = Arc::new(calls());
    let mut core = gate(&[("gate.leash_ms", "10000")]);
    grant(&mut core, 1);
    let (entered, go) = (Arc::new(Barrier::new(THREADS + 1)), Arc::new(Barrier::new(THREADS + 1)));
    let threads: Vec<_> = (0..THREADS)
        .map(|n| {
            let (calls, cell, entered, go) = (calls.clone(), core.cell(), entered.clone(), go.clone());
            let body = move || {
                let mut permit = RawPermit::default();
                // SAFETY: a live cell and a permit of our own.
                let inside = unsafe { (calls.enter)(cell.as_ptr(), 0, &mut permit) };
                entered.wait();
                go.wait();
                // SAFETY: as above. Every other thread finishes by the library.
                let verdict = if n % 2 == 0 { unsafe { (calls.finish)(&mut permit) } } else { code(finish_slow(&mut permit)) };
                (inside, verdict)
            };
            std::thread::Builder::new().stack_size(64 << 10).spawn(body).unwrap()
        })
        .collect();
    entered.wait();
    assert_eq!(core.cell().in_flight(), THREADS as u64);
    core.begin_drain(Moment::now(&SystemClock), &mut Vec::new()).unwrap();
    assert!(core.end_drain(Moment::now(&SystemClock), &mut Vec::new()).is_err());
    core.tick(&now(&core), &mut Vec::new());
    go.wait();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), (0, 0));
    }
    core.end_drain(Moment::now(&SystemClock), &mut Vec::new()).unwrap();
}
