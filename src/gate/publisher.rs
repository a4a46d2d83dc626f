//! The publisher: which lease this node holds, and what the cell says of it. Time is an argument, storage is a trait, and what
//! changed is handed back as events.

use crate::base::planted::planted;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};

use super::calibration::{Calibration, Reading, tsc_is_invariant};
use super::cell::{NEVER, Reason, kind, mode};
use super::epochs::EpochStore;
use super::event::{GateEvent, Refusals};
use super::lease::{Lease, end_of, later};
use super::nonces::Nonces;
use super::options::{ClockPolicy, Mode, Options};
use super::permit::CellRef;
use super::stats::Phase;
use super::{platform, protocol, region, stats};
use crate::base::clock::holder_ttl;
use crate::base::{Clock, Error, Moment, Result, Status};

const MS: u64 = 1_000_000;
/// The hot path's clock may be slower than the other holder clock by this part of a window while nobody compares them:
/// the kernel slews CLOCK_BOOTTIME by at most 10 % and 500 ppm.
const SLEW_PART: u64 = 8;
/// A verdict in the last part of a published deadline is late: the library gives it, and counts how late it was.
const LATE_PART: u64 = 4;
/// At most one summary of refusals in this time.
const SUMMARY_NS: u64 = 1_000 * MS;
/// Epochs and tokens stay below this.
const EPOCH_END: u64 = 1 << 63;

/// What a gate is made of.
#[derive(Debug)]
pub struct Setup {
    /// The gate's name, under which its epoch is stored.
    pub name: String,
    /// Its settings.
    pub options: Options,
    /// Where the highest epoch outlives the process.
    pub epochs: Arc<dyn EpochStore>,
    /// A clock to judge by in place of the machine's, for virtual time. Its address is kept for the life of the process.
    pub injected: Option<Arc<dyn Clock>>,
    /// Whether the kernel itself keeps time by the TSC (its current clocksource is `tsc`).
    pub kernel_uses_tsc: bool,
}

/// Counters that only the publisher moves.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) grants: u64,
    pub(super) renewals: u64,
    pub(super) refused_grants: u64,
    pub(super) trusted_receipts: u64,
    pub(super) losses: u64,
    pub(super) drains: u64,
    pub(super) clock_fallbacks: u64,
    pub(super) distrusts: u64,
    pub(super) least_remaining_ns: Option<u64>,
    pub(super) round_trip_ns: Option<u64>,
    pub(super) longest_gap_ns: u64,
}

/// The publisher of one gate. Not shared: its owner locks it. No call blocks, except on [`EpochStore::persist`].
#[derive(Debug)]
pub struct GateCore {
    pub(super) name: String,
    pub(super) options: Options,
    pub(super) cell: CellRef,
    pub(super) epochs: Arc<dyn EpochStore>,
    pub(super) mode: Mode,
    pub(super) fenced: bool,
    pub(super) injected: bool,
    pub(super) calibration: Calibration,
    pub(super) tsc_live: bool,
    /// Why it is closed for good.
    pub(super) ended: Option<Reason>,
    pub(super) lease: Option<Lease>,
    /// Open without a lease, until the first grant.
    pub(super) start_open: bool,
    /// Writes are being let in, as far as the last look went.
    pub(super) open: bool,
    pub(super) reason: Reason,
    /// A drain is under way since then, under this epoch.
    pub(super) draining: Option<(Moment, u64)>,
    /// The last epoch that was drained; it does not open again.
    pub(super) retired: u64,
    /// An epoch was lost then, and writes under it may still be in flight.
    pub(super) ebbing: Option<(Moment, u64)>,
    pub(super) epoch_seen: u64,
    /// Another node was named with `epoch_seen`.
    pub(super) foreign: Option<String>,
    pub(super) nonces: Nonces,
    pub(super) count: Counters,
    last_look: Option<Moment>,
    summary_at: Moment,
    told: Refusals,
}

impl GateCore {
    /// Opens a gate: closed, unless its mode or `start_open` say otherwise. The epoch stored under its name is its memory.
    ///
    /// # Errors
    /// What the store says, or [`Status::Io`] when the system gives no memory that forked children see wiped.
    pub fn new(setup: Setup, now: &Reading, events: &mut Vec<GateEvent>) -> Result<GateCore> {
        let epoch_seen = setup.epochs.load(&setup.name)?.unwrap_or(0);
        let cell = region::map()?;
        let fenced = !platform::register_barrier();
        let words = cell.words();
        words.clock.store(region::vdso_clock(), Relaxed);
        words.fenced.store(u32::from(fenced), Relaxed);
        words.epoch_seen.store(epoch_seen, Relaxed);
        words.boottime.limit.store(setup.options.leash_ns.saturating_add(MS), Relaxed);
        let injected = setup.injected.is_some();
        if let Some(clock) = setup.injected {
            words.injected.store(region::pin_clock(clock), Relaxed);
        }
        let mut calibration = Calibration::default();
        if injected || !setup.kernel_uses_tsc || !tsc_is_invariant() {
            calibration.refuse();
        }
        let mut core = GateCore {
            name: setup.name,
            cell,
            epochs: setup.epochs,
            mode: setup.options.mode,
            fenced,
            injected,
            calibration,
            tsc_live: false,
            ended: None,
            lease: None,
            start_open: setup.options.start_open,
            open: false,
            reason: Reason::NeverGranted,
            draining: None,
            ebbing: None,
            retired: 0,
            epoch_seen,
            foreign: None,
            nonces: Nonces::default(),
            count: Counters::default(),
            last_look: None,
            summary_at: now.moment,
            told: Refusals::default(),
            options: setup.options,
        };
        if core.options.clock == ClockPolicy::Tsc && core.calibration.failed() {
            core.fall_back(events);
        }
        core.refresh(now, events);
        core.publish_mode();
        Ok(core)
    }

    /// What writers use. Copies stay good for ever; after [`GateCore::close`] they read as closed.
    pub fn cell(&self) -> CellRef {
        self.cell
    }

    /// Whether [`Reading`]s for this gate should carry the TSC.
    pub fn wants_tsc(&self) -> bool {
        self.options.clock == ClockPolicy::Tsc && !self.calibration.failed()
    }

    /// The gate's settings.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Changes what a closed gate does. `disabled` opens at once.
    ///
    /// # Errors
    /// [`Status::Closed`] or [`Status::Poisoned`].
    pub fn set_mode(&mut self, mode: Mode) -> Result<()> {
        self.check_alive()?;
        self.mode = mode;
        self.publish_mode();
        Ok(())
    }

    /// Whether writes were let in at the last look.
    pub fn is_open(&self) -> bool {
        self.open
    }

    pub(super) fn check_alive(&self) -> Result<()> {
        match self.ended {
            None => Ok(()),
            Some(Reason::Poisoned) => Err(Status::Poisoned.into()),
            Some(_) => Err(Status::Closed.into()),
        }
    }

    /// Grants or extends a lease of `epoch`, already checked, ending at `end`.
    pub(super) fn adopt(&mut self, epoch: u64, end: Moment, ttl_ns: u64, now: &Reading, events: &mut Vec<GateEvent>) {
        let held = self.lease.filter(|lease| lease.epoch == epoch);
        if let Some(lease) = held {
            let left = lease.remaining_ns(now.moment);
            self.count.least_remaining_ns = Some(self.count.least_remaining_ns.map_or(left, |least| least.min(left)));
        }
        let budget_ns = self.options.drain_budget_ns.unwrap_or(ttl_ns / 10).min(ttl_ns);
        let end = held.filter(|_| !planted!("late-heartbeat-shortens")).map_or(end, |lease| later(lease.end, end));
        self.lease = Some(Lease { epoch, end, ttl_ns, budget_ns, at_risk_told: false });
        let was_open = self.open && held.is_some();
        self.count.renewals += u64::from(was_open);
        self.count.grants += u64::from(!was_open);
        if self.cell.words().epoch.load(Relaxed) != epoch {
            // The old deadlines are taken away first; `refresh` sets those of this epoch.
            protocol::publish(self.cell.words(), epoch, || {});
        }
        self.end_start();
        self.refresh(now, events);
        if self.open && !was_open {
            events.push(GateEvent::Granted { epoch, remaining_ns: self.remaining_ns(now.moment) });
        }
    }

    /// The first lease, or the lack of one, ends `start_open`.
    pub(super) fn end_start(&mut self) {
        if std::mem::take(&mut self.start_open) {
            self.publish_mode();
        }
    }

    /// Until the lease ends, ns; 0 without one.
    pub fn remaining_ns(&self, now: Moment) -> u64 {
        self.lease.map_or(0, |lease| lease.remaining_ns(now))
    }

    /// Looks at the clocks, publishes anew, and says what changed. Returns after how many nanoseconds to call it again at the
    /// latest; a later call closes the gate for the time in between.
    pub fn tick(&mut self, now: &Reading, events: &mut Vec<GateEvent>) -> u64 {
        if let Some(last) = self.last_look.filter(|_| self.open) {
            self.count.longest_gap_ns = self.count.longest_gap_ns.max(last.elapsed_ns(now.moment));
        }
        self.refresh(now, events);
        self.ebb(now.moment, events);
        self.summarise(now.moment, events);
        self.next_look(now.moment)
    }

    fn next_look(&self, now: Moment) -> u64 {
        let idle = if self.ebbing.is_some() { 4 * MS } else { self.options.leash_ns.max(4 * MS) / 4 };
        let Some(lease) = self.lease.as_ref().filter(|_| self.ended.is_none()) else { return idle };
        let left = if self.open { lease.admission_ns(now) } else { lease.remaining_ns(now) };
        let risk = lease.remaining_ns(now).saturating_sub(lease.ttl_ns / 3);
        let next = if risk > 0 && !lease.at_risk_told { (left / 4).min(risk) } else { left / 4 };
        next.clamp(MS, idle)
    }

    /// Brings the published words in line with the lease and the time.
    pub(super) fn refresh(&mut self, now: &Reading, events: &mut Vec<GateEvent>) {
        self.last_look = Some(now.moment);
        let tsc = self.observe_tsc(now, events);
        if self.ended.is_some() {
            return;
        }
        if self.start_open {
            let leash = self.options.leash_ns;
            self.open = true;
            self.set_reason(None);
            self.publish_windows(now.moment, leash, leash, tsc);
            return;
        }
        let Some(mut lease) = self.lease else { return };
        let (admission, remaining) = (lease.admission_ns(now.moment), lease.remaining_ns(now.moment));
        let draining = self.draining.is_some();
        let was_open = std::mem::replace(&mut self.open, admission > 0 && !draining);
        if was_open && !self.open {
            self.lose(lease.epoch, Reason::Expired, events);
        } else if !self.open && !draining {
            self.set_reason(Some(Reason::Expired));
        }
        if remaining == 0 {
            protocol::retract(self.cell.words());
            self.lease = None;
            self.overrun(lease.epoch, events);
            return;
        }
        if self.open {
            self.set_reason(None);
            if remaining <= lease.ttl_ns / 3 && !lease.at_risk_told {
                lease.at_risk_told = true;
                events.push(GateEvent::AtRisk { epoch: lease.epoch, remaining_ns: remaining });
            }
        }
        self.lease = Some(lease);
        let guarded = |ns: u64| ns - ns / SLEW_PART;
        let leashed = |ns: u64| ns.min(self.options.leash_ns);
        let (soft, hard) = (guarded(admission), guarded(remaining));
        // Less what the TSC's guard may take off, so that a lease that ends is not called a clock's fault.
        let lease_end = now.moment.boottime_ns.saturating_add(soft.saturating_sub(soft / 256 + MS));
        self.cell.words().lease_end.store(lease_end, Relaxed);
        let soft = if self.open { leashed(soft) } else { 0 };
        self.publish_windows(now.moment, soft, leashed(hard), tsc);
    }

    /// Publishes that writes are let in for `soft` ns from `now` and may finish for `hard` ns.
    fn publish_windows(&mut self, now: Moment, soft: u64, hard: u64, tsc: Option<u64>) {
        let words = self.cell.words();
        let until = |from: u64, span: u64| if span == 0 { NEVER } else { from.saturating_add(span - 1) };
        let early = hard - hard / LATE_PART;
        let by = |from: u64, unit: &dyn Fn(u64) -> u64| [soft, early, hard].map(|span| until(from, unit(span)));
        let [soft_at, early_at, last_at] = by(now.boottime_ns, &|ns| ns);
        protocol::extend(&words.boottime, soft_at, early_at, last_at);
        if let Some(ticks) = tsc {
            let limit = self.calibration.ticks(self.options.leash_ns.saturating_add(MS));
            words.tsc.limit.store(limit, Release);
            let [soft_at, early_at, last_at] = by(ticks, &|ns| self.calibration.ticks_within(ns));
            protocol::extend(&words.tsc, soft_at, early_at, last_at);
        }
        // Without a reading the old deadlines go on, if there are any; else BOOTTIME has to do for now.
        let live = !self.calibration.failed() && (tsc.is_some() || (self.tsc_live && words.tsc.last.load(Relaxed) != NEVER));
        if live != self.tsc_live {
            self.tsc_live = live;
            self.publish_mode();
        }
    }

    fn observe_tsc(&mut self, now: &Reading, events: &mut Vec<GateEvent>) -> Option<u64> {
        if !self.wants_tsc() {
            return None;
        }
        let ticks = self.calibration.observe(now);
        if self.calibration.failed() {
            self.fall_back(events);
        }
        ticks
    }

    fn fall_back(&mut self, events: &mut Vec<GateEvent>) {
        let words = self.cell.words();
        protocol::extend(&words.tsc, NEVER, NEVER, NEVER);
        self.count.clock_fallbacks += 1;
        self.tsc_live = false;
        self.publish_mode();
        events.push(GateEvent::ClockFallback);
    }

    pub(super) fn publish_mode(&self) {
        let words = self.cell.words();
        let clock = match (self.injected, self.tsc_live) {
            (true, _) => kind::INJECTED,
            (_, true) => kind::TSC,
            _ => kind::BOOTTIME,
        };
        words.kind.store(clock, Release);
        let rule = match (self.ended, self.mode) {
            (Some(_), _) => mode::SHUT,
            (_, Mode::Disabled) => mode::DISABLED,
            (_, Mode::LogOnly) => mode::LOG_ONLY,
            // A permit without an epoch is nothing that the header's fast path could tell from wiped memory.
            _ if self.fenced || self.injected || self.start_open => mode::LIBRARY,
            _ if self.tsc_live => mode::TSC,
            _ => mode::BOOTTIME,
        };
        words.mode.store(rule, std::sync::atomic::Ordering::SeqCst);
    }

    pub(super) fn set_reason(&mut self, reason: Option<Reason>) {
        if let Some(reason) = reason {
            self.reason = reason;
        }
        self.cell.words().reason.store(reason.map_or(0, |r| r as u32), Release);
    }

    /// The lease of this epoch is over; tells of writes that it leaves in flight.
    pub(super) fn overrun(&self, epoch: u64, events: &mut Vec<GateEvent>) {
        let in_flight = self.cell.in_flight();
        if in_flight != 0 {
            events.push(GateEvent::Overrun { epoch, in_flight });
        }
    }

    /// After a loss: tells when the last write of that epoch has ended.
    fn ebb(&mut self, now: Moment, events: &mut Vec<GateEvent>) {
        let Some((since, epoch)) = self.ebbing else { return };
        if self.open || self.ended.is_some() || self.draining.is_some() {
            self.ebbing = None;
            return;
        }
        // Makes every writer's count visible that came before the loss.
        let reached = if self.fenced {
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            true
        } else {
            platform::process_barrier().is_ok()
        };
        if reached && self.cell.in_flight() == 0 {
            self.ebbing = None;
            events.push(GateEvent::Drained { epoch, took_ns: since.elapsed_ns(now) });
        }
    }

    /// The gate is closed to new writes for this reason; tells it.
    pub(super) fn lose(&mut self, epoch: u64, reason: Reason, events: &mut Vec<GateEvent>) {
        self.open = false;
        self.ebbing = Some((self.last_look.unwrap_or_default(), epoch));
        self.set_reason(Some(reason));
        self.count.losses += 1;
        events.push(GateEvent::Lost { epoch, reason });
    }

    /// The end of a lease at `end` for `sent` and `ttl`.
    pub(super) fn lease_end(sent: Moment, ttl_ns: u64) -> Moment {
        end_of(sent, holder_ttl(ttl_ns))
    }

    /// Whether `epoch` may be granted by this message at all.
    pub(super) fn check_epoch(&self, epoch: u64, pushed: bool) -> Result<()> {
        let seen = self.epoch_seen;
        if epoch == 0 || epoch >= EPOCH_END {
            return Err(Error::invalid("epoch", format_args!("{epoch} is not in 1..2^63")));
        }
        if epoch < seen && !planted!("lower-epoch-accepted") {
            let text = format!("election version mismatch: local={seen}, received={epoch}");
            return Err(Error::new(Status::Fenced, text).with_token(seen));
        }
        if pushed && epoch - seen > self.options.epoch_jump_max {
            let most = self.options.epoch_jump_max;
            return Err(Error::invalid("epoch", format_args!("{epoch} is more than {most} above {seen}")).with_token(seen));
        }
        Ok(())
    }

    /// Remembers a higher epoch, first durably, then for receivers.
    pub(super) fn remember(&mut self, epoch: u64) -> Result<()> {
        if epoch > self.epoch_seen {
            if !planted!("epoch-not-stored") {
                self.epochs.persist(&self.name, epoch)?;
            }
            self.epoch_seen = epoch;
            self.foreign = None;
            self.cell.words().epoch_seen.store(epoch, Release);
        }
        Ok(())
    }

    /// Open, draining or closed.
    pub fn phase(&self) -> Phase {
        match (self.open, self.draining) {
            (true, _) => Phase::Open,
            (_, Some(_)) => Phase::Draining,
            _ => Phase::Closed,
        }
    }

    fn summarise(&mut self, now: Moment, events: &mut Vec<GateEvent>) {
        if self.summary_at.elapsed_ns(now) < SUMMARY_NS {
            return;
        }
        let counts = stats::refusals(self.cell);
        if counts != self.told {
            events.push(GateEvent::Refused(stats::since(&self.told, &counts)));
            self.told = counts;
            self.summary_at = now;
        }
    }
}
