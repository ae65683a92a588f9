"""Locks under seeded crashes, freezes, cut connections, lost answers and restarts of the server.

Five processes take one lock again and again. Checked at every moment of virtual time: at most one of them can believe
that it holds the lock. Checked at the end: fences grow in the order in which the bucket stored them, and no write
under an older fence was stored after a claim with a newer one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from random import Random

import pytest

from jetloom.errors import ConditionFailed, FencedOff, JetloomError, LockLost, LockTimeout
from jetloom.messages import H_FENCE, H_KV_OPERATION, Names
from jetloom.stores import KeyValue, Lock, Locks, kv_asset, locks_asset
from jetloom.testing import PROCESS, FaultRates, SeededFaults, VirtualClock, VirtualLoop, run_virtual
from jetloom.transport import MemoryServer, MemoryTransport, Stored

NAMES = Names("sim")
SECONDS = 60.0
TTL = 3.0
UNIVERSES = 200


class Universe:
    def __init__(self, seed: int) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.loop = loop
        self.dice = Random(seed)
        self.clock = VirtualClock(loop, seed)
        draw = self.dice.random
        self.faults = SeededFaults(
            seed,
            FaultRates(
                slow=0.03 * draw(),
                slow_seconds=4 * draw(),
                lost=0.02 * draw(),
                muted=0.02 * draw(),
                cut_before=0.01 * draw(),
                cut_after=0.01 * draw(),
                down_seconds=4 * draw(),
            ),
        )
        self.memory = MemoryServer(self.clock, faults=self.faults)
        self.believed: dict[str, Lock] = {}
        self.wrong: list[str] = []
        self.sections = 0
        self.lost = 0
        self.refused = 0
        self.updates = 0
        self.fences: list[int] = []
        self.history: list[Stored] = []
        self.grants: list[Stored] = []

    def look(self) -> None:
        """Nobody but one can believe that the lock is theirs."""
        holders = [name for name, lock in self.believed.items() if not lock.lost]
        if len(holders) > 1:
            self.wrong.append(f"{self.loop.time():.3f}: {holders} hold it")

    def spawn(self, name: str, make: Callable[[], Awaitable[None]]) -> None:
        context = copy_context()
        context.run(PROCESS.set, name)

        async def run() -> None:
            await make()

        self.loop.create_task(run(), name=name, context=context)

    async def process(self, name: str) -> None:
        transport = self.memory.connect(name)
        locks = Locks(transport, NAMES, self.clock, owner=name)
        kv = KeyValue[int](transport, NAMES.kv_bucket("n"), int, clock=self.clock)
        while self.loop.time() < SECONDS:
            try:
                async with locks.hold("a", ttl=TTL, timeout=20) as lock:
                    try:
                        await self.section(name, lock, kv)
                    finally:
                        self.believed.pop(name, None)
            except LockLost:
                self.lost += 1
            except FencedOff:
                self.refused += 1
            except (LockTimeout, ConditionFailed):
                pass
            except JetloomError as error:
                if error.code not in ("outcome.unknown", "nats.disconnected", "request.timeout"):
                    raise
            await asyncio.sleep(0.1 * self.dice.random())

    async def section(self, name: str, lock: Lock, kv: KeyValue[int]) -> None:
        self.believed[name] = lock
        self.fences.append(lock.fence)
        self.look()
        entry = await kv.claim("count", lock.fence)
        await asyncio.sleep(4 * self.dice.random() ** 4)
        if not lock.lost:
            self.look()
        if entry is None:
            await kv.create("count", 1, fence=lock.fence)
        else:
            await kv.update("count", entry.value + 1, entry.revision, fence=lock.fence)
        self.updates += 1
        self.sections += 1

    async def trouble(self) -> None:
        """Freezes, kills and cuts processes, and restarts the server."""
        dice, names, born = self.dice, [f"p{number}" for number in range(5)], 5
        while self.loop.time() < SECONDS:
            await asyncio.sleep(3 * dice.random())
            victim = dice.choice(names)
            match dice.choice(["freeze", "freeze", "kill", "cut", "restart"]):
                case "freeze":
                    self.loop.freeze(victim)
                    self.loop.call_later(6 * dice.random(), self.loop.thaw, victim)
                case "kill":
                    self.loop.kill(victim)
                    self.memory.abandon(victim)
                    self.believed.pop(victim, None)
                    names.remove(victim)
                    names.append(f"p{born}")
                    self.spawn(names[-1], lambda name=names[-1]: self.process(name))
                    born += 1
                case "cut":
                    for transport in self.memory.transports:
                        if transport.name == victim:
                            transport.disconnect(lose_sent=dice.random() < 0.5)
                            transport.reconnect_later(4 * dice.random())
                case _:
                    self.memory.crash()
                    await asyncio.sleep(2 * dice.random())
                    self.memory.restart()

    async def run(self) -> None:
        admin: MemoryTransport = self.memory.connect("admin")
        rates, self.faults.rates = self.faults.rates, FaultRates(slow=0.0)
        for asset in (locks_asset(NAMES), kv_asset(NAMES, "n")):
            await admin.ensure(asset)
        self.faults.rates = rates
        self.memory.stream(NAMES.locks_stream).listeners.append(self.grants.append)
        self.memory.stream(kv_asset(NAMES, "n").name).listeners.append(self.history.append)
        for number in range(5):
            self.spawn(f"p{number}", lambda name=f"p{number}": self.process(name))
        self.spawn("", self.trouble)
        while self.loop.time() < SECONDS:
            await asyncio.sleep(0.05)
            self.look()
        self.faults.calm()
        await asyncio.sleep(30)
        self.check()

    def check(self) -> None:
        newest = value = 0
        for stored in self.history:
            fence = int(stored.headers[H_FENCE])
            if fence < newest:
                self.wrong.append(f"a write of fence {fence} was stored after one of {newest}")
            newest = max(newest, fence)
            if stored.headers.get(H_KV_OPERATION) != "DEL":
                if int(stored.data) - value not in (0, 1):
                    self.wrong.append(f"{int(stored.data)} was stored over {value}")
                value = int(stored.data)
        if self.updates > value:
            self.wrong.append(f"{self.updates} changes were confirmed, {value} are stored")
        if len(set(self.fences)) != len(self.fences):
            self.wrong.append("a fence was given twice")


def simulate(seed: int) -> Universe:
    found: list[Universe] = []

    async def main() -> None:
        universe = Universe(seed)
        found.append(universe)
        await universe.run()

    run_virtual(main, seed=seed)
    return found[0]


@pytest.mark.parametrize("part", range(4))
def test_no_two_holders(part: int) -> None:
    """In none of the universes do two processes believe at one moment that they hold the lock, and fences hold."""
    sections = lost = 0
    for seed in range(part * UNIVERSES // 4, (part + 1) * UNIVERSES // 4):
        universe = simulate(seed)
        assert not universe.wrong, f"seed {seed}: {universe.wrong[:5]}"
        assert universe.sections > 0, f"seed {seed}: nobody ever had the lock"
        sections += universe.sections
        lost += universe.lost + universe.refused
    assert sections > 1_000
    assert lost > 20, "the faults hit nothing"
