//! The whole state as a stream of parts, the same bytes for the same state whatever the layout in memory; and back.
//!
//! Sessions come by number, grants and places in queues by token: inserting them in that order rebuilds every list and queue
//! as it was. Timers are not stored, they follow from the records.

use crate::base::codec::{self, Decode, Encode, Kind};
use crate::base::planted::planted;
use crate::base::{Error, Key, Result, SessionId, Status};

use super::clock::ReplicatedClock;
use super::hub::{Cx, Group, NEVER, Now};
use super::orch::OrchImage;
use super::params::Params;
use super::promise::Promise;
use super::session::{Body, Dying, Sessions};
use super::shard::Asker;
use super::slab::{NONE, PERMITS, Terms, WAITING};
use super::state::{Ledger, LogId};
use super::timer::What;
use super::world::shard_of;

/// Records in one part.
const PART: usize = 512;
/// The largest part that is read.
const PART_MAX: usize = 32 << 20;

#[derive(Debug, Encode, Decode)]
struct Header {
    params: Params,
    applied: LogId,
    clock: ReplicatedClock,
    generation: u64,
    last_token: u64,
    serial: u64,
    sessions: u64,
    keys: u64,
    records: u64,
}

#[derive(Debug, Encode, Decode)]
enum Part {
    Sessions(Vec<SessionImage>),
    Records(Vec<RecordImage>),
    Delays(Vec<DelayImage>),
    Groups(Vec<GroupImage>),
    /// The sessions that are being cleared away, and the digest of all parts before.
    End {
        dying: Vec<Dying>,
        digest: u64,
    },
    /// Offices and what was promised to their holders; before the end.
    Promises(Vec<(Key, Promise)>),
    Orch(Box<OrchImage>),
    /// Grants that will be taken away. After the records, before the end; none are written where there are none.
    Revocations(Vec<RevocationImage>),
}

#[derive(Debug, Encode, Decode)]
struct SessionImage {
    id: SessionId,
    life: u64,
    ttl: u32,
    body: Body,
}

#[derive(Debug, Encode, Decode)]
struct RecordImage {
    id: u64,
    session: SessionId,
    key: Key,
    at: u64,
    since: u64,
    req: u64,
    ttl: u32,
    delay: u32,
    amount: u32,
    limit: u32,
    flags: u8,
    meta: Vec<u8>,
}

#[derive(Debug, Encode, Decode)]
struct DelayImage {
    id: u64,
    key: Key,
    until: u64,
}

#[derive(Debug, Encode, Decode)]
struct RevocationImage {
    id: u64,
    key: Key,
    at: u64,
}

#[derive(Debug, Encode, Decode)]
struct GroupImage {
    first: u64,
    session: SessionId,
    req: u64,
    keys: Vec<Key>,
}

/// A 64-bit digest of a byte stream, the same on every machine. Not for secrets.
#[derive(Clone, Copy)]
struct Digest(u64);

impl Digest {
    fn new() -> Digest {
        Digest(0x9e37_79b9_7f4a_7c15)
    }

    fn add(&mut self, bytes: &[u8]) {
        let mut word = |w: u64| {
            // Folded multiplication, as in wyhash.
            let product = u128::from(self.0 ^ w) * u128::from(0xe703_7ed1_a0b4_28dbu64);
            self.0 = (product as u64) ^ ((product >> 64) as u64).rotate_left(29) ^ 0x9e37_79b9_7f4a_7c15;
        };
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let mut w = [0; 8];
            w.copy_from_slice(chunk);
            word(u64::from_le_bytes(w));
        }
        let mut last = [0; 8];
        last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
        word(u64::from_le_bytes(last));
        word(bytes.len() as u64);
    }
}

impl Ledger {
    /// Writes the state as a stream: `out` is called with one piece after the other, each a whole envelope.
    ///
    /// # Errors
    /// What `out` returns; [`Status::Internal`] when a part cannot be encoded.
    pub fn snapshot(&self, out: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut buffer = Vec::new();
        let mut digest = Digest::new();
        codec::encode_into(Kind::Snapshot, &self.header(), &mut buffer)?;
        digest.add(&buffer);
        out(&buffer)?;
        self.parts(&mut |part| {
            buffer.clear();
            let part = match part {
                Part::End { dying, .. } => Part::End { dying, digest: digest.0 },
                other => other,
            };
            codec::encode_into(Kind::SnapshotPart, &part, &mut buffer)?;
            digest.add(&buffer);
            out(&buffer)
        })
    }

    /// A digest of the whole state, equal on all replicas that have applied the same entries (invariant I-13), whatever their layout, and
    /// whatever snapshots they were restored from (I-14). Takes time in proportion to the state.
    ///
    /// # Errors
    /// [`Status::Internal`] when a part cannot be encoded.
    pub fn state_hash(&self) -> Result<u64> {
        let mut digest = Digest::new();
        self.snapshot(&mut |bytes| {
            digest.add(bytes);
            Ok(())
        })?;
        Ok(digest.0)
    }

    fn header(&self) -> Header {
        let counts = self.counts();
        Header {
            params: self.hub.params,
            applied: self.applied,
            clock: self.clock,
            generation: self.generation,
            last_token: counts.last_token,
            serial: self.hub.sessions.index().serial,
            sessions: counts.sessions,
            keys: counts.keys,
            records: counts.locks,
        }
    }

    fn parts(&self, out: &mut dyn FnMut(Part) -> Result<()>) -> Result<()> {
        for ids in self.hub.sessions.all().chunks(PART) {
            let image = |id: &SessionId| {
                let slot = self.hub.sessions.find(*id)?;
                Some(SessionImage { id: *id, life: Sessions::life_word(slot), ttl: slot.ttl(), body: slot.body().clone() })
            };
            out(Part::Sessions(ids.iter().filter_map(image).collect()))?;
        }
        let mut records: Vec<(u64, u32, u32)> = Vec::new();
        let mut delays: Vec<DelayImage> = Vec::new();
        for (number, shard) in self.shards.iter().enumerate() {
            let live = shard.records.iter().enumerate().filter(|(_, r)| r.id != 0);
            records.extend(live.map(|(at, r)| (r.id, number as u32, at as u32)));
            for entry in shard.entries.iter().filter(|e| e.extra != NONE) {
                let extra = &shard.extras[entry.extra];
                if let Some(key) = entry.name.key().filter(|_| extra.delay_until != 0) {
                    delays.push(DelayImage { id: extra.delay_id, key, until: extra.delay_until });
                }
            }
        }
        records.sort_unstable();
        for part in records.chunks(PART) {
            out(Part::Records(part.iter().filter_map(|&(_, shard, at)| self.record_image(shard, at)).collect()))?;
        }
        for part in records.chunks(PART) {
            let image = |&(id, shard, at): &(u64, u32, u32)| {
                let shard = &self.shards[shard as usize];
                let r = &shard.records[at];
                let key = shard.entries[r.entry].name.key().filter(|_| r.revoke_at() != 0)?;
                Some(RevocationImage { id, key, at: r.revoke_at() })
            };
            let images: Vec<_> = part.iter().filter_map(image).collect();
            if !images.is_empty() {
                out(Part::Revocations(images))?;
            }
        }
        delays.sort_unstable_by_key(|d| d.id);
        while !delays.is_empty() {
            let rest = delays.split_off(delays.len().min(PART));
            out(Part::Delays(std::mem::replace(&mut delays, rest)))?;
        }
        let groups = self.hub.groups().clone();
        let image = |(first, g): (u64, Group)| GroupImage { first, session: g.session, req: g.req, keys: g.keys };
        for group in groups.into_iter().map(image) {
            out(Part::Groups(vec![group]))?;
        }
        let promises: Vec<_> = self.hub.promises().iter().map(|(office, p)| (office.clone(), p.clone())).collect();
        for part in promises.chunks(PART) {
            out(Part::Promises(part.to_vec()))?;
        }
        self.hub.orch().image(&mut |image| out(Part::Orch(Box::new(image))))?;
        let dying = self.hub.sessions.index().dying.iter().copied().collect();
        out(Part::End { dying, digest: 0 })
    }

    fn record_image(&self, shard: u32, at: u32) -> Option<RecordImage> {
        let shard = &self.shards[shard as usize];
        let r = &shard.records[at];
        Some(RecordImage {
            id: r.id,
            session: self.hub.sessions.at(shard.lists[r.list].slot)?.id(),
            key: shard.entries[r.entry].name.key()?,
            at: r.at(),
            since: r.since,
            req: r.req,
            ttl: r.ttl,
            delay: r.delay(),
            amount: r.amount(),
            limit: if r.kind() == PERMITS { shard.extra(r.entry)?.limit } else { 0 },
            flags: r.flags(),
            meta: r.meta().to_vec(),
        })
    }
}

/// Builds a ledger from the stream that [`Ledger::snapshot`] wrote, cut into pieces of any size.
pub struct Restore {
    shards: usize,
    rest: Vec<u8>,
    digest: Digest,
    ledger: Option<Ledger>,
    header: Option<Header>,
    seen: (u64, u64),
    done: bool,
}

impl Default for Restore {
    fn default() -> Restore {
        Restore::new()
    }
}

impl std::fmt::Debug for Restore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Restore").field("ledger", &self.ledger).field("done", &self.done).finish_non_exhaustive()
    }
}

fn corrupt(what: &'static str) -> Error {
    Error::new(Status::DataCorrupt, format!("snapshot: {what}"))
}

impl Restore {
    /// Nothing read yet; the ledger will have one shard.
    pub fn new() -> Restore {
        Restore::with_shards(1)
    }

    /// Nothing read yet; the ledger will have this many shards.
    pub fn with_shards(shards: usize) -> Restore {
        Restore { shards, rest: Vec::new(), digest: Digest::new(), ledger: None, header: None, seen: (0, 0), done: false }
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// [`Status::DataCorrupt`] or [`Status::DataVersion`]; the restore is of no use after that.
    pub fn push(&mut self, piece: &[u8]) -> Result<()> {
        let mut piece = piece;
        if !self.rest.is_empty() {
            self.rest.extend_from_slice(piece);
            let rest = std::mem::take(&mut self.rest);
            let used = self.take_all(&rest)?;
            self.rest = rest[used..].to_vec();
            return Ok(());
        }
        let used = self.take_all(piece)?;
        piece = &piece[used..];
        self.rest = piece.to_vec();
        Ok(())
    }

    fn take_all(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut at = 0;
        while let Some(head) = bytes.get(at..at + codec::HEADER) {
            let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
            if length > PART_MAX {
                return Err(corrupt("a part is too long"));
            }
            let Some(envelope) = bytes.get(at..at + codec::HEADER + length) else { break };
            self.take(envelope)?;
            at += envelope.len();
        }
        Ok(at)
    }

    fn take(&mut self, envelope: &[u8]) -> Result<()> {
        if self.done {
            return Err(corrupt("something follows its end"));
        }
        let before = self.digest.0;
        self.digest.add(envelope);
        let Some(ledger) = &mut self.ledger else {
            let header: Header = codec::decode(Kind::Snapshot, envelope, PART_MAX)?;
            self.ledger = Some(Ledger::empty(&header, self.shards));
            self.header = Some(header);
            return Ok(());
        };
        match codec::decode(Kind::SnapshotPart, envelope, PART_MAX)? {
            Part::Sessions(images) => {
                self.seen.0 += images.len() as u64;
                for s in images {
                    ledger.hub.sessions.restore(s.id, s.life, s.ttl, s.body);
                }
            }
            Part::Records(images) => {
                self.seen.1 += images.len() as u64;
                ledger.load(images)?;
            }
            Part::Delays(images) => ledger.load_delays(images),
            Part::Revocations(images) => ledger.load_revocations(&images)?,
            Part::Groups(images) => {
                let mut groups = ledger.hub.groups();
                for g in images {
                    groups.insert(g.first, Group { session: g.session, req: g.req, keys: g.keys });
                }
            }
            Part::Promises(images) => ledger.hub.promises().extend(images),
            Part::Orch(image) => ledger.hub.orch().load(*image),
            Part::End { dying, digest } => {
                if digest != before {
                    return Err(corrupt("its digest differs"));
                }
                let serial = self.header.as_ref().map_or(0, |h| h.serial);
                ledger.hub.sessions.restored(serial, dying);
                self.done = true;
            }
        }
        Ok(())
    }

    /// The ledger, once the whole stream was taken.
    ///
    /// # Errors
    /// [`Status::DataCorrupt`] when the stream was not whole.
    pub fn finish(self) -> Result<Ledger> {
        let (Some(mut ledger), Some(header)) = (self.ledger, self.header) else { return Err(corrupt("it has no header")) };
        if !self.done || !self.rest.is_empty() || self.seen != (header.sessions, header.records) {
            return Err(corrupt("it is not whole"));
        }
        let nearest = ledger.shards.iter_mut().filter_map(|s| s.nearest()).min().unwrap_or(NEVER);
        let sessions = ledger.hub.sessions.index().nearest().unwrap_or(NEVER);
        let leases = ledger.hub.orch().nearest().unwrap_or(NEVER);
        ledger.hub.set_nearest(nearest.min(sessions).min(leases));
        Ok(ledger)
    }
}

impl Ledger {
    fn empty(header: &Header, shards: usize) -> Ledger {
        let mut ledger = Ledger::with_shards(header.params, shards);
        ledger.applied = header.applied;
        ledger.clock = header.clock;
        ledger.generation = header.generation;
        ledger.hub.set_last_token(if planted!("tokens-forgotten-by-snapshot") { 0 } else { header.last_token });
        // Sized before it is filled; the header's word is only a hint, so it is bounded.
        let share = |n: u64| (n.min(1 << 24) as usize).div_ceil(ledger.shards.len());
        let keys = share(header.keys);
        let cx = Cx::new(&ledger.hub, Now::At(0), false);
        for shard in &mut ledger.shards {
            shard.reserve(&cx, keys);
        }
        ledger
    }

    fn load(&mut self, images: Vec<RecordImage>) -> Result<()> {
        let count = self.shards.len();
        let mut cx = Cx::new(&self.hub, Now::At(self.clock.now()), false);
        for image in images {
            let Some(slot) = self.hub.sessions.find(image.session) else { return Err(corrupt("a record has no session")) };
            let probe = self.hub.probe(&image.key);
            let shard = &mut self.shards[shard_of(probe.hash, count)];
            if !shard.need(&cx, 1) {
                return Err(corrupt("more records than its limit"));
            }
            let entry = shard.entry_for(&cx, &probe);
            let asker = Asker { session: image.session, slot, req: image.req, flags: 0 };
            let terms = Terms {
                ttl: image.ttl,
                delay: image.delay,
                amount: image.amount,
                limit: image.limit,
                flags: image.flags,
                meta: &image.meta,
            };
            let record = shard.restore_record(&mut cx, &asker, entry, image.id, image.at, terms);
            shard.records[record].set_since(image.since);
            if image.flags & WAITING == 0 {
                shard.arm_hold(&mut cx, record);
            } else if image.since != NEVER {
                shard.arm(&mut cx, What::Record(record), image.since);
            }
        }
        Ok(())
    }

    fn load_revocations(&mut self, images: &[RevocationImage]) -> Result<()> {
        let count = self.shards.len();
        let mut cx = Cx::new(&self.hub, Now::At(self.clock.now()), false);
        for image in images {
            let probe = self.hub.probe(&image.key);
            let shard = &mut self.shards[shard_of(probe.hash, count)];
            let mut record = shard.find(&probe).map_or(NONE, |entry| shard.entries[entry].holds);
            while record != NONE && shard.records[record].id != image.id {
                record = shard.records[record].next();
            }
            if record == NONE {
                return Err(corrupt("a revocation has no grant"));
            }
            shard.records[record].set_revoke_at(image.at);
            shard.arm(&mut cx, What::Record(record), image.at);
        }
        Ok(())
    }

    fn load_delays(&mut self, images: Vec<DelayImage>) {
        let count = self.shards.len();
        let mut cx = Cx::new(&self.hub, Now::At(self.clock.now()), false);
        for image in images {
            let probe = self.hub.probe(&image.key);
            let shard = &mut self.shards[shard_of(probe.hash, count)];
            let entry = shard.entry_for(&cx, &probe);
            let extra = shard.extra_mut(entry);
            (extra.delay_until, extra.delay_id) = (image.until, image.id);
            let what = What::Delay(shard.entries[entry].extra);
            shard.arm(&mut cx, what, image.until);
        }
    }
}
