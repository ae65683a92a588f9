"""Waiting for the end of runs.

Whoever starts a run may leave an inbox in its start: the engine that ends the run tells it there, after the end is
journaled. Everybody else listens to the journal's subject. Both are hints that may be lost: the journal is looked at
now and then, and alone decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from ..clock import Clock
from ..errors import Disconnected, RequestTimeout, RunCancelled, RunFailed
from ..messages import H_ROLLUP, INBOX, Finished, Names
from ..stores import JournalStore, Line
from ..transport import Incoming, Subscription, Transport
from ..types import JSON
from ._wake import Wake

POLL = 1.0
"""Seconds between looks at a journal while its run is waited for."""

HINTED = 0.002
"""Seconds until the second look for an end that was hinted at; doubled each time."""
PAUSE = 0.1
"""Before the next try while the connection is away; the caller's patience ends it."""

_finished = msgspec.json.Decoder(Finished)


class End:
    """One run's end, as it becomes known here."""

    __slots__ = ("changed", "finished", "inbox")

    def __init__(self, inbox: str = "") -> None:
        self.inbox = inbox
        self.changed = Wake()
        self.finished: Finished | None = None


class Ends:
    """The ends that one client waits for; all notices come over one subscription."""

    def __init__(self, transport: Transport, names: Names, clock: Clock, journals: JournalStore) -> None:
        self._transport = transport
        self._names = names
        self._journals = journals
        self._prefix = f"{INBOX}{clock.token()[:22]}"
        self._waiting: dict[str, End] = {}
        self._count = 0
        self._listening: asyncio.Future[None] | None = None
        self._notices: Subscription | None = None

    async def expect(self) -> End:
        """An end with an inbox, for a start that is about to be sent. `forget` it."""
        if self._notices is None:
            if self._listening is None:
                self._listening = asyncio.ensure_future(self._listen())
            await asyncio.shield(self._listening)
        self._count += 1
        token = str(self._count)
        end = self._waiting[token] = End(f"{self._prefix}.{token}")
        return end

    def forget(self, end: End) -> None:
        self._waiting.pop(end.inbox.rpartition(".")[2], None)

    async def _listen(self) -> None:
        try:
            self._notices = await self._transport.subscribe(f"{self._prefix}.*", self._on_notice)
        finally:
            if self._notices is None:
                # The next caller tries again.
                self._listening = None

    def _on_notice(self, notice: Incoming) -> None:
        end = self._waiting.get(notice.subject.rpartition(".")[2])
        if end is None:
            return
        try:
            end.finished = _finished.decode(notice.data) if notice.data else None
        except msgspec.DecodeError:
            end.finished = None  # from a newer engine: the journal is looked at
        end.changed.set()

    async def stop(self) -> None:
        """Ends the subscription; whoever waits goes on by looking at the journals."""
        notices, self._notices, self._listening = self._notices, None, None
        if notices is not None:
            await notices.stop()

    async def told(
        self, run: str, end: End, seconds: float | None, exists: Callable[[], Awaitable[None]]
    ) -> JSON:
        """The result of a run whose start carries the inbox. Raises `TimeoutError`, and how the run failed."""
        began = asyncio.get_running_loop().time()
        told = await end.changed.wait(POLL if seconds is None else min(POLL, seconds))
        if end.finished is not None:
            return result_of(run, end.finished)
        if not told and seconds is not None and seconds <= POLL:
            raise TimeoutError
        # The notice may be lost, the run may be long, its end may be too large to be told: its journal says.
        left = None if seconds is None else seconds - (asyncio.get_running_loop().time() - began)
        return await self.listen(run, left, exists, end)

    async def listen(
        self, run: str, seconds: float | None, exists: Callable[[], Awaitable[None]], end: End | None = None
    ) -> JSON:
        """The result of any run. Raises `TimeoutError`, and how the run failed."""
        async with asyncio.timeout(seconds):
            return await self._follow(run, end or End(), exists)

    async def _follow(self, run: str, end: End, exists: Callable[[], Awaitable[None]]) -> JSON:
        def note(hint: Incoming) -> None:
            # Only an entry that replaces all before it can be the last one.
            if H_ROLLUP in hint.headers:
                end.changed.set()

        subscription = await self._subscribe(self._names.journal(run), note)
        try:
            return result_of(run, await self._look(run, end, exists))
        finally:
            await subscription.stop()

    async def _subscribe(self, subject: str, note: Callable[[Incoming], None]) -> Subscription:
        while True:
            try:
                return await self._transport.subscribe(subject, note)
            except (RequestTimeout, Disconnected):
                await asyncio.sleep(PAUSE)

    async def _look(self, run: str, end: End, exists: Callable[[], Awaitable[None]]) -> Finished:
        seen, pause = False, POLL
        while end.finished is None:
            end.changed.clear()
            try:
                line = await self._journals.last(run)
                finished = _finish_of(line) if line is not None else None
                if finished is not None:
                    return finished
                if line is None and not seen:
                    await exists()
                seen = True
            except (RequestTimeout, Disconnected):
                seen = True
            # The server hands a message on before it has stored it: what is hinted at may be there in a moment.
            pause = HINTED if await end.changed.wait(pause) else min(pause * 2, POLL)
        return end.finished


def _finish_of(line: Line) -> Finished | None:
    """How the run ended, when this is its last entry."""
    return next((record for record in reversed(line.records) if isinstance(record, Finished)), None)


def result_of(run: str, finished: Finished) -> JSON:
    """The output. Raises `RunCancelled`, `RunFailed`."""
    if finished.status == "completed":
        return finished.output
    if finished.status == "cancelled":
        raise RunCancelled(run, finished.error.message if finished.error is not None else "")
    if finished.error is None:
        raise RunCancelled(run, "no reason was recorded")
    raise RunFailed(run, finished.error)
