//! Epochs at a resource.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::args::{Out, bytes, text};
use super::guard::{guard, guard_clone, guard_on, guard_or};
use super::log;
use super::table::{self, Object};
use super::types::{tenure_bytes, tenure_epoch_fence, tenure_epoch_pass, tenure_epoch_record, tenure_error};
use crate::base::{Error, Result};
use crate::fence::{self, EpochFence, Pass};

/// Longest path.
const PATH_MAX: usize = 4096;
/// Longest record that is looked at, and longest name of a resource.
const TEXT_MAX: usize = 1024;

#[derive(Clone)]
struct FenceObject(EpochFence);

impl Object for FenceObject {
    const TYPE: u8 = 20;
    const NAME: &'static str = "epoch fence";
    fn poison(&self, _why: &str) {}
}

struct PassObject(#[allow(dead_code)] Pass);

impl Object for PassObject {
    const TYPE: u8 = 21;
    const NAME: &'static str = "epoch pass";
    fn poison(&self, _why: &str) {}
}

/// # Safety
/// As [`bytes`].
unsafe fn path<'a>(given: tenure_bytes) -> Result<&'a Path> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { bytes(given, "path", PATH_MAX)? };
    if bytes.is_empty() || bytes.contains(&0) {
        return Err(Error::invalid("path", "is empty or holds a NUL"));
    }
    Ok(Path::new(OsStr::from_bytes(bytes)))
}

/// For a resource with transactions of its own: whether a write under `epoch` may be done, given the record of the epochs before, and the
/// record to be stored in the same transaction as the write. Read `stored` in that transaction, or under a lock that every writer takes.
///
/// Parameters: stored - what was stored last; empty when nothing ever was; epoch - of the write, from its permit or record; out_record - what
/// to store; out_raised - whether it has to be stored, or NULL; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_FENCED when a higher epoch was admitted, which is err->token: do not write; #TENURE_DATA_CORRUPT when `stored`
/// is no record: do not write; #TENURE_INVALID_ARGUMENT, also for an epoch outside 1 to 2^63 - 1.
/// Memory: nothing is kept. Threads: any, also in callbacks; never waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_epoch_admit(
    stored: tenure_bytes,
    epoch: u64,
    out_record: *mut tenure_epoch_record,
    out_raised: *mut bool,
    err: *mut tenure_error,
) -> i32 {
    guard(err, || {
        let record = Out::required(out_record, "out_record")?;
        let raised = Out::optional(out_raised, "out_raised")?;
        // SAFETY: the header asks for readable bytes.
        let stored = unsafe { bytes(stored, "stored", TEXT_MAX)? };
        let admission = fence::admit(stored, epoch)?;
        // SAFETY: the header asks for writable places, or NULL for the second.
        unsafe {
            record.set(tenure_epoch_record { bytes: admission.record });
            raised.set(admission.raised);
        }
        Ok(())
    })
}

/// The epoch in a record that tenure_epoch_admit() has made.
///
/// Parameters: stored - the record; empty gives 0; out_epoch - where it goes; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_DATA_CORRUPT; #TENURE_INVALID_ARGUMENT.
/// Memory: nothing is kept. Threads: any, also in callbacks; never waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_epoch_read(stored: tenure_bytes, out_epoch: *mut u64, err: *mut tenure_error) -> i32 {
    guard(err, || {
        let out = Out::required(out_epoch, "out_epoch")?;
        // SAFETY: the header asks for readable bytes.
        let stored = unsafe { bytes(stored, "stored", TEXT_MAX)? };
        let epoch = fence::read(stored)?;
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(epoch) };
        Ok(())
    })
}

/// Makes the file of a fence, for a resource without transactions. Once, when the resource itself is made: a fence that came into being by
/// itself would have forgotten every epoch.
///
/// Parameters: path - of the file, in a directory that exists; a file `<path>.lock` is kept beside it; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_MISUSE when the file exists; #TENURE_DATA_LOCKED; #TENURE_INVALID_ARGUMENT; #TENURE_IO;
/// #TENURE_WOULD_DEADLOCK in a callback. Memory: nothing is kept. Threads: any; waits for the disk. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_epoch_fence_create(path: tenure_bytes, err: *mut tenure_error) -> i32 {
    guard(err, || {
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        EpochFence::create(unsafe { self::path(path)? })
    })
}

/// Opens the fence in a file that tenure_epoch_fence_create() has made. One process at a time has it open.
///
/// Parameters: path; out_fence - where the handle goes; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_DATA_LOST when there is no file: none is made in its place; #TENURE_DATA_CORRUPT; #TENURE_DATA_VERSION;
/// #TENURE_DATA_LOCKED when somebody has it open; #TENURE_INVALID_ARGUMENT; #TENURE_IO; #TENURE_LIMIT; #TENURE_WOULD_DEADLOCK in a callback.
/// Memory: free the handle with tenure_epoch_fence_free(). Threads: any; waits for the disk. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_epoch_fence_open(path: tenure_bytes, out_fence: *mut tenure_epoch_fence, err: *mut tenure_error) -> i32 {
    guard(err, || {
        let out = Out::required(out_fence, "out_fence")?;
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        let fence = EpochFence::open(unsafe { self::path(path)? })?;
        let id = table::insert(FenceObject(fence))?;
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(tenure_epoch_fence { id }) };
        Ok(())
    })
}

/// The highest epoch that was admitted to a resource; 0 for none.
///
/// Parameters: fence; resource - its name, at most 256 bytes of UTF-8, also none; out_epoch - where it goes; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_POISONED once a write of the file has failed; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: nothing is kept. Threads: any, also in callbacks. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_epoch_fence_highest(
    fence: tenure_epoch_fence,
    resource: tenure_bytes,
    out_epoch: *mut u64,
    err: *mut tenure_error,
) -> i32 {
    guard_on(fence.id, err, |f: &FenceObject| {
        let out = Out::required(out_epoch, "out_epoch")?;
        // SAFETY: the header asks for readable bytes.
        let epoch = f.0.highest(unsafe { text(resource, "resource", TEXT_MAX)? })?;
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(epoch) };
        Ok(())
    })
}

/// Lets a write under `epoch` begin; it is under way until tenure_epoch_pass_free(). An epoch higher than all before is durable before
/// this returns, lower ones are refused from then on, and its first pass is given when the passes of lower ones are freed: checking the
/// epoch and writing are one step.
///
/// Parameters: fence; resource - its name, at most 256 bytes of UTF-8, also none; epoch - 1 to 2^63 - 1; timeout_ms - how long to wait for writes of
/// lower epochs; out_pass - where the handle goes; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_FENCED when a higher epoch was admitted, which is err->token: do not write; #TENURE_TIMEOUT when writes of lower
/// epochs are under way, which are the last ones; #TENURE_LIMIT for too many resources or handles; #TENURE_IO when the epoch cannot be made
/// durable, and #TENURE_POISONED from then on; #TENURE_INVALID_ARGUMENT; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: free the pass. Threads: any; waits for the disk when the epoch is new. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_epoch_fence_enter(
    fence: tenure_epoch_fence,
    resource: tenure_bytes,
    epoch: u64,
    timeout_ms: u64,
    out_pass: *mut tenure_epoch_pass,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(fence.id, err, |f: FenceObject| {
        let out = Out::required(out_pass, "out_pass")?;
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        let resource = unsafe { text(resource, "resource", TEXT_MAX)? };
        let pass = f.0.enter(resource, epoch, Duration::from_millis(timeout_ms))?;
        let id = table::insert(PassObject(pass))?;
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(tenure_epoch_pass { id }) };
        Ok(())
    })
}

/// The write that was let in is over, done or not.
///
/// Parameters: pass - also 0, also one that was freed already.
/// Returns: nothing. Threads: any, also in callbacks; never waits. In a forked child it does nothing. Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn tenure_epoch_pass_free(pass: tenure_epoch_pass) {
    guard_or((), || {
        table::remove::<PassObject>(pass.id);
    });
}

/// Frees the handle. The file is unlocked when the passes of this fence are freed as well.
///
/// Parameters: fence - also 0, also one that was freed already. Other threads may be inside calls on it.
/// Returns: nothing. Threads: any, also in callbacks; never waits. In a forked child it does nothing. Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn tenure_epoch_fence_free(fence: tenure_epoch_fence) {
    guard_or((), || {
        table::remove::<FenceObject>(fence.id);
    });
}
