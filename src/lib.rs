//! Tenure answers one question inside a database process, fast and truthfully: *do I still hold office?*
//!
//! The crate is a stack of layers; each may use the ones above it in this list and none below:
//!
//! | module | its one job |
//! |---|---|
//! | [`base`] | ids, the error table, configuration, clocks, randomness, the codec |
//! | [`gate`] | permits, epochs and the hot path: may this process acknowledge a write now? |
//! | [`store`] | what survives the process: data directory, write-ahead log, snapshots |
//! | [`fence`] | at the resource: the highest epoch, kept durably, refuses lower ones |
//! | [`ledger`] | the pure state machine: sessions, locks, queues, tokens, time |
//! | [`net`] | processes talk: frames, identities, TLS, connections that come back |
//! | [`client`] | a process that is no member reaches the cluster |
//! | [`consensus`] | one ledger replicated: the log of many nodes, members, leaders |
//! | [`plug`] | a lock service that the host already runs, and what is asked of it |
//! | [`engine`] | an operation runs: in memory on the caller's thread |
//! | [`node`] | what a host opens: sessions, grants, gates, events |
//! | [`orchestrator`] | calendar and planning: what is due, and who does it |
//! | `ffi` | feature `capi`: the C interface, `include/tenure.h` |
#![deny(unsafe_code)]

pub mod base;
pub mod client;
pub mod consensus;
pub mod engine;
pub mod fence;
#[cfg(feature = "capi")]
pub mod ffi;
#[cfg(any(test, tenure_fuzz))]
pub mod fuzz;
pub mod gate;
pub mod ledger;
pub mod net;
pub mod node;
pub mod orchestrator;
pub mod plug;
pub mod store;

#[cfg(test)]
#[path = "../sim/mod.rs"]
mod sim;
