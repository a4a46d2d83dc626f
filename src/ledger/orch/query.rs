//! What can be asked of the orchestrator's state. Answers are JSON, the same in every language.

use serde_json::{Value, json};

use crate::base::SessionId;
use crate::base::codec::{Decode, Encode};

use super::state::{Budget, Entry, OrchCounts, Pause, Run, RunState, State, Worker};
use super::tasks::states;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum OrchQuery {
    /// One schedule, or null: `{"definition", "revision", "created_ms", "updated_ms", "paused", "watermarks", "waiting", "runs"}`.
    Schedule(String),
    /// Schedules after this id, in order of ids, at most so many.
    Schedules {
        /// Only those that come after it.
        after: String,
        /// At most so many.
        limit: u32,
    },
    /// The latest lines of a schedule's history, oldest first; null when there is no such schedule.
    History {
        /// The schedule.
        schedule: String,
        /// At most so many.
        limit: u32,
    },
    /// A run that has not ended, or a line of a history, or null.
    Run(u64),
    /// All runs that have not ended, by number, at most so many.
    Runs {
        /// At most so many.
        limit: u32,
    },
    /// Workers, budgets, counts, how many runs are due and wait for a worker, the pause of all, the journal's digest.
    Status,
}

impl State {
    /// The answer, as of the ledger's clock `now`.
    pub fn ask(&self, query: &OrchQuery, now: u64) -> Value {
        match query {
            OrchQuery::Schedule(id) => self.schedules.get(id).map_or(Value::Null, |e| self.schedule_json(e, now)),
            OrchQuery::Schedules { after, limit } => {
                let range = (std::ops::Bound::Excluded(after.as_str()), std::ops::Bound::Unbounded);
                let found = self.schedules.range::<str, _>(range).take(*limit as usize);
                found.map(|(_, e)| self.schedule_json(e, now)).collect()
            }
            OrchQuery::History { schedule, limit } => self.schedules.get(schedule).map_or(Value::Null, |e| {
                let from = e.history.len().saturating_sub(*limit as usize);
                json!(e.history.iter().skip(from).collect::<Vec<_>>())
            }),
            // Lines of ticks that were never started have no run.
            OrchQuery::Run(0) => Value::Null,
            OrchQuery::Run(id) => match self.runs.get(id) {
                Some(run) => run_json(run, now),
                None => {
                    let mut old = self.schedules.values().flat_map(|e| e.history.iter().map(move |h| (e, h)));
                    old.find(|(_, h)| h.run == *id).map_or(Value::Null, |(e, h)| {
                        let mut line = json!(h);
                        line["schedule"] = json!(e.definition.id);
                        line
                    })
                }
            },
            OrchQuery::Runs { limit } => self.runs.values().take(*limit as usize).map(|r| run_json(r, now)).collect(),
            OrchQuery::Status => self.status_json(),
        }
    }

    fn schedule_json(&self, entry: &Entry, now: u64) -> Value {
        let runs: Vec<_> = entry.active.iter().filter_map(|id| self.runs.get(id)).map(|r| run_json(r, now)).collect();
        json!({
            "definition": &*entry.definition,
            "revision": entry.revision,
            "created_ms": entry.created_ms,
            "updated_ms": entry.updated_ms,
            "paused": entry.paused,
            "watermarks": entry.marks,
            "waiting": entry.buffer.len(),
            "runs": runs,
            "last": entry.history.back(),
        })
    }

    fn status_json(&self) -> Value {
        let workers: Vec<_> = self.workers.values().map(worker_json).collect();
        json!({
            "schedules": self.schedules.len(),
            "runs": self.runs.len(),
            "due": self.runs.values().filter(|r| r.state == RunState::Due).count(),
            "workers": workers,
            "budgets": self.budgets,
            "paused": self.paused,
            "counts": self.counts,
            "nominal_ms": self.nominal_ms,
            "journal": format!("{:016x}", self.journal),
        })
    }

    // ---- what the node's own threads read --------------------------------------------------------

    /// The version: a copy made at it is whole.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Wall time as the ledger has been told of it, UTC ms.
    pub fn nominal_ms(&self) -> i64 {
        self.nominal_ms
    }

    /// A digest of everything that was started and that has ended, in order.
    pub fn journal_digest(&self) -> u64 {
        self.journal
    }

    /// How many runs were made.
    pub fn runs_made(&self) -> u64 {
        self.last_run
    }

    /// Counts.
    pub fn counts(&self) -> OrchCounts {
        self.counts
    }

    /// The pause of everything.
    pub fn paused(&self) -> Option<&Pause> {
        self.paused.as_ref()
    }

    /// Schedules changed after `version`, in the order of their last change; and those removed.
    pub fn changed_since(&self, version: u64) -> (impl Iterator<Item = &Entry>, impl Iterator<Item = &String>) {
        let after = (std::ops::Bound::Excluded(version), std::ops::Bound::Unbounded);
        let changed = self.changes.range(after).filter_map(|(_, id)| self.schedules.get(id));
        (changed, self.removed.range(after).map(|(_, id)| id))
    }

    /// One schedule.
    pub fn schedule(&self, id: &str) -> Option<&Entry> {
        self.schedules.get(id)
    }

    /// A run that has not ended.
    pub fn run(&self, id: u64) -> Option<&Run> {
        self.runs.get(&id)
    }

    /// The runs that a worker has.
    pub fn runs_of(&self, worker: SessionId) -> impl Iterator<Item = &Run> {
        self.runs.values().filter(move |r| r.worker == worker && r.token.0 != 0)
    }

    /// Whether a worker has joined.
    pub fn has_worker(&self, session: SessionId) -> bool {
        self.workers.contains_key(&session.0)
    }

    /// Workers.
    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values()
    }

    /// Budgets by name.
    pub fn budgets(&self) -> &std::collections::BTreeMap<String, Budget> {
        &self.budgets
    }
}

fn worker_json(w: &Worker) -> Value {
    json!({
        "node": w.name, "session": w.session.0, "kinds": w.kinds, "labels": w.labels, "version": w.version,
        "capacity": w.capacity, "running": w.running,
    })
}

/// A run that has not ended, as JSON.
fn run_json(r: &Run, now: u64) -> Value {
    let tasks = r.definition.tasks.iter().zip(&r.tasks).zip(states(&r.definition, &r.tasks));
    json!({
        "run": r.id,
        "schedule": r.schedule,
        "target": r.target,
        "tick_ms": r.tick_ms,
        "state": r.state,
        "reason": r.reason,
        "attempt": r.attempt,
        "token": r.token.0,
        "node": r.node,
        "key": r.key,
        "progress": f64::from(r.progress) / 1000.0,
        "started_ms": r.started_ms,
        "age_ms": now.saturating_sub(r.since),
        "remaining_ms": r.until.saturating_sub(now),
        "tasks": tasks.map(|((t, m), state)| json!({"name": t.name(), "ended": m.ended, "state": state})).collect::<Vec<_>>(),
    })
}
