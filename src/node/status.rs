//! What a node says of itself.

use std::collections::BTreeMap;

use serde::Serialize;

use super::clocks::ClockStatus;
use super::core::Core;
use crate::base::Status;
use crate::client::MemberInfo;
use crate::engine::{ClientEngine, Engine, RaftEngine};
use crate::gate::{GateStatus, Mode};
use crate::net::NetStatus;
use crate::plug::Capabilities;

/// A node's state, for people and monitoring. Its JSON form is what C and Python hand out.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    /// The library's version.
    pub version: &'static str,
    /// The node's name.
    pub node_id: String,
    /// `memory`, `durable`, `raft`, `client`, or `plugged` over a lock service of the host's.
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
    /// What the host's lock service can do, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock_service: Option<LockServiceStatus>,
    /// What the clocks and the machine were caught at.
    pub clock: ClockStatus,
    /// The gates that are open.
    pub gates: Vec<GateStatus>,
    /// What a member of a cluster sees of it.
    pub cluster: Option<ClusterStatus>,
}

/// One member, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Member {
    /// Its node id.
    pub name: String,
    /// Where it can be reached.
    pub address: String,
    /// Whether its vote counts; otherwise it is catching up.
    pub voter: bool,
    /// Whether it leads.
    pub leader: bool,
    /// On the leader: index after the last entry that this member has on disk.
    pub log_end: Option<u64>,
}

/// Indexes of a member's log: each is that after the last entry that...
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LogStatus {
    /// is in the log.
    pub end: u64,
    /// has been applied.
    pub applied_end: u64,
    /// is in the snapshot only.
    pub purged_end: u64,
}

/// Operations on their way into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PendingStatus {
    /// That wait to be proposed.
    pub waiting: usize,
    /// Whose proposal is under way.
    pub under_way: usize,
}

/// A cluster, as one member sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClusterStatus {
    /// The cluster's name.
    pub cluster_id: String,
    /// `leader`, `follower`, `learner` (its vote does not count yet), `none` (it belongs to no cluster yet), or `client`.
    pub role: &'static str,
    /// The leader's node id, if this member knows one.
    pub leader: Option<String>,
    /// The present term.
    pub term: u64,
    /// The members.
    pub members: Vec<Member>,
    /// The log.
    pub log: LogStatus,
    /// Operations on their way.
    pub pending: PendingStatus,
    /// What other members have against this one, by their names: empty is what you want.
    pub refused: BTreeMap<String, String>,
    /// For each node, index after the last entry that the cluster remembers it to have on disk: one that comes back with less is refused.
    pub marked: BTreeMap<String, u64>,
    /// The member that a client asks at present.
    pub connected_to: Option<String>,
    /// The network: `security` is `tls`, `loopback`, or the weaker mode `insecure`.
    pub net: Option<NetStatus>,
}

pub(super) fn cluster(id: &str, engine: &RaftEngine) -> ClusterStatus {
    let status = engine.status();
    let leads = |name: &str| status.leader.as_deref() == Some(name);
    let members: Vec<Member> = status
        .members
        .iter()
        .map(|m| Member { name: m.name.clone(), address: m.address.clone(), voter: m.voter, leader: leads(&m.name), log_end: m.log_end })
        .collect();
    let role = match members.iter().find(|m| m.name == id) {
        _ if status.leads => "leader",
        Some(me) if me.voter => "follower",
        Some(_) => "learner",
        None => "none",
    };
    ClusterStatus {
        cluster_id: engine.cluster().to_owned(),
        role,
        leader: status.leader,
        term: status.term,
        members,
        log: LogStatus { end: status.log_end, applied_end: status.applied_end, purged_end: status.purged_end },
        pending: PendingStatus { waiting: status.pending.0, under_way: status.pending.1 },
        refused: status.refused,
        marked: status.marked,
        connected_to: None,
        net: engine.net(),
    }
}

impl From<MemberInfo> for Member {
    fn from(m: MemberInfo) -> Member {
        Member { name: m.name, address: m.address, voter: m.voter, leader: m.leader, log_end: m.log_end }
    }
}

fn client(engine: &ClientEngine) -> ClusterStatus {
    let (term, members) = engine.known_members();
    let link = engine.status();
    let members: Vec<Member> = members.into_iter().map(Member::from).collect();
    ClusterStatus {
        cluster_id: engine.cluster().to_owned(),
        role: "client",
        leader: members.iter().find(|m| m.leader).map(|m| m.name.clone()),
        term,
        members,
        log: LogStatus { end: 0, applied_end: 0, purged_end: 0 },
        pending: link
            .as_ref()
            .map_or(PendingStatus { waiting: 0, under_way: 0 }, |l| PendingStatus { waiting: l.waiting, under_way: l.under_way }),
        refused: BTreeMap::new(),
        marked: BTreeMap::new(),
        connected_to: link.as_ref().and_then(|l| l.member.clone()).map(|(name, _)| name),
        net: link.map(|l| l.net),
    }
}

pub(super) fn of(core: &Core) -> NodeStatus {
    // A node that is poisoned or forked still says so; its counts are then those of nothing.
    // A client does not ask the cluster for its counts: a status waits for nobody.
    let silent = core.forked() || matches!(core.engine, Engine::Client(_));
    let counts = if silent { None } else { core.engine.counts().ok() }.unwrap_or_default();
    let gates: Vec<GateStatus> = core.gate_list().iter().map(|g| g.status(core)).collect();
    let unmarked = matches!(&core.engine, Engine::Durable(e) if !e.is_marked());
    let unmarked = unmarked.then(|| "data_dir: unmarked, a wiped directory would be taken for a new one".to_owned());
    let cluster = match &core.engine {
        Engine::Raft(engine) if !core.forked() => Some(cluster(core.id.as_str(), engine)),
        Engine::Client(engine) if !core.forked() => Some(client(engine)),
        _ => None,
    };
    let insecure = cluster.as_ref().and_then(|c| c.net.as_ref()).is_some_and(|n| n.security == "insecure");
    let insecure = insecure.then(|| "insecure=true: members talk in plain text".to_owned());
    let receipt = core.config.flag("granter_trust_receipt").unwrap_or(false);
    let receipt = receipt.then(|| "granter_trust_receipt=true: leases without a nonce can outlive what was promised".to_owned());
    let of_gates = gates.iter().flat_map(|g| weaker_modes(g).map(move |m| format!("{}: {m}", g.name)));
    let caps = match &core.engine {
        Engine::Plugged(e) => Some(*e.capabilities()),
        _ => None,
    };
    let of_service = caps.into_iter().flat_map(|c| service_modes(core, c)).map(str::to_owned);
    let weaker_modes = unmarked.into_iter().chain(insecure).chain(receipt).chain(of_service).chain(of_gates).collect();
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
            Engine::Plugged(_) => "plugged",
            Engine::Client(_) => "client",
        },
        state,
        poisoned: core.poison_text().to_owned(),
        weaker_modes,
        sessions: counts.sessions,
        keys: counts.keys,
        locks: counts.locks,
        last_token: counts.last_token,
        clock_clamped: counts.clamped,
        lock_service: caps.map(|c| LockServiceStatus::of(&c)),
        clock: core.clock_counts.status(),
        gates,
        cluster,
    }
}

/// What a host's lock service can do: its capabilities, times in milliseconds.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // Named and explained in `plug::Capabilities`.
pub struct LockServiceStatus {
    pub fencing: bool,
    pub renew: bool,
    pub wait: bool,
    pub fair: bool,
    pub linearizable_reads: bool,
    pub ttl_granularity_ms: u64,
    pub ttl_min_ms: u64,
    pub ttl_max_ms: u64,
}

impl LockServiceStatus {
    fn of(caps: &Capabilities) -> LockServiceStatus {
        let ms = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        LockServiceStatus {
            fencing: caps.fencing,
            renew: caps.renew,
            wait: caps.wait,
            fair: caps.fair,
            linearizable_reads: caps.linearizable_reads,
            ttl_granularity_ms: ms(caps.ttl_granularity),
            ttl_min_ms: ms(caps.ttl_min),
            ttl_max_ms: ms(caps.ttl_max),
        }
    }
}

/// The named weaker modes that a host's lock service brings with it.
fn service_modes(core: &Core, caps: Capabilities) -> impl Iterator<Item = &'static str> {
    let unfenced_gates = !caps.fencing && core.config.flag("service_unfenced_gates").unwrap_or(false);
    let modes = [
        (!caps.fencing, "lock_service: no fencing, tokens are this process's own count"),
        (!caps.renew, "lock_service: no renewals, a grant ends after its ttl"),
        (!caps.linearizable_reads, "lock_service: holder may be old"),
        (unfenced_gates, "service_unfenced_gates=true"),
    ];
    modes.into_iter().filter_map(|(on, name)| on.then_some(name))
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
