//! One ledger, replicated: openraft behind an interface of our own.

mod change;
mod form;
mod journal;
mod log;
mod machine;
#[cfg(test)]
mod memory_log;
mod roster;
mod snapshot;
mod types;
