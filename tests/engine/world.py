"""Engines on the memory twin, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

from jetloom.engine import Client, Engine
from jetloom.messages import Names, encode
from jetloom.runtime import StepContext, StepHandler
from jetloom.stores import namespace_assets
from jetloom.testing import VirtualClock, VirtualLoop, run_virtual
from jetloom.transport import MemoryServer, MemoryTransport
from jetloom.types import JSON
from jetloom.workflows import Definition

type Function = Callable[[StepContext, Any], Awaitable[JSON]]
PATIENCE = 60.0
"""Virtual seconds that a test waits for its condition."""


class World:
    """One memory server, one client, any number of engines."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.clock = VirtualClock(loop, 1)
        self.server = MemoryServer(self.clock)
        self.names = Names()
        self.transport: MemoryTransport = self.server.connect("client")
        self.client = Client(self.transport, self.names, clock=self.clock)
        self.engines: list[Engine] = []

    async def begin(self, *definitions: Definition) -> None:
        for asset in namespace_assets(self.names):
            await self.transport.ensure(asset)
        for definition in definitions:
            await self.client.register(encode(definition).decode())

    async def engine(self, name: str, functions: Mapping[str, Function] | None = None) -> Engine:
        handlers = {key: StepHandler(key, function) for key, function in (functions or {}).items()}
        engine = Engine(self.server.connect(name), self.names, clock=self.clock, handlers=handlers, name=name)
        self.engines.append(engine)
        await engine.start()
        return engine

    async def until(
        self, what: str, condition: Callable[[], Awaitable[bool]], *, seconds: float = PATIENCE
    ) -> None:
        """Waits until `condition` holds; fails with `what` when it does not within `seconds`."""
        deadline = self.clock.monotonic() + seconds
        while not await condition():
            assert self.clock.monotonic() < deadline, f"never: {what}"
            await asyncio.sleep(0.02)

    async def tags(self, run: str) -> list[list[str]]:
        return [[str(record["t"]) for record in line.records] for line in await self.client.journal(run)]

    async def result(self, run: str) -> JSON:
        return await self.client.result(run, timeout=timedelta(seconds=PATIENCE))

    async def end(self) -> None:
        for engine in self.engines:
            await engine.stop()


def play(test: Callable[[World], Awaitable[None]]) -> None:
    """Runs a test in virtual time, and drains its engines whatever becomes of it."""

    async def run() -> None:
        world = World()
        try:
            await test(world)
        finally:
            await world.end()

    run_virtual(run, seed=1)
