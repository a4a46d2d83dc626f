//! Which form of the ledger a node runs, and what it is told.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Env;
use super::core::Sink;
use super::member;
use crate::base::{Config, Error, NodeId, Result, Status, SystemRng};
use crate::engine::{ClientEngine, DurableEngine, DurableOptions, Engine, MemoryEngine, PluggedEngine, PluggedOptions, RaftEngine, Values};
use crate::gate::{EpochStore, MemoryEpochs};
use crate::ledger::Params;
use crate::plug::LockService;
use crate::store::{Owner, RedbState, StateStore};

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
    if !config.get("connect")?.is_empty() {
        let id = match named {
            Some(id) => id,
            None => NodeId::new(&format!("client-{:016x}", env.rng.next_u64()))?,
        };
        let options = member::client(config, &id, env)?;
        return Ok((Engine::Client(ClientEngine::open(options, sink)?), id));
    }
    if member::is_member(config)? {
        let options = member::options(config, named.as_ref(), params(config)?, &env.clock)?;
        let id = options.node.clone();
        return Ok((Engine::Raft(RaftEngine::open(options, env.clock.clone(), sink)?), id));
    }
    for lonely in ["advertise", "join_token", "tls_ca", "tls_cert", "tls_key"] {
        if !config.get(lonely)?.is_empty() {
            return Err(Error::invalid(lonely, "means nothing without listen"));
        }
    }
    let path = config.get("data_dir")?;
    if !path.is_empty() {
        return durable(Path::new(path), config, named.as_ref(), env, sink);
    }
    let id = match named {
        Some(id) => id,
        None => NodeId::new(&format!("node-{:016x}", env.rng.next_u64()))?,
    };
    let shards = usize::try_from(config.number("memory_shards")?).unwrap_or(1);
    Ok((Engine::Memory(MemoryEngine::new(params(config)?, shards, env.clock.clone(), sink)), id))
}

fn durable(path: &Path, config: &Config, named: Option<&NodeId>, env: &mut Env, sink: Arc<Sink>) -> Result<(Engine, NodeId)> {
    let owner = Owner { cluster_id: config.get("cluster_id")?, node_id: named, create: config.flag("data_dir_create")? };
    let options = DurableOptions {
        params: params(config)?,
        segment_bytes: config.number("wal_segment_bytes")?,
        snapshot_bytes: config.number("snapshot_bytes")?,
        sync_releases: false,
    };
    let engine = DurableEngine::open(path, &owner, options, env.clock.clone(), &mut *env.rng, sink)?;
    let id = NodeId::new(engine.identity().map_or("", |i| &i.node_id))?;
    Ok((Engine::Durable(engine), id))
}

/// The lock service that the settings name, if they name one.
pub(super) fn named_service(config: &Config, env: &mut Env) -> Result<Option<Arc<dyn LockService>>> {
    if config.get("etcd")?.is_empty() {
        return Ok(None);
    }
    let id = match config.get("node_id")? {
        "" => format!("node-{:016x}", env.rng.next_u64()),
        id => id.to_owned(),
    };
    etcd(config, &id).map(Some)
}

#[cfg(feature = "etcd")]
fn etcd(config: &Config, id: &str) -> Result<Arc<dyn LockService>> {
    Ok(Arc::new(crate::plug::Etcd::connect(config, id)?))
}

#[cfg(not(feature = "etcd"))]
fn etcd(_config: &Config, _id: &str) -> Result<Arc<dyn LockService>> {
    Err(Error::new(Status::Unsupported, "etcd: this build has no etcd adapter (cargo feature `etcd`)"))
}

/// The engine over a host's lock service, and the name under which the service knows this node.
pub(super) fn plugged(
    service: Arc<dyn LockService>,
    config: &Config,
    named: Option<NodeId>,
    env: &Env,
    sink: Arc<Sink>,
) -> Result<(Engine, NodeId)> {
    for name in ["data_dir", "listen"] {
        if !config.get(name)?.is_empty() {
            return Err(Error::invalid(name, "a node over a lock service keeps its locks there, not in a directory and not in a cluster"));
        }
    }
    let millis = |name: &str| config.number(name).map(Duration::from_millis);
    let options = PluggedOptions { params: params(config)?, limit: millis("request_timeout_ms")?, poll: millis("service_poll_ms")? };
    let engine = PluggedEngine::open(service, options, env.clock.clone(), Box::new(SystemRng::new()?), sink)?;
    let id = engine.node().clone();
    match named {
        Some(named) if named != id => Err(Error::invalid("node_id", format_args!("the lock service knows this node as {id}"))),
        _ => Ok((Engine::Plugged(engine), id)),
    }
}

/// Small values in a data directory.
trait Kept: Send + Sync {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>>;
    fn put(&self, key: &str, value: &[u8]) -> Result<()>;
}

impl Kept for Values {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        Values::get(self, key)
    }
    fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        Values::put(self, key, value)
    }
}

impl Kept for Arc<RedbState> {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.get_meta(key)
    }
    fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        self.put_meta(key, value)
    }
}

/// The proof of a node's own session, in its data directory.
pub(super) struct Secrets(Box<dyn Kept>);

const SECRET: &str = "session.secret";

impl Secrets {
    /// What the process before has left here.
    pub(super) fn get(&self) -> Result<Option<u128>> {
        let Some(stored) = self.0.get(SECRET)? else { return Ok(None) };
        match stored.try_into() {
            Ok(bytes) => Ok(Some(u128::from_le_bytes(bytes))),
            Err(_) => Err(Error::new(Status::DataCorrupt, "the secret kept for the node's session is no number of 16 bytes")),
        }
    }

    pub(super) fn put(&self, secret: u128) -> Result<()> {
        self.0.put(SECRET, &secret.to_le_bytes())
    }
}

/// What becomes of the session that the process before this one has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heritage {
    /// It runs out.
    Leave,
    /// Its locks are lost to it at once, and free when their lock-delays are over.
    Release,
    /// Its locks become the new process's, under new tokens.
    Keep,
}

/// The setting `take_over`, and where the proof is kept that it needs.
pub(super) fn heritage(config: &Config, engine: &Engine) -> Result<(Heritage, Option<Secrets>)> {
    let heritage = match config.get("take_over")? {
        "release" => Heritage::Release,
        "keep" => Heritage::Keep,
        _ => return Ok((Heritage::Leave, None)),
    };
    let kept: Box<dyn Kept> = match engine {
        Engine::Durable(engine) => Box::new(engine.values()),
        Engine::Raft(engine) => Box::new(engine.state().clone()),
        _ => return Err(Error::invalid("take_over", "needs a data_dir, where the proof of the session is kept")),
    };
    Ok((heritage, Some(Secrets(kept))))
}

/// Epochs in a data directory.
struct DurableEpochs<K>(K);

impl<K> std::fmt::Debug for DurableEpochs<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DurableEpochs")
    }
}

impl<K> DurableEpochs<K> {
    fn key(gate: &str) -> String {
        format!("gate.{gate}.epoch")
    }
}

impl<K: Kept> EpochStore for DurableEpochs<K> {
    fn load(&self, gate: &str) -> Result<Option<u64>> {
        let Some(stored) = self.0.get(&Self::key(gate))? else { return Ok(None) };
        match stored.try_into() {
            Ok(bytes) => Ok(Some(u64::from_le_bytes(bytes))),
            Err(_) => Err(Error::new(Status::DataCorrupt, format!("the epoch kept for gate {gate} is no number"))),
        }
    }

    fn persist(&self, gate: &str, epoch: u64) -> Result<()> {
        self.0.put(&Self::key(gate), &epoch.to_le_bytes())
    }
}

/// Where the gates' epochs are remembered: as long as what the engine holds.
pub(super) fn epochs(engine: &Engine) -> Arc<dyn EpochStore> {
    match engine {
        Engine::Memory(_) | Engine::Plugged(_) | Engine::Client(_) => Arc::new(MemoryEpochs::default()),
        Engine::Durable(engine) => Arc::new(DurableEpochs(engine.values())),
        Engine::Raft(engine) => Arc::new(DurableEpochs(engine.state().clone())),
    }
}
