//! Messages of members over [`crate::net`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::core::{Call, Server, Transport, now};
use super::wire::Lane;
use crate::base::{Error, NodeId, Result, Rng, Status};
use crate::net::{self, Admission, Class, Connection, Hello, Method, Net, Party, Peer, Refusal, Reply, Request, Role, Security};

/// The one method: what is asked is in the message.
const MESSAGE: Method = Method(1);

fn class(lane: Lane) -> Class {
    match lane {
        Lane::Control => Class::Control,
        Lane::Bulk => Class::Bulk,
        Lane::Snapshot => Class::Snapshot,
        Lane::Client => Class::Client,
    }
}

/// Whoever passes the handshake may talk; each message is judged by what it says of its sender, see [`super::roster`].
struct Nodes;

impl Admission for Nodes {
    fn admit(&self, hello: &Hello) -> std::result::Result<(), Refusal> {
        match &hello.party {
            Party::Client(_) if hello.class != Class::Client => {
                Err(Refusal::new(net::Reason::NotAllowed, format!("{} is not a node", hello.party)))
            }
            Party::Node(_) | Party::Client(_) => Ok(()),
        }
    }
}

struct Answers {
    server: Server,
    clients: Arc<dyn net::Service>,
}

impl net::Service for Answers {
    fn handle(&self, from: Connection, request: Request) -> Reply {
        let hello = &from.remote().hello;
        match &hello.party {
            Party::Node(name) if request.method == MESSAGE => self.server.serve(Some((name.clone(), hello.disk)), request.body.clone()),
            Party::Client(_) => self.clients.handle(from, request),
            Party::Node(_) => Box::pin(async { Err(Error::new(Status::InvalidArgument, "not a message of members")) }),
        }
    }

    fn closed(&self, connection: &Connection, why: &Error) {
        self.clients.closed(connection, why);
    }
}

/// Who this node is to others.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// The cluster's name.
    pub cluster: String,
    /// The node's name.
    pub name: NodeId,
    /// The random number of its data directory.
    pub disk: u128,
    /// A random number of this opening.
    pub boot: u128,
    /// What tells its cluster from others of its name; 0 when it does not know that yet.
    pub lineage: u128,
}

/// The way to the other members by [`crate::net`].
pub struct Links {
    net: Net,
    peers: Mutex<BTreeMap<(String, String), Peer>>,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").field("net", &self.net).finish_non_exhaustive()
    }
}

impl Links {
    /// Listens at `listen`, and has `server` answer members and `clients` everybody else. Inside the member's runtime. Answers the address too, its port filled in.
    ///
    /// # Errors
    /// As [`Net::new`] and [`Net::listen`].
    pub async fn open(
        who: Introduction,
        listen: &str,
        transport: Arc<dyn net::Transport>,
        security: Security,
        rng: Box<dyn Rng>,
        server: Server,
        clients: Arc<dyn net::Service>,
    ) -> Result<(Links, String)> {
        let hello = Hello {
            protocol: net::PROTOCOL,
            protocol_min: net::PROTOCOL_MIN,
            cluster: who.cluster,
            lineage: who.lineage,
            party: Party::node(&who.name),
            role: Role::Member,
            disk: who.disk,
            boot: who.boot,
            class: Class::Control,
            to: None,
            address: String::new(),
        };
        let settings =
            net::Settings { backoff_max: Duration::from_millis(200), connect_timeout: Duration::from_secs(1), ..net::Settings::default() };
        let service = Arc::new(Answers { server, clients });
        let net = Net::new(net::Parts { transport, security, hello, settings, service, admission: Arc::new(Nodes), rng })?;
        let address = net.listen(listen).await?;
        Ok((Links { net, peers: Mutex::default() }, address))
    }

    /// The network: its security, connections, refusals.
    pub fn status(&self) -> net::NetStatus {
        self.net.status()
    }

    fn peer(&self, name: &str, address: &str) -> Result<Peer> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(&(name.to_owned(), address.to_owned())) {
            return Ok(peer.clone());
        }
        let node = if name.is_empty() { None } else { Some(NodeId::new(name)?) };
        let peer = self.net.peer(node, vec![address.to_owned()]);
        peers.insert((name.to_owned(), address.to_owned()), peer.clone());
        Ok(peer)
    }
}

impl Transport for Links {
    fn founded(&self, lineage: u128) {
        self.net.set_lineage(lineage);
    }

    fn call(&self, name: &str, address: &str, lane: Lane, body: Vec<u8>, timeout: Duration) -> Call {
        let peer = self.peer(name, address);
        Box::pin(async move {
            let start = now();
            let unsent = |e: Error| Error::new(Status::Io, e.message().to_owned());
            let connection = peer?.connection(class(lane), timeout).await.map_err(unsent)?;
            let left = timeout.saturating_sub(start.elapsed()).max(Duration::from_millis(1));
            connection.call(net::Ask::new(MESSAGE, left), &body).await
        })
    }
}
