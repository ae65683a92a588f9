"""The safety nets: runs that nothing moves are poked, and what ended runs leave behind is purged."""

from __future__ import annotations

import asyncio

import pytest

from jetloom.engine import RETENTION_MIN, _engine
from jetloom.runtime import StepContext
from jetloom.testing import run_virtual
from jetloom.types import JSON, RunStatus
from jetloom.workflows import Definition, Retry, Step, Wait
from tests.engine.twin import Twin


async def _emits(context: StepContext, value: JSON) -> JSON:
    context.emit("shop.order.done", {"n": 1})
    await context.heartbeat({"at": 1})
    return "x" * 700_000


def test_markers_and_blobs_leave_after_the_journal() -> None:
    """A finished run leaves by itself; an hour later its markers, notes and blobs are gone, its events are not."""

    async def main() -> None:
        twin = Twin()
        steps = (Step("a", uses="do.emits"),)
        await twin.start(Definition(id="one", retention=RETENTION_MIN, steps=steps))
        engine = await twin.engine("e", {"do.emits": _emits})
        run = (await twin.client.start("one", {})).run
        await twin.client.result(run)
        await asyncio.sleep(5)
        assert await twin.count(twin.names.markers_stream) == 2
        assert await twin.count(twin.names.blobs_stream) > 0
        await asyncio.sleep(RETENTION_MIN)
        assert await twin.count(twin.names.runs_stream(0)) == 0
        assert await twin.count(twin.names.index_stream) == 0
        assert await twin.count(twin.names.markers_stream) == 2
        await asyncio.sleep(3700)
        assert await twin.count(twin.names.markers_stream) == 0
        assert await twin.count(twin.names.blobs_stream) == 0
        assert await twin.count(twin.names.timers_stream(0)) == 0
        events = await twin.transport.read(twin.names.events_stream, twin.names.event("shop.>"))
        assert len(events) == 1
        await engine.stop()

    run_virtual(main, seed=1)


def test_an_id_comes_back_after_its_retention() -> None:
    """The memory of an id is its journal: afterwards the same id, with any input, is a new run with its own names."""

    async def main() -> None:
        twin = Twin()
        await twin.start(Definition(id="one", retention=RETENTION_MIN, steps=(Step("a", uses="do.emits"),)))
        engine = await twin.engine("e", {"do.emits": _emits})
        first = await twin.client.start("one", {"n": 1}, id="order-1")
        await twin.client.result("order-1")
        await asyncio.sleep(RETENTION_MIN + 5)
        second = await twin.client.start("one", {"n": 2}, id="order-1")
        await twin.client.result("order-1")
        assert second.started
        assert second.inc > first.inc
        await asyncio.sleep(5)
        events = await twin.transport.read(twin.names.events_stream, twin.names.event("shop.>"))
        assert len({event.headers["ce-id"] for event in events}) == 2
        await engine.stop()

    run_virtual(main, seed=1)


def test_a_lost_cover_is_replaced_by_a_poke() -> None:
    """The streams differ after a power failure: work without a stored cover is found by the sweep and runs again."""
    bodies: list[int] = []

    async def body(context: StepContext, value: JSON) -> JSON:
        bodies.append(context.attempt)
        if len(bodies) == 1:
            await asyncio.sleep(10_000)
        return "done"

    async def main() -> None:
        twin = Twin()
        await twin.start(Definition(id="one", steps=(Step("a", uses="do.body", retry=Retry(max=0)),)))
        dying = await twin.engine("dying", {"do.body": body}, sweep=False)
        started = await twin.client.start("one", {})
        await asyncio.sleep(40)
        assert bodies == [1]
        twin.server.abandon("dying")
        await twin.transport.delete(twin.names.mailbox_stream(0), started.inc)
        heir = await twin.engine("heir", {"do.body": body})
        await asyncio.sleep(200)
        assert (await twin.client.show(started.run)).status is RunStatus.COMPLETED
        assert bodies == [1, 1]
        await heir.stop()
        await dying.stop()

    run_virtual(main, seed=1)


def test_a_healthy_run_is_never_poked() -> None:
    """Waits, timers and long bodies have movers: hours of sweeps leave them alone."""

    async def long(context: StepContext, value: JSON) -> JSON:
        await asyncio.sleep(900)
        return "done"

    async def main() -> None:
        twin = Twin()
        steps = (
            Step("timer", wait=Wait(for_=1_000)),
            Step("message", wait=Wait(message="go")),
            Step("body", uses="do.long"),
            Step("nobody", uses="far.nobody"),
        )
        await twin.start(Definition(id="waits", steps=steps))
        engine = await twin.engine("e", {"do.long": long})
        run = (await twin.client.start("waits", {})).run
        await asyncio.sleep(1_200)
        journal = await twin.client.journal(run)
        assert not [record for line in journal for record in line.records if record["t"] == "poked"]
        assert (await twin.client.show(run)).waits_for == [
            "message: message go",
            "nobody: a worker of far.nobody",
        ]
        await engine.stop()

    run_virtual(main, seed=1)


def test_a_storm_of_wakes_waits_in_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wakes that fall due at once are taken as there is room for their runs, and all of them end."""
    monkeypatch.setattr(_engine, "WOKEN_MAX", 5)
    runs = [f"r{number}" for number in range(60)]

    async def main() -> None:
        twin = Twin()
        await twin.start(Definition(id="nap", steps=(Step("a", wait=Wait(for_=60.0)),)))
        first = await twin.engine("e", {})
        for run in runs:
            await twin.client.start("nap", {}, id=run)
        await asyncio.sleep(10)
        await first.stop()
        await asyncio.sleep(60)
        second = await twin.engine("e", {})
        most, ended = 0, 0
        while ended < len(runs):
            await asyncio.sleep(0.002)
            most = max(most, len(second.table))
            ended = sum([(await twin.client.show(run)).status is RunStatus.COMPLETED for run in runs])
        assert 0 < most <= 5
        await second.stop()

    run_virtual(main, seed=1, limit=200.0)
