//! The durable engine on a disk that fails, without threads.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU32;

use super::*;
use crate::base::{Rng, SeededRng, VirtualClock};
use crate::engine::EventSink;
use crate::ledger::{Event, Refusal};
use crate::store::crash_disk::{CrashDisk, Fault};

pub(super) const HOUR: u32 = 3_600_000;

#[derive(Default)]
pub(super) struct Ear {
    pub events: Mutex<Vec<Event>>,
    pub ended: Mutex<Vec<Error>>,
    pub nearer: AtomicU32,
}

impl EventSink for Ear {
    fn event(&self, event: Event) {
        lock(&self.events).push(event);
    }
    fn nearer_deadline(&self) {
        self.nearer.fetch_add(1, SeqCst);
    }
    fn ended(&self, cause: &Error) {
        lock(&self.ended).push(cause.clone());
    }
}

pub(super) fn options() -> DurableOptions {
    DurableOptions { params: Params::default(), segment_bytes: 8 << 10, snapshot_bytes: 20 << 10, sync_releases: false }
}

pub(super) fn key(n: u64) -> Key {
    Key::new(format!("key-{n}").as_bytes()).unwrap()
}

pub(super) fn request(session: SessionId, op: Op) -> Request {
    Request { session, seq: 0, op }
}

pub(super) fn acquire(session: SessionId, n: u64, wait_ms: Wait, ttl_ms: u32, req: u64) -> Request {
    request(session, Op::Acquire { key: key(n), spec: Spec { ttl_ms, ..Spec::default() }, wait_ms, req })
}

pub(super) fn open_session(name: &str, nonce: u128) -> Request {
    request(SessionId(0), Op::OpenSession { nonce, name: name.to_owned(), ttl_ms: HOUR })
}

type Answer = (usize, Result<Outcome>);

/// An engine without threads, its disk and its clock.
struct Simulation {
    disk: CrashDisk,
    clock: VirtualClock,
    ear: Arc<Ear>,
    engine: DurableEngine,
    /// What was answered, in order, by the number of the request.
    answers: Arc<Mutex<Vec<Answer>>>,
    asked: usize,
    /// Numbers of requests are never used again, not by a later process either.
    base: u64,
}

impl Simulation {
    fn new(seed: u64, options: DurableOptions) -> Simulation {
        let disk = CrashDisk::new(seed);
        open::fill(&(Arc::new(disk.clone()) as Arc<dyn Disk>), 7, &options, Box::new(SeededRng::new(seed))).unwrap();
        Simulation::open(disk, seed, options).unwrap()
    }

    fn open(disk: CrashDisk, seed: u64, options: DurableOptions) -> Result<Simulation> {
        let (clock, ear) = (VirtualClock::new(1_000_000_000 * seed), Arc::new(Ear::default()));
        let files = open::Files { disk: Arc::new(disk.clone()), disk_id: 7, dir: None };
        let salts = Box::new(SeededRng::new(seed + 1));
        let around = open::Around { clock: Arc::new(clock.clone()), sink: ear.clone(), boot: seed, salts, threads: false };
        let engine = DurableEngine::open_files(files, options, around)?;
        Ok(Simulation { disk, clock, ear, engine, answers: Arc::default(), asked: 0, base: seed << 32 })
    }

    fn submit(&mut self, request: &Request) -> usize {
        let (answers, number) = (self.answers.clone(), self.asked);
        self.asked += 1;
        self.engine.submit(request, Box::new(move |answer| lock(&answers).push((number, answer))));
        number
    }

    fn drain(&self) -> Vec<Answer> {
        self.engine.shared.drain();
        std::mem::take(&mut lock(&self.answers))
    }

    fn run(&mut self, request: &Request) -> Result<Outcome> {
        let number = self.submit(request);
        let answers = self.drain();
        answers.into_iter().find(|(n, _)| *n == number).map_or(Err(Error::from(Status::Timeout)), |(_, a)| a)
    }

    fn session(&mut self, name: &str) -> Result<SessionId> {
        match self.run(&open_session(name, self.base as u128 + 1))? {
            Outcome::Session { id, .. } => Ok(id),
            other => panic!("{other:?}"),
        }
    }
}

/// What the clients of a simulation know.
#[derive(Default)]
struct Oracle {
    /// By key: who must hold it, and whether its release was asked for or answered early.
    held: BTreeMap<u64, (SessionId, Token, bool)>,
    last_token: u64,
    /// The last token of the entries before this one.
    floor: u64,
    seen: std::collections::BTreeSet<u64>,
    /// Releases answered since the last answer that is surely on the disk.
    loose: Vec<(u64, Token)>,
    /// Releases that must stay.
    released: Vec<(u64, Token)>,
    grants: u32,
    waited: u32,
    cuts: u32,
}

#[derive(Clone, Debug)]
enum Asked {
    Acquire(u64, SessionId),
    Release(u64, Token),
    Renew,
    Tick,
}

impl Oracle {
    fn granted(&mut self, n: u64, session: SessionId, token: Token, seed: u64) {
        // Answers of one entry come in any order.
        assert!(token.0 > self.floor && self.seen.insert(token.0), "seed {seed}: token {token} after {}", self.floor);
        self.last_token = self.last_token.max(token.0);
        assert!(self.held.get(&n).is_none_or(|(_, _, leaving)| *leaving), "seed {seed}: key {n} granted while held");
        self.held.insert(n, (session, token, false));
        self.grants += 1;
    }

    fn answered(&mut self, asked: &Asked, outcome: Outcome, seed: u64) {
        match (asked, outcome) {
            (Asked::Acquire(n, session), Outcome::Granted { token, .. }) => self.granted(*n, *session, token, seed),
            (Asked::Release(n, token), Outcome::Released { .. }) => {
                if self.held.get(n).is_some_and(|h| h.1 == *token) {
                    self.held.remove(n);
                }
                self.loose.push((*n, *token));
            }
            (Asked::Tick, Outcome::Ticked) => return,
            (Asked::Renew, Outcome::Renewed { .. }) | (Asked::Acquire(..), Outcome::Held(_)) => {}
            (asked, other) => panic!("seed {seed}: {asked:?} -> {other:?}"),
        }
        if !matches!(asked, Asked::Release(..)) {
            // This answer is on the disk, and the log is a sequence.
            self.released.append(&mut self.loose);
        }
    }

    /// After a crash: what was acknowledged is there.
    fn check(&mut self, engine: &DurableEngine, seed: u64) {
        let mut seen = 0;
        for (n, (session, token, leaving)) in &self.held {
            let found = engine.lock(&key(*n)).unwrap();
            let holds = found.as_ref().is_some_and(|l| l.holders.iter().any(|h| (h.session, h.token) == (*session, *token)));
            assert!(holds || *leaving, "seed {seed}: key {n}, token {token} was acknowledged; found {found:?}");
            seen += u32::from(holds);
        }
        for (n, token) in &self.released {
            let found = engine.lock(&key(*n)).unwrap();
            assert!(found.is_none_or(|l| l.holders.iter().all(|h| h.token != *token)), "seed {seed}: key {n} is held again by {token}");
        }
        assert!(engine.counts().unwrap().last_token >= self.last_token, "seed {seed}: tokens would repeat");
        assert!(seen <= self.held.len() as u32);
        // The sessions live on; what they hold now is the truth, including what was asked for and never answered.
        self.held.clear();
        self.loose.clear();
        self.released.clear();
        for lock in engine.locks(b"", None, 1000).unwrap() {
            let n: u64 = std::str::from_utf8(lock.key.as_bytes()).unwrap()[4..].parse().unwrap();
            if let Some(holder) = lock.holders.first() {
                self.held.insert(n, (holder.session, holder.token, false));
                self.last_token = self.last_token.max(holder.token.0);
            }
        }
    }
}

/// Random clients until the disk fails or `rounds` are over. Waits that are still open are forgotten by the clients, not by the ledger.
fn clients(sim: &mut Simulation, oracle: &mut Oracle, rng: &mut SeededRng, rounds: u32, seed: u64) -> Result<()> {
    let sessions = [sim.session("a")?, sim.session("b")?, sim.session("c")?];
    let mut open: BTreeMap<usize, Asked> = BTreeMap::new();
    for _ in 0..rounds {
        sim.clock.advance(rng.below(400) * NS_PER_MS);
        for _ in 0..1 + rng.below(4) {
            let session = sessions[rng.below(3) as usize];
            let n = rng.below(6);
            let (asked, request) = match rng.below(10) {
                0..4 => {
                    let wait = if rng.below(3) == 0 { Some(u64::MAX) } else { None };
                    (Asked::Acquire(n, session), acquire(session, n, wait, HOUR, sim.base + sim.asked as u64 + 1))
                }
                4..8 => match oracle.held.get_mut(&n) {
                    Some((session, token, leaving)) if !*leaving => {
                        *leaving = true;
                        (Asked::Release(n, *token), request(*session, Op::Release { key: key(n), token: *token }))
                    }
                    _ => (Asked::Tick, request(SessionId(0), Op::Tick)),
                },
                8 => (Asked::Renew, request(session, Op::RenewSession)),
                _ => (Asked::Tick, request(SessionId(0), Op::Tick)),
            };
            let number = sim.submit(&request);
            open.insert(number, asked);
        }
        oracle.floor = oracle.last_token;
        for (number, answer) in sim.drain() {
            let Some(asked) = open.remove(&number) else { continue };
            match answer {
                // Asked while another of these had the lock and one of them waits: it may be told in a later round.
                Ok(outcome) => oracle.answered(&asked, outcome, seed),
                Err(e) => {
                    assert_eq!(e.status(), Status::Poisoned, "seed {seed}: {e}");
                    return Err(e);
                }
            }
        }
        oracle.waited += open.len() as u32;
    }
    Ok(())
}

// I-16, F26.
#[test]
fn what_was_acknowledged_is_there_after_any_power_cut() {
    let mut oracle = Oracle::default();
    let mut reopened = 0;
    for seed in 0..80 {
        let mut rng = SeededRng::new(seed);
        let mut sim = Simulation::new(seed, DurableOptions { sync_releases: seed % 4 == 0, ..options() });
        oracle.held.clear();
        oracle.last_token = 0;
        oracle.seen.clear();
        for life in 0..4u64 {
            let fault = if rng.below(3) == 0 { Fault::Errno(libc::EIO) } else { Fault::PowerCut };
            sim.disk.plan(rng.below(200), fault);
            let ended = clients(&mut sim, &mut oracle, &mut rng, 60, seed);
            oracle.cuts += u32::from(ended.is_err());
            if ended.is_err() {
                assert_eq!(lock(&sim.ear.ended).len(), 1, "seed {seed}: told once");
                assert_eq!(sim.session("late").unwrap_err().status(), Status::Poisoned);
            }
            let disk = if rng.below(4) == 0 { sim.disk.kill_process() } else { sim.disk.power_cycle() };
            drop(sim);
            sim = Simulation::open(disk, seed * 10 + life, options()).unwrap_or_else(|e| panic!("seed {seed}, life {life}: {e}"));
            oracle.check(&sim.engine, seed);
            reopened += 1;
        }
    }
    // A run in which nothing happened proves nothing.
    assert!(oracle.cuts > 120 && oracle.grants > 3_000 && oracle.waited > 300, "{} {} {}", oracle.cuts, oracle.grants, oracle.waited);
    assert_eq!(reopened, 320);
}

// I-14.
#[test]
fn a_replay_gives_the_same_state_wherever_the_snapshots_were() {
    for seed in 0..8 {
        let mut hashes = Vec::new();
        for snapshot_bytes in [3 << 10, 10 << 10, 1 << 40] {
            let mut rng = SeededRng::new(seed);
            let mut sim = Simulation::new(seed, DurableOptions { snapshot_bytes, ..options() });
            clients(&mut sim, &mut Oracle::default(), &mut rng, 150, seed).unwrap();
            let live = lock(&sim.engine.shared.ledger).state_hash().unwrap();
            assert_eq!(sim.engine.status().snapshot_index > 0, snapshot_bytes < 1 << 40);
            let disk = sim.disk.kill_process();
            drop(sim);
            let again = Simulation::open(disk, 99, options()).unwrap();
            let replayed = lock(&again.engine.shared.ledger).state_hash().unwrap();
            assert_eq!(live, replayed, "seed {seed}, snapshots every {snapshot_bytes} bytes");
            hashes.push(live);
        }
        assert!(hashes.iter().all(|h| *h == hashes[0]));
    }
}

#[test]
fn the_log_does_not_grow_without_end() {
    let mut sim = Simulation::new(1, options());
    let session = sim.session("a").unwrap();
    let mut most = 0;
    for n in 0..3_000 {
        let Ok(Outcome::Granted { token, .. }) = sim.run(&acquire(session, n % 3, None, HOUR, n + 1)) else { panic!() };
        sim.run(&request(session, Op::Release { key: key(n % 3), token })).unwrap();
        let log: usize = sim.disk.list().unwrap().iter().filter(|f| f.starts_with("wal")).map(|f| sim.disk.content(f).len()).sum();
        most = most.max(log);
    }
    assert!(sim.engine.status().log_bytes > 300_000);
    assert!(most <= 10 * options().segment_bytes as usize, "{most} bytes");
}

#[test]
fn time_passes_only_while_the_process_runs_and_sessions_run_out() {
    let mut sim = Simulation::new(1, options());
    let Ok(Outcome::Session { id, .. }) = sim.run(&request(SessionId(0), Op::OpenSession { nonce: 1, name: "a".into(), ttl_ms: 10_000 }))
    else {
        panic!()
    };
    assert!(matches!(sim.run(&acquire(id, 1, None, 10_000, 1)), Ok(Outcome::Granted { .. })));
    sim.clock.advance(4_000 * NS_PER_MS);
    // At most one step of the clock, however long the pause.
    sim.run(&request(SessionId(0), Op::Tick)).unwrap();
    assert_eq!(sim.engine.sessions().unwrap()[0].remaining_ms, 10_000 - 2_000);

    let mut sim = Simulation::open(sim.disk.kill_process(), 5_000, options()).unwrap();
    assert_eq!(sim.engine.sessions().unwrap().len(), 1, "the old session is still there");
    let mut passed = 0;
    while sim.engine.lock(&key(1)).unwrap().is_some() {
        let left = sim.engine.next_tick().unwrap();
        assert!(left <= Duration::from_millis(1_500));
        sim.clock.advance(left.as_nanos() as u64);
        passed += left.as_millis();
        sim.run(&request(SessionId(0), Op::Tick)).unwrap();
        assert!(passed < 60_000, "it runs out");
    }
    assert!((8_000..9_600).contains(&passed), "not before its time, and soon after: {passed} ms");
    assert_eq!(sim.engine.next_tick(), None);
    assert!(lock(&sim.ear.events).iter().any(|e| matches!(e, Event::Lost { .. })));
}

#[test]
fn the_slower_clock_is_the_ledgers() {
    let mut sim = Simulation::new(1, options());
    sim.session("a").unwrap();
    let remaining = |sim: &mut Simulation| {
        sim.run(&request(SessionId(0), Op::Tick)).unwrap();
        sim.engine.sessions().unwrap()[0].remaining_ms
    };
    let start = remaining(&mut sim);
    sim.clock.slew(1_000 * NS_PER_MS, 900 * NS_PER_MS);
    assert_eq!(remaining(&mut sim), start - 900);
    sim.clock.slew(100 * NS_PER_MS, 300 * NS_PER_MS);
    assert_eq!(remaining(&mut sim), start - 1_000, "the smaller of each step, not of the sums");
    sim.clock.suspend(1_000 * NS_PER_MS);
    assert_eq!(remaining(&mut sim), start - 1_000);
}

#[test]
fn a_snapshot_is_never_ahead_of_the_log() {
    let (mut taken, mut cuts) = (0, 0);
    for cut in 0..60 {
        let mut sim = Simulation::new(cut, options());
        sim.session("a").unwrap();
        let due = options().snapshot_bytes - 500;
        // Nothing of this needs a sync, so the log's end is in the page cache only.
        while sim.engine.status().log_bytes < due {
            sim.run(&request(SessionId(0), Op::Tick)).unwrap();
        }
        sim.disk.plan(cut, Fault::PowerCut);
        for _ in 0..30 {
            if sim.run(&request(SessionId(0), Op::Tick)).is_err() {
                break;
            }
        }
        cuts += sim.disk.hits();
        let again = Simulation::open(sim.disk.power_cycle(), cut, options()).unwrap_or_else(|e| panic!("cut {cut}: {e}"));
        assert_eq!(again.engine.sessions().unwrap().len(), 1);
        taken += u32::from(again.engine.status().snapshot_index > 0);
    }
    assert!(cuts > 30 && taken > 5, "{cuts} cuts, {taken} snapshots");
}

#[test]
fn a_grant_that_follows_a_release_is_on_the_disk_before_it_is_told() {
    let mut sim = Simulation::new(2, options());
    let (a, b) = (sim.session("a").unwrap(), sim.session("b").unwrap());
    let Ok(Outcome::Granted { token, .. }) = sim.run(&acquire(a, 1, None, HOUR, 1)) else { panic!() };
    sim.submit(&acquire(b, 1, Some(u64::MAX), HOUR, 2));
    assert!(sim.drain().is_empty(), "it waits");
    let syncs = sim.engine.status().syncs;
    sim.submit(&request(a, Op::Release { key: key(1), token }));
    let answers = sim.drain();
    assert_eq!(answers.len(), 2);
    let (_, Ok(Outcome::Granted { token: next, .. })) = &answers[1] else { panic!("{answers:?}") };
    assert_eq!(sim.engine.status().syncs, syncs + 1);
    let sim2 = Simulation::open(sim.disk.power_cycle(), 3, options()).unwrap();
    assert_eq!(sim2.engine.lock(&key(1)).unwrap().unwrap().holders[0].token, *next);

    // Where nobody waits it costs no sync.
    let mut sim = sim2;
    let syncs = sim.engine.status().syncs;
    assert!(matches!(sim.run(&request(b, Op::Release { key: key(1), token: *next })), Ok(Outcome::Released { .. })));
    sim.run(&request(SessionId(0), Op::Tick)).unwrap();
    assert_eq!(sim.engine.status().syncs, syncs);
}

#[test]
fn without_space_nothing_is_added_and_everything_is_kept_up() {
    let mut sim = Simulation::new(3, options());
    let session = sim.session("a").unwrap();
    let mut tokens = Vec::new();
    for n in 0..20 {
        let Ok(Outcome::Granted { token, .. }) = sim.run(&acquire(session, n, None, HOUR, n + 1)) else { panic!() };
        tokens.push(token);
    }
    assert!(sim.disk.list().unwrap().contains(&"ballast".to_owned()));
    sim.disk.set_capacity(sim.disk.used());
    let (mut refused, mut renewed) = (0, 0);
    for n in 0..600 {
        sim.clock.advance(600 * NS_PER_MS);
        match sim.run(&acquire(session, 100, None, HOUR, 1000 + n)) {
            Err(e) => {
                assert_eq!(e.status(), Status::Limit, "{e}");
                assert!(e.message().contains("crash-disk"), "{e}");
                refused += 1;
            }
            Ok(Outcome::Granted { token, .. }) => {
                tokens.push(token);
                sim.run(&request(session, Op::Release { key: key(100), token })).unwrap();
            }
            other => panic!("{other:?}"),
        }
        // The log turns over several times meanwhile, in the space that it has.
        match sim.run(&request(session, Op::RenewSession)) {
            Ok(Outcome::Renewed { .. }) => renewed += 1,
            other => panic!("renewal {n}: {other:?}"),
        }
    }
    assert!(refused > 550 && renewed == 600, "{refused} refused, {renewed} renewed");
    assert!(sim.engine.status().log_bytes > 4 * options().segment_bytes);
    let token = tokens[3];
    assert!(matches!(sim.run(&request(session, Op::Release { key: key(3), token })), Ok(Outcome::Released { .. })));
    // Space comes back.
    sim.disk.set_capacity(u64::MAX);
    sim.clock.advance(600 * NS_PER_MS);
    assert!(matches!(sim.run(&acquire(session, 200, None, HOUR, 9_000)), Ok(Outcome::Granted { .. })));
    assert!(!sim.engine.status().full);
}

#[test]
fn an_input_output_error_ends_the_engine_and_everybody_is_told() {
    for op in 0..2 {
        let mut sim = Simulation::new(4, options());
        let (a, b) = (sim.session("a").unwrap(), sim.session("b").unwrap());
        sim.run(&acquire(a, 1, None, HOUR, 1)).unwrap();
        let waiting = sim.submit(&acquire(b, 1, Some(u64::MAX), HOUR, 2));
        assert!(sim.drain().is_empty());
        sim.disk.plan(op, Fault::Errno(libc::EIO));
        let failed = sim.submit(&acquire(a, 2, None, HOUR, 3));
        let answers: BTreeMap<usize, Result<Outcome>> = sim.drain().into_iter().collect();
        for number in [waiting, failed] {
            let e = answers[&number].clone().unwrap_err();
            assert_eq!((e.status(), e.os_errno()), (Status::Poisoned, libc::EIO), "{e}");
            assert!(e.message().contains("wal-"), "{e}");
        }
        assert!(sim.engine.lock(&key(1)).is_err() && sim.engine.tick().is_err() && sim.engine.values().put("x", b"").is_err());
        assert_eq!(lock(&sim.ear.ended).len(), 1);
    }
    let mut sim = Simulation::new(5, options());
    sim.engine.values().put("gate.g", &7u64.to_le_bytes()).unwrap();
    assert_eq!(sim.engine.values().get("gate.g").unwrap().unwrap(), 7u64.to_le_bytes());
    sim.disk.plan(0, Fault::Errno(libc::EIO));
    assert_eq!(sim.engine.values().put("gate.g", &8u64.to_le_bytes()).unwrap_err().os_errno(), libc::EIO);
    assert_eq!(sim.session("late").unwrap_err().status(), Status::Poisoned);
}

#[test]
fn files_that_do_not_fit_each_other_are_refused() {
    let mut sim = Simulation::new(6, options());
    let session = sim.session("a").unwrap();
    let early: Vec<(String, Vec<u8>)> = sim.disk.list().unwrap().into_iter().map(|n| (n.clone(), sim.disk.content(&n))).collect();
    for n in 0..1_000 {
        sim.run(&acquire(session, n, None, HOUR, n + 1)).unwrap();
    }
    let disk = sim.disk.power_cycle();
    drop(sim);
    let reopened = |d: &CrashDisk| Simulation::open(d.clone(), 1, options()).map(drop);
    reopened(&disk.copy()).unwrap();
    // The log of an early backup under a later snapshot, and the other way round.
    let old_log = disk.copy();
    let old_state = disk.copy();
    for name in disk.list().unwrap().iter().filter(|n| n.starts_with("wal-")) {
        old_log.take(name);
    }
    for (name, bytes) in &early {
        if name.starts_with("wal-") { old_log.put(name, bytes) } else { old_state.put(name, bytes) }
    }
    for disk in [old_log, old_state] {
        let e = reopened(&disk).unwrap_err();
        assert_eq!(e.status(), Status::DataLost, "{e}");
        assert!(e.message().contains("/crash-disk"), "{e}");
    }
}

#[test]
fn a_release_waits_for_no_sync_of_others() {
    let mut sim = Simulation::new(9, options());
    let session = sim.session("a").unwrap();
    let tokens: Vec<Token> = (0..2)
        .map(|n| match sim.run(&acquire(session, n, None, HOUR, 0)) {
            Ok(Outcome::Granted { token, .. }) => token,
            other => panic!("{other:?}"),
        })
        .collect();
    let syncs = sim.engine.status().syncs;
    sim.submit(&acquire(session, 5, None, HOUR, 0));
    let release = sim.submit(&request(session, Op::Release { key: key(0), token: tokens[0] }));
    sim.submit(&acquire(session, 6, None, HOUR, 0));
    assert_eq!(sim.drain()[0].0, release, "it is answered first");
    assert_eq!(sim.engine.status().syncs, syncs + 1, "the others share one sync");

    // When the sync fails the release was answered all the same, and the others are told.
    let release = sim.submit(&request(session, Op::Release { key: key(1), token: tokens[1] }));
    let failing = sim.submit(&acquire(session, 7, None, HOUR, 0));
    sim.disk.plan(2, Fault::Errno(libc::EIO));
    let answers = sim.drain();
    assert!(matches!(answers[..], [(first, Ok(Outcome::Released { .. })), (second, Err(_))] if (first, second) == (release, failing)));
}

#[test]
fn refusals_are_outcomes_and_an_operation_too_large_for_the_log_is_refused() {
    let mut sim = Simulation::new(8, DurableOptions { params: Params { max_metadata: 1 << 20, ..Params::default() }, ..options() });
    let none = sim.run(&acquire(SessionId(99), 1, None, HOUR, 1));
    assert!(matches!(none, Ok(Outcome::Refused(Refusal::NoSession))), "{none:?}");
    let session = sim.session("a").unwrap();
    let spec = Spec { metadata: vec![1; 100_000], ..Spec::default() };
    let large = request(session, Op::Acquire { key: key(1), spec, wait_ms: None, req: 1 });
    assert_eq!(sim.run(&large).unwrap_err().status(), Status::Limit);
    assert!(matches!(sim.run(&acquire(session, 1, None, HOUR, 2)), Ok(Outcome::Granted { .. })), "nothing else suffers");
}
