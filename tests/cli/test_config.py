"""`jetloom config`: values with sources, all problems with exit 2, a schema."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from jetloom.bus import Event
from jetloom.runtime import Module, on
from jetloom.types import JSON
from tests.cli.conftest import ErrorDocument, Run


class Database(msgspec.Struct, frozen=True):
    host: str
    password: str = ""


class ShopConfig(msgspec.Struct, frozen=True):
    db: Database
    limit: int = 3


class Shop(Module):
    id = "shop"
    config = ShopConfig


class Plain(Module):
    id = "plain"

    @on("shop.order.placed")
    async def placed(self, event: Event[JSON]) -> None: ...


SHOP = f"{__name__}:Shop"
PLAIN = f"{__name__}:Plain"


class Value(msgspec.Struct):
    name: str
    value: JSON
    source: str


class Shown(msgspec.Struct):
    file: str
    live: bool
    process: list[Value]
    modules: dict[str, list[Value]]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("NATS_URL", "JETLOOM_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)


def test_values_are_shown_with_their_sources(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret is hidden, in the table and in the document."""
    (tmp_path / "jetloom.toml").write_text("[modules.shop]\nlimit = 20\n", encoding="utf-8")
    monkeypatch.setenv("JETLOOM_SHOP__DB__HOST", "db1")
    monkeypatch.setenv("JETLOOM_SHOP__DB__PASSWORD", "s3cret")
    ended = run("config", "show", SHOP, PLAIN, "--offline", "--json")
    assert ended.code == 0, ended.err
    shown = ended.read(Shown)
    assert not shown.live
    assert [(each.name, each.value) for each in shown.modules["shop"]] == [
        ("db.host", "db1"),
        ("db.password", "***"),
        ("limit", 20),
    ]
    assert shown.modules["shop"][2].source.endswith("jetloom.toml: modules.shop.limit")
    assert shown.modules["plain"] == []
    table = run("config", "show", SHOP, "--offline").out
    assert "JETLOOM_SHOP__DB__HOST" in table
    assert "s3cret" not in table


def test_every_problem_is_exit_2(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets that can't be had and values that don't fit are one error."""
    monkeypatch.setenv("JETLOOM_SHOP__LIMIT", "many")
    for command in ("show", "check"):
        ended = run("config", command, SHOP, f"{__name__}:Shopp", "--offline", "--json")
        assert ended.code == 2
        message = ended.read(ErrorDocument).error.message
        for expected in ("did you mean Shop?", "JETLOOM_SHOP__LIMIT", "shop.db.host is required"):
            assert expected in message


def test_a_server_that_is_away_is_a_remark(run: Run) -> None:
    """The check goes on without the live bucket, and says so."""
    ended = run("config", "check", PLAIN, "--nats", "nats://127.0.0.1:1")
    assert ended.code == 0
    assert "1 module" in ended.out
    assert "live bucket was not read" in ended.err


def test_the_schema_has_the_modules_tables(run: Run) -> None:
    """It is one JSON document."""
    schema = run("config", "schema", SHOP).read(dict[str, JSON])
    assert "ShopConfig" in msgspec.json.encode(schema).decode()
