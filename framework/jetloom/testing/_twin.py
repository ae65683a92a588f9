"""The memory twin as a world uses it: idle hours pass quickly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

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
    """Renews a pull request that found nothing where it stands.

    Otherwise its end is told to the client, which sends the next one, at the same moment: what an idle world would do
    nine tenths of its time. With a plan of faults nothing is shortened.
    """

    def call_later(
        self, seconds: float, callback: Callable[..., object], *args: object
    ) -> asyncio.TimerHandle:
        request: object = getattr(callback, "__self__", None)
        # Known by what it has, as it is private to the twin: if that changes, hours only pass more slowly.
        if request is not None and hasattr(request, "pull") and hasattr(request, "basis"):
            found = cast("_Request", request)
            return super().call_later(seconds, self._renew_or_end, found, callback, found.remaining)
        return super().call_later(seconds, callback, *args)

    def _renew_or_end(self, request: _Request, end: Callable[..., object], size: int) -> None:
        pull = request.pull
        if (
            self.faults is None
            and request.open
            and request in pull._requests  # pyright: ignore[reportPrivateUsage]
            and not pull._stopping  # pyright: ignore[reportPrivateUsage]
            and request.remaining == request.unseen == size
            and pull._capacity() == pull._expected  # pyright: ignore[reportPrivateUsage]
        ):
            request.basis = self.clock.monotonic()
            super().call_later(pull.expiry, self._renew_or_end, request, end, size)
        else:
            end()
