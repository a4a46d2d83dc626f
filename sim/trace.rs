//! What happened, as one number: the same seed must give the same one (I-36).

use std::fmt::Arguments;
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

#[derive(Debug)]
struct State {
    start: Instant,
    hash: u64,
    events: u64,
    /// Written to, when somebody looks for where two runs part, or for what led to a failure.
    file: Option<File>,
}

/// The trace of one run. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Trace(Arc<Mutex<State>>);

impl Trace {
    /// `TENURE_TRACE=FILE` in the environment has all of it written there.
    pub fn new() -> Trace {
        let file = std::env::var_os("TENURE_TRACE").map(|path| File::create(path).unwrap());
        Trace(Arc::new(Mutex::new(State { start: Instant::now(), hash: 0xcbf2_9ce4_8422_2325, events: 0, file })))
    }

    /// Virtual time since the beginning, ns.
    pub fn now(&self) -> u64 {
        let start = self.0.lock().unwrap().start;
        start.elapsed().as_nanos() as u64
    }

    /// Something happens.
    pub fn note(&self, what: Arguments<'_>) {
        let mut state = self.0.lock().unwrap();
        let line = format!("{} {what}", state.start.elapsed().as_nanos());
        // FNV-1a.
        state.hash = line.bytes().fold(state.hash, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        state.events += 1;
        if let Some(file) = &mut state.file {
            writeln!(file, "{line}").unwrap();
        }
    }

    /// The number, and how many things happened.
    pub fn hash(&self) -> (u64, u64) {
        let state = self.0.lock().unwrap();
        (state.hash, state.events)
    }
}
