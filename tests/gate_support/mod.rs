//! Building small C and C++ objects from the repository's sources, and lending them the library of this process.
#![allow(dead_code, unsafe_code, clippy::unwrap_used)]

use std::ffi::{CStr, CString, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use tenure::base::{Config, SystemClock};
use tenure::gate::{Cell, CellRef, GateCore, MemoryEpochs, Options, RawPermit, Reading, Setup, Verdict, WriteClass};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn have(compiler: &str) -> bool {
    Command::new(compiler).arg("--version").output().is_ok_and(|out| out.status.success())
}

pub fn compile(compiler: &str, args: &[&str]) {
    let out = Command::new(compiler).arg("-I").arg(root().join("include")).args(args).output().unwrap();
    assert!(out.status.success(), "{compiler} {args:?}\n{}", String::from_utf8_lossy(&out.stderr));
}

/// `library` of tests/c/gate_bind.h.
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

/// A loaded object. It is never unloaded.
pub struct Object(*mut c_void);

impl Object {
    /// Builds `source` as a shared object, loads it, and binds it to this process's library.
    pub fn load(compiler: &str, source: &str) -> Object {
        let dir = tempfile::tempdir().unwrap();
        let object = dir.path().join("object.so");
        let source = root().join(source);
        let [source, object] = [source.as_path(), &object].map(|path| path.to_str().unwrap());
        compile(compiler, &["-Wall", "-Wextra", "-Werror", "-O2", "-fPIC", "-shared", source, "-o", object]);
        let path = CString::new(object).unwrap();
        let library = Library { thread_index, enter_slow, finish_slow, precommit_slow, leave_slow, check_slow };
        // SAFETY: the object was built from our own source; `gate_bind` has this signature and copies what it is given.
        unsafe {
            let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
            assert!(!handle.is_null(), "{:?}", CStr::from_ptr(libc::dlerror()));
            let object = Object(handle);
            let bind: unsafe extern "C" fn(*const Library) = object.function(c"gate_bind");
            bind(&library);
            object
        }
    }

    /// # Safety
    /// `F` is the type of the function of this name.
    pub unsafe fn function<F: Copy>(&self, name: &CStr) -> F {
        assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
        // SAFETY: the handle is live; the caller vouches for the type.
        unsafe {
            let found = libc::dlsym(self.0, name.as_ptr());
            assert!(!found.is_null(), "{name:?}");
            std::mem::transmute_copy(&found)
        }
    }
}

/// A gate on the machine's clocks.
pub fn gate(settings: &[(&str, &str)]) -> GateCore {
    let mut config = Config::new();
    for (name, value) in settings {
        config.set(name, value).unwrap();
    }
    let setup = Setup {
        name: "test".to_owned(),
        options: Options::from_config(&config).unwrap(),
        epochs: Arc::new(MemoryEpochs::default()),
        injected: None,
        kernel_uses_tsc: true,
    };
    GateCore::new(setup, &Reading::now(&SystemClock, true), &mut Vec::new()).unwrap()
}

/// Now, for this gate.
pub fn now(core: &GateCore) -> Reading {
    Reading::now(&SystemClock, core.wants_tsc())
}
