"""What several commands share: exit statuses, settings, the connection."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import tenure
from tenure._settings import NAMES

EX_USAGE = 64
"""Wrong usage, as in sysexits.h."""
EX_UNAVAILABLE = 69
"""The cluster does not answer."""
EX_TEMPFAIL = 75
"""The lock was lost while the program ran."""


class Usage(Exception):
    """The command line does not make sense."""

    status = "usage"


def settings(given: argparse.Namespace) -> dict[str, Any]:
    """The settings of ``--config`` and, over them, of ``--set``."""
    found: dict[str, Any] = {}
    if given.config is not None:
        for number, line in enumerate(Path(given.config).read_text(encoding="utf-8").splitlines(), 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            name, equals, value = text.partition("=")
            if not equals:
                raise Usage(f"{given.config}, line {number}: expected key = value")
            found[name.strip()] = value.strip()
    for pair in given.set:
        name, equals, value = pair.partition("=")
        if not equals:
            raise Usage(f"--set {pair}: expected KEY=VALUE")
        found[name.strip()] = value.strip()
    for name in found:
        if name not in NAMES:
            hint = f" ({name}_ms, in milliseconds, is)" if f"{name}_ms" in NAMES else ""
            raise Usage(f"{name}: no setting is called so{hint}")
    return found


def connect(given: argparse.Namespace) -> tenure.Node:
    """A client of the cluster that ``--connect`` names."""
    if not given.connect:
        raise Usage("no cluster: give --connect HOST:PORT,... or set TENURE_CONNECT")
    return tenure.connect(given.connect, **settings(given))


def seconds(text: str) -> float:
    """A duration on the command line: seconds, 0 or more."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return value
