"""How late the event loop runs what is due: the sign of code that blocks it."""

from __future__ import annotations

import asyncio

from ._metrics import Metrics

LAG_SECONDS = 0.25
"""Between two looks; a block shorter than this may fall between them."""


class LoopLag:
    """Measures the loop's lateness; `run` loops for ever, `run_once` is one look."""

    def __init__(self, metrics: Metrics, *, interval: float = LAG_SECONDS) -> None:
        self._lateness = metrics.histogram("jetloom_event_loop_lag_seconds")
        self._interval = interval
        self.last = 0.0

    async def run(self) -> None:
        while True:
            await self.run_once()

    async def run_once(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + self._interval
        await asyncio.sleep(self._interval)
        self.last = max(0.0, loop.time() - due)
        self._lateness.observe(self.last)
