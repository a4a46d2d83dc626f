//! Frames: one envelope of [`crate::base::codec`] each, with a fixed prelude before the payload.
//!
//! ```text
//! envelope header (12) | id u64 | method u16 | zero u16 | arg u32 | payload       (integers little-endian)
//! ```
//! `id` names a request or stream of the connection's dialler, `method` what the payload means to the layers above, `arg` is a
//! deadline in ms (request, open), a number of items (open: never, window: granted) or 0.

use bytes::{Buf, Bytes, BytesMut};

use crate::base::codec::{self, HEADER, Head, Kind};
use crate::base::{Error, Result, Status};

/// Bytes between the envelope's header and the payload.
pub const PRELUDE: usize = 16;
/// The largest payload of any frame.
pub const PAYLOAD_MAX: usize = 8 << 20;
/// The largest frame of the handshake.
pub const HELLO_MAX: usize = 4096;
/// The largest payload of a failure: a status and its message.
pub const FAILURE_MAX: usize = 8192;
/// Below this a payload is copied out of the read buffer, so that a small one kept for long does not keep a large buffer alive.
const COPY_BELOW: usize = 4096;

/// What a request, a stream or an event is about; the layers above number them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Method(pub u16);

/// One decoded frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its kind: one of the `Net*` kinds after the handshake.
    pub kind: Kind,
    /// Request or stream.
    pub id: u64,
    /// Meaning of the payload.
    pub method: Method,
    /// See the module.
    pub arg: u32,
    /// The rest.
    pub payload: Bytes,
}

/// Appends a frame to `out`.
///
/// # Errors
/// [`Status::Limit`] when the payload is larger than [`PAYLOAD_MAX`].
pub fn encode_into(kind: Kind, id: u64, method: Method, arg: u32, payload: &[u8], out: &mut Vec<u8>) -> Result<()> {
    if payload.len() > PAYLOAD_MAX {
        return Err(Error::new(Status::Limit, format!("a payload of {} bytes exceeds {PAYLOAD_MAX}", payload.len())));
    }
    let mut prelude = [0; PRELUDE];
    prelude[..8].copy_from_slice(&id.to_le_bytes());
    prelude[8..10].copy_from_slice(&method.0.to_le_bytes());
    prelude[12..].copy_from_slice(&arg.to_le_bytes());
    codec::seal_into(kind, &[&prelude, payload], out)
}

fn kind(number: u8) -> Option<Kind> {
    const AFTER_HELLO: [Kind; 11] = [
        Kind::NetRequest,
        Kind::NetResponse,
        Kind::NetFailure,
        Kind::NetCancel,
        Kind::NetOpen,
        Kind::NetItem,
        Kind::NetFinish,
        Kind::NetWindow,
        Kind::NetEvent,
        Kind::NetPing,
        Kind::NetPong,
    ];
    AFTER_HELLO.into_iter().find(|k| *k as u8 == number)
}

fn bad(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Status::DataCorrupt, what)
}

/// Takes the next frame off `input`, or says `None` when it is not all there.
///
/// `cap(kind, id, method)` is the largest payload that is wanted; it is asked as soon as the prelude is there, before room is made
/// for the payload. An error ends the connection: what follows in `input` has no meaning.
///
/// # Errors
/// [`Status::DataCorrupt`], [`Status::DataVersion`], or [`Status::Limit`] for a payload over its cap.
pub fn decode(input: &mut BytesMut, cap: impl FnOnce(Kind, u64, Method) -> usize) -> Result<Option<Frame>> {
    let Some(head) = input.first_chunk::<HEADER>() else { return Ok(None) };
    let head = Head::parse(head)?;
    let kind = kind(head.kind).ok_or_else(|| bad(format!("a frame of unknown kind {}", head.kind)))?;
    if head.length < PRELUDE || head.length > PRELUDE + PAYLOAD_MAX {
        return Err(bad(format!("{kind:?} claims {} bytes", head.length)));
    }
    let Some(prelude) = input.get(HEADER..HEADER + PRELUDE) else { return Ok(None) };
    let (id, rest) = prelude.split_at(8);
    let id = u64::from_le_bytes([id[0], id[1], id[2], id[3], id[4], id[5], id[6], id[7]]);
    let method = Method(u16::from_le_bytes([rest[0], rest[1]]));
    let arg = u32::from_le_bytes([rest[4], rest[5], rest[6], rest[7]]);
    if rest[2..4] != [0, 0] {
        return Err(bad(format!("{kind:?} has bits set that mean nothing")));
    }
    let payload = head.length - PRELUDE;
    let allowed = match kind {
        Kind::NetCancel | Kind::NetFinish | Kind::NetWindow | Kind::NetPing | Kind::NetPong => 0,
        Kind::NetFailure => FAILURE_MAX,
        _ => cap(kind, id, method).min(PAYLOAD_MAX),
    };
    if payload > allowed {
        return Err(Error::new(
            Status::Limit,
            format!("{kind:?} of method {} claims {payload} bytes, at most {allowed} are taken", method.0),
        ));
    }
    let total = HEADER + head.length;
    if input.len() < total {
        return Ok(None);
    }
    if !head.matches(&input[HEADER..total]) {
        return Err(bad(format!("{kind:?}: checksum mismatch")));
    }
    let payload = if payload < COPY_BELOW {
        let copy = Bytes::copy_from_slice(&input[HEADER + PRELUDE..total]);
        input.advance(total);
        copy
    } else {
        input.advance(HEADER + PRELUDE);
        input.split_to(payload).freeze()
    };
    Ok(Some(Frame { kind, id, method, arg, payload }))
}

/// A failure as it travels: status number, token, errno, message.
#[derive(codec::Encode, codec::Decode)]
struct WireError {
    status: i32,
    token: u64,
    message: String,
}

/// The longest message that travels with a failure, in bytes.
const MESSAGE_MAX: usize = 1024;

/// A failure as payload of a frame.
pub fn encode_error(error: &Error) -> Vec<u8> {
    let mut end = error.message().len().min(MESSAGE_MAX);
    while !error.message().is_char_boundary(end) {
        end -= 1;
    }
    let wire = WireError { status: error.status() as i32, token: error.token(), message: error.message()[..end].to_owned() };
    codec::encode(Kind::NetFailure, &wire).unwrap_or_default()
}

/// The failure in a payload. One that cannot be read is itself the failure; a status of a newer version is `Unavailable`, whose
/// flags promise the least.
pub fn decode_error(payload: &[u8]) -> Error {
    match codec::decode::<WireError>(Kind::NetFailure, payload, FAILURE_MAX) {
        Ok(wire) => match Status::from_code(wire.status) {
            Some(Status::Ok) | None => Error::new(Status::Unavailable, format!("status {}: {}", wire.status, wire.message)),
            Some(status) => Error::new(status, wire.message).with_token(wire.token),
        },
        Err(error) => error,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(kind: Kind, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_into(kind, 0x0102, Method(7), 9, payload, &mut out).unwrap();
        out
    }

    #[test]
    fn golden_bytes() {
        let bytes = one(Kind::NetRequest, b"xy");
        assert_eq!(bytes[..8], [0x54, 0x4e, 1, 35, 18, 0, 0, 0]);
        assert_eq!(bytes[8..12], crc32c::crc32c_append(crc32c::crc32c(&bytes[2..8]), &bytes[12..]).to_le_bytes());
        assert_eq!(bytes[12..], [2, 1, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0, b'x', b'y']);
        let error = encode_error(&Error::new(Status::Held, "no").with_token(3));
        assert_eq!(error[12..], [2, 3, 2, b'n', b'o'], "zigzag 1, token 3, the message");
    }

    #[test]
    fn an_oversize_claim_is_refused_before_its_payload_arrives() {
        let bytes = one(Kind::NetRequest, &[0; 100]);
        let mut input = BytesMut::from(&bytes[..HEADER + PRELUDE]);
        let error = decode(&mut input, |_, _, _| 99).unwrap_err();
        assert_eq!(error.status(), Status::Limit);
        assert!(error.message().contains("at most 99"), "{error}");
        assert!(decode(&mut input, |_, _, _| 100).unwrap().is_none());
        let mut huge = bytes[..HEADER].to_vec();
        huge[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(decode(&mut BytesMut::from(&huge[..]), |_, _, _| usize::MAX).is_err());
        let mut cancel = BytesMut::from(&one(Kind::NetCancel, b"x")[..]);
        assert_eq!(decode(&mut cancel, |_, _, _| usize::MAX).unwrap_err().status(), Status::Limit);
    }

    #[test]
    fn hello_frames_end_with_the_handshake() {
        let bytes = one(Kind::NetHello, b"");
        assert_eq!(decode(&mut BytesMut::from(&bytes[..]), |_, _, _| 10).unwrap_err().status(), Status::DataCorrupt);
    }

    #[test]
    fn errors_travel() {
        let error = Error::new(Status::Fenced, "é".repeat(2000)).with_token(77);
        let back = decode_error(&encode_error(&error));
        assert_eq!((back.status(), back.token()), (Status::Fenced, 77));
        assert!(back.message().len() <= MESSAGE_MAX && error.message().starts_with(back.message()));
        assert_eq!(decode_error(b"junk").status(), Status::DataCorrupt);
        let newer = codec::encode(Kind::NetFailure, &WireError { status: 299, token: 0, message: "m".into() }).unwrap();
        assert_eq!(decode_error(&newer).status(), Status::Unavailable);
    }

    proptest! {
        #[test]
        fn frames_survive_any_splitting(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6000), 1..5), step in 1usize..5000) {
            let mut wire = Vec::new();
            for (i, p) in payloads.iter().enumerate() {
                encode_into(Kind::NetItem, i as u64, Method(1), 0, p, &mut wire).unwrap();
            }
            let (mut input, mut seen) = (BytesMut::new(), Vec::new());
            for part in wire.chunks(step) {
                input.extend_from_slice(part);
                while let Some(frame) = decode(&mut input, |_, _, _| 6000).unwrap() {
                    prop_assert_eq!(frame.id, seen.len() as u64);
                    seen.push(frame.payload.to_vec());
                }
            }
            prop_assert_eq!(seen, payloads);
            prop_assert!(input.is_empty());
        }

        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>, head: bool, kind in 30u8..50) {
            let mut input = BytesMut::new();
            if head {
                input.extend_from_slice(&[0x54, 0x4e, 1, kind]);
            }
            input.extend_from_slice(&bytes);
            let before = input.len();
            while let Ok(Some(frame)) = decode(&mut input, |_, _, _| 1 << 20) {
                prop_assert!(frame.payload.len() <= before);
            }
            let _ = decode_error(&bytes);
        }

        #[test]
        fn a_flipped_bit_never_changes_a_frame(payload: Vec<u8>, bit: usize) {
            let mut bytes = one(Kind::NetItem, &payload);
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!matches!(decode(&mut BytesMut::from(&bytes[..]), |_, _, _| 1 << 20), Ok(Some(_))));
        }
    }
}
