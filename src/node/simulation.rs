//! A node and its orchestrator in virtual time: a year of schedules in seconds, the same for the same seed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::orchestrator::{Handler, Orchestrator, OrchestratorOptions, TaskContext};
use super::{Env, Node};
use crate::base::rng::SeededRng;
use crate::base::{Clock, Config, Result, VirtualClock};

const NS_PER_MS: u64 = 1_000_000;
/// Renewals of sessions are as rare as they may be: nothing else happens between two ticks.
const SESSION_TTL_MS: &str = "86400000";

/// A node in memory whose time passes only in [`Simulation::next_task`], and while a handler waits or rests ([`TaskContext::wait_stop`],
/// [`TaskContext::pace`]). Handlers are the caller: it is given each task in turn and says how it ended.
#[derive(Debug)]
pub struct Simulation(Arc<World>);

#[derive(Debug)]
struct World {
    node: Node,
    clock: VirtualClock,
    orchestrator: Orchestrator,
    tasks: Arc<Mutex<VecDeque<TaskContext>>>,
    /// When the node is to be looked after next, ns.
    upkeep_ns: AtomicU64,
}

impl World {
    /// One round of everything; unless there is something to do then, time passes until the next, at most until `until_ns`. False: that has come.
    fn turn(&self, until_ns: u64, enough: &dyn Fn() -> bool) -> bool {
        let now = self.clock.realtime_ns();
        if now >= self.upkeep_ns.load(SeqCst) {
            self.node.step();
            self.upkeep_ns.store(now + 3_600_000 * NS_PER_MS, SeqCst);
        }
        let step = self.orchestrator.step();
        if enough() {
            return true;
        }
        if now >= until_ns {
            return false;
        }
        let next = now.saturating_add((step.as_nanos() as u64).max(NS_PER_MS)).min(self.upkeep_ns.load(SeqCst)).min(until_ns);
        self.clock.advance(next.saturating_sub(now));
        true
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<TaskContext>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Simulation {
    /// A simulation whose wall clock reads `start_ms` (UTC), with one node called `sim`.
    ///
    /// # Errors
    /// Those of [`Node::open_with`].
    pub fn new(start_ms: u64, seed: u64) -> Result<Simulation> {
        let clock = VirtualClock::new(start_ms.saturating_mul(NS_PER_MS));
        let mut config = Config::new();
        config.set("node_id", "sim")?;
        config.set("session_ttl_ms", SESSION_TTL_MS)?;
        config.set("memory_shards", "1")?;
        let env = Env { clock: Arc::new(clock.clone()), rng: Box::new(SeededRng::new(seed)), manual: true };
        let node = Node::open_with(&config, env)?;
        let options = OrchestratorOptions { ramp_up: Duration::ZERO, ..OrchestratorOptions::default() };
        let orchestrator = node.orchestrator(options)?;
        let world = Arc::new(World { node, clock, orchestrator, tasks: Arc::default(), upkeep_ns: AtomicU64::new(0) });
        let weak = Arc::downgrade(&world);
        world.orchestrator.let_pass(Arc::new(move |time, enough| {
            let Some(world) = weak.upgrade() else { return };
            let until_ns = world.clock.realtime_ns().saturating_add(time.as_nanos() as u64);
            while !enough() && world.turn(until_ns, enough) {}
        }));
        Ok(Simulation(world))
    }

    /// Its orchestrator.
    pub fn orchestrator(&self) -> &Orchestrator {
        &self.0.orchestrator
    }

    /// The present, UTC ms.
    pub fn now_ms(&self) -> u64 {
        self.0.clock.realtime_ns() / NS_PER_MS
    }

    /// Tasks of this kind are given to the caller.
    ///
    /// # Errors
    /// As [`Orchestrator::register`].
    pub fn handle(&self, kind: &str) -> Result<()> {
        let tasks = self.0.tasks.clone();
        let queue = move |context| tasks.lock().unwrap_or_else(PoisonError::into_inner).push_back(context);
        self.0.orchestrator.register(kind, Handler::Deferred(Arc::new(queue)))
    }

    /// Lets time pass until a task is to be done, at most until `until_ms`; `None` when that has come, and when it lies in the past. A task that the
    /// caller keeps goes on while time passes; it is ended with [`TaskContext::finish`].
    pub fn next_task(&self, until_ms: u64) -> Option<TaskContext> {
        let until_ns = until_ms.saturating_mul(NS_PER_MS);
        let waiting = || !self.0.queue().is_empty();
        loop {
            if self.0.clock.realtime_ns() > until_ns {
                return None;
            }
            if let Some(task) = self.0.queue().pop_front() {
                return Some(task);
            }
            if !self.0.turn(until_ns, &waiting) {
                return None;
            }
        }
    }
}
