"""Beats from a thread and connection of its own: a body that computes for minutes is not taken for dead."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine

from ._connection import Link
from ._port import Beater

logger = logging.getLogger("jetloom.transport")

type Opener = Callable[[], Awaitable[Beater]]
type MakeLink = Callable[[], Coroutine[None, None, Link]]

LOOK = 0.25
START_SECONDS = 10.0


class ThreadBeater:
    """Holds ack subjects; each is beaten for when its time has come."""

    def __init__(self, make: MakeLink) -> None:
        self._make = make
        self._held: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._ready: asyncio.Future[None] | None = None
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Returns when the second connection stands."""
        loop = asyncio.get_running_loop()
        self._ready = loop.create_future()
        self._thread = threading.Thread(
            target=self._main, args=(loop, self._ready), name="beater", daemon=True
        )
        self._thread.start()
        async with asyncio.timeout(START_SECONDS):
            await self._ready

    def hold(self, ack_subject: str, every: float) -> None:
        with self._lock:
            self._held[ack_subject] = (every, 0.0)

    def drop(self, ack_subject: str) -> None:
        with self._lock:
            self._held.pop(ack_subject, None)

    async def stop(self) -> None:
        self._stopping.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.to_thread(thread.join, START_SECONDS)

    # -- in the thread
    def _main(self, owner: asyncio.AbstractEventLoop, ready: asyncio.Future[None]) -> None:
        def tell(error: BaseException | None) -> None:
            if not ready.done():
                if error is None:
                    ready.set_result(None)
                else:
                    ready.set_exception(error)

        try:
            asyncio.run(self._beat(lambda: owner.call_soon_threadsafe(tell, None)))
        except Exception as error:
            # The thread's supervisor: whoever waits for the start hears of it, later it is logged.
            logger.exception("the beater ended")
            owner.call_soon_threadsafe(tell, error)

    async def _beat(self, ready: Callable[[], object]) -> None:
        link = await self._make()
        loop = asyncio.get_running_loop()
        ready()
        try:
            while not self._stopping.is_set():
                await asyncio.sleep(LOOK)
                if link.is_connected:
                    for subject in self._due(loop.time()):
                        link.send(subject, "", b"", b"+WPI")
        finally:
            await link.close()

    def _due(self, now: float) -> list[str]:
        due: list[str] = []
        with self._lock:
            for subject, (every, last) in self._held.items():
                if last == 0.0:
                    self._held[subject] = (every, now)
                elif now - last >= every:
                    self._held[subject] = (every, now)
                    due.append(subject)
        return due
