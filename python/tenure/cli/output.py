"""How a command prints: text for people, JSON lines for programs, progress on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any


def _json(value: object) -> object:
    if isinstance(value, bytes):
        return printable(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def printable(text: bytes | str) -> str:
    """A name from outside as it may be printed: one line, nothing that a terminal would obey."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Output:
    """Standard output and standard error of one command."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._progress = 0

    def value(self, value: Any, text: str | Iterable[str]) -> None:
        """One result: ``value`` as JSON, or ``text``."""
        if self.as_json:
            print(json.dumps(value, default=_json), flush=True)
        else:
            for line in [text] if isinstance(text, str) else text:
                print(line, flush=True)

    def table(self, rows: Sequence[dict[str, Any]], columns: Sequence[str], empty: str) -> None:
        """Rows: each one JSON line, or aligned under headings; ``empty`` says that there are none."""
        if self.as_json:
            for row in rows:
                print(json.dumps(row, default=_json))
            return
        if not rows:
            print(empty)
            return
        cells = [[c.upper() for c in columns], *([_cell(row.get(c)) for c in columns] for row in rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
        for line in cells:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())

    def progress(self, text: str) -> None:
        """Says how a long operation gets on: on one line of a terminal, else a line every five seconds at most. Never on stdout."""
        if sys.stderr.isatty():
            self._progress = max(self._progress, len(text))
            print(f"\r{text.ljust(self._progress)}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() >= getattr(self, "_again", 0.0):
            self._again = time.monotonic() + 5.0
            print(text, file=sys.stderr, flush=True)

    def progress_done(self) -> None:
        """Clears the line of ``progress``."""
        if self._progress and sys.stderr.isatty():
            print(f"\r{' ' * self._progress}\r", end="", file=sys.stderr, flush=True)
        self._progress = 0

    def error(self, code: str, message: str) -> None:
        """Says what went wrong, on standard error."""
        self.progress_done()
        if self.as_json:
            print(json.dumps({"error": code, "message": message}), file=sys.stderr)
        else:
            print(f"tenure: {printable(message)}", file=sys.stderr)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    return printable(value) if isinstance(value, (bytes, str)) else str(value)
