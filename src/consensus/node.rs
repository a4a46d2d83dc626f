//! One member, from its opening to its end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use openraft::Instant as _;
use openraft::SnapshotPolicy;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::core::{Core, Options, Role, Server, Transport, now};
use super::log::Log;
use super::machine::{Live, Machine, Observer, Shared};
use super::members;
use super::network::Links;
use super::queue::{Done, unavailable, unreached};
use super::roster::Sighting;
use super::serve;
use super::snapshot;
use super::stamper::Stamper;
use super::types::{Raft, StoredMembership};
use super::wire::{Answer, Ask, Lane, Order};
use crate::base::planted::planted;
use crate::base::{Clock, Error, Result, Status as Code, process};
use crate::ledger::{Ledger, Request};
use crate::store::{LogStore, StateStore};

const READ_PAUSE: Duration = Duration::from_millis(5);

/// A member, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its node id.
    pub name: String,
    /// Where it can be reached.
    pub address: String,
    /// Whether its vote counts. Otherwise it is catching up.
    pub voter: bool,
    /// On the leader: index after the last entry that this member has on disk.
    pub log_end: Option<u64>,
}

/// Where a member stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The leader's node id, if there is one as far as this member knows.
    pub leader: Option<String>,
    /// Whether this member leads.
    pub leads: bool,
    /// The present term.
    pub term: u64,
    /// Index after the last entry of the log.
    pub log_end: u64,
    /// Index after the last entry applied.
    pub applied_end: u64,
    /// Index after the last entry that is only in the snapshot.
    pub purged_end: u64,
    /// Operations that wait to be proposed, and those whose proposal is under way.
    pub pending: (usize, usize),
    /// The members.
    pub members: Vec<MemberStatus>,
    /// What other members have against this one, by their names.
    pub refused: BTreeMap<String, String>,
    /// For each node, one more than the index of the last entry that the cluster remembers it to have.
    pub marked: BTreeMap<String, u64>,
    /// Why this member's part has ended, if it has.
    pub ended: Option<Error>,
}

/// One member of a cluster. Every method may be called from any thread but the consensus thread's own.
pub struct Consensus {
    core: Arc<Core>,
    runtime: Handle,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Consensus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consensus").field("name", &self.core.me.name).finish_non_exhaustive()
    }
}

/// What a member stands on.
pub struct Parts {
    /// Its log.
    pub log: Box<dyn LogStore>,
    /// Its snapshots.
    pub state: Arc<dyn StateStore>,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// Its way to the others.
    pub transport: Arc<dyn Transport>,
    /// Who is told what happens.
    pub observer: Arc<dyn Observer>,
    /// What answers the messages of the others.
    pub server: Server,
}

/// A member that runs in the runtime it was started in.
pub(super) struct Running {
    pub core: Arc<Core>,
    log_thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Opens a member inside a current-thread runtime.
    pub async fn start(options: Options, parts: Parts) -> Result<Running> {
        let (log, log_thread) = Log::open(parts.log, options.inline)?;
        let (base, inline) = (parts.state.clone(), options.inline);
        let live = match snapshot::aside(inline, "tenure-snap-get", move || snapshot::load(base.as_ref())).await? {
            Some((about, state)) => Live { state, seated: about.seated.try_into()?, applied_at: super::core::now() },
            None => Live {
                state: super::change::State::new(options.params),
                seated: StoredMembership::default(),
                applied_at: super::core::now(),
            },
        };
        let (last, settled) = log.ends();
        let last = last.map_or(0, |p| p.index + 1).max(live.state.applied.map_or(0, |p| p.index + 1));
        let settled = settled.map_or(0, |p| p.index + 1).min(last);
        let sighting = Sighting { disk: options.disk, opens: options.opens, boot: options.boot, log_end: last, settled };
        let stamper = Stamper::new(parts.clock, options.boot);
        let shared = Shared::new(live, parts.state, parts.observer, log.clone(), inline);
        let core = Arc::new(Core::new(options, sighting, shared.clone(), parts.transport, stamper));
        let config = config(&core.options)?;
        let raft = Raft::new(core.number, config, Links(core.clone()), log, Machine::new(shared)).await;
        let raft = raft.map_err(serve::fatal)?;
        let weak = Arc::downgrade(&core);
        core.shared.log.on_order(Arc::new(move |batch| {
            if let Some(core) = weak.upgrade() {
                core.queue.ordered(batch);
            }
        }));
        drop(core.raft.set(raft));
        parts.server.bind(&core);
        drop(super::core::spawn(watch(core.clone())));
        drop(super::core::spawn(super::pump::run(core.clone())));
        drop(super::core::spawn(members::introduce(core.clone())));
        drop(super::core::spawn(members::found(core.clone())));
        drop(super::core::spawn(members::mark(core.clone())));
        if !core.raft()?.is_initialized().await.map_err(serve::fatal)? {
            drop(super::core::spawn(members::join(core.clone())));
        }
        Ok(Running { core, log_thread })
    }

    /// Ends it in good order.
    pub async fn stop(self, why: &Error) {
        self.core.end(why);
        if let Some(raft) = self.core.raft.get()
            && let Err(error) = raft.shutdown().await
        {
            tracing::warn!(%error, "consensus did not shut down in good order");
        }
        if let Err(error) = self.core.shared.log.close() {
            tracing::warn!(%error, "the log was not closed in good order");
        }
        if let Some(thread) = self.log_thread {
            drop(thread.join());
        }
    }
}

fn config(options: &Options) -> Result<Arc<openraft::Config>> {
    let ms = |d: Duration| d.as_millis() as u64;
    let timing = options.timing;
    let config = openraft::Config {
        cluster_name: "tenure".to_owned(),
        heartbeat_interval: ms(timing.heartbeat),
        election_timeout_min: ms(timing.election_min),
        election_timeout_max: ms(timing.election_max),
        enable_pre_vote: Some(true),
        // Twice the lease: a follower's lease runs out, and an election has its time, before a leader without majority is heard again.
        quorum_loss_probe_interval: Some(2 * ms(timing.election_max) + ms(timing.heartbeat)),
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: options.keep,
        purge_batch_size: (options.keep / 2).max(1),
        install_snapshot_timeout: 10_000,
        allow_log_reversion: Some(false),
        // A leader that restarts stands for election like everybody else.
        enable_leader_restore: Some(false),
        backoff: "50ms".to_owned(),
        ..openraft::Config::default()
    };
    config.validate().map(Arc::new).map_err(|e| Error::invalid("timing", e))
}

/// Ends the node when openraft has, and has snapshots made when the log has grown.
async fn watch(core: Arc<Core>) {
    let Ok(raft) = core.raft() else { return };
    let mut metrics = raft.metrics();
    let mut ended = core.ended();
    loop {
        core.is_founded();
        let (failed, alone) = {
            let metrics = metrics.borrow_watched();
            let members = metrics.membership_config.membership();
            (metrics.running_state.clone().err(), members.nodes().count() == 1)
        };
        core.shared.log.set_alone(alone);
        if let Some(error) = failed {
            core.end(&serve::fatal(error));
        }
        if ended.borrow_and_update().is_some() {
            return;
        }
        let grown = core.shared.since_snapshot.load(std::sync::atomic::Ordering::Relaxed);
        let enough = core.options.snapshot_after.max(core.shared.snapshot_bytes.load(std::sync::atomic::Ordering::Relaxed));
        if grown >= enough
            && let Err(error) = raft.trigger().snapshot().await
        {
            core.end(&serve::fatal(error));
        }
        tokio::select! {
            biased;
            changed = metrics.changed() => if changed.is_err() {
                core.end(&Error::new(Code::Poisoned, "consensus has ended"));
            },
            _ = ended.changed() => {}
        }
    }
}

impl Consensus {
    /// Opens a member on a thread of its own. `prepare` runs inside the member's runtime, before the first message is sent; it may
    /// correct the options, as with the address at which it has come to listen.
    ///
    /// # Errors
    /// What `prepare` answers, and opening the log, the snapshot or the thread.
    pub fn open<F>(prepare: impl FnOnce() -> F + Send + 'static) -> Result<Consensus>
    where
        F: Future<Output = Result<(Options, Parts)>>,
    {
        let (tell, told) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = process::spawn("tenure-raft", move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().thread_name("tenure-block").build() {
                Ok(runtime) => runtime,
                Err(e) => return drop(tell.send(Err(Error::io("starting the runtime", &e)))),
            };
            runtime.block_on(async {
                let started = match prepare().await {
                    Ok((options, parts)) => Running::start(options, parts).await,
                    Err(error) => Err(error),
                };
                match started {
                    Err(error) => drop(tell.send(Err(error))),
                    Ok(running) => {
                        drop(tell.send(Ok((running.core.clone(), Handle::current()))));
                        // Told to stop, or forgotten.
                        drop(stopped.await);
                        running.stop(&Code::Closed.into()).await;
                    }
                }
            });
            // Dropped here, outside of it, with whatever tasks are left.
            runtime.shutdown_background();
        })?;
        let (core, runtime) = told.recv().unwrap_or_else(|_| Err(Error::new(Code::Panic, "the consensus thread panicked")))?;
        Ok(Consensus { core, runtime, stop: Mutex::new(Some(stop)), thread: Mutex::new(Some(thread)) })
    }

    /// A member that runs in the present runtime, and ends with it.
    #[cfg(test)]
    pub(super) fn inside(core: Arc<Core>) -> Consensus {
        Consensus { core, runtime: Handle::current(), stop: Mutex::default(), thread: Mutex::default() }
    }

    /// Hands an operation in. `done` is called once, at the latest when the node's timeout is over. A wait for a lock is not
    /// waited for: its end is an event.
    pub fn submit(&self, request: Request, done: Done) {
        self.core.queue.submit(request, self.core.options.timeout, false, done);
    }

    /// As [`Consensus::submit`]; a release that will free its lock is answered as soon as the leader has given it its place in the
    /// log, after everything that was answered before and ahead of everything that is submitted later. It is lost if that leader
    /// fails before a majority has it: the caller must look whether the lock has been freed, and if not release it again.
    pub fn submit_early(&self, request: Request, done: Done) {
        self.core.queue.submit(request, self.core.options.timeout, true, done);
    }

    /// Calls `body` on the consensus thread after this time, unless the member ends before.
    pub fn after(&self, time: Duration, body: impl FnOnce() + Send + 'static) {
        drop(super::core::spawn_on(&self.runtime, async move {
            tokio::time::sleep(time).await;
            body();
        }));
    }

    /// Reads the ledger as of now or later: everything that was answered before this call, by any member, is seen.
    ///
    /// # Errors
    /// [`Code::Unavailable`] without a majority; what has ended the node.
    pub fn read<T: Send + 'static>(&self, body: impl FnOnce(&Ledger) -> T + Send + 'static) -> Result<T> {
        let core = self.core.clone();
        self.run(async move {
            linearize(&core).await?;
            Ok(body(&core.shared.live().state.ledger))
        })
    }

    /// Reads what this member has applied so far, which may be old.
    pub fn read_local<T>(&self, body: impl FnOnce(&Ledger) -> T) -> T {
        body(&self.core.shared.live().state.ledger)
    }

    /// How long ago this member applied an entry. What it knows cannot be older than that, but for what was under way to it then.
    pub fn applied_age(&self) -> Duration {
        let at = self.core.shared.live().applied_at;
        super::core::now().saturating_duration_since(at)
    }

    /// Takes a node out of the cluster for good; its data directory is refused from then on.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`] when there is no such member, [`Code::Misuse`] for the last one, [`Code::Unavailable`].
    pub fn remove(&self, name: &str) -> Result<()> {
        self.run(members::order(self.core.clone(), Order::Remove { name: name.to_owned() }))
    }

    /// Hands the leadership to `to`, or to the member that is furthest.
    ///
    /// # Errors
    /// As [`Consensus::remove`].
    pub fn transfer(&self, to: Option<&str>) -> Result<()> {
        self.run(members::order(self.core.clone(), Order::Transfer { to: to.map(str::to_owned) }))
    }

    /// Lets a node of this name in, once, when it shows what this is the digest of.
    ///
    /// # Errors
    /// [`Code::Limit`] when too many tokens are good at once; [`Code::Unavailable`].
    pub fn make_token(&self, hash: [u8; 32], node: &str, ttl: Duration) -> Result<()> {
        let order = Order::MakeToken { hash, node: node.to_owned(), ttl_ms: ttl.as_millis() as u64 };
        self.run(members::order(self.core.clone(), order))
    }

    /// The member, for those who work inside its runtime.
    pub fn access(&self) -> Access {
        Access(Arc::downgrade(&self.core))
    }

    /// Where this member stands.
    pub fn status(&self) -> Status {
        status(&self.core)
    }

    fn run<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let (tell, told) = mpsc::sync_channel(1);
        drop(super::core::spawn_on(&self.runtime, async move { drop(tell.send(work.await)) }));
        // When the runtime ends, so does the task, and with it the other end.
        told.recv().unwrap_or_else(|_| Err(Code::Closed.into()))
    }

    /// Ends the member; pending operations are answered with [`Code::Closed`].
    pub fn close(&self) {
        let stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(stop) = stop {
            // A thread that has gone needs no telling.
            let _ = stop.send(());
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            drop(thread.join());
        }
    }
}

/// A member, from inside its own runtime, for as long as it is there. Clones are the same member.
#[derive(Clone)]
pub struct Access(Weak<Core>);

impl Access {
    pub(super) fn core(&self) -> Result<Arc<Core>> {
        self.0.upgrade().ok_or_else(|| Code::Closed.into())
    }

    /// Ends the member's part, as a failure does.
    #[cfg(test)]
    pub(crate) fn end(&self, why: &Error) {
        if let Ok(core) = self.core() {
            core.end(why);
        }
    }

    /// As [`Consensus::submit_early`]; answered after `limit` at the latest, and no later than the member answers its own.
    pub fn submit_early(&self, request: Request, limit: Duration, done: Done) {
        match self.core() {
            Ok(core) => core.queue.submit(request, limit.min(core.options.timeout), true, done),
            Err(error) => done(Err(error)),
        }
    }

    /// As [`Consensus::read`].
    ///
    /// # Errors
    /// As [`Consensus::read`].
    pub async fn read<T>(&self, body: impl FnOnce(&Ledger) -> T) -> Result<T> {
        let core = self.core()?;
        linearize(&core).await?;
        Ok(body(&core.shared.live().state.ledger))
    }

    /// As [`Consensus::read_local`].
    ///
    /// # Errors
    /// [`Code::Closed`].
    pub fn read_local<T>(&self, body: impl FnOnce(&Ledger) -> T) -> Result<T> {
        Ok(body(&self.core()?.shared.live().state.ledger))
    }

    /// As [`Consensus::applied_age`].
    ///
    /// # Errors
    /// [`Code::Closed`].
    pub fn applied_age(&self) -> Result<Duration> {
        let at = self.core()?.shared.live().applied_at;
        Ok(super::core::now().saturating_duration_since(at))
    }

    /// As [`Consensus::remove`].
    ///
    /// # Errors
    /// As [`Consensus::remove`].
    pub async fn remove(&self, name: String) -> Result<()> {
        members::order(self.core()?, Order::Remove { name }).await
    }

    /// As [`Consensus::transfer`].
    ///
    /// # Errors
    /// As [`Consensus::transfer`].
    pub async fn transfer(&self, to: Option<String>) -> Result<()> {
        members::order(self.core()?, Order::Transfer { to }).await
    }

    /// As [`Consensus::make_token`].
    ///
    /// # Errors
    /// As [`Consensus::make_token`].
    pub async fn make_token(&self, hash: [u8; 32], node: String, ttl_ms: u64) -> Result<()> {
        members::order(self.core()?, Order::MakeToken { hash, node, ttl_ms }).await
    }

    /// Where this member stands.
    ///
    /// # Errors
    /// [`Code::Closed`].
    pub fn status(&self) -> Result<Status> {
        Ok(status(&*self.core()?))
    }

    /// Where the leader can be reached, where that is another member and known.
    pub fn leader(&self) -> Option<String> {
        let core = self.core().ok()?;
        match core.role() {
            Role::Follower { leader } => core.member(leader).map(|m| m.address),
            Role::Leader { .. } | Role::Lost => None,
        }
    }
}

impl Drop for Consensus {
    fn drop(&mut self) {
        self.close();
    }
}

/// Waits until this member has applied everything that was answered before the call.
pub(super) async fn linearize(core: &Arc<Core>) -> Result<()> {
    if planted!("stale-read") {
        return Ok(());
    }
    let deadline = now() + core.options.timeout;
    loop {
        let raft = core.raft()?;
        let from = match core.role() {
            Role::Leader { .. } => serve::read_index(core).await,
            Role::Follower { leader } => match core.member(leader) {
                Some(member) => match core.ask(&member, Lane::Client, &Ask::ReadIndex, &[], core.options.timeout).await {
                    Ok(Answer::ReadFrom(index)) => Ok(index),
                    Ok(_) => Err(unavailable("the leader has changed")),
                    Err(error) => Err(error),
                },
                None => Err(unavailable("the leader is not known")),
            },
            Role::Lost => Err(unavailable("there is no leader")),
        };
        let left = deadline.saturating_duration_since(now());
        match from {
            Ok(index) => {
                if core.shared.live().state.applied.is_some_and(|a| a.index >= index) {
                    return Ok(());
                }
                let waited = raft.wait(Some(left)).applied_index_at_least(Some(index), "read").await;
                return waited.map(drop).map_err(|e| unavailable(e.to_string()));
            }
            Err(error) if left.is_zero() => return Err(unreached(error)),
            Err(_) => tokio::time::sleep(READ_PAUSE.min(left)).await,
        }
    }
}

pub(super) fn status(core: &Core) -> Status {
    let pending = core.queue.counts();
    let ended = core.ended().borrow().clone();
    let live = core.shared.live();
    let (applied_end, marked) = (live.state.applied.map_or(0, |p| p.index + 1), live.state.roster.marks());
    drop(live);
    let (members, refused) = (Vec::new(), core.refused());
    let mut status =
        Status { leader: None, leads: false, term: 0, log_end: 0, applied_end, purged_end: 0, pending, members, refused, marked, ended };
    let Some(raft) = core.raft.get() else { return status };
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    let voters: Vec<u64> = membership.voter_ids().collect();
    // A leader that no majority answers keeps its state in openraft, takes nothing more, and cannot know whether it was replaced.
    let lease = core.options.timing.election_max + core.options.timing.heartbeat;
    let heard = voters.len() == 1 || metrics.last_quorum_acked.is_some_and(|at| at.elapsed() < lease);
    status.leads = metrics.state.is_leader() && heard;
    let leader = metrics.current_leader.filter(|n| status.leads || *n != core.number);
    status.leader = leader.and_then(|n| membership.get_node(&n)).map(|m| m.name.clone());
    status.term = metrics.current_term;
    status.log_end = metrics.last_log_index.map_or(0, |i| i + 1);
    status.purged_end = metrics.purged.map_or(0, |p| p.index + 1);
    let matched = metrics.replication.as_ref();
    status.members = membership
        .nodes()
        .map(|(number, m)| MemberStatus {
            name: m.name.clone(),
            address: m.address.clone(),
            voter: voters.contains(number),
            log_end: matched.and_then(|r| r.get(number).copied().flatten()).map(|p| p.index + 1),
        })
        .collect();
    status
}
