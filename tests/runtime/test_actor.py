"""Who asked is known at every place that a piece of work passes through, and in the lines that are logged there."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, cast

import pytest

from jetloom.bus import Bus, Event
from jetloom.engine import Client, Engine, Worker
from jetloom.messages import encode
from jetloom.runtime import Host, Module, Runtime, StepContext, endpoint, on, step
from jetloom.stores import namespace_assets
from jetloom.telemetry import Context, JsonFormatter, Metrics, current, use
from jetloom.types import JSON, Actor, ActorKind
from jetloom.workflows import Definition, Step
from tests.runtime.world import World, run_on_twin, until

if TYPE_CHECKING:
    from collections.abc import Generator

ANN = Actor(ActorKind.HUMAN, "ann")


class Seen(Module):
    """Remembers who asked, at each of its places."""

    def __init__(self) -> None:
        self.seen: dict[str, str] = {}

    async def init(self, rt: Runtime) -> None:
        self.rt = rt
        self.see("init")

    def see(self, place: str) -> None:
        self.seen[f"{self.id} {place}"] = str(current().actor)
        self.rt.logger.info("seen", extra={"place": place})


class Desk(Seen):
    id = "desk"

    @on("shop.order.placed")
    async def placed(self, event: Event[JSON]) -> None:
        assert event.actor == ANN
        self.see("handler")
        await self.rt.rpc.call("stock", "reserve", {"order": 1})

    @on("shop.order.picked")
    async def picked(self, event: Event[JSON]) -> None:
        assert event.actor == ANN
        self.see("handler of what the step emitted")


class Stock(Seen):
    id = "stock"

    @endpoint()
    async def reserve(self, request: JSON) -> None:
        self.see("endpoint")
        await self.rt.workflows.start("picking", request, id="r1")

    @step("stock.pick")
    async def pick(self, ctx: StepContext) -> None:
        assert ctx.actor == ANN
        self.see("step")
        await self.rt.rpc.call("stock", "label")
        ctx.emit("shop.order.picked")

    @endpoint()
    def label(self) -> None:
        self.see("endpoint that the step called, in a thread")


@pytest.fixture
def lines() -> Generator[io.StringIO]:
    """What the modules log, one JSON object a line."""
    logger, stream = logging.getLogger("jetloom.modules"), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    before, logger.level = logger.level, logging.INFO
    yield stream
    logger.setLevel(before)
    logger.removeHandler(handler)


@pytest.mark.parametrize("where", ["engine", "worker"])
def test_the_person_is_known_everywhere(lines: io.StringIO, where: str) -> None:
    """Event, handler, request, endpoint, run, step, emitted event, its handler; with the step here and in a worker."""

    async def scenario(world: World) -> None:
        transport = await world.connect()
        for asset in namespace_assets(world.names):
            await transport.ensure(asset)
        client = Client(transport, world.names, clock=world.clock)
        definition = Definition(id="picking", steps=(Step(id="pick", uses="stock.pick"),))
        await client.register(encode(definition).decode())
        desk, stock = Desk(), Stock()
        host = Host(
            [desk, stock],
            transport,
            world.settings,
            clock=world.clock,
            metrics=Metrics(process=False),
            workflows=client,
            environ={},
        )
        await host.start()
        inline = host.steps if where == "engine" else {}
        engine = Engine(await world.connect("engine"), world.names, clock=world.clock, handlers=inline)
        await engine.start()
        worker = Worker(await world.connect("worker"), world.names, clock=world.clock, handlers=host.steps)
        if where == "worker":
            await worker.start()
        bus = Bus(transport, world.names, world.clock, world.metrics, source="test")
        with use(Context(actor=ANN)):
            await bus.publish("shop.order.placed", {"order": 1})
        last = "desk handler of what the step emitted"
        await until(lambda: last in desk.seen, "the emitted event was handled")
        assert (await client.show("r1")).actor == ANN
        await worker.stop(1)
        await engine.stop(1)
        await host.stop()
        assert {**desk.seen, **stock.seen} == {
            "desk init": "module:desk",
            "stock init": "module:stock",
            "desk handler": "human:ann",
            "stock endpoint": "human:ann",
            "stock step": "human:ann",
            "stock endpoint that the step called, in a thread": "human:ann",
            last: "human:ann",
        }

    run_on_twin(scenario)
    said = [cast("dict[str, str]", json.loads(line)) for line in lines.getvalue().splitlines()]
    assert len(said) == 7
    assert all(line["actor"] == "human:ann" for line in said if line["place"] != "init")
    [stepped] = [line for line in said if line["place"] == "step"]
    assert (stepped["module"], stepped["run"], stepped["step"]) == ("stock", "r1", "pick")
