//! What the orchestrator asks of the ledger, and what it is answered.

use std::collections::BTreeMap;

use crate::base::codec::{Decode, Encode};
use crate::base::error::Error;
use crate::base::{SessionId, Status, Token};

use super::schedule::{NAME_MAX, Schedule};

/// Most bytes of a checkpoint.
pub const CHECKPOINT_MAX: usize = 64 << 10;
/// Most bytes of a message, note or reason; the rest is cut off.
pub const MESSAGE_MAX: usize = 256;

/// What the calendar says of an instant, for one revision of a schedule. The proposer evaluates it, because two replicas may
/// bundle different time zone data; the ledger checks that it is about the schedule's present revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum View {
    /// Runs may start, until this instant (UTC ms; `i64::MAX` for no end).
    Open {
        /// When the window closes.
        until_ms: i64,
    },
    /// Outside of all windows.
    Outside {
        /// When one opens.
        until_ms: i64,
    },
    /// Within a blackout.
    Blackout {
        /// When it ends.
        until_ms: i64,
    },
}

/// A tick is due: a run of it is to be made and given to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Claim {
    /// The schedule.
    pub schedule: String,
    /// The target: empty for a singleton, a node's name, or a shard's.
    pub target: String,
    /// The schedule's revision from which the tick and the view were made.
    pub revision: u64,
    /// The target's watermark as the proposer saw it, UTC ms; `i64::MIN` for none: between it and the tick there is no other.
    pub from_ms: i64,
    /// The tick's nominal instant, UTC ms.
    pub tick_ms: i64,
    /// The proposer's wall clock, UTC ms. The ledger goes by the largest that it has been told.
    pub now_ms: i64,
    /// What the calendar says of `now_ms`.
    pub view: View,
    /// The worker.
    pub worker: SessionId,
}

/// Why ticks were not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Reason {
    /// Nobody was there to start it in time, and the misfire policy does not make up for it.
    Misfire,
    /// The start deadline passed before it could be started.
    Deadline,
    /// The window was closed.
    Window,
    /// There was a blackout.
    Blackout,
    /// The schedule was paused.
    Paused,
    /// A run of it was going on.
    Overlap,
    /// Too many nodes had failed at this tick.
    Halted,
    /// The schedule was disabled.
    Disabled,
}

impl Reason {
    /// The reason as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Misfire => "misfire",
            Reason::Deadline => "deadline",
            Reason::Window => "window",
            Reason::Blackout => "blackout",
            Reason::Paused => "paused",
            Reason::Overlap => "overlap",
            Reason::Halted => "halted",
            Reason::Disabled => "disabled",
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum End {
    /// All tasks are done.
    Succeeded,
    /// A task has failed.
    Failed,
    /// It stopped because it was told to.
    Cancelled,
    /// It stopped because its time was over.
    TimedOut,
    /// It was told to stop and did not within the grace: whatever it still does is fenced off.
    Stuck,
    /// A gate of the host does not let it start now; it is tried again after so many ms.
    Postponed {
        /// After how long.
        retry_ms: u32,
    },
    /// Its window closed; it goes on from its checkpoint when one opens.
    WindowClosed,
    /// It did not get the lock that the host wants round it.
    Skipped,
}

/// An operation of the orchestrator. `now_ms` is always the proposer's wall clock, UTC ms.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum OrchOp {
    /// Writes a schedule.
    Put {
        /// The schedule.
        schedule: Box<Schedule>,
        /// The revision that it replaces: 0 when there must be none, `None` for whatever there is.
        expected: Option<u64>,
        /// The proposer's wall clock.
        now_ms: i64,
    },
    /// Removes a schedule. Its runs are cancelled.
    Remove {
        /// Its id.
        schedule: String,
        /// As in `Put`.
        expected: Option<u64>,
    },
    /// The asking session takes work from now on.
    Join {
        /// The kinds of tasks that it has handlers for.
        kinds: Vec<String>,
        /// Its labels.
        labels: BTreeMap<String, String>,
        /// The version that it states for `min_version`.
        version: u32,
        /// Most runs at once; 0 for no bound.
        capacity: u32,
        /// The proposer's wall clock.
        now_ms: i64,
    },
    /// The asking session takes no more work.
    Leave,
    /// Starts a tick.
    Claim(Box<Claim>),
    /// Records that the ticks of a target above its watermark, up to `upto_ms`, are not started.
    Skip {
        /// The schedule.
        schedule: String,
        /// The target.
        target: String,
        /// As in [`Claim`].
        revision: u64,
        /// The watermark that the proposer saw; `i64::MIN` for none.
        from_ms: i64,
        /// The new one.
        upto_ms: i64,
        /// How many ticks that are, at least.
        count: u64,
        /// Why.
        reason: Reason,
        /// The proposer's wall clock.
        now_ms: i64,
    },
    /// Makes a run outside of the calendar, to be given to a worker.
    Trigger {
        /// The schedule.
        schedule: String,
        /// The target.
        target: String,
        /// Two triggers of one schedule with one key are one; empty for no such check.
        key: String,
        /// The nominal instant that it stands for; `None` for now.
        tick_ms: Option<i64>,
        /// Whether windows are of no account.
        force: bool,
        /// Instead of the schedule's parameters.
        params: Option<String>,
        /// The proposer's wall clock.
        now_ms: i64,
    },
    /// Gives a run that waits to a worker: a new attempt.
    Assign {
        /// The run.
        run: u64,
        /// The schedule's revision from which the view was made.
        revision: u64,
        /// The worker.
        worker: SessionId,
        /// The proposer's wall clock.
        now_ms: i64,
        /// What the calendar says of it.
        view: View,
    },
    /// The attempt lives on for another lease.
    Renew {
        /// The run.
        run: u64,
        /// The attempt's token.
        token: Token,
        /// How far it is, per mille.
        progress: u16,
    },
    /// A task of the run has ended; it is not done again by a later attempt if it has succeeded.
    TaskEnd {
        /// The run.
        run: u64,
        /// The attempt's token.
        token: Token,
        /// Number of the task in the schedule.
        task: u16,
        /// Whether it has succeeded.
        ok: bool,
    },
    /// Keeps bytes for the next attempt of a task.
    Checkpoint {
        /// The run.
        run: u64,
        /// The attempt's token.
        token: Token,
        /// Number of the task in the schedule.
        task: u16,
        /// The bytes, at most [`CHECKPOINT_MAX`].
        data: Vec<u8>,
    },
    /// The attempt has ended.
    Finish {
        /// The run.
        run: u64,
        /// The attempt's token.
        token: Token,
        /// How.
        end: End,
        /// For people.
        message: String,
        /// The proposer's wall clock.
        now_ms: i64,
    },
    /// Asks a run to stop.
    Cancel {
        /// The run.
        run: u64,
        /// For people.
        reason: String,
        /// The proposer's wall clock.
        now_ms: i64,
    },
    /// Starts nothing more, of one schedule or of all.
    Pause {
        /// The schedule; `None` for all.
        schedule: Option<String>,
        /// For people.
        note: String,
        /// Until this instant, UTC ms; `i64::MAX` for no end.
        until_ms: i64,
    },
    /// Ends a pause.
    Unpause {
        /// The schedule; `None` for the pause of all.
        schedule: Option<String>,
    },
    /// Sets a budget's limit; runs that have it keep it.
    Budget {
        /// Its name.
        name: String,
        /// How much there is; 0 removes the budget.
        limit: u32,
    },
}

impl OrchOp {
    /// A rough upper bound of its size in the log, bytes.
    pub(crate) fn size(&self) -> usize {
        match self {
            OrchOp::Put { schedule: s, .. } => {
                let task = |t: &super::schedule::Task| {
                    128 + t.name.len() + t.kind.len() + t.params.len() + 160 * (t.after.len() + t.retry_on.len())
                };
                let maps =
                    s.attributes.iter().map(|(k, v)| k.len() + v.len() + 8).sum::<usize>() + 160 * (s.budgets.len() + s.requires.len());
                let windows = 16 * (s.windows.len() + s.blackouts.len() + 2 * s.throttle_at.len());
                512 + s.cron.len() + s.params.len() + maps + s.tasks.iter().map(task).sum::<usize>() + windows
            }
            OrchOp::Join { kinds, labels, .. } => {
                kinds.iter().map(|k| k.len() + 4).sum::<usize>() + labels.iter().map(|(k, v)| k.len() + v.len() + 8).sum::<usize>()
            }
            OrchOp::Trigger { params, .. } => 64 + 3 * NAME_MAX + params.as_ref().map_or(0, String::len),
            OrchOp::Checkpoint { data, .. } => 64 + data.len(),
            OrchOp::Finish { message: text, .. } | OrchOp::Cancel { reason: text, .. } | OrchOp::Pause { note: text, .. } => {
                64 + NAME_MAX + text.len()
            }
            _ => 64 + 2 * NAME_MAX,
        }
    }

    /// Whether it makes the state grow for good: such is refused while space is short.
    pub(crate) fn is_new_work(&self) -> bool {
        matches!(self, OrchOp::Put { .. } | OrchOp::Claim(_) | OrchOp::Trigger { .. } | OrchOp::Checkpoint { .. } | OrchOp::Budget { .. })
    }

    /// Whether doing it twice leads to the same state and a fitting answer.
    pub(crate) fn may_be_repeated(&self) -> bool {
        matches!(
            self,
            OrchOp::Join { .. }
                | OrchOp::Leave
                | OrchOp::Renew { .. }
                | OrchOp::TaskEnd { .. }
                | OrchOp::Checkpoint { .. }
                | OrchOp::Budget { .. }
        )
    }
}

/// What is wrong with an operation, whatever the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum OrchFault {
    /// The schedule is not acceptable; its author's node says why.
    Schedule,
    /// A name is not 1 to 128 printable ASCII characters without space.
    Name,
    /// The checkpoint is too long.
    Checkpoint,
    /// There is no such task.
    Task,
    /// The tick lies in the future.
    Future,
    /// The worker is none.
    Worker,
}

/// The answer to an [`OrchOp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum OrchAnswer {
    /// The attempt is the worker's.
    Claimed {
        /// The run.
        run: u64,
        /// The attempt's token.
        token: Token,
        /// Its number, from 1.
        attempt: u32,
        /// Its lease, ms.
        lease_ms: u32,
    },
    /// The tick has been started, or judged, before.
    AlreadyClaimed {
        /// Its run; 0 when it is not remembered or was never started.
        run: u64,
        /// Its token; 0 as above.
        token: Token,
        /// Who has it; 0 as above.
        by: SessionId,
        /// Its first start, UTC ms; 0 as above.
        since_ms: i64,
    },
    /// A run of the schedule and target goes on, or as many targets as may run at once.
    Busy {
        /// One that goes on.
        run: u64,
        /// The tick stays due.
        due: bool,
    },
    /// No window is open.
    OutsideWindow {
        /// When one opens, UTC ms.
        until_ms: i64,
    },
    /// There is a blackout.
    Blackout {
        /// When it ends, UTC ms.
        until_ms: i64,
    },
    /// The schedule, or everything, is paused.
    Paused {
        /// Until when, UTC ms.
        until_ms: i64,
    },
    /// The schedule is disabled.
    Disabled,
    /// A budget has not enough left.
    BudgetExhausted,
    /// The worker is gone, full, or cannot do it.
    NoEligibleNode,
    /// The schedule was changed meanwhile.
    StaleRevision {
        /// Its revision; 0 when there is none.
        current: u64,
    },
    /// Too many targets of this tick have failed.
    Halted,
    /// The token is not that of the run's present attempt.
    StaleToken {
        /// The present one; 0 when there is none.
        current: Token,
    },
    /// There is no such schedule or run.
    NotFound,
    /// The operation is not acceptable.
    Invalid(OrchFault),
    /// A limit is reached.
    Limit {
        /// Its value.
        max: u64,
    },
    /// The schedule was written.
    Written {
        /// Its revision.
        revision: u64,
    },
    /// The run was made.
    Triggered {
        /// Its number.
        run: u64,
        /// It had been made before, under the same key.
        existed: bool,
    },
    /// The attempt lives.
    Renewed {
        /// For how long, ms.
        remaining_ms: u32,
        /// It is to stop.
        cancel: bool,
    },
    /// Done.
    Done,
    /// The target's watermark is another than the proposer saw: ticks between would be forgotten.
    OtherMark {
        /// Where it is, UTC ms; `i64::MIN` for none.
        mark_ms: i64,
    },
}

impl From<OrchAnswer> for Error {
    fn from(answer: OrchAnswer) -> Error {
        match answer {
            OrchAnswer::StaleRevision { current } => {
                Error::new(Status::Fenced, format!("the schedule was changed: its revision is {current}")).with_token(current)
            }
            OrchAnswer::StaleToken { current } => {
                Error::new(Status::Fenced, "the token is not that of the run's present attempt").with_token(current.0)
            }
            OrchAnswer::NotFound => Error::new(Status::InvalidArgument, "there is no such schedule or run"),
            OrchAnswer::Invalid(fault) => Error::new(
                Status::InvalidArgument,
                match fault {
                    OrchFault::Schedule => "the schedule is not acceptable",
                    OrchFault::Name => "a name is not 1 to 128 printable ASCII characters without space",
                    OrchFault::Checkpoint => "the checkpoint is longer than 65536 bytes",
                    OrchFault::Task => "there is no such task",
                    OrchFault::Future => "the tick lies in the future",
                    OrchFault::Worker => "the session takes no work",
                },
            ),
            OrchAnswer::Limit { max } => Error::new(Status::Limit, format!("the limit of {max} is reached")),
            other => Error::new(Status::Internal, format!("an answer to another question: {other:?}")),
        }
    }
}
