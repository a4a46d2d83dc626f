//! One ledger without an engine: what the tests that apply entries to it share.
#![allow(clippy::unwrap_used, clippy::panic)]
// Each of them uses a part.
#![allow(dead_code)]

use tenure::base::{Key, SessionId, Token};
use tenure::ledger::{Entry, Event, Ledger, LogId, Op, Outcome, Params, Renew, Request, Restore, Spec, Stamp};

/// A ledger and the clock that stamps its entries.
pub struct Bench {
    pub ledger: Ledger,
    pub at: LogId,
    pub stamp: Stamp,
    pub events: Vec<Event>,
}

impl Bench {
    pub fn new(params: Params) -> Bench {
        Bench {
            ledger: Ledger::new(Params { max_step_ms: u64::MAX, ..params }),
            at: LogId { term: 1, index: 0 },
            stamp: Stamp { term: 1, boot: 9, ticks_ms: 0 },
            events: Vec::new(),
        }
        .started()
    }

    fn started(mut self) -> Bench {
        self.apply(vec![]);
        self
    }

    pub fn apply(&mut self, ops: Vec<Request>) -> Vec<Outcome> {
        self.at.index += 1;
        let mut outcomes = Vec::new();
        self.ledger.apply(self.at, &Entry { stamp: self.stamp, ops }, &mut outcomes, &mut self.events);
        outcomes
    }

    pub fn ask(&mut self, session: SessionId, op: Op) -> Outcome {
        self.numbered(session, 0, op)
    }

    pub fn numbered(&mut self, session: SessionId, seq: u64, op: Op) -> Outcome {
        self.apply(vec![Request { session, seq, op }])[0]
    }

    /// Time passes, with a tick at the end.
    pub fn pass(&mut self, ms: u64) {
        self.stamp.ticks_ms += ms;
        self.apply(vec![]);
    }

    pub fn open(&mut self, nonce: u128, ttl_ms: u32) -> SessionId {
        match self.ask(SessionId(0), Op::OpenSession { nonce, name: format!("s{nonce}"), ttl_ms }) {
            Outcome::Session { id, .. } => id,
            other => panic!("{other:?}"),
        }
    }

    pub fn try_acquire(&mut self, session: SessionId, name: &str, spec: &Spec) -> Outcome {
        self.ask(session, acquire(name, spec, None, 0))
    }

    pub fn hold(&mut self, session: SessionId, name: &str, spec: &Spec) -> Token {
        let outcome = self.try_acquire(session, name, spec);
        granted(outcome)
    }

    pub fn wait(&mut self, session: SessionId, name: &str, req: u64) {
        let outcome = self.ask(session, acquire(name, &Spec::default(), Some(u64::MAX), req));
        assert!(matches!(outcome, Outcome::Queued { .. }), "{outcome:?}");
    }

    pub fn release(&mut self, session: SessionId, name: &str, token: Token) -> Outcome {
        self.ask(session, Op::Release { key: key(name), token })
    }

    pub fn holders(&self, name: &str) -> Vec<SessionId> {
        self.ledger.lock(&key(name)).map_or_else(Vec::new, |l| l.holders.iter().map(|h| h.session).collect())
    }

    pub fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    pub fn restart(&mut self) {
        let mut restore = Restore::new();
        self.ledger.snapshot(&mut |piece| restore.push(piece)).unwrap();
        self.ledger = restore.finish().unwrap();
    }
}

pub fn key(name: &str) -> Key {
    Key::new(name.as_bytes()).unwrap()
}

pub fn acquire(name: &str, spec: &Spec, wait_ms: Option<u64>, req: u64) -> Op {
    Op::Acquire { key: key(name), spec: spec.clone(), wait_ms, req }
}

pub fn granted(outcome: Outcome) -> Token {
    match outcome {
        Outcome::Granted { token, .. } => token,
        other => panic!("{other:?}"),
    }
}

pub fn manual(ttl_ms: u32) -> Spec {
    Spec { ttl_ms, renew: Renew::Manual, ..Spec::default() }
}
