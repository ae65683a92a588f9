"""The CloudEvents SDK reads what a module publishes, and writes what a module handles."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from cloudevents.core.v1.event import CloudEvent
from nats.js import JetStreamContext

from jetloom.types import Actor, ActorKind

from .kit import blocks, load, plain_client, serving, until

TRACE = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"


def scope_of(page: Path, url: str) -> dict[str, Any]:
    module, sdk, _ = blocks(page)
    return load(module, sdk, url=url)


def order(**attributes: object) -> CloudEvent:
    given = {
        "id": "o 1/ä",
        "source": "/till/Köln 7",
        "type": "shop.order.placed",
        "time": datetime(2026, 1, 2, 3, 4, 5, 600_000, UTC),
        "datacontenttype": "application/json",
        **attributes,
    }
    return CloudEvent(given, {"id": "o-1", "item": "pen", "pieces": 3})


@pytest.mark.parametrize("structured", [False, True], ids=["binary", "structured"])
async def test_a_handler_receives_what_the_sdk_writes(page: Path, url: str, structured: bool) -> None:
    """Every field arrives: id, source, time, payload, correlation, causation, trace, actor."""
    scope = scope_of(page, url)
    stock = scope["Stock"]()
    async with serving(url, stock), plain_client(url) as client:
        event = order(
            correlationid="visit 5", causationid="bell", actor="human:ann", traceparent=TRACE, extra=7
        )
        first = await scope["publish"](JetStreamContext(client), event, structured=structured)
        await until(lambda: stock.seen, "the event was handled")
        assert await scope["publish"](JetStreamContext(client), event, structured=structured) == first
        [seen] = stock.seen
        assert (seen.id, seen.type, seen.source) == ("o 1/ä", "shop.order.placed", "/till/Köln 7")
        assert seen.time == event.get_time()
        assert seen.payload == scope["Order"]("o-1", "pen", 3)
        assert (seen.correlation, seen.causation, seen.trace) == ("visit 5", "bell", TRACE)
        assert seen.actor == Actor(ActorKind.HUMAN, "ann")


async def test_the_sdk_reads_what_a_module_publishes(page: Path, url: str) -> None:
    """Required attributes, time, data and extensions, also those that headers can't hold as they are."""
    scope = scope_of(page, url)
    stock = scope["Stock"]()
    async with serving(url, stock), plain_client(url) as client:
        await scope["publish"](JetStreamContext(client), order(actor="ai_agent:helper"))
        subject = "jetloom.events.shop.stock.reserved"
        subscription = await JetStreamContext(client).subscribe(subject, stream="JETLOOM_EVENTS")
        message = await subscription.next_msg(timeout=10)
        event = scope["read"](message)
        assert (event.get_id(), event.get_type()) == ("o-1-reserved", "shop.stock.reserved")
        assert (event.get_source(), event.get_specversion()) == ("stock", "1.0")
        assert event.get_datacontenttype() == "application/json"
        assert event.get_data() == {"order": "o-1", "left": 97}
        assert abs((datetime.now(UTC) - event.get_time()).total_seconds()) < 60
        assert event.get_extension("correlationid") == "o 1/ä"
        assert event.get_extension("causationid") == "o 1/ä"
        assert (message.headers or {})["Jetloom-Actor"] == "ai_agent:helper"
        # The SDK finds out by itself which mode it is.
        found = from_http_event(HTTPMessage(message.headers or {}, message.data))
        assert found.get_attributes() == event.get_attributes()


async def test_plain_json_is_an_event(page: Path, url: str) -> None:
    """What `nats pub` sends is handled; ids come from the place in the stream."""
    scope = scope_of(page, url)
    stock = scope["Stock"]()
    async with serving(url, stock), plain_client(url) as client:
        body = json.dumps({"id": "o-1", "item": "pen"}).encode()
        stored = await JetStreamContext(client).publish("jetloom.events.shop.order.placed", body)
        await until(lambda: stock.seen, "the event was handled")
        [seen] = stock.seen
        assert (seen.id, seen.source) == (f"EVENTS-{stored.seq}", "unknown")
        answer = await client.request("jetloom.rpc.stock.left", b'{"item": "pen"}', timeout=5)
        assert json.loads(answer.data) == 99
