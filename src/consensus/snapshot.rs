//! Snapshots: made by replaying the log beside the live state, sent in checked pieces, put in place only when whole.
//!
//! A new snapshot starts from the one before and applies the entries since, on a thread of its own, so that nothing stops while a
//! large state is written down. The pieces of a received one go into a new state as they come; only one whose digest is right
//! at the end takes the place of what is there.

use std::sync::Arc;

use openraft::SnapshotMeta as Meta;
use tokio::sync::{mpsc, oneshot};

use super::change::State;
use super::form::{self, Place, Seated};
use super::log::Log;
use super::roster::Roster;
use super::types::{LogId, SnapshotMeta, StoredMembership};
use crate::base::codec::{self, Decode, Encode, Kind};
use crate::base::{Error, Result, Status, process};
use crate::ledger::{Params, Restore};
use crate::store::{SnapshotHead, StateStore};

const ABOUT_CAP: usize = 16 << 20;
/// A snapshot of so many bytes is large.
const LARGE: u64 = 16 << 20;
/// Pieces of a snapshot that are on their way between two threads.
const IN_FLIGHT: usize = 4;

/// What stands before the pieces of a ledger.
#[derive(Clone, Debug, Encode, Decode)]
pub(super) struct About {
    pub last: Place,
    pub seated: Seated,
    pub roster: Roster,
}

impl About {
    pub fn meta(&self) -> Result<SnapshotMeta> {
        Ok(Meta { last_log_id: Some(LogId::from(self.last)), last_membership: self.seated.clone().try_into()? })
    }
}

/// A snapshot in the hands of openraft.
pub(super) enum Data {
    /// The one in the store.
    Stored(Arc<dyn StateStore>),
    /// One that has come from the leader, whole and checked.
    Received(Box<State>),
}

impl std::fmt::Debug for Data {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Data::Stored(_)) { "Stored" } else { "Received" })
    }
}

/// Runs `body` on a thread of its own, or right here for simulations.
pub(super) async fn aside<T: Send + 'static>(
    inline: bool,
    name: &'static str,
    body: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if inline {
        return body();
    }
    let (tell, told) = oneshot::channel();
    drop(process::spawn(name, move || drop(tell.send(body())))?);
    told.await.unwrap_or_else(|_| Err(Error::new(Status::Panic, format!("thread {name} panicked"))))
}

/// Takes the parts of a snapshot, in order.
pub(super) struct Building {
    about: Option<About>,
    restore: Restore,
}

impl Building {
    pub fn new() -> Building {
        Building { about: None, restore: Restore::new() }
    }

    pub fn push(&mut self, part: &[u8]) -> Result<()> {
        if self.about.is_none() {
            self.about = Some(codec::decode(Kind::Meta, part, ABOUT_CAP)?);
            return Ok(());
        }
        self.restore.push(part)
    }

    pub fn finish(self) -> Result<(About, State)> {
        let about = self.about.ok_or_else(|| Error::new(Status::DataCorrupt, "snapshot: empty"))?;
        let ledger = self.restore.finish()?;
        if ledger.applied().index > about.last.index {
            return Err(Error::new(Status::DataCorrupt, "snapshot: its ledger is ahead of it"));
        }
        let state = State { ledger, roster: about.roster.clone(), applied: Some(about.last) };
        Ok((about, state))
    }
}

/// The stored snapshot, if there is one.
pub(super) fn load(store: &dyn StateStore) -> Result<Option<(About, State)>> {
    let mut building = Building::new();
    match store.load_snapshot(&mut |part| building.push(part))? {
        None => Ok(None),
        Some(_) => building.finish().map(Some),
    }
}

/// What the stored snapshot is of.
pub(super) fn stored_about(store: &dyn StateStore) -> Result<Option<About>> {
    let mut first = None;
    // There is no need to read it all: an error of ours stops the reading after the first part.
    let done = store.load_snapshot(&mut |part| {
        first = Some(codec::decode::<About>(Kind::Meta, part, ABOUT_CAP)?);
        Err(Error::from(Status::Cancelled))
    });
    match done {
        Ok(_) => Ok(first),
        Err(e) if e.status() == Status::Cancelled => Ok(first),
        Err(e) => Err(e),
    }
}

/// Stores a state; durable on return. Answers how many bytes it has.
pub(super) fn store(store: &dyn StateStore, state: &State, seated: Seated) -> Result<u64> {
    let last = state.applied.ok_or_else(|| Error::new(Status::Internal, "a snapshot of nothing"))?;
    let about = About { last, seated, roster: state.roster.clone() };
    let mut parts = vec![codec::encode(Kind::Meta, &about)?];
    state.ledger.snapshot(&mut |piece| {
        parts.push(piece.to_vec());
        Ok(())
    })?;
    let bytes = parts.iter().map(|p| p.len() as u64).sum();
    let head = SnapshotHead { index: last.index, clock_ms: state.ledger.clock_ms() };
    store.save_snapshot(head, &mut parts.into_iter().map(Ok))?;
    Ok(bytes)
}

/// Brings the stored snapshot up to `upto` by replaying the log, and stores the result. Blocks. The copy of a large state is given back to
/// the system, which the allocator does not do by itself.
pub(super) fn rebuild(
    base: &dyn StateStore,
    log: &Log,
    params: Params,
    upto: Place,
    membership: &StoredMembership,
) -> Result<(About, u64)> {
    let mut state = load(base)?.map_or_else(|| State::new(params), |(_, state)| state);
    let (mut outcomes, mut events) = (Vec::new(), Vec::new());
    let mut next = state.applied.map_or(0, |p| p.index + 1);
    while next <= upto.index {
        let records = log.read_blocking(next, upto.index + 1)?;
        if records.is_empty() {
            return Err(Error::new(Status::Internal, format!("entry {next} is needed for a snapshot and is gone")));
        }
        for record in &records {
            let at = form::place(record)?;
            if at.index != next {
                return Err(Error::new(Status::Internal, format!("entry {} read in the place of {next}", at.index)));
            }
            if let openraft::EntryPayload::Normal(command) = form::entry(record)?.payload {
                outcomes.clear();
                events.clear();
                state.apply(at, &command.bytes, &mut outcomes, &mut events)?;
            }
            state.applied = Some(at);
            next += 1;
        }
    }
    let seated = Seated::from(membership);
    let bytes = store(base, &state, seated.clone())?;
    let about = About { last: upto, seated, roster: std::mem::take(&mut state.roster) };
    if bytes >= LARGE {
        drop(state);
        process::give_back_memory();
    }
    Ok((about, bytes))
}

/// The parts of the stored snapshot, read by a thread of their own no faster than they are taken.
pub(super) fn parts(base: Arc<dyn StateStore>, inline: bool) -> Result<mpsc::Receiver<Result<Vec<u8>>>> {
    let gone = || Error::from(Status::Cancelled);
    if inline {
        let mut all = Vec::new();
        base.load_snapshot(&mut |part| {
            all.push(Ok(part.to_vec()));
            Ok(())
        })?;
        let (give, take) = mpsc::channel(all.len().max(1));
        for part in all {
            give.try_send(part).map_err(|_| gone())?;
        }
        return Ok(take);
    }
    let (give, take) = mpsc::channel(IN_FLIGHT);
    drop(process::spawn("tenure-snap-out", move || {
        let done = base.load_snapshot(&mut |part| give.blocking_send(Ok(part.to_vec())).map_err(|_| gone()));
        if let Err(error) = done {
            // Nobody listens any more when the reading was given up from there.
            drop(give.blocking_send(Err(error)));
        }
    })?);
    Ok(take)
}

/// A snapshot that is coming in.
pub(super) struct Incoming {
    pub id: u64,
    /// The number of the part that must come next.
    pub next: u64,
    sink: IncomingSink,
}

enum IncomingSink {
    Inline(Box<Building>),
    Thread { give: mpsc::Sender<Vec<u8>>, done: oneshot::Receiver<Result<(About, State)>> },
}

impl Incoming {
    pub fn begin(id: u64, inline: bool) -> Result<Incoming> {
        if inline {
            return Ok(Incoming { id, next: 0, sink: IncomingSink::Inline(Box::new(Building::new())) });
        }
        let (give, mut take) = mpsc::channel::<Vec<u8>>(IN_FLIGHT);
        let (tell, done) = oneshot::channel();
        drop(process::spawn("tenure-snap-in", move || {
            let mut building = Building::new();
            let built = loop {
                match take.blocking_recv() {
                    None => break building.finish(),
                    Some(part) => {
                        if let Err(e) = building.push(&part) {
                            break Err(e);
                        }
                    }
                }
            };
            drop(tell.send(built));
        })?);
        Ok(Incoming { id, next: 0, sink: IncomingSink::Thread { give, done } })
    }

    /// Takes the next part.
    pub async fn push(&mut self, part: Vec<u8>) -> Result<()> {
        self.next += 1;
        match &mut self.sink {
            IncomingSink::Inline(building) => building.push(&part),
            // The other side has gone because a part was bad; what was wrong is told at the end.
            IncomingSink::Thread { give, .. } => {
                give.send(part).await.map_err(|_| Error::new(Status::DataCorrupt, "snapshot: a part is damaged"))
            }
        }
    }

    /// The whole, checked.
    pub async fn finish(self) -> Result<(About, State)> {
        match self.sink {
            IncomingSink::Inline(building) => building.finish(),
            IncomingSink::Thread { give, done } => {
                drop(give);
                done.await.unwrap_or_else(|_| Err(Error::new(Status::Panic, "the thread that reads a snapshot panicked")))
            }
        }
    }
}
