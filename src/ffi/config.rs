//! Settings.

use std::ffi::c_char;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::args::{Out, TextOut, text};
use super::guard::{guard, guard_on, guard_or};
use super::log;
use super::table::{self, Object};
use super::types::{tenure_bytes, tenure_config, tenure_error};
use super::version::TENURE_ABI_VERSION;
use crate::base::{Config, Error, Result, Status};

/// Longest setting, and longest configuration text.
const VALUE_MAX: usize = 1 << 16;
const TEXT_MAX: usize = 1 << 20;

/// One thread at a time is the contract; the lock keeps a breach of it harmless.
#[derive(Clone)]
pub(super) struct ConfigObject(Arc<Mutex<Config>>);

impl ConfigObject {
    fn lock(&self) -> MutexGuard<'_, Config> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Object for ConfigObject {
    const TYPE: u8 = 1;
    const NAME: &'static str = "config";
    // A setting is replaced whole or not at all.
    fn poison(&self, _: &str) {}
}

/// The settings that a handle names; those of 0 are the defaults.
pub(super) fn settings(config: tenure_config) -> Result<Config> {
    if config.id == 0 {
        return Ok(Config::new());
    }
    Ok(table::pin::<ConfigObject>(config.id)?.lock().clone())
}

/// Makes a set of settings, all at their defaults. Call the macro tenure_config_new(), which passes the header's ABI version.
///
/// Parameters: abi_version - TENURE_ABI_VERSION; out_config - where the handle goes; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_ABI_MISMATCH when header and library do not fit together; #TENURE_INVALID_ARGUMENT.
/// Memory: free the handle with tenure_config_free(). Threads: any. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_config_new_abi(abi_version: u32, out_config: *mut tenure_config, err: *mut tenure_error) -> i32 {
    guard(err, || {
        log::install_panic_hook();
        let out = Out::required(out_config, "out_config")?;
        if abi_version != TENURE_ABI_VERSION {
            let text = format!("the header is of ABI version {abi_version}, the library of {TENURE_ABI_VERSION}");
            return Err(Error::new(Status::AbiMismatch, text));
        }
        let id = table::insert(ConfigObject(Arc::default()))?;
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(tenure_config { id }) };
        Ok(())
    })
}

/// Sets one setting. docs/configuration.md lists them all.
///
/// Parameters: config; name, value - text; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_UNKNOWN_OPTION; #TENURE_INVALID_ARGUMENT, the old value stays; #TENURE_BAD_HANDLE.
/// Memory: the texts are copied. Threads: one at a time for each handle. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_config_set(config: tenure_config, name: tenure_bytes, value: tenure_bytes, err: *mut tenure_error) -> i32 {
    guard_on(config.id, err, |c: &ConfigObject| {
        // SAFETY: the header asks for readable bytes.
        let (name, value) = unsafe { (text(name, "name", 256)?, text(value, "value", VALUE_MAX)?) };
        c.lock().set(name, value)?;
        Ok(())
    })
}

/// Reads one setting, or its default.
///
/// Parameters: config - 0 for the defaults; name - text; buf, len - the buffer; out_needed - the size needed, with the NUL; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_UNKNOWN_OPTION; #TENURE_INVALID_ARGUMENT;
/// #TENURE_BAD_HANDLE. Memory: the caller's. Threads: one at a time for each handle. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_config_get(
    config: tenure_config,
    name: tenure_bytes,
    buf: *mut c_char,
    len: usize,
    out_needed: *mut usize,
    err: *mut tenure_error,
) -> i32 {
    guard(err, || {
        let out = TextOut::new(buf, len, out_needed)?;
        // SAFETY: the header asks for readable bytes.
        let name = unsafe { text(name, "name", 256)? };
        let settings = settings(config)?;
        // SAFETY: the header asks for a writable buffer.
        unsafe { out.put(settings.get(name)?.as_bytes()) }
    })
}

/// Sets what a text of `name = value` lines says; `#` begins a comment line. All of it or nothing.
///
/// Parameters: config; text - the lines; err - or NULL, its message names the line.
/// Returns: #TENURE_OK; #TENURE_UNKNOWN_OPTION; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE.
/// Memory: the text is copied. Threads: one at a time for each handle. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_config_load(config: tenure_config, lines: tenure_bytes, err: *mut tenure_error) -> i32 {
    guard_on(config.id, err, |c: &ConfigObject| {
        // SAFETY: the header asks for readable bytes.
        let lines = unsafe { text(lines, "lines", TEXT_MAX)? };
        c.lock().load(lines)
    })
}

/// Frees the handle. What was opened with the settings is not affected.
///
/// Parameters: config - also 0, also one that was freed already.
/// Returns: nothing. Threads: any. Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn tenure_config_free(config: tenure_config) {
    guard_or((), || {
        table::remove::<ConfigObject>(config.id);
    });
}
