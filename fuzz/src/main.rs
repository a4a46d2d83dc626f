//! One libFuzzer program for all targets of `tenure::fuzz`, and for the C functions as sequences of calls: `TENURE_FUZZ_TARGET` names the
//! one to run. See `scripts/fuzz.sh`.
#![no_main]

use std::sync::LazyLock;

use tenure::fuzz::{TARGETS, Target};

unsafe extern "C" {
    fn tenure_fuzz_calls(data: *const u8, size: usize) -> i32;
}

/// `tests/c/fuzz.c`: the bytes choose which function is called next, and with what.
const CALLS: Target = Target {
    name: "calls",
    run: |data| {
        // SAFETY: it reads `size` bytes there and keeps nothing of them.
        unsafe { tenure_fuzz_calls(data.as_ptr(), data.len()) };
    },
    seeds: || (1..9).map(|n| (0..600_u32).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_mul(n) >> 11) as u8).collect()).collect(),
};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("TENURE_FUZZ_TARGET").unwrap_or_default();
    let all = || TARGETS.iter().chain([&CALLS]);
    let names: Vec<&str> = all().map(|t| t.name).collect();
    all().find(|t| t.name == name).unwrap_or_else(|| panic!("TENURE_FUZZ_TARGET={name:?}: it is one of {}", names.join(", ")))
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
