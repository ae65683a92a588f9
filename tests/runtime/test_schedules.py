"""`@every` in a host: the method is called on time, once over all replicas, and drained with the rest."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import cast

import msgspec

from jetloom.bus import Event, list_dead_letters, replay_dead_letters
from jetloom.errors import TaskFailed
from jetloom.runtime import Module, Tick, every, on
from jetloom.telemetry import current
from tests.runtime.world import World, run_on_twin, until


class Clockwork(Module):
    id = "clockwork"

    def __init__(self) -> None:
        self.ticks: list[Tick] = []
        self.calls = 0
        self.gate = asyncio.Event()
        self.gate.set()

    @every("30s", missed="skip")
    async def tidy(self, tick: Tick) -> None:
        assert str(current().actor) == "module:clockwork"
        self.ticks.append(tick)
        await self.gate.wait()

    @every(timedelta(minutes=1), name="count")
    def counted(self) -> None:
        self.calls += 1


def test_scheduled_methods_are_called_once_over_replicas() -> None:
    """Two replicas share the ticks; each instant is called for once, with the tick or with nothing."""

    async def scenario(world: World) -> None:
        one, other = Clockwork(), Clockwork()
        async with world.running(one) as (_, transport), world.running(other):
            await asyncio.sleep(305)
            await until(lambda: one.calls + other.calls >= 4, "the sync one was called each minute")
            instants = [tick.scheduled for tick in one.ticks + other.ticks]
            assert len(instants) == len(set(instants))
            assert len(instants) in (10, 11)
            reply = await transport.request("$SRV.INFO.clockwork", b"")
            info = cast("dict[str, dict[str, str]]", msgspec.json.decode(reply.data))
            schedules = msgspec.json.decode(info["metadata"]["jetloom.schedules"])
            assert schedules == [
                {"name": "tidy", "spec": "30s", "tz": "UTC", "missed": "skip"},
                {"name": "count", "spec": "60s", "tz": "UTC", "missed": "once"},
            ]

    run_on_twin(scenario)


def test_a_tick_that_a_drain_gave_back_is_called_elsewhere() -> None:
    """The report has it, and the next process calls for the same instant."""

    async def scenario(world: World) -> None:
        one, other = Clockwork(), Clockwork()
        one.gate.clear()
        async with world.running(one) as (host, _):
            await until(lambda: one.ticks, "a call is running")
            report = await host.drain(0.5)
            assert report.handed_back == {"schedule clockwork.tidy": 1}
        async with world.running(other):
            await until(lambda: other.ticks, "it was called again")
            assert other.ticks[0].scheduled == one.ticks[0].scheduled

    run_on_twin(scenario)


class Wrong(Module):
    id = "wrong"

    @every("61 * * * *")
    async def minute(self) -> None: ...

    @every("5m", tz="Mars/Olympus")
    async def zone(self) -> None: ...

    @every("5m", missed_max=0)
    async def none(self) -> None: ...

    @every("5m")
    async def asks(self, what: int) -> None: ...


def test_a_wrong_schedule_is_a_problem_of_the_start() -> None:
    """Rule, zone, limit and signature are named with the method."""

    async def scenario(world: World) -> None:
        problems = world.host([Wrong], await world.connect()).problems
        assert [each.partition(":")[0] for each in problems] == [
            "Wrong.minute",
            "Wrong.zone",
            "Wrong.none",
            "Wrong.asks",
        ]
        assert "takes a Tick or nothing, found (what)" in problems[3]

    run_on_twin(scenario)


class Failing(Module):
    id = "failing"

    def __init__(self) -> None:
        self.broken = True
        self.ticks: list[Tick] = []

    @every("1h")
    async def hourly(self, tick: Tick) -> None:
        if self.broken:
            raise TaskFailed("disk.full", "no room")
        self.ticks.append(tick)


def test_a_firing_in_the_dead_letters_is_asked_for_again() -> None:
    """Its replay calls the method for the instant that it stood for; the letter is gone then."""

    async def scenario(world: World) -> None:
        module = Failing()
        async with world.running(module) as (_, transport):
            await asyncio.sleep(3601)
            letters = (await list_dead_letters(transport, world.names))[0]
            [letter] = letters
            module.broken = False
            [outcome] = await replay_dead_letters(transport, world.names, letters)
            assert outcome.outcome == "handled"
            await until(lambda: module.ticks, "it was called again")
            assert module.ticks[0].manual
            assert letter.at - module.ticks[0].scheduled.timestamp() < 5
            assert (await list_dead_letters(transport, world.names))[0] == []

    run_on_twin(scenario)


class Named(Module):
    id = "named"

    @on("a.b")
    async def same(self, event: Event[int]) -> None: ...

    @every("1h", name="same")
    async def other(self) -> None: ...


def test_a_schedule_and_a_handler_need_two_names() -> None:
    """Their dead letters bear the name alone."""

    async def scenario(world: World) -> None:
        [problem] = world.host([Named], await world.connect()).problems
        assert "an event handler and a schedule 'same'" in problem

    run_on_twin(scenario)
