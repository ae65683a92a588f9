"""Where tests of modules run: on the memory twin in virtual time, or on a real nats-server in real time."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import pytest

from jetloom.clock import SYSTEM_CLOCK, Clock
from jetloom.config import LiveConfig, Settings
from jetloom.messages import Names
from jetloom.runtime import Host, Module
from jetloom.stores import dlq_asset, events_asset, markers_asset
from jetloom.telemetry import Metrics
from jetloom.testing import VirtualClock, VirtualLoop, run_virtual
from jetloom.transport import EmbeddedServer, MemoryServer, MemoryTransport, Transport, connect

PATIENCE_SECONDS = 60.0
"""How long a condition may take: far above what either server needs, so that a slow machine fails nothing."""

_numbers = itertools.count(1)


class World:
    """One test's server, with a namespace of its own."""

    def __init__(self, url: str = "") -> None:
        self.number = next(_numbers)
        self.settings = Settings(namespace=f"t{os.getpid()}-{self.number}", http_port=0)
        self.names = Names(self.settings.namespace)
        self.metrics = Metrics(process=False)
        self.clock: Clock = SYSTEM_CLOCK
        self.memory: MemoryServer | None = None
        self._url = url
        self._stack = AsyncExitStack()
        if not url:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            self.clock = VirtualClock(loop, self.number)
            self.memory = MemoryServer(self.clock)

    async def connect(self, name: str = "test") -> Transport:
        if self.memory is not None:
            return self.memory.connect(name)
        transport = await connect(self._url, name=name)
        self._stack.push_async_callback(transport.close)
        return transport

    async def bare(self) -> MemoryTransport | Transport:
        """A connection, with the streams that a host makes."""
        transport = await self.connect()
        for make in (markers_asset, events_asset, dlq_asset):
            await transport.ensure(make(self.names))
        return transport

    def host(
        self,
        modules: Sequence[type[Module] | Module],
        transport: Transport,
        environ: Mapping[str, str] | None = None,
        live: LiveConfig | None = None,
    ) -> Host:
        return Host(
            modules,
            transport,
            self.settings,
            clock=self.clock,
            metrics=Metrics(process=False),
            environ=environ or {},
            live=live,
        )

    @asynccontextmanager
    async def running(
        self, *modules: type[Module] | Module, environ: Mapping[str, str] | None = None
    ) -> AsyncGenerator[tuple[Host, Transport]]:
        """A started host, and a connection that it uses; stopped when the block is left."""
        transport = await self.connect("host")
        host = self.host(modules, transport, environ)
        await host.start()
        try:
            yield host, transport
        finally:
            await host.stop()

    async def close(self) -> None:
        if self.memory is None:
            sweeper = await self.connect("sweeper")
            for prefix in (self.settings.namespace.upper() + "_", f"KV_{self.settings.namespace}_"):
                for stream in await sweeper.assets(prefix):
                    await sweeper.remove(stream)
        await self._stack.aclose()


type Scenario = Callable[[World], Coroutine[object, object, None]]
type Runner = Callable[[Scenario], None]


def run_on_twin(scenario: Scenario) -> None:
    async def main() -> None:
        await scenario(World())
        _nothing_left()

    run_virtual(main, seed=1)


def run_on_server(url: str, scenario: Scenario) -> None:
    async def main() -> None:
        world = World(url)
        try:
            await scenario(world)
        finally:
            await world.close()
        _nothing_left()

    asyncio.run(main())


def _nothing_left() -> None:
    ours = ("event-", "request-", "discovery-", "loop-lag", "health ", "locks", "busy.", "feeding.")
    left = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith(ours)]
    assert not left, f"tasks outlived their test: {left}"


@pytest.fixture(scope="session")
def modules_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server for every test of a folder: each takes a namespace of its own."""
    server = EmbeddedServer(tmp_path_factory.mktemp("modules"), 0)
    asyncio.run(server.start())
    yield server.url
    asyncio.run(server.stop())


@pytest.fixture(params=["twin", "server"])
def run_on(request: pytest.FixtureRequest) -> Runner:
    if request.param == "twin":
        return run_on_twin
    url: str = request.getfixturevalue("modules_url")
    return partial(run_on_server, url)


async def until(condition: Callable[[], object], what: str) -> None:
    """Waits for a condition with a name."""
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE_SECONDS
    while not condition():
        if loop.time() > end:
            raise AssertionError(f"it never came to be that {what}")
        await asyncio.sleep(0.01)


async def until_true(condition: Callable[[], Awaitable[object]], what: str) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE_SECONDS
    while not await condition():
        if loop.time() > end:
            raise AssertionError(f"it never came to be that {what}")
        await asyncio.sleep(0.01)
