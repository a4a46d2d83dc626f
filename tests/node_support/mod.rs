//! A node whose time is moved by the test.

// Each test program uses a part of it.
#![allow(dead_code)]

use std::sync::{Arc, Mutex};

use tenure::base::{Config, SeededRng, VirtualClock};
use tenure::node::{Env, Event, Node};

pub struct Virtual {
    pub node: Node,
    pub clock: VirtualClock,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Virtual {
    pub fn new() -> Virtual {
        let clock = VirtualClock::new(1_000_000_000_000);
        let mut config = Config::new();
        config.set("delivery", "fd").unwrap().set("node_id", "n1").unwrap().set("memory_shards", "4").unwrap();
        let env = Env { clock: Arc::new(clock.clone()), rng: Box::new(SeededRng::new(7)), manual: true };
        let node = Node::open_with(&config, env).unwrap();
        let events = Arc::new(Mutex::new(Vec::new()));
        let seen = events.clone();
        node.subscribe(Box::new(move |e| seen.lock().unwrap().push(e.clone()))).unwrap();
        Virtual { node, clock, events }
    }

    /// Time passes in small steps, as it does for a node whose thread is running.
    pub fn pass(&self, total_ms: u64) {
        for _ in 0..total_ms.div_ceil(10) {
            self.freeze(10);
            self.node.step();
        }
    }

    /// Time passes and the node does not run: it was stopped.
    pub fn freeze(&self, total_ms: u64) {
        self.clock.advance(total_ms * 1_000_000);
    }

    /// What the host was told since the last look.
    pub fn told(&self) -> Vec<Event> {
        self.node.dispatch(1_000).unwrap();
        std::mem::take(&mut *self.events.lock().unwrap())
    }
}
