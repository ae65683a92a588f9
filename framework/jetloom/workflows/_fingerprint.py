"""What tells two definitions apart.

SHA-256 over a canonical form. Every value carries its type and its length, so no two forms run into each other. The
order of keys, of steps, of labels and of a step's dependencies has no meaning and is sorted away; the order of emitted
events and of lists inside values has one. Everything counts, name and description too: a version is immutable, and an
edit that changed no fingerprint would be dropped without a word. Handler versions are part of `uses`. Fields at their
default don't count, so a field that a later jetloom adds changes no fingerprint of today.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, cast

import msgspec

if TYPE_CHECKING:
    from ..types import JSON
    from ._model import Definition

FORMAT = b"jetloom.definition.1"
"""Goes first into the hash. Another canonical form gets another one."""

_SECONDS = {
    "": ("timeout", "retention"),
    "step": ("timeout",),
    "retry": ("initial", "max_delay", "jitter"),
    "saga": ("timeout",),
    "wait": ("for", "timeout"),
}
"""Numbers of the model that are floats whatever they were written as: 30 and 30.0 are one timeout."""


def fingerprint(definition: Definition) -> str:
    """64 hexadecimal digits."""
    hasher = hashlib.sha256()
    for part in canonical_parts(definition):
        hasher.update(part)
    return hasher.hexdigest()


def canonical_parts(definition: Definition) -> list[bytes]:
    """The canonical form in pieces. Equal for definitions that are the same, different for any others."""
    plain = contents_of(definition)
    _as_floats(plain, "")
    steps = sorted(cast("list[dict[str, JSON]]", plain["steps"]), key=lambda step: cast("str", step["id"]))
    for step in steps:
        _as_floats(step, "step")
        for name in ("retry", "saga", "wait"):
            inside = step.get(name)
            if isinstance(inside, dict):
                _as_floats(inside, name)
                again = inside.get("retry")
                if isinstance(again, dict):
                    _as_floats(again, "retry")
        if "depends_on" in step:
            step["depends_on"] = [*sorted(cast("list[str]", step["depends_on"]))]
    plain["steps"] = [*steps]
    parts: list[bytes] = [FORMAT]
    _add(parts, plain)
    return parts


def contents_of(part: msgspec.Struct) -> dict[str, JSON]:
    """What a part of a definition says, under the names of its written form.

    Fields whose value equals their default are left out. The library's own encoder leaves them out by identity only:
    `retry: {}`, `Retry()` and no retry at all would be three definitions.
    """
    contents: dict[str, JSON] = {}
    for attribute, name, default in _fields(type(part)):
        value: object = getattr(part, attribute)
        if value != default:
            contents[name] = _plain(value)
    return contents


def _plain(value: object) -> JSON:
    match value:
        case msgspec.Struct():
            return contents_of(value)
        case list() | tuple():
            return [_plain(item) for item in cast("list[object]", value)]
        case _:
            return cast("JSON", msgspec.to_builtins(value))


@cache
def _fields(kind: type[msgspec.Struct]) -> tuple[tuple[str, str, object], ...]:
    """Attribute, written name and default of each field."""
    fields: list[tuple[str, str, object]] = []
    for field in msgspec.structs.fields(kind):
        default: object = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = cast("Callable[[], object]", field.default_factory)()
        fields.append((field.name, field.encode_name, default))
    return tuple(fields)


def _as_floats(fields: dict[str, JSON], kind: str) -> None:
    for name in _SECONDS[kind]:
        value = fields.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            fields[name] = float(value)


def _add(parts: list[bytes], value: object) -> None:
    match value:
        case None:
            parts.append(b"n")
        case bool():
            parts.append(b"t" if value else b"f")
        case int():
            _add_text(parts, b"i", str(value))
        case float():
            _add_text(parts, b"d", repr(value))
        case str():
            _add_text(parts, b"s", value)
        case list() | tuple():
            items = cast("list[object]", value)
            parts.append(b"l%d:" % len(items))
            for item in items:
                _add(parts, item)
        case Mapping():
            mapping = cast("Mapping[str, object]", value)
            parts.append(b"m%d:" % len(mapping))
            for key in sorted(mapping):
                _add_text(parts, b"k", key)
                _add(parts, mapping[key])
        case _:
            raise TypeError(f"{type(value).__name__} has no JSON form")


def _add_text(parts: list[bytes], kind: bytes, text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    parts.append(b"%s%d:" % (kind, len(data)))
    parts.append(data)
