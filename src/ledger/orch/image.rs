//! The orchestrator's state as parts of a snapshot, and back.

use std::collections::BTreeMap;

use crate::base::codec::{Decode, Encode};

use super::state::{Budget, Entry, OrchCounts, Pause, Run, State, Worker};

/// Schedules or runs in one part.
const PART: usize = 64;

/// One part of the image. Seldom made, never kept.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Encode, Decode)]
pub(crate) enum OrchImage {
    /// What there is once. First.
    Common {
        /// Version, revisions, last run, journal, version of the common part.
        numbers: [u64; 5],
        /// Wall time.
        nominal_ms: i64,
        /// Counts.
        counts: OrchCounts,
        /// Pause of all.
        paused: Option<Pause>,
        /// Workers.
        workers: Vec<Worker>,
        /// Names of workers.
        names: BTreeMap<String, i64>,
        /// Budgets.
        budgets: BTreeMap<String, Budget>,
        /// Removed schedules.
        removed: BTreeMap<u64, String>,
    },
    /// Schedules by id.
    Schedules(Vec<Entry>),
    /// Runs by number.
    Runs(Vec<Run>),
}

impl State {
    /// Writes the image; nothing for an empty state.
    pub(crate) fn image<E>(&self, out: &mut dyn FnMut(OrchImage) -> Result<(), E>) -> Result<(), E> {
        if self.is_empty() {
            return Ok(());
        }
        out(OrchImage::Common {
            numbers: [self.version, self.revisions, self.last_run, self.journal, self.common],
            nominal_ms: self.nominal_ms,
            counts: self.counts,
            paused: self.paused.clone(),
            workers: self.workers.values().cloned().collect(),
            names: self.names.clone(),
            budgets: self.budgets.clone(),
            removed: self.removed.clone(),
        })?;
        let mut schedules = self.schedules.values().cloned().peekable();
        while schedules.peek().is_some() {
            out(OrchImage::Schedules(schedules.by_ref().take(PART).collect()))?;
        }
        let mut runs = self.runs.values().cloned().peekable();
        while runs.peek().is_some() {
            out(OrchImage::Runs(runs.by_ref().take(PART).collect()))?;
        }
        Ok(())
    }

    /// Takes a part of an image.
    pub(crate) fn load(&mut self, part: OrchImage) {
        match part {
            OrchImage::Common { numbers, nominal_ms, counts, paused, workers, names, budgets, removed } => {
                [self.version, self.revisions, self.last_run, self.journal, self.common] = numbers;
                (self.nominal_ms, self.counts, self.paused) = (nominal_ms, counts, paused);
                self.workers = workers.into_iter().map(|w| (w.session.0, w)).collect();
                (self.names, self.budgets, self.removed) = (names, budgets, removed);
            }
            OrchImage::Schedules(entries) => {
                for entry in entries {
                    self.changes.insert(entry.changed, entry.definition.id.clone());
                    self.schedules.insert(entry.definition.id.clone(), entry);
                }
            }
            OrchImage::Runs(runs) => {
                for run in runs {
                    if run.token.0 != 0 {
                        self.leases.insert((run.until, run.id));
                    }
                    self.runs.insert(run.id, run);
                }
            }
        }
    }
}
