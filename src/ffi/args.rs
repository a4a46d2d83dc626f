//! What comes in from C is looked at here before anything is done with it; what goes out is written only after success.

use std::ffi::{c_char, c_void};
use std::time::Duration;

use super::types::{TENURE_FOREVER, tenure_bytes};
use crate::base::{Error, Result, Status};

impl tenure_bytes {
    pub(super) fn of(bytes: &[u8]) -> tenure_bytes {
        tenure_bytes { ptr: bytes.as_ptr().cast(), len: bytes.len() }
    }
}

/// The bytes of an argument, at most `max` of them.
///
/// # Safety
/// `given` must be `{NULL, 0}` or name readable memory that stays as it is for `'a`. Its length is checked before it is read.
#[inline]
pub(super) unsafe fn bytes<'a>(given: tenure_bytes, name: &str, max: usize) -> Result<&'a [u8]> {
    if given.len > max {
        return Err(too_long(name, given.len, max));
    }
    if given.len == 0 {
        return Ok(&[]);
    }
    if given.ptr.is_null() {
        return Err(refused(name, "ptr is NULL and len is not 0"));
    }
    // SAFETY: the caller's promise; `max` is far below isize::MAX.
    Ok(unsafe { std::slice::from_raw_parts(given.ptr.cast::<u8>(), given.len) })
}

/// As [`bytes`], for text.
///
/// # Safety
/// As [`bytes`].
pub(super) unsafe fn text<'a>(given: tenure_bytes, name: &str, max: usize) -> Result<&'a str> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { bytes(given, name, max)? };
    std::str::from_utf8(bytes).map_err(|e| Error::invalid(name, e))
}

/// An out parameter: checked when the call begins, written when it has succeeded.
pub(super) struct Out<T>(*mut T);

// SAFETY: the caller lends the place to the call, whichever thread runs it.
unsafe impl<T: Send> Send for Out<T> {}

impl<T> Out<T> {
    /// For a place that must be given.
    #[inline]
    pub(super) fn required(place: *mut T, name: &str) -> Result<Out<T>> {
        if place.is_null() {
            return Err(refused(name, "is NULL"));
        }
        Out::optional(place, name)
    }

    /// For a place that may be NULL.
    #[inline]
    pub(super) fn optional(place: *mut T, name: &str) -> Result<Out<T>> {
        if !place.is_aligned() {
            return Err(refused(name, "is misaligned"));
        }
        Ok(Out(place))
    }

    /// What is there; `None` for NULL.
    ///
    /// # Safety
    /// The place that this was made of must hold a value, or be NULL.
    pub(super) unsafe fn get(&self) -> Option<T>
    where
        T: Copy,
    {
        // SAFETY: checked for alignment; the rest is the caller's promise.
        (!self.0.is_null()).then(|| unsafe { self.0.read() })
    }

    /// Writes the result.
    ///
    /// # Safety
    /// The place that this was made of must be writable, or NULL.
    #[inline]
    pub(super) unsafe fn set(self, value: T) {
        if !self.0.is_null() {
            // SAFETY: the caller's promise; alignment was checked.
            unsafe { self.0.write(value) };
        }
    }
}

/// Where text goes: the caller's buffer and the place for the size needed.
pub(super) struct TextOut {
    buffer: *mut c_char,
    len: usize,
    needed: Out<usize>,
}

impl TextOut {
    #[inline]
    pub(super) fn new(buffer: *mut c_char, len: usize, needed: *mut usize) -> Result<TextOut> {
        if buffer.is_null() && len != 0 {
            return Err(Error::invalid("buf", "is NULL and len is not 0"));
        }
        if needed.is_null() && len == 0 {
            return Err(Error::invalid("out_needed", "is NULL and there is no buffer"));
        }
        Ok(TextOut { buffer, len, needed: Out::optional(needed, "out_needed")? })
    }

    /// Writes the text and a NUL, or, when that does not fit, only the size needed.
    ///
    /// # Safety
    /// The pointers that this was made of must be writable for what they were said to be.
    pub(super) unsafe fn put(self, text: &[u8]) -> Result<()> {
        let needed = text.len() + 1;
        // SAFETY: the caller's promise.
        unsafe { self.needed.set(needed) };
        if needed > self.len {
            return Err(Error::new(Status::BufferTooSmall, format!("buf: {} bytes are needed, {} are given", needed, self.len)));
        }
        // SAFETY: the buffer has `len >= needed` bytes; text of ours does not overlap it.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), self.buffer.cast(), text.len());
            self.buffer.add(text.len()).write(0);
        }
        Ok(())
    }
}

/// What a callback is given back.
#[derive(Clone, Copy)]
pub(super) struct User(pub(super) *mut c_void);

// SAFETY: the library only passes the value through; what it points to is the host's affair, as the header says.
unsafe impl Send for User {}
// SAFETY: as above.
unsafe impl Sync for User {}

impl User {
    /// A method, so that closures capture the whole and not the pointer in it.
    pub(super) fn get(&self) -> *mut c_void {
        self.0
    }
}

/// A timeout of the C interface: none for [`TENURE_FOREVER`].
pub(super) fn timeout(ms: u64) -> Option<Duration> {
    (ms != TENURE_FOREVER).then(|| Duration::from_millis(ms))
}

/// What is left of a time, in whole milliseconds; 0 only when nothing is left.
pub(super) fn ms_up(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// A size-prefixed struct: as much of it as both sides know, after checks; `empty` stands for what the caller does not know.
///
/// # Safety
/// `given` must point to at least as many readable bytes as its first field says.
#[inline]
pub(super) unsafe fn sized<T: Copy>(given: *const T, name: &str, first_version: usize, empty: T) -> Result<T> {
    if !given.is_aligned() {
        return Err(refused(name, "is misaligned"));
    }
    // SAFETY: every struct of this kind begins with its size; the caller's promise.
    let size = unsafe { given.cast::<u32>().read() } as usize;
    if size == size_of::<T>() {
        // SAFETY: aligned, and the caller says that all of it is there.
        return Ok(unsafe { given.read() });
    }
    // SAFETY: the caller's promise.
    unsafe { of_other_size(given, size, name, first_version, empty) }
}

/// # Safety
/// As [`sized`], of which it is the rest.
#[cold]
unsafe fn of_other_size<T: Copy>(given: *const T, size: usize, name: &str, first_version: usize, empty: T) -> Result<T> {
    if size < first_version || size > 4096 {
        return Err(Error::invalid(name, format_args!("struct_size {size} is not in {first_version}..=4096")));
    }
    let known = size.min(size_of::<T>());
    let mut copy = empty;
    // SAFETY: `known` bytes are readable there and writable here; T is plain data.
    unsafe { std::ptr::copy_nonoverlapping(given.cast::<u8>(), (&raw mut copy).cast::<u8>(), known) };
    // SAFETY: the caller says that `size` bytes are there.
    let rest = unsafe { std::slice::from_raw_parts(given.cast::<u8>().add(known), size - known) };
    if rest.iter().any(|b| *b != 0) {
        return Err(Error::invalid(name, "sets a field that this library does not know"));
    }
    Ok(copy)
}

/// Fields kept for later must be zero, so that they can be given a meaning.
#[inline]
pub(super) fn reserved(name: &str, values: &[u64]) -> Result<()> {
    if values.iter().any(|v| *v != 0) { Err(refused(name, "a reserved field is not 0")) } else { Ok(()) }
}

// Kept out of the way of calls that have nothing wrong with them.
#[cold]
fn refused(name: &str, why: &str) -> Error {
    Error::invalid(name, why)
}

#[cold]
fn too_long(name: &str, len: usize, max: usize) -> Error {
    Error::invalid(name, format_args!("{len} bytes are above {max}"))
}
