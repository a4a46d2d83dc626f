//! What is asked of etcd, by its Rust client: gRPC, up to eight connections over the three servers, one thread.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use etcd_client::{Client, Compare, CompareOp, GetOptions, LockOptions, PutOptions, Txn, TxnOp};
use tokio::task::{JoinSet, LocalSet};

use super::servers::{Etcd, Servers};
use super::stats::Load;
use super::{Res, latencies, wrong};

const LIMIT: Duration = Duration::from_secs(60);
const TTL_S: i64 = 60;

/// Waits until every server answers a linearizable read.
pub async fn wait(etcd: &Etcd) -> Res<()> {
    let start = Instant::now();
    for address in &etcd.addresses {
        loop {
            let asked = async { Client::connect([address], None).await?.get("up", None).await };
            match tokio::time::timeout(Duration::from_secs(1), asked).await {
                Ok(Ok(_)) => break,
                _ if start.elapsed() > LIMIT => return Err(wrong("etcd did not come up within a minute")),
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
    Ok(())
}

async fn clients(etcd: &Etcd, count: usize, own_lease: bool) -> Res<Vec<(Client, i64)>> {
    let mut shared = Vec::new();
    for i in 0..count.min(8) {
        let mut client = Client::connect([&etcd.addresses[i % 3]], None).await?;
        let lease = client.lease_grant(TTL_S, None).await?.id();
        shared.push((client, lease));
    }
    let mut all = Vec::new();
    for i in 0..count {
        let (mut client, mut lease) = shared[i % shared.len()].clone();
        if own_lease {
            lease = client.lease_grant(TTL_S, None).await?.id();
        }
        all.push((client, lease));
    }
    Ok(all)
}

/// Puts the key if nobody has.
fn take(key: &str, lease: Option<i64>) -> Txn {
    let options = lease.map(|l| PutOptions::new().with_lease(l));
    Txn::new().when([Compare::create_revision(key, CompareOp::Equal, 0)]).and_then([TxnOp::put(key, "owner-00", options)])
}

pub async fn pairs(etcd: &Etcd, count: usize, seconds: f64) -> Res<Load> {
    let all = clients(etcd, count, false).await?;
    let before = etcd.cpu_us()?;
    let (start, time) = (Instant::now(), Duration::from_secs_f64(seconds));
    let mut tasks = JoinSet::new();
    let local = LocalSet::new();
    for (i, (mut client, lease)) in all.into_iter().enumerate() {
        tasks.spawn_local_on(
            async move {
                let (key, mut ns) = (format!("bench/{i}"), Vec::new());
                while start.elapsed() < time {
                    let one = Instant::now();
                    if !client.txn(take(&key, Some(lease))).await?.succeeded() {
                        return Err(wrong("not granted"));
                    }
                    client.delete(key.as_str(), None).await?;
                    ns.push(one.elapsed().as_nanos() as u64);
                }
                Ok(ns)
            },
            &local,
        );
    }
    let ns = gather(local, tasks).await?;
    let (rate, cpu) = (ns.len() as f64 / start.elapsed().as_secs_f64(), (etcd.cpu_us()? - before) as f64 / ns.len() as f64);
    Ok(Load { rate, cpu, ..latencies(ns) })
}

async fn gather(local: LocalSet, mut tasks: JoinSet<Res<Vec<u64>>>) -> Res<Vec<u64>> {
    local
        .run_until(async move {
            let mut all = Vec::new();
            while let Some(done) = tasks.join_next().await {
                all.append(&mut done??);
            }
            Ok(all)
        })
        .await
}

/// From the release to the next of `count` waiters' having the lock; etcd's own queue.
pub async fn handoff(etcd: &Etcd, waiters: usize, count: u64) -> Res<Load> {
    let all = clients(etcd, waiters + 1, true).await?;
    let (base, key) = (Instant::now(), format!("hand/{waiters}"));
    let (released, done) = (Rc::new(Cell::new(0u64)), Rc::new(Cell::new(0u64)));
    let ns = Rc::new(RefCell::new(Vec::new()));
    let mut tasks = JoinSet::new();
    let local = LocalSet::new();
    for (mut client, lease) in all {
        let (key, released, done, ns) = (key.clone(), released.clone(), done.clone(), ns.clone());
        tasks.spawn_local_on(
            async move {
                let now = || base.elapsed().as_nanos() as u64;
                while done.get() < count + 20 {
                    let held = client.lock(key.as_str(), Some(LockOptions::new().with_lease(lease))).await?.key().to_vec();
                    let (at, from) = (now(), released.replace(0));
                    done.set(done.get() + 1);
                    if done.get() > 20 && from != 0 {
                        ns.borrow_mut().push(at - from);
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    released.set(now());
                    client.unlock(held).await?;
                    while released.get() != 0 && done.get() < count + 20 {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
                Ok(Vec::new())
            },
            &local,
        );
    }
    gather(local, tasks).await?;
    Ok(latencies(ns.take()))
}

pub async fn renewals(etcd: &Etcd, count: usize, seconds: f64) -> Res<f64> {
    let all = clients(etcd, count, true).await?;
    let (start, time) = (Instant::now(), Duration::from_secs_f64(seconds));
    let mut tasks = JoinSet::new();
    let local = LocalSet::new();
    for (mut client, lease) in all {
        tasks.spawn_local_on(
            async move {
                let ((mut keeper, mut answers), mut ns) = (client.lease_keep_alive(lease).await?, Vec::new());
                while start.elapsed() < time {
                    keeper.keep_alive().await?;
                    answers.message().await?.ok_or_else(|| wrong("the stream ended"))?;
                    ns.push(0);
                }
                Ok(ns)
            },
            &local,
        );
    }
    Ok(gather(local, tasks).await?.len() as f64 / start.elapsed().as_secs_f64())
}

/// Puts so many keys, 100 in a transaction, without leases: with them it would take hours.
pub async fn fill(etcd: &Etcd, keys: u64) -> Res<()> {
    let mut tasks = JoinSet::new();
    let local = LocalSet::new();
    for (i, (mut client, _)) in clients(etcd, 8, false).await?.into_iter().enumerate() {
        tasks.spawn_local_on(
            async move {
                let mine: Vec<u64> = (i as u64..keys).step_by(8).collect();
                for chunk in mine.chunks(100) {
                    let puts: Vec<TxnOp> =
                        chunk.iter().map(|k| TxnOp::put(format!("held-lock-{k:09}"), "owner-00-owner-0", None)).collect();
                    client.txn(Txn::new().and_then(puts)).await?;
                }
                Ok(Vec::new())
            },
            &local,
        );
    }
    gather(local, tasks).await.map(drop)
}

pub async fn read(etcd: &Etcd) -> Res<()> {
    let mut client = Client::connect([&etcd.addresses[0]], None).await?;
    let found = client.get("held-lock-", Some(GetOptions::new().with_prefix().with_count_only())).await?;
    if found.count() == 0 { Err(wrong("the keys are gone")) } else { Ok(()) }
}

/// Ends or stops the leader; how long it takes until another server puts a key, ms.
pub async fn outage(etcd: &mut Etcd, signal: &str) -> Res<f64> {
    let (mut clients, mut leader) = (Vec::new(), None);
    for (i, address) in etcd.addresses.iter().enumerate() {
        let mut client = Client::connect([address], None).await?;
        let status = client.status().await?;
        if status.header().is_some_and(|h| h.member_id() == status.leader()) {
            leader = Some(i);
        }
        clients.push(client);
    }
    let leader = leader.ok_or_else(|| wrong("etcd has no leader"))?;
    let mut other = clients.swap_remove((leader + 1) % 3);
    for i in 0..20 {
        other.txn(take(&format!("warm-{i}"), None)).await?;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let start = Instant::now();
    super::ours::send(signal, etcd.processes()[leader])?;
    for attempt in 0.. {
        // Several at once, as a request that was on its way to the old leader may wait for long.
        let mut tasks = JoinSet::new();
        let mut client = other.clone();
        tasks.spawn(async move { client.txn(take(&format!("after-{attempt}"), None)).await.is_ok_and(|t| t.succeeded()) });
        if let Ok(Some(Ok(true))) = tokio::time::timeout(Duration::from_millis(50), tasks.join_next()).await {
            break;
        }
        if start.elapsed() > LIMIT {
            return Err(wrong("no grant of etcd's within a minute"));
        }
    }
    Ok(start.elapsed().as_secs_f64() * 1000.0)
}
