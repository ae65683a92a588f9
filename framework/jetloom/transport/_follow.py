"""Following a stream's subject: in order, none twice, through reconnects.

It reads pages by direct get and is woken by a core subscription on the subject: a core message is only a hint, what is
handed on is what the stream holds. A look every second covers hints that a lost connection swallowed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from ..errors import Disconnected, Refused, RequestTimeout
from ._port import Incoming, Stored, StoredHandler, Subscription

if TYPE_CHECKING:
    from ._nats import NatsTransport

logger = logging.getLogger("jetloom.transport")

STREAM_NOT_FOUND = 10059
LOOK = 1.0
HINTED = 0.002
"""Until the second look for what was hinted at and is not there yet; doubled each time."""
PAGE = 256
SINGLES = 64


class NatsFollow:
    def __init__(
        self,
        transport: NatsTransport,
        stream: str,
        subject: str,
        handler: StoredHandler,
        *,
        after: int | None,
        last: bool,
    ) -> None:
        self._transport = transport
        self._stream = stream
        self._subject = subject
        self._handler = handler
        self._after = after
        self._last = last
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._hint: Subscription | None = None

    async def start(self) -> None:
        """Returns when nothing that is stored from now on can be missed. Raises `Refused` without a stream."""
        first: list[Stored] = []
        end = await self._end()
        if self._after is None:
            self._after = end
            if self._last:
                first = await self._last_ones(self._after)
        self._hint = await self._transport.subscribe(self._subject, self._hinted)
        for stored in first:
            self._hand(stored)
        self._wake.set()
        self._task = asyncio.get_running_loop().create_task(self._loop(), name="follow")

    async def _end(self) -> int:
        state = await self._transport.stream_state(self._stream)
        if state is None:
            raise Refused(f"stream {self._stream}", STREAM_NOT_FOUND, "stream not found")
        return state.last

    async def _last_ones(self, until: int) -> list[Stored]:
        """The last message of each subject up to sequence `until`, in stream order."""
        found: dict[str, Stored] = {}
        after = 0
        while True:
            page = await self._transport.read(self._stream, self._subject, after=after, limit=PAGE)
            for stored in page:
                if stored.sequence <= until:
                    found.pop(stored.subject, None)
                    found[stored.subject] = stored
            if len(page) < PAGE or page[-1].sequence >= until:
                return list(found.values())
            after = page[-1].sequence

    def wake(self) -> None:
        self._wake.set()

    def _hinted(self, incoming: Incoming) -> None:
        self._wake.set()

    async def _loop(self) -> None:
        pause = LOOK
        while True:
            hinted = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
                    hinted = True
            self._wake.clear()
            pause = min(pause * 2, LOOK)
            try:
                if await self._catch_up():
                    pause = LOOK
                elif hinted:
                    # The server hands a message on before it has stored it.
                    pause = HINTED
            except (RequestTimeout, Disconnected):
                continue
            except Refused as error:
                # A stream that was removed may be made again.
                logger.warning(
                    "a follow finds no stream", extra={"stream": self._stream, "error": str(error)}
                )

    async def _catch_up(self) -> bool:
        """Hands on all that there is; whether that was anything."""
        before = self._after
        # At the end of a stream one by one: each page would have the server count all that matches.
        for _ in range(SINGLES):
            if not await self._next(1):
                return self._after != before
        while await self._next(PAGE):
            pass
        return True

    async def _next(self, limit: int) -> bool:
        """Hands on the next `limit` messages; whether there may be more."""
        page = await self._transport.read(self._stream, self._subject, after=self._after or 0, limit=limit)
        for stored in page:
            self._after = stored.sequence
            self._hand(stored)
        return len(page) == limit

    def _hand(self, stored: Stored) -> None:
        try:
            self._handler(stored)
        except Exception:
            # A handler's bug must not end the follow, which nobody would notice.
            logger.exception("a follow's handler failed", extra={"subject": stored.subject})

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        if self._hint is not None:
            await self._hint.stop()
        self._transport.dropped(self)
