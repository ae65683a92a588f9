"""Bytes of the NATS protocol that the adapter writes and reads itself: headers, commands, API answers."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

import msgspec

from ..errors import InvalidInput, NameInvalid

_LINE = "NATS/1.0"
_BREAKS_LINES = re.compile(r"[\x00-\x20\x7f]")
_DENIED = re.compile(r'permissions violation for publish to "([^"]+)"', re.IGNORECASE)
_NAMES: set[str] = set()
"""Names of headers that were found to be fine."""
NAMES_MAX = 1024
"""Names come from code, so there are few; one who makes them up at run time pays for the check each time."""
HEADER_BYTES_MAX = 60 * 1024
"""Below the server's limit of 64 KiB for a header block."""


class Head(NamedTuple):
    """A header block: the inline status of a control message (0: none), its description, and the headers."""

    status: int
    description: str
    headers: Mapping[str, str]


NO_HEAD = Head(0, "", {})


def encode_headers(headers: Mapping[str, str], own: str = "") -> bytes:
    """The header block; `own` are lines of ours, as they are. Raises `InvalidInput` for what would break the block
    apart, or is too long.
    """
    text = f"NATS/1.0\r\n{own}"
    for name, value in headers.items():
        if name not in _NAMES:
            _learn(name)
        if "\n" in value or "\r" in value:
            raise InvalidInput(f"header {name!r} can't be sent: its value has a line break")
        text += f"{name}: {value}\r\n"
    block = (text + "\r\n").encode()
    if len(block) > HEADER_BYTES_MAX:
        raise InvalidInput(f"headers have {len(block)} bytes, the limit is {HEADER_BYTES_MAX}")
    return block


def _learn(name: str) -> None:
    if not name or ":" in name or "\r" in name or "\n" in name:
        raise InvalidInput(f"header {name!r} can't be sent: names hold no colon and no line break")
    if len(_NAMES) < NAMES_MAX:
        _NAMES.add(name)


def parse_head(block: bytes | None) -> Head:
    """Reads a header block as the server sends it."""
    if not block:
        return NO_HEAD
    first, *lines = block.decode(errors="replace").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip()] = value.strip()
    inline = first[len(_LINE) :].strip()
    if not inline:
        return Head(0, "", headers)
    code, _, description = inline.partition(" ")
    return Head(int(code) if code.isdecimal() else 0, description.strip(), headers)


def denied_subject(error: str) -> str:
    """The subject that a permissions violation forbids to publish on; empty for another one."""
    found = _DENIED.search(error)
    return found.group(1) if found else ""


def check_subject(subject: str) -> str:
    """Raises `NameInvalid` for what would end the command's line and begin another command."""
    if not subject or _BREAKS_LINES.search(subject):
        raise NameInvalid("subject", subject, "tokens without blanks and control characters")
    return subject


class ApiError(msgspec.Struct, frozen=True, gc=False):
    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct, frozen=True, gc=False):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: ApiError | None = None


class StoredJson(msgspec.Struct, frozen=True, gc=False):
    subject: str
    seq: int
    time: str
    data: str = ""
    hdrs: str = ""


class GetAnswer(msgspec.Struct, frozen=True, gc=False):
    message: StoredJson | None = None
    error: ApiError | None = None


class CountAnswer(msgspec.Struct, frozen=True, gc=False):
    success: bool = False
    purged: int = 0
    error: ApiError | None = None


decode_ack = msgspec.json.Decoder(PubAck).decode
decode_get = msgspec.json.Decoder(GetAnswer).decode
decode_count = msgspec.json.Decoder(CountAnswer).decode


def bytes_of(stored: StoredJson) -> tuple[bytes, Mapping[str, str]]:
    """The data and headers of a message that the leader answered with."""
    return base64.b64decode(stored.data), parse_head(
        base64.b64decode(stored.hdrs)
    ).headers if stored.hdrs else {}


def seconds_of(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time; the server writes nanoseconds."""
    if not text:
        return 0.0
    date, _, fraction = text.rstrip("Z").partition(".")
    digits = "".join(character for character in fraction if character.isdigit())[:9]
    return datetime.fromisoformat(f"{date}+00:00").timestamp() + (
        int(digits) / 10 ** len(digits) if digits else 0.0
    )
