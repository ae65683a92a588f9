"""A module's configuration, deep: nested fields, the live bucket, precedence, and what each mistake says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from jetloom.config import LiveConfig, Settings, load_module_config
from jetloom.errors import ConfigInvalid


class Tier(StrEnum):
    FREE = "free"
    PAID = "paid"


@dataclass
class Pool:
    size: int = 4
    names: list[str] | None = None


class Database(msgspec.Struct, frozen=True):
    host: str
    port: int = 5432
    password: str = ""
    pool: Pool = msgspec.field(default_factory=Pool)


class Limits(msgspec.Struct, frozen=True):
    eu: int = 1
    us: int = 2


class Shop(msgspec.Struct, frozen=True):
    db: Database
    limits: Limits = Limits(us=20)
    replica: Database | None = None
    tier: Tier = Tier.FREE
    mode: Literal["fast", "safe"] = "safe"
    rates: dict[str, float] = {}
    tags: list[str] = []


LIVE = LiveConfig("ns_config", {"shop": {"db": {"port": 2, "host": "live"}, "mode": "fast"}}, {"shop": 7})


def load(environ: dict[str, str], table: dict[str, object] | None = None, live: LiveConfig | None = None):
    settings = msgspec.convert({"modules": {"shop": table or {}}}, Settings)
    return load_module_config("shop", Shop, settings, environ, live=live)


def problems(environ: dict[str, str], table: dict[str, object] | None = None, live: LiveConfig | None = None):
    with pytest.raises(ConfigInvalid) as caught:
        load(environ, table, live)
    found = caught.value.fields["problems"]
    assert isinstance(found, list)
    return [str(each) for each in found]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def test_nested_fields_have_variables_of_their_own(tmp_path: Path) -> None:
    """Two underscores lead into a struct or dataclass at any depth; secrets may be in files there too."""
    (tmp_path / "password").write_text("s3cret\n", encoding="utf-8")
    loaded = load(
        {
            "JETLOOM_SHOP__DB__HOST": "db1",
            "JETLOOM_SHOP__DB__PASSWORD_FILE": str(tmp_path / "password"),
            "JETLOOM_SHOP__DB__POOL__SIZE": "9",
            "JETLOOM_SHOP__DB__POOL__NAMES": '["a"]',
            "JETLOOM_SHOP__RATES": '{"eu": 0.5}',
            "JETLOOM_SHOP__TIER": "paid",
        }
    )
    assert loaded.value == Shop(
        Database("db1", 5432, "s3cret", Pool(9, ["a"])), tier=Tier.PAID, rates={"eu": 0.5}
    )
    assert loaded.sources["db.password"] == "JETLOOM_SHOP__DB__PASSWORD_FILE"
    assert loaded.sources["db.pool.size"] == "JETLOOM_SHOP__DB__POOL__SIZE"


def test_the_environment_wins_over_the_bucket_and_the_bucket_over_the_file() -> None:
    """Each field is decided for itself, also inside a nested one; the source of each is known."""
    table: dict[str, object] = {"db": {"host": "file", "port": 1, "password": "p"}, "tags": ["file"]}
    loaded = load({"JETLOOM_SHOP__DB__HOST": "env"}, table, LIVE)
    assert loaded.value.db == Database("env", 2, "p")
    assert (loaded.value.mode, loaded.value.tags) == ("fast", ["file"])
    assert loaded.sources == {
        "db.host": "JETLOOM_SHOP__DB__HOST",
        "db.port": "bucket ns_config, key shop: db.port",
        "db.password": "jetloom.toml: modules.shop.db.password",
        "mode": "bucket ns_config, key shop: mode",
        "tags": "jetloom.toml: modules.shop.tags",
    }


def test_a_whole_table_may_be_one_variable() -> None:
    """JSON in the variable of a nested field is its table; a field's own variable wins over it."""
    environ = {"JETLOOM_SHOP__DB": '{"host": "a", "port": 1}', "JETLOOM_SHOP__DB__PORT": "2"}
    assert load(environ).value.db == Database("a", 2)
    assert load({**environ, "JETLOOM_SHOP__REPLICA": "null"}).value.replica is None


def test_what_a_default_says_is_kept() -> None:
    """A field that sets one value of a nested default leaves the others as that default has them."""
    loaded = load({"JETLOOM_SHOP__DB__HOST": "a", "JETLOOM_SHOP__LIMITS__EU": "5"})
    assert loaded.value.limits == Limits(5, 20)
    assert loaded.value.replica is None
    loaded = load({"JETLOOM_SHOP__DB__HOST": "a", "JETLOOM_SHOP__REPLICA__HOST": "b"})
    assert loaded.value.replica == Database("b")


def test_every_mistake_is_named_with_its_place() -> None:
    """Missing, unknown, mistyped and unlisted values at any depth are one error."""
    found = problems(
        {
            "JETLOOM_SHOP__DB__PORT": "many",
            "JETLOOM_SHOP__DB__HOTS": "x",
            "JETLOOM_SHOP__MODE": "slow",
            "JETLOOM_SHOP__TIER": "gold",
            "JETLOOM_SHOP__RATES": "{",
        },
        {"db": {"pool": {"sizes": 3}}, "limits": 4, "modes": "x"},
        LiveConfig("ns_config", {"shop": {"tags": "a"}}),
    )
    for expected in (
        "shop.db.host is required: set JETLOOM_SHOP__DB__HOST or db.host in [modules.shop] of jetloom.toml",
        "JETLOOM_SHOP__DB__PORT: Expected `int`, got `str`",
        "JETLOOM_SHOP__DB__HOTS is no setting of module shop; did you mean JETLOOM_SHOP__DB__HOST?",
        "JETLOOM_SHOP__MODE: expected one of fast, safe, found 'slow'",
        "JETLOOM_SHOP__TIER: expected one of free, paid, found 'gold'",
        "jetloom.toml: modules.shop.db.pool.sizes is no field of Pool; did you mean size?",
        "jetloom.toml: modules.shop.limits: expected a table with the fields of Limits",
        "jetloom.toml: modules.shop.modes is no field of Shop; did you mean mode?",
        "bucket ns_config, key shop: tags: Expected `array`, got `str`",
    ):
        assert expected in found, f"{expected!r} is not in:\n" + "\n".join(found)
    assert any(each.startswith("JETLOOM_SHOP__RATES: ") for each in found)
    [refused] = problems({"JETLOOM_SHOP__DB__HOST": "a"}, live=LiveConfig("ns_config", {"shop": [1]}))
    assert refused == "bucket ns_config, key shop: expected an object with the fields of Shop"
