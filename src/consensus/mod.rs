//! One ledger, replicated: openraft behind an interface of our own.
//!
//! A [`Consensus`] is one member. Operations go in by [`Consensus::submit`] on any member and are answered when a majority has
//! them on disk; what happens besides goes to every member's [`Observer`]. Nothing of openraft is seen outside this module,
//! neither in types nor in what is stored or sent.

mod change;
mod core;
mod form;
mod journal;
mod link;
mod log;
mod machine;
mod members;
#[cfg(test)]
mod memory_log;
mod network;
mod node;
mod pump;
mod queue;
mod roster;
mod serve;
mod snapshot;
mod stamper;
#[cfg(test)]
mod tests;
mod types;
mod wire;

pub use self::core::{Call, Options, Server, Timing, Transport};
pub use link::{Introduction, Links};
pub use machine::Observer;
pub use node::{Consensus, MemberStatus, Parts, Status};
pub use queue::{Bounds, Done};
pub use wire::Lane;
