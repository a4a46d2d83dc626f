//! One part of the lock table, and the operations that concern one key.
//!
//! Every operation is a pure method of the shard and a [`Cx`]. A shard knows nothing of other shards: where a request for
//! several keys waits in a key's queue, the operation answers [`Step::Escalate`] before it has changed anything, unless the
//! caller has every shard at hand.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Bucket;

use crate::base::{Key, SessionId, Token};

use super::clock::HIDDEN_MS;
use super::command::{Event, Fault, LimitKind, LossReason, Obstacle, Outcome, Refusal, Spec, Wait, WaitEnd};
use super::hub::{Cx, NEVER, Step, granted, refuse};
use super::session::{Life, Sessions, Slot, end_reasons};
use super::slab::{Entry, Extra, GROUP, List, MANUAL, NONE, PERMITS, REENTRANT, REMEMBERED, Record, SHARED, Slab, Terms, WAITING};
use super::timer::{Timer, What};

/// Lists of sessions that have nothing here any more are kept for their next lock, up to this many beyond those in use.
const IDLE_LISTS: u32 = 16;

/// Who asks, under which number.
#[derive(Clone, Copy)]
pub(crate) struct Asks {
    pub(crate) session: SessionId,
    pub(crate) req: u64,
    /// [`super::slab::REMEMBERED`] when the session's window will hold the answer.
    pub(crate) flags: u8,
}

/// The same with the session's slot at hand.
#[derive(Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) session: SessionId,
    pub(super) slot: &'a Slot,
    pub(super) req: u64,
    pub(super) flags: u8,
}

#[derive(Default)]
pub(crate) struct Shard {
    pub(super) number: usize,
    pub(super) table: HashTable<u32>,
    pub(super) entries: Slab<Entry>,
    pub(super) records: Slab<Record>,
    pub(super) extras: Slab<Extra>,
    pub(super) lists: Slab<List>,
    by_slot: HashTable<u32>,
    /// The list used last: one session often does all the work.
    hot: u32,
    idle: u32,
    pub(super) timers: BinaryHeap<Reverse<Timer>>,
    /// Places taken from the common budget and not in use.
    pub(super) spare: u64,
    /// Places in use.
    pub(super) used: u64,
}

fn slot_hash(slot: u32) -> u64 {
    u64::from(slot).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Shard {
    pub(crate) fn new(number: usize) -> Shard {
        Shard { number, hot: NONE, ..Shard::default() }
    }

    // ---- finding -------------------------------------------------------------------------------

    #[inline]
    pub(super) fn find(&self, hash: u64, key: &Key) -> Option<u32> {
        self.table.find(hash, |&e| self.entries[e].key.as_ref() == Some(key)).copied()
    }

    pub(super) fn slot_of<'a>(&self, cx: &Cx<'a>, record: u32) -> Option<&'a Slot> {
        cx.hub.sessions.at(self.lists[self.records[record].list].slot)
    }

    fn session_of(&self, cx: &Cx<'_>, record: u32) -> SessionId {
        self.slot_of(cx, record).map_or(SessionId(0), Slot::id)
    }

    pub(super) fn extra(&self, entry: u32) -> Option<&Extra> {
        match self.entries[entry].extra {
            NONE => None,
            at => Some(&self.extras[at]),
        }
    }

    pub(super) fn extra_mut(&mut self, entry: u32) -> &mut Extra {
        let mut at = self.entries[entry].extra;
        if at == NONE {
            at = self.extras.take();
            let first = self.entries[entry].holds;
            let armed = self.extras[at].armed;
            self.extras[at] = Extra { entry, last_hold: first, armed, ..Extra::default() };
            self.entries[entry].extra = at;
        }
        &mut self.extras[at]
    }

    fn groups_in(&self, entry: u32) -> bool {
        self.extra(entry).is_some_and(|x| x.groups != 0)
    }

    /// When a grant is over unless something renews it, and why it would be.
    pub(super) fn deadline(record: &Record, slot: &Slot) -> (u64, LossReason) {
        let life = slot.life();
        let Life::Renewed(renewed) = life else {
            let at = if let Life::Expired(at) = life { at } else { 0 };
            return (at, end_reasons(life).0);
        };
        let session_ends = renewed + u64::from(slot.ttl()) + HIDDEN_MS;
        let from = if record.is(MANUAL) { record.since } else { record.since.max(renewed) };
        let own = from + u64::from(record.ttl) + HIDDEN_MS;
        if own < session_ends { (own, LossReason::Expired) } else { (session_ends, LossReason::SessionExpired) }
    }

    /// When and why the grant was over, if it is at `now`.
    pub(super) fn lapse(&self, cx: &Cx<'_>, record: u32, now: u64) -> Option<(u64, LossReason)> {
        let (at, why) = Self::deadline(&self.records[record], self.slot_of(cx, record)?);
        (at <= now).then_some((at, why))
    }

    /// How long a grant has left, as its holder may count: without the hidden millisecond.
    pub(super) fn remaining(&self, cx: &Cx<'_>, record: u32, now: u64) -> u64 {
        self.slot_of(cx, record).map_or(0, |slot| Self::deadline(&self.records[record], slot).0.saturating_sub(now + HIDDEN_MS))
    }

    // ---- places --------------------------------------------------------------------------------

    /// Makes sure that `n` places are spare; false when the budget has none.
    pub(super) fn need(&mut self, cx: &Cx<'_>, n: u64) -> bool {
        if self.spare < n {
            self.spare += cx.hub.take_places(n - self.spare);
        }
        self.spare >= n
    }

    fn list_for(&mut self, cx: &Cx<'_>, slot_number: u32, slot: &Slot) -> u32 {
        if self.hot != NONE && self.lists[self.hot].slot == slot_number {
            if self.lists[self.hot].first == NONE {
                self.idle -= 1;
                slot.note_place(self.number);
            }
            return self.hot;
        }
        let at = match self.by_slot.find(slot_hash(slot_number), |&l| self.lists[l].slot == slot_number) {
            Some(&at) => {
                if self.lists[at].first == NONE {
                    self.idle -= 1;
                }
                at
            }
            None => {
                if self.idle > IDLE_LISTS + self.by_slot.len() as u32 / 2 {
                    self.drop_idle_lists();
                }
                let at = self.lists.take();
                self.lists[at] = List { slot: slot_number, first: NONE, last: NONE };
                let lists = &self.lists;
                self.by_slot.insert_unique(slot_hash(slot_number), at, |&l| slot_hash(lists[l].slot));
                at
            }
        };
        debug_assert!(cx.hub.sessions.at(slot_number).is_some());
        slot.note_place(self.number);
        self.hot = at;
        at
    }

    fn drop_idle_lists(&mut self) {
        let lists = &mut self.lists;
        self.by_slot.retain(|&mut at| {
            let keep = lists[at].first != NONE;
            if !keep {
                lists[at].slot = NONE;
                lists.give(at);
            }
            keep
        });
        (self.idle, self.hot) = (0, NONE);
    }

    /// A record for `asker` on `entry`, last of its session's list, linked to nothing else yet.
    fn record(&mut self, cx: &Cx<'_>, asker: &Asker<'_>, entry: u32, id: u64, now: u64, terms: Terms<'_>) -> u32 {
        debug_assert!(self.spare > 0);
        self.spare -= 1;
        self.used += 1;
        let list = self.list_for(cx, Sessions::slot_number(asker.session), asker.slot);
        let at = self.records.take();
        let prev = std::mem::replace(&mut self.lists[list].last, at);
        let armed = self.records[at].armed;
        self.records[at] = Record {
            id,
            at: now,
            since: now,
            req: asker.req,
            armed,
            meta: if terms.meta.is_empty() { None } else { Some(Box::new(terms.meta.into())) },
            ttl: terms.ttl,
            delay: terms.delay,
            amount: terms.amount,
            entry,
            list,
            next_in_list: NONE,
            prev_in_list: prev,
            next_in_entry: NONE,
            prev_in_entry: NONE,
            flags: terms.flags | asker.flags,
        };
        if prev == NONE {
            self.lists[list].first = at;
        } else {
            self.records[prev].next_in_list = at;
        }
        at
    }

    fn unlist(&mut self, record: u32) {
        let Record { list, next_in_list: next, prev_in_list: prev, .. } = self.records[record];
        if prev == NONE {
            self.lists[list].first = next;
        } else {
            self.records[prev].next_in_list = next;
        }
        if next == NONE {
            self.lists[list].last = prev;
        } else {
            self.records[next].prev_in_list = prev;
        }
        if self.lists[list].first == NONE {
            self.idle += 1;
        }
    }

    /// Back to the end of its session's list: its id is now the largest.
    fn relist(&mut self, record: u32) {
        self.unlist(record);
        let list = self.records[record].list;
        let prev = std::mem::replace(&mut self.lists[list].last, record);
        self.records[record].prev_in_list = prev;
        self.records[record].next_in_list = NONE;
        if prev == NONE {
            self.lists[list].first = record;
            self.idle -= 1;
        } else {
            self.records[prev].next_in_list = record;
        }
    }

    fn discard(&mut self, cx: &Cx<'_>, record: u32) {
        self.unlist(record);
        self.records[record].id = 0;
        self.records[record].meta = None;
        self.records.give(record);
        self.used -= 1;
        self.spare += 1;
        if self.spare > 2 * cx.hub.batch() {
            self.spare -= cx.hub.batch();
            cx.hub.give_places(cx.hub.batch());
        }
    }

    fn new_entry(&mut self, cx: &Cx<'_>, hash: u64, key: &Key) -> u32 {
        let entry = self.entries.take();
        self.entries[entry] = Entry { key: Some(key.clone()), holds: NONE, extra: NONE };
        let entries = &self.entries;
        self.table.insert_unique(hash, entry, |&e| entries[e].key.as_ref().map_or(0, |k| cx.hub.hash(k)));
        entry
    }

    /// The entry of `key`, made if there is none.
    pub(super) fn entry_for(&mut self, cx: &Cx<'_>, hash: u64, key: &Key) -> u32 {
        self.find(hash, key).unwrap_or_else(|| self.new_entry(cx, hash, key))
    }

    /// Forgets the entry if nothing keeps it.
    pub(super) fn tidy(&mut self, cx: &Cx<'_>, entry: u32) {
        let Entry { holds, extra, .. } = self.entries[entry];
        if holds != NONE || (extra != NONE && (self.extras[extra].first != NONE || self.extras[extra].delay_until != 0)) {
            return;
        }
        let Some(key) = &self.entries[entry].key else { return };
        let hash = cx.hub.hash(key);
        self.forget(hash, entry);
        if extra != NONE {
            self.extras.give(extra);
        }
    }

    fn forget(&mut self, hash: u64, entry: u32) {
        if let Ok(bucket) = self.table.find_entry(hash, |&e| e == entry) {
            bucket.remove();
        }
        self.entries[entry].key = None;
        self.entries.give(entry);
    }

    // ---- holders and queue ---------------------------------------------------------------------

    /// Whether a grant of these terms may stand beside those there are.
    pub(super) fn fits(&self, entry: u32, kind: u8, amount: u32) -> bool {
        let first = self.entries[entry].holds;
        if first == NONE {
            return true;
        }
        match (self.records[first].kind(), kind) {
            (SHARED, SHARED) => true,
            (PERMITS, PERMITS) => self.extra(entry).is_some_and(|x| u64::from(x.used) + u64::from(amount) <= u64::from(x.limit)),
            _ => false,
        }
    }

    fn use_permits(&mut self, entry: u32, limit: u32) {
        let extra = self.extra_mut(entry);
        extra.permit_users += 1;
        extra.limit = limit;
    }

    fn add_hold(&mut self, entry: u32, record: u32) {
        let (kind, amount) = (self.records[record].kind(), self.records[record].amount);
        if kind == PERMITS {
            self.extra_mut(entry).used += amount;
        }
        let first = self.entries[entry].holds;
        if first == NONE {
            self.entries[entry].holds = record;
            if self.entries[entry].extra != NONE {
                self.extra_mut(entry).last_hold = record;
            }
            return;
        }
        debug_assert!(kind != 0 && self.records[first].kind() == kind, "I-07: one exclusive holder at most");
        let last = std::mem::replace(&mut self.extra_mut(entry).last_hold, record);
        self.records[last].next_in_entry = record;
        self.records[record].prev_in_entry = last;
    }

    /// Takes a grant off its key and forgets it.
    fn remove_hold(&mut self, cx: &Cx<'_>, record: u32) {
        let Record { entry, next_in_entry: next, prev_in_entry: prev, amount, .. } = self.records[record];
        if prev == NONE {
            self.entries[entry].holds = next;
        } else {
            self.records[prev].next_in_entry = next;
        }
        if next != NONE {
            self.records[next].prev_in_entry = prev;
        }
        let permits = self.records[record].kind() == PERMITS;
        if self.entries[entry].extra != NONE {
            let extra = self.extra_mut(entry);
            if next == NONE {
                extra.last_hold = prev;
            }
            if permits {
                extra.used -= amount;
                extra.permit_users -= 1;
            }
        }
        self.discard(cx, record);
    }

    fn join_queue(&mut self, entry: u32, record: u32) {
        let group = u32::from(self.records[record].is(GROUP));
        let extra = self.extra_mut(entry);
        let last = std::mem::replace(&mut extra.last, record);
        extra.waiting += 1;
        extra.groups += group;
        if last == NONE {
            extra.first = record;
        } else {
            self.records[last].next_in_entry = record;
        }
        self.records[record].prev_in_entry = last;
    }

    fn leave_queue(&mut self, record: u32) {
        let Record { entry, next_in_entry: next, prev_in_entry: prev, .. } = self.records[record];
        let group = u32::from(self.records[record].is(GROUP));
        if prev != NONE {
            self.records[prev].next_in_entry = next;
        }
        if next != NONE {
            self.records[next].prev_in_entry = prev;
        }
        let extra = self.extra_mut(entry);
        extra.waiting -= 1;
        extra.groups -= group;
        if prev == NONE {
            extra.first = next;
        }
        if next == NONE {
            extra.last = prev;
        }
        self.records[record].next_in_entry = NONE;
        self.records[record].prev_in_entry = NONE;
    }

    // ---- timers --------------------------------------------------------------------------------

    /// Sees to it that a grant that its session's own end would not end in time has a timer.
    pub(super) fn arm_hold(&mut self, cx: &mut Cx<'_>, record: u32) {
        let Some(slot) = self.slot_of(cx, record) else { return };
        let r = &self.records[record];
        if !r.is(MANUAL) {
            if r.ttl >= slot.ttl() {
                return;
            }
            slot.note_ttl(r.ttl);
        }
        let own = r.since + u64::from(r.ttl) + HIDDEN_MS;
        self.arm(cx, What::Record(record), own);
    }

    pub(super) fn arm(&mut self, cx: &mut Cx<'_>, what: What, at: u64) {
        let (id, armed) = match what {
            What::Record(r) => (self.records[r].id, &mut self.records[r].armed),
            What::Delay(x) => (self.extras[x].delay_id, &mut self.extras[x].armed),
        };
        if *armed == 0 || at < *armed {
            *armed = at;
            self.timers.push(Reverse(Timer { at, id, what }));
            cx.nearer |= cx.hub.note_deadline(at);
            cx.overdue |= cx.known_now().is_some_and(|now| at <= now);
        }
    }

    // ---- changes -------------------------------------------------------------------------------

    /// A new grant of a free key, or beside compatible holders.
    fn grant(&mut self, cx: &mut Cx<'_>, asker: &Asker<'_>, entry: u32, token: u64, terms: Terms<'_>) -> Outcome {
        let now = cx.now();
        debug_assert!(cx.hub.shared || asker.slot.lives(now), "I-08: a grant goes to a living session");
        let record = self.record(cx, asker, entry, token, now, terms);
        if terms.limit != 0 {
            self.use_permits(entry, terms.limit);
        }
        self.add_hold(entry, record);
        if terms.flags & MANUAL != 0 || terms.ttl < asker.slot.ttl() {
            self.arm_hold(cx, record);
        }
        let ends = Self::deadline(&self.records[record], asker.slot).0;
        granted(token, ends.saturating_sub(now + HIDDEN_MS), 1)
    }

    fn enqueue(&mut self, cx: &mut Cx<'_>, asker: &Asker<'_>, entry: u32, ticket: u64, wait: u64, terms: Terms<'_>) -> u32 {
        let now = cx.now();
        let record = self.record(cx, asker, entry, ticket, now, Terms { flags: terms.flags | WAITING, ..terms });
        let until = now.saturating_add(wait).min(NEVER);
        self.records[record].since = until;
        if terms.limit != 0 {
            self.use_permits(entry, terms.limit);
        }
        self.join_queue(entry, record);
        if until != NEVER {
            self.arm(cx, What::Record(record), until);
        }
        self.extra(entry).map_or(0, |x| x.waiting - 1)
    }

    /// The first of the queue becomes a holder with `token`. Who is told depends on the caller.
    pub(super) fn promote(&mut self, cx: &mut Cx<'_>, record: u32, token: u64) -> u64 {
        let now = cx.now();
        let entry = self.records[record].entry;
        debug_assert!(cx.hub.shared || self.slot_of(cx, record).is_some_and(|s| s.lives(now)), "I-08: a grant goes to a living session");
        debug_assert!(token > self.records[record].id, "I-05: tokens strictly increase");
        self.leave_queue(record);
        let r = &mut self.records[record];
        (r.id, r.at, r.since) = (token, now, now);
        r.flags &= !(WAITING | GROUP);
        self.relist(record);
        self.add_hold(entry, record);
        self.arm_hold(cx, record);
        self.remaining(cx, record, now)
    }

    /// A wait is over without a grant.
    pub(super) fn end_wait(&mut self, cx: &mut Cx<'_>, record: u32, why: WaitEnd) {
        let (session, req) = (self.session_of(cx, record), self.records[record].req);
        if self.records[record].is(REMEMBERED) {
            if let Some(slot) = self.slot_of(cx, record) {
                slot.settle(req, Outcome::WaitEnded(why));
            }
        }
        cx.events.push(Event::WaitEnded { session, req, why });
        self.drop_wait(cx, record);
    }

    /// Takes a place out of its queue without telling anybody.
    pub(super) fn drop_wait(&mut self, cx: &Cx<'_>, record: u32) {
        self.leave_queue(record);
        if self.records[record].kind() == PERMITS {
            let entry = self.records[record].entry;
            self.extra_mut(entry).permit_users -= 1;
        }
        self.discard(cx, record);
    }

    /// A holder loses its lock against its will at `at`.
    pub(super) fn lose(&mut self, cx: &mut Cx<'_>, record: u32, at: u64, why: LossReason, delay: Option<u32>) {
        let Record { entry, id, delay: own, .. } = self.records[record];
        let (session, key) = (self.session_of(cx, record), self.entries[entry].key.clone());
        self.remove_hold(cx, record);
        let delay = delay.unwrap_or(own);
        if delay != 0 && why != LossReason::Closed {
            let until = at + u64::from(delay);
            let extra = self.extra_mut(entry);
            if until > extra.delay_until {
                (extra.delay_until, extra.delay_id) = (until, id);
                let what = What::Delay(self.entries[entry].extra);
                self.arm(cx, what, until);
            }
        }
        if why != LossReason::Closed {
            if let Some(key) = key {
                cx.events.push(Event::Lost { session, key, token: Token(id), why });
            }
        }
    }

    /// A holder gives its lock back.
    pub(super) fn surrender(&mut self, cx: &mut Cx<'_>, record: u32) {
        let entry = self.records[record].entry;
        self.remove_hold(cx, record);
        self.pump(cx, entry);
        self.tidy(cx, entry);
    }

    /// Serves the queue for as long as its first can be served: waits that have ended are told so, the others are granted in order.
    pub(super) fn pump(&mut self, cx: &mut Cx<'_>, entry: u32) {
        loop {
            let Some(&Extra { first, delay_until, .. }) = self.extra(entry) else { return };
            if first == NONE {
                return;
            }
            let now = cx.now();
            let Some(slot) = self.slot_of(cx, first) else { return };
            let alive = slot.lives(now) || cx.hub.sessions.judge(slot, now);
            let r = &self.records[first];
            let (group, over) = (r.is(GROUP), r.since <= now);
            if group && (!alive || over || (delay_until <= now && self.fits(entry, r.kind(), r.amount))) {
                cx.ready.extend(cx.hub.group_of(r.id));
                return;
            }
            if !alive {
                self.end_wait(cx, first, end_reasons(slot.life()).1);
            } else if over {
                self.end_wait(cx, first, WaitEnd::Timeout);
            } else if delay_until > now || !self.fits(entry, r.kind(), r.amount) {
                return;
            } else {
                let (session, req) = (slot.id(), r.req);
                let token = cx.hub.take_tokens(1);
                let remaining_ms = self.promote(cx, first, token);
                if self.records[first].is(REMEMBERED) {
                    slot.settle(req, granted(token, remaining_ms, 1));
                }
                cx.events.push(Event::Granted { session, req, token: Token(token), remaining_ms });
            }
        }
    }

    /// Records what time has done to a key: holders that have run out (the first ones, or all), a delay that is over.
    pub(super) fn settle(&mut self, cx: &mut Cx<'_>, entry: u32, all: bool) {
        let now = cx.now();
        let mut changed = false;
        let mut record = self.entries[entry].holds;
        while record != NONE {
            let next = self.records[record].next_in_entry;
            match self.lapse(cx, record, now) {
                Some((at, why)) => {
                    if let Some(slot) = self.slot_of(cx, record) {
                        cx.hub.sessions.judge(slot, now);
                    }
                    self.lose(cx, record, at, why, None);
                    changed = true;
                }
                None if !all => break,
                None => {}
            }
            record = next;
        }
        if let Some(extra) = self.extra(entry) {
            if extra.delay_until != 0 && extra.delay_until <= now {
                self.extra_mut(entry).delay_until = 0;
                changed = true;
            }
        }
        if changed {
            self.pump(cx, entry);
        }
    }

    // ---- operations ----------------------------------------------------------------------------

    /// `asks`: who, under which number, and with which flags.
    #[inline]
    pub(crate) fn acquire(&mut self, cx: &mut Cx<'_>, hash: u64, key: &Key, asks: Asks, spec: &Spec, wait: Wait) -> Step {
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
            return if cx.whole { refuse(Refusal::Limit { kind: LimitKind::Locks, max }) } else { Step::Escalate };
        }
        let terms = Terms::of(spec, 0);
        let entries = &self.entries;
        let same = |&e: &u32| entries[e].key.as_ref() == Some(key);
        let rehash = |&e: &u32| entries[e].key.as_ref().map_or(0, |k| hub.hash(k));
        match self.table.entry(hash, same, rehash) {
            Bucket::Vacant(bucket) => {
                let entry = self.entries.take();
                bucket.insert(entry);
                self.entries[entry] = Entry { key: Some(key.clone()), holds: NONE, extra: NONE };
                let token = cx.hub.take_tokens(1);
                Step::Done(self.grant(cx, asker, entry, token, terms))
            }
            Bucket::Occupied(bucket) => {
                let entry = *bucket.get();
                self.acquire_busy(cx, entry, asker, terms, wait)
            }
        }
    }

    fn acquire_busy(&mut self, cx: &mut Cx<'_>, entry: u32, asker: &Asker<'_>, terms: Terms<'_>, wait: Wait) -> Step {
        if !cx.whole && self.groups_in(entry) {
            return Step::Escalate;
        }
        let kind = terms.flags & (SHARED | PERMITS);
        if let Some(extra) = self.extra(entry) {
            if kind == PERMITS && extra.permit_users != 0 && extra.limit != terms.limit {
                return refuse(Refusal::Invalid(Fault::PermitLimit));
            }
        }
        self.settle(cx, entry, kind == PERMITS);
        let first = self.entries[entry].holds;
        if terms.flags & REENTRANT != 0 && first != NONE {
            let mine = self.session_of(cx, first) == asker.session;
            let r = &mut self.records[first];
            if mine && r.is(REENTRANT) && r.amount < u32::MAX {
                r.amount += 1;
                r.req = asker.req;
                let (id, depth, now) = (r.id, r.amount, cx.now());
                return Step::Done(granted(id, self.remaining(cx, first, now), depth));
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
        Step::Done(outcome)
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
    pub(super) fn grant_part(&mut self, cx: &mut Cx<'_>, hash: u64, key: &Key, asker: &Asker<'_>, token: u64, spec: &Spec) -> Outcome {
        let entry = self.entry_for(cx, hash, key);
        self.grant(cx, asker, entry, token, Terms::of(spec, 0))
    }

    /// A place in the queue of one of several keys.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn enqueue_part(
        &mut self,
        cx: &mut Cx<'_>,
        hash: u64,
        key: &Key,
        asker: &Asker<'_>,
        ticket: u64,
        wait: u64,
        spec: &Spec,
    ) -> u32 {
        let entry = self.entry_for(cx, hash, key);
        self.enqueue(cx, asker, entry, ticket, wait, Terms::of(spec, GROUP))
    }

    /// The grant of the session in `slot` with this token, unless it has run out as far as the time is known.
    fn current(&self, cx: &Cx<'_>, entry: u32, session: SessionId, slot: &Slot, token: Token) -> Option<u32> {
        let mut record = self.entries[entry].holds;
        while record != NONE && self.records[record].id != token.0 {
            record = self.records[record].next_in_entry;
        }
        (record != NONE && self.is_current(cx, record, session, slot)).then_some(record)
    }

    #[inline]
    fn is_current(&self, cx: &Cx<'_>, record: u32, session: SessionId, slot: &Slot) -> bool {
        let r = &self.records[record];
        self.lists[r.list].slot == Sessions::slot_number(session) && cx.known_now().is_none_or(|now| now < Self::deadline(r, slot).0)
    }

    fn not_holder(&self, entry: Option<u32>) -> Step {
        let current = match entry.map(|e| self.entries[e].holds) {
            None | Some(NONE) => 0,
            Some(first) => self.records[first].id,
        };
        Step::Done(Outcome::NotHolder { current: Token(current) })
    }

    #[inline]
    pub(crate) fn release(&mut self, cx: &mut Cx<'_>, hash: u64, key: &Key, session: SessionId, token: Token) -> Step {
        let hub = cx.hub;
        let living = |slot: &&Slot| matches!(slot.life(), Life::Renewed(_));
        let Some(slot) = hub.sessions.find(session).filter(living) else { return refuse(Refusal::NoSession) };
        let Some(entry) = self.find(hash, key) else { return self.not_holder(None) };
        let first = self.entries[entry].holds;
        let plain = self.entries[entry].extra == NONE && first != NONE;
        if plain && self.records[first].delay == 0 && self.records[first].amount == 1 {
            if self.records[first].id != token.0 || !self.is_current(cx, first, session, slot) {
                return self.not_holder(Some(entry));
            }
            // Nobody waits and nobody else holds: the key is forgotten.
            self.forget(hash, entry);
            self.discard(cx, first);
            return Step::Done(Outcome::Released { left: 0 });
        }
        self.release_busy(cx, entry, session, token)
    }

    fn release_busy(&mut self, cx: &mut Cx<'_>, entry: u32, session: SessionId, token: Token) -> Step {
        if !cx.whole && self.groups_in(entry) {
            return Step::Escalate;
        }
        // Who waits must know what time it is, and so must a lock-delay.
        let (now, hub) = (cx.now(), cx.hub);
        let Some(slot) = hub.sessions.living(session, now) else { return refuse(Refusal::NoSession) };
        let Some(record) = self.current(cx, entry, session, slot, token) else { return self.not_holder(Some(entry)) };
        let r = &mut self.records[record];
        if r.kind() == 0 && r.amount > 1 {
            r.amount -= 1;
            return Step::Done(Outcome::Released { left: r.amount });
        }
        self.surrender(cx, record);
        Step::Done(Outcome::Released { left: 0 })
    }

    pub(crate) fn renew(&mut self, cx: &mut Cx<'_>, hash: u64, key: &Key, session: SessionId, token: Token, ttl: u32) -> Step {
        let (now, hub) = (cx.now(), cx.hub);
        let Some(slot) = hub.sessions.living(session, now) else { return refuse(Refusal::NoSession) };
        if !(hub.params.min_ttl_ms..=hub.params.max_ttl_ms).contains(&ttl) {
            return refuse(Refusal::Invalid(Fault::Ttl));
        }
        let entry = self.find(hash, key);
        let Some(record) = entry.and_then(|e| self.current(cx, e, session, slot, token)) else { return self.not_holder(entry) };
        let r = &mut self.records[record];
        (r.ttl, r.since) = (ttl, now);
        self.arm_hold(cx, record);
        Step::Done(Outcome::Renewed { remaining_ms: self.remaining(cx, record, now) })
    }

    pub(crate) fn force_release(&mut self, cx: &mut Cx<'_>, hash: u64, key: &Key, token: Option<Token>, delay: Option<u32>) -> Step {
        let now = cx.now();
        if delay.is_some_and(|d| d > cx.hub.params.max_ttl_ms) {
            return refuse(Refusal::Invalid(Fault::LockDelay));
        }
        let Some(entry) = self.find(hash, key) else { return Step::Done(Outcome::ReleasedMany { count: 0 }) };
        if !cx.whole && self.groups_in(entry) {
            return Step::Escalate;
        }
        self.settle(cx, entry, true);
        let mut count = 0;
        let mut record = self.entries[entry].holds;
        while record != NONE {
            let next = self.records[record].next_in_entry;
            if token.is_none_or(|t| t.0 == self.records[record].id) {
                self.lose(cx, record, now, LossReason::Forced, delay);
                count += 1;
            }
            record = next;
        }
        self.pump(cx, entry);
        self.tidy(cx, entry);
        Step::Done(Outcome::ReleasedMany { count })
    }

    /// Ends what `session` asked for under `req` on this key: the ticket of a group if it was one, otherwise whether something was
    /// found, and whether that was a grant.
    pub(super) fn cancel(&mut self, cx: &mut Cx<'_>, hash: u64, key: &Key, session: SessionId, req: u64) -> Found {
        let Some(entry) = self.find(hash, key) else { return Found::Nothing };
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
                if r.kind() == 0 && r.amount > 1 {
                    r.amount -= 1;
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
                record = self.records[record].next_in_entry;
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
            let at = if let Life::Expired(at) = life { at } else { 0 };
            self.lose(cx, record, at, loss, None);
        }
        self.pump(cx, entry);
        self.tidy(cx, entry);
        None
    }

    /// The first record of a session here.
    pub(super) fn first_of(&self, session: SessionId) -> Option<u32> {
        let slot = Sessions::slot_number(session);
        let list = *self.by_slot.find(slot_hash(slot), |&l| self.lists[l].slot == slot)?;
        let first = self.lists[list].first;
        (first != NONE).then_some(first)
    }

    /// A record from a snapshot, linked to its key.
    pub(super) fn restore_record(&mut self, cx: &mut Cx<'_>, asker: &Asker<'_>, entry: u32, id: u64, at: u64, terms: Terms<'_>) -> u32 {
        let record = self.record(cx, asker, entry, id, at, terms);
        if terms.limit != 0 {
            self.use_permits(entry, terms.limit);
        }
        if terms.flags & WAITING == 0 {
            self.add_hold(entry, record)
        } else {
            self.join_queue(entry, record)
        }
        record
    }

    /// For bulk loading: room for this many keys and records.
    pub(super) fn reserve(&mut self, cx: &Cx<'_>, keys: usize, records: usize) {
        let entries = &self.entries;
        self.table.reserve(keys, |&e| entries[e].key.as_ref().map_or(0, |k| cx.hub.hash(k)));
        self.entries.reserve(keys);
        self.records.reserve(records);
    }
}

/// What a cancellation found.
pub(super) enum Found {
    Nothing,
    Wait,
    Grant,
    Group(u64),
}
