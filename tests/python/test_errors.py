"""The exceptions: one a status, one tree, and they survive a pickle."""

from __future__ import annotations

import copy
import errno
import pickle

import pytest

import tenure
from tenure import errors

CLASSES = list(errors.BY_CODE.values())


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_each_is_an_error_with_its_own_number(cls):
    assert issubclass(cls, tenure.Error)
    assert errors.BY_CODE[cls.code] is cls
    assert getattr(tenure, cls.__name__) is cls
    error = cls("what was wrong", os_errno=errno.ENOSPC, token=7, reason="why")
    for other in (error, pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(other) is cls
        assert (str(other), other.os_errno, other.token, other.reason) == ("what was wrong", errno.ENOSPC, 7, "why")
    assert str(cls()) == cls.status


def test_the_numbers_differ():
    assert len({c.code for c in CLASSES}) == len({c.status for c in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (tenure.LockTimeout, TimeoutError),
        (tenure.InvalidArgumentError, ValueError),
        (tenure.UnknownOptionError, ValueError),
        (tenure.IoError, OSError),
    ],
)
def test_some_are_built_in_ones_too(cls, builtin):
    with pytest.raises(builtin):
        raise cls("x")


def test_an_io_error_has_its_errno():
    error = tenure.IoError("writing f: no space", os_errno=errno.ENOSPC)
    assert (error.errno, str(error)) == (errno.ENOSPC, "writing f: no space")


def test_flags():
    assert (tenure.LockTimeout.retriable, tenure.UncertainError.maybe_applied, tenure.ClosedError.fatal) == (
        True,
        True,
        True,
    )
    assert not tenure.NotHolderError.retriable


def test_an_unknown_status_is_an_error_all_the_same():
    error = errors.from_status(77, "from a newer library", 0, 0, "")
    assert type(error) is tenure.Error
    assert str(error) == "from a newer library"
