//! Several workers of one ledger, in virtual time.
#![allow(clippy::unwrap_used, dead_code)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tenure::base::rng::SeededRng;
use tenure::base::{Clock, Config, VirtualClock};
use tenure::ledger::orch::OrchQuery;
use tenure::node::orchestrator::{Handler, Orchestrator, OrchestratorOptions, RunNow, TaskContext};
use tenure::node::{Env, Node};

/// 2026-01-01T00:00:00Z.
pub const START: u64 = 1_767_225_600_000;
pub const SECOND: u64 = 1_000;
pub const MINUTE: u64 = 60 * SECOND;

/// Several workers of one ledger, moved by hand.
pub struct Workers {
    pub clock: VirtualClock,
    pub node: Node,
    pub all: Vec<Orchestrator>,
    pub begun: Arc<Mutex<Vec<(usize, String)>>>,
    /// Runs of the kind `long`, until somebody ends them.
    pub long: Arc<Mutex<Vec<(usize, TaskContext)>>>,
}

impl Workers {
    pub fn new(options: Vec<OrchestratorOptions>) -> Workers {
        let clock = VirtualClock::new(START * 1_000_000);
        let mut config = Config::new();
        config.set("session_ttl_ms", "3600000").unwrap();
        config.set("memory_shards", "1").unwrap();
        let env = Env { clock: Arc::new(clock.clone()), rng: Box::new(SeededRng::new(1)), manual: true };
        let node = Node::open_with(&config, env).unwrap();
        let begun: Arc<Mutex<Vec<(usize, String)>>> = Arc::default();
        let long: Arc<Mutex<Vec<(usize, TaskContext)>>> = Arc::default();
        let mut all = Vec::new();
        for (n, options) in options.into_iter().enumerate() {
            let session = node.open_session(&format!("w{n}"), Duration::from_secs(3600)).unwrap();
            let orchestrator = session.orchestrator(options, true).unwrap();
            let told = begun.clone();
            let handler = move |context: &TaskContext| {
                told.lock().unwrap().push((n, context.schedule().to_owned()));
                Ok(())
            };
            orchestrator.register("work", Handler::Blocking(Arc::new(handler))).unwrap();
            let kept = long.clone();
            let keep = move |context: TaskContext| kept.lock().unwrap().push((n, context));
            orchestrator.register("long", Handler::Deferred(Arc::new(keep))).unwrap();
            all.push(orchestrator);
        }
        Workers { clock, node, all, begun, long }
    }

    pub fn run(&self, ms: u64) -> Vec<(usize, String)> {
        self.run_without(usize::MAX, ms)
    }

    /// One of them has stopped.
    pub fn run_without(&self, stopped: usize, ms: u64) -> Vec<(usize, String)> {
        let end = self.clock.monotonic_ns() + ms * 1_000_000;
        while self.clock.monotonic_ns() < end {
            self.node.step();
            for (_, orchestrator) in self.all.iter().enumerate().filter(|(n, _)| *n != stopped) {
                orchestrator.step();
            }
            self.clock.advance(10_000_000);
        }
        std::mem::take(&mut *self.begun.lock().unwrap())
    }

    pub fn ask(&self, id: &str) -> u64 {
        self.all[0].run_now(id, &RunNow::default()).unwrap()
    }

    /// A run, as each of them tells of it.
    pub fn told(&self, run: u64) -> Value {
        let mut told: Vec<Value> = self.all.iter().map(|o| o.ask(&OrchQuery::Run(run)).unwrap()).collect();
        told.dedup();
        assert_eq!(told.len(), 1, "{told:?}");
        told.remove(0)
    }

    /// Puts a schedule of one task of the kind `long`, with these fields besides.
    pub fn put_long(&self, id: &str, fields: Value) {
        let mut schedule = json!({"id": id, "tasks": [{"kind": "long"}]});
        schedule.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        self.all[0].put_json(&schedule.to_string(), None).unwrap();
    }

    /// Runs of `long` that have begun since the last call.
    pub fn longs(&self) -> Vec<(usize, TaskContext)> {
        std::mem::take(&mut *self.long.lock().unwrap())
    }

    pub fn history(&self, id: &str) -> Vec<Value> {
        let lines = self.all[0].ask(&OrchQuery::History { schedule: id.to_owned(), limit: 100 }).unwrap();
        lines.as_array().unwrap().clone()
    }
}

pub fn calm() -> OrchestratorOptions {
    OrchestratorOptions { ramp_up: Duration::ZERO, ..OrchestratorOptions::default() }
}
