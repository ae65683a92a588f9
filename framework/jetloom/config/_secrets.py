"""What must not be printed."""

from __future__ import annotations

import re
from typing import Annotated, cast

import msgspec

from ..types import JSON

Secret = Annotated[
    str, msgspec.Meta(extra={"secret": True}, extra_json_schema={"writeOnly": True, "format": "password"})
]
"""A text that is never printed. Fields whose names say so (`api_key`, `db_password`) are hidden without it."""

HIDDEN = "***"

_WORDS = frozenset(
    (
        *("apikey", "cred", "credential", "credentials", "creds", "key", "keys", "passphrase", "passwd"),
        *("password", "passwords", "secret", "secrets", "token", "tokens"),
    )
)
_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
_USERINFO = re.compile(r"(\w[\w+.-]*://)([^/@\s]+)@")


def named_secret(name: str) -> bool:
    """Whether a field's name says that its value is a secret: one of its words is such a word."""
    return any(word.lower() in _WORDS for word in _WORD.findall(name))


def typed_secret(kind: msgspec.inspect.Type) -> bool:
    """Whether a type is `Secret`, or may be one."""
    match kind:
        case msgspec.inspect.Metadata(type=inner):
            extra = cast("dict[str, object] | None", kind.extra)
            return bool((extra or {}).get("secret")) or typed_secret(inner)
        case msgspec.inspect.UnionType(types=types):
            return any(typed_secret(each) for each in types)
        case _:
            return False


def redact(value: JSON, *, secret: bool = False) -> JSON:
    """`value` as it may be printed: secrets by the name of their key, and user names and passwords of URLs, hidden."""
    match value:
        case None | bool():
            return value
        case dict():
            return {name: redact(each, secret=secret or named_secret(name)) for name, each in value.items()}
        case list():
            return [redact(each, secret=secret) for each in value]
        case str():
            if secret:
                return HIDDEN if value else ""
            return _USERINFO.sub(rf"\g<1>{HIDDEN}@", value)
        case _:
            return HIDDEN if secret else value
