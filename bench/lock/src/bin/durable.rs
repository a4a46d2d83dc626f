//! The rows "durable lock, 1 node" of the performance targets: an operation of one client against the bare `fdatasync` of a preallocated
//! file in the same directory, in turn and in one process; and how much more 64 clients get done than one, for they share their
//! syncs. One JSON line a figure.
//!
//! Usage: durable DIRECTORY [rounds]. The directory must be on the disk that is meant; what is put there is removed again.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use tenure::base::{Key, SessionId, SystemClock, SystemRng, Token};
use tenure::engine::{DurableEngine, DurableOptions, EventSink};
use tenure::ledger::{Event, Op, Outcome, Params, Request, Spec};
use tenure::store::Owner;

struct Deaf;

impl EventSink for Deaf {
    fn event(&self, _: Event) {}
    fn nearer_deadline(&self) {}
}

/// Operations, and bare syncs, in one slice.
const SLICE: usize = 40;
const CLIENTS: usize = 64;

fn open(path: &Path, sync_releases: bool) -> (Arc<DurableEngine>, SessionId) {
    let options = DurableOptions { params: Params::default(), segment_bytes: 16 << 20, snapshot_bytes: 64 << 20, sync_releases };
    let owner = Owner { cluster_id: "bench", node_id: None, create: true };
    let mut rng = SystemRng::new().unwrap();
    let engine = DurableEngine::open(path, &owner, options, Arc::new(SystemClock), &mut rng, Arc::new(Deaf)).unwrap();
    let open = Op::OpenSession { nonce: 1, name: "bench".into(), ttl_ms: 86_400_000 };
    let Ok(Outcome::Session { id, .. }) = engine.execute(&Request { session: SessionId(0), seq: 0, op: open }) else {
        panic!("no session")
    };
    (Arc::new(engine), id)
}

fn key(n: usize) -> Key {
    Key::new(format!("shard/{n:08}/owner").as_bytes()).unwrap()
}

fn token(outcome: Outcome) -> Token {
    match outcome {
        Outcome::Granted { token, .. } => token,
        other => panic!("{other:?}"),
    }
}

/// A preallocated file whose blocks are written, as a log's.
fn floor_file(path: &Path) -> File {
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(path).unwrap();
    file.write_all_at(&vec![0; 16 << 20], 0).unwrap();
    file.sync_all().unwrap();
    file
}

fn quantile(v: &mut [f64], q: f64) -> f64 {
    v.sort_by(f64::total_cmp);
    v[((v.len() - 1) as f64 * q) as usize]
}

fn timed(into: &mut Vec<f64>, work: impl FnOnce()) {
    let start = Instant::now();
    work();
    into.push(start.elapsed().as_secs_f64() * 1e6);
}

fn report(figure: &str, unit: &str, ours: f64, reference: &str, value: f64, n: usize) {
    println!(
        "{{\"figure\": \"{figure}\", \"unit\": \"{unit}\", \"ours\": {ours:.1}, \"reference\": \"{reference}\", \"ref\": {value:.1}, \"ratio\": {:.3}, \"n\": {n}}}",
        ours / value
    );
}

/// One client against the floor.
fn one_client(dir: &Path, rounds: usize) {
    let file = floor_file(&dir.join("floor"));
    let (strict, strict_session) = open(&dir.join("strict"), true);
    let (early, early_session) = open(&dir.join("early"), false);
    let spec = Spec::default();
    let (mut bare, mut ops, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
    let mut at = 0;
    for round in 0..rounds {
        for _ in 0..SLICE {
            timed(&mut bare, || {
                file.write_all_at(&[7; 128], at).unwrap();
                file.sync_data().unwrap();
            });
            at = (at + 128) % (16 << 20);
        }
        for n in 0..SLICE / 2 {
            let key = key(round % 100 * SLICE + n);
            let mut granted = Token(0);
            timed(&mut ops, || granted = token(strict.try_acquire(strict_session, &key, &spec, 0).unwrap()));
            timed(&mut ops, || _ = strict.release(strict_session, &key, granted).unwrap());
        }
        for n in 0..SLICE {
            let key = key(round % 100 * SLICE + n);
            timed(&mut pairs, || {
                let granted = token(early.try_acquire(early_session, &key, &spec, 0).unwrap());
                early.release(early_session, &key, granted).unwrap();
            });
        }
    }
    let n = bare.len();
    let reference = "one write of 128 bytes and fdatasync, preallocated file, same directory";
    for (q, name) in [(0.5, "p50"), (0.99, "p99")] {
        let floor = quantile(&mut bare, q);
        report(&format!("durable lock, 1 node, 1 client: operation {name}"), "us", quantile(&mut ops, q), reference, floor, n);
        report(&format!("durable lock, 1 node, 1 client: acquire and release {name}"), "us", quantile(&mut pairs, q), reference, floor, n);
    }
}

/// A client that takes and gives back its own lock over and over, without ever blocking.
struct Client {
    engine: Arc<DurableEngine>,
    session: SessionId,
    key: Key,
    pairs: Arc<AtomicU64>,
    running: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Client {
    fn acquire(self: Arc<Self>) {
        if self.stop.load(SeqCst) {
            self.running.fetch_sub(1, SeqCst);
            return;
        }
        let op = Op::Acquire { key: self.key.clone(), spec: Spec::default(), wait_ms: None, req: 0 };
        let (request, engine) = (Request { session: self.session, seq: 0, op }, self.engine.clone());
        engine.submit(&request, Box::new(move |answer| self.release(token(answer.unwrap()))));
    }

    fn release(self: Arc<Self>, token: Token) {
        let op = Op::Release { key: self.key.clone(), token };
        let (request, engine) = (Request { session: self.session, seq: 0, op }, self.engine.clone());
        let done = move |answer: Result<Outcome, _>| {
            answer.unwrap();
            self.pairs.fetch_add(1, SeqCst);
            self.acquire();
        };
        engine.submit(&request, Box::new(done));
    }
}

/// Pairs a second of `clients` clients that never block.
fn async_clients(engine: &Arc<DurableEngine>, session: SessionId, clients: usize, time: Duration) -> f64 {
    let (pairs, running, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(clients as u64)), Arc::new(AtomicBool::new(false)));
    let start = Instant::now();
    for n in 0..clients {
        let (engine, pairs, running, stop) = (engine.clone(), pairs.clone(), running.clone(), stop.clone());
        Arc::new(Client { engine, session, key: key(n), pairs, running, stop }).acquire();
    }
    std::thread::sleep(time);
    let done = pairs.load(SeqCst) as f64 / start.elapsed().as_secs_f64();
    stop.store(true, SeqCst);
    while running.load(SeqCst) > 0 {
        std::thread::yield_now();
    }
    done
}

/// Pairs a second of one client that blocks.
fn blocking_client(engine: &DurableEngine, session: SessionId, time: Duration) -> f64 {
    let (key, spec) = (key(0), Spec::default());
    let (start, mut pairs) = (Instant::now(), 0);
    while start.elapsed() < time {
        let granted = token(engine.try_acquire(session, &key, &spec, 0).unwrap());
        engine.release(session, &key, granted).unwrap();
        pairs += 1;
    }
    f64::from(pairs) / start.elapsed().as_secs_f64()
}

fn group_commit(dir: &Path, rounds: usize) {
    for (name, sync_releases) in [("every operation synced", true), ("releases answered early", false)] {
        let (engine, session) = open(&dir.join(format!("group-{sync_releases}")), sync_releases);
        let (mut one, mut many) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            one.push(blocking_client(&engine, session, Duration::from_millis(300)));
            many.push(async_clients(&engine, session, CLIENTS, Duration::from_millis(300)));
        }
        let status = engine.status();
        eprintln!("# {name}: {} entries, {} syncs, {} bytes", status.entries, status.syncs, status.log_bytes);
        report(
            &format!("durable lock, 1 node, {CLIENTS} clients: {name}"),
            "pairs/s",
            quantile(&mut many, 0.5),
            "1 client",
            quantile(&mut one, 0.5),
            rounds,
        );
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().expect("usage: durable DIRECTORY [rounds]"));
    let rounds: usize = args.next().map_or(60, |r| r.parse().expect("rounds"));
    let dir = dir.join(format!("tenure-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    one_client(&dir, rounds);
    group_commit(&dir, rounds.div_ceil(12).max(3));
    std::fs::remove_dir_all(&dir).unwrap();
}
