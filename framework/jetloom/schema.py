"""JSON Schema: compiled once, checked with all errors and their places.

Schemas refer to nothing outside themselves: a remote `$ref` is refused, never fetched. `format` is checked, as whoever
writes one expects. The library loads with the first schema.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import msgspec

from .errors import InvalidInput, SchemaMismatch

if TYPE_CHECKING:
    from jsonschema_rs import Validator

    from .types import JSON

ERRORS_MAX = 50
"""Errors that one mismatch lists: whoever repairs the value sees the pattern by then."""
MESSAGE_CHARACTERS_MAX = 300
"""Of one error: the library quotes the whole value that doesn't fit."""
BACKTRACK_MAX = 100_000
"""Steps of a `pattern` with look-around or back-references, so that a hostile text can't hold a process."""

_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")


class SchemaInvalid(InvalidInput):
    """A schema that is none. `path` leads to the place inside it."""

    code = "schema.invalid"

    def __init__(self, path: Sequence[str | int], reason: str) -> None:
        where = f"at {_pointer(path)}" if path else "at its root"
        super().__init__(f"schema, {where}: {reason}", path=list(path), reason=reason)
        self.path = tuple(path)
        self.reason = reason


class Schema:
    """A compiled schema."""

    __slots__ = ("_validator", "source")

    def __init__(self, source: JSON, validator: Validator) -> None:
        self.source = source
        self._validator = validator

    def validate(self, what: str, value: JSON) -> None:
        """Raises `SchemaMismatch` with every error (at most `ERRORS_MAX`) and its path in the value."""
        if self._validator.is_valid(value):
            return
        lines: list[str] = []
        count = 0
        for error in self._validator.iter_errors(value):
            count += 1
            if count <= ERRORS_MAX:
                lines.append(f"{_pointer(error.instance_path)}: {_short(error.message)}")
        if count > ERRORS_MAX:
            lines.append(f"and {count - ERRORS_MAX} more")
        raise SchemaMismatch(what, lines)


def compile_schema(schema: JSON) -> Schema:
    """Raises `SchemaInvalid` with the place of what is wrong."""
    if not isinstance(schema, dict | bool):
        raise SchemaInvalid((), "expected an object (or true, false)")
    import jsonschema_rs  # 60 ms, so only for definitions that have a schema

    try:
        validator = jsonschema_rs.validator_for(
            schema,
            validate_formats=True,
            offline=True,
            pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=BACKTRACK_MAX),
        )
    except jsonschema_rs.ValidationError as error:
        path = error.instance_path
        known = path and path[-1] == "type"
        reason = f"expected {', '.join(_TYPES)}, or a list of them" if known else _short(error.message)
        raise SchemaInvalid(path, reason) from error
    except (TypeError, ValueError) as error:
        raise SchemaInvalid((), _short(str(error))) from error
    return Schema(schema, validator)


def schema_of(kind: object) -> dict[str, JSON]:
    """The JSON Schema of a struct, dataclass, TypedDict or builtin type, as a decoder of it reads values.

    Raises `SchemaInvalid` for a type that has no JSON form.
    """
    try:
        return cast("dict[str, JSON]", msgspec.json.schema(kind))
    except TypeError as error:
        raise SchemaInvalid((), f"{kind!r} has no JSON Schema: {error}") from error


def _pointer(path: Sequence[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "value"


def _short(message: str) -> str:
    first = message.partition("\n\nFailed validating")[0]
    return first if len(first) <= MESSAGE_CHARACTERS_MAX else f"{first[:MESSAGE_CHARACTERS_MAX]}…"
