//! When work is due and who does it: the calendar, and the planner over a copy of the ledger's schedules. No threads and no I/O here.

pub mod calendar;
pub mod dag;
pub mod due;
pub mod place;
pub mod planner;
pub mod themis;
mod waits;
mod wishes;
