//! Lock names.

use std::fmt;
use std::hash::{Hash, Hasher};

use bincode::de::{BorrowDecoder, Decoder};
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Decode, Encode};

use super::error::{Error, Result};

/// The longest name, in bytes.
pub const KEY_MAX: usize = 1024;
const INLINE: usize = 22;

/// A lock's name: 1 to [`KEY_MAX`] bytes of any value. Up to 22 bytes are held inline, without an allocation.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE] },
    Heap(Box<[u8]>),
}

impl PartialEq for Repr {
    fn eq(&self, other: &Repr) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Repr {}

impl Repr {
    #[inline]
    fn bytes(&self) -> &[u8] {
        match self {
            Repr::Inline { len, bytes } => &bytes[..usize::from(*len).min(INLINE)],
            Repr::Heap(bytes) => bytes,
        }
    }
}

impl Key {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// [`crate::base::Status::InvalidArgument`] when it is empty or longer than [`KEY_MAX`].
    #[inline]
    pub fn new(name: &[u8]) -> Result<Key> {
        Key::check(name)?;
        Ok(Key(if name.len() <= INLINE {
            let mut bytes = [0; INLINE];
            bytes[..name.len()].copy_from_slice(name);
            Repr::Inline { len: name.len() as u8, bytes }
        } else {
            Repr::Heap(name.into())
        }))
    }

    /// Says whether [`Key::new`] would take this name.
    ///
    /// # Errors
    /// As [`Key::new`].
    #[inline]
    pub fn check(name: &[u8]) -> Result<()> {
        if name.is_empty() || name.len() > KEY_MAX {
            return Err(Error::invalid("key", format_args!("length {} is not in 1..={KEY_MAX} bytes", name.len())));
        }
        Ok(())
    }

    /// A name that is held inline as three words, never all zero, that no other name has; `None` for a longer one.
    #[inline]
    pub fn words(&self) -> Option<[u64; 3]> {
        let Repr::Inline { len, bytes: b } = &self.0 else { return None };
        let low = u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
        let middle = u64::from_le_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]);
        let high = u64::from(u32::from_le_bytes([b[16], b[17], b[18], b[19]])) | u64::from(u16::from_le_bytes([b[20], b[21]])) << 32;
        Some([low, middle, high | u64::from(*len) << 56])
    }

    /// The name whose [`Key::words`] these are.
    pub fn from_words(words: [u64; 3]) -> Key {
        let mut bytes = [0; INLINE];
        for (byte, at) in bytes.iter_mut().zip(0..) {
            *byte = (words[at / 8] >> (at % 8 * 8)) as u8;
        }
        Key(Repr::Inline { len: ((words[2] >> 56) as u8).min(INLINE as u8), bytes })
    }

    /// The name's bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

/// As text, with everything that is not printable ASCII escaped, cut to 256 characters: fit for logs.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.as_bytes().escape_ascii().to_string();
        match text.get(..256) {
            Some(cut) if text.len() > 256 => write!(f, "{cut}..."),
            _ => f.write_str(&text),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Encode for Key {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> std::result::Result<(), EncodeError> {
        self.as_bytes().encode(encoder)
    }
}

impl<C> Decode<C> for Key {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> std::result::Result<Key, DecodeError> {
        let bytes = Vec::<u8>::decode(decoder)?;
        Key::new(&bytes).map_err(|e| DecodeError::OtherString(e.message().to_owned()))
    }
}

impl<'de, C> BorrowDecode<'de, C> for Key {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(decoder: &mut D) -> std::result::Result<Key, DecodeError> {
        Key::decode(decoder)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_names_behave_alike() {
        for len in [1, INLINE, INLINE + 1, KEY_MAX] {
            let name = vec![b'x'; len];
            assert_eq!(Key::new(&name).unwrap().as_bytes(), name);
        }
        assert!(Key::new(b"").is_err());
        assert!(Key::new(&vec![0; KEY_MAX + 1]).is_err());
        assert_eq!(size_of::<Key>(), 24);
    }

    #[test]
    fn words_are_the_name() {
        let names: [&[u8]; 6] = [b"a", b"a\0", b"\0", b"0123456789abcdef", b"0123456789abcdef0", &[0xff; INLINE]];
        for (i, name) in names.iter().enumerate() {
            let words = Key::new(name).unwrap().words().unwrap();
            assert_eq!(Key::from_words(words).as_bytes(), *name);
            assert!(names[..i].iter().all(|other| Key::new(other).unwrap().words() != Some(words)));
        }
        assert_eq!(Key::new(&[1; INLINE + 1]).unwrap().words(), None);
    }

    #[test]
    fn names_are_escaped_for_people() {
        assert_eq!(Key::new(b"a\r\n\x1b[31m\xff").unwrap().to_string(), "a\\r\\n\\x1b[31m\\xff");
    }
}
