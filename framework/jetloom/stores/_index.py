"""The index: where each run is. A projection: readers check a row against its journal, and it can be rebuilt from
them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from ..errors import DecodeFailed, OutcomeUnknown, Refused
from ..messages import Names, encode, escape_token, unescape_token
from ..transport import Stored, Transport, Write
from ..types import RunStatus

GATHER_SECONDS = 0.01
"""How long a row waits for others to travel with: far below what a reader of the index notices."""
ROWS_MAX = 256


class IndexValue(msgspec.Struct, frozen=True):
    """`sequence` of the journal entry that the row was written for; `since` seconds since the epoch."""

    inc: int
    sequence: int
    since: float


class IndexRow(NamedTuple):
    position: int
    run: str
    workflow: str
    status: RunStatus
    value: IndexValue


class _Batch:
    """Rows on their way; `stored` once `ended` is set says whether they arrived."""

    def __init__(self, row: Write) -> None:
        self.rows = [row]
        self.ended = asyncio.Event()
        self.stored = False


class IndexStore:
    """One key per run, `<status>.<workflow>.<run>`."""

    def __init__(
        self, transport: Transport, names: Names, groups_pay: Callable[[], bool] = lambda: False
    ) -> None:
        self._transport = transport
        self._names = names
        self._groups_pay = groups_pay
        self._decoder = msgspec.json.Decoder(IndexValue)
        self._batch: _Batch | None = None

    async def write(
        self,
        status: RunStatus,
        workflow: str,
        run: str,
        value: IndexValue,
        *,
        previous: RunStatus | None,
        known: bool,
        ttl: float | None = None,
    ) -> None:
        """Moves a run to `status`.

        `known`: `previous` is where it was (None: nowhere); otherwise all others are removed.
        """
        subject = self._names.index(status, workflow, run)
        if not known:
            await self._transport.purge(self._names.index_stream, self._names.index("*", workflow, run))
        elif previous is not None and previous is not status:
            await self._transport.purge(self._names.index_stream, self._names.index(previous, workflow, run))
        await self._store(Write(subject, encode(value), ttl=ttl))

    async def _store(self, row: Write) -> None:
        """Rows of one moment travel together: whoever comes first waits for the others, and sends them all."""
        batch = self._batch
        if batch is not None and len(batch.rows) < ROWS_MAX:
            batch.rows.append(row)
            await batch.ended.wait()
            if not batch.stored:
                raise OutcomeUnknown(row.subject, "the write that it travelled with was not answered")
            return
        batch = self._batch = _Batch(row)
        try:
            await asyncio.sleep(GATHER_SECONDS)
            self._close(batch)
            await self._send(batch.rows)
            batch.stored = True
        finally:
            self._close(batch)
            batch.ended.set()

    async def _send(self, rows: Sequence[Write]) -> None:
        if self._groups_pay() and len(rows) > 1:
            # A server that syncs each message does so once for all of them.
            with contextlib.suppress(Refused):
                await self._transport.append_group(rows)
                return
        await self._transport.append_all(rows)

    def _close(self, batch: _Batch) -> None:
        if self._batch is batch:
            self._batch = None

    async def remove(self, row: IndexRow) -> None:
        await self._transport.purge(
            self._names.index_stream, self._names.index(row.status, row.workflow, row.run)
        )

    async def page(
        self,
        *,
        status: RunStatus | None = None,
        workflow: str | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> Sequence[IndexRow]:
        """Rows in the order in which runs came to their status, after position `after`."""
        prefix = f"$KV.{self._names.index_bucket}."
        rows_only = f"{prefix}{status or '*'}.{escape_token(workflow) if workflow else '*'}.*"
        subject = rows_only if status or workflow else f"{prefix}>"
        page = await self._read(subject, after, limit)
        if any(stored.subject.count(".") != rows_only.count(".") for stored in page):
            # Somebody else's keys are among them: without them, though the server has to count.
            page = await self._read(rows_only, after, limit)
        rows: list[IndexRow] = []
        for stored in page:
            found, name, run = stored.subject.split(".")[-3:]
            try:
                value = self._decoder.decode(stored.data)
            except msgspec.DecodeError as error:
                raise DecodeFailed(f"index row {stored.subject}", str(error)) from error
            rows.append(IndexRow(stored.sequence, run, unescape_token(name), RunStatus(found), value))
        return rows

    async def _read(self, subject: str, after: int, limit: int) -> Sequence[Stored]:
        return await self._transport.read(
            self._names.index_stream, subject, after=after, limit=limit, direct=True
        )
