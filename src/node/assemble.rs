//! Which form of the ledger a node runs, and what it is told.

use std::sync::Arc;

use super::Env;
use super::core::Sink;
use crate::base::{Config, NodeId, Result};
use crate::engine::{Engine, MemoryEngine};
use crate::gate::{EpochStore, MemoryEpochs};
use crate::ledger::Params;

/// The ledger's parameters for these settings.
fn params(config: &Config) -> Result<Params> {
    let small = |name: &str| config.number(name).map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    Ok(Params {
        max_locks: config.number("max_locks")?,
        max_sessions: config.number("max_sessions")?,
        max_waiters_per_key: small("max_waiters_per_key")?,
        ..Params::default()
    })
}

/// The engine, and the node's name: the one asked for, or one of its own making.
pub(super) fn engine(config: &Config, named: Option<NodeId>, env: &mut Env, sink: Arc<Sink>) -> Result<(Engine, NodeId)> {
    let id = match named {
        Some(id) => id,
        None => NodeId::new(&format!("node-{:016x}", env.rng.next_u64()))?,
    };
    let shards = usize::try_from(config.number("memory_shards")?).unwrap_or(1);
    Ok((Engine::Memory(MemoryEngine::new(params(config)?, shards, env.clock.clone(), sink)), id))
}

/// Where the gates' epochs are remembered: as long as what the engine holds.
pub(super) fn epochs(engine: &Engine) -> Arc<dyn EpochStore> {
    match engine {
        Engine::Memory(_) | Engine::Raft(_) => Arc::new(MemoryEpochs::default()),
    }
}
