//! What a run has injected and seen, by kind: a run in which nothing happened is no run (I-35).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A process is killed; what it wrote is there.
    Kill,
    /// The power goes: what was not synced is lost, in part or whole, in the middle of a write too.
    PowerCut,
    /// A process is stopped (SIGSTOP) and goes on.
    Pause,
    /// A machine is suspended and resumed.
    Suspend,
    /// A virtual machine stands still with all of its clocks.
    Freeze,
    /// Clocks run at another rate.
    Rate,
    /// A wall clock is set.
    Wall,
    /// Two sides do not hear each other.
    Partition,
    /// One does not hear the other.
    OneWay,
    /// A message met a cut.
    Cut,
    /// A message is late.
    Delay,
    /// A message is lost.
    Loss,
    /// A message comes twice.
    Duplicate,
    /// A message is overtaken.
    Reorder,
    /// A write or sync fails.
    Eio,
    /// A disk is full.
    Enospc,
    /// A bit of the state's file is not what was written.
    Flip,
    /// A bit of the log is not.
    FlipOfLog,
    /// A copy of a disk is started beside the machine that works with it.
    Twin,
}

impl Fault {
    /// All kinds.
    pub const ALL: [Fault; 19] = [
        Fault::Kill,
        Fault::PowerCut,
        Fault::Pause,
        Fault::Suspend,
        Fault::Freeze,
        Fault::Rate,
        Fault::Wall,
        Fault::Partition,
        Fault::OneWay,
        Fault::Cut,
        Fault::Delay,
        Fault::Loss,
        Fault::Duplicate,
        Fault::Reorder,
        Fault::Eio,
        Fault::Enospc,
        Fault::Flip,
        Fault::FlipOfLog,
        Fault::Twin,
    ];
}

#[derive(Clone, Debug, Default)]
struct Counted {
    faults: BTreeMap<Fault, u64>,
    done: BTreeMap<&'static str, u64>,
    /// The least that was left of a lease when a write under it was acknowledged, us.
    margin_us: Option<u64>,
}

/// Counters. Clones are the same ones.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<Mutex<Counted>>);

impl Counts {
    pub fn add(&self, fault: Fault) {
        *self.0.lock().unwrap().faults.entry(fault).or_default() += 1;
    }

    /// Something that was done.
    pub fn done(&self, what: &'static str) {
        *self.0.lock().unwrap().done.entry(what).or_default() += 1;
    }

    pub fn done_many(&self, what: &'static str, count: u64) {
        *self.0.lock().unwrap().done.entry(what).or_default() += count;
    }

    /// So much was left of a lease when a write under it was acknowledged.
    pub fn margin(&self, us: Option<u64>) {
        let mut counted = self.0.lock().unwrap();
        counted.margin_us = counted.margin_us.into_iter().chain(us).min();
    }

    pub fn of(&self, fault: Fault) -> u64 {
        self.0.lock().unwrap().faults.get(&fault).copied().unwrap_or(0)
    }

    pub fn of_done(&self, what: &str) -> u64 {
        self.0.lock().unwrap().done.get(what).copied().unwrap_or(0)
    }

    /// Takes another run's into account.
    pub fn take(&self, other: &Counts) {
        let other = other.0.lock().unwrap().clone();
        self.margin(other.margin_us);
        let mut mine = self.0.lock().unwrap();
        other.faults.into_iter().for_each(|(fault, count)| *mine.faults.entry(fault).or_default() += count);
        other.done.into_iter().for_each(|(what, count)| *mine.done.entry(what).or_default() += count);
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counted { faults, done, margin_us } = &*self.0.lock().unwrap();
        write!(f, "done {done:?}; faults {faults:?}; least margin {} ms", margin_us.map_or(0.0, |us| us as f64 / 1_000.0))
    }
}
