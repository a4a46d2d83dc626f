//! What happens to a gate's lease: granted, renewed, taken away, drained, ended.

use crate::base::planted::planted;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::calibration::Reading;
use super::cell::Reason;
use super::event::GateEvent;
use super::lease::{GrantReply, Heartbeat, HeartbeatReply, Refusal};
use super::publisher::GateCore;
use super::stats::{self, GateStatus};
use super::{platform, protocol};
use crate::base::{Error, Moment, Result, Rng, Status};

impl GateCore {
    /// Grants or renews office under `epoch` from this node's own lease: `sent` is when the request that was answered was first
    /// sent. The source is trusted, so the epoch may rise by any step, and the ttl is not bounded.
    ///
    /// # Errors
    /// [`Status::Fenced`] when a higher epoch has been seen, or this one belongs to another node; [`Status::InvalidArgument`];
    /// [`Status::Closed`], [`Status::Poisoned`]; what the store says when a higher epoch cannot be persisted. The lease held, if
    /// any, is untouched by all of them.
    pub fn grant(&mut self, epoch: u64, ttl_ns: u64, sent: Moment, now: &Reading, events: &mut Vec<GateEvent>) -> Result<GrantReply> {
        self.check_alive()?;
        self.check_epoch(epoch, false)?;
        self.check_owner(epoch)?;
        self.take(epoch, ttl_ns, sent, now, events)
    }

    /// Takes a controller's heartbeat.
    ///
    /// # Errors
    /// As [`GateCore::grant`]; [`Status::InvalidArgument`] also for a ttl below the minimum and for a step of the epoch above the
    /// maximum. A ttl above the maximum is cut to it.
    pub fn heartbeat(&mut self, beat: &Heartbeat, now: &Reading, rng: &mut dyn Rng, events: &mut Vec<GateEvent>) -> Result<HeartbeatReply> {
        self.check_alive()?;
        let least = self.options.ttl_min_ns;
        if beat.ttl_ns == 0 {
            return Err(Error::invalid("ttl", "must be greater than 0"));
        }
        if beat.ttl_ns < least {
            let (got, least) = (beat.ttl_ns / 1_000_000, least / 1_000_000);
            return Err(Error::invalid("ttl", format_args!("{got} ms is below the minimum of {least} ms")));
        }
        self.check_epoch(beat.epoch, true)?;
        self.check_owner(beat.epoch)?;
        let trusted = beat.nonce.is_none() && self.options.trust_receipt;
        let sent = match beat.nonce {
            Some(_) if planted!("heartbeat-from-receipt") => Ok(now.moment),
            Some(nonce) => self.nonces.sent(nonce).ok_or(Refusal::UnknownNonce),
            None if trusted => Ok(now.moment),
            None => Err(Refusal::NoNonce),
        };
        let grant = match sent {
            Ok(sent) => self.take(beat.epoch, beat.ttl_ns.min(self.options.ttl_max_ns), sent, now, events)?,
            Err(refusal) => self.decline(refusal, now.moment),
        };
        self.count.trusted_receipts += u64::from(trusted && grant.accepted);
        Ok(HeartbeatReply { grant, next_nonce: self.nonces.issue(now.moment, rng) })
    }

    /// A nonce for the next heartbeat, whose lease will count from now.
    pub fn next_nonce(&mut self, now: Moment, rng: &mut dyn Rng) -> u64 {
        self.nonces.issue(now, rng)
    }

    fn check_owner(&self, epoch: u64) -> Result<()> {
        match &self.foreign {
            Some(holder) if epoch == self.epoch_seen => {
                Err(Error::new(Status::Fenced, format!("epoch {epoch} belongs to {holder}")).with_token(epoch))
            }
            _ => Ok(()),
        }
    }

    fn take(&mut self, epoch: u64, ttl_ns: u64, sent: Moment, now: &Reading, events: &mut Vec<GateEvent>) -> Result<GrantReply> {
        let drained = self.draining.is_some_and(|(_, draining)| draining != epoch) || epoch == self.retired;
        if drained {
            return Ok(self.decline(Refusal::Draining, now.moment));
        }
        let end = GateCore::lease_end(sent, ttl_ns);
        if end.boottime_ns <= now.moment.boottime_ns || end.raw_ns <= now.moment.raw_ns {
            return Ok(self.decline(Refusal::Expired, now.moment));
        }
        self.remember(epoch)?;
        self.count.round_trip_ns = Some(sent.elapsed_ns(now.moment));
        self.adopt(epoch, end, crate::base::clock::holder_ttl(ttl_ns), now, events);
        Ok(self.reply(true, None, now.moment))
    }

    fn decline(&mut self, refusal: Refusal, now: Moment) -> GrantReply {
        self.count.refused_grants += 1;
        self.reply(false, Some(refusal), now)
    }

    fn reply(&self, accepted: bool, refusal: Option<Refusal>, now: Moment) -> GrantReply {
        GrantReply {
            accepted,
            epoch: self.lease.map_or(self.epoch_seen, |lease| lease.epoch),
            remaining_ns: self.remaining_ns(now),
            refusal,
            closed: (!self.open).then_some(self.reason),
        }
    }

    /// Somebody says that `holder`, another node, has `epoch`. A higher epoch than any seen closes the gate at once; another one
    /// changes nothing.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] for a step above the maximum, which changes nothing. What the store says when the epoch cannot be
    /// persisted: the gate is closed all the same.
    pub fn observe(&mut self, epoch: u64, holder: &str, events: &mut Vec<GateEvent>) -> Result<()> {
        self.check_alive()?;
        if epoch <= self.epoch_seen {
            return Ok(());
        }
        self.check_epoch(epoch, true)?;
        if !planted!("superseded-ignored") {
            self.drop_lease(Reason::Superseded, events);
        }
        let remembered = self.remember(epoch);
        // Kept in memory even where it could not be stored.
        self.epoch_seen = epoch;
        self.cell.words().epoch_seen.store(epoch, Relaxed);
        self.foreign = Some(holder.to_owned());
        remembered
    }

    /// The node has another role: the lease is dropped and nonces given out so far are void. The epoch's memory stays.
    ///
    /// # Errors
    /// [`Status::Closed`] or [`Status::Poisoned`].
    pub fn reset(&mut self, events: &mut Vec<GateEvent>) -> Result<()> {
        self.check_alive()?;
        self.nonces.clear();
        self.draining = None;
        self.drop_lease(Reason::NeverGranted, events);
        Ok(())
    }

    /// The lease behind this gate is gone, and the caller knows why (its session was lost, its clocks jumped).
    ///
    /// # Errors
    /// [`Status::Closed`] or [`Status::Poisoned`].
    pub fn revoke(&mut self, reason: Reason, events: &mut Vec<GateEvent>) -> Result<()> {
        self.check_alive()?;
        self.drop_lease(reason, events);
        Ok(())
    }

    /// Something has happened to this machine or its host that the lease does not allow for: the lease is dropped, and nonces given out so
    /// far are void. A fresh grant opens again; after [`Reason::Restored`] only one with a higher epoch than any seen, because another
    /// copy of this process may hold the present one.
    ///
    /// # Errors
    /// [`Status::Closed`] or [`Status::Poisoned`].
    pub fn distrust(&mut self, reason: Reason, events: &mut Vec<GateEvent>) -> Result<()> {
        self.check_alive()?;
        self.nonces.clear();
        self.count.distrusts += 1;
        if reason == Reason::Restored {
            self.retired = self.retired.max(self.epoch_seen);
        }
        self.drop_lease(reason, events);
        Ok(())
    }

    /// The answer to a heartbeat while the host does not show that it is alive: it renews nothing.
    pub fn decline_for_silence(&mut self, now: Moment, rng: &mut dyn Rng) -> HeartbeatReply {
        let grant = self.decline(Refusal::HostSilent, now);
        HeartbeatReply { grant, next_nonce: self.nonces.issue(now, rng) }
    }

    /// Closes the gate for good. Whoever still asks is refused.
    pub fn close(&mut self, events: &mut Vec<GateEvent>) {
        self.end(Reason::Closed, events);
    }

    /// Closes the gate for good because the library can vouch for nothing any more.
    pub fn poison(&mut self, events: &mut Vec<GateEvent>) {
        self.end(Reason::Poisoned, events);
    }

    fn end(&mut self, reason: Reason, events: &mut Vec<GateEvent>) {
        if self.ended.is_none() {
            self.ended = Some(reason);
            self.publish_mode();
            self.drop_lease(reason, events);
        }
    }

    fn drop_lease(&mut self, reason: Reason, events: &mut Vec<GateEvent>) {
        protocol::retract(self.cell.words());
        let open = self.open || self.draining.is_some();
        let epoch = self.lease.take().map(|lease| lease.epoch);
        self.end_start();
        match epoch {
            Some(epoch) if open => {
                self.lose(epoch, reason, events);
                if !matches!(reason, Reason::Closed | Reason::NeverGranted) {
                    self.overrun(epoch, events);
                }
            }
            _ => {
                self.open = false;
                self.set_reason(Some(reason));
            }
        }
    }

    /// Lets no write in from now on. When it returns, every write is either refused or counted by [`super::CellRef::in_flight`];
    /// wait for those without the core's lock ([`super::CellRef::wait_idle`]), then call [`GateCore::end_drain`]. In the weaker modes
    /// writes go on passing, and a drain says nothing about them.
    ///
    /// # Errors
    /// [`Status::Closed`], [`Status::Poisoned`]; [`Status::Io`] when the kernel refuses its barrier: then nothing is promised, and
    /// no write is let in either.
    pub fn begin_drain(&mut self, now: Moment, events: &mut Vec<GateEvent>) -> Result<()> {
        self.check_alive()?;
        if self.draining.is_none() {
            // Never 0, which is what `idle` starts with.
            let drain = &self.cell.words().drain;
            drain.store(drain.load(Relaxed).wrapping_add(1).max(1), Release);
            self.draining = Some((now, self.lease.map_or(0, |lease| lease.epoch)));
            if let Some(lease) = self.lease.filter(|_| self.open) {
                events.push(GateEvent::SteppingDown { epoch: lease.epoch });
            }
        }
        self.open = false;
        self.set_reason(Some(Reason::Draining));
        let fenced = self.fenced;
        let reached = protocol::begin_drain(self.cell.words(), || {
            if fenced {
                std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
                None
            } else {
                platform::process_barrier().err()
            }
        });
        self.end_start();
        reached.map_or(Ok(()), Err)
    }

    /// Ends the drain: the epoch is over at this node, and may be released.
    ///
    /// # Errors
    /// [`Status::Timeout`] while writes are in flight: the gate goes on draining. [`Status::Misuse`] without [`GateCore::begin_drain`].
    pub fn end_drain(&mut self, now: Moment, events: &mut Vec<GateEvent>) -> Result<()> {
        let Some((since, epoch)) = self.draining else {
            return Err(Error::new(Status::Misuse, "no drain is under way"));
        };
        let words = self.cell.words();
        // Once idle, always idle: no permit is given. Who is being refused just now may still show in the count.
        let idle = words.idle.load(Acquire) == words.drain.load(Relaxed);
        let left = self.cell.in_flight();
        if left != 0 && !idle && !planted!("drain-without-waiting") {
            return Err(Error::new(Status::Timeout, format!("{left} writes are still in flight")));
        }
        protocol::retract(self.cell.words());
        self.draining = None;
        self.lease = None;
        self.retired = self.retired.max(epoch);
        self.count.drains += 1;
        events.push(GateEvent::Drained { epoch, took_ns: since.elapsed_ns(now) });
        Ok(())
    }

    /// Gives the drain up: if the lease still holds, writes are let in again.
    ///
    /// # Errors
    /// [`Status::Misuse`] when no drain is under way.
    pub fn cancel_drain(&mut self, now: &Reading, events: &mut Vec<GateEvent>) -> Result<()> {
        if self.draining.take().is_none() {
            return Err(Error::new(Status::Misuse, "no drain is under way"));
        }
        if self.lease.is_none() {
            self.set_reason(Some(Reason::Expired));
        }
        self.refresh(now, events);
        if let Some(lease) = self.lease.filter(|_| self.open) {
            events.push(GateEvent::Granted { epoch: lease.epoch, remaining_ns: lease.remaining_ns(now.moment) });
        }
        Ok(())
    }

    /// The gate as an operator sees it.
    pub fn status(&self, now: Moment) -> GateStatus {
        let refusals = stats::refusals(self.cell);
        GateStatus {
            name: self.name.clone(),
            mode: self.mode,
            phase: self.phase(),
            reason: (!self.open).then_some(self.reason),
            epoch: self.lease.map_or(self.cell.words().epoch.load(Relaxed), |lease| lease.epoch),
            epoch_seen: self.epoch_seen,
            holder_hint: self.foreign.clone(),
            remaining_ms: self.remaining_ns(now) / 1_000_000,
            clock: match (self.injected, self.tsc_live) {
                (true, _) => "injected",
                (_, true) => "tsc",
                _ => "boottime",
            },
            barrier: if self.fenced { "fence" } else { "membarrier" },
            start_open: self.options.start_open,
            trust_receipt: self.options.trust_receipt,
            grants: self.count.grants,
            renewals: self.count.renewals,
            refused_grants: self.count.refused_grants,
            trusted_receipts: self.count.trusted_receipts,
            losses: self.count.losses,
            drains: self.count.drains,
            clock_fallbacks: self.count.clock_fallbacks,
            distrusts: self.count.distrusts,
            permits: stats::permits(self.cell),
            in_flight: stats::in_flight(self.cell),
            refused: refusals.by_reason,
            passed: refusals.passed,
            uncertain: refusals.uncertain,
            round_trip_us: self.count.round_trip_ns.map(|ns| ns / 1_000),
            least_remaining_us: self.count.least_remaining_ns.map(|ns| ns / 1_000),
            least_margin_us: stats::least_margin(self.cell).map(|ns| ns / 1_000),
            longest_gap_us: self.count.longest_gap_ns / 1_000,
        }
    }
}
