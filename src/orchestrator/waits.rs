//! What has to wait, and for what. The ledger would refuse it, so it is not proposed: it stays here, in order of importance, until the copy says that
//! what it lacks is there. Nothing is asked again by the clock, and a plan that frees nothing looks at nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::SessionId;
use crate::ledger::orch::{Budget, OrchOp, Schedule, Worker};

use super::place::place;
use super::wishes::Wish;

/// After so long nothing that comes later and asks for one of its budgets passes what waits, ms: by then waiting has raised it above every
/// priority. Until then whatever fits goes.
const PASSED_MS: i64 = 256_000;

/// What a proposal lacks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lack {
    /// A worker that can do it and has room.
    Room,
    /// A start: so shortly after it began the one that gives out work starts only so many.
    Start,
    /// So much of a budget.
    Budget(String),
}

/// By importance, and then by schedule; the number keeps those of one schedule apart.
type Rank = (i64, String, u32);

/// What is there to be given out: what the copy says, less what is given out since.
#[derive(Debug, Default)]
pub(super) struct Stock {
    pub workers: Vec<Worker>,
    /// How many more runs each worker takes.
    room: Vec<u32>,
    /// How many it has.
    load: Vec<u32>,
    budgets: BTreeMap<String, Budget>,
    /// How many more starts there may be.
    starts: usize,
}

impl Stock {
    pub fn new(workers: Vec<Worker>, budgets: BTreeMap<String, Budget>, starts: usize) -> Stock {
        let room = workers.iter().map(|w| if w.capacity == 0 { u32::MAX } else { w.capacity.saturating_sub(w.running) }).collect();
        let load = workers.iter().map(|w| w.running).collect();
        Stock { workers, room, load, budgets, starts }
    }

    /// One start less: its worker's room and its budgets.
    pub fn take(&mut self, definition: &Schedule, worker: SessionId) {
        if let Some(at) = self.workers.iter().position(|w| w.session == worker) {
            self.room[at] = take_one(self.room[at]);
            self.load[at] += 1;
        }
        for (name, amount) in &definition.budgets {
            if let Some(budget) = self.budgets.get_mut(name) {
                budget.used = budget.used.saturating_add(*amount);
            }
        }
    }

    /// Whether anybody can do it, room apart.
    fn can(&self, wish: &Wish) -> bool {
        let ask = wish.ask();
        self.workers.iter().any(|worker| ask.suits(worker))
    }

    /// Who does it, of those that have room.
    fn place(&self, wish: &Wish, room: &[u32]) -> Option<usize> {
        place(&self.workers, &wish.ask(), |at| (room[at] > 0).then_some(self.load[at]))
    }

    fn free(&self, name: &str) -> u32 {
        self.budgets.get(name).map_or(0, |b| b.limit.saturating_sub(b.used))
    }

    fn limit(&self, name: &str) -> u32 {
        self.budgets.get(name).map_or(0, |b| b.limit)
    }
}

fn take_one(room: u32) -> u32 {
    if room == u32::MAX { room } else { room.saturating_sub(1) }
}

/// Those that wait.
#[derive(Debug, Default)]
pub(super) struct Waits {
    by_lack: BTreeMap<Lack, BTreeMap<Rank, Wish>>,
    of: BTreeMap<String, Vec<(Lack, Rank)>>,
    /// By each budget that they need, whatever it is that they lack.
    by_need: BTreeMap<String, BTreeMap<Rank, Lack>>,
}

impl Waits {
    /// What a schedule waits for is found out anew.
    pub fn forget(&mut self, id: &str) {
        for (lack, rank) in self.of.remove(id).unwrap_or_default() {
            let Some(wish) = without(&mut self.by_lack, &lack, &rank) else { continue };
            for name in wish.definition.budgets.keys() {
                without(&mut self.by_need, name, &rank);
            }
        }
    }

    /// Whether starts are all that somebody lacks: the only thing that comes by time alone.
    pub fn for_starts(&self) -> bool {
        self.by_lack.contains_key(&Lack::Start)
    }

    /// How many lack what.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let word = |lack: &Lack| match lack {
            Lack::Room => "room".to_owned(),
            Lack::Start => "start".to_owned(),
            Lack::Budget(name) => format!("budget {name}"),
        };
        self.by_lack.iter().map(|(lack, waiting)| (word(lack), waiting.len())).collect()
    }

    fn put(&mut self, lack: Lack, wish: Wish) {
        let of = self.of.entry(wish.definition.id.clone()).or_default();
        let rank = (wish.rank, wish.definition.id.clone(), of.len() as u32);
        of.push((lack.clone(), rank.clone()));
        for name in wish.definition.budgets.keys() {
            self.by_need.entry(name.clone()).or_default().insert(rank.clone(), lack.clone());
        }
        self.by_lack.entry(lack).or_default().insert(rank, wish);
    }

    /// The proposal, with a worker, if nothing that it needs is lacking; else it waits.
    pub fn allot(&mut self, wish: Wish, stock: &mut Stock, now_ms: i64) -> Option<OrchOp> {
        if stock.starts == 0 {
            self.put(Lack::Start, wish);
            return None;
        }
        if !stock.can(&wish) {
            self.put(Lack::Room, wish);
            return None;
        }
        let short = |(name, amount): &(&String, &u32)| stock.free(name) < **amount || self.reserved(name, &wish, stock, now_ms);
        if let Some((name, _)) = wish.definition.budgets.iter().find(short) {
            let name = name.clone();
            self.put(Lack::Budget(name), wish);
            return None;
        }
        let Some(at) = stock.place(&wish, &stock.room) else {
            self.put(Lack::Room, wish);
            return None;
        };
        let worker = stock.workers[at].session;
        stock.starts -= 1;
        stock.take(&wish.definition, worker);
        Some(wish.given_to(worker))
    }

    /// The most important of those who need a budget and have waited too long to be passed by anybody who needs it as well, whether it is this
    /// budget that they lack, another one, or a worker: what is there for one who needs several things is kept until all of them are.
    fn first_owed(&self, name: &str, stock: &Stock, now_ms: i64) -> Option<&Rank> {
        // Nobody's rank is after the instant from which it has waited.
        let before = (now_ms.saturating_sub(PASSED_MS).saturating_add(1), String::new(), 0);
        let mut oldest = self.by_need.get(name)?.range(..before);
        let owed = |(rank, lack): &(&Rank, &Lack)| {
            self.by_lack.get(lack).and_then(|waiting| waiting.get(*rank)).is_some_and(|wish| wish.is_owed(stock, now_ms))
        };
        oldest.find(owed).map(|(rank, _)| rank)
    }

    /// Whether somebody more important has waited too long for a budget to be passed.
    fn reserved(&self, name: &str, wish: &Wish, stock: &Stock, now_ms: i64) -> bool {
        self.first_owed(name, stock, now_ms).is_some_and(|first| *first < (wish.rank, wish.definition.id.clone(), 0))
    }

    /// The schedules, the most important first, of those who wait that may go now, but for those `seen` before.
    pub fn ready(&self, stock: &Stock, seen: &BTreeSet<String>, now_ms: i64) -> Vec<String> {
        let mut found: Vec<&Rank> = Vec::new();
        for (lack, waiting) in &self.by_lack {
            let waiting = waiting.iter().filter(|((_, id, _), _)| !seen.contains(id));
            match lack {
                Lack::Start => found.extend(waiting.take(stock.starts).map(|(rank, _)| rank)),
                Lack::Budget(name) => {
                    let (mut free, owed) = (stock.free(name), self.first_owed(name, stock, now_ms));
                    for (rank, wish) in waiting {
                        if free == 0 || owed.is_some_and(|first| first < rank) {
                            break;
                        }
                        let amount = wish.definition.budgets.get(name).copied().unwrap_or(0);
                        if amount <= free {
                            found.push(rank);
                            free -= amount;
                        }
                    }
                }
                Lack::Room => {
                    let mut room = stock.room.clone();
                    for (rank, wish) in waiting {
                        if room.iter().all(|r| *r == 0) {
                            break;
                        }
                        if let Some(at) = stock.place(wish, &room) {
                            room[at] = take_one(room[at]);
                            found.push(rank);
                        }
                    }
                }
            }
        }
        found.sort_unstable();
        found.into_iter().map(|(_, id, _)| id.clone()).collect()
    }
}

impl Wish {
    /// Whether nothing may pass it any more: it has waited so long, and for nothing that cannot come.
    fn is_owed(&self, stock: &Stock, now_ms: i64) -> bool {
        now_ms.saturating_sub(self.at_ms) >= PASSED_MS
            && self.definition.budgets.iter().all(|(name, amount)| *amount <= stock.limit(name))
            && stock.can(self)
    }
}

/// Takes an entry out of a map of maps, and the inner map with its last one.
fn without<K: Ord, R: Ord, V>(maps: &mut BTreeMap<K, BTreeMap<R, V>>, key: &K, rank: &R) -> Option<V> {
    let map = maps.get_mut(key)?;
    let value = map.remove(rank);
    if map.is_empty() {
        maps.remove(key);
    }
    value
}
