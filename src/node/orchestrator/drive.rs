//! Giving out work: the copy is brought up to date, what is due is proposed, and the answers are taken when they have come. Nothing here waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::asked::{Batch, Wish};
use super::{NS_PER_MS, Shared, lock};
use crate::base::{Result, Token};
use crate::ledger::orch::{OrchAnswer, OrchOp, Schedule};
use crate::node::session::Session;
use crate::orchestrator::planner::{Changes, Planner};

/// Whoever holds it gives out work.
pub(super) const KEY: &[u8] = b"tenure/orchestrator/driver";
/// How often somebody who does not hold it looks in its own copy whether it is free, ns.
const LOOK_NS: u64 = 200 * NS_PER_MS;
/// How often it asks whatever its copy says, ns.
const TRY_NS: u64 = 10_000 * NS_PER_MS;
/// The longest sleep of who holds it, ns.
const LONGEST_NS: u64 = 1_000 * NS_PER_MS;
/// Rounds of proposals in one step.
const ROUNDS: usize = 16;

/// What is remembered between two rounds.
#[derive(Default)]
pub(super) struct Driver {
    planner: Option<Planner>,
    token: Option<Token>,
    /// That it has asked to be the one.
    wish: Option<Arc<Wish>>,
    /// Proposals whose answers have not been taken. They go with the lock: what a former holder had proposed is nothing to the next.
    asked: Option<Batch>,
    looked_ns: Option<u64>,
    tried_ns: Option<u64>,
    /// When it began, and the starts of the present second since.
    began_ns: u64,
    second: (u64, u64),
}

impl Driver {
    /// Waits a little, for a loop that has no bell.
    pub(super) fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }

    /// Gives the lock back, also one that is granted later.
    pub(super) fn resign(&mut self, session: &Session) {
        if let Some(token) = self.token.take() {
            session.release_later(KEY, token);
        }
        (self.wish, self.planner, self.asked) = (None, None, None);
    }

    pub(super) fn drives(&self) -> bool {
        self.token.is_some()
    }

    /// How many starts lack what.
    pub(super) fn waiting(&self) -> BTreeMap<String, usize> {
        self.planner.as_ref().map(Planner::waiting).unwrap_or_default()
    }
}

impl Shared {
    /// Whether this node gives out work; it tries to become the one that does.
    fn elected(self: &Arc<Self>, driver: &mut Driver, now_ns: u64) -> bool {
        if !self.options.drive {
            return false;
        }
        if driver.token.is_some_and(|token| self.session.believes(token)) {
            return true;
        }
        if driver.token.take().is_some() {
            (driver.planner, driver.asked) = (None, None);
        }
        if driver.wish.is_none() && !self.wishes(driver, now_ns) {
            return false;
        }
        let Some(wish) = &driver.wish else { return false };
        // Alone with it: nobody will answer any more.
        let (over, answer) = (Arc::strong_count(wish) == 1, wish.take());
        if !over && answer.is_none() {
            return false;
        }
        driver.token = answer.and_then(Result::ok);
        driver.wish = None;
        if driver.token.is_some() {
            driver.began_ns = now_ns;
            driver.planner = Some(Planner::new());
        }
        driver.token.is_some()
    }

    /// Asks for the lock, when it is time and it seems to be free. Whether it has.
    fn wishes(self: &Arc<Self>, driver: &mut Driver, now_ns: u64) -> bool {
        if driver.looked_ns.is_some_and(|at| now_ns < at + LOOK_NS) {
            return false;
        }
        driver.looked_ns = Some(now_ns);
        let holder = self.session.holder_local(KEY).ok().and_then(|local| local.holder);
        let held = holder.is_some_and(|h| !h.remaining.is_zero());
        if held && driver.tried_ns.is_some_and(|at| now_ns < at + TRY_NS) {
            return false;
        }
        driver.tried_ns = Some(now_ns);
        driver.wish = self.wish();
        driver.wish.is_some()
    }

    /// Gives out work. Returns ns until the next is due.
    pub(super) fn drive_step(self: &Arc<Self>) -> u64 {
        loop {
            let next = self.drive_round();
            // The host is asked with no lock held.
            if !self.ask_shards() {
                return next;
            }
        }
    }

    fn drive_round(self: &Arc<Self>) -> u64 {
        let mut driver = lock(&self.driver);
        // Looked at with the lock held: who resigns for good has closed before.
        if self.is_closed() {
            return u64::MAX;
        }
        let now_ns = self.now().boottime_ns;
        if !self.elected(&mut driver, now_ns) {
            return if self.options.drive { LOOK_NS } else { u64::MAX };
        }
        let driver = &mut *driver;
        let Some(planner) = &mut driver.planner else { return LOOK_NS };
        let shards = |schedule: &Schedule| lock(&self.shards).of(schedule, now_ns);
        for id in lock(&self.shards).take_heard() {
            planner.look_again(&id);
        }
        let (mut next_ms, mut rounds) = (None, 0);
        loop {
            if let Some(batch) = &driver.asked {
                let Some((answers, took_ms)) = batch.take() else {
                    // The last answer rings the bell, where there is somebody to hear it.
                    return if self.manual { NS_PER_MS } else { LONGEST_NS };
                };
                let claimed = |answer: &Result<OrchAnswer>| matches!(answer, Ok(OrchAnswer::Claimed { .. }));
                driver.second.1 += answers.iter().filter(|answer| claimed(answer)).count() as u64;
                let ops = driver.asked.take().map(|batch| batch.ops).unwrap_or_default();
                let follow = self.take_answers(planner, &ops, answers, took_ms);
                if !follow.is_empty() {
                    driver.asked = Some(self.propose(follow));
                    continue;
                }
            }
            if rounds == ROUNDS {
                break;
            }
            rounds += 1;
            let (since, local_ms) = (planner.version(), self.local_ms());
            match self.engine().orch(move |state, clock| Changes::read(state, clock, since, local_ms)) {
                Ok(changes) => planner.take(changes),
                Err(_) => return LOOK_NS,
            }
            let wall_ms = self.wall_ms();
            let ramp = now_ns.saturating_sub(driver.began_ns) < self.options.ramp_up.as_nanos() as u64;
            let second = now_ns / 1_000_000_000;
            if driver.second.0 != second {
                driver.second = (second, 0);
            }
            let most = u64::from(self.options.ramp_starts).saturating_mul(planner.workers() as u64);
            planner.bound_starts(if ramp { most.saturating_sub(driver.second.1) as usize } else { usize::MAX });
            let plan = planner.plan(wall_ms, local_ms, &shards);
            next_ms = plan.next_ms.map(|at| at - planner.now_ms(wall_ms));
            if plan.ops.is_empty() {
                break;
            }
            driver.asked = Some(self.propose(plan.ops));
        }
        next_ms.map_or(LONGEST_NS, |ms| if ms <= 0 { NS_PER_MS } else { (ms as u64).saturating_mul(NS_PER_MS) })
    }

    /// Takes the answers to proposals; returns the proposals that follow from them.
    fn take_answers(&self, planner: &mut Planner, ops: &[OrchOp], answers: Vec<Result<OrchAnswer>>, took_ms: u64) -> Vec<OrchOp> {
        let wall_ms = self.wall_ms();
        let (mut follow, mut lost, mut why) = (Vec::new(), 0u64, None);
        for (op, answer) in ops.iter().zip(answers) {
            match answer {
                Ok(answer) => {
                    let mut figures = lock(&self.figures);
                    figures.answered(word(answer));
                    if let OrchAnswer::Claimed { .. } = answer {
                        figures.claims.count(took_ms);
                    }
                    drop(figures);
                    follow.extend(planner.answered(op, answer, wall_ms));
                }
                Err(error) => {
                    (lost, why) = (lost + 1, Some(error));
                    planner.unanswered(op, wall_ms);
                }
            }
        }
        if let Some(error) = why {
            tracing::warn!(node = self.session.name(), lost, %error, "proposals had no answer");
        }
        follow
    }
}

/// An answer as a word for counting.
fn word(answer: OrchAnswer) -> &'static str {
    match answer {
        OrchAnswer::Claimed { .. } => "claimed",
        OrchAnswer::AlreadyClaimed { .. } => "already_claimed",
        OrchAnswer::Busy { .. } => "busy",
        OrchAnswer::OutsideWindow { .. } => "outside_window",
        OrchAnswer::Blackout { .. } => "blackout",
        OrchAnswer::Paused { .. } => "paused",
        OrchAnswer::Disabled => "disabled",
        OrchAnswer::BudgetExhausted => "budget_exhausted",
        OrchAnswer::NoEligibleNode => "no_eligible_node",
        OrchAnswer::StaleRevision { .. } => "stale_revision",
        OrchAnswer::Halted => "halted",
        OrchAnswer::Done => "left_out",
        _ => "other",
    }
}
