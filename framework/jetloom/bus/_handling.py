"""One handler's path of an event: read, filtered, marked, called."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import msgspec

from ..clock import Clock
from ..errors import HandlerTimeout, InvalidInput, TaskFailed
from ..expressions import Expression, compile_expression
from ..messages import Names, decode_plain, encode, is_structured, to_binary_mode
from ..telemetry import Context, Metrics, use
from ..transport import Delivery, Transport
from ..types import JSON
from ._event import Event
from ._handler import EventHandler
from ._head import Head, read_head, scope_of
from ._marks import Claim, Marks
from ._patterns import check_pattern, consumer_name

DELIVERIES_SLACK = 20
"""Deliveries beyond the tries that its retries allow before an event is a dead letter unseen: one that kills its
process every time never fails, and restarts of the process count too."""

_EVENT = frozenset({"event"})

type Outcome = Literal["handled", "filtered", "duplicate"]


def check_event_handler(handler: EventHandler[object]) -> None:
    """Raises `NameInvalid`, `ExpressionInvalid` with the position, `InvalidInput` for what can't be together."""
    check_pattern(handler.pattern)
    where = f"handler {handler.module}.{handler.name}"
    for source in (handler.where, handler.key):
        if source:
            compile_expression(source, _EVENT)
    problems: list[str] = []
    if (handler.function is None) == (handler.many is None):
        problems.append("it needs one function, for an event or for a batch of them")
    if (handler.batch > 0) != (handler.many is not None):
        problems.append(
            "batch, at least 1, goes with a function that takes a list of events, and only with it"
        )
    if handler.many is not None and handler.key:
        problems.append("key and batch exclude each other: a batch has events of several keys")
    if handler.mode == "live" and (handler.key or handler.dedupe or handler.batch):
        problems.append("a live subscription has no key, dedupe or batch: use mode broadcast")
    if handler.dedupe and handler.dedupe < 1:
        problems.append(f"dedupe {handler.dedupe:g} s: at least 1 s, the server counts whole seconds")
    if handler.concurrency < 1:
        problems.append(f"concurrency {handler.concurrency}: at least 1")
    if handler.ack_wait < 1:
        problems.append(f"ack_wait {handler.ack_wait:g} s: at least 1 s, beats have to arrive within it")
    if handler.timeout is not None and handler.timeout <= 0:
        problems.append(f"timeout {handler.timeout:g} s: above 0, or None for no limit")
    if isinstance(handler.start, datetime) and handler.start.tzinfo is None:
        problems.append(f"start {handler.start.isoformat()}: a time needs its zone")
    if isinstance(handler.start, int) and handler.start < 1:
        problems.append(f"start {handler.start}: sequences begin at 1")
    if problems:
        raise InvalidInput(f"{where}: {'; '.join(problems)}", problems=problems)


class Handling[T]:
    """What is done with one event of a handler. Expressions are compiled here: a wrong one raises."""

    def __init__(
        self,
        handler: EventHandler[T],
        transport: Transport,
        names: Names,
        clock: Clock,
        metrics: Metrics,
        *,
        consumer: str = "",
    ) -> None:
        self.handler = handler
        self._names = names
        self._where = compile_expression(handler.where, _EVENT) if handler.where else None
        self._key = compile_expression(handler.key, _EVENT) if handler.key else None
        self._limit = handler.retry.max + 1 + DELIVERIES_SLACK
        self.marks = (
            Marks(
                transport,
                names,
                clock,
                consumer or consumer_name(handler.module, handler.name),
                keep=handler.dedupe,
                stale=handler.ack_wait,
            )
            if handler.dedupe
            else None
        )
        labels = {"module": handler.module, "handler": handler.name}
        self._filtered = metrics.counter("jetloom_events_filtered_total", **labels)
        self._deduped = metrics.counter("jetloom_events_deduped_total", **labels)

    async def handle(self, delivery: Delivery, *, replay: bool = False) -> Outcome:
        """Raises what the function raises, `DecodeFailed`, `ExpressionFailed`, `HandlerTimeout`, and `TaskFailed` for
        what was delivered too often. A replay passes by the filter, and counts no deliveries."""
        if not replay:
            self.check_count(delivery)
        delivery = _in_binary_mode(delivery)
        head = self._head(delivery)
        if not replay and self._where is not None and not self._wanted(self._where, head, delivery):
            self._filtered.inc()
            return "filtered"
        event = self._event(head, delivery)
        if self.marks is None:
            await self._call_one(event, head)
            return "handled"
        claim = await self.marks.claim(head.source, head.id, delivery.sequence)
        if not isinstance(claim, Claim):
            self._deduped.inc()
            return "duplicate"
        try:
            await self._call_one(event, head)
        except asyncio.CancelledError:
            # The same delivery takes it over at once.
            self.marks.abandon(claim)
            raise
        except BaseException:
            await self.marks.release(claim)
            raise
        await self.marks.done(claim)
        return "handled"

    # -- for batches
    def read(self, delivery: Delivery) -> Event[T] | None:
        """The event; None when the filter passes it over. Raises as `handle`."""
        self.check_count(delivery)
        delivery = _in_binary_mode(delivery)
        head = self._head(delivery)
        if self._where is not None and not self._wanted(self._where, head, delivery):
            self._filtered.inc()
            return None
        return self._event(head, delivery)

    async def call_many(self, events: list[Event[T]]) -> None:
        handler = self.handler
        if handler.many is None:
            raise InvalidInput(f"handler {handler.module}.{handler.name} takes one event at a time")
        with use(Context(module=handler.module)):
            if handler.timeout is None:
                await handler.many(events)
                return
            limit = asyncio.timeout(handler.timeout)
            try:
                async with limit:
                    await handler.many(events)
            except TimeoutError as error:
                if limit.expired():
                    raise self._late(handler.timeout) from error
                raise

    def deduped(self) -> None:
        self._deduped.inc()

    # -- for order
    def key_of(self, delivery: Delivery) -> str:
        """The event's key as text. Raises `DecodeFailed`, `ExpressionFailed`."""
        if self._key is None:
            return ""
        delivery = _in_binary_mode(delivery)
        return encode(self._key.evaluate(self._scope(self._key, None, delivery))).decode()

    # -- inside
    def check_count(self, delivery: Delivery) -> None:
        if delivery.count > self._limit:
            raise TaskFailed(
                "event.delivered_too_often",
                f"delivered {delivery.count} times without an answer: its handler may kill the process",
            )

    def _head(self, delivery: Delivery) -> Head:
        event_type = self._names.event_type(delivery.subject)
        return read_head(delivery.headers, event_type, delivery.sequence, delivery.at)

    def _wanted(self, where: Expression, head: Head, delivery: Delivery) -> bool:
        return where.evaluate_bool(self._scope(where, head, delivery))

    def _scope(self, expression: Expression, head: Head | None, delivery: Delivery) -> Mapping[str, JSON]:
        """What the expression reads of the event; most read the payload only."""
        parts = {reference[1] if len(reference) > 1 else "" for reference in expression.references}
        if parts == {"payload"}:
            event_type = self._names.event_type(delivery.subject)
            return {"event": {"payload": decode_plain(delivery.data, f"payload of {event_type}")}}
        return scope_of(
            head or self._head(delivery),
            delivery.data,
            sequence=delivery.sequence,
            delivery=delivery.count,
            with_payload=not parts.isdisjoint(("", "payload")),
        )

    def _event(self, head: Head, delivery: Delivery) -> Event[T]:
        payload = self.handler.decoder.decode(delivery.data, "the payload")
        return Event(
            id=head.id,
            type=head.type,
            source=head.source,
            time=head.time,
            payload=payload,
            sequence=delivery.sequence,
            delivery=delivery.count,
            actor=head.actor,
            trace=head.trace,
            correlation=head.correlation,
            causation=head.causation,
        )

    async def _call_one(self, event: Event[T], head: Head) -> None:
        handler = self.handler
        function = handler.function
        if function is None:
            await self.call_many([event])
            return
        # Neither the sender's deadline nor its run: an event is handled whenever it is.
        context = Context(
            actor=head.actor,
            trace=head.trace,
            trace_state=head.trace_state,
            correlation=head.correlation or head.id,
            causation=head.id,
            module=handler.module,
        )
        with use(context):
            if handler.timeout is None:
                await function(event)
                return
            limit = asyncio.timeout(handler.timeout)
            try:
                async with limit:
                    await function(event)
            except TimeoutError as error:
                if limit.expired():
                    raise self._late(handler.timeout) from error
                raise

    def _late(self, seconds: float) -> HandlerTimeout:
        return HandlerTimeout(self.handler.module, self.handler.name, seconds)


def _in_binary_mode(delivery: Delivery) -> Delivery:
    """As if its sender had put the attributes into headers. Raises `DecodeFailed`."""
    if not is_structured(delivery.headers):
        return delivery
    headers, data = to_binary_mode(delivery.headers, delivery.data)
    return msgspec.structs.replace(delivery, headers=headers, data=data)
