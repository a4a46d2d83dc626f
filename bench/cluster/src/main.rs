//! Three members in three processes on this machine, and what they do in a second.
//!
//! `tenure-bench-cluster [SECONDS [DIRECTORY]]` starts the members as children of itself and prints one JSON line a figure. A client
//! is a chain of operations inside a member's process, each submitted by the answer of the one before: acquire, release, again.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use tenure::base::{Key, NodeId, SessionId, SystemClock};
use tenure::consensus::Timing;
use tenure::engine::{EventSink, RaftEngine, RaftOptions};
use tenure::ledger::{Event, Op, Outcome, Params, Request, Spec};
use tenure::net::Security;

struct Silent;

impl EventSink for Silent {
    fn event(&self, _: Event) {}
    fn nearer_deadline(&self) {}
}

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("member") => member(&args[1..]),
        _ => measure(args.first().map_or(Ok(3.0), |s| s.parse())?, args.get(1).cloned()),
    }
}

/// A chain of pairs.
struct Client {
    engine: Arc<RaftEngine>,
    session: SessionId,
    key: Key,
    stop: Arc<AtomicBool>,
    done: Arc<Shared>,
    op_ns: Vec<u64>,
    pairs: u64,
}

struct Shared {
    left: AtomicUsize,
    all: Mutex<(Vec<u64>, u64, u64)>,
    tell: mpsc::Sender<()>,
}

impl Client {
    fn acquire(mut self: Box<Client>) {
        if self.stop.load(SeqCst) {
            let mut all = self.done.all.lock().unwrap_or_else(|e| e.into_inner());
            all.0.append(&mut self.op_ns);
            all.1 += self.pairs;
            drop(all);
            if self.done.left.fetch_sub(1, SeqCst) == 1 {
                // Nobody listens when the member was told to stop.
                let _ = self.done.tell.send(());
            }
            return;
        }
        let op = Op::Acquire { key: self.key.clone(), spec: Spec::default(), wait_ms: None, req: 1 };
        let request = Request { session: self.session, seq: 0, op };
        let (engine, start) = (self.engine.clone(), Instant::now());
        engine.submit(
            &request,
            Box::new(move |answer| {
                self.op_ns.push(start.elapsed().as_nanos() as u64);
                match answer {
                    Ok(Outcome::Granted { token, .. }) => self.release(token),
                    _ => {
                        self.done.all.lock().unwrap_or_else(|e| e.into_inner()).2 += 1;
                        self.acquire();
                    }
                }
            }),
        );
    }

    fn release(mut self: Box<Client>, token: tenure::base::Token) {
        let request = Request { session: self.session, seq: 0, op: Op::Release { key: self.key.clone(), token } };
        let (engine, start) = (self.engine.clone(), Instant::now());
        engine.submit(
            &request,
            Box::new(move |_| {
                self.op_ns.push(start.elapsed().as_nanos() as u64);
                self.pairs += 1;
                self.acquire();
            }),
        );
    }
}

/// One member: does what its standard input says.
fn member(args: &[String]) -> Result<(), Failure> {
    let [name, listen, dir, founders, tuned] = args else { return Err("member NAME LISTEN DIR FOUNDERS default|tuned".into()) };
    let founders = founders.split(',').filter_map(|f| f.split_once('=')).map(|(n, a)| (n.to_owned(), a.to_owned())).collect();
    let options = RaftOptions {
        data_dir: dir.into(),
        create: true,
        cluster: "bench".to_owned(),
        node: NodeId::new(name)?,
        listen: listen.clone(),
        advertise: String::new(),
        founders,
        seeds: Vec::new(),
        join_token: None,
        tokens_required: false,
        security: Security::Loopback,
        params: Params::default(),
        timing: if tuned == "tuned" { Timing::tuned() } else { Timing::default() },
        timeout: Duration::from_secs(5),
        segment_bytes: 16 << 20,
        snapshot_bytes: 8 << 20,
    };
    let engine = Arc::new(RaftEngine::open(options, Arc::new(SystemClock), Arc::new(Silent))?);
    let mut session = SessionId(0);
    for line in std::io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words[..] {
            ["status"] => {
                let status = engine.status();
                format!("{} {}", status.leads, status.leader.unwrap_or_default())
            }
            ["session"] => {
                let op = Op::OpenSession { nonce: std::process::id().into(), name: name.clone(), ttl_ms: 600_000 };
                match engine.execute(&Request { session: SessionId(0), seq: 0, op })? {
                    Outcome::Session { id, .. } => session = id,
                    other => return Err(format!("{other:?}").into()),
                }
                "ok".to_owned()
            }
            ["load", clients, seconds] => load(&engine, session, name, clients.parse()?, seconds.parse()?),
            ["grant", key] => {
                // Tried until it is granted, as somebody who waits for a new leader does.
                let start = Instant::now();
                loop {
                    let outcome = engine.try_acquire(session, &Key::new(key.as_bytes())?, &Spec::default(), 7);
                    if matches!(outcome, Ok(Outcome::Granted { .. })) {
                        break;
                    }
                }
                format!("{}", start.elapsed().as_micros())
            }
            ["cpu"] => cpu_us()?.to_string(),
            _ => break,
        };
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    engine.close();
    Ok(())
}

fn cpu_us() -> Result<u64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks: u64 = fields.get(11..13).unwrap_or_default().iter().filter_map(|f| f.parse::<u64>().ok()).sum();
    Ok(ticks * 10_000)
}

fn load(engine: &Arc<RaftEngine>, session: SessionId, name: &str, clients: usize, seconds: f64) -> String {
    let (tell, told) = mpsc::channel();
    let done = Arc::new(Shared { left: AtomicUsize::new(clients), all: Mutex::default(), tell });
    let stop = Arc::new(AtomicBool::new(false));
    let start = Instant::now();
    for i in 0..clients {
        let Ok(key) = Key::new(format!("bench/{name}/{i}").as_bytes()) else { continue };
        let client = Client { engine: engine.clone(), session, key, stop: stop.clone(), done: done.clone(), op_ns: Vec::new(), pairs: 0 };
        Box::new(client).acquire();
    }
    std::thread::sleep(Duration::from_secs_f64(seconds));
    stop.store(true, SeqCst);
    // Without clients nobody tells.
    let _ = told.recv();
    let elapsed = start.elapsed().as_secs_f64();
    let mut all = done.all.lock().unwrap_or_else(|e| e.into_inner());
    all.0.sort_unstable();
    let at = |q: f64| all.0.get(((all.0.len() as f64 * q) as usize).min(all.0.len().saturating_sub(1))).copied().unwrap_or(0) / 1000;
    format!("{:.1} {} {} {}", all.1 as f64 / elapsed, at(0.5), at(0.99), all.2)
}

struct Member {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Member {
    fn tell(&mut self, line: &str) -> Result<(), Failure> {
        let input = self.child.stdin.as_mut().ok_or("no input")?;
        writeln!(input, "{line}")?;
        input.flush()?;
        Ok(())
    }

    fn answer(&mut self) -> Result<Vec<String>, Failure> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.split_whitespace().map(str::to_owned).collect())
    }

    fn ask(&mut self, line: &str) -> Result<Vec<String>, Failure> {
        self.tell(line)?;
        self.answer()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn start(count: usize, dir: &std::path::Path, timing: &str) -> Result<Vec<Member>, Failure> {
    std::fs::create_dir_all(dir)?;
    let ports: Vec<u16> = {
        let held = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
        held.iter().map(|l| l.local_addr().map(|a| a.port())).collect::<Result<_, _>>()?
    };
    let name = |i: usize| format!("n{i}");
    let founders: Vec<String> = ports.iter().enumerate().map(|(i, p)| format!("{}=127.0.0.1:{p}", name(i))).collect();
    let mut members = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["member", &name(i), &format!("127.0.0.1:{port}")])
            .arg(dir.join(name(i)))
            .args([&founders.join(","), timing])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let answers = BufReader::new(child.stdout.take().ok_or("no output")?);
        members.push(Member { child, answers });
    }
    for member in &mut members {
        if member.ask("session")? != ["ok"] {
            return Err("a member did not start".into());
        }
    }
    Ok(members)
}

fn leader(members: &mut [Member]) -> Result<usize, Failure> {
    for _ in 0..1000 {
        for (i, member) in members.iter_mut().enumerate() {
            if member.ask("status")?.first().is_some_and(|l| l == "true") {
                return Ok(i);
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err("no leader".into())
}

fn figure(name: &str, unit: &str, value: f64) {
    println!("{{\"figure\": \"{name}\", \"unit\": \"{unit}\", \"ours\": {value:.1}}}");
}

fn measure(seconds: f64, dir: Option<String>) -> Result<(), Failure> {
    let base = dir.map_or_else(std::env::temp_dir, Into::into).join(format!("tenure-bench-{}", std::process::id()));
    std::fs::create_dir_all(&base)?;
    let done = measure_in(seconds, &base);
    std::fs::remove_dir_all(&base)?;
    done
}

fn measure_in(seconds: f64, base: &std::path::Path) -> Result<(), Failure> {
    let mut members = start(3, &base.join("load"), "default")?;
    for clients in [1usize, 8, 64, 256] {
        let at = leader(&mut members)?;
        for (place, who) in [("leader", vec![at]), ("follower", vec![(at + 1) % 3]), ("spread", vec![0, 1, 2])] {
            if place == "spread" && clients < 8 {
                continue;
            }
            let cpu = |members: &mut [Member]| -> Result<u64, Failure> {
                members.iter_mut().map(|m| Ok(m.ask("cpu")?.first().ok_or("no answer")?.parse::<u64>()?)).sum()
            };
            let before = cpu(&mut members)?;
            for i in &who {
                members[*i].tell(&format!("load {} {seconds}", clients / who.len()))?;
            }
            let (mut pairs, mut p50, mut p99, mut failed) = (0.0, 0.0f64, 0.0f64, 0.0);
            for i in &who {
                let answer: Vec<f64> = members[*i].answer()?.iter().filter_map(|w| w.parse().ok()).collect();
                let [rate, half, tail, bad] = answer[..] else { return Err("no figures".into()) };
                pairs += rate;
                failed += bad;
                (p50, p99) = (p50.max(half), p99.max(tail));
            }
            let used = cpu(&mut members)? - before;
            figure(&format!("cluster.pairs_{clients}_{place}"), "1/s", pairs);
            figure(&format!("cluster.op_p50_{clients}_{place}"), "us", p50);
            figure(&format!("cluster.op_p99_{clients}_{place}"), "us", p99);
            figure(&format!("cluster.cpu_pair_{clients}_{place}"), "us", used as f64 / (pairs * seconds).max(1.0));
            if failed > 0.0 {
                figure(&format!("cluster.failed_{clients}_{place}"), "ops", failed);
            }
        }
    }
    drop(members);
    for timing in ["default", "tuned"] {
        let mut gaps = Vec::new();
        for turn in 0..5 {
            let mut members = start(3, &base.join(format!("failover-{timing}-{turn}")), timing)?;
            let at = leader(&mut members)?;
            std::thread::sleep(Duration::from_millis(300));
            members[at].child.kill()?;
            let gap: f64 = members[(at + 1) % 3].ask("grant k")?.first().ok_or("no answer")?.parse()?;
            gaps.push(gap / 1000.0);
        }
        gaps.sort_by(f64::total_cmp);
        figure(&format!("failover.kill_{timing}"), "ms", gaps[gaps.len() / 2]);
        figure(&format!("failover.kill_{timing}_worst"), "ms", gaps[gaps.len() - 1]);
    }
    Ok(())
}
