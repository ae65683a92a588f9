"""Locks: one holder at a time while it renews, and a fence that only grows.

States of a lock: free, held (a message in the bucket), expired (its TTL has passed: free). A holder renews each third
of the ttl; it counts its lock as lost a margin before the server could give it to another, by its own monotonic clock
since before the last renewal was sent. So two processes never both *believe* that they hold a lock, unless one of them
stood still between asking and acting: what protects a write from that is the fence. Not guaranteed: an order among
the waiters of several processes, and anything at all where the bucket itself is removed.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import Literal

from ..clock import Clock
from ..errors import LockHeld, LockLost, Unavailable
from ..lifecycle import TaskSet
from ..messages import Names
from ..telemetry import Metrics, get_logger
from ..transport import StreamAsset, Transport
from ..types import Duration, seconds
from ._lease import RELEASE_SECONDS, RETRY, Lease, LockStore, check_lock_name, check_ttl
from ._lock_queue import Contenders, LockQueue

_logger = get_logger("locks")

TTL_SECONDS = 30.0
"""Of a lock by default: how long a crashed holder blocks the others. Above a server's restart and a leader's change."""

type LossReason = Literal["taken", "unproven", "stopped", "ended"]

_LOSSES: dict[LossReason, str] = {
    "taken": "the bucket has another holder, or none",
    "unproven": "no renewal succeeded in time: the server was away, or this process stood still",
    "stopped": "this process is stopping",
    "ended": "its block has ended",
}

_holding: ContextVar[tuple[_Hold, ...]] = ContextVar("jetloom_locks", default=())


class Lock:
    """A lock that is held. `fence` is above those of all earlier holders of the name."""

    def __init__(self, name: str, lease: Lease, clock: Clock) -> None:
        self.name = name
        self.fence = lease.fence
        self._lease = lease
        self._clock = clock
        self._reason: LossReason | None = None

    @property
    def lost(self) -> bool:
        """Whether another one may hold it. False says what was true just now: only a fence protects a write."""
        return self._reason is not None or self._clock.monotonic() >= self._lease.deadline

    def check(self) -> None:
        """Raises `LockLost` when the lock can't be proven; before a step that should not happen twice."""
        if self.lost:
            raise self.loss()

    def loss(self) -> LockLost:
        """The error that says why."""
        return LockLost(self.name, self.fence, _LOSSES[self._reason or "unproven"])

    def lose(self, reason: LossReason) -> None:
        """Marks it as lost, once. Jetloom's own to call."""
        self._reason = self._reason or reason


class Locks:
    """The locks of a namespace, as one process takes them.

    `owner` is what others read when they wait: a module's id and where it runs. With an `asset` the bucket is made,
    or verified, at the first use.
    """

    def __init__(
        self,
        transport: Transport,
        names: Names,
        clock: Clock,
        metrics: Metrics | None = None,
        *,
        owner: str = "",
        asset: StreamAsset | None = None,
    ) -> None:
        self.clock = clock
        self.store = LockStore(transport, names, clock, owner)
        self.tasks = TaskSet("locks", metrics)
        self._contenders = Contenders(transport, names, clock, self.store.process, asset)
        self._metrics = metrics
        self._queues: dict[str, LockQueue] = {}
        self._holds: set[_Hold] = set()
        self._stopped = False

    @property
    def refused(self) -> int:
        """How many writes of this object met another one's."""
        return self._contenders.refused

    def hold(
        self, name: str, *, ttl: Duration = TTL_SECONDS, timeout: Duration | None = None
    ) -> AbstractAsyncContextManager[Lock]:
        """Waits for the lock, holds it while the block runs, and frees it.

        It is renewed in the background each third of `ttl` (1 s to a day); a crashed holder blocks the others for
        `ttl`. When it can't be proven any more, the block is cancelled and `LockLost` is raised from it. Raises
        `LockTimeout` when it was not free within `timeout` (0: one try; None: waits for ever), `LockHeld` when this
        task has it already. Not kept through a restart of the process.
        """
        patience = None if timeout is None else max(0.0, seconds(timeout))
        return _Hold(self, check_lock_name(name), check_ttl(seconds(ttl)), patience)

    async def stop(self) -> None:
        """Ends every waiting with `Unavailable`, and every block with `LockLost`. May be called twice."""
        self._stopped = True
        for queue in list(self._queues.values()):
            queue.fail(Unavailable("locks: this process is stopping"))
        for hold in list(self._holds):
            hold.lose("stopped")
        deadline = self.clock.monotonic() + RELEASE_SECONDS
        while self._holds and self.clock.monotonic() < deadline:
            await asyncio.sleep(RETRY)
        await self.tasks.stop()
        await self._contenders.stop()

    # -- for holds and queues
    async def acquire(self, name: str, ttl: float, timeout: float | None) -> Lease:
        """Raises `LockTimeout`, and `Refused` where there is no bucket."""
        if self._stopped:
            raise Unavailable("locks: this process is stopping")
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = LockQueue(name, self.store, self._contenders, self.tasks)
            self.tasks.spawn(self._pump(queue))
        began = self.clock.monotonic()
        lease = await queue.wait(ttl, timeout)
        if self._metrics is not None:
            self._metrics.histogram("jetloom_lock_wait_seconds").observe(self.clock.monotonic() - began)
        return lease

    async def _pump(self, queue: LockQueue) -> None:
        try:
            await queue.run()
        finally:
            # Without an await since the last look at who waits: nobody is left behind.
            del self._queues[queue.name]
            await queue.close()

    def entered(self, hold: _Hold) -> None:
        self._holds.add(hold)

    def left(self, hold: _Hold, lasted: float, reason: LossReason | None) -> None:
        self._holds.discard(hold)
        if self._metrics is None:
            return
        self._metrics.histogram("jetloom_lock_held_seconds").observe(lasted)
        if reason is not None:
            self._metrics.counter("jetloom_locks_lost_total", reason=reason).inc()


class _Hold(AbstractAsyncContextManager[Lock]):
    """One block that holds a lock."""

    def __init__(self, locks: Locks, name: str, ttl: float, timeout: float | None) -> None:
        self.subject = locks.store.names.lock(name)
        self._locks = locks
        self._name = name
        self._ttl = ttl
        self._timeout = timeout
        self._task: asyncio.Task[object] | None = None
        self._lock: Lock | None = None
        self._lease: Lease | None = None
        self._began = 0.0
        self._active = False
        self._reason: LossReason | None = None
        self._cancelling: int | None = None
        """How many cancellations the body had before ours; None: we sent none."""
        self._timer: asyncio.TimerHandle | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Lock:
        if self._task is not None:
            raise LockHeld(self._name, self._lease.fence if self._lease is not None else 0)
        task = asyncio.current_task()
        for other in _holding.get():
            if other.subject == self.subject and other.lock is not None and other._task is task:
                raise LockHeld(self._name, other.lock.fence)
        self._task = task
        locks, clock = self._locks, self._locks.clock
        try:
            self._lease = lease = await locks.acquire(self._name, self._ttl, self._timeout)
        except BaseException:
            self._task = None
            raise
        self._began = clock.monotonic()
        self._lock = lock = Lock(self._name, lease, clock)
        self._active = True
        locks.entered(self)
        _holding.set((*_holding.get(), self))
        loop = asyncio.get_running_loop()
        # Most blocks end before their first renewal: no task for these.
        self._timer = loop.call_later(
            max(0.0, lease.proven + lease.ttl / 3 - self._began), self._start_keeper
        )
        return lock

    @property
    def lock(self) -> Lock | None:
        """The lock while the block runs."""
        return self._lock if self._active else None

    def lose(self, reason: LossReason) -> None:
        """The lock is gone: tells the block, by cancelling its task."""
        if not self._active or self._reason is not None or self._lock is None or self._task is None:
            return
        self._reason = reason
        self._lock.lose(reason)
        _logger.warning("lock lost", extra={"lock": self._name, "fence": self._lock.fence, "reason": reason})
        self._cancelling = self._task.cancelling()
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lock, lease, task, locks = self._lock, self._lease, self._task, self._locks
        if lock is None or lease is None or task is None:
            return
        if self._reason is None and lock.lost:
            # The block ended before anything could tell it, as after a freeze.
            self._reason = "unproven"
        reason = self._reason
        ours = self._end(task)
        if isinstance(error, GeneratorExit):
            # The loop is gone and the coroutine is being closed: nothing can be sent any more, the lock expires.
            return
        locks.left(self, locks.clock.monotonic() - self._began, reason)
        lock.lose(reason or "ended")
        if reason != "taken":
            freeing = locks.tasks.spawn(self._free(lease))
            if reason is None:
                await asyncio.shield(freeing)
        if reason is not None and (error is None or (ours and isinstance(error, asyncio.CancelledError))):
            raise lock.loss() from error

    def _end(self, task: asyncio.Task[object]) -> bool:
        """Nothing tells the block any more; whether it was cancelled by us, and by nobody else."""
        ours = self._cancelling is not None and task.uncancel() <= self._cancelling
        if self._timer is not None:
            self._timer.cancel()
        if self._keeper is not None:
            self._keeper.cancel()
        _holding.set(tuple(other for other in _holding.get() if other is not self))
        # The same object may be entered again.
        self._active, self._task, self._reason, self._cancelling, self._keeper = False, None, None, None, None
        return ours

    async def _free(self, lease: Lease) -> None:
        if not await self._locks.store.release(lease):
            _logger.warning(
                "lock could not be freed; it expires", extra={"lock": self._name, "fence": lease.fence}
            )

    def _start_keeper(self) -> None:
        if self._active:
            self._keeper = self._locks.tasks.spawn(self._keep())

    async def _keep(self) -> None:
        """Renews until the block ends, and tells it when that can't be done in time."""
        lease, clock, store = self._lease, self._locks.clock, self._locks.store
        if lease is None:
            return
        while self._active:
            now = clock.monotonic()
            left, due = lease.deadline - now, lease.proven + lease.ttl / 3 - now
            if left <= 0:
                self.lose("unproven")
                return
            if due > 0:
                await asyncio.sleep(min(due, left))
                continue
            try:
                async with asyncio.timeout(left):
                    verdict = await store.renew(lease)
                    if verdict == "unknown":
                        await asyncio.sleep(RETRY * (1 + clock.random()))
            except TimeoutError:
                continue
            if verdict == "gone":
                self.lose("taken")
                return
