"""Publishing events, and subscribing at run time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable, Sequence

from ..clock import Clock
from ..errors import ConditionFailed, Conflict, Disconnected, InvalidInput, OutcomeUnknown
from ..messages import H_TRACE_STATE, EventHeaders, Names, check_event_type, encode, from_headers, to_headers
from ..stores import Locks
from ..telemetry import Metrics, current
from ..transport import Transport
from ..types import Actor, Duration, seconds
from ._bulk import IN_FLIGHT, NewEvent, Published, publish_all
from ._handler import EventHandler
from ._subscription import EventSubscription

PUBLISH_SECONDS = 30.0
"""How long a publish without a verdict is repeated: above a leader's change (4-8 s), below the duplicate window
(120 s)."""

PAUSE_SECONDS_MAX = 1.0

TTL_MIN = 1.0
"""The server counts TTLs in whole seconds."""


class Bus:
    """Publishes events under one source (a module's id), and keeps what was subscribed through it.

    `actor` stands in when the context names nobody. `instance` and `locks` are the process's, for subscriptions.
    """

    def __init__(
        self,
        transport: Transport,
        names: Names,
        clock: Clock,
        metrics: Metrics,
        *,
        source: str,
        actor: Actor | None = None,
        instance: str = "",
        replicas: int = 0,
        locks: Locks | None = None,
    ) -> None:
        self._transport = transport
        self._names = names
        self._clock = clock
        self._metrics = metrics
        self._source = source
        self._actor = actor
        self._instance = instance
        self._replicas = replicas
        self._locks = locks
        self._subscriptions: dict[str, EventSubscription[object]] = {}

    # -- publishing
    async def publish(
        self,
        type: str,
        payload: object = None,
        *,
        id: str | None = None,
        expected_last: int | None = None,
        ttl: Duration | None = None,
        correlation: str | None = None,
    ) -> int:
        """Returns the event's sequence when it is stored.

        The same `id` again within two minutes is the same event, and its first sequence is returned. Actor, trace and
        correlation come from the context, causation is the event that is being handled. With `expected_last` it is
        stored only if that is the sequence of the last event of this type (0: there is none). After `ttl` (at least
        1 s) the event leaves the stream, handled or not.

        Raises `NameInvalid`, `ConditionFailed` (a verdict: nothing was stored), `PayloadTooLarge`, `InvalidInput` for
        a wrong ttl, `OutcomeUnknown` after 30 s without an answer.
        """
        check_event_type(type)
        lives = None if ttl is None else seconds(ttl)
        if lives is not None and lives < TTL_MIN:
            raise InvalidInput(f"ttl {lives:g} s: at least {TTL_MIN:g} s, the server counts whole seconds")
        context = current()
        event_id = id or self._clock.token()
        head = EventHeaders(
            id=event_id,
            type=type,
            source=self._source,
            time=self._clock.now(),
            actor=context.actor or self._actor,
            trace=context.trace,
            correlation=context.correlation if correlation is None else correlation,
            causation=context.causation,
        )
        headers = to_headers(head)
        if context.trace_state:
            headers[H_TRACE_STATE] = context.trace_state
        subject = self._names.event(type)
        sequence = await self._append(subject, encode(payload), headers, event_id, expected_last, lives)
        self._metrics.counter("jetloom_events_published_total", type=type).inc()
        return sequence

    async def publish_many(
        self, items: Iterable[NewEvent] | AsyncIterable[NewEvent], *, in_flight: int = IN_FLIGHT
    ) -> Published:
        """Publishes every item, `in_flight` of them at once, so not in order; what became of them.

        A failure of one stops none of the others, and each is in the report. Iterators are read no further ahead than
        `in_flight`; what one raises is raised when everything sent before is answered.
        """
        return await publish_all(items, self._publish_one, in_flight)

    async def _publish_one(self, item: NewEvent) -> int:
        return await self.publish(
            item.type, item.payload, id=item.id, ttl=item.ttl, correlation=item.correlation
        )

    async def _append(
        self,
        subject: str,
        data: bytes,
        headers: dict[str, str],
        event_id: str,
        expected: int | None,
        ttl: float | None,
    ) -> int:
        until = self._clock.monotonic() + PUBLISH_SECONDS
        pause = 0.05
        unknown = False
        while True:
            try:
                done = await self._transport.append(
                    subject, data, headers=headers, expected=expected, message_id=event_id, ttl=ttl
                )
            except (OutcomeUnknown, Disconnected) as error:
                # The same id: what was stored after all is recognised.
                if self._clock.monotonic() + pause > until:
                    raise OutcomeUnknown(subject, str(error)) from error
                unknown = True
                await asyncio.sleep(pause)
                pause = min(pause * 2, PAUSE_SECONDS_MAX)
            except ConditionFailed:
                # The server looks at the condition first: our own event, stored without an answer, fails it.
                stored = await self._own(subject, event_id) if unknown else None
                if stored is None:
                    raise
                return stored
            else:
                return done.sequence

    async def _own(self, subject: str, event_id: str) -> int | None:
        """The sequence of the subject's last event, if that is this one of ours."""
        stored = await self._transport.last(self._names.events_stream, subject)
        if stored is None:
            return None
        event_type = self._names.event_type(subject)
        head = from_headers(
            stored.headers, event_type=event_type, sequence=stored.sequence, stored_at=stored.at
        )
        return stored.sequence if (head.id, head.source) == (event_id, self._source) else None

    # -- subscribing
    async def subscribe[T](self, handler: EventHandler[T]) -> EventSubscription[T]:
        """Subscribes now; returns when events come in. The host drains it with the module's others.

        Raises what `EventSubscription` does, and `Conflict` when this process has a subscription of that name.
        """
        name = f"{handler.module}.{handler.name}"
        known = self._subscriptions.get(name)
        if known is not None and not known.ended:
            raise Conflict(
                f"handler {name} is subscribed already: take another name, or unsubscribe the first"
            )
        subscription = EventSubscription(
            handler,
            self._transport,
            self._names,
            self._clock,
            self._metrics,
            replicas=self._replicas,
            instance=self._instance,
            locks=self._locks,
        )
        self._subscriptions[name] = subscription  # pyright: ignore[reportArgumentType]
        try:
            await subscription.start()
        except BaseException:
            del self._subscriptions[name]
            await subscription.stop()
            raise
        return subscription

    @property
    def subscriptions(self) -> Sequence[EventSubscription[object]]:
        """What was subscribed through this bus and has not ended."""
        return [each for each in self._subscriptions.values() if not each.ended]

    async def drain(self, seconds: float) -> dict[str, int]:
        """Drains them all at once; how many events each handler gave back, where any."""
        draining, self._subscriptions = self._subscriptions, {}
        counts = await asyncio.gather(*(each.drain(seconds) for each in draining.values()))
        return {name: count for name, count in zip(draining, counts, strict=True) if count}
