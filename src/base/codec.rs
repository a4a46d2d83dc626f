//! The only user of bincode: everything stored or sent goes through an envelope with version, kind, length and checksum.
//!
//! ```text
//! magic u16 | version u8 | kind u8 | length u32 | crc32c u32 | body      (integers little-endian)
//! ```
//! The checksum covers version, kind, length and body, and is checked before the body is decoded. A body longer than the
//! caller's bound is refused before anything is read from it; so is one that decodes to fewer bytes than it has.

pub use bincode::{Decode, Encode};

use super::error::{Error, Result};
use super::status::Status;
use crate::base::planted::planted;

/// Bytes before the body.
pub const HEADER: usize = 12;
const MAGIC: u16 = 0x4e54;
/// The version that this library writes.
pub const VERSION: u8 = 1;
/// No single value may claim more memory than this while it is decoded, whatever the caller's own bound.
const DECODE_LIMIT: usize = 64 << 20;

/// What an envelope holds. Numbers are stored: append only.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A ledger log entry.
    Entry = 1,
    /// Ledger snapshot header.
    Snapshot = 2,
    /// A part of a ledger snapshot.
    SnapshotPart = 3,
    /// A data directory's identity.
    Identity = 4,
    /// A metadata value.
    Meta = 5,
    /// A message between members.
    Consensus = 6,
    /// The highest epochs at a resource.
    EpochFence = 7,
    /// What a client and a member say to each other.
    Client = 8,

    // 32..=63 are the frames between processes; `crate::net` says what each holds.
    /// Who dials.
    NetHello = 32,
    /// Who answers, and that the dialler is accepted.
    NetWelcome = 33,
    /// Why a dialler is not accepted.
    NetRefusal = 34,
    /// A request.
    NetRequest = 35,
    /// The answer to a request.
    NetResponse = 36,
    /// The failure of a request or of a stream.
    NetFailure = 37,
    /// The asker no longer wants an answer.
    NetCancel = 38,
    /// A stream begins.
    NetOpen = 39,
    /// One item of a stream.
    NetItem = 40,
    /// One side of a stream sends no more.
    NetFinish = 41,
    /// The receiver of a stream takes more items.
    NetWindow = 42,
    /// A message without an answer.
    NetEvent = 43,
    /// Are you there?
    NetPing = 44,
    /// I am.
    NetPong = 45,
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<DECODE_LIMIT>()
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(head), body)
}

/// Encodes `value` into an envelope of its own.
///
/// # Errors
/// [`Status::Internal`] when the value cannot be encoded, [`Status::Limit`] when it is too large for an envelope.
pub fn encode<T: Encode>(kind: Kind, value: &T) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(128);
    encode_into(kind, value, &mut out)?;
    Ok(out)
}

/// Appends the envelope of `value` to `out`. On an error `out` is as it was.
///
/// # Errors
/// As [`encode`].
pub fn encode_into<T: Encode>(kind: Kind, value: &T, out: &mut Vec<u8>) -> Result<()> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    let written = bincode::encode_into_std_write(value, out, config());
    let length = out.len() - start - HEADER;
    let failed = match written {
        Err(cause) => Some(Error::new(Status::Internal, format!("encoding {kind:?}: {cause}"))),
        Ok(_) if length > DECODE_LIMIT => Some(Error::new(Status::Limit, format!("{kind:?} of {length} bytes exceeds {DECODE_LIMIT}"))),
        Ok(_) => None,
    };
    if let Some(error) = failed {
        out.truncate(start);
        return Err(error);
    }
    let (head, body) = out[start..].split_at_mut(HEADER);
    head[..2].copy_from_slice(&MAGIC.to_le_bytes());
    head[2] = VERSION;
    head[3] = kind as u8;
    head[4..8].copy_from_slice(&(length as u32).to_le_bytes());
    let crc = checksum(&head[2..8], body);
    head[8..12].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

/// Appends an envelope whose body is `parts`, one after the other, as they are. On an error `out` is as it was.
///
/// # Errors
/// [`Status::Limit`] when the body is too large for an envelope.
pub fn seal_into(kind: Kind, parts: &[&[u8]], out: &mut Vec<u8>) -> Result<()> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    if length > DECODE_LIMIT {
        return Err(Error::new(Status::Limit, format!("{kind:?} of {length} bytes exceeds {DECODE_LIMIT}")));
    }
    let mut head = [0; HEADER];
    head[..2].copy_from_slice(&MAGIC.to_le_bytes());
    head[2] = VERSION;
    head[3] = kind as u8;
    head[4..8].copy_from_slice(&(length as u32).to_le_bytes());
    let crc = parts.iter().fold(crc32c::crc32c(&head[2..8]), |crc, part| crc32c::crc32c_append(crc, part));
    head[8..].copy_from_slice(&crc.to_le_bytes());
    out.reserve(HEADER + length);
    out.extend_from_slice(&head);
    parts.iter().for_each(|part| out.extend_from_slice(part));
    Ok(())
}

/// The header of an envelope whose body may not be there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The body's kind, a [`Kind`] or a number that this version does not know.
    pub kind: u8,
    /// Bytes in the body, as claimed.
    pub length: usize,
    crc: u32,
    prefix: u32,
}

impl Head {
    /// Reads the first [`HEADER`] bytes of an envelope. Nothing is allocated.
    ///
    /// # Errors
    /// [`Status::DataVersion`] for a version newer than ours, [`Status::DataCorrupt`] for bytes that are no header.
    pub fn parse(head: &[u8; HEADER]) -> Result<Head> {
        if head[..2] != MAGIC.to_le_bytes() {
            return Err(Error::new(Status::DataCorrupt, "not one of ours"));
        }
        if head[2] > VERSION {
            return Err(Error::new(Status::DataVersion, format!("version {} is newer than {VERSION}", head[2])));
        }
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        Ok(Head { kind: head[3], length: number(4) as usize, crc: number(8), prefix: crc32c::crc32c(&head[2..8]) })
    }

    /// Whether `body` is the one that the header was made for.
    pub fn matches(&self, body: &[u8]) -> bool {
        body.len() == self.length && (planted!("message-without-checksum") || crc32c::crc32c_append(self.prefix, body) == self.crc)
    }
}

/// Decodes an envelope that fills `bytes` exactly and whose body is at most `cap` bytes.
///
/// # Errors
/// [`Status::DataVersion`] for a version newer than ours, otherwise [`Status::DataCorrupt`]; the message says what is wrong.
/// The caller adds the name of the file or the peer.
pub fn decode<T: Decode<()>>(kind: Kind, bytes: &[u8], cap: usize) -> Result<T> {
    let bad = |what: &str| Error::new(Status::DataCorrupt, format!("{kind:?}: {what}"));
    if bytes.len() < HEADER {
        return Err(bad("shorter than its header"));
    }
    let (head, body) = bytes.split_at(HEADER);
    if head[..2] != MAGIC.to_le_bytes() {
        return Err(bad("not one of ours"));
    }
    let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    if length > cap {
        return Err(bad("longer than allowed"));
    }
    if length != body.len() {
        return Err(bad("length differs from the header's"));
    }
    if checksum(&head[2..8], body).to_le_bytes() != head[8..12] {
        return Err(bad("checksum mismatch"));
    }
    if head[2] > VERSION {
        return Err(Error::new(Status::DataVersion, format!("{kind:?}: version {} is newer than {VERSION}", head[2])));
    }
    if head[3] != kind as u8 {
        return Err(bad("of another kind"));
    }
    match bincode::decode_from_slice(body, config()) {
        Ok((value, used)) if used == body.len() => Ok(value),
        Ok(_) => Err(bad("bytes left over")),
        Err(cause) => Err(bad(&cause.to_string())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Encode, Decode)]
    struct Sample {
        name: Vec<u8>,
        count: u64,
        next: Option<u32>,
    }

    #[test]
    fn golden_bytes() {
        let bytes = encode(Kind::Meta, &Sample { name: b"ab".to_vec(), count: 300, next: Some(7) }).unwrap();
        assert_eq!(
            bytes,
            [0x54, 0x4e, 1, 5, 8, 0, 0, 0, bytes[8], bytes[9], bytes[10], bytes[11], 2, b'a', b'b', 251, 44, 1, 1, 7],
            "the stored form must never change under version 1"
        );
        assert_eq!(u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]), checksum(&bytes[2..8], &bytes[12..]));
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        // 2^60 items claimed in nine bytes: without a limit bincode asks for them.
        let mut body = vec![253];
        body.extend_from_slice(&(1u64 << 60).to_le_bytes());
        let mut bytes = encode(Kind::Meta, &()).unwrap();
        bytes[4] = body.len() as u8;
        bytes.extend_from_slice(&body);
        let crc = checksum(&bytes[2..8], &body);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode::<Vec<u64>>(Kind::Meta, &bytes, 100).unwrap_err().status(), Status::DataCorrupt);
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let good = encode(Kind::Meta, &5u64).unwrap();
        assert_eq!(decode::<u64>(Kind::Meta, &good, 100).unwrap(), 5);
        assert_eq!(decode::<u64>(Kind::Entry, &good, 100).unwrap_err().status(), Status::DataCorrupt);
        assert_eq!(decode::<u64>(Kind::Meta, &good, 0).unwrap_err().status(), Status::DataCorrupt);
        assert_eq!(decode::<u64>(Kind::Meta, &good[..5], 100).unwrap_err().status(), Status::DataCorrupt);
        let mut newer = good.clone();
        newer[2] = VERSION + 1;
        let crc = checksum(&newer[2..8], &newer[12..]);
        newer[8..12].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode::<u64>(Kind::Meta, &newer, 100).unwrap_err().status(), Status::DataVersion);
    }

    #[test]
    fn sealed_parts_are_an_envelope() {
        let mut out = vec![9];
        seal_into(Kind::NetPing, &[b"ab", b"", b"c"], &mut out).unwrap();
        assert_eq!(out[..9], [9, 0x54, 0x4e, 1, 44, 3, 0, 0, 0]);
        assert_eq!(out[13..], *b"abc");
        let head = Head::parse(out[1..13].try_into().unwrap()).unwrap();
        assert_eq!((head.kind, head.length), (44, 3));
        assert!(head.matches(b"abc") && !head.matches(b"abd") && !head.matches(b"ab"));
        let same = encode(Kind::Meta, &7u8).unwrap();
        let mut sealed = Vec::new();
        seal_into(Kind::Meta, &[&[7]], &mut sealed).unwrap();
        assert_eq!(sealed, same, "both ways of writing one envelope agree");
    }

    proptest! {
        #[test]
        fn round_trip(name: Vec<u8>, count: u64, next: Option<u32>) {
            let value = Sample { name, count, next };
            let bytes = encode(Kind::Meta, &value).unwrap();
            prop_assert_eq!(decode::<Sample>(Kind::Meta, &bytes, 1 << 20).unwrap(), value);
        }

        #[test]
        fn a_flipped_bit_is_seen(count: u64, bit in 0usize..160) {
            let mut bytes = encode(Kind::Meta, &Sample { name: b"name".to_vec(), count, next: None }).unwrap();
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode::<Sample>(Kind::Meta, &bytes, 1 << 20).is_err());
        }

        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _ = decode::<Sample>(Kind::Meta, &bytes, 1 << 20);
        }
    }
}
