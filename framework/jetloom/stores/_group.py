"""Group commit: appends of many runs in one atomic batch, where that is faster.

A server that syncs its files before it acknowledges pays a sync for every plain append, and a few for a whole batch;
any other pays for the batch alone. Which one it is, and how slow its disk, it does not say: while many appends are
under way at once both ways are measured, and the faster one is kept until it is measured again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Literal

from ..errors import ConditionFailed, InvalidInput, OutcomeUnknown, PayloadTooLarge, Refused
from ..lifecycle import TaskSet
from ..transport import Appended, Transport, Write

type Grouping = Literal["auto", "always", "never"]

GROUP_MAX = 256
"""Appends of one batch; the server takes 1,000. Larger ones gain little, and a refused one costs more."""
GROUP_BYTES_MAX = 4 << 20
"""Of one batch: half of what a connection queues."""
CROWD = 24
"""Appends under way at once from which a batch may pay."""
WINDOW = 0.5
"""Seconds for which a way is measured, after as many for what was begun the other way to end."""
GAP = 2.0
"""Seconds without a crowd after which it is over, and a measurement begins anew; far above what a batch takes."""
PAYS = 1.25
"""How much faster batches must be to be kept: two measurements of the same differ by less."""
KEEP = 30.0
"""Seconds until what is kept is measured against the other again; after a vain trial twice as long each time,"""
KEEP_MAX = 600.0
"""up to this."""
STOP_SECONDS = 1.0
"""How long a batch that nobody waits for any more may take to end."""


class _Entry:
    __slots__ = ("future", "write")

    def __init__(self, write: Write, future: asyncio.Future[int]) -> None:
        self.write = write
        self.future = future


class GroupCommit:
    """The appends of one engine to one stream. At most one batch is under way; what comes meanwhile is the next one."""

    def __init__(self, transport: Transport, mode: Grouping = "auto") -> None:
        self._transport = transport
        self._mode = mode
        self._waiting: list[_Entry] = []
        self._tasks = TaskSet("group-commit")
        self._sending = False
        self._under_way = 0
        self._grouping = False
        self._kept = False
        """Whether batches were found to be faster; else they are on trial."""
        # The measurement: appends that ended since `began`; `crowded` is when there was a crowd last.
        self._settled = self._began = self._crowded = float("-inf")
        self._ended = 0
        self._single_rate = 0.0
        self._next_trial = float("-inf")
        self._pause = KEEP

    async def append(self, write: Write) -> int:
        """Its sequence. Raises what `Transport.append` raises."""
        self._under_way += 1
        try:
            if self._under_way >= CROWD and self._mode == "auto":
                self._measure(asyncio.get_running_loop().time())
            if self._mode == "always" or (self._grouping and self._in_crowd()):
                return await self._join(write)
            return (await self._alone(write)).sequence
        finally:
            self._under_way -= 1
            self._ended += 1

    async def stop(self) -> None:
        """When nobody appends any more."""
        await self._tasks.stop(grace=STOP_SECONDS)

    # -- which way
    @property
    def pays(self) -> bool:
        """Whether batches were found to be faster here."""
        return self._mode == "always" or (self._grouping and self._kept)

    def _in_crowd(self) -> bool:
        return asyncio.get_running_loop().time() - self._crowded <= GAP

    def _measure(self, now: float) -> None:
        if now - self._crowded > GAP:
            # A trial is about the load of its moment: what was measured under another is no measure for it.
            self._grouping = self._grouping and self._kept
            self._settled = now
        if now <= self._settled:
            self._began, self._ended = now, 0
        self._crowded = now
        taken = now - self._began
        if taken < WINDOW:
            return
        rate = self._ended / taken
        if not self._grouping:
            self._single_rate = rate
            self._grouping, self._kept = now >= self._next_trial, False
        elif self._kept:
            if now < self._next_trial:
                return
            # Measured again: a window of plain appends, then one of batches.
            self._grouping = False
        elif rate >= PAYS * self._single_rate:
            self._kept, self._next_trial, self._pause = True, now + KEEP, KEEP
        else:
            self._grouping = False
            self._next_trial = now + self._pause
            self._pause = min(2 * self._pause, KEEP_MAX)
        self._settled = now + WINDOW

    # -- alone
    def _alone(self, write: Write) -> Awaitable[Appended]:
        return self._transport.append(
            write.subject,
            write.data,
            headers=write.headers,
            expected=write.expected,
            rollup=write.rollup,
            ttl=write.ttl,
        )

    # -- in a batch
    async def _join(self, write: Write) -> int:
        entry = _Entry(write, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        if not self._sending:
            self._sending = True
            self._tasks.spawn(self._send_all())
        return await entry.future

    async def _send_all(self) -> None:
        entries: list[_Entry] = []
        try:
            while self._waiting:
                entries = self._take()
                await self._send(entries)
        finally:
            self._sending = False
            for entry in (*entries, *self._waiting):
                if not entry.future.done():
                    entry.future.set_exception(OutcomeUnknown(entry.write.subject, "its batch was given up"))
            self._waiting.clear()

    def _take(self) -> list[_Entry]:
        """The next batch: each subject once, since a second write there would wait for what the first leads to."""
        taken: list[_Entry] = []
        left: list[_Entry] = []
        subjects: set[str] = set()
        size = 0
        for entry in self._waiting:
            if entry.future.done():
                continue  # nobody waits for it any more, and it was not sent
            room = len(taken) < GROUP_MAX and (not taken or size + len(entry.write.data) <= GROUP_BYTES_MAX)
            if room and entry.write.subject not in subjects:
                taken.append(entry)
                subjects.add(entry.write.subject)
                size += len(entry.write.data)
            else:
                left.append(entry)
        self._waiting = left
        return taken

    async def _send(self, entries: Sequence[_Entry]) -> None:
        """One batch. A refused one is halved until whoever caused it stands alone; none of it was stored."""
        if not entries:
            return
        if len(entries) == 1:
            await self._send_one(entries[0])
            return
        try:
            first = await self._transport.append_group([entry.write for entry in entries])
        except (ConditionFailed, Refused, PayloadTooLarge, InvalidInput):
            half = len(entries) // 2
            await self._send(entries[:half])
            await self._send(entries[half:])
        except OutcomeUnknown as error:
            for entry in entries:
                _fail(entry, OutcomeUnknown(entry.write.subject, error.message))
        else:
            for sequence, entry in enumerate(entries, first):
                if not entry.future.done():
                    entry.future.set_result(sequence)

    async def _send_one(self, entry: _Entry) -> None:
        try:
            sequence = (await self._alone(entry.write)).sequence
        except (ConditionFailed, Refused, PayloadTooLarge, InvalidInput, OutcomeUnknown) as error:
            _fail(entry, error)
        else:
            if not entry.future.done():
                entry.future.set_result(sequence)


def _fail(entry: _Entry, error: Exception) -> None:
    if not entry.future.done():
        entry.future.set_exception(error)
