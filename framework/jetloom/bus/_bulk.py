"""Publishing many events at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator

import msgspec

from ..errors import JetloomError

IN_FLIGHT = 256
"""Events without an answer at once: enough to keep a connection busy, few enough to hold in memory."""


class NewEvent(msgspec.Struct, frozen=True):
    """An event to publish. `ttl` in seconds, at least 1; the rest as `Bus.publish` has it."""

    type: str
    payload: object = None
    id: str | None = None
    correlation: str | None = None
    ttl: float | None = None


class PublishFailure(msgspec.Struct, frozen=True):
    """One event that was not stored, or of which nobody can say. `index` counts the items from 0; `id` is its own,
    empty where it had none and none was made."""

    index: int
    id: str
    error: Exception


class Published(msgspec.Struct, frozen=True):
    """What became of the items: `stored` + `len(failures)` is their number."""

    stored: int
    failures: list[PublishFailure] = []

    @property
    def complete(self) -> bool:
        return not self.failures


async def publish_all(
    items: Iterable[NewEvent] | AsyncIterable[NewEvent],
    publish: Callable[[NewEvent], Awaitable[int]],
    in_flight: int,
) -> Published:
    """Publishes item by item, `in_flight` at once. Reads no further ahead than that. An error of the iterator itself is
    raised when what was sent is answered."""
    source = _Source(items)
    stored = 0
    failures: list[PublishFailure] = []

    async def work() -> None:
        nonlocal stored
        while (found := await source.next()) is not None:
            index, item = found
            try:
                await publish(item)
            except (JetloomError, TypeError, ValueError, OverflowError) as error:
                # TypeError and its like: a payload that has no JSON form.
                failures.append(PublishFailure(index, item.id or "", error))
            else:
                stored += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(max(1, in_flight)):
            group.create_task(work(), name="publish")
    if source.error is not None:
        raise source.error
    return Published(stored, sorted(failures, key=_by_index))


class _Source:
    """Items with their index, to many readers."""

    def __init__(self, items: Iterable[NewEvent] | AsyncIterable[NewEvent]) -> None:
        self._later: AsyncIterator[NewEvent] | None = None
        self._now: Iterator[NewEvent] | None = None
        if isinstance(items, AsyncIterable):
            self._later = aiter(items)
        else:
            self._now = iter(items)
        self._turn = asyncio.Lock()
        self._count = 0
        self._ended = False
        self.error: Exception | None = None
        """What the iterator raised; it ended there."""

    async def next(self) -> tuple[int, NewEvent] | None:
        if self._ended:
            return None
        try:
            if self._now is not None:
                return self._numbered(next(self._now, None))
            async with self._turn:
                if self._ended or self._later is None:
                    return None
                return self._numbered(await anext(self._later, None))
        except Exception as error:  # the caller's code: raised again when what was sent is answered
            self._ended, self.error = True, error
            return None

    def _numbered(self, item: NewEvent | None) -> tuple[int, NewEvent] | None:
        if item is None:
            self._ended = True
            return None
        self._count += 1
        return self._count - 1, item


def _by_index(failure: PublishFailure) -> int:
    return failure.index
