//! Watches: who holds a key, told from this replica's own changes, in order, without polling and without an entry in the log.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use crate::base::{Error, Key, Result};
use crate::ledger::{Change, Holding, Pattern, WatchStart, Watched};

/// Beyond this many changes that nobody has taken, a key's newer state takes the place of its older one.
const PENDING: usize = 1_024;

/// Called when something has come, from where nothing was; on any thread, and must not block.
pub type Ready = Arc<dyn Fn() + Send + Sync>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whole at every step; nothing foreign runs under it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Change>,
    /// How many were taken out: an item's number is this and its place.
    taken: u64,
    /// Number of the newest item of each key in `items`.
    newest: HashMap<Key, u64>,
    /// The last state put in, by key; of a prefix, held keys only.
    known: HashMap<Key, (u64, Option<Holding>)>,
    /// Changes up to this number are known.
    floor: u64,
    /// The first state has been put in.
    started: bool,
    ended: Option<Error>,
    ready: Option<Ready>,
}

impl Queue {
    fn put(&mut self, change: Change, prefix: bool) {
        let known = self.known.get(&change.key);
        let old = if known.is_some() { known.is_some_and(|(revision, _)| change.revision <= *revision) } else { false };
        let same = known.map_or(prefix && change.holding.is_none(), |(_, holding)| *holding == change.holding);
        if old || same {
            return;
        }
        if prefix && change.holding.is_none() {
            self.known.remove(&change.key);
        } else {
            self.known.insert(change.key.clone(), (change.revision, change.holding.clone()));
        }
        let number = self.taken + self.items.len() as u64;
        if self.items.len() >= PENDING
            && let Some(at) = self.newest.get(&change.key)
            && let Some(item) = self.items.get_mut((at - self.taken) as usize)
        {
            *item = change;
            return;
        }
        self.newest.insert(change.key.clone(), number);
        self.items.push_back(change);
    }

    fn take(&mut self) -> Option<Change> {
        let change = self.items.pop_front()?;
        if self.newest.get(&change.key) == Some(&self.taken) {
            self.newest.remove(&change.key);
        }
        self.taken += 1;
        Some(change)
    }
}

/// What a watch and those who feed it share.
struct Feed {
    pattern: Pattern,
    queue: Mutex<Queue>,
    filled: Condvar,
}

impl Feed {
    fn change(&self, put: impl FnOnce(&mut Queue)) {
        let mut queue = lock(&self.queue);
        if queue.ended.is_some() {
            return;
        }
        let empty = queue.items.is_empty();
        put(&mut queue);
        let ready = if empty && (!queue.items.is_empty() || queue.ended.is_some()) { queue.ready.clone() } else { None };
        drop(queue);
        self.filled.notify_all();
        if let Some(ready) = ready {
            ready();
        }
    }

    fn feed(&self, change: &Change) {
        if self.pattern.matches(&change.key) {
            let prefix = matches!(self.pattern, Pattern::Prefix(_));
            self.change(|queue| {
                if change.revision > queue.floor {
                    queue.put(change.clone(), prefix);
                }
            });
        }
    }

    /// Puts in what has become different since the last change that was put in.
    fn start(&self, start: WatchStart) {
        let prefix = matches!(self.pattern, Pattern::Prefix(_));
        self.change(|queue| {
            let gone: Vec<Key> = match prefix {
                true => {
                    let held: HashSet<&Key> = start.changes.iter().map(|c| &c.key).collect();
                    let older =
                        |(key, (revision, _)): (&Key, &(u64, _))| (*revision <= start.floor && !held.contains(key)).then(|| key.clone());
                    queue.known.iter().filter_map(older).collect()
                }
                false => Vec::new(),
            };
            for key in gone {
                // One more than what is known of it, for the change that told it was missed.
                let revision = queue.known.get(&key).map_or(0, |(revision, _)| revision + 1);
                queue.put(Change { revision, key, holding: None }, prefix);
            }
            for change in start.changes {
                queue.put(change, prefix);
            }
            queue.floor = queue.floor.max(start.floor);
            queue.started = true;
        });
    }
}

/// The watches of one engine.
pub(crate) struct Watches {
    watched: RwLock<Arc<Watched>>,
    feeds: RwLock<Vec<Arc<Feed>>>,
    ended: Mutex<Option<Error>>,
}

impl Watches {
    pub(crate) fn new() -> Watches {
        Watches { watched: RwLock::default(), feeds: RwLock::default(), ended: Mutex::default() }
    }

    /// Which registry decides what is told: that of the engine's ledger. Called once, before anything is watched.
    pub(crate) fn connect(&self, watched: &Arc<Watched>) {
        *self.watched.write().unwrap_or_else(PoisonError::into_inner) = watched.clone();
    }

    fn watched(&self) -> Arc<Watched> {
        self.watched.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn list(&self) -> Vec<Arc<Feed>> {
        self.feeds.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Passes a change on.
    pub(crate) fn feed(&self, change: &Change) {
        for feed in self.list() {
            feed.feed(change);
        }
    }

    /// The patterns that are watched, each once.
    pub(crate) fn patterns(&self) -> HashSet<Pattern> {
        self.list().iter().map(|feed| feed.pattern.clone()).collect()
    }

    /// Begins the watches of just this pattern, or begins them anew. False: there is none.
    pub(crate) fn begin_only(&self, pattern: &Pattern, start: &WatchStart) -> bool {
        let feeds: Vec<_> = self.list().into_iter().filter(|feed| feed.pattern == *pattern).collect();
        feeds.iter().for_each(|feed| feed.start(start.clone()));
        !feeds.is_empty()
    }

    /// Passes a change on to the watches of just this pattern. False: there is none.
    pub(crate) fn feed_only(&self, pattern: &Pattern, change: &Change) -> bool {
        let feeds: Vec<_> = self.list().into_iter().filter(|feed| feed.pattern == *pattern).collect();
        feeds.iter().for_each(|feed| feed.feed(change));
        !feeds.is_empty()
    }

    /// Changes were missed: every watch goes on from what there is now.
    pub(crate) fn restart(&self, start: &dyn Fn(&Pattern) -> WatchStart) {
        for feed in self.list() {
            feed.start(start(&feed.pattern));
        }
    }

    /// Every watch ends with this error, now and later.
    pub(crate) fn end(&self, error: &Error) {
        lock(&self.ended).get_or_insert_with(|| error.clone());
        for feed in self.list() {
            feed.change(|queue| queue.ended = Some(error.clone()));
        }
    }

    /// A new watch. `start` reads where it begins; it is called once the watch is fed.
    pub(crate) fn open(self: &Arc<Watches>, pattern: Pattern, start: impl FnOnce(&Pattern) -> Result<WatchStart>) -> Result<Watch> {
        let feed = Arc::new(Feed { pattern, queue: Mutex::default(), filled: Condvar::new() });
        self.watched().add(&feed.pattern);
        self.feeds.write().unwrap_or_else(PoisonError::into_inner).push(feed.clone());
        // From here on dropping it takes it out of the list again.
        let watch = Watch { feed, watches: Arc::downgrade(self) };
        if let Some(error) = lock(&self.ended).clone() {
            return Err(error);
        }
        watch.feed.start(start(&watch.feed.pattern)?);
        Ok(watch)
    }
}

/// A watch: the holders of a key, or of all keys of a prefix, as they change. Dropping it ends it. Any thread.
///
/// What it tells first is the present state (of a prefix: the keys that are held). Then come the changes, each key's in order. Who is
/// slow may miss some in between, never the last.
pub struct Watch {
    feed: Arc<Feed>,
    watches: Weak<Watches>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Watch").field(&self.feed.pattern).finish()
    }
}

impl Watch {
    /// The next change, if there is one.
    ///
    /// # Errors
    /// What has ended the engine, once everything before it was taken.
    pub fn try_next(&self) -> Result<Option<Change>> {
        let mut queue = lock(&self.feed.queue);
        match queue.take() {
            Some(change) => Ok(Some(change)),
            None => queue.ended.clone().map_or(Ok(None), Err),
        }
    }

    /// Waits for the next change, for at most `timeout`; `None` when there was none.
    ///
    /// # Errors
    /// As [`Watch::try_next`].
    pub fn next(&self, timeout: Option<Duration>) -> Result<Option<Change>> {
        let queue = lock(&self.feed.queue);
        let quiet = |q: &mut Queue| q.items.is_empty() && q.ended.is_none();
        let mut queue = match timeout {
            None => self.feed.filled.wait_while(queue, quiet).unwrap_or_else(PoisonError::into_inner),
            Some(t) => self.feed.filled.wait_timeout_while(queue, t, quiet).unwrap_or_else(PoisonError::into_inner).0,
        };
        match queue.take() {
            Some(change) => Ok(Some(change)),
            None => queue.ended.clone().map_or(Ok(None), Err),
        }
    }

    /// Calls `ready` whenever something has come from where nothing was, and once now if something is there.
    pub fn on_ready(&self, ready: Ready) {
        let mut queue = lock(&self.feed.queue);
        queue.ready = Some(ready.clone());
        let now = !queue.items.is_empty() || queue.ended.is_some();
        drop(queue);
        if now {
            ready();
        }
    }

    /// Ends it: whoever waits is told that it is closed.
    pub fn close(&self) {
        let closed = crate::base::Status::Closed.into();
        self.feed.change(|queue| {
            queue.items.clear();
            queue.ended = Some(closed);
        });
        lock(&self.feed.queue).ready = None;
        self.forget();
    }

    fn forget(&self) {
        let Some(watches) = self.watches.upgrade() else { return };
        let mut feeds = watches.feeds.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = feeds.iter().position(|f| Arc::ptr_eq(f, &self.feed)) {
            feeds.swap_remove(at);
            drop(feeds);
            watches.watched().remove(&self.feed.pattern);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::base::{SessionId, Status, Token};
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    fn key(name: &str) -> Key {
        Key::new(name.as_bytes()).unwrap()
    }

    fn change(revision: u64, name: &str, token: u64) -> Change {
        let holding = Holding { session: SessionId(1), name: "n".into(), token: Token(token), metadata: Vec::new(), holders: 1 };
        Change { revision, key: key(name), holding: (token != 0).then_some(holding) }
    }

    fn open(watches: &Arc<Watches>, pattern: Pattern, floor: u64, changes: Vec<Change>) -> Watch {
        watches.open(pattern, |_| Ok(WatchStart { floor, changes })).unwrap()
    }

    fn all(watch: &Watch) -> Vec<(String, u64)> {
        let name = |c: &Change| String::from_utf8(c.key.as_bytes().to_vec()).unwrap();
        std::iter::from_fn(|| watch.try_next().unwrap()).map(|c| (name(&c), c.holding.map_or(0, |h| h.token.0))).collect()
    }

    #[test]
    fn it_begins_with_the_present_and_goes_on_in_order() {
        let watches = Arc::new(Watches::new());
        let watch = open(&watches, Pattern::Key(key("a")), 4, vec![change(4, "a", 3)]);
        // One that the first state holds already, one of another key, and three that are new.
        for c in [change(4, "a", 2), change(5, "b", 9), change(6, "a", 0), change(7, "a", 8), change(8, "a", 8)] {
            watches.feed(&c);
        }
        assert_eq!(all(&watch), [("a".into(), 3), ("a".into(), 0), ("a".into(), 8)]);
    }

    #[test]
    fn who_is_slow_misses_some_states_and_never_the_last() {
        let watches = Arc::new(Watches::new());
        let watch = open(&watches, Pattern::Prefix(Vec::new()), 0, vec![]);
        for n in 0..50_000u64 {
            watches.feed(&change(n + 1, ["a", "b", "c"][n as usize % 3], n + 1));
        }
        let got = all(&watch);
        assert!(got.len() <= PENDING + 3, "{}", got.len());
        for (name, last) in [("a", 49_999), ("b", 50_000), ("c", 49_998)] {
            let of: Vec<u64> = got.iter().filter(|(n, _)| n == name).map(|(_, t)| *t).collect();
            assert!(of.is_sorted(), "{name}");
            assert_eq!(of.last(), Some(&last), "{name}");
        }
    }

    #[test]
    fn after_a_gap_it_tells_what_has_become_different() {
        let watches = Arc::new(Watches::new());
        let watch = open(&watches, Pattern::Prefix(b"k".to_vec()), 2, vec![change(2, "k1", 1), change(2, "k2", 2)]);
        assert_eq!(all(&watch).len(), 2);
        watches.restart(&|_| WatchStart { floor: 9, changes: vec![change(9, "k2", 2), change(9, "k3", 7)] });
        // Late ones of before the gap change nothing any more.
        watches.feed(&change(8, "k1", 5));
        assert_eq!(all(&watch), [("k1".into(), 0), ("k3".into(), 7)]);
    }

    #[test]
    fn it_ends_with_its_engine_and_is_forgotten_when_dropped() {
        let watches = Arc::new(Watches::new());
        let watch = open(&watches, Pattern::Key(key("a")), 0, vec![change(0, "a", 1)]);
        let rung = Arc::new(AtomicUsize::new(0));
        let bell = rung.clone();
        watch.on_ready(Arc::new(move || _ = bell.fetch_add(1, SeqCst)));
        assert_eq!(all(&watch).len(), 1);
        watches.feed(&change(1, "a", 0));
        watches.feed(&change(2, "a", 2));
        assert_eq!(rung.load(SeqCst), 2, "once for what was there, once for what came");
        watches.end(&Status::Closed.into());
        assert_eq!(watch.next(None).unwrap().unwrap().revision, 1);
        assert_eq!(watch.next(None).unwrap().unwrap().revision, 2);
        assert_eq!(watch.next(None).unwrap_err().status(), Status::Closed);
        assert!(watches.open(Pattern::Prefix(Vec::new()), |_| Ok(WatchStart::default())).is_err());
        drop(watch);
        assert!(watches.list().is_empty());
    }
}
