//! What carries bytes: a trait, so that a simulation can put its own network under everything else.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use crate::base::{Error, Result, Status};

use super::socket;

/// A boxed future, as the traits of this module return it.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An ordered, reliable pair of byte streams.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Duplex for T {}

/// Dials and listens. Paths of a simulation: implementations use neither threads nor randomness nor clocks of their own.
pub trait Transport: Send + Sync + 'static {
    /// Connects to an address. The caller bounds the time; dropping the future gives up.
    fn dial<'a>(&'a self, address: &'a str) -> Pending<'a, Result<Box<dyn Duplex>>>;
    /// Listens at an address.
    fn listen<'a>(&'a self, address: &'a str) -> Pending<'a, Result<Box<dyn Listener>>>;
    /// Whether only processes of this machine can be at the other end of `address`: what plain text is for.
    fn is_local<'a>(&'a self, address: &'a str) -> Pending<'a, bool>;
}

/// Accepts connections.
pub trait Listener: Send + 'static {
    /// Where it listens, with the port that was given.
    fn address(&self) -> String;
    /// The next connection and the address of its other end. Dropping the future loses none.
    fn accept(&mut self) -> Pending<'_, Result<(Box<dyn Duplex>, String)>>;
}

/// TCP, with the socket options of [`TcpOptions`]; descriptors are 3 or higher and closed on exec.
#[derive(Clone, Debug, Default)]
pub struct Tcp(pub TcpOptions);

/// Socket options. Besides these, TCP_NODELAY is always on.
#[derive(Clone, Debug)]
pub struct TcpOptions {
    /// Unacknowledged data older than this ends the connection (TCP_USER_TIMEOUT).
    pub user_timeout: Duration,
    /// Idle time before the kernel probes, and between its probes (SO_KEEPALIVE); whole seconds.
    pub keepalive: Duration,
    /// Connections that wait to be accepted.
    pub backlog: u32,
}

impl Default for TcpOptions {
    fn default() -> TcpOptions {
        TcpOptions { user_timeout: Duration::from_secs(10), keepalive: Duration::from_secs(5), backlog: 512 }
    }
}

async fn resolve(address: &str) -> Result<Vec<SocketAddr>> {
    if let Ok(address) = address.parse() {
        return Ok(vec![address]);
    }
    let found = tokio::net::lookup_host(address)
        .await
        .map_err(|e| Error::new(Status::Unavailable, format!("looking up {}: {e}", super::hello::shown(address))))?;
    Ok(found.collect())
}

impl Tcp {
    async fn connect(&self, address: &str) -> Result<TcpStream> {
        let mut last = None;
        for at in resolve(address).await? {
            match socket::stream_socket(at)?.connect(at).await {
                Ok(stream) => return socket::prepare(stream, &self.0),
                Err(e) => last = Some(e),
            }
        }
        Err(match last {
            Some(e) => Error::new(Status::Unavailable, format!("connecting to {address}: {e}")),
            None => Error::new(Status::Unavailable, format!("{address} has no address")),
        })
    }
}

impl Transport for Tcp {
    fn dial<'a>(&'a self, address: &'a str) -> Pending<'a, Result<Box<dyn Duplex>>> {
        Box::pin(async move { Ok(Box::new(self.connect(address).await?) as Box<dyn Duplex>) })
    }

    fn listen<'a>(&'a self, address: &'a str) -> Pending<'a, Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let at = resolve(address).await?.first().copied();
            let at = at.ok_or_else(|| Error::invalid("listen", format_args!("{address} has no address")))?;
            let listening = || format!("listening at {at}");
            let socket = socket::stream_socket(at)?;
            socket.set_reuseaddr(true).map_err(|e| Error::io(listening(), &e))?;
            socket.bind(at).map_err(|e| Error::io(listening(), &e))?;
            let listener = socket.listen(self.0.backlog).map_err(|e| Error::io(listening(), &e))?;
            Ok(Box::new(TcpAcceptor { listener, options: self.0.clone() }) as Box<dyn Listener>)
        })
    }

    fn is_local<'a>(&'a self, address: &'a str) -> Pending<'a, bool> {
        Box::pin(async move { resolve(address).await.is_ok_and(|all| !all.is_empty() && all.iter().all(|a| a.ip().is_loopback())) })
    }
}

struct TcpAcceptor {
    listener: TcpListener,
    options: TcpOptions,
}

impl Listener for TcpAcceptor {
    fn address(&self) -> String {
        self.listener.local_addr().map(|a| a.to_string()).unwrap_or_default()
    }

    fn accept(&mut self) -> Pending<'_, Result<(Box<dyn Duplex>, String)>> {
        Box::pin(async move {
            let (stream, from) = self.listener.accept().await.map_err(|e| Error::io("accepting a connection", &e))?;
            Ok((Box::new(socket::prepare(stream, &self.options)?) as Box<dyn Duplex>, from.to_string()))
        })
    }
}
