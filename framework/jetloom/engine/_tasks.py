"""A worker: takes tasks of the handlers that it serves, runs them, answers, and only then acknowledges."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from ..clock import SYSTEM_CLOCK, Clock
from ..errors import (
    ConditionFailed,
    Disconnected,
    ErrorClass,
    ErrorInfo,
    NoResponders,
    OutcomeUnknown,
    PayloadTooLarge,
    Refused,
    RequestTimeout,
)
from ..lifecycle import TaskSet
from ..messages import (
    H_ACTOR,
    H_DEADLINE,
    H_REPLY,
    H_TRACE,
    H_TRACE_STATE,
    Names,
    Result,
    SettledAnswer,
    SettledQuery,
    StopNotice,
    Task,
    TaskAddress,
    encode,
    from_rfc3339,
)
from ..stores import TASK_ACK_WAIT
from ..telemetry import Metrics
from ..transport import Beater, Delivery, Incoming, Pull, Subscription, Transport
from ..types import SYSTEM, Actor
from ._constants import PULL_EXPIRY
from ._context import Context
from ._executor import Body, Meters
from .core import DELIVERIES_MAX

if TYPE_CHECKING:
    from ..runtime import StepHandler

logger = logging.getLogger("jetloom.worker")

ASK_AGAIN = 1.0
SETTLED_FRESH = 1.0
"""An answer older than this may be outdated: the attempt may have ended meanwhile."""
PAUSE_MAX = 1.0

_tasks = msgspec.json.Decoder(Task)
_answers = msgspec.json.Decoder(SettledAnswer)
_notices = msgspec.json.Decoder(StopNotice)


class Worker:
    """Serves handlers until it is stopped.

    Their consumers are made by whoever registers a definition that names them.
    """

    def __init__(
        self,
        transport: Transport,
        names: Names,
        *,
        clock: Clock = SYSTEM_CLOCK,
        handlers: Mapping[str, StepHandler],
        metrics: Metrics | None = None,
    ) -> None:
        self._transport = transport
        self._names = names
        self._clock = clock
        self._handlers = handlers
        self._metrics = metrics
        self._meters = Meters(metrics, clock)
        self._serving = TaskSet("task", metrics)
        self._active: dict[str, int] = dict.fromkeys(handlers, 0)
        self._bodies: dict[tuple[str, int, str, int], Body] = {}
        self._held: dict[str, Delivery] = {}
        self._pulls: dict[str, Pull] = {}
        self._subscriptions: list[Subscription] = []
        self._beater: Beater | None = None
        self._draining = False

    async def start(self) -> None:
        """Returns when it listens; it pulls as soon as its handlers' consumers exist."""
        if self._beater is not None:
            return
        self._beater = await self._transport.open_beater()
        for name in self._handlers:
            self._subscriptions.append(await self._transport.subscribe(self._names.stop(name), self._on_stop))
            self._pulls[name] = await self._transport.pull(
                self._names.tasks_stream,
                self._names.task_consumer(name),
                self._on_task,
                capacity=lambda name=name: self._free(name),
                expiry=PULL_EXPIRY,
            )

    async def stop(self, deadline: float = 10.0) -> None:
        """Pulls nothing more, lets bodies end for `deadline` seconds, gives the rest back."""
        if self._draining:
            return
        self._draining = True
        await asyncio.gather(*(pull.stop() for pull in self._pulls.values()))
        await self._serving.join(deadline)
        for body in self._bodies.values():
            body.cancel(lost=True)
        await self._serving.stop(grace=1.0)
        for delivery in self._held.values():
            await self._transport.nak(delivery.ack_subject)
        for subscription in self._subscriptions:
            await subscription.stop()
        if self._beater is not None:
            await self._beater.stop()

    def _free(self, name: str) -> int:
        return 0 if self._draining else self._handlers[name].concurrency - self._active[name]

    # -- receiving
    def _on_task(self, delivery: Delivery) -> None:
        address = self._names.parse_task(delivery.subject)
        if address is None or address.handler not in self._handlers:
            logger.warning("a task for nobody here", extra={"subject": delivery.subject})
            return
        if self._draining:
            self._serving_nak(delivery)
            return
        identity = delivery.subject
        if identity in self._held:
            # Delivered again while its body runs here: its beats were late. The newest ack subject serves.
            self._held[identity] = delivery
            return
        self._held[identity] = delivery
        self._active[address.handler] += 1
        self._serving.spawn(self._serve(address, delivery))

    def _serving_nak(self, delivery: Delivery) -> None:
        self._serving.spawn(self._transport.nak(delivery.ack_subject))

    def _on_stop(self, incoming: Incoming) -> None:
        notice = _notices.decode(incoming.data)
        body = self._bodies.get((notice.run, notice.inc, notice.step, notice.attempt))
        if body is not None:
            body.cancel()

    async def _serve(self, address: TaskAddress, delivery: Delivery) -> None:
        beater = self._beater
        if beater is not None:
            beater.hold(delivery.ack_subject, TASK_ACK_WAIT / 3)
        try:
            settled = await self._settled(address, delivery)
            if settled:
                await self._acknowledge(delivery)
            if settled is not False:
                return
            result = await self._run(address, delivery)
            if result is not None and await self._answer(address, delivery, result):
                await self._acknowledge(delivery)
        finally:
            if beater is not None:
                beater.drop(delivery.ack_subject)
            if result_kept := self._held.get(delivery.subject):
                if self._draining and result_kept is delivery:
                    await self._transport.nak(delivery.ack_subject)
                self._held.pop(delivery.subject, None)
            self._active[address.handler] -= 1
            pull = self._pulls.get(address.handler)
            if pull is not None:
                pull.wake()

    async def _acknowledge(self, delivery: Delivery) -> None:
        newest = self._held.pop(delivery.subject, delivery)
        await self._transport.ack(newest.ack_subject)

    # -- W1: has this attempt been answered already?
    async def _settled(self, address: TaskAddress, delivery: Delivery) -> bool | None:
        """None: nobody could say before the drain; the task is given back."""
        late = self._clock.monotonic() - delivery.basis >= TASK_ACK_WAIT
        if delivery.count == 1 and not late:
            return False
        query = encode(SettledQuery(address.run, address.inc, address.step, address.attempt, address.handler))
        while True:
            asked = self._clock.monotonic()
            try:
                reply = await self._transport.request(self._names.settled(), query, timeout=ASK_AGAIN)
                if self._clock.monotonic() - asked <= SETTLED_FRESH:
                    return _answers.decode(reply.data).settled
            except (NoResponders, RequestTimeout, Disconnected):
                if self._draining:
                    return None
            await asyncio.sleep(ASK_AGAIN)

    # -- W2: the body
    async def _run(self, address: TaskAddress, delivery: Delivery) -> Result | None:
        if delivery.count > DELIVERIES_MAX:
            message = f"its workers died {delivery.count - 1} times"
            return Result("error", error=ErrorInfo("task.poison", message, ErrorClass.RETRYABLE))
        try:
            task = _tasks.decode(delivery.data) if delivery.data else Task()
        except msgspec.DecodeError as error:
            return Result("error", error=ErrorInfo("task.undecodable", str(error), ErrorClass.TERMINAL))
        deadline_text = delivery.headers.get(H_DEADLINE, "")
        deadline = from_rfc3339(deadline_text, 0.0) if deadline_text else None
        actor = delivery.headers.get(H_ACTOR)
        context = Context(
            self._transport,
            self._names,
            run=address.run,
            inc=address.inc,
            unit=address.step,
            attempt=address.attempt,
            actor=Actor.parse(actor) if actor else SYSTEM,
            deadline=deadline,
            trace=delivery.headers.get(H_TRACE, ""),
            trace_state=delivery.headers.get(H_TRACE_STATE, ""),
        )
        handler, body = self._handlers[address.handler], Body()
        key = (address.run, address.inc, address.step, address.attempt)
        body.task = asyncio.current_task()
        self._bodies[key] = body
        seconds = None if deadline is None else max(0.0, deadline - self._clock.now())
        try:
            ended = await self._meters.measure(handler, context, task.input, seconds, body)
        finally:
            del self._bodies[key]
        if body.lost:
            return None
        if ended.cancelled:
            error = ErrorInfo(
                "step.cancelled", "the run does not need this attempt any more", ErrorClass.TERMINAL
            )
            return Result("error", error=error, noted=ended.noted)
        if ended.error is not None:
            return Result("error", error=ended.error, noted=ended.noted)
        return Result("ok", output=ended.output, emits=ended.emits, noted=ended.noted)

    # -- W3: the answer. The first one that is stored counts
    async def _answer(self, address: TaskAddress, delivery: Delivery, result: Result) -> bool:
        own = self._names.result(address.run, address.handler, address.inc, address.step, address.attempt)
        reply, pause = delivery.headers.get(H_REPLY) or own, 0.01
        while True:
            try:
                await self._transport.append(reply, encode(result), expected=0)
                return True
            except ConditionFailed:
                return True
            except PayloadTooLarge as error:
                result = Result("error", error=error.to_info())
            except (OutcomeUnknown, Refused):
                # A copy that is still stored refuses this one; a consumed one is told apart by the fold. Refused: the
                # mailbox is full, and running the body again would not make room.
                await asyncio.sleep(pause)
                pause = min(pause * 2, PAUSE_MAX)
