//! The one error table. cbindgen turns [`Status`] into the C enum; `tests/errors.rs` generates the Python classes
//! and `docs/errors.md` from [`Status::spec`], and fails when a checked-in copy differs.
//!
//! Numbers are append-only. A retired number stays here as a comment and is never given to another meaning.

/// How a call ended. Bands: 0 success, 1-99 expected outcomes, 100-199 the caller's mistake,
/// 200-299 the environment, 900-999 a defect in the library. A caller that meets an unknown
/// code (from a newer library) acts on its band and on `tenure_status_is()`.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Status {
    /// The call did what it was asked to do.
    Ok = 0,

    /// Somebody else holds the lock.
    Held = 1,
    /// The time given for waiting ran out. A lock asked for is not held.
    Timeout = 2,
    /// The token is not that of the current grant: never granted, released already, or given to another since.
    NotHolder = 3,
    /// The session or the grant ran out of time.
    Expired = 4,
    /// A larger fencing token or a higher epoch has been seen; this one is refused.
    Fenced = 5,
    /// The operation was cancelled before it had an effect.
    Cancelled = 6,
    /// The gate is closed for this write. The reason is in the message and in the gate's status.
    Denied = 7,
    /// The write ran past its lease or its epoch: it may have taken effect and must not be acknowledged.
    Uncertain = 8,
    /// The lock is in its delay after an involuntary loss.
    LockDelay = 9,
    /// A former holder of the office may still act. The error says for how long at most.
    TooEarly = 10,

    /// An argument is out of range, of the wrong form, or NULL where it may not be. The message names it.
    InvalidArgument = 100,
    /// The call is not allowed in this state. The message says which state.
    Misuse = 101,
    /// The call would wait for itself, for example a blocking call inside a callback.
    WouldDeadlock = 102,
    /// The process forked after the object was opened; the child owns nothing.
    Forked = 103,
    /// The object has been closed.
    Closed = 104,
    /// The caller's buffer is too small; the size needed is in the out parameter.
    BufferTooSmall = 105,
    /// The header and the library are of different ABI versions.
    AbiMismatch = 106,
    /// The handle names nothing: never issued, freed, or of another type.
    BadHandle = 107,
    /// No setting has this name. The message names it.
    UnknownOption = 108,
    /// What this node runs on does not offer the call or the option; a host's lock service, for example. The message names it.
    Unsupported = 109,

    /// The operating system refused an input/output operation. `os_errno` says why.
    Io = 200,
    /// A data directory lacks what it must hold. Nothing is created in its place. The message names the file.
    DataLost = 201,
    /// Stored data fails its checksum or its form. The message names the file.
    DataCorrupt = 202,
    /// The data directory belongs to another node or another cluster. The message names the file.
    DataForeign = 203,
    /// Another process, or another node of this process, has the data directory open.
    DataLocked = 204,
    /// The data was written by a version that this library cannot read.
    DataVersion = 205,
    /// A limit is reached. The message names the limit and its value.
    Limit = 206,
    /// No answer can be had now; the same call may succeed later.
    Unavailable = 207,
    /// Two processes will not talk: another cluster, an unknown or removed node, a changed disk, a twin, a certificate that
    /// names somebody else, an incompatible version. The message names what was wrong.
    Refused = 208,
    /// A lock service of the host's failed: it threw or panicked, answered what is no answer, or broke a promise. The message says which.
    ServiceFailed = 209,

    /// A panic was caught inside the library. The object is poisoned from then on.
    Panic = 900,
    /// The library contradicts itself. Please report it.
    Internal = 901,
    /// An earlier failure has ended this object: it denies and refuses everything but status and close.
    Poisoned = 902,
}

/// The same call, with the same arguments, may succeed later.
pub const RETRIABLE: u32 = 1;
/// The operation may have taken effect although it did not report success.
pub const MAYBE_APPLIED: u32 = 2;
/// The object cannot be used any more.
pub const FATAL: u32 = 4;

/// What the table says of one status.
#[derive(Clone, Copy, Debug)]
pub struct StatusSpec {
    /// Name without prefix, as in `TENURE_<NAME>`.
    pub name: &'static str,
    /// The Python exception class; empty for success.
    pub class: &'static str,
    /// The built-in Python class that it derives from as well; empty for none.
    pub builtin: &'static str,
    /// [`RETRIABLE`], [`MAYBE_APPLIED`], [`FATAL`].
    pub flags: u32,
    /// One sentence for a person.
    pub text: &'static str,
}

macro_rules! spec {
    ($name:literal, $class:literal, $builtin:literal, $flags:expr, $text:literal) => {
        StatusSpec { name: $name, class: $class, builtin: $builtin, flags: $flags, text: $text }
    };
}

impl Status {
    /// Every status, in numeric order.
    pub const ALL: &'static [Status] = &[
        Status::Ok,
        Status::Held,
        Status::Timeout,
        Status::NotHolder,
        Status::Expired,
        Status::Fenced,
        Status::Cancelled,
        Status::Denied,
        Status::Uncertain,
        Status::LockDelay,
        Status::TooEarly,
        Status::InvalidArgument,
        Status::Misuse,
        Status::WouldDeadlock,
        Status::Forked,
        Status::Closed,
        Status::BufferTooSmall,
        Status::AbiMismatch,
        Status::BadHandle,
        Status::UnknownOption,
        Status::Unsupported,
        Status::Io,
        Status::DataLost,
        Status::DataCorrupt,
        Status::DataForeign,
        Status::DataLocked,
        Status::DataVersion,
        Status::Limit,
        Status::Unavailable,
        Status::Refused,
        Status::ServiceFailed,
        Status::Panic,
        Status::Internal,
        Status::Poisoned,
    ];

    /// The table's row for this status.
    pub const fn spec(self) -> StatusSpec {
        match self {
            Status::Ok => spec!("OK", "", "", 0, "success"),
            Status::Held => spec!("HELD", "HeldError", "", RETRIABLE, "somebody else holds the lock"),
            Status::Timeout => spec!("TIMEOUT", "LockTimeout", "TimeoutError", RETRIABLE, "the time given for waiting ran out"),
            Status::NotHolder => spec!("NOT_HOLDER", "NotHolderError", "", 0, "the token is not that of the current grant"),
            Status::Expired => spec!("EXPIRED", "ExpiredError", "", 0, "the session or the grant ran out of time"),
            Status::Fenced => spec!("FENCED", "FencedError", "", 0, "a larger token or a higher epoch has been seen"),
            Status::Cancelled => spec!("CANCELLED", "CancelledError", "", RETRIABLE, "the operation was cancelled"),
            Status::Denied => spec!("DENIED", "DeniedError", "", RETRIABLE, "the gate is closed"),
            Status::Uncertain => {
                spec!("UNCERTAIN", "UncertainError", "", MAYBE_APPLIED, "the write ran past its lease and must not be acknowledged")
            }
            Status::LockDelay => spec!("LOCK_DELAY", "LockDelayError", "", RETRIABLE, "the lock is in its delay after an involuntary loss"),
            Status::TooEarly => spec!("TOO_EARLY", "TooEarlyError", "", RETRIABLE, "a former holder of the office may still act"),
            Status::InvalidArgument => spec!("INVALID_ARGUMENT", "InvalidArgumentError", "ValueError", 0, "an argument is not acceptable"),
            Status::Misuse => spec!("MISUSE", "MisuseError", "", 0, "the call is not allowed in this state"),
            Status::WouldDeadlock => spec!("WOULD_DEADLOCK", "WouldDeadlockError", "", 0, "the call would wait for itself"),
            Status::Forked => spec!("FORKED", "ForkedError", "", FATAL, "the process forked after the object was opened"),
            Status::Closed => spec!("CLOSED", "ClosedError", "", FATAL, "the object has been closed"),
            Status::BufferTooSmall => spec!("BUFFER_TOO_SMALL", "BufferTooSmallError", "", 0, "the buffer is too small"),
            Status::AbiMismatch => spec!("ABI_MISMATCH", "AbiMismatchError", "", FATAL, "header and library are of different ABI versions"),
            Status::BadHandle => spec!("BAD_HANDLE", "BadHandleError", "", 0, "the handle names nothing"),
            Status::UnknownOption => spec!("UNKNOWN_OPTION", "UnknownOptionError", "ValueError", 0, "no setting has this name"),
            Status::Unsupported => spec!("UNSUPPORTED", "UnsupportedError", "", 0, "what this node runs on does not offer it"),
            Status::Io => spec!("IO", "IoError", "OSError", MAYBE_APPLIED, "an input/output operation failed"),
            Status::DataLost => spec!("DATA_LOST", "DataLostError", "", FATAL, "the data directory lacks what it must hold"),
            Status::DataCorrupt => spec!("DATA_CORRUPT", "DataCorruptError", "", FATAL, "stored data is damaged"),
            Status::DataForeign => {
                spec!("DATA_FOREIGN", "DataForeignError", "", FATAL, "the data directory belongs to another node or cluster")
            }
            Status::DataLocked => spec!("DATA_LOCKED", "DataLockedError", "", RETRIABLE, "the data directory is open elsewhere"),
            Status::DataVersion => spec!("DATA_VERSION", "DataVersionError", "", FATAL, "the data is of a version that cannot be read"),
            Status::Limit => spec!("LIMIT", "LimitError", "", RETRIABLE, "a limit is reached"),
            Status::Unavailable => spec!("UNAVAILABLE", "UnavailableError", "", RETRIABLE | MAYBE_APPLIED, "no answer can be had now"),
            Status::Refused => spec!("REFUSED", "RefusedError", "", FATAL, "two processes will not talk to each other"),
            Status::ServiceFailed => spec!("SERVICE_FAILED", "LockServiceError", "", MAYBE_APPLIED, "the host's lock service failed"),
            Status::Panic => spec!("PANIC", "PanicError", "", FATAL | MAYBE_APPLIED, "a panic was caught inside the library"),
            Status::Internal => spec!("INTERNAL", "InternalError", "", MAYBE_APPLIED, "the library contradicts itself"),
            Status::Poisoned => spec!("POISONED", "PoisonedError", "", FATAL | MAYBE_APPLIED, "an earlier failure has ended this object"),
        }
    }

    /// The status with this number, if the table has it.
    pub fn from_code(code: i32) -> Option<Status> {
        Status::ALL.iter().copied().find(|s| *s as i32 == code)
    }

    /// Whether all of `flags` ([`RETRIABLE`], [`MAYBE_APPLIED`], [`FATAL`]) hold for this status.
    pub const fn is(self, flags: u32) -> bool {
        self.spec().flags & flags == flags
    }
}
