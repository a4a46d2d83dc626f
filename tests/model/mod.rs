//! A naive ledger: lists that are searched from end to end, no shards, no timers, no laziness. It says what the real one must
//! answer, operation by operation.

mod verbs;

use std::collections::{BTreeMap, BTreeSet};

use tenure::base::{Key, SessionId, Token};
use tenure::ledger::{
    Event, Holder, LockInfo, LossReason, Mode, Outcome, Params, Renew, Request, SessionInfo, Spec, Stamp, WaitEnd, Waiter,
};

#[derive(Clone, Debug)]
struct Session {
    nonce: u128,
    name: String,
    ttl: u64,
    renewed: u64,
    /// When and why it ended; only while its things are being cleared away.
    ended: Option<(u64, LossReason)>,
    floor: u64,
    answers: BTreeMap<u64, (u64, Outcome)>,
    cancelled: Vec<u64>,
}

#[derive(Clone, Debug)]
struct Hold {
    id: u64,
    session: u64,
    at: u64,
    since: u64,
    req: u64,
    depth: u32,
    spec: Spec,
    revoke_at: Option<u64>,
}

#[derive(Clone, Debug)]
struct Place {
    id: u64,
    session: u64,
    at: u64,
    until: u64,
    req: u64,
    seq: bool,
    group: Option<u64>,
    spec: Spec,
}

#[derive(Clone, Debug, Default)]
struct Lock {
    holds: Vec<Hold>,
    queue: Vec<Place>,
    delay: Option<(u64, u64)>,
}

#[derive(Clone, Debug)]
pub struct Model {
    params: Params,
    pub now: u64,
    clock: (u64, u64, u64),
    pub counter: u64,
    serial: u64,
    sessions: BTreeMap<u64, Session>,
    locks: BTreeMap<Key, Lock>,
    groups: BTreeMap<u64, (u64, u64, Vec<Key>)>,
    ready: BTreeSet<u64>,
    dying: Vec<u64>,
    events: Vec<Event>,
}

enum Due {
    Session(u64),
    Hold(Key, u64),
    Place(Key, u64),
    Delay(Key),
}

impl Model {
    pub fn new(params: Params) -> Model {
        Model {
            params,
            now: 0,
            clock: (0, 0, 0),
            counter: 0,
            serial: 0,
            sessions: BTreeMap::new(),
            locks: BTreeMap::new(),
            groups: BTreeMap::new(),
            ready: BTreeSet::new(),
            dying: Vec::new(),
            events: Vec::new(),
        }
    }

    pub fn apply(&mut self, log_term: u64, stamp: &Stamp, ops: &[Request]) -> (Vec<Outcome>, Vec<Event>) {
        if stamp.term == log_term {
            let (term, boot, last) = self.clock;
            if (term, boot) == (stamp.term, stamp.boot) {
                self.now += stamp.ticks_ms.saturating_sub(last).min(self.params.max_step_ms);
                self.clock.2 = last.max(stamp.ticks_ms);
            } else {
                self.clock = (stamp.term, stamp.boot, stamp.ticks_ms);
            }
        }
        self.expire();
        let outcomes = ops.iter().map(|r| self.execute(r)).collect();
        (outcomes, std::mem::take(&mut self.events))
    }

    pub fn pass(&mut self, ms: u64) -> Vec<Event> {
        self.now += ms;
        self.expire();
        std::mem::take(&mut self.events)
    }

    // ---- time ----------------------------------------------------------------------------------

    fn session_ends(&self, id: u64) -> u64 {
        let s = &self.sessions[&id];
        s.renewed + s.ttl + 1
    }

    fn ends(&self, h: &Hold) -> (u64, LossReason) {
        let s = &self.sessions[&h.session];
        let from = if h.spec.renew == Renew::Manual { h.since } else { h.since.max(s.renewed) };
        let own = from + u64::from(h.spec.ttl_ms) + 1;
        let ends = if own < self.session_ends(h.session) {
            (own, LossReason::Expired)
        } else {
            (self.session_ends(h.session), LossReason::SessionExpired)
        };
        match h.revoke_at {
            Some(at) if at < ends.0 => (at, LossReason::Revoked),
            _ => ends,
        }
    }

    fn remaining(&self, h: &Hold) -> u64 {
        self.ends(h).0.saturating_sub(self.now + 1)
    }

    fn next_due(&self) -> Option<(u64, u8, u64, Due)> {
        let mut all = Vec::new();
        for (id, _) in self.sessions.iter().filter(|s| s.1.ended.is_none()) {
            all.push((self.session_ends(*id), 0, *id, Due::Session(*id)));
        }
        for (key, lock) in &self.locks {
            for h in &lock.holds {
                all.push((self.ends(h).0, 1, h.id, Due::Hold(key.clone(), h.id)));
            }
            for p in &lock.queue {
                all.push((p.until, 1, p.id, Due::Place(key.clone(), p.id)));
            }
            if let Some((until, id)) = lock.delay {
                all.push((until, 1, id, Due::Delay(key.clone())));
            }
        }
        all.into_iter().filter(|d| d.0 <= self.now).min_by_key(|d| (d.0, d.1, d.2))
    }

    fn expire(&mut self) {
        loop {
            self.bury_dying();
            let Some((_, _, _, due)) = self.next_due() else { return };
            match due {
                Due::Session(id) => assert!(!self.alive(id)),
                Due::Hold(key, id) => {
                    let (at, why) = self.ends(self.locks[&key].holds.iter().find(|h| h.id == id).unwrap());
                    self.lose(&key, id, at, why, None);
                    self.pump(&key);
                }
                Due::Place(key, id) => {
                    let place = self.locks[&key].queue.iter().find(|p| p.id == id).unwrap().clone();
                    match place.group {
                        Some(first) => self.end_group(first, WaitEnd::Timeout),
                        None => {
                            self.end_wait(&key, id, WaitEnd::Timeout);
                            self.pump(&key);
                        }
                    }
                }
                Due::Delay(key) => {
                    self.locks.get_mut(&key).unwrap().delay = None;
                    self.pump(&key);
                }
            }
            self.serve_groups();
            self.tidy();
        }
    }

    fn bury_dying(&mut self) {
        while !self.dying.is_empty() {
            let id = self.dying.remove(0);
            let (at, why) = self.sessions[&id].ended.unwrap();
            self.bury(id, at, why);
        }
    }

    fn bury(&mut self, id: u64, at: u64, why: LossReason) {
        let wait_end = if why == LossReason::Closed { WaitEnd::SessionClosed } else { WaitEnd::SessionExpired };
        loop {
            let mut things: Vec<(u64, Key, Option<Option<u64>>)> = Vec::new();
            for (key, lock) in &self.locks {
                things.extend(lock.holds.iter().filter(|h| h.session == id).map(|h| (h.id, key.clone(), None)));
                things.extend(lock.queue.iter().filter(|p| p.session == id).map(|p| (p.id, key.clone(), Some(p.group))));
            }
            let Some((thing, key, place)) = things.into_iter().min_by_key(|t| t.0) else { break };
            match place {
                None => {
                    self.lose(&key, thing, at, why, None);
                    self.pump(&key);
                }
                Some(None) => {
                    self.end_wait(&key, thing, wait_end);
                    self.pump(&key);
                }
                Some(Some(first)) => self.end_group(first, wait_end),
            }
            self.serve_groups();
        }
        self.sessions.remove(&id);
        self.events.push(Event::SessionEnded { session: SessionId(id), why });
        self.tidy();
    }

    /// A session whose time has come ends when it is looked at.
    fn alive(&mut self, id: u64) -> bool {
        let Some(s) = self.sessions.get_mut(&id) else { return false };
        let ends = s.renewed + s.ttl + 1;
        if s.ended.is_none() && ends <= self.now {
            s.ended = Some((ends, LossReason::SessionExpired));
            self.dying.push(id);
        }
        s.ended.is_none()
    }

    // ---- changes -------------------------------------------------------------------------------

    fn lose(&mut self, key: &Key, id: u64, at: u64, why: LossReason, delay: Option<u32>) {
        let lock = self.locks.get_mut(key).unwrap();
        let at_index = lock.holds.iter().position(|h| h.id == id).unwrap();
        let hold = lock.holds.remove(at_index);
        if why == LossReason::Closed {
            return;
        }
        let delay = u64::from(delay.unwrap_or(hold.spec.lock_delay_ms));
        if delay > 0 && at + delay > lock.delay.map_or(0, |d| d.0) {
            lock.delay = Some((at + delay, id));
        }
        self.events.push(Event::Lost { session: SessionId(hold.session), key: key.clone(), token: Token(id), why });
    }

    fn settle(&mut self, session: u64, req: u64, outcome: Outcome) {
        for answer in self.sessions.get_mut(&session).unwrap().answers.values_mut() {
            if answer.0 == req && matches!(answer.1, Outcome::Queued { .. }) {
                answer.1 = outcome;
            }
        }
    }

    fn end_wait(&mut self, key: &Key, id: u64, why: WaitEnd) {
        let lock = self.locks.get_mut(key).unwrap();
        let at = lock.queue.iter().position(|p| p.id == id).unwrap();
        let place = lock.queue.remove(at);
        if place.seq {
            self.settle(place.session, place.req, Outcome::WaitEnded(why));
        }
        self.events.push(Event::WaitEnded { session: SessionId(place.session), req: place.req, why });
    }

    fn end_group(&mut self, first: u64, why: WaitEnd) {
        let Some((session, req, keys)) = self.groups.remove(&first) else { return };
        let mut touched = Vec::new();
        for key in &keys {
            let lock = self.locks.get_mut(key).unwrap();
            let at = lock.queue.iter().position(|p| p.group == Some(first)).unwrap();
            if lock.queue.remove(at).seq {
                self.settle(session, req, Outcome::WaitEnded(why));
            }
            touched.push(key);
        }
        self.events.push(Event::WaitEnded { session: SessionId(session), req, why });
        for key in touched {
            self.pump(key);
        }
    }

    fn fits(lock: &Lock, spec: &Spec) -> bool {
        let used: u64 = lock.holds.iter().map(|h| if let Mode::Permits { count, .. } = h.spec.mode { u64::from(count) } else { 0 }).sum();
        match (lock.holds.first().map(|h| h.spec.mode), spec.mode) {
            (None, _) | (Some(Mode::Shared), Mode::Shared) => true,
            (Some(Mode::Permits { .. }), Mode::Permits { count, limit }) => used + u64::from(count) <= u64::from(limit),
            _ => false,
        }
    }

    fn pump(&mut self, key: &Key) {
        loop {
            let Some(place) = self.locks.get(key).and_then(|l| l.queue.first()).cloned() else { return };
            let (alive, over) = (self.alive(place.session), place.until <= self.now);
            let lock = &self.locks[key];
            let free = lock.delay.is_none_or(|d| d.0 <= self.now) && Self::fits(lock, &place.spec);
            if let Some(first) = place.group {
                if !alive || over || free {
                    self.ready.insert(first);
                }
                return;
            }
            if !alive {
                self.end_wait(key, place.id, self.wait_end(place.session));
            } else if over {
                self.end_wait(key, place.id, WaitEnd::Timeout);
            } else if free {
                self.serve(key, &place);
            } else {
                return;
            }
        }
    }

    fn serve(&mut self, key: &Key, place: &Place) {
        self.counter += 1;
        let at = self.locks[key].queue.iter().position(|p| p.id == place.id).unwrap();
        let remaining_ms = self.promote(key, at, self.counter);
        let token = Token(self.counter);
        if place.seq {
            self.settle(place.session, place.req, Outcome::Granted { token, remaining_ms, depth: 1 });
        }
        self.events.push(Event::Granted { session: SessionId(place.session), req: place.req, token, remaining_ms });
    }

    fn wait_end(&self, session: u64) -> WaitEnd {
        match self.sessions[&session].ended {
            Some((_, LossReason::Closed)) => WaitEnd::SessionClosed,
            _ => WaitEnd::SessionExpired,
        }
    }

    fn promote(&mut self, key: &Key, at: usize, token: u64) -> u64 {
        let now = self.now;
        let lock = self.locks.get_mut(key).unwrap();
        let p = lock.queue.remove(at);
        let hold = Hold { id: token, session: p.session, at: now, since: now, req: p.req, depth: 1, spec: p.spec, revoke_at: None };
        lock.holds.push(hold.clone());
        self.remaining(&hold)
    }

    fn serve_groups(&mut self) {
        while let Some(first) = self.ready.pop_first() {
            let Some((session, req, keys)) = self.groups.get(&first).cloned() else { continue };
            let until = self.locks[&keys[0]].queue.iter().find(|p| p.group == Some(first)).unwrap().until;
            if !self.alive(session) {
                self.end_group(first, self.wait_end(session));
                continue;
            }
            let at_head = |k: &&Key| self.locks[*k].queue[0].group == Some(first);
            if keys.iter().find(at_head).is_some() && until <= self.now && keys.first().filter(at_head).is_some() {
                self.end_group(first, WaitEnd::Timeout);
                continue;
            }
            let free = |k: &Key| {
                let lock = &self.locks[k];
                let head = &lock.queue[0];
                head.group == Some(first) && lock.delay.is_none_or(|d| d.0 <= self.now) && Self::fits(lock, &head.spec)
            };
            if !keys.iter().all(free) {
                continue;
            }
            self.groups.remove(&first);
            let token = self.counter + 1;
            self.counter += keys.len() as u64;
            let seq = self.locks[&keys[0]].queue[0].seq;
            let left: Vec<u64> = keys.iter().zip(token..).map(|(k, t)| self.promote(k, 0, t)).collect();
            let remaining_ms = left.into_iter().min().unwrap();
            if seq {
                self.settle(session, req, Outcome::Granted { token: Token(token), remaining_ms, depth: 1 });
            }
            self.events.push(Event::Granted { session: SessionId(session), req, token: Token(token), remaining_ms });
            for key in &keys {
                self.pump(key);
            }
        }
    }

    fn tidy(&mut self) {
        self.locks.retain(|_, l| !l.holds.is_empty() || !l.queue.is_empty() || l.delay.is_some());
    }

    pub fn execute(&mut self, r: &Request) -> Outcome {
        let outcome = self.judge(r);
        self.serve_groups();
        self.tidy();
        outcome
    }

    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    pub fn locks_in_use(&self) -> u64 {
        self.locks.values().map(|l| (l.holds.len() + l.queue.len()) as u64).sum()
    }

    pub fn infos(&self) -> Vec<LockInfo> {
        let info = |(key, lock): (&Key, &Lock)| LockInfo {
            key: key.clone(),
            holders: lock
                .holds
                .iter()
                .map(|h| Holder {
                    session: SessionId(h.session),
                    name: self.sessions[&h.session].name.clone(),
                    token: Token(h.id),
                    mode: h.spec.mode,
                    remaining_ms: self.remaining(h),
                    held_ms: self.now - h.at,
                    depth: h.depth,
                    metadata: h.spec.metadata.clone(),
                })
                .collect(),
            waiters: lock
                .queue
                .iter()
                .map(|p| Waiter {
                    session: SessionId(p.session),
                    name: self.sessions[&p.session].name.clone(),
                    req: p.req,
                    mode: p.spec.mode,
                    waited_ms: self.now - p.at,
                    metadata: p.spec.metadata.clone(),
                })
                .collect(),
            delay_ms: lock.delay.map_or(0, |d| d.0 - self.now),
        };
        self.locks.iter().map(info).collect()
    }

    pub fn session_infos(&self) -> Vec<SessionInfo> {
        let info = |(id, s): (&u64, &Session)| SessionInfo {
            id: SessionId(*id),
            name: s.name.clone(),
            ttl_ms: s.ttl as u32,
            remaining_ms: self.session_ends(*id) - self.now - 1,
        };
        self.sessions.iter().map(info).collect()
    }
}
