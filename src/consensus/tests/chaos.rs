//! Seeded runs in which members are killed and cut off while clients take and give back locks, and their history is checked:
//! no token is given twice, no two holders overlap, tokens grow with time, and in the end all members are equal and serve.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::super::core::Core;
use super::rig::{Rig, Seen, key};
use crate::base::clock::holder_ttl;
use crate::base::{Result, Rng, SeededRng, SessionId, Token};
use crate::ledger::{Event, Mode, Op, Outcome, Renew, Request, Spec};

const TTL_MS: u32 = 2_000;
const CLIENTS: u64 = 4;
const KEYS: u64 = 2;
const LENGTH: Duration = Duration::from_secs(20);

/// From when to when a client believed that it held a key.
#[derive(Clone, Debug)]
struct Hold {
    key: String,
    token: Token,
    asked: Instant,
    from: Instant,
    to: Instant,
}

struct Client {
    number: u64,
    rng: SeededRng,
    live: Arc<Mutex<Vec<Option<Arc<Core>>>>>,
    told: Arc<Mutex<Vec<Arc<Seen>>>>,
    history: Arc<Mutex<Vec<Hold>>>,
    seq: u64,
    session: SessionId,
}

impl Client {
    async fn execute(&mut self, seq: u64, op: Op) -> Option<Result<Outcome>> {
        let core = {
            let live = self.live.lock().unwrap();
            let running: Vec<_> = live.iter().flatten().cloned().collect();
            running.get(self.rng.below(running.len() as u64) as usize).cloned()
        };
        let Some(core) = core else {
            sleep(Duration::from_millis(20)).await;
            return None;
        };
        let (tell, told) = oneshot::channel();
        core.queue.submit(Request { session: self.session, seq, op }, core.options.timeout, false, Box::new(move |r| drop(tell.send(r))));
        let answer = told.await.ok();
        if !matches!(answer, Some(Ok(_))) {
            // Refused at once, perhaps: virtual time must pass.
            sleep(Duration::from_millis(10)).await;
        }
        answer
    }

    async fn open(&mut self) {
        self.session = SessionId(0);
        self.seq = 0;
        let nonce = self.rng.next_u128();
        while self.session == SessionId(0) {
            let op = Op::OpenSession { nonce, name: format!("client{}", self.number), ttl_ms: 60_000 };
            if let Some(Ok(Outcome::Session { id, .. })) = self.execute(0, op).await {
                self.session = id;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// The grant of a request that was told to wait, if it comes in time.
    async fn wait(&self, req: u64) -> Option<Token> {
        let (told, session) = (self.told.clone(), self.session);
        let granted = move |e: &Event| match e {
            Event::Granted { session: s, req: r, token, .. } if (*s, *r) == (session, req) => Some(*token),
            _ => None,
        };
        timeout(Duration::from_millis(1_500), async {
            loop {
                let token = told.lock().unwrap().iter().find_map(|seen| seen.events.lock().unwrap().iter().find_map(&granted));
                if token.is_some() {
                    return token;
                }
                sleep(Duration::from_millis(2)).await;
            }
        })
        .await
        .ok()
        .flatten()
    }

    async fn run(mut self, stop: Instant) -> u64 {
        self.open().await;
        let mut ops = 0;
        while Instant::now() < stop {
            ops += 1;
            let name = format!("k{}", self.rng.below(KEYS));
            let spec = Spec { mode: Mode::Exclusive, ttl_ms: TTL_MS, renew: Renew::Manual, ..Spec::default() };
            let wait_ms = (self.rng.below(2) == 0).then_some(1_000);
            self.seq += 1;
            let req = self.seq;
            let sent = Instant::now();
            // The same number each time: whichever copy is applied first counts.
            let mut answer = None;
            for _ in 0..3 {
                answer = self.execute(req, Op::Acquire { key: key(&name), spec: spec.clone(), wait_ms, req }).await;
                if matches!(answer, Some(Ok(_))) {
                    break;
                }
            }
            let token = match answer {
                Some(Ok(Outcome::Granted { token, .. })) => Some(token),
                Some(Ok(Outcome::Queued { .. })) => self.wait(req).await,
                Some(Ok(Outcome::Refused(_))) => {
                    self.open().await;
                    None
                }
                _ => None,
            };
            let Some(token) = token else {
                self.seq += 1;
                let seq = self.seq;
                self.execute(seq, Op::Cancel { keys: vec![key(&name)], req }).await;
                continue;
            };
            let believed = sent + Duration::from_millis(holder_ttl(u64::from(TTL_MS)));
            let from = Instant::now();
            sleep(Duration::from_millis(self.rng.below(40))).await;
            let to = Instant::now().min(believed);
            if from < to {
                self.history.lock().unwrap().push(Hold { key: name.clone(), token, asked: sent, from, to });
            }
            // Now and then a holder is never heard of again, and its grant runs out.
            if self.rng.below(8) != 0 {
                self.seq += 1;
                let seq = self.seq;
                self.execute(seq, Op::Release { key: key(&name), token }).await;
            }
        }
        ops
    }
}

/// `clocks`: whether the members' are as fast as the holders', so that a holder knows in time when its lease is over.
fn check(history: &[Hold], clocks: bool) {
    let mut tokens = BTreeSet::new();
    let mut by_key: BTreeMap<&str, Vec<&Hold>> = BTreeMap::new();
    for hold in history {
        assert!(tokens.insert(hold.token), "I-05: token {} was given twice", hold.token);
        by_key.entry(&hold.key).or_default().push(hold);
        // Whoever keeps the highest token that it has seen refuses every earlier holder, whatever the clocks say.
        let later = history.iter().find(|other| hold.from < other.asked && other.token < hold.token);
        assert!(later.is_none(), "I-05: asked for after {hold:?} was told, and smaller: {later:?}");
    }
    if !clocks {
        return;
    }
    for holds in by_key.values_mut() {
        holds.sort_by_key(|h| h.token);
        for pair in holds.windows(2) {
            assert!(pair[0].to <= pair[1].from, "I-01: two holders at once: {pair:?}");
        }
    }
}

async fn run(seed: u64, members: usize, rates: &'static [u64]) -> (u64, usize, [u32; 4]) {
    let mut rig = Rig::new(members, seed);
    rig.rates = rates;
    rig.snapshot_after = 64 << 10;
    rig.timeout = Duration::from_millis(800);
    for i in 0..members {
        rig.boot(i).await.unwrap();
    }
    let stop = Instant::now() + LENGTH;
    let history = Arc::new(Mutex::new(Vec::new()));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let rng = SeededRng::new(rig.rng.next_u64());
            let client = Client {
                number,
                rng,
                live: rig.live.clone(),
                told: rig.told.clone(),
                history: history.clone(),
                seq: 0,
                session: SessionId(0),
            };
            tokio::spawn(client.run(stop))
        })
        .collect();
    let mut done = [0; 4];
    while Instant::now() < stop {
        sleep(Duration::from_millis(200 + rig.rng.below(1_200))).await;
        let victim = rig.rng.below(members as u64) as usize;
        match rig.rng.below(8) {
            0 | 1 => {
                if rig.hosts[victim].running.is_some() {
                    rig.kill(victim).await;
                    done[0] += 1;
                }
            }
            2 => {
                let names: Vec<String> = rig.hosts.iter().map(|h| h.name.clone()).collect();
                let (one, other): (Vec<&str>, Vec<&str>) = names.iter().map(String::as_str).partition(|_| rig.rng.below(2) == 0);
                rig.net.part(&one, &other);
                done[1] += 1;
            }
            3 => {
                let other = (victim + 1) % members;
                rig.net.part_one_way(&rig.hosts[victim].name, &rig.hosts[other].name);
                done[2] += 1;
            }
            _ => {
                rig.net.heal();
                for i in 0..members {
                    if rig.hosts[i].running.is_none() {
                        rig.boot(i).await.unwrap();
                        done[3] += 1;
                    }
                }
            }
        }
    }
    rig.net.heal();
    for i in 0..members {
        if rig.hosts[i].running.is_none() {
            rig.boot(i).await.unwrap();
        }
    }
    let mut ops = 0;
    for client in clients {
        ops += client.await.unwrap();
    }
    // I-33: whole again, it serves in time.
    let healed = Instant::now();
    let fresh = Op::OpenSession { nonce: 1, name: "fresh".into(), ttl_ms: 60_000 };
    while rig.execute(0, SessionId(0), fresh.clone()).await.is_err() {
        let stands = || rig.hosts.iter().map(|h| super::super::node::status(&h.running.as_ref().unwrap().core)).collect::<Vec<_>>();
        assert!(healed.elapsed() < Duration::from_secs(3), "it does not serve: {:#?}", stands());
    }
    rig.converge().await;
    let ended: Vec<_> = rig.hosts.iter().filter_map(|h| h.seen.ended.lock().unwrap().clone()).collect();
    assert!(ended.is_empty(), "no member ended: {ended:?}");
    let history = history.lock().unwrap().clone();
    check(&history, rates.iter().all(|r| *r == 100));
    for i in 0..members {
        rig.kill(i).await;
    }
    (ops, history.len(), done)
}

/// `TENURE_SEEDS=FROM..TO` in the environment runs others than the usual seeds.
fn sweep(usual: std::ops::Range<u64>, members: usize, rates: &'static [u64]) {
    let chosen = std::env::var("TENURE_SEEDS").ok();
    let seeds = chosen.as_deref().and_then(|s| s.split_once("..")).map_or(usual, |(from, to)| from.parse().unwrap()..to.parse().unwrap());
    let (mut faults, mut holds) = ([0; 4], 0);
    for seed in seeds {
        println!("seed {seed}, {members} members");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let (ops, held, done) = runtime.block_on(run(seed, members, rates));
        println!(
            "seed {seed}: {ops} operations, {held} holds, {} kills, {} partitions, {} one-way cuts, {} restarts",
            done[0], done[1], done[2], done[3]
        );
        holds += held;
        (0..4).for_each(|i| faults[i] += done[i]);
    }
    assert!(holds > 300, "I-35: runs that show too little: {holds} holds");
    assert!(faults.iter().all(|f| *f > 0), "every kind of fault has happened: {faults:?}, {holds} holds");
}

// I-01, I-33, I-35.
#[test]
fn three_members_under_faults() {
    sweep(0..8, 3, &[100]);
}

// I-15, I-17.
#[test]
fn five_members_under_faults() {
    sweep(100..104, 5, &[100]);
}

// I-05, F07.
/// C2, C10: half as fast, twice as fast, and wall clocks that jump by an hour: nothing but the times of the leases changes.
#[test]
fn members_whose_clocks_disagree_give_no_token_twice_and_none_out_of_order() {
    sweep(200..206, 3, &[50, 100, 200]);
}
