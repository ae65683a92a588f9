"""Waiting for a sign or a time, cheaply."""

from __future__ import annotations

import asyncio


class Wake:
    """What a loop waits for: that somebody says that something changed, or that time has passed.

    One timer and one future: an `asyncio.Event` under an `asyncio.timeout` costs several times as much, at every
    wait of every run.
    """

    __slots__ = ("_future", "_set")

    def __init__(self) -> None:
        self._set = False
        self._future: asyncio.Future[None] | None = None

    def set(self) -> None:
        self._set = True
        if self._future is not None:
            _end(self._future)

    def clear(self) -> None:
        self._set = False

    async def wait(self, seconds: float) -> bool:
        """Until it is set, at most so many seconds; whether it is. One waits at a time."""
        if self._set:
            return True
        loop = asyncio.get_running_loop()
        self._future = loop.create_future()
        timer = loop.call_later(seconds, _end, self._future)
        try:
            await self._future
        finally:
            timer.cancel()
            self._future = None
        return self._set


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
