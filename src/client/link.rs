//! The way to the cluster: one connection, to the leader where it is known, and another when that does not answer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, oneshot};

use super::carrier::{PAUSE, Pending, Shared, UNDER_WAY, name_of, now};
use super::targets::Targets;
use super::wire::{self, Ask, MemberInfo, NEWS, News, Query, View};
use crate::base::{Error, Result, Rng, SessionId, Status, process};
use crate::ledger::{Outcome, Request};
use crate::net::{
    self, Admission, Class, Connection, Hello, Method, Net, NetStatus, Party, Refusal, Reply, Role, Security, Service, Transport,
};

/// Told once how an operation ended, with the operation as it was sent; on the link's thread or on the one that submitted it. Must not
/// block.
pub type Done = Box<dyn FnOnce(Request, Result<Outcome>) + Send>;

/// Operations that wait to be sent, at most.
const WAITING_MAX: usize = 65_536;

/// What a link is made of.
pub struct Options {
    /// The cluster's name.
    pub cluster: String,
    /// This process's name.
    pub name: String,
    /// A random number of this opening.
    pub boot: u128,
    /// Where members may be reached.
    pub addresses: Vec<String>,
    /// What carries the bytes.
    pub transport: Arc<dyn Transport>,
    /// How they are protected.
    pub security: Security,
    /// For the jitter of pauses.
    pub rng: Box<dyn Rng>,
    /// Within this an operation is answered, whatever happens.
    pub timeout: Duration,
}

/// Is told what happens. Methods are called on the link's thread and must not block.
pub trait Listener: Send + Sync + 'static {
    /// The sessions that this process looks after.
    fn sessions(&self) -> Vec<SessionId>;
    /// Something happened to them.
    fn news(&self, news: Vec<News>);
    /// Another connection is in use from now on: what happened while there was none has not been told.
    fn reconnected(&self);
}

/// How a link stands.
#[derive(Clone, Debug)]
pub struct LinkStatus {
    /// The member that is asked: its name and its address; `None` without a connection.
    pub member: Option<(String, String)>,
    /// Addresses at which members are looked for.
    pub addresses: Vec<String>,
    /// Operations that wait to be sent.
    pub waiting: usize,
    /// Operations whose answer is awaited.
    pub under_way: usize,
    /// The network.
    pub net: NetStatus,
}

/// What a member may send without being asked. The network belongs to what it tells: it must not keep it alive.
struct Ear(Weak<Shared>);

impl Service for Ear {
    fn handle(&self, _from: Connection, _request: net::Request) -> Reply {
        Box::pin(async { Err(Error::new(Status::InvalidArgument, "a client answers nothing")) })
    }

    fn event(&self, from: &Connection, method: Method, body: Bytes) {
        let Some(shared) = self.0.upgrade() else { return };
        if method != NEWS || from.number() != shared.attached.load(SeqCst) {
            return;
        }
        match wire::decode_news(&body) {
            Ok(news) => shared.listener.news(news),
            Err(error) => from.close(error),
        }
    }

    fn closed(&self, connection: &Connection, _why: &Error) {
        // Whoever waits hears of it by another connection, made at once: a process that asks nothing must hear of its losses too.
        let Some(shared) = self.0.upgrade() else { return };
        if shared.attached.compare_exchange(connection.number(), 0, SeqCst, SeqCst).is_ok() {
            drop(tokio::spawn(async move {
                while shared.queue().ended.is_none() && shared.attached.load(SeqCst) == 0 {
                    if let Err((index, _)) = shared.connection(shared.timeout).await {
                        shared.targets().leave(index);
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }));
        }
    }
}

struct Members;

impl Admission for Members {
    fn admit(&self, hello: &Hello) -> std::result::Result<(), Refusal> {
        match &hello.party {
            Party::Node(_) => Ok(()),
            Party::Client(_) => Err(Refusal::new(net::Reason::NotAllowed, format!("{} is not a member", hello.party))),
        }
    }
}

fn open_net(options: Options, shared: &Arc<Shared>) -> Result<Net> {
    let hello = Hello {
        protocol: net::PROTOCOL,
        protocol_min: net::PROTOCOL_MIN,
        cluster: options.cluster,
        lineage: 0,
        party: Party::Client(options.name),
        role: Role::Client,
        disk: 0,
        boot: options.boot,
        class: Class::Client,
        to: None,
        address: String::new(),
    };
    let settings =
        net::Settings { backoff_max: Duration::from_millis(200), connect_timeout: Duration::from_secs(1), ..net::Settings::default() };
    let service = Arc::new(Ear(Arc::downgrade(shared)));
    let (transport, security, rng) = (options.transport, options.security, options.rng);
    Net::new(net::Parts { transport, security, hello, settings, service, admission: Arc::new(Members), rng })
}

/// The way of a process to its cluster. Every method may be called from any thread; those that block, not from the link's own.
pub struct Link {
    shared: Arc<Shared>,
    runtime: Handle,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    closed: AtomicBool,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("addresses", &self.shared.targets().addresses()).finish_non_exhaustive()
    }
}

impl Link {
    /// Opens the way, on a thread of its own. Nothing is waited for: members are looked for in the background.
    ///
    /// # Errors
    /// [`Status::Io`] without a thread or a runtime.
    pub fn open(options: Options, listener: Arc<dyn Listener>) -> Result<Link> {
        let shared = Arc::new(Shared {
            timeout: options.timeout,
            listener,
            queue: Mutex::default(),
            stirred: Notify::new(),
            targets: Mutex::new(Targets::new(options.addresses.clone())),
            net: OnceLock::new(),
            attached: AtomicU64::new(0),
            attaching: tokio::sync::Mutex::new(()),
            slots: Arc::new(Semaphore::new(UNDER_WAY)),
            members: Mutex::default(),
        });
        let (tell, told) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let inside = shared.clone();
        let thread = process::spawn("tenure-client", move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().thread_name("tenure-block").build() {
                Ok(runtime) => runtime,
                Err(e) => return drop(tell.send(Err(Error::io("starting the runtime", &e)))),
            };
            runtime.block_on(async {
                match open_net(options, &inside) {
                    Err(error) => drop(tell.send(Err(error))),
                    Ok(net) => {
                        drop(inside.net.set(net.clone()));
                        drop(tokio::spawn(inside.clone().pump()));
                        drop(tell.send(Ok(Handle::current())));
                        // Told to stop, or forgotten.
                        drop(stopped.await);
                        inside.end(&Status::Closed.into());
                        net.close().await;
                    }
                }
            });
            runtime.shutdown_background();
        })?;
        let runtime = told.recv().unwrap_or_else(|_| Err(Error::new(Status::Panic, "the client's thread panicked")))?;
        Ok(Link { shared, runtime, stop: Mutex::new(Some(stop)), thread: Mutex::new(Some(thread)), closed: AtomicBool::new(false) })
    }

    /// Hands an operation in. `done` is called once, at the latest when the timeout is over. A wait for a lock is not waited for: its
    /// end is news.
    pub fn submit(&self, mut request: Request, done: Done) {
        let mut queue = self.shared.queue();
        let refused = match &queue.ended {
            Some(error) => error.clone(),
            None if queue.waiting.len() >= WAITING_MAX => {
                Error::new(Status::Limit, format!("{WAITING_MAX} operations wait already, which is the limit"))
            }
            None => {
                queue.number(&mut request);
                queue.waiting.push_back(Pending { request, deadline: now() + self.shared.timeout, done });
                drop(queue);
                return self.shared.stirred.notify_one();
            }
        };
        drop(queue);
        done(request, Err(refused));
    }

    /// A session is over: its numbers are not needed any more.
    pub fn forget(&self, session: SessionId) {
        self.shared.queue().numbers.remove(&session);
    }

    /// Looks at the cluster as of now or later; blocks.
    ///
    /// # Errors
    /// [`Status::Unavailable`], [`Status::Closed`].
    pub fn look(&self, query: Query) -> Result<View> {
        let (tell, told) = mpsc::sync_channel(1);
        self.look_later(query, move |view| drop(tell.send(view)));
        // When the runtime ends, so does the task, and with it the other end.
        told.recv().unwrap_or_else(|_| Err(Status::Closed.into()))
    }

    /// As [`Link::look`], without blocking: `done` is called on the link's thread, unless the link ends before.
    pub fn look_later(&self, query: Query, done: impl FnOnce(Result<View>) + Send + 'static) {
        let shared = self.shared.clone();
        drop(self.runtime.spawn(async move { done(shared.look(query).await) }));
    }

    /// As [`Link::look`], and how long it took: what was seen may be older by that.
    ///
    /// # Errors
    /// As [`Link::look`].
    pub fn look_timed(&self, query: Query) -> Result<(View, Duration)> {
        let from = now();
        let view = self.look(query)?;
        Ok((view, now().saturating_duration_since(from)))
    }

    /// Asks for something that has no answer but that it is done; blocks.
    ///
    /// # Errors
    /// [`Status::Unavailable`], [`Status::Closed`]; what the cluster has against it.
    pub fn ask(&self, ask: Ask) -> Result<()> {
        let (tell, told) = mpsc::sync_channel(1);
        self.ask_later(ask, move |answer| drop(tell.send(answer)));
        told.recv().unwrap_or_else(|_| Err(Status::Closed.into()))
    }

    /// As [`Link::ask`], without blocking: `done` is called on the link's thread, unless the link ends before.
    pub fn ask_later(&self, ask: Ask, done: impl FnOnce(Result<()>) + Send + 'static) {
        let shared = self.shared.clone();
        drop(self.runtime.spawn(async move { done(shared.ask_any(ask).await.map(drop)) }));
    }

    /// Calls `body` on the link's thread after this time, unless the link ends before.
    pub fn after(&self, time: Duration, body: impl FnOnce() + Send + 'static) {
        drop(self.runtime.spawn(async move {
            tokio::time::sleep(time).await;
            body();
        }));
    }

    /// The term and the members, as they were told last; nobody is asked.
    pub fn members(&self) -> (u64, Vec<MemberInfo>) {
        self.shared.members.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How it stands.
    pub fn status(&self) -> Option<LinkStatus> {
        let net = self.shared.net.get()?;
        let attached = self.shared.attached.load(SeqCst);
        let member = net.connections().into_iter().find(|c| c.number() == attached).map(|c| {
            let address = c.remote().address.clone();
            (name_of(&c), address)
        });
        let queue = self.shared.queue();
        let (waiting, under_way) = (queue.waiting.len(), queue.under_way);
        drop(queue);
        Some(LinkStatus { member, addresses: self.shared.targets().addresses(), waiting, under_way, net: net.status() })
    }

    /// Ends it: what waits is answered with [`Status::Closed`].
    pub fn close(&self) {
        if self.closed.swap(true, SeqCst) {
            return;
        }
        self.shared.end(&Status::Closed.into());
        if let Some(stop) = self.stop.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A thread that has gone needs no telling.
            let _ = stop.send(());
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            drop(thread.join());
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close();
    }
}
