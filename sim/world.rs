//! What everybody in a run shares: the machines, what was injected, what was seen.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::counts::Counts;
use super::history::Line;
use super::host::Up;
use super::judge::Judge;
use super::raft::Raft;
use super::ticks::Ticks;
use super::trace::Trace;

/// A grant that its holder believes in.
#[derive(Clone)]
pub struct Believed {
    pub up: Arc<Up>,
    pub session: crate::node::Session,
    pub key: &'static str,
}

/// The members are called a, b, c.
pub fn name_of(member: usize) -> String {
    char::from(b'a' + member as u8).to_string()
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
    pub raft: Mutex<Raft>,
    pub ticks: Mutex<Ticks>,
    /// Writes in flight by process and epoch.
    in_flight: Mutex<BTreeMap<(String, u64), u32>>,
    /// The wall time at which it began, UTC ms.
    pub began_ms: i64,
    /// Clocks are as good as is assumed: then time alone keeps holders apart, too.
    pub calm: bool,
    /// Snapshots are made again and again and leave little of the log, so that whoever was away gets one; and an entry ends no more than one
    /// thing that has run out, so that it shows when somebody knows more than there is in a snapshot.
    pub short_logs: bool,
    /// The load is to end.
    pub over: Mutex<bool>,
}

impl World {
    pub fn new(counts: Counts, trace: Trace, members: usize, calm: bool, short_logs: bool, began_ms: i64) -> World {
        let names = (0..members).map(name_of);
        World {
            raft: Mutex::new(Raft::new(names, counts.clone())),
            counts,
            trace,
            up: Mutex::new(vec![None; members]),
            history: Mutex::default(),
            believed: Mutex::default(),
            judge: Mutex::new(Judge::new(if calm { 1_005_000 } else { 1_500_000 })),
            ticks: Mutex::default(),
            in_flight: Mutex::default(),
            began_ms,
            calm,
            short_logs,
            over: Mutex::new(false),
        }
    }

    /// The true wall time, UTC ms.
    pub fn wall_ms(&self) -> i64 {
        self.began_ms + (self.trace.now() / 1_000_000) as i64
    }

    /// When the window closes that is open in the beginning, UTC ms.
    pub fn closes_ms(&self) -> i64 {
        (self.began_ms.div_euclid(60_000) + 1) * 60_000
    }

    /// A write is let in under this epoch.
    pub fn enters(&self, who: &str, epoch: u64) {
        *self.in_flight.lock().unwrap().entry((who.to_owned(), epoch)).or_default() += 1;
    }

    /// It is over.
    pub fn leaves(&self, who: &str, epoch: u64) {
        *self.in_flight.lock().unwrap().entry((who.to_owned(), epoch)).or_default() -= 1;
    }

    /// I-22: the gate of this process has told that nothing is in flight under an epoch.
    pub fn drained(&self, who: &str, epoch: u64) {
        let in_flight = self.in_flight.lock().unwrap();
        let left = in_flight.get(&(who.to_owned(), epoch)).copied().unwrap_or(0);
        self.counts.done("drained");
        assert_eq!(left, 0, "I-22: {who} tells that epoch {epoch} is drained, with writes in flight");
    }

    /// A listener's panic is the run's.
    pub fn check_listeners(&self) {
        assert!(!self.in_flight.is_poisoned(), "a gate's event was not as it must be");
    }

    /// I-15, of every process that there is.
    pub fn look_at_logs(&self) {
        for up in self.processes() {
            if let Some(sight) = up.access.sight() {
                self.raft.lock().unwrap().look(&up.name, &sight, up.lives() && up.machine.runs());
            }
        }
    }

    /// Members with short logs make snapshots.
    pub fn shorten_logs(&self) {
        for up in self.processes().into_iter().filter(|up| self.short_logs && up.lives()) {
            if up.access.sight().is_some_and(|sight| sight.applied > sight.snapshot) {
                let access = up.access.clone();
                drop(tokio::spawn(up.machine.run(async move { access.make_snapshot().await })));
            }
        }
    }

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
