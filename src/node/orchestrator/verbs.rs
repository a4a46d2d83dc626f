//! What a host asks of an orchestrator.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use serde_json::{Value, json};

use super::{Handler, Orchestrator, Shared, lock};
use crate::base::{Error, Result, Status};
use crate::ledger::orch::{OrchAnswer, OrchOp, OrchQuery, Schedule, is_name};
use crate::orchestrator::calendar::Calendar;

/// Most fire times, lines or schedules in one answer.
const LIST_MAX: usize = 100_000;

/// How a run is asked for outside of the calendar.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunNow {
    /// The target; empty for a singleton.
    pub target: String,
    /// However often it is asked for with one key, it is one run; empty for none.
    pub key: String,
    /// Whether windows are of no account. Blackouts, pauses, overlap, budgets and locks are.
    pub force: bool,
    /// The nominal instant that it stands for, UTC ms; `None` for now.
    pub tick_ms: Option<i64>,
    /// Instead of the schedule's parameters.
    pub params: Option<String>,
}

impl Shared {
    /// The named weaker modes that are on.
    fn weaker_modes(&self) -> Vec<String> {
        let mut modes = Vec::new();
        if self.options.lock_only {
            modes.push(match &*lock(&self.locks) {
                Some(_) => "lock_only: nodes are coordinated by a lock, and a tick can run on several of them".to_owned(),
                None => "lock_only without a lock: every node runs every tick".to_owned(),
            });
        }
        if self.options.wall_offset_ms != 0 {
            modes.push(format!("wall_offset_ms={}: its wall clock is set wrong on purpose", self.options.wall_offset_ms));
        }
        modes
    }
}

fn unknown(id: &str) -> Error {
    Error::invalid("schedule", format_args!("there is none called {id:?}"))
}

impl Orchestrator {
    fn shared(&self) -> Result<&Arc<Shared>> {
        self.0.shared.check()?;
        Ok(&self.0.shared)
    }

    /// Poisons its node: for a boundary that has caught a panic.
    pub fn poison_node(&self, why: &str) {
        self.0.shared.session.poison_node(why);
    }

    /// The name under which it works.
    pub fn node(&self) -> &str {
        self.0.shared.session.name()
    }

    /// Takes over a kind of task. A kind that it had before gets the new handler; runs that go on keep theirs.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] for the name; [`Status::Misuse`] at a client, which runs nothing.
    pub fn register(&self, kind: &str, handler: Handler) -> Result<()> {
        let shared = self.shared()?;
        if !shared.works {
            return Err(Error::new(Status::Misuse, "a client runs no tasks: a member does"));
        }
        if !is_name(kind) {
            return Err(Error::invalid("kind", format_args!("{kind:?} is not 1 to 128 printable ASCII characters without space")));
        }
        if shared.is_client() {
            return Err(Error::new(Status::Misuse, "a client runs no tasks: a member does"));
        }
        lock(&shared.handlers).insert(kind.to_owned(), handler);
        shared.wake.raise();
        Ok(())
    }

    /// The kinds that it has handlers for.
    pub fn handlers(&self) -> Vec<String> {
        lock(&self.0.shared.handlers).keys().cloned().collect()
    }

    /// Writes a schedule; returns its revision. `expected` is the revision that it replaces: `Some(0)` when there must be none, `None` for
    /// whatever there is.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] naming the field; [`Status::Fenced`] with the present revision when `expected` is not it.
    pub fn put(&self, schedule: &Schedule, expected: Option<u64>) -> Result<u64> {
        let shared = self.shared()?;
        schedule.check()?;
        Calendar::new(schedule)?;
        let op = OrchOp::Put { schedule: Box::new(schedule.clone()), expected, now_ms: shared.wall_ms() };
        match shared.execute(op)? {
            OrchAnswer::Written { revision } => Ok(revision),
            other => Err(other.into()),
        }
    }

    /// As [`Orchestrator::put`], of a schedule's JSON form.
    ///
    /// # Errors
    /// As [`Orchestrator::put`]; [`Status::InvalidArgument`] saying what is wrong with the JSON.
    pub fn put_json(&self, text: &str, expected: Option<u64>) -> Result<u64> {
        let schedule: Schedule = serde_json::from_str(text).map_err(|e| Error::invalid("schedule", e))?;
        self.put(&schedule, expected)
    }

    /// Removes a schedule; its runs are cancelled, its history goes.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] when there is none, [`Status::Fenced`] as [`Orchestrator::put`].
    pub fn remove(&self, id: &str, expected: Option<u64>) -> Result<()> {
        match self.shared()?.execute(OrchOp::Remove { schedule: id.to_owned(), expected })? {
            OrchAnswer::Done => Ok(()),
            OrchAnswer::NotFound => Err(unknown(id)),
            other => Err(other.into()),
        }
    }

    /// Switches a schedule on or off. Ticks while it was off are not made up for.
    ///
    /// # Errors
    /// As [`Orchestrator::remove`].
    pub fn enable(&self, id: &str, enabled: bool) -> Result<()> {
        // Somebody else may write between the read and the write; then it is done again.
        loop {
            let (mut schedule, revision) = self.definition(id)?;
            if schedule.enabled == enabled {
                return Ok(());
            }
            schedule.enabled = enabled;
            match self.put(&schedule, Some(revision)) {
                Err(e) if e.status() == Status::Fenced => {}
                other => return other.map(drop),
            }
        }
    }

    /// A schedule's definition and revision.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] when there is none.
    pub fn definition(&self, id: &str) -> Result<(Schedule, u64)> {
        let answer = self.ask(&OrchQuery::Schedule(id.to_owned()))?;
        let revision = answer["revision"].as_u64().ok_or_else(|| unknown(id))?;
        let definition = serde_json::from_value(answer["definition"].clone());
        Ok((definition.map_err(|e| Error::new(Status::Internal, format!("a stored schedule: {e}")))?, revision))
    }

    /// Answers a question: JSON, see [`OrchQuery`].
    ///
    /// # Errors
    /// What every call may answer.
    pub fn ask(&self, query: &OrchQuery) -> Result<Value> {
        self.shared()?.engine().ask(query)
    }

    /// Asks for a run now, from any node; returns its number.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] for an unknown schedule, target or key.
    pub fn run_now(&self, id: &str, how: &RunNow) -> Result<u64> {
        let shared = self.shared()?;
        let op = OrchOp::Trigger {
            schedule: id.to_owned(),
            target: how.target.clone(),
            key: how.key.clone(),
            tick_ms: how.tick_ms,
            force: how.force,
            params: how.params.clone(),
            now_ms: shared.wall_ms(),
        };
        match shared.execute(op)? {
            OrchAnswer::Triggered { run, .. } => Ok(run),
            OrchAnswer::NotFound => Err(unknown(id)),
            other => Err(other.into()),
        }
    }

    /// Asks for a run of each tick in a range, both ends included; asked again it makes none twice while they are in the history.
    /// Returns their numbers.
    ///
    /// # Errors
    /// As [`Orchestrator::run_now`]; [`Status::InvalidArgument`] for more than 10 000 ticks.
    pub fn backfill(&self, id: &str, target: &str, from_ms: i64, to_ms: i64) -> Result<Vec<u64>> {
        let calendar = Calendar::new(&self.definition(id)?.0)?;
        let mut ticks = Vec::new();
        let mut at = from_ms.saturating_sub(1);
        while let Some(tick) = calendar.next(at).filter(|t| *t <= to_ms) {
            if ticks.len() == 10_000 {
                return Err(Error::invalid("range", "more than 10000 ticks"));
            }
            ticks.push(tick);
            at = tick;
        }
        let how =
            |tick: i64| RunNow { target: target.to_owned(), key: format!("backfill/{tick}"), tick_ms: Some(tick), ..RunNow::default() };
        ticks.into_iter().map(|tick| self.run_now(id, &how(tick))).collect()
    }

    /// Asks a run to stop, from any node. One that waits ends at once.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] when there is none that goes on.
    pub fn cancel(&self, run: u64, reason: &str) -> Result<()> {
        let shared = self.shared()?;
        match shared.execute(OrchOp::Cancel { run, reason: reason.to_owned(), now_ms: shared.wall_ms() })? {
            OrchAnswer::Done => Ok(()),
            OrchAnswer::NotFound => Err(Error::invalid("run", format_args!("{run}: there is none of this number that goes on"))),
            other => Err(other.into()),
        }
    }

    /// Starts nothing more of a schedule, or of all with `None`, until an instant (UTC ms; `i64::MAX` for no end). Runs go on.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] when there is no such schedule.
    pub fn pause(&self, id: Option<&str>, note: &str, until_ms: i64) -> Result<()> {
        self.done(OrchOp::Pause { schedule: id.map(str::to_owned), note: note.to_owned(), until_ms }, id)
    }

    /// Ends a pause. What was missed meanwhile is treated by the schedule's misfire policy.
    ///
    /// # Errors
    /// As [`Orchestrator::pause`].
    pub fn unpause(&self, id: Option<&str>) -> Result<()> {
        self.done(OrchOp::Unpause { schedule: id.map(str::to_owned) }, id)
    }

    /// Sets how much there is of a cluster-wide semaphore; 0 removes it.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] for the name.
    pub fn set_budget(&self, name: &str, limit: u32) -> Result<()> {
        self.done(OrchOp::Budget { name: name.to_owned(), limit }, None)
    }

    fn done(&self, op: OrchOp, id: Option<&str>) -> Result<()> {
        match self.shared()?.execute(op)? {
            OrchAnswer::Done => Ok(()),
            OrchAnswer::NotFound => Err(unknown(id.unwrap_or_default())),
            other => Err(other.into()),
        }
    }

    /// The next fire times of a schedule after an instant (`None` for now), UTC ms, at most `count`.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] when there is none.
    pub fn next_fires(&self, id: &str, after_ms: Option<i64>, count: usize) -> Result<Vec<i64>> {
        let shared = self.shared()?;
        let (schedule, _) = self.definition(id)?;
        let calendar = Calendar::new(&schedule)?;
        let mut at = after_ms.unwrap_or_else(|| shared.wall_ms());
        let mut fires = Vec::new();
        while let Some(tick) = calendar.next(at).filter(|_| fires.len() < count.min(LIST_MAX)) {
            fires.push(tick);
            at = tick;
        }
        Ok(fires)
    }

    /// What it says of itself and of all: JSON with the fields of [`OrchQuery::Status`] and `node`, `drives`, `running`, `figures`, times of this node's
    /// (`start_lag`, `claim_latency`, `run_duration`, each `_p50_ms` and `_p99_ms`, in classes); on the node that gives out work `waiting`, how many
    /// starts lack what (`room`, `start`, `budget NAME`), and `shards`: what the topology said by schedule.
    ///
    /// # Errors
    /// What every call may answer.
    pub fn status(&self) -> Result<Value> {
        let shared = self.shared()?;
        let mut status = self.ask(&OrchQuery::Status)?;
        let figures = lock(&shared.figures).clone();
        status["node"] = json!(self.node());
        let driver = lock(&shared.driver);
        status["drives"] = json!(driver.drives());
        status["waiting"] = json!(driver.waiting());
        drop(driver);
        status["running"] = json!(lock(&shared.runs).len());
        for (name, times) in [("start_lag", &figures.lags), ("claim_latency", &figures.claims), ("run_duration", &figures.durations)] {
            status[format!("{name}_p50_ms")] = json!(times.share_ms(0.5));
            status[format!("{name}_p99_ms")] = json!(times.share_ms(0.99));
        }
        status["figures"] = json!(figures);
        status["zone_data"] = json!(crate::orchestrator::calendar::zone_data());
        status["shards"] = lock(&shared.shards).told();
        status["weaker_modes"] = json!(shared.weaker_modes());
        status["closed"] = json!(shared.closed.load(SeqCst));
        Ok(status)
    }

    /// The journal's digest: of everything that was started and that has ended, in order.
    ///
    /// # Errors
    /// What every call may answer.
    pub fn journal(&self) -> Result<u64> {
        self.shared()?.engine().orch(|state, _| state.journal_digest())
    }
}
