//! Who works under the locks: the hosts' own code on each node, and clients elsewhere that ask any member.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::history::Line;
use super::host::{OFFICE, OFFICE_TTL, TIMEOUT, Up};
use super::world::{Believed, World};
use crate::base::{Key, Result, Rng, SeededRng, SessionId, Status, Token};
use crate::gate::Verdict;
use crate::ledger::orch::OrchOp;
use crate::ledger::{self, Op, Outcome, Refusal, Request, Spec};
use crate::node::{LockMode, LockOptions};

/// The locks that are fought for: two that one has at a time, one that is also shared, three permits, and one that may be had again.
pub const KEYS: [&str; 5] = ["a", "b", "shared", "permits", "again"];
/// Locks that are held from the beginning to the end.
pub const KEPT: [&str; 3] = ["kept-0", "kept-1", "kept-2"];
const TTL: Duration = Duration::from_millis(2_000);

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A lock, and how it is asked for.
fn choose(world: &World, rng: &mut SeededRng) -> (&'static str, LockOptions, Line) {
    let name = KEYS[rng.below(KEYS.len() as u64) as usize];
    let shared = name == "shared" && rng.below(4) != 0;
    let count = 1 + rng.below(2) as u32;
    let mode = match name {
        "permits" => LockMode::Permits { count, limit: 3 },
        _ if shared => LockMode::Shared,
        _ => LockMode::Exclusive,
    };
    let (permits, reentrant) = (name == "permits", name == "again");
    let line = Line {
        key: name.to_owned(),
        op: "acquire".to_owned(),
        mode: Some(
            if permits {
                "permits"
            } else if shared {
                "shared"
            } else {
                "exclusive"
            }
            .to_owned(),
        ),
        count: permits.then_some(count),
        limit: permits.then_some(3),
        reentrant,
        // With clocks that run wild nothing is known of when it may run out.
        ttl: if world.calm { TTL.as_nanos() as u64 } else { 0 },
        ..Line::default()
    };
    (name, LockOptions { mode, ttl: TTL, reentrant, ..LockOptions::default() }, line)
}

/// The host's own code: takes locks through its node's session, works a while, and gives them back.
pub async fn holder(world: Arc<World>, up: Arc<Up>, number: u32, mut rng: SeededRng) {
    let session = up.node.session();
    while !world.is_over() {
        sleep(ms(rng.below(120))).await;
        let (name, options, line) = choose(&world, &mut rng);
        if name == "again" && number != 0 {
            // Two of one session could not tell which of them still has it.
            continue;
        }
        let wait = if rng.below(3) == 0 { Duration::ZERO } else { ms(200 + rng.below(1_500)) };
        let (by, told) = (format!("{}/{}", up.name, session.id().0), world.judge.lock().unwrap().told());
        let at = world.asked(Line { by: by.clone(), ..line });
        let (tell, answer) = oneshot::channel();
        if session.submit_acquire(name.as_bytes(), &options, Some(wait), Box::new(move |r| drop(tell.send(r)))).is_err() {
            world.undone(at);
            sleep(ms(20)).await;
            continue;
        }
        let Ok(answer) = answer.await else { return };
        match answer {
            Ok(token) => {
                world.answered(at, |line| (line.result, line.token) = ("granted".to_owned(), Some(token.0)));
                world.counts.done("granted");
                hold(&world, &up, &session, name, token, &by, told, &mut rng).await;
            }
            Err(error) => {
                world.trace.note(format_args!("{by} {name} {error}"));
                match error.status() {
                    Status::Held => world.answered(at, |line| line.result = "refused".to_owned()),
                    Status::Timeout | Status::Cancelled => world.undone(at),
                    _ => {}
                }
                world.counts.done("not granted");
                sleep(ms(1 + rng.below(20))).await;
            }
        }
    }
}

#[allow(clippy::too_many_arguments)]
async fn hold(
    world: &World,
    up: &Arc<Up>,
    session: &crate::node::Session,
    name: &'static str,
    token: Token,
    by: &str,
    told: u64,
    rng: &mut SeededRng,
) {
    let again = {
        let mut believed = world.believed.lock().unwrap();
        believed.insert(token.0, Believed { up: up.clone(), session: session.clone(), key: name }).is_some()
    };
    if !again {
        world.judge.lock().unwrap().granted(token.0, told, name == "again");
    }
    // Now and then for longer than a lease lives, as far as it is renewed, so that there are views that end.
    let looks = if rng.below(20) == 0 { 300 } else { 1 + rng.below(4) };
    for _ in 0..looks {
        sleep(ms(rng.below(40))).await;
        if world.calm && session.believes(token) {
            world.saw(Line { key: name.to_owned(), by: by.to_owned(), op: "held".to_owned(), token: Some(token.0), ..Line::default() });
        } else if looks > 4 {
            world.counts.done("view ended");
            break;
        }
    }
    world.believed.lock().unwrap().remove(&token.0);
    // Until it is known to be given back; what was had several times, and is not known how often, until nothing is left.
    let mut lost = false;
    while session.id().0 != 0 {
        let line = Line { key: name.to_owned(), by: by.to_owned(), op: "release".to_owned(), token: Some(token.0), ..Line::default() };
        let at = world.asked(line);
        let (tell, answer) = oneshot::channel();
        if session.submit_release(name.as_bytes(), token, Box::new(move |r| drop(tell.send(r)))).is_err() {
            return world.undone(at);
        }
        match answer.await {
            // Answered before it is durable, and made again should it be lost: its effect may come later.
            Ok(Ok(())) if lost && name == "again" => {}
            Ok(Ok(())) => return world.counts.done("released"),
            Ok(Err(error)) if error.status() == Status::NotHolder => return world.answered(at, |line| line.result = "stale".to_owned()),
            _ => {
                lost = true;
                sleep(ms(20)).await;
            }
        }
    }
}

/// The host's writes, through its gate.
pub async fn writer(world: Arc<World>, up: Arc<Up>, mut rng: SeededRng) {
    while !world.is_over() {
        let Ok(permit) = up.gate.enter() else {
            sleep(ms(1 + rng.below(25))).await;
            continue;
        };
        let epoch = permit.epoch();
        world.enters(&up.name, epoch);
        // Now and then a write takes longer than the lease lives.
        let takes = if rng.below(40) == 0 { rng.below(3_000) } else { rng.below(30) };
        sleep(ms(takes)).await;
        let commits = rng.below(3) != 0 || permit.precommit() == Verdict::Held;
        world.leaves(&up.name, epoch);
        if commits {
            match permit.finish() {
                Verdict::Held => {
                    world.counts.margin(up.gate.status().least_margin_us);
                    world.judge.lock().unwrap().written(&world, epoch, &up.name);
                }
                Verdict::Uncertain => world.counts.done("uncertain write"),
            }
        } else {
            drop(permit);
            world.counts.done("write given up");
        }
        if rng.below(150) == 0 && up.gate.reset().is_ok() {
            world.counts.done("office given back");
            sleep(ms(rng.below(300))).await;
            drop(up.gate.hold(OFFICE.as_bytes(), OFFICE_TTL));
        }
    }
}

/// A process that is no member: its requests have numbers, and are made again elsewhere until one is answered.
pub struct Client {
    pub world: Arc<World>,
    pub rng: SeededRng,
    pub number: u64,
    session: SessionId,
    seq: u64,
}

impl Client {
    pub fn new(world: &Arc<World>, number: u64, rng: &mut SeededRng) -> Client {
        Client { world: world.clone(), rng: SeededRng::new(rng.next_u64()), number, session: SessionId(0), seq: 0 }
    }

    fn pick(&mut self) -> Option<Arc<Up>> {
        let living: Vec<_> = self.world.processes().into_iter().filter(|up| up.lives()).collect();
        living.get(self.rng.below(living.len() as u64) as usize).cloned()
    }

    async fn once(&mut self, seq: u64, op: &Op) -> Option<Result<Outcome>> {
        let up = self.pick()?;
        let (tell, told) = oneshot::channel();
        let request = Request { session: self.session, seq, op: op.clone() };
        up.machine.enter(|| up.access.submit_early(request, TIMEOUT, Box::new(move |r| drop(tell.send(r)))));
        timeout(TIMEOUT + ms(500), told).await.ok()?.ok()
    }

    /// Asks up to so many times, with the same number.
    async fn ask(&mut self, times: u32, seq: u64, op: Op) -> Option<Outcome> {
        for _ in 0..times {
            if let Some(Ok(outcome)) = self.once(seq, &op).await {
                self.world.counts.done("answered");
                return Some(outcome);
            }
            sleep(ms(10)).await;
        }
        None
    }

    /// Opens a session, however long that takes.
    pub async fn open(&mut self, ttl_ms: u32) {
        (self.session, self.seq) = (SessionId(0), 0);
        let op = Op::OpenSession { nonce: self.rng.next_u128(), name: format!("client{}", self.number), ttl_ms };
        loop {
            if let Some(Outcome::Session { id, .. }) = self.ask(1, 0, op.clone()).await {
                self.session = id;
                return;
            }
        }
    }

    /// As [`Client::ask`], of the orchestrator, for as long as it takes.
    pub async fn asks(&mut self, op: OrchOp) -> Outcome {
        let seq = self.number();
        match self.ask(1_000, seq, Op::Orch(op)).await {
            Some(outcome) => outcome,
            None => panic!("nobody answers"),
        }
    }

    fn number(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    /// Takes a lock that is free, for as long as its session lives.
    pub async fn keep(&mut self, name: &str) -> u64 {
        let (seq, spec) = (self.number(), Spec { ttl_ms: 600_000, renew: ledger::Renew::Manual, ..Spec::default() });
        let op = Op::Acquire { key: Key::new(name.as_bytes()).unwrap(), spec, wait_ms: None, req: seq };
        match self.ask(1_000, seq, op).await {
            Some(Outcome::Granted { token, .. }) => token.0,
            other => panic!("{name} is not granted: {other:?}"),
        }
    }

    /// Takes the lock within a time, when nobody else is there to want it.
    pub async fn free(&mut self, name: &str, wait: Duration) -> bool {
        let until = self.world.trace.now() + wait.as_nanos() as u64;
        let key = Key::new(name.as_bytes()).unwrap();
        while self.world.trace.now() < until {
            let seq = self.number();
            let spec = match name {
                "permits" => Spec { mode: ledger::Mode::Permits { count: 3, limit: 3 }, ..Spec::default() },
                _ => Spec::default(),
            };
            let op = Op::Acquire { key: key.clone(), spec, wait_ms: None, req: seq };
            if let Some(Outcome::Granted { token, .. }) = self.ask(20, seq, op).await {
                let seq = self.number();
                self.ask(20, seq, Op::Release { key, token }).await;
                return true;
            }
            sleep(ms(20)).await;
        }
        false
    }

    pub async fn run(mut self) {
        self.open(60_000).await;
        while !self.world.is_over() {
            sleep(ms(self.rng.below(120))).await;
            if self.rng.below(3) == 0 {
                self.read().await;
            } else {
                self.work().await;
            }
        }
    }

    /// Reads who holds a lock, as of now or later, from any member.
    async fn read(&mut self) {
        let Some(up) = self.pick() else { return sleep(ms(10)).await };
        let name = KEYS[self.rng.below(KEYS.len() as u64) as usize];
        let key = Key::new(name.as_bytes()).unwrap();
        let at = self.world.asked(Line { key: name.to_owned(), by: self.name(), op: "holder".to_owned(), ..Line::default() });
        let access = up.access.clone();
        let reading = up.machine.run(async move { access.read(|l| l.lock(&key).and_then(|l| l.holders.first().map(|h| h.token.0))).await });
        match timeout(2 * TIMEOUT, reading).await {
            Ok(Ok(token)) => {
                self.world.counts.done("read");
                self.world.answered(at, |line| (line.result, line.token) = ("read".to_owned(), token));
            }
            _ => {
                self.world.undone(at);
                sleep(ms(10)).await;
            }
        }
    }

    fn name(&self) -> String {
        format!("client{}/{}", self.number, self.session.0)
    }

    async fn work(&mut self) {
        let world = self.world.clone();
        let (name, options, line) = choose(&world, &mut self.rng);
        let key = Key::new(name.as_bytes()).unwrap();
        let mode = match options.mode {
            LockMode::Exclusive => ledger::Mode::Exclusive,
            LockMode::Shared => ledger::Mode::Shared,
            LockMode::Permits { count, limit } => ledger::Mode::Permits { count, limit },
        };
        let spec =
            Spec { mode, ttl_ms: TTL.as_millis() as u32, renew: ledger::Renew::Manual, reentrant: options.reentrant, ..Spec::default() };
        let (seq, told, ttl) = (self.number(), world.judge.lock().unwrap().told(), line.ttl);
        let at = world.asked(Line { by: self.name(), ..line });
        let op = Op::Acquire { key: key.clone(), spec, wait_ms: None, req: seq };
        let token = match self.ask(3, seq, op.clone()).await {
            Some(Outcome::Granted { token, .. }) => token,
            Some(Outcome::Held(_)) => return world.answered(at, |line| line.result = "refused".to_owned()),
            Some(Outcome::Refused(Refusal::NoSession)) => return self.open(60_000).await,
            Some(other) => panic!("{name}: {other:?}"),
            None => return,
        };
        world.answered(at, |line| (line.result, line.token) = ("granted".to_owned(), Some(token.0)));
        world.counts.done("granted");
        world.judge.lock().unwrap().granted(token.0, told, options.reentrant);
        // Another copy of the question, as of a client that has not heard the answer.
        if self.rng.below(4) == 0
            && let Some(again) = self.ask(1, seq, op).await
        {
            let same = matches!(again, Outcome::Granted { token: t, .. } if t == token);
            assert!(same, "I-10: request {seq} of {} was granted {token}, and then answered {again:?}", self.name());
            world.counts.done("asked again");
        }
        sleep(ms(self.rng.below(60))).await;
        let about = Line { key: name.to_owned(), by: self.name(), token: Some(token.0), ttl, ..Line::default() };
        if self.rng.below(3) == 0 {
            let (seq, at) = (self.number(), world.asked(Line { op: "renew".to_owned(), ..about.clone() }));
            match self.ask(3, seq, Op::Renew { key: key.clone(), token, ttl_ms: TTL.as_millis() as u32 }).await {
                Some(Outcome::Renewed { .. }) => world.answered(at, |line| line.result = "held".to_owned()),
                Some(Outcome::NotHolder { .. }) => world.answered(at, |line| line.result = "stale".to_owned()),
                _ => world.undone(at),
            }
            sleep(ms(self.rng.below(60))).await;
        }
        // Now and then a holder is never heard of again, and its grant runs out.
        if self.rng.below(8) == 0 {
            return world.counts.done("abandoned");
        }
        let (seq, at) = (self.number(), world.asked(Line { op: "release".to_owned(), ..about }));
        match self.ask(3, seq, Op::Release { key, token }).await {
            Some(Outcome::Released { .. }) => world.counts.done("released"),
            Some(Outcome::NotHolder { .. }) => world.answered(at, |line| line.result = "stale".to_owned()),
            _ => {}
        }
    }
}
