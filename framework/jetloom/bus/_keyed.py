"""Events of one key one after the other, in the order of the stream; keys beside each other.

One replica is active: the one that holds the handler's lock. The others stand by. The active one pulls into a buffer,
sorted by key and sequence, and hands nothing out while something older may be under way elsewhere. It is *settled* when

- the server has no more messages out than are held here, and none arrived between asking and answering; and
- nothing held was ever given to anybody else; or else what a former holder may still have been given has come back:
  its requests have ended, and their ack wait is over.

The server numbers a consumer's deliveries. A number that does not follow the last one says that a delivery went astray
(to a former holder, or into a connection that was lost): from then on nothing is handed out until it is settled again.

A failed event stays at the head of its key and is tried again here; others go on. A lock that can't be proven any more
stops everything: a handler that has not begun does not begin, one that runs is cancelled, nothing is acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from ..errors import JetloomError, LockLost, OutcomeUnknown, Refused, Unavailable, to_info
from ..lifecycle import Supervisor, TaskSet
from ..stores import Lock, Locks
from ..telemetry import get_logger
from ..transport import Delivery, Pull, delivery_number
from ._answers import DLQ_RETRY_SECONDS, beat_for
from ._intake import PULL_EXPIRY, Kit, give_back
from ._lanes import Item, Lanes

BUFFER_MAX = 512
"""Events held at once, and out at the server at once. Above what a slow key may hold up, below what hurts in memory."""

ACK_WAIT_MAX = 5.0
"""How long a killed replica's events stay out; above three beats and the lock's ttl."""

LOCK_TTL = 4.0
"""After which a standby takes over from a replica that was killed."""

SETTLE_SECONDS = 0.1
"""Between two looks while it is not settled."""

LOOK_SECONDS = 1.0
"""Between two looks while nothing happens."""

DONE_MAX = 4 * BUFFER_MAX
"""Sequences remembered as answered: one that comes again, because its answer was lost, is answered again."""

_NAME = "event-keys"
_logger = get_logger("bus")


class KeyedIntake[T]:
    """Stands by, leads, stands by again. Without `locks` it is always its turn: a broadcast's consumer is its own."""

    def __init__(self, kit: Kit[T], locks: Locks | None) -> None:
        self._kit = kit
        self._locks = locks
        self._supervisor = Supervisor(kit.metrics)
        self._lead: _Lead[T] | None = None
        self._closing = False
        self._deadline: float | None = None
        self._closed = asyncio.Event()
        self._handed_back = 0
        self._active = kit.metrics.gauge(
            "jetloom_keyed_active_ratio", module=kit.handler.module, handler=kit.handler.name
        )

    @property
    def active(self) -> bool:
        """Whether this replica handles the events now."""
        return self._lead is not None and self._lead.settled

    async def open(self) -> None:
        self._closing = False
        self._closed.clear()
        self._supervisor.run(_NAME, self._stand)

    async def close(self, seconds: float | None) -> int:
        self._closing = True
        loop = asyncio.get_running_loop()
        self._deadline = None if seconds is None else loop.time() + max(seconds, 0.001)
        if self._lead is not None:
            self._lead.close(self._deadline)
            await self._closed.wait()
        await self._supervisor.end(_NAME)
        handed_back, self._handed_back = self._handed_back, 0
        return handed_back

    async def beat(self) -> None:
        if self._lead is not None:
            await self._lead.beat()

    async def _stand(self) -> None:
        while not self._closing:
            if self._locks is None:
                await self._turn(None)
                continue
            try:
                async with self._locks.hold(f"events:{self._kit.asset.name}", ttl=LOCK_TTL) as lock:
                    await self._turn(lock)
            except LockLost as error:
                _logger.warning(
                    "another replica may take over the keys",
                    extra={
                        "module_id": self._kit.handler.module,
                        "handler": self._kit.handler.name,
                        "because": error.message,
                    },
                )

    async def _turn(self, lock: Lock | None) -> None:
        lead = self._lead = _Lead(self._kit, lock)
        self._active.set(1)
        try:
            if not self._closing:
                self._handed_back += await lead.run()
        finally:
            self._active.set(0)
            self._lead = None
            if self._closing:
                self._closed.set()


class _Lead[T]:
    """One time of being active."""

    def __init__(self, kit: Kit[T], lock: Lock | None) -> None:
        self._kit = kit
        self._lock = lock
        self._lanes = Lanes()
        self._tasks = TaskSet("event-handler", kit.metrics)
        self._pull: Pull | None = None
        self._changed = asyncio.Event()
        self._done: dict[int, None] = {}
        self._again: deque[str] = deque()
        """Answers to repeat."""
        self._number = 0
        self._moves = 0
        """Arrivals and answers so far: whether something happened between two moments."""
        self.settled = False
        self._running = 0
        self._closing = False
        self._deadline: float | None = None
        # A former holder may have stopped right after a renewal: its lock ends two thirds of the ttl later at the
        # earliest, what it asked for may reach it for the expiry, and stays out for the ack wait.
        wait = 0.0 if lock is None else kit.asset.ack_wait + PULL_EXPIRY - LOCK_TTL * 2 / 3 + 0.25
        self._not_before = kit.clock.monotonic() + max(0.0, wait)

    async def run(self) -> int:
        """Handles until it is closed, then gives back what is held; how many. Cancelled when the lock is lost."""
        self._pull = pull = await self._kit.pull(self._take, self._capacity)
        try:
            await self._rounds()
        finally:
            self._closing = True
            if self.lost:
                await self._tasks.stop()
            await pull.stop()
            await self._tasks.stop()
        subjects = [self._lanes.held[sequence].delivery.ack_subject for sequence in sorted(self._lanes.held)]
        await give_back(self._kit.transport.nak, subjects)
        with contextlib.suppress(JetloomError):
            await self._kit.transport.flush()
        return len(subjects)

    def close(self, deadline: float | None) -> None:
        self._closing = True
        self._deadline = deadline
        self._changed.set()

    async def beat(self) -> None:
        if not self.lost:
            held = [item.delivery.ack_subject for item in self._lanes.held.values()]
            await beat_for(held, self._kit.transport.beat)

    @property
    def lost(self) -> bool:
        return self._lock is not None and self._lock.lost

    # -- coming in
    def _capacity(self) -> int:
        return 0 if self._closing or self.lost else max(0, BUFFER_MAX - len(self._lanes))

    def _take(self, delivery: Delivery) -> None:
        number, sequence = delivery_number(delivery.ack_subject), delivery.sequence
        if number != self._number + 1:
            self.settled = False
            self._changed.set()
        self._number = number
        self._moves += 1
        answers = self._kit.answers
        (answers.first if delivery.count <= 1 else answers.again).inc()
        if sequence in self._done:
            self._again.append(delivery.ack_subject)
            self._changed.set()
            return
        known = self._lanes.held.get(sequence)
        if known is not None:
            known.delivery = delivery
            return
        try:
            key = self._kit.handling.key_of(delivery)
        except JetloomError:
            # It has no key, so a lane of its own: handling it fails in the same way, and says why.
            key = f"?{sequence}"
        self._lanes.add(delivery, key)
        self._pump()

    # -- looking
    async def _rounds(self) -> None:
        clock = self._kit.clock
        while not (self._closing and self._ended()):
            self._changed.clear()
            while self._again:
                await self._kit.transport.ack(self._again.popleft())
            if not self.settled and not self._closing:
                await self._settle()
            now = clock.monotonic()
            self._lanes.advance(now)
            self._pump()
            pause = LOOK_SECONDS if self.settled and not self._closing else SETTLE_SECONDS
            due = self._lanes.next_due
            if due is not None:
                pause = min(pause, max(0.0, due - now))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    def _ended(self) -> bool:
        """Whether nothing runs any more, or may run no longer."""
        now = asyncio.get_running_loop().time()
        return self._running == 0 or (self._deadline is not None and now >= self._deadline)

    async def _settle(self) -> None:
        moves, now = self._moves, self._kit.clock.monotonic()
        try:
            state = await self._kit.transport.consumer_state(self._kit.asset.stream, self._kit.asset.name)
        except (Unavailable, OutcomeUnknown, Refused):
            return
        if state is None or moves != self._moves:
            return
        if state.unacknowledged > len(self._lanes):
            return
        # What nobody else was ever given is out only here, and the count is exact. Of what comes again a former
        # holder's answer may have arrived late: held here, counted there no more, it hides one that is out elsewhere.
        ours = all(item.delivery.count == 1 for item in self._lanes.held.values())
        self.settled = ours or now >= self._not_before

    # -- handling
    def _may(self) -> bool:
        return self.settled and not self._closing and not self.lost

    def _pump(self) -> None:
        while self._running < self._kit.handler.concurrency and self._may():
            item = self._lanes.take()
            if item is None:
                return
            self._running += 1
            self._tasks.spawn(self._work(item))

    async def _work(self, item: Item | None) -> None:
        try:
            while item is not None:
                await self._process(item)
                item = self._lanes.take() if self._may() else None
        finally:
            self._running -= 1
            self._changed.set()

    async def _process(self, item: Item) -> None:
        kit, answers = self._kit, self._kit.answers
        if self.lost:
            return
        answers.active.inc()
        began = kit.clock.monotonic()
        try:
            outcome = await kit.handling.handle(item.delivery)
        except Exception as error:  # the supervisor of user code: logs, counts, decides
            if not self.lost:
                await self._failed(item, error)
        else:
            if not self.lost:
                await kit.transport.ack(item.delivery.ack_subject)
                self._finish(item)
                if outcome == "handled":
                    answers.handled.inc()
        finally:
            answers.active.dec()
            answers.duration.observe(kit.clock.monotonic() - began)

    async def _failed(self, item: Item, error: Exception) -> None:
        kit, info = self._kit, to_info(error)
        item.tries += 1
        delay = kit.handler.retry.next_delay(info, item.tries, kit.clock.random())
        if delay is None:
            if await kit.answers.bury(item.delivery, info, error):
                self._finish(item)
                return
            delay = DLQ_RETRY_SECONDS
        else:
            kit.answers.will_retry(item.delivery, info, delay)
        self._lanes.put_off(item, kit.clock.monotonic() + delay)
        self._changed.set()

    def _finish(self, item: Item) -> None:
        self._moves += 1
        self._done[item.delivery.sequence] = None
        if len(self._done) > DONE_MAX:
            del self._done[next(iter(self._done))]
        self._lanes.finish(item)
        if len(self._lanes) == BUFFER_MAX // 2 and self._pull is not None:
            self._pull.wake()
