//! etcd as a lock service: for those who run it already.
//!
//! A lock is a folder of keys, one for each holder or waiter, bound to a lease of its own. The oldest key holds the lock, its create revision is the
//! token, and a waiter watches the key before its own: nobody is woken in vain, and turns are in order. Renewals are keep-alives that we send, so
//! that a holder's time counts from their sending. Source of the shape: the lock of etcd's own client, `clientv3/concurrency`; unlike it,
//! who has waited makes sure that its own key is still there before it believes to hold the lock.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::future::Future;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, GetOptions, Identity, KeyValue, PutOptions, SortOrder, SortTarget, TlsOptions,
    Txn, TxnOp, TxnOpResponse, WatchOptions,
};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::{Attempt, Capabilities, Holding, LockService};
use crate::base::{Config, Error, Result, Status, process};

/// How long opening waits for the first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// Locks in an etcd cluster. Any thread may use it.
pub struct Etcd {
    client: Client,
    runtime: Handle,
    node: String,
    prefix: String,
    held: Arc<Mutex<HashMap<u64, Held>>>,
    /// Dropped, it ends the runtime's thread.
    _stop: oneshot::Sender<()>,
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd").field("node", &self.node).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

fn failed(what: &str, error: &etcd_client::Error) -> Error {
    let status = match error {
        etcd_client::Error::InvalidArgs(_) | etcd_client::Error::InvalidUri(_) => Status::InvalidArgument,
        // Invalid argument, permission denied, unimplemented, unauthenticated: asking again does not help.
        etcd_client::Error::GRpcStatus(status) if [3, 7, 12, 16].contains(&(status.code() as i32)) => Status::ServiceFailed,
        _ => Status::Unavailable,
    };
    Error::new(status, format!("etcd: {what}: {error}"))
}

/// Whether etcd says that there is no such lease.
fn no_lease(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status) if status.code() as i32 == 5)
        || matches!(error, etcd_client::Error::LeaseKeepAliveError(_))
}

fn read(config: &Config, name: &str) -> Result<Option<Vec<u8>>> {
    match config.get(name)? {
        "" => Ok(None),
        path => std::fs::read(path).map(Some).map_err(|e| Error::io(format_args!("{name}: reading {path}"), &e)),
    }
}

fn tls(config: &Config) -> Result<Option<TlsOptions>> {
    let (ca, certificate, key) = (read(config, "tls_ca")?, read(config, "tls_cert")?, read(config, "tls_key")?);
    let Some(ca) = ca else { return Ok(None) };
    let options = TlsOptions::new().ca_certificate(Certificate::from_pem(ca));
    Ok(Some(match (certificate, key) {
        (Some(certificate), Some(key)) => options.identity(Identity::from_pem(certificate, key)),
        _ => options,
    }))
}

/// A lease that is revoked when it is dropped, unless it was kept.
struct Lease {
    client: Client,
    id: i64,
    ttl: i64,
    kept: bool,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (mut client, id) = (self.client.clone(), self.id);
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = client.lease_revoke(id).await {
                    tracing::debug!(%error, "etcd: a lease that runs out by itself");
                }
            });
        }
    }
}

/// What is behind a token.
#[derive(Clone)]
struct Held {
    /// The key that holds the lock.
    name: String,
    lease: i64,
    /// The lease's, in seconds.
    ttl: i64,
}

/// What the operations work with, on the runtime's thread.
#[derive(Clone)]
struct Locks {
    client: Client,
    node: String,
    held: Arc<Mutex<HashMap<u64, Held>>>,
}

fn oldest(kvs: &[KeyValue]) -> Option<&KeyValue> {
    kvs.iter().min_by_key(|kv| kv.create_revision())
}

fn token(kv: &KeyValue) -> u64 {
    u64::try_from(kv.create_revision()).unwrap_or(0)
}

fn first_of() -> GetOptions {
    GetOptions::new().with_prefix().with_sort(SortTarget::Create, SortOrder::Ascend).with_limit(1)
}

impl Locks {
    fn held(&self) -> MutexGuard<'_, HashMap<u64, Held>> {
        // Insertions and removals: whole at every step.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn first(&mut self, folder: &str) -> Result<Option<KeyValue>> {
        let found = self.client.get(folder, Some(first_of())).await.map_err(|e| failed("get", &e))?;
        Ok(found.kvs().first().cloned())
    }

    /// Puts a key of ours into the folder. Its name, its revision, and the oldest key in the folder at that revision.
    async fn enter(&mut self, folder: &str, ttl: i64) -> Result<(Lease, String, i64, Option<KeyValue>)> {
        let granted = self.client.lease_grant(ttl, None).await.map_err(|e| failed("lease", &e))?;
        let lease = Lease { client: self.client.clone(), id: granted.id(), ttl: granted.ttl(), kept: false };
        let name = format!("{folder}{:016x}", lease.id);
        let put = TxnOp::put(name.clone(), self.node.clone(), Some(PutOptions::new().with_lease(lease.id)));
        let free = Compare::create_revision(name.clone(), CompareOp::Equal, 0);
        let txn = Txn::new().when([free]).and_then([put, TxnOp::get(folder, Some(first_of()))]);
        let answer = self.client.txn(txn).await.map_err(|e| failed("txn", &e))?;
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        if !answer.succeeded() {
            return Err(Error::new(Status::ServiceFailed, format!("etcd: {name} was there before its lease")));
        }
        let first = answer.op_responses().into_iter().find_map(|op| match op {
            TxnOpResponse::Get(get) => oldest(get.kvs()).cloned(),
            _ => None,
        });
        Ok((lease, name, revision, first))
    }

    fn keep(&self, mut lease: Lease, name: String, revision: i64) -> Attempt {
        lease.kept = true;
        let token = u64::try_from(revision).unwrap_or(0);
        self.held().insert(token, Held { name, lease: lease.id, ttl: lease.ttl });
        Attempt::Acquired { token }
    }

    async fn try_acquire(mut self, folder: String, ttl: i64) -> Result<Attempt> {
        // Asked first: a refusal then costs no lease.
        if let Some(holder) = self.first(&folder).await? {
            return Ok(Attempt::Held { token: token(&holder) });
        }
        let (lease, name, revision, first) = self.enter(&folder, ttl).await?;
        match first {
            Some(first) if first.create_revision() != revision => Ok(Attempt::Held { token: token(&first) }),
            _ => Ok(self.keep(lease, name, revision)),
        }
    }

    async fn acquire(mut self, folder: String, ttl: i64, wait: Duration) -> Result<Attempt> {
        let over = tokio::time::sleep(wait);
        tokio::pin!(over);
        let (lease, name, revision, _) = self.enter(&folder, ttl).await?;
        let each = Duration::from_secs(u64::try_from(lease.ttl).unwrap_or(1).max(1)) / 3;
        loop {
            let before = GetOptions::new()
                .with_prefix()
                .with_max_create_revision(revision - 1)
                .with_sort(SortTarget::Create, SortOrder::Descend)
                .with_limit(1);
            let found = self.client.get(folder.clone(), Some(before)).await.map_err(|e| failed("get", &e))?;
            let Some(before) = found.kvs().first().cloned() else { break };
            let seen = found.header().map_or(0, etcd_client::ResponseHeader::revision);
            let options = WatchOptions::new().with_start_revision(seen + 1);
            let mut watch = self.client.watch(before.key(), Some(options)).await.map_err(|e| failed("watch", &e))?;
            loop {
                tokio::select! {
                    () = &mut over => return Ok(Attempt::Held { token: token(&before) }),
                    () = tokio::time::sleep(each) => {
                        if !self.keep_alive(lease.id).await? {
                            return Err(Error::new(Status::Unavailable, "etcd: the lease ran out while waiting"));
                        }
                    }
                    // Whatever has happened to that key: looked at again.
                    told = watch.message() => match told {
                        Ok(_) => break,
                        Err(error) => return Err(failed("watch", &error)),
                    }
                }
            }
        }
        // The lease may have run out while it waited.
        let mine = self.client.get(name.clone(), None).await.map_err(|e| failed("get", &e))?;
        match mine.kvs().first() {
            Some(kv) if kv.create_revision() == revision => Ok(self.keep(lease, name, revision)),
            _ => Err(Error::new(Status::Unavailable, "etcd: the lease ran out while waiting")),
        }
    }

    /// False when the lease is gone.
    async fn keep_alive(&mut self, lease: i64) -> Result<bool> {
        let (mut keeper, mut answers) = match self.client.lease_keep_alive(lease).await {
            Ok(opened) => opened,
            Err(error) if no_lease(&error) => return Ok(false),
            Err(error) => return Err(failed("keep-alive", &error)),
        };
        keeper.keep_alive().await.map_err(|e| failed("keep-alive", &e))?;
        match answers.message().await {
            Ok(Some(answer)) => Ok(answer.ttl() > 0),
            Ok(None) => Err(Error::new(Status::Unavailable, "etcd: the keep-alive was not answered")),
            Err(error) if no_lease(&error) => Ok(false),
            Err(error) => Err(failed("keep-alive", &error)),
        }
    }

    async fn renew(mut self, token: u64, ttl: i64) -> Result<bool> {
        let Some(held) = self.held().get(&token).cloned() else { return Ok(false) };
        if ttl > held.ttl {
            return self.extend(token, held, ttl).await;
        }
        if !self.keep_alive(held.lease).await? {
            return Ok(false);
        }
        // The lease lives; an operator may have deleted the key all the same.
        let there = Txn::new().when([is_current(&held.name, token)]);
        Ok(self.client.txn(there).await.map_err(|e| failed("txn", &e))?.succeeded())
    }

    /// A lease has one ttl for life: the key moves to a longer one, and keeps its name and its revision.
    async fn extend(&mut self, token: u64, held: Held, ttl: i64) -> Result<bool> {
        let granted = self.client.lease_grant(ttl, None).await.map_err(|e| failed("lease", &e))?;
        let mut lease = Lease { client: self.client.clone(), id: granted.id(), ttl: granted.ttl(), kept: false };
        let put = TxnOp::put(held.name.clone(), self.node.clone(), Some(PutOptions::new().with_lease(lease.id)));
        let txn = Txn::new().when([is_current(&held.name, token)]).and_then([put]);
        if !self.client.txn(txn).await.map_err(|e| failed("txn", &e))?.succeeded() {
            return Ok(false);
        }
        lease.kept = true;
        drop(Lease { client: self.client.clone(), id: held.lease, ttl: held.ttl, kept: false });
        self.held().insert(token, Held { name: held.name, lease: lease.id, ttl: lease.ttl });
        Ok(true)
    }

    async fn release(mut self, token: u64) -> Result<bool> {
        let Some(held) = self.held().get(&token).cloned() else { return Ok(false) };
        let txn = Txn::new().when([is_current(&held.name, token)]).and_then([TxnOp::delete(held.name.clone(), None)]);
        let deleted = self.client.txn(txn).await.map_err(|e| failed("txn", &e))?.succeeded();
        self.held().remove(&token);
        drop(Lease { client: self.client.clone(), id: held.lease, ttl: held.ttl, kept: false });
        Ok(deleted)
    }

    async fn holder(mut self, folder: String) -> Result<Option<Holding>> {
        let Some(first) = self.first(&folder).await? else { return Ok(None) };
        let node = String::from_utf8_lossy(first.value()).into_owned();
        Ok(Some(Holding { node, token: token(&first), remaining: None }))
    }
}

fn is_current(name: &str, token: u64) -> Compare {
    Compare::create_revision(name, CompareOp::Equal, i64::try_from(token).unwrap_or(i64::MAX))
}

/// Whole seconds, up.
fn seconds(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1)
}

impl Etcd {
    /// Connects with the settings `etcd` (comma list of `http://` or `https://` addresses), `etcd_prefix`, and for TLS `tls_ca`, `tls_cert` and
    /// `tls_key`. `node` is the name that others see as the holder's.
    ///
    /// # Errors
    /// [`Status::Unavailable`] when no address answers, [`Status::Io`] for a file that cannot be read, [`Status::InvalidArgument`].
    pub fn connect(config: &Config, node: &str) -> Result<Etcd> {
        let addresses: Vec<String> = config.get("etcd")?.split(',').map(|a| a.trim().to_owned()).collect();
        let tls = tls(config)?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| Error::io("a runtime for etcd", &e))?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        process::spawn("tenure-etcd", move || _ = runtime.block_on(stopped))?;
        let mut options = ConnectOptions::new().with_connect_timeout(FIRST_ANSWER);
        if let Some(tls) = tls {
            options = options.with_tls(tls);
        }
        let client = run(&handle, FIRST_ANSWER, async move {
            let mut client = Client::connect(addresses, Some(options)).await.map_err(|e| failed("connect", &e))?;
            client.status().await.map_err(|e| failed("status", &e))?;
            Ok(client)
        })?;
        let (node, prefix) = (node.to_owned(), config.get("etcd_prefix")?.to_owned());
        Ok(Etcd { client, runtime: handle, node, prefix, held: Arc::default(), _stop: stop })
    }

    fn locks(&self) -> Locks {
        Locks { client: self.client.clone(), node: self.node.clone(), held: self.held.clone() }
    }

    /// The folder of a lock: its name in hexadecimal, so that no folder is inside another.
    fn folder(&self, key: &[u8]) -> String {
        let mut folder = self.prefix.clone();
        for byte in key {
            let _ = write!(folder, "{byte:02x}");
        }
        folder.push('/');
        folder
    }

    fn run<T: Send + 'static>(&self, limit: Duration, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        run(&self.runtime, limit, work)
    }
}

/// Runs on the runtime's thread; what is not done in time is dropped there, and gives its lease back.
fn run<T: Send + 'static>(runtime: &Handle, limit: Duration, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let (tx, rx) = sync_channel(1);
    runtime.spawn(async move {
        let late = || Error::new(Status::Unavailable, "etcd: no answer in time");
        let ended = tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(late()));
        let _ = tx.send(ended);
    });
    rx.recv().map_err(|_| Error::from(Status::Closed))?
}

impl LockService for Etcd {
    fn node_id(&self) -> Result<String> {
        Ok(self.node.clone())
    }

    fn capabilities(&self) -> Capabilities {
        let second = Duration::from_secs(1);
        Capabilities {
            fencing: true,
            renew: true,
            wait: true,
            fair: true,
            linearizable_reads: true,
            ttl_granularity: second,
            ttl_min: second,
            ..Capabilities::default()
        }
    }

    fn try_acquire(&self, key: &[u8], ttl: Duration, limit: Duration) -> Result<Attempt> {
        self.run(limit, self.locks().try_acquire(self.folder(key), seconds(ttl)))
    }

    fn release(&self, _key: &[u8], token: u64, limit: Duration) -> Result<bool> {
        self.run(limit, self.locks().release(token))
    }

    fn renew(&self, _key: &[u8], token: u64, ttl: Duration, limit: Duration) -> Result<bool> {
        self.run(limit, self.locks().renew(token, seconds(ttl)))
    }

    fn holder(&self, key: &[u8], limit: Duration) -> Result<Option<Holding>> {
        self.run(limit, self.locks().holder(self.folder(key)))
    }

    fn acquire(&self, key: &[u8], ttl: Duration, wait: Duration) -> Result<Attempt> {
        self.run(wait.saturating_add(FIRST_ANSWER), self.locks().acquire(self.folder(key), seconds(ttl), wait))
    }
}
