//! What all parts of a node share.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;
use tokio::time::Instant;

use super::machine::Shared;
use super::queue::Queue;
use super::roster::Sighting;
use super::stamper::Stamper;
use super::types::{Member, Raft};
use super::wire::{self, Answer, Ask, Lane, Sender, number_of};
use crate::base::{Error, Result, Status};
use crate::ledger::Params;

/// An answer that is on its way.
pub type Call = Pin<Box<dyn Future<Output = Result<Bytes>> + Send>>;

/// The runtime's clock: the system's, or the one that a simulation moves.
pub(super) fn now() -> Instant {
    Instant::now()
}

/// Starts a task of a member's.
#[cfg(not(test))]
pub(super) fn spawn<F>(work: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(work)
}
#[cfg(test)]
pub(super) use super::simulated::spawn;

/// As [`spawn`], from any thread.
#[cfg(not(test))]
pub(super) fn spawn_on<F>(runtime: &tokio::runtime::Handle, work: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    runtime.spawn(work)
}
#[cfg(test)]
pub(super) use super::simulated::spawn_on;

/// How messages get to other members.
pub trait Transport: Send + Sync {
    /// Asks the node at `address`, which must be `name` unless that is empty, and waits for its answer at most this long.
    /// Questions of one lane to one node that are asked in order arrive in order, unless one of them fails. [`Status::Io`] says that
    /// the question was certainly not sent.
    fn call(&self, name: &str, address: &str, lane: Lane, body: Vec<u8>, timeout: Duration) -> Call;

    /// What tells the cluster from others of its name has become known.
    fn founded(&self, lineage: u128) {
        let _ = lineage;
    }
}

/// Answers messages of other members, once the member that it was given to has started.
#[derive(Clone, Default)]
pub struct Server(Arc<OnceLock<Weak<Core>>>);

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("started", &self.0.get().is_some()).finish()
    }
}

impl Server {
    /// Answers one message. `from` is who the connection has been found to be with: name and disk. To be polled inside the
    /// member's runtime.
    pub fn serve(&self, from: Option<(String, u128)>, body: Bytes) -> Call {
        match self.0.get() {
            Some(core) => match core.upgrade() {
                Some(core) => Box::pin(super::serve::serve(core, from, body)),
                None => Box::pin(async { Err(Status::Closed.into()) }),
            },
            None => Box::pin(async { Err(Error::new(Status::Unavailable, "the node is starting")) }),
        }
    }

    pub(super) fn bind(&self, core: &Arc<Core>) {
        drop(self.0.set(Arc::downgrade(core)));
    }
}

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often a leader that has nothing to say says so.
    pub heartbeat: Duration,
    /// A follower that has not heard of its leader for `election_max`, and then for a random time between these two, stands for
    /// election. A new leader is there about 1.5 to 2 times `election_max` after the old one was last heard of.
    pub election_min: Duration,
    /// See `election_min`.
    pub election_max: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        let ms = Duration::from_millis;
        Timing { heartbeat: ms(80), election_min: ms(120), election_max: ms(260) }
    }
}

impl Timing {
    /// For machines whose disks and schedulers keep up.
    pub fn tuned() -> Timing {
        let ms = Duration::from_millis;
        Timing { heartbeat: ms(16), election_min: ms(50), election_max: ms(100) }
    }
}

/// What a node is told when it is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name.
    pub name: String,
    /// Where the others can reach it.
    pub address: String,
    /// The random number of its data directory.
    pub disk: u128,
    /// How often that has been opened, this time included.
    pub opens: u64,
    /// A random number of this opening, not 0.
    pub boot: u64,
    /// Names and addresses of the nodes that found the cluster together, this one included. Empty when it joins one.
    pub founders: Vec<(String, String)>,
    /// Addresses of members that a new node asks to be let in. Nodes whose own addresses are among them found a cluster together
    /// if there is none.
    pub seeds: Vec<String>,
    /// What this node shows to be let in.
    pub join_token: Option<[u8; 32]>,
    /// Whether the cluster, should this node found it, lets nodes in by tokens only.
    pub tokens_required: bool,
    /// The ledger's parameters: the same on all founders.
    pub params: Params,
    /// How long things take.
    pub timing: Timing,
    /// Within this an operation is answered, whatever happens.
    pub timeout: Duration,
    /// Bounds of what waits.
    pub bounds: super::queue::Bounds,
    /// Bytes of log after which a snapshot is made; a large state is written down less often.
    pub snapshot_after: u64,
    /// Entries that stay in the log after a snapshot, for followers that are a little behind.
    pub keep: u64,
    /// No threads: everything runs where it is called. For simulations.
    pub inline: bool,
}

/// Where this node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Leader {
        term: u64,
    },
    Follower {
        leader: u64,
    },
    /// Nobody leads, as far as this node knows.
    Lost,
}

pub(super) struct Core {
    pub options: Options,
    pub me: Sender,
    pub number: u64,
    pub shared: Shared,
    pub queue: Queue,
    pub transport: Arc<dyn Transport>,
    pub stamper: Mutex<Stamper>,
    pub raft: OnceLock<Raft>,
    /// By member, one more than the last index that it has acknowledged to this leader, in this term.
    acknowledged: Mutex<(u64, BTreeMap<u64, u64>)>,
    /// Openings of members that were admitted. What such a one acknowledges from then on says nothing against it.
    admitted: Mutex<BTreeSet<(u64, u64)>>,
    /// What other members have against this node, by their names.
    refusals: Mutex<BTreeMap<String, Error>>,
    /// Whether the cluster's first entry is known to have been applied.
    founded: AtomicBool,
    /// Whether that entry is being proposed.
    pub declaring: AtomicBool,
    /// Nodes whose sighting is being noted.
    pub noting: Mutex<BTreeSet<(String, u64)>>,
    /// Why this node's part has ended.
    ended: watch::Sender<Option<Error>>,
    pub incoming: tokio::sync::Mutex<Option<super::snapshot::Incoming>>,
    /// Number of the next snapshot that is sent: each transfer has a name of its own.
    pub transfers: AtomicU64,
}

impl Core {
    pub fn new(options: Options, sighting: Sighting, shared: Shared, transport: Arc<dyn Transport>, stamper: Stamper) -> Core {
        let me = Sender { name: options.name.clone(), address: options.address.clone(), sighting };
        Core {
            number: number_of(options.disk),
            queue: Queue::new(options.bounds),
            me,
            shared,
            transport,
            stamper: Mutex::new(stamper),
            raft: OnceLock::new(),
            acknowledged: Mutex::default(),
            // What this opening itself adds to the log says nothing against it either.
            admitted: Mutex::new(BTreeSet::from([(number_of(options.disk), sighting.boot)])),
            refusals: Mutex::default(),
            founded: AtomicBool::new(false),
            declaring: AtomicBool::new(false),
            noting: Mutex::default(),
            ended: watch::Sender::new(None),
            incoming: tokio::sync::Mutex::default(),
            transfers: AtomicU64::new(1),
            options,
        }
    }

    pub fn raft(&self) -> Result<&Raft> {
        if let Some(error) = self.ended.borrow().as_ref() {
            return Err(error.clone());
        }
        self.raft.get().ok_or_else(|| Error::new(Status::Unavailable, "the node is starting"))
    }

    pub fn role(&self) -> Role {
        let Ok(raft) = self.raft() else { return Role::Lost };
        let metrics = raft.server_metrics();
        let metrics = metrics.borrow_watched();
        match (metrics.state, metrics.current_leader) {
            (ServerState::Leader, Some(leader)) if leader == self.number => Role::Leader { term: metrics.vote.leader_id.term },
            (_, Some(leader)) if leader != self.number => Role::Follower { leader },
            _ => Role::Lost,
        }
    }

    /// Whether the cluster's first entry has been applied here: before it nothing else is proposed.
    pub fn is_founded(&self) -> bool {
        if !self.founded.load(Relaxed) {
            let lineage = self.shared.live().state.roster.lineage();
            if lineage == 0 {
                return false;
            }
            self.founded.store(true, Relaxed);
            self.transport.founded(lineage);
            self.shared.observer.founded(lineage);
        }
        true
    }

    /// The member of this number.
    pub fn member(&self, number: u64) -> Option<Member> {
        let metrics = self.raft().ok()?.server_metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.get_node(&number).cloned()
    }

    /// Whether this node knows who the members are.
    pub fn knows_members(&self) -> bool {
        self.raft().is_ok_and(|raft| raft.server_metrics().borrow_watched().membership_config.nodes().next().is_some())
    }

    /// Asks a member, and checks who answers.
    pub async fn ask(self: &Arc<Core>, to: &Member, lane: Lane, ask: &Ask, records: &[Bytes], timeout: Duration) -> Result<Answer> {
        let (sender, answer) = self.ask_anybody(to, lane, ask, records, timeout).await?;
        if to.disk != 0 && sender.sighting.disk != to.disk {
            return Err(super::roster::Refused::OtherDisk.error(&sender.name));
        }
        Ok(answer)
    }

    /// Asks whoever is there, and says who answered.
    pub async fn ask_anybody(
        self: &Arc<Core>,
        to: &Member,
        lane: Lane,
        ask: &Ask,
        records: &[Bytes],
        timeout: Duration,
    ) -> Result<(Sender, Answer)> {
        // openraft goes on for a while, and would stand for election.
        if let Some(why) = self.ended.borrow().clone() {
            return Err(why);
        }
        let body = wire::ask(&self.me, ask, records)?;
        let bytes = self.transport.call(&to.name, &to.address, lane, body, timeout).await?;
        let (sender, answer) = wire::answered(bytes)?;
        self.admit(&sender)?;
        let Answer::Failed(failure) = answer else {
            self.refusals().remove(&sender.name);
            return Ok((sender, answer));
        };
        let error = Error::from(failure);
        if matches!(error.status(), Status::DataForeign | Status::DataLost | Status::DataLocked) {
            self.refused_by(&sender, &error);
        }
        Err(error)
    }

    /// A peer will not have this node. It may be the one that is wrong: what the leader says ends this node, or what most of the
    /// others say.
    pub fn refused_by(self: &Arc<Core>, by: &Sender, why: &Error) {
        let mut refusals = self.refusals();
        refusals.insert(by.name.clone(), why.clone());
        let refusing = refusals.len();
        drop(refusals);
        let leader = self.role() == Role::Follower { leader: number_of(by.sighting.disk) };
        if leader || refusing * 2 > self.others() {
            self.end(why);
        }
    }

    /// How many others there are whose word counts.
    fn others(&self) -> usize {
        let members = self.raft().map_or(0, |raft| {
            let metrics = raft.server_metrics();
            let metrics = metrics.borrow_watched();
            metrics.membership_config.membership().voter_ids().count()
        });
        match (members, self.options.founders.len()) {
            (0, 0) => self.options.seeds.len(),
            (0, founders) => founders - 1,
            (members, _) => members - 1,
        }
    }

    fn refusals(&self) -> MutexGuard<'_, BTreeMap<String, Error>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What other members have against this node, by their names.
    pub fn refused(&self) -> BTreeMap<String, String> {
        self.refusals().iter().map(|(name, why)| (name.clone(), why.message().to_owned())).collect()
    }

    /// Whether this sender may be listened to. A leader sees to it that its sighting is remembered.
    pub fn admit(self: &Arc<Core>, sender: &Sender) -> Result<()> {
        if self.shared.live().state.roster.is_known(&sender.name, &sender.sighting) {
            return Ok(());
        }
        let term = match self.role() {
            Role::Leader { term } => Some(term),
            _ => None,
        };
        let opening = (number_of(sender.sighting.disk), sender.sighting.boot);
        // Every message comes through here before it counts, so at the first one of an opening this is what earlier ones have had.
        let acknowledged = match term {
            Some(term) if !self.admitted().contains(&opening) => self.acknowledged(term).get(&opening.0).copied().unwrap_or(0),
            _ => 0,
        };
        let live = self.shared.live();
        let roster = &live.state.roster;
        roster.check(&sender.name, &sender.sighting, acknowledged).map_err(|refused| refused.error(&sender.name))?;
        let note = term.is_some() && !roster.has(&sender.name, &sender.sighting);
        drop(live);
        self.admitted().insert(opening);
        if note {
            super::members::note_sighting(self, sender);
        }
        Ok(())
    }

    fn admitted(&self) -> MutexGuard<'_, BTreeSet<(u64, u64)>> {
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What followers have acknowledged, as far as this leader of this term knows.
    pub fn acknowledged(&self, term: u64) -> BTreeMap<u64, u64> {
        let mut kept = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.0 != term {
            *kept = (term, BTreeMap::new());
        }
        if let Ok(raft) = self.raft() {
            let metrics = raft.data_metrics();
            let metrics = metrics.borrow_watched();
            for (number, matched) in metrics.replication.iter().flatten() {
                let end = matched.map_or(0, |m| m.index + 1);
                let known = kept.1.entry(*number).or_default();
                *known = (*known).max(end);
            }
        }
        kept.1.clone()
    }

    /// Ends this node's part for good.
    pub fn end(&self, why: &Error) {
        let first = self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert_with(|| why.clone());
            first
        });
        if first {
            if why.status() != Status::Closed {
                tracing::error!(node = %self.me.name, error = %why, "this node's part in the cluster has ended");
            }
            self.queue.end(why);
            self.shared.observer.ended(why);
        }
    }

    pub fn ended(&self) -> watch::Receiver<Option<Error>> {
        self.ended.subscribe()
    }
}
