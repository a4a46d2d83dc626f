//! Watching who holds a lock, as a host sees it.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::core::Core;
use super::delivery::{check_may_block, in_callback};
use crate::base::{Error, Key, Result, SessionId, Status, Token};
use crate::engine;
use crate::ledger::Change;

/// Who holds a lock, at one point in the order of its changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// The lock.
    pub key: Key,
    /// Its first holder, by token; `None`: it is free (or in its lock-delay).
    pub holder: Option<WatchedHolder>,
}

/// A holder as a watch shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedHolder {
    /// Name of the holder's session: a node id, for the node's own.
    pub node: String,
    /// The session.
    pub session: SessionId,
    /// The grant.
    pub token: Token,
    /// What the holder attached to it.
    pub metadata: Vec<u8>,
    /// How many hold the lock, for shared ones and semaphores.
    pub holders: u32,
}

impl From<Change> for WatchEvent {
    fn from(change: Change) -> WatchEvent {
        let holder = change.holding.map(|h| WatchedHolder {
            node: h.name,
            session: h.session,
            token: h.token,
            metadata: h.metadata,
            holders: h.holders,
        });
        WatchEvent { key: change.key, holder }
    }
}

/// A host's function for what a watch tells.
pub type WatchListener = Box<dyn Fn(&WatchEvent) + Send + Sync>;

/// A watch of one lock, or of all whose names begin alike. Dropping it ends it, as does the end of its node. Any thread.
///
/// What it tells first is the present state (of a prefix: the locks that are held). Then come the changes, each lock's in order.
/// Who is slow may miss some in between, never the last: beyond 1024 that nobody has taken, a lock's newer state takes the place of
/// its older one. It is served by this node's own copy of the ledger: nothing is polled, nothing is written.
pub struct Watch {
    core: Arc<Core>,
    inner: Arc<engine::Watch>,
    push: Option<Arc<Push>>,
}

/// A watch whose events go to a function.
struct Push {
    alive: AtomicBool,
    /// Held while the listener runs, so that the end can wait for it.
    running: Mutex<()>,
    /// A turn is on its way to the delivery.
    queued: AtomicBool,
    listener: WatchListener,
}

/// So many events are told in one turn, then others have theirs.
const TURN: usize = 64;

impl Push {
    fn ring(self: &Arc<Push>, core: &Weak<Core>, watch: &Weak<engine::Watch>) {
        if self.queued.swap(true, SeqCst) {
            return;
        }
        let Some(strong) = core.upgrade() else { return };
        let (push, core, watch) = (self.clone(), core.clone(), watch.clone());
        strong.delivery.complete(Box::new(move || push.turn(&core, &watch)));
    }

    fn turn(self: &Arc<Push>, core: &Weak<Core>, watch: &Weak<engine::Watch>) {
        self.queued.store(false, SeqCst);
        let Some(engine) = watch.upgrade() else { return };
        for _ in 0..TURN {
            let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            if !self.alive.load(SeqCst) {
                return;
            }
            let Ok(Some(change)) = engine.try_next() else { return };
            (self.listener)(&change.into());
            drop(running);
        }
        self.ring(core, watch);
    }
}

impl Watch {
    pub(super) fn new(core: &Arc<Core>, inner: engine::Watch) -> Watch {
        Watch { core: core.clone(), inner: Arc::new(inner), push: None }
    }

    /// Tells `listener` on the delivery that the node was opened with, from the present state on.
    pub(super) fn to(core: &Arc<Core>, inner: engine::Watch, listener: WatchListener) -> Watch {
        let inner = Arc::new(inner);
        let push = Arc::new(Push { alive: AtomicBool::new(true), running: Mutex::default(), queued: AtomicBool::new(false), listener });
        let (ring, weak_core, weak_watch) = (push.clone(), Arc::downgrade(core), Arc::downgrade(&inner));
        inner.on_ready(Arc::new(move || ring.ring(&weak_core, &weak_watch)));
        Watch { core: core.clone(), inner, push: Some(push) }
    }

    /// The next event if there is one.
    ///
    /// # Errors
    /// [`Status::Closed`] once the watch or its node has ended, [`Status::Poisoned`]; [`Status::Misuse`] for one with a listener.
    pub fn try_next(&self) -> Result<Option<WatchEvent>> {
        self.check()?;
        Ok(self.inner.try_next()?.map(WatchEvent::from))
    }

    /// Waits for the next event for at most `timeout`; `None` waits as long as it takes. The answer is `None` when there was none in time.
    ///
    /// # Errors
    /// As [`Watch::try_next`]; [`Status::WouldDeadlock`] inside a callback.
    pub fn next(&self, timeout: Option<Duration>) -> Result<Option<WatchEvent>> {
        self.check()?;
        check_may_block()?;
        Ok(self.inner.next(timeout)?.map(WatchEvent::from))
    }

    /// Calls `ready` whenever something has come from where nothing was, on a thread of the library's that it must not block.
    pub fn on_ready(&self, ready: engine::Ready) {
        self.inner.on_ready(ready);
    }

    fn check(&self) -> Result<()> {
        if self.core.forked() {
            return Err(Status::Forked.into());
        }
        if self.push.is_some() {
            return Err(Error::new(Status::Misuse, "the watch tells its listener"));
        }
        Ok(())
    }

    /// Ends it: whoever waits is told [`Status::Closed`]. After it has returned its listener does not run and never will, except when
    /// it is called from inside the listener itself. Closing twice is no error.
    pub fn close(&self) {
        if self.core.forked() {
            return;
        }
        self.inner.close();
        if let Some(push) = &self.push {
            push.alive.store(false, SeqCst);
            if !in_callback() {
                drop(push.running.lock().unwrap_or_else(PoisonError::into_inner));
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.close();
    }
}
