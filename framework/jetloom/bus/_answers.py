"""What is answered for an event: done, later, or into the dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..clock import Clock
from ..errors import ErrorInfo, JetloomError, to_info
from ..messages import Names
from ..telemetry import Metrics, get_logger
from ..transport import Delivery, Transport
from ._dead_letters import DeadLetters
from ._handler import EventHandler

DLQ_RETRY_SECONDS = 5.0
"""After which an event comes again whose dead letter could not be stored."""

_logger = get_logger("bus")


class Answers:
    """Answers deliveries of one handler; logs and counts."""

    def __init__(
        self,
        handler: EventHandler[object],
        transport: Transport,
        names: Names,
        clock: Clock,
        metrics: Metrics,
        *,
        consumer: str,
    ) -> None:
        self._handler = handler
        self._transport = transport
        self._clock = clock
        self._dead_letters = DeadLetters(transport, names)
        labels = {"module": handler.module, "handler": handler.name}
        self.handled = metrics.counter("jetloom_events_handled_total", **labels)
        self.retried = metrics.counter("jetloom_events_retried_total", **labels)
        self.dead = metrics.counter("jetloom_dead_letters_total", **labels)
        self.duration = metrics.histogram("jetloom_event_duration_seconds", **labels)
        self.active = metrics.gauge("jetloom_handling_events", **labels)
        self.first = metrics.counter("jetloom_deliveries_total", consumer=consumer, redelivered="false")
        self.again = metrics.counter("jetloom_deliveries_total", consumer=consumer, redelivered="true")

    async def failed(self, delivery: Delivery, error: Exception) -> None:
        """Gives it back with a delay that the server keeps, or stores it as a dead letter and acknowledges it."""
        info = to_info(error)
        delay = self._handler.retry.next_delay(info, delivery.count, self._clock.random())
        if delay is None and await self.bury(delivery, info, error):
            return
        if delay is None:
            delay = DLQ_RETRY_SECONDS
        else:
            self.will_retry(delivery, info, delay)
        await self._transport.nak(delivery.ack_subject, delay)

    def will_retry(self, delivery: Delivery, info: ErrorInfo, delay: float) -> None:
        _logger.warning(
            "event failed, will be retried", extra={**self._fields(delivery, info), "delay_seconds": delay}
        )
        self.retried.inc()

    async def bury(self, delivery: Delivery, info: ErrorInfo, error: Exception) -> bool:
        """Stores a dead letter, then acknowledges; False when it could not be stored."""
        handler, fields = self._handler, self._fields(delivery, info)
        try:
            now = self._clock.now()
            letter = await self._dead_letters.add(handler.module, handler.name, delivery, info, error, now)
        except JetloomError as refused:
            _logger.error("dead letter could not be stored", extra={**fields, "because": str(refused)})
            return False
        unexpected = error if not isinstance(error, JetloomError) else None
        _logger.error("event became a dead letter", extra={**fields, "letter": letter}, exc_info=unexpected)
        self.dead.inc()
        await self._transport.ack(delivery.ack_subject)
        return True

    def _fields(self, delivery: Delivery, info: ErrorInfo) -> dict[str, object]:
        return {
            "module_id": self._handler.module,
            "handler": self._handler.name,
            "subject": delivery.subject,
            "sequence": delivery.sequence,
            "delivery": delivery.count,
            "code": info.code,
            "reason": info.message,
        }


async def beat_for(held: list[str], beat: Callable[[str], Awaitable[None]]) -> None:
    """Beats for each, and lets others run now and then: there may be thousands."""
    for number, ack_subject in enumerate(held):
        await beat(ack_subject)
        if number % 256 == 255:
            await asyncio.sleep(0)
