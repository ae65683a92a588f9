"""Where the conformance suite runs: on the memory twin in virtual time, or on a real nats-server in real time."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol
from urllib.parse import urlsplit

from jetloom.testing import VirtualClock, VirtualLoop, run_virtual
from jetloom.transport import (
    ConsumerAsset,
    Delivery,
    MemoryServer,
    MemoryTransport,
    Pull,
    StreamAsset,
    Transport,
)

PATIENCE_SECONDS = 10.0
"""How long a condition may take: far above what either server needs, so that a slow machine fails nothing."""

POLL_SECONDS = 0.01

SLACK = 0.35
"""How late a real server and a busy machine may be."""

_numbers = itertools.count(1)


class World(Protocol):
    """One test's server, with names of its own."""

    twin: bool
    number: int
    made: list[str]

    async def connect(self, name: str) -> Transport: ...
    def drop(self, transport: Transport) -> None:
        """Breaks the connection; it stays down until `restore`."""
        ...

    def restore(self, transport: Transport) -> None: ...
    def now(self) -> float: ...


class _Names:
    def __init__(self) -> None:
        self.number = next(_numbers)
        self.made: list[str] = []


class TwinWorld(_Names):
    twin = True

    def __init__(self) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.clock = VirtualClock(loop, self.number)
        self.server = MemoryServer(self.clock)

    async def connect(self, name: str) -> Transport:
        return self.server.connect(name)

    def drop(self, transport: Transport) -> None:
        assert isinstance(transport, MemoryTransport)
        transport.disconnect()

    def restore(self, transport: Transport) -> None:
        assert isinstance(transport, MemoryTransport)
        transport.reconnect()

    def now(self) -> float:
        return self.clock.now()


class Proxy:
    """A TCP relay that can be cut, so that one connection is lost while the server lives on."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._down = False
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        self._down = True
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        self._down = False

    async def stop(self) -> None:
        self.cut()
        if self._server is not None:
            self._server.close()
        # The aborted transports end the relays.
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._down:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, far_writer}
        try:
            await asyncio.gather(self._relay(reader, far_writer), self._relay(far_reader, writer))
        finally:
            self._writers -= {writer, far_writer}

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


class ServerWorld(_Names):
    twin = False

    def __init__(self, url: str, *, hot_path: bool | None = None) -> None:
        super().__init__()
        self.url = url
        self.hot_path = hot_path
        self._proxies: dict[int, Proxy] = {}
        self._transports: list[Transport] = []

    async def connect(self, name: str) -> Transport:
        from jetloom.transport import connect

        parts = urlsplit(self.url)
        proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 4222)
        await proxy.start()
        user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        transport = await connect(f"nats://{user}127.0.0.1:{proxy.port}", name=name, hot_path=self.hot_path)
        self._proxies[id(transport)] = proxy
        self._transports.append(transport)
        return transport

    def drop(self, transport: Transport) -> None:
        self._proxies[id(transport)].cut()

    def restore(self, transport: Transport) -> None:
        self._proxies[id(transport)].mend()

    def now(self) -> float:
        return time.time()

    async def close(self) -> None:
        sweeper = await self.connect("sweeper")
        for name in self.made:
            await sweeper.remove(name)
        for transport in self._transports:
            await transport.close()
        for proxy in self._proxies.values():
            await proxy.stop()


type Scenario = Callable[[World], Coroutine[Any, Any, None]]
type Runner = Callable[[Scenario], None]


def run_on_twin(scenario: Scenario) -> None:
    async def main() -> None:
        await scenario(TwinWorld())

    run_virtual(main, seed=1)


def run_on_server(url: str, scenario: Scenario, *, hot_path: bool | None = None) -> None:
    async def main() -> None:
        world = ServerWorld(url, hot_path=hot_path)
        try:
            await scenario(world)
        finally:
            await world.close()

    asyncio.run(main())


def scenario(body: Scenario) -> Callable[[Runner], None]:
    """Makes a test of an async function, which runs on each server that the fixture `run_on` gives."""

    def test(run_on: Runner) -> None:
        run_on(body)

    test.__name__ = body.__name__
    test.__qualname__ = body.__qualname__
    test.__doc__ = inspect.getdoc(body)
    test.__module__ = body.__module__
    return test


async def until(condition: Callable[[], object], what: str) -> None:
    """Waits for a condition with a name."""
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE_SECONDS
    while not condition():
        if loop.time() > end:
            raise AssertionError(f"it never came to be that {what}")
        await asyncio.sleep(POLL_SECONDS)


async def until_true(condition: Callable[[], Awaitable[object]], what: str) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE_SECONDS
    while not await condition():
        if loop.time() > end:
            raise AssertionError(f"it never came to be that {what}")
        await asyncio.sleep(POLL_SECONDS)


async def elapse(seconds: float) -> None:
    """Lets time pass in which nothing may happen: for what must *not* occur there is no condition to wait for."""
    await asyncio.sleep(seconds)


async def stream(world: World, transport: Transport, **fields: Any) -> tuple[str, str]:
    """A new stream and the prefix of its subjects."""
    number = f"{world.number}_{len(world.made)}"
    name, prefix = f"T{number}", f"t{number}"
    world.made.append(name)
    fields.setdefault("storage", "memory")
    await transport.ensure(StreamAsset(name=name, subjects=(f"{prefix}.>",), **fields))
    return name, prefix


async def work_queue(world: World, transport: Transport, **fields: Any) -> tuple[str, str]:
    """A work queue with one consumer `c` that redelivers after half a second."""
    name, prefix = await stream(world, transport, retention="workqueue", discard="new")
    fields.setdefault("ack_wait", 0.5)
    await transport.ensure(ConsumerAsset(stream=name, name="c", **fields))
    return name, prefix


class Box:
    """What a pull received, with the time of each."""

    def __init__(self, transport: Transport, capacity: int = 100) -> None:
        self.transport = transport
        self.capacity = capacity
        self.got: list[Delivery] = []
        self.times: list[float] = []

    def receive(self, delivery: Delivery) -> None:
        self.got.append(delivery)
        self.times.append(asyncio.get_running_loop().time())

    @property
    def counts(self) -> list[int]:
        return [one.count for one in self.got]

    @property
    def sequences(self) -> list[int]:
        return [one.sequence for one in self.got]

    async def open(self, stream_name: str, consumer: str, *, expiry: float = 0.3, batch: int = 100) -> Pull:
        return await self.transport.pull(
            stream_name, consumer, self.receive, capacity=lambda: self.capacity, expiry=expiry, batch=batch
        )
