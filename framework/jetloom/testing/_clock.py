"""Virtual time: an event loop that never sleeps, and processes in it that can be frozen and killed.

A process is a name in a context variable: every callback, task step and timer that was made under it belongs to it.
A frozen process' callbacks wait and run late, as after SIGSTOP; a killed one's never run again, neither its `except`
nor its `finally`, as after SIGKILL.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections import deque
from contextlib import suppress
from contextvars import ContextVar
from heapq import heapify, heappop, heappush
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from contextvars import Context

PROCESS: ContextVar[str] = ContextVar("jetloom_process", default="")
"""The simulated process that the code runs in; empty: the universe itself (the driver, the server)."""

EPOCH = 1_767_225_600.0
"""Virtual time starts at 2026-01-01T00:00:00Z."""

STILL_MAX = 200_000
"""Callbacks without time moving on; above this something waits by spinning."""

_CANCELLED_MIN = 256
"""Cancelled timers are swept when there are more than this many and they are the half."""

_CLOSES_MAX = 8
"""How often a killed coroutine is closed: each `await` in a `finally` takes one more."""

_log = logging.getLogger(__name__)


class Deadlock(RuntimeError):
    """Everybody waits and no timer is set."""


class Livelock(RuntimeError):
    """Callbacks run and run, and time stands still; or virtual time passed its limit."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop on virtual time: when nothing is ready, time jumps to the next timer.

    With a `seed`, callbacks of different processes that are ready at the same moment run in an order drawn from it;
    within a process order is kept. Threads don't exist: `run_in_executor` runs the function at once.
    """

    def __init__(self, seed: int | None = None, *, limit: float = float("inf")) -> None:
        super().__init__()
        self.limit = limit
        """Virtual seconds after which `Livelock` is raised."""
        self.turns = 0
        """Callbacks run so far."""
        self._now = 0.0
        self._queue: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timer_count = 0
        self._cancelled = 0
        self._random = None if seed is None else Random(seed)
        self._frozen: dict[str, list[asyncio.Handle]] = {}
        self._killed: set[str] = set()
        self._graves: list[asyncio.Task[Any]] = []
        self._halt = False
        self._over = False
        self._still = 0
        self._idle: deque[asyncio.Future[None]] = deque()

    # -- processes

    def freeze(self, process: str) -> None:
        """Nothing of the process runs until `thaw`; what falls due waits."""
        self._frozen.setdefault(process, [])

    def thaw(self, process: str) -> None:
        """What fell due meanwhile runs now, in its order."""
        self._queue.extend(self._frozen.pop(process, ()))

    def kill(self, process: str) -> None:
        """Nothing of the process ever runs again. Called from within it, the caller must not go on: await `never()`."""
        self._killed.add(process)
        self._frozen.pop(process, None)
        for task in asyncio.all_tasks(self):
            if task.get_context().get(PROCESS) == process:
                # Kept, so that the garbage collector does not close the coroutine, which would run its `finally`.
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                self._graves.append(task)

    def alive(self, process: str) -> bool:
        return process not in self._killed

    def frozen(self, process: str) -> bool:
        return process in self._frozen

    async def never(self) -> None:
        """Waits for ever."""
        await self.create_future()

    async def idle(self) -> None:
        """Returns when nothing is left to run at this moment: everybody waits for time to pass, or for ever.

        What several tasks do that wait for this, each does after another.
        """
        future = self.create_future()
        self._idle.append(future)
        await future

    def tasks_of(self, process: str) -> list[asyncio.Task[Any]]:
        return [task for task in asyncio.all_tasks(self) if task.get_context().get(PROCESS) == process]

    # -- what asyncio asks

    def time(self) -> float:
        return self._now

    def call_soon[*Ts](
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self._over:
            self._queue.append(handle)
        return handle

    def call_soon_threadsafe[*Ts](
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_at[*Ts](
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        if not self._over:
            self._timer_count += 1
            heappush(self._timers, (when, self._timer_count, timer))
        return timer

    def call_later[*Ts](
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self._cancelled += 1

    def run_in_executor(
        self, executor: object, func: Callable[..., Any], *args: object
    ) -> asyncio.Future[Any]:  # type: ignore[override]
        """Runs the function at once: threads would make the order of things real."""
        future = self.create_future()
        try:
            result = func(*args)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        return future

    def stop(self) -> None:
        self._halt = True

    def run_forever(self) -> None:
        if self.is_running():
            raise RuntimeError("this loop is running")
        self._thread_id = -1
        asyncio._set_running_loop(self)
        self._halt = False
        try:
            while not self._halt:
                self._turn()
        finally:
            self._thread_id = None
            asyncio._set_running_loop(None)

    def _turn(self) -> None:
        queue = self._queue
        if not queue and not self._release():
            self._jump()
        count = len(queue)
        self.turns += count
        self._still += count
        if self._still > STILL_MAX:
            raise Livelock(f"{STILL_MAX} callbacks without time moving on: {self._running()}")
        if count > 1 and self._random is not None:
            batch: Iterable[asyncio.Handle] = self._mixed(count)
        else:
            batch = [queue.popleft() for _ in range(count)]
        for handle in batch:
            if handle._cancelled:
                continue
            if self._frozen or self._killed:
                process = handle._context.get(PROCESS, "")
                if process in self._killed:
                    continue
                if process in self._frozen:
                    self._frozen[process].append(handle)
                    continue
            try:
                handle._context.run(handle._callback, *handle._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.call_exception_handler(
                    {"message": f"exception in callback {handle!r}", "exception": error, "handle": handle}
                )

    def _release(self) -> bool:
        """Lets one who waits for `idle` go on, unless a timer is due at this very moment."""
        if not self._idle or any(when <= self._now for when, _, _ in self._timers[:1]):
            return False
        while self._idle:
            future = self._idle.popleft()
            if not future.done():
                future.set_result(None)
                return True
        return False

    def _mixed(self, count: int) -> list[asyncio.Handle]:
        queue, order = self._queue, self._random
        assert order is not None
        lanes: dict[str, deque[asyncio.Handle]] = {}
        labels: list[str] = []
        for _ in range(count):
            handle = queue.popleft()
            process = handle._context.get(PROCESS, "")
            labels.append(process)
            lane = lanes.get(process)
            if lane is None:
                lanes[process] = deque((handle,))
            else:
                lane.append(handle)
        if len(lanes) > 1:
            order.shuffle(labels)
        return [lanes[label].popleft() for label in labels]

    def _jump(self) -> None:
        timers = self._timers
        if self._cancelled > _CANCELLED_MIN and self._cancelled * 2 > len(timers):
            self._sweep()
            timers = self._timers
        while timers and timers[0][2]._cancelled:
            heappop(timers)
            self._cancelled -= 1
        if not timers:
            raise Deadlock(f"nothing is ready and no timer is set at {self._now:.3f} s: {self._running()}")
        when = timers[0][0]
        if when > self._now:
            self._now = when
            self._still = 0
        if when > self.limit:
            raise Livelock(f"virtual time passed its limit of {self.limit:g} s: {self._running()}")
        queue = self._queue
        while timers and timers[0][0] <= when:
            queue.append(heappop(timers)[2])

    def _sweep(self) -> None:
        self._timers = [entry for entry in self._timers if not entry[2]._cancelled]
        heapify(self._timers)
        self._cancelled = 0

    def _running(self) -> str:
        lines: list[str] = []
        for task in asyncio.all_tasks(self):
            process = task.get_context().get(PROCESS, "")
            if process not in self._killed:
                stack = task.get_stack(limit=1)
                place = f"{stack[-1].f_code.co_qualname}:{stack[-1].f_lineno}" if stack else "?"
                lines.append(f"{process or '-'}/{task.get_name()} at {place}")
        parked = {process: len(handles) for process, handles in self._frozen.items() if handles}
        return f"{'; '.join(sorted(lines)) or 'no task'}" + (f"; frozen: {parked}" if parked else "")

    # -- the end

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._over:
            super().call_exception_handler(context)

    def bury(self) -> None:
        """Ends the universe: every task that is left is closed, and nothing that it does on the way counts."""
        self._over = True
        self._queue.clear()
        self._timers.clear()
        self._frozen.clear()
        disabled = logging.root.manager.disable
        # What a dead process would log or warn of in its `finally` is no news.
        logging.disable(logging.CRITICAL)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for task in {*self._graves, *asyncio.all_tasks(self)}:
                    _close(task)
        finally:
            logging.disable(disabled)
        self._graves.clear()

    def close(self) -> None:
        if not self.is_closed():
            self.bury()
            super().close()

    def _write_to_self(self) -> None:
        """No thread ever wakes this loop."""

    def _process_events(self, event_list: object) -> None:
        """There are no sockets."""


def _close(task: asyncio.Task[Any]) -> None:
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coroutine = task.get_coro()
    for _ in range(_CLOSES_MAX):
        try:
            if coroutine is not None:
                coroutine.close()  # type: ignore[union-attr]
            return
        except (Exception, asyncio.CancelledError):
            # A killed process' last words reach nobody: what its `finally` raises, or waits for, ends with it.
            continue


class VirtualClock:
    """The loop's time as a `Clock`, with tokens and random numbers from a seed."""

    def __init__(self, loop: VirtualLoop, seed: int = 0) -> None:
        self._loop = loop
        self._random = Random(seed)

    def now(self) -> float:
        return EPOCH + self._loop.time()

    def monotonic(self) -> float:
        return self._loop.time()

    def token(self) -> str:
        return f"{self._random.getrandbits(128):032x}"

    def random(self) -> float:
        return self._random.random()


def run_virtual[T](
    main: Callable[[], Coroutine[Any, Any, T]], seed: int | None = None, *, limit: float = float("inf")
) -> T:
    """Runs `main()` on a `VirtualLoop` and returns what it returns.

    Tasks that it leaves behind are cancelled and waited for, as by `asyncio.run`, but those of killed processes,
    which never hear of it. Raises `Deadlock` and `Livelock`.
    """
    loop = VirtualLoop(seed, limit=limit)
    try:
        result = loop.run_until_complete(main())
        _cancel_left(loop)
        return result
    finally:
        loop.close()


def _cancel_left(loop: VirtualLoop) -> None:
    for process in tuple(loop._frozen):  # pyright: ignore[reportPrivateUsage]
        loop.kill(process)
    left = [task for task in asyncio.all_tasks(loop) if loop.alive(task.get_context().get(PROCESS, ""))]
    for task in left:
        task.cancel()
    if left:
        with suppress(Deadlock):
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
