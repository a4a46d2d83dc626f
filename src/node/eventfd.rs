//! An eventfd(2) that is kept off the descriptors 0 to 2.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::base::{Error, Result};

pub(super) struct EventFd(OwnedFd);

impl EventFd {
    pub(super) fn new() -> Result<EventFd> {
        let failed = || Error::io("eventfd", &std::io::Error::last_os_error());
        // SAFETY: plain system call; the descriptor returned is owned by nobody else.
        let fd = unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            if fd < 0 {
                return Err(failed());
            }
            OwnedFd::from_raw_fd(fd)
        };
        if fd.as_raw_fd() > 2 {
            return Ok(EventFd(fd));
        }
        // A host that daemonises closes 0 to 2 and later opens its own files there.
        // SAFETY: duplicates a live descriptor to a new one >= 3, which nobody else owns.
        unsafe {
            let moved = libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3);
            if moved < 0 { Err(failed()) } else { Ok(EventFd(OwnedFd::from_raw_fd(moved))) }
        }
    }

    pub(super) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Makes it readable. It cannot fail: the counter is far from its end and lowering resets it.
    pub(super) fn raise(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer is live and of the length given.
        unsafe { libc::write(self.raw(), one.as_ptr().cast(), one.len()) };
    }

    /// Makes it unreadable again.
    pub(super) fn lower(&self) {
        let mut count = [0u8; 8];
        // SAFETY: the buffer is live, writable and of the length given.
        unsafe { libc::read(self.raw(), count.as_mut_ptr().cast(), count.len()) };
    }

    #[cfg(test)]
    pub(super) fn is_readable(fd: RawFd) -> bool {
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one live pollfd, no waiting.
        unsafe { libc::poll(&mut poll, 1, 0) == 1 }
    }
}
