//! The records of a shard: places in vectors, linked by number.

use std::ops::{Index, IndexMut};

use crate::base::Key;

use super::command::{Mode, Renew, Spec};

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

/// Something whose vacant places form a chain.
pub(super) trait Place: Default {
    fn chain(&mut self) -> &mut u32;
}

/// A vector that reuses its places, last freed first: those are in the cache.
pub(super) struct Slab<T> {
    items: Vec<T>,
    free: u32,
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab { items: Vec::new(), free: NONE }
    }
}

impl<T: Place> Slab<T> {
    #[inline]
    pub(super) fn take(&mut self) -> u32 {
        if self.free != NONE {
            let at = self.free;
            self.free = *self[at].chain();
            return at;
        }
        if self.items.len() == self.items.capacity() {
            // By an eighth, not by two: at a million locks the slack is memory.
            self.items.reserve_exact((self.items.len() / 8).max(4));
        }
        self.items.push(T::default());
        (self.items.len() - 1) as u32
    }

    #[inline]
    pub(super) fn give(&mut self, at: u32) {
        let free = self.free;
        *self[at].chain() = free;
        self.free = at;
    }

    pub(super) fn reserve(&mut self, n: usize) {
        self.items.reserve_exact(n);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter()
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;
    #[inline]
    fn index(&self, at: u32) -> &T {
        &self.items[at as usize]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, at: u32) -> &mut T {
        &mut self.items[at as usize]
    }
}

/// Both kinds of what a session can have on a key: a grant, or a place in the queue that may become one.
#[derive(Default)]
pub(super) struct Record {
    /// The token of a grant, the ticket of a place in a queue; 0 for a vacant place.
    pub(super) id: u64,
    /// Granted or queued at.
    pub(super) at: u64,
    /// Of a grant: its ttl counts from here. Of a place in a queue: when the wait is over.
    pub(super) since: u64,
    pub(super) req: u64,
    /// When a timer for this place of the slab will come up; 0 for none. It outlives the record.
    pub(super) armed: u64,
    pub(super) meta: Option<Box<Box<[u8]>>>,
    pub(super) ttl: u32,
    pub(super) delay: u32,
    /// Permits, or how often a session holds an exclusive lock.
    pub(super) amount: u32,
    pub(super) entry: u32,
    pub(super) list: u32,
    pub(super) next_in_list: u32,
    pub(super) prev_in_list: u32,
    /// Among the holders or in the queue of the key.
    pub(super) next_in_entry: u32,
    pub(super) prev_in_entry: u32,
    pub(super) flags: u8,
}

impl Place for Record {
    fn chain(&mut self) -> &mut u32 {
        &mut self.next_in_list
    }
}

pub(super) const SHARED: u8 = 1;
pub(super) const PERMITS: u8 = 2;
const KIND: u8 = SHARED | PERMITS;
pub(super) const MANUAL: u8 = 4;
pub(super) const REENTRANT: u8 = 8;
pub(super) const WAITING: u8 = 16;
pub(super) const GROUP: u8 = 32;
/// The session's window holds the answer to this request.
pub(super) const REMEMBERED: u8 = 64;

impl Record {
    pub(super) fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn kind(&self) -> u8 {
        self.flags & KIND
    }

    pub(super) fn mode(&self, limit: u32) -> Mode {
        match self.kind() {
            SHARED => Mode::Shared,
            PERMITS => Mode::Permits { count: self.amount, limit },
            _ => Mode::Exclusive,
        }
    }
}

/// The terms of a request, in the form in which records keep them.
#[derive(Clone, Copy)]
pub(super) struct Terms<'a> {
    pub(super) ttl: u32,
    pub(super) delay: u32,
    pub(super) amount: u32,
    pub(super) limit: u32,
    pub(super) flags: u8,
    pub(super) meta: &'a [u8],
}

impl<'a> Terms<'a> {
    pub(super) fn kind(&self) -> u8 {
        self.flags & KIND
    }

    #[inline]
    pub(super) fn of(spec: &'a Spec, more: u8) -> Terms<'a> {
        let (kind, amount, limit) = match spec.mode {
            Mode::Exclusive => (0, 1, 0),
            Mode::Shared => (SHARED, 1, 0),
            Mode::Permits { count, limit } => (PERMITS, count, limit),
        };
        let manual = if spec.renew == Renew::Manual { MANUAL } else { 0 };
        let reentrant = if spec.reentrant { REENTRANT } else { 0 };
        Terms { ttl: spec.ttl_ms, delay: spec.lock_delay_ms, amount, limit, flags: kind | manual | reentrant | more, meta: &spec.metadata }
    }
}

/// A key that is held, waited for, or in its delay.
pub(super) struct Entry {
    pub(super) key: Option<Key>,
    /// The first holder.
    pub(super) holds: u32,
    /// What few keys need; [`NONE`] while there is at most one holder and nothing else.
    pub(super) extra: u32,
}

impl Default for Entry {
    fn default() -> Entry {
        Entry { key: None, holds: NONE, extra: NONE }
    }
}

impl Place for Entry {
    fn chain(&mut self) -> &mut u32 {
        &mut self.holds
    }
}

/// Of a key with several holders, permits, a queue or a delay.
pub(super) struct Extra {
    pub(super) entry: u32,
    pub(super) last_hold: u32,
    /// Permits taken.
    pub(super) used: u32,
    /// Permits there are, while `permit_users` is not 0.
    pub(super) limit: u32,
    /// Grants and places in the queue that are for permits.
    pub(super) permit_users: u32,
    pub(super) first: u32,
    pub(super) last: u32,
    pub(super) waiting: u32,
    /// Places in the queue that belong to groups.
    pub(super) groups: u32,
    /// Nobody gets the key before; 0 for no delay.
    pub(super) delay_until: u64,
    /// The token whose loss began the delay: its place in the order of things.
    pub(super) delay_id: u64,
    pub(super) armed: u64,
}

impl Default for Extra {
    fn default() -> Extra {
        Extra {
            entry: NONE,
            last_hold: NONE,
            used: 0,
            limit: 0,
            permit_users: 0,
            first: NONE,
            last: NONE,
            waiting: 0,
            groups: 0,
            delay_until: 0,
            delay_id: 0,
            armed: 0,
        }
    }
}

impl Place for Extra {
    fn chain(&mut self) -> &mut u32 {
        &mut self.entry
    }
}

/// What one session has in one shard: its records by id, grants and places in queues together.
pub(super) struct List {
    /// The session's slot.
    pub(super) slot: u32,
    pub(super) first: u32,
    pub(super) last: u32,
}

impl Default for List {
    fn default() -> List {
        List { slot: NONE, first: NONE, last: NONE }
    }
}

impl Place for List {
    fn chain(&mut self) -> &mut u32 {
        &mut self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_stays_small() {
        assert!(size_of::<Record>() <= 88, "{}", size_of::<Record>());
        assert!(size_of::<Entry>() <= 32, "{}", size_of::<Entry>());
    }

    #[test]
    fn places_are_reused_last_freed_first() {
        let mut slab = Slab::<List>::default();
        let (a, b, c) = (slab.take(), slab.take(), slab.take());
        slab.give(a);
        slab.give(c);
        assert_eq!((slab.take(), slab.take(), slab.take()), (c, a, 3));
        assert_ne!(b, c);
    }
}
