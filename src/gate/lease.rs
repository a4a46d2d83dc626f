//! The lease that a gate stands on, and the messages that feed it.

use super::cell::Reason;
use crate::base::Moment;

/// A lease: until when this node may believe that it holds office.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) epoch: u64,
    /// The end by each clock; it has come when either says so.
    pub(super) end: Moment,
    /// What the last grant was worth, counted from its sending.
    pub(super) ttl_ns: u64,
    /// How long before the end no write is let in any more.
    pub(super) budget_ns: u64,
    pub(super) at_risk_told: bool,
}

impl Lease {
    /// Time left until the end, by whichever clock says less.
    pub(super) fn remaining_ns(&self, now: Moment) -> u64 {
        let boottime = self.end.boottime_ns.saturating_sub(now.boottime_ns);
        let raw = self.end.raw_ns.saturating_sub(now.raw_ns);
        boottime.min(raw)
    }

    /// Time left in which writes are let in.
    pub(super) fn admission_ns(&self, now: Moment) -> u64 {
        self.remaining_ns(now).saturating_sub(self.budget_ns)
    }
}

/// `ttl_ns` after `sent`, by each clock.
pub(super) fn end_of(sent: Moment, ttl_ns: u64) -> Moment {
    Moment { boottime_ns: sent.boottime_ns.saturating_add(ttl_ns), raw_ns: sent.raw_ns.saturating_add(ttl_ns) }
}

/// The later of both, clock by clock: within one epoch a lease never gets shorter.
pub(super) fn later(a: Moment, b: Moment) -> Moment {
    Moment { boottime_ns: a.boottime_ns.max(b.boottime_ns), raw_ns: a.raw_ns.max(b.raw_ns) }
}

/// A lease pushed by a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The election's version. It must not be below the highest seen.
    pub epoch: u64,
    /// Length of the lease, ns, counted from the nonce's time.
    pub ttl_ns: u64,
    /// A nonce of this gate's; without one the heartbeat counts only under `trust_receipt`.
    pub nonce: Option<u64>,
}

/// Why a heartbeat did not renew, although nothing was wrong with its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// It carries no nonce, and `trust_receipt` is off.
    NoNonce,
    /// Its nonce is not of this gate, or too old to be known.
    UnknownNonce,
    /// The lease had ended before the message arrived.
    Expired,
    /// The gate is being drained, or this epoch was drained.
    Draining,
    /// The host has not shown that it is alive, see `gate.beat_timeout_ms`.
    HostSilent,
}

impl Refusal {
    /// The stable name, in lower case with underscores.
    pub const fn name(self) -> &'static str {
        match self {
            Refusal::NoNonce => "no_nonce",
            Refusal::UnknownNonce => "unknown_nonce",
            Refusal::Expired => "expired",
            Refusal::Draining => "draining",
            Refusal::HostSilent => "host_silent",
        }
    }
}

/// What a grant came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantReply {
    /// Whether the lease was granted or renewed.
    pub accepted: bool,
    /// The epoch of the lease, or the highest one known where there is none.
    pub epoch: u64,
    /// Until the lease ends, ns.
    pub remaining_ns: u64,
    /// Why it was not accepted.
    pub refusal: Option<Refusal>,
    /// Why the gate is closed; `None` while it is open.
    pub closed: Option<Reason>,
}

/// The answer to a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatReply {
    /// Whether it renewed, and what holds now.
    pub grant: GrantReply,
    /// To be sent back with the next heartbeat, whose lease will count from now.
    pub next_nonce: u64,
}
