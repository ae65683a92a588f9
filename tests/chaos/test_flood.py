"""A flood of events with poison among them; replicas are killed and stopped, and the books must be right.

`CHAOS_EVENTS=200000` makes it longer, `CHAOS_SEED` repeats one.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from jetloom.bus import Bus, NewEvent, consumer_name, list_dead_letters
from jetloom.clock import SYSTEM_CLOCK
from jetloom.messages import Names
from jetloom.stores import dlq_asset, events_asset, markers_asset
from jetloom.telemetry import Metrics
from jetloom.transport import EmbeddedServer, Transport, connect
from tests.chaos.flood_process import EVENT, Thing
from tests.chaos.replica import Line, Lines, Replica

EVENTS = int(os.environ.get("CHAOS_EVENTS") or 6_000)
KEYS = 500
HANDLERS = ("plain", "keyed", "many")
KINDS = ("terminal", "misfit", "garbage", "flaky")
POISON_SHARE = 0.004
"""Of each kind: with 0.4 % every fifth batch of 50 has one that fails."""
FREEZE_SECONDS = 3.0
SECONDS = 60 + EVENTS * 0.01
"""For all of it on a slow machine; a run that hangs ends by it."""
GROWTH_MAX = 96 << 20
"""By which a process may grow over the flood: buffers of three handlers, whatever the number of events."""

NAMES = Names()

pytestmark = pytest.mark.xdist_group("chaos")


class Flood:
    """The events, drawn before anything runs: their kind by number."""

    def __init__(self, dice: random.Random) -> None:
        weights = [*[POISON_SHARE] * len(KINDS), 1 - POISON_SHARE * len(KINDS)]
        self.kinds = dice.choices([*KINDS, "good"], weights, k=EVENTS)
        self.kinds[: len(KINDS)] = KINDS
        self.keys = [f"k{dice.randrange(KEYS)}" for _ in range(EVENTS)]
        self.good = {number for number, kind in enumerate(self.kinds) if kind in ("good", "flaky")}
        self.dead = {str(number) for number, kind in enumerate(self.kinds) if kind not in ("good", "flaky")}

    async def publish(self, bus: Bus, transport: Transport) -> None:
        for number, kind in enumerate(self.kinds):
            if kind == "garbage":
                headers = {
                    "ce-id": str(number),
                    "ce-source": "chaos",
                    "ce-specversion": "1.0",
                    "ce-type": EVENT,
                }
                await transport.append(NAMES.event(EVENT), b"\xff{", headers=headers, message_id=str(number))
        published = await bus.publish_many(self._events())
        assert published.complete, published.failures[:3]

    def _events(self) -> Iterator[NewEvent]:
        for number, (kind, key) in enumerate(zip(self.kinds, self.keys, strict=True)):
            if kind == "misfit":
                yield NewEvent(EVENT, {"key": key, "number": "many"}, id=str(number))
            elif kind != "garbage":
                yield NewEvent(EVENT, Thing(key, number, kind), id=str(number))


@pytest.mark.timeout(SECONDS + 60)
async def test_every_event_is_handled_and_poison_is_kept(tmp_path: Path) -> None:
    """Replicas killed and frozen, the server killed: every good event is handled by each handler, each key's in order,
    each poisoned one is one dead letter a handler, nothing is left over, and no process grows with the flood."""
    seed = int(os.environ.get("CHAOS_SEED") or random.Random(time.time_ns()).randrange(10**6))
    print(f"seed {seed}: repeat with CHAOS_SEED={seed}")
    dice = random.Random(seed)
    server, lines = EmbeddedServer(tmp_path / "store", 0), Lines(tmp_path / "books")
    await server.start()
    transport = await connect(server.url, name="driver")
    replicas = [Replica("flooded", f"r{number}", server.url, tmp_path / "books") for number in range(2)]
    try:
        for make in (markers_asset, events_asset, dlq_asset):
            await transport.ensure(make(NAMES))
        await asyncio.gather(*(replica.start() for replica in replicas))
        bus = Bus(transport, NAMES, SYSTEM_CLOCK, Metrics(), source="chaos")
        flood, watch = Flood(dice), _Memory(replicas)
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch.run())
            group.create_task(flood.publish(bus, transport))
            kills = await _faults(server, replicas, lines, dice, 3 * len(flood.good))
            await _all_answered(transport, lines, flood)
            watching.cancel()
        lasted = time.monotonic() - began
        assert _wrong(flood, lines.read()) == []
        letters = await _dead_letters(transport)
        assert letters == Counter((handler, number) for handler in HANDLERS for number in flood.dead)
        assert watch.growth < GROWTH_MAX, watch
        _report(lines.all, kills, lasted, flood, watch)
    finally:
        lines.close()
        for replica in replicas:
            await replica.stop()
        await transport.close()
        await server.stop()


class _Memory:
    """The resident memory of each process since it was first seen."""

    def __init__(self, replicas: list[Replica]) -> None:
        self._replicas = replicas
        self.seen: dict[int, list[int]] = {}

    async def run(self) -> None:
        while True:
            for replica in self._replicas:
                if replica.process is not None and replica.process.returncode is None:
                    size = replica.memory()
                    first, _ = self.seen.setdefault(replica.pid, [size, size])
                    self.seen[replica.pid] = [first, max(first, size, self.seen[replica.pid][1])]
            await asyncio.sleep(0.25)

    @property
    def growth(self) -> int:
        return max(most - first for first, most in self.seen.values())


async def _faults(
    server: EmbeddedServer, replicas: list[Replica], lines: Lines, dice: random.Random, total: int
) -> list[tuple[int, float]]:
    """Each at a drawn share of the work done: kills (the first one of who has the keys), a freeze, a server's end."""
    extra = ["kill"] * min(12, EVENTS // 16_000)
    faults = ["kill", *dice.sample([*extra, "freeze", "server"], 2 + len(extra))]
    shares = sorted(dice.uniform(0.1, 0.8) for _ in faults)
    kills: list[tuple[int, float]] = []
    for fault, share in zip(faults, shares, strict=True):
        await lines.until(int(total * share), SECONDS)
        victim = dice.choice(replicas)
        match fault:
            case "kill":
                if not kills:
                    keyed = [line.process for line in lines.all if line.what == "keyed"][-1:]
                    victim = next((each for each in replicas if each.pid in keyed), victim)
                kills.append((victim.pid, time.monotonic()))
                await victim.kill()
                await victim.start()
            case "freeze":
                victim.freeze()
                await asyncio.sleep(FREEZE_SECONDS)
                victim.thaw()
            case _:
                await server.restart()
    return kills


async def _all_answered(transport: Transport, lines: Lines, flood: Flood) -> None:
    """Returns when no consumer has anything waiting or out."""
    async with asyncio.timeout(SECONDS):
        while len({(line.what, line.number) for line in lines.read()}) < 3 * len(flood.good):
            await asyncio.sleep(0.25)
        for handler in HANDLERS:
            while True:
                name = consumer_name("flooded", handler)
                state = await transport.consumer_state(NAMES.events_stream, name)
                if state is not None and state.pending + state.unacknowledged == 0:
                    break
                await asyncio.sleep(0.1)


def _wrong(flood: Flood, lines: list[Line]) -> list[str]:
    """A key's order: an event is never handled for the first time after a later one of its key was handled."""
    wrong: list[str] = []
    for handler in HANDLERS:
        found = {line.number for line in lines if line.what == handler}
        if found != flood.good:
            missing, strange = flood.good - found, found - flood.good
            wrong.append(f"{handler}: {len(missing)} missing, {len(strange)} that are poison")
    latest: dict[str, int] = {}
    seen: set[int] = set()
    for line in lines:
        if line.what == "keyed" and line.sequence not in seen:
            seen.add(line.sequence)
            if line.sequence < latest.get(line.key, 0):
                wrong.append(f"{line.key}: {line.sequence} was first handled after {latest[line.key]}")
            latest[line.key] = max(line.sequence, latest.get(line.key, 0))
    return wrong[:10]


async def _dead_letters(transport: Transport) -> Counter[tuple[str, str]]:
    """How many there are of each event and handler; each has a reason that fits."""
    found: Counter[tuple[str, str]] = Counter()
    after = 0
    while True:
        page, after = await list_dead_letters(transport, NAMES, limit=200, after=after)
        for letter in page:
            found[letter.handler, letter.headers["ce-id"]] += 1
            assert letter.code in ("decode.failed", "input.invalid", "expression.failed"), letter
            assert letter.reason
        if not after:
            return found


def _report(
    lines: list[Line], kills: list[tuple[int, float]], lasted: float, flood: Flood, watch: _Memory
) -> None:
    again = {handler: sum(line.what == handler for line in lines) - len(flood.good) for handler in HANDLERS}
    keyed = [line for line in lines if line.what == "keyed"]
    takeovers = [
        round(next((line.at - at for line in keyed if line.at > at and line.process != killed), 0.0), 2)
        for killed, at in kills
    ]
    memory = [(first >> 20, most >> 20) for first, most in watch.seen.values()]
    print(
        f"{EVENTS} events to 3 handlers in {lasted:.1f} s ({len(lines) / lasted:.0f} handled/s); "
        f"{len(flood.dead)} poisoned; handled again {again}; {len(kills)} kills, the next keyed event after "
        f"{takeovers} s; resident MiB first and most {memory}"
    )
