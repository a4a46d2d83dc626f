//! What each verb does to the naive ledger.

use std::collections::BTreeMap;

use tenure::base::{Key, SessionId, Token};
use tenure::ledger::{Event, Fault, LimitKind, LossReason, Mode, Obstacle, Op, Outcome, Refusal, Request, Spec, Wait, WaitEnd};

use super::{Hold, Lock, Model, Place, Session};

impl Model {
    pub(super) fn judge(&mut self, r: &Request) -> Outcome {
        match &r.op {
            Op::Tick => return Outcome::Ticked,
            Op::OpenSession { nonce, name, ttl_ms } => return self.open(*nonce, name, *ttl_ms),
            Op::ForceRelease { key, token, delay_ms } => return self.force(key, *token, *delay_ms),
            Op::Revoke { key, token, why, force_after_ms } => return self.revoke(r.session.0, key, *token, why, *force_after_ms),
            Op::TakeOver { old, nonce, name, ttl_ms, keep } => return self.take_over(*old, *nonce, name, *ttl_ms, *keep),
            _ => {}
        }
        let id = r.session.0;
        if !self.alive(id) {
            return Outcome::Refused(Refusal::NoSession);
        }
        if r.seq == 0 {
            return self.of_session(id, &r.op, false);
        }
        let s = &self.sessions[&id];
        if let Some((_, known)) = s.answers.get(&r.seq) {
            return *known;
        }
        if r.seq <= s.floor {
            return Outcome::Refused(Refusal::Forgotten);
        }
        let outcome = self.of_session(id, &r.op, true);
        let req = if let Op::Acquire { req, .. } | Op::AcquireAll { req, .. } = &r.op { *req } else { 0 };
        let window = self.params.window as usize;
        if let Some(s) = self.sessions.get_mut(&id) {
            s.answers.insert(r.seq, (req, outcome));
            if s.answers.len() > window {
                s.floor = s.floor.max(s.answers.pop_first().unwrap().0);
            }
        }
        outcome
    }

    fn open(&mut self, nonce: u128, name: &str, ttl: u32) -> Outcome {
        if name.is_empty() || name.len() > 64 {
            return Outcome::Refused(Refusal::Invalid(Fault::Name));
        }
        if ttl < self.params.min_ttl_ms || ttl > self.params.max_ttl_ms {
            return Outcome::Refused(Refusal::Invalid(Fault::Ttl));
        }
        if let Some((id, _)) = self.sessions.iter().find(|(_, s)| s.nonce == nonce) {
            return Outcome::Session { id: SessionId(*id), remaining_ms: self.session_ends(*id) - self.now - 1 };
        }
        if self.sessions.len() as u64 >= self.params.max_sessions {
            return Outcome::Refused(Refusal::Limit { kind: LimitKind::Sessions, max: self.params.max_sessions });
        }
        self.serial += 1;
        let slot = (0..).find(|n| self.sessions.keys().all(|id| id & 0xff_ffff != *n)).unwrap();
        let id = self.serial << 24 | slot;
        let session = Session {
            nonce,
            name: name.to_owned(),
            ttl: u64::from(ttl),
            renewed: self.now,
            ended: None,
            floor: 0,
            answers: BTreeMap::new(),
            cancelled: Vec::new(),
        };
        self.sessions.insert(id, session);
        Outcome::Session { id: SessionId(id), remaining_ms: u64::from(ttl) }
    }

    fn force(&mut self, key: &Key, token: Option<Token>, delay: Option<u32>) -> Outcome {
        if delay.is_some_and(|d| d > self.params.max_ttl_ms) {
            return Outcome::Refused(Refusal::Invalid(Fault::LockDelay));
        }
        let Some(lock) = self.locks.get(key) else { return Outcome::ReleasedMany { count: 0 } };
        let ids: Vec<u64> = lock.holds.iter().map(|h| h.id).filter(|id| token.is_none_or(|t| t.0 == *id)).collect();
        for id in &ids {
            self.lose(key, *id, self.now, LossReason::Forced, delay);
        }
        self.pump(key);
        Outcome::ReleasedMany { count: ids.len() as u64 }
    }

    fn revoke(&mut self, by: u64, key: &Key, token: Option<Token>, why: &str, force_after: Option<u32>) -> Outcome {
        let by = if self.alive(by) { self.sessions[&by].name.clone() } else { String::new() };
        if why.len() > 256 {
            return Outcome::Refused(Refusal::Invalid(Fault::Why));
        }
        if force_after.is_some_and(|ms| ms > self.params.max_ttl_ms) {
            return Outcome::Refused(Refusal::Invalid(Fault::ForceAfter));
        }
        let now = self.now;
        let Some(lock) = self.locks.get_mut(key) else { return Outcome::Revoking { count: 0 } };
        let mut count = 0;
        for h in lock.holds.iter_mut().filter(|h| token.is_none_or(|t| t.0 == h.id)) {
            count += 1;
            let at = force_after.map(|ms| now + u64::from(ms) + 1);
            h.revoke_at = h.revoke_at.into_iter().chain(at).min();
            self.events.push(Event::RevokeRequested {
                session: SessionId(h.session),
                key: key.clone(),
                token: Token(h.id),
                by: by.clone(),
                why: why.to_owned(),
                force_after_ms: h.revoke_at.map(|at| at - now - 1),
            });
        }
        Outcome::Revoking { count }
    }

    fn take_over(&mut self, old: u128, nonce: u128, name: &str, ttl: u32, keep: bool) -> Outcome {
        if old == nonce {
            return Outcome::Refused(Refusal::Invalid(Fault::Nonce));
        }
        let there = self.sessions.values().any(|s| s.nonce == nonce);
        let bad = name.is_empty() || name.len() > 64 || ttl < self.params.min_ttl_ms || ttl > self.params.max_ttl_ms;
        if there || bad {
            return self.open(nonce, name, ttl);
        }
        let Some(before) = self.sessions.iter().find(|(_, s)| s.nonce == old).map(|(id, _)| *id) else {
            return Outcome::Refused(Refusal::NoSession);
        };
        let outcome = self.open(nonce, name, ttl);
        let Outcome::Session { id, remaining_ms } = outcome else { return outcome };
        let mut held: Vec<(u64, Key)> = Vec::new();
        for (key, lock) in self.locks.iter().filter(|_| keep) {
            held.extend(lock.holds.iter().filter(|h| h.session == before).map(|h| (h.id, key.clone())));
        }
        held.sort();
        for (token, key) in held {
            self.counter += 1;
            let lock = self.locks.get_mut(&key).unwrap();
            let at = lock.holds.iter().position(|h| h.id == token).unwrap();
            let spec = lock.holds.remove(at).spec;
            let hold = Hold { id: self.counter, session: id.0, at: self.now, since: self.now, req: 0, depth: 1, spec, revoke_at: None };
            lock.holds.push(hold);
            self.events.push(Event::Lost { session: SessionId(before), key, token: Token(token), why: LossReason::Superseded });
        }
        let upto = Token(self.counter);
        self.sessions.get_mut(&before).unwrap().ended = Some((self.now, LossReason::Superseded));
        self.dying.push(before);
        self.bury_dying();
        Outcome::TakenOver { id, remaining_ms, upto }
    }

    fn of_session(&mut self, id: u64, op: &Op, seq: bool) -> Outcome {
        match op {
            Op::RenewSession => {
                let now = self.now;
                let s = self.sessions.get_mut(&id).unwrap();
                s.renewed = now;
                Outcome::Renewed { remaining_ms: s.ttl, clock_ms: now }
            }
            Op::CloseSession => {
                self.sessions.get_mut(&id).unwrap().ended = Some((0, LossReason::Closed));
                self.dying.push(id);
                self.bury_dying();
                Outcome::Closed
            }
            Op::Acquire { key, spec, wait_ms, req } => self.acquire(id, std::slice::from_ref(key), spec, *wait_ms, *req, seq, false),
            Op::AcquireAll { keys, spec, wait_ms, req } => self.acquire(id, keys, spec, *wait_ms, *req, seq, true),
            Op::Cancel { keys, req } => self.cancel(id, keys, *req),
            Op::Release { key, token } => self.release(id, key, *token),
            Op::ReleaseAll => {
                let mut held: Vec<(u64, Key)> = Vec::new();
                for (key, lock) in &self.locks {
                    held.extend(lock.holds.iter().filter(|h| h.session == id).map(|h| (h.id, key.clone())));
                }
                held.sort();
                for (token, key) in &held {
                    self.locks.get_mut(key).unwrap().holds.retain(|h| h.id != *token);
                    self.pump(key);
                }
                Outcome::ReleasedMany { count: held.len() as u64 }
            }
            Op::Renew { key, token, ttl_ms } => {
                if *ttl_ms < self.params.min_ttl_ms || *ttl_ms > self.params.max_ttl_ms {
                    return Outcome::Refused(Refusal::Invalid(Fault::Ttl));
                }
                let now = self.now;
                let Some(lock) = self.locks.get_mut(key) else { return Outcome::NotHolder { current: Token(0) } };
                let current = Token(lock.holds.first().map_or(0, |h| h.id));
                let Some(h) = lock.holds.iter_mut().find(|h| h.id == token.0 && h.session == id) else {
                    return Outcome::NotHolder { current };
                };
                (h.spec.ttl_ms, h.since) = (*ttl_ms, now);
                let h = h.clone();
                Outcome::Renewed { remaining_ms: self.remaining(&h), clock_ms: now }
            }
            Op::Annotate { key, token, metadata } => {
                if metadata.len() > self.params.max_metadata as usize {
                    let max = u64::from(self.params.max_metadata);
                    return Outcome::Refused(Refusal::Limit { kind: LimitKind::MetadataBytes, max });
                }
                let Some(lock) = self.locks.get_mut(key) else { return Outcome::NotHolder { current: Token(0) } };
                let current = Token(lock.holds.first().map_or(0, |h| h.id));
                match lock.holds.iter_mut().find(|h| h.id == token.0 && h.session == id) {
                    Some(h) => {
                        h.spec.metadata.clone_from(metadata);
                        Outcome::Annotated
                    }
                    None => Outcome::NotHolder { current },
                }
            }
            Op::HandOver { key, token, to } => self.hand_over(id, key, *token, to),
            Op::Orch(_) => unreachable!("the model of locks is given none"),
            Op::OpenSession { .. } | Op::TakeOver { .. } | Op::ForceRelease { .. } | Op::Revoke { .. } | Op::Tick | Op::Promise(_) => {
                unreachable!()
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn acquire(&mut self, id: u64, keys: &[Key], spec: &Spec, wait: Wait, req: u64, seq: bool, all: bool) -> Outcome {
        let (p, now) = (self.params, self.now);
        let refuse = Outcome::Refused;
        if spec.ttl_ms < p.min_ttl_ms || spec.ttl_ms > p.max_ttl_ms {
            return refuse(Refusal::Invalid(Fault::Ttl));
        }
        if spec.lock_delay_ms > p.max_ttl_ms {
            return refuse(Refusal::Invalid(Fault::LockDelay));
        }
        if matches!(spec.mode, Mode::Permits { count, limit } if count == 0 || count > limit) {
            return refuse(Refusal::Invalid(Fault::Permits));
        }
        if spec.reentrant && (keys.len() != 1 || spec.mode != Mode::Exclusive) {
            return refuse(Refusal::Invalid(Fault::Reentrant));
        }
        if spec.metadata.len() > p.max_metadata as usize {
            return refuse(Refusal::Limit { kind: LimitKind::MetadataBytes, max: u64::from(p.max_metadata) });
        }
        if keys.is_empty() || (1..keys.len()).any(|i| keys[..i].contains(&keys[i])) {
            return refuse(Refusal::Invalid(Fault::Keys));
        }
        if keys.len() > p.max_keys as usize {
            return refuse(Refusal::Limit { kind: LimitKind::KeysPerRequest, max: u64::from(p.max_keys) });
        }
        if self.sessions[&id].cancelled.contains(&req) {
            return refuse(Refusal::Cancelled);
        }
        if self.locks_in_use() + keys.len() as u64 > p.max_locks {
            return refuse(Refusal::Limit { kind: LimitKind::Locks, max: p.max_locks });
        }
        let wait = wait.filter(|ms| *ms > 0);
        let mut blocked = None;
        for key in keys {
            let Some(lock) = self.locks.get(key) else { continue };
            let limits = lock.holds.iter().map(|h| h.spec.mode).chain(lock.queue.iter().map(|p| p.spec.mode));
            let limit = limits.filter_map(|m| if let Mode::Permits { limit, .. } = m { Some(limit) } else { None }).next();
            if let (Mode::Permits { limit: mine, .. }, Some(theirs)) = (spec.mode, limit)
                && mine != theirs
            {
                return refuse(Refusal::Invalid(Fault::PermitLimit));
            }
            if !all && spec.reentrant {
                let first = lock.holds.first().filter(|h| h.session == id && h.spec.reentrant && h.spec.mode == Mode::Exclusive);
                if first.is_some() {
                    let h = &mut self.locks.get_mut(key).unwrap().holds[0];
                    (h.depth, h.req) = (h.depth + 1, req);
                    let h = h.clone();
                    return Outcome::Granted { token: Token(h.id), remaining_ms: self.remaining(&h), depth: h.depth };
                }
            }
            let free = lock.queue.is_empty() && lock.delay.is_none() && Self::fits(lock, spec);
            let full = lock.queue.len() >= p.max_waiters_per_key as usize;
            if wait.is_some() && full && (all || !free) {
                return refuse(Refusal::Limit { kind: LimitKind::WaitersPerKey, max: u64::from(p.max_waiters_per_key) });
            }
            if blocked.is_none() && !free {
                blocked = Some((self.obstacle(lock), lock.queue.len() as u32));
            }
        }
        match (blocked, wait) {
            (Some((obstacle, _)), None) => Outcome::Held(obstacle),
            (None, _) => {
                let first = self.counter + 1;
                let mut left = Vec::new();
                for key in keys {
                    self.counter += 1;
                    let hold =
                        Hold { id: self.counter, session: id, at: now, since: now, req, depth: 1, spec: spec.clone(), revoke_at: None };
                    left.push(self.remaining(&hold));
                    self.locks.entry(key.clone()).or_default().holds.push(hold);
                }
                Outcome::Granted { token: Token(first), remaining_ms: left.into_iter().min().unwrap(), depth: 1 }
            }
            (Some((_, position)), Some(wait)) => {
                let first = self.counter + 1;
                for key in keys {
                    self.counter += 1;
                    let group = all.then_some(first);
                    let until = now.saturating_add(wait);
                    let place = Place { id: self.counter, session: id, at: now, until, req, seq, group, spec: spec.clone() };
                    self.locks.entry(key.clone()).or_default().queue.push(place);
                }
                if all {
                    self.groups.insert(first, (id, req, keys.to_vec()));
                }
                Outcome::Queued { position }
            }
        }
    }

    fn obstacle(&self, lock: &Lock) -> Obstacle {
        let delay_ms = lock.delay.map_or(0, |d| d.0.saturating_sub(self.now));
        match lock.holds.first() {
            None => Obstacle { delay_ms, ..Obstacle::default() },
            Some(h) => Obstacle { token: Token(h.id), session: SessionId(h.session), remaining_ms: self.remaining(h), delay_ms },
        }
    }

    fn cancel(&mut self, id: u64, keys: &[Key], req: u64) -> Outcome {
        let (mut found, mut was_granted) = (false, false);
        for key in keys {
            let Some(lock) = self.locks.get_mut(key) else { continue };
            if let Some(at) = lock.holds.iter().position(|h| h.session == id && h.req == req) {
                (found, was_granted) = (true, true);
                if lock.holds[at].depth > 1 {
                    lock.holds[at].depth -= 1;
                } else {
                    lock.holds.remove(at);
                    self.pump(key);
                }
            } else if let Some(place) = lock.queue.iter().find(|p| p.session == id && p.req == req).cloned() {
                found = true;
                match place.group {
                    Some(first) => self.end_group(first, WaitEnd::Cancelled),
                    None => {
                        self.end_wait(key, place.id, WaitEnd::Cancelled);
                        self.pump(key);
                    }
                }
            }
        }
        let s = self.sessions.get_mut(&id).unwrap();
        if !found && !s.cancelled.contains(&req) {
            s.cancelled.push(req);
            if s.cancelled.len() > 64 {
                s.cancelled.remove(0);
            }
        }
        Outcome::Cancelled { was_granted }
    }

    fn release(&mut self, id: u64, key: &Key, token: Token) -> Outcome {
        let Some(lock) = self.locks.get_mut(key) else { return Outcome::NotHolder { current: Token(0) } };
        let current = Token(lock.holds.first().map_or(0, |h| h.id));
        let Some(at) = lock.holds.iter().position(|h| h.id == token.0 && h.session == id) else {
            return Outcome::NotHolder { current };
        };
        if lock.holds[at].depth > 1 {
            lock.holds[at].depth -= 1;
            return Outcome::Released { left: lock.holds[at].depth };
        }
        lock.holds.remove(at);
        self.pump(key);
        Outcome::Released { left: 0 }
    }

    fn hand_over(&mut self, id: u64, key: &Key, token: Token, to: &str) -> Outcome {
        let Some(lock) = self.locks.get(key) else { return Outcome::NotHolder { current: Token(0) } };
        let Some(hold) = lock.holds.iter().find(|h| h.id == token.0 && h.session == id) else {
            return Outcome::NotHolder { current: Token(lock.holds.first().map_or(0, |h| h.id)) };
        };
        if hold.spec.mode != Mode::Exclusive {
            return Outcome::Refused(Refusal::Invalid(Fault::Exclusive));
        }
        let queue = lock.queue.clone();
        let now = self.now;
        let waits = |p: &Place| p.group.is_none() && p.until > now && self.alive(p.session) && self.sessions[&p.session].name == to;
        let Some(place) = queue.into_iter().find(waits) else { return Outcome::NoSuccessor };
        self.locks.get_mut(key).unwrap().holds.clear();
        self.serve(key, &place);
        self.pump(key);
        Outcome::Released { left: 0 }
    }
}
