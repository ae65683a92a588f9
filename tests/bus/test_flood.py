"""Thousands of events on a real server, two replicas, one of which goes away in the middle."""

from __future__ import annotations

import asyncio
from collections import Counter

from jetloom.bus import Event, EventSubscription, NewEvent, Retry, find_dead_letters
from jetloom.errors import TaskFailed
from tests.bus.kit import TYPE, Order, Seen, Shop, shop
from tests.runtime.world import run_on_server, until

EVENTS = 5_000
POISON_EVERY = 500
KEYS = 50


async def poisonous(event: Event[Order]) -> None:
    await asyncio.sleep(0)
    if event.payload.amount % POISON_EVERY == 7:
        raise TaskFailed("poison", "never")


async def flood(shop: Shop) -> None:
    report = await shop.bus.publish_many(
        NewEvent(TYPE, Order(f"o{number}", f"k{number % KEYS}", number), id=f"o{number}")
        for number in range(EVENTS)
    )
    assert (report.stored, report.failures) == (EVENTS, [])


async def two_replicas(shop: Shop, one: Seen, two: Seen, **fields: object) -> EventSubscription[Order]:
    """The one that goes away."""
    mine = await shop.world.connect("one")
    first = await shop.subscribe(one.handler(**fields), transport=mine)
    await shop.subscribe(two.handler(**fields), transport=await shop.world.connect("two"))
    return first


async def check(shop: Shop, one: Seen, two: Seen) -> Counter[str]:
    handled = Counter(one.ids) + Counter(two.ids)
    assert len(handled) == EVENTS
    letters = await find_dead_letters(shop.transport, shop.names)
    assert len(letters) == EVENTS // POISON_EVERY
    assert {letter.code for letter in letters} == {"poison"}
    return handled


def test_a_flood_reaches_every_event(modules_url: str) -> None:
    """Every event is handled at least once, poison is in the dead letters, and few are handled twice."""

    @shop
    async def scenario(shop: Shop) -> None:
        one, two = Seen(poisonous), Seen(poisonous)
        first = await two_replicas(shop, one, two, concurrency=32, ack_wait=5.0)
        flooding = asyncio.ensure_future(flood(shop))
        await until(lambda: len(one.ids) > EVENTS // 10, "the first replica is at work")
        await first.drain(0)
        await flooding
        await until(lambda: len({*one.ids, *two.ids}) == EVENTS, "every event was handled")
        await shop.settled()
        handled = await check(shop, one, two)
        assert sum(handled.values()) < EVENTS * 1.2

    run_on_server(modules_url, scenario)


def test_a_flood_in_order(modules_url: str) -> None:
    """With a key the same, and each key's events in the order of the stream."""

    @shop
    async def scenario(shop: Shop) -> None:
        one, two = Seen(poisonous), Seen(poisonous)
        first = await two_replicas(shop, one, two, key="event.payload.key", retry=Retry(max=1))
        flooding = asyncio.ensure_future(flood(shop))
        await until(lambda: len(one.ids) > EVENTS // 10 or len(two.ids) > EVENTS // 10, "one is at work")
        await (first if one.ids else shop.bus).drain(0)
        await flooding
        await until(lambda: len({*one.ids, *two.ids}) == EVENTS, "every event was handled")
        await shop.settled()
        await check(shop, one, two)
        for key in range(KEYS):
            order: dict[int, None] = {}
            for event in one.events + two.events:
                if event.payload.key == f"k{key}":
                    order.setdefault(event.sequence)
            assert list(order) == sorted(order)

    run_on_server(modules_url, scenario)
