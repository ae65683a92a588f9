"""Waiting for ends: the notice in the starter's inbox, and the journal when it does not come."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from jetloom.errors import RunFailed, TaskFailed, WaitTimeout
from jetloom.messages import Start, encode
from jetloom.runtime import StepContext
from jetloom.transport import Incoming
from jetloom.types import JSON
from jetloom.workflows import Definition, Step, Wait
from tests.engine.world import World, play

ONE = Definition(id="one", steps=(Step("a", uses="do.a"),))
WAITS = Definition(id="waits", steps=(Step("w", wait=Wait(message="go")),))


async def _double(_: StepContext, value: JSON) -> JSON:
    if value == 0:
        raise TaskFailed("number.zero", "nothing to double")
    assert isinstance(value, int)
    return value * 2


def test_run_gives_the_result() -> None:
    """`run` starts, waits and answers, with the error of a run that failed."""

    async def test(world: World) -> None:
        await world.begin(ONE)
        await world.engine("e0", {"do.a": _double})
        assert await world.client.run("one", 21, id="r1") == 42
        # The same id again is the same run, which somebody else started as far as this call knows.
        assert await world.client.run("one", 21, id="r1") == 42
        with pytest.raises(RunFailed):
            await world.client.run("one", 0)

    play(test)


def test_a_lost_notice_costs_a_look() -> None:
    """Whoever hears nothing finds the end in the journal: here the waiter was cut off when the run ended."""

    async def test(world: World) -> None:
        await world.begin(WAITS)
        await world.engine("e0")
        waiting = asyncio.ensure_future(world.client.run("waits", id="r1"))

        async def started() -> bool:
            return bool(await world.client.journal("r1")) if waiting.done() is False else False

        other = world.server.connect("other")
        await asyncio.sleep(0.5)
        assert await started()
        world.transport.disconnect(lose_sent=True)
        await asyncio.sleep(0.1)
        await other.append(world.names.message("r1", "go", "m1"), encode({"payload": 1}), expected=0)
        await asyncio.sleep(0.5)
        world.transport.reconnect()
        assert await asyncio.wait_for(waiting, 30) == 1

    play(test)


@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.0, 3.0])
def test_patience_ends_the_waiting_only(seconds: float) -> None:
    """A waiter gives up when it said it would, and leaves the run alone."""

    async def test(world: World) -> None:
        await world.begin(WAITS)
        await world.engine("e0")
        began = asyncio.get_running_loop().time()
        with pytest.raises(WaitTimeout):
            await world.client.run("waits", id="r1", patience=timedelta(seconds=seconds))
        assert seconds <= asyncio.get_running_loop().time() - began <= seconds + 0.2
        await world.client.message("r1", "go", 5)
        assert await world.result("r1") == 5

    play(test)


def test_an_engine_publishes_to_inboxes_only() -> None:
    """A start that names another subject than an inbox has no engine publish there."""

    async def test(world: World) -> None:
        await world.begin(ONE)
        heard: list[Incoming] = []
        await world.transport.subscribe("shop.>", heard.append)
        await world.transport.subscribe("_INBOX.x", heard.append)
        await world.engine("e0", {"do.a": _double})
        for run, notify in (("r1", "shop.door.open"), ("r2", "_INBOX.x")):
            start = Start("one", "", run, input=1, notify=notify)
            await world.transport.append(world.names.start(run), encode(start), expected=0)
            assert await world.result(run) == 2
        assert [one.subject for one in heard] == ["_INBOX.x"]

    play(test)
