//! The whole of enter, check, finish and leave, for every mode, clock and class: what Rust calls, and what the header's inline
//! functions call whenever their fast path does not apply. Refusals are counted here and nowhere else.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use super::calibration;
use super::cell::{Cell, NEVER, Reason, Window, WriteClass, kind, mode};
use super::permit::{CellRef, RawPermit, Verdict};
use super::platform::Native;
use super::protocol::{self, Seat};
use super::region;
use super::threads;

fn seat(cell: CellRef, offset: u32, own: bool) -> Seat<'static, Native> {
    let slot = region::slot(cell, offset);
    if own && region::is_owned(offset) { Seat::Own(slot) } else { Seat::Shared(slot) }
}

/// The clock and the window that count at present. A clock that cannot be read gives an instant at which nothing is open.
#[inline]
fn ruler(cell: &Cell) -> (&Window, impl Fn() -> u64 + '_, u32) {
    let kind = cell.kind.load(Acquire);
    let window = if kind == kind::TSC { &cell.tsc } else { &cell.boottime };
    let read = move || match kind {
        kind::TSC => calibration::ticks(),
        kind::INJECTED => region::injected(cell.injected.load(Relaxed)).unwrap_or(NEVER),
        _ => region::boottime(cell.clock.load(Relaxed)).unwrap_or(NEVER),
    };
    (window, read, kind)
}

/// Asks to let a write in.
///
/// # Errors
/// The reason for which it is refused.
#[inline]
pub fn enter_slow(cell: CellRef, class: WriteClass) -> Result<RawPermit, Reason> {
    let words = cell.words();
    let rule = words.mode.load(Relaxed);
    match rule {
        mode::WIPED => return Err(Reason::Forked),
        mode::SHUT => return Err(refuse(words, class, closed_for(words))),
        mode::DISABLED => return Ok(RawPermit::uncounted(cell, mode::DISABLED)),
        _ => {}
    }
    if matches!(class, WriteClass::Replication | WriteClass::Bootstrap) {
        return enter_exempt(cell, class, rule);
    }
    let offset = region::offset_of(threads::thread_index());
    let fenced = words.fenced.load(Relaxed) != 0;
    loop {
        let (window, clock, kind) = ruler(words);
        if let Some(epoch) = protocol::admit(words, window, seat(cell, offset, true), fenced, &clock) {
            // A shared slot has to be left with an atomic addition, which the header's fast path does not do.
            let mode = if region::is_owned(offset) { rule } else { mode::LIBRARY };
            return Ok(RawPermit::counted(cell, epoch, offset, mode));
        }
        // The publisher may have changed from one clock to the other in between.
        if words.kind.load(Acquire) == kind {
            break;
        }
    }
    if rule == mode::LOG_ONLY {
        words.passed.fetch_add(1, Relaxed);
        return Ok(RawPermit::uncounted(cell, mode::LOG_ONLY));
    }
    Err(refuse(words, class, closed_for(words)))
}

fn enter_exempt(cell: CellRef, class: WriteClass, rule: u32) -> Result<RawPermit, Reason> {
    let words = cell.words();
    let (window, clock, _) = ruler(words);
    let in_office = protocol::look(words, window, clock).is_some_and(|epoch| epoch != 0);
    if !in_office {
        return Ok(RawPermit::uncounted(cell, mode::EXEMPT));
    }
    if rule == mode::LOG_ONLY {
        words.passed.fetch_add(1, Relaxed);
        return Ok(RawPermit::uncounted(cell, mode::EXEMPT));
    }
    Err(refuse(words, class, Reason::Superseded))
}

fn refuse(words: &Cell, class: WriteClass, reason: Reason) -> Reason {
    if class != WriteClass::Deferrable {
        words.refused[reason as usize].fetch_add(1, Relaxed);
    }
    reason
}

/// Why the gate is closed at this moment.
fn closed_for(words: &Cell) -> Reason {
    if let Some(stated) = Reason::from_code(words.reason.load(Acquire)) {
        return stated;
    }
    let now = match words.kind.load(Acquire) {
        kind::INJECTED => region::injected(words.injected.load(Relaxed)),
        _ => region::boottime(words.clock.load(Relaxed)),
    };
    // The lease would still do: it is the published deadline that was not renewed within the leash.
    if now.is_some_and(|now| now < words.lease_end.load(Relaxed)) { Reason::Clock } else { Reason::Expired }
}

/// Whether a write would be let in now: the epoch, without counting anything but a refusal.
///
/// # Errors
/// The reason for which it would be refused.
pub fn check_slow(cell: CellRef) -> Result<u64, Reason> {
    let words = cell.words();
    let rule = words.mode.load(Relaxed);
    match rule {
        mode::WIPED => return Err(Reason::Forked),
        mode::SHUT => return Err(refuse(words, WriteClass::Client, closed_for(words))),
        mode::DISABLED => return Ok(words.epoch.load(Acquire)),
        _ => {}
    }
    loop {
        let (window, clock, kind) = ruler(words);
        if let Some(epoch) = protocol::look(words, window, &clock) {
            return Ok(epoch);
        }
        if words.kind.load(Acquire) == kind {
            break;
        }
    }
    if rule == mode::LOG_ONLY {
        words.passed.fetch_add(1, Relaxed);
        return Ok(words.epoch.load(Acquire));
    }
    Err(refuse(words, WriteClass::Client, closed_for(words)))
}

/// Whether the write of this permit could still be acknowledged if it were done now. Counts nothing.
pub fn precommit_slow(permit: &RawPermit) -> Verdict {
    permit.cell().map_or(Verdict::Uncertain, |cell| judge(cell.words(), permit).0)
}

/// The verdict, and whether the write is late: a weaker mode lets late ones pass.
fn judge(words: &Cell, permit: &RawPermit) -> (Verdict, bool) {
    match words.mode.load(Relaxed) {
        _ if permit.mode == mode::EMPTY => (Verdict::Held, false),
        mode::WIPED | mode::SHUT => (Verdict::Uncertain, true),
        mode::DISABLED => (Verdict::Held, false),
        mode::LOG_ONLY => (Verdict::Held, permit.slot != 0 && margin(words, permit).is_none()),
        _ if permit.mode == mode::EXEMPT || margin(words, permit).is_some() => (Verdict::Held, false),
        _ => (Verdict::Uncertain, true),
    }
}

/// The time left to the write, if it is held.
fn margin(words: &Cell, permit: &RawPermit) -> Option<u64> {
    loop {
        let (window, clock, kind) = ruler(words);
        let margin = if permit.slot != 0 {
            protocol::verdict(words, window, permit.epoch, &clock)
        } else {
            // Let in uncounted by a weaker mode that has been left since: good only if it would be let in now.
            protocol::look(words, window, &clock).map(|_| u64::MAX)
        };
        if margin.is_some() || words.kind.load(Acquire) == kind {
            if let Some(cell) = permit.cell().filter(|_| kind != kind::TSC && permit.slot != 0) {
                note_margin(region::slot(cell, permit.slot), margin);
            }
            return margin;
        }
    }
}

/// Remembers the least margin. Another thread's note may be lost to this one: both are late.
fn note_margin(slot: &super::cell::Slot, margin: Option<u64>) {
    if let Some(closeness) = margin.map(|m| !m).filter(|c| *c > slot.closest.load(Relaxed)) {
        slot.closest.store(closeness, Relaxed);
    }
}

/// The verdict on a finished write; ends the permit. A permit that has ended already is [`Verdict::Uncertain`].
#[inline]
pub fn finish_slow(permit: &mut RawPermit) -> Verdict {
    let Some(cell) = permit.cell() else { return Verdict::Uncertain };
    let words = cell.words();
    let (verdict, late) = match seat_of(cell, permit) {
        Some(seat) => protocol::finish(seat, || judge(words, permit)),
        None => judge(words, permit),
    };
    if late {
        words.uncertain.fetch_add(1, Relaxed);
    }
    permit.spend();
    verdict
}

/// Ends a permit whose write was given up: no verdict.
pub fn leave_slow(permit: &mut RawPermit) {
    if let Some(seat) = permit.cell().and_then(|cell| seat_of(cell, permit)) {
        seat.leave();
    }
    permit.spend();
}

/// Where the permit is counted, if it is.
fn seat_of(cell: CellRef, permit: &RawPermit) -> Option<Seat<'static, Native>> {
    (permit.slot != 0).then(|| {
        let own = permit.slot == region::offset_of(threads::thread_index());
        seat(cell, permit.slot, own)
    })
}
