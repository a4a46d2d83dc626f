"""The sanitizer sees what the extension does: mistakes that are put in are found, in Rust's frames.

`make test-asan` runs it, and everything else with it; otherwise it is skipped.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from asanlog import EXTENSION, faults
from tenure import _core

SETUP = """
import ctypes, gc, tenure
node = tenure.Node(node_id="n1")
session = node.session("s")
core = session._core
"""
MISTAKES = {
    # An object that its owner still uses.
    "heap-use-after-free": """
ctypes.CDLL(None).free(ctypes.c_void_p(id(core) - (16 if gc.is_tracked(core) else 0)))
core.inherited()
""",
    # A record that is said to be longer than it is.
    "heap-buffer-overflow": """
record = b"".join([b"TNR"])
ctypes.c_ssize_t.from_address(id(record) + 16).value = 24
tenure._core.read_epoch(record)
""",
    # An owner that forgets what it owns.
    "leak": """
session.close()
node.close()
ctypes.pythonapi.Py_IncRef(ctypes.py_object(core))
ctypes.memset(id(core) + 16, 0, type(core).__basicsize__ - 16)
""",
    "none": "",
}

pytestmark = pytest.mark.skipif("TENURE_ASAN" not in os.environ, reason="make test-asan runs it")


def test_the_extension_that_is_loaded_is_instrumented():
    needed = subprocess.run(["nm", "-D", "--undefined-only", _core.__file__], capture_output=True, text=True, check=True).stdout
    assert "__asan_report_load8" in needed
    assert "libasan" in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("mistake", sorted(MISTAKES))
def test_a_mistake_is_found(tmp_path, mistake):
    environment = {**os.environ, "ASAN_OPTIONS": f"{os.environ['ASAN_OPTIONS']}:log_path={tmp_path}/log"}
    subprocess.run([sys.executable, "-c", SETUP + MISTAKES[mistake]], env=environment, timeout=120, check=False)
    found = [fault for report in tmp_path.glob("log.*") for fault in faults(report.read_text())]
    if mistake == "none":
        assert found == []
    elif mistake == "leak":
        assert found
        assert all(fault.startswith("Direct leak") for fault in found)
    else:
        (fault,) = found
        assert f"ERROR: AddressSanitizer: {mistake}" in fault
        # The access is Rust's own, or a copy that Rust asked for.
        assert EXTENSION in "".join(re.findall(r"^ +#[01] .*", fault, flags=re.MULTILINE)[:2])
