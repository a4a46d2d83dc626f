//! Members on real threads, disks and sockets.

use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::EventSink;
use super::raft::{RaftEngine, RaftOptions};
use crate::base::{Key, NodeId, Result, SessionId, Status, SystemClock, Token};
use crate::consensus::Timing;
use crate::ledger::{Event, Op, Outcome, Params, Request, Spec};
use crate::net::Security;

pub(super) const LIMIT: Duration = Duration::from_secs(20);

struct Silent;

impl EventSink for Silent {
    fn event(&self, _: Event) {}
    fn nearer_deadline(&self) {}
}

pub(super) struct Place {
    dir: tempfile::TempDir,
    founders: Vec<(String, String)>,
}

impl Place {
    pub(super) fn new(count: usize) -> Place {
        let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let address = |l: &TcpListener| l.local_addr().unwrap().to_string();
        let founders = held.iter().enumerate().map(|(i, l)| (format!("n{i}"), address(l))).collect();
        Place { dir: tempfile::tempdir().unwrap(), founders }
    }

    pub(super) fn address(&self, i: usize) -> String {
        self.founders[i].1.clone()
    }

    pub(super) fn open(&self, i: usize) -> Result<RaftEngine> {
        let (name, listen) = self.founders[i].clone();
        let options = RaftOptions {
            data_dir: self.dir.path().join(&name),
            create: true,
            cluster: "test".into(),
            node: NodeId::new(&name).unwrap(),
            listen,
            advertise: String::new(),
            founders: self.founders.clone(),
            seeds: Vec::new(),
            join_token: None,
            tokens_required: false,
            security: Security::Loopback,
            params: Params::default(),
            timing: Timing {
                heartbeat: Duration::from_millis(60),
                election_min: Duration::from_millis(300),
                election_max: Duration::from_millis(600),
            },
            timeout: Duration::from_secs(10),
            segment_bytes: 1 << 20,
            snapshot_bytes: 8 << 20,
        };
        RaftEngine::open(options, Arc::new(SystemClock), Arc::new(Silent))
    }
}

fn request(session: SessionId, seq: u64, op: Op) -> Request {
    Request { session, seq, op }
}

fn open_session(engine: &RaftEngine) -> SessionId {
    let op = Op::OpenSession { nonce: 7, name: "host".into(), ttl_ms: 600_000 };
    match engine.execute(&request(SessionId(0), 0, op)).unwrap() {
        Outcome::Session { id, .. } => id,
        other => panic!("{other:?}"),
    }
}

fn acquire(engine: &RaftEngine, session: SessionId, seq: u64, key: &str) -> Token {
    // For longer than a test waits: none becomes free by its end.
    let spec = Spec { ttl_ms: 600_000, ..Spec::default() };
    let op = Op::Acquire { key: Key::new(key.as_bytes()).unwrap(), spec, wait_ms: None, req: seq };
    match engine.execute(&request(session, seq, op)).unwrap() {
        Outcome::Granted { token, .. } => token,
        other => panic!("{other:?}"),
    }
}

pub(super) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn three_members_over_tcp() {
    let place = Place::new(3);
    let mut members: Vec<Option<RaftEngine>> = (0..3).map(|i| Some(place.open(i).unwrap())).collect();
    let session = open_session(members[2].as_ref().unwrap());
    let key = Key::new(b"k").unwrap();
    let token = acquire(members[0].as_ref().unwrap(), session, 1, "k");
    assert_eq!(members[1].as_ref().unwrap().lock(&key).unwrap().unwrap().holders[0].token, token);

    // A wait on one member ends by a release on another.
    let (tell, told) = mpsc::channel();
    let waiting = request(session, 2, Op::Acquire { key: key.clone(), spec: Spec::default(), wait_ms: Some(60_000), req: 2 });
    members[1].as_ref().unwrap().submit(&waiting, Box::new(move |r| tell.send(r).unwrap()));
    eventually("it waits", || members[0].as_ref().unwrap().lock(&key).unwrap().is_some_and(|l| l.waiters.len() == 1));
    assert!(told.try_recv().is_err());
    members[0].as_ref().unwrap().release(session, &key, token).unwrap();
    let Ok(Outcome::Granted { token: next, .. }) = told.recv_timeout(LIMIT).unwrap() else { panic!("not granted") };
    assert!(next > token);

    // The leader goes; what was granted stays, and the others go on.
    eventually("somebody leads", || members.iter().flatten().any(|m| m.status().leads));
    let leader = members.iter().position(|m| m.as_ref().unwrap().status().leads).unwrap();
    drop(members[leader].take());
    let other = members.iter().flatten().next().unwrap();
    let third = acquire(other, session, 3, "k3");
    assert!(third > next);
    assert_eq!(other.lock(&key).unwrap().unwrap().holders[0].token, next);

    // It comes back with what it had, and catches up.
    members[leader] = Some(place.open(leader).unwrap());
    eventually("it has caught up", || members[leader].as_ref().unwrap().consensus().read_local(|l| l.counts().last_token) == third.0);

    // All of them stop and start: nothing is lost.
    members.clear();
    let members: Vec<RaftEngine> = (0..3).map(|i| place.open(i).unwrap()).collect();
    assert_eq!(members[0].lock(&key).unwrap().unwrap().holders[0].token, next);
    assert!(acquire(&members[1], session, 4, "k4") > third);

    // A single one is no majority.
    drop(members);
    let alone = place.open(0).unwrap();
    let start = Instant::now();
    let refused = alone.execute(&request(session, 5, Op::RenewSession)).unwrap_err();
    assert_eq!(refused.status(), Status::Unavailable, "{refused}");
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
}

#[test]
fn a_wiped_directory_is_not_made_anew() {
    let place = Place::new(1);
    let engine = place.open(0).unwrap();
    let session = open_session(&engine);
    acquire(&engine, session, 1, "k");
    drop(engine);
    let dir: &Path = &place.dir.path().join("n0");
    std::fs::remove_dir_all(dir).unwrap();
    assert_eq!(place.open(0).unwrap_err().status(), Status::DataLost);
}

#[test]
fn a_release_that_was_answered_and_lost_is_made_again() {
    let place = Place::new(1);
    let engine = place.open(0).unwrap();
    let session = open_session(&engine);
    let key = Key::new(b"k").unwrap();
    let token = acquire(&engine, session, 1, "k");
    let kept = acquire(&engine, session, 2, "kept");
    engine.forget_release(session, &key, token);
    eventually("it is free", || engine.lock(&key).unwrap().is_none());
    assert_eq!(engine.lock(&Key::new(b"kept").unwrap()).unwrap().unwrap().holders[0].token, kept);
    // Looked at before this member has applied the grant, as after one that a leader told of and that its follower has not heard is committed.
    let later = Key::new(b"later").unwrap();
    engine.forget_release(session, &later, Token(kept.0 + 1));
    let due = tokio::time::Instant::now();
    eventually("it is looked at", || engine.has_looked(due));
    assert_eq!(acquire(&engine, session, 3, "later"), Token(kept.0 + 1));
    eventually("it is free as well", || engine.lock(&later).unwrap().is_none());
    // By the usual way, of one member: answered, and then free.
    engine.release(session, &Key::new(b"kept").unwrap(), kept).unwrap();
    eventually("that one too", || engine.counts().unwrap().locks == 0);
}
