"""Reading an answer that comes in parts."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from ..clock import Clock
from ..errors import PayloadTooLarge, RequestTimeout, Unavailable
from ..transport import Incoming, Subscription, Transport
from ._errors import error_of
from ._wire import H_PART, PART_END, WINDOW_PARTS

BACKLOG_MAX = 4 * WINDOW_PARTS
"""Parts that wait for the reader: a service that keeps to its window never fills it."""


class PartsReader:
    """An inbox that takes the parts of one answer, in order, none missing."""

    def __init__(self, transport: Transport, clock: Clock, subject: str) -> None:
        self.inbox = f"_INBOX.{clock.token()[:22]}"
        self.ended = False
        """Whether the service has nothing more to send: it said so, or it failed."""
        self._transport = transport
        self._subject = subject
        self._arrived: asyncio.Queue[Incoming] = asyncio.Queue()
        self._overrun = False
        self._number = 0
        self._subscription: Subscription | None = None

    async def __aenter__(self) -> Self:
        self._subscription = await self._transport.subscribe(self.inbox, self._receive)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._subscription is not None:
            await self._subscription.stop()

    def _receive(self, message: Incoming) -> None:
        if self._arrived.qsize() < BACKLOG_MAX:
            self._arrived.put_nowait(message)
        else:
            self._overrun = True

    async def next(self, limit: float) -> bytes | None:
        """The next part; None after the last. Waits `limit` seconds at most.

        Raises what the endpoint raised, `RequestTimeout`, and `Unavailable` when a part was lost on the way.
        """
        message = await self._take(limit)
        error = error_of(message.data, message.headers)
        if error is not None:
            self.ended = True
            raise error
        part = message.headers.get(H_PART, "")
        self._number += 1
        if part == PART_END:
            self.ended = True
            return None
        if part != str(self._number):
            raise Unavailable(
                f"part {self._number} of the answer of {self._subject} was lost (the next one is {part or 'none'}): "
                "the connection was interrupted; ask again"
            )
        if message.reply:
            # The service waits at the end of each window until its reader has come this far.
            await self._transport.publish(message.reply, b"")
        return message.data

    async def _take(self, limit: float) -> Incoming:
        if self._overrun:
            raise PayloadTooLarge(
                f"the backlog (in parts) of the answer of {self._subject}", BACKLOG_MAX + 1, BACKLOG_MAX
            )
        if not self._arrived.empty():
            return self._arrived.get_nowait()
        try:
            async with asyncio.timeout(limit):
                return await self._arrived.get()
        except TimeoutError as error:
            raise RequestTimeout(f"{self._subject} (part {self._number + 1})", limit) from error
