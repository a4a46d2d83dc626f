//! Who holds a key and who waits for it, and how that changes.

use crate::base::Token;
use crate::base::planted::planted;

use super::clock::HIDDEN_MS;
use super::command::{Event, LossReason, Outcome, WaitEnd};
use super::hub::{Cx, NEVER, granted};
use super::session::{Slot, end_reasons};
use super::shard::{Asker, Shard};
use super::slab::{Extra, GROUP, MANUAL, NONE, PERMITS, REMEMBERED, SHARED, Terms, WAITING};
use super::timer::What;

impl Shard {
    /// Whether a grant of these terms may stand beside those there are.
    pub(super) fn fits(&self, entry: u32, kind: u8, amount: u32) -> bool {
        let first = self.entries[entry].holds;
        if first == NONE || planted!("two-holders") {
            return true;
        }
        match (self.records[first].kind(), kind) {
            (SHARED, SHARED) => true,
            (PERMITS, PERMITS) => self.extra(entry).is_some_and(|x| u64::from(x.used) + u64::from(amount) <= u64::from(x.limit)),
            _ => false,
        }
    }

    pub(super) fn use_permits(&mut self, entry: u32, limit: u32) {
        let extra = self.extra_mut(entry);
        extra.permit_users += 1;
        extra.limit = limit;
    }

    #[inline]
    pub(super) fn add_hold(&mut self, entry: u32, record: u32) {
        let (kind, amount) = (self.records[record].kind(), self.records[record].amount());
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
        self.records[last].set_next(record);
        self.records[record].set_prev(last);
    }

    /// Takes a grant off its key and forgets it.
    pub(super) fn remove_hold(&mut self, cx: &mut Cx<'_>, record: u32) {
        let r = &self.records[record];
        let (entry, next, prev, amount) = (r.entry, r.next(), r.prev(), r.amount());
        if prev == NONE {
            self.entries[entry].holds = next;
        } else {
            self.records[prev].set_next(next);
        }
        if next != NONE {
            self.records[next].set_prev(prev);
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
        self.tell(cx, entry);
    }

    pub(super) fn join_queue(&mut self, entry: u32, record: u32) {
        let group = u32::from(self.records[record].is(GROUP));
        let extra = self.extra_mut(entry);
        let last = std::mem::replace(&mut extra.last, record);
        extra.waiting += 1;
        extra.groups += group;
        if last == NONE {
            extra.first = record;
        } else {
            self.records[last].set_next(record);
        }
        self.records[record].set_prev(last);
    }

    fn leave_queue(&mut self, record: u32) {
        let r = &self.records[record];
        let (entry, next, prev) = (r.entry, r.next(), r.prev());
        let group = u32::from(self.records[record].is(GROUP));
        if prev != NONE {
            self.records[prev].set_next(next);
        }
        if next != NONE {
            self.records[next].set_prev(prev);
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
        self.records[record].set_next(NONE);
        self.records[record].set_prev(NONE);
    }

    /// A new grant of a free key, or beside compatible holders.
    #[inline]
    pub(super) fn grant(&mut self, cx: &mut Cx<'_>, asker: &Asker<'_>, entry: u32, token: u64, terms: Terms<'_>) -> Outcome {
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
        self.tell(cx, entry);
        let ends = Self::deadline(&self.records[record], asker.slot).0;
        granted(token, ends.saturating_sub(now + HIDDEN_MS), 1)
    }

    pub(super) fn enqueue(&mut self, cx: &mut Cx<'_>, asker: &Asker<'_>, entry: u32, ticket: u64, wait: u64, terms: Terms<'_>) -> u32 {
        let now = cx.now();
        let record = self.record(cx, asker, entry, ticket, now, Terms { flags: terms.flags | WAITING, ..terms });
        let until = now.saturating_add(wait);
        self.records[record].set_since(until);
        if terms.limit != 0 {
            self.use_permits(entry, terms.limit);
        }
        self.join_queue(entry, record);
        if until != NEVER {
            self.arm(cx, What::Record(record), until);
        }
        self.extra(entry).map_or(0, |x| x.waiting - 1)
    }

    /// A waiter becomes a holder with `token`. Who is told depends on the caller.
    pub(super) fn promote(&mut self, cx: &mut Cx<'_>, record: u32, token: u64) -> u64 {
        let now = cx.now();
        let entry = self.records[record].entry;
        debug_assert!(cx.hub.shared || self.slot_of(cx, record).is_some_and(|s| s.lives(now)), "I-08: a grant goes to a living session");
        debug_assert!(token > self.records[record].id, "I-05: tokens strictly increase");
        self.leave_queue(record);
        let r = &mut self.records[record];
        r.id = token;
        r.begin(now);
        r.clear(WAITING | GROUP);
        self.relist(record);
        self.add_hold(entry, record);
        self.arm_hold(cx, record);
        self.tell(cx, entry);
        self.remaining(cx, record, now)
    }

    /// A wait is over without a grant.
    pub(super) fn end_wait(&mut self, cx: &mut Cx<'_>, record: u32, why: WaitEnd) {
        let (session, req) = (self.session_of(cx, record), self.records[record].req);
        if self.records[record].is(REMEMBERED)
            && let Some(slot) = self.slot_of(cx, record)
        {
            slot.settle(req, Outcome::WaitEnded(why));
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
        let r = &self.records[record];
        let (entry, id, own) = (r.entry, r.id, r.delay());
        let (session, key) = (self.session_of(cx, record), self.entries[entry].name.key());
        self.remove_hold(cx, record);
        let delay = delay.unwrap_or(own);
        if delay != 0 && why != LossReason::Closed && !planted!("lock-delay-forgotten") {
            let until = at + u64::from(delay);
            let extra = self.extra_mut(entry);
            if until > extra.delay_until {
                (extra.delay_until, extra.delay_id) = (until, id);
                let what = What::Delay(self.entries[entry].extra);
                self.arm(cx, what, until);
            }
        }
        if why != LossReason::Closed
            && let Some(key) = key
        {
            cx.events.push(Event::Lost { session, key, token: Token(id), why });
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
            let alive = planted!("grant-to-the-dead") || slot.lives(now) || cx.hub.sessions.judge(slot, now);
            let r = &self.records[first];
            let (group, over) = (r.is(GROUP), r.since <= now);
            if group && (!alive || over || (delay_until <= now && self.fits(entry, r.kind(), r.amount()))) {
                cx.ready.extend(cx.hub.group_of(r.id));
                return;
            }
            if !alive {
                self.end_wait(cx, first, end_reasons(slot.life()).1);
            } else if over && !planted!("wait-without-end") {
                self.end_wait(cx, first, WaitEnd::Timeout);
            } else if delay_until > now || !self.fits(entry, r.kind(), r.amount()) {
                return;
            } else {
                self.serve(cx, first, slot);
            }
        }
    }

    /// The waiter, whose session is in `slot`, gets its key.
    pub(super) fn serve(&mut self, cx: &mut Cx<'_>, waiter: u32, slot: &Slot) {
        let (session, req) = (slot.id(), self.records[waiter].req);
        let token = cx.hub.take_tokens(1);
        let remaining_ms = self.promote(cx, waiter, token);
        if self.records[waiter].is(REMEMBERED) {
            slot.settle(req, granted(token, remaining_ms, 1));
        }
        cx.events.push(Event::Granted { session, req, token: Token(token), remaining_ms });
    }

    /// Records what time has done to a key: holders that have run out (the first ones, or all), a delay that is over.
    pub(super) fn settle(&mut self, cx: &mut Cx<'_>, entry: u32, all: bool) {
        let now = cx.now();
        let mut changed = false;
        let mut record = self.entries[entry].holds;
        while record != NONE {
            let next = self.records[record].next();
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
        if let Some(extra) = self.extra(entry)
            && extra.delay_until != 0
            && extra.delay_until <= now
        {
            self.extra_mut(entry).delay_until = 0;
            changed = true;
        }
        if changed {
            self.pump(cx, entry);
        }
    }
}
