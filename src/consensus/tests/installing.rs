//! The power goes at every single step of a member's taking a snapshot, or making one, and of its giving up the log before it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use openraft::EntryPayload;
use tokio::time::{Instant, sleep, timeout};

use super::super::change::State;
use super::super::form::{self, Place};
use super::super::log::sight::LogView;
use super::super::node::status;
use super::super::wire::Order;
use super::rig::{LIMIT, Rig, key, stores};
use crate::base::Status;
use crate::ledger::{Op, Params};
use crate::store::crash_disk::{CrashDisk, Fault};

/// Where the disk is that loses power.
const VICTIM: usize = 1;
/// Long after the last write of what is looked at.
const QUIET: Duration = Duration::from_millis(700);

/// What is left on a disk when the power is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    /// All that was written.
    Everything,
    /// All that was synced, and nothing else.
    Synced,
    /// Of the rest some sectors and names.
    Torn,
}

/// How far a disk had got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// There was no new snapshot.
    Before,
    /// It was there, and the log before it as well.
    Between,
    /// The log began after it, or where it should.
    After,
}

/// Three members that are off, and every entry that they have had.
struct Cluster {
    rig: Rig,
    records: Vec<Bytes>,
}

/// The entries from an index on that a member has.
fn records(rig: &Rig, i: usize, from: u64) -> Vec<Bytes> {
    let (log, mut all) = (rig.core(i).shared.log.clone(), Vec::new());
    loop {
        let more = log.read_blocking(from + all.len() as u64, u64::MAX).unwrap();
        if more.is_empty() {
            return all;
        }
        all.extend(more);
    }
}

fn place(record: &Bytes) -> Place {
    form::place(record).unwrap()
}

/// The state after these entries.
fn replay(records: &[Bytes]) -> State {
    let (mut state, mut outcomes, mut events) = (State::new(Params::default()), Vec::new(), Vec::new());
    for record in records {
        let entry = form::entry(record).unwrap();
        if let EntryPayload::Normal(command) = entry.payload {
            outcomes.clear();
            events.clear();
            state.apply(place(record), &command.bytes, &mut outcomes, &mut events).unwrap();
        }
        state.applied = Some(place(record));
    }
    state
}

async fn kill_all(rig: &mut Rig) {
    for i in 0..rig.hosts.len() {
        rig.kill(i).await;
    }
}

async fn hand_over(rig: &Rig, to: usize) {
    while rig.leader().await != to {
        let order = Order::Transfer { to: Some(rig.hosts[to].name.clone()) };
        // Refused while no majority is sure of the leader.
        let _ = super::super::members::order(rig.core(to).clone(), order).await;
        sleep(Duration::from_millis(20)).await;
    }
}

/// `behind`: the victim is off for the second half, and the others have made snapshots and purged what it lacks.
async fn cluster(behind: bool) -> Cluster {
    let mut rig = Rig::new(3, 51);
    rig.keep = 8;
    rig.hosts[VICTIM].crash = Some(CrashDisk::new(51));
    for i in 0..3 {
        rig.boot(i).await.unwrap();
    }
    hand_over(&rig, 0).await;
    let session = rig.open_session(0, 3_600_000).await;
    for round in 0..80 {
        if round == 30 && behind {
            rig.converge().await;
            rig.kill(VICTIM).await;
        }
        let name = format!("k{}", round % 12);
        let token = rig.acquire(0, session, &name).await.unwrap();
        if round < 70 {
            rig.execute(0, session, Op::Release { key: key(&name), token }).await.unwrap();
        }
    }
    rig.converge().await;
    let records = records(&rig, 0, 0);
    kill_all(&mut rig).await;
    if behind {
        rig.snapshot_after = 512;
        for i in [0, 2] {
            rig.boot(i).await.unwrap();
        }
        sleep(QUIET).await;
        for i in [0, 2] {
            let status = status(rig.core(i));
            assert!(status.purged_end > 100, "what the victim lacks is purged: {status:?}");
        }
        kill_all(&mut rig).await;
        rig.snapshot_after = u64::MAX;
    }
    Cluster { rig: rig.image(52), records }
}

/// Starts everybody, with a power cut at the `n`-th operation of the victim's disk. False when it was not reached.
async fn cut(cluster: &Cluster, n: u64, left: Left, stages: &mut BTreeMap<Stage, u32>) -> bool {
    let mut rig = cluster.rig.image(1_000 + n);
    let what = format!("operation {n}, {left:?}");
    for i in [0, 2] {
        rig.boot(i).await.unwrap();
    }
    rig.leader_among(&[0, 2]).await;
    let disk = rig.hosts[VICTIM].crash.take().unwrap().with_chances(n * 3 + left as u64);
    disk.plan(n, Fault::PowerCut);
    rig.hosts[VICTIM].crash = Some(disk.clone());
    let own = cluster.rig.snapshot_after;
    rig.snapshot_after = if own == u64::MAX { u64::MAX } else { 512 };
    // It may not get as far as to start.
    let booted = timeout(LIMIT, rig.boot(VICTIM)).await.unwrap();
    let start = Instant::now();
    while disk.hits() == 0 && start.elapsed() < QUIET {
        sleep(Duration::from_millis(1)).await;
    }
    let hit = disk.hits() > 0;
    assert!(hit || booted.is_ok(), "{what}: {booted:?}");
    rig.kill(VICTIM).await;
    // Killed just now; the power had gone before.
    let survivor = match left {
        Left::Everything => disk.kill_process(),
        Left::Synced => disk.only_synced(),
        Left::Torn => disk.power_cycle(),
    };
    let (log, state) = stores(&survivor.copy(), rig.hosts[VICTIM].disk).unwrap_or_else(|e| panic!("{what}: refused: {e}"));
    let (log, snapshot) = LogView::of_disk(Box::new(log), &state).unwrap_or_else(|e| panic!("{what}: refused: {e}"));
    let held = log.held();
    assert!(held.purged <= snapshot, "{what}: purged up to {}, with a snapshot up to {snapshot}", held.purged);
    *stages
        .entry(match snapshot {
            0 => Stage::Before,
            _ if held.purged == 0 => Stage::Between,
            _ => Stage::After,
        })
        .or_default() += 1;
    rig.hosts[VICTIM].crash = Some(survivor);
    rig.snapshot_after = u64::MAX;
    rig.boot(VICTIM).await.unwrap_or_else(|e| panic!("{what}: a disk without damage is refused: {e}"));
    // What it begins with is what everybody had there.
    let core = rig.core(VICTIM).clone();
    let truth = {
        let mut all = cluster.records.clone();
        all.extend(records(&rig, rig.leader_among(&[0, 2]).await, cluster.records.len() as u64));
        all
    };
    {
        let live = core.shared.live();
        let end = live.state.applied.map_or(0, |p| p.index + 1);
        assert!(end as usize <= truth.len(), "{what}: applied up to {end} of {}", truth.len());
        let prefix = replay(&truth[..end as usize]);
        assert_eq!(live.state.applied, prefix.applied, "{what}: of the entries up to {end}");
        assert_eq!(live.state.roster, prefix.roster, "{what}: the roster at {end}");
        assert_eq!(live.state.ledger.state_hash().unwrap(), prefix.ledger.state_hash().unwrap(), "{what}: the state at {end}");
    }
    let mine = LogView::of(&core.shared.log);
    for (at, _) in mine.entries(mine.start()).unwrap() {
        let same = truth.get(at.index as usize).map(|record| super::super::log::sight::Place::of(place(record)));
        assert_eq!(same, Some(at), "{what}: an entry of its log");
    }
    // And it comes to where the others are, and works.
    rig.converge().await;
    let session = rig.open_session(VICTIM, 60_000).await;
    rig.acquire(VICTIM, session, "fresh").await.unwrap_or_else(|e| panic!("{what}: {e}"));
    rig.converge().await;
    assert_eq!(status(rig.core(VICTIM)).ended.map(|e| e.status()), None::<Status>);
    kill_all(&mut rig).await;
    hit
}

async fn every_cut(cluster: &Cluster) -> BTreeMap<Stage, u32> {
    let (mut stages, mut n) = (BTreeMap::new(), 0);
    loop {
        let mut hit = false;
        for left in [Left::Everything, Left::Synced, Left::Torn] {
            hit |= cut(cluster, n, left, &mut stages).await;
        }
        if !hit {
            println!("{n} operations, each cut in three ways: {stages:?}");
            return stages;
        }
        n += 1;
    }
}

// F25, I-13, I-15.
#[tokio::test(start_paused = true)]
async fn the_power_goes_at_every_step_of_installing_a_snapshot() {
    let cluster = cluster(true).await;
    let stages = every_cut(&cluster).await;
    assert!(stages.len() == 3, "each stage was cut: {stages:?}");
}

// F25, I-13, I-15.
#[tokio::test(start_paused = true)]
async fn the_power_goes_at_every_step_of_making_a_snapshot() {
    let mut cluster = cluster(false).await;
    cluster.rig.snapshot_after = 512;
    let stages = every_cut(&cluster).await;
    assert!(stages.len() == 3, "each stage was cut: {stages:?}");
}
