//! Three members in three processes on this machine, beside three etcd and three ZooKeeper servers on the same directory.
//!
//! `tenure-bench-cluster cluster|expire|failover|full|idle|switch DIRECTORY [ROUNDS [SECONDS]]` starts all of them as children of itself, asks them in turn,
//! and prints one JSON line a figure: medians of the rounds. It ends only what it has started.

mod etcd;
mod member;
mod ours;
mod servers;
mod stats;
mod zk;

use std::path::Path;
use std::time::{Duration, Instant};

use ours::{Kind, Members};
use servers::{Etcd, Servers, Zookeeper};
use stats::{Load, Medians};

pub type Failure = Box<dyn std::error::Error + Send + Sync>;
pub type Res<T> = Result<T, Failure>;

/// An error that is nothing but its text.
pub fn wrong(why: impl Into<String>) -> Failure {
    why.into().into()
}

fn main() -> Res<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["member", ref rest @ ..] => member::run(rest),
        [group @ ("cluster" | "expire" | "failover" | "full" | "idle" | "switch"), dir, ref rest @ ..] => {
            let rounds = rest.first().map_or(Ok(3), |r| r.parse())?;
            let seconds = rest.get(1).map_or(Ok(2.0), |s| s.parse())?;
            let dir = Path::new(dir).join(format!("tenure-bench-{}", std::process::id()));
            std::fs::create_dir_all(&dir)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let done = match group {
                "switch" => switch(&dir),
                "expire" => expire(&dir),
                "idle" => idle(&dir),
                "full" => runtime.block_on(full(&dir, 1_000_000, false)),
                "cluster" => runtime.block_on(cluster(&dir, rounds, seconds)),
                _ => runtime.block_on(failover(&dir, rounds)),
            };
            std::fs::remove_dir_all(&dir)?;
            done
        }
        _ => Err(wrong("tenure-bench-cluster cluster|expire|failover|full|idle|switch DIRECTORY [ROUNDS [SECONDS]]")),
    }
}

async fn cluster(dir: &Path, rounds: usize, seconds: f64) -> Res<()> {
    idle(dir)?;
    let mut ours = Members::start(3, &dir.join("ours"), Kind::Default)?;
    let etcd = Etcd::start(&dir.join("etcd"), (100, 1000)).await?;
    let zookeeper = Zookeeper::start(&dir.join("zk")).await?;
    let versions = (etcd.version.clone(), zookeeper.as_ref().map(|z| z.version.clone()));
    let mut figures = Medians::default();
    if let Some(zookeeper) = &zookeeper {
        // Lets the JVM compile.
        zk::pairs(zookeeper, 64, 6.0).await?;
    }
    for _ in 0..rounds {
        for clients in [1usize, 8, 64] {
            let us = ours.pairs(clients, seconds)?;
            let them = etcd::pairs(&etcd, clients, seconds).await?;
            figures.load(&format!("cluster.{{}}_{clients}"), &us, &them, &format!("{}, txn + delete", versions.0));
            if let Some(zookeeper) = zookeeper.as_ref().filter(|_| clients != 8) {
                let them = zk::pairs(zookeeper, clients, seconds).await?;
                let what = format!("{}, create + delete", versions.1.clone().unwrap_or_default());
                figures.load(&format!("cluster.zk.{{}}_{clients}"), &us, &them, &what);
            }
        }
        for waiters in [2usize, 16] {
            let us = ours.handoff(waiters, 150)?;
            let them = etcd::handoff(&etcd, waiters, 60).await?;
            let what = format!("{}, lock + unlock", versions.0);
            figures.add(&format!("cluster.handoff_p50_{waiters}"), "us", us.p50, them.p50, &what);
            figures.add(&format!("cluster.handoff_p99_{waiters}"), "us", us.p99, them.p99, &what);
        }
        let (us, them) = (ours.renewals(64, seconds)?, etcd::renewals(&etcd, 64, seconds).await?);
        figures.add("cluster.renewals_64", "1/s", us, them, &format!("{}, lease keep-alive", versions.0));
    }
    figures.print();
    drop((ours, etcd, zookeeper));
    for (locks, peer) in [(100_000u64, true), (1_000_000, false)] {
        full(dir, locks, peer).await?;
    }
    expire(dir)
}

/// What members cost that have nothing to do.
fn idle(dir: &Path) -> Res<()> {
    let members = Members::start(3, &dir.join("idle"), Kind::Default)?;
    std::thread::sleep(Duration::from_secs(2));
    let (before, start) = (members.cpu_us()?, Instant::now());
    std::thread::sleep(Duration::from_secs(6));
    let used = (members.cpu_us()? - before) as f64 / 3.0 / start.elapsed().as_micros() as f64 * 100.0;
    stats::print("cluster.idle_cpu", "% of a core a member", used, "the target", 0.5, 1);
    let memory = members.memory()? as f64 / 3.0 / 1e6;
    stats::print("cluster.idle_memory", "MB a member", memory, "the target", 30.0, 1);
    Ok(())
}

/// Memory and restart with many locks held.
async fn full(dir: &Path, locks: u64, peer: bool) -> Res<()> {
    let name = if locks >= 1_000_000 { format!("{}m", locks / 1_000_000) } else { format!("{}k", locks / 1000) };
    let dir = dir.join(format!("full-{name}"));
    let (mut them, mut again) = ((0.0, 0.0), 0.0);
    if peer {
        let mut etcd = Etcd::start(&dir.join("etcd"), (100, 1000)).await?;
        let before = etcd.memory()?;
        etcd::fill(&etcd, locks).await?;
        them.0 = (etcd.memory()? - before) as f64 / 3.0 / locks as f64;
        etcd.kill();
        let start = Instant::now();
        etcd.start_again().await?;
        etcd::read(&etcd).await?;
        them.1 = start.elapsed().as_secs_f64();
        again = 1.0;
    }
    let mut ours = Members::start(3, &dir.join("ours"), Kind::Patient)?;
    let before = ours.memories()?;
    let start = Instant::now();
    ours.fill(locks)?;
    stats::print(&format!("cluster.fill_{name}"), "1/s", locks as f64 / start.elapsed().as_secs_f64(), "none", 0.0, 1);
    let after = ours.settled()?;
    let each = after.1.saturating_sub(before.1) as f64 / 2.0 / locks as f64;
    let held = after.0.saturating_sub(before.0) as f64 / locks as f64;
    let what = if again > 0.0 { "etcd, keys without leases" } else { "the target: 160 and a name of 19" };
    stats::print(&format!("cluster.lock_bytes_{name}"), "B of memory a member", each, what, if again > 0.0 { them.0 } else { 179.0 }, 1);
    stats::print(&format!("cluster.held_bytes_{name}"), "B of memory where it is held, member and holder", held, "none", 0.0, 1);
    let loaded = ours.pairs(8, 2.0)?;
    stats::print(&format!("cluster.pair_p99_8_at_{name}"), "us", loaded.p99, "none", 0.0, 1);
    ours.kill();
    let start = Instant::now();
    ours.start_again()?;
    ours.count(locks)?;
    let what = if again > 0.0 { "etcd, to its first linearizable read" } else { "the target" };
    let reference = if again > 0.0 { them.1 } else { 2.0 };
    stats::print(&format!("cluster.restart_{name}"), "s", start.elapsed().as_secs_f64(), what, reference, 1);
    drop(ours);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// A million locks whose holder is killed, and what others notice while they end.
fn expire(dir: &Path) -> Res<()> {
    let dir = dir.join("expire");
    let mut members = Members::start(3, &dir, Kind::Default)?;
    let (took, load) = members.expire(1_000_000)?;
    stats::print("cluster.expire_1m", "s", took, "the target", 5.0, 1);
    stats::print("cluster.expire_1m_renewal_p99", "us", load.p99, "the target", 50_000.0, 1);
    drop(members);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// Planned switches of an office between the members, under writes. Without a hand-over a successor waits for the lease to end.
fn switch(dir: &Path) -> Res<()> {
    const TTL_US: f64 = 3e6;
    let mut members = Members::start(3, &dir.join("switch"), Kind::Default)?;
    let gaps = latencies(members.switches(60)?.into_iter().map(|us| us * 1_000).collect());
    stats::print("failover.planned_switch_p50", "us", gaps.p50, "the lease's ttl", TTL_US, 1);
    stats::print("failover.planned_switch_p99", "us", gaps.p99, "the lease's ttl", TTL_US, 1);
    Ok(())
}

async fn failover(dir: &Path, rounds: usize) -> Res<()> {
    switch(dir)?;
    let mut figures = Medians::default();
    for (label, kind, timing) in [("default", Kind::Default, (100, 1000)), ("tuned", Kind::Tuned, (20, 200))] {
        for turn in 0..rounds.max(3) {
            for signal in ["KILL", "STOP"] {
                let ours = {
                    let mut members = Members::start(3, &dir.join(format!("ours-{label}-{turn}-{signal}")), kind)?;
                    members.outage(signal)?
                };
                let mut etcd = Etcd::start(&dir.join(format!("etcd-{label}-{turn}-{signal}")), timing).await?;
                let them = etcd::outage(&mut etcd, signal).await?;
                let what = format!("{}, heartbeat {} ms, election {} ms", etcd.version, timing.0, timing.1);
                let name = format!("failover.{}_{label}", signal.to_lowercase());
                figures.add(&name, "ms", ours, them, &what);
            }
        }
    }
    figures.print();
    Ok(())
}

/// A figure of latencies, us.
fn latencies(mut all: Vec<u64>) -> Load {
    all.sort_unstable();
    let at = |q: f64| all.get(((all.len() as f64 * q) as usize).min(all.len().saturating_sub(1))).map_or(0.0, |n| *n as f64 / 1000.0);
    Load { rate: 0.0, p50: at(0.5), p99: at(0.99), cpu: 0.0 }
}

/// Unused ports of the loopback interface.
fn ports(count: usize) -> Res<Vec<u16>> {
    let held = (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    Ok(held.iter().map(|l| l.local_addr().map(|a| a.port())).collect::<Result<_, _>>()?)
}
