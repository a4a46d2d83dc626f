//! A process that is no member: how it reaches the cluster, and what the two say to each other.
//!
//! A [`Link`] keeps a connection to one member, the leader where it is known, and finds another when that one does not answer. What a
//! process asks of its sessions goes through it, and what happens to them comes back.

mod carrier;
mod link;
mod targets;
mod wire;

pub use link::{Done, Link, LinkStatus, Listener, Options};
pub use wire::{Answer, Ask, CALL, Failure, MemberInfo, NEWS, News, Order, Query, Told, View, decode_ask, encode_answer, encode_news};
#[cfg(any(test, tenure_fuzz))]
pub(crate) use wire::{samples, survive};
