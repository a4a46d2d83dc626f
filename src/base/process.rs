//! What the library asks of the process it is a guest in: has it forked, and a quiet thread of our own.

#![allow(unsafe_code)]

use crate::base::planted::planted;
use std::mem::MaybeUninit;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::{Builder, JoinHandle};

use super::error::{Error, Result};
use super::status::Status;

static GENERATION: AtomicU64 = AtomicU64::new(1);
static REGISTER: Once = Once::new();

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Relaxed);
}

/// A number that differs in a forked child from that of its parent. Costs one load.
///
/// An object remembers the generation in which it was opened; in another one it belongs to the parent process, whose
/// threads the child does not have.
#[inline]
pub fn generation() -> u64 {
    GENERATION.load(Relaxed)
}

/// Starts counting forks; to be called before the first [`generation`] that is remembered.
pub fn watch_forks() {
    REGISTER.call_once(|| {
        // SAFETY: the handler only adds to an atomic, which is async-signal-safe. Without memory for the registration
        // a fork goes unnoticed here, and the gates still read as closed in the child (their pages are wiped).
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
}

/// [`Status::Forked`] unless this is the process in which `opened` was the generation.
///
/// # Errors
/// [`Status::Forked`].
#[inline]
pub fn check_generation(opened: u64) -> Result<()> {
    if generation() == opened || planted!("fork-unnoticed") { Ok(()) } else { Err(Status::Forked.into()) }
}

/// Gives back to the system what was freed after a large piece of work; glibc keeps it otherwise, in the heap of the thread that did it.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: callable from any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The stack of every thread that the library starts.
const STACK: usize = 2 << 20;

/// Starts a thread with all signals blocked, so that the host's handlers never run on it.
/// `name` is at most 15 characters, which is what the kernel keeps.
///
/// # Errors
/// [`Status::Io`] when the system gives no thread.
pub fn spawn(name: &'static str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    debug_assert!(name.len() <= 15);
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut old = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are live; a thread inherits its creator's mask, which is put back right after.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr());
    }
    let started = Builder::new().name(name.to_owned()).stack_size(STACK).spawn(body);
    // SAFETY: `old` was written by the call above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), std::ptr::null_mut()) };
    started.map_err(|e| Error::io(format_args!("starting thread {name}"), &e))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_of_ours_takes_no_signals() {
        let blocked = std::sync::Arc::new(AtomicU64::new(0));
        let seen = blocked.clone();
        spawn("tenure-test", move || {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let mask = status.lines().find_map(|l| l.strip_prefix("SigBlk:")).unwrap();
            seen.store(u64::from_str_radix(mask.trim(), 16).unwrap(), Relaxed);
        })
        .unwrap()
        .join()
        .unwrap();
        let term = 1u64 << (libc::SIGTERM - 1);
        assert_ne!(blocked.load(Relaxed) & term, 0);
    }

    #[test]
    fn a_child_is_of_another_generation() {
        watch_forks();
        let before = generation();
        // SAFETY: the child only reads an atomic and leaves.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: `_exit` runs no handlers of the test process.
            unsafe { libc::_exit(i32::from(generation() == before)) };
        }
        let mut code = -1;
        // SAFETY: waits for the child just made.
        unsafe { libc::waitpid(child, &mut code, 0) };
        assert_eq!(code, 0);
        assert!(check_generation(before).is_ok());
    }
}
