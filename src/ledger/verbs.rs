//! The operations that concern one key.

use crate::base::planted::planted;
use hashbrown::hash_table::Entry as Bucket;

use crate::base::{SessionId, Token};

use super::clock::HIDDEN_MS;
use super::command::{Event, Fault, LimitKind, LossReason, Obstacle, Outcome, Refusal, Spec, WHY_MAX, Wait, WaitEnd};
use super::hub::{Cx, granted, refuse};
use super::session::{Life, Sessions, Slot, end_reasons};
use super::shard::{Asker, Asks, Shard};
use super::slab::{AMOUNT_MAX, Entry, GROUP, MANUAL, NONE, Name, PERMITS, Probe, REENTRANT, Record, SHARED, Terms, WAITING};
use super::timer::What;

impl Shard {
    /// `asks`: who, under which number, and with which flags.
    #[inline]
    pub(crate) fn acquire(&mut self, cx: &mut Cx<'_>, probe: &Probe<'_>, asks: Asks, spec: &Spec, wait: Wait) -> Outcome {
        let (now, hub) = (cx.now(), cx.hub);
        // With this shard at hand the session cannot be cleared away, so what is granted here will be found when it ends.
        let Some(slot) = hub.sessions.living(asks.session, now) else { return refuse(Refusal::NoSession) };
        if let Err(refusal) = hub.check_spec(spec, 1) {
            return refuse(refusal);
        }
        if slot.was_cancelled(asks.req) {
            return refuse(Refusal::Cancelled);
        }
        let wait = wait.filter(|ms| *ms != 0);
        let asker = &Asker { session: asks.session, slot, req: asks.req, flags: asks.flags };
        if self.spare == 0 && !self.need(cx, 1) {
            // Other shards may have places to spare.
            let max = cx.hub.params.max_locks;
            return if cx.whole { refuse(Refusal::Limit { kind: LimitKind::Locks, max }) } else { cx.escalate() };
        }
        let terms = Terms::of(spec, 0);
        let entries = &self.entries;
        let same = |&e: &u32| probe.is(&entries[e].name);
        let rehash = |&e: &u32| hub.hash_name(&entries[e].name);
        match self.table.entry(probe.hash, same, rehash) {
            Bucket::Vacant(bucket) => {
                let entry = self.entries.take();
                bucket.insert(entry);
                self.entries[entry] = Entry { name: probe.name(), holds: NONE, extra: NONE };
                let token = cx.hub.take_tokens(1);
                self.grant(cx, asker, entry, token, terms)
            }
            Bucket::Occupied(bucket) => {
                let entry = *bucket.get();
                self.acquire_busy(cx, entry, asker, terms, wait)
            }
        }
    }

    fn acquire_busy(&mut self, cx: &mut Cx<'_>, entry: u32, asker: &Asker<'_>, terms: Terms<'_>, wait: Wait) -> Outcome {
        if !cx.whole && self.groups_in(entry) {
            return cx.escalate();
        }
        let kind = terms.flags & (SHARED | PERMITS);
        if let Some(extra) = self.extra(entry)
            && kind == PERMITS
            && extra.permit_users != 0
            && extra.limit != terms.limit
        {
            return refuse(Refusal::Invalid(Fault::PermitLimit));
        }
        self.settle(cx, entry, kind == PERMITS);
        let first = self.entries[entry].holds;
        if terms.flags & REENTRANT != 0 && first != NONE {
            let mine = self.session_of(cx, first) == asker.session;
            let r = &mut self.records[first];
            if mine && r.is(REENTRANT) && r.amount() < AMOUNT_MAX {
                r.set_amount(r.amount() + 1);
                r.req = asker.req;
                let (id, depth, now) = (r.id, r.amount(), cx.now());
                return granted(id, self.remaining(cx, first, now), depth);
            }
        }
        let (waiting, delayed) = self.extra(entry).map_or((0, false), |x| (x.waiting, x.delay_until != 0));
        let outcome = if waiting == 0 && !delayed && self.fits(entry, kind, terms.amount) {
            let token = cx.hub.take_tokens(1);
            self.grant(cx, asker, entry, token, terms)
        } else if let Some(wait) = wait {
            let max = cx.hub.params.max_waiters_per_key;
            if waiting >= max {
                Outcome::Refused(Refusal::Limit { kind: LimitKind::WaitersPerKey, max: u64::from(max) })
            } else {
                let ticket = cx.hub.take_tokens(1);
                Outcome::Queued { position: self.enqueue(cx, asker, entry, ticket, wait, terms) }
            }
        } else {
            Outcome::Held(self.obstacle(cx, entry))
        };
        self.tidy(cx, entry);
        outcome
    }

    /// What is in the way on a key.
    pub(super) fn obstacle(&self, cx: &mut Cx<'_>, entry: u32) -> Obstacle {
        let now = cx.now();
        let delay_ms = self.extra(entry).map_or(0, |x| x.delay_until.saturating_sub(now));
        match self.entries[entry].holds {
            NONE => Obstacle { delay_ms, ..Obstacle::default() },
            first => Obstacle {
                token: Token(self.records[first].id),
                session: self.session_of(cx, first),
                remaining_ms: self.remaining(cx, first, now),
                delay_ms,
            },
        }
    }

    /// A grant of one of several keys that are all free.
    pub(super) fn grant_part(&mut self, cx: &mut Cx<'_>, probe: &Probe<'_>, asker: &Asker<'_>, token: u64, spec: &Spec) -> Outcome {
        let entry = self.entry_for(cx, probe);
        self.grant(cx, asker, entry, token, Terms::of(spec, 0))
    }

    /// A place in the queue of one of several keys.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn enqueue_part(
        &mut self,
        cx: &mut Cx<'_>,
        probe: &Probe<'_>,
        asker: &Asker<'_>,
        ticket: u64,
        wait: u64,
        spec: &Spec,
    ) -> u32 {
        let entry = self.entry_for(cx, probe);
        self.enqueue(cx, asker, entry, ticket, wait, Terms::of(spec, GROUP))
    }

    /// The grant of the session in `slot` with this token, unless it has run out as far as the time is known.
    fn current(&self, cx: &Cx<'_>, entry: u32, session: SessionId, slot: &Slot, token: Token) -> Option<u32> {
        let mut record = self.entries[entry].holds;
        while record != NONE && self.records[record].id != token.0 && !planted!("renew-without-token") {
            record = self.records[record].next();
        }
        let r = (record != NONE).then(|| &self.records[record])?;
        Self::is_current(cx, r, self.lists[r.list].slot, session, slot).then_some(record)
    }

    /// Whether a grant on the list of slot number `of` is that of the session in `slot`, and has not run out as far as the time is known.
    #[inline]
    fn is_current(cx: &Cx<'_>, r: &Record, of: u32, session: SessionId, slot: &Slot) -> bool {
        (of == Sessions::slot_number(session) || planted!("release-by-anybody"))
            && cx.known_now().is_none_or(|now| now < Self::deadline(r, slot).0)
    }

    /// Whether the session holds the key under this token now; the first holder's token if not.
    pub(super) fn holds(&self, cx: &mut Cx<'_>, probe: &Probe<'_>, session: SessionId, token: Token) -> Result<(), Token> {
        let now = cx.now();
        let entry = self.find(probe);
        let mine = cx.hub.sessions.living(session, now).and_then(|slot| entry.and_then(|e| self.current(cx, e, session, slot, token)));
        match (mine, self.not_holder(entry)) {
            (None, Outcome::NotHolder { current }) => Err(current),
            _ => Ok(()),
        }
    }

    fn not_holder(&self, entry: Option<u32>) -> Outcome {
        let current = match entry.map(|e| self.entries[e].holds) {
            None | Some(NONE) => 0,
            Some(first) => self.records[first].id,
        };
        Outcome::NotHolder { current: Token(current) }
    }

    #[inline]
    pub(crate) fn release(&mut self, cx: &mut Cx<'_>, probe: &Probe<'_>, session: SessionId, token: Token) -> Outcome {
        let hub = cx.hub;
        let living = |slot: &&Slot| matches!(slot.life(), Life::Renewed(_));
        let Some(slot) = hub.sessions.find(session).filter(living) else { return refuse(Refusal::NoSession) };
        let entries = &self.entries;
        let Ok(bucket) = self.table.find_entry(probe.hash, |&e| probe.is(&entries[e].name)) else { return self.not_holder(None) };
        let entry = *bucket.get();
        let first = self.entries[entry].holds;
        let plain = self.entries[entry].extra == NONE && first != NONE && !hub.watched.any();
        if plain && self.records[first].delay() == 0 && self.records[first].amount() == 1 {
            let r = &self.records[first];
            if (r.id != token.0 && !planted!("release-without-token")) || !Self::is_current(cx, r, self.lists[r.list].slot, session, slot) {
                return self.not_holder(Some(entry));
            }
            // Nobody waits and nobody else holds: the key is forgotten.
            bucket.remove();
            self.entries[entry].name = Name::Vacant;
            self.entries.give(entry);
            self.discard(cx, first);
            return Outcome::Released { left: 0 };
        }
        self.release_busy(cx, entry, session, token)
    }

    fn release_busy(&mut self, cx: &mut Cx<'_>, entry: u32, session: SessionId, token: Token) -> Outcome {
        if !cx.whole && self.groups_in(entry) {
            return cx.escalate();
        }
        // Who waits must know what time it is, and so must a lock-delay.
        let (now, hub) = (cx.now(), cx.hub);
        let Some(slot) = hub.sessions.living(session, now) else { return refuse(Refusal::NoSession) };
        let Some(record) = self.current(cx, entry, session, slot, token) else { return self.not_holder(Some(entry)) };
        let r = &mut self.records[record];
        if r.kind() == 0 && r.amount() > 1 {
            r.set_amount(r.amount() - 1);
            return Outcome::Released { left: r.amount() };
        }
        self.surrender(cx, record);
        Outcome::Released { left: 0 }
    }

    pub(crate) fn renew(&mut self, cx: &mut Cx<'_>, probe: &Probe<'_>, session: SessionId, token: Token, ttl: u32) -> Outcome {
        let (now, hub) = (cx.now(), cx.hub);
        let Some(slot) = hub.sessions.living(session, now) else { return refuse(Refusal::NoSession) };
        if !(hub.params.min_ttl_ms..=hub.params.max_ttl_ms).contains(&ttl) {
            return refuse(Refusal::Invalid(Fault::Ttl));
        }
        let entry = self.find(probe);
        let Some(record) = entry.and_then(|e| self.current(cx, e, session, slot, token)) else { return self.not_holder(entry) };
        let r = &mut self.records[record];
        r.ttl = ttl;
        r.set_since(now);
        self.arm_hold(cx, record);
        Outcome::Renewed { remaining_ms: self.remaining(cx, record, now), clock_ms: now }
    }

    pub(crate) fn force_release(&mut self, cx: &mut Cx<'_>, probe: &Probe<'_>, token: Option<Token>, delay: Option<u32>) -> Outcome {
        let now = cx.now();
        if delay.is_some_and(|d| d > cx.hub.params.max_ttl_ms) {
            return refuse(Refusal::Invalid(Fault::LockDelay));
        }
        let Some(entry) = self.find(probe) else { return Outcome::ReleasedMany { count: 0 } };
        if !cx.whole && self.groups_in(entry) {
            return cx.escalate();
        }
        self.settle(cx, entry, true);
        let mut count = 0;
        let mut record = self.entries[entry].holds;
        while record != NONE {
            let next = self.records[record].next();
            if token.is_none_or(|t| t.0 == self.records[record].id) {
                self.lose(cx, record, now, LossReason::Forced, delay);
                count += 1;
            }
            record = next;
        }
        self.pump(cx, entry);
        self.tidy(cx, entry);
        Outcome::ReleasedMany { count }
    }

    /// Asks the holders to give the key back; `by` is who asks.
    pub(super) fn revoke(
        &mut self,
        cx: &mut Cx<'_>,
        probe: &Probe<'_>,
        token: Option<Token>,
        by: &str,
        why: &str,
        force_after: Option<u32>,
    ) -> Outcome {
        let now = cx.now();
        if why.len() > WHY_MAX {
            return refuse(Refusal::Invalid(Fault::Why));
        }
        if force_after.is_some_and(|ms| ms > cx.hub.params.max_ttl_ms) {
            return refuse(Refusal::Invalid(Fault::ForceAfter));
        }
        let Some(entry) = self.find(probe) else { return Outcome::Revoking { count: 0 } };
        self.settle(cx, entry, true);
        let (mut count, mut record) = (0, self.entries[entry].holds);
        while record != NONE {
            let next = self.records[record].next();
            if token.is_none_or(|t| t.0 == self.records[record].id) {
                count += 1;
                let r = &mut self.records[record];
                if let Some(ms) = force_after {
                    let at = now + u64::from(ms) + HIDDEN_MS;
                    if r.revoke_at() == 0 || at < r.revoke_at() {
                        r.set_revoke_at(at);
                        self.arm(cx, What::Record(record), at);
                    }
                }
                let r = &self.records[record];
                let force_after_ms = (r.revoke_at() != 0).then(|| r.revoke_at().saturating_sub(now + HIDDEN_MS));
                cx.events.push(Event::RevokeRequested {
                    session: self.session_of(cx, record),
                    key: probe.key.clone(),
                    token: Token(r.id),
                    by: by.to_owned(),
                    why: why.to_owned(),
                    force_after_ms,
                });
            }
            record = next;
        }
        self.tidy(cx, entry);
        Outcome::Revoking { count }
    }

    pub(super) fn annotate(&mut self, cx: &mut Cx<'_>, probe: &Probe<'_>, session: SessionId, token: Token, metadata: &[u8]) -> Outcome {
        let (now, hub) = (cx.now(), cx.hub);
        let Some(slot) = hub.sessions.living(session, now) else { return refuse(Refusal::NoSession) };
        let max = hub.params.max_metadata;
        if metadata.len() > max as usize {
            return refuse(Refusal::Limit { kind: LimitKind::MetadataBytes, max: u64::from(max) });
        }
        let entry = self.find(probe);
        let Some(record) = entry.and_then(|e| self.current(cx, e, session, slot, token)) else { return self.not_holder(entry) };
        self.records[record].set_meta(metadata);
        let entry = self.records[record].entry;
        self.tell(cx, entry);
        Outcome::Annotated
    }

    /// A grant ends, and the first waiter whose session has the name `to` gets the key under a new token. The queue is otherwise as before.
    pub(super) fn give_to(&mut self, cx: &mut Cx<'_>, probe: &Probe<'_>, session: SessionId, token: Token, to: &str) -> Outcome {
        let (now, hub) = (cx.now(), cx.hub);
        let Some(slot) = hub.sessions.living(session, now) else { return refuse(Refusal::NoSession) };
        let entry = self.find(probe);
        let Some(record) = entry.and_then(|e| self.current(cx, e, session, slot, token)) else { return self.not_holder(entry) };
        if self.records[record].kind() != 0 {
            return refuse(Refusal::Invalid(Fault::Exclusive));
        }
        let entry = self.records[record].entry;
        let mut waiter = self.extra(entry).map_or(NONE, |x| x.first);
        let successor = loop {
            if waiter == NONE {
                return Outcome::NoSuccessor;
            }
            let r = &self.records[waiter];
            let waits = !r.is(GROUP) && now < r.since;
            if let Some(slot) = self.slot_of(cx, waiter).filter(|slot| waits && slot.lives(now))
                && (slot.body().name == to || planted!("hand-over-to-anybody"))
            {
                break slot;
            }
            waiter = r.next();
        };
        self.remove_hold(cx, record);
        self.serve(cx, waiter, successor);
        self.pump(cx, entry);
        Outcome::Released { left: 0 }
    }

    /// A grant becomes that of another session, under a new token: whatever still carries the old one is fenced. The queue does
    /// not notice. One that has run out is lost instead.
    pub(super) fn hand_over(&mut self, cx: &mut Cx<'_>, record: u32, to: &Asker<'_>) -> bool {
        let now = cx.now();
        let entry = self.records[record].entry;
        if let Some((at, why)) = self.lapse(cx, record, now) {
            self.lose(cx, record, at, why, None);
            self.pump(cx, entry);
            self.tidy(cx, entry);
            return false;
        }
        let limit = self.extra(entry).map_or(0, |x| x.limit);
        let r = &self.records[record];
        let (session, old, kind) = (self.session_of(cx, record), Token(r.id), r.kind());
        let meta = r.meta().to_vec();
        let terms = Terms {
            ttl: r.ttl,
            delay: r.delay(),
            amount: if kind == PERMITS { r.amount() } else { 1 },
            limit: if kind == PERMITS { limit } else { 0 },
            flags: r.flags() & (SHARED | PERMITS | MANUAL | REENTRANT),
            meta: &meta,
        };
        let key = self.entries[entry].name.key();
        self.remove_hold(cx, record);
        let token = cx.hub.take_tokens(1);
        self.grant(cx, to, entry, token, terms);
        if let Some(key) = key {
            cx.events.push(Event::Lost { session, key, token: old, why: LossReason::Superseded });
        }
        true
    }

    /// Ends what `session` asked for under `req` on this key: the ticket of a group if it was one, otherwise whether something was
    /// found, and whether that was a grant.
    pub(super) fn cancel(&mut self, cx: &mut Cx<'_>, probe: &Probe<'_>, session: SessionId, req: u64) -> Found {
        let Some(entry) = self.find(probe) else { return Found::Nothing };
        self.settle(cx, entry, true);
        let found = self.find_request(cx, entry, session, req);
        let result = match found {
            None => Found::Nothing,
            Some(record) if self.records[record].is(GROUP) => Found::Group(self.records[record].id),
            Some(record) if self.records[record].is(WAITING) => {
                self.end_wait(cx, record, WaitEnd::Cancelled);
                self.pump(cx, entry);
                Found::Wait
            }
            Some(record) => {
                let r = &mut self.records[record];
                if r.kind() == 0 && r.amount() > 1 {
                    r.set_amount(r.amount() - 1);
                } else {
                    self.remove_hold(cx, record);
                    self.pump(cx, entry);
                }
                Found::Grant
            }
        };
        self.tidy(cx, entry);
        result
    }

    fn find_request(&self, cx: &Cx<'_>, entry: u32, session: SessionId, req: u64) -> Option<u32> {
        let queue = self.extra(entry).map_or(NONE, |x| x.first);
        for mut record in [self.entries[entry].holds, queue] {
            while record != NONE {
                if self.records[record].req == req && self.session_of(cx, record) == session {
                    return Some(record);
                }
                record = self.records[record].next();
            }
        }
        None
    }

    /// Ends the first thing that a dead session still has here; its ticket if that belongs to a group.
    pub(super) fn bury_first(&mut self, cx: &mut Cx<'_>, session: SessionId) -> Option<u64> {
        let record = self.first_of(session)?;
        let life = self.slot_of(cx, record)?.life();
        let (loss, end) = end_reasons(life);
        let entry = self.records[record].entry;
        if self.records[record].is(GROUP) {
            return Some(self.records[record].id);
        }
        if self.records[record].is(WAITING) {
            self.end_wait(cx, record, end);
        } else {
            self.lose(cx, record, life.ended_at(), loss, None);
        }
        self.pump(cx, entry);
        self.tidy(cx, entry);
        None
    }
}

/// What a cancellation found.
pub(super) enum Found {
    Nothing,
    Wait,
    Grant,
    Group(u64),
}
