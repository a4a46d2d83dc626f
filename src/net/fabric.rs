//! A network in memory: hosts by name, and links that delay, lose, cut and break as the owner says.
//!
//! It behaves as TCP does: bytes come in order or not at all; a lost segment comes late, after the retransmission delay, and so
//! does all that follows it; while a direction is cut nothing passes, and what was under way passes after healing. Only the
//! owner's generator decides, and only tokio's clock counts, so a paused clock makes every run of a seed the same.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::base::{Error, Result, Rng, Status};

use super::now;
use super::transport::{Duplex, Listener, Pending, Transport};

/// Bytes under way in one direction of a connection before its writer waits.
const WINDOW: usize = 256 << 10;

/// How one direction between two hosts behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The shortest way takes this long.
    pub delay_min: Duration,
    /// The longest.
    pub delay_max: Duration,
    /// Of a thousand segments, so many are lost and sent again.
    pub loss_per_mille: u16,
    /// How much later a segment that was lost arrives.
    pub retransmit: Duration,
}

impl Default for Rule {
    fn default() -> Rule {
        let delay = Duration::from_micros(50);
        Rule { delay_min: delay, delay_max: delay, loss_per_mille: 0, retransmit: Duration::from_millis(200) }
    }
}

#[derive(Default)]
struct Pipe {
    from: String,
    to: String,
    segments: VecDeque<(Instant, VecDeque<u8>)>,
    bytes: usize,
    last: Option<Instant>,
    /// The writer has finished; readers see the end after the last byte.
    finished: bool,
    /// The connection is broken: both ends see an error.
    broken: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }
}

struct Waiting {
    listening: bool,
    dialled: VecDeque<(Duct, String)>,
    acceptor: Option<Waker>,
}

struct World {
    rng: Box<dyn Rng>,
    rules: BTreeMap<(String, String), Rule>,
    default: Rule,
    cut: BTreeSet<(String, String)>,
    listeners: BTreeMap<String, Waiting>,
    pipes: BTreeMap<u64, Pipe>,
    next: u64,
    /// Dials that wait for a link to heal.
    held: Vec<Waker>,
    delivered: u64,
}

impl World {
    fn is_cut(&self, from: &str, to: &str) -> bool {
        !self.cut.is_empty() && self.cut.contains(&(from.to_owned(), to.to_owned()))
    }

    fn arrival(&mut self, from: &str, to: &str) -> Duration {
        let rule = self.rules.get(&(from.to_owned(), to.to_owned())).copied().unwrap_or(self.default);
        let spread = rule.delay_max.saturating_sub(rule.delay_min).as_nanos() as u64;
        let delay = rule.delay_min + Duration::from_nanos(self.rng.below(spread.saturating_add(1)));
        if rule.loss_per_mille > 0 && self.rng.below(1000) < u64::from(rule.loss_per_mille) { delay + rule.retransmit } else { delay }
    }

    fn changed(&mut self) {
        self.held.drain(..).for_each(Waker::wake);
        self.pipes.values_mut().for_each(Pipe::wake);
    }
}

/// The network. Clones are the same one; any thread may call any method.
#[derive(Clone)]
pub struct Fabric(Arc<Mutex<World>>);

impl fmt::Debug for Fabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let world = self.world();
        write!(f, "Fabric({} pipes, cut {:?})", world.pipes.len(), world.cut)
    }
}

impl Fabric {
    /// A network without hosts, whose links follow [`Rule::default`] and whose chances `rng` decides.
    pub fn new(rng: Box<dyn Rng>) -> Fabric {
        Fabric(Arc::new(Mutex::new(World {
            rng,
            rules: BTreeMap::new(),
            default: Rule::default(),
            cut: BTreeSet::new(),
            listeners: BTreeMap::new(),
            pipes: BTreeMap::new(),
            next: 0,
            held: Vec::new(),
            delivered: 0,
        })))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        // A simulation whose lock is poisoned has failed already; its state is only read for the message.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The transport of a host. Addresses are `host:anything`.
    pub fn host(&self, name: &str) -> Arc<dyn Transport> {
        Arc::new(Host { fabric: self.clone(), name: name.to_owned() })
    }

    /// How the way from one host to another behaves from now on.
    pub fn set_rule(&self, from: &str, to: &str, rule: Rule) {
        self.world().rules.insert((from.to_owned(), to.to_owned()), rule);
    }

    /// How ways behave that have no rule of their own.
    pub fn set_default(&self, rule: Rule) {
        self.world().default = rule;
    }

    /// Nothing passes from one host to another until healed. The opposite direction stays as it is.
    pub fn cut_one_way(&self, from: &str, to: &str) {
        self.world().cut.insert((from.to_owned(), to.to_owned()));
    }

    /// Nothing passes between two hosts until healed.
    pub fn cut(&self, a: &str, b: &str) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Both directions between two hosts work again.
    pub fn heal(&self, a: &str, b: &str) {
        let mut world = self.world();
        world.cut.remove(&(a.to_owned(), b.to_owned()));
        world.cut.remove(&(b.to_owned(), a.to_owned()));
        world.changed();
    }

    /// Every link works again.
    pub fn heal_all(&self) {
        let mut world = self.world();
        world.cut.clear();
        world.changed();
    }

    /// Every connection between two hosts breaks, as by a firewall's reset.
    pub fn reset(&self, a: &str, b: &str) {
        let between = |pipe: &Pipe| (pipe.from == a && pipe.to == b) || (pipe.from == b && pipe.to == a);
        self.break_where(between);
    }

    /// The host's process is gone: its connections break and nobody listens there.
    pub fn crash(&self, host: &str) {
        self.break_where(|pipe| pipe.from == host || pipe.to == host);
        let mut unaccepted = Vec::new();
        let mut world = self.world();
        for (address, waiting) in &mut world.listeners {
            if host_of(address) == host {
                waiting.listening = false;
                unaccepted.append(&mut Vec::from(std::mem::take(&mut waiting.dialled)));
            }
        }
        world.changed();
        // Each of these takes the lock as it goes.
        drop(world);
        drop(unaccepted);
    }

    fn break_where(&self, which: impl Fn(&Pipe) -> bool) {
        for pipe in self.world().pipes.values_mut().filter(|pipe| which(pipe)) {
            pipe.broken = true;
            pipe.wake();
        }
    }

    /// Bytes delivered so far: a run in which it stays 0 has shown nothing.
    pub fn delivered(&self) -> u64 {
        self.world().delivered
    }
}

fn host_of(address: &str) -> &str {
    address.split_once(':').map_or(address, |(host, _)| host)
}

struct Host {
    fabric: Fabric,
    name: String,
}

impl Host {
    /// The time that a way of both directions takes, waiting while one of them is cut: a handshake.
    async fn handshake(&self, to: &str) {
        let delay = {
            let mut world = self.fabric.world();
            world.arrival(&self.name, to) + world.arrival(to, &self.name)
        };
        sleep(delay).await;
        poll_fn(|cx| {
            let mut world = self.fabric.world();
            if world.is_cut(&self.name, to) || world.is_cut(to, &self.name) {
                world.held.push(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }
}

impl Transport for Host {
    fn dial<'a>(&'a self, address: &'a str) -> Pending<'a, Result<Box<dyn Duplex>>> {
        Box::pin(async move {
            let to = host_of(address);
            self.handshake(to).await;
            let mut world = self.fabric.world();
            let mut pipe = |from: &str, to: &str| {
                world.next += 1;
                let number = world.next;
                world.pipes.insert(number, Pipe { from: from.to_owned(), to: to.to_owned(), ..Pipe::default() });
                number
            };
            let (there, back) = (pipe(&self.name, to), pipe(to, &self.name));
            let duct = |input, output| Duct { fabric: self.fabric.clone(), input, output, timer: None };
            let (near, far) = (duct(back, there), duct(there, back));
            let refused = match world.listeners.get_mut(address) {
                Some(waiting) if waiting.listening => {
                    waiting.dialled.push_back((far, self.name.clone()));
                    waiting.acceptor.take().into_iter().for_each(Waker::wake);
                    None
                }
                _ => Some(far),
            };
            drop(world);
            match refused {
                None => Ok(Box::new(near) as Box<dyn Duplex>),
                Some(_) => Err(Error::new(Status::Unavailable, format!("connecting to {address}: nobody listens"))),
            }
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> Pending<'a, Result<Box<dyn Listener>>> {
        Box::pin(async move {
            if host_of(address) != self.name {
                return Err(Error::invalid("listen", format_args!("{address} is not an address of {}", self.name)));
            }
            let mut world = self.fabric.world();
            let entry = world.listeners.entry(address.to_owned());
            let waiting = entry.or_insert_with(|| Waiting { listening: false, dialled: VecDeque::new(), acceptor: None });
            if std::mem::replace(&mut waiting.listening, true) {
                return Err(Error::new(Status::Io, format!("{address} is in use")));
            }
            Ok(Box::new(FabricListener { fabric: self.fabric.clone(), address: address.to_owned() }) as Box<dyn Listener>)
        })
    }

    fn is_local<'a>(&'a self, _: &'a str) -> Pending<'a, bool> {
        Box::pin(std::future::ready(true))
    }
}

struct FabricListener {
    fabric: Fabric,
    address: String,
}

impl Drop for FabricListener {
    fn drop(&mut self) {
        let waiting = self.fabric.world().listeners.remove(&self.address);
        // Outside the lock: the connections that nobody accepted break as they are dropped.
        drop(waiting);
    }
}

impl Listener for FabricListener {
    fn address(&self) -> String {
        self.address.clone()
    }

    fn accept(&mut self) -> Pending<'_, Result<(Box<dyn Duplex>, String)>> {
        Box::pin(poll_fn(|cx| {
            let mut world = self.fabric.world();
            let Some(waiting) = world.listeners.get_mut(&self.address) else { return Poll::Pending };
            match waiting.dialled.pop_front() {
                Some((duct, from)) => Poll::Ready(Ok((Box::new(duct) as Box<dyn Duplex>, from))),
                None => {
                    waiting.acceptor = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        }))
    }
}

/// One end of a connection.
struct Duct {
    fabric: Fabric,
    input: u64,
    output: u64,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Drop for Duct {
    fn drop(&mut self) {
        let mut world = self.fabric.world();
        if let Some(output) = world.pipes.get_mut(&self.output) {
            output.finished = true;
            output.wake();
        }
        // Whoever still writes to this end finds nobody.
        if let Some(mut input) = world.pipes.remove(&self.input) {
            input.wake();
        }
    }
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl AsyncRead for Duct {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let due = {
                let mut world = this.fabric.world();
                let world = &mut *world;
                let Some(pipe) = world.pipes.get_mut(&this.input) else { return Poll::Ready(Err(reset())) };
                if pipe.broken {
                    return Poll::Ready(Err(reset()));
                }
                let cut = !world.cut.is_empty() && world.cut.contains(&(pipe.from.clone(), pipe.to.clone()));
                match pipe.segments.front_mut() {
                    None if pipe.finished && !cut => return Poll::Ready(Ok(())),
                    Some((due, bytes)) if !cut && *due <= now() => {
                        let part = bytes.as_slices().0;
                        let count = part.len().min(buf.remaining());
                        buf.put_slice(&part[..count]);
                        bytes.drain(..count);
                        if bytes.is_empty() {
                            pipe.segments.pop_front();
                        }
                        pipe.bytes -= count;
                        world.delivered += count as u64;
                        pipe.writer.take().into_iter().for_each(Waker::wake);
                        return Poll::Ready(Ok(()));
                    }
                    Some((due, _)) if !cut => {
                        pipe.reader = Some(cx.waker().clone());
                        *due
                    }
                    _ => {
                        pipe.reader = Some(cx.waker().clone());
                        return Poll::Pending;
                    }
                }
            };
            let timer = this.timer.insert(Box::pin(sleep_until(due)));
            std::task::ready!(timer.as_mut().poll(cx));
        }
    }
}

impl AsyncWrite for Duct {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut world = self.fabric.world();
        let Some(pipe) = world.pipes.get(&self.output) else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        let (from, to) = (pipe.from.clone(), pipe.to.clone());
        if pipe.broken || pipe.finished {
            return Poll::Ready(Err(reset()));
        }
        let room = WINDOW - pipe.bytes;
        let due = if room == 0 { None } else { Some(now() + world.arrival(&from, &to)) };
        let Some(pipe) = world.pipes.get_mut(&self.output) else { return Poll::Ready(Err(reset())) };
        let Some(due) = due else {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let due = pipe.last.map_or(due, |last| due.max(last));
        let count = room.min(buf.len());
        pipe.last = Some(due);
        pipe.segments.push_back((due, buf[..count].iter().copied().collect()));
        pipe.bytes += count;
        pipe.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(pipe) = self.fabric.world().pipes.get_mut(&self.output) {
            pipe.finished = true;
            pipe.wake();
        }
        Poll::Ready(Ok(()))
    }
}
