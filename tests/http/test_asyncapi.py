"""The AsyncAPI document, checked with the specification's own schema.

`asyncapi-3.0.0.json.gz` is `schemas/3.0.0-without-$id.json` of the npm package @asyncapi/specs 6.11.1 (Apache-2.0).
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest
import yaml

from jetloom import Event, Module, endpoint, on, step
from jetloom.cli import main
from jetloom.config import Settings
from jetloom.http import asyncapi_document, asyncapi_yaml
from jetloom.messages import Names
from jetloom.runtime import make_plan

SPECIFICATION = Path(__file__).parent / "asyncapi-3.0.0.json.gz"


class Item(msgspec.Struct):
    name: str
    count: int = 1


class Cart(msgspec.Struct):
    id: str
    items: list[Item]


class Shop(Module):
    id = "shop"
    version = "1.4.0"

    @on("shop.cart.checked_out", key="event.payload.id")
    async def checked_out(self, event: Event[Cart]) -> None: ...

    @on("shop.cart.*", name="all-of-carts", mode="live", where="event.payload.id != ''")
    async def anything(self, event: Event[dict[str, str]]) -> None: ...

    @on("audit.>", batch=10)
    async def audit(self, events: list[Event[Cart]]) -> None: ...

    @endpoint("quote", metadata={"cost": "cheap"})
    async def quote(self, cart: Cart) -> int:
        return len(cart.items)

    @endpoint("ping")
    async def ping(self) -> None: ...

    @endpoint("list")
    async def all(self, owner: str) -> AsyncIterator[Item]:
        yield Item(owner)

    @step("shop.reserve")
    async def reserve(self, cart: Cart) -> Item:
        return cart.items[0]


class Freight:
    """A scope of its own: its cart has the same name, and another shape."""

    class Cart(msgspec.Struct):
        weight: float


class Other(Module):
    id = "other"

    @on("other.thing")
    async def thing(self, event: Event[Freight.Cart]) -> None: ...


def document() -> dict[str, Any]:
    plan = make_plan([Shop, Other], Settings(), Names("acme"), {})
    assert not plan.problems
    return asyncapi_document(plan, Names("acme"), title="the shop", version="1.0.0")


def validator() -> jsonschema_rs.Draft7Validator:
    return jsonschema_rs.Draft7Validator(json.loads(gzip.decompress(SPECIFICATION.read_bytes())))


def test_it_is_valid_by_the_specification() -> None:
    """The document of every kind of declaration has no error by the official schema, which finds planted ones."""
    found = document()
    assert [str(error) for error in validator().iter_errors(found)] == []
    found["operations"]["rpc-shop-quote"]["action"] = "listen"
    assert not validator().is_valid(found)


def test_addresses_and_schemas() -> None:
    """Wildcards are parameters, types stand once under their names, and every reference leads somewhere."""
    found = document()
    channels = found["channels"]
    assert channels["event-shop-cart-checked_out"]["address"] == "acme.events.shop.cart.checked_out"
    assert channels["event-shop-cart-any"]["address"] == "acme.events.shop.cart.{token1}"
    assert set(channels["event-audit-all"]["parameters"]) == {"rest"}
    assert channels["rpc-shop-quote"]["address"] == "acme.rpc.shop.quote"
    assert channels["task-shop-reserve"]["address"].startswith("acme.task.shop.reserve.{run}.")
    assert found["operations"]["on-shop-checked_out"]["x-jetloom-key"] == "event.payload.id"
    schemas = found["components"]["schemas"]
    assert schemas["Cart"]["properties"]["items"]["items"] == {"$ref": "#/components/schemas/Item"}
    assert schemas["Cart-2"]["properties"] == {"weight": {"type": "number"}}
    for reference in references(found):
        at: Any = found
        for name in reference.removeprefix("#/").split("/"):
            at = at[name]


def references(document: Any) -> list[str]:
    return re.findall(r'"\$ref": "([^"]+)"', json.dumps(document))


def test_yaml_says_the_same() -> None:
    """Both forms hold one document."""
    assert yaml.safe_load(asyncapi_yaml(document())) == document()


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """`jetloom asyncapi` prints or writes the document of real services, and names a wrong target."""
    assert main(["asyncapi", "services.orders:Orders", "services.payments:Payments"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert validator().is_valid(printed)
    assert printed["info"]["title"] == "orders, payments"
    path = tmp_path / "doc.yaml"
    assert main(["asyncapi", "services.orders:Orders", "--format", "yaml", "--out", str(path)]) == 0
    assert validator().is_valid(yaml.safe_load(path.read_text()))
    assert main(["asyncapi", "services.orders:Order5"]) == 2
    assert "Orders" in capsys.readouterr().err
