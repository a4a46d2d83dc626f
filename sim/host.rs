//! A simulated machine: a disk that fails, clocks of its own, and at times a process on it: a whole node of the product's.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::time::sleep;

use super::clock::HostClock;
use super::net::Net;
use super::raft;
use super::tasks;
use super::world::World;
use crate::base::{Clock, Config, Error, NodeId, Result, Rng, SeededRng, Status};
use crate::consensus::{Access, Bounds, LogView, Machine, Options, Server, Timing};
use crate::engine::{Engine, EventSink, RaftEngine};
use crate::gate::GateEvent;
use crate::ledger::{Event, Params};
use crate::node::orchestrator::{Orchestrator, OrchestratorOptions};
use crate::node::{self, Env, Gate, Node};
use crate::store::crash_disk::CrashDisk;
use crate::store::{RedbState, Wal};

/// Small, so that logs have many segments.
const SEGMENT: u64 = 128 << 10;
/// Within this an operation is answered.
pub const TIMEOUT: Duration = Duration::from_millis(800);
/// How long a node's session lives without a renewal.
pub const SESSION_TTL: Duration = Duration::from_millis(3_000);
/// The office that all gates hold or wait for.
pub const OFFICE: &str = "office";
pub const OFFICE_TTL: Duration = Duration::from_millis(2_000);
/// For so long a node that begins to give out work holds back.
const RAMP_UP: Duration = Duration::from_millis(500);
/// Between two rounds of the node's own work.
const STEP: Duration = Duration::from_millis(10);

/// The engine's events go to the node, which is made after it.
#[derive(Default)]
struct LateSink {
    sink: OnceLock<Arc<dyn EventSink>>,
    ended: Arc<Mutex<Option<Error>>>,
}

impl EventSink for LateSink {
    fn event(&self, event: Event) {
        if let Some(sink) = self.sink.get() {
            sink.event(event);
        }
    }

    fn nearer_deadline(&self) {}

    fn ended(&self, cause: &Error) {
        self.ended.lock().unwrap().get_or_insert_with(|| cause.clone());
        if let Some(sink) = self.sink.get() {
            sink.ended(cause);
        }
    }
}

/// A process.
pub struct Up {
    /// `a#3`: the third process on machine `a`.
    pub name: String,
    pub machine: Machine,
    pub node: Node,
    pub orchestrator: Orchestrator,
    pub gate: Gate,
    clock: HostClock,
    pub access: Access,
    /// Why its part in the cluster has ended.
    pub ended: Arc<Mutex<Option<Error>>>,
}

impl Up {
    /// The name of its machine, and of the node.
    pub fn host(&self) -> &str {
        self.name.split('#').next().unwrap()
    }

    /// What its wall clock shows, UTC ms.
    pub fn wall_ms(&self) -> i64 {
        (self.clock.realtime_ns() / 1_000_000) as i64
    }

    /// Whether it lives, be it stopped.
    pub fn lives(&self) -> bool {
        !self.machine.is_dead() && self.ended.lock().unwrap().is_none()
    }
}

pub struct Host {
    pub name: String,
    /// Where it is reached: for a twin not its name.
    address: String,
    pub disk: CrashDisk,
    disk_id: u128,
    pub opens: u64,
    pub clock: HostClock,
    rng: SeededRng,
    pub up: Option<Arc<Up>>,
    /// Its disk is damaged, and was refused: it takes no part any more.
    pub lost: Option<Error>,
}

impl Host {
    /// A machine whose wall clock is right, but for some ms.
    pub fn new(name: &str, wall_ms: i64, rng: &mut SeededRng) -> Host {
        let mut rng = SeededRng::new(rng.next_u64());
        Host {
            name: name.to_owned(),
            address: name.to_owned(),
            disk: CrashDisk::new(rng.next_u64()),
            disk_id: rng.next_u128(),
            opens: 0,
            clock: HostClock::new(1_000_000_000 + rng.below(1 << 40), wall_ms as u64 * 1_000_000 + rng.below(40_000_000)),
            rng,
            up: None,
            lost: None,
        }
    }

    /// Another machine with a copy of this one's disk as it was before its present process.
    pub fn twin(&mut self, disk: CrashDisk, wall_ms: i64) -> Host {
        let twin = Host::new(&self.name, wall_ms, &mut self.rng);
        Host { address: format!("{}'", self.name), disk, disk_id: self.disk_id, opens: self.opens - 1, ..twin }
    }

    fn seeded(&mut self) -> Box<SeededRng> {
        Box::new(SeededRng::new(self.rng.next_u64()))
    }

    /// Starts a process: the node of the product over this disk, these clocks and the network.
    pub async fn boot(&mut self, founders: &[String], net: &Net, world: &Arc<World>) -> Result<Arc<Up>> {
        self.opens += 1;
        let machine = Machine::new(self.rng.next_u64());
        let (rngs, boot) = ([self.seeded(), self.seeded(), self.seeded()], self.rng.next_u64() | 1);
        let options = Options {
            name: self.name.clone(),
            address: self.address.clone(),
            disk: self.disk_id,
            opens: self.opens,
            boot,
            founders: founders.iter().map(|n| (n.clone(), n.clone())).collect(),
            seeds: Vec::new(),
            join_token: None,
            tokens_required: false,
            params: Params { slice: if world.short_logs { 1 } else { Params::default().slice }, ..Params::default() },
            timing: Timing::default(),
            timeout: TIMEOUT,
            bounds: Bounds::default(),
            snapshot_after: 48 << 10,
            keep: if world.short_logs { 16 } else { 512 },
            inline: true,
        };
        let first = self.disk.ops() == 0 && self.opens == 1;
        let name = format!("{}#{}", self.address, self.opens);
        machine.watch(raft::witness(world, &name));
        let opening = open(name, options, self.disk.clone(), first, self.clock.clone(), rngs, net.clone(), machine.clone());
        let up = Arc::new(machine.run(opening).await?);
        world.raft.lock().unwrap().rises(&up.name, Arc::new(up.access.log_view()?));
        let (told, to) = (up.name.clone(), world.clone());
        up.node.subscribe(Box::new(move |event| listen(event, &told, &to)))?;
        tasks::register(world, &up, SeededRng::new(self.rng.next_u64()))?;
        let served = up.clone();
        drop(tokio::spawn(machine.run(async move {
            loop {
                let next = served.node.step().min(STEP);
                // Closed, once it has ended.
                let _ = served.node.dispatch(usize::MAX);
                let next = served.orchestrator.step().min(next);
                sleep(next.max(Duration::from_micros(100))).await;
            }
        })));
        self.up = Some(up.clone());
        Ok(up)
    }

    /// Has it judged what is left on the disk of a machine that is off.
    pub fn read_disk(&self, world: &World) {
        // To open it is to write to it: a copy is read, with chances of its own.
        let (copy, rng) = (self.disk.copy(), Box::new(SeededRng::new(1)));
        let read = Wal::open(Arc::new(copy.clone()), self.disk_id, SEGMENT, rng).and_then(|(log, recovery)| {
            let state = RedbState::open(&copy, self.disk_id, !recovery.clean)?;
            LogView::of_disk(Box::new(log), &state)
        });
        // A disk that is damaged is the boot's to judge.
        if let Ok((log, snapshot)) = read {
            world.raft.lock().unwrap().falls(&self.name, Arc::new(log), snapshot);
        }
    }

    /// The process is gone, and with it what it had not written.
    pub fn kill(&mut self, net: &Net) {
        net.leave(&self.address);
        if let Some(up) = self.up.take() {
            up.machine.die();
            // So that nothing of it waits for anything when it is given back.
            up.node.poison("killed");
            up.access.end(&Status::Closed.into());
            let _ = up.node.dispatch(usize::MAX);
        }
    }
}

#[allow(clippy::too_many_arguments)]
async fn open(
    name: String,
    options: Options,
    disk: CrashDisk,
    first: bool,
    clock: HostClock,
    [salts, more, own]: [Box<SeededRng>; 3],
    net: Net,
    machine: Machine,
) -> Result<Up> {
    let (id, shared) = (NodeId::new(&options.name)?, Arc::new(disk.clone()));
    if first {
        drop(Wal::create(shared.clone(), options.disk, SEGMENT, salts)?);
        drop(RedbState::create(&disk, options.disk)?);
    }
    let (log, recovery) = Wal::open(shared, options.disk, SEGMENT, more)?;
    let state = RedbState::open(&disk, options.disk, !recovery.clean)?;
    let (late, server) = (Arc::new(LateSink::default()), Server::default());
    let (ended, address) = (late.ended.clone(), options.address.clone());
    let own_clock = clock.clone();
    let clock: Arc<dyn crate::base::Clock> = Arc::new(clock);
    let engine = RaftEngine::open_here(options, (log, state), clock.clone(), net.wire(&address), server.clone(), late.clone()).await?;
    let access = engine.consensus().access();
    let mut config = Config::new();
    config.set("session_ttl_ms", &SESSION_TTL.as_millis().to_string())?;
    config.set("delivery", "fd")?;
    config.set("boot_id_path", "/nowhere")?;
    config.set("vmgenid_path", "/nowhere")?;
    let node = Node::open_over(&config, Env { clock, rng: own, manual: true }, |sink| {
        drop(late.sink.set(sink));
        Ok((Engine::Raft(engine), id))
    })?;
    let gate = node.gate("gate", &Config::new())?;
    gate.hold(OFFICE.as_bytes(), OFFICE_TTL)?;
    net.serve(&address, server, &machine, ended.clone());
    let options = OrchestratorOptions { ramp_up: RAMP_UP, ..OrchestratorOptions::default() };
    let orchestrator = node.orchestrator(options)?;
    Ok(Up { name, machine, node, orchestrator, gate, clock: own_clock, access, ended })
}

fn listen(event: &node::Event, who: &str, world: &World) {
    let counts = &world.counts;
    world.trace.note(format_args!("{who} {event:?}"));
    match event {
        node::Event::Gate { event: GateEvent::Drained { epoch, .. }, .. } => world.drained(who, *epoch),
        node::Event::Gate { event: GateEvent::Granted { .. }, .. } => counts.done("gate opened"),
        node::Event::Gate { event: GateEvent::Lost { .. }, .. } => counts.done("gate lost"),
        node::Event::Lost { .. } => counts.done("grant lost"),
        _ => {}
    }
}
