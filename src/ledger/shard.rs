//! One part of the lock table, and the operations that concern one key.
//!
//! Every operation is a pure method of the shard and a [`Cx`]. A shard knows nothing of other shards: where a request for
//! several keys waits in a key's queue, the operation answers [`Cx::escalate`] before it has changed anything, unless the
//! caller has every shard at hand.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hashbrown::HashTable;

use crate::base::SessionId;

use super::clock::HIDDEN_MS;
use super::command::LossReason;
use super::hub::Cx;
use super::session::{Life, Sessions, Slot, end_reasons};
use super::slab::{Entry, Extra, Inline, List, MANUAL, NONE, Name, Probe, Record, Slab, Terms, WAITING};
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

/// What every operation touches comes first.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Shard {
    pub(super) table: HashTable<u32>,
    /// The list used last: one session often does all the work.
    hot: u32,
    idle: u32,
    /// Places taken from the common budget and not in use.
    pub(super) spare: u64,
    /// Places in use.
    pub(super) used: u64,
    pub(super) entries: Slab<Entry>,
    pub(super) records: Slab<Record>,
    pub(super) lists: Inline<List>,
    pub(super) number: usize,
    by_slot: HashTable<u32>,
    pub(super) extras: Slab<Extra>,
    pub(super) timers: BinaryHeap<Reverse<Timer>>,
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
    pub(super) fn find(&self, probe: &Probe<'_>) -> Option<u32> {
        self.table.find(probe.hash, |&e| probe.is(&self.entries[e].name)).copied()
    }

    pub(super) fn slot_of<'a>(&self, cx: &Cx<'a>, record: u32) -> Option<&'a Slot> {
        cx.hub.sessions.at(self.lists[self.records[record].list].slot)
    }

    pub(super) fn session_of(&self, cx: &Cx<'_>, record: u32) -> SessionId {
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

    pub(super) fn groups_in(&self, entry: u32) -> bool {
        self.extra(entry).is_some_and(|x| x.groups != 0)
    }

    /// When a grant is over unless something renews it, and why it would be.
    pub(super) fn deadline(record: &Record, slot: &Slot) -> (u64, LossReason) {
        let life = slot.life();
        let Life::Renewed(renewed) = life else {
            return (life.ended_at(), end_reasons(life).0);
        };
        let session_ends = renewed + u64::from(slot.ttl()) + HIDDEN_MS;
        let from = if record.is(MANUAL) { record.since } else { record.since.max(renewed) };
        let own = from + u64::from(record.ttl) + HIDDEN_MS;
        let (at, why) = if own < session_ends { (own, LossReason::Expired) } else { (session_ends, LossReason::SessionExpired) };
        match record.revoke_at() {
            0 => (at, why),
            revoke_at if revoke_at < at => (revoke_at, LossReason::Revoked),
            _ => (at, why),
        }
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

    /// The first record of a session here.
    pub(super) fn first_of(&self, session: SessionId) -> Option<u32> {
        let slot = Sessions::slot_number(session);
        let list = *self.by_slot.find(slot_hash(slot), |&l| self.lists[l].slot == slot)?;
        let first = self.lists[list].first;
        (first != NONE).then_some(first)
    }

    // ---- places --------------------------------------------------------------------------------

    /// Makes sure that `n` places are spare; false when the budget has none.
    pub(super) fn need(&mut self, cx: &Cx<'_>, n: u64) -> bool {
        if self.spare < n {
            self.spare += cx.hub.take_places(n - self.spare);
        }
        self.spare >= n
    }

    #[inline]
    pub(super) fn list_for(&mut self, cx: &Cx<'_>, slot_number: u32, slot: &Slot) -> u32 {
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
    #[inline]
    pub(super) fn record(&mut self, cx: &Cx<'_>, asker: &Asker<'_>, entry: u32, id: u64, now: u64, terms: Terms<'_>) -> u32 {
        debug_assert!(self.spare > 0);
        self.spare -= 1;
        self.used += 1;
        let list = self.list_for(cx, Sessions::slot_number(asker.session), asker.slot);
        let at = self.records.take();
        let prev = std::mem::replace(&mut self.lists[list].last, at);
        let armed = self.records[at].armed;
        let mut record = Record::new(id, now, asker.req, armed, entry, list, &Terms { flags: terms.flags | asker.flags, ..terms });
        record.prev_in_list = prev;
        self.records[at] = record;
        if prev == NONE {
            self.lists[list].first = at;
        } else {
            self.records[prev].next_in_list = at;
        }
        at
    }

    #[inline]
    pub(super) fn unlist(&mut self, record: u32) {
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
    pub(super) fn relist(&mut self, record: u32) {
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

    #[inline]
    pub(super) fn discard(&mut self, cx: &Cx<'_>, record: u32) {
        self.unlist(record);
        self.records[record].vacate();
        self.records.give(record);
        self.used -= 1;
        self.spare += 1;
        if self.spare > 2 * cx.hub.batch() {
            self.spare -= cx.hub.batch();
            cx.hub.give_places(cx.hub.batch());
        }
    }

    pub(super) fn new_entry(&mut self, cx: &Cx<'_>, probe: &Probe<'_>) -> u32 {
        let entry = self.entries.take();
        self.entries[entry] = Entry { name: probe.name(), holds: NONE, extra: NONE };
        let entries = &self.entries;
        self.table.insert_unique(probe.hash, entry, |&e| cx.hub.hash_name(&entries[e].name));
        entry
    }

    /// The entry of `key`, made if there is none.
    pub(super) fn entry_for(&mut self, cx: &Cx<'_>, probe: &Probe<'_>) -> u32 {
        self.find(probe).unwrap_or_else(|| self.new_entry(cx, probe))
    }

    /// Forgets the entry if nothing keeps it.
    pub(super) fn tidy(&mut self, cx: &Cx<'_>, entry: u32) {
        let Entry { holds, extra, .. } = self.entries[entry];
        if holds != NONE || (extra != NONE && (self.extras[extra].first != NONE || self.extras[extra].delay_until != 0)) {
            return;
        }
        if matches!(self.entries[entry].name, Name::Vacant) {
            return;
        }
        let hash = cx.hub.hash_name(&self.entries[entry].name);
        self.forget(hash, entry);
        if extra != NONE {
            self.extras.give(extra);
        }
    }

    fn forget(&mut self, hash: u64, entry: u32) {
        if let Ok(bucket) = self.table.find_entry(hash, |&e| e == entry) {
            bucket.remove();
        }
        self.entries[entry].name = Name::Vacant;
        self.entries.give(entry);
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

    /// For bulk loading: room for this many keys.
    pub(super) fn reserve(&mut self, cx: &Cx<'_>, keys: usize) {
        let entries = &self.entries;
        self.table.reserve(keys, |&e| cx.hub.hash_name(&entries[e].name));
    }
}
