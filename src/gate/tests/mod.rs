//! The publisher and its writers under virtual time: every rule of the gate, with nothing asleep.
#![allow(clippy::unwrap_used, clippy::panic)]

mod feeding;
mod writing;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use super::*;
use crate::base::{Clock, Config, Error, Moment, Result, SeededRng, Status, VirtualClock};

const MS: u64 = 1_000_000;
/// 99/101 of a second: what is left of a lease of 1 s once the clocks' error is taken off.
const HELD_1S: u64 = 1_000 * MS * 99 / 101;

#[derive(Debug, Default)]
struct FlakyEpochs {
    inner: MemoryEpochs,
    broken: AtomicBool,
    writes: Mutex<Vec<u64>>,
}

impl EpochStore for FlakyEpochs {
    fn load(&self, gate: &str) -> Result<Option<u64>> {
        self.inner.load(gate)
    }
    fn persist(&self, gate: &str, epoch: u64) -> Result<()> {
        if self.broken.load(SeqCst) {
            return Err(Error::new(Status::Io, "the disk is gone"));
        }
        self.writes.lock().unwrap().push(epoch);
        self.inner.persist(gate, epoch)
    }
}

/// A gate on a virtual clock, ticked by hand.
struct Rig {
    clock: VirtualClock,
    epochs: Arc<FlakyEpochs>,
    core: GateCore,
    events: Vec<GateEvent>,
    rng: SeededRng,
}

fn rig(settings: &[(&str, &str)]) -> Rig {
    rig_on(settings, VirtualClock::new(5_000 * MS), Arc::default())
}

fn rig_on(settings: &[(&str, &str)], clock: VirtualClock, epochs: Arc<FlakyEpochs>) -> Rig {
    let mut config = Config::new();
    for (name, value) in settings {
        config.set(name, value).unwrap();
    }
    let setup = Setup {
        name: "shard".to_owned(),
        options: Options::from_config(&config).unwrap(),
        epochs: epochs.clone(),
        injected: Some(Arc::new(clock.clone())),
        kernel_uses_tsc: false,
    };
    let mut events = Vec::new();
    let core = GateCore::new(setup, &Moment::now(&clock).into(), &mut events).unwrap();
    Rig { clock, epochs, core, events, rng: SeededRng::new(1) }
}

impl Rig {
    fn now(&self) -> Moment {
        Moment::now(&self.clock)
    }

    fn grant(&mut self, epoch: u64, ttl_ms: u64) -> Result<GrantReply> {
        let now = self.now();
        self.core.grant(epoch, ttl_ms * MS, now, &now.into(), &mut self.events)
    }

    fn beat(&mut self, epoch: u64, ttl_ms: u64, nonce: Option<u64>) -> Result<HeartbeatReply> {
        let beat = Heartbeat { epoch, ttl_ns: ttl_ms.saturating_mul(MS), nonce };
        self.core.heartbeat(&beat, &self.now().into(), &mut self.rng, &mut self.events)
    }

    fn nonce(&mut self) -> u64 {
        let now = self.now();
        self.core.next_nonce(now, &mut self.rng)
    }

    /// Time passes, with the keeper ticking as often as it is asked to.
    fn pass(&mut self, ms: u64) {
        let end = self.now().boottime_ns + ms * MS;
        while self.now().boottime_ns < end {
            let wait = self.tick();
            self.clock.advance(wait.min(end - self.now().boottime_ns));
        }
        self.tick();
    }

    fn tick(&mut self) -> u64 {
        let now = self.now();
        self.core.tick(&now.into(), &mut self.events)
    }

    fn events(&mut self) -> Vec<GateEvent> {
        std::mem::take(&mut self.events)
    }

    fn enter(&self) -> std::result::Result<Permit, Reason> {
        self.core.cell().enter()
    }

    fn refusal(&self) -> Reason {
        self.enter().map(|p| p.epoch()).unwrap_err()
    }

    fn status(&self) -> GateStatus {
        self.core.status(self.now())
    }
}
