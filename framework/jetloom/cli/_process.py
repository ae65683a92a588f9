"""Running a command's coroutine: the event loop, Ctrl-C, and the signals of a process that serves."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ._exit import INTERRUPTED, OK

if TYPE_CHECKING:
    import asyncio
    import signal
    from collections.abc import Callable, Coroutine
    from types import FrameType
    from typing import Any, Protocol

    class Serving(Protocol):
        """What `serve` starts and stops."""

        async def start(self) -> None: ...
        async def stop(self, deadline: float = ...) -> None: ...
        def kill(self) -> None:
            """Ends at once what would outlive the process (a server that it started)."""
            ...


def run_command[T](main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs a short command. Ctrl-C cancels it, its clean-up runs, and KeyboardInterrupt comes out."""
    import asyncio

    return asyncio.run(main())


def run_service(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Runs a process that serves, on uvloop where it is to be had."""
    import asyncio

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def serve(
    app: Serving, *, deadline: float, ready: Callable[[], None], draining: Callable[[str], None]
) -> int:
    """Starts `app`, serves until SIGTERM or SIGINT, drains within `deadline` seconds.

    A second signal ends the process at once, even when something blocks the loop: its work is taken up by others.
    """
    import asyncio
    import signal

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    received: list[str] = []

    def at_once(_number: int, _frame: FrameType | None) -> None:
        app.kill()
        os._exit(INTERRUPTED)

    def on_signal(number: signal.Signals) -> None:
        received.append(number.name)
        stop.set()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
            signal.signal(each, at_once)

    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    for each in before:
        loop.add_signal_handler(each, on_signal, each)
    try:
        started = await _start_unless(app, stop)
        if started:
            ready()
            await stop.wait()
        draining(received[0])
        await app.stop(deadline)
    finally:
        for each, handler in before.items():
            loop.remove_signal_handler(each)
            signal.signal(each, handler)
    return OK if started else INTERRUPTED


async def _start_unless(app: Serving, stop: asyncio.Event) -> bool:
    """Starts `app`; False when a signal came first. What a failed or cancelled start had begun is stopped."""
    import asyncio

    try:
        async with asyncio.TaskGroup() as group:
            starting = group.create_task(app.start(), name="start")
            waiting = group.create_task(stop.wait(), name="signal")
            await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
            starting.cancel()
            waiting.cancel()
    except BaseExceptionGroup as failed:
        # One task can fail here: the caller wants its error, not the group around it.
        raise failed.exceptions[0] from None
    return not starting.cancelled()
