//! The engine of a cluster member: an operation runs when a majority of members has it on disk.
//!
//! Any member takes operations. A wait for a lock is kept here, on the member that was asked, and ends with the event that this
//! member sees in its own copy of the ledger, or with the answer of the operation itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak, mpsc};
use std::time::Duration;

use tokio::time::Instant;

use crate::base::planted::planted;
use crate::base::{Clock, Error, Key, NodeId, Result, Rng, SessionId, Status, SystemRng, Token};
use crate::consensus::{self, Bounds, Consensus, Introduction, Links, Observer, Options, Parts, Server, Timing};
use crate::ledger::{
    Counts, Event, Held, Ledger, LockInfo, Op, Outcome, Params, Pattern, PromiseInfo, Request, SessionInfo, Spec, WatchStart, orch,
};
use crate::net::{NetStatus, Security};
use crate::store::disk::Disk;
use crate::store::{DataDir, Owner, RedbState, StateStore, Wal};

use super::clients::Clients;
use super::delivery::Delivery;
use super::{Completion, EventSink, Local, OpId, Watch};

/// Most bytes of log after which a snapshot is made: no more than stays in memory, so that it need not be read again.
const SNAPSHOT_AFTER: u64 = 8 << 20;
/// Entries of the log that a snapshot leaves there.
const KEEP: u64 = 512;

/// An answered release is looked after when it is this old: by then it is applied unless a leader has failed.
const SETTLE: Duration = Duration::from_millis(400);
/// Most releases that are looked at in one go.
const SETTLE_AT_ONCE: usize = 4096;

/// Under which name the cluster's identity is kept in the data directory.
const LINEAGE: &str = "cluster.lineage";

/// What a member is told when it is opened.
pub struct RaftOptions {
    /// Its data directory.
    pub data_dir: std::path::PathBuf,
    /// Whether the data directory may be made.
    pub create: bool,
    /// The cluster's name.
    pub cluster: String,
    /// Its name.
    pub node: NodeId,
    /// Where it listens.
    pub listen: String,
    /// Where the others reach it; empty for where it listens.
    pub advertise: String,
    /// Names and addresses of the nodes that found the cluster together, this one included. Empty when it joins one.
    pub founders: Vec<(String, String)>,
    /// Addresses of members that a new node asks to be let in.
    pub seeds: Vec<String>,
    /// What it shows to be let in.
    pub join_token: Option<String>,
    /// Whether a cluster that it founds lets nodes in by tokens only.
    pub tokens_required: bool,
    /// How its messages are protected.
    pub security: Security,
    /// The ledger's parameters, the same on all founders.
    pub params: Params,
    /// How long elections take.
    pub timing: Timing,
    /// Within this an operation is answered, whatever happens.
    pub timeout: Duration,
    /// Bytes of one segment of the log.
    pub segment_bytes: u64,
    /// Bytes of log after which a snapshot is made, if that is less than what a member does by itself.
    pub snapshot_bytes: u64,
}

/// What is shared with the consensus thread.
struct Front {
    delivery: Delivery,
    state: Arc<RedbState>,
    clients: Arc<Clients>,
    ended: Mutex<Option<Error>>,
    /// Grants whose release was answered, perhaps before it was durable, and when to look whether they are gone.
    released: Mutex<ToLookAt>,
}

#[derive(Default)]
struct ToLookAt {
    /// By time.
    grants: VecDeque<Released>,
    /// Whether somebody will look.
    armed: bool,
}

struct Released {
    look: Instant,
    session: SessionId,
    key: Key,
    token: Token,
}

impl Front {
    fn new(sink: Arc<dyn EventSink>, state: &Arc<RedbState>) -> (Arc<Clients>, Arc<Front>) {
        let clients = Arc::new(Clients::default());
        let front = Front {
            delivery: Delivery::new(sink),
            state: state.clone(),
            clients: clients.clone(),
            ended: Mutex::default(),
            released: Mutex::default(),
        };
        (clients, Arc::new(front))
    }

    fn ended(&self) -> Option<Error> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn answer(&self, op: OpId, answer: Result<Outcome>) {
        self.delivery.answer(op, answer);
        self.delivery.deliver();
    }
}

impl Observer for Front {
    fn events(&self, events: &mut Vec<Event>) {
        self.clients.tell(events);
        self.delivery.post(std::mem::take(events));
        self.delivery.deliver();
    }

    fn founded(&self, lineage: u128) {
        // Kept besides the log, which says so only once a majority is there: two clusters of one name shall not meet meanwhile.
        let known = lineage.to_le_bytes();
        let kept = match self.state.get_meta(LINEAGE) {
            Ok(Some(before)) if before == known => Ok(()),
            _ => self.state.put_meta(LINEAGE, &known),
        };
        if let Err(error) = kept {
            tracing::error!(%error, "the cluster's identity is not kept in the data directory");
        }
    }

    fn skipped(&self, start: &dyn Fn(&Pattern) -> WatchStart) {
        self.clients.skipped();
        self.delivery.watches().restart(start);
        let why = "this member fell behind and may have missed how the wait ended";
        self.delivery.fail(&Error::new(Status::Unavailable, why));
        self.delivery.deliver();
    }

    fn ended(&self, why: &Error) {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| why.clone());
        self.delivery.end(why);
        self.delivery.deliver();
        if why.status() != Status::Closed {
            self.delivery.sink().ended(why);
        }
    }
}

/// One member of a cluster. Every method may be called from any thread but those on which completions and events are called.
pub struct RaftEngine {
    consensus: Arc<Consensus>,
    front: Arc<Front>,
    timeout: Duration,
    state: Arc<RedbState>,
    cluster: String,
    links: Arc<OnceLock<Arc<Links>>>,
    /// Open, and so nobody else's, for as long as the engine is there. A simulation has none.
    _dir: Option<DataDir>,
}

impl std::fmt::Debug for RaftEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftEngine").field("consensus", &self.consensus).finish_non_exhaustive()
    }
}

pub(super) fn waits(request: &Request) -> Option<(OpId, u64)> {
    match &request.op {
        Op::Acquire { wait_ms: Some(wait), req, .. } | Op::AcquireAll { wait_ms: Some(wait), req, .. } => {
            Some((OpId { session: request.session, req: *req }, *wait))
        }
        _ => None,
    }
}

/// Remembers a release, and has somebody look after it.
fn settle_later(front: &Arc<Front>, consensus: &Weak<Consensus>, released: Released) {
    let look = released.look;
    let armed = {
        let mut waiting = front.released.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.grants.push_back(released);
        std::mem::replace(&mut waiting.armed, true)
    };
    if !armed {
        look_at(front, consensus, look);
    }
}

fn look_at(front: &Arc<Front>, consensus: &Weak<Consensus>, time: Instant) {
    if let Some(running) = consensus.upgrade() {
        let (front, consensus) = (front.clone(), consensus.clone());
        running.after(time.saturating_duration_since(Instant::now()), move || settle(&front, &consensus));
    }
}

#[cfg(test)]
impl RaftEngine {
    /// As if a release of this grant had been answered and then lost.
    pub(super) fn forget_release(&self, session: SessionId, key: &Key, token: Token) {
        let released = Released { look: Instant::now(), session, key: key.clone(), token };
        settle_later(&self.front, &Arc::downgrade(&self.consensus), released);
    }

    /// Whether all releases that were due at this time have been looked at.
    pub(super) fn has_looked(&self, at: Instant) -> bool {
        self.front.released.lock().unwrap_or_else(PoisonError::into_inner).grants.iter().all(|r| r.look > at)
    }
}

/// Looks at the releases whose time has come, and makes those again that were lost.
fn settle(front: &Arc<Front>, consensus: &Weak<Consensus>) {
    let Some(running) = consensus.upgrade() else { return };
    let due: Vec<Released> = {
        let mut waiting = front.released.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let due = waiting.grants.iter().take(SETTLE_AT_ONCE).take_while(|r| r.look <= now).count();
        waiting.grants.drain(..due).collect()
    };
    // A grant that this member has not applied yet may be held as soon as it has, with its release lost: there was a leader who had told of it.
    let (known, unknown): (Vec<_>, Vec<_>) = running.read_local(|ledger| {
        let last = ledger.last_token();
        due.into_iter().partition(|r| r.token <= last || planted!("unapplied-release-dropped"))
    });
    for released in unknown {
        settle_later(front, consensus, Released { look: Instant::now() + SETTLE, ..released });
    }
    let held = running.read_local(|ledger| known.into_iter().filter(|r| ledger.frees(&r.key, r.session, r.token)).collect::<Vec<_>>());
    for released in held {
        let request = Request { session: released.session, seq: 0, op: Op::Release { key: released.key.clone(), token: released.token } };
        let (front, consensus) = (front.clone(), consensus.clone());
        // Without a majority it is tried until there is one.
        let again = Box::new(move |answer: Result<Outcome>| {
            if answer.is_err_and(|e| e.status() == Status::Unavailable) {
                settle_later(&front, &consensus, Released { look: Instant::now() + SETTLE, ..released });
            }
        });
        running.submit(request, again);
    }
    let next = {
        let mut waiting = front.released.lock().unwrap_or_else(PoisonError::into_inner);
        let next = waiting.grants.front().map(|r| r.look);
        waiting.armed = next.is_some();
        next
    };
    if let Some(look) = next {
        look_at(front, consensus, look);
    }
}

impl RaftEngine {
    /// Opens a member: its data directory, its log, its snapshots, its part in the network.
    ///
    /// # Errors
    /// As [`DataDir::open`]; [`Status::Io`] for an address at which nobody can listen.
    pub fn open(options: RaftOptions, clock: Arc<dyn Clock>, sink: Arc<dyn EventSink>) -> Result<RaftEngine> {
        let mut rng = SystemRng::new()?;
        let owner = Owner { cluster_id: &options.cluster, node_id: Some(&options.node), create: options.create };
        let segment = options.segment_bytes;
        let mut fill = |disk: &Arc<dyn Disk>, disk_id: u128| {
            drop(Wal::create(disk.clone(), disk_id, segment, Box::new(SystemRng::new()?))?);
            drop(RedbState::create(disk.as_ref(), disk_id)?);
            Ok(())
        };
        let dir = DataDir::open(&options.data_dir, &owner, &mut rng, &mut fill)?;
        let identity = dir.identity().clone();
        let (log, recovery) = Wal::open(dir.disk().clone(), identity.disk_id, segment, Box::new(SystemRng::new()?))?;
        if !recovery.clean {
            tracing::info!(node = %options.node, "the log was not closed in good order; its last write may be gone");
        }
        let state = Arc::new(RedbState::open(dir.disk().as_ref(), identity.disk_id, !recovery.clean)?);
        let kept = state.clone();
        let (clients, front) = Front::new(sink, &state);
        let served: Arc<dyn crate::net::Service> = Arc::new(clients.clone());
        let lineage = match state.get_meta(LINEAGE)?.map(<[u8; 16]>::try_from) {
            None => 0,
            Some(Ok(bytes)) => u128::from_le_bytes(bytes),
            Some(Err(_)) => return Err(Error::new(Status::DataCorrupt, "the cluster's identity kept in the data directory is no number")),
        };
        let (cluster, links) = (options.cluster.clone(), Arc::new(OnceLock::new()));
        let opened = links.clone();
        let (boot, timeout, observer) = (rng.next_u128() | 1, options.timeout, front.clone());
        let consensus = Consensus::open(move || async move {
            let who = Introduction { cluster: options.cluster, name: options.node.clone(), disk: identity.disk_id, boot, lineage };
            let transport = Arc::new(crate::net::Tcp(crate::net::TcpOptions::default()));
            let server = Server::default();
            let links = Links::open(who, &options.listen, transport, options.security, Box::new(SystemRng::new()?), server.clone(), served);
            let (links, bound) = links.await?;
            let links = Arc::new(links);
            drop(opened.set(links.clone()));
            let address = if options.advertise.is_empty() { bound } else { options.advertise };
            let options = Options {
                name: options.node.as_str().to_owned(),
                address,
                disk: identity.disk_id,
                opens: identity.opens,
                boot: boot as u64,
                founders: options.founders,
                seeds: options.seeds,
                join_token: options.join_token.as_deref().map(consensus::token_digest),
                tokens_required: options.tokens_required,
                params: options.params,
                timing: options.timing,
                timeout: options.timeout,
                bounds: Bounds::default(),
                snapshot_after: SNAPSHOT_AFTER.min(options.snapshot_bytes),
                keep: KEEP,
                inline: false,
            };
            Ok((options, Parts { log: Box::new(log), state, clock, transport: links, observer, server }))
        })?;
        Ok(RaftEngine::over(consensus, (clients, front), timeout, kept, cluster, links, Some(dir)))
    }

    fn over(
        consensus: Consensus,
        (clients, front): (Arc<Clients>, Arc<Front>),
        timeout: Duration,
        state: Arc<RedbState>,
        cluster: String,
        links: Arc<OnceLock<Arc<Links>>>,
        dir: Option<DataDir>,
    ) -> RaftEngine {
        consensus.read_local(|ledger| front.delivery.watches().connect(ledger.watched()));
        clients.bind(consensus.access(), front.delivery.watches().clone());
        RaftEngine { consensus: Arc::new(consensus), front, timeout, state, cluster, links, _dir: dir }
    }

    /// A member in the runtime of a simulation, over what that has for a disk and a network.
    #[cfg(test)]
    pub(crate) async fn open_here(
        options: Options,
        (log, state): (Wal, RedbState),
        clock: Arc<dyn Clock>,
        transport: Arc<dyn consensus::Transport>,
        server: Server,
        sink: Arc<dyn EventSink>,
    ) -> Result<RaftEngine> {
        let state = Arc::new(state);
        let (clients, front) = Front::new(sink, &state);
        let (timeout, observer) = (options.timeout, front.clone());
        let parts = Parts { log: Box::new(log), state: state.clone(), clock, transport, observer, server };
        let consensus = Consensus::open_here(options, parts).await?;
        Ok(RaftEngine::over(consensus, (clients, front), timeout, state, "sim".to_owned(), Arc::default(), None))
    }

    /// The member itself: where it stands, and who belongs to the cluster.
    pub fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    /// Snapshots and small values in the data directory.
    pub fn state(&self) -> &Arc<RedbState> {
        &self.state
    }

    /// Runs an operation without blocking; `done` is called once, when it is answered or when the wait for a lock ends.
    pub fn submit(&self, request: &Request, done: Completion) {
        let Some((op, wait_ms)) = waits(request) else {
            return match &request.op {
                // A request with a number is repeated by somebody else, who may die without seeing to it.
                Op::Release { key, token } if request.seq == 0 => self.release_early(request, key.clone(), *token, done),
                _ => self.consensus.submit(request.clone(), done),
            };
        };
        // Parked before anything can end the wait: the event may be here before the answer is.
        self.front.delivery.park(op, done);
        if let Some(why) = self.front.ended() {
            return self.front.answer(op, Err(why));
        }
        let front = self.front.clone();
        self.consensus.submit(
            request.clone(),
            Box::new(move |answer| {
                if !matches!(answer, Ok(Outcome::Queued { .. })) {
                    front.answer(op, answer);
                }
            }),
        );
        if wait_ms != u64::MAX {
            let front = self.front.clone();
            let late = Error::new(Status::Unavailable, "the cluster has not said in time how the wait ended");
            let limit = Duration::from_millis(wait_ms).saturating_add(self.timeout);
            self.consensus.after(limit, move || front.answer(op, Err(late)));
        }
    }

    /// Releases a lock of a session of this process. The answer may come before a majority has it on disk: should the leader fail
    /// just then, this member notices that the lock is still held, and releases it again. Should this process end too, so does the
    /// session.
    fn release_early(&self, request: &Request, key: Key, token: Token, done: Completion) {
        let (front, consensus, session) = (self.front.clone(), Arc::downgrade(&self.consensus), request.session);
        self.consensus.submit_early(
            request.clone(),
            Box::new(move |answer| {
                if matches!(answer, Ok(Outcome::Released { left: 0 })) {
                    settle_later(&front, &consensus, Released { look: Instant::now() + SETTLE, session, key, token });
                }
                done(answer);
            }),
        );
    }

    /// Runs an operation and, if it has to wait for a lock, blocks until the wait ends.
    ///
    /// # Errors
    /// [`Status::Unavailable`] without a majority; what has ended the member. Everything else is in the outcome.
    pub fn execute(&self, request: &Request) -> Result<Outcome> {
        let (tell, told) = mpsc::sync_channel(1);
        self.submit(request, Box::new(move |answer| drop(tell.send(answer))));
        told.recv().unwrap_or_else(|_| Err(self.front.ended().unwrap_or_else(|| Status::Closed.into())))
    }

    /// Takes a lock if it is free. `req` is the caller's number for the request.
    ///
    /// # Errors
    /// As [`RaftEngine::execute`].
    pub fn try_acquire(&self, session: SessionId, key: &Key, spec: &Spec, req: u64) -> Result<Outcome> {
        let op = Op::Acquire { key: key.clone(), spec: spec.clone(), wait_ms: None, req };
        self.execute(&Request { session, seq: 0, op })
    }

    /// Gives a lock back.
    ///
    /// # Errors
    /// As [`RaftEngine::execute`].
    pub fn release(&self, session: SessionId, key: &Key, token: Token) -> Result<Outcome> {
        self.execute(&Request { session, seq: 0, op: Op::Release { key: key.clone(), token } })
    }

    /// Nothing to do: the leader moves the clock.
    ///
    /// # Errors
    /// What has ended the member.
    pub fn tick(&self) -> Result<()> {
        self.front.ended().map_or(Ok(()), Err)
    }

    /// Ends every wait and the member's part in the cluster, in good order.
    pub fn close(&self) {
        self.consensus.close();
    }

    fn read<T: Send + 'static>(&self, body: impl FnOnce(&Ledger) -> T + Send + 'static) -> Result<T> {
        self.consensus.read(body)
    }

    /// A lock and everybody around it, as of this call or later.
    ///
    /// # Errors
    /// As [`RaftEngine::execute`].
    pub fn lock(&self, key: &Key) -> Result<Option<LockInfo>> {
        let key = key.clone();
        self.read(move |ledger| ledger.lock(&key))
    }

    /// The locks whose names begin with `prefix` and come after `after`, in order of bytes: from the first `limit` names in use.
    ///
    /// # Errors
    /// As [`RaftEngine::execute`].
    pub fn locks(&self, prefix: &[u8], after: Option<&Key>, limit: usize) -> Result<Vec<LockInfo>> {
        let (prefix, after) = (prefix.to_vec(), after.cloned());
        self.read(move |ledger| ledger.locks(&prefix, after.as_ref(), limit))
    }

    /// The offices whose names begin with `prefix` and what was promised to their holders, by name, at most `limit` of them.
    ///
    /// # Errors
    /// As [`RaftEngine::execute`].
    pub fn promises(&self, prefix: &[u8], limit: usize) -> Result<Vec<PromiseInfo>> {
        let prefix = prefix.to_vec();
        self.read(move |ledger| ledger.promises(&prefix, limit))
    }

    /// What this member knows of a lock: it may be old.
    ///
    /// # Errors
    /// What has ended the member.
    pub fn lock_local(&self, key: &Key) -> Result<Local<Option<LockInfo>>> {
        self.tick()?;
        let (applied, value) = self.consensus.read_local(|ledger| (ledger.applied().index, ledger.lock(key)));
        Ok(Local { value, applied, age: self.consensus.applied_age() })
    }

    /// Watches the holders of a key, or of all keys of a prefix, as this member comes to know of them.
    ///
    /// # Errors
    /// What has ended the member.
    pub fn watch(&self, pattern: Pattern) -> Result<Watch> {
        self.tick()?;
        let watches = self.front.delivery.watches();
        watches.open(pattern, |pattern| Ok(self.consensus.read_local(|ledger| ledger.watch_start(pattern))))
    }

    /// What a session holds, by token.
    ///
    /// # Errors
    /// As [`RaftEngine::execute`].
    pub fn held_by(&self, session: SessionId) -> Result<Vec<Held>> {
        self.read(move |ledger| ledger.held_by(session))
    }

    /// The living sessions, by number.
    ///
    /// # Errors
    /// As [`RaftEngine::execute`].
    pub fn sessions(&self) -> Result<Vec<SessionInfo>> {
        self.read(Ledger::sessions)
    }

    /// Looks at the orchestrator's part of what this member has applied so far; `look` is also given the ledger's clock.
    ///
    /// # Errors
    /// None.
    pub fn orch<R: Send + 'static>(&self, look: impl FnOnce(&orch::State, u64) -> R + Send + 'static) -> Result<R> {
        Ok(self.consensus.read_local(move |ledger| ledger.orch(|state| look(state, ledger.clock_ms()))))
    }

    /// Answers a question about the orchestrator, as of this call or later.
    ///
    /// # Errors
    /// As [`RaftEngine::execute`].
    pub fn ask(&self, query: &orch::OrchQuery) -> Result<serde_json::Value> {
        let query = query.clone();
        self.read(move |ledger| ledger.ask(&query))
    }

    /// Counts, of what this member has applied so far: answered without a majority too.
    ///
    /// # Errors
    /// None.
    pub fn counts(&self) -> Result<Counts> {
        Ok(self.consensus.read_local(Ledger::counts))
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The member's network.
    pub fn net(&self) -> Option<NetStatus> {
        self.links.get().map(|links| links.status())
    }

    /// Where the member stands.
    pub fn status(&self) -> consensus::Status {
        self.consensus.status()
    }
}
