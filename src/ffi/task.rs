//! Handlers of tasks, and what they are given.

use std::ffi::{c_char, c_void};
use std::sync::Arc;
use std::time::Duration;

use super::args::{Out, TextOut, bytes, ms_up, text};
use super::guard::{guard_clone, guard_on, guard_or};
use super::host::Host;
use super::log;
use super::orchestrator::{OrchestratorObject, tenure_orchestrator};
use super::table::{self, Object};
use super::types::{tenure_bytes, tenure_error};
use crate::base::{Error, Result, Status};
use crate::node::orchestrator::{Handler, Stop, TaskContext, TaskResult};

/// Longest kind and message that are looked at.
const TEXT_MAX: usize = 4096;
/// Longest checkpoint.
const CHECKPOINT_MAX: usize = 64 << 10;

/// One try of one task. 0 names none. Any thread may use it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tenure_task {
    /// Opaque.
    pub id: u64,
}

/// Why a handler is to stop.
#[repr(i32)]
pub enum tenure_stop {
    /// It is not.
    No = 0,
    /// Somebody cancelled the run.
    Cancelled = 1,
    /// Its time is over.
    TimedOut = 2,
    /// Its window closes.
    WindowClosed = 3,
    /// The attempt's lease is over: another attempt may run.
    Lost = 4,
    /// The orchestrator closes.
    Closing = 5,
    /// Another task of the run has failed, and the schedule halts then.
    Halted = 6,
}

fn plain_stop(why: Stop) -> i32 {
    (match why {
        Stop::No => tenure_stop::No,
        Stop::Cancelled => tenure_stop::Cancelled,
        Stop::TimedOut => tenure_stop::TimedOut,
        Stop::WindowClosed => tenure_stop::WindowClosed,
        Stop::Lost => tenure_stop::Lost,
        Stop::Closing => tenure_stop::Closing,
        Stop::Halted => tenure_stop::Halted,
    }) as i32
}

/// tenure_orchestrator_register(): the handler returns at once and keeps the task, which ends with tenure_task_finish().
pub const TENURE_TASK_DEFERRED: u32 = 1;

/// Does a task. Called on a thread of its own, which it may keep busy; with TENURE_TASK_DEFERRED on the orchestrator's, where it must not wait. Returns
/// #TENURE_OK when the task is done (deferred: begun), any other number when it has failed; then err->message, which it finds empty, may say why.
/// `task` is valid until it returns; a deferred one until the host frees it. It must not throw, longjmp or end its thread.
pub type tenure_task_fn = Option<unsafe extern "C" fn(user: *mut c_void, task: tenure_task, err: *mut tenure_error) -> i32>;

/// What a task is about. The texts are the library's, and valid as long as the task's handle.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tenure_task_info {
    /// Given: sizeof(tenure_task_info).
    pub struct_size: u32,
    /// Number of the attempt, from 1; larger after a loss.
    pub attempt: u32,
    /// Number of this try of the task within the attempt, from 1.
    pub try_number: u32,
    /// 0.
    pub reserved0: u32,
    /// The run's number.
    pub run: u64,
    /// Fencing token: larger than that of every former attempt. For the resource that is written to.
    pub token: u64,
    /// The nominal instant, ms since 1970 UTC.
    pub tick_ms: i64,
    /// The schedule's id.
    pub schedule: tenure_bytes,
    /// Empty for a singleton; a node's name, or a shard's.
    pub target: tenure_bytes,
    /// Kind of the task.
    pub kind: tenure_bytes,
    /// Name of the task within its schedule.
    pub name: tenure_bytes,
    /// `schedule/target/tick`: the same for all attempts.
    pub idempotency_key: tenure_bytes,
    /// Parameters: the trigger's, else the task's, else the schedule's.
    pub params: tenure_bytes,
}

struct TaskObject {
    context: TaskContext,
    key: String,
}

impl Object for TaskObject {
    const TYPE: u8 = 24;
    const NAME: &'static str = "task";
    fn poison(&self, why: &str) {
        self.context.finish(Err(why.to_owned()));
    }
}

impl TaskObject {
    fn new(context: TaskContext) -> TaskObject {
        TaskObject { key: context.idempotency_key(), context }
    }
}

type TaskFn = unsafe extern "C" fn(*mut c_void, tenure_task, *mut tenure_error) -> i32;

impl Host<TaskFn> {
    /// Runs it on a task with this handle; its end.
    fn run(&self, task: u64) -> TaskResult {
        // SAFETY: the host's function, called as the header says.
        self.ask("handler", |call, user, err| unsafe { call(user, tenure_task { id: task }, err) })
    }

    fn blocking(&self, context: &TaskContext) -> TaskResult {
        let id = table::insert(TaskObject::new(context.clone())).map_err(|e| e.message().to_owned())?;
        // Also when the call panics: a handle that stayed would keep the try from ending.
        let _gone = Gone(id);
        self.run(id)
    }

    fn deferred(&self, context: TaskContext) {
        let id = match table::insert(TaskObject::new(context.clone())) {
            Ok(id) => id,
            Err(e) => return context.finish(Err(e.message().to_owned())),
        };
        if let Err(why) = self.run(id) {
            context.finish(Err(why));
            table::remove::<TaskObject>(id);
        }
    }
}

struct Gone(u64);

impl Drop for Gone {
    fn drop(&mut self) {
        table::remove::<TaskObject>(self.0);
    }
}

/// Takes over a kind of task: from now on runs whose tasks are all of kinds that it has handlers for may be given to this orchestrator. A kind that
/// it had before gets the new handler; tries that go on keep theirs.
///
/// Parameters: orchestrator; kind - 1 to 128 printable ASCII characters without space; handler - see #tenure_task_fn; user - passed to it; free - called
/// once with `user` when no call of the handler goes on or will come, on any thread, not in a forked child; or NULL; flags - 0 or
/// TENURE_TASK_DEFERRED; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: `user` is the library's from success until it calls `free`, and stays the caller's otherwise. Threads: any, also in callbacks. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_orchestrator_register(
    orchestrator: tenure_orchestrator,
    kind: tenure_bytes,
    handler: tenure_task_fn,
    user: *mut c_void,
    free: Option<unsafe extern "C" fn(user: *mut c_void)>,
    flags: u32,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(orchestrator.id, err, |o: OrchestratorObject| {
        let call = handler.ok_or_else(|| Error::invalid("handler", "is NULL"))?;
        if flags & !TENURE_TASK_DEFERRED != 0 {
            return Err(Error::invalid("flags", format_args!("{flags:#x} has unknown bits")));
        }
        // SAFETY: the header asks for readable bytes.
        let kind = unsafe { text(kind, "kind", TEXT_MAX)? };
        let host = Host::new(call, user, free);
        let own = host.clone();
        let handler = if flags & TENURE_TASK_DEFERRED == 0 {
            Handler::Blocking(Arc::new(move |context: &TaskContext| own.blocking(context)))
        } else {
            Handler::Deferred(Arc::new(move |context| own.deferred(context)))
        };
        host.hand(|| o.0.register(kind, handler))
    })
}

/// What a task is about.
///
/// Parameters: task; out_info - start from TENURE_TASK_INFO_INIT; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: the texts are the library's. Threads: any; never waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_task_get_info(task: tenure_task, out_info: *mut tenure_task_info, err: *mut tenure_error) -> i32 {
    guard_on(task.id, err, |t: &TaskObject| {
        let out = Out::required(out_info, "out_info")?;
        // SAFETY: the header asks for a struct that begins with its size.
        let given = unsafe { out_info.cast::<u32>().read() } as usize;
        if given < size_of::<tenure_task_info>() {
            return Err(Error::invalid("out_info", format_args!("struct_size {given} is below {}", size_of::<tenure_task_info>())));
        }
        let (c, lend) = (&t.context, |text: &str| tenure_bytes::of(text.as_bytes()));
        let info = tenure_task_info {
            struct_size: size_of::<tenure_task_info>() as u32,
            attempt: c.attempt(),
            try_number: c.try_number(),
            reserved0: 0,
            run: c.run(),
            token: c.token().0,
            tick_ms: c.tick_ms(),
            schedule: lend(c.schedule()),
            target: lend(c.target()),
            kind: lend(c.kind()),
            name: lend(c.task()),
            idempotency_key: lend(&t.key),
            params: lend(c.params()),
        };
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(info) };
        Ok(())
    })
}

/// Whether and why the handler is to stop.
///
/// Parameters: task; timeout_ms - wait until it is, at most for so long; 0 to ask; out_stop - a #tenure_stop; err - or NULL.
/// Returns: #TENURE_OK, also when it is not to stop; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: nothing is kept. Threads: any; waits when asked to. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_task_stop(task: tenure_task, timeout_ms: u64, out_stop: *mut i32, err: *mut tenure_error) -> i32 {
    let waits = timeout_ms > 0;
    on_task(task, err, |context| {
        let out = Out::required(out_stop, "out_stop")?;
        if waits {
            context.wait_stop(Duration::from_millis(timeout_ms));
        }
        let why = context.stop();
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(plain_stop(why)) };
        Ok(())
    })
}

/// A call that may wait: on a share of the try, so that the handle can be freed meanwhile.
fn on_task(task: tenure_task, err: *mut tenure_error, body: impl FnOnce(TaskContext) -> Result<()>) -> i32 {
    let mut context = None;
    let status = guard_on(task.id, err, |t: &TaskObject| {
        context = Some(t.context.clone());
        Ok(())
    });
    match context {
        Some(context) if status == Status::Ok as i32 => super::guard::guard(err, || body(context)),
        _ => status,
    }
}

/// The attempt's gate: whether it still holds the run, by this node's own clocks. To be asked before and after every write that a later attempt must
/// not find undone. Asks nobody.
///
/// Parameters: task; out_remaining_ms - what is left of the lease, or NULL; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_EXPIRED once the lease may be over or the run is, err->token is the attempt's; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE;
/// #TENURE_FORKED. Memory: nothing is kept. Threads: any; never waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_task_check(task: tenure_task, out_remaining_ms: *mut u64, err: *mut tenure_error) -> i32 {
    guard_on(task.id, err, |t: &TaskObject| {
        let out = Out::optional(out_remaining_ms, "out_remaining_ms")?;
        let left = t.context.remaining();
        t.context.check()?;
        // SAFETY: the header asks for a writable place or NULL.
        unsafe { out.set(ms_up(left)) };
        Ok(())
    })
}

/// Says how far the run is. It goes out with the next renewal.
///
/// Parameters: task; per_mille - 0 to 1000; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED. Threads: any; never waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_task_progress(task: tenure_task, per_mille: u32, err: *mut tenure_error) -> i32 {
    guard_on(task.id, err, |t: &TaskObject| {
        if per_mille > 1000 {
            return Err(Error::invalid("per_mille", format_args!("{per_mille} is above 1000")));
        }
        t.context.progress(f64::from(per_mille) / 1000.0);
        Ok(())
    })
}

/// What this or a former attempt of the task has saved.
///
/// Parameters: task; buf, len - the buffer, which a NUL is put behind; out_needed - the size needed, with it: 1 when nothing was saved; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: the caller's. Threads: any; never waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_task_checkpoint(
    task: tenure_task,
    buf: *mut c_char,
    len: usize,
    out_needed: *mut usize,
    err: *mut tenure_error,
) -> i32 {
    guard_on(task.id, err, |t: &TaskObject| {
        let out = TextOut::new(buf, len, out_needed)?;
        // SAFETY: the header asks for a writable buffer.
        unsafe { out.put(&t.context.checkpoint()) }
    })
}

/// Keeps bytes for the next attempt.
///
/// Parameters: task; data - at most 65536 bytes; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_FENCED when this attempt is not the present one; #TENURE_INVALID_ARGUMENT; #TENURE_UNAVAILABLE; #TENURE_CLOSED;
/// #TENURE_POISONED; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_task_save_checkpoint(task: tenure_task, data: tenure_bytes, err: *mut tenure_error) -> i32 {
    on_task(task, err, |context| {
        log::check_may_wait()?;
        // SAFETY: the header asks for readable bytes.
        context.save_checkpoint(unsafe { bytes(data, "data", CHECKPOINT_MAX)? })
    })
}

/// After a piece of work: rests as the schedule's throttle asks, and wakes when the handler is to stop.
///
/// Parameters: task; byte_count - read and written since the last call; out_stop - as tenure_task_stop(), or NULL; err - or NULL.
/// Returns: as tenure_task_stop(). Memory: nothing is kept. Threads: any; waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_task_pace(task: tenure_task, byte_count: u64, out_stop: *mut i32, err: *mut tenure_error) -> i32 {
    on_task(task, err, |context| {
        let out = Out::optional(out_stop, "out_stop")?;
        let goes_on = context.pace(byte_count);
        let why = if goes_on { Stop::No } else { context.stop() };
        // SAFETY: the header asks for a writable place or NULL.
        unsafe { out.set(plain_stop(why)) };
        Ok(())
    })
}

/// A deferred task has ended. The first call counts.
///
/// Parameters: task; status - #TENURE_OK when it is done; message - otherwise why, at most 4096 bytes; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: nothing of the caller's is kept; free the handle. Threads: any, also in callbacks; never waits. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_task_finish(task: tenure_task, status: i32, message: tenure_bytes, err: *mut tenure_error) -> i32 {
    guard_on(task.id, err, |t: &TaskObject| {
        // SAFETY: the header asks for readable bytes.
        let message = unsafe { text(message, "message", TEXT_MAX)? };
        t.context.finish(if status == Status::Ok as i32 { Ok(()) } else { Err(message.to_owned()) });
        Ok(())
    })
}

/// Frees the handle of a deferred task. One that was not finished has failed.
///
/// Parameters: task - also 0, also one that was freed already. Other threads may be inside calls on it.
/// Returns: nothing. Threads: any, also in callbacks; never waits. In a forked child it does nothing. Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn tenure_task_free(task: tenure_task) {
    guard_or((), || {
        table::remove::<TaskObject>(task.id);
    });
}
