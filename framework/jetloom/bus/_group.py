"""One event at a time to a function, up to `concurrency` of them at once."""

from __future__ import annotations

import asyncio
from collections import deque

from ..lifecycle import TaskSet
from ..transport import Delivery, Pull
from ._answers import beat_for
from ._intake import Kit, give_back, grace

AHEAD_SECONDS = 0.05
"""Beyond what is being handled as much is pulled as is handled within this time: quick handlers never wait for the
server, and events of slow ones stay where an idle replica can take them."""

AHEAD_MAX = 512
"""Of events pulled ahead, however quick the handler is; bounds the memory."""

_WEIGHT = 1 / 16
"""Of the newest duration in the running mean."""


class GroupIntake[T]:
    """Workers that take what waits. Holds at most `concurrency` events, and those pulled ahead."""

    def __init__(self, kit: Kit[T]) -> None:
        self._kit = kit
        self._concurrency = kit.handler.concurrency
        self._tasks = TaskSet("event-handler", kit.metrics)
        self._pull: Pull | None = None
        self._waiting: deque[Delivery] = deque()
        self._held: dict[int, str] = {}
        """Ack subjects by sequence, the latest of each."""
        self._running = 0
        self._mean: float | None = None
        self._closing = False
        self._cancelled = 0

    async def open(self) -> None:
        self._closing = False
        self._pull = await self._kit.pull(self._take, self._capacity)

    async def close(self, seconds: float | None) -> int:
        self._closing = True
        began = asyncio.get_running_loop().time()
        pull, self._pull = self._pull, None
        if pull is not None:
            await pull.stop()
        # Not before the last request has ended: what is given back would come here again at once.
        waiting, self._waiting = self._waiting, deque()
        subjects = [self._held.pop(delivery.sequence) for delivery in waiting]
        await give_back(self._kit.transport.nak, subjects)
        if seconds is None:
            await self._tasks.join()
        else:
            await self._tasks.stop(grace(began, seconds))
        cancelled, self._cancelled = self._cancelled, 0
        return len(subjects) + cancelled

    async def beat(self) -> None:
        await beat_for(list(self._held.values()), self._kit.transport.beat)

    @property
    def ahead(self) -> int:
        """How many events are pulled beyond those being handled."""
        if self._mean is None:
            return 0
        return min(AHEAD_MAX, int(self._concurrency * AHEAD_SECONDS / max(self._mean, 1e-6)))

    def _capacity(self) -> int:
        return 0 if self._closing else max(0, self._concurrency + self.ahead - len(self._held))

    def _take(self, delivery: Delivery) -> None:
        sequence = delivery.sequence
        if sequence in self._held:
            # Its beats were late and it came here again: it is being handled, and answered where it came last.
            self._held[sequence] = delivery.ack_subject
            self._kit.answers.again.inc()
            return
        self._held[sequence] = delivery.ack_subject
        self._waiting.append(delivery)
        if not self._closing and self._running < self._concurrency:
            self._running += 1
            self._tasks.spawn(self._work())

    async def _work(self) -> None:
        try:
            while self._waiting and not self._closing:
                await self._process(self._waiting.popleft())
        finally:
            self._running -= 1

    async def _process(self, delivery: Delivery) -> None:
        kit, answers, sequence = self._kit, self._kit.answers, delivery.sequence
        (answers.first if delivery.count <= 1 else answers.again).inc()
        answers.active.inc()
        began = kit.clock.monotonic()
        try:
            outcome = await kit.handling.handle(delivery)
        except asyncio.CancelledError:
            self._cancelled += 1
            await kit.transport.nak(self._held[sequence])
            raise
        except Exception as error:  # the supervisor of user code: logs, counts, decides
            await answers.failed(delivery, error)
        else:
            await kit.transport.ack(self._held[sequence])
            if outcome == "handled":
                answers.handled.inc()
        finally:
            del self._held[sequence]
            answers.active.dec()
            lasted = kit.clock.monotonic() - began
            answers.duration.observe(lasted)
            mean = self._mean
            self._mean = lasted if mean is None else mean + (lasted - mean) * _WEIGHT
            if self._pull is not None and len(self._waiting) <= self.ahead // 2:
                self._pull.wake()
