"""Telling what is shown, and noting what is not."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass


def say(text: str = "") -> None:
    """Prints a paragraph; its lines go on below its first word."""
    indent = " " * (len(text) - len(text.lstrip(" ")))
    print(textwrap.fill(text, 100, subsequent_indent=indent, drop_whitespace=True), flush=True)


@dataclass
class Claims:
    """What was claimed and is not so."""

    wrong: int = 0

    def expect(self, good: bool, claim: str) -> None:
        """Notes whether what was just said is so."""
        if not good:
            self.wrong += 1
        say(f"    {'shown' if good else 'NOT SHOWN'}: {claim}")
