"""The exceptions. Every one derives from :class:`Error`; ``docs/errors.md`` lists them.

The classes are generated from the one error table of the core, so a status has exactly one class. Each can be
pickled, copied and raised by a program's own tests: ``raise LockTimeout("no luck")``.
"""

from __future__ import annotations

from typing import Any, ClassVar


class Error(Exception):
    """Base of everything that Tenure raises.

    The class attributes say what kind of failure it is, the others what this one is about.
    """

    #: Number of the status, as in C. 0 for this base class.
    code: ClassVar[int] = 0
    #: Name of the status, as in C without ``TENURE_``.
    status: ClassVar[str] = ""
    #: The same call, with the same arguments, may succeed later.
    retriable: ClassVar[bool] = False
    #: The operation may have taken effect although it did not report success.
    maybe_applied: ClassVar[bool] = False
    #: The object cannot be used any more.
    fatal: ClassVar[bool] = False

    #: One sentence naming the argument, file, limit or key concerned.
    message: str
    #: ``errno`` of the failed system call, or 0.
    os_errno: int
    #: The fencing token or epoch that it is about, or 0.
    token: int
    #: The cause as one stable word, for a status that has several (``DeniedError``); else empty.
    reason: str
    #: After how many seconds the same call can succeed, where that is known (``TooEarlyError``); else 0.
    retry_after: float

    def __init__(self, message: str = "", *, os_errno: int = 0, token: int = 0, reason: str = "", retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.message = message
        self.os_errno = os_errno
        self.token = token
        self.reason = reason
        self.retry_after = retry_after
        if os_errno and isinstance(self, OSError):
            OSError.__init__(self, os_errno, message)

    def __str__(self) -> str:
        return self.message or self.status

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.os_errno, self.token, self.reason, self.retry_after)


def _rebuild(cls: type[Error], message: str, os_errno: int, token: int, reason: str, retry_after: float) -> Error:
    return cls(message, os_errno=os_errno, token=token, reason=reason, retry_after=retry_after)


def from_status(code: int, message: str, os_errno: int, token: int, reason: str, retry_after: float = 0.0) -> Error:
    """The exception for a status of the core. An unknown code gives :class:`Error`."""
    cls = BY_CODE.get(code, Error)
    return cls(message, os_errno=os_errno, token=token, reason=reason, retry_after=retry_after)


# Generated from src/base/status.rs: begin


class HeldError(Error):
    """Somebody else holds the lock."""

    code = 1
    status = "HELD"
    retriable = True
    maybe_applied = False
    fatal = False


class LockTimeout(Error, TimeoutError):
    """The time given for waiting ran out. A lock asked for is not held."""

    code = 2
    status = "TIMEOUT"
    retriable = True
    maybe_applied = False
    fatal = False


class NotHolderError(Error):
    """The token is not that of the current grant: never granted, released already, or given to another since."""

    code = 3
    status = "NOT_HOLDER"
    retriable = False
    maybe_applied = False
    fatal = False


class ExpiredError(Error):
    """The session or the grant ran out of time."""

    code = 4
    status = "EXPIRED"
    retriable = False
    maybe_applied = False
    fatal = False


class FencedError(Error):
    """A larger fencing token or a higher epoch has been seen; this one is refused."""

    code = 5
    status = "FENCED"
    retriable = False
    maybe_applied = False
    fatal = False


class CancelledError(Error):
    """The operation was cancelled before it had an effect."""

    code = 6
    status = "CANCELLED"
    retriable = True
    maybe_applied = False
    fatal = False


class DeniedError(Error):
    """The gate is closed for this write. The reason is in the message and in the gate's status."""

    code = 7
    status = "DENIED"
    retriable = True
    maybe_applied = False
    fatal = False


class UncertainError(Error):
    """The write ran past its lease or its epoch: it may have taken effect and must not be acknowledged."""

    code = 8
    status = "UNCERTAIN"
    retriable = False
    maybe_applied = True
    fatal = False


class LockDelayError(Error):
    """The lock is in its delay after an involuntary loss."""

    code = 9
    status = "LOCK_DELAY"
    retriable = True
    maybe_applied = False
    fatal = False


class TooEarlyError(Error):
    """A former holder of the office may still act. The error says for how long at most."""

    code = 10
    status = "TOO_EARLY"
    retriable = True
    maybe_applied = False
    fatal = False


class InvalidArgumentError(Error, ValueError):
    """An argument is out of range, of the wrong form, or NULL where it may not be. The message names it."""

    code = 100
    status = "INVALID_ARGUMENT"
    retriable = False
    maybe_applied = False
    fatal = False


class MisuseError(Error):
    """The call is not allowed in this state. The message says which state."""

    code = 101
    status = "MISUSE"
    retriable = False
    maybe_applied = False
    fatal = False


class WouldDeadlockError(Error):
    """The call would wait for itself, for example a blocking call inside a callback."""

    code = 102
    status = "WOULD_DEADLOCK"
    retriable = False
    maybe_applied = False
    fatal = False


class ForkedError(Error):
    """The process forked after the object was opened; the child owns nothing."""

    code = 103
    status = "FORKED"
    retriable = False
    maybe_applied = False
    fatal = True


class ClosedError(Error):
    """The object has been closed."""

    code = 104
    status = "CLOSED"
    retriable = False
    maybe_applied = False
    fatal = True


class BufferTooSmallError(Error):
    """The caller's buffer is too small; the size needed is in the out parameter."""

    code = 105
    status = "BUFFER_TOO_SMALL"
    retriable = False
    maybe_applied = False
    fatal = False


class AbiMismatchError(Error):
    """The header and the library are of different ABI versions."""

    code = 106
    status = "ABI_MISMATCH"
    retriable = False
    maybe_applied = False
    fatal = True


class BadHandleError(Error):
    """The handle names nothing: never issued, freed, or of another type."""

    code = 107
    status = "BAD_HANDLE"
    retriable = False
    maybe_applied = False
    fatal = False


class UnknownOptionError(Error, ValueError):
    """No setting has this name. The message names it."""

    code = 108
    status = "UNKNOWN_OPTION"
    retriable = False
    maybe_applied = False
    fatal = False


class UnsupportedError(Error):
    """What this node runs on does not offer the call or the option; a host's lock service, for example. The message names it."""

    code = 109
    status = "UNSUPPORTED"
    retriable = False
    maybe_applied = False
    fatal = False


class IoError(Error, OSError):
    """The operating system refused an input/output operation. ``os_errno`` says why."""

    code = 200
    status = "IO"
    retriable = False
    maybe_applied = True
    fatal = False


class DataLostError(Error):
    """A data directory lacks what it must hold. Nothing is created in its place. The message names the file."""

    code = 201
    status = "DATA_LOST"
    retriable = False
    maybe_applied = False
    fatal = True


class DataCorruptError(Error):
    """Stored data fails its checksum or its form. The message names the file."""

    code = 202
    status = "DATA_CORRUPT"
    retriable = False
    maybe_applied = False
    fatal = True


class DataForeignError(Error):
    """The data directory belongs to another node or another cluster. The message names the file."""

    code = 203
    status = "DATA_FOREIGN"
    retriable = False
    maybe_applied = False
    fatal = True


class DataLockedError(Error):
    """Another process, or another node of this process, has the data directory open."""

    code = 204
    status = "DATA_LOCKED"
    retriable = True
    maybe_applied = False
    fatal = False


class DataVersionError(Error):
    """The data was written by a version that this library cannot read."""

    code = 205
    status = "DATA_VERSION"
    retriable = False
    maybe_applied = False
    fatal = True


class LimitError(Error):
    """A limit is reached. The message names the limit and its value."""

    code = 206
    status = "LIMIT"
    retriable = True
    maybe_applied = False
    fatal = False


class UnavailableError(Error):
    """No answer can be had now; the same call may succeed later."""

    code = 207
    status = "UNAVAILABLE"
    retriable = True
    maybe_applied = True
    fatal = False


class RefusedError(Error):
    """Two processes will not talk: another cluster, an unknown or removed node, a changed disk, a twin, a certificate that
    names somebody else, an incompatible version. The message names what was wrong.
    """

    code = 208
    status = "REFUSED"
    retriable = False
    maybe_applied = False
    fatal = True


class LockServiceError(Error):
    """A lock service of the host's failed: it threw or panicked, answered what is no answer, or broke a promise. The message says which."""

    code = 209
    status = "SERVICE_FAILED"
    retriable = False
    maybe_applied = True
    fatal = False


class PanicError(Error):
    """A panic was caught inside the library. The object is poisoned from then on."""

    code = 900
    status = "PANIC"
    retriable = False
    maybe_applied = True
    fatal = True


class InternalError(Error):
    """The library contradicts itself. Please report it."""

    code = 901
    status = "INTERNAL"
    retriable = False
    maybe_applied = True
    fatal = False


class PoisonedError(Error):
    """An earlier failure has ended this object: it denies and refuses everything but status and close."""

    code = 902
    status = "POISONED"
    retriable = False
    maybe_applied = True
    fatal = True


BY_CODE: dict[int, type[Error]] = {
    1: HeldError,
    2: LockTimeout,
    3: NotHolderError,
    4: ExpiredError,
    5: FencedError,
    6: CancelledError,
    7: DeniedError,
    8: UncertainError,
    9: LockDelayError,
    10: TooEarlyError,
    100: InvalidArgumentError,
    101: MisuseError,
    102: WouldDeadlockError,
    103: ForkedError,
    104: ClosedError,
    105: BufferTooSmallError,
    106: AbiMismatchError,
    107: BadHandleError,
    108: UnknownOptionError,
    109: UnsupportedError,
    200: IoError,
    201: DataLostError,
    202: DataCorruptError,
    203: DataForeignError,
    204: DataLockedError,
    205: DataVersionError,
    206: LimitError,
    207: UnavailableError,
    208: RefusedError,
    209: LockServiceError,
    900: PanicError,
    901: InternalError,
    902: PoisonedError,
}

__all__ = [
    "AbiMismatchError",
    "BadHandleError",
    "BufferTooSmallError",
    "CancelledError",
    "ClosedError",
    "DataCorruptError",
    "DataForeignError",
    "DataLockedError",
    "DataLostError",
    "DataVersionError",
    "DeniedError",
    "Error",
    "ExpiredError",
    "FencedError",
    "ForkedError",
    "HeldError",
    "InternalError",
    "InvalidArgumentError",
    "IoError",
    "LimitError",
    "LockDelayError",
    "LockServiceError",
    "LockTimeout",
    "MisuseError",
    "NotHolderError",
    "PanicError",
    "PoisonedError",
    "RefusedError",
    "TooEarlyError",
    "UnavailableError",
    "UncertainError",
    "UnknownOptionError",
    "UnsupportedError",
    "WouldDeadlockError",
]

# Generated from src/base/status.rs: end
