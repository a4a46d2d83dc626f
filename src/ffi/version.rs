//! Which library this is.

use std::ffi::c_char;

use super::guard::guard_or;

/// Version of the interface between header and library: it changes only when compiled programs would break.
pub const TENURE_ABI_VERSION: u32 = 1;

/// The library's version as a number: major * 1000000 + minor * 1000 + patch. Compare with TENURE_VERSION_NUMBER of the header.
///
/// Returns: the number. Threads: any, also in callbacks and after fork(). Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn tenure_version_number() -> u32 {
    fn part(text: &str) -> u32 {
        text.parse().unwrap_or(0)
    }
    guard_or(0, || {
        part(env!("CARGO_PKG_VERSION_MAJOR")) * 1_000_000
            + part(env!("CARGO_PKG_VERSION_MINOR")) * 1_000
            + part(env!("CARGO_PKG_VERSION_PATCH"))
    })
}

/// The library's version as text, for example "0.1.0".
///
/// Returns: the text, never NULL. Memory: static, not to be freed. Threads: any, also in callbacks and after fork(). Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn tenure_version_string() -> *const c_char {
    guard_or(c"".as_ptr(), || concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast())
}

/// The ABI version that the library was built with. Equal to TENURE_ABI_VERSION of a header that fits.
///
/// Returns: the number. Threads: any, also in callbacks and after fork(). Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn tenure_abi_version() -> u32 {
    guard_or(TENURE_ABI_VERSION, || TENURE_ABI_VERSION)
}
