"""`@every`: methods that are called at the times of a schedule, once over all replicas.

The server keeps one timer for each schedule, for its next instant, and fires it into a work queue that the replicas
share. Whoever gets the tick reads from the schedule's state what is due, says there which instant it begins with, arms
the next timer, calls the method, says that it has ended, and acknowledges last. A process that dies on the way leaves
the tick unacknowledged: another replica gets it after `ACK_WAIT` seconds and goes on with the instant that was begun.

One tick is in work at a time, over all replicas: while a call runs, or waits for its next try, later instants wait, and
are then due together, as the policy for missed ones says. Not guaranteed: exactly one call for an instant. A process
that was suspended for longer than the wait finds another one at its work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from ..bus import DeadLetters, Retry
from ..clock import Clock
from ..errors import (
    ConditionFailed,
    DecodeFailed,
    JetloomError,
    OutcomeUnknown,
    TaskFailed,
    Unavailable,
    to_info,
)
from ..lifecycle import Supervisor, TaskSet
from ..messages import H_ACTOR, Names, encode
from ..schedules import Schedule, ScheduleInvalid, Tick, find_due
from ..stores import TASK_ACK_WAIT
from ..telemetry import Context, Metrics, get_logger, use
from ..transport import Delivery, Pull, Transport
from ..types import Actor, ActorKind
from ._every_store import Begun, Schedules, ScheduleState, TickBody
from ._module import EveryMark, Missed
from ._signatures import Signature

ACK_WAIT = TASK_ACK_WAIT
"""After this long without a beat a tick goes to another replica; a beat is sent every third of it."""

PULL_EXPIRY = 2.0
"""Seconds that a pull request lives, and so about the time that a drain waits when nothing happens."""

LOOK_SECONDS = 30.0
"""Between two looks whether the schedule's timer is armed: it always is, unless a server lost it."""

AGAIN_SECONDS = 2.0
"""After which a tick comes again that met a server without an answer."""

DELIVERIES_SLACK = 20
"""Deliveries beyond the tries that the retries allow before a tick is a dead letter unseen: one that kills its process
every time never fails, and restarts of the process count too."""

_body = msgspec.json.Decoder(TickBody)
_logger = get_logger("every")


class ScheduleHandler(msgspec.Struct, frozen=True, kw_only=True):
    """One scheduled method. `timeout` limits one call, in seconds."""

    module: str
    name: str
    schedule: Schedule
    function: Callable[[Tick], Awaitable[object]]
    missed: Missed = "once"
    missed_max: int = 100
    timeout: float | None = None
    retry: Retry = Retry()


def schedule_handler(
    module: str, mark: EveryMark, signature: Signature, method: Callable[..., object]
) -> ScheduleHandler:
    """From a decorated method. Raises `Wrong`, `ScheduleInvalid`."""
    takes_tick = signature.tick(Tick)
    body = signature.body(method)
    return ScheduleHandler(
        module=module,
        name=mark.name,
        schedule=Schedule.parse(mark.spec, mark.tz),
        function=body if takes_tick else lambda _: body(),
        missed=mark.missed,
        missed_max=mark.missed_max,
        timeout=mark.timeout,
        retry=mark.retry or Retry(),
    )


class _Work(msgspec.Struct, frozen=True):
    tick: Tick
    instant: float
    manual: bool


class TickSubscription:
    """Serves one schedule: `start`, then `drain` and `stop`, like a subscription to events."""

    def __init__(
        self,
        handler: ScheduleHandler,
        transport: Transport,
        names: Names,
        clock: Clock,
        metrics: Metrics,
        *,
        replicas: int = 1,
    ) -> None:
        self.handler = handler
        self.schedules = Schedules(transport, names, clock, replicas=replicas)
        self._transport = transport
        self._stream = names.timers_stream(0)
        self._consumer = names.schedule_consumer(handler.module, handler.name)
        self._clock = clock
        self._dead_letters = DeadLetters(transport, names)
        self._tasks = TaskSet("tick-handler", metrics)
        self._supervisor = Supervisor(metrics)
        self._pull: Pull | None = None
        self._held: set[str] = set()
        self._draining = False
        self._handed_back = 0
        labels = {"module": handler.module, "handler": handler.name}
        self._handled = metrics.counter("jetloom_ticks_handled_total", **labels)
        self._retried = metrics.counter("jetloom_ticks_retried_total", **labels)
        self._passed_over = metrics.counter("jetloom_ticks_missed_total", **labels)
        self._dead = metrics.counter("jetloom_dead_letters_total", **labels)
        self._duration = metrics.histogram("jetloom_tick_duration_seconds", **labels)
        self._lateness = metrics.histogram("jetloom_tick_lateness_seconds", **labels)

    # -- life
    async def start(self) -> None:
        """Returns when the schedule is declared, armed and served. Raises `AssetDrifted`, `OutcomeUnknown`."""
        if self._pull is not None:
            return
        handler = self.handler
        await self.schedules.ensure(handler.module, handler.name)
        await self.run_once()
        self._pull = await self._transport.pull(
            self._stream, self._consumer, self._take, capacity=self._capacity, expiry=PULL_EXPIRY, batch=1
        )
        self._supervisor.run("tick-beats", self._beat)
        self._supervisor.run("schedule-look", self._look)

    async def drain(self, seconds: float) -> int:
        """Stops pulling, lets a call end for `seconds`, else gives its tick back; how many were interrupted."""
        self._draining = True
        if self._pull is not None:
            await self._pull.stop()
        await self._tasks.stop(grace=max(seconds, 0.001))
        await self._supervisor.stop()
        handed_back, self._handed_back = self._handed_back, 0
        return handed_back

    async def stop(self) -> None:
        """At once: a call that runs is cancelled and its tick given back."""
        await self.drain(0)

    async def run_once(self) -> None:
        """Brings the state to this declaration if there is none, and arms the timer if it has to be."""
        handler = self.handler
        state = await self.schedules.find(handler.module, handler.name) if self._pull is not None else None
        if state is None:
            await self.schedules.declare(
                handler.module, handler.name, handler.schedule, handler.missed, handler.missed_max
            )
        await self.schedules.look(handler.module, handler.name)

    # -- loops
    async def _look(self) -> None:
        while True:
            # Jitter keeps replicas that were started together from looking together.
            await asyncio.sleep(LOOK_SECONDS * (0.75 + 0.5 * self._clock.random()))
            try:
                await self.run_once()
            except (Unavailable, OutcomeUnknown, ConditionFailed) as error:
                _logger.info("a look at a schedule failed", extra={**self._fields(), "because": str(error)})

    async def _beat(self) -> None:
        # A third of the wait: two beats may be lost.
        while True:
            await asyncio.sleep(ACK_WAIT / 3)
            for ack_subject in list(self._held):
                await self._transport.beat(ack_subject)

    # -- one tick
    def _capacity(self) -> int:
        return 0 if self._draining or len(self._tasks) else 1

    def _take(self, delivery: Delivery) -> None:
        # One that comes while the last pull request runs out was not begun, so giving it back interrupts nothing.
        self._tasks.spawn(self._give_back(delivery) if self._draining else self._process(delivery))

    async def _give_back(self, delivery: Delivery) -> None:
        await self._transport.nak(delivery.ack_subject)

    async def _process(self, delivery: Delivery) -> None:
        self._held.add(delivery.ack_subject)
        try:
            if await self._handle(delivery):
                await self._transport.ack(delivery.ack_subject)
        except asyncio.CancelledError:
            self._handed_back += 1
            await self._transport.nak(delivery.ack_subject)
            raise
        except (Unavailable, OutcomeUnknown, ConditionFailed, ScheduleInvalid) as error:
            # The state could not be read or written, or a newer jetloom's rule not understood: another replica, or a
            # later moment. What was called has ended; it is called again.
            _logger.warning("a tick comes again", extra={**self._fields(), "because": str(error)})
            await self._transport.nak(delivery.ack_subject, AGAIN_SECONDS)
        finally:
            self._held.discard(delivery.ack_subject)
            if self._pull is not None:
                asyncio.get_running_loop().call_soon(self._pull.wake)

    async def _handle(self, delivery: Delivery) -> bool:
        """Whether the tick is done with."""
        try:
            body = _body.decode(delivery.data)
        except msgspec.MsgspecError as error:
            return await self._bury(delivery, DecodeFailed(f"a tick of {self._title}", str(error)))
        work = self._asked_for(body, delivery) if body.manual else await self._begin(body, delivery)
        if work is None:
            return True
        error = await self._call(work, delivery)
        if error is not None:
            info = to_info(error)
            delay = self.handler.retry.next_delay(info, delivery.count, self._clock.random())
            if delay is not None:
                fields = {**self._fields(), "code": info.code, "reason": info.message, "delay_seconds": delay}
                _logger.warning("a scheduled call failed, will be retried", extra=fields)
                self._retried.inc()
                await self._transport.nak(delivery.ack_subject, delay)
                return False
            data = encode(TickBody(work.instant, manual=True))
            if not await self._bury(msgspec.structs.replace(delivery, data=data), error):
                return False
        await self._end(work, failed=error is not None)
        return True

    def _asked_for(self, body: TickBody, delivery: Delivery) -> _Work:
        schedule = self.handler.schedule
        tick = Tick(
            name=self.handler.name,
            scheduled=schedule.local(body.at),
            fired=schedule.local(delivery.at),
            manual=True,
        )
        return _Work(tick, body.at, True)

    async def _begin(self, body: TickBody, delivery: Delivery) -> _Work | None:
        """What to call for; the state says so before it happens, and the next timer is armed."""
        module, name = self.handler.module, self.handler.name
        passed_over, resumed = 0, False

        def begin(state: ScheduleState) -> ScheduleState | None:
            nonlocal passed_over, resumed
            passed_over, resumed = 0, state.current is not None
            if state.current is not None or state.paused or state.fingerprint != body.fingerprint:
                return None
            due = find_due(
                state.schedule(),
                state.handled,
                self._clock.now(),
                state.missed,
                state.missed_max,
                tick=body.at,
            )
            passed_over = due.missed
            total = state.passed_over + due.missed
            if due.instant is None:
                return msgspec.structs.replace(state, handled=due.handled, passed_over=total)
            current = Begun(due.instant, due.missed)
            return msgspec.structs.replace(state, current=current, passed_over=total)

        state = await self.schedules.change(module, name, begin)
        if state is None:
            return None
        if passed_over:
            self._passed_over.inc(passed_over)
            _logger.warning("firings were passed over", extra={**self._fields(), "count": passed_over})
        if not (resumed and await self.schedules.is_waiting(module, name)):
            await self.schedules.arm(module, name, state)
        if state.current is None:
            return None
        schedule, instant = state.schedule(), state.current.instant
        tick = Tick(
            name=name,
            scheduled=schedule.local(instant),
            fired=schedule.local(delivery.at),
            missed=state.current.missed,
        )
        return _Work(tick, instant, False)

    async def _call(self, work: _Work, delivery: Delivery) -> Exception | None:
        """What the method failed with."""
        handler, tick = self.handler, work.tick
        if delivery.count > handler.retry.max + 1 + DELIVERIES_SLACK:
            return TaskFailed(
                "tick.delivered_too_often",
                f"delivered {delivery.count} times without an answer: its handler may kill the process",
            )
        asked = delivery.headers.get(H_ACTOR, "")
        context = Context(
            actor=Actor.parse(asked) if asked else Actor(ActorKind.MODULE, handler.module),
            correlation=f"{self._title}.{tick.scheduled.isoformat()}",
            module=handler.module,
        )
        began = self._clock.monotonic()
        self._lateness.observe(max(0.0, self._clock.now() - work.instant))
        limit = asyncio.timeout(handler.timeout)
        try:
            with use(context):
                async with limit:
                    await handler.function(tick)
        except TimeoutError as error:
            return TimeoutError(f"took longer than {handler.timeout:g} s") if limit.expired() else error
        except Exception as error:  # the supervisor of user code: the caller logs, counts, decides
            return error
        finally:
            self._duration.observe(self._clock.monotonic() - began)
        return None

    async def _end(self, work: _Work, *, failed: bool) -> None:
        def end(state: ScheduleState) -> ScheduleState | None:
            counted = msgspec.structs.replace(
                state, calls=state.calls + 1, failures=state.failures + int(failed), last=work.instant
            )
            if work.manual:
                return counted
            if state.current is None or state.current.instant != work.instant:
                # Another replica took this one for dead and has ended the instant.
                return None
            return msgspec.structs.replace(counted, handled=max(state.handled, work.instant), current=None)

        await self.schedules.change(self.handler.module, self.handler.name, end)
        if not failed:
            self._handled.inc()

    async def _bury(self, delivery: Delivery, error: Exception) -> bool:
        """Stores a dead letter; False when that did not work, and the tick comes again."""
        handler, info = self.handler, to_info(error)
        fields = {**self._fields(), "code": info.code, "reason": info.message, "delivery": delivery.count}
        try:
            letter = await self._dead_letters.add(
                handler.module, handler.name, delivery, info, error, self._clock.now()
            )
        except JetloomError as refused:
            _logger.error("dead letter could not be stored", extra={**fields, "because": str(refused)})
            await self._transport.nak(delivery.ack_subject, AGAIN_SECONDS)
            return False
        unexpected = error if not isinstance(error, JetloomError) else None
        _logger.error("a tick became a dead letter", extra={**fields, "letter": letter}, exc_info=unexpected)
        self._dead.inc()
        return True

    @property
    def _title(self) -> str:
        return f"{self.handler.module}.{self.handler.name}"

    def _fields(self) -> dict[str, object]:
        return {"module_id": self.handler.module, "handler": self.handler.name}
