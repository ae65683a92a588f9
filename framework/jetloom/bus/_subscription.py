"""A handler's durable group subscription."""

from __future__ import annotations

import asyncio
import re

from ..clock import Clock
from ..errors import JetloomError, NameInvalid, TaskFailed, to_info
from ..lifecycle import Supervisor, TaskSet
from ..messages import Names, from_headers, join_name
from ..telemetry import Context, Metrics, context_from_headers, get_logger, use
from ..transport import ConsumerAsset, Delivery, Pull, Transport
from ._dead_letters import DeadLetters
from ._event import event_of
from ._handler import EventHandler

PULL_EXPIRY = 1.0
"""Seconds that one pull request lives, and so about the time that a drain waits when nothing happens."""

DLQ_RETRY_SECONDS = 5.0
"""After which an event comes again whose dead letter could not be stored."""

DELIVERIES_SLACK = 20
"""Deliveries beyond the tries that its retries allow before an event is a dead letter unseen: one that kills its
process every time never fails, and restarts of the process count too."""

_PATTERN = re.compile(r"([A-Za-z0-9_-]+|\*)(\.([A-Za-z0-9_-]+|\*))*(\.>)?|>")

_logger = get_logger("bus")


class GroupSubscription[T]:
    """Hands events to one handler: `start`, then `drain` and `stop`."""

    def __init__(
        self,
        handler: EventHandler[T],
        transport: Transport,
        names: Names,
        clock: Clock,
        metrics: Metrics,
        *,
        replicas: int = 0,
    ) -> None:
        self.handler = handler
        self.asset = ConsumerAsset(
            stream=names.events_stream,
            name=consumer_name(handler.module, handler.name),
            filters=(names.event(check_pattern(handler.pattern)),),
            ack_wait=handler.ack_wait,
            replicas=replicas,
            description=f"{handler.module}: {handler.name}",
        )
        self._transport = transport
        self._names = names
        self._clock = clock
        self._dead_letters = DeadLetters(transport, names)
        self._tasks = TaskSet("event-handler", metrics)
        self._supervisor = Supervisor(metrics)
        self._pull: Pull | None = None
        self._held: set[str] = set()
        self._draining = False
        self._handed_back = 0
        labels = {"module": handler.module, "handler": handler.name}
        self._handled = metrics.counter("jetloom_events_handled_total", **labels)
        self._retried = metrics.counter("jetloom_events_retried_total", **labels)
        self._dead = metrics.counter("jetloom_dead_letters_total", **labels)
        self._duration = metrics.histogram("jetloom_event_duration_seconds", **labels)
        self._active = metrics.gauge("jetloom_handling_events", **labels)
        first, again = (
            metrics.counter("jetloom_deliveries_total", consumer=self.asset.name, redelivered=word)
            for word in ("false", "true")
        )
        self._first, self._again = first, again

    async def start(self) -> None:
        if self._pull is not None:
            return
        await self._transport.ensure(self.asset)
        self._supervisor.run("event-beats", self._beat)
        self._pull = await self._transport.pull(
            self.asset.stream, self.asset.name, self._take, capacity=self._capacity, expiry=PULL_EXPIRY
        )

    async def drain(self, seconds: float) -> int:
        """Stops pulling, lets handlers end for `seconds`, and gives the rest back; how many that were."""
        self._draining = True
        if self._pull is not None:
            await self._pull.stop()
        await self._tasks.stop(grace=max(seconds, 0.001))
        await self._supervisor.stop()
        handed_back, self._handed_back = self._handed_back, 0
        return handed_back

    async def stop(self) -> None:
        """At once: what is being handled is cancelled and given back."""
        await self.drain(0)

    def _capacity(self) -> int:
        return 0 if self._draining else max(0, self.handler.concurrency - len(self._tasks))

    def _take(self, delivery: Delivery) -> None:
        if self._draining:
            self._handed_back += 1
        self._tasks.spawn(self._give_back(delivery) if self._draining else self._process(delivery))

    async def _give_back(self, delivery: Delivery) -> None:
        await self._transport.nak(delivery.ack_subject)

    async def _process(self, delivery: Delivery) -> None:
        (self._first if delivery.count <= 1 else self._again).inc()
        self._active.inc()
        self._held.add(delivery.ack_subject)
        began = self._clock.monotonic()
        try:
            await self._handle(delivery)
        except asyncio.CancelledError:
            self._handed_back += 1
            await self._transport.nak(delivery.ack_subject)
            raise
        except Exception as error:  # the supervisor of user code: logs, counts, decides
            await self._failed(delivery, error)
        else:
            await self._transport.ack(delivery.ack_subject)
            self._handled.inc()
        finally:
            self._held.discard(delivery.ack_subject)
            self._active.dec()
            self._duration.observe(self._clock.monotonic() - began)
            if self._pull is not None:
                asyncio.get_running_loop().call_soon(self._pull.wake)

    async def _handle(self, delivery: Delivery) -> None:
        handler = self.handler
        if delivery.count > handler.retry.max + 1 + DELIVERIES_SLACK:
            raise TaskFailed(
                "event.delivered_too_often",
                f"delivered {delivery.count} times without an answer: its handler may kill the process",
            )
        head = from_headers(
            delivery.headers,
            event_type=self._names.event_type(delivery.subject),
            sequence=delivery.sequence,
            stored_at=delivery.at,
        )
        payload = handler.decoder.decode(delivery.data, f"payload of {head.type}")
        event = event_of(head, payload, sequence=delivery.sequence, delivery=delivery.count)
        context = Context(
            actor=head.actor,
            trace=head.trace,
            trace_state=context_from_headers(delivery.headers).trace_state,
            correlation=head.correlation or head.id,
            causation=head.id,
            module=handler.module,
        )
        with use(context):
            assert handler.function is not None
            await handler.function(event)

    async def _failed(self, delivery: Delivery, error: Exception) -> None:
        handler, info = self.handler, to_info(error)
        fields = {
            "module_id": handler.module,
            "handler": handler.name,
            "subject": delivery.subject,
            "sequence": delivery.sequence,
            "delivery": delivery.count,
            "code": info.code,
            "reason": info.message,
        }
        delay = handler.retry.next_delay(info, delivery.count, self._clock.random())
        if delay is not None:
            _logger.warning("event failed, will be retried", extra={**fields, "delay_seconds": delay})
            self._retried.inc()
            await self._transport.nak(delivery.ack_subject, delay)
            return
        try:
            now = self._clock.now()
            letter = await self._dead_letters.add(handler.module, handler.name, delivery, info, error, now)
        except JetloomError as refused:
            _logger.error("dead letter could not be stored", extra={**fields, "because": str(refused)})
            await self._transport.nak(delivery.ack_subject, DLQ_RETRY_SECONDS)
            return
        unexpected = error if not isinstance(error, JetloomError) else None
        _logger.error("event became a dead letter", extra={**fields, "letter": letter}, exc_info=unexpected)
        self._dead.inc()
        await self._transport.ack(delivery.ack_subject)

    async def _beat(self) -> None:
        # A third of the wait: two beats may be lost.
        while True:
            await asyncio.sleep(self.handler.ack_wait / 3)
            for ack_subject in list(self._held):
                await self._transport.beat(ack_subject)


def consumer_name(module: str, handler: str) -> str:
    """The durable consumer of a module's handler."""
    return join_name(module, handler)


def check_pattern(pattern: str) -> str:
    """Raises `NameInvalid` unless it is an event type in which tokens may be `*` and the last one `>`."""
    if not _PATTERN.fullmatch(pattern):
        raise NameInvalid("event pattern", pattern, "an event type whose tokens may be *, the last one >")
    return pattern
