//! Deadlines: a lazy heap a shard, with at most a few items for each place of a slab.
//!
//! A timer is a lower bound. It is checked against the record when it comes up, and set again if the record was renewed or
//! replaced since; so a renewal costs nothing here, nor does a lock that is taken and given back.
//! Measured against the alternatives in stack.md 6: 3 ns a renewal at 10 000 leases.

use std::cmp::Reverse;

use super::command::WaitEnd;
use super::hub::Cx;
use super::shard::Shard;
use super::slab::{GROUP, WAITING};

/// Fewer stale items than this are not worth a clean-up.
const STALE_MIN: usize = 1 << 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// A grant's end, or a wait's.
    Record(u32),
    /// A lock-delay's end.
    Delay(u32),
}

/// Ordered by time, then by the token or ticket: an order that no layout can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Timer {
    pub(super) at: u64,
    pub(super) id: u64,
    pub(super) what: What,
}

impl Shard {
    /// What the timer's place says now: when it is really due, and its id. `None` when there is nothing to wait for.
    fn really(&self, cx: &Cx<'_>, what: What) -> Option<(u64, u64)> {
        match what {
            What::Record(record) => {
                let r = &self.records[record];
                if r.id == 0 {
                    None
                } else if r.is(WAITING) {
                    Some((r.since, r.id))
                } else {
                    Some((Shard::deadline(r, self.slot_of(cx, record)?).0, r.id))
                }
            }
            What::Delay(extra) => {
                let x = &self.extras[extra];
                (x.delay_until != 0).then_some((x.delay_until, x.delay_id))
            }
        }
    }

    fn armed(&mut self, what: What) -> &mut u64 {
        match what {
            What::Record(r) => &mut self.records[r].armed,
            What::Delay(x) => &mut self.extras[x].armed,
        }
    }

    /// The first timer if it is due at `now`: its time and id.
    pub(super) fn due(&mut self, cx: &mut Cx<'_>, now: u64) -> Option<(u64, u64)> {
        while let Some(&Reverse(timer)) = self.timers.peek() {
            if timer.at > now {
                return None;
            }
            if *self.armed(timer.what) != timer.at {
                self.timers.pop();
                continue;
            }
            match self.really(cx, timer.what) {
                Some((at, id)) if (at, id) == (timer.at, timer.id) => return Some((at, id)),
                Some((at, _)) => {
                    self.timers.pop();
                    *self.armed(timer.what) = 0;
                    // A time already past keeps its place in the order: a later look sorts it in.
                    self.arm(cx, timer.what, at);
                }
                None => {
                    self.timers.pop();
                    *self.armed(timer.what) = 0;
                }
            }
        }
        None
    }

    /// Does what the first timer, which is due, is for. The ticket if that is a wait for several keys.
    pub(super) fn fire(&mut self, cx: &mut Cx<'_>, now: u64) -> Option<u64> {
        let Reverse(timer) = self.timers.pop()?;
        *self.armed(timer.what) = 0;
        match timer.what {
            What::Record(record) if self.records[record].is(GROUP) => return Some(timer.id),
            What::Record(record) => {
                let entry = self.records[record].entry;
                if self.records[record].is(WAITING) {
                    self.end_wait(cx, record, WaitEnd::Timeout);
                } else if let Some((at, why)) = self.lapse(cx, record, now) {
                    self.lose(cx, record, at, why, None);
                }
                self.pump(cx, entry);
                self.tidy(cx, entry);
            }
            What::Delay(extra) => {
                let entry = self.extras[extra].entry;
                self.extras[extra].delay_until = 0;
                self.pump(cx, entry);
                self.tidy(cx, entry);
            }
        }
        None
    }

    /// A lower bound of the next deadline here.
    pub(super) fn nearest(&self) -> Option<u64> {
        self.timers.peek().map(|Reverse(t)| t.at)
    }

    /// Keeps the heap from growing with ttls that vary wildly.
    pub(super) fn prune(&mut self) {
        if self.timers.len() < STALE_MIN || self.timers.len() < 2 * self.used as usize {
            return;
        }
        let (records, extras) = (&self.records, &self.extras);
        self.timers.retain(|Reverse(t)| match t.what {
            What::Record(r) => records[r].armed == t.at,
            What::Delay(x) => extras[x].armed == t.at,
        });
    }
}
