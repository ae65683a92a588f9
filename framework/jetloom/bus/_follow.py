"""Watching events go by, for people."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from ..messages import Names
from ..transport import Stored, Transport
from ..types import JSON
from ._event import Event, read_event
from ._patterns import check_pattern

QUEUE_MAX = 10_000
"""Events that wait for a slow reader; older ones are passed over then."""


@asynccontextmanager
async def follow_events(
    transport: Transport, names: Names, pattern: str = ">", *, after: int | None = None
) -> AsyncGenerator[AsyncIterator[Event[JSON]]]:
    """Events that match, in order, until the block is left: those after sequence `after`, or new ones only.

    A payload that is no JSON becomes text. A reader slower than 10,000 events misses the oldest.
    """
    check_pattern(pattern)
    waiting: deque[Stored] = deque(maxlen=QUEUE_MAX)
    arrived = asyncio.Event()

    def keep(stored: Stored) -> None:
        waiting.append(stored)
        arrived.set()

    async def iterate() -> AsyncIterator[Event[JSON]]:
        while True:
            await arrived.wait()
            while waiting:
                stored = waiting.popleft()
                yield read_event(
                    stored.headers,
                    stored.data,
                    event_type=names.event_type(stored.subject),
                    sequence=stored.sequence,
                    stored_at=stored.at,
                )
            arrived.clear()

    subscription = await transport.follow(names.events_stream, names.event(pattern), keep, after=after)
    try:
        yield iterate()
    finally:
        await subscription.stop()
