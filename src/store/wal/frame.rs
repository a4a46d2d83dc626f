//! The bytes of a segment: its header, and the frames after it.
//!
//! ```text
//! segment: magic u64 | version u32 | crc u32 | number u64 | salt u64 | disk u128 | size u64 | zeros up to 4096
//! frame:   length u32 | crc u32 | kind u8 | zero u8 x3 | group u32 | round u64 | index u64 | body | zeros to a multiple of 8
//! ```
//! Integers are little-endian. The checksum of a frame also covers the segment's salt (random, mixed with its number) and the
//! frame's own position, so what a recycled segment held before, or what a disk wrote to the wrong place, never reads as a frame.
//!
//! `round` counts syncs: frames that became durable together have the same one, and `group` is where the first of them
//! starts. That tells a torn write from damage: the frames of one round may be lost in any combination, but a valid frame of
//! a round proves that everything before its group was synced once. So that there is one behind the last round too, each sync is
//! followed by a frame that says no more than that. Nobody waits for it to become durable; a process that is killed leaves it behind.

use crate::base::planted::planted;
use crate::base::{Error, Result, Status};

pub(super) const SEGMENT_HEADER: usize = 4096;
pub(super) const FRAME_HEADER: usize = 32;
const MAGIC: u64 = u64::from_le_bytes(*b"tenurlog");
const VERSION: u32 = 1;

/// What a frame says. Numbers are stored: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Entry `index`, with its bytes.
    Entry = 1,
    /// Entries after `index` are void.
    Truncate = 2,
    /// Entries up to `index` are no longer needed.
    Purge = 3,
    /// First in a segment: entry `index` is the next to come; the body is the last purged index.
    Start = 4,
    /// Last in a segment: the log goes on in segment number `index`.
    Next = 5,
    /// The log was closed in good order after entry `index`.
    Close = 6,
    /// First of a round: what is before it, up to entry `index`, was synced.
    Synced = 7,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::Entry, Kind::Truncate, Kind::Purge, Kind::Start, Kind::Next, Kind::Close, Kind::Synced]
            .into_iter()
            .find(|k| *k as u8 == byte)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub number: u64,
    pub salt: u64,
    pub disk: u128,
    pub size: u64,
}

impl SegmentHeader {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER);
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&self.disk.to_le_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        out.resize(SEGMENT_HEADER, 0);
        let crc = SegmentHeader::checksum(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// What the frames' checksums cover: it differs for each use of a file even if the random numbers repeat.
    pub fn frame_salt(&self) -> u64 {
        self.salt ^ self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn checksum(bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
    }

    /// Reads the header; the caller adds the name of the file to the error.
    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader> {
        if u64_at(bytes, 0) != MAGIC {
            return Err(Error::new(Status::DataCorrupt, "not a log segment"));
        }
        if SegmentHeader::checksum(bytes) != u32_at(bytes, 12) {
            return Err(Error::new(Status::DataCorrupt, "checksum mismatch in the header"));
        }
        if u32_at(bytes, 8) != VERSION {
            return Err(Error::new(Status::DataVersion, format!("log version {}, this library reads {VERSION}", u32_at(bytes, 8))));
        }
        let disk = u128::from(u64_at(bytes, 32)) | u128::from(u64_at(bytes, 40)) << 64;
        Ok(SegmentHeader { number: u64_at(bytes, 16), salt: u64_at(bytes, 24), disk, size: u64_at(bytes, 48) })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// A frame as found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub kind: Kind,
    pub group: u32,
    pub round: u64,
    pub index: u64,
    pub body: &'a [u8],
}

/// Bytes that a frame with a body of `body` bytes takes.
pub(super) fn frame_size(body: usize) -> usize {
    FRAME_HEADER + body.next_multiple_of(8)
}

fn frame_checksum(salt: u64, position: u64, header: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32c::crc32c(&salt.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &position.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &header[..4]);
    crc = crc32c::crc32c_append(crc, &header[8..]);
    crc32c::crc32c_append(crc, body)
}

/// Appends a frame that will stand at `position` of the segment with this salt.
pub(super) fn put_frame(out: &mut Vec<u8>, salt: u64, position: u64, frame: &Frame<'_>) {
    let start = out.len();
    out.extend_from_slice(&(frame.body.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&[frame.kind as u8, 0, 0, 0]);
    out.extend_from_slice(&frame.group.to_le_bytes());
    out.extend_from_slice(&frame.round.to_le_bytes());
    out.extend_from_slice(&frame.index.to_le_bytes());
    out.extend_from_slice(frame.body);
    out.resize(start + frame_size(frame.body.len()), 0);
    let crc = frame_checksum(salt, position, &out[start..start + FRAME_HEADER], frame.body);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// Length of the body, as the header of a frame says.
pub(super) fn body_length(header: &[u8]) -> usize {
    u32_at(header, 0) as usize
}

/// The frame at `position` of a segment, if a whole and valid one stands there. `bytes` are those of the segment from `from` on.
pub(super) fn get_frame(bytes: &[u8], from: usize, salt: u64, position: usize) -> Option<Frame<'_>> {
    let at = position.checked_sub(from)?;
    let header = bytes.get(at..at.checked_add(FRAME_HEADER)?)?;
    let kind = Kind::from_byte(header[8])?;
    let start = at + FRAME_HEADER;
    let body = bytes.get(start..start.checked_add(body_length(header))?)?;
    if frame_checksum(salt, position as u64, header, body) != u32_at(header, 4) && !planted!("log-without-checksum") {
        return None;
    }
    Some(Frame { kind, group: u32_at(header, 12), round: u64_at(header, 16), index: u64_at(header, 24), body })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let mut out = vec![0; 8];
        put_frame(&mut out, 5, 8, &Frame { kind: Kind::Entry, group: 8, round: 3, index: 9, body: b"abc" });
        let crc = out[12..16].to_vec();
        let mut expected = vec![0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0];
        expected.extend_from_slice(&crc);
        expected.extend_from_slice(&[1, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(b"abc\0\0\0\0\0");
        assert_eq!(out, expected, "the stored form must never change under version 1");
        assert_eq!(crc, 0xe80f_5ccbu32.to_le_bytes());
    }

    #[test]
    fn another_salt_another_place_or_a_flipped_bit_is_no_frame() {
        let mut out = vec![0; 16];
        put_frame(&mut out, 5, 16, &Frame { kind: Kind::Entry, group: 16, round: 1, index: 1, body: b"12345678" });
        assert_eq!(get_frame(&out, 0, 5, 16).unwrap().body, b"12345678");
        assert!(get_frame(&out, 0, 6, 16).is_none());
        assert!(get_frame(&out[8..], 0, 5, 8).is_none());
        assert!(get_frame(&out[..out.len() - 1], 0, 5, 16).is_none());
        for bit in 16 * 8..out.len() * 8 {
            let mut bad = out.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(get_frame(&bad, 0, 5, 16).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn a_header_says_what_is_wrong_with_it() {
        let header = SegmentHeader { number: 7, salt: 8, disk: 9 << 70, size: 65_536 };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes).unwrap(), header);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&bad).unwrap_err().status(), Status::DataCorrupt, "bit {bit}");
        }
        let mut newer = bytes;
        newer[8] = 2;
        let crc = SegmentHeader::checksum(&newer);
        newer[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&newer).unwrap_err().status(), Status::DataVersion);
    }
}
