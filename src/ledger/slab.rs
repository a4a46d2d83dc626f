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

/// Places in each chunk after the first.
const CHUNK: usize = 128;

/// Where a slab's first places are: in it, or one load away.
pub(super) trait First<T>: Default {
    const LEN: usize;
    fn places(&self) -> &[T];
    fn places_mut(&mut self) -> &mut [T];
    /// Called before the first use.
    fn prepare(&mut self) {}
}

impl<T: Default> First<T> for [T; 4] {
    const LEN: usize = 4;
    #[inline(always)]
    fn places(&self) -> &[T] {
        self
    }
    #[inline(always)]
    fn places_mut(&mut self) -> &mut [T] {
        self
    }
}

/// Most nodes have few locks, and each shard a few dozen at most.
type Near<T> = Option<Box<[T; 32]>>;

impl<T: Default> First<T> for Near<T> {
    const LEN: usize = 32;
    #[inline(always)]
    fn places(&self) -> &[T] {
        self.as_deref().map_or(&[], |places| &places[..])
    }
    #[inline(always)]
    fn places_mut(&mut self) -> &mut [T] {
        self.as_deref_mut().map_or(&mut [], |places| &mut places[..])
    }
    fn prepare(&mut self) {
        *self = Some(Box::new(std::array::from_fn(|_| T::default())));
    }
}

struct More<T>(Vec<Vec<T>>);

/// Numbered places that never move, the last freed reused first: those are in the cache. The first few cost one load at
/// most; the others are in chunks, so that growing copies nothing and leaves no holes behind.
#[repr(C)]
pub(super) struct Slab<T, F = Near<T>> {
    free: u32,
    len: u32,
    more: Option<Box<More<T>>>,
    first: F,
}

/// A slab whose first places are in it.
pub(super) type Inline<T> = Slab<T, [T; 4]>;

impl<T, F: First<T>> Default for Slab<T, F> {
    fn default() -> Slab<T, F> {
        Slab { free: NONE, len: 0, more: None, first: F::default() }
    }
}

impl<T: Place, F: First<T>> Slab<T, F> {
    #[inline]
    pub(super) fn take(&mut self) -> u32 {
        if self.free == NONE {
            return self.grow();
        }
        let at = self.free;
        self.free = *self[at].chain();
        at
    }

    #[cold]
    fn grow(&mut self) -> u32 {
        let at = self.len;
        self.len += 1;
        if at == 0 {
            self.first.prepare();
        }
        if at as usize >= F::LEN {
            let more = self.more.get_or_insert_with(|| Box::new(More(Vec::new())));
            if more.0.last().is_none_or(|chunk| chunk.len() == CHUNK) {
                more.0.push(Vec::with_capacity(CHUNK));
            }
            if let Some(chunk) = more.0.last_mut() {
                chunk.push(T::default());
            }
        }
        at
    }

    #[inline]
    pub(super) fn give(&mut self, at: u32) {
        let free = self.free;
        *self[at].chain() = free;
        self.free = at;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        let more = self.more.iter().flat_map(|more| more.0.iter().flatten());
        self.first.places().iter().take(self.len as usize).chain(more)
    }
}

impl<T, F: First<T>> Index<u32> for Slab<T, F> {
    type Output = T;
    #[inline(always)]
    fn index(&self, at: u32) -> &T {
        let at = at as usize;
        match &self.more {
            Some(more) if at >= F::LEN => &more.0[(at - F::LEN) / CHUNK][(at - F::LEN) % CHUNK],
            _ => &self.first.places()[at],
        }
    }
}

impl<T, F: First<T>> IndexMut<u32> for Slab<T, F> {
    #[inline(always)]
    fn index_mut(&mut self, at: u32) -> &mut T {
        let at = at as usize;
        match &mut self.more {
            Some(more) if at >= F::LEN => &mut more.0[(at - F::LEN) / CHUNK][(at - F::LEN) % CHUNK],
            _ => &mut self.first.places_mut()[at],
        }
    }
}

/// Both kinds of what a session can have on a key: a grant, or a place in the queue that may become one.
/// One cache line.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Record {
    /// The token of a grant, the ticket of a place in a queue; 0 for a vacant place.
    pub(super) id: u64,
    /// Of a grant: its ttl counts from here. Of a place in a queue: when the wait is over.
    pub(super) since: u64,
    pub(super) req: u64,
    /// When a timer for this place of the slab will come up; 0 for none. It outlives the record.
    pub(super) armed: u64,
    rare: Option<Box<Rare>>,
    pub(super) ttl: u32,
    /// Flags in the upper 8 bits. Below them the permits, or how often a session holds an exclusive lock.
    amount_flags: u32,
    pub(super) entry: u32,
    pub(super) list: u32,
    pub(super) next_in_list: u32,
    pub(super) prev_in_list: u32,
}

/// What a plain grant of an exclusive lock does without.
struct Rare {
    meta: Box<[u8]>,
    /// Granted or queued at, if that is not [`Record::since`].
    at: u64,
    delay: u32,
    /// When it is taken away, if its holder was asked to give it back by then; 0 for never.
    revoke_at: u64,
    /// Among the holders or in the queue of the key.
    next: u32,
    prev: u32,
}

/// In [`Rare::at`]: the same as [`Record::since`].
const SAME: u64 = u64::MAX;

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

/// The most permits of a semaphore, and the deepest reentrancy.
pub(super) const AMOUNT_MAX: u32 = (1 << 24) - 1;

impl Record {
    /// A record of these terms, linked to nothing yet, in a place whose timer is `armed`.
    #[inline]
    pub(super) fn new(id: u64, since: u64, req: u64, armed: u64, entry: u32, list: u32, terms: &Terms<'_>) -> Record {
        let mut record = Record {
            id,
            since,
            req,
            armed,
            rare: None,
            ttl: terms.ttl,
            amount_flags: terms.amount & AMOUNT_MAX | u32::from(terms.flags) << 24,
            entry,
            list,
            next_in_list: NONE,
            prev_in_list: NONE,
        };
        if terms.delay != 0 || !terms.meta.is_empty() {
            let rare = record.rare();
            (rare.delay, rare.meta) = (terms.delay, terms.meta.into());
        }
        record
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_with(|| Box::new(Rare { meta: Box::default(), at: SAME, delay: 0, revoke_at: 0, next: NONE, prev: NONE }))
    }

    #[inline]
    pub(super) fn vacate(&mut self) {
        self.id = 0;
        self.rare = None;
    }

    #[inline]
    pub(super) fn flags(&self) -> u8 {
        (self.amount_flags >> 24) as u8
    }

    #[inline]
    pub(super) fn is(&self, flag: u8) -> bool {
        self.flags() & flag != 0
    }

    pub(super) fn clear(&mut self, flags: u8) {
        self.amount_flags &= !(u32::from(flags) << 24);
    }

    #[inline]
    pub(super) fn kind(&self) -> u8 {
        self.flags() & KIND
    }

    #[inline]
    pub(super) fn amount(&self) -> u32 {
        self.amount_flags & AMOUNT_MAX
    }

    pub(super) fn set_amount(&mut self, amount: u32) {
        self.amount_flags = self.amount_flags & !AMOUNT_MAX | amount & AMOUNT_MAX;
    }

    pub(super) fn mode(&self, limit: u32) -> Mode {
        match self.kind() {
            SHARED => Mode::Shared,
            PERMITS => Mode::Permits { count: self.amount(), limit },
            _ => Mode::Exclusive,
        }
    }

    #[inline]
    pub(super) fn delay(&self) -> u32 {
        self.rare.as_ref().map_or(0, |r| r.delay)
    }

    pub(super) fn revoke_at(&self) -> u64 {
        self.rare.as_ref().map_or(0, |r| r.revoke_at)
    }

    pub(super) fn set_revoke_at(&mut self, at: u64) {
        self.rare().revoke_at = at;
    }

    pub(super) fn set_meta(&mut self, meta: &[u8]) {
        if !meta.is_empty() || self.rare.is_some() {
            self.rare().meta = meta.into();
        }
    }

    pub(super) fn meta(&self) -> &[u8] {
        self.rare.as_ref().map_or(&[], |r| &r.meta)
    }

    /// Granted or queued at.
    pub(super) fn at(&self) -> u64 {
        self.rare.as_ref().map(|r| r.at).filter(|at| *at != SAME).unwrap_or(self.since)
    }

    /// Moves [`Record::since`]; when the record began stays known.
    pub(super) fn set_since(&mut self, since: u64) {
        let at = self.at();
        if at != since {
            self.rare().at = at;
        }
        self.since = since;
    }

    /// The record begins now.
    pub(super) fn begin(&mut self, now: u64) {
        if let Some(rare) = &mut self.rare {
            rare.at = SAME;
        }
        self.since = now;
    }

    /// The next among the holders, or in the queue.
    #[inline]
    pub(super) fn next(&self) -> u32 {
        self.rare.as_ref().map_or(NONE, |r| r.next)
    }

    #[inline]
    pub(super) fn prev(&self) -> u32 {
        self.rare.as_ref().map_or(NONE, |r| r.prev)
    }

    pub(super) fn set_next(&mut self, next: u32) {
        if next != self.next() {
            self.rare().next = next;
        }
    }

    pub(super) fn set_prev(&mut self, prev: u32) {
        if prev != self.prev() {
            self.rare().prev = prev;
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

/// A key as the table keeps it. Words and not bytes: what was written as words is read back as words without a stall.
#[derive(Default)]
pub(super) enum Name {
    #[default]
    Vacant,
    Short([u64; 3]),
    Long(Box<[u8]>),
}

impl Name {
    pub(super) fn key(&self) -> Option<Key> {
        match self {
            Name::Vacant => None,
            Name::Short(words) => Some(Key::from_words(*words)),
            Name::Long(bytes) => Key::new(bytes).ok(),
        }
    }
}

/// A key that is looked for, with its hash.
#[derive(Clone, Copy)]
pub(crate) struct Probe<'k> {
    pub(crate) hash: u64,
    /// Of a short key; zeros for a long one.
    pub(super) words: [u64; 3],
    pub(super) key: &'k Key,
}

impl Probe<'_> {
    #[inline]
    pub(super) fn is(&self, name: &Name) -> bool {
        match name {
            Name::Short(words) => *words == self.words,
            Name::Long(bytes) => self.words == [0; 3] && **bytes == *self.key.as_bytes(),
            Name::Vacant => false,
        }
    }

    #[inline]
    pub(super) fn name(&self) -> Name {
        if self.words == [0; 3] { Name::Long(self.key.as_bytes().into()) } else { Name::Short(self.words) }
    }
}

/// A key that is held, waited for, or in its delay.
pub(super) struct Entry {
    pub(super) name: Name,
    /// The first holder.
    pub(super) holds: u32,
    /// What few keys need; [`NONE`] while there is at most one holder and nothing else.
    pub(super) extra: u32,
}

impl Default for Entry {
    fn default() -> Entry {
        Entry { name: Name::Vacant, holds: NONE, extra: NONE }
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
        assert!(size_of::<Record>() <= 64, "{}", size_of::<Record>());
        assert!(size_of::<Entry>() <= 40, "{}", size_of::<Entry>());
    }

    #[test]
    fn places_are_reused_last_freed_first() {
        let mut slab = Inline::<List>::default();
        let (a, b, c) = (slab.take(), slab.take(), slab.take());
        slab.give(a);
        slab.give(c);
        assert_eq!((slab.take(), slab.take(), slab.take()), (c, a, 3));
        assert_ne!(b, c);
    }

    #[test]
    fn places_are_numbered_without_gaps() {
        let mut slab = Slab::<List>::default();
        for want in 0..1_000 {
            let at = slab.take();
            assert_eq!(at, want);
            slab[at].slot = want;
        }
        assert!(slab.iter().map(|l| l.slot).eq(0..1_000));
        assert!((0..1_000).all(|n| slab[n].slot == n));
    }

    #[test]
    fn a_record_remembers_when_it_began() {
        let terms = Terms { ttl: 1, delay: 0, amount: AMOUNT_MAX, limit: 0, flags: 0xff, meta: b"m" };
        let mut r = Record::new(9, 100, 3, 0, 1, 2, &terms);
        assert_eq!((r.at(), r.amount(), r.flags(), r.meta()), (100, AMOUNT_MAX, 0xff, &b"m"[..]));
        r.set_since(150);
        r.set_since(170);
        assert_eq!((r.at(), r.since), (100, 170));
        r.begin(200);
        assert_eq!((r.at(), r.since), (200, 200));
        r.clear(WAITING | GROUP);
        r.set_amount(5);
        assert_eq!((r.flags(), r.amount()), (!(WAITING | GROUP), 5));
    }
}
