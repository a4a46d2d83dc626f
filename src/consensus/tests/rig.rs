//! Several members in one runtime, on a clock that jumps ahead when nothing is to be done, with a network and disks that fail
//! when told to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::core::{Options, Role, Server, Timing, Transport};
use super::super::machine::Observer;
use super::super::memory_log::MemoryLog;
use super::super::node::{Parts, Running};
use super::super::queue::{Bounds, unavailable};
use super::super::{Call, Lane};
use crate::base::{Clock, Error, Key, Result, Rng, SeededRng, SessionId, Status, Token};
use crate::ledger::{Event, Op, Outcome, Params, Pattern, Request, Spec, WatchStart};
use crate::store::crash_disk::CrashDisk;
use crate::store::{LogStore, RedbState, SnapshotHead, StateStore, Wal};

/// Bytes of a part of a log on a disk that crashes.
const SEGMENT: u64 = 32 << 10;

/// A machine's clocks, and a wall clock that is set back and forth by an hour every second.
#[derive(Debug)]
struct RuntimeClock {
    start: Instant,
}

impl RuntimeClock {
    fn ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64 + 1_000_000_000
    }
}

impl Clock for RuntimeClock {
    fn boottime_ns(&self) -> u64 {
        self.ns()
    }
    fn raw_ns(&self) -> u64 {
        self.ns()
    }
    fn monotonic_ns(&self) -> u64 {
        self.ns()
    }
    fn realtime_ns(&self) -> u64 {
        self.ns() + self.ns() / 1_000_000_000 % 2 * 3_600_000_000_000
    }
}

/// Snapshots in memory.
#[derive(Default)]
pub(crate) struct MemoryState {
    snapshot: Mutex<Option<(SnapshotHead, Vec<Vec<u8>>)>>,
}

impl StateStore for MemoryState {
    fn load_snapshot(&self, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<Option<SnapshotHead>> {
        let kept = self.snapshot.lock().unwrap();
        let Some((head, parts)) = kept.as_ref() else { return Ok(None) };
        parts.iter().try_for_each(|p| each(p))?;
        Ok(Some(*head))
    }
    fn save_snapshot(&self, head: SnapshotHead, parts: &mut dyn Iterator<Item = Result<Vec<u8>>>) -> Result<()> {
        let parts = parts.collect::<Result<Vec<_>>>()?;
        *self.snapshot.lock().unwrap() = Some((head, parts));
        Ok(())
    }
    fn get_meta(&self, _key: &str) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
    fn put_meta(&self, _key: &str, _value: &[u8]) -> Result<()> {
        Ok(())
    }
    fn close(&self) {}
}

#[derive(Default)]
struct Fabric {
    servers: BTreeMap<String, Server>,
    /// Links that lose everything, by sender and receiver.
    cut: BTreeSet<(String, String)>,
    rng: Option<SeededRng>,
}

/// The network.
#[derive(Clone, Default)]
pub(crate) struct Net(Arc<Mutex<Fabric>>);

impl Net {
    fn delay(&self) -> Duration {
        let mut fabric = self.0.lock().unwrap();
        let us = fabric.rng.as_mut().map_or(200, |r| 100 + r.below(900));
        Duration::from_micros(us)
    }

    fn carries(&self, from: &str, to: &str) -> bool {
        !self.0.lock().unwrap().cut.contains(&(from.to_owned(), to.to_owned()))
    }

    /// Cuts one side off from the other, both ways.
    pub fn part(&self, one: &[&str], other: &[&str]) {
        let mut fabric = self.0.lock().unwrap();
        for a in one {
            for b in other {
                fabric.cut.insert(((*a).to_owned(), (*b).to_owned()));
                fabric.cut.insert(((*b).to_owned(), (*a).to_owned()));
            }
        }
    }

    /// Loses everything from `a` to `b`, and nothing from `b` to `a`.
    pub fn part_one_way(&self, a: &str, b: &str) {
        self.0.lock().unwrap().cut.insert((a.to_owned(), b.to_owned()));
    }

    pub fn heal(&self) {
        self.0.lock().unwrap().cut.clear();
    }
}

struct Wire {
    net: Net,
    me: String,
}

impl Transport for Wire {
    fn call(&self, name: &str, address: &str, _lane: Lane, body: Vec<u8>, timeout: Duration) -> Call {
        let (net, me, to, name) = (self.net.clone(), self.me.clone(), address.to_owned(), name.to_owned());
        Box::pin(async move {
            let lost = || unavailable("lost");
            let exchange = async {
                tokio::time::sleep(net.delay()).await;
                if !net.carries(&me, &to) {
                    return std::future::pending().await;
                }
                let server = net.0.lock().unwrap().servers.get(&to).cloned().ok_or_else(|| Error::new(Status::Io, "refused"))?;
                assert!(name.is_empty() || name == to, "in these tests a node's address is its name");
                let answer = server.serve(None, Bytes::from(body)).await?;
                tokio::time::sleep(net.delay()).await;
                if !net.carries(&to, &me) {
                    return std::future::pending().await;
                }
                Ok(answer)
            };
            tokio::time::timeout(timeout, exchange).await.unwrap_or_else(|_| Err(lost()))
        })
    }
}

/// What one member was told.
#[derive(Default)]
pub(crate) struct Seen {
    pub events: Mutex<Vec<Event>>,
    pub skipped: Mutex<u32>,
    pub ended: Mutex<Option<Error>>,
}

impl Observer for Seen {
    fn events(&self, events: &mut Vec<Event>) {
        self.events.lock().unwrap().append(events);
    }
    fn skipped(&self, _: &dyn Fn(&Pattern) -> WatchStart) {
        *self.skipped.lock().unwrap() += 1;
    }
    fn ended(&self, why: &Error) {
        *self.ended.lock().unwrap() = Some(why.clone());
    }
}

/// The product's stores on a disk that loses power; they are made if the disk is empty.
pub(crate) fn stores(crash: &CrashDisk, id: u128) -> Result<(Wal, RedbState)> {
    let (shared, rng) = (Arc::new(crash.clone()), || Box::new(SeededRng::new(9)));
    if crash.used() == 0 {
        drop(Wal::create(shared.clone(), id, SEGMENT, rng())?);
        drop(RedbState::create(crash, id)?);
    }
    let (log, recovery) = Wal::open(shared, id, SEGMENT, rng())?;
    let state = RedbState::open(crash, id, !recovery.clean)?;
    Ok((log, state))
}

/// A machine: its disk outlives the member on it.
pub(crate) struct Host {
    pub name: String,
    pub disk: u128,
    pub opens: u64,
    pub log: MemoryLog,
    pub state: Arc<MemoryState>,
    /// In the place of these two, the stores of the product on a disk that loses power.
    pub crash: Option<CrashDisk>,
    pub seen: Arc<Seen>,
    pub running: Option<Running>,
}

pub(crate) struct Rig {
    pub net: Net,
    pub hosts: Vec<Host>,
    pub rng: SeededRng,
    pub snapshot_after: u64,
    pub keep: u64,
    pub timeout: Duration,
    founders: Vec<String>,
    seq: std::sync::atomic::AtomicU64,
}

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

impl Rig {
    /// Starts a cluster of the first `count` letters.
    pub async fn start(count: usize, seed: u64) -> Rig {
        let mut rig = Rig::new(count, seed);
        for i in 0..count {
            rig.boot(i).await.unwrap();
        }
        rig.leader().await;
        rig
    }

    pub fn new(count: usize, seed: u64) -> Rig {
        let mut rng = SeededRng::new(seed);
        let net = Net::default();
        net.0.lock().unwrap().rng = Some(SeededRng::new(rng.next_u64()));
        let names: Vec<String> = (0..count).map(|i| char::from(b'a' + i as u8).to_string()).collect();
        let mut rig = Rig {
            net,
            hosts: Vec::new(),
            rng,
            snapshot_after: u64::MAX,
            keep: 512,
            timeout: Duration::from_secs(2),
            founders: names.clone(),
            seq: 0.into(),
        };
        for name in names {
            rig.add(&name);
        }
        rig
    }

    /// Another machine with an empty disk.
    pub fn add(&mut self, name: &str) -> usize {
        let disk = self.rng.next_u128();
        let seen = Arc::new(Seen::default());
        let host =
            Host { name: name.into(), disk, opens: 0, log: MemoryLog::default(), state: Arc::default(), crash: None, seen, running: None };
        self.hosts.push(host);
        self.hosts.len() - 1
    }

    pub async fn boot(&mut self, i: usize) -> Result<()> {
        self.boot_with(i, Vec::new()).await
    }

    pub async fn boot_with(&mut self, i: usize, seeds: Vec<String>) -> Result<()> {
        let boot = self.rng.next_u64();
        let founders = if seeds.is_empty() { self.founders.iter().map(|n| (n.clone(), n.clone())).collect() } else { Vec::new() };
        let host = &mut self.hosts[i];
        host.opens += 1;
        host.log = host.log.crash();
        host.seen = Arc::default();
        let options = Options {
            name: host.name.clone(),
            address: host.name.clone(),
            disk: host.disk,
            opens: host.opens,
            boot,
            founders,
            seeds,
            join_token: None,
            tokens_required: false,
            params: Params::default(),
            timing: Timing::default(),
            timeout: self.timeout,
            bounds: Bounds::default(),
            snapshot_after: self.snapshot_after,
            keep: self.keep,
            inline: true,
        };
        let server = Server::default();
        let (log, state): (Box<dyn LogStore>, Arc<dyn StateStore>) = match &host.crash {
            None => (Box::new(host.log.clone()), host.state.clone()),
            Some(crash) => {
                let (log, state) = stores(crash, host.disk)?;
                (Box::new(log), Arc::new(state))
            }
        };
        let parts = Parts {
            log,
            state,
            clock: Arc::new(RuntimeClock { start: Instant::now() }),
            transport: Arc::new(Wire { net: self.net.clone(), me: host.name.clone() }),
            observer: host.seen.clone(),
            server: server.clone(),
        };
        self.net.0.lock().unwrap().servers.insert(host.name.clone(), server);
        let running = Running::start(options, parts).await?;
        host.running = Some(running);
        Ok(())
    }

    /// The process is killed.
    pub async fn kill(&mut self, i: usize) {
        let host = &mut self.hosts[i];
        self.net.0.lock().unwrap().servers.remove(&host.name);
        // What it was about to write it does not write any more.
        host.log.break_it();
        host.crash = host.crash.take().map(|crash| crash.kill_process());
        if let Some(running) = host.running.take() {
            running.stop(&Error::new(Status::Closed, "killed")).await;
        }
    }

    pub fn core(&self, i: usize) -> &Arc<super::super::core::Core> {
        &self.hosts[i].running.as_ref().unwrap().core
    }

    pub fn leads(&self, i: usize) -> bool {
        self.hosts[i].running.as_ref().is_some_and(|r| matches!(r.core.role(), Role::Leader { .. }))
    }

    /// The leader of the highest term, once there is one.
    pub async fn leader(&self) -> usize {
        let leading = || {
            let leaders = (0..self.hosts.len()).filter_map(|i| match self.hosts[i].running.as_ref()?.core.role() {
                Role::Leader { term } => Some((term, i)),
                _ => None,
            });
            leaders.max().map(|(_, i)| i)
        };
        eventually("a leader", || leading().is_some()).await;
        leading().unwrap()
    }

    /// A leader among these.
    pub async fn leader_among(&self, among: &[usize]) -> usize {
        eventually("a leader on this side", || among.iter().any(|i| self.leads(*i))).await;
        *among.iter().find(|i| self.leads(**i)).unwrap()
    }

    /// Hands an operation to one member.
    pub fn submit(&self, i: usize, session: SessionId, seq: u64, op: Op) -> oneshot::Receiver<Result<Outcome>> {
        let (tell, told) = oneshot::channel();
        let core = self.core(i);
        core.queue.submit(Request { session, seq, op }, core.options.timeout, false, Box::new(move |r| drop(tell.send(r))));
        told
    }

    pub async fn execute(&self, i: usize, session: SessionId, op: Op) -> Result<Outcome> {
        self.submit(i, session, 0, op).await.unwrap()
    }

    pub async fn open_session(&self, i: usize, ttl_ms: u32) -> SessionId {
        let op = Op::OpenSession { nonce: u128::from(ttl_ms) + i as u128 * 1_000_000, name: format!("s{i}"), ttl_ms };
        match self.execute(i, SessionId(0), op).await {
            Ok(Outcome::Session { id, .. }) => id,
            other => panic!("no session: {other:?}"),
        }
    }

    pub async fn acquire(&self, i: usize, session: SessionId, key: &str) -> Result<Token> {
        // A number of its own, so that it is tried again when a leader goes away in between.
        let seq = self.seq.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
        match self.submit(i, session, seq, acquire(key, None, seq)).await.unwrap()? {
            Outcome::Granted { token, .. } => Ok(token),
            other => Err(Error::new(Status::Held, format!("{other:?}"))),
        }
    }

    pub async fn holder(&self, i: usize, name: &str) -> Result<Option<Token>> {
        let core = self.core(i);
        super::super::node::linearize(core).await?;
        let lock = core.shared.live().state.ledger.lock(&key(name));
        Ok(lock.and_then(|l| l.holders.first().map(|h| h.token)))
    }

    /// Waits until all members that run have applied the same, and checks that they are equal.
    pub async fn converge(&self) {
        let ends = || self.hosts.iter().filter_map(|h| h.running.as_ref()).map(|r| r.core.shared.live().state.applied).collect::<Vec<_>>();
        eventually("all members have applied the same", || ends().windows(2).all(|w| w[0] == w[1])).await;
        let hashes: Vec<u64> =
            self.hosts.iter().filter_map(|h| h.running.as_ref()).map(|r| r.core.shared.live().state.ledger.state_hash().unwrap()).collect();
        assert!(hashes.windows(2).all(|w| w[0] == w[1]), "I-13: equal state at equal index: {hashes:?}");
    }
}

impl Rig {
    /// The same machines, all of them off, with copies of their disks and another seed.
    pub fn image(&self, seed: u64) -> Rig {
        let mut rig = Rig::new(0, seed);
        rig.founders = self.founders.clone();
        (rig.snapshot_after, rig.keep, rig.timeout) = (self.snapshot_after, self.keep, self.timeout);
        // Numbers of requests that were answered are not used again.
        rig.seq = (self.seq.load(std::sync::atomic::Ordering::SeqCst)).into();
        for host in &self.hosts {
            let snapshot = host.state.snapshot.lock().unwrap().clone();
            rig.hosts.push(Host {
                name: host.name.clone(),
                disk: host.disk,
                opens: host.opens,
                log: host.log.copy(),
                state: Arc::new(MemoryState { snapshot: Mutex::new(snapshot) }),
                crash: host.crash.as_ref().map(CrashDisk::copy),
                seen: Arc::default(),
                running: None,
            });
        }
        rig
    }
}

pub(crate) fn key(name: &str) -> Key {
    Key::new(name.as_bytes()).unwrap()
}

pub(crate) fn acquire(name: &str, wait_ms: Option<u64>, req: u64) -> Op {
    Op::Acquire { key: key(name), spec: Spec::default(), wait_ms, req }
}

/// Polls until it holds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
