"""Three workflows joined by events: in virtual time, and as processes of their own with a kill in the middle."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from jetloom.clock import SYSTEM_CLOCK
from jetloom.messages import Names
from jetloom.rpc import Rpc
from jetloom.stores import KeyValue
from jetloom.telemetry import Context, Metrics, use
from jetloom.testing import World
from jetloom.transport import EmbeddedServer, connect
from jetloom.types import Actor, ActorKind
from services.joined import Depot, Hub, Intake, Told

WORKFLOWS = "services/joined/workflows"
ANN = Actor(ActorKind.HUMAN, "ann")
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
BY_RAIL = ("picking", "packing", "by rail", "delivered")
PATIENCE_SECONDS = 60.0


async def start(world: World) -> None:
    await world.start(Intake, workflows=[WORKFLOWS])
    await world.start(Depot)
    await world.start(Hub)


async def told(world: World, order: str) -> Told:
    found = await world.kv("told", Told).find(order)
    return found.value if found is not None else Told()


async def test_an_order_goes_through_all_three(world: World) -> None:
    """From a request to the last message: each stage told in order, with who asked and the trace of the request."""
    await start(world)
    with use(Context(actor=ANN, trace=TRACE)):
        await world.call("intake", "place", {"order": "o-1", "total": 500})
        await world.call("intake", "place", {"order": "o-2", "total": 20_000})
    await world.advance(seconds=10)
    assert await told(world, "o-1") == Told(BY_RAIL, "human:ann", TRACE)
    assert (await told(world, "o-2")).texts == ("picking", "packing", "by air", "delivered")


@pytest.mark.parametrize("total", [0, 100_000])
async def test_a_total_out_of_bounds_is_refused(world: World, total: int) -> None:
    """No fulfilment is started; the customer is told why."""
    await start(world)
    await world.call("intake", "place", {"order": "o-1", "total": total})
    await world.advance(seconds=10)
    assert (await told(world, "o-1")).texts == (f"failed (a total of {total} is out of bounds)",)
    assert not world.published("joined.fulfillment.*")


async def test_an_event_that_comes_again_starts_nothing(world: World) -> None:
    """Duplicates of a validated order, long after the first, start exactly one fulfilment."""
    await start(world)
    for hours in (0, 1, 3):
        await world.publish(
            "joined.order.validated", {"order": "o-1", "priority": "standard"}, id="validated-o-1"
        )
        await world.advance(hours=hours, seconds=10)
    # The second came within the two minutes in which the stream itself knows the id.
    assert len(world.published("joined.order.validated")) == 2
    assert len(world.published("joined.fulfillment.delivered")) == 1
    assert (await told(world, "o-1")).texts == BY_RAIL


async def test_a_hub_that_was_away_hears_everything_in_order(world: World) -> None:
    """What happened while it was down is told when it is back, per order in order."""
    await start(world)
    await world.call("intake", "place", {"order": "o-0", "total": 500})
    await world.advance(seconds=10)
    world.crash(Hub)
    for number in range(1, 6):
        await world.call("intake", "place", {"order": f"o-{number}", "total": 500})
    await world.advance(minutes=5)
    assert (await told(world, "o-3")).texts == ()
    await world.restart(Hub)
    await world.advance(minutes=2)
    for number in range(6):
        assert (await told(world, f"o-{number}")).texts == BY_RAIL


@asynccontextmanager
async def process(url: str, root: Path, *targets: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """`jetloom run`, ready; drained at the end unless it was killed."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "jetloom", "run", *targets, "--nats", url, "--json"),
        cwd=root,
        env={**os.environ, "JETLOOM_HTTP_HOST": "127.0.0.1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert child.stdout is not None
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert b"nats_url" in await child.stdout.readline()
    try:
        yield child
    finally:
        if child.returncode is None:
            child.send_signal(signal.SIGTERM)
        await child.communicate()


async def test_as_processes_with_a_kill(tmp_path: Path, repo_root: Path) -> None:
    """An engine and three modules, each a process; the depot gets SIGKILL half way and starts again: all is told."""
    server = EmbeddedServer(tmp_path, 0)
    await server.start()
    orders = [f"o-{number}" for number in range(20)]
    try:
        async with (
            process(server.url, repo_root, WORKFLOWS, "--engine"),
            process(server.url, repo_root, "services.joined:Intake"),
            process(server.url, repo_root, "services.joined:Hub"),
        ):
            transport = await connect(server.url)
            names = Names("jetloom")
            rpc = Rpc(transport, names, SYSTEM_CLOCK, Metrics(process=False))
            book = KeyValue[Told](transport, names.kv_bucket("told"), Told)

            async def all_told() -> bool:
                found = {entry.key: entry.value.texts for entry in await book.entries()}
                return all(found.get(order) == BY_RAIL for order in orders)

            async with process(server.url, repo_root, "services.joined:Depot") as depot:
                for order in orders:
                    await rpc.call("intake", "place", {"order": order, "total": 500})
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while not await book.entries():
                        await asyncio.sleep(0.01)
                depot.kill()
            async with (
                process(server.url, repo_root, "services.joined:Depot"),
                asyncio.timeout(PATIENCE_SECONDS),
            ):
                while not await all_told():
                    await asyncio.sleep(0.05)
            await transport.close()
    finally:
        await server.stop()
