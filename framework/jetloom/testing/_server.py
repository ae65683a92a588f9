"""A real nats-server for tests, and what a test's namespace left on it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from jetloom.errors import JetloomError, NoResponders
from jetloom.transport import EmbeddedServer, Incoming, Transport, connect

CHECK_SECONDS = 10.0
"""Of real time for the look at what a test left."""

PULL_ENDS_SECONDS = 2.0
"""How long the server may take to forget pull requests of a connection that was just closed."""

DISCOVERY_SECONDS = 0.1
"""How long services have to answer a look."""


class NatsServer:
    """A server that runs while tests do: one of our own, or the one that `NATS_URL` names.

    Our own is the first of: `nats-server` on PATH, the `embedded` extra, a container where a Docker engine answers.
    """

    def __init__(self, folder: Path | None = None, url: str = "") -> None:
        self._given = url
        self._embedded = None if url else EmbeddedServer(folder, 0)

    @property
    def url(self) -> str:
        return self._given or (self._embedded.url if self._embedded is not None else "")

    @property
    def is_own(self) -> bool:
        return self._embedded is not None

    def start(self) -> None:
        """Raises `NatsUnavailable` with what was tried."""
        if self._embedded is not None:
            asyncio.run(self._embedded.start())

    def stop(self) -> None:
        if self._embedded is not None:
            asyncio.run(self._embedded.stop())

    def sweep(self, namespace: str) -> list[str]:
        """Deletes what the namespace has on the server; what still served it: that outlived its test."""
        return asyncio.run(self._sweep(namespace))

    async def _sweep(self, namespace: str) -> list[str]:
        async with asyncio.timeout(CHECK_SECONDS):
            transport = await connect(self.url, name="jetloom-sweep")
            try:
                left = await _services(transport, namespace)
                for stream in await _streams(transport, namespace):
                    left += await _pulled(transport, stream)
                    await transport.remove(stream)
                left += [f"stream {stream}" for stream in await _streams(transport, namespace)]
            finally:
                await transport.close()
        return left


async def _streams(transport: Transport, namespace: str) -> list[str]:
    found = list(await transport.assets(f"{namespace.upper()}_"))
    return [*found, *await transport.assets(f"KV_{namespace}_"), *await transport.assets(f"OBJ_{namespace}_")]


async def _pulled(transport: Transport, stream: str) -> list[str]:
    """The stream's consumers from which somebody still asks for messages."""
    try:
        answer = await transport.request(f"$JS.API.CONSUMER.NAMES.{stream}", b"")
    except JetloomError:
        return []
    names = msgspec.json.decode(answer.data, type=_Names).consumers or []
    left: list[str] = []
    until = asyncio.get_running_loop().time() + PULL_ENDS_SECONDS
    for name in names:
        while (state := await transport.consumer_state(stream, name)) is not None and state.waiting:
            if asyncio.get_running_loop().time() > until:
                left.append(f"a subscription: somebody still pulls from consumer {name} of {stream}")
                break
            await asyncio.sleep(0.02)
    return left


async def _services(transport: Transport, namespace: str) -> list[str]:
    """The micro services of the namespace that still answer."""
    found: dict[str, str] = {}

    def take(answer: Incoming) -> None:
        ping = msgspec.json.decode(answer.data, type=_Ping)
        if ping.metadata.get("jetloom.namespace", ping.metadata.get("namespace")) == namespace:
            found[ping.id] = f"service {ping.name}, instance {ping.id}"

    inbox = f"_INBOX.jetloom-sweep.{namespace}"
    subscription = await transport.subscribe(inbox, take)
    try:
        await transport.publish("$SRV.PING", b"", reply=inbox)
        await transport.flush()
        await asyncio.sleep(DISCOVERY_SECONDS)
    except NoResponders:
        return []
    finally:
        await subscription.stop()
    return sorted(found.values())


class _Names(msgspec.Struct):
    consumers: list[str] | None = None


class _Ping(msgspec.Struct):
    name: str
    id: str
    metadata: dict[str, str] = {}
