"""Journals: append by expected sequence, read from the leader, tell one's own entry from another's."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from ..errors import DecodeFailed, JetloomError
from ..messages import (
    H_NONCE,
    H_VERSION,
    VERSION,
    Entry,
    Names,
    Record,
    Snapshot,
    decode_entry,
    decode_records,
)
from ..transport import Stored, Transport, Write
from ._blobs import BlobStore
from ._group import GroupCommit, Grouping

PAGE = 256
READS_MAX = 8
"""Times that a reader starts over because a rollup passed under it, before it gives up: each needs a new snapshot."""


class NewerVersion(JetloomError):
    """The journal was written by a newer jetloom: a newer engine has to take it."""

    code = "journal.newer_version"


class Line(NamedTuple):
    """One journal message, with its records at hand even when they stand in a blob."""

    sequence: int
    nonce: str
    entry: Entry
    records: tuple[Record, ...]
    data: bytes

    @property
    def size(self) -> int:
        """Bytes, those in a blob too."""
        return self.entry.blob.size if self.entry.blob is not None else len(self.data)

    @property
    def snapshot(self) -> Snapshot | None:
        first = self.records[0] if self.records else None
        return first if isinstance(first, Snapshot) else None


class JournalStore:
    """The journals of one namespace."""

    def __init__(
        self, transport: Transport, names: Names, blobs: BlobStore, *, grouping: Grouping = "auto"
    ) -> None:
        self._transport = transport
        self._names = names
        self._blobs = blobs
        self._groups = [GroupCommit(transport, grouping) for _ in range(names.shards)]

    async def tail(self, run: str) -> int:
        """Sequence of the leader's last entry; 0 when there is no journal."""
        stored = await self._transport.last(self._stream(run), self._names.journal(run))
        return stored.sequence if stored is not None else 0

    async def last(self, run: str) -> Line | None:
        """The leader's last entry: all of the journal once the run has ended."""
        stored = await self._transport.last(self._stream(run), self._names.journal(run))
        return await self._line(stored) if stored is not None else None

    async def read(self, run: str, *, after: int = 0) -> Sequence[Line]:
        """The leader's entries after sequence `after`, in order.

        From 0 they start with n = 1 or a snapshot, without gaps, whatever rollups pass meanwhile.
        """
        for _ in range(READS_MAX):
            lines: list[Line] = []
            position = after
            while True:
                page = await self._transport.read(
                    self._stream(run), self._names.journal(run), after=position, limit=PAGE
                )
                for stored in page:
                    lines.append(await self._line(stored))
                if len(page) < PAGE:
                    break
                position = page[-1].sequence
            if _contiguous(lines, whole=after == 0):
                return lines
        raise DecodeFailed(f"the journal of run {run}", "entries are missing")

    def append(
        self,
        run: str,
        data: bytes,
        *,
        expected: int,
        nonce: str,
        rollup: bool = False,
        ttl: float | None = None,
    ) -> Awaitable[int]:
        """Its sequence. Raises `ConditionFailed`, `OutcomeUnknown`, `Refused`, `PayloadTooLarge`."""
        headers = {H_NONCE: nonce, H_VERSION: VERSION}
        write = Write(self._names.journal(run), data, headers, ttl, expected, rollup)
        return self._groups[self._names.shard(run)].append(write)

    async def stop(self) -> None:
        """For who appends: nothing of it is under way afterwards."""
        for group in self._groups:
            await group.stop()

    @property
    def groups_pay(self) -> bool:
        """Whether appends share atomic batches, because this server is faster with them."""
        return any(group.pays for group in self._groups)

    async def _line(self, stored: Stored) -> Line:
        if stored.headers.get(H_VERSION, VERSION) != VERSION:
            raise NewerVersion(
                f"{stored.subject} has format {stored.headers[H_VERSION]}, this jetloom reads {VERSION}"
            )
        try:
            entry = decode_entry(stored.data)
            records = entry.records
            if entry.blob is not None:
                records = decode_records(await self._blobs.get(entry.blob))
        except msgspec.DecodeError as error:
            raise DecodeFailed(f"entry {stored.sequence} on {stored.subject}", str(error)) from error
        return Line(stored.sequence, stored.headers.get(H_NONCE, ""), entry, records, stored.data)

    def _stream(self, run: str) -> str:
        return self._names.runs_stream(self._names.shard(run))


def _contiguous(lines: Sequence[Line], *, whole: bool) -> bool:
    if not lines:
        return True
    if whole and lines[0].entry.n != 1 and lines[0].snapshot is None:
        return False
    return all(
        second.entry.n == first.entry.n + 1 or second.snapshot is not None
        for first, second in pairwise(lines)
    )
