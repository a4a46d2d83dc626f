//! Watches of clients: what a member tells each connection of the keys that it watches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::watch::{Watch, Watches};
use crate::base::{Error, Result, Status};
use crate::client::{self, NEWS, News};
use crate::consensus::Access;
use crate::ledger::{Change, Pattern};
use crate::net::Connection;

/// Patterns that one connection may watch.
const PATTERNS_MAX: usize = 1_024;
/// Held keys with which a watch may begin: more would fill the connection's queue.
const BEGINS_MAX: usize = 16_384;
/// Changes in one message.
const PART: usize = 64;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Insertions, removals and a flag: whole at every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One pattern of one connection.
struct Told {
    watch: Watch,
    pattern: Pattern,
    connection: Connection,
    /// Held while something is told, so that it is told in order. True: no more is to be told.
    over: Mutex<bool>,
}

impl Told {
    fn push(&self, news: News) {
        let sent = client::encode_news(&[news]).and_then(|bytes| self.connection.push(NEWS, &bytes));
        if let Err(error) = sent {
            // The client comes again, and begins with how everything stands.
            self.connection.close(error);
        }
    }

    fn drain(&self, most: usize) -> Vec<Change> {
        // An engine that has ended tells nothing more, and its connections end with it.
        std::iter::from_fn(|| self.watch.try_next().ok().flatten()).take(most).collect()
    }

    fn begin(&self) -> Result<()> {
        let _telling = lock(&self.over);
        let all = self.drain(BEGINS_MAX + 1);
        if all.len() > BEGINS_MAX {
            let text = format!(
                "more than {BEGINS_MAX} locks with these names are held, too many to watch through a client: watch a longer prefix"
            );
            return Err(Error::new(Status::Limit, text));
        }
        let parts = all.len().div_ceil(PART).max(1);
        for n in 0..parts {
            let part = all[n * PART..].iter().take(PART).cloned().collect();
            self.push(News::WatchBegins(self.pattern.clone(), part, n + 1 == parts));
        }
        Ok(())
    }

    fn tell(&self) {
        let over = lock(&self.over);
        if *over {
            return;
        }
        loop {
            let part = self.drain(PART);
            if part.is_empty() {
                return;
            }
            self.push(News::WatchTells(self.pattern.clone(), part));
        }
    }
}

/// The watches of a member's clients.
#[derive(Default)]
pub(super) struct ClientWatches {
    told: Mutex<HashMap<u64, HashMap<Pattern, Arc<Told>>>>,
}

impl ClientWatches {
    /// Tells a connection how the keys of a pattern stand, and from then on what changes.
    ///
    /// # Errors
    /// [`Status::Limit`]; what has ended the member.
    pub fn begin(&self, connection: &Connection, pattern: Pattern, watches: &Arc<Watches>, member: &Access) -> Result<()> {
        self.end(connection, &pattern);
        let watch = watches.open(pattern.clone(), |pattern| member.read_local(|ledger| ledger.watch_start(pattern)))?;
        let told = Arc::new(Told { watch, pattern: pattern.clone(), connection: connection.clone(), over: Mutex::new(false) });
        told.begin()?;
        let mut all = lock(&self.told);
        let mine = all.entry(connection.number()).or_default();
        if mine.len() >= PATTERNS_MAX {
            return Err(Error::new(Status::Limit, format!("{PATTERNS_MAX} patterns are watched over this connection, which is the limit")));
        }
        drop(mine.insert(pattern, told.clone()));
        drop(all);
        let weak: Weak<Told> = Arc::downgrade(&told);
        told.watch.on_ready(Arc::new(move || {
            if let Some(told) = weak.upgrade() {
                told.tell();
            }
        }));
        Ok(())
    }

    /// Tells no more of a pattern.
    pub fn end(&self, connection: &Connection, pattern: &Pattern) {
        let told = lock(&self.told).get_mut(&connection.number()).and_then(|mine| mine.remove(pattern));
        if let Some(told) = told {
            *lock(&told.over) = true;
        }
    }

    /// A connection is over.
    pub fn closed(&self, connection: &Connection) {
        drop(lock(&self.told).remove(&connection.number()));
    }
}
