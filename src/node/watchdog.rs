//! A watchdog device: it resets the machine when it is not fed in time. Writing feeds it, and `V` before the closing disarms it
//! (Linux, Documentation/watchdog/watchdog-api.rst).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

/// One watchdog. Opening the device arms it, so that is done at the first feeding.
#[derive(Debug)]
pub(super) struct Watchdog {
    path: String,
    device: Option<File>,
    failed: bool,
}

impl Watchdog {
    pub(super) fn new(path: &str) -> Watchdog {
        Watchdog { path: path.to_owned(), device: None, failed: false }
    }

    fn open(&self) -> io::Result<File> {
        let device = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&self.path)?;
        // The descriptors 0 to 2 are the host's; a clone of std's is never one of them.
        if device.as_raw_fd() > 2 { Ok(device) } else { device.try_clone() }
    }

    /// The gate is valid. A failure is told once, until a feeding succeeds again.
    pub(super) fn feed(&mut self) {
        let fed = match &mut self.device {
            Some(device) => device.write_all(b"\0"),
            None => self.open().and_then(|mut device| {
                device.write_all(b"\0")?;
                self.device = Some(device);
                Ok(())
            }),
        };
        match fed {
            Ok(()) => self.failed = false,
            Err(error) if !std::mem::replace(&mut self.failed, true) => {
                tracing::error!(path = self.path, %error, "the watchdog cannot be fed");
            }
            Err(_) => {}
        }
    }

    /// Nothing is left to be fenced: the watchdog is told so, and closed.
    pub(super) fn disarm(&mut self) {
        if let Some(mut device) = self.device.take()
            && let Err(error) = device.write_all(b"V")
        {
            tracing::error!(path = self.path, %error, "the watchdog cannot be disarmed");
        }
    }
}
