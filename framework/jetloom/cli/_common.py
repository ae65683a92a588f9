"""Options that every command has, and the reading of JSON arguments."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..errors import InvalidInput

if TYPE_CHECKING:
    from ..types import JSON, Actor


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Output:
    """How a command that needs no server prints."""

    json: Annotated[bool, Parameter(negative=())] = False
    """Print one JSON document (tails: JSON lines) on stdout."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Common:
    """How a command prints, and which server and namespace it talks to."""

    json: Annotated[bool, Parameter(negative=())] = False
    """Print one JSON document (tails: JSON lines) on stdout."""

    nats: str = ""
    """The server's URL; otherwise NATS_URL, otherwise jetloom.toml, otherwise nats://127.0.0.1:4222."""

    namespace: str = ""
    """The namespace; otherwise JETLOOM_NAMESPACE, otherwise `jetloom`."""


def read_json(argument: str, what: str) -> JSON:
    """A JSON value given literally, as `@file`, or as `@-` for stdin. Raises `InvalidInput` with the position."""
    import msgspec

    if argument.startswith("@"):
        data, source = _read_file(argument[1:], what), argument[1:]
    else:
        data, source = argument.encode(), what
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise InvalidInput(
            f"{source}: not JSON: {error}; give a JSON value, @file or @- (quote it for the shell: '{{\"id\": 1}}')"
        ) from error


def _read_file(name: str, what: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise InvalidInput(f"{what}: {name} can't be read: {error.strerror}") from error


def parse_duration(text: str, what: str) -> float:
    """Seconds of `30`, `30s`, `5m`, `2h`, `1d` or `500ms`. Raises `InvalidInput`."""
    for unit, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86400.0), ("", 1.0)):
        if text.endswith(unit):
            number = text.removesuffix(unit) if unit else text
            try:
                seconds = float(number) * factor
            except ValueError:
                continue
            if 0 <= seconds < float("inf"):
                return seconds
    raise InvalidInput(f"{what}: {text!r} is no duration; write 30s, 5m, 2h, 1d or 500ms")


def current_actor() -> Actor:
    """The person at the terminal, as the system names them."""
    import getpass

    from ..types import Actor, ActorKind

    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a container's user without an entry
        name = "unknown"
    return Actor(ActorKind.HUMAN, name)
