//! The rows "in-process lock" of the performance targets: ours and the references in turn, in one process, in short slices most of
//! which are not preempted on a shared machine; medians. One JSON line a figure.
//!
//! `keys` locks are held by others all the while; each pair takes and gives back one of `keys` other names, at random.

mod scale;
mod tables;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use tables::{Cpp, Ours, RustMap, Table, Work};

fn pin(cpu: usize) {
    // SAFETY: the set is a live, zeroed cpu_set_t; a refusal only means that the thread is not pinned.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
}

fn median(v: &mut [f64]) -> f64 {
    v.sort_by(f64::total_cmp);
    if std::env::var_os("BENCH_MIN").is_some() { v[v.len() / 50] } else { v[v.len() / 2] }
}

/// Pairs in a slice.
const PAIRS: usize = 400;

/// For each table: ns a pair on one thread, and on each of two.
fn run(tables: &[&dyn Table], rounds: usize) -> Vec<(f64, f64)> {
    let (bar, ready, stop) = (Barrier::new(2), AtomicU32::new(0), AtomicBool::new(false));
    let (which, other) = (AtomicU32::new(0), AtomicU64::new(0));
    let go = || {
        ready.fetch_add(1, SeqCst);
        while ready.load(SeqCst) < 2 {
            std::hint::spin_loop();
        }
    };
    let mut times = vec![(Vec::with_capacity(rounds), Vec::with_capacity(rounds)); tables.len()];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            let mut seed = 0x0123_4567_89ab_cdef;
            loop {
                bar.wait();
                if stop.load(SeqCst) {
                    return;
                }
                let table = tables[which.load(SeqCst) as usize];
                go();
                other.store(table.slice(1, &mut seed, PAIRS).to_bits(), SeqCst);
                bar.wait();
            }
        });
        pin(0);
        let mut seed = 0x0fed_cba9_8765_4321;
        for _ in 0..rounds {
            for (at, table) in tables.iter().enumerate() {
                times[at].0.push(table.slice(0, &mut seed, PAIRS));
                ready.store(0, SeqCst);
                which.store(at as u32, SeqCst);
                bar.wait();
                go();
                let mine = table.slice(0, &mut seed, PAIRS);
                bar.wait();
                times[at].1.push((mine + f64::from_bits(other.load(SeqCst))) / 2.0);
            }
        }
        stop.store(true, SeqCst);
        bar.wait();
    });
    times.iter_mut().map(|(one, two)| (median(one), median(two))).collect()
}

fn report(figure: &str, unit: &str, ours: f64, reference: &str, value: f64, n: usize) {
    println!(
        "{{\"figure\": \"{figure}\", \"unit\": \"{unit}\", \"ours\": {ours:.1}, \"reference\": \"{reference}\", \"ref\": {value:.1}, \"ratio\": {:.3}, \"n\": {n}}}",
        ours / value
    );
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|p| p.parse().ok()).unwrap_or(0);
    pages * 4096
}

/// A million keys: what a lock costs in memory, and where cache misses decide.
fn million(rounds: usize) {
    let work = Work::new(1_000_000);
    // First, while nothing else has been allocated.
    let before = resident_bytes();
    let ours = Ours::new(&work);
    let each = (resident_bytes() - before) as f64 / work.held.len() as f64;
    report("memory of a held lock, 1 M locks, 16-byte names", "B", each, "the budget", 160.0, 1);
    let (rust, cpp) = (RustMap::new(&work), Cpp::new(&work, 64));
    let times = run(&[&ours, &rust, &cpp], rounds);
    report("lock acquire + release, 1 M keys, 1 thread", "ns", times[0].0, "Rust HashMap + parking_lot", times[1].0, rounds);
    report("lock acquire + release, 1 M keys, 1 thread", "ns", times[0].0, "the target of 1.2 us", 1200.0, rounds);
    report("lock acquire + release, 1 M keys, 2 threads", "ns", times[0].1, "C++ unordered_map + mutex, 64 shards", times[2].1, rounds);
}

fn thousand(rounds: usize) {
    let work = Work::new(1_000);
    let (ours, rust, one, many) = (Ours::new(&work), RustMap::new(&work), Cpp::new(&work, 1), Cpp::new(&work, 64));
    let times = run(&[&ours, &rust, &one, &many], rounds);
    report("lock acquire + release, 1 000 keys, 1 thread", "ns", times[0].0, "Rust HashMap + parking_lot", times[1].0, rounds);
    report("lock acquire + release, 1 000 keys, 1 thread", "ns", times[0].0, "C++ unordered_map + mutex", times[2].0, rounds);
    report("lock acquire + release, 1 000 keys, 2 threads", "ns", times[0].1, "C++ unordered_map + mutex, 64 shards", times[3].1, rounds);
}

fn main() {
    let argument = |n| std::env::args().nth(n);
    let rounds = argument(1).and_then(|a| a.parse().ok()).unwrap_or(301);
    let keys = argument(2).unwrap_or_else(|| "all".to_owned());
    if keys == "scale" {
        scale::restore();
        scale::expire();
        return;
    }
    if keys != "1k" {
        million(rounds);
    }
    if keys != "1m" {
        thousand(rounds * 10);
    }
    if keys == "all" {
        scale::restore();
        scale::expire();
    }
}
