//! Members in one process, on one thread, on virtual time.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod basics;
mod installing;
pub(crate) mod rig;
mod scale;
