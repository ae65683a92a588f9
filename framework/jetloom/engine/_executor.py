"""Running step bodies in this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..clock import Clock
from ..errors import StepTimeout, to_info
from ..lifecycle import TaskSet
from ..messages import through_codec
from ..telemetry import Context as Travelling
from ..telemetry import Counter, Histogram, Metrics, use
from ..types import JSON
from .core import BodyEnded

if TYPE_CHECKING:
    from ..runtime import StepHandler
    from ._context import Context

logger = logging.getLogger("jetloom.engine")


class Body:
    """One attempt of a unit, running here. `lost`: its cover moved on, nobody wants its result."""

    __slots__ = ("cancelled", "lost", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.cancelled = False
        self.lost = False

    def cancel(self, *, lost: bool = False) -> None:
        self.lost = self.lost or lost
        if not self.cancelled:
            self.cancelled = True
            if self.task is not None:
                self.task.cancel()


class Executor:
    """Starts bodies; hands what they end with to `report`, unless they are lost."""

    def __init__(self, clock: Clock, tasks: TaskSet, metrics: Metrics | None = None) -> None:
        self._clock = clock
        self._tasks = tasks
        self._meters = Meters(metrics, clock)

    def start(
        self,
        body: Body,
        handler: StepHandler,
        context: Context,
        value: JSON,
        deadline: float | None,
        report: Callable[[Body, BodyEnded], None],
    ) -> None:
        """Runs up to the body's first wait before it returns: one that waits for nothing has reported by then."""
        work = self._run(handler, context, value, deadline, body, report)
        task = self._tasks.spawn(work, eager=True)
        if not task.done():
            body.task = task
            if body.cancelled:
                task.cancel()

    async def _run(
        self,
        handler: StepHandler,
        context: Context,
        value: JSON,
        deadline: float | None,
        body: Body,
        report: Callable[[Body, BodyEnded], None],
    ) -> None:
        seconds = None if deadline is None else max(0.0, deadline - self._clock.now())
        report(body, await self._meters.measure(handler, context, value, seconds, body))


class Meters:
    """Runs bodies, here or in a worker, and counts them."""

    def __init__(self, metrics: Metrics | None, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._active = metrics.gauge("jetloom_active_steps") if metrics is not None else None
        self._seconds: dict[str, Histogram] = {}
        self._outcomes: dict[tuple[str, str], Counter] = {}

    async def measure(
        self, handler: StepHandler, context: Context, value: JSON, seconds: float | None, body: Body
    ) -> BodyEnded:
        """`run_body`, counted."""
        if self._metrics is None or self._active is None:
            return await run_body(handler, context, value, seconds, body)
        began = self._clock.monotonic()
        self._active.inc()
        outcome = "cancelled"
        try:
            ended = await run_body(handler, context, value, seconds, body)
            if not ended.cancelled:
                outcome = "failed" if ended.error is not None else "completed"
        finally:
            self._active.dec()
            self._ended(self._metrics, handler.name, outcome, self._clock.monotonic() - began)
        return ended

    def _ended(self, metrics: Metrics, name: str, outcome: str, seconds: float) -> None:
        counter = self._outcomes.get((name, outcome))
        if counter is None:
            counter = metrics.counter("jetloom_steps_total", handler=name, outcome=outcome)
            self._outcomes[(name, outcome)] = counter
        histogram = self._seconds.get(name)
        if histogram is None:
            histogram = metrics.histogram("jetloom_step_duration_seconds", handler=name)
            self._seconds[name] = histogram
        counter.inc()
        histogram.observe(seconds)


async def run_body(
    handler: StepHandler, context: Context, value: JSON, seconds: float | None, body: Body
) -> BodyEnded:
    """Runs a body to its end, whatever that is; only a cancellation that was not asked for by us passes through."""
    unit, attempt = context.unit, context.attempt
    limit: asyncio.Timeout | None = None
    around = Travelling(
        actor=context.actor,
        trace=context.trace,
        trace_state=context.trace_state,
        correlation=context.run,
        run=context.run,
        step=context.step,
    )
    try:
        with use(around):
            if seconds is None:
                output = through_codec(await handler.function(context, value))
            else:
                limit = asyncio.timeout(seconds)
                async with limit:
                    output = through_codec(await handler.function(context, value))
    except asyncio.CancelledError:
        if not body.cancelled:
            raise
        return BodyEnded(unit, attempt, cancelled=True, noted=context.noted)
    except TimeoutError as error:
        if limit is not None and limit.expired():
            info = StepTimeout(unit, seconds or 0.0).to_info()
        else:
            info = to_info(error)
        return BodyEnded(unit, attempt, error=info, noted=context.noted)
    except Exception as error:
        # User code: every exception of it is a failed attempt. It is journaled, and policy decides.
        logger.info(
            "a step body failed", extra={"run": context.run, "step": unit, "attempt": attempt}, exc_info=error
        )
        return BodyEnded(unit, attempt, error=to_info(error), noted=context.noted)
    return BodyEnded(unit, attempt, output=output, emits=tuple(context.emits), noted=context.noted, size=1024)
