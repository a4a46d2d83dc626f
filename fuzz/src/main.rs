//! One libFuzzer program for all targets of `tenure::fuzz`: `TENURE_FUZZ_TARGET` names the one to run. See `scripts/fuzz.sh`.
#![no_main]

use std::sync::LazyLock;

use tenure::fuzz::{TARGETS, Target};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("TENURE_FUZZ_TARGET").unwrap_or_default();
    let names: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
    let found = TARGETS.iter().find(|t| t.name == name);
    found.unwrap_or_else(|| panic!("TENURE_FUZZ_TARGET={name:?}: it is one of {}", names.join(", ")))
});

libfuzzer_sys::fuzz_target!(
    init: {
        // The inputs that reach deep go into the directory that libFuzzer collects in.
        if let Ok(dir) = std::env::var("TENURE_FUZZ_SEEDS") {
            for (n, seed) in (TARGET.seeds)().iter().enumerate() {
                std::fs::write(format!("{dir}/seed-{n}"), seed).expect("writing the seeds");
            }
        }
    },
    |data: &[u8]| (TARGET.run)(data)
);
