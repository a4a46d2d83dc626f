//! What everybody in a run shares: the machines, what was injected, what was seen.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::counts::Counts;
use super::history::Line;
use super::host::Up;
use super::judge::Judge;
use super::trace::Trace;

/// A grant that its holder believes in.
#[derive(Clone)]
pub struct Believed {
    pub up: Arc<Up>,
    pub session: crate::node::Session,
    pub key: &'static str,
}

/// The run.
pub struct World {
    pub counts: Counts,
    pub trace: Trace,
    /// The process on each machine, if there is one.
    pub up: Mutex<Vec<Option<Arc<Up>>>>,
    pub history: Mutex<Vec<Option<Line>>>,
    /// By token.
    pub believed: Mutex<BTreeMap<u64, Believed>>,
    pub judge: Mutex<Judge>,
    /// Clocks are as good as is assumed: then time alone keeps holders apart, too.
    pub calm: bool,
    /// The load is to end.
    pub over: Mutex<bool>,
}

impl World {
    pub fn processes(&self) -> Vec<Arc<Up>> {
        self.up.lock().unwrap().iter().flatten().cloned().collect()
    }

    pub fn is_over(&self) -> bool {
        *self.over.lock().unwrap()
    }

    /// An operation is asked now; until [`World::answered`] or [`World::undone`] nobody knows what becomes of it.
    pub fn asked(&self, line: Line) -> usize {
        let mut history = self.history.lock().unwrap();
        history.push(Some(Line { call: self.trace.now(), result: "unknown".to_owned(), ..line }));
        history.len() - 1
    }

    pub fn answered(&self, at: usize, tell: impl FnOnce(&mut Line)) {
        if let Some(line) = &mut self.history.lock().unwrap()[at] {
            line.ret = Some(self.trace.now());
            tell(line);
            self.trace.note(format_args!("{} {} {} {} {:?}", line.by, line.op, line.key, line.result, line.token));
        }
    }

    /// It certainly had no effect.
    pub fn undone(&self, at: usize) {
        self.history.lock().unwrap()[at] = None;
    }

    /// Something that was seen at one moment.
    pub fn saw(&self, line: Line) {
        let at = self.asked(line);
        self.answered(at, |line| line.result = "held".to_owned());
    }
}
