"""Patterns of event types, and the names of consumers."""

from __future__ import annotations

import re

from ..errors import NameInvalid
from ..messages import join_name

_PATTERN = re.compile(r"([A-Za-z0-9_-]+|\*)(\.([A-Za-z0-9_-]+|\*))*(\.>)?|>")


def check_pattern(pattern: str) -> str:
    """Raises `NameInvalid` unless it is an event type in which tokens may be `*` and the last one `>`."""
    if not _PATTERN.fullmatch(pattern):
        raise NameInvalid("event pattern", pattern, "an event type whose tokens may be *, the last one >")
    return pattern


def consumer_name(module: str, handler: str, instance: str = "") -> str:
    """The consumer of a module's handler; with `instance` that of one replica, for a broadcast."""
    return join_name(module, handler, instance) if instance else join_name(module, handler)
