"""Publishing events."""

from __future__ import annotations

import asyncio

from ..clock import Clock
from ..errors import Disconnected, OutcomeUnknown
from ..messages import H_TRACE_STATE, EventHeaders, Names, check_event_type, encode, to_headers
from ..telemetry import Metrics, current
from ..transport import Transport
from ..types import Actor

PUBLISH_SECONDS = 30.0
"""How long a publish without a verdict is repeated: above a leader's change (4-8 s), below the duplicate window
(120 s)."""

PAUSE_SECONDS_MAX = 1.0


class Bus:
    """Publishes events under one source (a module's id). `actor` stands in when the context names nobody."""

    def __init__(
        self,
        transport: Transport,
        names: Names,
        clock: Clock,
        metrics: Metrics,
        *,
        source: str,
        actor: Actor | None = None,
    ) -> None:
        self._transport = transport
        self._names = names
        self._clock = clock
        self._metrics = metrics
        self._source = source
        self._actor = actor

    async def publish(self, event_type: str, payload: object = None, *, id: str | None = None) -> int:
        """Returns the event's sequence when it is stored.

        The same `id` again within two minutes is the same event, and its first sequence is returned. Actor, trace and
        correlation come from the context. Raises `NameInvalid`, `PayloadTooLarge`, `OutcomeUnknown` after 30 s
        without an answer.
        """
        check_event_type(event_type)
        context = current()
        event_id = id or self._clock.token()
        head = EventHeaders(
            id=event_id,
            type=event_type,
            source=self._source,
            time=self._clock.now(),
            actor=context.actor or self._actor,
            trace=context.trace,
            correlation=context.correlation,
            causation=context.causation,
        )
        headers = to_headers(head)
        if context.trace_state:
            headers[H_TRACE_STATE] = context.trace_state
        sequence = await self._append(self._names.event(event_type), encode(payload), headers, event_id)
        self._metrics.counter("jetloom_events_published_total", type=event_type).inc()
        return sequence

    async def _append(self, subject: str, data: bytes, headers: dict[str, str], message_id: str) -> int:
        until = self._clock.monotonic() + PUBLISH_SECONDS
        pause = 0.05
        while True:
            try:
                done = await self._transport.append(subject, data, headers=headers, message_id=message_id)
            except (OutcomeUnknown, Disconnected) as error:
                # The same id: what was stored after all is recognised.
                if self._clock.monotonic() + pause > until:
                    raise OutcomeUnknown(subject, str(error)) from error
                await asyncio.sleep(pause)
                pause = min(pause * 2, PAUSE_SECONDS_MAX)
            else:
                return done.sequence
