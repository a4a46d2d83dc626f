//! Operations that may concern several keys, and time: they need every shard at hand.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use crate::base::{Key, SessionId};

use super::command::{Event, Fault, LimitKind, Op, Outcome, Refusal, Request, Spec, Wait, WaitEnd};
use super::hub::{Cx, Group, Hub, NEVER, granted};
use super::session::{Dying, Known, end_reasons};
use super::shard::{Asker, Asks, Shard};
use super::slab::{NONE, Probe, REMEMBERED, Terms};
use super::verbs::Found;

/// Every shard of a ledger.
pub(crate) trait Shards {
    fn count(&self) -> usize;
    fn shard(&mut self, number: usize) -> &mut Shard;
}

impl Shards for Vec<Shard> {
    #[inline]
    fn count(&self) -> usize {
        self.len()
    }
    #[inline]
    fn shard(&mut self, number: usize) -> &mut Shard {
        &mut self[number]
    }
}

/// Which of `count` shards (a power of two) a hash belongs to. Bits that the shard's own table does not use first.
#[inline]
pub(crate) fn shard_of(hash: u64, count: usize) -> usize {
    (hash >> 32) as usize & (count - 1)
}

/// The whole state, in the course of one operation.
pub(crate) struct World<'a, 'h, S: Shards> {
    pub(crate) shards: &'a mut S,
    pub(crate) cx: Cx<'h>,
}

impl<'h, S: Shards> World<'_, 'h, S> {
    pub(super) fn hub(&self) -> &'h Hub {
        self.cx.hub
    }

    pub(super) fn home<'k>(&self, key: &'k Key) -> (usize, Probe<'k>) {
        let probe = self.hub().probe(key);
        (shard_of(probe.hash, self.shards.count()), probe)
    }

    /// Does what is asked, once: a number that the session remembers gets its old answer.
    pub(crate) fn execute(&mut self, request: &Request) -> Outcome {
        let now = self.cx.now();
        let hub = self.hub();
        let outcome = match &request.op {
            Op::Tick => Outcome::Ticked,
            Op::Orch(op) if request.session.0 == 0 => self.cx.orchestrate(request.session, op),
            Op::OpenSession { nonce, name, ttl_ms } => self.open_session(*nonce, name, *ttl_ms),
            Op::ForceRelease { key, token, delay_ms } => {
                let (home, probe) = self.home(key);
                self.shards.shard(home).force_release(&mut self.cx, &probe, *token, *delay_ms)
            }
            Op::Revoke { key, token, why, force_after_ms } => {
                let (home, probe) = self.home(key);
                let by = hub.sessions.living(request.session, now).map_or_else(String::new, |s| s.body().name.clone());
                self.shards.shard(home).revoke(&mut self.cx, &probe, *token, &by, why, *force_after_ms)
            }
            Op::TakeOver { old, nonce, name, ttl_ms, keep } => self.take_over(*old, *nonce, name, *ttl_ms, *keep),
            op => {
                let Some(slot) = hub.sessions.living(request.session, now) else { return Outcome::Refused(Refusal::NoSession) };
                if request.seq == 0 {
                    self.of_session(request.session, op, 0)
                } else {
                    let known = slot.body().window.look(request.seq);
                    match known {
                        Known::Answered(outcome) => return outcome,
                        Known::Forgotten => return Outcome::Refused(Refusal::Forgotten),
                        Known::New => {}
                    }
                    let outcome = self.of_session(request.session, op, REMEMBERED);
                    let req = match op {
                        Op::Acquire { req, .. } | Op::AcquireAll { req, .. } => *req,
                        _ => 0,
                    };
                    // A session that has just been closed remembers nothing.
                    if !matches!(op, Op::CloseSession) {
                        slot.body().window.remember(request.seq, req, outcome, hub.params.window.max(1) as usize);
                    }
                    outcome
                }
            }
        };
        self.serve_groups();
        outcome
    }

    fn of_session(&mut self, session: SessionId, op: &Op, flags: u8) -> Outcome {
        match op {
            Op::RenewSession => self.renew_session(session),
            Op::CloseSession => self.close_session(session),
            Op::Acquire { key, spec, wait_ms, req } => self.acquire(Asks { session, req: *req, flags }, key, spec, *wait_ms),
            Op::AcquireAll { keys, spec, wait_ms, req } => self.acquire_all(Asks { session, req: *req, flags }, keys, spec, *wait_ms),
            Op::Cancel { keys, req } => self.cancel(session, keys, *req),
            Op::Release { key, token } => {
                let (home, probe) = self.home(key);
                self.shards.shard(home).release(&mut self.cx, &probe, session, *token)
            }
            Op::ReleaseAll => self.release_all(session),
            Op::Renew { key, token, ttl_ms } => {
                let (home, probe) = self.home(key);
                self.shards.shard(home).renew(&mut self.cx, &probe, session, *token, *ttl_ms)
            }
            Op::Promise(op) => self.promise(session, op),
            Op::Orch(op) => self.cx.orchestrate(session, op),
            Op::Annotate { key, token, metadata } => {
                let (home, probe) = self.home(key);
                self.shards.shard(home).annotate(&mut self.cx, &probe, session, *token, metadata)
            }
            Op::HandOver { key, token, to } => {
                let (home, probe) = self.home(key);
                self.shards.shard(home).give_to(&mut self.cx, &probe, session, *token, to)
            }
            Op::OpenSession { .. } | Op::TakeOver { .. } | Op::ForceRelease { .. } | Op::Revoke { .. } | Op::Tick => Outcome::Ticked,
        }
    }

    // ---- locks ---------------------------------------------------------------------------------

    fn acquire(&mut self, asks: Asks, key: &Key, spec: &Spec, wait: Wait) -> Outcome {
        let (home, probe) = self.home(key);
        self.gather_places(home, 1);
        self.shards.shard(home).acquire(&mut self.cx, &probe, asks, spec, wait)
    }

    /// Makes `n` places spare at one shard if there are that many anywhere.
    fn gather_places(&mut self, home: usize, n: u64) -> bool {
        if self.shards.shard(home).need(&self.cx, n) {
            return true;
        }
        for number in 0..self.shards.count() {
            let spare = std::mem::take(&mut self.shards.shard(number).spare);
            self.hub().give_places(spare);
        }
        self.shards.shard(home).need(&self.cx, n)
    }

    fn acquire_all(&mut self, asks: Asks, keys: &[Key], spec: &Spec, wait: Wait) -> Outcome {
        let (hub, Asks { session, req, flags }) = (self.hub(), asks);
        let wait = wait.filter(|ms| *ms != 0);
        let refused = |r| Outcome::Refused(r);
        if let Err(refusal) = hub.check_spec(spec, keys.len()) {
            return refused(refusal);
        }
        if keys.is_empty() || keys.iter().collect::<BTreeSet<_>>().len() != keys.len() {
            return refused(Refusal::Invalid(Fault::Keys));
        }
        let p = &hub.params;
        if keys.len() > p.max_keys as usize {
            return refused(Refusal::Limit { kind: LimitKind::KeysPerRequest, max: u64::from(p.max_keys) });
        }
        let Some(slot) = hub.sessions.find(session) else { return refused(Refusal::NoSession) };
        if slot.was_cancelled(req) {
            return refused(Refusal::Cancelled);
        }
        let homes: Vec<(usize, Probe<'_>)> = keys.iter().map(|k| self.home(k)).collect();
        if !self.gather_places(homes[0].0, keys.len() as u64) {
            return refused(Refusal::Limit { kind: LimitKind::Locks, max: p.max_locks });
        }
        self.settle_keys(&homes);
        let terms = Terms::of(spec, 0);
        let (mut blocked, mut position) = (None, 0);
        for (home, probe) in &homes {
            let shard = self.shards.shard(*home);
            let Some(entry) = shard.find(probe) else { continue };
            let (waiting, delayed, users, limit) =
                shard.extra(entry).map_or((0, false, 0, 0), |x| (x.waiting, x.delay_until != 0, x.permit_users, x.limit));
            if terms.limit != 0 && users != 0 && limit != terms.limit {
                return refused(Refusal::Invalid(Fault::PermitLimit));
            }
            if wait.is_some() && waiting >= p.max_waiters_per_key {
                return refused(Refusal::Limit { kind: LimitKind::WaitersPerKey, max: u64::from(p.max_waiters_per_key) });
            }
            if blocked.is_none() && (waiting != 0 || delayed || !shard.fits(entry, terms.kind(), terms.amount)) {
                (blocked, position) = (Some(shard.obstacle(&mut self.cx, entry)), waiting);
            }
        }
        match (blocked, wait) {
            (Some(obstacle), None) => Outcome::Held(obstacle),
            (blocked, wait) => {
                let first = hub.take_tokens(keys.len() as u64);
                let asker = Asker { session, slot, req, flags };
                let mut answer = granted(first, 0, 1);
                for ((home, probe), id) in homes.iter().zip(first..) {
                    self.move_place(homes[0].0, *home);
                    let shard = self.shards.shard(*home);
                    match (blocked, wait) {
                        (Some(_), Some(wait)) => {
                            shard.enqueue_part(&mut self.cx, probe, &asker, id, wait, spec);
                            answer = Outcome::Queued { position };
                        }
                        _ => answer = shortest(answer, shard.grant_part(&mut self.cx, probe, &asker, id, spec), first),
                    }
                }
                if blocked.is_some() {
                    hub.groups().insert(first, Group { session, req, keys: keys.to_vec() });
                }
                answer
            }
        }
    }

    fn move_place(&mut self, from: usize, to: usize) {
        if from != to {
            self.shards.shard(from).spare -= 1;
            self.shards.shard(to).spare += 1;
        }
    }

    /// Records what time has done to these keys.
    fn settle_keys(&mut self, homes: &[(usize, Probe<'_>)]) {
        for (home, probe) in homes {
            let shard = self.shards.shard(*home);
            if let Some(entry) = shard.find(probe) {
                shard.settle(&mut self.cx, entry, true);
                shard.tidy(&self.cx, entry);
            }
        }
    }

    fn cancel(&mut self, session: SessionId, keys: &[Key], req: u64) -> Outcome {
        let (mut found, mut was_granted) = (false, false);
        for key in keys {
            let (home, probe) = self.home(key);
            match self.shards.shard(home).cancel(&mut self.cx, &probe, session, req) {
                Found::Nothing => {}
                Found::Wait => found = true,
                Found::Grant => (found, was_granted) = (true, true),
                Found::Group(ticket) => {
                    found = true;
                    if let Some(first) = self.hub().group_of(ticket) {
                        self.end_group(first, WaitEnd::Cancelled);
                    }
                }
            }
        }
        if !found && let Some(slot) = self.hub().sessions.find(session) {
            slot.remember_cancelled(req);
        }
        Outcome::Cancelled { was_granted }
    }

    // ---- requests for several keys -------------------------------------------------------------

    /// Serves the groups that have come to the head of a queue, the oldest first, until none can be served.
    pub(crate) fn serve_groups(&mut self) {
        while let Some(first) = self.cx.ready.iter().copied().min() {
            self.serve_group(first);
            // Serving it looked at all its keys: what it noted of itself on the way is settled.
            self.cx.ready.retain(|other| *other != first);
        }
    }

    fn serve_group(&mut self, first: u64) {
        let now = self.cx.now();
        let hub = self.hub();
        let Some(group) = hub.groups().get(&first).cloned() else { return };
        let Some(slot) = hub.sessions.living(group.session, now) else {
            let life = hub.sessions.find(group.session).map_or(super::session::Life::Closed, |s| s.life());
            return self.end_group(first, end_reasons(life).1);
        };
        let homes: Vec<(usize, Probe<'_>)> = group.keys.iter().map(|k| self.home(k)).collect();
        let mut places = Vec::with_capacity(homes.len());
        for ((home, probe), ticket) in homes.iter().zip(first..) {
            let shard = self.shards.shard(*home);
            let Some(entry) = shard.find(probe) else { return };
            let Some(extra) = shard.extra(entry) else { return };
            let (head, delayed) = (extra.first, extra.delay_until > now);
            if head == NONE || shard.records[head].id != ticket {
                return;
            }
            let r = &shard.records[head];
            if r.since <= now {
                return self.end_group(first, WaitEnd::Timeout);
            }
            if delayed || !shard.fits(entry, r.kind(), r.amount()) {
                return;
            }
            places.push((*home, entry, head));
        }
        hub.groups().remove(&first);
        let token = hub.take_tokens(places.len() as u64);
        let mut answer = granted(token, 0, 1);
        let mut remembered = false;
        for ((home, _, record), token_i) in places.iter().zip(token..) {
            let shard = self.shards.shard(*home);
            remembered |= shard.records[*record].is(REMEMBERED);
            let remaining = shard.promote(&mut self.cx, *record, token_i);
            answer = shortest(answer, granted(token_i, remaining, 1), token);
        }
        if remembered {
            slot.settle(group.req, answer);
        }
        if let Outcome::Granted { token, remaining_ms, .. } = answer {
            self.cx.events.push(Event::Granted { session: group.session, req: group.req, token, remaining_ms });
        }
        for (home, entry, _) in places {
            self.shards.shard(home).pump(&mut self.cx, entry);
        }
    }

    fn end_group(&mut self, first: u64, why: WaitEnd) {
        let hub = self.hub();
        let Some(group) = hub.groups().remove(&first) else { return };
        let mut entries = Vec::with_capacity(group.keys.len());
        for (key, ticket) in group.keys.iter().zip(first..) {
            let (home, probe) = self.home(key);
            let shard = self.shards.shard(home);
            let Some(entry) = shard.find(&probe) else { continue };
            let mut record = shard.extra(entry).map_or(NONE, |x| x.first);
            while record != NONE && shard.records[record].id != ticket {
                record = shard.records[record].next();
            }
            if record != NONE {
                if shard.records[record].is(REMEMBERED)
                    && let Some(slot) = shard.slot_of(&self.cx, record)
                {
                    slot.settle(group.req, Outcome::WaitEnded(why));
                }
                shard.drop_wait(&self.cx, record);
                entries.push((home, entry));
            }
        }
        self.cx.events.push(Event::WaitEnded { session: group.session, req: group.req, why });
        for (home, entry) in entries {
            let shard = self.shards.shard(home);
            shard.pump(&mut self.cx, entry);
            shard.tidy(&self.cx, entry);
        }
    }

    // ---- time ----------------------------------------------------------------------------------

    /// Ends what has run out, in the order of deadlines, at most a slice of it. Whether there is more.
    pub(crate) fn expire(&mut self) -> bool {
        let now = self.cx.now();
        let hub = self.hub();
        let mut left = hub.params.slice.max(1);
        let mut heads = self.due_heads(now);
        while left > 0 {
            if std::mem::take(&mut self.cx.overdue) {
                heads = self.due_heads(now);
            }
            let (dying, session) = {
                let mut index = hub.sessions.index();
                (!index.dying.is_empty(), index.due(&hub.sessions, now))
            };
            if dying {
                self.bury(&mut left);
                continue;
            }
            match heads.peek() {
                Some(&Reverse((at, id, number))) if session.is_none_or(|(ends, _)| at < ends) => {
                    heads.pop();
                    // What was ended meanwhile may have taken this one along.
                    if self.shards.shard(number).due(&mut self.cx, now) == Some((at, id)) {
                        self.fire(number, now);
                        left -= 1;
                    }
                    heads.extend(self.due_head(number, now));
                }
                _ => {
                    let Some((_, id)) = session else { break };
                    if let Some(slot) = hub.sessions.find(id) {
                        hub.sessions.judge(slot, now);
                    }
                }
            }
        }
        self.cx.end_leases();
        self.note_nearest() <= now
    }

    fn fire(&mut self, number: usize, now: u64) {
        if let Some(first) = self.shards.shard(number).fire(&mut self.cx, now).and_then(|ticket| self.hub().group_of(ticket)) {
            self.end_group(first, WaitEnd::Timeout);
        }
        self.serve_groups();
    }

    fn due_head(&mut self, number: usize, now: u64) -> Option<Reverse<(u64, u64, usize)>> {
        self.shards.shard(number).due(&mut self.cx, now).map(|(at, id)| Reverse((at, id, number)))
    }

    fn due_heads(&mut self, now: u64) -> BinaryHeap<Reverse<(u64, u64, usize)>> {
        (0..self.shards.count()).filter_map(|number| self.due_head(number, now)).collect()
    }

    /// Clears away what dead sessions still have, each session's in the order of ids.
    pub(super) fn bury(&mut self, left: &mut u32) {
        while *left > 0 {
            let Some(Dying(session)) = self.hub().sessions.index().dying.front().copied() else { return };
            let Some(slot) = self.hub().sessions.find(session) else {
                self.hub().sessions.index().dying.pop_front();
                continue;
            };
            let mut heads: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
            for number in (0..self.shards.count()).filter(|n| slot.may_be_in(*n)) {
                heads.extend(self.head_of(session, number));
            }
            while *left > 0 {
                let Some(Reverse((id, number))) = heads.pop() else { break };
                match self.head_of(session, number) {
                    // The end of a group took this one along.
                    Some(head) if head.0.0 != id => heads.push(head),
                    None => {}
                    Some(_) => {
                        if let Some(first) =
                            self.shards.shard(number).bury_first(&mut self.cx, session).and_then(|t| self.hub().group_of(t))
                        {
                            self.end_group(first, end_reasons(slot.life()).1);
                        }
                        self.serve_groups();
                        *left -= 1;
                        heads.extend(self.head_of(session, number));
                    }
                }
            }
            if heads.is_empty() && *left > 0 {
                let (why, _) = end_reasons(slot.life());
                self.hub().sessions.clear(session);
                self.hub().sessions.index().dying.pop_front();
                self.cx.events.push(Event::SessionEnded { session, why });
                *left -= 1;
            }
        }
    }

    fn head_of(&mut self, session: SessionId, number: usize) -> Option<Reverse<(u64, usize)>> {
        let shard = self.shards.shard(number);
        shard.first_of(session).map(|r| Reverse((shard.records[r].id, number)))
    }

    /// Recomputes the nearest deadline: a lower bound, 0 while something is left to clear away.
    pub(crate) fn note_nearest(&mut self) -> u64 {
        let mut nearest = NEVER;
        for number in 0..self.shards.count() {
            let shard = self.shards.shard(number);
            shard.prune();
            nearest = nearest.min(shard.nearest().unwrap_or(NEVER));
        }
        // Sessions open without the shards' locks, so both happen under the index's.
        nearest = nearest.min(self.hub().orch().nearest().unwrap_or(NEVER));
        let index = self.hub().sessions.index();
        nearest = nearest.min(index.nearest().unwrap_or(NEVER));
        self.hub().set_nearest(nearest);
        nearest
    }
}

/// The answer of a grant of several: the first token, the shortest time.
fn shortest(a: Outcome, b: Outcome, first: u64) -> Outcome {
    match (a, b) {
        (Outcome::Granted { remaining_ms: x, .. }, Outcome::Granted { remaining_ms: y, .. }) => {
            granted(first, if x == 0 { y } else { x.min(y) }, 1)
        }
        (a, _) => a,
    }
}
