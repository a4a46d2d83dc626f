//! The simulator: sees everything, is seen by nothing, and is in no build but that of the tests.
//!
//! | module | its one job |
//! |---|---|
//! | [`linear`] | is a history of lock operations linearizable? |
//! | [`history`] | such histories as JSON lines, of simulations and of real processes |
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod history;
mod linear;
