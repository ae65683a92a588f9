"""A schedule under seeded crashes, freezes, cut connections, lost answers and restarts of the server.

Three replicas share one schedule; calls take time and fail at random. Checked at the end: every instant was called for
to the end, or counted as passed over by the call behind it; instants began in their order; and when the trouble is
over, calls go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from itertools import pairwise
from random import Random

import pytest

from jetloom.bus import Retry
from jetloom.errors import JetloomError
from jetloom.messages import Names
from jetloom.runtime import Tick
from jetloom.runtime._every import ScheduleHandler, TickSubscription
from jetloom.runtime._module import Missed
from jetloom.schedules import Schedule
from jetloom.stores import schedule_assets
from jetloom.telemetry import Metrics
from jetloom.testing import PROCESS, FaultRates, SeededFaults, VirtualClock, VirtualLoop, run_virtual
from jetloom.transport import MemoryServer

NAMES = Names("sim")
SECONDS = 120.0
CALM = 60.0
PERIOD = 2
UNIVERSES = 60


class Universe:
    def __init__(self, seed: int, missed: Missed) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.loop = loop
        self.dice = Random(seed)
        self.missed: Missed = missed
        self.clock = VirtualClock(loop, seed)
        draw = self.dice.random
        self.faults = SeededFaults(
            seed,
            FaultRates(
                slow=0.03 * draw(),
                slow_seconds=4 * draw(),
                lost=0.03 * draw(),
                muted=0.03 * draw(),
                cut_before=0.01 * draw(),
                cut_after=0.01 * draw(),
                down_seconds=4 * draw(),
            ),
        )
        self.memory = MemoryServer(self.clock, faults=self.faults)
        self.begun: list[Tick] = []
        self.ended: list[Tick] = []
        self.failed = 0
        self.troubled = True

    def spawn(self, name: str, make: Callable[[], Awaitable[None]]) -> None:
        context = copy_context()
        context.run(PROCESS.set, name)

        async def run() -> None:
            await make()

        self.loop.create_task(run(), name=name or "trouble", context=context)

    async def call(self, tick: Tick) -> None:
        self.begun.append(tick)
        await asyncio.sleep(6 * self.dice.random() ** 4 if self.troubled else 0)
        if self.troubled and self.dice.random() < 0.15:
            self.failed += 1
            raise ConnectionError("try again")
        self.ended.append(tick)

    async def replica(self, name: str) -> None:
        handler = ScheduleHandler(
            module="m",
            name="job",
            schedule=Schedule.parse(f"{PERIOD}s"),
            function=self.call,
            missed=self.missed,
            missed_max=1_000,
            retry=Retry(max=1_000, initial=0.5, max_delay=2),
        )
        transport = self.memory.connect(name)
        ticks = TickSubscription(handler, transport, NAMES, self.clock, Metrics(process=False))
        while True:
            try:
                await ticks.start()
                break
            except JetloomError:
                await asyncio.sleep(0.5)

    async def trouble(self) -> None:
        """Freezes, kills and cuts replicas, and restarts the server."""
        dice, names, born = self.dice, ["p0", "p1", "p2"], 3
        while self.loop.time() < SECONDS:
            await asyncio.sleep(8 * dice.random())
            victim = dice.choice(names)
            match dice.choice(["freeze", "kill", "kill", "cut", "restart"]):
                case "freeze":
                    self.loop.freeze(victim)
                    await asyncio.sleep(15 * dice.random())
                    self.loop.thaw(victim)
                case "kill":
                    self.loop.kill(victim)
                    self.memory.abandon(victim)
                    names.remove(victim)
                    names.append(f"p{born}")
                    self.spawn(names[-1], lambda name=names[-1]: self.replica(name))
                    born += 1
                case "cut":
                    for transport in self.memory.transports:
                        if transport.name == victim:
                            transport.disconnect(lose_sent=dice.random() < 0.5)
                            transport.reconnect_later(4 * dice.random())
                case _:
                    self.memory.crash()
                    await asyncio.sleep(6 * dice.random())
                    self.memory.restart()

    async def run(self) -> None:
        admin = self.memory.connect("admin")
        rates, self.faults.rates = self.faults.rates, FaultRates(slow=0.0)
        for asset in schedule_assets(NAMES):
            await admin.ensure(asset)
        self.faults.rates = rates
        for name in ("p0", "p1", "p2"):
            self.spawn(name, lambda name=name: self.replica(name))
        await self.trouble()
        self.faults.calm()
        self.troubled = False
        await asyncio.sleep(CALM)

    def check(self) -> list[str]:
        wrong: list[str] = []
        first: dict[float, Tick] = {}
        for tick in self.begun:
            known = first.setdefault(tick.scheduled.timestamp(), tick)
            if known.missed != tick.missed:
                wrong.append(f"{tick.scheduled} said {known.missed} missed, then {tick.missed}")
        if list(first) != sorted(first):
            wrong.append("instants did not begin in their order")
        for earlier, later in pairwise(first):
            if (later - earlier) / PERIOD != 1 + first[later].missed:
                wrong.append(f"{later - earlier} s before {later}, {first[later].missed} said to be missed")
        if self.missed == "all" and any(tick.missed for tick in self.begun):
            wrong.append("one was passed over")
        done = {tick.scheduled.timestamp() for tick in self.ended}
        now = self.clock.now()
        left = [instant for instant in first if instant not in done and instant < now - 1]
        if left:
            wrong.append(f"{len(left)} were begun and never ended")
        if not done or now - max(done) > 3 * PERIOD:
            wrong.append("calls did not go on")
        return wrong


def simulate(seed: int, missed: Missed) -> Universe:
    found: list[Universe] = []

    async def main() -> None:
        universe = Universe(seed, missed)
        found.append(universe)
        await universe.run()

    run_virtual(main, seed=seed)
    return found[0]


@pytest.mark.parametrize("missed", ["once", "all"])
def test_no_instant_is_lost(missed: Missed) -> None:
    """In all of the universes each instant ended, or is among the missed ones of the call behind it."""
    begun = repeated = failed = 0
    for seed in range(UNIVERSES // 2):
        universe = simulate(seed, missed)
        assert not (wrong := universe.check()), f"seed {seed}: {wrong[:5]}"
        begun += len(universe.begun)
        failed += universe.failed
        repeated += len(universe.begun) - len({tick.scheduled for tick in universe.begun})
    assert begun > 20 * UNIVERSES
    assert repeated > failed > 0, "nobody ever took over"
