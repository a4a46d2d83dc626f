//! Epochs at the resource: the highest one is kept durably, and a write under a lower one is refused in the same atomic step as the
//! write itself.
//!
//! A lease ends on the holder's own clock, so what a stopped holder had under way can land later. It carries the old epoch; here it is
//! refused. Two forms: [`admit`] for a host with a transaction of its own, which stores the [`Record`] in the same batch as the write, and
//! [`EpochFence`] for one without, a file with a lock around each write.

mod file;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod file_test;
mod record;

pub use file::{EpochFence, Pass};
pub use record::{Admission, RECORD_BYTES, Record, admit, read};
