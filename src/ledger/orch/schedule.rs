//! What a schedule is: its stored form, its JSON form, and what is acceptable.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::base::codec::{Decode, Encode};
use crate::base::{Error, Result};

/// Longest schedule id, target, task kind, budget name or idempotency key, bytes.
pub const NAME_MAX: usize = 128;
/// Most tasks of a schedule.
pub const TASKS_MAX: usize = 64;
/// Most windows, and most blackouts, of a schedule.
pub const WINDOWS_MAX: usize = 64;
/// Most bytes of the parameters of a schedule or a task.
pub const PARAMS_MAX: usize = 16 << 10;
/// Longest lease of a run, ms.
pub const LEASE_MAX_MS: u32 = 3_600_000;
/// Shortest lease of a run, ms.
pub const LEASE_MIN_MS: u32 = 100;

const MINUTES_PER_DAY: u16 = 1440;

/// What becomes of a civil time that a change of the clocks leaves out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gap {
    /// It happens at the first instant after the gap; several of them are one.
    #[default]
    Shift,
    /// It does not happen.
    Skip,
}

/// Which of two is meant when a change of the clocks repeats a civil time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fold {
    /// The earlier.
    #[default]
    First,
    /// The later.
    Last,
    /// Both.
    Both,
}

/// A stretch of the day, in civil time of the schedule's zone, on some weekdays. One that ends at or before it begins
/// goes on into the next day; one that ends where it begins lasts 24 h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// First minute of the day, 0 to 1439.
    pub from_min: u16,
    /// Minute after the last, 0 to 1439.
    pub to_min: u16,
    /// Days on which it opens: bit 0 is Sunday, bit 6 Saturday.
    #[serde(default = "every_day")]
    pub days: u8,
}

fn every_day() -> u8 {
    0x7f
}

/// Where a tick's work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Scope {
    /// Once, on one node.
    Singleton,
    /// On every node that can.
    EachNode {
        /// How many nodes at once; 0 for no bound.
        #[serde(default = "one")]
        max_parallel: u32,
        /// The same as a share of the nodes, percent; 0 for no such bound.
        #[serde(default)]
        max_parallel_percent: u32,
        /// After so many failures of one tick its remaining nodes are left out; 0 for never.
        #[serde(default)]
        halt_after_failures: u32,
    },
    /// Once for every shard that the host names, on one of the shard's nodes.
    EachShard {
        /// How many shards at once; 0 for no bound.
        #[serde(default)]
        max_parallel: u32,
    },
}

fn one() -> u32 {
    1
}

/// What is done about ticks that could not be started in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Misfire {
    /// They are recorded as missed.
    Skip,
    /// The latest of them is run, the others are recorded as missed.
    #[default]
    RunOnce,
    /// The latest so many of them are run, the others are recorded as missed.
    RunAll(u32),
}

/// What is done about a tick while a run of the same schedule and target goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It is skipped.
    #[default]
    Skip,
    /// Up to so many ticks wait; one more is skipped.
    Buffer(u32),
    /// The run is cancelled, and the tick starts once it has ended.
    CancelOther,
    /// Up to so many run at once; one more is skipped.
    Allow(u32),
}

/// What is done about a run when its window closes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnClose {
    /// It is cancelled, with the schedule's grace.
    #[default]
    Cancel,
    /// It goes on to its end.
    Finish,
    /// It is told to save a checkpoint and to stop, and goes on from there when the window opens again.
    Checkpoint,
}

/// Who does a run, of the workers that can and have room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// Always the same one, by a hash of schedule and target, as long as it is there: what it keeps in memory is of use again.
    #[default]
    Rendezvous,
    /// The one that has the fewest runs.
    LeastLoaded,
}

/// How a task that fails is tried again, under the same claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Most further tries; 0 for none.
    pub max: u32,
    /// Pause before the first of them, ms; doubled for each that follows.
    pub base_ms: u32,
    /// Longest pause, ms.
    pub cap_ms: u32,
    /// Part of the pause that is drawn by lot, percent.
    pub jitter_percent: u32,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry { max: 0, base_ms: 1_000, cap_ms: 60_000, jitter_percent: 20 }
    }
}

/// That a task waits for another.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct After {
    /// The other's name.
    pub task: String,
    /// Whether any end of it will do, not only success.
    #[serde(default)]
    pub done: bool,
}

/// One step of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Task {
    /// Its name within the schedule; empty for its kind.
    pub name: String,
    /// Which handler does it.
    pub kind: String,
    /// What it waits for.
    pub after: Vec<After>,
    /// How it is tried again.
    pub retry: Retry,
    /// Which failures are tried again, by the beginning of their message; empty for all.
    pub retry_on: Vec<String>,
    /// Longest time of one try, ms; 0 for no bound.
    pub max_runtime_ms: u64,
    /// Whether doing it twice does no harm.
    pub idempotent: bool,
    /// Least version that a node must state to be given it.
    pub min_version: u32,
    /// Handed to the handler: text, by custom JSON. Empty for the schedule's.
    pub params: String,
}

impl Task {
    /// The name by which other tasks refer to it.
    pub fn name(&self) -> &str {
        if self.name.is_empty() { &self.kind } else { &self.name }
    }
}

/// How hard a run may press: the handler's segments of work are stretched, and its bytes counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Throttle {
    /// Share of the time that is worked, per mille: after a segment of `d` it rests `d * (1000 / i - 1)`. 1000 for no rest.
    pub intensity: u32,
    /// Bytes a second; 0 for no bound.
    pub bytes_per_s: u64,
}

impl Default for Throttle {
    fn default() -> Throttle {
        Throttle { intensity: 1000, bytes_per_s: 0 }
    }
}

/// A throttle for part of the day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThrottleAt {
    /// When.
    pub window: Window,
    /// How.
    pub throttle: Throttle,
}

/// A schedule as its author writes it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// Its id, the caller's choice: 1 to [`NAME_MAX`] printable ASCII characters without space.
    pub id: String,
    /// Cron expression of 5 or 6 fields, seconds first, or a nickname such as `@daily`; empty for none.
    pub cron: String,
    /// Fixed period, ms, by nominal time; 0 for none. Without cron and period it runs only when told to.
    pub every_ms: u64,
    /// An instant at which a fixed period begins, UTC ms.
    pub anchor_ms: i64,
    /// IANA time zone of cron, windows and blackouts.
    pub zone: String,
    /// For civil times that do not exist.
    pub gap: Gap,
    /// For civil times that exist twice.
    pub fold: Fold,
    /// Where it runs. Has to be stated.
    pub scope: Option<Scope>,
    /// What it does.
    pub tasks: Vec<Task>,
    /// Most tasks of a run at once; 0 for no bound.
    pub width: u32,
    /// Whether a failed task ends the whole run; otherwise tasks that do not need it go on.
    pub halt_on_failure: bool,
    /// Runs start only within one of these; none means at any time.
    pub windows: Vec<Window>,
    /// Runs never start within one of these.
    pub blackouts: Vec<Window>,
    /// When the window closes during a run.
    pub on_close: OnClose,
    /// Ticks that were missed.
    pub misfire: Misfire,
    /// How late a tick may start, ms; 0 for the time up to the next tick.
    pub start_deadline_ms: u64,
    /// Ticks that meet a run.
    pub overlap: Overlap,
    /// Starts are spread over so long, ms, by a hash of schedule, target and tick; never beyond the next tick.
    pub jitter_ms: u64,
    /// Cluster-wide semaphores taken with the claim: name and amount.
    pub budgets: BTreeMap<String, u32>,
    /// 0 to 255, larger first. One that waits gains a level for each second.
    pub priority: u8,
    /// How long a run outlives its last renewal, ms.
    pub lease_ms: u32,
    /// How long after a cancel a handler may take to stop before its run counts as stuck, ms.
    pub grace_ms: u32,
    /// Longest time of a run, ms; 0 for no bound.
    pub max_runtime_ms: u64,
    /// How often a run is taken up again after its node was lost. Unset: 3 times if every task is idempotent, else never.
    pub lost_retries: Option<u32>,
    /// Labels that a node must have.
    pub requires: BTreeMap<String, String>,
    /// Least version that a node must state, whatever the tasks ask for.
    pub min_version: u32,
    /// Who does it, of those that can.
    pub placement: Placement,
    /// How hard it may press.
    pub throttle: Throttle,
    /// The same by time of day: the first that applies goes before `throttle`.
    pub throttle_at: Vec<ThrottleAt>,
    /// Whether its ticks are started.
    pub enabled: bool,
    /// Handed to the handlers: text, by custom JSON.
    pub params: String,
    /// The host's own, such as a description.
    pub attributes: BTreeMap<String, String>,
}

impl Default for Schedule {
    fn default() -> Schedule {
        Schedule {
            id: String::new(),
            cron: String::new(),
            every_ms: 0,
            anchor_ms: 0,
            zone: "UTC".to_owned(),
            gap: Gap::default(),
            fold: Fold::default(),
            scope: None,
            tasks: Vec::new(),
            width: 1,
            halt_on_failure: false,
            windows: Vec::new(),
            blackouts: Vec::new(),
            on_close: OnClose::default(),
            misfire: Misfire::default(),
            start_deadline_ms: 0,
            overlap: Overlap::default(),
            jitter_ms: 0,
            budgets: BTreeMap::new(),
            priority: 0,
            lease_ms: 15_000,
            grace_ms: 30_000,
            max_runtime_ms: 0,
            lost_retries: None,
            requires: BTreeMap::new(),
            min_version: 0,
            placement: Placement::default(),
            throttle: Throttle::default(),
            throttle_at: Vec::new(),
            enabled: true,
            params: String::new(),
            attributes: BTreeMap::new(),
        }
    }
}

/// Whether a name is acceptable: 1 to [`NAME_MAX`] printable ASCII characters without space.
pub fn is_name(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

fn name(what: &str, text: &str) -> Result<()> {
    if is_name(text) {
        return Ok(());
    }
    Err(Error::invalid(what, format_args!("{text:?} is not 1 to {NAME_MAX} printable ASCII characters without space")))
}

impl Schedule {
    /// How often a run is taken up again after its node was lost.
    pub fn lost_retries(&self) -> u32 {
        self.lost_retries.unwrap_or(if self.tasks.iter().all(|t| t.idempotent) { 3 } else { 0 })
    }

    /// Checks everything that needs no calendar.
    ///
    /// # Errors
    /// [`crate::base::Status::InvalidArgument`] naming the field.
    pub fn check(&self) -> Result<()> {
        name("id", &self.id)?;
        if !self.cron.is_empty() && self.every_ms != 0 {
            return Err(Error::invalid("every_ms", "a schedule has either a cron expression or a period"));
        }
        if self.every_ms != 0 && !(100..=366 * 86_400_000).contains(&self.every_ms) {
            return Err(Error::invalid("every_ms", "not in 100..=366 days"));
        }
        match self.scope {
            None => return Err(Error::invalid("scope", "must be stated: singleton, each_node or each_shard")),
            Some(Scope::EachNode { max_parallel_percent: 101.., .. }) => {
                return Err(Error::invalid("max_parallel_percent", "not in 0..=100"));
            }
            Some(_) => {}
        }
        if !(LEASE_MIN_MS..=LEASE_MAX_MS).contains(&self.lease_ms) {
            return Err(Error::invalid("lease_ms", format_args!("{} is not in {LEASE_MIN_MS}..={LEASE_MAX_MS}", self.lease_ms)));
        }
        if self.windows.len() > WINDOWS_MAX || self.blackouts.len() > WINDOWS_MAX || self.throttle_at.len() > WINDOWS_MAX {
            return Err(Error::invalid("windows", format_args!("more than {WINDOWS_MAX}")));
        }
        for window in self.windows.iter().chain(&self.blackouts).chain(self.throttle_at.iter().map(|t| &t.window)) {
            if window.from_min >= MINUTES_PER_DAY || window.to_min >= MINUTES_PER_DAY || window.days == 0 || window.days > 0x7f {
                return Err(Error::invalid("windows", "minutes are in 0..1440, days in 1..=127"));
            }
        }
        for throttle in std::iter::once(&self.throttle).chain(self.throttle_at.iter().map(|t| &t.throttle)) {
            if !(1..=1000).contains(&throttle.intensity) {
                return Err(Error::invalid("throttle", "intensity is not in 1..=1000 per mille"));
            }
        }
        if let Overlap::Buffer(0 | 101..) | Overlap::Allow(0 | 101..) = self.overlap {
            return Err(Error::invalid("overlap", "the number is not in 1..=100"));
        }
        if let Misfire::RunAll(0 | 10_001..) = self.misfire {
            return Err(Error::invalid("misfire", "the number is not in 1..=10000"));
        }
        if self.budgets.len() > 16 {
            return Err(Error::invalid("budgets", "more than 16"));
        }
        for (budget, amount) in &self.budgets {
            name("budgets", budget)?;
            if *amount == 0 {
                return Err(Error::invalid("budgets", format_args!("{budget}: none of it is asked for")));
            }
        }
        if self.params.len() > PARAMS_MAX || self.attributes.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() > PARAMS_MAX {
            return Err(Error::invalid("params", format_args!("more than {PARAMS_MAX} bytes")));
        }
        self.check_tasks()
    }

    fn check_tasks(&self) -> Result<()> {
        if !(1..=TASKS_MAX).contains(&self.tasks.len()) {
            return Err(Error::invalid("tasks", format_args!("{} is not in 1..={TASKS_MAX}", self.tasks.len())));
        }
        let mut names: BTreeMap<&str, usize> = BTreeMap::new();
        for (at, task) in self.tasks.iter().enumerate() {
            name("tasks", &task.kind)?;
            name("tasks", task.name())?;
            if names.insert(task.name(), at).is_some() {
                return Err(Error::invalid("tasks", format_args!("two are called {}", task.name())));
            }
            if task.params.len() > PARAMS_MAX {
                return Err(Error::invalid("tasks", format_args!("{}: params of more than {PARAMS_MAX} bytes", task.name())));
            }
        }
        // Kahn's algorithm: what is left over lies on a cycle.
        let mut waits: Vec<usize> = self.tasks.iter().map(|t| t.after.len()).collect();
        for task in &self.tasks {
            if let Some(unknown) = task.after.iter().find(|a| !names.contains_key(a.task.as_str())) {
                return Err(Error::invalid("tasks", format_args!("{} waits for {}, which is no task", task.name(), unknown.task)));
            }
        }
        let mut free: Vec<usize> = (0..waits.len()).filter(|t| waits[*t] == 0).collect();
        let mut seen = 0;
        while let Some(at) = free.pop() {
            seen += 1;
            for (other, task) in self.tasks.iter().enumerate() {
                let edges = task.after.iter().filter(|a| a.task == self.tasks[at].name()).count();
                if edges > 0 {
                    waits[other] -= edges;
                    if waits[other] == 0 {
                        free.push(other);
                    }
                }
            }
        }
        if seen != self.tasks.len() {
            let stuck = waits.iter().position(|w| *w > 0).map_or("", |at| self.tasks[at].name());
            return Err(Error::invalid("tasks", format_args!("{stuck} waits for itself through others: a cycle")));
        }
        Ok(())
    }
}
