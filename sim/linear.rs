//! I-17: is a history of lock operations linearizable? Each key for itself, outcomes that nobody was told stay open.
//!
//! The search is that of Wing and Gong with the memory of Lowe: an operation may take its effect at any time between its call and its answer;
//! orders are tried one after the other, and a set of operations that has led to a state of the lock is not tried from that state again.
//! Sources: Wing, Gong, "Testing and verifying concurrent objects", 1993; Lowe, "Testing for linearizability", 2017; the tool porcupine.
//!
//! What the lock itself does is part of the model. A lease runs out at any time from [`Op::Grant::lives_until`] on, or never; it is there until
//! an operation needs it gone. An acquisition whose outcome is not known may have been granted for a while, and so may explain that another one
//! was refused; it explains no second holder.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// How holders exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// One holder, who may take it again, if `reentrant`, to give it back as often.
    Exclusive {
        /// Whether the same owner may have it several times.
        reentrant: bool,
    },
    /// Any number of these.
    Shared,
    /// So many of so many.
    Permits {
        /// Taken at once.
        count: u32,
        /// There are.
        limit: u32,
    },
}

/// What was asked and answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// An acquisition that was granted.
    Grant {
        /// How.
        mode: Mode,
        /// Under this token.
        token: u64,
        /// Before this time the lease cannot have run out.
        lives_until: u64,
    },
    /// An acquisition that was refused at once, because of others.
    Refused,
    /// An acquisition of which nobody knows what became.
    Lost,
    /// A release. `left`: how often it is still held; `None` when it was answered that the token holds nothing.
    Release {
        /// Of this grant.
        token: u64,
        /// What was answered.
        left: Option<u32>,
    },
    /// A release without an answer.
    LostRelease {
        /// Of this grant.
        token: u64,
    },
    /// A renewal, and whether the grant was held. One without an answer has no place in a history.
    Renew {
        /// Of this grant.
        token: u64,
        /// What was answered.
        held: bool,
    },
    /// A read of the first holder's token.
    Read {
        /// What was answered.
        token: Option<u64>,
    },
}

/// An operation on one key, and when. Times are of one clock, in any unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Who: a session.
    pub owner: u64,
    /// When it was asked.
    pub call: u64,
    /// When it was answered; `u64::MAX` for never.
    pub ret: u64,
    /// What.
    pub op: Op,
}

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none: no order gets further than to these operations.
    Refused(Vec<Call>),
    /// It was given up. Whoever counts this as a success has checked nothing.
    Undecided,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Holding {
    token: u64,
    owner: u64,
    mode: Mode,
    depth: u32,
}

/// The lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Lock {
    holders: Vec<Holding>,
    /// The largest token so far (I-05).
    last: u64,
}

impl Lock {
    fn admits(&self, mode: Mode) -> bool {
        match mode {
            Mode::Exclusive { .. } => self.holders.is_empty(),
            Mode::Shared => self.holders.iter().all(|h| h.mode == Mode::Shared),
            Mode::Permits { count, limit } => {
                let taken = |h: &Holding| if let Mode::Permits { count, .. } = h.mode { count } else { limit };
                self.holders.iter().map(taken).sum::<u32>() + count <= limit
            }
        }
    }

    fn at(&self, token: u64) -> Option<usize> {
        self.holders.iter().position(|h| h.token == token)
    }

    /// One release of this grant; how often it is still held, if it was.
    fn release(&mut self, token: u64) -> Option<u32> {
        let at = self.at(token)?;
        self.holders[at].depth -= 1;
        let left = self.holders[at].depth;
        if left == 0 {
            self.holders.remove(at);
        }
        Some(left)
    }
}

/// Whether a history can go on without this step.
fn optional(call: &Call) -> bool {
    matches!(call.op, Op::LostRelease { .. })
}

fn again(call: &Call) -> bool {
    matches!(call.op, Op::Grant { mode: Mode::Exclusive { reentrant: true }, .. })
}

struct Search {
    /// In the order of their calls.
    steps: Vec<Call>,
    names: Vec<u128>,
    /// The first call of an acquisition whose outcome is unknown.
    lost: u64,
    /// Tokens that were told to somebody who cannot have had them before without knowing.
    told: BTreeSet<u64>,
    /// From when on a grant may be gone without an operation: its lease has run out, or a release without an answer has come.
    ends: BTreeMap<u64, u64>,
    /// So many steps that are still to be done find this grant held.
    owed: BTreeMap<u64, u32>,
    seen: HashSet<u128>,
    left: u64,
    deepest: (usize, Vec<Call>),
}

/// A number for each step, so that sets of steps can be told apart by their sum.
fn name(of: usize) -> u128 {
    let part = |salt: u64| {
        let mut z = (of as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u128::from(z ^ (z >> 31))
    };
    part(0x51) << 64 | part(0xa7)
}

fn digest(lock: &Lock) -> u128 {
    let part = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        (salt, lock).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    part(1) << 64 | part(2)
}

impl Search {
    fn new(calls: &[Call], budget: u64) -> Search {
        let lost = calls.iter().filter(|c| c.op == Op::Lost).map(|c| c.call).min().unwrap_or(u64::MAX);
        let mut steps: Vec<Call> = calls.iter().copied().filter(|c| c.op != Op::Lost).collect();
        steps.sort_by_key(|c| (c.call, c.ret));
        let (mut told, mut twice) = (BTreeSet::new(), BTreeSet::new());
        let mut ends: BTreeMap<u64, u64> = BTreeMap::new();
        for call in &steps {
            if let Op::Grant { token, lives_until, .. } = call.op {
                if again(call) {
                    twice.insert(token)
                } else {
                    told.insert(token)
                };
                // A renewal that was answered, and a grant, prove that the lease lived on from then.
                let until = ends.entry(token).or_default();
                *until = (*until).max(lives_until);
            }
        }
        // Of a grant that cannot be taken again, a release that may have come or not is one more way to be gone.
        steps.retain(|call| match call.op {
            Op::LostRelease { token } if !twice.contains(&token) => {
                ends.entry(token).and_modify(|until| *until = call.call.min(*until));
                false
            }
            _ => true,
        });
        let names = (0..steps.len()).map(name).collect();
        let mut search =
            Search { steps, names, lost, told, ends, owed: BTreeMap::new(), seen: HashSet::new(), left: budget, deepest: (0, Vec::new()) };
        for at in 0..search.steps.len() {
            if let Some(token) = search.finds_held(at) {
                *search.owed.entry(token).or_default() += 1;
            }
        }
        search
    }

    /// The grant that this step cannot be done without.
    fn finds_held(&self, at: usize) -> Option<u64> {
        match self.steps[at].op {
            Op::Release { token, left: Some(_) } | Op::Renew { token, held: true } => Some(token),
            Op::Read { token: Some(token) } if self.told.contains(&token) => Some(token),
            _ => None,
        }
    }

    fn owed(&self, token: u64) -> u32 {
        self.owed.get(&token).copied().unwrap_or(0)
    }

    /// Takes away the holders picked, if all of them may be gone at `latest` and nothing that is still to come finds them held.
    ///
    /// What may be gone is there until something needs it gone: nothing is lost by that, for it may be gone at any later time as well, and a
    /// search that had to say for each when it went would not end.
    fn gone(&self, lock: &mut Lock, latest: u64, picked: impl Fn(&Holding) -> bool) -> bool {
        let may = |h: &Holding| self.ends.get(&h.token).is_some_and(|end| *end <= latest) && self.owed(h.token) == 0;
        let all = lock.holders.iter().filter(|h| picked(h)).all(may);
        lock.holders.retain(|h| !picked(h));
        all
    }

    /// Makes room for an acquisition, if there can be.
    fn admit(&self, lock: &mut Lock, latest: u64, mode: Mode) -> bool {
        match mode {
            Mode::Exclusive { .. } => self.gone(lock, latest, |_| true),
            Mode::Shared => self.gone(lock, latest, |h| h.mode != Mode::Shared),
            Mode::Permits { .. } => {
                // The largest first: so there is somebody left, for those who are refused, whenever there can be.
                while !lock.admits(mode) {
                    let may = |h: &&Holding| self.gone(&mut lock.clone(), latest, |other| other.token == h.token);
                    let size = |h: &&Holding| if let Mode::Permits { count, .. } = h.mode { count } else { u32::MAX };
                    let Some(largest) = lock.holders.iter().filter(may).max_by_key(size).map(|h| h.token) else { return false };
                    lock.holders.retain(|h| h.token != largest);
                }
                true
            }
        }
    }

    /// The lock after this step, if the step can be, no later than `latest`.
    fn after(&self, lock: &Lock, at: usize, latest: u64) -> Option<Lock> {
        let mut next = lock.clone();
        let call = self.steps[at];
        let possible = match call.op {
            Op::Grant { mode, token, .. } if again(&call) && lock.at(token).is_some() => {
                let holding = &mut next.holders[lock.at(token)?];
                holding.depth += 1;
                holding.owner == call.owner && holding.mode == mode
            }
            Op::Grant { mode, token, .. } => {
                // Its owner may have had it already, without knowing.
                let had = again(&call) && self.lost < call.ret;
                let possible = self.admit(&mut next, latest, mode) && (token > lock.last || had);
                next.last = next.last.max(token);
                // In the order of their tokens: who came first makes no other lock of it.
                let place = next.holders.partition_point(|h| h.token < token);
                next.holders.insert(place, Holding { token, owner: call.owner, mode, depth: 1 });
                possible
            }
            Op::Refused => !lock.holders.is_empty() || self.lost < call.ret,
            // Of another's grant nothing is given back.
            Op::Release { token, left } if lock.at(token).is_some_and(|h| lock.holders[h].owner != call.owner) => left.is_none(),
            Op::Release { token, left: None } => self.gone(&mut next, latest, |h| h.token == token),
            // What is given back for good is not found held by what is still to come.
            Op::Release { token, left } => next.release(token) == left && (left != Some(0) || self.owed(token) == 1),
            Op::LostRelease { token } => next.release(token).is_some_and(|left| left > 0 || self.owed(token) == 0),
            Op::Renew { token, held: true } => lock.at(token).is_some(),
            Op::Renew { token, held: false } => self.gone(&mut next, latest, |h| h.token == token),
            Op::Read { token: None } => self.gone(&mut next, latest, |_| true),
            Op::Read { token: Some(token) } if lock.at(token).is_some() => self.gone(&mut next, latest, |h| h.token < token),
            Op::Read { token: Some(token) } => {
                // Somebody may hold it who does not know it.
                let unknown = !self.told.contains(&token) && self.lost < call.ret;
                unknown && self.gone(&mut next, latest, |h| matches!(h.mode, Mode::Exclusive { .. }))
            }
            Op::Lost => false,
        };
        possible.then_some(next)
    }

    /// The step to take from this lock: one that changes nothing, which no order loses by having it at once, or else the first that is possible
    /// from `from` on.
    fn next(&self, lock: &Lock, open: &[usize], from: usize, latest: u64) -> Option<(usize, Lock, bool)> {
        if from == 0 {
            let same = open.iter().find(|at| self.after(lock, **at, latest).is_some_and(|next| next == *lock));
            if let Some(at) = same {
                return Some((*at, lock.clone(), true));
            }
        }
        open.iter().filter(|at| **at >= from).find_map(|at| self.after(lock, *at, latest).map(|next| (*at, next, false)))
    }

    fn run(&mut self) -> Verdict {
        // What is done as a chain of choices: no recursion, histories are long.
        struct Frame {
            lock: Lock,
            chosen: Option<usize>,
            /// Steps before this one have been tried from here.
            tried: usize,
        }
        let needed = self.steps.iter().filter(|call| !optional(call)).count();
        let mut done = vec![false; self.steps.len()];
        let (mut count, mut sum, mut first) = (0, 0u128, 0);
        let mut frames = vec![Frame { lock: Lock::default(), chosen: None, tried: 0 }];
        while count < needed {
            while first < done.len() && done[first] {
                first += 1;
            }
            // Nothing can be later than the earliest answer that is still owed.
            let (mut latest, mut open) = (u64::MAX, Vec::new());
            for (at, call) in self.steps.iter().enumerate().skip(first) {
                if call.call > latest {
                    break;
                }
                if !done[at] {
                    latest = latest.min(call.ret);
                    open.push(at);
                }
            }
            open.retain(|at| self.steps[*at].call <= latest);
            let Some(frame) = frames.last_mut() else { break };
            if let Some((at, next, only)) = self.next(&frame.lock, &open, frame.tried, latest) {
                if self.left == 0 {
                    return Verdict::Undecided;
                }
                self.left -= 1;
                frame.tried = if only { self.steps.len() } else { at + 1 };
                let after = sum.wrapping_add(self.names[at]);
                if self.seen.insert(after.wrapping_mul(3) ^ digest(&next)) {
                    (done[at], sum) = (true, after);
                    count += usize::from(!optional(&self.steps[at]));
                    self.owe(at, false);
                    frames.push(Frame { lock: next, chosen: Some(at), tried: 0 });
                }
                continue;
            }
            if count >= self.deepest.0 {
                self.deepest = (count, open.iter().map(|at| self.steps[*at]).collect());
            }
            let Some(Frame { chosen: Some(at), .. }) = frames.pop() else {
                return Verdict::Refused(std::mem::take(&mut self.deepest.1));
            };
            done[at] = false;
            count -= usize::from(!optional(&self.steps[at]));
            sum = sum.wrapping_sub(self.names[at]);
            self.owe(at, true);
            first = first.min(at);
        }
        Verdict::Linearizable
    }

    /// Counts a step among those still to be done, or no more.
    fn owe(&mut self, at: usize, more: bool) {
        if let Some(owed) = self.finds_held(at).and_then(|token| self.owed.get_mut(&token)) {
            *owed = if more { *owed + 1 } else { *owed - 1 };
        }
    }
}

/// Whether there is an order of these operations of one key; gives up after `budget` choices.
pub fn check(calls: &[Call], budget: u64) -> Verdict {
    Search::new(calls, budget).run()
}

#[cfg(test)]
#[path = "linear_test.rs"]
mod tests;
