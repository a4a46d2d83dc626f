//! The way to another process: one connection for each class, made anew when it breaks.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout_at};

use crate::base::{Error, NodeId, Result, Status};

use super::conn::{Ask, Connection};
use super::handshake::{self, Unmet};
use super::hello::{Class, Refusal};
use super::now;
use super::stream::Stream;
use super::{Method, Shared};

/// A connection that was retired for its age may finish what is in progress for this long.
const RETIRE: Duration = Duration::from_secs(30);

/// How a link stands.
#[derive(Clone, Debug)]
pub enum LinkState {
    /// The first attempt, or the first one after a connection was lost. Calls wait for it.
    Connecting,
    /// Connected.
    Up(Connection),
    /// The last attempt failed and the next one comes by itself. Calls fail at once with this error.
    Down {
        /// What went wrong.
        error: Error,
        /// Set when the two do not talk, rather than cannot.
        refusal: Option<Refusal>,
    },
}

struct Target {
    node: Option<NodeId>,
    addresses: Mutex<Vec<String>>,
}

struct Link {
    class: Class,
    state: watch::Sender<LinkState>,
    nudged: Notify,
}

pub(super) struct Inner {
    shared: Arc<Shared>,
    target: Arc<Target>,
    links: [OnceLock<(Arc<Link>, AbortHandle)>; Class::ALL.len()],
}

impl Drop for Inner {
    fn drop(&mut self) {
        for (link, task) in self.links.iter().filter_map(OnceLock::get) {
            task.abort();
            if let LinkState::Up(connection) = &*link.state.borrow() {
                connection.close(Error::new(Status::Closed, "the peer was dropped"));
            }
        }
    }
}

impl Inner {
    /// The node is known to be alive: do not wait out a pause.
    pub fn nudge(&self, node: &str) {
        if self.target.node.as_ref().is_some_and(|id| id.as_str() == node) {
            self.links.iter().filter_map(OnceLock::get).for_each(|(link, _)| link.nudged.notify_one());
        }
    }
}

/// Another process, by its addresses. Clones are the same peer; when the last one is dropped its connections close.
#[derive(Clone)]
pub struct Peer(pub(super) Arc<Inner>);

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peer({:?} at {:?})", self.0.target.node, self.addresses())
    }
}

impl Peer {
    pub(super) fn new(shared: Arc<Shared>, node: Option<NodeId>, addresses: Vec<String>) -> Peer {
        let target = Arc::new(Target { node, addresses: Mutex::new(addresses) });
        Peer(Arc::new(Inner { shared, target, links: Default::default() }))
    }

    /// Where it is looked for.
    pub fn addresses(&self) -> Vec<String> {
        self.0.target.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It is to be looked for here from now on. Existing connections stay.
    pub fn set_addresses(&self, addresses: Vec<String>) {
        *self.0.target.addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
        self.0.links.iter().filter_map(OnceLock::get).for_each(|(link, _)| link.nudged.notify_one());
    }

    fn link(&self, class: Class) -> &Arc<Link> {
        let (link, _) = self.0.links[class as usize].get_or_init(|| {
            let link = Arc::new(Link { class, state: watch::Sender::new(LinkState::Connecting), nudged: Notify::new() });
            let task = maintain(self.0.shared.clone(), self.0.target.clone(), link.clone());
            (link, self.0.shared.runtime.spawn(task).abort_handle())
        });
        link
    }

    /// How the link of a class stands; starts it if it was not used yet.
    pub fn state(&self, class: Class) -> LinkState {
        self.link(class).state.borrow().clone()
    }

    /// The connection of a class. Waits while the first attempt is under way, and not while the peer is known to be out of
    /// reach.
    ///
    /// # Errors
    /// [`Status::Refused`] when the two do not talk, [`Status::Unavailable`] when they cannot, [`Status::Closed`] after
    /// [`super::Net::close`].
    pub async fn connection(&self, class: Class, timeout: Duration) -> Result<Connection> {
        let deadline = now() + timeout;
        let mut state = self.link(class).state.subscribe();
        loop {
            match &*state.borrow_and_update() {
                LinkState::Up(connection) if connection.is_open() => return Ok(connection.clone()),
                LinkState::Down { error, .. } => return Err(error.clone()),
                LinkState::Up(_) | LinkState::Connecting => {}
            }
            match timeout_at(deadline, state.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Status::Closed.into()),
                Err(_) => return Err(Error::new(Status::Unavailable, format!("no connection to {self:?} within {timeout:?}"))),
            }
        }
    }

    /// Asks over the connection of a class; the timeout covers waiting for the connection too.
    ///
    /// # Errors
    /// As [`Peer::connection`] and [`Connection::call`].
    pub async fn call(&self, class: Class, ask: Ask, body: &[u8]) -> Result<Bytes> {
        let start = now();
        let connection = self.connection(class, ask.timeout).await?;
        let timeout = ask.timeout.saturating_sub(start.elapsed()).max(Duration::from_millis(1));
        connection.call(Ask { timeout, ..ask }, body).await
    }

    /// Opens a stream over the connection of a class.
    ///
    /// # Errors
    /// As [`Peer::connection`] and [`Connection::open`].
    pub async fn open(&self, class: Class, method: Method, head: &[u8], timeout: Duration) -> Result<Stream> {
        self.connection(class, timeout).await?.open(method, head)
    }
}

async fn attempt(shared: &Arc<Shared>, target: &Target, class: Class, turn: usize) -> std::result::Result<Connection, Unmet> {
    let address = {
        let addresses = target.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let count = addresses.len().max(1);
        addresses.get(turn % count).cloned()
    };
    let Some(address) = address else { return Err(Error::new(Status::Unavailable, "the peer has no address").into()) };
    let limit = shared.settings.connect_timeout;
    let dialled = tokio::time::timeout(limit, handshake::dial(shared, &address, target.node.as_ref(), class)).await;
    let (wire, remote) =
        dialled.unwrap_or_else(|_| Err(Error::new(Status::Unavailable, format!("no connection to {address} within {limit:?}")).into()))?;
    Ok(shared.establish(wire, remote, super::Side::Dialler))
}

/// Waits for what is in progress, then closes.
async fn retire(connection: Connection) {
    let deadline = now() + RETIRE;
    while connection.is_open() && connection.in_flight() > 0 && now() < deadline {
        sleep(Duration::from_millis(100)).await;
    }
    connection.close(Error::new(Status::Unavailable, "the connection was replaced by a younger one"));
}

async fn maintain(shared: Arc<Shared>, target: Arc<Target>, link: Arc<Link>) {
    let (mut failures, mut turn) = (0u32, 0usize);
    let mut old: Option<Connection> = None;
    loop {
        if shared.is_closing() {
            link.state.send_replace(LinkState::Down { error: Status::Closed.into(), refusal: None });
            return;
        }
        match attempt(&shared, &target, link.class, turn).await {
            Ok(connection) => {
                link.state.send_replace(LinkState::Up(connection.clone()));
                if let Some(old) = old.take() {
                    tokio::spawn(retire(old));
                }
                let since = now();
                tokio::select! {
                    biased;
                    _ = connection.closed() => link.state.send_replace(LinkState::Connecting),
                    () = sleep(shared.dialler_age(&connection)) => {
                        old = Some(connection);
                        continue;
                    }
                };
                // One that breaks at once is as good as none; one that served is replaced without delay.
                failures = if since.elapsed() < shared.settings.backoff_max { failures + 1 } else { 0 };
            }
            Err(unmet) => {
                failures = failures.saturating_add(1);
                turn += 1;
                if old.as_ref().is_none_or(|old| !old.is_open()) {
                    let refusal = if let Unmet::Refused(refusal) = &unmet { Some(refusal.clone()) } else { None };
                    link.state.send_replace(LinkState::Down { error: unmet.error(), refusal });
                }
            }
        }
        if failures > 0 {
            let tries = u32::try_from(target.addresses.lock().unwrap_or_else(PoisonError::into_inner).len().max(1)).unwrap_or(1);
            let pause = shared.backoff(failures.div_ceil(tries));
            tokio::select! {
                biased;
                () = link.nudged.notified() => {}
                () = sleep(pause) => {}
            }
        }
    }
}
