"""Locks: one holder at a time while it renews, and a fence that only grows.

Waiters of one name in one process stand in one queue (first come, first served), whose pump alone reads and writes.
While it waits it follows the lock's subject; a freed lock wakes the pump of each process, these draw a pause from a
window, and whoever sees another one's write before its own pause is over does not write at all. The window grows when
a write was refused and shrinks when one succeeded, so it fits the number of processes.

A process that takes the same lock again and again would always be faster than those that have to hear of it first.
So waiters say on a core subject that they wait; who hears it queues up like them for the next seconds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import Literal

from ..clock import Clock
from ..errors import ConditionFailed, JetloomError, LockHeld, LockLost, LockTimeout, Refused, Unavailable
from ..lifecycle import TaskSet
from ..messages import H_NONCE, Names
from ..telemetry import Metrics, get_logger
from ..transport import Incoming, Stored, StreamAsset, Subscription, Transport
from ..types import Duration, seconds
from ._lease import (
    RELEASE_SECONDS,
    RETRY,
    Lease,
    LockInfo,
    LockStore,
    check_lock_name,
    check_ttl,
    held,
    lock_info,
    passing,
)

_logger = get_logger("locks")

TTL_SECONDS = 30.0
"""Of a lock by default: how long a crashed holder blocks the others. Above a server's restart and a leader's change."""

WANTED_SECONDS = 3.0
"""How long a process queues up for a lock after it heard that others wait; they say it each second."""

LINGER_SECONDS = 3.0
"""How long a queue goes on following its lock after its last waiter has gone."""

LOOK_SECONDS = 2.0
"""At most between two reads of a held lock. What the follow tells comes at once; this is for what it could miss."""

EXPIRY_LOOK = 0.04
"""Between reads of a lock that should have expired: the server is up to a quarter of a second late."""

WINDOW_MIN = 0.001
WINDOW_MAX = 0.1
"""Of the pause before a write to a freed lock: at the least a round trip; at the most what nobody would mind."""

UNRESOLVED_MAX = 16
"""Writes without a verdict that a queue remembers; each is at least `RETRY` after the one before."""

WANTED_MAX = 4_096
"""Names that are remembered as wanted; the oldest go first, and lose fairness only."""

type LossReason = Literal["taken", "unproven", "stopped"]

_LOSSES: dict[LossReason, str] = {
    "taken": "the bucket has another holder, or none",
    "unproven": "no renewal succeeded in time: the server was away, or this process stood still",
    "stopped": "this process is stopping",
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
        self.names = names
        self.clock = clock
        self.transport = transport
        self.owner = owner or f"process {clock.token()[:8]}"
        self.store = LockStore(transport, names, clock, self.owner)
        self.tasks = TaskSet("locks", metrics)
        self.refused = 0
        """Writes of this object that met another one's."""
        self.taken = 0
        """Locks that this object has had."""
        self._metrics = metrics
        self._asset = asset
        self._queues: dict[str, _Queue] = {}
        self._holds: set[_Hold] = set()
        self._wanted: dict[str, float] = {}
        self._hints: Subscription | None = None
        self._getting_ready = asyncio.Lock()
        self._stopped = False

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
        if self._hints is not None:
            await self._hints.stop()
            self._hints = None

    # -- for holds and queues
    async def acquire(self, name: str, ttl: float, timeout: float | None) -> Lease:
        """Raises `LockTimeout`, and `Refused` where there is no bucket."""
        if self._stopped:
            raise Unavailable("locks: this process is stopping")
        subject = self.names.lock(name)
        queue = self._queues.get(subject)
        if queue is None:
            wanted = self.clock.monotonic() - self._wanted.get(name, float("-inf")) < WANTED_SECONDS
            queue = self._queues[subject] = _Queue(self, name, subject, contended=wanted)
            self.tasks.spawn(queue.run())
        began = self.clock.monotonic()
        lease = await queue.wait(ttl, timeout)
        self.taken += 1
        if self._metrics is not None:
            self._metrics.histogram("jetloom_lock_wait_seconds").observe(self.clock.monotonic() - began)
        return lease

    async def ready(self) -> None:
        """The bucket, and the subscription to what others wait for."""
        if self._hints is not None:
            return
        async with self._getting_ready:
            if self._hints is not None:
                return
            if self._asset is not None:
                await self.transport.ensure(self._asset)
            self._hints = await self.transport.subscribe(self.names.lock_wanted("*"), self._heard)

    def _heard(self, incoming: Incoming) -> None:
        name = self.names.lock_name(incoming.subject)
        self._wanted.pop(name, None)
        self._wanted[name] = self.clock.monotonic()
        if len(self._wanted) > WANTED_MAX:
            del self._wanted[next(iter(self._wanted))]

    def over(self, queue: _Queue) -> None:
        self._queues.pop(queue.subject, None)

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
        self.subject = locks.names.lock(name)
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
        lock, lease, locks = self._lock, self._lease, self._locks
        if lock is None or lease is None or self._task is None:
            return
        if self._reason is None and lock.lost:
            # The block ended before anything could tell it, as after a freeze.
            self._reason = "unproven"
        self._active = False
        _holding.set(tuple(other for other in _holding.get() if other is not self))
        if self._timer is not None:
            self._timer.cancel()
        if self._keeper is not None:
            self._keeper.cancel()
        ours = self._cancelling is not None and self._task.uncancel() <= self._cancelling
        locks.left(self, locks.clock.monotonic() - self._began, self._reason)
        if self._reason != "taken":
            freeing = locks.tasks.spawn(self._free(lease))
            if self._reason is None:
                await asyncio.shield(freeing)
        if self._reason is None:
            return
        if error is None or (ours and isinstance(error, asyncio.CancelledError)):
            lock.lose(self._reason)
            raise lock.loss() from error

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


class _Waiter:
    __slots__ = ("future", "once", "ttl")

    def __init__(self, ttl: float, once: bool) -> None:
        self.ttl = ttl
        self.once = once
        self.future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()


class _Queue:
    """Who waits for one lock in this process, and the pump that takes it for the first of them."""

    def __init__(self, locks: Locks, name: str, subject: str, *, contended: bool) -> None:
        self.name = name
        self.subject = subject
        self._locks = locks
        self._clock = locks.clock
        self._store = locks.store
        self._waiters: deque[_Waiter] = deque()
        self._wake = asyncio.Event()
        self._contended = contended
        self._follow: Subscription | None = None
        self._known = False
        self._stored: Stored | None = None
        self._newest = 0
        self._seen = 0.0
        self._window = WINDOW_MIN * 4
        self._told = float("-inf")
        self._unresolved: dict[str, tuple[float, float]] = {}
        """Writes without a verdict: nonce, and when and for which ttl it was sent."""

    # -- a waiter's side
    async def wait(self, ttl: float, timeout: float | None) -> Lease:
        waiter = _Waiter(ttl, once=timeout == 0)
        self._forget_gone()
        if waiter.once or not self._waiters:
            # The others' turns must not be disturbed: each would begin its pause anew.
            self._wake.set()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout or None):
                return await waiter.future
        except TimeoutError:
            if waiter.future.done() and not waiter.future.cancelled():
                return waiter.future.result()
            raise self.timed_out(timeout or 0.0) from None
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and not waiter.future.exception():
                # It came in the very moment in which its waiter went away.
                self._give_back(waiter.future.result())
            raise
        finally:
            waiter.future.cancel()

    def timed_out(self, waited: float) -> LockTimeout:
        info = self._info()
        if info is None:
            return LockTimeout(self.name, waited)
        return LockTimeout(self.name, waited, owner=info.owner, since=info.since, until=info.until)

    def fail(self, error: JetloomError) -> None:
        """Ends the waiting of everybody."""
        for waiter in self._waiters:
            if not waiter.future.done():
                waiter.future.set_exception(error)
        self._wake.set()

    # -- the pump
    async def run(self) -> None:
        pause = RETRY
        try:
            while await self._goes_on():
                try:
                    await self._turn()
                    pause = RETRY
                except JetloomError as error:
                    if not passing(error):
                        self.fail(error)
                        continue
                    self._known = False
                    await self._changed(pause * (1 + self._clock.random()))
                    pause = min(1.0, pause * 2)
        finally:
            self._locks.over(self)
            self.fail(Unavailable(f"lock {self.name!r}: nobody waits for it here any more"))
            if self._follow is not None:
                await self._follow.stop()

    async def _goes_on(self) -> bool:
        self._forget_gone()
        if self._waiters:
            return True
        if self._unresolved:
            await self._resolve()
            self._forget_gone()
        if self._contended and not self._waiters:
            await self._changed(LINGER_SECONDS)
            self._forget_gone()
        return bool(self._waiters)

    async def _turn(self) -> None:
        """One look at the state, and what follows from it."""
        await self._locks.ready()
        if self._contended:
            await self._watch()
        if not self._known:
            self._note(await self._store.read(self.subject))
        if self._adopt():
            return
        if held(self._stored):
            self._contended = True
            self._turn_away()
            await self._watch()
            if not await self._changed(self._pause()):
                self._known = False
            return
        if self._contended and await self._changed(self._window * self._clock.random()):
            # Somebody was faster, or somebody new has come.
            return
        await self._take()

    async def _take(self) -> None:
        self._forget_gone()
        if not self._waiters:
            return
        first, nonce = self._waiters[0], self._clock.token()
        if len(self._unresolved) >= UNRESOLVED_MAX:
            del self._unresolved[next(iter(self._unresolved))]
        self._unresolved[nonce] = (self._clock.monotonic(), first.ttl)
        expected = self._stored.sequence if self._stored is not None else 0
        self._known = False
        try:
            lease = await self._store.take(self.subject, first.ttl, expected, nonce)
        except ConditionFailed as error:
            del self._unresolved[nonce]
            self._locks.refused += 1
            if error.actual_sequence == 0:
                # The deletion that was read has expired.
                self._stored, self._known = None, True
            else:
                self._contended = True
                self._window = min(WINDOW_MAX, self._window * 2)
            return
        self._unresolved.clear()
        self._window = max(WINDOW_MIN, self._window * 0.8)
        self._hand_over(lease)

    def _adopt(self) -> bool:
        """Whether a write without a verdict turns out to be the one that is stored."""
        if not held(self._stored) or self._stored is None:
            return False
        sent = self._unresolved.pop(self._stored.headers.get(H_NONCE, ""), None)
        if sent is None:
            return False
        self._unresolved.clear()
        self._known = False
        proven, ttl = sent
        self._hand_over(Lease(self.subject, ttl, self._stored.sequence, proven, self._stored.at))
        return True

    async def _resolve(self) -> None:
        try:
            self._note(await self._store.read(self.subject))
        except (Unavailable, Refused):
            self._unresolved.clear()
            return
        self._adopt()
        self._unresolved.clear()

    def _hand_over(self, lease: Lease) -> None:
        """To the first who waits, if the lease is for as long as asked and is proven still."""
        self._newest = max(self._newest, lease.fence)
        self._forget_gone()
        if self._waiters and self._waiters[0].ttl == lease.ttl and self._clock.monotonic() < lease.deadline:
            self._waiters.popleft().future.set_result(lease)
        else:
            self._give_back(lease)

    def _give_back(self, lease: Lease) -> None:
        self._locks.tasks.spawn(self._free(lease))

    async def _free(self, lease: Lease) -> None:
        await self._store.release(lease)

    # -- what is known
    async def _watch(self) -> None:
        """Follows the lock, and tells its holder that it is wanted."""
        transport, names = self._locks.transport, self._locks.names
        if self._follow is None:
            self._follow = await transport.follow(names.locks_stream, self.subject, self._followed)
            self._known = False
        now = self._clock.monotonic()
        if self._waiters and now - self._told >= WANTED_SECONDS / 3:
            self._told = now
            await transport.publish(names.lock_wanted(self.name), b"")

    def _followed(self, stored: Stored) -> None:
        if stored.sequence > self._newest:
            self._note(stored)
            self._wake.set()

    def _note(self, stored: Stored | None) -> None:
        if stored is not None:
            self._newest = max(self._newest, stored.sequence)
        self._stored, self._known, self._seen = stored, True, self._clock.monotonic()

    def _info(self) -> LockInfo | None:
        stored = self._stored
        return lock_info(self._locks.names, stored) if stored is not None and held(stored) else None

    def _pause(self) -> float:
        """Until a held lock is looked at again; it may have expired then."""
        info = self._info()
        late = 0.0 if info is None else self._clock.now() - info.until
        if late < 0:
            return min(-late, LOOK_SECONDS)
        # By our clock it is over. If the clocks agree it takes a moment; else it takes until the ttl has passed here.
        return (EXPIRY_LOOK if late < 1 else LOOK_SECONDS / 8) * (0.5 + self._clock.random())

    async def _changed(self, timeout: float) -> bool:
        """Waits until something is new: a state, a waiter. False when it took too long."""
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            return False
        finally:
            self._wake.clear()
        return True

    def _turn_away(self) -> None:
        """Those that gave it one try."""
        for waiter in self._waiters:
            if waiter.once and not waiter.future.done():
                waiter.future.set_exception(self.timed_out(0.0))

    def _forget_gone(self) -> None:
        while self._waiters and self._waiters[0].future.done():
            self._waiters.popleft()
