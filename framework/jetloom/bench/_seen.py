"""What a handler has seen, whatever library called it."""

from __future__ import annotations

import asyncio
import contextlib

from ._load import Figures, Given, figures_of, now

QUIET_SECONDS = 30.0
"""How long handled events may stay below what was published before the workload fails."""

STREAM = "FASTSTREAM"
SUBJECT = "faststream.things"
ECHO = "faststream.echo"

TEXT = "x" * 60
"""With a number and a time it makes a payload of about 100 bytes."""


class Seen:
    """Counts events, remembers which, and how old each was when its handler began."""

    def __init__(self) -> None:
        self._numbers: set[int] = set()
        self._count = 0
        self._first = 0.0
        self._last = 0.0
        self._ages: list[float] = []
        self._moved = asyncio.Event()

    def note(self, number: int, at: float) -> None:
        moment = now()
        if not self._count:
            self._first = moment
        self._count += 1
        self._last = moment
        self._numbers.add(number)
        self._ages.append(moment - at)
        self._moved.set()

    def reset(self) -> None:
        self._numbers.clear()
        self._ages.clear()
        self._count = 0

    async def until(self, given: Given) -> Figures:
        """When `count` different events were seen: how long from `at` (0: the first) to the last, and their ages."""
        deadline = now() + QUIET_SECONDS
        while len(self._numbers) < given.count and now() < deadline:
            self._moved.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await self._moved.wait()
        seconds = self._last - (given.at or self._first)
        found = figures_of(self._ages, seconds, different=len(self._numbers), calls=self._count)
        self.reset()
        return found
