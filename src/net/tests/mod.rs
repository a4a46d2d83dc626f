//! The network through its public face: over TCP, over TLS, over the fabric.

mod fabric;
mod rpc;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::base::SeededRng;

pub const ECHO: Method = Method(1);
pub const NEVER: Method = Method(2);
pub const FAIL: Method = Method(3);
pub const PANIC: Method = Method(4);
pub const COUNT: Method = Method(5);
pub const SMALL: Method = Method(6);
pub const TICK: Method = Method(7);
pub const SINK: Method = Method(8);
pub const LATE: Method = Method(9);

pub const SECOND: Duration = Duration::from_secs(1);

/// Answers, and remembers what a test wants to know.
#[derive(Default)]
pub struct Probe {
    pub running: AtomicUsize,
    pub dropped: AtomicUsize,
    pub events: Mutex<Vec<Vec<u8>>>,
    pub closed: Mutex<Vec<Error>>,
    pub opened: Mutex<Vec<Connection>>,
    pub order: Mutex<Vec<String>>,
}

struct Running(Arc<Probe>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
        self.0.dropped.fetch_add(1, SeqCst);
    }
}

pub struct Probed(pub Arc<Probe>);

impl Service for Probed {
    fn cap(&self, class: Class, method: Method) -> usize {
        if method == SMALL { 16 } else { class.payload_cap() }
    }

    fn handle(&self, from: Connection, request: Request) -> Reply {
        let probe = self.0.clone();
        probe.running.fetch_add(1, SeqCst);
        let running = Running(probe.clone());
        Box::pin(async move {
            let _running = running;
            match request.method {
                NEVER => std::future::pending().await,
                FAIL => Err(Error::new(Status::Held, "taken").with_token(9)),
                PANIC => panic!("on purpose"),
                LATE => {
                    sleep(Duration::from_millis(20)).await;
                    probe.order.lock().unwrap().push(format!("{:?}", from.class()));
                    Ok(request.body.clone())
                }
                TICK => {
                    from.push(TICK, &request.body)?;
                    Ok(Bytes::new())
                }
                _ => Ok(request.body.clone()),
            }
        })
    }

    fn stream(&self, _: Connection, open: Request, mut stream: Stream) -> Task {
        let probe = self.0.clone();
        Box::pin(async move {
            match open.method {
                FAIL => Err(Error::new(Status::NotHolder, "no stream")),
                COUNT => {
                    let mut count = 0u64;
                    while let Some(item) = stream.receiver.recv().await? {
                        count += item.len() as u64;
                        stream.sender.send(&count.to_le_bytes()).await?;
                    }
                    Ok(())
                }
                SINK => {
                    let mut snapshot = snapshot::SnapshotReceiver::new(stream.receiver, 8 << 20);
                    let mut got = 0;
                    while let Some(part) = snapshot.next().await? {
                        got += part.len();
                    }
                    stream.sender.send(&got.to_le_bytes()).await
                }
                NEVER => {
                    let error = stream.receiver.recv().await;
                    probe.order.lock().unwrap().push(format!("{error:?}"));
                    Ok(())
                }
                _ => {
                    probe.running.fetch_add(1, SeqCst);
                    let _running = Running(probe.clone());
                    std::future::pending().await
                }
            }
        })
    }

    fn event(&self, _: &Connection, _: Method, body: Bytes) {
        self.0.events.lock().unwrap().push(body.to_vec());
    }

    fn opened(&self, connection: &Connection) {
        self.0.opened.lock().unwrap().push(connection.clone());
    }

    fn closed(&self, _: &Connection, why: &Error) {
        self.0.closed.lock().unwrap().push(why.clone());
    }
}

/// A process: its network and what it saw.
pub struct Process {
    pub net: Net,
    pub probe: Arc<Probe>,
    pub roster: Arc<Roster>,
}

pub fn hello(name: &str) -> Hello {
    let boot = name.bytes().fold(7u128, |n, b| n * 257 + u128::from(b));
    Hello { boot, class: Class::Control, to: None, address: String::new(), ..super::hello::tests::hello(name) }
}

pub struct Build {
    pub hello: Hello,
    pub transport: Arc<dyn Transport>,
    pub security: Security,
    pub settings: Settings,
}

impl Build {
    pub fn tcp(name: &str) -> Build {
        Build { hello: hello(name), transport: Arc::new(Tcp::default()), security: Security::Loopback, settings: Settings::default() }
    }

    pub fn done(self) -> Process {
        let (probe, roster) = (Arc::new(Probe::default()), Arc::new(Roster::new()));
        let net = Net::new(Parts {
            transport: self.transport,
            security: self.security,
            hello: self.hello,
            settings: self.settings,
            service: Arc::new(Probed(probe.clone())),
            admission: roster.clone(),
            rng: Box::new(SeededRng::new(1)),
        });
        Process { net: net.unwrap(), probe, roster }
    }
}

pub fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub fn run<F: Future<Output = ()>>(test: F) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test hangs");
    });
}

/// Runs with a clock that jumps to the next timer when nothing else can happen.
pub fn simulate<F: Future<Output = ()>>(test: F) {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
        tokio::time::timeout(Duration::from_secs(100_000), test).await.expect("the test hangs");
    });
}

/// Waits until `done`.
pub async fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        sleep(Duration::from_millis(1)).await;
    }
}

pub fn ask(method: Method) -> Ask {
    Ask::new(method, 10 * SECOND)
}
