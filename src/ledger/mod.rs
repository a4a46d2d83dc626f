//! The replicated state machine: sessions, locks, queues, tokens, time.
//!
//! Applying an entry is a function of the state and the entry: no clock is read, nothing is random, and neither the order of a
//! hash table nor the division into shards can be seen from outside.

mod command;
mod params;
mod view;

pub use command::{
    Entry, Event, Fault, LimitKind, LossReason, Mode, Obstacle, Op, Outcome, Refusal, Renew, Request, Spec, Stamp, Wait, WaitEnd,
};
pub use params::Params;
pub use view::{Counts, Holder, LockInfo, SessionInfo, Waiter};
