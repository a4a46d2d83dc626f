//! `include/tenure_gate.h` against the library: layout, numbers, cleanliness under every compiler at hand, and what it needs of the
//! linker.
#![allow(clippy::unwrap_used)]

mod gate_support;

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::process::Command;

use gate_support::{compile, have, root};
use tenure::gate::{Cell, RawPermit, Reason, SLOTS, Slot, Window, WriteClass, mode};

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
        ("MODE_EMPTY", mode::EMPTY as usize),
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
