//! `include/tenure_gate.h` against the library: layout, numbers, cleanliness under every compiler at hand, what it needs of the
//! linker, and its inline functions on real threads against real drains.
#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use tenure::base::{Config, Moment, SystemClock};
use tenure::gate::{
    Cell, CellRef, GateCore, MemoryEpochs, Options, RawPermit, Reading, Reason, SLOTS, Setup, Slot, Verdict, Window, WriteClass, mode,
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn have(compiler: &str) -> bool {
    Command::new(compiler).arg("--version").output().is_ok_and(|out| out.status.success())
}

fn compile(compiler: &str, args: &[&str]) {
    let out = Command::new(compiler).arg("-I").arg(root().join("include")).args(args).output().unwrap();
    assert!(out.status.success(), "{compiler} {args:?}\n{}", String::from_utf8_lossy(&out.stderr));
}

const STRICT: [&str; 6] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wconversion", "-O2"];

#[test]
fn the_header_is_clean_in_every_language_version() {
    let header = root().join("include/tenure_gate.h");
    let header = header.to_str().unwrap();
    let c = [("gcc", "c"), ("clang", "c"), ("g++", "c++"), ("clang++", "c++")];
    let mut compiled = 0;
    for (compiler, language) in c.into_iter().filter(|(compiler, _)| have(compiler)) {
        let standards: &[&str] = if language == "c" { &["c99", "c11", "c17"] } else { &["c++11", "c++14", "c++17", "c++20"] };
        for standard in standards {
            let standard = format!("-std={standard}");
            compile(compiler, &[&STRICT[..], &[&standard, "-fsyntax-only", "-x", language, header]].concat());
            compiled += 1;
        }
    }
    assert!(compiled >= 7, "a C and a C++ compiler are needed");
}

/// What the header says, by the C compiler.
fn declared() -> BTreeMap<String, usize> {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("layout");
    let source = root().join("tests/c/gate_layout.c");
    // Optimised, the unused functions of the header stay out, and with them their references to the library.
    compile("cc", &["-std=c99", "-O1", source.to_str().unwrap(), "-o", program.to_str().unwrap()]);
    let out = Command::new(program).output().unwrap();
    String::from_utf8(out.stdout)
        .unwrap()
        .lines()
        .map(|line| line.split_once(' ').map(|(name, n)| (name.to_owned(), n.parse().unwrap())).unwrap())
        .collect()
}

#[test]
fn the_layout_is_the_librarys() {
    let declared = declared();
    let mut expected: BTreeMap<String, usize> = BTreeMap::new();
    macro_rules! fields {
        ($name:literal, $type:ty: $($field:ident)*) => {
            $(expected.insert(format!("{}.{}", $name, stringify!($field)), offset_of!($type, $field));)*
        };
    }
    fields!("window", Window: soft hard limit last);
    fields!("cell", Cell: mode layout epoch boottime clock lease_end tsc kind fenced reason drain injected epoch_seen);
    fields!("slot", Slot: entered left left_remote closest);
    fields!("permit", RawPermit: epoch slot mode);
    let values = [
        ("slot", size_of::<Slot>()),
        ("permit", size_of::<RawPermit>()),
        ("LAYOUT", 1),
        ("SLOTS", SLOTS),
        ("SLOTS_OFFSET", 4096),
        ("MODE_WIPED", mode::WIPED as usize),
        ("MODE_DISABLED", mode::DISABLED as usize),
        ("MODE_BOOTTIME", mode::BOOTTIME as usize),
        ("MODE_TSC", mode::TSC as usize),
        ("CLIENT", WriteClass::Client as usize),
        ("REPLICATION", WriteClass::Replication as usize),
        ("BOOTSTRAP", WriteClass::Bootstrap as usize),
        ("DEFERRABLE", WriteClass::Deferrable as usize),
    ];
    expected.extend(values.map(|(name, value)| (name.to_owned(), value)));
    expected.extend(Reason::ALL.map(|reason| (reason.name().to_uppercase(), reason as usize)));
    assert_eq!(declared, expected);
}

#[test]
fn the_fast_path_needs_nothing_but_the_library() {
    let dir = tempfile::tempdir().unwrap();
    let (source, object) = (dir.path().join("user.c"), dir.path().join("user.o"));
    std::fs::write(
        &source,
        "#include <tenure_gate.h>\n\
         int write_once(const tenure_gate_cell *cell) {\n\
           tenure_gate_permit permit;\n\
           int reason = tenure_gate_enter(cell, &permit);\n\
           return reason ? reason : tenure_gate_finish(&permit);\n\
         }\n\
         int check(const tenure_gate_cell *cell) { return tenure_gate_check(cell, 0); }\n",
    )
    .unwrap();
    for compiler in ["gcc", "clang"].into_iter().filter(|c| have(c)) {
        compile(compiler, &["-std=c11", "-O2", "-fPIC", "-c", source.to_str().unwrap(), "-o", object.to_str().unwrap()]);
        let out = Command::new("nm").arg("-u").arg(&object).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let mut needed: Vec<&str> = text.split_whitespace().filter(|word| word.len() > 1 && *word != "_GLOBAL_OFFSET_TABLE_").collect();
        needed.sort_unstable();
        let slow = ["tenure_gate_check_slow", "tenure_gate_enter_slow", "tenure_gate_finish_slow", "tenure_gate_thread_index"];
        assert_eq!(needed, slow, "{compiler}: no clock_gettime, no __tls_get_addr");
    }
}

/// `library` of tests/c/gate_stress.c.
#[repr(C)]
struct Library {
    thread_index: extern "C" fn() -> u32,
    enter_slow: unsafe extern "C" fn(*const Cell, u32, *mut RawPermit) -> i32,
    finish_slow: unsafe extern "C" fn(*mut RawPermit) -> i32,
    precommit_slow: unsafe extern "C" fn(*const RawPermit) -> i32,
    leave_slow: unsafe extern "C" fn(*mut RawPermit),
    check_slow: unsafe extern "C" fn(*const Cell, *mut u64) -> i32,
}

extern "C" fn thread_index() -> u32 {
    tenure::gate::thread_index()
}
unsafe extern "C" fn enter_slow(cell: *const Cell, class: u32, out: *mut RawPermit) -> i32 {
    // SAFETY: the stress program passes the cell and the permit that it was given.
    unsafe {
        let cell = CellRef::from_raw(cell).unwrap();
        match tenure::gate::enter_slow(cell, WriteClass::from_code(class).unwrap()) {
            Ok(permit) => {
                out.write(permit);
                0
            }
            Err(reason) => reason as i32,
        }
    }
}
unsafe extern "C" fn finish_slow(permit: *mut RawPermit) -> i32 {
    // SAFETY: a live permit of the stress program.
    i32::from(tenure::gate::finish_slow(unsafe { &mut *permit }) != Verdict::Held)
}
unsafe extern "C" fn precommit_slow(permit: *const RawPermit) -> i32 {
    // SAFETY: a live permit of the stress program.
    i32::from(tenure::gate::precommit_slow(unsafe { &*permit }) != Verdict::Held)
}
unsafe extern "C" fn leave_slow(permit: *mut RawPermit) {
    // SAFETY: a live permit of the stress program.
    tenure::gate::leave_slow(unsafe { &mut *permit });
}
unsafe extern "C" fn check_slow(cell: *const Cell, out: *mut u64) -> i32 {
    // SAFETY: the stress program passes the cell that it was given.
    match tenure::gate::check_slow(unsafe { CellRef::from_raw(cell) }.unwrap()) {
        Ok(epoch) => {
            // SAFETY: NULL or writable.
            if let Some(out) = unsafe { out.as_mut() } {
                *out = epoch;
            }
            0
        }
        Err(reason) => reason as i32,
    }
}

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

/// Builds a stress program as a shared object and loads it, bound to this process's library.
fn load(compiler: &str, source: &str, dir: &Path) -> StressWrite {
    let object: PathBuf = dir.join("stress.so");
    let source = root().join(source);
    compile(
        compiler,
        &["-Wall", "-Wextra", "-Werror", "-O2", "-fPIC", "-shared", source.to_str().unwrap(), "-o", object.to_str().unwrap()],
    );
    let path = CString::new(object.to_str().unwrap()).unwrap();
    let library = Library { thread_index, enter_slow, finish_slow, precommit_slow, leave_slow, check_slow };
    // SAFETY: the object was built from our own source, which has both functions with these signatures; it is never unloaded.
    unsafe {
        let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        assert!(!handle.is_null(), "{:?}", std::ffi::CStr::from_ptr(libc::dlerror()));
        let symbol = |name: &std::ffi::CStr| {
            let found = libc::dlsym(handle, name.as_ptr());
            assert!(!found.is_null(), "{name:?}");
            found
        };
        let bind: unsafe extern "C" fn(*const Library) = std::mem::transmute::<*mut c_void, _>(symbol(c"stress_bind"));
        bind(&library);
        std::mem::transmute::<*mut c_void, StressWrite>(symbol(c"stress_write"))
    }
}

fn stress(compiler: &str, source: &str, clock: &str) {
    let dir = tempfile::tempdir().unwrap();
    let write = load(compiler, source, dir.path());
    let mut config = Config::new();
    config.set("gate.clock", clock).unwrap().set("gate.leash_ms", "10000").unwrap();
    let setup = Setup {
        name: "stress".to_owned(),
        options: Options::from_config(&config).unwrap(),
        epochs: Arc::new(MemoryEpochs::default()),
        injected: None,
        kernel_uses_tsc: true,
    };
    let mut events = Vec::new();
    let mut core = GateCore::new(setup, &Reading::now(&SystemClock, true), &mut events).unwrap();
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
        let now = Reading::now(&SystemClock, core.wants_tsc());
        assert!(core.grant(epoch, 60_000_000_000, now.moment, &now, &mut events).unwrap().accepted);
        let before = world.held.load(SeqCst);
        while world.held.load(SeqCst) < before + 20 {
            core.tick(&Reading::now(&SystemClock, core.wants_tsc()), &mut events);
            assert!(start.elapsed() < Duration::from_secs(60), "the writers do not get on");
            std::thread::yield_now();
        }
        tsc_used |= core.status(now.moment).clock == "tsc";
        core.begin_drain(now.moment).unwrap();
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

#[test]
fn c_writers_against_drains() {
    stress("cc", "tests/c/gate_stress.c", "boottime");
}

#[test]
fn cpp_writers_against_drains_by_the_tsc() {
    stress("c++", "tests/cpp/gate_stress.cpp", "tsc");
}
