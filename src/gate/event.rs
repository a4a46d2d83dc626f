//! What the publisher has to tell: edges, not levels, and never from a writer's thread.

use std::fmt;

use super::cell::Reason;

/// Something about a gate has changed. The core hands these to its caller, which delivers them with no lock held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateEvent {
    /// The gate has opened under this epoch, for so long at first.
    Granted {
        /// The lease's epoch.
        epoch: u64,
        /// Until the lease ends, ns.
        remaining_ns: u64,
    },
    /// A third of the lease is left and no renewal has come. Told once; a renewal arms it again.
    AtRisk {
        /// The lease's epoch.
        epoch: u64,
        /// Until the lease ends, ns.
        remaining_ns: u64,
    },
    /// The gate, which was open or draining under this epoch, is closed.
    Lost {
        /// The epoch lost.
        epoch: u64,
        /// Why.
        reason: Reason,
    },
    /// The host steps down: no new write is let in under this epoch, those in flight may finish. [`GateEvent::Drained`] follows.
    SteppingDown {
        /// The epoch that ends.
        epoch: u64,
    },
    /// No permit is left under this epoch, and none will be given: after [`GateEvent::SteppingDown`], or after [`GateEvent::Lost`].
    Drained {
        /// The epoch drained.
        epoch: u64,
        /// From the beginning of the drain, or from the loss, ns.
        took_ns: u64,
    },
    /// The lease has ended while writes were in flight: they finish as uncertain.
    Overrun {
        /// The epoch that ended.
        epoch: u64,
        /// Writes in flight.
        in_flight: u64,
    },
    /// The TSC disagreed with CLOCK_BOOTTIME, or cannot be used here: the gate judges by BOOTTIME from now on.
    ClockFallback,
    /// Refusals and late finishes since the last such event. At most one a second.
    Refused(Refusals),
}

/// Counts of a [`GateEvent::Refused`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Refused writes by reason, where there were any.
    pub by_reason: Vec<(Reason, u64)>,
    /// Writes that log-only let pass.
    pub passed: u64,
    /// Writes that finished without a provably valid lease.
    pub uncertain: u64,
}

impl GateEvent {
    /// Whether an operator should hear of it without asking. What the host itself has done is no news.
    pub fn is_warning(&self) -> bool {
        let expected = matches!(self, GateEvent::Granted { .. } | GateEvent::SteppingDown { .. } | GateEvent::Drained { .. });
        !expected && !matches!(self, GateEvent::Lost { reason: Reason::Closed, .. })
    }
}

/// One line for a log, without the gate's name.
impl fmt::Display for GateEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GateEvent::Granted { epoch, remaining_ns } => write!(f, "open under epoch {epoch} for {} ms", remaining_ns / 1_000_000),
            GateEvent::AtRisk { epoch, remaining_ns } => {
                write!(f, "epoch {epoch} ends in {} ms and was not renewed", remaining_ns / 1_000_000)
            }
            GateEvent::Lost { epoch, reason } => write!(f, "closed, epoch {epoch} lost: {reason}"),
            GateEvent::SteppingDown { epoch } => write!(f, "stepping down from epoch {epoch}"),
            GateEvent::Overrun { epoch, in_flight } => write!(f, "epoch {epoch} ended with {in_flight} writes in flight"),
            GateEvent::Drained { epoch, took_ns } => write!(f, "epoch {epoch} drained in {} us", took_ns / 1_000),
            GateEvent::ClockFallback => f.write_str("the TSC cannot be relied on, CLOCK_BOOTTIME is used"),
            GateEvent::Refused(r) => {
                f.write_str("refused")?;
                for (reason, count) in &r.by_reason {
                    write!(f, " {reason}={count}")?;
                }
                write!(f, " passed={} uncertain={}", r.passed, r.uncertain)
            }
        }
    }
}
