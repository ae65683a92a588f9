"""Where each schedule is, and what keeps its chain of timers alive: for whoever serves, and for whoever looks.

A schedule's state is one key of a bucket, changed conditionally: it alone decides what was handled. A tick is no more
than a hint to look at it, so a second one, an early one and one of a replaced rule do no harm. At any moment one of
these holds, or the next look (every replica's, each half minute) makes it so: the schedule is paused; a timer for the
first instant that was not handled is armed at the server; a tick is stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from ..clock import Clock
from ..errors import ConditionFailed, InvalidInput, NotFound
from ..messages import H_ACTOR, Names, bucket_stream, encode
from ..schedules import Schedule
from ..stores import Entry, KeyValue, schedule_assets, schedule_consumer, schedules_asset
from ..transport import ConsumerState, Transport
from ..transport import Schedule as Timer
from ..types import Actor
from ._module import Missed

CHANGES_MAX = 50
"""Of one change of a state under contention: replicas and a few people change it, each once per firing."""

OVERDUE_SECONDS = 90.0
"""Above what a takeover (10 s) and a replica's next look (30 s) need together."""

UNSERVED_LOOKS = 4
UNSERVED_PAUSE = 0.1
"""Together above what a replica needs from one pull request to the next."""

type ChangeState = Callable[[ScheduleState], ScheduleState | None]


class Begun(msgspec.Struct, frozen=True):
    """The instant whose handler was called and has not ended: whoever gets the tick goes on with it."""

    instant: float
    missed: int = 0


class ScheduleState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One schedule. Instants are seconds since the epoch; everything up to `handled` was handled or passed over.

    `last` is the instant of the last call that ended, `calls` how many did, `failures` how many of them in a dead
    letter, `passed_over` how many instants nothing was called for.
    """

    spec: str
    fingerprint: str
    handled: float
    tz: str = "UTC"
    missed: Missed = "once"
    missed_max: int = 100
    current: Begun | None = None
    paused: bool = False
    last: float = 0
    calls: int = 0
    failures: int = 0
    passed_over: int = 0

    def schedule(self) -> Schedule:
        """Raises `ScheduleInvalid` for a rule that only a newer jetloom can read."""
        return Schedule.parse(self.spec, self.tz)


class TickBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the server publishes when a timer fires, and what a person does who wants a call now."""

    at: float
    fingerprint: str = ""
    manual: bool = False


class ScheduleView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A schedule as it is listed. `next` is 0 for a paused one; it is in the past when a firing is awaited."""

    name: str
    spec: str
    tz: str
    missed: str
    missed_max: int
    next: float
    last: float
    paused: bool
    running: bool
    waiting: int
    calls: int
    failures: int
    passed_over: int
    problems: list[str] = []


class Schedules:
    """The schedules of a namespace."""

    def __init__(self, transport: Transport, names: Names, clock: Clock, *, replicas: int = 1) -> None:
        self._transport = transport
        self._names = names
        self._clock = clock
        self._replicas = replicas
        self._states = KeyValue[ScheduleState](
            transport,
            names.schedules_bucket,
            ScheduleState,
            asset=schedules_asset(names, replicas=replicas),
            clock=clock,
        )

    # -- for whoever serves
    async def ensure(self, module: str, name: str) -> None:
        """The streams, the bucket and the schedule's consumer."""
        for asset in schedule_assets(self._names, replicas=self._replicas):
            await self._transport.ensure(asset)
        consumer = schedule_consumer(self._names, module, name, replicas=self._replicas)
        await self._transport.ensure(consumer)

    async def declare(
        self, module: str, name: str, schedule: Schedule, missed: Missed, missed_max: int
    ) -> ScheduleState:
        """The state, made or brought to this declaration. Another rule begins now; another policy counts at once."""
        while True:
            entry = await self._states.find(_key(module, name))
            now = self._clock.now()
            if entry is None:
                state = ScheduleState(
                    spec=schedule.spec,
                    tz=schedule.tz,
                    fingerprint=schedule.fingerprint,
                    handled=now,
                    missed=missed,
                    missed_max=missed_max,
                )
            else:
                before = entry.value
                state = msgspec.structs.replace(
                    before,
                    spec=schedule.spec,
                    tz=schedule.tz,
                    fingerprint=schedule.fingerprint,
                    missed=missed,
                    missed_max=missed_max,
                )
                if state == before:
                    return state
                if state.fingerprint != before.fingerprint:
                    state = msgspec.structs.replace(state, handled=max(now, before.handled))
            try:
                if entry is None:
                    await self._states.create(_key(module, name), state)
                else:
                    await self._states.update(_key(module, name), state, entry.revision)
            except ConditionFailed:
                continue
            if entry is not None and entry.value.fingerprint != state.fingerprint:
                old = self._names.schedule_armed_filter(module, name, entry.value.fingerprint)
                await self._transport.purge(self._names.timers_stream(0), old)
            return state

    async def look(self, module: str, name: str) -> bool:
        """Arms the next timer unless the schedule is paused or a tick is stored; whether there is such a schedule."""
        entry = await self._states.find(_key(module, name))
        if entry is None:
            return False
        if entry.value.paused:
            return True
        stream, consumer = self._names.timers_stream(0), self._names.schedule_consumer(module, name)
        state = await self._transport.consumer_state(stream, consumer)
        if state is None or not (state.pending or state.unacknowledged):
            await self.arm(module, name, entry.value)
        return True

    async def is_waiting(self, module: str, name: str) -> bool:
        """Whether a tick is stored behind the one that is in work: its timer has fired and need not be armed again."""
        stream, consumer = self._names.timers_stream(0), self._names.schedule_consumer(module, name)
        state = await self._transport.consumer_state(stream, consumer)
        return state is not None and state.pending > 0

    async def arm(self, module: str, name: str, state: ScheduleState) -> None:
        """A timer for the first instant that is not dealt with; one that is armed already stays. One in the past fires
        a quarter of a second later."""
        if state.paused:
            return
        handled = state.handled if state.current is None else max(state.handled, state.current.instant)
        instant = state.schedule().next_after(handled)
        subject = self._names.schedule_armed(module, name, state.fingerprint, instant)
        moment = datetime.fromtimestamp(instant, UTC).isoformat(timespec="milliseconds")
        timer = Timer(f"@at {moment.replace('+00:00', 'Z')}", self._names.schedule_tick(module, name))
        try:
            await self._transport.append(
                subject, encode(TickBody(instant, state.fingerprint)), expected=0, schedule=timer
            )
        except ConditionFailed:
            return

    async def find(self, module: str, name: str) -> Entry[ScheduleState] | None:
        return await self._states.find(_key(module, name))

    async def change(self, module: str, name: str, change: ChangeState) -> ScheduleState | None:
        """Writes what `change` gives, again until no other write was first; None of it, or of the key, writes nothing.
        What is stored then."""
        for _ in range(CHANGES_MAX):
            entry = await self._states.find(_key(module, name))
            if entry is None:
                return None
            state = change(entry.value)
            if state is None or state == entry.value:
                return entry.value
            try:
                await self._states.update(_key(module, name), state, entry.revision)
            except ConditionFailed:
                continue
            return state
        raise ConditionFailed(_key(module, name), 0)

    # -- for whoever looks
    async def list(self) -> list[ScheduleView]:
        """Every schedule that was ever declared here, by name."""
        if await self._transport.stream_state(bucket_stream(self._names.schedules_bucket)) is None:
            return []
        views = await asyncio.gather(*(self._view(entry) for entry in await self._states.entries()))
        return sorted(views, key=lambda view: view.name)

    async def show(self, name: str) -> ScheduleView:
        """Raises `NotFound`."""
        return await self._view(await self._get(name))

    async def upcoming(self, name: str, count: int) -> tuple[Schedule, list[float]]:
        """The rule and its next instants. Raises `NotFound`."""
        state = (await self._get(name)).value
        schedule = state.schedule()
        return schedule, schedule.between(self._clock.now(), float("inf"), count)

    async def trigger(self, name: str, *, scheduled: float | None = None, actor: Actor | None = None) -> int:
        """Asks for one call now, behind the one that may be running; the tick's sequence. It stands for the instant
        `scheduled`, now without one. Raises `NotFound`."""
        await self._get(name)
        module, short = _split(name)
        body = TickBody(self._clock.now() if scheduled is None else scheduled, manual=True)
        headers = {} if actor is None else {H_ACTOR: str(actor)}
        done = await self._transport.append(
            self._names.schedule_tick(module, short), encode(body), headers=headers
        )
        return done.sequence

    async def pause(self, name: str) -> bool:
        """Nothing is called any more from the next instant on; False when it was paused. Raises `NotFound`."""
        entry = await self._get(name)
        await self.change(*_split(name), lambda state: msgspec.structs.replace(state, paused=True))
        return not entry.value.paused

    async def resume(self, name: str) -> bool:
        """Calls from the next instant on: those of the pause are no missed ones. False when it was not paused. Raises
        `NotFound`."""
        entry = await self._get(name)

        def go_on(state: ScheduleState) -> ScheduleState | None:
            if not state.paused:
                return None
            handled = max(self._clock.now(), state.handled)
            return msgspec.structs.replace(state, paused=False, handled=handled)

        module, short = _split(name)
        state = await self.change(module, short, go_on)
        if state is not None:
            await self.arm(module, short, state)
        return entry.value.paused

    async def _get(self, name: str) -> Entry[ScheduleState]:
        module, short = _split(name)
        found = None
        if await self._transport.stream_state(bucket_stream(self._names.schedules_bucket)) is not None:
            found = await self.find(module, short)
        if found is None:
            raise NotFound(
                f"no schedule {name!r}: none of that name was declared by a module that started here",
                name=name,
            )
        return found

    async def _view(self, entry: Entry[ScheduleState]) -> ScheduleView:
        state = entry.value
        module, name = _split(entry.key)
        served = await self._served(module, name)
        coming = 0.0 if state.paused else state.schedule().next_after(state.handled)
        running = state.current is not None
        problems: list[str] = []
        if served is None or not (served.waiting or served.unacknowledged):
            problems.append("nobody serves it: no replica of the module runs, or it has no such schedule now")
        elif coming and not running and coming < self._clock.now() - OVERDUE_SECONDS:
            problems.append("overdue: its replicas don't get on; look at their logs")
        if state.failures:
            problems.append(
                f"{state.failures} firing(s) in the dead letters: jetloom dlq list --module {module}"
            )
        return ScheduleView(
            name=entry.key,
            spec=state.spec,
            tz=state.tz,
            missed=state.missed,
            missed_max=state.missed_max,
            next=coming,
            last=state.last,
            paused=state.paused,
            running=running,
            waiting=0 if served is None else served.pending,
            calls=state.calls,
            failures=state.failures,
            passed_over=state.passed_over,
            problems=problems,
        )

    async def _served(self, module: str, name: str) -> ConsumerState | None:
        """Between two pull requests of a replica there is a moment without any, so nobody is said only after some."""
        stream, consumer = self._names.timers_stream(0), self._names.schedule_consumer(module, name)
        found = None
        for number in range(UNSERVED_LOOKS):
            if number:
                await asyncio.sleep(UNSERVED_PAUSE)
            found = await self._transport.consumer_state(stream, consumer)
            if found is None or found.waiting or found.unacknowledged:
                break
        return found


def _key(module: str, name: str) -> str:
    return f"{module}.{name}"


def _split(name: str) -> tuple[str, str]:
    module, dot, short = name.partition(".")
    if not dot or not module or not short:
        raise InvalidInput(
            f"{name!r} names no schedule: expected <module>.<name>, as `jetloom schedules list` prints"
        )
    return module, short
