"""Standing in line for a lock, in a process and among processes.

Waiters of one name in one process stand in one queue (first come, first served), whose pump alone reads and writes.
While it waits it follows the lock's subject. Processes that wait say so on a core subject, each second. So each knows
all of them, and when a lock is freed they take turns in the order of their ids, beginning behind the last holder: the
first writes at once, the next after a slot, unless it has seen the other's write by then. Slots grow when a write was
refused. Who hears that others wait stands in line as they do: else a process that takes the same lock again and again
would always be faster than those that must first hear that it is free.

All of this is courtesy: whoever writes, at whatever time, the write is conditional.
"""

from __future__ import annotations

import asyncio
from collections import deque

from ..clock import Clock
from ..errors import ConditionFailed, JetloomError, LockTimeout, Refused, Unavailable
from ..lifecycle import TaskSet
from ..messages import H_NONCE, Names
from ..transport import Incoming, Stored, StreamAsset, Subscription, Transport
from ._lease import RETRY, Lease, LockInfo, LockStore, held, lock_info, lock_value, passing

WANTED_SECONDS = 3.0
"""How long a process counts as waiting after it said so; it says so three times as often."""

LINGER_SECONDS = 3.0
"""How long a queue goes on following its lock after its last waiter has gone, where others wait too."""

LOOK_SECONDS = 2.0
"""At most between two reads of a held lock. What the follow tells comes at once; this is for what it could miss."""

EXPIRY_LOOK = 0.04
"""Between reads of a lock that should have expired: the server is up to a quarter of a second late."""

SLOT_MIN = 0.002
SLOT_MAX = 0.05
"""Between the turns of two processes: how long one takes to see the other's write. At the least two round trips, at
the most what a process that waits for one that is dead should lose by it."""

PLACES_MAX = 16
"""Turns are not waited for beyond this one: who comes later draws one of them."""

UNRESOLVED_MAX = 16
"""Writes without a verdict that a queue remembers; each is at least `RETRY` after the one before."""

NAMES_MAX = 4_096
PROCESSES_MAX = 256
"""Of what is remembered about others' waiting; the oldest go first, and lose fairness only."""


class Contenders:
    """Which processes wait for which lock, as far as they said so lately."""

    def __init__(
        self, transport: Transport, names: Names, clock: Clock, process: str, asset: StreamAsset | None
    ) -> None:
        self.refused = 0
        self._transport = transport
        self._names = names
        self._clock = clock
        self._process = process
        self._asset = asset
        self._waiting: dict[str, dict[str, float]] = {}
        self._hints: Subscription | None = None
        self._getting_ready = asyncio.Lock()

    async def ready(self) -> None:
        """Makes the bucket where that was asked for, and listens."""
        if self._hints is not None:
            return
        async with self._getting_ready:
            if self._hints is not None:
                return
            if self._asset is not None:
                await self._transport.ensure(self._asset)
            self._hints = await self._transport.subscribe(self._names.lock_wanted("*"), self._heard)

    async def stop(self) -> None:
        if self._hints is not None:
            await self._hints.stop()
            self._hints = None

    async def tell(self, name: str) -> None:
        """Says that this process waits. Raises `Disconnected`."""
        await self._transport.publish(self._names.lock_wanted(name), self._process.encode())

    def others(self, name: str) -> bool:
        """Whether another process waits for it."""
        return any(process != self._process for process in self._processes(name))

    def place(self, name: str, last_holder: str) -> int:
        """How many turns come before this process'."""
        line = sorted({*self._processes(name), self._process})
        mine = line.index(self._process)
        # Where the last holder stands, or would stand.
        behind = sum(1 for process in line if process <= last_holder)
        place = (mine - behind) % len(line)
        return place if place < PLACES_MAX else int(self._clock.random() * PLACES_MAX)

    def _processes(self, name: str) -> list[str]:
        horizon = self._clock.monotonic() - WANTED_SECONDS
        found = self._waiting.get(name)
        if found is None:
            return []
        for process in [process for process, at in found.items() if at < horizon]:
            del found[process]
        return list(found)

    def _heard(self, incoming: Incoming) -> None:
        name = self._names.lock_name(incoming.subject)
        found = self._waiting.pop(name, None) or {}
        self._waiting[name] = found
        found[incoming.data.decode(errors="replace")[:32]] = self._clock.monotonic()
        if len(self._waiting) > NAMES_MAX:
            del self._waiting[next(iter(self._waiting))]
        if len(found) > PROCESSES_MAX:
            del found[next(iter(found))]


class _Waiter:
    __slots__ = ("future", "once", "ttl")

    def __init__(self, ttl: float, once: bool) -> None:
        self.ttl = ttl
        self.once = once
        self.future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()


class LockQueue:
    """Who waits for one lock in this process, and the pump that takes it for the first of them."""

    def __init__(self, name: str, store: LockStore, contenders: Contenders, tasks: TaskSet) -> None:
        self.name = name
        self._subject = store.names.lock(name)
        self._store = store
        self._contenders = contenders
        self._tasks = tasks
        self._clock = store.clock
        self._waiters: deque[_Waiter] = deque()
        self._wake = asyncio.Event()
        self._contended = contenders.others(name)
        self._follow: Subscription | None = None
        self._known = False
        self._stored: Stored | None = None
        self._newest = 0
        self._last_holder = ""
        self._slot = SLOT_MIN
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
        """Goes on until nobody waits, and for a while longer where others did."""
        pause = RETRY
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

    async def close(self) -> None:
        """Ends the waiting of whoever is left, and the follow."""
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
        await self._contenders.ready()
        if self._contended:
            await self._watch()
        if not self._known:
            self._note(await self._store.read(self._subject))
        if self._adopt():
            return
        if held(self._stored):
            self._contended = True
            self._turn_away()
            await self._watch()
            if not await self._changed(self._pause()):
                self._known = False
            return
        if await self._changed(self._turn_comes()):
            # Somebody was faster.
            return
        await self._take()

    async def _take(self) -> None:
        self._forget_gone()
        # What was free before the pause may be held when it ends: a write over that would take it away.
        if not self._waiters or held(self._stored):
            return
        first, nonce = self._waiters[0], self._clock.token()
        if len(self._unresolved) >= UNRESOLVED_MAX:
            del self._unresolved[next(iter(self._unresolved))]
        self._unresolved[nonce] = (self._clock.monotonic(), first.ttl)
        expected = self._stored.sequence if self._stored is not None else 0
        self._known = False
        try:
            lease, stored = await self._store.take(self._subject, first.ttl, expected, nonce)
        except ConditionFailed as error:
            del self._unresolved[nonce]
            self._contenders.refused += 1
            if error.actual_sequence == 0:
                # The deletion that was read has expired.
                self._stored, self._known = None, True
            else:
                self._contended = True
                self._slot = min(SLOT_MAX, self._slot * 2)
            return
        self._unresolved.clear()
        self._slot = max(SLOT_MIN, self._slot * 0.95)
        self._note(stored)
        # Without a follow nobody tells what becomes of it.
        self._known = self._follow is not None
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
        self._hand_over(Lease(self._subject, ttl, self._stored.sequence, proven, self._stored.at))
        return True

    async def _resolve(self) -> None:
        try:
            self._note(await self._store.read(self._subject))
        except (Unavailable, Refused):
            self._unresolved.clear()
            return
        self._adopt()
        self._unresolved.clear()

    def _hand_over(self, lease: Lease) -> None:
        """To the first who waits, if the lease is for as long as asked and is proven still."""
        self._forget_gone()
        if self._waiters and self._waiters[0].ttl == lease.ttl and self._clock.monotonic() < lease.deadline:
            self._waiters.popleft().future.set_result(lease)
        else:
            self._give_back(lease)

    def _give_back(self, lease: Lease) -> None:
        self._tasks.spawn(self._free(lease))

    async def _free(self, lease: Lease) -> None:
        await self._store.release(lease)

    # -- what is known
    async def _watch(self) -> None:
        """Follows the lock, and tells its holder that it is wanted."""
        transport, names = self._store.transport, self._store.names
        if self._follow is None:
            self._follow = await transport.follow(names.locks_stream, self._subject, self._followed)
            self._known = False
        now = self._clock.monotonic()
        if self._waiters and now - self._told >= WANTED_SECONDS / 3:
            self._told = now
            await self._contenders.tell(self.name)

    def _followed(self, stored: Stored) -> None:
        if stored.sequence > self._newest:
            self._note(stored)
            self._wake.set()

    def _note(self, stored: Stored | None) -> None:
        if stored is not None:
            self._newest = max(self._newest, stored.sequence)
            if held(stored):
                self._last_holder = lock_value(stored).process
        self._stored, self._known = stored, True

    def _info(self) -> LockInfo | None:
        stored = self._stored
        return lock_info(self._store.names, stored) if stored is not None and held(stored) else None

    def _turn_comes(self) -> float:
        """How long to leave a free lock to those whose turn is before."""
        if not self._contended:
            return 0.0
        place = self._contenders.place(self.name, self._last_holder)
        # Processes may know of different contenders: what they draw keeps them apart.
        return (place + self._clock.random() / 4) * self._slot if place else 0.0

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
        if timeout <= 0:
            return False
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
