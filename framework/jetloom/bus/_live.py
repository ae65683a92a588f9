"""Events as they are stored, to every replica that listens, without acknowledgement."""

from __future__ import annotations

import asyncio
from collections import deque

from ..errors import to_info
from ..lifecycle import TaskSet
from ..telemetry import get_logger
from ..transport import Delivery, Stored, Subscription
from ._intake import Kit, grace

QUEUE_MAX = 10_000
"""Events that wait for a slow handler; the oldest are dropped then. Above a burst, below what hurts in memory."""

_logger = get_logger("bus")


class LiveIntake[T]:
    """Hands on what is stored from now on. A reader of the stream, not of what is published: events that runs emit come
    too. What fails is logged and counted; what there is no room for is dropped, the oldest first, and counted."""

    def __init__(self, kit: Kit[T], *, queue_max: int = QUEUE_MAX) -> None:
        self._kit = kit
        self._queue_max = queue_max
        self._tasks = TaskSet("event-handler", kit.metrics)
        self._subscription: Subscription | None = None
        self._waiting: deque[Stored] = deque()
        self._running = 0
        self._closing = False
        labels = {"module": kit.handler.module, "handler": kit.handler.name}
        self._dropped = kit.metrics.counter("jetloom_events_dropped_total", **labels)
        self._failed = kit.metrics.counter("jetloom_events_failed_total", **labels)

    async def open(self) -> None:
        self._closing = False
        self._subscription = await self._kit.transport.follow(
            self._kit.asset.stream, self._kit.asset.filters[0], self._take, after=None
        )

    async def close(self, seconds: float | None) -> int:
        self._closing = True
        began = asyncio.get_running_loop().time()
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.stop()
        self._waiting.clear()
        if seconds is None:
            await self._tasks.join()
        else:
            await self._tasks.stop(grace(began, seconds))
        return 0

    async def beat(self) -> None:
        """Nobody waits for an answer."""

    def _take(self, stored: Stored) -> None:
        if self._closing:
            return
        if len(self._waiting) >= self._queue_max:
            self._waiting.popleft()
            self._dropped.inc()
        self._waiting.append(stored)
        if self._running < self._kit.handler.concurrency:
            self._running += 1
            self._tasks.spawn(self._work())

    async def _work(self) -> None:
        try:
            while self._waiting and not self._closing:
                await self._process(self._waiting.popleft())
        finally:
            self._running -= 1

    async def _process(self, stored: Stored) -> None:
        kit, answers = self._kit, self._kit.answers
        stream = kit.asset.stream
        delivery = Delivery(
            stored.subject, stored.data, stored.headers, stream, "", stored.sequence, 1, "", 0.0, stored.at
        )
        answers.active.inc()
        began = kit.clock.monotonic()
        try:
            outcome = await kit.handling.handle(delivery)
        except Exception as error:  # the supervisor of user code: logs, counts, and goes on
            self._failed.inc()
            info = to_info(error)
            _logger.error(
                "live event failed",
                extra={
                    "module_id": kit.handler.module,
                    "handler": kit.handler.name,
                    "subject": stored.subject,
                    "sequence": stored.sequence,
                    "code": info.code,
                    "reason": info.message,
                },
                exc_info=error,
            )
        else:
            if outcome == "handled":
                answers.handled.inc()
        finally:
            answers.active.dec()
            answers.duration.observe(kit.clock.monotonic() - began)
