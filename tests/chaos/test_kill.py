"""Processes are killed, frozen and restarted at random moments; the books must be right afterwards."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from jetloom.errors import RunFailed, Unavailable
from jetloom.runtime import JournalLine
from tests.chaos.world import Child, World, check_bodies, check_run, expected_events, records_of

RUNS = 300
END_SECONDS = 90.0
FREEZE_SECONDS = 30.0

pytestmark = pytest.mark.xdist_group("chaos")


@pytest.mark.timeout(240)
async def test_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    """Engines and workers killed, one engine frozen for 30 s, the server killed with its store kept: every run ends
    exactly once, no body begins after its result is journaled, events exist once, undos are complete and in order.

    A mixed fleet: with and without the hot path, with single appends and with group commit.
    """
    seed = int(os.environ.get("CHAOS_SEED") or random.Random(time.time_ns()).randrange(10**6))
    print(f"seed {seed}: repeat with CHAOS_SEED={seed}")
    dice = random.Random(seed)
    world = World(tmp_path)
    client = await world.start()
    try:
        engines = [
            await world.child("engine", "e0"),
            await world.child("engine", "e1", "--grouping", "always"),
            await world.child("engine", "e2", "--plain"),
        ]
        workers = [await world.child("worker", "w0"), await world.child("worker", "w1", "--plain")]
        starting = asyncio.create_task(_start_all(world, dice))
        await _faults(world, dice, engines, workers)
        await starting
        journals: dict[str, Sequence[JournalLine]] = {}
        incs: dict[str, int] = {}
        reasons: set[str] = set()
        async with asyncio.timeout(END_SECONDS):
            for number in range(RUNS):
                run = f"chaos-{number}"
                try:
                    await client.result(run)
                except RunFailed as error:
                    reasons.add(error.info.code)
                journals[run] = await client.journal(run)
                incs[run] = (await client.show(run)).inc
        assert reasons == {"chaos.refused"}
        wrong = [problem for run, journal in journals.items() for problem in check_run(run, journal)]
        wrong += check_bodies(journals, world.bodies(), slack=0.5)
        assert not wrong, wrong[:10]
        expected = expected_events(journals, incs)
        events = await _events(world, len(expected))
        assert set(events) == expected
        assert [identity for identity, count in events.items() if count != 1] == []
    finally:
        await world.stop()


async def _events(world: World, count: int) -> dict[str, int]:
    """The events, once their sourcing has caught up (it may pause for ten seconds after a restart under load)."""
    async with asyncio.timeout(30):
        while len(events := await world.events()) < count:
            await asyncio.sleep(0.2)
    return events


async def _start_all(world: World, dice: random.Random) -> None:
    for number in range(RUNS):
        workflow = dice.choice(["near", "mixed", "far"])
        await _insist(
            lambda number=number, workflow=workflow: world.client.start(
                workflow, {"number": number}, id=f"chaos-{number}"
            )
        )
        await asyncio.sleep(0.06)


async def _insist[T](call: Callable[[], Awaitable[T]]) -> T:
    """What a client does while the server is away: the same id again."""
    while True:
        try:
            return await call()
        except Unavailable:
            await asyncio.sleep(0.2)


async def _faults(world: World, dice: random.Random, engines: list[Child], workers: list[Child]) -> None:
    """One engine is frozen throughout; meanwhile the others, the workers and the server are killed and restarted."""
    frozen = engines[0]
    await asyncio.sleep(1.0)
    frozen.freeze()
    began = time.monotonic()
    servers = 0
    while time.monotonic() - began < FREEZE_SECONDS:
        await asyncio.sleep(dice.uniform(0.5, 2.0))
        assert frozen.frozen(), "the freeze did not take effect"
        victim = dice.choice(["engine", "engine", "worker", "both", "server"])
        if victim == "server" and servers < 3:
            servers += 1
            before = world.server.pid
            world.server.kill()
            await asyncio.sleep(dice.uniform(0.0, 1.0))
            await world.server.start()
            assert world.server.pid != before
            continue
        killed: list[Child] = []
        if victim in ("engine", "both", "server"):
            killed.append(dice.choice(engines[1:]))
        if victim in ("worker", "both"):
            killed.append(dice.choice(workers))
        for child in killed:
            await child.kill()
        await asyncio.sleep(dice.uniform(0.0, 1.0))
        for child in killed:
            await child.start()
    frozen.thaw()
    assert not frozen.frozen()


async def test_runs_move_on_within_four_seconds(tmp_path: Path) -> None:
    """After SIGKILL of an engine the runs whose bodies it ran are taken over and go on within 4 s."""
    world = World(tmp_path)
    client = await world.start()
    try:
        victim = await world.child("engine", "victim")
        await world.child("engine", "heir")
        runs = [f"move-{number}" for number in range(60)]
        await asyncio.gather(*(client.start("near", {}, id=run) for run in runs))
        async with asyncio.timeout(20):
            while not _open_in(world, "victim"):
                await asyncio.sleep(0.005)
        await victim.kill()
        killed = time.time()
        orphans = _open_in(world, "victim")
        assert orphans, "the kill hit nothing"
        for run in runs:
            await client.result(run, timeout=timedelta(seconds=30))
        for run in orphans:
            journal = await client.journal(run)
            taken = min(line.at for line in journal if line.by.startswith("heir") and line.at > killed - 0.1)
            assert taken - killed <= 4.0, f"{run} moved on after {taken - killed:.1f} s"
    finally:
        await world.stop()


def _open_in(world: World, process: str) -> set[str]:
    """Runs with a body that began in this process and has not ended."""
    if not world.books.exists():
        return set()
    begun: dict[tuple[str, str, int], str] = {}
    for body in world.bodies():
        key = (body["run"], body["unit"], body["attempt"])
        if body["process"].startswith(process):
            if body["what"] == "start":
                begun[key] = body["run"]
            else:
                begun.pop(key, None)
    return set(begun.values())


async def test_sigterm_loses_nothing(tmp_path: Path) -> None:
    """A drained engine gives its covers back: another one resumes them at once, without waiting for a timeout."""
    world = World(tmp_path)
    client = await world.start()
    try:
        first = await world.child("engine", "first")
        for number in range(20):
            await client.start("near", {}, id=f"drain-{number}")
        await first.stop()
        assert first.process is not None
        assert first.process.returncode == 0
        await world.child("engine", "second")
        for number in range(20):
            await client.result(f"drain-{number}", timeout=timedelta(seconds=30))
            journal = await client.journal(f"drain-{number}")
            assert len(records_of(journal, "finished")) == 1
    finally:
        await world.stop()
