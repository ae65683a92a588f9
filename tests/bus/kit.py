"""Handlers that remember what they saw, and subscriptions of them."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec

from jetloom.bus import Bus, Event, EventHandler, EventSubscription, PayloadDecoder, Retry
from jetloom.telemetry import Metrics
from jetloom.testing import run_virtual
from jetloom.transport import Transport
from tests.runtime.world import World

QUICK = Retry(max=2, initial=0.05, max_delay=0.1)
TYPE = "shop.order.placed"


class Order(msgspec.Struct, frozen=True):
    id: str
    key: str = ""
    amount: int = 0


class Seen:
    """What a handler saw. `body` decides how a call goes on; it may raise."""

    def __init__(self, body: Callable[[Event[Order]], Awaitable[None]] | None = None) -> None:
        self.events: list[Event[Order]] = []
        self.batches: list[list[str]] = []
        self.body = body
        self.running = 0
        self.running_max = 0

    @property
    def ids(self) -> list[str]:
        return [event.payload.id for event in self.events]

    async def one(self, event: Event[Order]) -> None:
        self.events.append(event)
        self.running += 1
        self.running_max = max(self.running, self.running_max)
        try:
            if self.body is not None:
                await self.body(event)
        finally:
            self.running -= 1

    async def many(self, events: list[Event[Order]]) -> None:
        self.batches.append([event.payload.id for event in events])
        for event in events:
            await self.one(event)

    def handler(self, **fields: Any) -> EventHandler[Order]:
        fields.setdefault("module", "orders")
        fields.setdefault("name", "placed")
        fields.setdefault("pattern", TYPE)
        fields.setdefault("retry", QUICK)
        if fields.get("batch"):
            fields.setdefault("many", self.many)
        else:
            fields.setdefault("function", self.one)
        return EventHandler(decoder=PayloadDecoder[Order](Order), **fields)


class Shop:
    """A namespace with its streams, a publisher, and subscriptions that end with it."""

    def __init__(self, world: World, transport: Transport, stack: AsyncExitStack) -> None:
        self.world = world
        self.names = world.names
        self.transport = transport
        self.metrics = Metrics(process=False)
        self.bus = Bus(transport, world.names, world.clock, self.metrics, source="test")
        self._stack = stack

    async def place(self, *ids: str, key: str = "", amount: int = 0, type: str = TYPE) -> None:
        for each in ids:
            await self.bus.publish(type, Order(each, key, amount), id=each)

    async def subscribe(
        self, handler: EventHandler[Order], *, transport: Transport | None = None, doomed: bool = False
    ) -> EventSubscription[Order]:
        """`doomed`: its process will be killed, so nobody stops it."""
        subscription = EventSubscription(
            handler, transport or self.transport, self.names, self.world.clock, self.metrics
        )
        if not doomed:
            self._stack.push_async_callback(subscription.stop)
        await subscription.start()
        return subscription

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.value(name, module="orders", handler="placed", **labels)

    async def settled(self, consumer: str = "orders=placed") -> None:
        """Returns when the consumer has nothing pending and nothing out."""
        for _ in range(1000):
            state = await self.transport.consumer_state(self.names.events_stream, consumer)
            if state is not None and state.unacknowledged == 0 and state.pending == 0:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("a message stays unacknowledged")


def shop(scenario: Callable[[Shop], Awaitable[None]]) -> Callable[[World], Any]:
    """The scenario on a world, with everything that it subscribed stopped at its end."""

    async def run(world: World) -> None:
        async with AsyncExitStack() as stack:
            await scenario(Shop(world, await world.bare(), stack))

    return run


def run_killing(scenario: Callable[[World], Any], seed: int = 1) -> None:
    """On the memory twin, for a scenario that kills processes: their tasks are left, as in a morgue."""

    async def main() -> None:
        await scenario(World())

    run_virtual(main, seed=seed)
    # What the killed had under way is never awaited; said here, and not in another test.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


def failing(ids: set[str], error: Callable[[], Exception]) -> Callable[[Event[Order]], Awaitable[None]]:
    async def body(event: Event[Order]) -> None:
        if event.payload.id in ids:
            raise error()

    return body


async def quiet(seconds: float) -> None:
    """Lets time pass in which nothing may happen: for what must *not* occur there is no condition to wait for."""
    await asyncio.sleep(seconds)
