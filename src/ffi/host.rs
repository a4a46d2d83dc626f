//! Functions that a host gives with a pointer of its own.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::args::User;
use super::error::plain;
use super::inject;
use super::types::tenure_error;
use crate::base::{Result, Status, process};

/// A function of the host's with its pointer; freed when nobody uses it any more.
pub(super) struct Host<F> {
    call: F,
    user: User,
    free: Option<unsafe extern "C" fn(*mut c_void)>,
    /// Whether the library has taken it over, and so frees it.
    taken: AtomicBool,
    generation: u64,
}

impl<F> Host<F> {
    pub(super) fn new(call: F, user: *mut c_void, free: Option<unsafe extern "C" fn(*mut c_void)>) -> Arc<Host<F>> {
        process::watch_forks();
        Arc::new(Host { call, user: User(user), free, taken: AtomicBool::new(false), generation: process::generation() })
    }

    /// Hands it over. It is the library's first: it may be gone again when that returns.
    pub(super) fn hand(&self, over: impl FnOnce() -> Result<()>) -> Result<()> {
        self.taken.store(true, SeqCst);
        over().inspect_err(|_| self.taken.store(false, SeqCst))
    }

    /// Runs it; why it refused.
    pub(super) fn ask(&self, what: &str, run: impl FnOnce(&F, *mut c_void, *mut tenure_error) -> i32) -> std::result::Result<(), String> {
        inject::callback();
        let mut err = plain(&Ok(()));
        let code = run(&self.call, self.user.get(), &mut err);
        if code == Status::Ok as i32 {
            return Ok(());
        }
        let said: Vec<u8> = err.message.iter().map(|c| *c as u8).take_while(|b| *b != 0).collect();
        let said = String::from_utf8_lossy(&said).into_owned();
        Err(match Status::from_code(code) {
            _ if !said.is_empty() => said,
            Some(status) => status.spec().text.to_owned(),
            None => format!("the {what} returned {code}"),
        })
    }
}

impl<F> Drop for Host<F> {
    fn drop(&mut self) {
        if let Some(free) = self.free
            && self.taken.load(SeqCst)
            && process::check_generation(self.generation).is_ok()
        {
            // SAFETY: the host's function, called once: no call goes on or will come.
            unsafe { free(self.user.get()) };
        }
    }
}
