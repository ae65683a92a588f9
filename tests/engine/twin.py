"""Engines on the memory twin, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from jetloom.engine import Client, Definitions, Engine
from jetloom.messages import Names
from jetloom.runtime import StepFunction, StepHandler
from jetloom.stores import namespace_assets, task_consumer
from jetloom.testing import VirtualClock, VirtualLoop
from jetloom.transport import MemoryServer, MemoryTransport
from jetloom.workflows import Definition


class Twin:
    """One namespace on one memory server."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.loop = loop
        self.clock = VirtualClock(loop, 1)
        self.server = MemoryServer(self.clock)
        self.names = Names()
        self.transport: MemoryTransport = self.server.connect("client")
        self.client = Client(self.transport, self.names, clock=self.clock)

    async def start(self, *definitions: Definition) -> None:
        for asset in namespace_assets(self.names):
            await self.transport.ensure(asset)
        for definition in definitions:
            await Definitions(self.transport, self.names).register(definition)
            for step in definition.steps:
                if step.uses is not None:
                    await self.transport.ensure(task_consumer(self.names, step.uses))

    async def engine(self, name: str, functions: Mapping[str, StepFunction], *, sweep: bool = True) -> Engine:
        handlers = {handler: StepHandler(handler, function) for handler, function in functions.items()}
        engine = Engine(
            self.server.connect(name), self.names, clock=self.clock, handlers=handlers, name=name, sweep=sweep
        )
        await engine.start()
        return engine

    async def count(self, stream: str) -> int:
        state = await self.transport.stream_state(stream)
        return state.messages if state is not None else 0
