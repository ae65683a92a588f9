"""Requests to two replicas that are killed and rolled, and the ledger that they keep.

`CHAOS_REQUESTS=50000` makes it longer, `CHAOS_SEED` repeats one.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from jetloom.clock import SYSTEM_CLOCK
from jetloom.errors import JetloomError
from jetloom.messages import Names
from jetloom.rpc import CallRetry, Rpc
from jetloom.runtime import describe
from jetloom.stores import dlq_asset, events_asset, markers_asset
from jetloom.telemetry import Metrics
from jetloom.transport import EmbeddedServer, connect
from tests.chaos.flood_process import SLOW_CONCURRENCY, Asked, Charge
from tests.chaos.replica import Lines, Replica

REQUESTS = int(os.environ.get("CHAOS_REQUESTS") or 4_000)
CALLERS = 32
PATIENCE = 9.0
"""Of a call: three silent attempts of an idempotent one."""
NAMED = {"request.timeout", "request.no_responders", "unavailable", "nats.disconnected"}
"""What a call that is not idempotent may end with when its replica dies."""
SECONDS = 60 + REQUESTS * 0.02

NAMES = Names()

pytestmark = [pytest.mark.xdist_group("chaos"), pytest.mark.timeout(SECONDS + 60)]


class Place(NamedTuple):
    rpc: Rpc
    replicas: list[Replica]
    lines: Lines
    dice: random.Random


@asynccontextmanager
async def _place(folder: Path) -> AsyncGenerator[Place]:
    seed = int(os.environ.get("CHAOS_SEED") or random.Random(time.time_ns()).randrange(10**6))
    print(f"seed {seed}: repeat with CHAOS_SEED={seed}")
    server, lines = EmbeddedServer(folder / "store", 0), Lines(folder / "books")
    await server.start()
    transport = await connect(server.url, name="callers")
    replicas = [Replica("asked", f"r{number}", server.url, folder / "books") for number in range(2)]
    try:
        for make in (markers_asset, events_asset, dlq_asset):
            await transport.ensure(make(NAMES))
        await asyncio.gather(*(replica.start() for replica in replicas))
        rpc = Rpc(transport, NAMES, SYSTEM_CLOCK, Metrics(), describe=describe)
        yield Place(rpc, replicas, lines, random.Random(seed))
    finally:
        lines.close()
        for replica in replicas:
            await replica.stop()
        await transport.close()
        await server.stop()


async def _call_all(call: Callable[[Charge], Awaitable[int]], ends: dict[int, str]) -> None:
    """`CALLERS` at once; how each call ended: `ok`, `wrong`, or its error's code."""
    numbers = iter(range(REQUESTS))

    async def work() -> None:
        for number in numbers:
            try:
                answer = await call(Charge(number))
            except JetloomError as error:
                ends[number] = error.to_info().code
            else:
                ends[number] = "ok" if answer == 2 * number else "wrong"

    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(work())


async def _during(
    ends: list[dict[int, str]], dice: random.Random, faults: int, act: Callable[[int], Awaitable[None]]
) -> None:
    """Acts when drawn shares of the calls have ended."""
    shares = sorted(dice.uniform(0.05, 0.8) for _ in range(faults))
    for turn, share in enumerate(shares):
        async with asyncio.timeout(SECONDS):
            while sum(map(len, ends)) < share * REQUESTS * len(ends):
                await asyncio.sleep(0.005)
        await act(turn)


async def test_replicas_are_killed(tmp_path: Path) -> None:
    """While one replica lives, a call of an idempotent endpoint gets its answer; one that is not idempotent is executed
    at most once, and ends with its answer or an error that has a name."""
    async with _place(tmp_path) as place:
        client = place.rpc.client(Asked, timeout=PATIENCE)
        twice: dict[int, str] = {}
        once: dict[int, str] = {}

        async def kill(_: int) -> None:
            victim = place.dice.choice(place.replicas)
            await victim.kill()
            await victim.start()

        impatient = place.rpc.client(Asked, timeout=2.0)
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(_call_all(client.double, twice))
            group.create_task(_call_all(impatient.charge, once))
            group.create_task(_during([twice, once], place.dice, 2 + REQUESTS // 10_000, kill))
        lasted = time.monotonic() - began
        executed = Counter(line.number for line in place.lines.read() if line.what == "charge")
        print(f"{2 * REQUESTS / lasted:.0f} requests/s; {Counter(twice.values())}, {Counter(once.values())}")
        assert Counter(twice.values()) == {"ok": REQUESTS}
        assert set(once.values()) - NAMED == {"ok"}
        assert [number for number, count in executed.items() if count > 1] == []
        assert {number for number, end in once.items() if end == "ok"} <= set(executed)


async def test_replicas_are_rolled(tmp_path: Path) -> None:
    """A rolling restart by SIGTERM loses no request: each is executed once and answered, idempotent or not."""
    async with _place(tmp_path) as place:
        client = place.rpc.client(Asked, timeout=PATIENCE)
        once: dict[int, str] = {}

        async def roll(turn: int) -> None:
            await place.replicas[turn % 2].roll()

        async with asyncio.TaskGroup() as group:
            group.create_task(_call_all(client.charge, once))
            group.create_task(_during([once], place.dice, 4, roll))
        executed = Counter(line.number for line in place.lines.read() if line.what == "charge")
        assert Counter(once.values()) == {"ok": REQUESTS}
        assert executed == Counter(range(REQUESTS))


async def test_overload_is_answered_busy(tmp_path: Path) -> None:
    """Far more callers than an endpoint takes: the others are told that it is busy, none waits in a queue, and no
    replica ever works on more than it said."""
    async with _place(tmp_path) as place:
        hasty = place.rpc.client(Asked, timeout=PATIENCE, retry=None)
        ends: list[str] = []

        async def call(number: int) -> None:
            try:
                await hasty.slow(Charge(number))
                ends.append("ok")
            except JetloomError as error:
                ends.append(error.to_info().code)

        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(call(number))
        assert set(ends) == {"ok", "request.busy"}
        running: Counter[int] = Counter()
        for line in place.lines.read():
            running[line.process] += {"begin": 1, "end": -1}[line.what]
            assert running[line.process] <= SLOW_CONCURRENCY
        # Those who try again are all served in the end.
        patient = place.rpc.client(Asked, timeout=30.0, retry=CallRetry(attempts_max=100))
        answers = await asyncio.gather(*(patient.slow(Charge(number)) for number in range(100)))
        assert answers == [2 * number for number in range(100)]
