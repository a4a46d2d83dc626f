//! The network between members: each way of each link delays, loses, doubles, reorders and cuts for itself.
//!
//! Messages are members' own; the frames and connections below them have a network of their own, [`crate::net`]'s fabric.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::counts::{Counts, Fault};
use super::trace::Trace;
use crate::base::{Error, Result, Rng, SeededRng, Status};
use crate::consensus::{Call, Lane, Machine, Server, Transport};

/// So long it takes until both ends know that a connection is broken.
const NOTICED: Duration = Duration::from_millis(200);

/// One way of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Nothing passes.
    pub cut: bool,
    /// Between these, us.
    pub delay: (u64, u64),
    /// So much more, us, for answers to what members ask for their hosts; elections know nothing of it.
    pub answers: (u64, u64),
    /// Of a thousand messages, so many are lost, come twice, and are overtaken by those of other connections.
    pub lost: u64,
    pub doubled: u64,
    pub overtaken: u64,
}

impl Default for Way {
    fn default() -> Way {
        Way { cut: false, delay: (100, 1_000), answers: (0, 0), lost: 0, doubled: 0, overtaken: 0 }
    }
}

#[derive(Clone)]
struct Served {
    server: Server,
    machine: Machine,
    /// Raised when the member's part has ended: it must be silent from then on.
    ended: Arc<Mutex<Option<Error>>>,
}

/// A message's place among those of its connection.
#[derive(Default)]
struct Turn {
    before: Option<oneshot::Receiver<()>>,
    /// Dropped when it has been begun with, or is lost.
    begin: Option<oneshot::Sender<()>>,
}

/// What tells whoever asked.
type Tell = mpsc::UnboundedSender<Result<Bytes>>;

/// A connection. A message that is lost breaks it: what comes after it is lost with it, until that is noticed and there is a new one.
#[derive(Default)]
struct Connection {
    /// When the last message arrives: later ones arrive later.
    last: Option<Instant>,
    /// Told when the last message has been begun with: later ones are begun with later, also those of the same instant.
    begun: Option<oneshot::Receiver<()>>,
    broken: bool,
    number: u64,
    asking: Vec<Tell>,
}

struct State {
    rng: SeededRng,
    ways: BTreeMap<(String, String), Way>,
    served: BTreeMap<String, Served>,
    connections: BTreeMap<(String, String, Lane), Connection>,
    broken: Vec<String>,
}

/// The network. Clones are the same one.
#[derive(Clone)]
pub struct Net {
    state: Arc<Mutex<State>>,
    counts: Counts,
    trace: Trace,
}

impl Net {
    pub fn new(seed: u64, counts: Counts, trace: Trace) -> Net {
        let state = State {
            rng: SeededRng::new(seed),
            ways: BTreeMap::new(),
            served: BTreeMap::new(),
            connections: BTreeMap::new(),
            broken: Vec::new(),
        };
        Net { state: Arc::new(Mutex::new(state)), counts, trace }
    }

    /// How `name` reaches the others.
    pub fn wire(&self, name: &str) -> Arc<dyn Transport> {
        Arc::new(Wire { net: self.clone(), me: name.to_owned() })
    }

    /// From now on this process answers at `name`.
    pub fn serve(&self, name: &str, server: Server, machine: &Machine, ended: Arc<Mutex<Option<Error>>>) {
        let served = Served { server, machine: machine.clone(), ended };
        self.state.lock().unwrap().served.insert(name.to_owned(), served);
    }

    /// Nobody answers there any more.
    pub fn leave(&self, name: &str) {
        self.state.lock().unwrap().served.remove(name);
    }

    /// Changes one way.
    pub fn set(&self, from: &str, to: &str, change: impl FnOnce(&mut Way)) {
        change(self.state.lock().unwrap().ways.entry((from.to_owned(), to.to_owned())).or_default());
    }

    /// Everything passes again as it should.
    pub fn heal(&self) {
        self.state.lock().unwrap().ways.clear();
    }

    /// What was said by members that must not say anything any more (I-18).
    pub fn broken(&self) -> Vec<String> {
        self.state.lock().unwrap().broken.clone()
    }

    /// `from` is about to ask something.
    fn hears(&self, from: &str, to: &str) {
        let mut state = self.state.lock().unwrap();
        let ended = state.served.get(from).and_then(|served| served.ended.lock().unwrap().clone());
        if let Some(why) = ended {
            state.broken.push(format!("I-18: {from} asked {to} after its end: {why}"));
        }
    }

    fn way(&self, from: &str, to: &str) -> Way {
        self.state.lock().unwrap().ways.get(&(from.to_owned(), to.to_owned())).copied().unwrap_or_default()
    }

    /// Whether a message is lost on its way.
    fn loses(&self, way: Way) -> bool {
        if way.cut {
            self.counts.add(Fault::Cut);
            return true;
        }
        let lost = way.lost > 0 && self.state.lock().unwrap().rng.below(1_000) < way.lost;
        if lost {
            self.counts.add(Fault::Loss);
        }
        lost
    }

    fn delay(&self, (from, to): (u64, u64)) -> Duration {
        Duration::from_micros(from + self.state.lock().unwrap().rng.below(to - from + 1))
    }

    /// A message of this connection was lost.
    fn breaks(&self, connection: &(String, String, Lane), number: u64) {
        {
            let mut state = self.state.lock().unwrap();
            let state = state.connections.entry(connection.clone()).or_default();
            if state.number != number || std::mem::replace(&mut state.broken, true) {
                return;
            }
        }
        let (net, connection) = (self.clone(), connection.clone());
        drop(tokio::spawn(async move {
            sleep(NOTICED).await;
            let asking = {
                let mut state = net.state.lock().unwrap();
                let state = state.connections.entry(connection).or_default();
                (state.broken, state.last, state.begun, state.number) = (false, None, None, state.number + 1);
                std::mem::take(&mut state.asking)
            };
            for tell in asking {
                // Those that have their answers listen no more.
                let _ = tell.send(Err(Error::new(Status::Unavailable, "the connection broke")));
            }
        }));
    }

    /// When each copy of a question arrives, and its place among the others.
    fn arrivals(&self, from: &str, to: &str, lane: Lane, tell: &Tell) -> Vec<(Instant, u64, Turn)> {
        let (way, connection) = (self.way(from, to), (from.to_owned(), to.to_owned(), lane));
        let (number, broken) = {
            let mut state = self.state.lock().unwrap();
            let state = state.connections.entry(connection.clone()).or_default();
            state.asking.retain(|tell| !tell.is_closed());
            state.asking.push(tell.clone());
            (state.number, state.broken)
        };
        if broken || self.loses(way) {
            self.breaks(&connection, number);
            return Vec::new();
        }
        let mut at = Instant::now() + self.delay(way.delay);
        let mut state = self.state.lock().unwrap();
        if way.overtaken > 0 && state.rng.below(1_000) < way.overtaken {
            self.counts.add(Fault::Reorder);
            at += Duration::from_micros(5_000 + state.rng.below(30_000));
        }
        // Connections see to it that what one of them carries comes in order, and that what is done for clients comes once.
        let doubled = lane != Lane::Client && way.doubled > 0 && state.rng.below(1_000) < way.doubled;
        let (begin, begun) = oneshot::channel();
        let connection = state.connections.entry(connection).or_default();
        at = connection.last.map_or(at, |last| at.max(last));
        connection.last = Some(at);
        let mut all = vec![(at, number, Turn { before: connection.begun.replace(begun), begin: Some(begin) })];
        if doubled {
            self.counts.add(Fault::Duplicate);
            all.push((at + Duration::from_micros(state.rng.below(50_000)), number, Turn::default()));
        }
        if at > Instant::now() + Duration::from_millis(5) {
            self.counts.add(Fault::Delay);
        }
        all
    }

    /// One copy of a question on its way, and its answer.
    async fn carry(self, connection: (String, String, Lane), (at, number, turn): (Instant, u64, Turn), body: Bytes, tell: Tell) {
        let (from, to, lane) = connection.clone();
        sleep_until(at).await;
        if let Some(before) = turn.before {
            // One that was lost is not waited for.
            let _ = before.await;
        }
        if self.way(&from, &to).cut {
            self.counts.add(Fault::Cut);
            return self.breaks(&connection, number);
        }
        self.trace.note(format_args!("{from}>{to} {} {:08x}", body.len(), crc32c::crc32c(&body)));
        let served = self.state.lock().unwrap().served.get(&to).cloned();
        let answer = match served {
            None => Err(Error::new(Status::Io, "refused")),
            Some(served) => {
                let ended = served.ended.lock().unwrap().clone();
                let mut serving = pin!(served.machine.run(served.server.serve(None, body)));
                let mut begin = turn.begin;
                let answer = poll_fn(|cx| {
                    let polled = serving.as_mut().poll(cx);
                    drop(begin.take());
                    polled
                })
                .await;
                if answer.is_ok()
                    && let Some(why) = ended
                {
                    self.state.lock().unwrap().broken.push(format!("I-18: {to} answered {from} after its end: {why}"));
                }
                answer
            }
        };
        let back = self.way(&to, &from);
        if self.loses(back) {
            return self.breaks(&connection, number);
        }
        let mut delay = self.delay(back.delay);
        if lane == Lane::Client && back.answers.1 > 0 {
            self.counts.add(Fault::Delay);
            delay += self.delay(back.answers);
        }
        if back.overtaken > 0 && self.state.lock().unwrap().rng.below(1_000) < back.overtaken {
            self.counts.add(Fault::Reorder);
            delay += Duration::from_millis(20);
        }
        sleep(delay).await;
        if self.way(&to, &from).cut {
            self.counts.add(Fault::Cut);
            return self.breaks(&connection, number);
        }
        // Whoever asked has given up, or has an answer.
        drop(tell.send(answer));
    }
}

struct Wire {
    net: Net,
    me: String,
}

impl Transport for Wire {
    fn call(&self, _name: &str, address: &str, lane: Lane, body: Vec<u8>, limit: Duration) -> Call {
        self.net.hears(&self.me, address);
        let body = Bytes::from(body);
        let (tell, mut told) = mpsc::unbounded_channel();
        for arrival in self.net.arrivals(&self.me, address, lane, &tell) {
            let connection = (self.me.clone(), address.to_owned(), lane);
            drop(tokio::spawn(self.net.clone().carry(connection, arrival, body.clone(), tell.clone())));
        }
        Box::pin(async move {
            // Kept, so that what is lost is silence and not a refusal.
            let _tell = tell;
            match timeout(limit, told.recv()).await {
                Ok(Some(answer)) => answer,
                _ => Err(Error::new(Status::Unavailable, "no answer came")),
            }
        })
    }
}
