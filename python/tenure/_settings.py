"""Keyword arguments to the settings of ``docs/configuration.md``."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from tenure import _core
from tenure.errors import InvalidArgumentError, UnknownOptionError

NAMES = frozenset(name for name, _, _ in _core.settings())
"""The settings of ``docs/configuration.md``."""


def milliseconds(argument: str, value: Any) -> int:
    """Seconds or a ``timedelta`` in whole milliseconds."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{argument}: expected seconds or a timedelta, not {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidArgumentError(f"{argument}: {value!r} is no duration in seconds")
    if value < 0:
        raise InvalidArgumentError(f"{argument}: {value!r} is negative")
    return round(value * 1000)


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (str, os.PathLike)):
        text = os.fspath(value)
        if isinstance(text, str):
            try:
                text.encode()
            except UnicodeEncodeError:
                raise InvalidArgumentError(f"{name}: holds a lone surrogate, which UTF-8 cannot express") from None
            return text
    if name in ("peers", "seeds") and isinstance(value, (Mapping, Iterable)):
        return _addresses(name, value)
    raise TypeError(f"{name}: expected str, int or bool, not {type(value).__name__}")


def _addresses(name: str, value: Mapping[Any, Any] | Iterable[Any]) -> str:
    """A list of addresses, or the addresses of named members, as the core reads it."""
    parts = [f"{k}={v}" for k, v in value.items()] if isinstance(value, Mapping) else list(value)
    for part in parts:
        if not isinstance(part, str):
            raise TypeError(f"{name}: expected addresses, not {type(part).__name__}")
        if "," in part:
            raise InvalidArgumentError(f"{name}: {part!r} holds a comma")
    return ",".join(parts)


def settings(given: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """The core's settings for these keyword arguments; ``None`` stands for the default."""
    found: dict[str, str] = {}
    for argument, value in given.items():
        name = prefix + argument
        if not prefix and name.startswith("gate_"):
            name = "gate." + name.removeprefix("gate_")
        if name in NAMES:
            text = None if value is None else _text(argument, value)
        elif f"{name}_ms" in NAMES:
            name = f"{name}_ms"
            text = None if value is None else str(milliseconds(argument, value))
        else:
            raise UnknownOptionError(f"no setting is called {argument!r}")
        if text is None:
            continue
        if name in found:
            raise InvalidArgumentError(f"{argument}: given twice, with and without _ms")
        found[name] = text
    return found
