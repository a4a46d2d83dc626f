//! The orchestrator's part of the ledger: schedules, ticks, runs, budgets, workers.
//!
//! The unit is the *tick*, named by its nominal instant: one entry claims it, makes the run, gives it a token and takes its
//! budgets, before any code of the host runs. Every target of a schedule has a watermark, up to which all ticks have been judged, so a
//! second claim of a tick finds it judged, however far apart the proposers' clocks are. Leases end by the ledger's own clock.
//!
//! Wall time comes in only as the proposer's word: which instant a tick stands for, and what the calendar says of that
//! proposer's present. The ledger goes by the latest present it was told of, and never back.

mod act;
mod apply;
mod claim;
mod image;
mod op;
mod query;
mod schedule;
mod state;
mod tasks;

pub(crate) use image::OrchImage;
pub use op::{CHECKPOINT_MAX, Claim, End, MESSAGE_MAX, OrchAnswer, OrchFault, OrchOp, Reason, View};
pub use query::OrchQuery;
pub use schedule::{
    After, Fold, Gap, LEASE_MAX_MS, LEASE_MIN_MS, Misfire, NAME_MAX, OnClose, Overlap, PARAMS_MAX, Placement, Retry, Schedule, Scope,
    TASKS_MAX, Task, Throttle, ThrottleAt, WINDOWS_MAX, Window, is_name,
};
pub use state::{Budget, Entry, HISTORY, OrchCounts, Pause, Reasons, Record, Run, RunState, State, Worker};
pub use tasks::{TaskMark, TaskState};
