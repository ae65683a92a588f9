"""The memory twin as a world uses it: idle hours pass quickly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from jetloom.clock import Clock
from jetloom.transport import MemoryServer


class _Pull(Protocol):
    expiry: float
    _capacity: Callable[[], int]
    _expected: int
    _requests: set[object]
    _stopping: bool


class _Request(Protocol):
    """A pull request of the twin."""

    pull: _Pull
    basis: float
    remaining: int
    unseen: int

    @property
    def open(self) -> bool: ...
    def end(self) -> None: ...


class WorldServer(MemoryServer):
    """Renews pull requests that found nothing where they stand, all of one expiry together.

    Otherwise the end of each is told to its client, which sends the next one at the same moment: what an idle world
    would do nine tenths of its time. A request may so end earlier than its expiry, never later. With a plan of faults
    nothing is shortened.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._open: dict[float, list[tuple[_Request, int, Callable[..., object]]]] = {}
        """By expiry: requests with what they asked for and what ends them."""

    def call_later(
        self, seconds: float, callback: Callable[..., object], *args: object
    ) -> asyncio.TimerHandle:
        request: object = getattr(callback, "__self__", None)
        # Known by what it has, as it is private to the twin: if that changes, hours only pass more slowly.
        if self.faults is None and request is not None and hasattr(request, "basis"):
            found = cast("_Request", request)
            group = self._open.get(seconds)
            if group is None:
                self._open[seconds] = group = []
                super().call_later(seconds, self._look, seconds)
            group.append((found, found.remaining, callback))
            # Nobody cancels it: a handle for the caller's sake.
            return asyncio.TimerHandle(0.0, callback, args, asyncio.get_running_loop())
        return super().call_later(seconds, callback, *args)

    def _look(self, expiry: float) -> None:
        now, kept = self.clock.monotonic(), list[tuple[_Request, int, Callable[..., object]]]()
        ended: list[Callable[..., object]] = []
        for each in self._open.pop(expiry):
            request, size, end = each
            if self.faults is None and _idle(request, size):
                request.basis = now
                kept.append(each)
            else:
                ended.append(end)
        if kept:
            self._open[expiry] = kept
            super().call_later(expiry, self._look, expiry)
        for end in ended:
            end()


def _idle(request: _Request, size: int) -> bool:
    """Whether the client would send the same request again."""
    pull = request.pull
    return (
        request.remaining == request.unseen == size
        and request.open
        and not pull._stopping  # pyright: ignore[reportPrivateUsage]
        and pull._capacity() == pull._expected  # pyright: ignore[reportPrivateUsage]
        and request in pull._requests  # pyright: ignore[reportPrivateUsage]
    )
