//! What the host is asked while work is given out and begun: its gates, and its shards. It is asked on threads of their own, with no lock held; one
//! that does not answer in time has said no, or nothing new.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use serde_json::{Value, json};

use super::locked::Locking;
use super::{HostGate, NS_PER_MS, Orchestrator, Shared, Topology, lock};
use crate::base::{Result, process};
use crate::ledger::orch::{End, NAME_MAX, Schedule};

/// Within this the host is to answer, ns.
pub(super) const LIMIT_NS: u64 = 5_000 * NS_PER_MS;
/// How long a run that a gate put off waits, ms.
const POSTPONE_MS: u32 = 5_000;
/// Most calls of gates at once: those of a gate that hangs stay.
const CALLS_MAX: u32 = 64;
/// For so long shards are taken to be what they were, ns: all targets of a tick are planned from one answer.
const FRESH_NS: u64 = 1_000 * NS_PER_MS;
/// Most shards of a schedule.
const SHARDS_MAX: usize = 4_096;
/// Most schedules whose shards are remembered; more are asked for again.
const KNOWN_MAX: usize = 4_096;

/// Shards by name, each with the names of the nodes that have it.
pub type ShardList = Vec<(String, Vec<String>)>;

/// What is known of one schedule's shards.
#[derive(Default)]
struct Known {
    shards: Option<ShardList>,
    /// When the host was heard last, BOOTTIME ns.
    heard_ns: Option<u64>,
    /// Since when it is being asked.
    asked_ns: Option<u64>,
    failure: Option<String>,
}

/// The shards of schedules with scope `each_shard`.
#[derive(Default)]
pub(super) struct Shards {
    topology: Option<Arc<Topology>>,
    known: BTreeMap<String, Known>,
    wanted: Vec<Schedule>,
    /// Schedules that wait for what is known now.
    heard: BTreeSet<String>,
}

impl Shards {
    /// The shards of a schedule, for the plan of this moment; `None` when the host has to be asked first.
    pub(super) fn of(&mut self, schedule: &Schedule, now_ns: u64) -> Option<ShardList> {
        if self.known.len() >= KNOWN_MAX && !self.known.contains_key(&schedule.id) {
            self.known.retain(|_, known| known.asked_ns.is_some());
        }
        let known = self.known.entry(schedule.id.clone()).or_default();
        if self.topology.is_none() {
            known.failure = Some("this node has no topology".to_owned());
            return None;
        }
        if known.heard_ns.is_some_and(|at| now_ns.saturating_sub(at) < FRESH_NS) {
            return known.shards.clone();
        }
        match known.asked_ns {
            Some(since) if now_ns.saturating_sub(since) < LIMIT_NS => None,
            Some(_) => {
                known.failure = Some("the topology has not answered in time".to_owned());
                known.shards.clone()
            }
            None => {
                known.asked_ns = Some(now_ns);
                self.wanted.push(schedule.clone());
                None
            }
        }
    }

    /// Schedules that are to be planned again.
    pub(super) fn take_heard(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.heard)
    }

    fn answered(&mut self, id: &str, answer: std::result::Result<ShardList, String>, now_ns: u64) {
        let known = self.known.entry(id.to_owned()).or_default();
        (known.heard_ns, known.asked_ns) = (Some(now_ns), None);
        match answer {
            Ok(shards) => (known.shards, known.failure) = (Some(shards), None),
            Err(why) => {
                tracing::warn!(schedule = id, why, "the topology failed; the shards are taken to be what they were");
                known.failure = Some(why);
            }
        }
        self.heard.insert(id.to_owned());
    }

    /// By schedule: how many shards, and what went wrong last.
    pub(super) fn told(&self) -> Value {
        let told = |known: &Known| json!({"count": known.shards.as_ref().map(Vec::len), "failure": known.failure});
        self.known.iter().map(|(id, known)| (id.clone(), told(known))).collect::<serde_json::Map<_, _>>().into()
    }
}

/// Refuses shards that cannot be targets.
fn checked(shards: ShardList) -> std::result::Result<ShardList, String> {
    if shards.len() > SHARDS_MAX {
        return Err(format!("the topology named {} shards, above {SHARDS_MAX}", shards.len()));
    }
    let mut names = BTreeSet::new();
    for (name, _) in &shards {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(format!("the topology named a shard with {} bytes, not 1 to {NAME_MAX}", name.len()));
        }
        if !names.insert(name.as_str()) {
            return Err(format!("the topology named the shard {name:?} twice"));
        }
    }
    Ok(shards)
}

/// What the first gate that refuses says.
fn refusal(gates: &[Arc<HostGate>], schedule: &Schedule, target: &str) -> Option<String> {
    gates.iter().find_map(|gate| {
        let said = catch_unwind(AssertUnwindSafe(|| gate(schedule, target)));
        said.unwrap_or(Some("a gate panicked".to_owned()))
    })
}

impl Shared {
    /// What a run that has just been confirmed has to wait for.
    pub(super) fn first_locking(&self) -> Locking {
        if lock(&self.gates).is_empty() { self.locking() } else { Locking::Gated }
    }

    /// Asks the host's gates whether a run may begin; the lock is next.
    pub(super) fn ask_gates(self: &Arc<Self>, key: (u64, u64), schedule: &Arc<Schedule>, target: &str) {
        let (gates, next) = (lock(&self.gates).clone(), self.locking());
        let postponed = |why: String| (Locking::Free, Some((End::Postponed { retry_ms: POSTPONE_MS }, why)));
        if self.asking.fetch_add(1, SeqCst) >= CALLS_MAX {
            self.asking.fetch_sub(1, SeqCst);
            let (locking, end) = postponed(format!("{CALLS_MAX} calls of gates have not returned"));
            lock(&self.lock_ends).push((key, locking, end));
            return self.wake.raise();
        }
        let (schedule, target, asking) = (schedule.clone(), target.to_owned(), self.asking.clone());
        self.aside("tenure-gate", key, move || {
            let said = refusal(&gates, &schedule, &target);
            asking.fetch_sub(1, SeqCst);
            match said {
                None => (next, None),
                Some(why) => {
                    tracing::info!(schedule = schedule.id, target, why, "a gate holds a run back");
                    postponed(why)
                }
            }
        });
    }

    /// A gate that has not answered has closed.
    pub(super) fn late_gate() -> (End, String) {
        (End::Postponed { retry_ms: POSTPONE_MS }, "a gate has not answered in time".to_owned())
    }

    /// Asks for the shards that the last plan lacked. Whether they are known now.
    pub(super) fn ask_shards(self: &Arc<Self>) -> bool {
        let (topology, wanted) = {
            let mut shards = lock(&self.shards);
            (shards.topology.clone(), std::mem::take(&mut shards.wanted))
        };
        let Some(topology) = topology.filter(|_| !wanted.is_empty()) else { return false };
        let shared = Arc::downgrade(self);
        let ask = move || {
            for schedule in wanted {
                let said = catch_unwind(AssertUnwindSafe(|| topology(&schedule)));
                let answer = said.unwrap_or_else(|_| Err("the topology panicked".to_owned())).and_then(checked);
                let Some(shared) = shared.upgrade() else { return };
                let now_ns = shared.now().boottime_ns;
                let mut shards = lock(&shared.shards);
                // An answer of one that was replaced meanwhile is of no account.
                if shards.topology.as_ref().is_some_and(|present| Arc::ptr_eq(present, &topology)) {
                    shards.answered(&schedule.id, answer, now_ns);
                }
                drop(shards);
                shared.wake.raise();
            }
        };
        if self.manual {
            ask();
            return true;
        }
        if let Err(error) = process::spawn("tenure-shards", ask) {
            tracing::warn!(%error, "no thread to ask for shards");
            lock(&self.shards).known.values_mut().for_each(|known| known.asked_ns = None);
        }
        false
    }
}

impl Orchestrator {
    /// Adds a gate: asked before each attempt that begins on this node, on a thread of its own. While one says why not, or panics, or does not answer within
    /// 5 s, the run is put off and asked about again 5 s later; its reason is in `run` and `runs`, and nothing fails.
    ///
    /// # Errors
    /// [`crate::base::Status::Closed`], [`crate::base::Status::Poisoned`].
    pub fn add_gate(&self, gate: Arc<HostGate>) -> Result<()> {
        self.0.shared.check()?;
        lock(&self.0.shared.gates).push(gate);
        Ok(())
    }

    /// Says which shards there are, for schedules of scope `each_shard`, or that nobody knows any more. It is asked before each of their ticks, on the node
    /// that gives out work (so every node needs it that may come to do so), on a thread of its own. When it fails, panics, or does not answer
    /// within 5 s the shards are taken to be what they were, and the status and the health say so; before its first answer there are none.
    ///
    /// # Errors
    /// [`crate::base::Status::Closed`], [`crate::base::Status::Poisoned`].
    pub fn set_topology(&self, topology: Option<Arc<Topology>>) -> Result<()> {
        let shared = &self.0.shared;
        shared.check()?;
        let mut shards = lock(&shared.shards);
        let heard = shards.known.keys().cloned().collect();
        *shards = Shards { topology, heard, ..Shards::default() };
        drop(shards);
        shared.wake.raise();
        Ok(())
    }
}
