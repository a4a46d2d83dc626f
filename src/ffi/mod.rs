//! The C interface: what `include/tenure.h` declares. No logic lives here: each function checks what it is given, calls the
//! node layer, and reports.
//!
//! Every body runs in [`guard`], so that no panic reaches C; every object is named by a number that [`table`] knows, so that
//! no wrong handle reaches memory; out parameters are written only after success. `docs/c-api.md` says how to use it.

#![allow(unsafe_code, non_camel_case_types)]
// The contract of each function is in the header's own words, where C programmers look for it.
#![allow(clippy::missing_safety_doc)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod args;
mod asynchronous;
mod cluster;
mod config;
mod error;
mod event;
mod fence;
mod gate;
mod gate_cold;
mod granter;
mod guard;
mod hazard;
mod host;
mod inject;
mod log;
mod node;
mod options;
mod orchestrator;
mod orchestrator_host;
mod service;
mod session;
mod table;
mod task;
mod types;
mod verbs;
mod version;
mod watch;
