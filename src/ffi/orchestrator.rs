//! The maintenance orchestrator: schedules, runs, and what is asked of them.

use std::ffi::c_char;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::args::{Out, TextOut, sized, text};
use super::guard::{guard_clone, guard_or};
use super::log;
use super::node::{NodeObject, json};
use super::table::{self, Object};
use super::types::{tenure_bytes, tenure_error, tenure_node};
use crate::base::{Result, process};
use std::sync::Arc;

use super::service::{EMPTY, FIRST, Service, tenure_lock_service};
use crate::node::orchestrator::{Orchestrator, OrchestratorOptions, RunNow};
use crate::plug::LockService;

/// An orchestrator. 0 names none. Any thread may use it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tenure_orchestrator {
    /// Opaque.
    pub id: u64,
}

/// Instead of a revision: whatever there is.
pub const TENURE_ANY_REVISION: u64 = u64::MAX;
/// Instead of an instant: never.
pub const TENURE_NEVER: i64 = i64::MAX;

const _: () = assert!(TENURE_NEVER == i64::MAX && TENURE_ANY_REVISION == u64::MAX);

/// Longest JSON that is looked at, bytes.
const JSON_MAX: usize = 1 << 20;
/// Longest name, id, key or note.
const NAME_MAX: usize = 1024;

#[derive(Clone)]
pub(super) struct OrchestratorObject(pub(super) Orchestrator);

impl Object for OrchestratorObject {
    const TYPE: u8 = 23;
    const NAME: &'static str = "orchestrator";
    fn poison(&self, why: &str) {
        self.0.poison_node(why);
    }
}

/// # Safety
/// As [`text`].
unsafe fn id<'a>(given: tenure_bytes) -> Result<&'a str> {
    // SAFETY: the caller's promise.
    unsafe { text(given, "schedule", NAME_MAX) }
}

/// Makes an orchestrator that works under the node's name. The same schedules are everybody's who is connected to the node's ledger: each
/// tick is started once, on one of the orchestrators that have handlers for it.
///
/// Parameters: node; options - JSON, or empty: `{"labels": {"name": "value"}, "version": 0, "capacity": 0, "drive": true, "ramp_up_ms": 30000,
/// "lock_only": false, "wall_offset_ms": 0}`, see docs/orchestrator.md; out_orchestrator - where the handle goes; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT naming the option; #TENURE_MISUSE for a node over a lock service of the host's; #TENURE_IO;
/// #TENURE_LIMIT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: end it with tenure_orchestrator_close(), free the handle with tenure_orchestrator_free(). Threads: any. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_orchestrator_open(
    node: tenure_node,
    options: tenure_bytes,
    out_orchestrator: *mut tenure_orchestrator,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(node.id, err, |n: NodeObject| {
        let out = Out::required(out_orchestrator, "out_orchestrator")?;
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        let options = OrchestratorOptions::from_json(unsafe { text(options, "options", JSON_MAX)? })?;
        let object = OrchestratorObject(n.node.orchestrator(options)?);
        let id = table::insert(object)?;
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(tenure_orchestrator { id }) };
        Ok(())
    })
}

/// Ends it: it takes no more work, and its handlers are told to stop. Closing twice is no error.
///
/// Parameters: orchestrator; timeout_ms - how long to wait for handlers; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_TIMEOUT when some did not end in time: it is closed all the same, their runs are lost when their leases end, and they
/// may go on to use what they use; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: the handle stays until tenure_orchestrator_free(). Threads: any, but none of a handler; waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_orchestrator_close(orchestrator: tenure_orchestrator, timeout_ms: u64, err: *mut tenure_error) -> i32 {
    guard_clone(orchestrator.id, err, |o: OrchestratorObject| {
        log::check_may_wait()?;
        o.0.close(Duration::from_millis(timeout_ms))
    })
}

/// Frees the handle. An orchestrator that was not closed ends without being waited for: its runs are lost when their leases end.
///
/// Parameters: orchestrator - also 0, also one that was freed already. Other threads may be inside calls on it.
/// Returns: nothing. Threads: any, also in callbacks and handlers; never waits. In a forked child it does nothing. Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn tenure_orchestrator_free(orchestrator: tenure_orchestrator) {
    guard_or((), || {
        table::remove::<OrchestratorObject>(orchestrator.id);
    });
}

/// Writes a schedule.
///
/// Parameters: orchestrator; schedule - JSON, see docs/orchestrator.md; expected - the revision that it replaces, 0 when there must be none, or
/// TENURE_ANY_REVISION; out_revision - where the new one goes, or NULL; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT naming the field; #TENURE_FENCED when `expected` is not the present revision, which is err->token;
/// #TENURE_LIMIT; #TENURE_UNAVAILABLE; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_orchestrator_put(
    orchestrator: tenure_orchestrator,
    schedule: tenure_bytes,
    expected: u64,
    out_revision: *mut u64,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(orchestrator.id, err, |o: OrchestratorObject| {
        let out = Out::optional(out_revision, "out_revision")?;
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        let schedule = unsafe { text(schedule, "schedule", JSON_MAX)? };
        let revision = o.0.put_json(schedule, revision(expected))?;
        // SAFETY: the header asks for a writable place or NULL.
        unsafe { out.set(revision) };
        Ok(())
    })
}

fn revision(expected: u64) -> Option<u64> {
    (expected != TENURE_ANY_REVISION).then_some(expected)
}

/// As tenure_orchestrator_put(), of a schedule in the JSON of ThemisDB's maintenance orchestrator: its field names, its rules.
///
/// Parameters: orchestrator; schedule; expected; out_revision - or NULL; err - or NULL.
/// Returns: as tenure_orchestrator_put(). Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_orchestrator_put_themis(
    orchestrator: tenure_orchestrator,
    schedule: tenure_bytes,
    expected: u64,
    out_revision: *mut u64,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(orchestrator.id, err, |o: OrchestratorObject| {
        let out = Out::optional(out_revision, "out_revision")?;
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        let schedule = unsafe { text(schedule, "schedule", JSON_MAX)? };
        let revision = o.0.put_themis(schedule, revision(expected))?;
        // SAFETY: the header asks for a writable place or NULL.
        unsafe { out.set(revision) };
        Ok(())
    })
}

/// Replaces a schedule, given in the JSON of ThemisDB's maintenance orchestrator; its id, and who created it, stay as they are.
///
/// Parameters: orchestrator; schedule - its id; text - the new one; out_revision - or NULL; err - or NULL.
/// Returns: as tenure_orchestrator_patch_themis(). Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster.
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_orchestrator_replace_themis(
    orchestrator: tenure_orchestrator,
    schedule: tenure_bytes,
    text: tenure_bytes,
    out_revision: *mut u64,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(orchestrator.id, err, |o: OrchestratorObject| {
        let out = Out::optional(out_revision, "out_revision")?;
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        let (schedule, text) = unsafe { (id(schedule)?, super::args::text(text, "text", JSON_MAX)?) };
        let revision = o.0.replace_themis(schedule, text)?;
        // SAFETY: the header asks for a writable place or NULL.
        unsafe { out.set(revision) };
        Ok(())
    })
}

/// Changes those fields of a schedule that are given, in the JSON of ThemisDB's maintenance orchestrator.
///
/// Parameters: orchestrator; schedule - its id; patch - JSON; out_revision - or NULL; err - or NULL.
/// Returns: as tenure_orchestrator_put(); #TENURE_FENCED when somebody else wrote it at the same time.
/// Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_orchestrator_patch_themis(
    orchestrator: tenure_orchestrator,
    schedule: tenure_bytes,
    patch: tenure_bytes,
    out_revision: *mut u64,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(orchestrator.id, err, |o: OrchestratorObject| {
        let out = Out::optional(out_revision, "out_revision")?;
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        let (schedule, patch) = unsafe { (id(schedule)?, text(patch, "patch", JSON_MAX)?) };
        let revision = o.0.patch_themis(schedule, patch)?;
        // SAFETY: the header asks for a writable place or NULL.
        unsafe { out.set(revision) };
        Ok(())
    })
}

/// Removes a schedule with its history; its runs are cancelled.
///
/// Parameters: orchestrator; schedule - its id; expected - its revision, or TENURE_ANY_REVISION; err - or NULL.
/// Returns: as tenure_orchestrator_put(); #TENURE_INVALID_ARGUMENT when there is none.
/// Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_orchestrator_remove(
    orchestrator: tenure_orchestrator,
    schedule: tenure_bytes,
    expected: u64,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(orchestrator.id, err, |o: OrchestratorObject| {
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        o.0.remove(unsafe { id(schedule)? }, revision(expected))
    })
}

/// Switches a schedule on or off. Ticks while it was off are not made up for.
///
/// Parameters: orchestrator; schedule - its id; enabled; err - or NULL.
/// Returns: as tenure_orchestrator_remove(). Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_orchestrator_enable(
    orchestrator: tenure_orchestrator,
    schedule: tenure_bytes,
    enabled: bool,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(orchestrator.id, err, |o: OrchestratorObject| {
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        o.0.enable(unsafe { id(schedule)? }, enabled)
    })
}

/// Starts nothing more of a schedule, or of all, until an instant. Runs go on.
///
/// Parameters: orchestrator; schedule - its id; empty for all; note - for people, at most 1024 bytes; until_ms - ms since 1970 UTC, or TENURE_NEVER;
/// err - or NULL.
/// Returns: as tenure_orchestrator_remove(). Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_orchestrator_pause(
    orchestrator: tenure_orchestrator,
    schedule: tenure_bytes,
    note: tenure_bytes,
    until_ms: i64,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(orchestrator.id, err, |o: OrchestratorObject| {
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        let (schedule, note) = unsafe { (id(schedule)?, text(note, "note", NAME_MAX)?) };
        o.0.pause((!schedule.is_empty()).then_some(schedule), note, until_ms)
    })
}

/// Ends a pause; what was missed is treated by the schedule's misfire policy.
///
/// Parameters: orchestrator; schedule - its id; empty ends the pause of all; err - or NULL.
/// Returns: as tenure_orchestrator_remove(). Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_orchestrator_unpause(
    orchestrator: tenure_orchestrator,
    schedule: tenure_bytes,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(orchestrator.id, err, |o: OrchestratorObject| {
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        let schedule = unsafe { id(schedule)? };
        o.0.unpause((!schedule.is_empty()).then_some(schedule))
    })
}

/// Sets how much there is of a cluster-wide semaphore; runs that have of it keep it.
///
/// Parameters: orchestrator; name - of the budget; limit - 0 removes it; err - or NULL.
/// Returns: as tenure_orchestrator_put(). Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_orchestrator_set_budget(
    orchestrator: tenure_orchestrator,
    name: tenure_bytes,
    limit: u32,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(orchestrator.id, err, |o: OrchestratorObject| {
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        o.0.set_budget(unsafe { text(name, "name", NAME_MAX)? }, limit)
    })
}

/// Asks for a run now, from any node. It is made at once, and started by whoever can do it.
///
/// Parameters: orchestrator; schedule - its id; how - JSON, or empty: `{"target": "", "key": "", "force": false, "tick_ms": null, "params": null}`; with
/// one key it is one run, however often it is asked for; force: windows are of no account (blackouts, pauses, overlap, budgets and locks are); out_run - where its number goes;
/// err - or NULL.
/// Returns: as tenure_orchestrator_remove(). Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_orchestrator_run_now(
    orchestrator: tenure_orchestrator,
    schedule: tenure_bytes,
    how: tenure_bytes,
    out_run: *mut u64,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(orchestrator.id, err, |o: OrchestratorObject| {
        let out = Out::required(out_run, "out_run")?;
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        let (schedule, how) = unsafe { (id(schedule)?, text(how, "how", JSON_MAX)?) };
        let run = o.0.run_now(schedule, &RunNow::from_json(how)?)?;
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(run) };
        Ok(())
    })
}

/// Asks for a run of each tick in a range; asked again, it makes none twice that the history remembers.
///
/// Parameters: orchestrator; schedule - its id; target - empty for a singleton; from_ms, to_ms - ms since 1970 UTC, both included; out_count - how many
/// runs these are, or NULL; err - or NULL.
/// Returns: as tenure_orchestrator_remove(); #TENURE_INVALID_ARGUMENT for more than 10000 ticks.
/// Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_orchestrator_backfill(
    orchestrator: tenure_orchestrator,
    schedule: tenure_bytes,
    target: tenure_bytes,
    from_ms: i64,
    to_ms: i64,
    out_count: *mut u64,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(orchestrator.id, err, |o: OrchestratorObject| {
        let out = Out::optional(out_count, "out_count")?;
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        let (schedule, target) = unsafe { (id(schedule)?, text(target, "target", NAME_MAX)?) };
        let runs = o.0.backfill(schedule, target, from_ms, to_ms)?;
        // SAFETY: the header asks for a writable place or NULL.
        unsafe { out.set(runs.len() as u64) };
        Ok(())
    })
}

/// Asks a run to stop, from any node. One that waits ends at once.
///
/// Parameters: orchestrator; run - its number; reason - for people, at most 1024 bytes; err - or NULL.
/// Returns: as tenure_orchestrator_put(); #TENURE_INVALID_ARGUMENT when there is none of that number that goes on.
/// Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_orchestrator_cancel(
    orchestrator: tenure_orchestrator,
    run: u64,
    reason: tenure_bytes,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(orchestrator.id, err, |o: OrchestratorObject| {
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        o.0.cancel(run, unsafe { text(reason, "reason", NAME_MAX)? })
    })
}

/// Sets the lock that is taken round each run on this node, as ThemisDB's setDistributedLock() does: a run that does not get it is skipped, and
/// its history names the peer. Ticks are claimed as ever, but for an orchestrator with the option `lock_only`. Runs that go on keep the lock that they have.
///
/// Parameters: orchestrator; service - copied; NULL for no lock; of its functions try_acquire, release and holder are called; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT as tenure_node_open_with_service(); #TENURE_CLOSED; #TENURE_POISONED; #TENURE_BAD_HANDLE;
/// #TENURE_FORKED.
/// Memory: `user` is the library's from success until it calls `free`, and stays the caller's otherwise. Threads: any. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_orchestrator_set_lock(
    orchestrator: tenure_orchestrator,
    service: *const tenure_lock_service,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(orchestrator.id, err, |o: OrchestratorObject| {
        if service.is_null() {
            return o.0.set_distributed_lock(None);
        }
        process::watch_forks();
        // SAFETY: the header asks for a readable struct of its stated size.
        let service = unsafe { Service::new(&sized(service, "service", FIRST, EMPTY)?)? };
        let taken = service.taken.clone();
        let service: Arc<dyn LockService> = Arc::new(service);
        o.0.set_distributed_lock(Some(service.clone()))?;
        taken.store(true, SeqCst);
        Ok(())
    })
}

/// Answers a question with JSON. It may grow between two calls: go on until it fits.
///
/// Parameters: orchestrator; what - one of: `schedule` (name: its id; null when there is none), `schedules` (those after name, at most number),
/// `history` (name, the latest number lines), `run` (number), `runs` (at most number that go on), `next` (name, the next number ticks, ms since 1970
/// UTC), `themis` (name: a schedule in ThemisDB's form), `themis_list` (name: a tenant, or empty for
/// all), `themis_job` (number), `themis_jobs` (number: 1 for those that go on), `status`, `health`, `handlers`; name; number; buf, len - the buffer;
/// out_needed - the size needed, with the NUL; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; otherwise as tenure_orchestrator_remove().
/// Memory: the caller's. Threads: any; waits for the cluster. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_orchestrator_ask(
    orchestrator: tenure_orchestrator,
    what: tenure_bytes,
    name: tenure_bytes,
    number: u64,
    buf: *mut c_char,
    len: usize,
    out_needed: *mut usize,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(orchestrator.id, err, |o: OrchestratorObject| {
        let out = TextOut::new(buf, len, out_needed)?;
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        let (what, name) = unsafe { (text(what, "what", NAME_MAX)?, text(name, "name", NAME_MAX)?) };
        let answer = json(&o.0.ask_about(what, name, number)?)?;
        // SAFETY: the header asks for a writable buffer.
        unsafe { out.put(&answer) }
    })
}
