//! What concerns a session as a whole: it begins, goes on, ends, is taken over.

use crate::base::{SessionId, Token};

use super::clock::HIDDEN_MS;
use super::command::{Fault, LimitKind, LossReason, Outcome, Refusal};
use super::session::Sessions;
use super::shard::Asker;
use super::slab::{MANUAL, NONE, WAITING};
use super::world::{Shards, World};

impl<S: Shards> World<'_, '_, S> {
    pub(super) fn open_session(&mut self, nonce: u128, name: &str, ttl: u32) -> Outcome {
        let now = self.cx.now();
        let hub = self.hub();
        let p = &hub.params;
        if let Some(answer) = self.known_session(nonce, name, ttl) {
            return answer;
        }
        if hub.sessions.index().open >= p.max_sessions {
            return Outcome::Refused(Refusal::Limit { kind: LimitKind::Sessions, max: p.max_sessions });
        }
        let (id, deadline) = hub.sessions.open(nonce, name, ttl, now);
        self.cx.nearer |= hub.note_deadline(deadline);
        Outcome::Session { id, remaining_ms: u64::from(ttl) }
    }

    /// The answer to whoever asks for a session in vain, or for one that is there.
    fn known_session(&mut self, nonce: u128, name: &str, ttl: u32) -> Option<Outcome> {
        let now = self.cx.now();
        let hub = self.hub();
        if name.is_empty() || name.len() > crate::base::ids::NODE_ID_MAX {
            return Some(Outcome::Refused(Refusal::Invalid(Fault::Name)));
        }
        if !(hub.params.min_ttl_ms..=hub.params.max_ttl_ms).contains(&ttl) {
            return Some(Outcome::Refused(Refusal::Invalid(Fault::Ttl)));
        }
        let id = hub.sessions.by_nonce(nonce, now)?;
        let deadline = hub.sessions.find(id).map_or(0, |s| s.deadline());
        Some(Outcome::Session { id, remaining_ms: deadline.saturating_sub(now + HIDDEN_MS) })
    }

    pub(super) fn take_over(&mut self, old: u128, nonce: u128, name: &str, ttl: u32, keep: bool) -> Outcome {
        if old == nonce {
            return Outcome::Refused(Refusal::Invalid(Fault::Nonce));
        }
        if let Some(answer) = self.known_session(nonce, name, ttl) {
            return answer;
        }
        let now = self.cx.now();
        let hub = self.hub();
        let before = hub.sessions.by_nonce(old, now);
        let Some((before, slot)) = before.and_then(|id| Some((id, hub.sessions.find(id)?))) else {
            return Outcome::Refused(Refusal::NoSession);
        };
        let held = if keep { self.records_of(before) } else { Vec::new() };
        let max = u64::from(hub.params.max_take_over());
        if held.len() as u64 > max {
            return Outcome::Refused(Refusal::Limit { kind: LimitKind::LocksPerTakeOver, max });
        }
        let outcome = self.open_session(nonce, name, ttl);
        let Outcome::Session { id, remaining_ms } = outcome else { return outcome };
        let Some(heir) = hub.sessions.find(id) else { return Outcome::Refused(Refusal::NoSession) };
        let asker = Asker { session: id, slot: heir, req: 0, flags: 0 };
        for (record_id, home, record) in held {
            let shard = self.shards.shard(home);
            // One that had run out may have taken others along.
            if shard.records[record].id == record_id && !shard.records[record].is(WAITING) {
                shard.hand_over(&mut self.cx, record, &asker);
            }
        }
        let upto = Token(hub.last_token());
        hub.sessions.supersede(slot, now);
        self.bury_slice();
        Outcome::TakenOver { id, remaining_ms, upto }
    }

    /// Clears away what sessions that have just ended leave behind, a slice of it.
    fn bury_slice(&mut self) {
        let mut left = self.hub().params.slice.max(1);
        self.bury(&mut left);
        if self.hub().sessions.index().nearest() == Some(0) {
            // More than a slice: the next tick goes on.
            self.cx.nearer |= self.hub().note_deadline(0);
        }
    }

    pub(super) fn renew_session(&mut self, session: SessionId) -> Outcome {
        let now = self.cx.now();
        let hub = self.hub();
        let Some(slot) = hub.sessions.find(session) else { return Outcome::Refused(Refusal::NoSession) };
        if Sessions::gap(slot, now) > u64::from(slot.shortest()) {
            // Grants shorter than this gap have run out; a renewal must not bring them back. Only those: a replica that was restored knows a
            // larger bound and may not come here, so what a renewal leaves as it is must not be touched (I-13).
            for (_, home, record) in self.records_of(session) {
                let shard = self.shards.shard(home);
                let (entry, renewed) = (shard.records[record].entry, !shard.records[record].is(WAITING | MANUAL));
                if renewed && let Some((at, why @ LossReason::Expired)) = shard.lapse(&self.cx, record, now) {
                    shard.lose(&mut self.cx, record, at, why, None);
                    shard.pump(&mut self.cx, entry);
                    shard.tidy(&self.cx, entry);
                }
            }
        }
        match hub.sessions.renew(session, now) {
            Some(remaining_ms) => Outcome::Renewed { remaining_ms, clock_ms: now },
            None => Outcome::Refused(Refusal::NoSession),
        }
    }

    pub(super) fn close_session(&mut self, session: SessionId) -> Outcome {
        if let Some(slot) = self.hub().sessions.find(session) {
            self.hub().sessions.close(slot);
        }
        self.bury_slice();
        Outcome::Closed
    }

    /// What a session has, in all shards, by id.
    pub(super) fn records_of(&mut self, session: SessionId) -> Vec<(u64, usize, u32)> {
        let mut found = Vec::new();
        let Some(slot) = self.hub().sessions.find(session) else { return found };
        for number in (0..self.shards.count()).filter(|n| slot.may_be_in(*n)) {
            let shard = self.shards.shard(number);
            let mut at = shard.first_of(session).unwrap_or(NONE);
            while at != NONE {
                found.push((shard.records[at].id, number, at));
                at = shard.records[at].next_in_list;
            }
        }
        found.sort_unstable();
        found
    }

    pub(super) fn release_all(&mut self, session: SessionId) -> Outcome {
        let mut count = 0;
        for (id, home, record) in self.records_of(session) {
            let shard = self.shards.shard(home);
            if shard.records[record].id == id && !shard.records[record].is(WAITING) {
                shard.surrender(&mut self.cx, record);
                count += 1;
            }
        }
        Outcome::ReleasedMany { count }
    }
}
