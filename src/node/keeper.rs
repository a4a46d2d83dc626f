//! The node's own thread: renews sessions, publishes gates, lets expire what has expired.
//!
//! It waits for nobody: renewals are submitted and answered elsewhere, so a stalled disk does not keep it from closing a gate.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::core::Core;
use super::wake::Wake;
use crate::base::Moment;

/// The longest sleep: a bell that was missed costs no more than this.
const LONGEST_NS: u64 = 500_000_000;

/// One round at `now`. Returns ns until the next one is due.
pub(super) fn step(core: &Arc<Core>, now: Moment) -> u64 {
    let mut next = LONGEST_NS;
    super::clocks::look_around(core);
    // Gates first: whatever else is slow, a lease that has ended closes its gate.
    for gate in core.gate_list() {
        next = next.min(gate.keep(core));
    }
    if core.check().is_err() {
        return next;
    }
    for session in core.kept_sessions() {
        next = next.min(session.keep(core, now));
    }
    match core.engine.tick() {
        Ok(()) => next = next.min(core.engine.next_tick().map_or(next, |t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX))),
        Err(error) => core.poison(error.message()),
    }
    next
}

/// The thread's body: it holds the node only while it works, so that dropping the last handle ends it.
pub(super) fn run(core: &Weak<Core>, wake: &Wake) {
    loop {
        let next = {
            let Some(core) = core.upgrade() else { return };
            step(&core, core.now())
        };
        if !wake.wait(Duration::from_nanos(next)) {
            return;
        }
    }
}
