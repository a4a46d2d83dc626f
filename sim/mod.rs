//! The simulator: sees everything, is seen by nothing, and is in no build but that of the tests.
//!
//! A run is a cluster of whole nodes of the product's (consensus over its journal and state store, ledger, sessions, gates) in one
//! thread and in virtual time: machines with clocks of their own, disks that fail, a network that does. First things go wrong, then
//! nothing any more, and it must serve again. Everything follows from the seed.
//!
//! Elections and heartbeats go by the runtime's one virtual time, whatever a machine's own clocks say.
//!
//! | module | its one job |
//! |---|---|
//! | [`linear`] | is a history of lock operations linearizable? |
//! | [`history`] | such histories as JSON lines, of simulations and of real processes |
//! | [`clock`], [`net`], [`host`] | a machine's clocks; the network between machines; a machine with a node on it |
//! | [`load`] | who works under the locks and gates |
//! | [`tasks`], [`ticks`] | what the orchestrators give out and who does it; what must hold of their runs |
//! | [`faults`] | what goes wrong, and that it ends |
//! | [`judge`] | what must hold at every moment |
//! | [`raft`] | what Raft promises, of logs, votes and disks |
//! | [`chance`] | what is random below us, in the libraries, follows the seed too |
//! | [`runs`] | the seeds of the tests |
//! | [`world`], [`counts`], [`trace`] | what all of these share; what was injected and done; the number that a seed's run has |
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod chance;
mod clock;
mod counts;
mod faults;
mod history;
mod host;
mod judge;
mod linear;
mod load;
mod net;
mod raft;
mod runs;
mod tasks;
mod ticks;
mod trace;
mod world;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use self::counts::Counts;
use self::faults::Site;
use self::load::{Client, KEPT, KEYS};
use self::net::Net;
use self::ticks::Ticks;
use self::trace::Trace;
use self::world::World;
use crate::base::{Key, Rng, SeededRng};
use crate::ledger::orch::OrchQuery;

/// The wall time at which runs begin, UTC ms, and some days after it.
const BEGAN_MS: i64 = 1_700_000_040_000;
/// How long things go wrong, but for faults that are alone while they last.
const TROUBLE: Duration = Duration::from_secs(10);
/// I-33: after the faults a session is opened within this, and each lock is to be had within that.
const SERVES: Duration = Duration::from_secs(5);
const FREE: Duration = Duration::from_secs(12);
/// Choices of the search for an order of one key's operations.
const BUDGET: u64 = 3_000_000;

/// A run's number, and what it did.
struct Told {
    hash: (u64, u64),
    counts: Counts,
    virtual_time: Duration,
}

fn run(seed: u64, members: usize, calm: bool) -> Told {
    chance::on_a_thread_of_its_own(seed, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(story(seed, members, calm))
    })
}

async fn story(seed: u64, members: usize, calm: bool) -> Told {
    let mut rng = SeededRng::new(seed);
    let (counts, trace) = (Counts::default(), Trace::new());
    let net = Net::new(rng.next_u64(), counts.clone(), trace.clone());
    // Some seconds before a full minute, at which a window closes.
    let began_ms = BEGAN_MS + rng.below(20_000) as i64 * 60_000 + 35_000 + rng.below(20_000) as i64;
    let world = Arc::new(World::new(counts.clone(), trace.clone(), members, calm, seed % 2 == 1, began_ms));
    let mut site = Site::new(world.clone(), members, net.clone(), rng);
    for i in 0..members {
        site.boot(i).await;
    }
    let mut looking = tokio::spawn(watch(world.clone()));
    // What the judge finds is the run's end, whatever else goes on.
    tokio::select! {
        biased;
        _ = &mut looking => panic!("the judge has found something"),
        () = play(&world, &mut site) => {}
    }
    looking.abort();
    let lines: Vec<_> = world.history.lock().unwrap().iter().flatten().cloned().collect();
    let judged = history::judge(&lines, BUDGET);
    if let Err(why) = &judged
        && let Some(path) = std::env::var_os("TENURE_HISTORY")
    {
        let text: Vec<_> = lines.iter().map(|line| serde_json::to_string(line).unwrap()).collect();
        std::fs::write(&path, text.join("\n")).unwrap();
        println!("the history is in {}: {why}", path.display());
    }
    counts.done_many("operations in an order", judged.unwrap_or_else(|why| panic!("{why}")) as u64);
    assert!(net.broken().is_empty(), "{:?}", net.broken());
    let told = Told { hash: trace.hash(), counts, virtual_time: Duration::from_nanos(trace.now()) };
    site.close();
    told
}

/// The load, the faults, and what must be there after them.
async fn play(world: &Arc<World>, site: &mut Site) {
    let mut clients = site.clients(4);
    let mut keeper = clients.pop().unwrap();
    keeper.open(3_600_000).await;
    keeper.put(tasks::schedules(world.began_ms)).await;
    let mut kept = Vec::new();
    for name in KEPT {
        kept.push((name, keeper.keep(name).await));
    }
    let clients: Vec<_> = clients.into_iter().map(|client| tokio::spawn(client.run())).collect();
    let mut end = Instant::now() + TROUBLE;
    while Instant::now() < end {
        sleep(Duration::from_millis(50 + site.rng.below(500))).await;
        end += site.trouble().await;
    }
    site.calm_down().await;
    let healed = Instant::now();
    serves_again(world, site, healed).await;
    ticks_go_on(world, healed).await;
    *world.over.lock().unwrap() = true;
    for client in clients {
        client.await.unwrap();
    }
    everything_is_free(world, &mut keeper).await;
    converged(world, &kept).await;
}

/// Looks at everything, now and then closely.
async fn watch(world: Arc<World>) {
    for round in 0u64.. {
        sleep(Duration::from_millis(20)).await;
        world.judge.lock().unwrap().look(&world, round % 5 == 0);
        world.ticks.lock().unwrap().look(&world, round % 5 == 0);
        world.look_at_logs();
        world.check_listeners();
        if round % 32 == 0 {
            world.shorten_logs();
        }
    }
}

/// I-33.
async fn serves_again(world: &Arc<World>, site: &mut Site, healed: Instant) {
    let mut fresh = Client::new(world, 99, &mut site.rng);
    let opened = tokio::time::timeout(SERVES, fresh.open(60_000)).await;
    let stands = || world.processes().iter().map(|up| up.access.status()).collect::<Vec<_>>();
    assert!(opened.is_ok(), "I-33: {SERVES:?} after the faults no session can be opened: {:#?}", stands());
    world.trace.note(format_args!("serves again after {:?}", healed.elapsed()));
    // Somebody's gate opens, and its writes are acknowledged.
    let before = world.counts.of_done("write");
    while world.counts.of_done("write") == before {
        let office = |up: &Arc<host::Up>| up.access.read_local(|l| l.lock(&Key::new(host::OFFICE.as_bytes()).unwrap())).unwrap();
        let gates = || world.processes().iter().map(|up| (up.name.clone(), office(up), up.gate.status())).collect::<Vec<_>>();
        assert!(healed.elapsed() < FREE, "I-33: no gate opens after the faults: {:#?}", gates());
        sleep(Duration::from_millis(20)).await;
    }
}

/// G5: every tick is judged, on every node that lives.
async fn ticks_go_on(world: &Arc<World>, healed: Instant) {
    let all = OrchQuery::Schedules { after: String::new(), limit: 100 };
    loop {
        world.ticks.lock().unwrap().look(world, true);
        let (wall_ms, now) = (world.ticks.lock().unwrap().latest_ms(), world.processes());
        let judged = |up: &Arc<host::Up>| up.access.read_local(|l| l.orch(|state| Ticks::are_judged(world, state, wall_ms))).unwrap();
        if now.iter().any(judged) {
            return world.trace.note(format_args!("ticks go on after {:?}", healed.elapsed()));
        }
        let stands = |up: &Arc<host::Up>| up.access.read_local(|l| l.ask(&all)).unwrap();
        assert!(healed.elapsed() < FREE, "G5: ticks are not judged {FREE:?} after the faults: {:#}", now.first().map(stands).unwrap());
        sleep(Duration::from_millis(20)).await;
    }
}

/// I-04, I-11: what the dead held runs out, and those who waited have had their turn.
async fn everything_is_free(world: &Arc<World>, client: &mut Client) {
    for name in KEYS {
        let free = client.free(name, FREE).await;
        let lock = |up: &Arc<host::Up>| up.access.read_local(|l| l.lock(&Key::new(name.as_bytes()).unwrap())).unwrap();
        assert!(free, "I-04: {name} is not to be had after the end of all work: {:#?}", world.processes().first().map(lock));
    }
    world.counts.done("free in the end");
}

/// I-13, I-16: all members come to the same state, and what was granted and kept is there.
async fn converged(world: &Arc<World>, kept: &[(&str, u64)]) {
    let start = Instant::now();
    let ends = || {
        let index = |up: &Arc<host::Up>| up.access.read_local(|l| l.applied().index).unwrap();
        world.processes().iter().map(index).collect::<Vec<_>>()
    };
    while ends().windows(2).any(|pair| pair[0] != pair[1]) {
        assert!(start.elapsed() < FREE, "I-13: members do not come to the same index: {:?}", ends());
        sleep(Duration::from_micros(500)).await;
    }
    let told = world.judge.lock().unwrap().told();
    world.judge.lock().unwrap().look(world, true);
    world.look_at_logs();
    for up in world.processes() {
        assert!(up.lives(), "{} has ended: {:?}", up.name, up.ended.lock().unwrap());
        up.access
            .read_local(|ledger| {
                for (name, token) in kept {
                    let lock = ledger.lock(&Key::new(name.as_bytes()).unwrap());
                    let held = lock.and_then(|l| l.holders.first().map(|h| h.token.0));
                    assert_eq!(held, Some(*token), "I-16: {name} on {}", up.name);
                }
                assert!(ledger.counts().last_token >= told, "I-16: {} has forgotten token {told}", up.name);
                ledger.orch(|state| world.ticks.lock().unwrap().account(world, state));
            })
            .unwrap();
    }
}
