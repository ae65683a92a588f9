"""Running step bodies in this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..clock import Clock
from ..errors import StepTimeout, to_info
from ..lifecycle import TaskSet
from ..messages import through_codec
from ..telemetry import Metrics
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
        handler: StepHandler,
        context: Context,
        value: JSON,
        deadline: float | None,
        report: Callable[[Body, BodyEnded], None],
    ) -> Body:
        body = Body()
        body.task = self._tasks.spawn(self._run(handler, context, value, deadline, body, report))
        return body

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
        with measured(self._metrics, self._clock, handler.name) as measure:
            ended = await run_body(lambda: handler.function(context, value), context, seconds, body)
            measure.outcome = outcome_of(ended)
        report(body, ended)


class Measure:
    """What one attempt came to, for the metrics."""

    def __init__(self) -> None:
        self.outcome = "cancelled"


@contextmanager
def measured(metrics: Metrics | None, clock: Clock, handler: str) -> Generator[Measure]:
    """Counts one attempt of a body, here or in a worker."""
    measure, began = Measure(), clock.monotonic()
    if metrics is None:
        yield measure
        return
    active = metrics.gauge("jetloom_active_steps")
    active.inc()
    try:
        yield measure
    finally:
        active.dec()
        metrics.counter("jetloom_steps_total", handler=handler, outcome=measure.outcome).inc()
        metrics.histogram("jetloom_step_duration_seconds", handler=handler).observe(clock.monotonic() - began)


def outcome_of(ended: BodyEnded) -> str:
    """The metric's word for how an attempt ended."""
    if ended.cancelled:
        return "cancelled"
    return "failed" if ended.error is not None else "completed"


async def run_body(
    call: Callable[[], Awaitable[JSON]], context: Context, seconds: float | None, body: Body
) -> BodyEnded:
    """Runs a body to its end, whatever that is; only a cancellation that was not asked for by us passes through."""
    unit, attempt = context.unit, context.attempt
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            output = through_codec(await call())
    except asyncio.CancelledError:
        if not body.cancelled:
            raise
        return BodyEnded(unit, attempt, cancelled=True, noted=context.noted)
    except TimeoutError as error:
        if limit.expired():
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
