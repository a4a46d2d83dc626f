//! Promises: until when the holder of an office may still act, as the one who grants the office has recorded it.
//!
//! A granter (a controller that pushes leases to others) records each lease here *before* it sends it. So a successor is not promoted
//! while a former holder may act, whichever granter sent what, and in whatever order it arrives. Every operation names the lock that
//! makes its asker the granter, and that lock's token: who has lost it records nothing any more, and what it recorded before stands.

use crate::base::codec::{Decode, Encode};
use crate::base::planted::planted;
use crate::base::{Key, SessionId, Token};

use super::clock::HIDDEN_MS;
use super::outcome::{Fault, LimitKind, Outcome, Refusal};
use super::world::{Shards, World};

/// Most offices with a promise.
const OFFICES_MAX: u64 = 65_536;
/// Epochs and tokens stay below this.
const EPOCH_END: u64 = 1 << 63;

/// Who asks: the lock by which it is the granter, and that lock's token in the asking session.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Granting {
    /// The lock.
    pub key: Key,
    /// The grant.
    pub term: Token,
}

/// What a granter does with an office.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum PromiseOp {
    /// Gives the office to another holder, once the former one can act no more.
    Promote {
        /// Who asks.
        by: Granting,
        /// The office.
        office: Key,
        /// Name of the holder to be.
        holder: String,
        /// The epoch to give; 0 for one above the last.
        epoch: u64,
    },
    /// Lets the holder act for another ttl, from now on.
    Extend {
        /// Who asks.
        by: Granting,
        /// The office.
        office: Key,
        /// The holder's epoch.
        epoch: u64,
        /// How long, by the holder's own clock, ms.
        ttl_ms: u32,
    },
    /// The holder has said that it does not act any more.
    Settle {
        /// Who asks.
        by: Granting,
        /// The office.
        office: Key,
        /// The holder's epoch.
        epoch: u64,
    },
}

impl PromiseOp {
    /// A rough upper bound of its size in the log.
    pub fn bytes(&self) -> usize {
        match self {
            PromiseOp::Promote { by, office, holder, .. } => by.key.as_bytes().len() + office.as_bytes().len() + holder.len(),
            PromiseOp::Extend { by, office, .. } | PromiseOp::Settle { by, office, .. } => {
                by.key.as_bytes().len() + office.as_bytes().len()
            }
        }
    }
}

/// How an operation on a promise ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Promised {
    /// The office has another holder, under this epoch.
    Promoted {
        /// The epoch.
        epoch: u64,
    },
    /// The holder may act for this long, ms, margin included.
    Extended {
        /// How long.
        remaining_ms: u64,
    },
    /// The holder may not act any more.
    Settled,
    /// Nothing was done: the former holder may still act.
    TooEarly {
        /// For how long at most, ms.
        remaining_ms: u64,
        /// Its epoch.
        epoch: u64,
    },
    /// Nothing was done: the asker is not the granter.
    NotGranter {
        /// The token of the granter's lock; 0 for nobody.
        current: Token,
    },
    /// Nothing was done: the epoch is not the office's, or not above the last, or its holder has stepped down.
    Stale {
        /// The office's epoch; 0 when it was never given.
        epoch: u64,
    },
}

/// What is known of an office.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Promise {
    epoch: u64,
    holder: String,
    /// From this time on the holder does not act, ms of the ledger's clock.
    until: u64,
    settled: bool,
    /// The granter's token when the office was given.
    term: Token,
}

/// A promise, seen from outside.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PromiseInfo {
    /// The office.
    pub office: Key,
    /// Its epoch.
    pub epoch: u64,
    /// Who has it.
    pub holder: String,
    /// For how long that holder may act at most, ms.
    pub remaining_ms: u64,
    /// The holder has said that it stepped down.
    pub settled: bool,
    /// The token of the granter that gave it.
    pub term: Token,
}

impl Promise {
    pub(super) fn info(&self, office: Key, now: u64) -> PromiseInfo {
        PromiseInfo {
            office,
            epoch: self.epoch,
            holder: self.holder.clone(),
            remaining_ms: self.left(now),
            settled: self.settled,
            term: self.term,
        }
    }

    fn left(&self, now: u64) -> u64 {
        if self.settled { 0 } else { self.until.saturating_sub(now) }
    }
}

/// How long a lease of `ttl` may last on the ledger's clock, when the holder counts the whole of it on a clock that is wrong by at most
/// 1 %, and the ledger's is as well; rounded up.
fn margin(ttl_ms: u32) -> u64 {
    (u64::from(ttl_ms) * 101).div_ceil(99) + HIDDEN_MS
}

impl<S: Shards> World<'_, '_, S> {
    pub(super) fn promise(&mut self, session: SessionId, op: &PromiseOp) -> Outcome {
        let (PromiseOp::Promote { by, .. } | PromiseOp::Extend { by, .. } | PromiseOp::Settle { by, .. }) = op;
        let (home, probe) = self.home(&by.key);
        if let Err(current) = self.shards.shard(home).holds(&mut self.cx, &probe, session, by.term)
            && !planted!("replaced-granter-obeyed")
        {
            return Outcome::Promise(Promised::NotGranter { current });
        }
        let now = self.cx.now();
        let hub = self.cx.hub;
        let mut promises = hub.promises();
        match op {
            PromiseOp::Promote { by, office, holder, epoch } => {
                if holder.is_empty() || holder.len() > crate::base::ids::NODE_ID_MAX {
                    return Outcome::Refused(Refusal::Invalid(Fault::Name));
                }
                let former = promises.get(office);
                if former.is_none() && promises.len() as u64 >= OFFICES_MAX {
                    return Outcome::Refused(Refusal::Limit { kind: LimitKind::Offices, max: OFFICES_MAX });
                }
                let last = former.map_or(0, |p| p.epoch);
                let epoch = if *epoch == 0 { last + 1 } else { *epoch };
                if epoch <= last || epoch >= EPOCH_END {
                    return Outcome::Promise(Promised::Stale { epoch: last });
                }
                let remaining_ms = former.map_or(0, |p| p.left(now));
                if remaining_ms > 0 && !planted!("promotion-too-early") {
                    return Outcome::Promise(Promised::TooEarly { remaining_ms, epoch: last });
                }
                // Nothing is promised to the new holder before its first lease.
                let next = Promise { epoch, holder: holder.clone(), until: now, settled: false, term: by.term };
                promises.insert(office.clone(), next);
                Outcome::Promise(Promised::Promoted { epoch })
            }
            PromiseOp::Extend { office, epoch, ttl_ms, .. } => {
                if *ttl_ms == 0 || *ttl_ms > hub.params.max_ttl_ms {
                    return Outcome::Refused(Refusal::Invalid(Fault::Ttl));
                }
                match promises.get_mut(office) {
                    Some(p) if p.epoch == *epoch && !p.settled => {
                        p.until = p.until.max(now.saturating_add(margin(*ttl_ms)));
                        Outcome::Promise(Promised::Extended { remaining_ms: p.until - now })
                    }
                    other => Outcome::Promise(Promised::Stale { epoch: other.map_or(0, |p| p.epoch) }),
                }
            }
            PromiseOp::Settle { office, epoch, .. } => match promises.get_mut(office) {
                Some(p) if p.epoch == *epoch => {
                    p.settled = true;
                    Outcome::Promise(Promised::Settled)
                }
                other => Outcome::Promise(Promised::Stale { epoch: other.map_or(0, |p| p.epoch) }),
            },
        }
    }
}
