//! The way to the cluster: one connection, to the leader where it is known, and another when that does not answer.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::Instant;

use super::targets::Targets;
use super::wire::{self, Answer, Ask, CALL, MemberInfo, NEWS, News, Query, Told, View};
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
/// Operations in one message.
const BATCH_OPS: usize = 1024;
/// About how many bytes of operations in one message.
const BATCH_BYTES: usize = 256 << 10;
/// Messages under way at once: while they are, what comes gathers for the next.
const UNDER_WAY: usize = 4;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);
/// The shortest attempt.
const ATTEMPT_MIN: Duration = Duration::from_millis(200);

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

struct Pending {
    request: Request,
    deadline: Instant,
    done: Done,
}

impl Pending {
    fn tell(self, result: Result<Outcome>) {
        (self.done)(self.request, result);
    }
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Pending>,
    under_way: usize,
    /// By session, the number of its last operation.
    numbers: HashMap<SessionId, u64>,
    ended: Option<Error>,
}

impl Queue {
    /// What must not be done twice gets a number, by which a session knows it again. In the order in which it is sent.
    fn number(&mut self, request: &mut Request) {
        if request.session.0 != 0 && !request.may_repeat() {
            let last = self.numbers.entry(request.session).or_default();
            *last += 1;
            request.seq = *last;
        }
    }
}

struct Shared {
    timeout: Duration,
    listener: Arc<dyn Listener>,
    queue: Mutex<Queue>,
    stirred: Notify,
    targets: Mutex<Targets>,
    net: OnceLock<Net>,
    /// Number of the connection whose news count; 0 for none.
    attached: AtomicU64,
    attaching: tokio::sync::Mutex<()>,
    slots: Arc<Semaphore>,
    /// The term and the members, as they were told last.
    members: Mutex<(u64, Vec<MemberInfo>)>,
}

fn now() -> Instant {
    Instant::now()
}

fn unavailable(why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Status::Unavailable, why)
}

fn name_of(connection: &Connection) -> String {
    match &connection.remote().hello.party {
        Party::Node(name) | Party::Client(name) => name.clone(),
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // No callback runs under this lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn targets(&self) -> MutexGuard<'_, Targets> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<Pending> {
        let mut queue = self.queue();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(next) = queue.waiting.front() {
            bytes += next.request.weight();
            if !batch.is_empty() && (batch.len() >= BATCH_OPS || bytes > BATCH_BYTES) {
                break;
            }
            batch.extend(queue.waiting.pop_front());
        }
        queue.under_way += batch.len();
        batch
    }

    /// An attempt is given up in time for others.
    fn attempt(&self, deadline: Instant) -> Duration {
        let left = deadline.saturating_duration_since(now());
        (self.timeout / 3).max(ATTEMPT_MIN).min(left).max(Duration::from_millis(1))
    }

    /// The connection in use, and which target it is of. Its member knows which sessions it is to tell about.
    async fn connection(self: &Arc<Shared>, limit: Duration) -> std::result::Result<(usize, Connection), (usize, Error)> {
        let Some(net) = self.net.get() else { return Err((0, unavailable("the client is starting"))) };
        let (index, peer) = self.targets().current(net);
        let connection = peer.connection(Class::Client, limit).await.map_err(|e| (index, e))?;
        if self.attached.load(SeqCst) != connection.number() {
            self.attach(&connection, limit).await.map_err(|e| (index, e))?;
        }
        Ok((index, connection))
    }

    async fn attach(self: &Arc<Shared>, connection: &Connection, limit: Duration) -> Result<()> {
        let _one = self.attaching.lock().await;
        if self.attached.load(SeqCst) == connection.number() {
            return Ok(());
        }
        // Before the question, so that no news that follow it are missed.
        self.attached.store(connection.number(), SeqCst);
        let ask = Ask::Attach { sessions: self.listener.sessions() };
        if let Err(error) = self.ask(connection, &ask, limit).await {
            self.attached.store(0, SeqCst);
            return Err(error);
        }
        self.listener.reconnected();
        self.learn(connection.clone());
        Ok(())
    }

    /// Asks who the members are, beside everything else.
    fn learn(self: &Arc<Shared>, connection: Connection) {
        let shared = self.clone();
        drop(tokio::spawn(async move {
            let answer = shared.ask(&connection, &Ask::Look(Query::Members), shared.timeout).await;
            if let Ok(Answer { view: Some(View::Members(term, members)), .. }) = answer {
                shared.targets().learn(members.iter().map(|m| m.address.clone()));
                *shared.members.lock().unwrap_or_else(PoisonError::into_inner) = (term, members);
            }
        }));
    }

    async fn ask(&self, connection: &Connection, ask: &Ask, limit: Duration) -> Result<Answer> {
        let bytes = connection.call(net::Ask::new(CALL, limit), &wire::encode_ask(ask)?).await?;
        wire::decode_answer(&bytes)
    }

    /// The member at the leader's address is asked from now on, once there is a connection to it. `leader` is what `from` answered.
    fn prefer(self: &Arc<Shared>, leader: Option<String>, from: &Connection) {
        let Some(net) = self.net.get() else { return };
        let name = name_of(from);
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let known = members.1.iter().any(|m| m.leader && leader.as_ref().map_or(m.name == name, |address| m.address == *address));
        drop(members);
        if !known {
            self.learn(from.clone());
        }
        if let Some(leader) = leader {
            self.targets().prefer(net, leader);
        }
    }

    /// Sends operations until they are answered, or their time is over.
    async fn deliver(self: Arc<Shared>, mut batch: Vec<Pending>) {
        let mut last = unavailable("no member was reached");
        loop {
            batch = self.fail_late(batch, &last);
            let Some(deadline) = batch.iter().map(|p| p.deadline).max() else { return };
            let limit = self.attempt(deadline);
            let index = match self.connection(limit).await {
                Err((index, error)) => {
                    last = error;
                    index
                }
                Ok((index, connection)) => {
                    let ops = batch.iter().map(|p| p.request.clone()).collect();
                    let ask = Ask::Run { ops, timeout_ms: limit.as_millis() as u64 };
                    match self.ask(&connection, &ask, limit).await {
                        Ok(answer) => match self.settle(batch, answer, &connection) {
                            (left, _) if left.is_empty() => return,
                            (left, error) => (batch, last) = (left, error),
                        },
                        Err(error) => {
                            // It may have been done all the same.
                            let (again, over): (Vec<_>, Vec<_>) = batch.into_iter().partition(|p| p.request.may_repeat());
                            self.answer_all(over, &unavailable(format!("{}; whether it was done is not known", error.message())));
                            (batch, last) = (again, error);
                        }
                    }
                    index
                }
            };
            self.targets().leave(index);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Tells what was answered; what may be asked again elsewhere is left, with the reason.
    fn settle(self: &Arc<Shared>, batch: Vec<Pending>, answer: Answer, from: &Connection) -> (Vec<Pending>, Error) {
        let mut last = Error::new(Status::Internal, "a member answered less than it was asked");
        if answer.told.len() != batch.len() {
            self.answer_all(batch, &last);
            return (Vec::new(), last);
        }
        let (mut left, mut answered) = (Vec::new(), Vec::with_capacity(batch.len()));
        for (pending, told) in batch.into_iter().zip(answer.told) {
            match told {
                Told::Outcome(Outcome::Refused(crate::ledger::Refusal::Forgotten)) => {
                    let why = "it was asked again too late: whether it was done is not known";
                    answered.push((pending, Err(unavailable(why))));
                }
                Told::Outcome(outcome) => answered.push((pending, Ok(outcome))),
                Told::Failed(failure) => {
                    let error = Error::from(failure);
                    if error.status() == Status::Unavailable && pending.request.may_repeat() {
                        last = error;
                        left.push(pending);
                    } else {
                        answered.push((pending, Err(error)));
                    }
                }
            }
        }
        self.queue().under_way -= answered.len();
        answered.into_iter().for_each(|(pending, result)| pending.tell(result));
        if left.is_empty() {
            self.prefer(answer.leader, from);
        }
        (left, last)
    }

    fn fail_late(&self, batch: Vec<Pending>, last: &Error) -> Vec<Pending> {
        let now = now();
        let (late, left): (Vec<_>, Vec<_>) = batch.into_iter().partition(|p| p.deadline <= now);
        if !late.is_empty() {
            let why = format!("the cluster did not answer in time ({}); whether it was done is not known", last.message());
            self.answer_all(late, &unavailable(why));
        }
        left
    }

    fn answer_all(&self, batch: Vec<Pending>, error: &Error) {
        self.queue().under_way -= batch.len();
        batch.into_iter().for_each(|p| p.tell(Err(error.clone())));
    }

    /// Asks members until one answers, or the time is over.
    async fn ask_any(self: Arc<Shared>, ask: Ask) -> Result<Answer> {
        let deadline = now() + self.timeout;
        loop {
            let limit = self.attempt(deadline);
            let (index, error) = match self.connection(limit).await {
                Err(failed) => failed,
                Ok((index, connection)) => match self.ask(&connection, &ask, limit).await {
                    Err(error) if error.status() == Status::Unavailable => (index, error),
                    answer => return answer,
                },
            };
            if now() >= deadline {
                return Err(unavailable(format!("the cluster did not answer in time ({})", error.message())));
            }
            self.targets().leave(index);
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn look(self: Arc<Shared>, query: Query) -> Result<View> {
        let nothing = || Error::new(Status::Internal, "a member answered a look with nothing to see");
        self.ask_any(Ask::Look(query)).await?.view.ok_or_else(nothing)
    }

    async fn pump(self: Arc<Shared>) {
        loop {
            loop {
                let Ok(slot) = self.slots.clone().acquire_owned().await else { return };
                let batch = self.take();
                if batch.is_empty() {
                    break;
                }
                let shared = self.clone();
                drop(tokio::spawn(async move {
                    shared.deliver(batch).await;
                    drop(slot);
                }));
            }
            self.stirred.notified().await;
        }
    }

    fn end(&self, why: &Error) {
        let mut queue = self.queue();
        queue.ended.get_or_insert_with(|| why.clone());
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        waiting.into_iter().for_each(|p| p.tell(Err(why.clone())));
    }
}

/// What a member may send without being asked.
struct Ear(Arc<Shared>);

impl Service for Ear {
    fn handle(&self, _from: Connection, _request: net::Request) -> Reply {
        Box::pin(async { Err(Error::new(Status::InvalidArgument, "a client answers nothing")) })
    }

    fn event(&self, from: &Connection, method: Method, body: Bytes) {
        if method != NEWS || from.number() != self.0.attached.load(SeqCst) {
            return;
        }
        match wire::decode_news(&body) {
            Ok(news) => self.0.listener.news(news),
            Err(error) => from.close(error),
        }
    }

    fn closed(&self, connection: &Connection, _why: &Error) {
        // Whoever waits hears of it by another connection, made at once: a process that asks nothing must hear of its losses too.
        if self.0.attached.compare_exchange(connection.number(), 0, SeqCst, SeqCst).is_ok() {
            let shared = self.0.clone();
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
    let service = Arc::new(Ear(shared.clone()));
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
