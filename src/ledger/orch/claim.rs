//! Starting: everything that may stand in the way is judged here, in one entry, before any code of the host runs.

use crate::base::planted::planted;
use crate::base::{SessionId, Token};

use super::super::clock::HIDDEN_MS;
use super::apply::Around;
use super::op::{Claim, OrchAnswer, OrchFault, OrchOp, Reason, View};
use super::schedule::{NAME_MAX, Overlap, Schedule, Scope, is_name};
use super::state::{ACTIVE_MAX, Entry, RunState, State};

impl State {
    pub(super) fn claim(&mut self, claim: &Claim, around: &mut Around<'_>) -> OrchAnswer {
        let now_ms = self.judge_now(claim.now_ms);
        let id = claim.schedule.as_str();
        let Some(entry) = self.schedules.get(id) else { return OrchAnswer::StaleRevision { current: 0 } };
        if entry.revision != claim.revision {
            return OrchAnswer::StaleRevision { current: entry.revision };
        }
        if claim.tick_ms > now_ms {
            return OrchAnswer::Invalid(OrchFault::Future);
        }
        if claim.target.len() > NAME_MAX {
            return OrchAnswer::Invalid(OrchFault::Name);
        }
        let mark = entry.marks.get(&claim.target).copied().unwrap_or(entry.created_ms);
        if !planted!("claim-without-check") && claim.tick_ms <= mark.max(entry.created_ms) {
            self.counts.already_claimed += 1;
            return self.who_has(id, &claim.target, claim.tick_ms);
        }
        let mark_ms = entry.marks.get(&claim.target).copied().unwrap_or(i64::MIN);
        if !planted!("claim-without-check") && mark_ms != claim.from_ms {
            return OrchAnswer::OtherMark { mark_ms };
        }
        if let Some(refusal) = self.barred(entry, now_ms, (false, false), claim.view) {
            return refusal;
        }
        let definition = entry.definition.clone();
        if let Some(Scope::EachNode { halt_after_failures, .. }) = definition.scope
            && halt_after_failures != 0
            && entry.wave.0 == claim.tick_ms
            && entry.wave.1 >= halt_after_failures
        {
            return OrchAnswer::Halted;
        }
        if let Some(refusal) = self.crowded(entry) {
            return refusal;
        }
        let (going_on, other) = self.going_on(entry, &claim.target);
        if going_on >= Self::allowed(&definition) {
            return self.meet(claim, other, now_ms, around);
        }
        if entry.active.len() as u64 >= ACTIVE_MAX {
            return OrchAnswer::Limit { max: ACTIVE_MAX };
        }
        if let Some(refusal) = self.cannot(&definition, claim.worker, around) {
            return refusal;
        }
        if let Some(entry) = self.schedules.get_mut(id) {
            entry.marks.insert(claim.target.clone(), claim.tick_ms);
            if entry.wave.0 != claim.tick_ms {
                entry.wave = (claim.tick_ms, 0);
            }
        }
        let run = self.make_run(id, &claim.target, claim.tick_ms, around);
        self.start(run, claim.worker, now_ms, claim.view, around)
    }

    /// Gives a run that waits to a worker.
    pub(super) fn assign(
        &mut self,
        run: u64,
        (revision, view): (u64, View),
        worker: SessionId,
        now_ms: i64,
        around: &mut Around<'_>,
    ) -> OrchAnswer {
        let now_ms = self.judge_now(now_ms);
        let Some(r) = self.runs.get(&run) else { return OrchAnswer::NotFound };
        if r.state != RunState::Due || r.until > around.now {
            return OrchAnswer::AlreadyClaimed { run, token: r.token, by: r.worker, since_ms: r.started_ms };
        }
        let Some(entry) = self.schedules.get(&r.schedule) else { return OrchAnswer::StaleRevision { current: 0 } };
        if entry.revision != revision {
            return OrchAnswer::StaleRevision { current: entry.revision };
        }
        if let Some(refusal) = self.barred(entry, now_ms, (r.manual, r.force), view) {
            return refusal;
        }
        if let Some(refusal) = self.crowded(entry) {
            return refusal;
        }
        let others = entry.active.iter().filter_map(|id| self.runs.get(id));
        let running = others.filter(|o| o.id != run && o.target == r.target && o.token.0 != 0);
        let (count, other) = running.fold((0, 0), |(n, _), o| (n + 1, o.id));
        if count >= Self::allowed(&r.definition) {
            return OrchAnswer::Busy { run: other, due: true };
        }
        let definition = r.definition.clone();
        if let Some(refusal) = self.cannot(&definition, worker, around) {
            return refusal;
        }
        self.start(run, worker, now_ms, view, around)
    }

    /// What the schedule itself has against a start now. `force` opens the window, and nothing else.
    fn barred(&self, entry: &Entry, now_ms: i64, (manual, force): (bool, bool), view: View) -> Option<OrchAnswer> {
        if !manual && !entry.definition.enabled {
            return Some(OrchAnswer::Disabled);
        }
        if let Some(pause) = [&self.paused, &entry.paused].into_iter().flatten().find(|p| p.until_ms > now_ms) {
            return Some(OrchAnswer::Paused { until_ms: pause.until_ms });
        }
        match view {
            View::Outside { until_ms } if !force => Some(OrchAnswer::OutsideWindow { until_ms }),
            View::Blackout { until_ms } => Some(OrchAnswer::Blackout { until_ms }),
            View::Open { .. } | View::Outside { .. } => None,
        }
    }

    /// What the runs of other targets have against it. Those that wait, as for a node that is gone, are in nobody's way.
    fn crowded(&self, entry: &Entry) -> Option<OrchAnswer> {
        let (parallel, percent) = match entry.definition.scope {
            Some(Scope::EachNode { max_parallel, max_parallel_percent, .. }) => (max_parallel, max_parallel_percent),
            Some(Scope::EachShard { max_parallel }) => (max_parallel, 0),
            Some(Scope::Singleton) | None => (0, 0),
        };
        if parallel == 0 && percent == 0 {
            return None;
        }
        let mut most = if parallel == 0 { u32::MAX } else { parallel };
        if percent != 0 {
            let able = self.workers.values().filter(|w| w.can(&entry.definition)).count() as u32;
            most = most.min((able.saturating_mul(percent) / 100).max(1));
        }
        let running = entry.active.iter().filter_map(|id| self.runs.get(id)).filter(|r| r.token.0 != 0);
        let (count, one) = running.fold((0u32, 0), |(n, _), r| (n + 1, r.id));
        (count >= most).then_some(OrchAnswer::Busy { run: one, due: true })
    }

    /// What the worker and the budgets have against it.
    fn cannot(&mut self, definition: &Schedule, worker: SessionId, around: &Around<'_>) -> Option<OrchAnswer> {
        if !(around.lives)(worker) {
            // Whoever proposed it learns of it by the change, and chooses another.
            if self.workers.remove(&worker.0).is_some() {
                self.touch_common();
            }
            return Some(OrchAnswer::NoEligibleNode);
        }
        let short = |(name, amount): (&String, &u32)| self.budgets.get(name).is_none_or(|b| b.limit.saturating_sub(b.used) < *amount);
        if definition.budgets.iter().any(short) {
            return Some(OrchAnswer::BudgetExhausted);
        }
        let able = self.workers.get(&worker.0).is_some_and(|w| w.can(definition) && w.has_room());
        (!able).then_some(OrchAnswer::NoEligibleNode)
    }

    /// A tick meets a run that goes on.
    fn meet(&mut self, claim: &Claim, other: u64, now_ms: i64, around: &mut Around<'_>) -> OrchAnswer {
        let (id, target) = (claim.schedule.as_str(), claim.target.as_str());
        let Some(entry) = self.schedules.get_mut(id) else { return OrchAnswer::NotFound };
        let overlap = entry.definition.overlap;
        entry.marks.insert(target.to_owned(), claim.tick_ms);
        let mut left_out = None;
        match overlap {
            Overlap::CancelOther => {
                left_out = entry.buffer.iter().position(|(t, _)| t == target).and_then(|at| entry.buffer.remove(at)).map(|(_, tick)| tick);
                entry.buffer.push_back((target.to_owned(), claim.tick_ms));
            }
            Overlap::Buffer(n) if (entry.buffer.iter().filter(|(t, _)| t == target).count() as u64) < u64::from(n) => {
                entry.buffer.push_back((target.to_owned(), claim.tick_ms));
            }
            Overlap::Skip | Overlap::Allow(_) | Overlap::Buffer(_) => left_out = Some(claim.tick_ms),
        }
        if let Some(tick_ms) = left_out {
            self.leave_out(id, target, tick_ms, 1, Reason::Overlap, now_ms);
        }
        if overlap == Overlap::CancelOther {
            self.cancel(other, "the next tick takes its place", now_ms, around);
        }
        self.touch(id);
        OrchAnswer::Busy { run: other, due: false }
    }

    /// Makes an attempt: token, lease, budgets.
    fn start(&mut self, run: u64, worker: SessionId, now_ms: i64, view: View, around: &mut Around<'_>) -> OrchAnswer {
        let (Some(r), Some(w)) = (self.runs.get_mut(&run), self.workers.get_mut(&worker.0)) else { return OrchAnswer::NotFound };
        let token = (around.token)();
        let lease_ms = r.definition.lease_ms;
        r.attempt += 1;
        (r.token, r.worker, r.state) = (token, worker, RunState::Running);
        r.node.clone_from(&w.name);
        r.reason.clear();
        // What has failed in a former attempt is done again.
        r.tasks.iter_mut().filter(|mark| mark.ended == Some(false)).for_each(|mark| mark.ended = None);
        r.until = around.now + u64::from(lease_ms) + HIDDEN_MS;
        if r.started_ms == 0 {
            r.started_ms = now_ms;
        }
        r.closes_ms = if let View::Open { until_ms } = view { until_ms } else { i64::MAX };
        w.running += 1;
        let (until, attempt, definition) = (r.until, r.attempt, r.definition.clone());
        let (schedule, target, tick_ms) = (r.schedule.clone(), r.target.clone(), r.tick_ms);
        self.leases.insert((until, run));
        for (name, amount) in &definition.budgets {
            if let Some(budget) = self.budgets.get_mut(name) {
                budget.used += amount;
            }
        }
        self.counts.claimed += 1;
        self.journal(&schedule, &target, [tick_ms as u64, run, u64::from(attempt), token.0, 100]);
        self.touch(&schedule);
        around.bells.push(worker);
        OrchAnswer::Claimed { run, token, attempt, lease_ms }
    }

    fn who_has(&self, schedule: &str, target: &str, tick_ms: i64) -> OrchAnswer {
        let none = OrchAnswer::AlreadyClaimed { run: 0, token: Token(0), by: SessionId(0), since_ms: 0 };
        let Some(entry) = self.schedules.get(schedule) else { return none };
        let mut runs = entry.active.iter().filter_map(|id| self.runs.get(id));
        if let Some(r) = runs.find(|r| r.target == target && r.tick_ms == tick_ms) {
            return OrchAnswer::AlreadyClaimed { run: r.id, token: r.token, by: r.worker, since_ms: r.started_ms };
        }
        let old = entry.history.iter().rev().find(|h| h.target == target && h.tick_ms == tick_ms);
        old.map_or(none, |h| OrchAnswer::AlreadyClaimed { run: h.run, token: h.token, by: SessionId(0), since_ms: h.started_ms })
    }

    pub(super) fn skip(&mut self, op: &OrchOp) -> OrchAnswer {
        let OrchOp::Skip { schedule, target, revision, from_ms, upto_ms, count, reason, now_ms } = op else {
            return OrchAnswer::NotFound;
        };
        let now_ms = self.judge_now(*now_ms);
        let Some(entry) = self.schedules.get_mut(schedule) else { return OrchAnswer::StaleRevision { current: 0 } };
        if entry.revision != *revision {
            return OrchAnswer::StaleRevision { current: entry.revision };
        }
        if *upto_ms > now_ms {
            return OrchAnswer::Invalid(OrchFault::Future);
        }
        if target.len() > NAME_MAX {
            return OrchAnswer::Invalid(OrchFault::Name);
        }
        let mark = entry.marks.get(target).copied().unwrap_or(i64::MIN);
        if mark != *from_ms || *upto_ms <= mark {
            self.counts.already_claimed += 1;
            return OrchAnswer::AlreadyClaimed { run: 0, token: Token(0), by: SessionId(0), since_ms: 0 };
        }
        entry.marks.insert(target.clone(), *upto_ms);
        self.leave_out(schedule, target, *upto_ms, *count, *reason, now_ms);
        self.touch(schedule);
        OrchAnswer::Done
    }

    pub(super) fn trigger(&mut self, op: &OrchOp, around: &mut Around<'_>) -> OrchAnswer {
        let OrchOp::Trigger { schedule, target, key, tick_ms, force, params, now_ms } = op else { return OrchAnswer::NotFound };
        if (!key.is_empty() && !is_name(key)) || target.len() > NAME_MAX {
            return OrchAnswer::Invalid(OrchFault::Name);
        }
        if params.as_ref().is_some_and(|p| p.len() > super::schedule::PARAMS_MAX) {
            return OrchAnswer::Invalid(OrchFault::Schedule);
        }
        let now_ms = self.judge_now(*now_ms);
        let Some(entry) = self.schedules.get(schedule) else { return OrchAnswer::NotFound };
        if !key.is_empty() {
            let active = entry.active.iter().filter_map(|id| self.runs.get(id)).find(|r| r.key == *key && r.target == *target);
            let old = entry.history.iter().rev().find(|h| h.key == *key && h.target == *target);
            if let Some(run) = active.map(|r| r.id).or(old.map(|h| h.run)) {
                return OrchAnswer::Triggered { run, existed: true };
            }
        }
        if entry.active.len() as u64 >= ACTIVE_MAX {
            return OrchAnswer::Limit { max: ACTIVE_MAX };
        }
        let run = self.make_run(schedule, target, tick_ms.unwrap_or(now_ms), around);
        if let Some(r) = self.runs.get_mut(&run) {
            (r.key, r.manual, r.force, r.params) = (key.clone(), true, *force, params.clone());
            r.reason = "asked for".to_owned();
        }
        self.touch(schedule);
        OrchAnswer::Triggered { run, existed: false }
    }
}
