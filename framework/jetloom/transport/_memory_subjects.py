"""Subjects of the memory twin: matching with wildcards, overlaps, and the server's subject transforms."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_WILDCARD = re.compile(r"\{\{\s*wildcard\(\s*(\d+)\s*\)\s*\}\}|\$(\d+)|\*")


def has_wildcard(subject: str) -> bool:
    return any(token in ("*", ">") for token in subject.split("."))


@lru_cache(maxsize=4096)
def _pattern(pattern: str) -> re.Pattern[str]:
    parts: list[str] = []
    for token in pattern.split("."):
        if token == "*":
            parts.append(r"([^.]+)")
        elif token == ">":
            parts.append(r"(.+)")
        else:
            parts.append(re.escape(token))
    return re.compile(r"\.".join(parts), re.DOTALL)


@lru_cache(maxsize=4096)
def matcher(pattern: str) -> Callable[[str], bool]:
    """A function that says whether a literal subject matches the pattern."""
    if not has_wildcard(pattern):
        return pattern.__eq__
    if pattern == ">":
        return lambda subject: True
    if pattern.endswith(".>") and not has_wildcard(pattern[:-2]):
        prefix, least = pattern[:-1], len(pattern) - 1
        return lambda subject: len(subject) > least and subject.startswith(prefix)
    full = _pattern(pattern).fullmatch
    return lambda subject: full(subject) is not None


def any_matcher(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """True for every subject when there is no pattern."""
    if not patterns:
        return lambda subject: True
    if len(patterns) == 1:
        return matcher(patterns[0])
    matchers = tuple(matcher(pattern) for pattern in patterns)
    return lambda subject: any(matches(subject) for matches in matchers)


def overlap(first: str, second: str) -> bool:
    """Whether some literal subject matches both patterns."""
    left, right = first.split("."), second.split(".")
    for a, b in zip(left, right, strict=False):
        if a == ">" or b == ">":
            return True
        if a not in ("*", b) and b != "*":
            return False
    return len(left) == len(right)


def transformer(source: str, destination: str) -> Callable[[str], str | None]:
    """Rewrites a subject; None when it does not match `source`. A `>` at the end carries the rest over."""
    full = _pattern(source).fullmatch
    tail = destination.endswith(">") and (destination == ">" or destination.endswith(".>"))
    body = destination[:-1] if tail else destination

    def rewrite(subject: str) -> str | None:
        found = full(subject)
        if found is None:
            return None
        groups = found.groups()
        stars = iter(groups)

        def fill(match: re.Match[str]) -> str:
            number = match[1] or match[2]
            return groups[int(number) - 1] if number else next(stars)

        return _WILDCARD.sub(fill, body) + (groups[-1] if tail else "")

    return rewrite
