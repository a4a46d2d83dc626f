//! Members in one process, on one thread, on virtual time.

#![allow(clippy::unwrap_used, clippy::panic)]

mod basics;
mod chaos;
pub(crate) mod rig;
