//! The orchestrator's way into the rest of the ledger: sessions, tokens, deadlines, events.

use crate::base::{SessionId, Token};

use super::super::command::{Event, Outcome};
use super::super::hub::Cx;
use super::apply::Around;
use super::op::OrchOp;
use super::state::State;

impl Cx<'_> {
    fn with_orch<R>(&mut self, asker: SessionId, act: impl FnOnce(&mut State, &mut Around<'_>) -> R) -> R {
        let now = self.now();
        let hub = self.hub;
        let mut state = hub.orch();
        let slot = hub.sessions.living(asker, now);
        let asker = slot.map(|slot| (asker, slot.body().name.clone()));
        let mut bells = Vec::new();
        let lives = |session: SessionId| hub.sessions.find(session).is_some_and(|slot| slot.lives(now));
        let mut token = || Token(hub.take_tokens(1));
        let result = act(&mut state, &mut Around { now, asker, lives: &lives, token: &mut token, bells: &mut bells });
        if let Some(at) = state.nearest() {
            self.nearer |= hub.note_deadline(at);
        }
        bells.sort_unstable();
        bells.dedup();
        self.events.extend(bells.into_iter().map(|session| Event::Orch { session }));
        result
    }

    /// Does one operation.
    pub(crate) fn orchestrate(&mut self, session: SessionId, op: &OrchOp) -> Outcome {
        Outcome::Orch(self.with_orch(session, |state, around| state.apply(op, around)))
    }

    /// Ends the leases that are over.
    pub(crate) fn end_leases(&mut self) {
        let now = self.now();
        if self.hub.orch().nearest().is_some_and(|at| at <= now) {
            let slice = self.hub.params.slice.max(1);
            self.with_orch(SessionId(0), |state, around| state.expire(slice, around));
        }
    }
}
