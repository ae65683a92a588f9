"""Modules start in order, fail together, and stop without losing work."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import msgspec
import pytest

from jetloom.bus import Bus, Event
from jetloom.errors import InvalidInput, ModuleNotLocal, StartFailed, Unavailable
from jetloom.runtime import Module, Runtime, StepContext, Undo, endpoint, on, step
from jetloom.types import JSON, SYSTEM
from tests.runtime.world import Runner, World, run_on_twin, until


class Order(msgspec.Struct, frozen=True):
    id: str
    pieces: int = 1


class Log:
    lines: ClassVar[list[str]] = []


class Recorder(Module):
    async def init(self, rt: Runtime) -> None:
        Log.lines.append(f"init {self.id}")

    async def shutdown(self) -> None:
        Log.lines.append(f"shutdown {self.id}")


class Base(Recorder):
    id = "base"


class Middle(Recorder):
    id = "middle"
    depends_on = ("base",)


class Top(Recorder):
    id = "top"
    depends_on = ("middle", "base")


class Broken(Recorder):
    id = "broken"
    depends_on = ("middle",)

    async def init(self, rt: Runtime) -> None:
        raise InvalidInput("no stock file")


@pytest.fixture(autouse=True)
def _empty_log() -> None:
    Log.lines.clear()


def test_modules_start_in_order_and_stop_in_reverse(run_on: Runner) -> None:
    """What a module depends on is up before it and down after it, whatever order they were given in."""

    async def scenario(world: World) -> None:
        async with world.running(Top, Middle, Base) as (host, _):
            assert host.health().ready
            assert host.health().modules == {"base": "up", "middle": "up", "top": "up"}
        await host.stop()
        assert not host.health().ready
        assert Log.lines == [
            "init base", "init middle", "init top", "shutdown top", "shutdown middle", "shutdown base",
        ]  # fmt: skip

    run_on(scenario)


def test_a_failing_init_rolls_back() -> None:
    """When one init fails, those that are up are shut down in reverse order, and the error says which and why."""

    async def scenario(world: World) -> None:
        host = world.host([Broken, Middle, Base], await world.connect())
        with pytest.raises(StartFailed, match="'broken': init failed: no stock file"):
            await host.start()
        assert Log.lines == ["init base", "init middle", "shutdown middle", "shutdown base"]

    run_on_twin(scenario)


class Needs(msgspec.Struct, frozen=True):
    port: int
    secret: str


class Wrong(Module):
    id = "wrong"
    depends_on = ("nowhere",)
    config = Needs

    @on("shop.order.placed")
    async def placed(self, event: Order) -> None: ...

    @on("not a pattern")
    async def pattern(self, event: Event[Order]) -> None: ...

    @endpoint("two words")
    async def named(self, request: Order) -> Order:
        return request

    @endpoint("many")
    async def many(self, request: Order, more: int) -> None: ...

    @step("Wrong.Case")
    async def cased(self, order: Order) -> None: ...

    @step("wrong.same")
    async def same(self, order: Order) -> None: ...

    @step("wrong.same")
    async def again(self, ctx: StepContext, order: Order) -> None: ...

    @step("wrong.key")
    async def key(self, order: Order, *, keyword: int) -> None: ...


class First(Module):
    id = "first"
    depends_on = ("second",)


class Second(Module):
    id = "second"
    depends_on = ("first",)


class AlsoFirst(Module):
    id = "first"


class Nameless(Module):
    pass


def test_every_start_error_at_once() -> None:
    """Missing dependency, cycle, duplicate and bad id, configuration and signatures are all named in one error."""

    async def scenario(world: World) -> None:
        environ = {"JETLOOM_WRONG__PORT": "many", "JETLOOM_WRONG__SECRE": "x"}
        host = world.host([Wrong, First, Second, AlsoFirst, Nameless], await world.connect(), environ)
        with pytest.raises(StartFailed) as caught:
            await host.start()
        text = "\n".join(host.problems)
        assert caught.value.message.count("\n  - ") == len(host.problems)
        for expected in (
            "module 'wrong' depends on 'nowhere', which is not in this process",
            "modules depend on each other in a circle: ",
            "module 'first' is there twice: First and AlsoFirst",
            "Nameless: id '' is not legal",
            "JETLOOM_WRONG__PORT: Expected `int`",
            "wrong.secret is required: set JETLOOM_WRONG__SECRET",
            "JETLOOM_WRONG__SECRE is no setting of module wrong; did you mean JETLOOM_WRONG__SECRET",
            "Wrong.placed: an event handler takes an Event[Payload], or a list[Event[Payload]]",
            "Wrong.pattern: event pattern 'not a pattern' is not legal",
            "Wrong.named: endpoint 'two words' is not legal",
            "Wrong.many: an endpoint takes one argument or none, found (request, more)",
            "Wrong.cased: handler 'Wrong.Case' is not legal",
            "module 'wrong' has two of step 'wrong.same'",
            "Wrong.key: nothing fills its keyword parameter 'keyword'",
        ):
            assert expected in text, f"{expected!r} is not in:\n{text}"

    run_on_twin(scenario)


class Reservation(msgspec.Struct, frozen=True):
    order: str
    place: int


class Steps(Module):
    id = "steps"
    seen: ClassVar[list[object]] = []

    @step("steps.reserve", undo="steps.release", concurrency=3)
    async def reserve(self, ctx: StepContext, order: Order) -> Reservation:
        return Reservation(order.id, order.pieces)

    @step("steps.release")
    def release(self, undo: Undo[Order, Reservation]) -> None:
        self.seen.append(undo)

    @step("steps.plain")
    async def plain(self, value: JSON) -> JSON:
        return value

    @step("steps.none")
    async def nothing(self) -> set[int]:
        return {3}


class NoContext:
    """A step context with what every body's context is made of."""

    run = "r1"
    step = "s1"
    actor = SYSTEM
    deadline = None


def test_steps_are_typed_by_annotations() -> None:
    """A step gets its input as its own type and gives plain data; an undo gets input, output, outcome."""

    async def scenario(world: World) -> None:
        host = world.host([Steps], await world.connect())
        ctx = NoContext()
        run = {name: handler.function for name, handler in host.steps.items()}
        assert host.steps["steps.reserve"].concurrency == 3
        assert host.undos == {"steps.reserve": "steps.release"}
        reserved = await run["steps.reserve"](ctx, {"id": "o1", "pieces": 2})  # pyright: ignore[reportArgumentType]
        assert reserved == {"order": "o1", "place": 2}
        undo: JSON = {"input": {"id": "o1"}, "output": reserved, "outcome": "completed"}
        assert await run["steps.release"](ctx, undo) is None  # pyright: ignore[reportArgumentType]
        assert Steps.seen == [Undo(Order("o1"), Reservation("o1", 2), "completed")]
        assert await run["steps.plain"](ctx, [1, None]) == [1, None]  # pyright: ignore[reportArgumentType]
        assert await run["steps.none"](ctx, None) == [3]  # pyright: ignore[reportArgumentType]
        with pytest.raises(InvalidInput, match=r"input of Steps.reserve does not fit Order: .*pieces"):
            await run["steps.reserve"](ctx, {"id": "o1", "pieces": "two"})  # pyright: ignore[reportArgumentType]

    run_on_twin(scenario)


class Configured(Module):
    id = "configured"
    config = Needs
    got: ClassVar[list[Needs]] = []

    async def init(self, rt: Runtime) -> None:
        self.got.append(rt.config_as(Needs))
        assert rt.module("base", Base).id == "base"
        with pytest.raises(ModuleNotLocal, match=r"rt\.rpc"):
            rt.module("elsewhere")
        with pytest.raises(Unavailable):
            _ = rt.workflows
        assert await rt.kv("stock", int).create("apple", 3)
        assert (await rt.kv("stock", int).get("apple")).value == 3


def test_a_module_gets_its_runtime(run_on: Runner) -> None:
    """Configuration, buckets and local modules are there in init; what is not there says so."""

    async def scenario(world: World) -> None:
        environ = {"JETLOOM_CONFIGURED__PORT": "80", "JETLOOM_CONFIGURED__SECRET": "s"}
        async with world.running(Configured, Base, environ=environ):
            assert Configured.got[-1] == Needs(80, "s")

    run_on(scenario)


class Slow(Module):
    id = "slow"

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.gate = asyncio.Event()

    @on("shop.order.placed", concurrency=4)
    async def placed(self, event: Event[Order]) -> None:
        self.begun.append(event.payload.id)
        await self.gate.wait()
        self.ended.append(event.payload.id)


def test_a_drain_loses_nothing(run_on: Runner) -> None:
    """What a drain can't finish is given back, and the next process handles it; each event is handled to the end."""

    async def scenario(world: World) -> None:
        transport = await world.bare()
        bus = Bus(transport, world.names, world.clock, world.metrics, source="test")
        names = [f"o{number}" for number in range(10)]
        first, second = Slow(), Slow()
        async with world.running(first) as (host, _):
            for name in names:
                await bus.publish("shop.order.placed", Order(name))
            await until(lambda: len(first.begun) == 4, "four are being handled")
            report = await host.drain(0.2)
            assert report.handed_back == {"slow.placed": 4}
            assert not report.clean
            assert not first.ended
        second.gate.set()
        given_back = asyncio.get_running_loop().time()
        async with world.running(second) as (host, _):
            await until(lambda: sorted(second.ended) == names, "the next process has handled all")
            # Given back, they come at once; only a killed process' come after the ack wait of 30 s.
            assert asyncio.get_running_loop().time() - given_back < 15
            assert (await host.drain(1)).clean

    run_on(scenario)


def test_a_drain_waits_for_what_runs() -> None:
    """A handler that ends within the deadline is not disturbed, and nothing new begins meanwhile."""

    async def scenario(world: World) -> None:
        transport = await world.bare()
        bus = Bus(transport, world.names, world.clock, world.metrics, source="test")
        module = Slow()
        async with world.running(module) as (host, _):
            for name in ("a", "b", "c", "d", "e"):
                await bus.publish("shop.order.placed", Order(name))
            await until(lambda: len(module.begun) == 4, "four are being handled")
            asyncio.get_running_loop().call_later(3, module.gate.set)
            assert (await host.drain(20)).clean
            assert sorted(module.ended) == ["a", "b", "c", "d"]

    run_on_twin(scenario)
