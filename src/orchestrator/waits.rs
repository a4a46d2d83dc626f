//! What has to wait, and for what. The ledger would refuse it, so it is not proposed: it stays here, in order of importance, until the copy says that
//! what it lacks is there. Nothing is asked again by the clock, and a plan that frees nothing looks at nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::SessionId;
use crate::ledger::orch::{Budget, OrchOp, Schedule, Worker};

use super::place::place;
use super::wishes::Wish;

/// After so long nothing that asks for the same budget passes a run that waits for it, ms: by then waiting has raised it above every priority.
/// Until then whatever fits goes.
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
    budgets: BTreeMap<String, Budget>,
    /// How many more starts there may be.
    starts: usize,
}

impl Stock {
    pub fn new(workers: Vec<Worker>, budgets: BTreeMap<String, Budget>, starts: usize) -> Stock {
        let room = workers.iter().map(|w| if w.capacity == 0 { u32::MAX } else { w.capacity.saturating_sub(w.running) }).collect();
        Stock { workers, room, budgets, starts }
    }

    /// One start less: its worker's room and its budgets.
    pub fn take(&mut self, definition: &Schedule, worker: SessionId) {
        if let Some(at) = self.workers.iter().position(|w| w.session == worker) {
            self.room[at] = take_one(self.room[at]);
        }
        for (name, amount) in &definition.budgets {
            if let Some(budget) = self.budgets.get_mut(name) {
                budget.used = budget.used.saturating_add(*amount);
            }
        }
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
}

impl Waits {
    /// What a schedule waits for is found out anew.
    pub fn forget(&mut self, id: &str) {
        for (lack, rank) in self.of.remove(id).unwrap_or_default() {
            if let Some(waiting) = self.by_lack.get_mut(&lack) {
                waiting.remove(&rank);
                if waiting.is_empty() {
                    self.by_lack.remove(&lack);
                }
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
        self.by_lack.entry(lack).or_default().insert(rank, wish);
    }

    /// The proposal, with a worker, if nothing that it needs is lacking; else it waits.
    pub fn allot(&mut self, wish: Wish, stock: &mut Stock, now_ms: i64) -> Option<OrchOp> {
        if stock.starts == 0 {
            self.put(Lack::Start, wish);
            return None;
        }
        let short = |(name, amount): &(&String, &u32)| stock.free(name) < **amount || self.reserved(name, &wish, stock, now_ms);
        if let Some((name, _)) = wish.definition.budgets.iter().find(short) {
            let name = name.clone();
            self.put(Lack::Budget(name), wish);
            return None;
        }
        let Some(at) = place(&stock.workers, &wish.ask(), |at| stock.room[at] > 0) else {
            self.put(Lack::Room, wish);
            return None;
        };
        let worker = stock.workers[at].session;
        stock.starts -= 1;
        stock.take(&wish.definition, worker);
        Some(wish.given_to(worker))
    }

    /// Whether somebody more important has waited too long for a budget to be passed.
    fn reserved(&self, name: &str, wish: &Wish, stock: &Stock, now_ms: i64) -> bool {
        let Some(waiting) = self.by_lack.get(&Lack::Budget(name.to_owned())) else { return false };
        let before = (wish.rank, wish.definition.id.clone(), 0);
        waiting.range(..before).any(|(_, other)| other.is_owed(name, stock.limit(name), now_ms))
    }

    /// The schedules, the most important first, of those who wait that may go now, but for those `seen` before.
    pub fn ready(&self, stock: &Stock, seen: &BTreeSet<String>, now_ms: i64) -> Vec<String> {
        let mut found: Vec<&Rank> = Vec::new();
        for (lack, waiting) in &self.by_lack {
            let waiting = waiting.iter().filter(|((_, id, _), _)| !seen.contains(id));
            match lack {
                Lack::Start => found.extend(waiting.take(stock.starts).map(|(rank, _)| rank)),
                Lack::Budget(name) => {
                    let mut free = stock.free(name);
                    for (rank, wish) in waiting {
                        let amount = wish.definition.budgets.get(name).copied().unwrap_or(0);
                        if amount <= free {
                            found.push(rank);
                            free -= amount;
                        } else if wish.is_owed(name, stock.limit(name), now_ms) {
                            break;
                        }
                        if free == 0 {
                            break;
                        }
                    }
                }
                Lack::Room => {
                    let mut room = stock.room.clone();
                    for (rank, wish) in waiting {
                        if room.iter().all(|r| *r == 0) {
                            break;
                        }
                        if let Some(at) = place(&stock.workers, &wish.ask(), |at| room[at] > 0) {
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
    /// Whether nothing may pass it any more in taking from a budget that could ever suffice.
    fn is_owed(&self, name: &str, limit: u32, now_ms: i64) -> bool {
        now_ms.saturating_sub(self.at_ms) >= PASSED_MS && self.definition.budgets.get(name).is_some_and(|amount| *amount <= limit)
    }
}
