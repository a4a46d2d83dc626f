//! A node: the library as its host sees it.
//!
//! [`Node::open`] assembles a ledger in memory or on disk, an engine over it, and a thread that looks after
//! leases. [`Session`] holds locks, [`Gate`] answers "do I still hold office?".

mod answer;
mod assemble;
mod clocks;
mod cluster;
mod core;
mod delivery;
mod doubt;
mod election;
mod event;
mod eventfd;
mod gate;
mod gate_state;
mod grant;
mod granter;
mod grants;
mod keeper;
mod kept;
mod member;
mod office;
mod options;
pub mod orchestrator;
mod queue;
#[cfg(test)]
mod queue_model_test;
mod session;
mod simulation;
mod status;
mod verbs;
mod wake;
mod watch;
mod watchdog;

/// The locks of `queue`, which has others under the model checker.
mod sync {
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
}

pub use crate::consensus::record_level;
pub use crate::ledger::WHY_MAX;
pub use clocks::ClockStatus;
pub use cluster::{JOIN_TOKEN_TTL_MAX, JOIN_TOKEN_TTL_MIN};
pub use delivery::{Listener, in_callback};
pub use election::{Election, Leader, Leadership};
pub use event::{Event, LossReason};
pub use gate::Gate;
pub use grant::Grant;
pub use granter::{Granter, Order, Promise};
pub use options::{
    Contenders, Holder, LOCK_DELAY_MAX, LocalHolder, LockInfo, LockMode, LockOptions, METADATA_MAX, Renew, TTL_MAX, TTL_MIN, Waiter,
};
pub use session::{OpId, Session};
pub use simulation::Simulation;
pub use status::{ClusterStatus, LockServiceStatus, LogStatus, Member, NodeStatus, PendingStatus};
pub use watch::{Watch, WatchEvent, WatchListener, WatchedHolder};

use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use self::assemble::Heritage;
use self::clocks::ClockWatch;
use self::core::{Core, Parts, Sink};
use self::delivery::{Delivery, Mode, check_may_block};
use self::wake::Wake;
use crate::base::key::KEY_MAX;
use crate::base::process;
use crate::base::{Clock, Config, Error, Key, NodeId, Result, Rng, Status, SystemClock, SystemRng};
use crate::ledger::Pattern;
use crate::plug::LockService;

/// What a node takes from its surroundings; for simulations and virtual time.
pub struct Env {
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Randomness for nonces and names.
    pub rng: Box<dyn Rng>,
    /// No thread of its own: the caller moves it with [`Node::step`].
    pub manual: bool,
}

impl Env {
    /// The operating system's clocks and randomness.
    ///
    /// # Errors
    /// [`Status::Io`] when the system gives no randomness.
    pub fn system() -> Result<Env> {
        Ok(Env { clock: Arc::new(SystemClock), rng: Box::new(SystemRng::new()?), manual: false })
    }
}

/// A running node. Clones are the same node; any thread may use it. Dropping the last clone closes it
/// as [`Node::close`] does, waiting for at most a second.
#[derive(Clone)]
pub struct Node(Arc<Handle>);

struct Handle {
    core: Arc<Core>,
    session: Session,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("id", &self.0.core.id).finish_non_exhaustive()
    }
}

/// How long the last handle waits, when it is dropped without a close, for the end of its sessions to be recorded.
const DROP_TIMEOUT: Duration = Duration::from_secs(1);

impl Handle {
    fn close(&self, timeout: Duration) -> Result<()> {
        let core = &self.core;
        core.close_gates();
        let recorded = core.check().is_err() || end_sessions(core, timeout);
        let first = core.begin_close();
        core.wake.stop();
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(keeper) = keeper
            && keeper.join().is_err()
        {
            tracing::error!("the keeper thread panicked");
        }
        if first {
            core.engine.close();
            core.delivery.close();
        }
        if recorded { Ok(()) } else { Err(Error::new(Status::Timeout, "the end of the sessions was not recorded in time")) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.core.forked() {
            // The child has neither the threads nor a right to the parent's locks.
            return;
        }
        if in_callback() {
            // Not waited for on a thread that others may be waiting for; locks run out by themselves.
            self.core.close_gates();
            self.core.begin_close();
            self.core.wake.stop();
        } else if let Err(error) = self.close(DROP_TIMEOUT) {
            tracing::warn!(node = %self.core.id, %error, "closing a dropped node");
        }
    }
}

impl Node {
    /// Opens a node: in memory without a `data_dir`, else durable in that directory, else, with `listen` and `peers` or `seeds`, a
    /// member of a cluster.
    ///
    /// A member is open once it runs and listens; it does not wait for the others, see [`Node::wait_ready`]. Until a majority is
    /// there calls wait for at most `request_timeout_ms` and then answer [`Status::Unavailable`].
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] for settings that contradict each other, the `Data...` statuses for a directory that is
    /// refused (the message names the file), [`Status::Io`].
    pub fn open(config: &Config) -> Result<Node> {
        Node::open_with(config, Env::system()?)
    }

    /// As [`Node::open`], in other surroundings.
    ///
    /// # Errors
    /// As [`Node::open`].
    pub fn open_with(config: &Config, env: Env) -> Result<Node> {
        Node::open_in(config, env, None)
    }

    /// Opens a node over a lock service of the host's, under the name by which the service knows it. `docs/plug-ins.md` says what each
    /// capability of the service is good for. The service is dropped when the node is closed and the last call of it has returned.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] for a `data_dir`, another `node_id` than the service's, or capabilities that contradict each other;
    /// what the service says.
    pub fn open_with_service(config: &Config, service: Arc<dyn LockService>) -> Result<Node> {
        Node::open_in(config, Env::system()?, Some(service))
    }

    fn open_in(config: &Config, env: Env, service: Option<Arc<dyn LockService>>) -> Result<Node> {
        Node::open_by(config, env, |env, sink| {
            let named = match config.get("node_id")? {
                "" => None,
                name => Some(NodeId::new(name)?),
            };
            let service = match (service, assemble::named_service(config, env)?) {
                (Some(_), Some(_)) => return Err(Error::invalid("etcd", "the node is given a lock service already")),
                (given, named) => given.or(named),
            };
            match service {
                Some(service) => assemble::plugged(service, config, named, env, sink),
                None => assemble::engine(config, named, env, sink),
            }
        })
    }

    /// A node over an engine that a simulation has made.
    #[cfg(test)]
    pub(crate) fn open_over(
        config: &Config,
        env: Env,
        make: impl FnOnce(Arc<dyn crate::engine::EventSink>) -> Result<(crate::engine::Engine, NodeId)>,
    ) -> Result<Node> {
        Node::open_by(config, env, |_, sink| make(sink))
    }

    fn open_by(
        config: &Config,
        mut env: Env,
        make: impl FnOnce(&mut Env, Arc<Sink>) -> Result<(crate::engine::Engine, NodeId)>,
    ) -> Result<Node> {
        process::watch_forks();
        let mode = if config.get("delivery")? == "fd" { Mode::Fd } else { Mode::Thread };
        let delivery = Delivery::new(mode)?;
        let wake = Arc::new(Wake::default());
        let sink = Arc::new(Sink::new(wake.clone()));
        let (engine, id) = make(&mut env, sink.clone())?;
        let epochs = assemble::epochs(&engine);
        let (heritage, secrets) = assemble::heritage(config, &engine)?;
        let before = secrets.as_ref().map_or(Ok(None), assemble::Secrets::get)?;
        let watch = ClockWatch::new(config, &epochs)?;
        let parts = Parts { id, config: config.clone(), clock: env.clock, rng: env.rng, delivery, engine, epochs, secrets, wake, watch };
        let core = Arc::new(Core::new(parts));
        sink.connect(&core);
        let ttl_ms = u32::try_from(config.number("session_ttl_ms")?).map_err(|_| Error::invalid("session_ttl_ms", "too long"))?;
        let session = own_session(&core, ttl_ms, before.map(|old| (old, heritage == Heritage::Keep)))?;
        let keeper = if env.manual {
            None
        } else {
            let (weak, wake) = (Arc::downgrade(&core), core.wake.clone());
            Some(process::spawn("tenure-keep", move || keeper::run(&weak, &wake))?)
        };
        Ok(Node(Arc::new(Handle { core, session, keeper: Mutex::new(keeper) })))
    }

    /// This node's name.
    pub fn id(&self) -> &NodeId {
        &self.0.core.id
    }

    /// The node's own session, under which it holds its locks.
    pub fn session(&self) -> Session {
        self.0.session.clone()
    }

    /// Waits until the node can be used, at most `timeout`: for a member of a cluster, until a majority is there and its session is
    /// open. Any other node can be used from its opening on.
    ///
    /// # Errors
    /// [`Status::Timeout`]; [`Status::WouldDeadlock`] inside a callback; [`Status::Poisoned`] when the cluster has refused this node:
    /// the message says why.
    pub fn wait_ready(&self, timeout: Duration) -> Result<()> {
        check_may_block()?;
        if self.0.session.state.wait_open(&self.0.core, timeout)? {
            return Ok(());
        }
        Err(Error::new(Status::Timeout, "no majority of the cluster was there in time"))
    }

    /// Opens another session: another identity in this process, which the node renews like its own.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] for the name (that of a node id) or the ttl, [`Status::Limit`].
    pub fn open_session(&self, name: &str, ttl: Duration) -> Result<Session> {
        self.0.core.check()?;
        NodeId::new(name).map_err(|e| Error::new(e.status(), e.message().replace("node_id", "name")))?;
        new_session(&self.0.core, name.to_owned(), options::ttl_ms(ttl)?)
    }

    /// Opens a session in the place of another one, which may be that of a process that is gone or stopped: the old one ends, whatever
    /// it still asks for is refused, and with `keep` its locks become the new session's, each under a new and larger token
    /// ([`Session::inherited`] names them); without, they are lost, and free when their lock-delays are over. `secret` is the old
    /// session's [`Session::secret`]: the proof that the caller is its owner.
    ///
    /// # Errors
    /// As [`Node::open_session`]; [`Status::Expired`] when the old session has ended, [`Status::Limit`] when it holds more locks than can
    /// move in one step (4096).
    pub fn take_over(&self, name: &str, ttl: Duration, secret: u128, keep: bool) -> Result<Session> {
        self.0.core.check()?;
        NodeId::new(name).map_err(|e| Error::new(e.status(), e.message().replace("node_id", "name")))?;
        taken_over(&self.0.core, name.to_owned(), options::ttl_ms(ttl)?, secret, keep)
    }

    /// Opens a gate. `gate.*` settings of `over` go before the node's.
    ///
    /// # Errors
    /// [`Status::Misuse`] when a gate of that name is open, [`Status::InvalidArgument`] for the name or the settings.
    pub fn gate(&self, name: &str, over: &Config) -> Result<Gate> {
        self.0.core.check()?;
        Gate::open(&self.0.core, &self.0.session, name, over)
    }

    /// Makes this node the granter of offices: waits for the lock `key`, for at most `timeout` (`None`: as long as it takes), and holds it with this
    /// ttl, renewed by the node, until [`Granter::resign`].
    ///
    /// # Errors
    /// As [`Session::acquire_token`]; [`Status::Held`] for a timeout of zero.
    pub fn granter(&self, key: &[u8], ttl: Duration, timeout: Option<Duration>) -> Result<Granter> {
        self.0.core.check()?;
        Granter::open(self.0.session.clone(), key, ttl, timeout)
    }

    /// The offices whose names begin with `prefix` and what granters have promised to their holders, by name, at most `limit` of them.
    ///
    /// # Errors
    /// What every call may answer.
    pub fn promises(&self, prefix: &[u8], limit: usize) -> Result<Vec<Promise>> {
        granter::promises(&self.0.core, prefix, limit)
    }

    /// Makes an orchestrator that works under the node's own name.
    ///
    /// # Errors
    /// As [`Session::orchestrator`].
    pub fn orchestrator(&self, options: orchestrator::OrchestratorOptions) -> Result<orchestrator::Orchestrator> {
        let manual = self.0.keeper.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        self.session().orchestrator(options, manual)
    }

    /// The host is alive, for all gates of this node: see the setting `gate.beat_timeout_ms`. Cheap; never waits.
    pub fn beat(&self) {
        self.0.core.gate_list().iter().for_each(|g| g.beat(&self.0.core));
    }

    /// Locks whose names start with `prefix`, by name, at most `limit` of them.
    ///
    /// # Errors
    /// What every call may answer.
    pub fn locks(&self, prefix: &[u8], limit: usize) -> Result<Vec<LockInfo>> {
        self.0.core.check()?;
        let found = self.0.core.engine.locks(prefix, None, limit)?;
        Ok(found.into_iter().map(|i| LockInfo { key: Key::clone(&i.key), holders: options::holders(i) }).collect())
    }

    /// Watches who holds the lock `key`. The events are taken with [`Watch::next`].
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] for the key, and what every call may answer.
    pub fn watch(&self, key: &[u8]) -> Result<Watch> {
        self.watch_pattern(Pattern::Key(Key::new(key)?))
    }

    /// Watches who holds the locks whose names begin with `prefix`, at most 1024 bytes; all locks for an empty one.
    ///
    /// # Errors
    /// As [`Node::watch`].
    pub fn watch_prefix(&self, prefix: &[u8]) -> Result<Watch> {
        self.watch_pattern(pattern(prefix)?)
    }

    fn watch_pattern(&self, pattern: Pattern) -> Result<Watch> {
        let core = &self.0.core;
        core.check()?;
        Ok(Watch::new(core, core.engine.watch(pattern)?))
    }

    /// As [`Node::watch`], or with `prefix` as [`Node::watch_prefix`], with the events going to `listener` on the delivery that the node
    /// was opened with. The listener must not panic; if it does, it is called again for the next event.
    ///
    /// # Errors
    /// As [`Node::watch`]; [`Status::Io`] when the system gives no thread.
    pub fn watch_with(&self, name: &[u8], prefix: bool, listener: WatchListener) -> Result<Watch> {
        let core = &self.0.core;
        core.check()?;
        let pattern = if prefix { pattern(name)? } else { Pattern::Key(Key::new(name)?) };
        core.delivery.start()?;
        Ok(Watch::to(core, core.engine.watch(pattern)?, listener))
    }

    /// What the node says of itself; answered in every state.
    pub fn status(&self) -> NodeStatus {
        status::of(&self.0.core)
    }

    /// Calls `listener` for every event from now on, on the delivery that the node was opened with. Returns a number for
    /// [`Node::unsubscribe`]. The listener must not panic; if it does, it is called again for the next event.
    ///
    /// # Errors
    /// [`Status::Io`] when the system gives no thread.
    pub fn subscribe(&self, listener: Listener) -> Result<u64> {
        self.0.core.check()?;
        self.0.core.delivery.subscribe(listener)
    }

    /// Ends a subscription; false when there was none of that number. After it has returned the listener does not run and never
    /// will, except when it is called from inside the listener itself.
    pub fn unsubscribe(&self, id: u64) -> bool {
        self.0.core.delivery.unsubscribe(id)
    }

    /// A descriptor that is readable while completions or events wait for [`Node::dispatch`]. It stays the library's.
    ///
    /// # Errors
    /// [`Status::Misuse`] unless the node was opened with `delivery = fd`.
    pub fn event_fd(&self) -> Result<RawFd> {
        self.0.core.delivery.fd()
    }

    /// Runs up to `max` waiting completions and events on the calling thread; returns how many.
    ///
    /// # Errors
    /// [`Status::Misuse`] unless the node was opened with `delivery = fd`, [`Status::WouldDeadlock`] inside a callback.
    pub fn dispatch(&self, max: usize) -> Result<usize> {
        process_check(&self.0.core)?;
        self.0.core.delivery.dispatch(max)
    }

    /// One round of what the node's thread does, for a node opened with [`Env::manual`]. Returns how long until the next is due.
    pub fn step(&self) -> Duration {
        Duration::from_nanos(keeper::step(&self.0.core, self.0.core.now()))
    }

    /// Poisons the node: it denies and refuses everything but status and close from now on. For hosts that find that they can
    /// no longer trust themselves, and for the C boundary after a panic.
    pub fn poison(&self, why: &str) {
        self.0.core.poison(why);
    }

    /// Closes the node: gates close, its sessions end (which frees their locks), threads end, everything queued for the host is
    /// delivered. Waits at most `timeout` for the sessions' end to be recorded; what is not recorded in time runs out by
    /// itself. Closing twice is no error.
    ///
    /// # Errors
    /// [`Status::WouldDeadlock`] inside a callback, [`Status::Timeout`], [`Status::Forked`].
    pub fn close(&self, timeout: Duration) -> Result<()> {
        process_check(&self.0.core)?;
        check_may_block()?;
        self.0.close(timeout)
    }
}

fn pattern(prefix: &[u8]) -> Result<Pattern> {
    if prefix.len() > KEY_MAX {
        return Err(Error::invalid("prefix", format_args!("{} bytes are above {KEY_MAX}", prefix.len())));
    }
    Ok(Pattern::Prefix(prefix.to_vec()))
}

fn process_check(core: &Core) -> Result<()> {
    if core.forked() { Err(Status::Forked.into()) } else { Ok(()) }
}

/// The node's own session. A member of a cluster does not wait for the others: the keeper opens it when a majority is there.
/// In the place of the one that the process before has left, if that one can be taken over.
fn own_session(core: &Arc<Core>, ttl_ms: u32, before: Option<(u128, bool)>) -> Result<Session> {
    let name = core.id.as_str().to_owned();
    if !core.waits_for_a_majority() {
        return match before.map(|(old, keep)| taken_over(core, name.clone(), ttl_ms, old, keep)) {
            // It has ended meanwhile, or in good order.
            Some(Err(e)) if e.status() == Status::Expired => new_session(core, name, ttl_ms),
            Some(done) => done,
            None => new_session(core, name, ttl_ms),
        };
    }
    let state = Arc::new(kept::State::new(name, ttl_ms, core.nonce() as u32));
    if let Some((old, keep)) = before {
        state.succeed(old, keep);
    }
    core.keep_session(&state);
    Ok(Session { core: core.clone(), state })
}

fn new_session(core: &Arc<Core>, name: String, ttl_ms: u32) -> Result<Session> {
    let state = Arc::new(kept::State::new(name, ttl_ms, core.nonce() as u32));
    state.open(core)?;
    core.keep_session(&state);
    Ok(Session { core: core.clone(), state })
}

fn taken_over(core: &Arc<Core>, name: String, ttl_ms: u32, old: u128, keep: bool) -> Result<Session> {
    let state = Arc::new(kept::State::new(name, ttl_ms, core.nonce() as u32));
    state.succeed(old, keep);
    state.open(core)?;
    core.keep_session(&state);
    Ok(Session { core: core.clone(), state })
}

/// Ends all sessions at once and waits for the answers. False when they did not come in time.
fn end_sessions(core: &Arc<Core>, timeout: Duration) -> bool {
    let (tx, rx) = std::sync::mpsc::channel();
    let mut waiting = 0;
    let sessions = core.kept_sessions();
    // Before any of them frees a lock that another of them waits for.
    sessions.iter().for_each(|s| s.cancel_all());
    for state in sessions {
        let tx = tx.clone();
        if state.end(core, Box::new(move || _ = tx.send(()))) {
            waiting += 1;
        }
    }
    let wait = self::wake::Deadline::after(timeout);
    (0..waiting).all(|_| rx.recv_timeout(wait.left()).is_ok())
}
