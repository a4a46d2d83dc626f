//! Promises in the replicated state machine: who may record one, what a snapshot carries, and the stored form.
#![allow(clippy::unwrap_used, clippy::panic)]

use tenure::base::codec::{self, Kind};
use tenure::base::{Key, SessionId, Token};
use tenure::ledger::{Entry, Granting, Ledger, LogId, Op, Outcome, Params, PromiseOp, Promised, Request, Restore, Spec, Stamp};

struct Bench {
    ledger: Ledger,
    at: LogId,
    ticks_ms: u64,
}

fn key(name: &str) -> Key {
    Key::new(name.as_bytes()).unwrap()
}

fn by(term: Token) -> Granting {
    Granting { key: key("controller"), term }
}

fn promote(term: Token, office: &str, holder: &str, epoch: u64) -> PromiseOp {
    PromiseOp::Promote { by: by(term), office: key(office), holder: holder.into(), epoch }
}

fn extend(term: Token, epoch: u64, ttl_ms: u32) -> PromiseOp {
    PromiseOp::Extend { by: by(term), office: key("shard"), epoch, ttl_ms }
}

impl Bench {
    fn new() -> Bench {
        let mut b = Bench { ledger: Ledger::new(Params { max_step_ms: u64::MAX, ..Params::default() }), at: LogId::default(), ticks_ms: 0 };
        b.at.term = 1;
        b.ask(SessionId(0), 0, Op::Tick);
        b
    }

    fn ask(&mut self, session: SessionId, seq: u64, op: Op) -> Outcome {
        self.at.index += 1;
        let mut outcomes = Vec::new();
        let stamp = Stamp { term: 1, boot: 1, ticks_ms: self.ticks_ms };
        self.ledger.apply(self.at, &Entry { stamp, ops: vec![Request { session, seq, op }] }, &mut outcomes, &mut Vec::new());
        outcomes[0]
    }

    /// A session that holds the granter's lock, and its token.
    fn granter(&mut self, nonce: u128) -> (SessionId, Token) {
        let Outcome::Session { id, .. } = self.ask(SessionId(0), 0, Op::OpenSession { nonce, name: "c".into(), ttl_ms: 60_000 }) else {
            panic!()
        };
        let op = Op::Acquire { key: key("controller"), spec: Spec { ttl_ms: 60_000, ..Spec::default() }, wait_ms: None, req: 0 };
        let Outcome::Granted { token, .. } = self.ask(id, 0, op) else { panic!() };
        (id, token)
    }

    fn promise(&mut self, session: SessionId, op: PromiseOp) -> Promised {
        match self.ask(session, 0, Op::Promise(op)) {
            Outcome::Promise(promised) => promised,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn only_the_holder_of_the_granters_lock_records_anything() {
    let mut b = Bench::new();
    let (first, term) = b.granter(1);
    assert_eq!(b.promise(first, promote(term, "shard", "a", 0)), Promised::Promoted { epoch: 1 });
    let wrong = Token(term.0 + 7);
    assert_eq!(b.promise(first, extend(wrong, 1, 1_000)), Promised::NotGranter { current: term });
    let Outcome::Session { id: other, .. } = b.ask(SessionId(0), 0, Op::OpenSession { nonce: 2, name: "d".into(), ttl_ms: 60_000 }) else {
        panic!()
    };
    assert_eq!(b.promise(other, extend(term, 1, 1_000)), Promised::NotGranter { current: term });
    // Its time is over, whether or not anything has noticed: at this entry it is the granter no more.
    b.ticks_ms += 60_002;
    assert!(matches!(b.ask(first, 0, Op::Promise(extend(term, 1, 1_000))), Outcome::Refused(_)));
    let (next, later) = b.granter(3);
    assert_eq!(b.promise(next, extend(term, 1, 1_000)), Promised::NotGranter { current: later });
    assert!(matches!(b.promise(next, extend(later, 1, 1_000)), Promised::Extended { .. }));
}

#[test]
fn a_promise_is_never_shortened_but_by_the_holder() {
    let mut b = Bench::new();
    let (s, term) = b.granter(1);
    b.promise(s, promote(term, "shard", "a", 0));
    let Promised::Extended { remaining_ms } = b.promise(s, extend(term, 1, 9_900)) else { panic!() };
    assert_eq!(remaining_ms, 10_101);
    assert_eq!(b.promise(s, extend(term, 1, 1_000)), Promised::Extended { remaining_ms });
    b.ticks_ms += 10_100;
    assert_eq!(b.promise(s, promote(term, "shard", "b", 0)), Promised::TooEarly { remaining_ms: 1, epoch: 1 });
    b.ticks_ms += 1;
    assert_eq!(b.promise(s, promote(term, "shard", "b", 9)), Promised::Promoted { epoch: 9 });
    assert_eq!(b.promise(s, extend(term, 1, 1_000)), Promised::Stale { epoch: 9 });
    assert_eq!(b.promise(s, promote(term, "shard", "a", 9)), Promised::Stale { epoch: 9 });
    assert_eq!(b.promise(s, promote(term, "shard", "a", 1 << 63)), Promised::Stale { epoch: 9 });
}

#[test]
fn a_retry_gets_the_same_answer() {
    let mut b = Bench::new();
    let (s, term) = b.granter(1);
    let op = Op::Promise(promote(term, "shard", "a", 0));
    let once = b.ask(s, 5, op.clone());
    assert_eq!((once, b.ask(s, 5, op)), (Outcome::Promise(Promised::Promoted { epoch: 1 }), once));
    assert_eq!(b.ledger.promises(b"", 9)[0].epoch, 1);
}

#[test]
fn a_snapshot_carries_every_promise() {
    let mut b = Bench::new();
    let (s, term) = b.granter(1);
    for n in 0..1_200 {
        assert!(matches!(b.promise(s, promote(term, &format!("office{n:04}"), "a", n + 1)), Promised::Promoted { .. }));
    }
    b.promise(s, promote(term, "shard", "a", 0));
    b.promise(s, extend(term, 1, 5_000));
    b.promise(s, PromiseOp::Settle { by: by(term), office: key("office0003"), epoch: 4 });
    let mut restore = Restore::new();
    b.ledger.snapshot(&mut |piece| restore.push(piece)).unwrap();
    let copy = restore.finish().unwrap();
    assert_eq!(copy.promises(b"", 2_000), b.ledger.promises(b"", 2_000));
    assert!(copy.promises(b"office0003", 1)[0].settled);
    assert_eq!(copy.state_hash().unwrap(), b.ledger.state_hash().unwrap());
    b.ledger = copy;
    assert!(matches!(b.promise(s, promote(term, "shard", "b", 0)), Promised::TooEarly { epoch: 1, .. }));
}

/// What is in the logs of those who run this must stay readable.
#[test]
fn golden_bytes_of_promises() {
    let ops = [
        promote(Token(3), "o", "n", 2),
        PromiseOp::Extend { by: by(Token(3)), office: key("o"), epoch: 2, ttl_ms: 300 },
        PromiseOp::Settle { by: by(Token(3)), office: key("o"), epoch: 2 },
    ];
    let bytes = codec::encode(Kind::Meta, &ops.to_vec()).unwrap();
    let text: String = bytes[codec::HEADER..].iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(text, "03000a636f6e74726f6c6c657203016f016e02010a636f6e74726f6c6c657203016f02fb2c01020a636f6e74726f6c6c657203016f02");
}
