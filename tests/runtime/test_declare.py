"""What annotations make of methods: typed events, batches, answers, parts; and what is wrong with them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import ClassVar, TypedDict

import msgspec
import pytest

from jetloom.bus import Bus, Event
from jetloom.errors import InvalidInput
from jetloom.messages import Names
from jetloom.rpc import EndpointSpec
from jetloom.runtime import Module, background, describe, endpoint, health, on, step
from jetloom.runtime._declare import Declared, declared_by
from jetloom.types import JSON
from tests.runtime.world import Runner, World, until


class Order(msgspec.Struct, frozen=True):
    id: str
    pieces: int = 1


@dataclass
class Parcel:
    id: str
    grams: int = 0


class Letter(TypedDict):
    to: str


class Typed(Module):
    id = "typed"

    def __init__(self) -> None:
        self.seen: list[object] = []

    @on("shop.order.placed")
    async def structs(self, event: Event[Order]) -> None:
        self.seen.append(event.payload)

    @on("shop.order.placed")
    async def plain(self, event: Event[dict[str, object]]) -> None:
        self.seen.append(event.payload)

    @on("shop.parcel.sent")
    def classes(self, event: Event[Parcel]) -> None:
        self.seen.append(event.payload)

    @on("shop.letter.*")
    async def typed_dicts(self, event: Event[Letter]) -> None:
        self.seen.append(event.payload)

    @on("shop.>")
    async def anything(self, event: Event) -> None:  # pyright: ignore[reportMissingTypeArgument, reportUnknownParameterType]
        ...

    @on("shop.order.placed", batch=10, batch_wait=0.1)
    async def batched(self, events: list[Event[Order]]) -> None: ...

    @endpoint(idempotent=True, timeout=3)
    async def show(self, request: Order) -> Parcel:
        return Parcel(request.id, request.pieces)

    @endpoint("all")
    async def everything(self, request: Order) -> AsyncIterator[Parcel]:
        for number in range(request.pieces):
            yield Parcel(request.id, number)

    @endpoint()
    @staticmethod
    async def ping() -> None: ...

    @endpoint()
    async def untyped(self, request):  # pyright: ignore[reportUnknownParameterType, reportMissingParameterType]
        return request  # pyright: ignore[reportUnknownVariableType]


def declared(kind: type[Module]) -> Declared:
    return declared_by(kind(), Names("ns"))


def test_schemas_come_from_annotations() -> None:
    """Structs, dataclasses, typed dicts and plain data have a JSON Schema; anything is an empty one."""
    found = declared(Typed)
    assert found.problems == []
    schemas = {each.name: each.schema or {} for each in found.events}
    assert msgspec.json.encode(schemas["structs"]).count(b"pieces") == 1
    assert b"grams" in msgspec.json.encode(schemas["classes"])
    assert b'"to"' in msgspec.json.encode(schemas["typed_dicts"])
    assert schemas["plain"]["type"] == "object"
    assert schemas["anything"] == {}
    assert schemas["batched"] == schemas["structs"]
    endpoints = {each.name: each for each in found.endpoints}
    assert b"grams" in msgspec.json.encode(endpoints["show"].response_schema)
    assert endpoints["all"].response_schema == endpoints["show"].response_schema
    assert endpoints["ping"].request_schema is None
    assert endpoints["ping"].response_schema == {"type": "null"}
    assert endpoints["untyped"].request_schema == {}
    assert endpoints["show"].metadata == {"request": "Order", "response": "Parcel"}


def test_batches_and_parts_are_told_apart() -> None:
    """A list goes to `many`, an async generator to `parts`."""
    found = declared(Typed)
    handlers = {each.name: each for each in found.events}
    assert handlers["structs"].function is not None
    assert handlers["structs"].many is None
    assert (handlers["batched"].function, handlers["batched"].batch) == (None, 10)
    assert handlers["batched"].many is not None
    endpoints = {each.name: each for each in found.endpoints}
    assert endpoints["all"].function is None
    assert endpoints["all"].parts is not None
    assert endpoints["show"].parts is None


def test_a_class_is_described_for_clients() -> None:
    """By the method's names, without an instance."""
    found = describe(Typed)
    assert found["show"] == EndpointSpec(
        service="typed", endpoint="show", request=Order, response=Parcel, idempotent=True, timeout=3
    )
    everything = found["everything"]
    assert (everything.endpoint, everything.response, everything.parts) == ("all", Parcel, True)
    assert found["ping"] == EndpointSpec(service="typed", endpoint="ping", response=type(None))
    assert found["untyped"].request is JSON
    with pytest.raises(InvalidInput, match="Order is no module"):
        describe(Order)
    with pytest.raises(InvalidInput, match=r"Bad\.two: an endpoint takes one argument or none"):
        describe(Bad)


class Bad(Module):
    id = "bad"

    @on("a.b")
    async def list_alone(self, events: list[Event[Order]]) -> None: ...

    @on("a.b", batch=3)
    async def batch_alone(self, event: Event[Order]) -> None: ...

    @on("a.b", key="event.id", mode="live")
    async def keyed_live(self, event: Event[Order]) -> None: ...

    @on("a.b", key="event.id", batch=2)
    async def keyed_batch(self, events: list[Event[Order]]) -> None: ...

    @on("a.b", where="event.payload.")
    async def condition(self, event: Event[Order]) -> None: ...

    @on("a.b", batch=2, batch_wait=0)
    async def unwaited(self, events: list[Event[Order]]) -> None: ...

    @on("a.b", timeout=0)
    async def timeless(self, event: Event[Order]) -> None: ...

    @on("a.b", concurrency=0)
    async def nobody(self, event: Event[Order]) -> None: ...

    @on("a.b")
    async def yields(self, event: Event[Order]) -> AsyncIterator[int]:
        yield 1

    @on("a.b")
    async def unreadable(self, event: Event[memoryview | Order | Parcel]) -> None: ...

    @endpoint()
    async def two(self, first: Order, second: Order) -> None: ...

    @endpoint()
    async def no_generator(self) -> AsyncIterator[int]:
        raise NotImplementedError

    @endpoint()
    def generator(self):
        yield 1

    @endpoint(group="a b")
    async def grouped(self) -> None: ...

    @health(timeout=0)
    async def slow(self) -> None: ...

    @health()
    async def asks(self, what: str) -> None: ...

    @background()
    def threaded(self) -> None: ...

    @background(restarts_max=-1)
    async def negative(self) -> None: ...

    @step("bad.three")
    async def three(self, one: int, other: int) -> None: ...

    problems_expected: ClassVar[tuple[str, ...]] = (
        "Bad.list_alone: takes a list: set batch=…",
        "Bad.batch_alone: batch=3 needs a list[Event[Payload]], found Event[Order]",
        "Bad.keyed_live: handler bad.keyed_live: a live subscription has no key",
        "Bad.keyed_batch: handler bad.keyed_batch: key and batch exclude each other",
        "Bad.timeless: handler bad.timeless: timeout 0 s: above 0",
        "Bad.nobody: handler bad.nobody: concurrency 0: at least 1",
        "Bad.condition: expression 'event.payload.',",
        "Bad.unwaited: batch_wait is 0 s, expected more than 0",
        "Bad.yields: is an async generator; only an endpoint answers in parts",
        "Bad.unreadable: ",
        "Bad.two: an endpoint takes one argument or none, found (first, second)",
        "Bad.no_generator: gives AsyncIterator[int] and yields nothing",
        "Bad.generator: is a generator; an endpoint that answers in parts is an async one",
        "Bad.grouped: queue group 'a b' is not legal",
        "Bad.slow: timeout is 0 s",
        "Bad.asks: a health check takes no argument, found (what)",
        "Bad.threaded: a background task is async",
        "Bad.negative: restarts_max is -1, expected 0 or more",
        "Bad.three: a step takes (ctx: StepContext, input)",
    )


def test_every_wrong_declaration_is_named() -> None:
    """Each method that can't serve has a problem of its own, with what was expected."""
    found = declared(Bad).problems
    for expected in Bad.problems_expected:
        assert [each for each in found if each.startswith(expected)], expected + "\n" + "\n".join(found)
    assert len(found) == len(Bad.problems_expected)


def test_typed_payloads_arrive(run_on: Runner) -> None:
    """Each handler gets the payload as the type that it asked for, also one that runs in a thread."""

    async def scenario(world: World) -> None:
        bus = Bus(await world.bare(), world.names, world.clock, world.metrics, source="test")
        module = Typed()
        async with world.running(module):
            await bus.publish("shop.order.placed", {"id": "o1"})
            await bus.publish("shop.parcel.sent", {"id": "p1", "grams": 5})
            await bus.publish("shop.letter.sent", {"to": "me"})
            await until(lambda: len(module.seen) == 4, "all four handlers had theirs")
        for expected in (Order("o1"), {"id": "o1"}, Parcel("p1", 5), {"to": "me"}):
            assert expected in module.seen

    run_on(scenario)
