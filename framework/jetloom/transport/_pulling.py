"""A continuous pull: requests overlap, so that no gap arises between the end of one and the start of the next."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from ._port import Delivery, DeliveryHandler
from ._protocol import parse_head

if TYPE_CHECKING:
    from ._adapter import NatsTransport

logger = logging.getLogger("jetloom.transport")

SLOTS = 2
"""Requests open at once: while one is used up, the other waits at the server."""
IDLE = 0.05
"""How long a pull without capacity waits before it asks again."""
MISSING = 1.0
"""How long a pull waits for its consumer, or a leader, before it looks again."""
OVERDUE = 1.0
"""Past its expiry a request without an end is taken for lost, and its subject is never used again."""


class _Slot:
    """One request at a time, on a subject of its own: what arrives on it was brought by that request."""

    def __init__(self, pull: NatsPull) -> None:
        self._pull = pull
        self.sid = 0
        self.inbox = ""
        self.sent = 0.0
        self.left = 0
        self.deadline = 0.0

    @property
    def open(self) -> bool:
        return self.left > 0

    def renew(self) -> None:
        """A new subject: what an older request still brings would be taken for newer than it is."""
        transport = self._pull.transport
        if self.sid:
            transport.link.forget(self.sid)
        self.inbox = transport.new_inbox()
        self.sid = transport.link.listen(self.inbox, self._received)
        self.left = 0

    def send(self, batch: int, now: float) -> None:
        pull = self._pull
        if not self.sid:
            self.renew()
        self.sent, self.left, self.deadline = now, batch, now + pull.expiry + OVERDUE
        body = msgspec.json.encode({"batch": batch, "expires": round(pull.expiry * 1e9)})
        pull.transport.link.send(pull.subject, self.inbox, b"", body)

    def _received(self, subject: str, reply: str, block: bytes, data: bytes) -> None:
        head = parse_head(block)
        if head.status:
            # 404, 408: the request has ended. 409, 503: the consumer is gone, or has no leader.
            if head.status in (404, 408, 409, 503):
                self.left = 0
                self._pull.ended(
                    missing=head.status == 503 or (head.status == 409 and "Deleted" in head.description)
                )
            return
        self.left -= 1
        parts = reply.split(".")
        if len(parts) < 9:
            return
        # The last seven tokens are the same in both forms of ack subjects.
        stream, consumer, count, sequence, _, stamp, _ = parts[-7:] if len(parts) == 9 else _newer(parts)
        self._pull.deliver(
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
        if self.left <= 0:
            self._pull.ended(missing=False)

    def close(self) -> None:
        if self.sid:
            self._pull.transport.link.forget(self.sid)
            self.sid = 0
        self.left = 0


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
        self._capacity = capacity
        self._batch = batch
        self._slots = [_Slot(self) for _ in range(SLOTS)]
        self._wake = asyncio.Event()
        self._missing_until = 0.0
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._loop(), name="pull")

    def wake(self) -> None:
        self._wake.set()

    def ended(self, *, missing: bool) -> None:
        """A request has ended."""
        if missing:
            self._missing_until = self.transport.clock.monotonic() + MISSING
        self._wake.set()

    def lost(self) -> None:
        """The connection is gone, and every open request with it."""
        for slot in self._slots:
            slot.close()

    async def _loop(self) -> None:
        while not self._stopping:
            self._wake.clear()
            pause = self._turn()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    def _turn(self) -> float:
        """Sends what may be sent; seconds until the next look."""
        now = self.transport.clock.monotonic()
        for slot in self._slots:
            if slot.open and now > slot.deadline:
                slot.renew()
        if not self.transport.connected:
            return IDLE
        if now < self._missing_until:
            return self._missing_until - now
        free = [slot for slot in self._slots if not slot.open]
        if not free:
            return self.expiry + OVERDUE
        room = self._capacity() - sum(slot.left for slot in self._slots)
        if room <= 0:
            return IDLE
        for index, slot in enumerate(free):
            share = min(self._batch, room // (len(free) - index) or room)
            if share <= 0:
                break
            slot.send(share, now)
            room -= share
        return self.expiry + OVERDUE

    async def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task])
        deadline = self.transport.clock.monotonic() + self.expiry + OVERDUE
        while any(slot.open for slot in self._slots) and self.transport.clock.monotonic() < deadline:
            await asyncio.sleep(IDLE / 5)
        for slot in self._slots:
            slot.close()
        self.transport.dropped(self)

    async def abandon(self) -> None:
        """Ends at once: what is under way comes again, elsewhere."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task])
        for slot in self._slots:
            slot.close()
        self.transport.dropped(self)
