"""What a memory connection keeps open at the client: subscriptions, follows, pulls, beats. All survive reconnects."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from jetloom.transport._memory_server import Interest
from jetloom.transport._memory_subjects import matcher

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from jetloom.transport._memory_link import Link
    from jetloom.transport._memory_server import MemoryServer
    from jetloom.transport._port import (
        Delivery,
        DeliveryHandler,
        Incoming,
        IncomingHandler,
        Stored,
        StoredHandler,
    )

TICK_SECONDS = 0.1
"""A pull without capacity looks again after this."""

MISSING_SECONDS = 1.0
"""A consumer that does not exist is looked for again after this."""


class Owner(Protocol):
    """What these ask of the transport that made them."""

    memory: MemoryServer
    link: Link
    context: Context

    def forget(self, kept: Kept) -> None: ...


class Kept(Protocol):
    """Something that is set up again at each reconnect."""

    def arrive(self) -> None:
        """At the server: sets it up on the link that sent it."""
        ...

    def renew(self) -> None:
        """At the client, after a reconnect: sends it again."""
        ...

    def lapse(self) -> None:
        """At the client: the connection is gone."""
        ...

    async def stop(self) -> None: ...


class MemorySubscription:
    def __init__(self, owner: Owner, subject: str, queue: str, handler: IncomingHandler) -> None:
        self.subject = subject
        self._owner = owner
        self._queue = queue
        self._handler = handler
        self._interest: Interest | None = None
        self._stopped = False

    def arrive(self) -> None:
        link = self._owner.link
        # What an older connection sent may arrive after the newer one's: once is enough.
        if link.up and not self._stopped and (self._interest is None or self._interest.link is not link):
            self._interest = Interest(link, self.subject, self._queue, self._deliver)
            self._owner.memory.subscribe(self._interest)

    def renew(self) -> None:
        link = self._owner.link
        link.fire(link.op("subscribe", self.subject), self.arrive)

    def lapse(self) -> None:
        self._interest = None

    async def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        self._owner.forget(self)
        interest, link = self._interest, self._owner.link
        if interest is not None:
            link.fire(link.op("subscribe", self.subject), lambda: self._owner.memory.unsubscribe(interest))

    def _deliver(self, message: Incoming) -> None:
        if not self._stopped:
            self._handler(message)


class MemoryFollow:
    """An ordered copy of what a stream stores on a subject, from where it stood at the last message it saw."""

    def __init__(
        self, owner: Owner, stream: str, subject: str, handler: StoredHandler, after: int | None, last: bool
    ) -> None:
        self.subject = subject
        self._owner = owner
        self._stream = stream
        self._handler = handler
        self._matches = matcher(subject)
        self._cursor = after
        self._last = last
        self._link: Link | None = None
        self._stopped = False

    def arrive(self) -> None:
        """Also the first time; raises `Refused` when there is no such stream."""
        stream = self._owner.memory.stream(self._stream)
        link = self._owner.link
        if self._stopped or not link.up:
            return
        self._detach()
        self._link = link
        if self._cursor is not None:
            backlog = stream.read(self.subject, self._cursor, 1 << 62)
        else:
            backlog = stream.last_per_subject(self.subject) if self._last else []
            if not backlog:
                self._cursor = stream.last
        for message in backlog:
            self._send(message)
        stream.listeners.append(self._stored)

    def renew(self) -> None:
        link = self._owner.link
        link.fire(link.op("follow", self.subject), self._arrive_again)

    def lapse(self) -> None:
        self._detach()

    async def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            self._owner.forget(self)
            self._detach()

    def _arrive_again(self) -> None:
        memory = self._owner.memory
        if self._stream in memory.streams:
            self.arrive()
        elif not self._stopped:
            memory.call_later(MISSING_SECONDS, self._arrive_again)

    def _detach(self) -> None:
        self._link = None
        stream = self._owner.memory.streams.get(self._stream)
        if stream is not None and self._stored in stream.listeners:
            stream.listeners.remove(self._stored)

    def _stored(self, message: Stored) -> None:
        if self._matches(message.subject):
            self._send(message)

    def _send(self, message: Stored) -> None:
        if self._link is not None:
            self._link.send(self._link.transit(), self._deliver, self._link, message)

    def _deliver(self, link: Link, message: Stored) -> None:
        if self._stopped or link is not self._link or message.sequence <= (self._cursor or 0):
            return
        self._cursor = message.sequence
        self._handler(message)


class _Request:
    """One pull request: both ends' view of it."""

    __slots__ = ("basis", "ended", "link", "pull", "remaining", "unseen")

    def __init__(self, pull: MemoryPull, link: Link, size: int, basis: float) -> None:
        self.pull = pull
        self.link = link
        self.remaining = size
        """What the server may still deliver on it."""
        self.unseen = size
        """What the client still expects of it."""
        self.basis = basis
        self.ended = False

    @property
    def open(self) -> bool:
        return not self.ended and self.link.up

    def arrive(self) -> None:
        pull = self.pull
        memory = pull.owner.memory
        consumer = memory.consumer(pull.stream, pull.consumer)
        if consumer is None:
            self.end(missing=True)
            return
        memory.call_later(pull.expiry, self.end)
        consumer.pull(self)

    def deliver(self, delivery: Delivery) -> None:
        self.link.send(self.link.transit(), self.pull.receive, self, delivery)

    def end(self, missing: bool = False) -> None:
        if self.ended:
            return
        self.ended = True
        if self.remaining > 0:
            self.remaining = 0
            self.link.send(self.link.transit(), self.pull.over, self, missing)


class MemoryPull:
    def __init__(
        self,
        owner: Owner,
        stream: str,
        consumer: str,
        handler: DeliveryHandler,
        capacity: Callable[[], int],
        expiry: float,
        batch: int,
    ) -> None:
        self.owner = owner
        self.stream = stream
        self.consumer = consumer
        self.expiry = expiry
        self._handler = handler
        self._capacity = capacity
        self._batch = batch
        self._expected = 0
        self._requests: set[_Request] = set()
        self._tick: asyncio.TimerHandle | None = None
        self._stopping = False
        self._idle: asyncio.Future[None] | None = None

    # -- Kept

    def arrive(self) -> None:
        """Pull requests go to the server one by one."""

    def renew(self) -> None:
        self.wake()

    def lapse(self) -> None:
        """Requests die with their connection; what was delivered on them and not seen comes again."""
        self._requests.clear()
        self._expected = 0
        self._finish()

    # -- Pull

    def wake(self) -> None:
        link = self.owner.link
        if self._stopping or not link.open:
            return
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        free = self._capacity() - self._expected
        while free > 0:
            size = min(free, self._batch)
            free -= size
            self._expected += size
            request = _Request(self, link, size, self.owner.memory.clock.monotonic())
            self._requests.add(request)
            link.fire(link.op("pull", f"{self.stream}.{self.consumer}"), request.arrive)
        if not self._requests:
            self._look_after(TICK_SECONDS)

    async def stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            if self._tick is not None:
                self._tick.cancel()
                self._tick = None
            self.owner.forget(self)
        if self._requests:
            if self._idle is None:
                self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._idle], timeout=self.expiry + MISSING_SECONDS)

    # -- from the server, at the client

    def receive(self, request: _Request, delivery: Delivery) -> None:
        if request in self._requests:
            request.unseen -= 1
            self._expected -= 1
            if request.unseen <= 0:
                self._requests.discard(request)
        self._handler(delivery)
        if not self._requests:
            self._finish()
            self.wake()

    def over(self, request: _Request, missing: bool) -> None:
        if request not in self._requests:
            return
        self._requests.discard(request)
        self._expected -= request.unseen
        if missing and not self._stopping:
            self._look_after(MISSING_SECONDS)
        else:
            self.wake()
        self._finish()

    def _look_after(self, seconds: float) -> None:
        if self._tick is None:
            loop = asyncio.get_running_loop()
            self._tick = loop.call_later(seconds, self._look, context=self.owner.context)

    def _look(self) -> None:
        self._tick = None
        self.wake()

    def _finish(self) -> None:
        if self._idle is not None and not self._requests and not self._idle.done():
            self._idle.set_result(None)


class MemoryBeater:
    """Beats from timers of the client's process: they stop when it is frozen, as a thread's would."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._stopped = False

    def hold(self, ack_subject: str, every: float) -> None:
        self.drop(ack_subject)
        if not self._stopped:
            self._arm(ack_subject, every)

    def drop(self, ack_subject: str) -> None:
        timer = self._timers.pop(ack_subject, None)
        if timer is not None:
            timer.cancel()

    async def stop(self) -> None:
        self._stopped = True
        for ack_subject in tuple(self._timers):
            self.drop(ack_subject)

    def _arm(self, ack_subject: str, every: float) -> None:
        loop = asyncio.get_running_loop()
        self._timers[ack_subject] = loop.call_later(
            every, self._beat, ack_subject, every, context=self._owner.context
        )

    def _beat(self, ack_subject: str, every: float) -> None:
        self._arm(ack_subject, every)
        link, memory = self._owner.link, self._owner.memory
        link.fire(link.op("beat", ack_subject), lambda: memory.acknowledge(ack_subject, "beat"))
