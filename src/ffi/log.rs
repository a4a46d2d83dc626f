//! The log, on its way to the host: a bounded queue and one thread, so that a slow host function stalls nobody.
//!
//! The lines are `tracing` events. Their subscriber becomes the default of the copy of `tracing` that is linked into this
//! library, and only when the host asks for a log; a Rust program that uses the crate directly and never calls
//! tenure_log_set() keeps its own. Nothing is ever written to a file descriptor.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::fmt::Write;
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

use super::args::User;
use super::guard::guard;
use super::inject;
use super::types::{tenure_bytes, tenure_error, tenure_log_fn, tenure_log_level};
use crate::base::{Error, Result, Status, process};
use crate::node;
use crate::node::record_level;

/// Lines that may wait.
const WAITING_MAX: usize = 1024;

struct Line {
    level: i32,
    target: &'static str,
    text: String,
}

#[derive(Clone, Copy)]
struct Receiver {
    call: unsafe extern "C" fn(*mut c_void, i32, tenure_bytes, tenure_bytes),
    user: User,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Line>,
    dropped: u64,
    receiver: Option<Receiver>,
    /// Most verbose level wanted.
    level: i32,
    started: bool,
}

/// The log of one process: a forked child starts with a fresh one, because it cannot know in what state it inherits this.
struct Log {
    generation: u64,
    queue: Mutex<Queue>,
    filled: Condvar,
    /// Held while the receiver runs, so that replacing it can wait for it.
    running: Mutex<()>,
}

static LOG: AtomicPtr<Log> = AtomicPtr::new(std::ptr::null_mut());

thread_local! {
    static IN_LOG_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn log() -> &'static Log {
    let now = process::generation();
    let mut current = LOG.load(SeqCst);
    loop {
        // SAFETY: logs are published whole and never freed.
        if let Some(log) = unsafe { current.as_ref() }
            && log.generation == now
        {
            return log;
        }
        let fresh = Box::new(Log { generation: now, queue: Mutex::default(), filled: Condvar::new(), running: Mutex::default() });
        let fresh = Box::into_raw(fresh);
        match LOG.compare_exchange(current, fresh, SeqCst, SeqCst) {
            Ok(_) => current = fresh,
            Err(other) => {
                // SAFETY: nobody else has seen it.
                drop(unsafe { Box::from_raw(fresh) });
                current = other;
            }
        }
    }
}

/// Refuses a call that waits or closes, inside any callback.
pub(super) fn check_may_wait() -> Result<()> {
    if node::in_callback() || IN_LOG_CALLBACK.get() {
        return Err(Error::new(Status::WouldDeadlock, "a call that waits, closes or dispatches, inside a callback"));
    }
    Ok(())
}

/// Has panics of this library's copy of std told to the log instead of being written to descriptor 2, which may be anything.
pub(super) fn install_panic_hook() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        if cfg!(test) {
            return;
        }
        std::panic::set_hook(Box::new(|info| {
            let mut text = info.to_string();
            text.retain(|c| c != '\n');
            push(Line { level: tenure_log_level::Error as i32, target: "tenure::panic", text });
        }));
    });
}

/// Sends the library's log to a function, from now on and for the whole process. Without it nothing is logged anywhere.
///
/// Parameters: level - a #tenure_log_level, the most verbose one wanted; on_line, user - see #tenure_log_fn; NULL ends the log: after that has
/// returned the previous function does not run and never will, unless it is that function which called; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_IO when the system gives no thread.
/// Memory: `user` is the caller's and must live until another call has replaced it. A forked child logs nothing until it calls this.
/// Threads: any, also in callbacks; waits for the previous function if it is running on another thread. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_log_set(level: i32, on_line: tenure_log_fn, user: *mut c_void, err: *mut tenure_error) -> i32 {
    guard(err, || {
        process::watch_forks();
        install_panic_hook();
        if !(tenure_log_level::Off as i32..=tenure_log_level::Trace as i32).contains(&level) {
            return Err(Error::invalid("level", format_args!("{level} is no log level")));
        }
        let log = log();
        let receiver = on_line.map(|call| Receiver { call, user: User(user) });
        if receiver.is_some() {
            start(log)?;
        }
        {
            let mut queue = lock(&log.queue);
            queue.receiver = receiver;
            queue.level = if receiver.is_some() { level } else { 0 };
            queue.lines.clear();
        }
        if !IN_LOG_CALLBACK.get() {
            drop(lock(&log.running));
        }
        subscribe();
        Ok(())
    })
}

fn start(log: &'static Log) -> Result<()> {
    let mut queue = lock(&log.queue);
    if !queue.started {
        process::spawn("tenure-say", move || run(log))?;
        queue.started = true;
    }
    Ok(())
}

fn subscribe() {
    static DEFAULT: Once = Once::new();
    DEFAULT.call_once(|| {
        // Fails in a Rust program that has a default already, and then that program's log is the one.
        let _ = tracing::dispatcher::set_global_default(tracing::Dispatch::from(Arc::new(Forward) as Arc<dyn Subscriber + Send + Sync>));
    });
    tracing::callsite::rebuild_interest_cache();
}

fn run(log: &'static Log) {
    loop {
        let mut queue = lock(&log.queue);
        while queue.lines.is_empty() {
            queue = log.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        drop(queue);
        // In this order: whoever replaces the receiver waits for `running` afterwards.
        let _running = lock(&log.running);
        let mut queue = lock(&log.queue);
        let (line, dropped, receiver) = (queue.lines.pop_front(), std::mem::take(&mut queue.dropped), queue.receiver);
        drop(queue);
        let (Some(line), Some(receiver)) = (line, receiver) else { continue };
        IN_LOG_CALLBACK.set(true);
        if dropped > 0 {
            let text = format!("{dropped} lines were dropped");
            deliver(receiver, &Line { level: tenure_log_level::Warn as i32, target: "tenure::log", text });
        }
        deliver(receiver, &line);
        IN_LOG_CALLBACK.set(false);
    }
}

fn deliver(receiver: Receiver, line: &Line) {
    let call = std::panic::AssertUnwindSafe(|| {
        inject::callback();
        let (target, text) = (tenure_bytes::of(line.target.as_bytes()), tenure_bytes::of(line.text.as_bytes()));
        // SAFETY: the host's function; the header forbids it to throw, and says how long the texts are valid.
        unsafe { (receiver.call)(receiver.user.get(), line.level, target, text) };
    });
    // The hook has told of it already.
    let _ = std::panic::catch_unwind(call);
}

fn push(line: Line) {
    let log = log();
    let mut queue = lock(&log.queue);
    if line.level > queue.level {
        return;
    }
    if queue.lines.len() >= WAITING_MAX {
        queue.dropped += 1;
        return;
    }
    queue.lines.push_back(line);
    drop(queue);
    log.filled.notify_one();
}

fn number(level: &Level) -> i32 {
    let level = match *level {
        Level::ERROR => tenure_log_level::Error,
        Level::WARN => tenure_log_level::Warn,
        Level::INFO => tenure_log_level::Info,
        Level::DEBUG => tenure_log_level::Debug,
        Level::TRACE => tenure_log_level::Trace,
    };
    level as i32
}

/// The subscriber: it knows no spans, only lines.
struct Forward;

impl Forward {
    fn level() -> i32 {
        lock(&log().queue).level
    }
}

impl Subscriber for Forward {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && number(&record_level(metadata)) <= Forward::level()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let wanted = Forward::level();
        let levels = [Level::TRACE, Level::DEBUG, Level::INFO, Level::WARN, Level::ERROR];
        Some(levels.into_iter().find(|l| number(l) <= wanted).map_or(LevelFilter::OFF, LevelFilter::from_level))
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let metadata = event.metadata();
        let text = text.message + &text.fields;
        push(Line { level: number(&record_level(metadata)), target: metadata.target(), text: text.replace('\n', " ") });
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a String does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
