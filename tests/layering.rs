//! The layout is the architecture: which layer may use which, and which habits no file may have.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each layer and what it may use (`docs/architecture.md` draws it).
const LAYERS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("gate", &["base"]),
    ("ledger", &["base"]),
    ("store", &["base"]),
    ("fence", &["base", "store"]),
    ("net", &["base"]),
    ("consensus", &["base", "ledger", "store", "net"]),
    ("plug", &["base"]),
    ("client", &["base", "ledger", "net"]),
    ("engine", &["base", "ledger", "store", "net", "consensus", "client", "plug"]),
    ("orchestrator", &["base", "ledger"]),
    ("node", &["base", "gate", "engine", "ledger", "orchestrator", "store", "net", "consensus", "client", "plug"]),
    ("ffi", &["base", "gate", "fence", "node", "plug"]),
];

fn files(dir: &Path, ending: &str, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, ending, out);
        } else if path.extension().is_some_and(|e| e == ending) {
            out.push(path);
        }
    }
}

fn source_of(folder: &str) -> Vec<(PathBuf, String)> {
    let mut paths = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), "rs", &mut paths);
    paths.sort();
    paths.into_iter().map(|p| (p.clone(), fs::read_to_string(p).unwrap())).collect()
}

fn source() -> Vec<(PathBuf, String)> {
    source_of("src")
}

fn layer(path: &Path) -> Option<String> {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    (inside.components().count() > 1).then(|| inside.components().next().unwrap().as_os_str().to_str().unwrap().to_owned())
}

/// The layers named after `crate::` in the code, comments left out.
fn used(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in text.lines().filter(|l| !l.trim_start().starts_with("//")) {
        for part in line.split("crate::").skip(1) {
            let name: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !name.is_empty() {
                names.insert(name);
            } else if part.starts_with('{') {
                panic!("`use crate::{{..}}` hides which layers are used: {line}");
            }
        }
    }
    names
}

#[test]
fn arrows_point_down_only() {
    let mut seen = BTreeSet::new();
    for (path, text) in source() {
        let Some(here) = layer(&path) else { continue };
        let (_, may) = LAYERS.iter().find(|(name, _)| *name == here).unwrap_or_else(|| panic!("{here} is no layer of the table"));
        for there in used(&text) {
            if there != here && LAYERS.iter().any(|(name, _)| *name == there) {
                assert!(may.contains(&there.as_str()), "{}: {here} may not use {there}", path.display());
                seen.insert((here.clone(), there));
            }
        }
    }
    assert!(seen.len() >= 5, "the reading of the source found too little to be believed: {seen:?}");
}

/// A habit that one place is allowed and no other: (what, where it may stand).
const ONLY_IN: &[(&str, &[&str])] = &[
    ("bincode::", &["src/base/codec.rs", "src/base/key.rs"]),
    ("extern \"C\" fn", &["src/ffi/", "src/base/process.rs", "src/gate/"]),
    ("Instant::now", &["src/net/mod.rs", "src/consensus/core.rs", "src/engine/raft.rs", "src/client/carrier.rs"]),
    ("SystemTime", &[]),
    ("clock_gettime", &["src/base/clock.rs", "src/gate/"]),
    ("redb::", &["src/store/"]),
    ("openraft", &["src/consensus/"]),
    ("thread::Builder", &["src/base/process.rs"]),
    ("thread::spawn", &[]),
    ("println!", &[]),
];

#[test]
fn habits_stay_where_they_belong() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (path, text) in source() {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        // Unit tests stand at the end of a file; they may do as they like.
        let product = text.split("#[cfg(test)]").next().unwrap();
        let is_test = name.ends_with("_test.rs") || name.ends_with("tests.rs") || name.contains("/tests/");
        for (what, places) in ONLY_IN {
            let code = product.lines().filter(|l| !l.trim_start().starts_with("//")).any(|l| l.contains(what));
            let allowed = is_test || places.iter().any(|p| name.starts_with(p));
            assert!(!code || allowed, "{name} uses {what}, which belongs to {places:?}");
        }
    }
}

/// `sim/` may use every layer; it is a module of the tests' build alone, and no layer knows of it.
#[test]
fn the_simulator_is_seen_by_nothing() {
    let mut seen = BTreeSet::new();
    for (path, text) in source() {
        if used(&text).contains("sim") || text.contains("/sim/") {
            seen.insert(path.file_name().unwrap().to_owned());
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["lib.rs"], "who names the simulator");
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    assert!(lib.contains("#[cfg(test)]\n#[path = \"../sim/mod.rs\"]\nmod sim;"));
}

#[test]
fn every_file_says_what_it_is_for() {
    let all = source().into_iter().chain(source_of("sim"));
    for (path, text) in all.into_iter().filter(|(p, _)| !p.to_str().unwrap().ends_with("_test.rs")) {
        assert!(text.starts_with("//!"), "{} does not start with what it is for", path.display());
    }
}
