//! What a node says of itself.

use serde::Serialize;

use super::core::Core;
use crate::base::Status;
use crate::engine::Engine;
use crate::gate::{GateStatus, Mode};

/// A node's state, for people and monitoring. Its JSON form is what C and Python hand out.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    /// The library's version.
    pub version: &'static str,
    /// The node's name.
    pub node_id: String,
    /// `memory` or `durable`.
    pub form: &'static str,
    /// `running`, `poisoned`, `closed` or `forked`.
    pub state: &'static str,
    /// Why it is poisoned; empty otherwise.
    pub poisoned: String,
    /// Named weaker modes that are switched on, gate by gate: empty is what you want.
    pub weaker_modes: Vec<String>,
    /// Sessions in the ledger.
    pub sessions: u64,
    /// Lock names in use.
    pub keys: u64,
    /// Grants and places in queues.
    pub locks: u64,
    /// The last fencing token given.
    pub last_token: u64,
    /// Times that the ledger's clock was cut to its largest step.
    pub clock_clamped: u64,
    /// The gates that are open.
    pub gates: Vec<GateStatus>,
}

pub(super) fn of(core: &Core) -> NodeStatus {
    // A node that is poisoned or forked still says so; its counts are then those of nothing.
    let counts = if core.forked() { None } else { core.engine.counts().ok() }.unwrap_or_default();
    let gates: Vec<GateStatus> = core.gate_list().iter().map(|g| g.status(core)).collect();
    let unmarked = matches!(&core.engine, Engine::Durable(e) if !e.is_marked());
    let unmarked = unmarked.then(|| "data_dir: unmarked, a wiped directory would be taken for a new one".to_owned());
    let of_gates = gates.iter().flat_map(|g| weaker_modes(g).map(move |m| format!("{}: {m}", g.name)));
    let weaker_modes = unmarked.into_iter().chain(of_gates).collect();
    let state = match core.check() {
        Ok(()) => "running",
        Err(e) if e.status() == Status::Forked => "forked",
        Err(e) if e.status() == Status::Closed => "closed",
        Err(_) => "poisoned",
    };
    NodeStatus {
        version: env!("CARGO_PKG_VERSION"),
        node_id: core.id.to_string(),
        form: match core.engine {
            Engine::Memory(_) => "memory",
            Engine::Durable(_) => "durable",
            Engine::Raft(_) => "raft",
        },
        state,
        poisoned: core.poison_text().to_owned(),
        weaker_modes,
        sessions: counts.sessions,
        keys: counts.keys,
        locks: counts.locks,
        last_token: counts.last_token,
        clock_clamped: counts.clamped,
        gates,
    }
}

/// The named weaker modes that are on at a gate, by their settings.
fn weaker_modes(gate: &GateStatus) -> impl Iterator<Item = &'static str> {
    let modes = [
        (gate.mode == Mode::Disabled, "gate.mode=disabled"),
        (gate.mode == Mode::LogOnly, "gate.mode=log-only"),
        (gate.start_open, "gate.start_open=true"),
        (gate.trust_receipt, "gate.trust_receipt=true"),
        (gate.clock == "tsc", "gate.clock=tsc"),
    ];
    modes.into_iter().filter_map(|(on, name)| on.then_some(name))
}
