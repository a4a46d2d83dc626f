//! A process that uses a durable engine is killed over and over under load: what it was told is what the next one finds.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tenure::base::{Config, Error, Key, Result, Rng, SeededRng, SessionId, Status, SystemClock, SystemRng, Token};
use tenure::engine::{DurableEngine, DurableOptions, EventSink};
use tenure::ledger::{Event, Op, Outcome, Params, Request, Spec};
use tenure::node::{LockOptions, Node};
use tenure::store::Owner;

const DIRECTORY: &str = "TENURE_TEST_DIRECTORY";
const NAME: &str = "a_killed_process_loses_no_grant_and_no_token_is_given_twice";
const THREADS: u64 = 4;
const HOUR: u32 = 3_600_000;

struct Deaf;

impl EventSink for Deaf {
    fn event(&self, _: Event) {}
    fn nearer_deadline(&self) {}
}

/// Small files, so that segments and snapshots change often.
fn open(path: &Path) -> Result<DurableEngine> {
    let options = DurableOptions { params: Params::default(), segment_bytes: 64 << 10, snapshot_bytes: 100 << 10, sync_releases: false };
    let owner = Owner { cluster_id: "c", node_id: None, create: true };
    DurableEngine::open(path, &owner, options, Arc::new(SystemClock), &mut SystemRng::new()?, Arc::new(Deaf))
}

fn key(n: u64) -> Key {
    Key::new(format!("key-{n}").as_bytes()).unwrap()
}

fn say(line: &str) {
    // One write a line, so that lines of different threads stay whole in the pipe. Nobody listens any more: then we are about to be killed.
    let _ = std::io::stdout().lock().write_all(format!("@{line}\n").as_bytes());
}

/// In the process that is killed: says what it was told, each time before it goes on.
fn victim(path: &Path) {
    let engine = open(path).unwrap();
    let nonce = SystemRng::new().unwrap().next_u128();
    let op = Op::OpenSession { nonce, name: "victim".into(), ttl_ms: HOUR };
    let Ok(Outcome::Session { id, .. }) = engine.execute(&Request { session: SessionId(0), seq: 0, op }) else { panic!("no session") };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let engine = &engine;
            scope.spawn(move || {
                let spec = Spec { ttl_ms: HOUR, ..Spec::default() };
                for n in (0..25).cycle() {
                    let n = thread * 100 + n;
                    match engine.try_acquire(id, &key(n), &spec, 0).unwrap() {
                        Outcome::Granted { token, .. } => {
                            say(&format!("granted {n} {token}"));
                            if n % 5 != 0 {
                                say(&format!("releasing {n} {token}"));
                                assert!(matches!(engine.release(id, &key(n), token), Ok(Outcome::Released { .. })));
                                say(&format!("released {n} {token}"));
                            }
                        }
                        Outcome::Held(_) => {}
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
    });
}

/// Starts the victim, which is [`NAME`] in a process of its own, kills it after `lines` lines, and returns all that it said.
fn run_victim(path: &Path, lines: u64) -> Vec<(String, u64, u64)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(DIRECTORY, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        // A line that the kill cut short was not said.
        let Some(words) = line.split_once('@').map(|(_, l)| l.split(' ').collect::<Vec<_>>()) else { continue };
        let [what, n, token] = words[..] else { continue };
        said.push((what.to_owned(), n.parse().unwrap(), token.parse().unwrap()));
        if said.len() as u64 == lines {
            child.kill().unwrap();
        }
    }
    assert!(!child.wait().unwrap().success());
    assert!(said.len() as u64 >= lines, "it died by itself after {} lines", said.len());
    said
}

#[test]
fn a_killed_process_loses_no_grant_and_no_token_is_given_twice() {
    if let Some(path) = std::env::var_os(DIRECTORY) {
        return victim(Path::new(&path));
    }
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    let seed = 20_261_121;
    println!("seed {seed}");
    let mut rng = SeededRng::new(seed);
    let mut held: BTreeMap<u64, u64> = BTreeMap::new();
    let mut tokens = BTreeSet::new();
    let (mut highest, mut grants) = (0, 0);
    for life in 0..12 {
        let before = highest;
        let mut released = Vec::new();
        // What was asked for when the kill came may have been done.
        let mut perhaps = BTreeSet::new();
        for (what, n, token) in run_victim(&path, 1 + rng.below(700)) {
            match what.as_str() {
                "granted" => {
                    assert!(token > before && tokens.insert(token), "life {life}: token {token} again, {before} was given before");
                    assert_eq!(held.insert(n, token), None, "life {life}: key {n} granted while held");
                    highest = highest.max(token);
                    grants += 1;
                }
                "releasing" => drop(perhaps.insert(n)),
                "released" => {
                    perhaps.remove(&n);
                    held.remove(&n);
                    released.push((n, token));
                }
                other => panic!("{other}"),
            }
        }
        let engine = open(&path).unwrap();
        for (n, token) in &held {
            let holder = engine.lock(&key(*n)).unwrap().and_then(|l| l.holders.first().map(|h| h.token.0));
            assert!(holder == Some(*token) || perhaps.contains(n), "life {life}: key {n} was granted with {token}, now {holder:?}");
        }
        for (n, token) in released {
            let holder = engine.lock(&key(n)).unwrap().and_then(|l| l.holders.first().map(|h| h.token));
            assert_ne!(holder, Some(Token(token)), "life {life}: the release of key {n} is lost");
        }
        let last_token = engine.counts().unwrap().last_token;
        assert!(last_token >= highest);
        highest = last_token;
        // From here on what is found is the truth; some of it goes, so that the next one has something to take.
        held.clear();
        for lock in engine.locks(b"", None, 10_000).unwrap() {
            let n: u64 = std::str::from_utf8(lock.key.as_bytes()).unwrap()[4..].parse().unwrap();
            let op = Op::ForceRelease { key: lock.key.clone(), token: None, delay_ms: Some(0) };
            if rng.below(2) == 0 {
                engine.execute(&Request { session: SessionId(0), seq: 0, op }).unwrap();
            } else {
                held.insert(n, lock.holders[0].token.0);
            }
        }
        assert_eq!(engine.identity().unwrap().opens, 2 * (life + 1));
    }
    assert!(grants > 500, "only {grants} grants");
}

fn node(path: &Path) -> Result<Node> {
    let mut config = Config::new();
    config.set("data_dir", path.to_str().unwrap())?.set("wal_segment_bytes", "65536")?;
    Node::open(&config)
}

#[test]
fn a_node_finds_its_name_its_locks_and_its_epochs_again() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    let first = node(&path).unwrap();
    let (id, other) = (first.id().clone(), first.open_session("other", Duration::from_secs(3_600)).unwrap());
    let token = other.try_acquire_token(b"k", &LockOptions { ttl: Duration::from_secs(3_600), ..LockOptions::default() }).unwrap();
    let gate = first.gate("g", &Config::new()).unwrap();
    gate.hold(b"office", Duration::from_secs(10)).unwrap();
    let start = Instant::now();
    while gate.check().is_err() {
        assert!(start.elapsed() < Duration::from_secs(20), "the gate does not open");
    }
    let epoch = gate.check().unwrap();
    // The next segment and the ballast are made behind our back; a copy must not meet them half made.
    let made = |name: &str| path.join(name).exists();
    while !made("ballast") || !made("wal-0000000000000002") || made("wal.new") {
        assert!(start.elapsed() < Duration::from_secs(20), "the files are not made");
    }
    // As if killed: nothing is closed in good order.
    let killed = path.with_extension("killed");
    std::fs::create_dir(&killed).unwrap();
    std::fs::set_permissions(&killed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    for file in std::fs::read_dir(&path).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), killed.join(file.file_name())).unwrap();
    }
    assert_eq!(node(&path).err().unwrap().status(), Status::DataLocked);
    drop((gate, other));
    first.close(Duration::from_secs(20)).unwrap();

    let again = node(&killed).unwrap();
    assert_eq!(again.id(), &id);
    let holder = again.session().holder(b"k").unwrap().unwrap();
    assert_eq!((holder.token, holder.node.as_str()), (token, "other"));
    let gate = again.gate("g", &Config::new()).unwrap();
    assert!(gate.check().is_err(), "it comes up closed");
    let stale: Error = gate.check_epoch(epoch - 1).unwrap_err();
    assert_eq!(stale.status(), Status::Fenced);
    let next = again.session().try_acquire_token(b"new", &LockOptions::default()).unwrap();
    assert!(next.0 > epoch && next > token);
    again.close(Duration::from_secs(20)).unwrap();
    // Closed in good order, it may be opened again at once; removed, it is not made anew.
    node(&killed).unwrap().close(Duration::from_secs(20)).unwrap();
    std::fs::remove_dir_all(&killed).unwrap();
    let lost = node(&killed).err().unwrap();
    assert_eq!(lost.status(), Status::DataLost, "{lost}");
    assert!(lost.message().contains("data.killed"), "{lost}");
}
