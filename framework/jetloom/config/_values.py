"""Reading one value, and saying what is wrong with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import msgspec

from ..types import JSON

FILE_BYTES_MAX = 1 << 20
"""Of a configuration file, and of a secret's file."""


def from_environment(
    variable: str, environ: Mapping[str, str], problems: list[str], *, files: bool = True
) -> tuple[str, str] | None:
    """The variable's text, or that of the file that `…_FILE` names, and which of the two it was."""
    direct, named = environ.get(variable), environ.get(f"{variable}_FILE") if files else None
    if direct is not None and named is not None:
        problems.append(f"{variable} and {variable}_FILE are both set: keep one")
        return None
    if direct is not None:
        return direct, variable
    if named is None:
        return None
    path = Path(named)
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            problems.append(f"{variable}_FILE: {path} is larger than {FILE_BYTES_MAX} bytes")
            return None
        return path.read_text(encoding="utf-8").rstrip("\r\n"), f"{variable}_FILE"
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{variable}_FILE: can't read {path}: {type(error).__name__}")
        return None


def convert(
    value: object,
    kind: object,
    where: str,
    problems: list[str],
    *,
    strict: bool = False,
    secret: bool = False,
) -> object:
    """`value` as `kind`; text from the environment may also be JSON, for lists and tables."""
    try:
        return cast("object", msgspec.convert(value, kind, strict=strict))
    except msgspec.ValidationError as error:
        problem = str(error)
    if isinstance(value, str) and not strict and value[:1] in ("[", "{"):
        try:
            return cast("object", msgspec.json.decode(value, type=kind))
        except msgspec.MsgspecError as error:
            problem = str(error)
    if choices := _choices(msgspec.inspect.type_info(kind)):
        found = "" if secret else f", found {value!r}"
        problem = f"expected one of {', '.join(str(each) for each in choices)}{found}"
    problems.append(f"{where}: {problem}")
    return None


def plain(value: object) -> JSON:
    """`value` as JSON has it; what has no such form as text."""
    return cast("JSON", msgspec.to_builtins(value, str_keys=True, enc_hook=str))


def suggest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _choices(kind: msgspec.inspect.Type) -> list[object]:
    """The values of an enumeration; empty for any other type."""
    match kind:
        case msgspec.inspect.Metadata(type=inner):
            return _choices(inner)
        case msgspec.inspect.LiteralType(values=values):
            return list(values)
        case msgspec.inspect.EnumType(cls=cls):
            return [each.value for each in cls]
        case msgspec.inspect.UnionType(types=types):
            inner = [each for each in types if not isinstance(each, msgspec.inspect.NoneType)]
            return _choices(inner[0]) if len(inner) == 1 else []
        case _:
            return []
