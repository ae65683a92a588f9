"""Events in CloudEvents' structured mode."""

from __future__ import annotations

import base64
import json
from typing import Any, cast

import pytest

from jetloom.bus import Event, EventHandler, ReplayDesk, list_dead_letters
from jetloom.errors import DecodeFailed
from jetloom.messages import attribute_of, to_binary_mode, to_headers
from jetloom.messages._events import EventHeaders, attribute_to_header, from_headers
from jetloom.types import Actor, ActorKind
from tests.runtime.world import Runner, until

from .kit import TYPE, Order, Seen, Shop, shop

KIND = {"Content-Type": "application/cloudevents+json; charset=UTF-8"}


def body(**members: Any) -> bytes:
    members = {"specversion": "1.0", "id": "a b", "type": "other", "source": "/till/7", **members}
    return json.dumps(members).encode()


async def send(shop: Shop, data: bytes, headers: dict[str, str] | None = None) -> None:
    await shop.transport.append(shop.names.event(TYPE), data, headers=headers or KIND)


def test_a_handler_sees_the_event_inside(run_on: Runner) -> None:
    """Attributes are read from the body, the payload from `data` or `data_base64`, whatever the handler's path."""

    async def scenario(shop: Shop) -> None:
        one, keyed, many, big = Seen(), Seen(), Seen(), Seen()
        await shop.subscribe(one.handler())
        await shop.subscribe(keyed.handler(name="keyed", key="event.payload.key"))
        await shop.subscribe(many.handler(name="many", batch=2, batch_wait=0.05))
        await shop.subscribe(
            big.handler(name="big", where="event.payload.amount > 5 && event.source == '/till/7'")
        )
        order = {"id": "1", "key": "k", "amount": 10}
        trace = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
        await send(
            shop,
            body(
                data=order,
                datacontenttype="application/json",
                time="2026-01-02T03:04:05.5+01:00",
                correlationid="c",
                causationid="because",
                traceparent=trace,
                actor="human:ann",
                priority=7,
            ),
        )
        coded = base64.b64encode(json.dumps({**order, "id": "2"}).encode()).decode()
        await send(shop, body(id="second", data_base64=coded))
        for seen in (one, keyed, many, big):
            await until(lambda seen=seen: sorted(seen.ids) == ["1", "2"], "both were seen")
        event = next(each for each in one.events if each.payload.id == "1")
        assert event.payload == Order("1", "k", 10)
        assert (event.id, event.type, event.source) == ("a b", TYPE, "/till/7")
        assert event.time.isoformat() == "2026-01-02T02:04:05.500000+00:00"
        assert (event.correlation, event.causation, event.trace) == ("c", "because", trace)
        assert event.actor == Actor(ActorKind.HUMAN, "ann")

    run_on(shop(scenario))


def test_what_can_not_be_read_is_a_dead_letter_at_once(run_on: Runner) -> None:
    """A batch, another format and a body that is no event are not tried again, and the letter has what was sent."""

    async def scenario(shop: Shop) -> None:
        seen = Seen()
        await shop.subscribe(seen.handler())
        await send(shop, b"[]", {"content-type": "application/cloudevents-batch+json"})
        await send(shop, b"\x00", {"content-type": "application/cloudevents+avro"})
        await send(shop, b"{")
        await send(shop, body(data={"id": "ok"}))
        await until(lambda: seen.ids == ["ok"], "the event that can be read was handled")
        await shop.settled()
        letters, _ = await list_dead_letters(shop.transport, shop.names)
        assert sorted(each.data for each in letters) == [b"\x00", b"[]", b"{"]
        assert {each.code for each in letters} == {"decode.failed"}
        assert {each.deliveries for each in letters} == {1}

    run_on(shop(scenario))


def test_a_dead_letter_is_replayed_as_it_was_sent(run_on: Runner) -> None:
    """The letter of an event in structured mode is one that a replay understands."""
    failing = True

    async def fails_first(event: Event[Order]) -> None:
        if failing:
            raise DecodeFailed("the order", "not yet")

    async def scenario(shop: Shop) -> None:
        nonlocal failing
        seen = Seen(fails_first)
        handler = seen.handler()
        await shop.subscribe(handler)
        await send(shop, body(data={"id": "1"}))
        await until(lambda: seen.ids, "it was tried")
        await shop.settled()
        [letter], _ = await list_dead_letters(shop.transport, shop.names)
        failing = False
        handlers = cast("list[EventHandler[object]]", [handler])
        desk = ReplayDesk("orders", handlers, shop.transport, shop.names, shop.world.clock, shop.metrics)
        assert (await desk.replay(letter)).outcome == "handled"
        assert [event.id for event in seen.events] == ["a b", "a b"]

    run_on(shop(scenario))


@pytest.mark.parametrize("text", ["plain/é ü", 'a "quote" 100%', "tab\tand\nline", "order-1:=?&", "%41"])
def test_attributes_cross_headers_whole(text: str) -> None:
    """What CloudEvents asks to be percent-encoded is, and comes back as it was."""
    headers = to_headers(EventHeaders(text, "a.b", text, 0.0, None, "", text, text))
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    head = from_headers(headers, event_type="a.b", sequence=1, stored_at=0.0)
    assert (head.id, head.source, head.correlation, head.causation) == (text, text, text, text)
    assert attribute_of(attribute_to_header(text)) == text


def test_attributes_of_every_kind_become_text() -> None:
    """Numbers, truth values and null are attributes; a list or an object is none."""
    headers, data = to_binary_mode(KIND, body(n=7, yes=True, none=None, data=None))
    assert (headers["ce-n"], headers["ce-yes"], data) == ("7", "true", b"null")
    assert "ce-none" not in headers
    with pytest.raises(DecodeFailed, match="structured"):
        to_binary_mode(KIND, body(list=[]))
    with pytest.raises(DecodeFailed, match="structured"):
        to_binary_mode(KIND, body(data_base64="%"))
