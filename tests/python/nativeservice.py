"""Lock services in C and C++ as seen through the C interface: compiled, loaded, opened as nodes, and put under a Python node.

The Python node's calls go to the session of the native node, whose lock service is the compiled one: so one suite tries out all.
"""

from __future__ import annotations

import ctypes
import json
from ctypes import byref, c_char, c_char_p, c_int32, c_uint32, c_uint64
from pathlib import Path

import tenure
from native import ROOT, WARNINGS, installed, run
from tenure.errors import from_status

HELD, NOT_HOLDER = 1, 3


class Bytes(ctypes.Structure):
    _fields_ = (("ptr", c_char_p), ("len", ctypes.c_size_t))


class Handle(ctypes.Structure):
    _fields_ = (("id", c_uint64),)


class Failure(ctypes.Structure):
    """``tenure_error``."""

    _fields_ = (
        ("struct_size", c_uint32),
        ("status", c_int32),
        ("flags", c_uint32),
        ("os_errno", c_int32),
        ("token", c_uint64),
        ("reserved", c_uint64 * 2),
        ("message", c_char * 216),
    )

    def check(self, status: int) -> None:
        if status:
            raise from_status(status, self.message.decode(), 0, self.token, "")


class Options(ctypes.Structure):
    """``tenure_lock_opts``."""

    _fields_ = (
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("mode", c_int32),
        ("permits", c_uint32),
        ("permits_limit", c_uint32),
        ("reserved0", c_uint32),
        ("ttl_ms", c_uint64),
        ("lock_delay_ms", c_uint64),
        ("metadata", Bytes),
        ("reserved", c_uint64 * 4),
    )


def compiled(language: str, where: Path) -> ctypes.CDLL:
    """The plug-in in this language, as a shared library that brings its own libtenure."""
    prefix = installed("capi", where / "prefix")
    source, compiler, standard = {
        "c": ("tests/c/plugin.c", "cc", ["-std=c11", "-D_GNU_SOURCE"]),
        "c++": ("tests/cpp/plugin.cpp", "c++", ["-std=c++17"]),
    }[language]
    out = where / "plugin.so"
    paths = ["-I", prefix / "include", "-L", prefix / "lib", f"-Wl,-rpath,{prefix}/lib"]
    run([compiler, "-g", "-shared", "-fPIC", *WARNINGS, *standard, ROOT / source, "-o", out, *paths, "-ltenure", "-pthread"])
    return ctypes.CDLL(str(out))


class NativeService:
    """A node over a compiled service, as a lock service for a Python node."""

    def __init__(self, plugin: ctypes.CDLL, node_id: str, opener: str = "plugin_open") -> None:
        self.plugin, self.node_id = plugin, node_id
        self.node, self.session, err = Handle(), Handle(), Failure()
        err.check(getattr(plugin, opener)(node_id.encode(), byref(self.node), byref(err)))
        err.check(plugin.tenure_node_session(self.node, byref(self.session), byref(err)))
        caps = self.status()["lock_service"]
        self.capabilities = tenure.Capabilities(
            fencing=caps["fencing"], renew=caps["renew"], wait=caps["wait"], linearizable_reads=caps["linearizable_reads"]
        )

    def status(self):
        text, needed, err = ctypes.create_string_buffer(1 << 16), ctypes.c_size_t(), Failure()
        err.check(self.plugin.tenure_node_status(self.node, text, ctypes.c_size_t(len(text)), byref(needed), byref(err)))
        return json.loads(text.value)

    def _options(self, ttl: float) -> Options:
        return Options(ctypes.sizeof(Options), 2, 0, 1, 1, 0, round(ttl * 1000))

    def try_acquire(self, key, ttl, timeout):
        token, err = c_uint64(), Failure()
        status = self.plugin.tenure_session_try_acquire(
            self.session, Bytes(key, len(key)), byref(self._options(ttl)), byref(token), byref(err)
        )
        if status == HELD:
            return None
        err.check(status)
        return token.value

    def acquire(self, key, ttl, wait):
        token, err = c_uint64(), Failure()
        status = self.plugin.tenure_session_acquire(
            self.session, Bytes(key, len(key)), byref(self._options(ttl)), c_uint64(round(wait * 1000)), byref(token), byref(err)
        )
        if status in (HELD, tenure.LockTimeout.code):
            return None
        err.check(status)
        return token.value

    def release(self, key, token, timeout):
        err = Failure()
        status = self.plugin.tenure_session_release(self.session, Bytes(key, len(key)), c_uint64(token), byref(err))
        if status == NOT_HOLDER:
            return False
        err.check(status)
        return True

    def renew(self, key, token, ttl, timeout):
        left, err = c_uint64(), Failure()
        status = self.plugin.tenure_session_renew(
            self.session, Bytes(key, len(key)), c_uint64(token), c_uint64(round(ttl * 1000)), byref(left), byref(err)
        )
        if status == NOT_HOLDER:
            return False
        err.check(status)
        return True

    def holder(self, key, timeout):
        name, needed, err = ctypes.create_string_buffer(80), ctypes.c_size_t(), Failure()
        token, left = c_uint64(), c_uint64()
        call = self.plugin.tenure_session_holder
        size = ctypes.c_size_t(len(name))
        err.check(call(self.session, Bytes(key, len(key)), name, size, byref(needed), byref(token), byref(left), byref(err)))
        return tenure.LockHolder(name.value.decode(), token.value, left.value / 1000) if name.value else None

    def close(self) -> None:
        err = Failure()
        err.check(self.plugin.tenure_node_close(self.node, c_uint64(5000), byref(err)))
        self.plugin.tenure_node_free(self.node)
