//! The operations of ThemisDB's maintenance orchestrator, over ours: its entries and jobs as JSON, its rules.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{Orchestrator, lock};
use crate::base::{Error, Result, Status};
use crate::ledger::orch::{OrchQuery, Schedule};
use crate::orchestrator::themis;

/// The interval of `max_schedule_changes_per_interval`, ms.
const INTERVAL_MS: u64 = 60_000;
/// Most schedules that are looked at for a list.
const LIST_MAX: u32 = 100_000;

/// Changes of schedules by id: since when, on the local clock in ms, and how many.
#[derive(Default)]
pub(super) struct Churn(HashMap<String, (u64, u64)>);

impl Churn {
    /// Counts a change of a schedule that allows `most` an interval, 0 for any number.
    fn count(&mut self, id: &str, most: u64, now_ms: u64) -> Result<()> {
        self.0.retain(|_, (since, _)| now_ms.saturating_sub(*since) < INTERVAL_MS);
        let (_, count) = self.0.entry(id.to_owned()).or_insert((now_ms, 0));
        if most != 0 && *count >= most {
            return Err(Error::new(
                Status::Limit,
                format!("schedule {id}: {count} changes within a minute, max_schedule_changes_per_interval is {most}"),
            ));
        }
        *count += 1;
        Ok(())
    }
}

fn parsed(name: &str, text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|e| Error::invalid(name, e))
}

impl Orchestrator {
    fn count_change(&self, id: &str, allowed: &Schedule) -> Result<()> {
        let shared = &self.0.shared;
        lock(&shared.churn).count(id, themis::changes_allowed(allowed), shared.local_ms())
    }

    /// Writes a schedule in ThemisDB's JSON form; see [`themis`] for what becomes of its fields. `expected` as in [`Orchestrator::put`].
    ///
    /// # Errors
    /// As [`Orchestrator::put_json`]; [`Status::Limit`] for more changes within a minute, made here, than the schedule allows.
    pub fn put_themis(&self, text: &str, expected: Option<u64>) -> Result<u64> {
        let schedule = themis::from_json(&parsed("schedule", text)?)?;
        self.count_change(&schedule.id, &schedule)?;
        self.put(&schedule, expected)
    }

    /// Replaces a schedule, whatever id its new form names; who created it stays.
    ///
    /// # Errors
    /// As [`Orchestrator::put_themis`]; [`Status::InvalidArgument`] when there is none.
    pub fn replace_themis(&self, id: &str, text: &str) -> Result<u64> {
        let (old, revision) = self.definition(id)?;
        let new = themis::replaced(&old, parsed("schedule", text)?)?;
        self.count_change(id, &old)?;
        self.put(&new, Some(revision))
    }

    /// Changes some fields of a schedule, given in ThemisDB's JSON form; returns its revision.
    ///
    /// # Errors
    /// As [`Orchestrator::replace_themis`]; [`Status::Fenced`] when somebody else writes at the same time.
    pub fn patch_themis(&self, id: &str, patch: &str) -> Result<u64> {
        let patch = parsed("patch", patch)?;
        let (schedule, revision) = self.definition(id)?;
        let new = themis::apply_patch(&schedule, &patch)?;
        self.count_change(id, &schedule)?;
        self.put(&new, Some(revision))
    }

    /// A schedule in ThemisDB's JSON form.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] when there is none.
    pub fn get_themis(&self, id: &str) -> Result<Value> {
        let (schedule, _) = self.definition(id)?;
        let told = self.ask(&OrchQuery::Schedule(id.to_owned()))?;
        let next = self.next_fires(id, None, 1)?.first().copied();
        Ok(themis::to_json(&schedule, &told, next))
    }

    /// Schedules in ThemisDB's form by id: a tenant's, or all for an empty name.
    ///
    /// # Errors
    /// What every call may answer.
    pub fn list_themis(&self, tenant: &str) -> Result<Value> {
        let found = self.ask(&OrchQuery::Schedules { after: String::new(), limit: LIST_MAX })?;
        let ids = found.as_array().into_iter().flatten().filter_map(|s| s["definition"]["id"].as_str());
        let entries = ids.map(|id| self.get_themis(id)).collect::<Result<Vec<_>>>()?;
        Ok(entries.into_iter().filter(|e| tenant.is_empty() || e["tenant_id"] == tenant).collect())
    }

    /// A run as ThemisDB tells of a job; null for none.
    ///
    /// # Errors
    /// What every call may answer.
    pub fn themis_job(&self, run: u64) -> Result<Value> {
        Ok(themis::job(&self.ask(&OrchQuery::Run(run))?))
    }

    /// Runs as jobs, those that go on first, then those that the histories remember.
    ///
    /// # Errors
    /// What every call may answer.
    pub fn themis_jobs(&self, active_only: bool) -> Result<Value> {
        let mut jobs: Vec<Value> = each(&self.ask(&OrchQuery::Runs { limit: LIST_MAX })?).map(themis::job).collect();
        if !active_only {
            let schedules = self.ask(&OrchQuery::Schedules { after: String::new(), limit: LIST_MAX })?;
            for id in each(&schedules).filter_map(|s| s["definition"]["id"].as_str()) {
                let lines = self.ask(&OrchQuery::History { schedule: id.to_owned(), limit: LIST_MAX })?;
                jobs.extend(each(&lines).filter(|line| line["run"].as_u64().unwrap_or(0) != 0).map(|line| {
                    let mut line = line.clone();
                    line["schedule"] = json!(id);
                    themis::job(&line)
                }));
            }
        }
        Ok(jobs.into())
    }

    /// Whether maintenance is done: `{"status": "healthy" | "degraded" | "unhealthy", "reasons": [..], "running": 0}`. Unhealthy: nothing can run. Degraded:
    /// runs have got stuck or were lost, or it coordinates less than it could.
    ///
    /// # Errors
    /// What every call may answer.
    pub fn health(&self) -> Result<Value> {
        let status = self.status()?;
        let (mut reasons, mut word) = (Vec::new(), "healthy");
        for (count, what) in [("stuck", "runs did not stop when told"), ("lost", "attempts were lost with their worker")] {
            if let Some(n) = status["counts"][count].as_u64().filter(|n| *n > 0) {
                reasons.push(format!("{n} {what}"));
            }
        }
        for (id, told) in status["shards"].as_object().into_iter().flatten() {
            reasons.extend(told["failure"].as_str().map(|why| format!("shards of {id}: {why}")));
        }
        reasons.extend(each(&status["weaker_modes"]).filter_map(Value::as_str).map(str::to_owned));
        if !reasons.is_empty() {
            word = "degraded";
        }
        if status["schedules"].as_u64().unwrap_or(0) > 0 && each(&status["workers"]).next().is_none() {
            reasons.insert(0, "no worker has joined".to_owned());
            word = "unhealthy";
        }
        Ok(json!({"status": word, "reasons": reasons, "running": status["runs"]}))
    }
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}
