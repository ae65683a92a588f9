"""Eight processes take one lock; its holders are killed and frozen at random moments, and the books must be right.

`CHAOS_SECTIONS=10000` makes the run longer, `CHAOS_SEED` repeats one.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jetloom.clock import SYSTEM_CLOCK
from jetloom.stores import KeyValue, Locks, find_lock, kv_asset, locks_asset
from jetloom.transport import EmbeddedServer, Transport, connect
from tests.chaos.lock_process import BUCKET, LOCK, NAMES, TTL
from tests.chaos.world import READY_SECONDS, ROOT, Child

SECTIONS = int(os.environ.get("CHAOS_SECTIONS") or 400)
PROCESSES = 8
SECONDS_EACH = 0.05
"""What a critical section may take on a slow machine, faults included; a run that hangs ends by it."""

pytestmark = pytest.mark.xdist_group("chaos")


class Taker(Child):
    """A process that takes the lock."""

    def __init__(self, name: str, url: str, books: Path, *options: str) -> None:
        super().__init__("locks", name, url, books)
        self._arguments = ["--nats", url, "--name", name, "--books", str(books), *options]

    async def start(self) -> None:
        log = self._books.with_name(f"{self.name}.log").open("ab")
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.chaos.lock_process",
            *self._arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
        )
        log.close()
        assert self.process.stdout is not None
        async with asyncio.timeout(READY_SECONDS):
            line = await self.process.stdout.readline()
        assert line == b"ready\n", f"{self.name} did not start: {line!r}"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None


class Books:
    """What the processes wrote, and what the driver did to them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.kills: list[float] = []
        """When a holder was killed."""
        self.killed = 0
        self.freezes = 0

    def lines(self, what: str) -> list[dict[str, Any]]:
        whole, _, _ = self._path.read_text().rpartition("\n")
        found = [json.loads(line) for line in whole.splitlines()]
        return [line for line in found if line["what"] == what]

    def check(self, final: int) -> list[str]:
        """What is wrong."""
        wrong: list[str] = []
        writes = sorted(self.lines("wrote"), key=lambda line: line["value"])
        for first, second in itertools.pairwise(writes):
            if first["value"] == second["value"]:
                wrong.append(
                    f"value {first['value']} was written under {first['fence']} and {second['fence']}"
                )
            if first["fence"] >= second["fence"]:
                wrong.append(f"fence {second['fence']} wrote after {first['fence']}")
        if writes[-1]["value"] > final:
            wrong.append(f"{writes[-1]['value']} was written, {final} is stored")
        # A process that is killed between its write and its note leaves a gap, and so does a write without a verdict.
        missing = final - len(writes)
        if missing > self.killed + len(self.lines("outcome.unknown")) + len(
            self.lines("write.outcome.unknown")
        ):
            wrong.append(f"{missing} writes are in no book")
        sections = sorted(self.lines("section"), key=lambda line: line["entered"])
        for first, second in itertools.pairwise(sections):
            if second["entered"] < first["left"]:
                wrong.append(f"sections {first['fence']} and {second['fence']} ran at one time")
        return wrong

    def takeovers(self) -> list[float]:
        """Seconds from each kill of a holder to the next one."""
        entered = sorted(line["at"] for line in self.lines("entered"))
        return [next((at - kill for at in entered if at > kill), 0.0) for kill in self.kills]


@pytest.mark.timeout(90 + SECTIONS * SECONDS_EACH)
async def test_no_two_holders_write(tmp_path: Path) -> None:
    """Holders are killed and stopped at random: no value is written twice, fences grow with the values, and no two
    sections that ended well overlap."""
    seed = int(os.environ.get("CHAOS_SEED") or random.Random(time.time_ns()).randrange(10**6))
    print(f"seed {seed}: repeat with CHAOS_SEED={seed}")
    server, path = EmbeddedServer(tmp_path / "store", 0), tmp_path / "books.jsonl"
    path.touch()
    books = Books(path)
    await server.start()
    transport = await connect(server.url, name="driver")
    takers: list[Taker] = []
    try:
        await transport.ensure(locks_asset(NAMES))
        kv = KeyValue[int](transport, NAMES.kv_bucket(BUCKET), int, asset=kv_asset(NAMES, BUCKET))
        await kv.entries()
        # Half of them go on writing when their lock is lost.
        takers = [
            Taker(f"p{number}", server.url, path, "--until", str(SECTIONS), *["--stubborn"][: number % 2])
            for number in range(PROCESSES)
        ]
        await asyncio.gather(*(taker.start() for taker in takers))
        began = time.monotonic()
        await _faults(transport, kv, takers, books, random.Random(seed))
        lasted = time.monotonic() - began
        for taker in takers:
            await taker.stop()
        final = await kv.get("count")
        assert final.value == SECTIONS
        assert books.check(final.value) == []
        assert books.kills
        assert books.freezes
        _report(books, lasted)
    finally:
        for taker in takers:
            await taker.stop()
        await transport.close()
        await server.stop()


async def test_a_paused_holder_is_fenced_off(tmp_path: Path) -> None:
    """A process that stops between reading and writing, and writes without looking when it goes on, changes nothing:
    meanwhile another one has had the lock and claimed the key."""
    server, path = EmbeddedServer(tmp_path / "store", 0), tmp_path / "books.jsonl"
    path.touch()
    books = Books(path)
    await server.start()
    transport = await connect(server.url, name="driver")
    locks = Locks(transport, NAMES, SYSTEM_CLOCK, owner="driver", asset=locks_asset(NAMES))
    kv = KeyValue[int](transport, NAMES.kv_bucket(BUCKET), int, asset=kv_asset(NAMES, BUCKET))
    options = ("--until", "1000000", "--tasks", "1", "--stubborn", "--stop-at", "3")
    taker = Taker("paused", server.url, path, *options)
    try:
        await kv.entries()
        async with locks.hold("so that there is a bucket"):
            await taker.start()
        async with asyncio.timeout(30):
            while not taker.frozen():
                await asyncio.sleep(0.01)
        async with locks.hold(LOCK, timeout=10) as lock:
            entry = await kv.claim("count", lock.fence)
            assert entry is not None
            assert entry.value == 2
            taker.thaw()
            async with asyncio.timeout(30):
                while not books.lines("write.lock.fenced_off"):
                    await asyncio.sleep(0.01)
            await kv.update("count", 100, entry.revision, fence=lock.fence)
        await taker.stop()
        [fenced] = books.lines("write.lock.fenced_off")
        assert fenced["fence"] < lock.fence
        assert fenced["fence"] not in [line["fence"] for line in books.lines("wrote")]
        assert len(books.lines("lock.lost")) >= 1
        assert [line["value"] for line in books.lines("wrote")][:2] == [1, 2]
    finally:
        await taker.stop()
        await locks.stop()
        await transport.close()
        await server.stop()


async def _faults(
    transport: Transport, kv: KeyValue[int], takers: list[Taker], books: Books, dice: random.Random
) -> None:
    """Until the counter is there: a process, mostly the holder, is killed and started again, or stopped for a while."""
    thaws: list[asyncio.Task[None]] = []
    # A long run has more faults than a short one, and more sections between two of them.
    pace = (SECTIONS / 400) ** 0.5
    # At least one of each, whatever is drawn.
    await _stop_for_a_while(takers[0], thaws, books, dice)
    while not books.kills:
        await _kill(await _holder(transport, takers) or takers[1], transport, books)
    while (entry := await kv.find("count")) is None or entry.value < SECTIONS:
        await asyncio.sleep(dice.uniform(0.05, 0.8) * pace)
        victim = dice.choice(takers)
        if dice.random() < 0.7:
            victim = await _holder(transport, takers) or victim
        if victim.frozen():
            continue
        if dice.random() < 0.4:
            await _kill(victim, transport, books)
        else:
            await _stop_for_a_while(victim, thaws, books, dice)
    await asyncio.gather(*thaws)


async def _kill(victim: Taker, transport: Transport, books: Books) -> None:
    """Stopped first, so that it is known whether it was the holder; then another one takes its place."""
    victim.freeze()
    holder = await find_lock(transport, NAMES, LOCK)
    await victim.kill()
    books.killed += 1
    if holder is not None and holder.owner == victim.name:
        books.kills.append(SYSTEM_CLOCK.monotonic())
    await victim.start()


async def _stop_for_a_while(
    victim: Taker, thaws: list[asyncio.Task[None]], books: Books, dice: random.Random
) -> None:
    victim.freeze()
    books.freezes += 1
    thaws.append(asyncio.create_task(_thaw(victim, dice.uniform(0.1, 2.5 * TTL))))


async def _holder(transport: Transport, takers: list[Taker]) -> Taker | None:
    info = await find_lock(transport, NAMES, LOCK)
    return next((taker for taker in takers if info is not None and taker.name == info.owner), None)


async def _thaw(victim: Taker, after: float) -> None:
    await asyncio.sleep(after)
    if victim.running:
        victim.thaw()


def _report(books: Books, lasted: float) -> None:
    takeovers = books.takeovers()
    stats = books.lines("stats")
    print(
        f"{SECTIONS} sections in {lasted:.1f} s; {len(books.kills)} holders killed, {books.freezes} processes stopped; "
        f"takeover after a kill {min(takeovers):.2f} to {max(takeovers):.2f} s; "
        f"lost {len(books.lines('lock.lost'))}, fenced off "
        f"{len(books.lines('lock.fenced_off')) + len(books.lines('write.lock.fenced_off'))}, "
        f"refused writes at the end {[line['refused'] for line in stats]}"
    )
