//! The error that every layer returns.

use std::borrow::Cow;
use std::fmt;

use super::status::Status;

/// Shorthand for a result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// A typed failure: a [`Status`] for the program, a message for the person, the operating system's number where there is one.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    status: Status,
    os_errno: i32,
    token: u64,
    retry_after_ms: u64,
    message: Cow<'static, str>,
}

impl Error {
    /// An error of `status` whose message names what was wrong.
    pub fn new(status: Status, message: impl Into<Cow<'static, str>>) -> Error {
        Error { status, os_errno: 0, token: 0, retry_after_ms: 0, message: message.into() }
    }

    /// [`Status::InvalidArgument`] naming the argument and the reason.
    pub fn invalid(argument: &str, why: impl fmt::Display) -> Error {
        Error::new(Status::InvalidArgument, format!("{argument}: {why}"))
    }

    /// [`Status::Io`] for `what` (an operation and a path), keeping the operating system's number.
    pub fn io(what: impl fmt::Display, cause: &std::io::Error) -> Error {
        Error { os_errno: cause.raw_os_error().unwrap_or(0), ..Error::new(Status::Io, format!("{what}: {cause}")) }
    }

    /// The same error, carrying the fencing token or epoch that it is about.
    pub fn with_token(mut self, token: u64) -> Error {
        self.token = token;
        self
    }

    /// The same error, carrying after how long the same call can succeed, ms.
    pub fn with_retry_after(mut self, ms: u64) -> Error {
        self.retry_after_ms = ms;
        self
    }

    /// The same error, carrying the operating system's number of its cause.
    pub fn with_errno(mut self, os_errno: i32) -> Error {
        self.os_errno = os_errno;
        self
    }

    /// What kind of failure it is.
    pub fn status(&self) -> Status {
        self.status
    }

    /// `errno` of the failed system call, or 0.
    pub fn os_errno(&self) -> i32 {
        self.os_errno
    }

    /// The fencing token or epoch that it is about, or 0.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// After how long the same call can succeed, ms, where that is known; or 0.
    pub fn retry_after_ms(&self) -> u64 {
        self.retry_after_ms
    }

    /// One sentence for a person, naming the argument, file, limit or key concerned.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Error {
        Error::new(status, status.spec().text)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.status.spec().name)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]: {}", self.status.spec().name, self.status as i32, self.message)
    }
}

impl std::error::Error for Error {}
