//! A gate's state and counts, for status and metrics.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use super::cell::{Reason, SLOTS, STRIPES};
use super::event::Refusals;
use super::options::Mode;
use super::permit::CellRef;
use super::protocol;
use super::region;
use super::threads;

/// What the gate does with a write at present, its mode apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Writes are let in.
    Open,
    /// Writes in flight may finish.
    Draining,
    /// Nothing is let in.
    Closed,
}

/// A gate as an operator sees it. Counters run from the gate's opening.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct GateStatus {
    /// The gate's name.
    pub name: String,
    /// What a closed gate does. `disabled` and `log-only` are weaker modes.
    pub mode: Mode,
    /// Open, draining or closed.
    pub phase: Phase,
    /// Why it is closed.
    pub reason: Option<Reason>,
    /// Epoch of the lease; 0 when there never was one.
    pub epoch: u64,
    /// Highest epoch seen, whoever's.
    pub epoch_seen: u64,
    /// Who was named with a higher epoch than ours.
    pub holder_hint: Option<String>,
    /// Until the lease ends.
    pub remaining_ms: u64,
    /// The clock that the hot path judges by: `boottime`, `tsc` (weaker) or `injected`.
    pub clock: &'static str,
    /// How a drain reaches every writer: `membarrier`, or `fence` where the kernel has none (slower writes).
    pub barrier: &'static str,
    /// Weaker mode: open until the first grant.
    pub start_open: bool,
    /// Weaker mode: heartbeats without a nonce count from their receipt.
    pub trust_receipt: bool,
    /// Leases granted: the gate opened.
    pub grants: u64,
    /// Renewals of a lease held.
    pub renewals: u64,
    /// Grants and heartbeats not accepted.
    pub refused_grants: u64,
    /// Heartbeats counted from their receipt.
    pub trusted_receipts: u64,
    /// Leases lost.
    pub losses: u64,
    /// Drains completed.
    pub drains: u64,
    /// Times that the TSC was given up.
    pub clock_fallbacks: u64,
    /// Leases dropped because the clocks, the machine or the host could not be relied on.
    pub distrusts: u64,
    /// Permits given.
    pub permits: u64,
    /// Permits not finished yet.
    pub in_flight: u64,
    /// Refused writes by reason, where there were any.
    pub refused: Vec<(Reason, u64)>,
    /// Writes that log-only let pass.
    pub passed: u64,
    /// Writes that finished without a provably valid lease (late acknowledgements avoided).
    pub uncertain: u64,
    /// From the sending of the last renewal (or the making of its heartbeat's nonce) to its acceptance: so much of a lease was over when it came.
    pub round_trip_us: Option<u64>,
    /// Least time that was left of a lease when its renewal came, us; `None` before the first renewal.
    pub least_remaining_us: Option<u64>,
    /// Least time that was left of the published deadline (at most the leash) at a finish that held, us. Finishes through the header
    /// count from the last quarter of it on. `None`: no such finish. The tsc clock does not count.
    pub least_margin_us: Option<u64>,
    /// Longest time between two looks at the clocks by the publisher, us.
    pub longest_gap_us: u64,
}

fn slots() -> u32 {
    threads::highest().min((SLOTS + STRIPES) as u32)
}

fn slot(cell: CellRef, index: u32) -> &'static super::cell::Slot {
    region::slot(cell, region::offset_of(index))
}

/// Permits that have not left, over all threads.
pub(super) fn in_flight(cell: CellRef) -> u64 {
    (1..=slots()).map(|i| protocol::in_flight(slot(cell, i))).fold(0, u64::wrapping_add)
}

/// Permits given, over all threads.
pub(super) fn permits(cell: CellRef) -> u64 {
    (1..=slots()).map(|i| slot(cell, i).entered.load(Relaxed)).fold(0, u64::wrapping_add)
}

/// Least margin of a finish that held, in the unit of the clock.
pub(super) fn least_margin(cell: CellRef) -> Option<u64> {
    (1..=slots()).map(|i| slot(cell, i).closest.load(Relaxed)).max().filter(|c| *c != 0).map(|c| !c)
}

/// The cell's refusal counters as they stand.
pub(super) fn refusals(cell: CellRef) -> Refusals {
    let words = cell.words();
    let count = |r: Reason| (r, words.refused[r as usize].load(Relaxed));
    Refusals {
        by_reason: Reason::ALL.into_iter().map(count).filter(|(_, n)| *n != 0).collect(),
        passed: words.passed.load(Relaxed),
        uncertain: words.uncertain.load(Acquire),
    }
}

/// What was added between two looks at the counters.
pub(super) fn since(old: &Refusals, new: &Refusals) -> Refusals {
    let before = |r: Reason| old.by_reason.iter().find(|(o, _)| *o == r).map_or(0, |(_, n)| *n);
    Refusals {
        by_reason: new.by_reason.iter().map(|(r, n)| (*r, n - before(*r))).filter(|(_, n)| *n != 0).collect(),
        passed: new.passed - old.passed,
        uncertain: new.uncertain - old.uncertain,
    }
}
