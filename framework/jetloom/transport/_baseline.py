"""nats-py as it is, for measurement only: what everything built on top of it is compared with."""

# nats-py leaves its options without types.
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import nats
from nats.errors import TimeoutError as NatsTimeout
from nats.js.api import ConsumerConfig, StreamConfig

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

FETCH_SECONDS = 0.5
FLUSH_SECONDS = 30
PENDING_BYTES_MAX = 64 * 1024 * 1024
"""Of core publishes: nats-py waits at 2 MiB by default, and raises above what it was given."""


class Baseline:
    """One plain connection. Nothing of jetloom's adapter is under it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stream = client.jetstream()

    @classmethod
    async def open(cls, url: str) -> Baseline:
        return cls(await nats.connect(url, pending_size=PENDING_BYTES_MAX))

    async def ensure_stream(self, name: str, subject: str) -> None:
        await self._stream.add_stream(StreamConfig(name=name, subjects=[subject], allow_direct=True))

    async def append(self, subject: str, data: bytes) -> int:
        """Publishes and waits for the stream's acknowledgement."""
        return (await self._stream.publish(subject, data)).seq

    async def publish(self, subject: str, data: bytes) -> None:
        await self._client.publish(subject, data)

    async def flush(self) -> None:
        await self._client.flush(timeout=FLUSH_SECONDS)

    async def request(self, subject: str, data: bytes) -> bytes:
        return (await self._client.request(subject, data, timeout=10)).data

    async def answer(self, subject: str) -> None:
        """Answers requests with what they bring, until the connection closes."""

        async def echo(message: Msg) -> None:
            await message.respond(message.data)

        await self._client.subscribe(subject, cb=echo)
        await self._settled()

    async def listen(self, subject: str, handler: Callable[[bytes], None]) -> None:
        async def take(message: Msg) -> None:
            handler(message.data)

        await self._client.subscribe(subject, cb=take)
        await self._settled()

    async def _settled(self) -> None:
        """Returns when the server knows this connection's subscriptions. nats-py's flush does not tell: its PING
        overtakes what is still queued."""
        done, inbox = asyncio.Event(), self._client.new_inbox()

        async def heard(_: Msg) -> None:
            done.set()

        subscription = await self._client.subscribe(inbox, cb=heard)
        await self._client.publish(inbox, b"")
        async with asyncio.timeout(FLUSH_SECONDS):
            await done.wait()
        await subscription.unsubscribe()

    async def pull(
        self, stream: str, subject: str, handler: Callable[[bytes], None], *, until: asyncio.Event, batch: int
    ) -> None:
        """Fetches batches from a durable consumer and acknowledges each message, until `until` is set."""
        subscription = await self._stream.pull_subscribe(
            subject, durable="plain", stream=stream, config=ConsumerConfig(max_ack_pending=10_000)
        )
        while not until.is_set():
            with contextlib.suppress(NatsTimeout):
                for message in await subscription.fetch(batch, timeout=FETCH_SECONDS):
                    handler(message.data)
                    await message.ack()
        await self._client.flush()

    async def close(self) -> None:
        await self._client.close()
