//! Processes talk: frames, identities, TLS, and connections that come back.
//!
//! | file | its one job |
//! |---|---|
//! | `frame` | bytes of one message, bounded before they are read |
//! | `hello`, `handshake`, `roster` | who talks, who may, and the typed reasons why not |
//! | `cert`, `tls` | identity in certificates, files that may be replaced |
//! | `conn`, `drive`, `stream` | one connection: requests, streams, events |
//! | `peer` | a connection for each class, made anew when it breaks |
//! | `transport`, `socket` | TCP, or whatever else carries bytes |
//! | `fabric` | a network in memory that loses, delays and cuts as its owner says |
//!
//! A [`Net`] belongs to one process instance. Everything runs on the tokio runtime in which it was made; with the fabric below,
//! a paused clock and a seeded generator the same run gives the same bytes.

mod cert;
mod conn;
mod drive;
pub mod fabric;
pub mod frame;
mod handshake;
mod hello;
mod peer;
mod roster;
pub mod snapshot;
mod socket;
mod stream;
mod tls;
mod transport;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::BytesMut;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use crate::base::{Error, NodeId, Result, Rng, Status};

pub use cert::uri;
pub use conn::{Ask, Connection, Limits, Remote, Reply, Request, Service, Side, Task, WINDOW};
pub use frame::Method;
pub use hello::{Class, Hello, PROTOCOL, PROTOCOL_MIN, Party, Reason, Refusal, Role};
pub use peer::{LinkState, Peer};
pub use roster::{Admission, Roster};
pub use stream::{Stream, StreamReceiver, StreamSender};
pub use tls::{Certificate, Tls, TlsFiles};
pub use transport::{Duplex, Listener, Pending, Tcp, TcpOptions, Transport};

/// How bytes are protected.
#[derive(Debug)]
pub enum Security {
    /// TLS 1.3 with certificates on both sides.
    Tls(Arc<Tls>),
    /// Plain text between processes of one machine; other addresses are refused.
    Loopback,
    /// The named weaker mode: plain text to anywhere.
    Insecure,
}

impl Security {
    /// Its name in status and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Security::Tls(_) => "tls",
            Security::Loopback => "loopback",
            Security::Insecure => "insecure",
        }
    }
}

/// Times and bounds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// From dialling to the other side's hello.
    pub connect_timeout: Duration,
    /// From accepting to the dialler's hello.
    pub accept_timeout: Duration,
    /// Accepted connections whose hello is still awaited; more are closed at once.
    pub max_handshakes: usize,
    /// Connections above which clients are refused. Nodes are not.
    pub max_connections: usize,
    /// The first pause after a failed attempt; it doubles with each.
    pub backoff_min: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// TLS only: a connection older than this is replaced, so that revoked and expired certificates take effect.
    pub max_age: Duration,
    /// TLS only: how often the files are looked at.
    pub reload_every: Duration,
    /// Bounds of each connection.
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            connect_timeout: Duration::from_secs(2),
            accept_timeout: Duration::from_secs(5),
            max_handshakes: 128,
            max_connections: 4096,
            backoff_min: Duration::from_millis(25),
            backoff_max: Duration::from_secs(1),
            max_age: Duration::from_secs(3600),
            reload_every: Duration::from_secs(10),
            limits: Limits::default(),
        }
    }
}

/// What a [`Net`] is made of.
pub struct Parts {
    /// What carries the bytes.
    pub transport: Arc<dyn Transport>,
    /// How they are protected.
    pub security: Security,
    /// This process's introduction; `class` and `to` are filled in for each connection.
    pub hello: Hello,
    /// Times and bounds.
    pub settings: Settings,
    /// Takes what arrives.
    pub service: Arc<dyn Service>,
    /// Decides who may talk.
    pub admission: Arc<dyn Admission>,
    /// For the jitter of pauses.
    pub rng: Box<dyn Rng>,
}

/// What operators see.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct NetStatus {
    /// `tls`, `loopback`, or the weaker mode `insecure`.
    pub security: &'static str,
    /// Seconds until this process's certificate expires; negative afterwards.
    pub certificate_expires_s: Option<i64>,
    /// Why replaced certificate files are not in use.
    pub reload_error: Option<String>,
    /// Open connections.
    pub connections: usize,
    /// Connections accepted or dialled so far.
    pub established: u64,
    /// Refusals given and received so far, by reason.
    pub refused: BTreeMap<String, u64>,
}

pub(crate) struct Shared {
    transport: Arc<dyn Transport>,
    security: Security,
    hello: Mutex<Hello>,
    settings: Settings,
    service: Arc<dyn Service>,
    admission: Arc<dyn Admission>,
    rng: Mutex<Box<dyn Rng>>,
    runtime: Handle,
    numbers: AtomicU64,
    handshakes: AtomicUsize,
    connections: Mutex<BTreeMap<u64, Connection>>,
    left: Notify,
    peers: Mutex<Vec<Weak<peer::Inner>>>,
    refused: Mutex<BTreeMap<Reason, (u64, Instant)>>,
    reload_error: Mutex<Option<Error>>,
    closing: watch::Sender<bool>,
}

/// The runtime's clock: the system's, or the one that a simulation moves.
fn now() -> Instant {
    Instant::now()
}

/// A refusal of one kind is logged at most this often.
const LOG_EVERY: Duration = Duration::from_secs(10);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each of these locks guards one collection or value, and nothing that can panic runs under it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn own(&self) -> Hello {
        lock(&self.hello).clone()
    }

    fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    fn is_full(&self) -> bool {
        lock(&self.connections).len() >= self.settings.max_connections
    }

    fn backoff(&self, failures: u32) -> Duration {
        let settings = &self.settings;
        let pause = settings.backoff_min.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(settings.backoff_max);
        let half = pause.as_nanos() as u64 / 2;
        Duration::from_nanos(half + lock(&self.rng).below(half.max(1)))
    }

    /// How long a connection may live: under TLS no longer than configured, nor than the peer's certificate.
    fn age(&self, connection: &Connection) -> Option<Duration> {
        let Security::Tls(tls) = &self.security else { return None };
        let certificate = connection.remote().certificate.as_ref();
        Some(certificate.map_or(Duration::ZERO, |c| tls.good_for(c)).min(self.settings.max_age))
    }

    /// The dialler replaces a connection before the acceptor ends it.
    fn dialler_age(&self, connection: &Connection) -> Duration {
        const FOREVER: Duration = Duration::from_secs(365 * 86_400);
        self.age(connection).map_or(FOREVER, |age| age / 10 * (8 + lock(&self.rng).below(2) as u32))
    }

    fn note_refusal(&self, refusal: &Refusal, address: &str, by: &str) {
        let mut refused = lock(&self.refused);
        let now = now();
        let (count, logged) = refused.entry(refusal.reason).or_insert((0, now));
        *count += 1;
        if *count == 1 || now.duration_since(*logged) >= LOG_EVERY {
            *logged = now;
            tracing::warn!(reason = ?refusal.reason, address, count = *count, "{by}: {}", refusal.message);
        }
    }

    fn establish(self: &Arc<Shared>, wire: Box<dyn Duplex>, remote: Remote, side: Side) -> Connection {
        let number = self.numbers.fetch_add(1, Relaxed) + 1;
        let class = remote.hello.class;
        let limits = self.settings.limits.clone();
        let core = conn::Core::new(number, side, class, remote, limits, self.service.clone());
        let connection = Connection(core.clone());
        lock(&self.connections).insert(number, connection.clone());
        if self.is_closing() {
            connection.close(Status::Closed.into());
        }
        let entry = Entry { shared: self.clone(), number };
        let age = self.age(&connection).filter(|_| side == Side::Acceptor);
        let (shared, held) = (self.clone(), connection.clone());
        self.runtime.spawn(async move {
            let _entry = entry;
            shared.service.opened(&held);
            let driver = drive::Driver::new(core, wire, BytesMut::new()).run();
            let Some(age) = age else { return driver.await };
            let mut driver = std::pin::pin!(driver);
            tokio::select! {
                biased;
                () = &mut driver => return,
                () = sleep(age) => held.close(Error::new(Status::Unavailable, "the connection has reached its age")),
            }
            driver.await;
        });
        connection
    }
}

struct Entry {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.shared.connections).remove(&self.number);
        self.shared.left.notify_waiters();
    }
}

/// The network of one process instance. Clones are the same one.
#[derive(Clone)]
pub struct Net(Arc<Shared>);

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Net({} {})", lock(&self.0.hello).party, self.0.security.name())
    }
}

impl Net {
    /// A network on the runtime of the caller. Nothing is listened at or dialled yet.
    ///
    /// # Errors
    /// [`Status::Misuse`] outside a tokio runtime; as [`Hello::encode`] for an introduction that does not fit a frame.
    pub fn new(parts: Parts) -> Result<Net> {
        let runtime = Handle::try_current().map_err(|_| Error::new(Status::Misuse, "a network needs a tokio runtime"))?;
        parts.hello.encode(crate::base::codec::Kind::NetHello)?;
        let shared = Arc::new(Shared {
            transport: parts.transport,
            security: parts.security,
            hello: Mutex::new(parts.hello),
            settings: parts.settings,
            service: parts.service,
            admission: parts.admission,
            rng: Mutex::new(parts.rng),
            runtime,
            numbers: AtomicU64::new(0),
            handshakes: AtomicUsize::new(0),
            connections: Mutex::default(),
            left: Notify::new(),
            peers: Mutex::default(),
            refused: Mutex::default(),
            reload_error: Mutex::default(),
            closing: watch::Sender::new(false),
        });
        if let Security::Tls(tls) = &shared.security {
            shared.runtime.spawn(reload(Arc::downgrade(&shared), tls.clone(), shared.settings.reload_every));
        }
        Ok(Net(shared))
    }

    /// The cluster's lineage has become known.
    pub fn set_lineage(&self, lineage: u128) {
        lock(&self.0.hello).lineage = lineage;
    }

    /// This process's part has changed, as from joiner to member.
    pub fn set_role(&self, role: Role) {
        lock(&self.0.hello).role = role;
    }

    /// Where this process can be dialled, as it says in its hellos.
    pub fn set_address(&self, address: &str) {
        address.clone_into(&mut lock(&self.0.hello).address);
    }

    /// Accepts connections at `address` until [`Net::close`]; answers with the address, port filled in.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] for plain text at an address that other machines can reach; [`Status::Io`] as the system's.
    pub async fn listen(&self, address: &str) -> Result<String> {
        let shared = &self.0;
        if matches!(shared.security, Security::Loopback) && !shared.transport.is_local(address).await {
            return Err(Error::invalid("listen", format_args!("{address} is not a loopback address: use TLS, or choose insecure by name")));
        }
        let listener = shared.transport.listen(address).await?;
        let bound = listener.address();
        shared.runtime.spawn(accept(shared.clone(), listener));
        Ok(bound)
    }

    /// The way to another process. `node` is who must be there; `None` takes any node of the cluster.
    pub fn peer(&self, node: Option<NodeId>, addresses: Vec<String>) -> Peer {
        let peer = Peer::new(self.0.clone(), node, addresses);
        let mut peers = lock(&self.0.peers);
        peers.retain(|peer| peer.strong_count() > 0);
        peers.push(Arc::downgrade(&peer.0));
        peer
    }

    /// Open connections, both ways, oldest first.
    pub fn connections(&self) -> Vec<Connection> {
        lock(&self.0.connections).values().cloned().collect()
    }

    /// Ends every connection with a party: it was removed, or its process was superseded.
    pub fn disconnect(&self, party: &Party, why: &Error) {
        for connection in self.connections() {
            if connection.remote().hello.party == *party {
                connection.close(why.clone());
            }
        }
    }

    /// What operators see.
    pub fn status(&self) -> NetStatus {
        let shared = &self.0;
        NetStatus {
            security: shared.security.name(),
            certificate_expires_s: if let Security::Tls(tls) = &shared.security { Some(tls.expiry_s()) } else { None },
            reload_error: lock(&shared.reload_error).as_ref().map(|e| e.message().to_owned()),
            connections: lock(&shared.connections).len(),
            established: shared.numbers.load(Relaxed),
            refused: lock(&shared.refused).iter().map(|(reason, (count, _))| (format!("{reason:?}"), *count)).collect(),
        }
    }

    /// Stops listening and ends every connection; waits until their tasks are over.
    pub async fn close(&self) {
        self.0.closing.send_replace(true);
        loop {
            let left = self.0.left.notified();
            let mut left = std::pin::pin!(left);
            left.as_mut().enable();
            let open = self.connections();
            if open.is_empty() {
                return;
            }
            open.iter().for_each(|connection| connection.close(Error::new(Status::Closed, "the network was closed")));
            left.await;
        }
    }
}

async fn reload(shared: Weak<Shared>, tls: Arc<Tls>, every: Duration) {
    loop {
        sleep(every).await;
        let Some(shared) = shared.upgrade() else { return };
        let outcome = tls.reload();
        let mut known = lock(&shared.reload_error);
        if let Err(error) = &outcome
            && known.as_ref() != Some(error)
        {
            tracing::warn!("the certificate files in use stay: {}", error.message());
        }
        *known = outcome.err();
    }
}

struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

async fn accept(shared: Arc<Shared>, mut listener: Box<dyn Listener>) {
    let mut closing = shared.closing.subscribe();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => return,
            accepted = listener.accept() => accepted,
        };
        let (wire, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors or memory, as a rule: trying again at once would only burn the processor.
                tracing::warn!("{}", error.message());
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if shared.handshakes.fetch_add(1, Relaxed) >= shared.settings.max_handshakes {
            shared.handshakes.fetch_sub(1, Relaxed);
            continue;
        }
        let shared = shared.clone();
        tokio::spawn(async move {
            let met = {
                let _counted = Counted(&shared.handshakes);
                tokio::time::timeout(shared.settings.accept_timeout, handshake::accept(&shared, wire, &address)).await
            };
            match met {
                Ok(Ok((wire, remote))) => {
                    let party = remote.hello.party.clone();
                    shared.establish(wire, remote, Side::Acceptor);
                    if let Party::Node(id) = party {
                        let peers: Vec<_> = lock(&shared.peers).iter().filter_map(Weak::upgrade).collect();
                        peers.iter().for_each(|peer| peer.nudge(&id));
                    }
                }
                Ok(Err(handshake::Unmet::Refused(refusal))) => shared.note_refusal(&refusal, &address, "refused"),
                Ok(Err(handshake::Unmet::Failed(error))) => tracing::debug!(address, "{}", error.message()),
                Err(_) => tracing::debug!(address, "no hello in time"),
            }
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
