"""A namespace on the memory twin, prepared anew for each command."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable

from jetloom.messages import Names
from jetloom.transport import Transport
from jetloom.transport._memory import MemoryServer


async def nothing(_transport: Transport, _names: Names) -> None:
    """An empty server."""


@contextlib.asynccontextmanager
async def open_memory(
    names: Names, prepare: Callable[[Transport, Names], Awaitable[None]] = nothing
) -> AsyncGenerator[Transport]:
    """A connection to a new server that `prepare` has filled."""
    transport = MemoryServer().connect("cli")
    try:
        await prepare(transport, names)
        yield transport
    finally:
        await transport.close()
