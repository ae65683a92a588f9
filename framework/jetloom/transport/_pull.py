"""A continuous pull: requests overlap, so that no gap arises between the end of one and the start of the next.

Standing conditions, looked at when something happened that may change them: messages came in, a request ended, somebody
woke it, time passed. Without a task: a look is one call of the loop, however many messages brought it about.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from ._port import Delivery, DeliveryHandler
from ._wire import Head

if TYPE_CHECKING:
    from ._nats import NatsTransport

logger = logging.getLogger("jetloom.transport")

SLOTS = 4
"""Requests open at once. The server serves them in turn: with one more than is filled at a time, there is always one to
ask with before the others are used up."""
BATCHES_AHEAD = 2
"""How many batches are asked for at most before the first has come."""
GATHER = 4
"""A request asks for at least this part of a batch (1/4), or of the capacity: fewer and larger requests,"""
LINGER = 0.005
"""unless the last one is this long ago: what comes slowly does not wait for more to come."""
IDLE = 0.05
"""How long a pull without capacity waits before it asks again."""
MISSING = 1.0
"""How long a pull waits for its consumer, or a leader, before it looks again."""
OVERDUE = 1.0
"""Past its expiry a request without an end is taken for lost, and its subject is never used again."""
BYTES_MAX = 8 << 20
"""What one request brings at most, unless two messages of the largest size are more: left alone, a batch of large
messages would pass the 64 MiB at which a server cuts a client off as a slow consumer."""

_FINE = ("Message Size Exceeds MaxBytes", "Batch Completed")
"""Why a 409 ends a request in the ordinary course of things."""
_HEARTBEAT = 100


class _Slot:
    """One request at a time, on a subject of its own: what arrives on it was brought by that request."""

    def __init__(self, pull: NatsPull) -> None:
        self._pull = pull
        self.sid = 0
        self.inbox = ""
        self.sent = 0.0
        self.left = 0
        self.deadline = 0.0

    def renew(self) -> None:
        """A new subject: what an older request still brings would be taken for newer than it is."""
        transport = self._pull.transport
        if self.sid:
            transport.link.forget(self.sid)
        self.inbox = transport.new_inbox()
        self.sid = transport.link.listen(self.inbox, self._received)
        self._end()

    def send(self, batch: int, now: float) -> None:
        pull = self._pull
        if not self.sid:
            self.renew()
        self.sent, self.left, self.deadline = now, batch, now + pull.expiry + OVERDUE
        pull.open += batch
        pull.requests += 1
        body = msgspec.json.encode(
            {"batch": batch, "expires": round(pull.expiry * 1e9), "max_bytes": pull.bytes_max}
        )
        pull.transport.link.send(pull.subject, self.inbox, b"", body)

    def _received(self, subject: str, reply: str, head: Head, data: bytes) -> None:
        pull = self._pull
        if head.status:
            if head.status != _HEARTBEAT:
                # 404, 408: the request has ended. 409, 503: the consumer is gone, or has no leader.
                self._end()
                missing = head.status not in (404, 408) and head.description not in _FINE
                pull.ended(missing=missing)
            return
        parts = reply.split(".")
        # The last seven tokens are the same in both forms of ack subjects.
        if len(parts) == 9:
            _, _, stream, consumer, count, sequence, _, stamp, _ = parts
        elif len(parts) > 9:
            stream, consumer, count, sequence, _, stamp, _ = _newer(parts)
        else:
            return
        if self.left > 0:
            self.left -= 1
            pull.open -= 1
            if not self.left:
                pull.ended(missing=False)
            elif pull.open <= pull.low:
                pull.wake()
        pull.deliver(
            Delivery(
                subject,
                data,
                head.headers,
                stream,
                consumer,
                int(sequence),
                int(count),
                reply,
                self.sent,
                int(stamp) / 1e9,
            )
        )

    def _end(self) -> None:
        self._pull.open -= self.left
        self.left = 0

    def close(self) -> None:
        if self.sid:
            self._pull.transport.link.forget(self.sid)
            self.sid = 0
        self._end()


def _newer(parts: list[str]) -> list[str]:
    """`$JS.ACK.<domain>.<account>.<stream>.<consumer>.<count>.<sequence>.<consumer
    sequence>.<time>.<pending>[.<random>]`
    """
    return parts[4:11]


class NatsPull:
    def __init__(
        self,
        transport: NatsTransport,
        stream: str,
        consumer: str,
        handler: DeliveryHandler,
        *,
        capacity: Callable[[], int],
        expiry: float,
        batch: int,
    ) -> None:
        self.transport = transport
        self.subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self.deliver = handler
        self.expiry = expiry
        self.bytes_max = max(BYTES_MAX, 2 * transport.server.max_payload)
        self.open = 0
        """Messages that the open requests may still bring."""
        self.low = 0
        """At or below it more is asked for, when there is room."""
        self.requests = 0
        """How many were sent, for tests and diagnosis."""
        self._capacity = capacity
        self._largest = 0
        self._batch = batch
        self._slots = [_Slot(self) for _ in range(SLOTS)]
        self._loop = asyncio.get_running_loop()
        self._last_sent = 0.0
        self._missing_until = 0.0
        self._looking = False
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False
        self._done = asyncio.Event()

    def start(self) -> None:
        self.wake()

    def wake(self) -> None:
        if not self._looking and not self._stopping:
            self._looking = True
            self._loop.call_soon(self._look)

    def ended(self, *, missing: bool) -> None:
        """A request has ended."""
        if missing:
            self._missing_until = self.transport.clock.monotonic() + MISSING
        if self._stopping and not self.open:
            self._done.set()
        self.wake()

    def lost(self) -> None:
        """The connection is gone, and every open request with it."""
        for slot in self._slots:
            slot.close()
        self._missing_until = 0.0
        if self._stopping:
            self._done.set()

    def _look(self) -> None:
        self._looking = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._stopping:
            return
        try:
            pause = self._turn()
        except Exception:
            # The capacity is somebody else's code; without a next look the pull would have ended, unnoticed.
            logger.exception("a pull's capacity failed")
            pause = MISSING
        self._timer = self._loop.call_later(pause, self._look)

    def _turn(self) -> float:
        """Sends what may be sent; seconds until the next look."""
        now = self.transport.clock.monotonic()
        free: list[_Slot] = []
        for slot in self._slots:
            if slot.left and now > slot.deadline:
                slot.renew()
            if not slot.left:
                free.append(slot)
        if not self.transport.connected:
            return IDLE
        if now < self._missing_until:
            return self._missing_until - now
        capacity = self._capacity()
        self._largest = max(self._largest, capacity)
        most = min(self._largest, BATCHES_AHEAD * self._batch)
        least = max(1, min(self._largest, self._batch) // GATHER)
        self.low = max(most - least, 0)
        room = min(capacity, most) - self.open
        if room >= least or (room > 0 and now - self._last_sent >= LINGER):
            for slot in free:
                share = min(self._batch, room)
                slot.send(share, now)
                self._last_sent = now
                room -= share
                if room < least:
                    break
        if room > 0 and len(free) > 1:
            return LINGER
        return self.expiry + OVERDUE if 2 * self.open >= most > 0 else IDLE

    async def stop(self) -> None:
        await self._finish(self.expiry + OVERDUE)

    async def abandon(self) -> None:
        """Ends at once: what is under way comes again, elsewhere."""
        await self._finish(0.0)

    async def _finish(self, patience: float) -> None:
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.open and patience and self.transport.connected:
            try:
                async with asyncio.timeout(patience):
                    await self._done.wait()
            except TimeoutError:
                logger.debug("a pull ended before its last request did")
        for slot in self._slots:
            slot.close()
        self.transport.dropped(self)
