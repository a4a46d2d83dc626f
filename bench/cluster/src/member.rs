//! One member, opened as a host opens it; it does what its standard input says.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use tenure::base::{Clock, Config, Status, SystemClock, Token};
use tenure::gate::Verdict;
use tenure::node::{Gate, LockOptions, Node, Renew, Session};

use super::{Res, latencies, wrong};

const LIMIT: Duration = Duration::from_secs(60);

pub fn run(settings: &[&str]) -> Res<()> {
    let mut config = Config::new();
    for setting in settings {
        let (name, value) = setting.split_once('=').ok_or_else(|| wrong("NAME=VALUE"))?;
        config.set(name, value)?;
    }
    let node = Node::open(&config)?;
    let mut gate = None;
    for line in std::io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words[..] {
            ["ready"] => {
                node.wait_ready(LIMIT)?;
                "ok".to_owned()
            }
            ["leads"] => node.status().cluster.is_some_and(|c| c.role == "leader").to_string(),
            ["pairs", clients, seconds] => pairs(&node, clients.parse()?, seconds.parse()?)?,
            ["handoff", waiters, count] => handoff(&node, waiters.parse()?, count.parse()?)?,
            ["renewals", clients, seconds] => renewals(&node, clients.parse()?, seconds.parse()?)?,
            ["fill", from, to] => fill(&node, from.parse()?, to.parse()?)?,
            ["expire", locks] => expire(&node, locks.parse()?)?,
            ["held", key] => {
                let holder = node.session().holder(key.as_bytes())?;
                holder.is_some().to_string()
            }
            ["grant", key] => grant(&node, key)?,
            ["campaign", office] => {
                gate.insert(node.gate("bench", &Config::new())?).hold(office.as_bytes(), Duration::from_secs(3))?;
                "ok".to_owned()
            }
            ["queued", office, count] => {
                let (start, count) = (Instant::now(), count.parse::<usize>()?);
                while node.session().contenders(office.as_bytes())?.waiters.len() != count && start.elapsed() < LIMIT {
                    std::thread::sleep(Duration::from_millis(1));
                }
                "ok".to_owned()
            }
            ["serves"] => serves(gate.as_ref())?,
            ["resign", to, office] => resign(gate.as_ref(), to, office)?,
            _ => break,
        };
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// Tried until it is granted, as somebody who waits for a new leader does.
fn grant(node: &Node, key: &str) -> Res<String> {
    let (session, start) = (node.session(), Instant::now());
    while start.elapsed() < LIMIT {
        if session.try_acquire_token(key.as_bytes(), &LockOptions::default()).is_ok() {
            return Ok("granted".to_owned());
        }
    }
    Err(wrong("no grant"))
}

fn now_us() -> u64 {
    let clock = SystemClock;
    clock.monotonic_ns() / 1_000
}

/// Waits for the office; when the first write was let in, us of a clock that all processes share.
fn serves(gate: Option<&Gate>) -> Res<String> {
    let (gate, start) = (gate.ok_or_else(|| wrong("no gate"))?, Instant::now());
    while start.elapsed() < LIMIT {
        if gate.enter().is_ok_and(|permit| permit.finish() == Verdict::Held) {
            return Ok(now_us().to_string());
        }
        std::thread::sleep(Duration::from_micros(20));
    }
    Err(wrong("not in office within a minute"))
}

/// Hands the office over while another thread writes; when its last write was acknowledged. Then it queues up again.
fn resign(gate: Option<&Gate>, to: &str, office: &str) -> Res<String> {
    let gate = gate.ok_or_else(|| wrong("no gate"))?;
    let stop = AtomicBool::new(false);
    let last = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut last = 0;
            while !stop.load(SeqCst) {
                if gate.enter().is_ok_and(|permit| permit.finish() == Verdict::Held) {
                    last = now_us();
                }
                std::thread::sleep(Duration::from_micros(20));
            }
            last
        });
        std::thread::sleep(Duration::from_millis(5));
        let resigned = gate.resign_to(to, LIMIT);
        stop.store(true, SeqCst);
        let last = writer.join().map_err(|_| wrong("the writer panicked"))?;
        resigned?;
        Res::Ok(last)
    })?;
    gate.hold(office.as_bytes(), Duration::from_secs(3))?;
    Ok(last.to_string())
}

struct Tally {
    stop: AtomicBool,
    left: AtomicUsize,
    all: Mutex<(Vec<u64>, Option<String>)>,
    tell: mpsc::Sender<()>,
}

impl Tally {
    fn leave(&self, mut ns: Vec<u64>, failure: Option<String>) {
        let mut all = self.all.lock().unwrap_or_else(|e| e.into_inner());
        all.0.append(&mut ns);
        all.1 = all.1.take().or(failure);
        drop(all);
        if self.left.fetch_sub(1, SeqCst) == 1 {
            // Nobody listens when the process was told to end.
            let _ = self.tell.send(());
        }
    }
}

/// A chain of pairs, each begun by the answer to the one before.
struct Chain {
    session: Session,
    key: Vec<u8>,
    tally: Arc<Tally>,
    ns: Vec<u64>,
}

impl Chain {
    fn next(mut self: Box<Chain>) {
        if self.tally.stop.load(SeqCst) {
            let ns = std::mem::take(&mut self.ns);
            return self.tally.leave(ns, None);
        }
        let (session, key, tally, start) = (self.session.clone(), self.key.clone(), self.tally.clone(), Instant::now());
        let sent = session.submit_acquire(
            &key,
            &LockOptions::default(),
            Some(Duration::ZERO),
            Box::new(move |granted| match granted {
                Ok(token) => self.give_back(token, start),
                Err(e) => self.tally.leave(Vec::new(), Some(e.to_string())),
            }),
        );
        if let Err(e) = sent {
            tally.leave(Vec::new(), Some(e.to_string()));
        }
    }

    fn give_back(mut self: Box<Chain>, token: Token, start: Instant) {
        let (session, key, tally) = (self.session.clone(), self.key.clone(), self.tally.clone());
        let sent = session.submit_release(
            &key,
            token,
            Box::new(move |released| match released {
                Ok(()) => {
                    self.ns.push(start.elapsed().as_nanos() as u64);
                    self.next();
                }
                Err(e) => self.tally.leave(Vec::new(), Some(e.to_string())),
            }),
        );
        if let Err(e) = sent {
            tally.leave(Vec::new(), Some(e.to_string()));
        }
    }
}

fn pairs(node: &Node, clients: usize, seconds: f64) -> Res<String> {
    let time = Duration::from_secs_f64(seconds);
    if clients == 1 {
        let (session, start, mut ns) = (node.session(), Instant::now(), Vec::new());
        while start.elapsed() < time {
            let one = Instant::now();
            let token = session.try_acquire_token(b"bench/one", &LockOptions::default())?;
            session.release(b"bench/one", token)?;
            ns.push(one.elapsed().as_nanos() as u64);
        }
        return Ok(told(ns, start.elapsed()));
    }
    let (tell, told_end) = mpsc::channel();
    let tally = Arc::new(Tally { stop: AtomicBool::new(false), left: AtomicUsize::new(clients), all: Mutex::default(), tell });
    let start = Instant::now();
    for i in 0..clients {
        let key = format!("bench/{i}").into_bytes();
        Box::new(Chain { session: node.session(), key, tally: tally.clone(), ns: Vec::new() }).next();
    }
    std::thread::sleep(time);
    tally.stop.store(true, SeqCst);
    told_end.recv_timeout(LIMIT)?;
    let elapsed = start.elapsed();
    let mut all = tally.all.lock().unwrap_or_else(|e| e.into_inner());
    match all.1.take() {
        Some(failure) => Err(wrong(failure)),
        None => Ok(told(std::mem::take(&mut all.0), elapsed)),
    }
}

fn told(ns: Vec<u64>, elapsed: Duration) -> String {
    let rate = ns.len() as f64 / elapsed.as_secs_f64();
    let load = latencies(ns);
    format!("{rate} {} {}", load.p50, load.p99)
}

/// `waiters` stand in the queue while one more holds the lock, each with a session of its own.
fn handoff(node: &Node, waiters: usize, count: u64) -> Res<String> {
    let key = format!("hand/{waiters}");
    let (released, done, base) = (AtomicU64::new(0), AtomicU64::new(0), Instant::now());
    let all = Mutex::new(Vec::new());
    let one = |i: usize| -> Res<()> {
        let session = node.open_session(&format!("waiter-{i}"), Duration::from_secs(30))?;
        let now = || base.elapsed().as_nanos() as u64;
        while done.load(SeqCst) < count + 20 {
            let token = session.acquire_token(key.as_bytes(), &LockOptions::default(), Some(LIMIT))?;
            let (at, from) = (now(), released.swap(0, SeqCst));
            if done.fetch_add(1, SeqCst) >= 20 && from != 0 {
                all.lock().unwrap_or_else(|e| e.into_inner()).push(at - from);
            }
            std::thread::sleep(Duration::from_millis(5));
            released.store(now(), SeqCst);
            session.release(key.as_bytes(), token)?;
            // Lets another in first: who gave the lock back is the last in the queue.
            while released.load(SeqCst) != 0 && done.load(SeqCst) < count + 20 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        session.close()?;
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..=waiters).map(|i| scope.spawn(move || one(i))).collect();
        threads.into_iter().try_for_each(|t| t.join().map_err(|_| wrong("a waiter panicked"))?)
    })?;
    let load = latencies(all.into_inner().unwrap_or_else(|e| e.into_inner()));
    Ok(format!("{} {}", load.p50, load.p99))
}

/// Renewals of grants that their callers renew one by one.
fn renewals(node: &Node, clients: usize, seconds: f64) -> Res<String> {
    let done = AtomicU64::new(0);
    let (start, time) = (Instant::now(), Duration::from_secs_f64(seconds));
    let one = |i: usize| -> Res<()> {
        let (session, key) = (node.session(), format!("renew/{i}"));
        let options = LockOptions { renew: Renew::Manual, ..LockOptions::default() };
        let token = session.try_acquire_token(key.as_bytes(), &options)?;
        while start.elapsed() < time {
            session.renew(key.as_bytes(), token, Duration::from_secs(10))?;
            done.fetch_add(1, SeqCst);
        }
        Ok(session.release(key.as_bytes(), token)?)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|i| scope.spawn(move || one(i))).collect();
        threads.into_iter().try_for_each(|t| t.join().map_err(|_| wrong("a client panicked"))?)
    })?;
    Ok(format!("{}", done.load(SeqCst) as f64 / start.elapsed().as_secs_f64()))
}

/// Renews one lock while so many of somebody else's end.
fn expire(node: &Node, locks: u64) -> Res<String> {
    let session = node.session();
    let options = LockOptions { renew: Renew::Manual, ..LockOptions::default() };
    let token = session.try_acquire_token(b"renewed", &options)?;
    let (begun, mut first, mut latencies_ns) = (Instant::now(), None, Vec::new());
    while begun.elapsed() < LIMIT {
        let start = Instant::now();
        session.renew(b"renewed", token, Duration::from_secs(10))?;
        let took = start.elapsed().as_nanos() as u64;
        let left = node.status().locks;
        if left < locks {
            let first: Instant = *first.get_or_insert(start);
            latencies_ns.push(took);
            if left < 1_000 {
                let load = latencies(latencies_ns);
                return Ok(format!("{} {} {}", first.elapsed().as_secs_f64(), load.p50, load.p99));
            }
        }
    }
    Err(wrong("the locks did not end"))
}

/// Takes the locks of these numbers, 2 048 at a time, and keeps them. What is uncertain after a change of leader is asked for again.
fn fill(node: &Node, from: u64, to: u64) -> Res<String> {
    const AT_ONCE: u64 = 2048;
    let (tell, answers) = mpsc::channel::<(u64, tenure::base::Result<Token>)>();
    let session = node.session();
    let ask = |i: u64| -> Res<()> {
        let tell = tell.clone();
        let done = Box::new(move |granted| drop(tell.send((i, granted))));
        session.submit_acquire(format!("held-lock-{i:09}").as_bytes(), &LockOptions::default(), Some(Duration::ZERO), done)?;
        Ok(())
    };
    let (mut next, mut left) = ((from + AT_ONCE).min(to), to - from);
    (from..next).try_for_each(ask)?;
    while left > 0 {
        match answers.recv_timeout(LIMIT)? {
            (i, Err(e)) if e.status() == Status::Unavailable => ask(i)?,
            // It was applied the first time.
            (_, Ok(_)) => left -= 1,
            (_, Err(e)) if e.status() == Status::Held => left -= 1,
            (_, Err(e)) => return Err(wrong(e.to_string())),
        }
        if next < to && to - next + AT_ONCE > left {
            ask(next)?;
            next += 1;
        }
    }
    Ok("ok".to_owned())
}
