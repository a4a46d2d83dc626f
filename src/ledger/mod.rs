//! The replicated state machine: sessions, locks, queues, tokens, time.
//!
//! Applying an entry is a function of the state and the entry: no clock is read, nothing is random, and neither the order of a
//! hash table nor the division into shards can be seen from outside.

mod clock;
mod command;
mod event;
mod hub;
pub mod orch;
mod outcome;
mod params;
mod promise;
mod query;
mod queue;
mod session;
mod shard;
mod slab;
mod snapshot;
mod state;
mod timer;
mod verbs;
mod view;
mod watch;
mod world;
mod world_sessions;

pub use command::{
    Entry, Event, Fault, LimitKind, LossReason, Mode, Obstacle, Op, Outcome, Refusal, Renew, Request, Spec, Stamp, WHY_MAX, Wait, WaitEnd,
};
pub(crate) use hub::{Cx, Hub, NEVER, Now};
pub use params::Params;
pub use promise::{Granting, PromiseInfo, PromiseOp, Promised};
pub(crate) use query::page;
pub(crate) use shard::{Asks, Shard};
pub(crate) use slab::Probe;
pub use snapshot::Restore;
pub use state::{Ledger, LogId};
pub use view::{Counts, Held, Holder, LockInfo, SessionInfo, Waiter};
pub use watch::{Change, Holding, Pattern, WatchStart, Watched};
pub(crate) use world::{Shards, World, shard_of};
