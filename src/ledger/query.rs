//! Reading: what is held by whom, without changing anything.

use crate::base::{Key, SessionId, Token};

use super::command::{LossReason, Renew};
use super::hub::Cx;
use super::session::Sessions;
use super::shard::Shard;
use super::slab::{MANUAL, NONE, Probe, WAITING};
use super::view::{Held, Holder, LockInfo, SessionInfo, Waiter};

impl Shard {
    /// Whether releasing this grant would free it; see [`super::Ledger::frees`].
    pub(crate) fn frees(&self, cx: &Cx<'_>, probe: &Probe<'_>, session: SessionId, token: Token) -> bool {
        let Some(entry) = self.find(probe) else { return false };
        let mut at = self.entries[entry].holds;
        while at != NONE {
            let r = &self.records[at];
            if r.id == token.0 {
                return self.session_of(cx, at) == session && (r.kind() != 0 || r.amount() == 1);
            }
            at = r.next();
        }
        false
    }

    /// What is around a key at this time; `None` when nothing is.
    pub(crate) fn lock_info(&self, cx: &mut Cx<'_>, probe: &Probe<'_>) -> Option<LockInfo> {
        let now = cx.now();
        let entry = self.find(probe)?;
        let (first, mut delay_until, limit) = self.extra(entry).map_or((NONE, 0, 0), |x| (x.first, x.delay_until, x.limit));
        let mut info = LockInfo { key: probe.key.clone(), holders: Vec::new(), waiters: Vec::new(), delay_ms: 0 };
        let mut at = self.entries[entry].holds;
        while at != NONE {
            let r = &self.records[at];
            if let Some(slot) = self.slot_of(cx, at) {
                let (ends, why) = Self::deadline(r, slot);
                if now < ends {
                    let permits = matches!(r.mode(limit), super::command::Mode::Permits { .. });
                    info.holders.push(Holder {
                        session: slot.id(),
                        name: slot.body().name.clone(),
                        token: Token(r.id),
                        mode: r.mode(limit),
                        remaining_ms: self.remaining(cx, at, now),
                        held_ms: now.saturating_sub(r.at()),
                        depth: if permits { 1 } else { r.amount() },
                        metadata: r.meta().to_vec(),
                    });
                } else if r.delay() != 0 && why != LossReason::Closed {
                    delay_until = delay_until.max(ends + u64::from(r.delay()));
                }
            }
            at = r.next();
        }
        at = first;
        while at != NONE {
            let r = &self.records[at];
            if let Some(slot) = self.slot_of(cx, at).filter(|slot| slot.lives(now) && now < r.since) {
                info.waiters.push(Waiter {
                    session: slot.id(),
                    name: slot.body().name.clone(),
                    req: r.req,
                    mode: r.mode(limit),
                    waited_ms: now.saturating_sub(r.at()),
                    metadata: r.meta().to_vec(),
                });
            }
            at = r.next();
        }
        info.delay_ms = delay_until.saturating_sub(now);
        (!info.holders.is_empty() || !info.waiters.is_empty() || info.delay_ms != 0).then_some(info)
    }

    /// The first keys here in order of bytes that begin with `prefix` and come after `after`; at most `limit`.
    pub(crate) fn keys(&self, prefix: &[u8], after: Option<&Key>, limit: usize) -> Vec<Key> {
        let wanted = |k: &Key| k.as_bytes().starts_with(prefix) && after.is_none_or(|a| k > a);
        let mut keys: Vec<Key> = self.entries.iter().filter_map(|e| e.name.key()).filter(wanted).collect();
        if keys.len() > limit {
            keys.select_nth_unstable(limit);
            keys.truncate(limit);
        }
        keys
    }

    /// What a session holds here.
    pub(crate) fn held_by(&self, session: SessionId) -> Vec<Held> {
        let (mut held, mut at) = (Vec::new(), self.first_of(session).unwrap_or(NONE));
        while at != NONE {
            let r = &self.records[at];
            if !r.is(WAITING)
                && let Some(key) = self.entries[r.entry].name.key()
            {
                let renew = if r.is(MANUAL) { Renew::Manual } else { Renew::Session };
                held.push(Held { key, token: Token(r.id), ttl_ms: r.ttl, renew });
            }
            at = r.next_in_list;
        }
        held
    }

    pub(crate) fn key_count(&self) -> u64 {
        self.table.len() as u64
    }

    pub(crate) fn lock_count(&self) -> u64 {
        self.used
    }
}

impl Sessions {
    /// The sessions that live at `now`, by number.
    pub(crate) fn infos(&self, now: u64) -> Vec<SessionInfo> {
        let info = |id| {
            let slot = self.find(id).filter(|s| s.lives(now))?;
            let remaining_ms = slot.deadline().saturating_sub(now + super::clock::HIDDEN_MS);
            Some(SessionInfo { id, name: slot.body().name.clone(), ttl_ms: slot.ttl(), remaining_ms })
        };
        self.all().into_iter().filter_map(info).collect()
    }
}

/// One page of keys out of what every shard gave.
pub(crate) fn page(mut keys: Vec<Key>, limit: usize) -> Vec<Key> {
    keys.sort_unstable();
    keys.truncate(limit);
    keys
}
