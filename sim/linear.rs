//! I-17: is a history of lock operations linearizable? Each key for itself, outcomes that nobody was told stay open.
//!
//! The search is that of Wing and Gong with the memory of Lowe: an operation may take its effect at any time between its call and its answer;
//! orders are tried one after the other, and a set of operations that has led to a state of the lock is not tried from that state again.
//! Sources: Wing, Gong, "Testing and verifying concurrent objects", 1993; Lowe, "Testing for linearizability", 2017; the tool porcupine.
//!
//! What the lock itself does is part of the model. A lease runs out at any time from [`Op::Grant::lives_until`] on, or never. An acquisition whose
//! outcome is not known may have been granted for a while, and so may explain that another one was refused; it explains no second holder.

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

/// What may happen next in a history.
#[derive(Clone, Copy, Debug)]
enum Step {
    Call(Call),
    /// A lease runs out.
    Expiry {
        token: u64,
    },
}

/// Whether a history can go on without this step.
fn optional(step: &Step) -> bool {
    matches!(step, Step::Expiry { .. } | Step::Call(Call { op: Op::LostRelease { .. }, .. }))
}

struct Search {
    steps: Vec<Step>,
    /// When each step can be at the earliest and must be at the latest.
    spans: Vec<(u64, u64)>,
    names: Vec<u128>,
    /// The first call of an acquisition whose outcome is unknown.
    lost: u64,
    /// Tokens that were told to somebody who cannot have had them before without knowing.
    told: BTreeSet<u64>,
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
        let mut calls = calls.to_vec();
        calls.sort_by_key(|c| (c.call, c.ret));
        let lost = calls.iter().filter(|c| c.op == Op::Lost).map(|c| c.call).min().unwrap_or(u64::MAX);
        calls.retain(|c| c.op != Op::Lost);
        // A renewal that was answered, and a grant, prove that the lease lived on from then.
        let mut lives: BTreeMap<u64, u64> = BTreeMap::new();
        for call in &calls {
            if let Op::Grant { token, lives_until, .. } = call.op {
                let until = lives.entry(token).or_default();
                *until = (*until).max(lives_until);
            }
        }
        let first = |call: &Call| match call.op {
            Op::Grant { mode: Mode::Exclusive { reentrant: true }, .. } => None,
            Op::Grant { token, .. } => Some(token),
            _ => None,
        };
        let told = calls.iter().filter_map(first).collect();
        let mut steps: Vec<(Step, (u64, u64))> = calls.iter().map(|c| (Step::Call(*c), (c.call, c.ret))).collect();
        steps.extend(lives.into_iter().map(|(token, until)| (Step::Expiry { token }, (until, u64::MAX))));
        steps.sort_by_key(|(_, span)| *span);
        // What may as well not have been done is seen in the lock: a grant that is gone never comes back, unless it can be taken again.
        let again = |call: &Call| matches!(call.op, Op::Grant { mode: Mode::Exclusive { reentrant: true }, .. });
        let any_again = calls.iter().any(again);
        let (steps, spans): (Vec<Step>, _) = steps.into_iter().unzip();
        let counts = |at: usize| any_again || !optional(&steps[at]);
        let names = (0..steps.len()).map(|at| if counts(at) { name(at) } else { 0 }).collect();
        Search { steps, spans, names, lost, told, seen: HashSet::new(), left: budget, deepest: (0, Vec::new()) }
    }

    fn optional(&self, at: usize) -> bool {
        optional(&self.steps[at])
    }

    /// The lock after this step, if the step can be.
    fn after(&self, lock: &Lock, at: usize) -> Option<Lock> {
        let mut next = lock.clone();
        let call = match self.steps[at] {
            Step::Expiry { token } => {
                next.holders.remove(lock.at(token)?);
                return Some(next);
            }
            Step::Call(call) => call,
        };
        let possible = match call.op {
            Op::Grant { mode: Mode::Exclusive { reentrant: true }, token, .. } if lock.at(token).is_some() => {
                let holding = &mut next.holders[lock.at(token)?];
                holding.depth += 1;
                holding.owner == call.owner && holding.mode == Mode::Exclusive { reentrant: true }
            }
            Op::Grant { mode, token, .. } => {
                // Its owner may have had it already, without knowing.
                let again = mode == Mode::Exclusive { reentrant: true } && self.lost < call.ret;
                let possible = lock.admits(mode) && (token > lock.last || again);
                next.last = next.last.max(token);
                // In the order of their tokens: who came first makes no other lock of it.
                let place = next.holders.partition_point(|h| h.token < token);
                next.holders.insert(place, Holding { token, owner: call.owner, mode, depth: 1 });
                possible
            }
            Op::Refused => !lock.holders.is_empty() || self.lost < call.ret,
            Op::Release { token, left } => {
                let mine = lock.at(token).is_none_or(|h| lock.holders[h].owner == call.owner);
                match left {
                    // Of another's grant nothing is given back.
                    None if !mine => true,
                    _ => mine && next.release(token) == left,
                }
            }
            Op::LostRelease { token } => next.release(token).is_some(),
            Op::Renew { token, held } => lock.at(token).is_some() == held,
            Op::Read { token: None } => lock.holders.is_empty(),
            Op::Read { token: Some(token) } => {
                let first = lock.holders.iter().min_by_key(|h| h.token);
                let beside = first.is_none_or(|h| !matches!(h.mode, Mode::Exclusive { .. }));
                // Somebody may hold it who does not know it.
                first.is_some_and(|h| h.token == token) || (beside && !self.told.contains(&token) && self.lost < call.ret)
            }
            Op::Lost => false,
        };
        possible.then_some(next)
    }

    fn run(&mut self) -> Verdict {
        // What is done as a chain of choices: no recursion, histories are long.
        struct Frame {
            lock: Lock,
            chosen: Option<usize>,
            tried: usize,
        }
        let needed = (0..self.steps.len()).filter(|at| !self.optional(*at)).count();
        let mut done = vec![false; self.steps.len()];
        let (mut count, mut sum, mut first) = (0, 0u128, 0);
        let mut frames = vec![Frame { lock: Lock::default(), chosen: None, tried: 0 }];
        while count < needed {
            while first < done.len() && done[first] {
                first += 1;
            }
            // Nothing can be later than the earliest answer that is still owed.
            let mut latest = u64::MAX;
            for (at, done) in done.iter().enumerate().skip(first) {
                if self.spans[at].0 > latest {
                    break;
                }
                if !done {
                    latest = latest.min(self.spans[at].1);
                }
            }
            let Some(frame) = frames.last_mut() else { break };
            let (mut at, mut found) = (frame.tried.max(first), None);
            let lock = frame.lock.clone();
            while at < self.steps.len() && self.spans[at].0 <= latest {
                if !done[at]
                    && let Some(next) = self.after(&lock, at)
                {
                    found = Some(next);
                    break;
                }
                at += 1;
            }
            let Some(frame) = frames.last_mut() else { break };
            frame.tried = at + 1;
            if let Some(next) = found {
                if self.left == 0 {
                    return Verdict::Undecided;
                }
                self.left -= 1;
                let after = sum.wrapping_add(self.names[at]);
                if self.seen.insert(after.wrapping_mul(3) ^ digest(&next)) {
                    (done[at], sum) = (true, after);
                    count += usize::from(!self.optional(at));
                    frames.push(Frame { lock: next, chosen: Some(at), tried: 0 });
                }
                continue;
            }
            if count >= self.deepest.0 {
                let stuck = (first..self.steps.len()).filter(|at| !done[*at] && self.spans[*at].0 <= latest);
                let calls = stuck.filter_map(|at| if let Step::Call(call) = self.steps[at] { Some(call) } else { None });
                self.deepest = (count, calls.collect());
            }
            let Some(Frame { chosen: Some(at), .. }) = frames.pop() else {
                return Verdict::Refused(std::mem::take(&mut self.deepest.1));
            };
            done[at] = false;
            count -= usize::from(!self.optional(at));
            sum = sum.wrapping_sub(self.names[at]);
            first = first.min(at);
        }
        Verdict::Linearizable
    }
}

/// Whether there is an order of these operations of one key; gives up after `budget` choices.
pub fn check(calls: &[Call], budget: u64) -> Verdict {
    Search::new(calls, budget).run()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXCLUSIVE: Mode = Mode::Exclusive { reentrant: false };
    const AGAIN: Mode = Mode::Exclusive { reentrant: true };

    fn call(owner: u64, call: u64, ret: u64, op: Op) -> Call {
        Call { owner, call, ret, op }
    }

    fn grant(owner: u64, from: u64, to: u64, mode: Mode, token: u64, lives_until: u64) -> Call {
        call(owner, from, to, Op::Grant { mode, token, lives_until })
    }

    fn release(owner: u64, from: u64, to: u64, token: u64, left: Option<u32>) -> Call {
        call(owner, from, to, Op::Release { token, left })
    }

    fn good(calls: &[Call]) {
        assert_eq!(check(calls, 10_000), Verdict::Linearizable, "{calls:?}");
    }

    fn bad(calls: &[Call]) {
        assert!(matches!(check(calls, 10_000), Verdict::Refused(_)), "{calls:?}");
    }

    #[test]
    fn one_holder_after_the_other() {
        good(&[grant(1, 0, 1, EXCLUSIVE, 5, 100), release(1, 2, 3, 5, Some(0)), grant(2, 4, 5, EXCLUSIVE, 6, 100)]);
        // The release overlaps the next grant: it can have been first.
        good(&[grant(1, 0, 1, EXCLUSIVE, 5, 100), release(1, 2, 9, 5, Some(0)), grant(2, 3, 5, EXCLUSIVE, 6, 100)]);
        bad(&[grant(1, 0, 1, EXCLUSIVE, 5, 100), grant(2, 3, 5, EXCLUSIVE, 6, 100), release(1, 6, 9, 5, Some(0))]);
        // A smaller token after a larger one (I-05).
        bad(&[grant(1, 0, 1, EXCLUSIVE, 5, 100), release(1, 2, 3, 5, Some(0)), grant(2, 4, 5, EXCLUSIVE, 4, 100)]);
        bad(&[grant(1, 0, 1, EXCLUSIVE, 5, 100), release(1, 2, 3, 5, Some(0)), grant(2, 4, 5, EXCLUSIVE, 5, 100)]);
    }

    #[test]
    fn a_lease_ends_when_it_may_and_not_before() {
        good(&[grant(1, 0, 1, EXCLUSIVE, 5, 10), grant(2, 9, 12, EXCLUSIVE, 6, 100)]);
        bad(&[grant(1, 0, 1, EXCLUSIVE, 5, 10), grant(2, 3, 9, EXCLUSIVE, 6, 100)]);
        // What ran out is not there for a renewal or a release, and nothing comes back.
        bad(&[grant(1, 0, 1, EXCLUSIVE, 5, 10), grant(2, 11, 12, EXCLUSIVE, 6, 100), call(1, 13, 14, Op::Renew { token: 5, held: true })]);
        good(&[grant(1, 0, 1, EXCLUSIVE, 5, 10), grant(2, 11, 12, EXCLUSIVE, 6, 100), release(1, 13, 14, 5, None)]);
        bad(&[grant(1, 0, 1, EXCLUSIVE, 5, 100), release(1, 13, 14, 5, None)]);
        bad(&[release(1, 0, 1, 5, Some(0)), grant(1, 2, 3, EXCLUSIVE, 5, 100)]);
    }

    #[test]
    fn what_nobody_was_told_stays_open() {
        // A release without an answer, before or after the next one's call, or never.
        let lost = call(1, 2, u64::MAX, Op::LostRelease { token: 5 });
        good(&[grant(1, 0, 1, EXCLUSIVE, 5, 100), lost, grant(2, 30, 31, EXCLUSIVE, 6, 200)]);
        good(&[grant(1, 0, 1, EXCLUSIVE, 5, 100), lost, call(2, 30, 31, Op::Refused)]);
        bad(&[
            grant(1, 10, 11, EXCLUSIVE, 5, 100),
            call(1, 40, u64::MAX, Op::LostRelease { token: 5 }),
            grant(2, 30, 31, EXCLUSIVE, 6, 200),
        ]);
        // An acquisition without an answer explains a refusal that came later, none that came before, and a holder that nobody knows.
        bad(&[call(2, 30, 31, Op::Refused)]);
        good(&[call(1, 20, u64::MAX, Op::Lost), call(2, 30, 31, Op::Refused)]);
        bad(&[call(1, 32, u64::MAX, Op::Lost), call(2, 30, 31, Op::Refused)]);
        good(&[call(1, 20, u64::MAX, Op::Lost), call(2, 30, 31, Op::Read { token: Some(9) })]);
        bad(&[call(2, 30, 31, Op::Read { token: Some(9) })]);
        // It explains no second holder.
        bad(&[call(1, 0, u64::MAX, Op::Lost), grant(1, 0, 1, EXCLUSIVE, 5, 100), grant(2, 3, 5, EXCLUSIVE, 6, 100)]);
    }

    #[test]
    fn reads_see_what_was_answered_before() {
        let read = |from, to, token| call(9, from, to, Op::Read { token });
        good(&[grant(1, 0, 10, EXCLUSIVE, 5, 100), read(1, 2, None), read(3, 4, Some(5))]);
        bad(&[grant(1, 0, 10, EXCLUSIVE, 5, 100), read(1, 2, Some(5)), read(3, 4, None)]);
        bad(&[grant(1, 0, 10, EXCLUSIVE, 5, 100), release(1, 11, 12, 5, Some(0)), read(13, 14, Some(5))]);
    }

    #[test]
    fn shared_holders_and_permits() {
        let shared = |owner, from, token| grant(owner, from, from + 1, Mode::Shared, token, 100);
        good(&[shared(1, 0, 5), shared(2, 3, 6), call(3, 5, 6, Op::Refused)]);
        bad(&[shared(1, 0, 5), shared(2, 3, 6), grant(3, 7, 8, EXCLUSIVE, 7, 100)]);
        bad(&[grant(3, 0, 1, EXCLUSIVE, 4, 100), shared(1, 2, 5)]);
        let permits = |owner, from, count, token| grant(owner, from, from + 1, Mode::Permits { count, limit: 3 }, token, 100);
        good(&[permits(1, 0, 2, 5), permits(2, 2, 1, 6), call(3, 5, 6, Op::Refused)]);
        bad(&[permits(1, 0, 2, 5), permits(2, 2, 2, 6)]);
        good(&[permits(1, 0, 2, 5), permits(2, 2, 1, 6), release(1, 4, 5, 5, Some(0)), permits(3, 6, 2, 7)]);
    }

    #[test]
    fn a_lock_taken_twice_is_given_back_twice() {
        let twice = [grant(1, 0, 1, AGAIN, 5, 100), grant(1, 2, 3, AGAIN, 5, 100)];
        good(&[&twice[..], &[release(1, 4, 5, 5, Some(1)), release(1, 6, 7, 5, Some(0)), grant(2, 8, 9, AGAIN, 6, 100)]].concat());
        bad(&[&twice[..], &[release(1, 4, 5, 5, Some(0))]].concat());
        bad(&[&twice[..], &[release(1, 4, 5, 5, Some(1)), grant(2, 8, 9, AGAIN, 6, 100)]].concat());
        bad(&[grant(1, 0, 1, AGAIN, 5, 100), grant(2, 2, 3, AGAIN, 5, 100)]);
        // Had without knowing, seen by another, and told when it was taken again.
        let seen = [call(9, 4, 5, Op::Read { token: Some(5) }), grant(1, 6, 7, AGAIN, 5, 100)];
        good(&[&[call(1, 2, u64::MAX, Op::Lost)], &seen[..]].concat());
        bad(&seen);
        // Another's grant is not released.
        good(&[grant(1, 0, 1, AGAIN, 5, 100), release(2, 2, 3, 5, None), call(9, 4, 5, Op::Read { token: Some(5) })]);
        bad(&[grant(1, 0, 1, AGAIN, 5, 100), release(2, 2, 3, 5, Some(0))]);
    }

    #[test]
    fn a_search_that_is_given_up_says_so() {
        let calls: Vec<Call> = (0..40).map(|i| call(i, 0, 100, Op::Refused)).collect();
        assert_eq!(check(&calls, 1), Verdict::Refused(Vec::from_iter(calls.iter().copied())));
        let calls: Vec<Call> = (1..40).map(|i| grant(i, 0, 100, Mode::Shared, i, 200)).collect();
        assert_eq!(check(&calls, 10), Verdict::Undecided);
        good(&calls);
    }

    /// Histories made from an order that is known, and the same ones with one answer changed.
    #[test]
    fn made_up_histories_are_accepted_and_falsified_ones_refused() {
        let mut state = 7u64;
        let mut below = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        let mut refused = 0;
        for _ in 0..200 {
            let (mut calls, mut now, mut holder, mut token) = (Vec::new(), 1_000, None, 0);
            for _ in 0..120 {
                now += 1 + below(10);
                let owner = below(5);
                let span = |a: u64, b: u64| (now - a, now + b);
                let (from, to) = span(below(15), below(15));
                match holder {
                    None => {
                        token += 1 + below(2);
                        calls.push(grant(owner, from, to, EXCLUSIVE, token, u64::MAX - 1));
                        holder = Some((owner, token));
                    }
                    Some((by, held)) if by == owner => {
                        calls.push(release(owner, from, to, held, Some(0)));
                        holder = None;
                    }
                    Some((_, held)) if below(2) == 0 => calls.push(call(owner, from, to, Op::Read { token: Some(held) })),
                    Some(_) => calls.push(call(owner, from, to, Op::Refused)),
                }
            }
            assert_eq!(check(&calls, 1_000_000), Verdict::Linearizable);
            // One release that was answered was none: whoever came next held it too.
            let releases: Vec<usize> = (0..calls.len()).filter(|i| matches!(calls[*i].op, Op::Release { .. })).collect();
            if releases.len() > 2 {
                calls.remove(releases[releases.len() / 2]);
                refused += u32::from(matches!(check(&calls, 1_000_000), Verdict::Refused(_)));
            }
        }
        assert!(refused > 150, "{refused} of the falsified histories were refused");
    }
}
