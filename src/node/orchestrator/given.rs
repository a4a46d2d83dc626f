//! What hosts give and ask for as JSON, the same in every language.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Orchestrator, OrchestratorOptions, RunNow};
use crate::base::{Error, Result};
use crate::ledger::orch::OrchQuery;

/// The longest ramp-up, ms: a day.
const RAMP_UP_MAX_MS: u64 = 86_400_000;
/// The most that a wall clock is said to be off by, ms: a day.
const OFFSET_MAX_MS: u64 = 86_400_000;

/// [`OrchestratorOptions`] as text.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    labels: BTreeMap<String, String>,
    version: u32,
    capacity: u32,
    drive: bool,
    ramp_up_ms: u64,
    lock_only: bool,
    wall_offset_ms: i64,
}

impl Default for Options {
    fn default() -> Options {
        let given = OrchestratorOptions::default();
        let ramp_up_ms = given.ramp_up.as_millis() as u64;
        Options {
            labels: given.labels,
            version: given.version,
            capacity: given.capacity,
            drive: given.drive,
            ramp_up_ms,
            lock_only: false,
            wall_offset_ms: 0,
        }
    }
}

/// Reads a JSON object; empty text stands for an empty one.
fn object<T: serde::de::DeserializeOwned>(name: &str, text: &str) -> Result<T> {
    let text = if text.is_empty() { "{}" } else { text };
    let fields: serde_json::Map<String, Value> = serde_json::from_str(text).map_err(|e| Error::invalid(name, e))?;
    serde_json::from_value(Value::Object(fields)).map_err(|e| Error::invalid(name, e))
}

impl OrchestratorOptions {
    /// Reads options from JSON; those that are not named have their defaults. Empty text stands for none.
    ///
    /// # Errors
    /// [`crate::base::Status::InvalidArgument`] saying what is wrong.
    pub fn from_json(text: &str) -> Result<OrchestratorOptions> {
        let given: Options = object("options", text)?;
        if given.ramp_up_ms > RAMP_UP_MAX_MS {
            return Err(Error::invalid("ramp_up_ms", format_args!("{} is above {RAMP_UP_MAX_MS}", given.ramp_up_ms)));
        }
        if given.wall_offset_ms.unsigned_abs() > OFFSET_MAX_MS {
            return Err(Error::invalid("wall_offset_ms", format_args!("{} is beyond {OFFSET_MAX_MS}", given.wall_offset_ms)));
        }
        Ok(OrchestratorOptions {
            labels: given.labels,
            version: given.version,
            capacity: given.capacity,
            drive: given.drive,
            ramp_up: Duration::from_millis(given.ramp_up_ms),
            lock_only: given.lock_only,
            wall_offset_ms: given.wall_offset_ms,
            ..OrchestratorOptions::default()
        })
    }
}

impl RunNow {
    /// Reads it from JSON, with the names of its fields. Empty text stands for none.
    ///
    /// # Errors
    /// [`crate::base::Status::InvalidArgument`] saying what is wrong.
    pub fn from_json(text: &str) -> Result<RunNow> {
        object("how", text)
    }
}

impl Orchestrator {
    /// Answers a question that is named by a word: `schedule` (name), `schedules` (those after name, at most number), `history` (name, the latest number
    /// lines), `run` (number), `runs` (at most number that go on), `next` (name, the next number ticks), `themis` (name), `themis_list` (name: a
    /// tenant), `themis_job` (number), `themis_jobs` (number: 1 for those that go on), `status`, `health`, `handlers`.
    ///
    /// # Errors
    /// [`crate::base::Status::InvalidArgument`] for another word, and what every call may answer.
    pub fn ask_about(&self, what: &str, name: &str, number: u64) -> Result<Value> {
        let limit = u32::try_from(number).unwrap_or(u32::MAX);
        let query = match what {
            "schedule" => OrchQuery::Schedule(name.to_owned()),
            "schedules" => OrchQuery::Schedules { after: name.to_owned(), limit },
            "history" => OrchQuery::History { schedule: name.to_owned(), limit },
            "run" => OrchQuery::Run(number),
            "runs" => OrchQuery::Runs { limit },
            "next" => return Ok(json!(self.next_fires(name, None, limit as usize)?)),
            "themis" => return self.get_themis(name),
            "themis_list" => return self.list_themis(name),
            "themis_job" => return self.themis_job(number),
            "themis_jobs" => return self.themis_jobs(number != 0),
            "status" => return self.status(),
            "health" => return self.health(),
            "handlers" => return Ok(json!(self.handlers())),
            other => return Err(Error::invalid("what", format_args!("{other:?} is no question"))),
        };
        self.ask(&query)
    }
}
