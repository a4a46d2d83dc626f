//! The state machine as openraft sees it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot};
use tokio::time::Instant;

use super::change::State;
use super::core::now;
use super::form::{Place, Seated};
use super::log::Log;
use super::snapshot::{self, About, Data};
use super::types::{Config, LogId, SmSnapshot, SnapshotMeta, StoredMembership};
use crate::base::planted::planted;
use crate::base::{Error, Result, Status};
use crate::ledger::{Event, Pattern, WatchStart};
use crate::store::StateStore;

/// Told what this node has applied, on the consensus thread. Must not block.
pub trait Observer: Send + Sync {
    /// What happened in the entries just applied, in order. Every member is told of everything.
    fn events(&self, events: &mut Vec<Event>);

    /// What tells the cluster from others of its name has become known. Called at least once before anything else is applied.
    fn founded(&self, lineage: u128) {
        let _ = lineage;
    }

    /// This node skipped part of the log by taking a snapshot: events are missing. `start` says where a watch goes on.
    fn skipped(&self, start: &dyn Fn(&Pattern) -> WatchStart);

    /// This node's part in the cluster has ended, for this reason, until it is opened again.
    fn ended(&self, why: &Error);
}

/// The live state, shared with those who read it.
pub(super) struct Live {
    pub state: State,
    pub seated: StoredMembership,
    /// When the last entry was applied.
    pub applied_at: Instant,
}

/// What the state machine, the readers and the ticker share.
#[derive(Clone)]
pub(super) struct Shared {
    live: Arc<Mutex<Live>>,
    pub store: Arc<dyn StateStore>,
    pub observer: Arc<dyn Observer>,
    pub log: Log,
    pub inline: bool,
    /// Bytes of commands applied since the last snapshot was begun.
    pub since_snapshot: Arc<AtomicU64>,
    /// Bytes of the last snapshot.
    pub snapshot_bytes: Arc<AtomicU64>,
}

impl Shared {
    pub fn new(live: Live, store: Arc<dyn StateStore>, observer: Arc<dyn Observer>, log: Log, inline: bool) -> Shared {
        let live = Arc::new(Mutex::new(live));
        Shared { live, store, observer, log, inline, since_snapshot: Arc::default(), snapshot_bytes: Arc::default() }
    }

    pub fn live(&self) -> MutexGuard<'_, Live> {
        // A panic while applying ends the node before anybody can see a half-changed state.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What openraft drives.
pub(super) struct Machine {
    shared: Shared,
    events: Vec<Event>,
}

fn failed(e: &Error) -> io::Error {
    io::Error::other(e.to_string())
}

impl Machine {
    pub fn new(shared: Shared) -> Machine {
        Machine { shared, events: Vec::new() }
    }

    fn apply_one(&mut self, (entry, responder): EntryResponder<Config>) -> Result<()> {
        let at = Place::from(entry.log_id);
        #[cfg(test)]
        super::simulated::applies(&entry);
        let mut outcomes = Vec::new();
        {
            let mut live = self.shared.live();
            live.applied_at = now();
            match entry.payload {
                EntryPayload::Blank => live.state.applied = Some(at),
                EntryPayload::Normal(command) => {
                    self.shared.since_snapshot.fetch_add(command.bytes.len() as u64, Relaxed);
                    let state = &mut live.state;
                    catch_unwind(AssertUnwindSafe(|| state.apply(at, &command.bytes, &mut outcomes, &mut self.events)))
                        .unwrap_or_else(|_| Err(Error::new(Status::Panic, format!("applying entry {} panicked", at.index))))?;
                }
                EntryPayload::Membership(m) => {
                    live.state.applied = Some(at);
                    live.seated = StoredMembership::new(Some(entry.log_id), m);
                }
            }
        }
        if let Some(responder) = responder {
            responder.send(outcomes);
        }
        // After the answers: who waits for an event has been told to wait.
        if !self.events.is_empty() {
            self.shared.observer.events(&mut self.events);
            self.events.clear();
        }
        Ok(())
    }
}

impl RaftStateMachine<Config> for Machine {
    type SnapshotData = Data;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let live = self.shared.live();
        Ok((live.state.applied.map(LogId::from), live.seated.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<Config>>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.try_next().await? {
            if let Err(error) = self.apply_one(next) {
                tracing::error!(%error, "an entry cannot be applied; this node stops");
                return Err(failed(&error));
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let live = self.shared.live();
        self.shared.since_snapshot.store(0, Relaxed);
        Builder { shared: self.shared.clone(), upto: live.state.applied, seated: live.seated.clone(), params: *live.state.ledger.params() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: Data) -> io::Result<()> {
        let Data::Received(state) = data else {
            return Err(io::Error::other("a snapshot of this node's own was sent to it"));
        };
        let seated = meta.last_membership.clone();
        let (store, stored_seat) = (self.shared.store.clone(), Seated::from(&seated));
        let saved = snapshot::aside(self.shared.inline, "tenure-snap-put", move || {
            if planted!("snapshot-not-stored") {
                return Ok((state, 0));
            }
            let bytes = snapshot::store(store.as_ref(), &state, stored_seat)?;
            Ok((state, bytes))
        });
        let (state, bytes) = saved.await.map_err(|e| failed(&e))?;
        #[cfg(test)]
        super::simulated::installs(&state);
        let mut state = *state;
        let mut live = self.shared.live();
        state.ledger.watch_as(&live.state.ledger);
        *live = Live { state, seated, applied_at: now() };
        drop(live);
        self.shared.snapshot_bytes.store(bytes, Relaxed);
        self.shared.since_snapshot.store(0, Relaxed);
        self.shared.observer.skipped(&|pattern| self.shared.live().state.ledger.watch_start(pattern));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SmSnapshot>> {
        let store = self.shared.store.clone();
        let about = snapshot::aside(self.shared.inline, "tenure-snap-see", move || snapshot::stored_about(store.as_ref()));
        match about.await.map_err(|e| failed(&e))? {
            None => Ok(None),
            Some(about) => described(&about, &self.shared.store).map(Some).map_err(|e| failed(&e)),
        }
    }
}

fn described(about: &About, store: &Arc<dyn StateStore>) -> Result<SmSnapshot> {
    Ok(Snapshot { meta: about.meta()?, snapshot: Data::Stored(store.clone()) })
}

/// Makes a snapshot of what was applied when it was asked for.
pub(super) struct Builder {
    shared: Shared,
    upto: Option<Place>,
    seated: StoredMembership,
    params: crate::ledger::Params,
}

impl RaftSnapshotBuilder<Config> for Builder {
    type SnapshotData = Data;

    async fn build_snapshot(&mut self) -> io::Result<SmSnapshot> {
        let Some(upto) = self.upto else {
            return Err(io::Error::other("nothing is applied yet"));
        };
        let (store, log, params, seated) = (self.shared.store.clone(), self.shared.log.clone(), self.params, self.seated.clone());
        let made =
            snapshot::aside(self.shared.inline, "tenure-snapshot", move || snapshot::rebuild(store.as_ref(), &log, params, upto, &seated));
        let (about, bytes) = made.await.map_err(|e| failed(&e))?;
        self.shared.snapshot_bytes.store(bytes, Relaxed);
        described(&about, &self.shared.store).map_err(|e| failed(&e))
    }
}
