"""What is wrong with a definition, where, and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import msgspec


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One mistake. `line` and `column` count from 1 and are 0 where there is no file; `path` leads to the field."""

    file: str
    line: int
    column: int
    path: str
    message: str
    suggestion: str = ""

    def __str__(self) -> str:
        place = f"{self.file or '<text>'}:{self.line}:{self.column}: " if self.line else ""
        path = f"{self.path}: " if self.path else ""
        suggestion = f" ({self.suggestion})" if self.suggestion else ""
        return f"{place}{path}{self.message}{suggestion}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suggestion, or nothing when no known name is near."""
    found = nearest(name, known)
    return f"did you mean {found}?" if found else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is nearest to one that was mistyped; empty when none is near."""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return close[0] if close else ""
