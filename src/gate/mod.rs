//! The write gate: may this process acknowledge a write now?
//!
//! A gate is one [`Cell`] of shared memory. Writers read it: `include/tenure_gate.h` from C and C++, [`CellRef`] from Rust,
//! by the same rules (`protocol`). One publisher writes it: [`GateCore`], a state machine that takes time as an argument,
//! owns the lease's deadline and the highest epoch seen, and says what changed as [`GateEvent`]s.
//!
//! Nothing here starts a thread or calls back. The node's keeper thread ticks the core, so that a deadline never
//! stays published for longer than the leash; when that thread stalls, the gate closes by itself.

mod calibration;
mod cell;
mod drain;
mod epochs;
mod event;
mod lease;
#[cfg(test)]
mod model_test;
mod nonces;
mod office;
mod options;
mod permit;
mod platform;
mod protocol;
mod publisher;
mod region;
mod slow;
mod stats;
#[cfg(test)]
mod tests;
mod threads;

pub use calibration::{Reading, TscPair, tsc_is_invariant};
pub use cell::{Cell, NEVER, Reason, SLOTS, STRIPES, Slot, Window, WriteClass, mode};
pub use epochs::{EpochStore, MemoryEpochs};
pub use event::{GateEvent, Refusals};
pub use lease::{GrantReply, Heartbeat, HeartbeatReply, Refusal};
pub use options::{ClockPolicy, Mode, OnExpiry, Options};
pub use permit::{CellRef, Permit, RawPermit, Verdict};
#[cfg(feature = "capi")]
pub(crate) use platform::{process_barrier, register_barrier};
pub use publisher::{GateCore, Setup};
pub use slow::{check_slow, enter_slow, finish_slow, leave_slow, precommit_slow};
pub use stats::{GateStatus, Phase};
pub use threads::thread_index;
