//! Where an operation goes: one interface over the forms of a ledger.

use crate::base::{Result, SessionId};
use crate::ledger::{Event, Outcome};

/// Told exactly once how an operation ended. Called on whatever thread ended it, with no lock of the engine held.
pub type Completion = Box<dyn FnOnce(Result<Outcome>) + Send>;

/// A request of a session that may still be waiting: what [`crate::ledger::Op::Cancel`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpId {
    /// The asking session.
    pub session: SessionId,
    /// Its number for the request.
    pub req: u64,
}

/// Receives what happens beside the answers. Called on any thread, one call at a time, with no lock of the engine held; must not block.
pub trait EventSink: Send + Sync {
    /// Something happened. The end of a wait that has a [`Completion`] goes there and not here.
    fn event(&self, event: Event);

    /// A deadline nearer than all others has appeared: whoever sleeps until the next tick must look again.
    fn nearer_deadline(&self);
}
