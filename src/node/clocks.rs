//! What the clocks and the machine say about themselves: suspends, jumps, slewing, a restored or moved machine, and a clock of ours
//! that runs slow against the ledger's. Each closes gates or hurries a renewal; none of them ever opens anything.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

use super::core::Core;
use super::event::LossReason;
use crate::base::planted::planted;
use crate::base::{Clock, Config, Moment, Result};
use crate::gate::{EpochStore, Reason};

const MS: u64 = 1_000_000;
/// BOOTTIME that ran this much, and an eighth of the time, ahead of RAW between two looks was a suspend: slewing is at most 10 %.
const SUSPEND_NS: u64 = 100 * MS;
/// REALTIME that went this much, and an eighth of the time, apart from BOOTTIME between two looks was set.
const JUMP_NS: u64 = 500 * MS;
/// Over so much of RAW the rate of BOOTTIME is measured.
const RATE_NS: u64 = 5_000 * MS;
/// How often the machine's identity is read.
const MACHINE_NS: u64 = 1_000 * MS;
/// Longest identity that is read.
const IDENTITY_MAX: u64 = 4_096;
/// Where the digest of the machine's generation is kept: no gate can have this name.
const KEPT_AS: &str = "vm generation";

/// What was noticed, as counts since the node was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClockStatus {
    /// The ledger's clock ran faster than this machine's, beyond all margins: gates were closed.
    pub anomalies: u64,
    /// Suspends: BOOTTIME ran ahead of RAW. Gates were closed.
    pub suspends: u64,
    /// REALTIME was set. Changes no lease; sessions were renewed at once.
    pub wall_jumps: u64,
    /// Stretches in which BOOTTIME ran more than 2 % faster or slower than RAW.
    pub slews: u64,
    /// The machine was restored, cloned or moved: gates were closed, sessions given up.
    pub restores: u64,
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) anomalies: AtomicU64,
    suspends: AtomicU64,
    wall_jumps: AtomicU64,
    slews: AtomicU64,
    restores: AtomicU64,
}

impl Counts {
    pub(super) fn status(&self) -> ClockStatus {
        ClockStatus {
            anomalies: self.anomalies.load(Relaxed),
            suspends: self.suspends.load(Relaxed),
            wall_jumps: self.wall_jumps.load(Relaxed),
            slews: self.slews.load(Relaxed),
            restores: self.restores.load(Relaxed),
        }
    }
}

#[derive(Clone, Copy)]
struct Hands {
    boottime: u64,
    raw: u64,
    realtime: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Signs {
    suspended: bool,
    wall_jumped: bool,
    slewed: bool,
}

/// Compares the clocks with each other from look to look.
#[derive(Default)]
struct Clocks {
    last: Option<Hands>,
    rate_from: Option<Hands>,
    slewing: bool,
}

fn apart(a: u64, b: u64) -> u64 {
    a.abs_diff(b)
}

impl Clocks {
    fn look(&mut self, clock: &dyn Clock) -> Signs {
        let now = Hands { boottime: clock.boottime_ns(), raw: clock.raw_ns(), realtime: clock.realtime_ns() };
        let Some(last) = self.last.replace(now) else {
            self.rate_from = Some(now);
            return Signs::default();
        };
        let (boottime, raw) = (now.boottime.saturating_sub(last.boottime), now.raw.saturating_sub(last.raw));
        let suspended = boottime.saturating_sub(raw) > SUSPEND_NS + raw / 8;
        // In signed steps: it can be set back.
        let realtime = now.realtime.wrapping_sub(last.realtime) as i64;
        let wall_jumped = realtime < 0 || apart(realtime as u64, boottime) > JUMP_NS + boottime / 8;
        let mut slewed = false;
        if suspended {
            self.rate_from = Some(now);
        } else if let Some(from) = self.rate_from
            && now.raw.saturating_sub(from.raw) >= RATE_NS
        {
            let (boottime, raw) = (now.boottime.saturating_sub(from.boottime), now.raw.saturating_sub(from.raw));
            let slewing = apart(boottime, raw) > raw / 50;
            slewed = slewing && !std::mem::replace(&mut self.slewing, slewing);
            self.slewing = slewing;
            self.rate_from = Some(now);
        }
        Signs { suspended, wall_jumped, slewed }
    }
}

/// Which machine this is, as far as it can be known.
struct Machine {
    boot_id_path: String,
    generation_path: String,
    boot_id: Option<Vec<u8>>,
    generation: Option<Vec<u8>>,
    read_ns: u64,
}

fn read(path: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(IDENTITY_MAX).read_to_end(&mut bytes).ok()?;
    (!bytes.is_empty()).then_some(bytes)
}

/// A number for an identity, below 2^63 and not 0: FNV-1a.
fn digest(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    (hash >> 1).max(1)
}

/// Whether both are known, and differ.
fn changed(before: &Option<Vec<u8>>, now: &Option<Vec<u8>>) -> bool {
    matches!((before, now), (Some(before), Some(now)) if before != now)
}

/// What the node's thread compares at each round.
pub(super) struct ClockWatch {
    clocks: Clocks,
    machine: Machine,
    /// The machine had another generation when the data directory was last open.
    pub(super) restored: bool,
}

impl ClockWatch {
    /// # Errors
    /// What the store of the epochs says.
    pub(super) fn new(config: &Config, epochs: &Arc<dyn EpochStore>) -> Result<ClockWatch> {
        let (boot_id_path, generation_path) = (config.get("boot_id_path")?.to_owned(), config.get("vmgenid_path")?.to_owned());
        let (boot_id, generation) = (read(&boot_id_path), read(&generation_path));
        let mut restored = false;
        if let Some(generation) = &generation {
            let (now, before) = (digest(generation), epochs.load(KEPT_AS)?);
            restored = before.is_some_and(|before| before != now);
            if before != Some(now) {
                epochs.persist(KEPT_AS, now)?;
            }
        }
        if restored {
            tracing::warn!("the machine was restored or cloned since its data directory was last open: only higher epochs open its gates");
        }
        let machine = Machine { boot_id_path, generation_path, boot_id, generation, read_ns: 0 };
        Ok(ClockWatch { clocks: Clocks::default(), machine, restored })
    }

    fn look(&mut self, clock: &dyn Clock, epochs: &Arc<dyn EpochStore>) -> (Signs, bool) {
        let signs = self.clocks.look(clock);
        let now = clock.boottime_ns();
        let m = &mut self.machine;
        if now.saturating_sub(m.read_ns) < MACHINE_NS && !signs.suspended {
            return (signs, false);
        }
        m.read_ns = now;
        let (boot_id, generation) = (read(&m.boot_id_path), read(&m.generation_path));
        let restored = changed(&m.boot_id, &boot_id) || changed(&m.generation, &generation);
        if restored {
            if let Some(generation) = &generation
                && let Err(error) = epochs.persist(KEPT_AS, digest(generation))
            {
                tracing::warn!(%error, "the machine's generation could not be kept");
            }
            (m.boot_id, m.generation) = (boot_id.or(m.boot_id.take()), generation.or(m.generation.take()));
        }
        (signs, restored)
    }
}

/// One look of the node's thread, before it does anything else.
pub(super) fn look_around(core: &Arc<Core>) {
    let (signs, restored) = core.watch().look(&*core.clock, &core.epochs);
    let count = &core.clock_counts;
    if restored && !planted!("restored-machine-ignored") {
        count.restores.fetch_add(1, Relaxed);
        tracing::warn!("the machine was restored, cloned or moved: gates close, sessions are given up");
        core.distrust_gates(Reason::Restored, None);
        for session in core.kept_sessions() {
            session.ended(core, session.id(), LossReason::Restored);
        }
    } else if signs.suspended && !planted!("suspend-ignored") {
        count.suspends.fetch_add(1, Relaxed);
        tracing::warn!("the machine was suspended: gates close until their leases are confirmed");
        core.distrust_gates(Reason::Suspended, None);
    }
    if signs.slewed {
        count.slews.fetch_add(1, Relaxed);
        tracing::warn!("CLOCK_BOOTTIME is slewed by more than 2 %");
    }
    if signs.wall_jumped {
        count.wall_jumps.fetch_add(1, Relaxed);
        tracing::info!("CLOCK_REALTIME was set; leases do not depend on it, and are confirmed all the same");
    }
    if signs.suspended || signs.wall_jumped {
        core.kept_sessions().iter().for_each(|s| s.hurry());
    }
}

/// Renewals looked back at.
const SAMPLES: usize = 32;
/// Renewals that have to agree after an anomaly before offices are campaigned for again.
const CLEAN: u32 = 3;
/// Both clocks are read in whole milliseconds, and the ledger's only when it is stamped.
const GRAIN_MS: u64 = 10;

/// Own time against the ledger's, over the last renewals. The ledger's clock never runs ahead of real time by more than 1 %, and never
/// counts what it missed: if it shows more than our own, ours is slow, or stood still.
#[derive(Default)]
pub(super) struct CrossCheck {
    samples: VecDeque<(Moment, u64)>,
    /// Renewals that must agree before this clock is trusted again.
    wanted: u32,
}

impl CrossCheck {
    /// A renewal sent at `sent` was answered at `received` with the ledger's clock. True: the clocks disagree.
    pub(super) fn renewed(&mut self, sent: Moment, received: Moment, clock_ms: u64) -> bool {
        let slow = |(from, then): &(Moment, u64)| {
            // From the sending of the one to the receipt of the other: as long as it can have been.
            let own_ms = from.elapsed_ns(received) / MS;
            let ledger_ms = clock_ms.saturating_sub(*then);
            own_ms + GRAIN_MS < ledger_ms * 98 / 100
        };
        if self.samples.iter().any(slow) && !planted!("slow-clock-ignored") {
            self.samples.clear();
            self.wanted = CLEAN;
            return true;
        }
        if !self.samples.is_empty() {
            self.wanted = self.wanted.saturating_sub(1);
        }
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((sent, clock_ms));
        false
    }

    /// Whether offices may be held on this clock.
    pub(super) fn trusted(&self) -> bool {
        self.wanted == 0
    }

    /// Another session begins.
    pub(super) fn clear(&mut self) {
        self.samples.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::VirtualClock;

    const S: u64 = 1_000 * MS;

    #[test]
    fn suspends_jumps_and_slews_are_told_apart() {
        let clock = VirtualClock::new(S);
        let mut clocks = Clocks::default();
        let mut look = |clock: &VirtualClock| clocks.look(clock);
        assert_eq!(look(&clock), Signs::default());
        clock.advance(S / 2);
        assert_eq!(look(&clock), Signs::default());
        clock.suspend(S);
        assert_eq!(look(&clock), Signs { suspended: true, ..Signs::default() });
        clock.set_realtime(0);
        assert_eq!(look(&clock), Signs { wall_jumped: true, ..Signs::default() });
        clock.set_realtime(u64::MAX / 4);
        assert_eq!(look(&clock), Signs { wall_jumped: true, ..Signs::default() });
        // As fast as the kernel slews: no suspend. Told once.
        let mut told = 0;
        for _ in 0..40 {
            clock.slew(S / 2, S / 2 * 110 / 100);
            let signs = look(&clock);
            assert!(!signs.suspended && !signs.wall_jumped);
            told += u32::from(signs.slewed);
        }
        assert_eq!(told, 1);
    }

    #[test]
    fn a_slow_clock_is_caught_and_a_late_answer_is_not_taken_for_one() {
        let at = |ms: u64| Moment { boottime_ns: ms * MS, raw_ns: ms * MS };
        let mut check = CrossCheck::default();
        // The answers take between 0 and 900 ms; the ledger's clock is read anywhere in between.
        for i in 0..100u64 {
            let (sent, delay) = (i * 1_000, i * 37 % 900);
            assert!(!check.renewed(at(sent), at(sent + delay), 50_000 + sent + delay / 2), "{i}");
        }
        // Ours runs 5 % slow from here on.
        let mut check = CrossCheck::default();
        let caught = (0..30u64).find(|i| check.renewed(at(i * 950), at(i * 950 + 5), i * 1_000 + 5));
        assert!(caught.is_some_and(|i| (1..=3).contains(&i)), "{caught:?}");
        assert!(!check.trusted());
        // 1 % is within the margin.
        let mut check = CrossCheck::default();
        assert!((0..100u64).all(|i| !check.renewed(at(i * 990), at(i * 990 + 5), i * 1_000 + 5)));
        assert!(check.trusted());
    }
}
