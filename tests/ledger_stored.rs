//! What a ledger leaves on disks and sends to others: entries and snapshots, whose bytes must stay readable.
#![allow(clippy::unwrap_used, clippy::panic)]

mod ledger_bench;

use ledger_bench::{Bench, acquire, key, manual};
use tenure::base::codec::{self, Kind};
use tenure::base::{SessionId, Status, Token};
use tenure::ledger::{Entry, Mode, Op, Params, Renew, Request, Restore, Spec, Stamp};

#[test]
fn i14_a_damaged_snapshot_is_refused() {
    let mut b = Bench::new(Params::default());
    let a = b.open(1, 10_000);
    for n in 0..2_000 {
        b.hold(a, &format!("lock-{n}"), &Spec { metadata: vec![1; 9], ..Spec::default() });
    }
    let mut bytes = Vec::new();
    b.ledger
        .snapshot(&mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })
        .unwrap();
    let restore = |bytes: &[u8]| {
        let mut restore = Restore::new();
        restore.push(bytes)?;
        restore.finish()
    };
    assert_eq!(restore(&bytes).unwrap().state_hash().unwrap(), b.ledger.state_hash().unwrap());
    for cut in [0, 5, 11, 12, bytes.len() / 2, bytes.len() - 1] {
        assert_eq!(restore(&bytes[..cut]).unwrap_err().status(), Status::DataCorrupt, "cut at {cut}");
    }
    for at in (0..bytes.len()).step_by(401) {
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        assert!(restore(&bad).is_err(), "a flipped bit at {at}");
    }
    // Parts that are whole by themselves, in another order or one missing.
    let mut parts = Vec::new();
    b.ledger
        .snapshot(&mut |piece| {
            parts.push(piece.to_vec());
            Ok(())
        })
        .unwrap();
    let missing: Vec<u8> = parts.iter().enumerate().filter(|(i, _)| *i != 3).flat_map(|(_, p)| p.clone()).collect();
    assert_eq!(restore(&missing).unwrap_err().status(), Status::DataCorrupt);
    parts.swap(2, 3);
    assert_eq!(restore(&parts.concat()).unwrap_err().status(), Status::DataCorrupt);
}

// F36.
/// The stored form of an entry: what is in the logs of those who run this must stay readable.
#[test]
fn golden_bytes_of_an_entry() {
    let (key, spec, token, req) = (key("k"), Spec { metadata: vec![7], ..Spec::default() }, Token(300), 5);
    let shared = Spec { mode: Mode::Shared, renew: Renew::Manual, ..Spec::default() };
    let permits = Spec { mode: Mode::Permits { count: 1, limit: 2 }, lock_delay_ms: 1, reentrant: true, ..Spec::default() };
    let ops = [
        Op::OpenSession { nonce: 1, name: "n".into(), ttl_ms: 2 },
        Op::RenewSession,
        Op::CloseSession,
        Op::Acquire { key: key.clone(), spec, wait_ms: None, req },
        Op::AcquireAll { keys: vec![key.clone()], spec: shared, wait_ms: Some(9), req },
        Op::Acquire { key: key.clone(), spec: permits, wait_ms: None, req },
        Op::Cancel { keys: vec![key.clone()], req },
        Op::Release { key: key.clone(), token },
        Op::ReleaseAll,
        Op::Renew { key: key.clone(), token, ttl_ms: 4 },
        Op::ForceRelease { key, token: Some(token), delay_ms: None },
        Op::Tick,
    ];
    let ops = ops.into_iter().zip(1..).map(|(op, seq)| Request { session: SessionId(6), seq, op }).collect();
    let entry = Entry { stamp: Stamp { term: 1, boot: 2, ticks_ms: 3 }, ops };
    let bytes = codec::encode(Kind::Entry, &entry).unwrap();
    let text: String = bytes[codec::HEADER..].iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(text, GOLDEN, "version {} of the codec must not change", codec::VERSION);
    assert_eq!(codec::decode::<Entry>(Kind::Entry, &bytes, 1 << 20).unwrap(), entry);
}

const GOLDEN: &str = "0102030c06010001016e02060201060302060403016b00fb10270000000107000506050401016b01fb10270100000001090506060301\
6b020102fb102700010100000506070501016b05060806016bfb2c01060907060a08016bfb2c0104060b09016b01fb2c0100060c0a";

/// The stored form of a snapshot with one of everything.
#[test]
fn golden_digest_of_a_snapshot() {
    let mut b = Bench::new(Params::default());
    let (a, c, d) = (b.open(1, 10_000), b.open(2, 10_000), b.open(3, 10_000));
    b.numbered(a, 1, acquire("k", &Spec { metadata: vec![1, 2], ..manual(500) }, None, 1));
    b.hold(a, "s", &Spec { mode: Mode::Permits { count: 1, limit: 2 }, lock_delay_ms: 9_000, ..manual(700) });
    b.pass(100);
    b.wait(c, "k", 2);
    b.ask(d, Op::AcquireAll { keys: vec![key("j"), key("k")], spec: Spec::default(), wait_ms: Some(60_000), req: 3 });
    b.ask(d, Op::Cancel { keys: vec![key("never")], req: 9 });
    b.pass(700);
    assert!(b.ledger.lock(&key("s")).unwrap().delay_ms > 0 && b.holders("k") == [c]);
    assert_eq!(b.ledger.state_hash().unwrap(), 16_221_559_018_040_381_039, "version {} of the codec must not change", codec::VERSION);
}
