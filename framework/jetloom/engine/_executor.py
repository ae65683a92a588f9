"""Running step bodies in this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from ..clock import Clock
from ..errors import StepTimeout, to_info
from ..lifecycle import TaskSet
from ..messages import through_codec
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

    def __init__(self, clock: Clock, tasks: TaskSet) -> None:
        self._clock = clock
        self._tasks = tasks

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
        report(body, await run_body(lambda: handler.function(context, value), context, seconds, body))


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
