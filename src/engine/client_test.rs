//! Clients of members on real threads, disks and sockets.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use super::raft::RaftEngine;
use super::raft_test::{LIMIT, Place, eventually};
use super::{ClientEngine, EventSink};
use crate::base::{Key, Result, SessionId, Status, SystemRng, Token};
use crate::client::Options;
use crate::ledger::{Event, LossReason, Op, Outcome, Request, Spec};
use crate::net::{Security, Tcp, TcpOptions};

#[derive(Default)]
struct Seen(Mutex<Vec<Event>>);

impl EventSink for Seen {
    fn event(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
    fn nearer_deadline(&self) {}
}

struct Client {
    engine: ClientEngine,
    seen: Arc<Seen>,
    session: SessionId,
}

fn connect(place: &Place, name: &str, which: &[usize]) -> ClientEngineWith {
    let addresses = which.iter().map(|i| place.address(*i)).collect();
    connect_to(addresses, name)
}

type ClientEngineWith = (ClientEngine, Arc<Seen>);

fn connect_to(addresses: Vec<String>, name: &str) -> ClientEngineWith {
    let seen = Arc::new(Seen::default());
    let options = Options {
        cluster: "test".into(),
        name: name.into(),
        boot: 77,
        addresses,
        transport: Arc::new(Tcp(TcpOptions::default())),
        security: Security::Loopback,
        rng: Box::new(SystemRng::new().unwrap()),
        timeout: LIMIT,
    };
    (ClientEngine::open(options, seen.clone()).unwrap(), seen)
}

impl Client {
    fn new((engine, seen): ClientEngineWith, nonce: u128) -> Client {
        let op = Op::OpenSession { nonce, name: format!("c{nonce}"), ttl_ms: 600_000 };
        let Outcome::Session { id, .. } = engine.execute(&Request { session: SessionId(0), seq: 0, op }).unwrap() else {
            panic!("no session")
        };
        Client { engine, seen, session: id }
    }

    fn run(&self, op: Op) -> Result<Outcome> {
        self.engine.execute(&Request { session: self.session, seq: 0, op })
    }

    fn try_acquire(&self, name: &str, req: u64) -> Option<Token> {
        match self.run(acquire(name, None, req)).unwrap() {
            Outcome::Granted { token, .. } => Some(token),
            Outcome::Held(_) => None,
            other => panic!("{other:?}"),
        }
    }

    fn wait(&self, name: &str, req: u64) -> mpsc::Receiver<Result<Outcome>> {
        let (tell, told) = mpsc::channel();
        let request = Request { session: self.session, seq: 0, op: acquire(name, Some(u64::MAX), req) };
        self.engine.submit(&request, Box::new(move |answer| drop(tell.send(answer))));
        told
    }
}

fn key(name: &str) -> Key {
    Key::new(name.as_bytes()).unwrap()
}

fn acquire(name: &str, wait_ms: Option<u64>, req: u64) -> Op {
    Op::Acquire { key: key(name), spec: Spec { ttl_ms: 600_000, ..Spec::default() }, wait_ms, req }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn leader_of(members: &[RaftEngine]) -> usize {
    let mut found = None;
    until("a leader", || {
        found = members.iter().position(|m| m.status().leads);
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn a_client_takes_and_gives_back_and_sees() {
    let place = Place::new(3);
    let members: Vec<_> = (0..3).map(|i| place.open(i).unwrap()).collect();
    // Any member will do, and a dead address does no harm.
    let mut addresses = vec!["127.0.0.1:1".to_owned()];
    addresses.push(place.address(2));
    let client = Client::new(connect_to(addresses, "c1"), 1);
    let other = Client::new(connect(&place, "c2", &[0, 1]), 2);
    let token = client.try_acquire("k", 1).unwrap();
    assert_eq!(other.try_acquire("k", 1), None);
    let info = other.engine.lock(&key("k")).unwrap().unwrap();
    assert_eq!((info.holders[0].name.as_str(), info.holders[0].token), ("c1", token));
    assert_eq!(client.engine.locks(b"", None, 10).unwrap().len(), 1);
    assert_eq!(client.engine.members().unwrap().1.len(), 3);
    let waits = other.wait("k", 2);
    until("the wait to be seen", || !client.engine.lock(&key("k")).unwrap().unwrap().waiters.is_empty());
    assert_eq!(client.run(Op::Release { key: key("k"), token }).unwrap(), Outcome::Released { left: 0 });
    let Outcome::Granted { token: next, .. } = waits.recv_timeout(LIMIT).unwrap().unwrap() else { panic!("no grant") };
    assert!(next > token);
    let force = Op::ForceRelease { key: key("k"), token: None, delay_ms: None };
    client.engine.execute(&Request { session: SessionId(0), seq: 0, op: force }).unwrap();
    let lost = Event::Lost { session: other.session, key: key("k"), token: next, why: LossReason::Forced };
    until("the loss to be told", || other.seen.0.lock().unwrap().contains(&lost));
    assert!(client.seen.0.lock().unwrap().is_empty(), "what concerns others is not told");
    drop(members);
}

#[test]
fn a_wait_and_a_loss_survive_the_death_of_the_member_that_was_asked() {
    let place = Place::new(3);
    let mut members: Vec<Option<RaftEngine>> = (0..3).map(|i| Some(place.open(i).unwrap())).collect();
    let holder = Client::new(connect(&place, "c1", &[0, 1, 2]), 1);
    let token = holder.try_acquire("k", 1).unwrap();
    let kept = holder.try_acquire("kept", 2).unwrap();
    let other = Client::new(connect(&place, "c2", &[0, 1, 2]), 2);
    let waits = other.wait("k", 7);
    until("the wait to be seen", || holder.engine.lock(&key("k")).unwrap().is_some_and(|l| l.waiters.len() == 1));
    let asked = other.engine.status().unwrap().member.unwrap().0;
    let index = asked[1..].parse::<usize>().unwrap();
    members[index].take().unwrap().close();
    // While the member is gone, the wait ends and a lock is taken away: neither is told to a connection that is not there.
    let force = Op::ForceRelease { key: key("kept"), token: None, delay_ms: None };
    holder.engine.execute(&Request { session: SessionId(0), seq: 0, op: force }).unwrap();
    assert!(matches!(holder.run(Op::Release { key: key("k"), token }).unwrap(), Outcome::Released { .. }));
    let Outcome::Granted { token: next, .. } = waits.recv_timeout(LIMIT).unwrap().unwrap() else { panic!("no grant") };
    assert!(next > token);
    let lost = Event::Lost { session: holder.session, key: key("kept"), token: kept, why: LossReason::Forced };
    until("the loss to be told", || holder.seen.0.lock().unwrap().contains(&lost));
    let again = other.engine.lock(&key("k")).unwrap().unwrap();
    assert_eq!((again.holders.len(), again.waiters.len(), again.holders[0].token), (1, 0, next), "it was granted once");
}

// I-10.
#[test]
fn leaders_come_and_go_and_nothing_is_done_twice() {
    let place = Place::new(3);
    let members: Vec<_> = (0..3).map(|i| place.open(i).unwrap()).collect();
    let client = Arc::new(Client::new(connect(&place, "c1", &[0, 1, 2]), 1));
    let (worker, done) = (client.clone(), Arc::new(AtomicU64::new(0)));
    let told = done.clone();
    let work = std::thread::spawn(move || {
        let mut tokens = Vec::new();
        for n in 0..300u64 {
            let name = format!("k{}", n % 7);
            // Nobody else takes it: a grant that was not told would still be held.
            let token = worker.try_acquire(&name, n + 1).unwrap();
            tokens.push(token);
            assert_eq!(worker.run(Op::Release { key: key(&name), token }).unwrap(), Outcome::Released { left: 0 }, "told as it was done");
            told.fetch_add(1, SeqCst);
        }
        tokens
    });
    let (mut changes, mut before, mut idle) = (0, 0, 0);
    while !work.is_finished() {
        // An operation lives through several changes, and not through ever new ones: on a busy machine its time would be over.
        let now = done.load(SeqCst);
        idle = if now == before { idle + 1 } else { 0 };
        before = now;
        if idle > 4 {
            eventually("something is done under this leader", || done.load(SeqCst) != now || work.is_finished());
            continue;
        }
        let leader = leader_of(&members);
        if members[leader].consensus().transfer(None).is_ok() {
            changes += 1;
        }
    }
    let tokens = work.join().unwrap();
    assert!(tokens.is_sorted_by(|a, b| a < b), "tokens strictly increase");
    assert!(changes > 2, "only {changes} changes of leader: nothing was tried");
}

#[test]
fn without_members_it_says_so_in_time() {
    let mut options = Options {
        cluster: "test".into(),
        name: "c".into(),
        boot: 1,
        addresses: vec!["127.0.0.1:1".into(), "127.0.0.1:2".into()],
        transport: Arc::new(Tcp(TcpOptions::default())),
        security: Security::Loopback,
        rng: Box::new(SystemRng::new().unwrap()),
        timeout: Duration::from_millis(300),
    };
    options.name = "c9".into();
    let engine = ClientEngine::open(options, Arc::new(Seen::default())).unwrap();
    let op = Op::OpenSession { nonce: 1, name: "c9".into(), ttl_ms: 1000 };
    let error = engine.execute(&Request { session: SessionId(0), seq: 0, op }).unwrap_err();
    assert_eq!(error.status(), Status::Unavailable);
    assert_eq!(engine.counts().unwrap_err().status(), Status::Unavailable);
    engine.close();
    assert_eq!(engine.counts().unwrap_err().status(), Status::Closed);
}
