"""What a module gets from its host: typed clients, subscriptions made later, replays, locks, traces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from jetloom.bus import Event, EventHandler, PayloadDecoder, list_dead_letters, replay_dead_letters
from jetloom.errors import LockTimeout, TaskFailed
from jetloom.runtime import Module, Runtime, endpoint, on
from jetloom.types import JSON
from tests.runtime.world import Runner, World, run_on_twin, until


class Order(msgspec.Struct, frozen=True):
    id: str


class Shop(Module):
    id = "shop"
    version = "2.0.0"

    def __init__(self) -> None:
        self.broken = True
        self.handled: list[str] = []
        self.later: list[JSON] = []

    async def init(self, rt: Runtime) -> None:
        self.rt = rt

    @on("shop.order.placed")
    async def placed(self, event: Event[Order]) -> None:
        if self.broken:
            raise TaskFailed("stock.gone", "no stock")
        self.handled.append(event.payload.id)

    @endpoint(idempotent=True)
    async def show(self, request: Order) -> Order:
        return Order(f"{request.id}!")

    @endpoint()
    async def each(self, request: Order) -> AsyncIterator[Order]:
        for number in range(3):
            yield Order(f"{request.id}{number}")


class Caller(Module):
    id = "caller"
    depends_on = ("shop",)

    async def init(self, rt: Runtime) -> None:
        self.rt = rt


def test_another_modules_endpoints_are_methods(run_on: Runner) -> None:
    """A client has the module's methods with their types, answers in parts among them."""

    async def scenario(world: World) -> None:
        caller = Caller()
        async with world.running(caller, Shop):
            shop = caller.rt.rpc.client(Shop)
            assert await shop.show(Order("a")) == Order("a!")
            assert [part.id async for part in shop.each(Order("a"))] == ["a0", "a1", "a2"]

    run_on(scenario)


def test_dead_letters_come_back_to_their_handler(run_on: Runner) -> None:
    """The host serves the replay for every module, for declared handlers and for those subscribed later."""

    async def scenario(world: World) -> None:
        module = Shop()
        async with world.running(module) as (_, transport):

            async def fail_first(event: Event[JSON]) -> None:
                if module.broken:
                    raise TaskFailed("later.failed", "not now")
                module.later.append(event.payload)

            handler: EventHandler[JSON] = EventHandler(
                module="shop", name="later", pattern="shop.*.placed", decoder=PayloadDecoder(JSON),
                function=fail_first,
            )  # fmt: skip
            await module.rt.bus.subscribe(handler)
            await module.rt.bus.publish("shop.order.placed", Order("a"))
            letters = (await list_dead_letters(transport, world.names))[0]
            while len(letters) < 2:
                letters = (await list_dead_letters(transport, world.names))[0]
            module.broken = False
            outcomes = await replay_dead_letters(transport, world.names, letters)
            assert [each.outcome for each in outcomes] == ["handled", "handled"]
            assert (module.handled, module.later) == (["a"], [{"id": "a"}])

    run_on(scenario)


def test_what_was_subscribed_later_is_drained_too() -> None:
    """After a drain the run-time subscription takes nothing more."""

    async def scenario(world: World) -> None:
        module = Shop()
        async with world.running(module) as (host, _):
            handler: EventHandler[JSON] = EventHandler(
                module="shop", name="later", pattern="shop.>", decoder=PayloadDecoder(JSON),
                function=lambda event: _keep(module.later, event),
            )  # fmt: skip
            subscription = await module.rt.bus.subscribe(handler)
            await module.rt.bus.publish("shop.parcel.sent", 1)
            await until(lambda: module.later == [1], "the event was handled")
            assert (await host.drain(5)).clean
            assert subscription.ended

    run_on_twin(scenario)


async def _keep(seen: list[JSON], event: Event[JSON]) -> None:
    seen.append(event.payload)


def test_locks_and_tracer_are_there(run_on: Runner) -> None:
    """A lock excludes another process of the namespace; a tracer bears the module's name."""

    async def scenario(world: World) -> None:
        one, other = Shop(), Shop()

        async def fails() -> None:
            with pytest.raises(LockTimeout):
                async with other.rt.locks.hold("stock", timeout=0):
                    raise AssertionError("two held it")

        async with world.running(one), world.running(other):
            async with one.rt.locks.hold("stock") as lock:
                assert lock.fence > 0
                await asyncio.create_task(fails())
            async with other.rt.locks.hold("stock", timeout=10) as second:
                assert second.fence > lock.fence
            with one.rt.tracer.start_as_current_span("counting") as span:
                assert not span.get_span_context().is_valid

    run_on(scenario)
