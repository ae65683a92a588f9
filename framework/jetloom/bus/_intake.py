"""How events come in to a handler, one file per way: what they share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from ..clock import Clock
from ..telemetry import Metrics
from ..transport import ConsumerAsset, Delivery, Pull, Transport
from ._answers import Answers
from ._handler import EventHandler
from ._handling import Handling

PULL_EXPIRY = 1.0
"""Seconds that one pull request lives, and so about the time that a drain waits when nothing happens."""


class Kit[T]:
    """What every way needs."""

    def __init__(
        self,
        handler: EventHandler[T],
        asset: ConsumerAsset,
        transport: Transport,
        clock: Clock,
        metrics: Metrics,
        handling: Handling[T],
        answers: Answers,
    ) -> None:
        self.handler = handler
        self.asset = asset
        self.transport = transport
        self.clock = clock
        self.metrics = metrics
        self.handling = handling
        self.answers = answers

    async def pull(self, take: Callable[[Delivery], None], capacity: Callable[[], int]) -> Pull:
        return await self.transport.pull(
            self.asset.stream, self.asset.name, take, capacity=capacity, expiry=PULL_EXPIRY, batch=256
        )


class Intake(Protocol):
    """Takes events in and sees them handled. Opened, closed, opened again; `close` may be called twice, also while
    another call of it waits."""

    async def open(self) -> None:
        """Returns when events come in."""
        ...

    async def close(self, seconds: float | None) -> int:
        """Takes no more, lets what runs end for `seconds` (None: for ever), gives the rest back; how many."""
        ...

    async def beat(self) -> None:
        """Tells the server that everything held is being worked on."""
        ...


async def give_back(nak: Callable[[str], Awaitable[None]], held: list[str]) -> None:
    """In this order, so that the oldest comes first again."""
    for ack_subject in held:
        await nak(ack_subject)


def grace(began: float, seconds: float) -> float:
    """What is left of a close's time; never 0, which would not even let those end that have ended."""
    return max(seconds - (asyncio.get_running_loop().time() - began), 0.001)
