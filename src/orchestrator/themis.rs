//! ThemisDB's maintenance schedules: its JSON field names and its rules, over ours.
//!
//! Source: the schedule entry of ThemisDB's maintenance orchestrator. What has no counterpart here is kept as an attribute, so that a round trip
//! changes nothing.

use serde_json::{Map, Value, json};

use crate::base::{Error, Result};
use crate::ledger::orch::{After, Schedule, Scope, Task, Window};

const MINUTES: u16 = 60;
/// What a lock outlives its window by, ms.
const TTL_MARGIN_MS: i64 = 30_000;
const MS_PER_HOUR: i64 = 3_600_000;
/// Attributes under which ThemisDB's own fields are kept.
const PREFIX: &str = "themis.";
/// Fields that are kept as they are, with their defaults.
const KEPT: &[&str] = &["name", "description", "tenant_id", "lock_ttl_ms", "max_schedule_changes_per_interval", "created_by", "updated_by"];
/// Fields that say what became of the schedule: written on export, ignored on import.
const TOLD: &[&str] = &["created_at_ms", "updated_at_ms", "last_run_ms", "next_run_ms", "last_run_state", "last_job_id"];
/// Fields that are read.
const READ: &[&str] = &[
    "id",
    "frequency",
    "cron_expression",
    "tasks",
    "task_dependencies",
    "enabled",
    "enforce_window",
    "window_start_hour",
    "window_end_hour",
    "halt_on_task_failure",
];

/// How long ThemisDB's lock for a run is taken, ms: `lock_ttl_ms` if it is set, else the window's length and half a minute. A window that ends
/// where it begins lasts a day.
pub fn lock_ttl_ms(lock_ttl_ms: i64, window_start_hour: i64, window_end_hour: i64) -> i64 {
    if lock_ttl_ms > 0 {
        return lock_ttl_ms;
    }
    let hours = window_end_hour - window_start_hour;
    (if hours <= 0 { hours + 24 } else { hours }) * MS_PER_HOUR + TTL_MARGIN_MS
}

/// As [`lock_ttl_ms`], of a schedule. One that is none of ThemisDB's has a window of a day.
pub fn ttl_of(schedule: &Schedule) -> i64 {
    let own = schedule.attributes.get(&format!("{PREFIX}lock_ttl_ms")).and_then(|text| text.parse().ok()).unwrap_or(0);
    let (start, end) = window_of(schedule).unwrap_or((0, 0));
    lock_ttl_ms(own, i64::from(start), i64::from(end))
}

fn window_of(schedule: &Schedule) -> Option<(u16, u16)> {
    let (start, end) = schedule.attributes.get(&format!("{PREFIX}window"))?.split_once('-')?;
    Some((start.parse().ok()?, end.parse().ok()?))
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a str> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(Error::invalid(name, "is not a string")),
    }
}

fn flag(fields: &Map<String, Value>, name: &str, default: bool) -> Result<bool> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => value.as_bool().ok_or_else(|| Error::invalid(name, "is not true or false")),
    }
}

fn hour(fields: &Map<String, Value>, name: &str, default: u16) -> Result<u16> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => match value.as_u64() {
            Some(hour) if hour < 24 => Ok(hour as u16),
            _ => Err(Error::invalid(name, format_args!("{value} is not an hour, 0 to 23"))),
        },
    }
}

/// The cron expression of a frequency, at the first hour of the window.
fn cron(frequency: &str, hour: u16, own: &str) -> Result<String> {
    Ok(match frequency {
        "daily" => format!("0 {hour} * * *"),
        "weekly" => format!("0 {hour} * * 0"),
        "monthly" => format!("0 {hour} 1 * *"),
        "quarterly" => format!("0 {hour} 1 1,4,7,10 *"),
        "custom" if own.is_empty() => return Err(Error::invalid("cron_expression", "frequency custom needs one")),
        "custom" => own.to_owned(),
        other => {
            return Err(Error::invalid("frequency", format_args!("{other:?} is none of daily, weekly, monthly, quarterly, custom")));
        }
    })
}

/// Reads a schedule in ThemisDB's form.
///
/// # Errors
/// [`crate::base::Status::InvalidArgument`] naming the field; cycles and unknown references of tasks among them.
pub fn from_json(value: &Value) -> Result<Schedule> {
    let fields = value.as_object().ok_or_else(|| Error::invalid("schedule", "is not a JSON object"))?;
    if let Some(unknown) = fields.keys().find(|k| ![KEPT, TOLD, READ].iter().any(|known| known.contains(&k.as_str()))) {
        return Err(Error::invalid(unknown, "there is no such field"));
    }
    if fields.get("name").is_some_and(|name| name.as_str().is_none_or(str::is_empty)) {
        return Err(Error::invalid("name", "is empty"));
    }
    let (start, end) = (hour(fields, "window_start_hour", 2)?, hour(fields, "window_end_hour", 6)?);
    let frequency = match text(fields, "frequency")? {
        "" => "daily",
        given => given,
    };
    let mut tasks: Vec<Task> = Vec::new();
    for task in fields.get("tasks").and_then(Value::as_array).into_iter().flatten() {
        let kind = task.as_str().ok_or_else(|| Error::invalid("tasks", format_args!("{task} is not a task type")))?;
        tasks.push(Task { kind: kind.to_owned(), ..Task::default() });
    }
    for dependency in fields.get("task_dependencies").and_then(Value::as_array).into_iter().flatten() {
        let kind = dependency["task_type"].as_str().unwrap_or_default();
        let Some(task) = tasks.iter_mut().find(|t| t.kind == kind) else {
            return Err(Error::invalid("task_dependencies", format_args!("{kind:?} is no task of the schedule")));
        };
        for on in dependency["depends_on"].as_array().into_iter().flatten() {
            let on = on.as_str().ok_or_else(|| Error::invalid("task_dependencies", "depends_on holds what is not a task type"))?;
            task.after.push(After { task: on.to_owned(), done: false });
        }
    }
    let mut schedule = Schedule {
        id: text(fields, "id")?.to_owned(),
        cron: cron(frequency, start, text(fields, "cron_expression")?)?,
        scope: Some(Scope::Singleton),
        tasks,
        halt_on_failure: flag(fields, "halt_on_task_failure", false)?,
        enabled: flag(fields, "enabled", true)?,
        ..Schedule::default()
    };
    let mut keep = |name: &str, value: String| _ = schedule.attributes.insert(format!("{PREFIX}{name}"), value);
    keep("frequency", frequency.to_owned());
    keep("window", format!("{start}-{end}"));
    for name in KEPT {
        if let Some(value) = fields.get(*name) {
            keep(name, value.to_string());
        }
    }
    if flag(fields, "enforce_window", true)? {
        schedule.windows.push(Window { from_min: start * MINUTES, to_min: end * MINUTES, days: 0x7f });
    }
    schedule.check()?;
    super::calendar::Calendar::new(&schedule)?;
    Ok(schedule)
}

/// A schedule in ThemisDB's form. `told` is what the ledger knows of it, see `OrchQuery::Schedule`; `next_run_ms` its next tick.
pub fn to_json(schedule: &Schedule, told: &Value, next_run_ms: Option<i64>) -> Value {
    let attribute = |name: &str| schedule.attributes.get(&format!("{PREFIX}{name}"));
    let kept = |name: &str, default: Value| attribute(name).and_then(|v| serde_json::from_str(v).ok()).unwrap_or(default);
    let (start, end) = window_of(schedule).unwrap_or((0, 0));
    let frequency = attribute("frequency").map_or("custom", String::as_str);
    let dependencies: Vec<Value> = schedule
        .tasks
        .iter()
        .filter(|t| !t.after.is_empty())
        .map(|t| json!({"task_type": t.kind, "depends_on": t.after.iter().map(|a| &a.task).collect::<Vec<_>>()}))
        .collect();
    let last = &told["last"];
    json!({
        "id": schedule.id,
        "name": kept("name", json!(schedule.id)),
        "description": kept("description", json!("")),
        "tenant_id": kept("tenant_id", json!("")),
        "frequency": frequency,
        "cron_expression": schedule.cron,
        "tasks": schedule.tasks.iter().map(|t| &t.kind).collect::<Vec<_>>(),
        "task_dependencies": dependencies,
        "enabled": schedule.enabled,
        "enforce_window": !schedule.windows.is_empty(),
        "window_start_hour": start,
        "window_end_hour": end,
        "halt_on_task_failure": schedule.halt_on_failure,
        "lock_ttl_ms": kept("lock_ttl_ms", json!(0)),
        "max_schedule_changes_per_interval": kept("max_schedule_changes_per_interval", json!(0)),
        "created_at_ms": told["created_ms"].as_i64().unwrap_or(0),
        "updated_at_ms": told["updated_ms"].as_i64().unwrap_or(0),
        "created_by": kept("created_by", json!("")),
        "updated_by": kept("updated_by", json!("")),
        "last_run_ms": last["started_ms"].as_i64().unwrap_or(0),
        "next_run_ms": next_run_ms.unwrap_or(0),
        "last_run_state": job_state(last["state"].as_str().unwrap_or("")),
        "last_job_id": last["run"].as_u64().map_or(String::new(), |run| if run == 0 { String::new() } else { run.to_string() }),
    })
}

/// A run, or a line of a history, as ThemisDB tells of a job; null for none.
pub fn job(run: &Value) -> Value {
    if run.is_null() {
        return Value::Null;
    }
    let text = |name: &str| run[name].as_str().unwrap_or_default();
    json!({
        "id": run["run"].as_u64().unwrap_or(0).to_string(),
        "schedule_id": text("schedule"),
        "state": job_state(text("state")),
        "error_message": text("reason"),
        "node_id": text("node"),
        "started_at_ms": run["started_ms"].as_i64().unwrap_or(0),
        "finished_at_ms": run["ended_ms"].as_i64().unwrap_or(0),
    })
}

/// A run's state in ThemisDB's words: pending, running, succeeded, failed, cancelled, skipped; empty for none.
pub fn job_state(state: &str) -> &str {
    match state {
        "due" => "pending",
        "running" | "cancelling" => "running",
        "timed_out" | "lost" | "stuck" => "failed",
        "missed" => "skipped",
        other => other,
    }
}

/// How many changes within a minute a schedule allows; 0 for any number.
pub fn changes_allowed(schedule: &Schedule) -> u64 {
    let kept = schedule.attributes.get(&format!("{PREFIX}max_schedule_changes_per_interval"));
    kept.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The new form of a schedule that is replaced: its id and who created it stay.
///
/// # Errors
/// As [`from_json`].
pub fn replaced(old: &Schedule, mut new: Value) -> Result<Schedule> {
    let creator = to_json(old, &Value::Null, None)["created_by"].clone();
    if let Some(fields) = new.as_object_mut() {
        fields.insert("id".to_owned(), json!(old.id));
        fields.insert("created_by".to_owned(), creator);
    }
    from_json(&new)
}

/// A schedule with some fields changed; those that are not given stay.
///
/// # Errors
/// As [`from_json`]; `id` cannot be changed.
pub fn apply_patch(schedule: &Schedule, patch: &Value) -> Result<Schedule> {
    let mut fields = to_json(schedule, &Value::Null, None);
    let patch = patch.as_object().ok_or_else(|| Error::invalid("patch", "is not a JSON object"))?;
    if patch.get("id").is_some_and(|id| *id != fields["id"]) {
        return Err(Error::invalid("id", "cannot be changed"));
    }
    // An expression of its own makes the schedule a custom one.
    if patch.contains_key("cron_expression") && !patch.contains_key("frequency") {
        fields["frequency"] = json!("custom");
    }
    for (name, value) in patch {
        fields[name] = value.clone();
    }
    from_json(&fields)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn entry() -> Value {
        json!({
            "id": "nightly", "name": "Nightly", "description": "d", "tenant_id": "t1", "frequency": "weekly", "tasks": ["flush", "compact"],
            "task_dependencies": [{"task_type": "compact", "depends_on": ["flush"]}], "enabled": true, "enforce_window": true,
            "window_start_hour": 22, "window_end_hour": 4, "halt_on_task_failure": true, "lock_ttl_ms": 0,
            "max_schedule_changes_per_interval": 5, "created_by": "ann", "updated_by": "bob",
        })
    }

    #[test]
    fn a_round_trip_changes_nothing() {
        let schedule = from_json(&entry()).unwrap();
        let back = to_json(&schedule, &Value::Null, None);
        for (name, value) in entry().as_object().unwrap() {
            assert_eq!(&back[name], value, "{name}");
        }
        assert_eq!(back["cron_expression"], "0 22 * * 0");
        assert_eq!(back.as_object().unwrap().len(), 23, "every field of ThemisDB's is there");
        assert_eq!(from_json(&back).unwrap(), schedule);
    }

    #[test]
    fn frequencies_become_cron() {
        for (frequency, cron) in
            [("daily", "0 3 * * *"), ("weekly", "0 3 * * 0"), ("monthly", "0 3 1 * *"), ("quarterly", "0 3 1 1,4,7,10 *")]
        {
            let s = from_json(&json!({"id": "s", "tasks": ["t"], "frequency": frequency, "window_start_hour": 3})).unwrap();
            assert_eq!(s.cron, cron);
        }
        let own = json!({"id": "s", "tasks": ["t"], "frequency": "custom", "cron_expression": "*/5 * * * *"});
        assert_eq!(from_json(&own).unwrap().cron, "*/5 * * * *");
    }

    #[test]
    fn the_ttl_of_a_lock() {
        assert_eq!(lock_ttl_ms(5_000, 2, 6), 5_000);
        assert_eq!(lock_ttl_ms(0, 2, 6), 4 * MS_PER_HOUR + 30_000);
        assert_eq!(lock_ttl_ms(0, 22, 4), 6 * MS_PER_HOUR + 30_000);
        assert_eq!(lock_ttl_ms(0, 2, 2), 24 * MS_PER_HOUR + 30_000);
    }

    #[test]
    fn a_patch_is_checked_as_a_whole() {
        let schedule = from_json(&entry()).unwrap();
        let patched = apply_patch(&schedule, &json!({"enabled": false, "frequency": "daily"})).unwrap();
        assert_eq!((patched.enabled, patched.cron.as_str()), (false, "0 22 * * *"));
        assert_eq!(apply_patch(&schedule, &json!({"cron_expression": "5 4 * * *"})).unwrap().cron, "5 4 * * *");
        for (patch, named) in [
            (json!({"id": "other"}), "id"),
            (json!({"task_dependencies": [{"task_type": "nothing", "depends_on": []}]}), "nothing"),
            (json!({"task_dependencies": [{"task_type": "flush", "depends_on": ["nothing"]}]}), "nothing"),
            (
                json!({"task_dependencies": [
                    {"task_type": "flush", "depends_on": ["compact"]}, {"task_type": "compact", "depends_on": ["flush"]}]}),
                "cycle",
            ),
            (json!({"window_start_hour": 24}), "window_start_hour"),
            (json!({"frequency": "hourly"}), "frequency"),
            (json!({"colour": 1}), "colour"),
        ] {
            let error = apply_patch(&schedule, &patch).unwrap_err();
            assert!(error.message().contains(named), "{patch}: {error}");
        }
    }
}
