"""Services made of plain functions, for the tests of requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec

from jetloom.messages import encode
from jetloom.rpc import Endpoint, MicroService, Rpc
from jetloom.rpc._wire import WINDOW_PARTS
from jetloom.transport import Incoming, Transport
from jetloom.types import JSON
from tests.runtime.world import World, until

type Function = Callable[[bytes], Awaitable[bytes]]
type Series = Callable[[bytes], AsyncIterator[bytes]]


class Gate:
    """A handler that waits until it is let go, and counts what happens to it."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.running = 0
        self.cancelled = 0
        self.calls = 0

    async def wait(self, data: bytes) -> bytes:
        self.calls += 1
        self.running += 1
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return data or b"null"


async def count(data: bytes) -> AsyncGenerator[bytes]:
    """As many parts as the request says."""
    for number in range(msgspec.json.decode(data, type=int)):
        yield encode(number)


class Numbers:
    """A series that says how far it is, and whether it was closed."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.made = 0
        self.closed = False

    async def series(self, _data: bytes) -> AsyncGenerator[bytes]:
        try:
            for number in range(self.parts):
                self.made += 1
                yield encode(number)
        finally:
            self.closed = True

    @property
    def windows(self) -> int:
        return -(-self.made // WINDOW_PARTS)


def endpoint(
    world: World,
    name: str,
    function: Function | None = None,
    *,
    parts: Series | None = None,
    service: str = "shop",
    concurrency: int = 100,
    timeout: float | None = None,
    group: str = "q",
    idempotent: bool = False,
    metadata: dict[str, str] | None = None,
    request_schema: dict[str, JSON] | None = None,
) -> Endpoint:
    return Endpoint(
        name=name,
        subject=world.names.rpc(service, name),
        function=function,
        parts=parts,
        concurrency=concurrency,
        timeout=timeout,
        group=group,
        idempotent=idempotent,
        metadata=metadata or {},
        request_schema=request_schema,
    )


@asynccontextmanager
async def serving(world: World, *endpoints: Endpoint, service: str = "shop") -> AsyncGenerator[MicroService]:
    """A started service on a connection of its own."""
    transport = await world.connect("service")
    made = MicroService(service, list(endpoints), transport, world.clock, world.metrics)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def caller(world: World) -> Rpc:
    return Rpc(await world.connect("caller"), world.names, world.clock, world.metrics)


class Inbox:
    """What a plain client sees of the answers to one request: `nats req --replies=0`."""

    def __init__(self) -> None:
        self.messages: list[Incoming] = []

    async def ask(self, transport: Transport, subject: str, data: bytes, **headers: str) -> None:
        await transport.subscribe("_INBOX.plain.1", self.messages.append)
        await transport.publish(subject, data, headers=headers, reply="_INBOX.plain.1")

    async def ended(self) -> None:
        await until(lambda: self.messages and not self.messages[-1].data, "the series has ended")
