"""Engines, workers and a client on a real server, each with a connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from jetloom.engine import Client, Definitions, Engine, Worker
from jetloom.messages import Names
from jetloom.runtime import JournalLine, StepContext, StepFunction, StepHandler
from jetloom.stores import namespace_assets, task_consumer
from jetloom.transport import EmbeddedServer, Transport, connect
from jetloom.types import JSON
from jetloom.workflows import Definition

type Handlers = Mapping[str, StepFunction]


async def echo(context: StepContext, value: JSON) -> JSON:
    return {"step": context.step, "input": value}


class RealWorld:
    """One server's namespace. Everything that it starts, it stops."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.server = server
        self.names = Names()
        self.transport: Transport
        self.client: Client
        self._stops: list[Callable[[], Awaitable[None]]] = []

    async def start(self) -> None:
        self.transport = await self.connect("client")
        for asset in namespace_assets(self.names):
            await self.transport.ensure(asset)
        self.client = Client(self.transport, self.names)

    async def connect(self, name: str) -> Transport:
        transport = await connect(self.server.url, name=name)
        self._stops.append(transport.close)
        return transport

    async def register(self, definition: Definition) -> None:
        await Definitions(self.transport, self.names).register(definition)
        for step in definition.steps:
            for handler in (step.uses, step.saga.uses if step.saga is not None else None):
                if handler is not None:
                    await self.transport.ensure(task_consumer(self.names, handler))

    async def engine(self, name: str, handlers: Handlers | None = None) -> Engine:
        engine = Engine(
            await self.connect(name), self.names, handlers=_handlers(handlers or {}), name=name, sweep=False
        )
        await engine.start()
        self._stops.append(lambda: engine.stop(1.0))
        return engine

    async def worker(self, handlers: Handlers) -> Worker:
        worker = Worker(await self.connect("worker"), self.names, handlers=_handlers(handlers))
        await worker.start()
        self._stops.append(lambda: worker.stop(1.0))
        return worker

    async def stop(self) -> None:
        for stop in reversed(self._stops):
            await stop()

    async def until(self, holds: Callable[[], Awaitable[bool]], what: str, seconds: float = 10.0) -> None:
        """Waits until a named condition holds."""
        try:
            async with asyncio.timeout(seconds):
                while not await holds():
                    await asyncio.sleep(0.01)
        except TimeoutError as error:
            raise AssertionError(f"not within {seconds:g} s: {what}") from error

    async def empty(self, stream: str) -> None:
        async def holds() -> bool:
            state = await self.transport.stream_state(stream)
            return state is not None and state.messages == 0

        await self.until(holds, f"{stream} is empty")


def _handlers(functions: Handlers) -> dict[str, StepHandler]:
    return {name: StepHandler(name, function) for name, function in functions.items()}


def tags(journal: Sequence[JournalLine]) -> list[list[str]]:
    """The records of each entry, by name."""
    return [[str(record["t"]) for record in line.records] for line in journal]


@asynccontextmanager
async def real_world(folder: Path) -> AsyncGenerator[RealWorld]:
    async with EmbeddedServer(folder / "store", 0) as server:
        world = RealWorld(server)
        await world.start()
        try:
            yield world
        finally:
            await world.stop()
