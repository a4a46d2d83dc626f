//! A lock that was granted and whose answer was lost, or whose release was, is held by nobody for long.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tenure::base::{Config, Status};
use tenure::node::{LockOptions, Node};

const LIMIT: Duration = Duration::from_secs(60);

/// A loopback address of this process alone, so that its ports are its own.
fn address(port: u16) -> String {
    let pid = std::process::id();
    format!("127.{}.{}.{}:{port}", 40 + (pid >> 16) % 20, (pid >> 8) % 256, pid % 256)
}

fn open(place: &Path, ports: u16, i: u16) -> Node {
    let peers = format!("n0={},n1={}", address(ports), address(ports + 1));
    let mut config = Config::new();
    for (name, value) in [
        ("node_id", format!("n{i}")),
        ("listen", address(ports + i)),
        ("peers", peers),
        ("data_dir", place.join(format!("n{i}")).to_string_lossy().into_owned()),
        ("data_dir_create", "true".to_owned()),
        ("request_timeout_ms", "1000".to_owned()),
        ("session_ttl_ms", "9000".to_owned()),
    ] {
        config.set(name, &value).unwrap();
    }
    Node::open(&config).unwrap()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        sleep(Duration::from_millis(10));
    }
}

/// Two members, and which of them leads, and which does not. Each test has ports of its own.
fn pair(place: &Path, ports: u16) -> (Vec<Option<Node>>, usize, usize) {
    let nodes: Vec<Option<Node>> = (0..2).map(|i| Some(open(place, ports, i))).collect();
    for node in nodes.iter().flatten() {
        node.wait_ready(LIMIT).unwrap();
    }
    let (leader, other) = if nodes[0].as_ref().unwrap().status().cluster.unwrap().role == "leader" { (0, 1) } else { (1, 0) };
    (nodes, leader, other)
}

#[test]
fn a_release_that_nobody_waits_for_is_made_again() {
    let place = tempfile::tempdir().unwrap();
    let (mut nodes, leader, other) = pair(place.path(), 7000);
    let session = nodes[other].as_ref().unwrap().session();
    let options = LockOptions { reentrant: true, ..LockOptions::default() };
    let [once, twice, again] = ["once", "twice", "twice"].map(|key| session.acquire(key.as_bytes(), &options, Some(LIMIT)).unwrap());
    drop(nodes[leader].take());
    drop((once, twice));
    // Asked after the releases: once this has been given up, so have they.
    assert_eq!(session.try_acquire_token(b"other", &options).unwrap_err().status(), Status::Unavailable);
    nodes[leader] = Some(open(place.path(), 7000, u16::try_from(leader).unwrap()));
    nodes[leader].as_ref().unwrap().wait_ready(LIMIT).unwrap();
    let theirs = nodes[leader].as_ref().unwrap().session();
    eventually("it is free for others", || theirs.try_acquire_token(b"once", &options).is_ok());
    // And once each: what was taken twice is held still, and free when it is given back once more.
    let refused = theirs.try_acquire_token(b"twice", &options).unwrap_err();
    assert!(refused.status() == Status::Held && again.is_held(), "{refused}");
    again.release().unwrap();
    eventually("the other is free too", || theirs.try_acquire_token(b"twice", &options).is_ok());
}

#[test]
fn a_lock_that_is_lost_without_a_majority_is_free_when_there_is_one() {
    let place = tempfile::tempdir().unwrap();
    let (mut nodes, leader, other) = pair(place.path(), 7200);
    for (mine, gone) in [(leader, other), (other, leader)] {
        let session = nodes[mine].as_ref().unwrap().session();
        let token = session.acquire_token(b"lost", &LockOptions::default(), Some(LIMIT)).unwrap();
        drop(nodes[gone].take());
        eventually("its lease is over in its own view", || !session.is_held(b"lost", token));
        // Asked after the release: once this has been given up, so has that.
        assert_eq!(session.try_acquire_token(b"other", &LockOptions::default()).unwrap_err().status(), Status::Unavailable);
        // For the ledger hardly any time has passed: the session lives on, and renews what it has.
        nodes[gone] = Some(open(place.path(), 7200, u16::try_from(gone).unwrap()));
        nodes[gone].as_ref().unwrap().wait_ready(LIMIT).unwrap();
        let theirs = nodes[gone].as_ref().unwrap().session();
        eventually("it is free for others", || {
            theirs.try_acquire_token(b"lost", &LockOptions::default()).is_ok_and(|token| theirs.release(b"lost", token).is_ok())
        });
    }
}

#[test]
fn a_lock_granted_without_an_answer_is_given_back() {
    let place = tempfile::tempdir().unwrap();
    // The leader alone: what it is asked stands in its log, and nobody has acknowledged it.
    let (mut nodes, leader, other) = pair(place.path(), 7100);
    let options = LockOptions::default();
    drop(nodes[other].take());
    let session = nodes[leader].as_ref().unwrap().session();
    for (key, timeout) in [(&b"tried"[..], Duration::ZERO), (b"waited for", Duration::from_secs(100))] {
        let answer =
            if timeout.is_zero() { session.try_acquire_token(key, &options) } else { session.acquire_token(key, &options, Some(timeout)) };
        assert_eq!(answer.unwrap_err().status(), Status::Unavailable);
    }
    // There is a majority again. Whatever was granted meanwhile, its session lives on.
    nodes[other] = Some(open(place.path(), 7100, u16::try_from(other).unwrap()));
    nodes[other].as_ref().unwrap().wait_ready(LIMIT).unwrap();
    let theirs = nodes[other].as_ref().unwrap().session();
    for key in [&b"tried"[..], b"waited for"] {
        eventually("it is free for others", || theirs.try_acquire_token(key, &options).is_ok());
    }
}
