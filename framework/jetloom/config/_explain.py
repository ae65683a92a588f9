"""The configuration for readers: every value with its source, and the schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import msgspec

from ..types import JSON
from ._modules import Loaded, fields_of, is_nested
from ._secrets import redact
from ._settings import Settings
from ._values import plain

DEFAULT = "default"

_PROCESS = ("modules", "sources", "config")


class ConfigValue(msgspec.Struct, frozen=True):
    """One setting as it may be printed: a secret's value is hidden."""

    name: str
    value: JSON
    source: str


def explain_module(loaded: Loaded[msgspec.Struct]) -> list[ConfigValue]:
    """Every field of a module's configuration, nested ones by their dotted names."""
    found: list[ConfigValue] = []
    _walk(loaded.value, (), loaded.sources, found)
    return found


def explain_settings(settings: Settings) -> list[ConfigValue]:
    """Every setting of the process."""
    return [
        # Creds and nkey are names of files; only a URL may hold a password.
        ConfigValue(name, redact(plain(getattr(settings, name))), settings.sources.get(name, DEFAULT))
        for name in Settings.__struct_fields__
        if name not in _PROCESS
    ]


def config_schema(modules: Mapping[str, type[msgspec.Struct] | None]) -> dict[str, JSON]:
    """The JSON Schema of `jetloom.toml` with these modules."""
    kinds = {module: kind for module, kind in modules.items() if kind is not None}
    schemas, components = msgspec.json.schema_components(
        [Settings, *kinds.values()], ref_template="#/$defs/{name}", schema_hook=_any
    )
    definitions = cast("dict[str, JSON]", components)
    process = cast("dict[str, JSON]", definitions.pop("Settings"))
    fields = cast("dict[str, JSON]", process["properties"])
    nats: dict[str, JSON] = {
        name.removeprefix("nats_"): fields[name] for name in fields if name.startswith("nats_")
    }
    tables: dict[str, JSON] = {
        module: cast("JSON", schema) for module, schema in zip(kinds, schemas[1:], strict=True)
    }
    properties: dict[str, JSON] = {
        name: schema
        for name, schema in fields.items()
        if name not in _PROCESS and not name.startswith("nats_")
    }
    properties["nats"] = {"type": "object", "properties": nats, "additionalProperties": False}
    properties["modules"] = {"type": "object", "properties": tables}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "jetloom.toml",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": definitions,
    }


def _walk(value: object, path: tuple[str, ...], sources: Mapping[str, str], found: list[ConfigValue]) -> None:
    for field in fields_of(type(value)):
        here = (*path, field.encode_name)
        name = ".".join(here)
        inner = cast("object", getattr(value, field.name))
        if is_nested(inner) and not field.secret:
            _walk(inner, here, sources, found)
        else:
            shown = redact(plain(inner), secret=field.secret)
            found.append(ConfigValue(name, shown, sources.get(name, DEFAULT)))


def _any(_: type) -> dict[str, object]:
    """A type that says nothing about its JSON."""
    return {"description": "anything"}
