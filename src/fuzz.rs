//! Decoders fed with bytes from anywhere: the targets of `make fuzz`, and a short seeded run of each in the tests.
//!
//! A target returns when the bytes were taken or refused; whatever else it does (a panic, an endless loop, an allocation out of all
//! proportion) is a defect (I-30). Bytes that a checksum would refuse first are sealed here, so that what lies behind it is reached.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::base::codec::{self, Encode, Kind};
use crate::base::{Config, Key, SeededRng, SessionId, Token};
use crate::ledger::{Entry, Ledger, LogId, Mode, Op, Params, Renew, Request, Restore, Spec, Stamp};
use crate::net::{Hello, Refusal, frame};
use crate::store::crash_disk::CrashDisk;
use crate::store::disk::Disk;
use crate::store::{LogStore, Wal};

/// A fuzz target: what it is called, what it does, and valid inputs to begin with.
pub struct Target {
    /// Its name, and that of its corpus in `fuzz/corpus`.
    pub name: &'static str,
    /// Takes any bytes.
    pub run: fn(&[u8]),
    /// Inputs that reach deep.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "frame", run: frame, seeds: frame_seeds },
    Target { name: "hello", run: hello, seeds: hello_seeds },
    Target { name: "message", run: message, seeds: message_seeds },
    Target { name: "client", run: client, seeds: client_seeds },
    Target { name: "themis", run: themis, seeds: themis_seeds },
    Target { name: "entry", run: entry, seeds: entry_seeds },
    Target { name: "program", run: program, seeds: program_seeds },
    Target { name: "snapshot", run: snapshot, seeds: snapshot_seeds },
    Target { name: "segment", run: segment, seeds: segment_seeds },
    Target { name: "config", run: config, seeds: config_seeds },
];

fn sealed(kind: Kind, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    // Too long for an envelope: nothing can arrive that way.
    let _ = codec::seal_into(kind, &[body], &mut out);
    out
}

fn body<T: Encode>(kind: Kind, value: &T) -> Vec<u8> {
    codec::encode(kind, value).unwrap()[codec::HEADER..].to_vec()
}

/// Frames of a connection, in two pieces, as they come and with the checksum made good.
fn frame(data: &[u8]) {
    let kinds = [Kind::NetRequest, Kind::NetFailure, Kind::NetWindow, Kind::NetEvent];
    let good = sealed(kinds[usize::from(data.first().copied().unwrap_or(0)) % kinds.len()], data.get(1..).unwrap_or(&[]));
    for bytes in [data, &good] {
        let mut input = BytesMut::new();
        for part in [&bytes[..bytes.len() / 2], &bytes[bytes.len() / 2..]] {
            input.extend_from_slice(part);
            while let Ok(Some(frame)) = frame::decode(&mut input, |_, _, _| 1 << 16) {
                assert!(frame.payload.len() <= 1 << 16);
                let _ = frame::decode_error(&frame.payload);
            }
        }
    }
}

fn frame_seeds() -> Vec<Vec<u8>> {
    let mut whole = Vec::new();
    frame::encode_into(Kind::NetRequest, 7, frame::Method(1), 500, b"payload", &mut whole).unwrap();
    let error = frame::encode_error(&crate::base::Status::Unavailable.into());
    let mut prelude = vec![1];
    prelude.extend_from_slice(&[0; 16]);
    prelude.extend_from_slice(&error);
    vec![whole, prelude]
}

/// Introductions and refusals.
fn hello(data: &[u8]) {
    for bytes in [data, &sealed(Kind::NetHello, data)] {
        if let Ok(hello) = Hello::decode(Kind::NetHello, bytes) {
            assert_eq!(Hello::decode(Kind::NetHello, &hello.encode(Kind::NetHello).unwrap()).unwrap(), hello);
            let _ = hello.check_against(&hello);
        }
        let _ = Refusal::decode(bytes).error();
    }
}

fn hello_seeds() -> Vec<Vec<u8>> {
    let hello = Hello {
        protocol: crate::net::PROTOCOL,
        protocol_min: crate::net::PROTOCOL_MIN,
        cluster: "c".into(),
        lineage: 3,
        party: crate::net::Party::Node("a".into()),
        role: crate::net::Role::Member,
        disk: 1,
        boot: 2,
        class: crate::net::Class::Bulk,
        to: None,
        address: "127.0.0.1:1".into(),
    };
    vec![body(Kind::NetHello, &hello)]
}

/// What members say to each other.
fn message(data: &[u8]) {
    crate::consensus::survive_message(Bytes::copy_from_slice(data));
    let head = sealed(Kind::Consensus, data);
    let mut whole = (head.len() as u32).to_le_bytes().to_vec();
    whole.extend_from_slice(&head);
    whole.extend_from_slice(&[3, 0, 0, 0, 1, 2, 3]);
    crate::consensus::survive_message(Bytes::from(whole));
}

fn message_seeds() -> Vec<Vec<u8>> {
    crate::consensus::sample_messages().into_iter().map(|m| m[4 + codec::HEADER..].to_vec()).collect()
}

fn key(n: u8) -> Key {
    Key::new(&[b'k', n % 5]).unwrap()
}

fn apply(ledgers: &mut [Ledger], index: u64, entry: &Entry) {
    let mut before: Option<(Vec<_>, Vec<_>)> = None;
    for ledger in ledgers {
        let tokens = ledger.counts().last_token;
        let (mut outcomes, mut events) = (Vec::new(), Vec::new());
        ledger.apply(LogId { term: 1, index }, entry, &mut outcomes, &mut events);
        assert_eq!(outcomes.len(), entry.ops.len(), "one answer for each operation");
        assert!(ledger.counts().last_token >= tokens, "I-05: tokens never go back");
        match &before {
            None => before = Some((outcomes, events)),
            Some(first) => assert_eq!(first, &(outcomes, events), "I-13: the division into shards cannot be seen"),
        }
    }
}

/// I-13 and I-14: the same entries give the same state in another division, and a snapshot of it is that state.
fn judge(ledgers: &[Ledger]) {
    let hash = ledgers[0].state_hash().unwrap();
    for (shards, ledger) in [1, 8].into_iter().zip(ledgers) {
        assert_eq!(ledger.state_hash().unwrap(), hash);
        let mut restore = Restore::with_shards(shards);
        ledger.snapshot(&mut |part| restore.push(part)).unwrap();
        assert_eq!(restore.finish().unwrap().state_hash().unwrap(), hash, "I-14: a snapshot is the state");
    }
}

fn small() -> Params {
    Params { max_locks: 24, max_sessions: 6, max_waiters_per_key: 4, window: 4, slice: 3, ..Params::default() }
}

/// What clients and members say to each other.
fn client(data: &[u8]) {
    crate::client::survive(data);
    crate::client::survive(&sealed(Kind::Client, data));
}

fn client_seeds() -> Vec<Vec<u8>> {
    crate::client::samples().iter().map(|message| message[codec::HEADER..].to_vec()).collect()
}

/// Schedules in ThemisDB's JSON, and patches of one.
fn themis(data: &[u8]) {
    let Ok(value) = serde_json::from_slice(data) else { return };
    if let Ok(schedule) = crate::orchestrator::themis::from_json(&value) {
        let _ = crate::orchestrator::calendar::Calendar::new(&schedule);
        let _ = crate::orchestrator::themis::apply_patch(&schedule, &value);
    }
}

fn themis_seeds() -> Vec<Vec<u8>> {
    vec![br#"{"id":"s","tasks":["t"],"frequency":"daily","window_start_hour":3}"#.to_vec()]
}

/// An entry of the log, as stored and as sent: decoded, and applied to two ledgers that must agree.
fn entry(data: &[u8]) {
    let Ok(entry) = codec::decode::<Entry>(Kind::Entry, &sealed(Kind::Entry, data), 1 << 20) else { return };
    let mut ledgers = [Ledger::with_shards(small(), 1), Ledger::with_shards(small(), 8)];
    let open = |nonce| Request { session: SessionId(0), seq: 0, op: Op::OpenSession { nonce, name: "s".into(), ttl_ms: 500 } };
    apply(&mut ledgers, 1, &Entry { stamp: Stamp { term: 1, boot: 1, ticks_ms: 1 }, ops: vec![open(1), open(2)] });
    apply(&mut ledgers, 2, &entry);
    apply(&mut ledgers, 3, &entry);
    judge(&ledgers);
}

fn entry_seeds() -> Vec<Vec<u8>> {
    let ops = (0..=255u8).step_by(9).map(|n| operation(&[n, 1, n / 3, 5, n])).collect();
    vec![body(Kind::Entry, &Entry { stamp: Stamp { term: 1, boot: 1, ticks_ms: 700 }, ops }), body(Kind::Entry, &Entry::default())]
}

/// One operation out of five bytes: what, who, which key, how long, which request.
fn operation(b: &[u8]) -> Request {
    let session = SessionId(u64::from(b[1] % 7));
    let mode = match b[3] % 5 {
        0 => Mode::Shared,
        1 => Mode::Permits { count: u32::from(b[4] % 3), limit: 2 },
        _ => Mode::Exclusive,
    };
    let renew = if b[3].is_multiple_of(7) { Renew::Manual } else { Renew::Session };
    let (ttl_ms, lock_delay_ms) = (100 + u32::from(b[3]) * 5, u32::from(b[4] % 4) * 100);
    let spec = Spec { mode, ttl_ms, renew, lock_delay_ms, reentrant: b[3] % 4 == 3, metadata: vec![b[4]; usize::from(b[4] % 3)] };
    let wait_ms = [None, Some(u64::from(b[4]) * 4), Some(u64::MAX)][usize::from(b[4] % 3)];
    let (req, token) = (u64::from(b[4] % 8), Token(u64::from(b[4])));
    let op = match b[0] % 13 {
        0 => Op::OpenSession { nonce: u128::from(b[4] % 8), name: "s".repeat(usize::from(b[3] % 70)), ttl_ms },
        1 => Op::RenewSession,
        2 => Op::CloseSession,
        3..=5 => Op::Acquire { key: key(b[2]), spec, wait_ms, req },
        6 => Op::AcquireAll { keys: (0..b[3] % 4).map(|i| key(b[2].wrapping_add(i % 2))).collect(), spec, wait_ms, req },
        7 => Op::Cancel { keys: vec![key(b[2]), key(b[3])], req },
        8 => Op::Release { key: key(b[2]), token },
        9 => Op::ReleaseAll,
        10 => Op::Renew { key: key(b[2]), token, ttl_ms },
        11 => Op::ForceRelease {
            key: key(b[2]),
            token: b[3].is_multiple_of(2).then_some(token),
            delay_ms: b[3].is_multiple_of(3).then_some(lock_delay_ms),
        },
        _ => Op::Tick,
    };
    Request { session, seq: u64::from(b[3] % 3) * u64::from(b[4]), op }
}

/// A program of operations out of the bytes, six a step: time passes by the sixth.
fn program(data: &[u8]) {
    let mut ledgers = [Ledger::with_shards(small(), 1), Ledger::with_shards(small(), 8)];
    let mut ticks_ms = 0;
    for (index, step) in data.chunks_exact(6).take(400).enumerate() {
        ticks_ms += u64::from(step[5]) * 3;
        let stamp = Stamp { term: 1, boot: 1, ticks_ms };
        apply(&mut ledgers, index as u64 + 1, &Entry { stamp, ops: vec![operation(step)] });
    }
    judge(&ledgers);
}

fn program_seeds() -> Vec<Vec<u8>> {
    (1..4u8).map(|n| (0..240u32).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_mul(u32::from(n)) >> 13) as u8).collect()).collect()
}

/// A snapshot: its parts, sealed, in pieces.
fn snapshot(data: &[u8]) {
    let mut plain = Restore::new();
    if plain.push(data).is_ok() {
        let _ = plain.finish();
    }
    let mut restore = Restore::with_shards(2);
    let mut rest = data;
    let mut kind = Kind::Snapshot;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (part, after) = after.split_at(after.len().min(usize::from(u16::from_le_bytes(*length))));
        if restore.push(&sealed(kind, part)).is_err() {
            return;
        }
        (rest, kind) = (after, Kind::SnapshotPart);
    }
    if let Ok(ledger) = restore.finish() {
        let _ = ledger.state_hash();
    }
}

fn snapshot_seeds() -> Vec<Vec<u8>> {
    let mut ledger = Ledger::new(small());
    for (index, step) in program_seeds()[0].chunks_exact(6).enumerate() {
        let stamp = Stamp { term: 1, boot: 1, ticks_ms: index as u64 };
        ledger.apply(
            LogId { term: 1, index: index as u64 + 1 },
            &Entry { stamp, ops: vec![operation(step)] },
            &mut Vec::new(),
            &mut Vec::new(),
        );
    }
    let mut seed = Vec::new();
    ledger
        .snapshot(&mut |mut stream| {
            while stream.len() >= codec::HEADER {
                let length = u32::from_le_bytes([stream[4], stream[5], stream[6], stream[7]]) as usize;
                seed.extend_from_slice(&(length as u16).to_le_bytes());
                seed.extend_from_slice(&stream[codec::HEADER..codec::HEADER + length]);
                stream = &stream[codec::HEADER + length..];
            }
            Ok(())
        })
        .unwrap();
    vec![seed]
}

const SEGMENT: u64 = 16 << 10;

fn log(records: u8) -> CrashDisk {
    let disk = CrashDisk::new(1);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut log = Wal::create(shared, 9, SEGMENT, Box::new(SeededRng::new(2))).unwrap();
    for n in 0..records {
        log.append(u64::from(n) + 1, &[&[n; 40]]).unwrap();
        log.sync().unwrap();
    }
    disk
}

/// A log whose segment was overwritten somewhere: `offset u16`, then what stands there now.
fn segment(data: &[u8]) {
    let Some((at, bytes)) = data.split_first_chunk::<2>() else { return };
    let disk = log(20);
    let name = disk.list().unwrap().into_iter().find(|n| n.starts_with("wal")).unwrap();
    let mut content = disk.content(&name);
    let at = usize::from(u16::from_le_bytes(*at)) % content.len();
    let end = (at + bytes.len()).min(content.len());
    content[at..end].copy_from_slice(&bytes[..end - at]);
    disk.put(&name, &content);
    let shared: Arc<dyn Disk> = Arc::new(disk);
    if let Ok((log, _)) = Wal::open(shared, 9, SEGMENT, Box::new(SeededRng::new(3))) {
        log.read(log.first_index()..=log.last_index(), &mut |index, record| {
            assert_eq!(record, [index as u8 - 1; 40], "a damaged record must not be read as a good one");
            Ok(())
        })
        .unwrap();
    }
}

fn segment_seeds() -> Vec<Vec<u8>> {
    vec![vec![0, 16, 1, 2, 3], vec![0, 0, 9], vec![100, 16, 0, 0, 0, 0], [&[0u8, 17][..], &[0; 300]].concat()]
}

/// Settings as text.
fn config(data: &[u8]) {
    let mut config = Config::new();
    if config.load(&String::from_utf8_lossy(data)).is_err() {
        assert_eq!(config, Config::new(), "all or nothing");
    }
}

fn config_seeds() -> Vec<Vec<u8>> {
    vec![b"# a node\nnode_id = a1\ngate.mode = log-only\nsession_ttl_ms=5000\n".to_vec()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;

    /// Changes of the kinds that find things: bits, bytes that mean something, pieces cut out, doubled, and taken from elsewhere.
    fn mutate(bytes: &mut Vec<u8>, other: &[u8], rng: &mut SeededRng) {
        for _ in 0..=rng.below(4) {
            let at = rng.below(bytes.len() as u64 + 1) as usize;
            let len = rng.below((bytes.len() - at) as u64 + 1).min(32) as usize;
            match rng.below(6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
                1 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xfa, 0xfb, 0xfc, 0xfd, 0xff][rng.below(9) as usize],
                2 => drop(bytes.drain(at..at + len)),
                3 => bytes.splice(at..at, bytes[at..at + len].to_vec()).for_each(drop),
                4 => {
                    let from = rng.below(other.len() as u64 + 1) as usize;
                    let piece = other[from..].iter().take(32).copied().collect::<Vec<_>>();
                    bytes.splice(at..at, piece).for_each(drop);
                }
                _ => bytes.truncate(at.max(1)),
            }
        }
        bytes.truncate(1 << 14);
    }

    fn corpus(name: &str) -> Vec<Vec<u8>> {
        let Ok(files) = std::fs::read_dir(format!("{}/fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"))) else { return Vec::new() };
        files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
    }

    // I-13, I-30.
    #[test]
    fn every_target_survives_its_corpus_and_a_short_run() {
        let seed = std::env::var("TENURE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
        println!("TENURE_SEED={seed}");
        let mut rng = SeededRng::new(seed);
        for target in TARGETS {
            let inputs = [(target.seeds)(), corpus(target.name)].concat();
            assert!(!inputs.is_empty(), "{} has nothing to begin with", target.name);
            inputs.iter().for_each(|i| (target.run)(i));
            for _ in 0..400 {
                let mut bytes = inputs[rng.below(inputs.len() as u64) as usize].clone();
                mutate(&mut bytes, &inputs[rng.below(inputs.len() as u64) as usize], &mut rng);
                if std::panic::catch_unwind(|| (target.run)(&bytes)).is_err() {
                    panic!("{} does not survive {bytes:?}", target.name);
                }
            }
        }
    }

    #[test]
    fn the_seeds_reach_behind_the_checksums() {
        for seed in entry_seeds() {
            assert!(codec::decode::<Entry>(Kind::Entry, &sealed(Kind::Entry, &seed), 1 << 20).is_ok());
        }
        assert!(Hello::decode(Kind::NetHello, &sealed(Kind::NetHello, &hello_seeds()[0])).is_ok());
        assert!(!message_seeds().is_empty());
        for seed in themis_seeds() {
            assert!(crate::orchestrator::themis::from_json(&serde_json::from_slice(&seed).unwrap()).is_ok());
        }
    }
}
