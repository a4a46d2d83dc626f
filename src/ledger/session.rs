//! Sessions: a table that any thread may read without a lock, since every acquisition asks it one question.
//!
//! Whether a session lives is one atomic word: the time of its last renewal, or the fact and time of its end. Ending it is one
//! compare-and-swap, so a renewal either comes before the end or fails; no thread can see it otherwise.

use crate::base::planted::planted;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::base::SessionId;
use crate::base::codec::{Decode, Encode};

use super::clock::HIDDEN_MS;
use super::command::{LossReason, Outcome, WaitEnd};

/// Bits of a session id that name its slot; the rest is a serial number.
const SLOT_BITS: u32 = 24;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;
/// The table is a tree of fixed depth whose pages are made when a slot of theirs is first used and never move. Pages are small, so that
/// a snapshot of one session takes no more than a page, whatever its number (I-30).
const PAGE_BITS: u32 = 6;
const PAGE: usize = 1 << PAGE_BITS;
const BRANCH_BITS: u32 = 9;
const BRANCH: usize = 1 << BRANCH_BITS;
const BRANCHES: usize = 1 << (SLOT_BITS - BRANCH_BITS - PAGE_BITS);
/// Cancelled requests that a session remembers, should they come after their cancellation.
const CANCELLED_MAX: usize = 64;

/// Marks an ended session in [`Slot::life`]; the other bits are the time of the end, or all set when it was closed.
const ENDED: u64 = 1 << 63;
const CLOSED: u64 = u64::MAX;
/// Beside [`ENDED`]: it was taken over.
const SUPERSEDED: u64 = 1 << 62;

/// What one word says of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// Renewed at.
    Renewed(u64),
    /// Ran out at.
    Expired(u64),
    /// Taken over at.
    Superseded(u64),
    Closed,
}

impl Life {
    /// When a session that was not closed has ended; 0 for the others.
    pub(super) fn ended_at(self) -> u64 {
        match self {
            Life::Expired(at) | Life::Superseded(at) => at,
            Life::Renewed(_) | Life::Closed => 0,
        }
    }

    pub(super) fn from_word(word: u64) -> Life {
        match word {
            CLOSED => Life::Closed,
            w if w & (ENDED | SUPERSEDED) == ENDED | SUPERSEDED => Life::Superseded(w & !(ENDED | SUPERSEDED)),
            w if w & ENDED != 0 => Life::Expired(w & !ENDED),
            w => Life::Renewed(w),
        }
    }
}

#[repr(align(64))]
pub(super) struct Slot {
    id: AtomicU64,
    life: AtomicU64,
    /// Which 64ths of the shards may hold something of this session. Bits are only ever added.
    places: AtomicU64,
    ttl: AtomicU32,
    /// No grant of this session that its renewals extend has a ttl below this.
    shortest: AtomicU32,
    /// How many cancelled requests the body remembers.
    cancelled: AtomicU32,
    body: Mutex<Body>,
}

/// What operations rarely need.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Body {
    pub(super) nonce: u128,
    pub(super) name: String,
    pub(super) window: Window,
    pub(super) cancelled: Vec<u64>,
}

/// The answers that a session remembers: exactly-once within a bounded window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Window {
    /// Numbers up to here are forgotten.
    floor: u64,
    /// Sorted by number.
    answers: Vec<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
struct Answer {
    seq: u64,
    req: u64,
    outcome: Outcome,
}

/// What the window knows of a number.
pub(super) enum Known {
    New,
    Answered(Outcome),
    Forgotten,
}

impl Window {
    pub(super) fn look(&self, seq: u64) -> Known {
        if planted!("retry-applied-again") {
            return Known::New;
        }
        match self.answers.binary_search_by_key(&seq, |a| a.seq) {
            Ok(at) => self.answers.get(at).map_or(Known::New, |a| Known::Answered(a.outcome)),
            Err(_) if seq <= self.floor => Known::Forgotten,
            Err(_) => Known::New,
        }
    }

    pub(super) fn remember(&mut self, seq: u64, req: u64, outcome: Outcome, window: usize) {
        let at = self.answers.partition_point(|a| a.seq < seq);
        self.answers.insert(at, Answer { seq, req, outcome });
        if self.answers.len() > window {
            self.floor = self.floor.max(self.answers.remove(0).seq);
        }
    }

    /// A request that was queued has ended: its retries get this answer from now on.
    fn settle(&mut self, req: u64, outcome: Outcome) {
        for answer in &mut self.answers {
            if answer.req == req && matches!(answer.outcome, Outcome::Queued { .. }) {
                answer.outcome = outcome;
            }
        }
    }
}

impl Slot {
    fn empty() -> Slot {
        Slot {
            id: AtomicU64::new(0),
            life: AtomicU64::new(CLOSED),
            places: AtomicU64::new(0),
            ttl: AtomicU32::new(0),
            shortest: AtomicU32::new(0),
            cancelled: AtomicU32::new(0),
            body: Mutex::default(),
        }
    }

    #[inline]
    pub(super) fn id(&self) -> SessionId {
        SessionId(self.id.load(Acquire))
    }

    #[inline]
    pub(super) fn life(&self) -> Life {
        Life::from_word(self.life.load(Acquire))
    }

    #[inline]
    pub(super) fn ttl(&self) -> u32 {
        self.ttl.load(Relaxed)
    }

    /// When it is over unless it is renewed before; 0 when it has ended.
    #[inline]
    pub(super) fn deadline(&self) -> u64 {
        match self.life() {
            Life::Renewed(at) if planted!("session-expires-early") => at + u64::from(self.ttl()) * 9 / 10,
            Life::Renewed(at) => at + u64::from(self.ttl()) + HIDDEN_MS,
            Life::Expired(_) | Life::Superseded(_) | Life::Closed => 0,
        }
    }

    /// Whether it lives at `now`, as far as can be told without ending it.
    #[inline]
    pub(super) fn lives(&self, now: u64) -> bool {
        now < self.deadline()
    }

    #[inline]
    pub(super) fn shortest(&self) -> u32 {
        self.shortest.load(Acquire)
    }

    #[inline]
    pub(super) fn note_ttl(&self, ttl: u32) {
        if ttl < self.shortest.load(Relaxed) {
            self.shortest.fetch_min(ttl, AcqRel);
        }
    }

    #[inline]
    pub(super) fn note_place(&self, shard: usize) {
        let bit = 1u64 << (shard & 63);
        if self.places.load(Relaxed) & bit == 0 {
            self.places.fetch_or(bit, AcqRel);
        }
    }

    #[inline]
    pub(super) fn may_be_in(&self, shard: usize) -> bool {
        self.places.load(Acquire) & (1u64 << (shard & 63)) != 0
    }

    pub(super) fn body(&self) -> MutexGuard<'_, Body> {
        // A panic under this lock is one under the shard's lock too, and that one poisons the engine.
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the request was cancelled before it came.
    #[inline]
    pub(super) fn was_cancelled(&self, req: u64) -> bool {
        self.cancelled.load(Relaxed) != 0 && self.body().cancelled.contains(&req)
    }

    pub(super) fn remember_cancelled(&self, req: u64) {
        let mut body = self.body();
        if !body.cancelled.contains(&req) {
            if body.cancelled.len() == CANCELLED_MAX {
                body.cancelled.remove(0);
            }
            body.cancelled.push(req);
            self.cancelled.store(body.cancelled.len() as u32, Relaxed);
        }
    }

    pub(super) fn settle(&self, req: u64, outcome: Outcome) {
        self.body().window.settle(req, outcome);
    }
}

/// A session that has ended and still has something to clear away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Dying(pub(super) SessionId);

/// What only opening, ending and expiry need.
#[derive(Default)]
pub(super) struct Index {
    /// Slots that were cleared.
    free: BinaryHeap<Reverse<u32>>,
    /// Slots that a snapshot left out, in order.
    gaps: VecDeque<Range<u32>>,
    next_slot: u32,
    pub(super) serial: u64,
    pub(super) open: u64,
    by_nonce: HashMap<u128, SessionId>,
    /// Lower bounds of deadlines; checked against the slot when they come up.
    timers: BinaryHeap<Reverse<(u64, u64)>>,
    pub(super) dying: VecDeque<Dying>,
}

type Page = Box<[Slot; PAGE]>;

type Branch = Box<[OnceLock<Page>; BRANCH]>;

pub(super) struct Sessions {
    branches: [OnceLock<Branch>; BRANCHES],
    index: Mutex<Index>,
}

/// Where a slot lies: its branch, its page there and its place in that.
fn place(slot: u32) -> (usize, usize, usize) {
    let slot = slot as usize;
    (slot >> (BRANCH_BITS + PAGE_BITS), slot >> PAGE_BITS & (BRANCH - 1), slot & (PAGE - 1))
}

/// How a session's end looks to one of its grants, and to one of its waits.
pub(super) fn end_reasons(life: Life) -> (LossReason, WaitEnd) {
    match life {
        Life::Closed => (LossReason::Closed, WaitEnd::SessionClosed),
        Life::Superseded(_) => (LossReason::Superseded, WaitEnd::SessionExpired),
        Life::Expired(_) | Life::Renewed(_) => (LossReason::SessionExpired, WaitEnd::SessionExpired),
    }
}

impl Sessions {
    pub(super) fn new() -> Sessions {
        Sessions { branches: [const { OnceLock::new() }; BRANCHES], index: Mutex::default() }
    }

    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    pub(super) fn slot_number(id: SessionId) -> u32 {
        (id.0 & SLOT_MASK) as u32
    }

    /// The slot of this number, if there is one.
    #[inline]
    pub(super) fn at(&self, slot: u32) -> Option<&Slot> {
        let (branch, page, within) = place(slot);
        self.branches.get(branch)?.get()?.get(page)?.get()?.get(within)
    }

    /// The slot of a session that has not been cleared away, living or not.
    #[inline]
    pub(super) fn find(&self, id: SessionId) -> Option<&Slot> {
        self.at(Self::slot_number(id)).filter(|s| id.0 != 0 && s.id() == id)
    }

    /// The slot of a session that lives at `now`. One whose time has come ends here.
    #[inline]
    pub(super) fn living(&self, id: SessionId, now: u64) -> Option<&Slot> {
        let slot = self.find(id)?;
        if slot.lives(now) || self.judge(slot, now) { Some(slot) } else { None }
    }

    /// Whether `slot` lives at `now`, ending it if its time has come.
    #[cold]
    pub(super) fn judge(&self, slot: &Slot, now: u64) -> bool {
        loop {
            let word = slot.life.load(Acquire);
            let Life::Renewed(at) = Life::from_word(word) else { return false };
            let deadline = at + u64::from(slot.ttl()) + HIDDEN_MS;
            if now < deadline {
                return true;
            }
            if self.end(slot, word, ENDED | deadline) {
                return false;
            }
        }
    }

    /// Ends a living session by its owner's wish; false when it had ended already.
    pub(super) fn close(&self, slot: &Slot) -> bool {
        self.end_now(slot, CLOSED)
    }

    /// Ends a living session in favour of another one; false when it had ended already.
    pub(super) fn supersede(&self, slot: &Slot, now: u64) -> bool {
        self.end_now(slot, ENDED | SUPERSEDED | now)
    }

    fn end_now(&self, slot: &Slot, to: u64) -> bool {
        loop {
            let word = slot.life.load(Acquire);
            if !matches!(Life::from_word(word), Life::Renewed(_)) {
                return false;
            }
            if self.end(slot, word, to) {
                return true;
            }
        }
    }

    fn end(&self, slot: &Slot, from: u64, to: u64) -> bool {
        let mut index = self.index();
        let ended = slot.life.compare_exchange(from, to, AcqRel, Acquire).is_ok();
        if ended {
            index.dying.push_back(Dying(slot.id()));
        }
        ended
    }

    /// The session lives for another ttl from `now`; `None` when it has ended.
    pub(super) fn renew(&self, id: SessionId, now: u64) -> Option<u64> {
        let slot = self.find(id)?;
        loop {
            if !slot.lives(now) && !self.judge(slot, now) {
                return None;
            }
            let word = slot.life.load(Acquire);
            let Life::Renewed(at) = Life::from_word(word) else { return None };
            let next = now.max(at);
            if slot.life.compare_exchange(word, next, AcqRel, Acquire).is_ok() {
                // Another thread may have cleared the slot and opened it for somebody else after it was found.
                return (slot.id() == id).then(|| next + u64::from(slot.ttl()) - now);
            }
        }
    }

    /// How long ago the session was last renewed.
    pub(super) fn gap(slot: &Slot, now: u64) -> u64 {
        match slot.life() {
            Life::Renewed(at) => now.saturating_sub(at),
            Life::Expired(_) | Life::Superseded(_) | Life::Closed => 0,
        }
    }

    /// The session that lives at `now` and was opened with this nonce.
    pub(super) fn by_nonce(&self, nonce: u128, now: u64) -> Option<SessionId> {
        let id = self.index().by_nonce.get(&nonce).copied()?;
        self.living(id, now).map(|_| id)
    }

    /// Opens a session in the lowest free slot, so that a restored table gives the same numbers. Returns its id and deadline.
    pub(super) fn open(&self, nonce: u128, name: &str, ttl: u32, now: u64) -> (SessionId, u64) {
        let mut index = self.index();
        let slot = index.lowest_free();
        index.serial += 1;
        let id = SessionId(index.serial << SLOT_BITS | u64::from(slot));
        let body = Body { nonce, name: name.to_owned(), ..Body::default() };
        let deadline = self.fill(&mut index, id, now, ttl, body);
        (id, deadline)
    }

    fn fill(&self, index: &mut Index, id: SessionId, life: u64, ttl: u32, body: Body) -> u64 {
        let (branch, page, within) = place(Self::slot_number(id));
        let branch = self.branches[branch].get_or_init(|| Box::new([const { OnceLock::new() }; BRANCH]));
        let page = branch[page].get_or_init(|| Box::new(std::array::from_fn(|_| Slot::empty())));
        let slot = &page[within];
        index.open += 1;
        index.by_nonce.insert(body.nonce, id);
        slot.cancelled.store(body.cancelled.len() as u32, Relaxed);
        *slot.body() = body;
        slot.ttl.store(ttl, Relaxed);
        slot.shortest.store(ttl, Relaxed);
        slot.places.store(0, Relaxed);
        slot.life.store(life, Release);
        slot.id.store(id.0, Release);
        let deadline = slot.deadline();
        if deadline != 0 {
            index.timers.push(Reverse((deadline, id.0)));
        }
        deadline
    }

    /// Puts back a session from a snapshot.
    pub(super) fn restore(&self, id: SessionId, life: u64, ttl: u32, body: Body) {
        let mut index = self.index();
        self.fill(&mut index, id, life, ttl, body);
    }

    /// After the last [`Sessions::restore`]: which slots are free.
    pub(super) fn restored(&self, serial: u64, dying: Vec<Dying>) {
        let mut index = self.index();
        let mut used: Vec<u32> = index.by_nonce.values().map(|id| Self::slot_number(*id)).collect();
        used.extend(dying.iter().map(|d| Self::slot_number(d.0)));
        used.sort_unstable();
        used.dedup();
        (index.next_slot, index.gaps, index.free) = (0, VecDeque::new(), BinaryHeap::new());
        for slot in used {
            if slot > index.next_slot {
                let gap = index.next_slot..slot;
                index.gaps.push_back(gap);
            }
            index.next_slot = slot + 1;
        }
        index.serial = serial;
        index.dying = dying.into();
    }

    /// The word behind [`Slot::life`], for a snapshot.
    pub(super) fn life_word(slot: &Slot) -> u64 {
        slot.life.load(Acquire)
    }

    /// A session without anything left is forgotten.
    pub(super) fn clear(&self, id: SessionId) {
        let mut index = self.index();
        let number = Self::slot_number(id);
        if let Some(slot) = self.at(number) {
            slot.id.store(0, Release);
            let body = std::mem::take(&mut *slot.body());
            if index.by_nonce.get(&body.nonce) == Some(&id) {
                index.by_nonce.remove(&body.nonce);
            }
            index.open -= 1;
            index.free.push(Reverse(number));
        }
    }

    /// Every session that has not been cleared away, by number.
    pub(super) fn all(&self) -> Vec<SessionId> {
        let _none_is_opened_meanwhile = self.index();
        let pages = self.branches.iter().filter_map(OnceLock::get).flat_map(|b| b.iter()).filter_map(OnceLock::get);
        let mut ids: Vec<SessionId> = pages.flat_map(|p| p.iter()).map(Slot::id).filter(|id| id.0 != 0).collect();
        ids.sort_unstable();
        ids
    }
}

impl Index {
    fn lowest_free(&mut self) -> u32 {
        let cleared = self.free.peek().map_or(u32::MAX, |Reverse(n)| *n);
        match self.gaps.front_mut() {
            Some(gap) if gap.start < cleared => {
                let slot = gap.start;
                gap.start += 1;
                if gap.start == gap.end {
                    self.gaps.pop_front();
                }
                slot
            }
            _ => self.free.pop().map_or_else(
                || {
                    self.next_slot += 1;
                    self.next_slot - 1
                },
                |Reverse(n)| n,
            ),
        }
    }

    /// The nearest time at which a session may be over: a lower bound.
    pub(super) fn nearest(&self) -> Option<u64> {
        if !self.dying.is_empty() {
            return Some(0);
        }
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// The earliest session whose deadline is at or before `now`, if any; timers that were overtaken by renewals move on.
    pub(super) fn due(&mut self, sessions: &Sessions, now: u64) -> Option<(u64, SessionId)> {
        while let Some(&Reverse((at, id))) = self.timers.peek() {
            if at > now {
                return None;
            }
            let id = SessionId(id);
            match sessions.find(id).map_or(0, Slot::deadline) {
                // Ended or cleared away: whoever ended it has put it among the dying.
                0 => drop(self.timers.pop()),
                deadline if deadline > at => {
                    self.timers.pop();
                    self.timers.push(Reverse((deadline, id.0)));
                }
                _ => return Some((at, id)),
            }
        }
        None
    }
}

#[cfg(test)]
#[path = "session_test.rs"]
mod tests;
