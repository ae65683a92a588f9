"""Code that pages show, and modules that it talks with, on a real server in the default namespace."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from jetloom.config import Settings
from jetloom.runtime import Host, Module
from jetloom.stores import namespace_assets
from jetloom.telemetry import Metrics
from jetloom.transport import Transport, connect

SERVER_OF_PAGES = "nats://127.0.0.1:4222"
PATIENCE_SECONDS = 20.0
"""How long a condition may take: far above what a server needs, so that a slow machine fails nothing."""


def blocks(page: Path, language: str = "python") -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def load(*codes: str, url: str) -> dict[str, Any]:
    """What is defined by a page's blocks, with this server in place of the one that the page names."""
    scope: dict[str, Any] = {"__name__": "page"}
    for code in codes:
        exec(compile(code.replace(SERVER_OF_PAGES, url), "page.md", "exec"), scope)
    return scope


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Transport]:
    """A connection to a server that has all assets of the namespace."""
    transport = await connect(url, name="interop")
    try:
        for asset in namespace_assets(Host([], transport, Settings(http_port=0)).names):
            await transport.ensure(asset)
        yield transport
    finally:
        await transport.close()


@asynccontextmanager
async def serving(url: str, *modules: Module) -> AsyncGenerator[Host]:
    async with connected(url) as transport:
        host = Host(modules, transport, Settings(http_port=0), metrics=Metrics(process=False), environ={})
        await host.start()
        try:
            yield host
        finally:
            await host.stop()


@asynccontextmanager
async def plain_client(url: str) -> AsyncGenerator[NatsClient]:
    """nats-py, without anything of jetloom."""
    client = NatsClient()
    await client.connect(url)
    try:
        yield client
    finally:
        await client.close()


async def listen(
    client: NatsClient, subject: str, hear: Callable[[Msg], Awaitable[None]] | None = None
) -> Subscription:
    subscription = await client.subscribe(subject, cb=hear)  # pyright: ignore[reportUnknownMemberType]
    # A message to ourselves: what comes back after the SUB says that the server knows it. nats-py's own flush does not:
    # its PING overtakes what is queued.
    inbox = client.new_inbox()
    settled = await client.subscribe(inbox)  # pyright: ignore[reportUnknownMemberType]
    await client.publish(inbox, b"")
    await settled.next_msg(timeout=10)
    await settled.unsubscribe()
    return subscription


async def until(condition: Callable[[], object], what: str) -> None:
    """Waits for a condition with a name."""

    async def holds() -> object:
        return condition()

    await until_true(holds, what)


async def until_true(condition: Callable[[], Awaitable[object]], what: str) -> None:
    end = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while not await condition():
        if asyncio.get_running_loop().time() > end:
            raise AssertionError(f"it never came to be that {what}")
        await asyncio.sleep(0.01)
