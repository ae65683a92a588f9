"""Running step bodies in this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from ..clock import Clock
from ..errors import StepTimeout, to_info
from ..lifecycle import TaskSet
from ..messages import through_codec
from ..telemetry import Context as Travelling
from ..telemetry import Metrics, use
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
        self._metrics = metrics

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
        with Measure(self._metrics, self._clock, handler.name) as measure:
            ended = await run_body(handler, context, value, seconds, body)
            measure.outcome = outcome_of(ended)
        report(body, ended)


class Measure:
    """Counts one attempt of a body, here or in a worker; `outcome` is the metric's word for how it ended."""

    __slots__ = ("_active", "_began", "_clock", "_handler", "_metrics", "outcome")

    def __init__(self, metrics: Metrics | None, clock: Clock, handler: str) -> None:
        self.outcome = "cancelled"
        self._metrics = metrics
        self._clock = clock
        self._handler = handler
        self._began = 0.0

    def __enter__(self) -> Self:
        if self._metrics is not None:
            self._began = self._clock.monotonic()
            self._metrics.gauge("jetloom_active_steps").inc()
        return self

    def __exit__(self, *_: object) -> None:
        metrics = self._metrics
        if metrics is None:
            return
        metrics.gauge("jetloom_active_steps").dec()
        metrics.counter("jetloom_steps_total", handler=self._handler, outcome=self.outcome).inc()
        taken = self._clock.monotonic() - self._began
        metrics.histogram("jetloom_step_duration_seconds", handler=self._handler).observe(taken)


def outcome_of(ended: BodyEnded) -> str:
    """The metric's word for how an attempt ended."""
    if ended.cancelled:
        return "cancelled"
    return "failed" if ended.error is not None else "completed"


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
