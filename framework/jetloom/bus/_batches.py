"""Several events at once to a function."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from ..errors import ErrorClass, to_info
from ..lifecycle import TaskSet
from ..transport import Delivery, Pull
from ._answers import beat_for
from ._event import Event
from ._intake import Kit, give_back, grace
from ._marks import Claim

BUSY_SECONDS = 1.0
"""After which an event comes again of which another copy was being handled when its batch began."""


class _Member[T]:
    __slots__ = ("claim", "delivery", "event")

    def __init__(self, delivery: Delivery, event: Event[T], claim: Claim | None) -> None:
        self.delivery = delivery
        self.event = event
        self.claim = claim


class BatchIntake[T]:
    """Collects up to `batch` events, the first of which waits at most `batch_wait`.

    A failed batch says nothing about one of its events: each comes again, and what was delivered before is handled in
    batches of one, so that only what fails alone is judged by its error. Holds at most one batch more than the
    `concurrency` calls that run.
    """

    def __init__(self, kit: Kit[T]) -> None:
        self._kit = kit
        self._size = kit.handler.batch
        self._tasks = TaskSet("event-handler", kit.metrics)
        self._pull: Pull | None = None
        self._fresh: deque[tuple[float, Delivery]] = deque()
        """First deliveries, with the time at which each came."""
        self._alone: deque[Delivery] = deque()
        self._held: dict[int, str] = {}
        self._running = 0
        self._timer: asyncio.TimerHandle | None = None
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
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting = [*self._alone, *(delivery for _, delivery in self._fresh)]
        self._alone.clear()
        self._fresh.clear()
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

    def _capacity(self) -> int:
        if self._closing:
            return 0
        return max(0, self._size * (self._kit.handler.concurrency + 1) - len(self._held))

    def _take(self, delivery: Delivery) -> None:
        sequence, answers = delivery.sequence, self._kit.answers
        (answers.first if delivery.count <= 1 else answers.again).inc()
        known = sequence in self._held
        self._held[sequence] = delivery.ack_subject
        if known:
            return
        if delivery.count > 1:
            self._alone.append(delivery)
        else:
            self._fresh.append((asyncio.get_running_loop().time(), delivery))
        self._dispatch()

    def _dispatch(self) -> None:
        """Starts what may start now."""
        while not self._closing and self._running < self._kit.handler.concurrency:
            batch = self._next()
            if not batch:
                return
            self._running += 1
            self._tasks.spawn(self._run(batch))

    def _next(self) -> list[Delivery]:
        if self._alone:
            return [self._alone.popleft()]
        if not self._fresh:
            return []
        loop = asyncio.get_running_loop()
        due = self._fresh[0][0] + self._kit.handler.batch_wait
        # A timer may fire a clock tick early.
        if len(self._fresh) >= self._size or due <= loop.time() + 1e-6:
            count = min(self._size, len(self._fresh))
            return [self._fresh.popleft()[1] for _ in range(count)]
        if self._timer is None:
            self._timer = loop.call_at(due, self._look)
        return []

    def _look(self) -> None:
        self._timer = None
        self._dispatch()

    async def _run(self, batch: Sequence[Delivery]) -> None:
        kit, answers = self._kit, self._kit.answers
        answers.active.inc(len(batch))
        began = kit.clock.monotonic()
        try:
            await self._handle(batch)
        except asyncio.CancelledError:
            left = [subject for each in batch if (subject := self._held.get(each.sequence))]
            self._cancelled += len(left)
            await give_back(kit.transport.nak, left)
            raise
        finally:
            for delivery in batch:
                self._held.pop(delivery.sequence, None)
            answers.active.dec(len(batch))
            answers.duration.observe(kit.clock.monotonic() - began)
            self._running -= 1
            self._dispatch()
            if self._pull is not None:
                self._pull.wake()

    async def _handle(self, batch: Sequence[Delivery]) -> None:
        members = await self._members(batch)
        if not members:
            return
        kit, marks = self._kit, self._kit.handling.marks
        claims = [member.claim for member in members if member.claim is not None]
        try:
            await kit.handling.call_many([member.event for member in members])
        except asyncio.CancelledError:
            if marks is not None:
                for claim in claims:
                    marks.abandon(claim)
            raise
        except Exception as error:  # the supervisor of user code: logs, counts, decides
            if marks is not None:
                await asyncio.gather(*(marks.release(claim) for claim in claims))
            await self._failed([member.delivery for member in members], error)
            return
        if marks is not None:
            await asyncio.gather(*(marks.done(claim) for claim in claims))
        for member in members:
            await kit.transport.ack(self._held[member.delivery.sequence])
        kit.answers.handled.inc(len(members))

    async def _members(self, batch: Sequence[Delivery]) -> list[_Member[T]]:
        """What of the batch is to be handled; the rest is answered here."""
        kit = self._kit
        members: list[_Member[T]] = []
        for delivery in batch:
            try:
                event = kit.handling.read(delivery)
            except Exception as error:  # what can't be read is one event's trouble, not its batch's
                await kit.answers.failed(delivery, error)
                continue
            if event is None:
                await kit.transport.ack(self._held[delivery.sequence])
            else:
                members.append(_Member(delivery, event, None))
        marks = kit.handling.marks
        if marks is None or not members:
            return members
        wait = len(batch) == 1
        results = await asyncio.gather(
            *(
                marks.claim(each.event.source, each.event.id, each.event.sequence, wait=wait)
                for each in members
            ),
            return_exceptions=True,
        )
        kept: list[_Member[T]] = []
        for member, found in zip(members, results, strict=True):
            if isinstance(found, Claim):
                member.claim = found
                kept.append(member)
            elif found == "done":
                kit.handling.deduped()
                await kit.transport.ack(self._held[member.delivery.sequence])
            elif isinstance(found, Exception):
                await kit.answers.failed(member.delivery, found)
            else:
                await kit.transport.nak(self._held[member.delivery.sequence], BUSY_SECONDS)
        return kept

    async def _failed(self, deliveries: list[Delivery], error: Exception) -> None:
        kit = self._kit
        if len(deliveries) == 1:
            await kit.answers.failed(deliveries[0], error)
            return
        info = to_info(error)
        for delivery in deliveries:
            if info.retry_after_ms is not None:
                delay = info.retry_after_ms / 1000
            elif info.error_class is ErrorClass.TERMINAL:
                delay = 0.0
            else:
                delay = kit.handler.retry.delay(delivery.count, kit.clock.random())
            kit.answers.will_retry(delivery, info, delay)
            await kit.transport.nak(delivery.ack_subject, delay)
