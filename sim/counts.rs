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

type Counted = (BTreeMap<Fault, u64>, BTreeMap<&'static str, u64>);

/// Counters. Clones are the same ones.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<Mutex<Counted>>);

impl Counts {
    pub fn add(&self, fault: Fault) {
        *self.0.lock().unwrap().0.entry(fault).or_default() += 1;
    }

    /// Something that was done.
    pub fn done(&self, what: &'static str) {
        *self.0.lock().unwrap().1.entry(what).or_default() += 1;
    }

    pub fn done_many(&self, what: &'static str, count: u64) {
        *self.0.lock().unwrap().1.entry(what).or_default() += count;
    }

    pub fn of(&self, fault: Fault) -> u64 {
        self.0.lock().unwrap().0.get(&fault).copied().unwrap_or(0)
    }

    pub fn of_done(&self, what: &str) -> u64 {
        self.0.lock().unwrap().1.get(what).copied().unwrap_or(0)
    }

    /// Takes another run's into account.
    pub fn take(&self, other: &Counts) {
        let other = other.0.lock().unwrap().clone();
        let mut mine = self.0.lock().unwrap();
        other.0.into_iter().for_each(|(fault, count)| *mine.0.entry(fault).or_default() += count);
        other.1.into_iter().for_each(|(what, count)| *mine.1.entry(what).or_default() += count);
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (faults, done) = &*self.0.lock().unwrap();
        write!(f, "done {done:?}; faults {faults:?}")
    }
}
