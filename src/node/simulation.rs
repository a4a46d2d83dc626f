//! A node and its orchestrator in virtual time: a year of schedules in seconds, the same for the same seed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::orchestrator::{Handler, Orchestrator, OrchestratorOptions, TaskContext};
use super::{Env, Node};
use crate::base::rng::SeededRng;
use crate::base::{Clock, Config, Result, VirtualClock};

const NS_PER_MS: u64 = 1_000_000;
/// Renewals of sessions are as rare as they may be: nothing else happens between two ticks.
const SESSION_TTL_MS: &str = "86400000";

/// A node in memory whose time passes only in [`Simulation::next_task`]. Handlers are the caller: it is given each task in turn and
/// says how it ended.
#[derive(Debug)]
pub struct Simulation {
    node: Node,
    clock: VirtualClock,
    orchestrator: Orchestrator,
    tasks: Arc<Mutex<VecDeque<TaskContext>>>,
    /// When the node is to be looked after next, ns.
    upkeep_ns: Mutex<u64>,
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
        Ok(Simulation { node, clock, orchestrator, tasks: Arc::default(), upkeep_ns: Mutex::new(0) })
    }

    /// Its orchestrator.
    pub fn orchestrator(&self) -> &Orchestrator {
        &self.orchestrator
    }

    /// The present, UTC ms.
    pub fn now_ms(&self) -> u64 {
        self.clock.realtime_ns() / NS_PER_MS
    }

    /// Tasks of this kind are given to the caller.
    ///
    /// # Errors
    /// As [`Orchestrator::register`].
    pub fn handle(&self, kind: &str) -> Result<()> {
        let tasks = self.tasks.clone();
        let queue = move |context| tasks.lock().unwrap_or_else(PoisonError::into_inner).push_back(context);
        self.orchestrator.register(kind, Handler::Deferred(Arc::new(queue)))
    }

    /// Lets time pass until a task is to be done, at most until `until_ms`, when it returns `None`. A task that the caller keeps goes on while
    /// time passes; it is ended with [`TaskContext::finish`].
    pub fn next_task(&self, until_ms: u64) -> Option<TaskContext> {
        let until_ns = until_ms.saturating_mul(NS_PER_MS);
        loop {
            if let Some(task) = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).pop_front() {
                return Some(task);
            }
            let now = self.clock.realtime_ns();
            let mut upkeep = self.upkeep_ns.lock().unwrap_or_else(PoisonError::into_inner);
            if now >= *upkeep {
                self.node.step();
                *upkeep = now + 3_600_000 * NS_PER_MS;
            }
            let step = self.orchestrator.step();
            if !self.tasks.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                continue;
            }
            if now >= until_ns {
                return None;
            }
            let next = now.saturating_add((step.as_nanos() as u64).max(NS_PER_MS)).min(*upkeep).min(until_ns);
            self.clock.advance(next - now);
        }
    }
}
