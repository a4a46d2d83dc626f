//! Nodes over a real etcd, started here on the loopback with a directory of its own. Run by `make test-etcd`.
#![cfg(feature = "etcd")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tenure::base::{Config, Status};
use tenure::node::{Event, LockOptions, Node, Renew};

const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    process: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    /// A server that answers. `None`, and says so, where Debian's package is not installed.
    fn start() -> Option<Server> {
        if !["/usr/bin/etcd", "/usr/local/bin/etcd"].iter().any(|p| Path::new(p).exists()) {
            eprintln!("skipped: no etcd (Debian's package etcd-server; scripts/setup.sh installs it for root)");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let address = format!("http://127.0.0.1:{}", free_port());
        let peers = format!("http://127.0.0.1:{}", free_port());
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(dir.path()).args(["--listen-client-urls", &address, "--advertise-client-urls", &address]);
        command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
        command.args(["--initial-cluster", &format!("default={peers}")]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Server { process, address, _dir: dir };
        let end = Instant::now() + PATIENCE;
        while let Err(error) = server.node("probe") {
            assert!(Instant::now() < end, "etcd does not answer: {error}");
            thread::sleep(Duration::from_millis(100));
        }
        Some(server)
    }

    fn node(&self, id: &str) -> tenure::base::Result<Node> {
        let mut config = Config::new();
        config.set("etcd", &self.address)?;
        config.set("node_id", id)?;
        Node::open(&config)
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn manual(seconds: u64) -> LockOptions {
    LockOptions { ttl: Duration::from_secs(seconds), renew: Renew::Manual, ..LockOptions::default() }
}

#[test]
fn locks_in_etcd_are_locks() {
    let Some(server) = Server::start() else { return };
    let (a, b) = (server.node("a").unwrap(), server.node("b").unwrap());
    assert_eq!(a.status().form, "plugged");
    assert!(a.status().weaker_modes.is_empty(), "{:?}", a.status().weaker_modes);
    let (one, two) = (a.session(), b.session());
    let options = LockOptions::default();
    let mut last = 0;
    for _ in 0..5 {
        for (mine, theirs) in [(&one, &two), (&two, &one)] {
            let token = mine.try_acquire_token(b"k\x00\xff", &options).unwrap();
            assert!(token.0 > last, "{token} after {last}");
            last = token.0;
            assert_eq!(theirs.try_acquire_token(b"k\x00\xff", &options).unwrap_err().status(), Status::Held);
            let holder = theirs.holder(b"k\x00\xff").unwrap().unwrap();
            assert_eq!((holder.node.as_str(), holder.token), (mine.name(), token));
            mine.release(b"k\x00\xff", token).unwrap();
            assert_eq!(theirs.holder(b"k\x00\xff").unwrap(), None);
            assert_eq!(mine.release(b"k\x00\xff", token).unwrap_err().status(), Status::NotHolder);
        }
    }
    // A name that begins with another is another lock.
    let short = one.try_acquire_token(b"a", &options).unwrap();
    let long = two.try_acquire_token(b"a/b", &options).unwrap();
    one.release(b"a", short).unwrap();
    two.release(b"a/b", long).unwrap();
    a.close(PATIENCE).unwrap();
    b.close(PATIENCE).unwrap();
}

#[test]
fn a_grant_is_renewed_while_its_node_lives_and_runs_out_afterwards() {
    let Some(server) = Server::start() else { return };
    let (a, b) = (server.node("a").unwrap(), server.node("b").unwrap());
    let (one, two) = (a.session(), b.session());
    let options = LockOptions { ttl: Duration::from_secs(3), ..LockOptions::default() };
    let kept = one.acquire_token(b"kept", &options, Some(PATIENCE)).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = told.clone();
    a.subscribe(Box::new(move |event| {
        if let Event::Lost { token, .. } = event {
            tell.lock().unwrap().push(*token);
        }
    }))
    .unwrap();
    let left = one.acquire_token(b"left", &manual(2), Some(PATIENCE)).unwrap();
    assert!(one.renew(b"left", left, Duration::from_secs(4)).unwrap() > Duration::from_secs(3), "a longer lease");
    let later = two.acquire_token(b"left", &options, Some(PATIENCE)).unwrap();
    assert!(later > left);
    assert!(!one.is_held(b"left", left), "two holders at once");
    until("the loss is told", || *told.lock().unwrap() == [left]);
    assert_eq!(one.release(b"left", left).unwrap_err().status(), Status::NotHolder);
    assert!(two.is_held(b"left", later), "a late release freed another's lock");
    assert!(one.is_held(b"kept", kept), "a grant that its node renews was lost");
    assert_eq!(two.try_acquire_token(b"kept", &options).unwrap_err().status(), Status::Held);
    a.close(PATIENCE).unwrap();
    let freed = two.acquire_token(b"kept", &options, Some(PATIENCE)).unwrap();
    assert!(freed > kept, "the close of its node freed it");
    b.close(PATIENCE).unwrap();
}

#[test]
fn waiters_of_three_nodes_are_served_in_order_and_one_at_a_time() {
    let Some(server) = Server::start() else { return };
    let nodes: Vec<Node> = ["a", "b", "c"].iter().map(|id| server.node(id).unwrap()).collect();
    let options = LockOptions::default();
    let held = nodes[0].session().acquire_token(b"k", &options, Some(PATIENCE)).unwrap();
    let queue = Arc::new(Mutex::new(Vec::new()));
    let mut waiters = Vec::new();
    for (i, node) in nodes.iter().enumerate().skip(1) {
        let (session, queue, options) = (node.session(), queue.clone(), options.clone());
        waiters.push(thread::spawn(move || {
            let token = session.acquire_token(b"k", &options, Some(PATIENCE)).unwrap();
            queue.lock().unwrap().push((i, token));
            session.release(b"k", token).unwrap();
        }));
        // In etcd, a waiter is a key beside the holder's.
        until("it waits", || keys(&server) == i as i64 + 1);
    }
    nodes[0].session().release(b"k", held).unwrap();
    for waiter in waiters {
        waiter.join().unwrap();
    }
    let served = queue.lock().unwrap().clone();
    assert_eq!(served.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [1, 2]);
    assert!(held < served[0].1 && served[0].1 < served[1].1);

    let (inside, most, turns) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let workers: Vec<_> = nodes
        .iter()
        .map(|node| {
            let (session, options) = (node.session(), options.clone());
            let (inside, most, turns) = (inside.clone(), most.clone(), turns.clone());
            thread::spawn(move || {
                for _ in 0..10 {
                    let token = session.acquire_token(b"busy", &options, Some(PATIENCE)).unwrap();
                    most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
                    turns.fetch_add(1, SeqCst);
                    inside.fetch_sub(1, SeqCst);
                    session.release(b"busy", token).unwrap();
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    assert_eq!((most.load(SeqCst), turns.load(SeqCst)), (1, 30));
    until("nothing is left in etcd", || keys(&server) == 0);
    for node in &nodes {
        node.close(PATIENCE).unwrap();
    }
}

/// Keys of ours in the server.
fn keys(server: &Server) -> i64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = etcd_client::Client::connect([&server.address], None).await.unwrap();
        let options = etcd_client::GetOptions::new().with_prefix().with_count_only();
        client.get("tenure/locks/", Some(options)).await.unwrap().count()
    })
}

#[test]
fn a_gate_is_closed_in_time_when_etcd_is_gone() {
    let Some(mut server) = Server::start() else { return };
    let node = server.node("a").unwrap();
    let gate = node.gate("writes", &Config::new()).unwrap();
    gate.hold(b"office", Duration::from_secs(3)).unwrap();
    until("it opens", || gate.check().is_ok());
    let epoch = gate.check().unwrap();
    assert_eq!(node.session().holder(b"office").unwrap().unwrap().token.0, epoch);
    let gone = Instant::now();
    server.process.kill().unwrap();
    until("it closes", || gate.check().is_err());
    assert!(gone.elapsed() < Duration::from_secs(3) + Duration::from_secs(1), "it closed after {:?}", gone.elapsed());
    let error = node.session().try_acquire_token(b"other", &LockOptions::default()).unwrap_err();
    assert_eq!(error.status(), Status::Unavailable);
    let _ = node.close(Duration::from_secs(1));
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let mut config = Config::new();
    config.set("etcd", &format!("http://127.0.0.1:{}", free_port())).unwrap();
    let error = Node::open(&config).err().unwrap();
    assert_eq!(error.status(), Status::Unavailable);
    assert!(error.message().starts_with("etcd: "), "{error}");
}
