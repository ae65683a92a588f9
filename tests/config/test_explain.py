"""The configuration for readers: values with their sources, secrets hidden, a schema."""

from __future__ import annotations

import msgspec
import pytest

from jetloom.config import (
    HIDDEN,
    ConfigValue,
    Secret,
    Settings,
    config_schema,
    explain_module,
    explain_settings,
    load_module_config,
)
from jetloom.errors import SchemaMismatch
from jetloom.schema import compile_schema
from jetloom.types import JSON


class Inner(msgspec.Struct, frozen=True):
    url: str = "redis://me:pw@cache/0"
    pin: Secret = ""


class Mail(msgspec.Struct, frozen=True):
    sender: str
    inner: Inner = Inner(pin="1234")
    apiKey: str = "k"
    access_token: str | None = None
    keyboard: str = "qwerty"
    extra: dict[str, JSON] = {}


def test_every_value_with_its_source_and_no_secret() -> None:
    """Secrets are hidden by type, by name, in tables and in URLs; everything else is shown."""
    environ = {"JETLOOM_MAIL__SENDER": "shop", "JETLOOM_MAIL__EXTRA": '{"password": "pw", "n": 1}'}
    loaded = load_module_config("mail", Mail, Settings(), environ)
    assert explain_module(loaded) == [
        ConfigValue("sender", "shop", "JETLOOM_MAIL__SENDER"),
        ConfigValue("inner.url", f"redis://{HIDDEN}@cache/0", "default"),
        ConfigValue("inner.pin", HIDDEN, "default"),
        ConfigValue("apiKey", HIDDEN, "default"),
        ConfigValue("access_token", None, "default"),
        ConfigValue("keyboard", "qwerty", "default"),
        ConfigValue("extra", {"password": HIDDEN, "n": 1}, "JETLOOM_MAIL__EXTRA"),
    ]


def test_the_process_settings_are_shown() -> None:
    """A password in the server's URL is not."""
    shown = {
        each.name: each
        for each in explain_settings(
            Settings(nats_url="nats://me:pw@host:4222", sources={"nats_url": "NATS_URL"})
        )
    }
    assert shown["nats_url"] == ConfigValue("nats_url", f"nats://{HIDDEN}@host:4222", "NATS_URL")
    assert shown["shards"] == ConfigValue("shards", 1, "default")
    assert not {"modules", "sources"} & set(shown)


def test_the_schema_describes_the_file() -> None:
    """`jetloom.toml` with a module's table fits its schema; a wrong one does not."""
    schema = compile_schema(config_schema({"mail": Mail, "plain": None}))
    good: JSON = {"shards": 2, "nats": {"url": "x"}, "modules": {"mail": {"sender": "a"}}}
    schema.validate("jetloom.toml", good)
    bad: JSON = {"shards": 0, "nats": {"uri": "x"}, "modules": {"mail": {"sender": 1}}}
    with pytest.raises(SchemaMismatch) as caught:
        schema.validate("jetloom.toml", bad)
    errors = caught.value.fields["errors"]
    assert isinstance(errors, list)
    assert len(errors) == 3  # pyright: ignore[reportUnknownArgumentType]
