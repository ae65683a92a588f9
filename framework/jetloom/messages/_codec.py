"""One encode and one decode per message, JSON on the wire."""

from __future__ import annotations

import hashlib

import msgspec

from ..errors import DecodeFailed
from ..types import JSON

_encoder = msgspec.json.Encoder(decimal_format="string")
_canonical = msgspec.json.Encoder(order="deterministic", decimal_format="string")
_plain: msgspec.json.Decoder[JSON] = msgspec.json.Decoder()


def encode(value: object) -> bytes:
    """JSON bytes of structs, dataclasses and plain data. Raises `TypeError` for what has no JSON form."""
    return _encoder.encode(value)


def decode_plain(data: bytes, what: str) -> JSON:
    """Plain JSON. An empty body is null. Raises `DecodeFailed`."""
    if not data:
        return None
    try:
        return _plain.decode(data)
    except msgspec.DecodeError as error:
        raise DecodeFailed(what, str(error)) from error


def canonical(value: object) -> bytes:
    """JSON bytes in which the order of keys has no meaning."""
    return _canonical.encode(value)


def digest(*parts: bytes) -> str:
    """SHA-256 over length-prefixed parts: ("ab", "c") and ("a", "bc") differ."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "big"))
        hasher.update(part)
    return hasher.hexdigest()


def input_hash(workflow: str, value: object) -> str:
    """What tells two starts of one run id apart: the workflow's name and its input."""
    return digest(workflow.encode(), canonical(value))


def through_codec(value: object) -> JSON:
    """What a reader of the encoded value would see: every value crosses it once, on the first pass as on a resumed
    one.
    """
    return _plain.decode(_encoder.encode(value))
