"""How modules come up together, say that they are ready, drain, and go."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import pytest

from jetloom.bus import Bus, Event
from jetloom.errors import StartFailed
from jetloom.runtime import Module, Runtime, endpoint, on
from jetloom.telemetry import current
from jetloom.types import JSON
from tests.runtime.world import Runner, World, run_on_twin, until

LOG: list[str] = []


@pytest.fixture(autouse=True)
def _empty_log() -> None:
    LOG.clear()


class Timed(Module):
    seconds: ClassVar[float] = 5.0

    async def init(self, rt: Runtime) -> None:
        LOG.append(f"begin {self.id}")
        await asyncio.sleep(self.seconds)
        LOG.append(f"init {self.id}")

    async def ready(self) -> None:
        LOG.append(f"ready {self.id} as {current().module}")

    async def drain(self) -> None:
        LOG.append(f"drain {self.id}")

    async def shutdown(self) -> None:
        LOG.append(f"shutdown {self.id}")


class Left(Timed):
    id = "left"


class Right(Timed):
    id = "right"
    seconds = 3.0


class After(Timed):
    id = "after"
    depends_on = ("left", "right")


def test_modules_that_need_not_wait_start_together() -> None:
    """Two take the time of the slower one; what depends on both begins when both are up."""

    async def scenario(world: World) -> None:
        began = world.clock.monotonic()
        async with world.running(After, Left, Right) as (host, _):
            assert world.clock.monotonic() - began == pytest.approx(10, abs=0.5)  # pyright: ignore[reportUnknownMemberType]
            assert LOG[2:6] == ["init right", "init left", "begin after", "init after"]
            assert set(LOG[6:]) == {f"ready {name} as {name}" for name in ("left", "right", "after")}
            await host.drain(1)
        drains = {f"drain {name}" for name in ("left", "right", "after")}
        assert set(LOG[9:12]) == drains
        assert LOG[12:] == ["shutdown after", "shutdown left", "shutdown right"]

    run_on_twin(scenario)


class BadLeft(Timed):
    id = "bad-left"
    seconds = 1.0

    async def init(self, rt: Runtime) -> None:
        await super().init(rt)
        raise ValueError("no left")


class BadRight(Timed):
    id = "bad-right"

    async def init(self, rt: Runtime) -> None:
        await super().init(rt)
        raise ValueError("no right")


class Never(Timed):
    id = "never"
    depends_on = ("bad-left",)


def test_every_failure_of_a_start_is_named() -> None:
    """What has begun ends, what has not never begins, what is up is shut down, and each failure is in the error."""

    async def scenario(world: World) -> None:
        host = world.host([BadLeft, BadRight, Never, Right], await world.connect())
        with pytest.raises(StartFailed) as caught:
            await host.start()
        assert caught.value.fields["problems"] == [
            "module 'bad-left': init failed: ValueError: no left",
            "module 'bad-right': init failed: ValueError: no right",
        ]
        assert "begin never" not in LOG
        assert LOG[-1] == "shutdown right"
        assert not any(line.startswith(("ready", "drain")) for line in LOG)

    run_on_twin(scenario)


class Stray(Timed):
    id = "stray"

    async def init(self, rt: Runtime) -> None:
        raise asyncio.CancelledError  # as a library may do to whoever awaits it


class Waiting(Timed):
    id = "waiting"
    depends_on = ("stray",)


def test_a_cancellation_from_inside_is_a_failure() -> None:
    """Nobody waits for ever for a module whose `init` was cancelled by its own code."""

    async def scenario(world: World) -> None:
        host = world.host([Stray, Waiting], await world.connect())
        with pytest.raises(
            StartFailed, match="'stray': init failed: RuntimeError: was cancelled from inside"
        ):
            await host.start()
        assert LOG == []

    run_on_twin(scenario)


class NotReady(Timed):
    id = "not-ready"
    seconds = 0.0

    async def ready(self) -> None:
        raise ValueError("no cache")


def test_a_failing_ready_ends_the_start() -> None:
    """It was let in already: it is drained, and shut down like the others."""

    async def scenario(world: World) -> None:
        host = world.host([NotReady, Right], await world.connect())
        with pytest.raises(StartFailed, match="'not-ready': ready failed: ValueError: no cache"):
            await host.start()
        assert {"drain right", "shutdown right", "shutdown not-ready"} <= set(LOG)

    run_on_twin(scenario)


def test_a_cancelled_start_rolls_back() -> None:
    """What is up is shut down when somebody gives up waiting for the rest."""

    async def scenario(world: World) -> None:
        host = world.host([Left, Right], await world.connect())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(4):
                await host.start()
        assert LOG[-1] == "shutdown right"
        assert "init left" not in LOG

    run_on_twin(scenario)


class Draining(Module):
    id = "draining"

    def __init__(self) -> None:
        self.handling = False
        self.handled_while_draining = False

    async def drain(self) -> None:
        self.handled_while_draining = self.handling
        raise ValueError("the cache is gone")

    @on("shop.order.placed")
    async def placed(self, event: Event[JSON]) -> None:
        self.handling = True
        await asyncio.sleep(1)
        self.handling = False


def test_drain_is_called_before_handlers_stop(run_on: Runner) -> None:
    """The handlers still run then; a failure of it is in the report and stops nothing."""

    async def scenario(world: World) -> None:
        bus = Bus(await world.bare(), world.names, world.clock, world.metrics, source="test")
        module = Draining()
        async with world.running(module) as (host, _):
            await bus.publish("shop.order.placed")
            await until(lambda: module.handling, "an event is being handled")
            report = await host.drain(20)
        assert report.failures == ["module 'draining': drain failed: ValueError: the cache is gone"]
        assert report.handed_back == {}
        assert not report.clean
        assert module.handled_while_draining
        assert not module.handling

    run_on(scenario)


class Hooked(Module):
    id = "hooked"

    @endpoint()
    async def ready(self) -> None: ...


class Versioned(Module):
    id = "versioned"
    version = "one"


def test_a_hook_is_no_handler_and_a_version_is_one() -> None:
    """A declared hook, and a version that discovery can't carry, are problems of the start."""

    async def scenario(world: World) -> None:
        transport = await world.connect()
        assert "ready is called by the host" in world.host([Hooked], transport).problems[0]
        assert "version 'one' is not legal" in world.host([Versioned], transport).problems[0]

    run_on_twin(scenario)
