"""One start/stop shape for every long-lived thing, and the only place where tasks are made.

`Service` is the shape. `TaskSet` holds many short tasks of one kind (a message's handling each); a failure of one is
logged, counted, and the others go on. `Supervisor` holds a few named loops that should run until they are stopped: one
that fails or returns is started again after a growing pause, or, with `restart=None`, is fatal: `failed` is set and
whoever owns the process ends it. Nothing outlives `stop()`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable, Coroutine
from typing import Protocol

import msgspec

from .errors import InvariantBroken, invariant
from .telemetry import Metrics, get_logger

_logger = get_logger("lifecycle")

STOP_SECONDS = 10.0
"""How long cancelled tasks may take to end before they are named in the log and left; above any shielded clean-up."""


class Service(Protocol):
    """`start` returns when the thing is usable, `stop` when it is stopped. Both may be called twice."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class Restart(msgspec.Struct, frozen=True):
    """Pause before a restart: `initial` seconds, doubled each time up to `longest`; a run of `steady` resets it."""

    initial: float = 0.1
    longest: float = 10.0
    steady: float = 30.0


RESTART = Restart()


class TaskSet:
    """Short tasks of one kind. Names are constants of the code: they are a metric's label."""

    def __init__(self, name: str, metrics: Metrics | None = None) -> None:
        self.name = name
        self._metrics = metrics
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, work: Coroutine[object, object, None], *, eager: bool = False) -> asyncio.Task[None]:
        """Starts `work` now. After `stop()` it is refused.

        `eager`: it runs up to its first wait before this returns, and is over then when it waits for nothing.
        """
        if self._closed:
            work.close()
            raise InvariantBroken(f"{self.name}: a task was started after the stop")
        loop = asyncio.get_running_loop()
        if eager:
            task = asyncio.Task(work, loop=loop, name=self.name, eager_start=True)
            if task.done():
                if task.cancelled() or task.exception() is not None:
                    self._report(task)
                return task
        else:
            task = loop.create_task(work, name=self.name)
        self._tasks.add(task)
        self._idle.clear()
        task.add_done_callback(self._ended)
        return task

    async def join(self, timeout: float | None = None) -> bool:
        """Waits until no task is left; False when `timeout` seconds passed first."""
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self, grace: float = 0) -> int:
        """Lets tasks end for `grace` seconds, then cancels the rest; how many were cancelled."""
        self._closed = True
        if grace > 0:
            await self.join(grace)
        left = list(self._tasks)
        await _cancel(self.name, left)
        return len(left)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._idle.set()
        self._report(task)

    def _report(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _report(self.name, error, self._metrics)


class Supervisor:
    """Named loops that run until `stop()`."""

    def __init__(self, metrics: Metrics | None = None) -> None:
        self._metrics = metrics
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closed = False
        self.failed: BaseException | None = None
        """The error of the first task that was not to be restarted."""
        self._fatal = asyncio.Event()

    def run(
        self, name: str, loop: Callable[[], Awaitable[None]], *, restart: Restart | None = RESTART
    ) -> None:
        """Runs `loop` in the background, again and again; once with `restart=None`, where an error is fatal."""
        invariant(not self._closed, f"{name}: a task was started after the stop")
        invariant(name not in self._tasks, f"{name}: a task of that name runs already")
        task = asyncio.get_running_loop().create_task(self._supervise(name, loop, restart), name=name)
        self._tasks[name] = task
        task.add_done_callback(lambda _: self._tasks.pop(name, None))

    async def wait_failed(self) -> BaseException:
        """Returns the error of the first fatal task, when there is one."""
        await self._fatal.wait()
        if self.failed is None:
            raise InvariantBroken("fatal without an error")
        return self.failed

    async def end(self, name: str) -> None:
        """Cancels one task and waits for it; nothing when there is none of that name."""
        task = self._tasks.get(name)
        if task is not None:
            await _cancel(name, [task])

    async def stop(self) -> None:
        """Cancels all and waits for them. May be called twice."""
        self._closed = True
        await _cancel("supervisor", list(self._tasks.values()))

    async def _supervise(
        self, name: str, loop: Callable[[], Awaitable[None]], restart: Restart | None
    ) -> None:
        clock = asyncio.get_running_loop()
        pause = restart.initial if restart is not None else 0.0
        while True:
            began = clock.time()
            try:
                await loop()
            except Exception as error:  # the supervisor: logs, counts, decides
                _report(name, error, self._metrics)
                if restart is None:
                    self.failed = self.failed or error
                    self._fatal.set()
                    return
            if restart is None:
                return
            if clock.time() - began >= restart.steady:
                pause = restart.initial
            await asyncio.sleep(pause)
            pause = min(pause * 2, restart.longest)


def settle_memory() -> None:
    """Takes what is alive now out of the garbage collector's rounds, and makes the rounds rarer.

    For a process that has just started to serve: modules, definitions and tables stay until it ends, and each run makes
    hundreds of short-lived objects in no cycle. Left alone the collector takes a third of a busy engine's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _report(name: str, error: BaseException, metrics: Metrics | None) -> None:
    _logger.error("background task failed", extra={"task": name}, exc_info=error)
    if metrics is not None:
        metrics.counter("jetloom_task_failures_total", task=name).inc()


async def _cancel(name: str, tasks: list[asyncio.Task[None]]) -> None:
    me = asyncio.current_task()
    tasks = [task for task in tasks if task is not me and not task.done()]
    for task in tasks:
        task.cancel()
    if not tasks:
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STOP_SECONDS):
            # A task may swallow one cancellation (a library's defect): ask again each second.
            while pending := (await asyncio.wait(tasks, timeout=1))[1]:
                for task in pending:
                    task.cancel()
            return
    _logger.error("tasks did not end when cancelled", extra={"task": name, "count": len(tasks)})
