"""A FastStream application publishes to a module, consumes from it, calls it, and is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from jetloom.clock import SYSTEM_CLOCK
from jetloom.messages import Names
from jetloom.rpc import Rpc
from jetloom.telemetry import Metrics

from .kit import blocks, connected, load, serving, until


class Quote(msgspec.Struct, frozen=True):
    cents: int


def scope_of(page: Path, url: str) -> dict[str, Any]:
    module, _, app = blocks(page)
    return load(module, app, url=url)


async def test_events_go_both_ways(page: Path, url: str) -> None:
    """FastStream's event reaches `@on` once although it is published twice; the module's reaches FastStream."""
    scope = scope_of(page, url)
    stock = scope["Stock"]()
    async with serving(url, stock):
        await scope["app"].start()
        try:
            await scope["place"]("f-1", "pen", 2)
            await scope["place"]("f-1", "pen", 2)
            await scope["place"]("f-2", "pen", 3)
            await until(lambda: len(scope["told"]) == 2, "FastStream was told of both")
            assert {each.order for each in scope["told"]} == {"f-1", "f-2"}
            assert min(each.left for each in scope["told"]) == 95
            assert sorted((event.id, event.source) for event in stock.seen) == [
                ("f-1", "till"),
                ("f-2", "till"),
            ]
        finally:
            await scope["app"].stop()


async def test_bare_messages_are_events(page: Path, url: str) -> None:
    """What FastStream publishes without any headers of ours is an event as well."""
    scope = scope_of(page, url)
    stock = scope["Stock"]()
    async with serving(url, stock):
        await scope["app"].start()
        try:
            await scope["broker"].publish({"id": "f-3", "item": "pen"}, "jetloom.events.shop.order.placed")
            await until(lambda: stock.seen, "the event was handled")
            [seen] = stock.seen
            assert (seen.payload.id, seen.id, seen.source) == ("f-3", f"EVENTS-{seen.sequence}", "unknown")
        finally:
            await scope["app"].stop()


async def test_requests_go_both_ways(page: Path, url: str) -> None:
    """FastStream calls an endpoint and reads its error; a FastStream subscriber answers a call by name."""
    scope = scope_of(page, url)
    async with serving(url, scope["Stock"]()), connected(url) as transport:
        await scope["app"].start()
        try:
            assert await scope["left"]("pen") == 100
            with pytest.raises(LookupError, match="we don't sell sword"):
                await scope["left"]("sword")
            rpc = Rpc(transport, Names(), SYSTEM_CLOCK, Metrics(process=False))
            quote = await rpc.call("prices", "quote", {"item": "pen", "pieces": 3}, type=Quote, timeout=5)
            assert quote == Quote(750)
        finally:
            await scope["app"].stop()
