//! How a key goes on: which call comes next, what its answer means, and what time alone brings about.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::time::Duration;

use super::desk::{Answer, Ask, Call, Desk, HIGHEST_MAX, Held, InFlight, NS_PER_MS, Out, Renewed, Timer, Verb, What, left_ns};
use crate::base::{Error, Key, Moment, Result, SessionId, Status, Token};
use crate::ledger::{Event, LossReason, Obstacle, Outcome, WaitEnd};
use crate::plug::Attempt;

/// The longest that a thread waits inside the service for one request; then it asks again.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The shortest time after which a renewal that failed is tried again.
const RETRY_MIN_NS: u64 = 10 * NS_PER_MS;
const TOKEN_MAX: u64 = (1 << 63) - 1;

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Desk {
    /// Begins the next call for the key, if none is under way, and answers whom the present state answers.
    pub(super) fn pump(&mut self, key: &Key, now: Moment, out: &mut Out) {
        self.next_call(key, now, out);
        self.arm(key, out);
        self.tidy(key);
    }

    fn next_call(&mut self, key: &Key, now: Moment, out: &mut Out) {
        let (caps, limit) = (self.terms.caps, self.terms.limit);
        let Some(entry) = self.entries.get_mut(key) else { return };
        if let Some(held) = &entry.held {
            let obstacle = Obstacle { token: held.token, session: held.session, remaining_ms: held.left_ns(now) / NS_PER_MS, delay_ms: 0 };
            let queue = std::mem::take(&mut entry.queue);
            for ask in queue {
                match ask.until_ns {
                    Some(_) => entry.queue.push_back(ask),
                    None => out.answer(ask.done, Outcome::Held(obstacle)),
                }
            }
        }
        if entry.busy.is_some() {
            return;
        }
        if let Some((token, done)) = entry.releases.pop_front() {
            let verb = Verb::Release { token };
            return self.begin(key, What::Release { done }, verb, limit, now, out);
        }
        let Some(held) = &entry.held else {
            // Of a grant that is gone meanwhile.
            entry.renewals.drain(..).for_each(|asked| out.answer(asked.done, Outcome::NotHolder { current: Token(0) }));
            return self.attempt(key, now, out);
        };
        let (service_token, current) = (held.service_token, held.token);
        for asked in std::mem::take(&mut entry.renewals) {
            match asked.token == current {
                true => entry.renewals.push_back(asked),
                false => out.answer(asked.done, Outcome::NotHolder { current }),
            }
        }
        let (token, ttl_ms, done) = match entry.renewals.pop_front() {
            Some(asked) => (asked.token, asked.ttl_ms, Some(asked.done)),
            None if held.auto && caps.renew && now.boottime_ns >= held.renew_ns => (held.token, held.ttl_ms, None),
            None => return,
        };
        let ttl = Duration::from_millis(u64::from(ttl_ms));
        // What is not answered in a third of the ttl leaves another third for another attempt.
        let limit = limit.min(ttl / 3);
        let verb = Verb::Renew { token: service_token, ttl: caps.ttl(ttl) };
        self.begin(key, What::Renew { token, ttl_ms, done }, verb, limit, now, out);
    }

    /// The key is not held: its first asker's turn.
    fn attempt(&mut self, key: &Key, now: Moment, out: &mut Out) {
        let (caps, limit) = (self.terms.caps, self.terms.limit);
        let Some(entry) = self.entries.get(key) else { return };
        let Some(ask) = entry.queue.front() else { return };
        let ttl = caps.ttl(Duration::from_millis(u64::from(ask.ttl_ms)));
        let what = What::Acquire { session: ask.session, req: ask.req, waits: false };
        let waits = What::Acquire { session: ask.session, req: ask.req, waits: true };
        match ask.until_ns {
            None => self.begin(key, what, Verb::TryAcquire { ttl }, limit, now, out),
            Some(_) if now.boottime_ns < entry.again_ns => {}
            // A grant at the end of a wait is made fresh by a renewal.
            Some(until) if caps.wait && caps.renew => {
                let wait = WAIT_MAX.min(Duration::from_nanos(until.saturating_sub(now.boottime_ns)));
                self.begin(key, waits, Verb::Acquire { ttl, wait }, wait.saturating_add(limit), now, out);
            }
            Some(_) => self.begin(key, what, Verb::TryAcquire { ttl }, limit, now, out),
        }
    }

    fn begin(&mut self, key: &Key, what: What, verb: Verb, limit: Duration, now: Moment, out: &mut Out) {
        let id = self.next_call;
        self.next_call += 1;
        if let Some(entry) = self.entries.get_mut(key) {
            entry.busy = Some(id);
        }
        self.calls.insert(id, InFlight { key: key.clone(), what, given_up: false });
        self.timer(now.boottime_ns.saturating_add(ns(limit)), Timer::Call(id), out);
        out.calls.push(Call { id, key: key.clone(), verb, limit });
    }

    fn timer(&mut self, at_ns: u64, timer: Timer, out: &mut Out) {
        out.nearer |= self.timers.peek().is_none_or(|Reverse((first, _))| at_ns < *first);
        self.timers.push(Reverse((at_ns, timer)));
    }

    /// Makes sure that the key is looked at when its next deadline comes.
    fn arm(&mut self, key: &Key, out: &mut Out) {
        let (renew, Some(entry)) = (self.terms.caps.renew, self.entries.get_mut(key)) else { return };
        let held = entry.held.as_ref();
        let end = held.map(|h| h.sent.boottime_ns.saturating_add(left_ns(h.ttl_ms, h.sent, h.sent)));
        let renewal = held.filter(|h| h.auto && renew && entry.busy.is_none()).map(|h| h.renew_ns);
        let asks = entry.queue.iter().filter_map(|a| a.until_ns).min();
        let again = (held.is_none() && entry.busy.is_none() && !entry.queue.is_empty()).then_some(entry.again_ns);
        let Some(next) = [end, renewal, asks, again].into_iter().flatten().min() else { return };
        if next != u64::MAX && entry.armed_ns.is_none_or(|armed| next < armed) {
            entry.armed_ns = Some(next);
            self.timer(next, Timer::Key(key.clone()), out);
        }
    }

    /// How long until something is due, ns from `now`; `None` while nothing is.
    pub(super) fn next_ns(&self, now: Moment) -> Option<u64> {
        self.timers.peek().map(|Reverse((at, _))| at.saturating_sub(now.boottime_ns))
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Moment, out: &mut Out) {
        while let Some(Reverse((at, _))) = self.timers.peek() {
            if *at > now.boottime_ns {
                return;
            }
            match self.timers.pop() {
                Some(Reverse((_, Timer::Call(id)))) => self.give_up(id, now, out),
                Some(Reverse((_, Timer::Key(key)))) => self.look(&key, now, out),
                None => return,
            }
        }
    }

    /// Takes those out of the queue who have given up. What waits inside the service for one of them is not waited for.
    pub(super) fn take_asks(&mut self, key: &Key, gone: impl Fn(&Ask) -> bool) -> Vec<Ask> {
        let Some(entry) = self.entries.get_mut(key) else { return Vec::new() };
        let (mut taken, mut stay) = (Vec::new(), VecDeque::new());
        for ask in std::mem::take(&mut entry.queue) {
            if gone(&ask) { taken.push(ask) } else { stay.push_back(ask) }
        }
        entry.queue = stay;
        if let Some(id) = entry.busy
            && let Some(call) = self.calls.get_mut(&id)
            && let What::Acquire { session, req, waits: true } = call.what
            && taken.iter().any(|a| a.session == session && a.req == req)
        {
            call.given_up = true;
            entry.busy = None;
        }
        taken
    }

    fn look(&mut self, key: &Key, now: Moment, out: &mut Out) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.armed_ns = None;
        let over = |a: &Ask| a.until_ns.is_some_and(|until| now.boottime_ns >= until);
        for ask in self.take_asks(key, over) {
            let ended = ask.trouble.map_or(Ok(Outcome::WaitEnded(WaitEnd::Timeout)), Err);
            out.answers.push((ask.done, ended));
        }
        if self.entries.get(key).and_then(|e| e.held.as_ref()).is_some_and(|h| h.left_ns(now) == 0) {
            self.lost(key, out);
        }
        self.pump(key, now, out);
    }

    /// The grant has run out, or the service says that it is gone. Given back all the same: the service may believe in it a little longer.
    fn lost(&mut self, key: &Key, out: &mut Out) {
        let Some(held) = self.entries.get(key).and_then(|e| e.held.as_ref()) else { return };
        out.events.push(Event::Lost { session: held.session, key: key.clone(), token: held.token, why: LossReason::Expired });
        self.give_back(key, None);
    }

    /// The call was not answered in time. Its thread may be stuck; others go on.
    fn give_up(&mut self, id: u64, now: Moment, out: &mut Out) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.given_up = true;
        let key = call.key.clone();
        let taken = match &mut call.what {
            What::Release { done } | What::Renew { done, .. } => done.take(),
            What::Acquire { .. } | What::Confirm { .. } => None,
        };
        let asker = match call.what {
            What::Acquire { session, req, .. } | What::Confirm { session, req, .. } => Some((session, req)),
            _ => None,
        };
        let confirmed = match call.what {
            What::Confirm { service_token, .. } => Some(service_token),
            _ => None,
        };
        let error = Error::new(Status::Unavailable, "the lock service did not answer in time");
        tracing::warn!(%key, "a call of the lock service was given up");
        if let Some(entry) = self.entries.get_mut(&key) {
            if entry.busy == Some(id) {
                entry.busy = None;
            }
            entry.releases.extend(confirmed.map(|token| (token, None)));
        }
        if let Some(done) = taken {
            out.fail(done, error.clone());
        }
        if let Some((session, req)) = asker {
            self.trouble(&key, session, req, error, now, out);
        }
        self.retry_renewal(&key, now);
        self.pump(&key, now, out);
    }

    /// The attempt for this asker could not be made: who does not wait is told, who waits goes on unless there is no hope.
    fn trouble(&mut self, key: &Key, session: SessionId, req: u64, error: Error, now: Moment, out: &mut Out) {
        let again_ns = self.again_ns(now);
        let Some(entry) = self.entries.get_mut(key) else { return };
        let Some(at) = entry.queue.iter().position(|a| a.session == session && a.req == req) else { return };
        let hope = matches!(error.status(), Status::Unavailable | Status::Io | Status::Timeout | Status::Limit);
        match entry.queue.get_mut(at) {
            Some(ask) if ask.until_ns.is_some() && hope => {
                ask.trouble = Some(error);
                entry.again_ns = again_ns;
            }
            _ => {
                if let Some(ask) = entry.queue.remove(at) {
                    out.fail(ask.done, error);
                }
            }
        }
    }

    /// When a waiter tries again: after a time that differs from that of other nodes.
    fn again_ns(&mut self, now: Moment) -> u64 {
        let poll = ns(self.terms.poll).max(1);
        now.boottime_ns.saturating_add(poll - poll / 4 + self.rng.below(poll / 2 + 1))
    }

    fn retry_renewal(&mut self, key: &Key, now: Moment) {
        if let Some(held) = self.entries.get_mut(key).and_then(|e| e.held.as_mut())
            && now.boottime_ns >= held.renew_ns
        {
            held.renew_ns = now.boottime_ns.saturating_add((u64::from(held.ttl_ms) * NS_PER_MS / 12).max(RETRY_MIN_NS));
        }
    }

    /// Whether a call is still wanted when its turn has come; one that gives something back always is.
    pub(super) fn wanted(&self, id: u64) -> bool {
        self.calls.get(&id).is_some_and(|c| !c.given_up || matches!(c.what, What::Release { .. }))
    }

    /// A call that was sent at `sent` is answered. False when nobody knows of it any more.
    pub(super) fn finished(&mut self, id: u64, sent: Moment, answer: Answer, now: Moment, out: &mut Out) -> bool {
        let Some(call) = self.calls.remove(&id) else { return false };
        let key = call.key;
        let entry = self.entries.entry(key.clone()).or_default();
        if entry.busy == Some(id) {
            entry.busy = None;
        }
        match (call.what, answer) {
            (What::Acquire { session, req, .. }, Answer::Attempt(attempt)) => {
                let asker = (!call.given_up).then_some((session, req));
                self.attempted(&key, asker, attempt, sent, now, out);
            }
            (What::Confirm { session, req, service_token }, Answer::Done(renewed)) if !call.given_up => {
                self.confirmed(&key, (session, req), service_token, renewed, sent, now, out);
            }
            (What::Release { done: Some(done) }, Answer::Done(released)) => match released {
                Ok(true) => out.answer(done, Outcome::Released { left: 0 }),
                Ok(false) => out.answer(done, Outcome::NotHolder { current: Token(0) }),
                Err(error) => out.fail(done, error),
            },
            (What::Renew { token, ttl_ms, done }, Answer::Done(renewed)) => {
                self.renewed(&key, token, ttl_ms, done, renewed, sent, now, out)
            }
            _ => {}
        }
        self.pump(&key, now, out);
        true
    }

    fn attempted(
        &mut self,
        key: &Key,
        asker: Option<(SessionId, u64)>,
        attempt: Result<Attempt>,
        sent: Moment,
        now: Moment,
        out: &mut Out,
    ) {
        let again_ns = self.again_ns(now);
        let Some(entry) = self.entries.get_mut(key) else { return };
        let at = asker.and_then(|(session, req)| entry.queue.iter().position(|a| a.session == session && a.req == req));
        let (token, at) = match (attempt, at) {
            (Ok(Attempt::Acquired { token }), Some(at)) => (token, at),
            (Ok(Attempt::Acquired { token }), None) => {
                // Nobody wants it any more. Without tokens it cannot be told from a grant that came later.
                if entry.held.is_none() || self.terms.caps.fencing {
                    entry.releases.push_back((token, None));
                }
                return;
            }
            (Ok(Attempt::Held { token }), Some(at)) => {
                if entry.queue.get(at).is_some_and(|a| a.until_ns.is_some()) {
                    entry.again_ns = again_ns;
                } else if let Some(ask) = entry.queue.remove(at) {
                    out.answer(ask.done, Outcome::Held(Obstacle { token: Token(token), ..Obstacle::default() }));
                }
                return;
            }
            (Err(error), Some(_)) => {
                if let Some((session, req)) = asker {
                    self.trouble(key, session, req, error, now, out);
                }
                return;
            }
            (_, None) => return,
        };
        let Some((session, req, ttl_ms)) = entry.queue.get(at).map(|a| (a.session, a.req, a.ttl_ms)) else { return };
        if let Err(error) = self.acceptable(key, token) {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.releases.push_back((token, None));
            }
            return self.trouble(key, session, req, error, now, out);
        }
        let (caps, limit) = (self.terms.caps, self.terms.limit);
        let left = left_ns(ttl_ms, sent, now);
        let ttl = Duration::from_millis(u64::from(ttl_ms));
        if left < ns(ttl) / 2 && caps.renew {
            let verb = Verb::Renew { token, ttl: caps.ttl(ttl) };
            let what = What::Confirm { session, req, service_token: token };
            self.begin(key, what, verb, limit, now, out);
        } else if left == 0 {
            self.late(key, (session, req), token, now, out);
        } else {
            self.grant(key, (session, req), token, sent, now, out);
        }
    }

    /// The grant was answered when it had run out already.
    fn late(&mut self, key: &Key, (session, req): (SessionId, u64), token: u64, now: Moment, out: &mut Out) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.releases.push_back((token, None));
        }
        let error = Error::new(Status::Unavailable, "the lock service answered when the grant had run out");
        self.trouble(key, session, req, error, now, out);
    }

    #[allow(clippy::too_many_arguments)] // What a call was about, and what came of it.
    fn confirmed(
        &mut self,
        key: &Key,
        asker: (SessionId, u64),
        token: u64,
        renewed: Result<bool>,
        sent: Moment,
        now: Moment,
        out: &mut Out,
    ) {
        let position = |q: &VecDeque<Ask>| q.iter().position(|a| (a.session, a.req) == asker);
        let Some(ttl_ms) = self.entries.get(key).and_then(|e| position(&e.queue).and_then(|at| e.queue.get(at)).map(|a| a.ttl_ms)) else {
            // Cancelled meanwhile.
            if let Some(entry) = self.entries.get_mut(key) {
                entry.releases.push_back((token, None));
            }
            return;
        };
        match renewed {
            Ok(true) if left_ns(ttl_ms, sent, now) > 0 => self.grant(key, asker, token, sent, now, out),
            _ => self.late(key, asker, token, now, out),
        }
    }

    /// Whether the token keeps what the service promises of its tokens.
    fn acceptable(&mut self, key: &Key, token: u64) -> Result<()> {
        if !self.terms.caps.fencing {
            return Ok(());
        }
        if token == 0 || token > TOKEN_MAX {
            return Err(Error::new(Status::ServiceFailed, format!("token {token}: the lock service promises tokens in 1..=2^63-1")));
        }
        let seen = self.highest.get(key).copied().unwrap_or(0);
        if token <= seen || self.live.contains(&token) {
            let why =
                format!("token {token}: the lock service promises tokens that increase and are nobody else's; {seen} was given before");
            return Err(Error::new(Status::ServiceFailed, why).with_token(seen));
        }
        if self.highest.len() >= HIGHEST_MAX {
            self.highest.clear();
        }
        self.highest.insert(key.clone(), token);
        Ok(())
    }

    fn grant(&mut self, key: &Key, asker: (SessionId, u64), service_token: u64, sent: Moment, now: Moment, out: &mut Out) {
        let token = if self.terms.caps.fencing { service_token } else { self.last_token + 1 };
        let Some(entry) = self.entries.get_mut(key) else { return };
        let Some(at) = entry.queue.iter().position(|a| (a.session, a.req) == asker) else { return };
        let Some(ask) = entry.queue.remove(at) else { return };
        let token = Token(token);
        self.last_token = self.last_token.max(token.0);
        let held = Held {
            session: ask.session,
            req: ask.req,
            token,
            service_token,
            ttl_ms: ask.ttl_ms,
            auto: ask.auto,
            sent,
            since: now,
            renew_ns: renew_ns(sent, ask.ttl_ms),
        };
        let remaining_ms = held.left_ns(now) / NS_PER_MS;
        entry.held = Some(held);
        self.live.insert(token.0);
        out.answer(ask.done, Outcome::Granted { token, remaining_ms, depth: 1 });
    }

    #[allow(clippy::too_many_arguments)] // What a call was about, and what came of it.
    fn renewed(
        &mut self,
        key: &Key,
        token: Token,
        ttl_ms: u32,
        done: Option<crate::engine::Completion>,
        renewed: Result<bool>,
        sent: Moment,
        now: Moment,
        out: &mut Out,
    ) {
        let held = self.entries.get_mut(key).and_then(|e| e.held.as_mut()).filter(|h| h.token == token);
        let outcome = match (renewed, held) {
            (Ok(true), Some(held)) => {
                if sent.boottime_ns >= held.sent.boottime_ns {
                    (held.sent, held.ttl_ms, held.renew_ns) = (sent, ttl_ms, renew_ns(sent, ttl_ms));
                    out.renewed.push(Renewed { session: held.session, token, ttl_ms, sent });
                }
                Ok(Outcome::Renewed { remaining_ms: u64::from(ttl_ms), clock_ms: 0 })
            }
            (Ok(false), Some(_)) => {
                self.lost(key, out);
                Ok(Outcome::NotHolder { current: Token(0) })
            }
            (Ok(_), None) => Ok(Outcome::NotHolder { current: Token(0) }),
            (Err(error), _) => {
                tracing::warn!(%key, %error, "a renewal at the lock service failed");
                self.retry_renewal(key, now);
                Err(error)
            }
        };
        out.answers.extend(done.map(|done| (done, outcome)));
    }
}

/// A third of the ttl after it was sent.
fn renew_ns(sent: Moment, ttl_ms: u32) -> u64 {
    sent.boottime_ns.saturating_add(u64::from(ttl_ms) * NS_PER_MS / 3)
}
