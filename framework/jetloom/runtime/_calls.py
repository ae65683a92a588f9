"""Calling a module's own code: as the module, with a limit, and with every end as an error."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..telemetry import Context, use
from ..types import Actor, ActorKind


async def call_as[T](module: str, function: Callable[[], Awaitable[T]], seconds: float | None = None) -> T:
    """What `function` gives, called as the module. Raises what it raises; `TimeoutError` after `seconds`.

    A cancellation that nobody asked this task for comes out of the user's code (or of a library in it): a failure like
    any other, so `RuntimeError`. Else whoever waits for this task would take it for stopped.
    """
    limit = asyncio.timeout(seconds)
    try:
        with use(Context(actor=Actor(ActorKind.MODULE, module), module=module)):
            async with limit:
                return await function()
    except TimeoutError as error:
        if limit.expired():
            raise TimeoutError(f"took longer than {seconds:g} s") from error
        raise
    except asyncio.CancelledError as error:
        me = asyncio.current_task()
        if me is None or me.cancelling():
            raise
        raise RuntimeError("was cancelled from inside") from error
