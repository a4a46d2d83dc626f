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
#[cfg(test)]
#[allow(clippy::panic)]
mod simulated;
#[cfg(test)]
mod simulated_watch;
mod snapshot;
mod stamper;
#[cfg(test)]
mod tests;
mod types;
mod wire;

#[cfg(any(test, tenure_fuzz))]
pub(crate) use wire::{sample_messages, survive_message};

#[cfg(test)]
pub(crate) use log::sight::{Ballot, Held, LogView, Place, Sight};
#[cfg(test)]
pub(crate) use simulated::{Machine, Witness};

pub use self::core::{Call, Options, Server, Timing, Transport};
pub use link::{Introduction, Links};
pub use machine::Observer;
pub use node::{Access, Consensus, MemberStatus, Parts, Status};
pub use queue::{Bounds, Done};
pub use roster::token_digest;
pub(crate) use serve::elsewhere;
pub use wire::Lane;

/// As how important a log record is to be taken. What the library below says of its own workings, each election and each heartbeat
/// that did not arrive, is for those who look for a fault in it.
pub fn record_level(metadata: &tracing::Metadata<'_>) -> tracing::Level {
    match *metadata.level() {
        tracing::Level::ERROR if metadata.target().starts_with("openraft") => tracing::Level::INFO,
        _ if metadata.target().starts_with("openraft") => tracing::Level::TRACE,
        level => level,
    }
}
