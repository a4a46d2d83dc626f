//! What happened, as one number: the same seed must give the same one (I-36).

use std::fmt::Arguments;
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

#[derive(Debug)]
struct State {
    start: Instant,
    hash: u64,
    events: u64,
    /// Written down, when somebody looks for where two runs part.
    lines: Option<Vec<String>>,
}

/// The trace of one run. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Trace(Arc<Mutex<State>>);

impl Trace {
    /// `TENURE_TRACE=FILE` in the environment has all of it written there in the end.
    pub fn new() -> Trace {
        let lines = std::env::var_os("TENURE_TRACE").map(|_| Vec::new());
        Trace(Arc::new(Mutex::new(State { start: Instant::now(), hash: 0xcbf2_9ce4_8422_2325, events: 0, lines })))
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
        if let Some(lines) = &mut state.lines {
            lines.push(line);
        }
    }

    /// The number, and how many things happened.
    pub fn hash(&self) -> (u64, u64) {
        let state = self.0.lock().unwrap();
        (state.hash, state.events)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let (Some(path), Some(lines)) = (std::env::var_os("TENURE_TRACE"), &self.lines) {
            std::fs::write(path, lines.join("\n")).unwrap();
        }
    }
}
