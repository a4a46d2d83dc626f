//! The seeds: a few in every test run, others when asked for, and what a sweep must have shown.
//!
//! `TENURE_SEEDS=FROM..TO` in the environment runs others than the usual seeds; one alone is run twice. `TENURE_HISTORY=FILE` and `TENURE_TRACE=FILE`
//! have written down what was done and everything that happened.

use std::ops::Range;
use std::time::Duration;

use super::counts::{Counts, Fault};
use super::run;

/// Operations that a run must have had answered, and runs of the orchestrator that it must have had begun.
const ANSWERED: u64 = 80;
const BEGUN: u64 = 12;
/// I-15: what must have been compared in a run.
const COMPARED: [(&str, u64); 4] =
    [("entry compared", 2_000), ("commit compared", 1_000), ("commit on a majority", 200), ("leader judged", 1)];
/// And in several.
const SEEN: [&str; 2] = ["disk of a dead member read", "snapshot installed"];

/// Runs of these seeds: each printed, some of them twice.
fn sweep(usual: Range<u64>, members: usize, calm: bool, kinds: &[Fault]) {
    let asked = std::env::var_os("TENURE_SEEDS").is_some();
    let seeds = match std::env::var("TENURE_SEEDS").ok().as_deref().map(|s| s.split_once("..").map(|(a, b)| (a.parse(), b.parse()))) {
        None => usual,
        Some(Some((Ok(from), Ok(to)))) => from..to,
        Some(_) => panic!("TENURE_SEEDS is FROM..TO"),
    };
    let runs = seeds.end - seeds.start;
    let (all, mut time, mut twice) = (Counts::default(), Duration::ZERO, 0);
    for seed in seeds {
        println!("seed {seed}, {members} members");
        let told = run(seed, members, calm);
        println!("seed {seed}: {:016x} of {} events; {}", told.hash.0, told.hash.1, told.counts);
        let answered = told.counts.of_done("granted") + told.counts.of_done("read");
        assert!(answered >= ANSWERED, "I-35: only {answered} operations were answered");
        let begun = told.counts.of_done("run started");
        assert!(begun >= BEGUN, "I-35: only {begun} runs of the orchestrator were begun");
        // Each member reads an entry and applies it; where one is lost there is less to compare, and as much to decide.
        let lost = told.counts.of(Fault::Flip) + told.counts.of(Fault::FlipOfLog) > 0;
        let (whole, rest) = (2 * members as u64 - 1, 2 * members as u64 - 3);
        for (what, least) in COMPARED {
            let fewer = lost && what.ends_with("compared");
            let (count, least) = (told.counts.of_done(what), if fewer { least * rest / whole } else { least });
            assert!(count >= least, "I-35: {what}: only {count}");
        }
        if seed % 8 == 0 || (asked && runs == 1) {
            let again = run(seed, members, calm);
            assert_eq!(told.hash, again.hash, "I-36: seed {seed} has told another story");
            twice += 1;
        }
        time += told.virtual_time;
        all.take(&told.counts);
    }
    println!("{runs} seeds of {members} members, {:.2} virtual hours, {twice} of them twice; {all}", time.as_secs_f64() / 3_600.0);
    if runs > 1 {
        // Thousands of seeds show every kind but what only clocks beyond all bounds do.
        let kinds =
            if runs < 100 { kinds.to_vec() } else { Fault::ALL.into_iter().filter(|kind| *kind != Fault::Freeze || !calm).collect() };
        let missing: Vec<_> = kinds.iter().filter(|kind| all.of(**kind) == 0).collect();
        assert!(missing.is_empty(), "I-35: nothing of these kinds was injected: {missing:?}");
        let unseen: Vec<_> = SEEN.into_iter().filter(|what| all.of_done(what) == 0).collect();
        assert!(unseen.is_empty(), "I-35: nothing of this was seen: {unseen:?}");
    }
}

// At every moment I-01, I-02, I-03, I-05, I-07, I-10, I-12, I-13, I-15, I-18, I-19, I-20, I-22 (`judge.rs`, `raft.rs`, `load.rs`, `net.rs`, `faults.rs`,
// `world.rs`), of the orchestrator I-26, I-27 (`ticks.rs`); in the end I-04, I-11, I-16, I-33 (`mod.rs`)
// and I-17 (`linear.rs`); of the run itself I-35, I-36.
#[test]
fn three_members() {
    sweep(0..6, 3, true, &[Fault::Kill, Fault::PowerCut]);
}

// I-15, I-17.
#[test]
fn five_members() {
    sweep(1_001..1_002, 5, true, &[]);
}

// I-05, F07.
/// C2, C10: clocks half as fast or half as fast again that stand still with nobody told: times of leases mean nothing then, all else holds.
#[test]
fn clocks_that_run_wild() {
    sweep(2_001..2_003, 3, false, &[]);
}
