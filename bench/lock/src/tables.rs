//! The lock tables that are compared.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Bucket;
use std::ffi::c_void;
use std::sync::Arc;

use tenure::base::{Key, SessionId, SystemClock};
use tenure::engine::{Engine, EventSink, MemoryEngine};
use tenure::ledger::{Event, Op, Outcome, Params, Request, Spec};

pub type Name = [u64; 2];

/// Does `pairs` pairs on this thread's half of the names; nanoseconds a pair.
pub trait Table: Sync {
    fn slice(&self, id: usize, seed: &mut u64, pairs: usize) -> f64;
}

/// The names that are held, and those that are taken and given back.
pub struct Work {
    pub held: Vec<Name>,
    pub names: Vec<Name>,
}

fn rng(s: &mut u64) -> u64 {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    *s
}

impl Work {
    pub fn new(keys: usize) -> Work {
        let mut seed = 88_172_645_463_325_252;
        let mut name = || [rng(&mut seed), rng(&mut seed)];
        Work { held: (0..keys).map(|_| name()).collect(), names: (0..keys).map(|_| name()).collect() }
    }
}

pub fn now_ns() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a live timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Times `pair` on names drawn at random.
fn timed(names: &[Name], id: usize, seed: &mut u64, pairs: usize, mut pair: impl FnMut(&Name)) -> f64 {
    let at = now_ns();
    for _ in 0..pairs {
        pair(&names[rng(seed) as usize % (names.len() / 2) * 2 + id]);
    }
    (now_ns() - at) as f64 / pairs as f64
}

/// Through the engine's Rust interface, the name made into a key each time.
pub struct Ours {
    engine: Engine,
    session: SessionId,
    names: Vec<Name>,
    spec: Spec,
}

/// Hears nothing.
pub struct Deaf;

impl EventSink for Deaf {
    fn event(&self, _: Event) {}
    fn nearer_deadline(&self) {}
}

fn key(name: &Name) -> Key {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&name[0].to_le_bytes());
    bytes[8..].copy_from_slice(&name[1].to_le_bytes());
    Key::new(&bytes).expect("16 bytes")
}

impl Ours {
    pub fn new(work: &Work) -> Ours {
        let shards = std::env::var("SHARDS").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
        let engine = Engine::Memory(MemoryEngine::new(Params::default(), shards, Arc::new(SystemClock), Arc::new(Deaf)));
        let open = |nonce, name: &str| {
            let op = Op::OpenSession { nonce, name: name.to_owned(), ttl_ms: 3_600_000 };
            match engine.execute(&Request { session: SessionId(0), seq: 0, op }) {
                Ok(Outcome::Session { id, .. }) => id,
                other => panic!("{other:?}"),
            }
        };
        let (others, session) = (open(1, "others"), open(2, "bench"));
        let spec = Spec { ttl_ms: 3_600_000, ..Spec::default() };
        for name in &work.held {
            let granted = engine.try_acquire(others, &key(name), &spec, 0);
            assert!(matches!(granted, Ok(Outcome::Granted { .. })), "{granted:?}");
        }
        Ours { engine, session, names: work.names.clone(), spec }
    }
}

impl Table for Ours {
    fn slice(&self, id: usize, seed: &mut u64, pairs: usize) -> f64 {
        timed(&self.names, id, seed, pairs, |name| {
            let key = key(name);
            let Ok(Outcome::Granted { token, .. }) = self.engine.try_acquire(self.session, &key, &self.spec, 0) else {
                panic!("not granted")
            };
            let released = self.engine.release(self.session, &key, token);
            assert!(matches!(released, Ok(Outcome::Released { left: 0 })));
        })
    }
}

struct Entry {
    #[allow(dead_code)]
    owner: u64,
    deadline: u64,
    token: u64,
}

/// What a Rust team would write itself.
pub struct RustMap {
    table: parking_lot::Mutex<(HashMap<Name, Entry>, u64)>,
    names: Vec<Name>,
}

impl RustMap {
    pub fn new(work: &Work) -> RustMap {
        let map = RustMap { table: parking_lot::Mutex::default(), names: work.names.clone() };
        for name in &work.held {
            assert_ne!(map.acquire(name, 1, 1_000_000_000_000), 0);
        }
        map
    }

    fn acquire(&self, name: &Name, owner: u64, ttl: u64) -> u64 {
        let now = now_ns();
        let (map, next) = &mut *self.table.lock();
        let token = *next + 1;
        let entry = Entry { owner, deadline: now + ttl, token };
        match map.entry(*name) {
            Bucket::Occupied(o) if o.get().deadline > now => return 0,
            Bucket::Occupied(mut o) => *o.get_mut() = entry,
            Bucket::Vacant(v) => {
                v.insert(entry);
            }
        }
        *next = token;
        token
    }

    fn release(&self, name: &Name, token: u64) -> bool {
        let (map, _) = &mut *self.table.lock();
        match map.entry(*name) {
            Bucket::Occupied(o) if o.get().token == token => {
                o.remove();
                true
            }
            _ => false,
        }
    }
}

impl Table for RustMap {
    fn slice(&self, id: usize, seed: &mut u64, pairs: usize) -> f64 {
        timed(&self.names, id, seed, pairs, |name| {
            let token = self.acquire(name, 2, 10_000_000_000);
            assert!(token != 0 && self.release(name, token));
        })
    }
}

unsafe extern "C" {
    fn reference_new(shards: usize, held: *const Name, work: *const Name, keys: usize) -> *mut c_void;
    fn reference_free(table: *mut c_void);
    fn reference_slice(table: *mut c_void, id: usize, seed: *mut u64, pairs: usize) -> f64;
}

/// What a C++ team would write itself.
pub struct Cpp(*mut c_void);

// SAFETY: the table behind the pointer locks its shards.
unsafe impl Sync for Cpp {}

impl Cpp {
    pub fn new(work: &Work, shards: usize) -> Cpp {
        // SAFETY: both arrays hold that many names; the function copies them.
        Cpp(unsafe { reference_new(shards, work.held.as_ptr(), work.names.as_ptr(), work.held.len()) })
    }
}

impl Drop for Cpp {
    fn drop(&mut self) {
        // SAFETY: made by `reference_new`, freed once.
        unsafe { reference_free(self.0) };
    }
}

impl Table for Cpp {
    fn slice(&self, id: usize, seed: &mut u64, pairs: usize) -> f64 {
        // SAFETY: the table lives as long as `self`; the seed is this thread's own.
        unsafe { reference_slice(self.0, id, seed, pairs) }
    }
}
