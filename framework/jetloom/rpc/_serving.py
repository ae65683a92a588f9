"""One endpoint as it serves: a task for each request, a limit, a deadline, cancellation, an answer in parts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Literal, cast

import msgspec

from ..clock import Clock
from ..errors import (
    Disconnected,
    InvalidInput,
    JetloomError,
    NoResponders,
    PayloadTooLarge,
    RequestTimeout,
    Unavailable,
    to_info,
)
from ..lifecycle import TaskSet
from ..telemetry import Counter, Metrics, context_from_headers, get_logger, remaining_seconds, use
from ..transport import Incoming, Transport
from ..types import JSON
from ._endpoint import Endpoint
from ._errors import Busy, error_reply
from ._wire import (
    H_PART,
    H_PARTS,
    H_REQUEST_ID,
    PART_BEGINS,
    PART_END,
    PARTS_BYTES_MAX,
    PARTS_MAX,
    READER_SECONDS,
    REQUEST_ID_CHARACTERS_MAX,
    SILENT_SECONDS,
    WINDOW_BYTES,
    WINDOW_PARTS,
)

HANDLING_SECONDS = 300.0
"""How long a request without a deadline may take; above any caller's patience, so that nothing is held for ever."""

REFUSALS_MAX = 1_000
"""Refusals being sent at once; while the connection is that crowded, further callers run into their timeouts."""

PLAIN: dict[str, str] = {}
"""Headers of an answer: none, as it is JSON by contract and headers cost both ends more than the rest of a message."""

_logger = get_logger("rpc")


class EndpointStats(msgspec.Struct):
    """Counted since the start; times in nanoseconds, as ADR-32 has them; `data`: running now, the limit."""

    name: str
    subject: str
    queue_group: str = "q"
    num_requests: int = 0
    num_errors: int = 0
    last_error: str = ""
    processing_time: int = 0
    average_processing_time: int = 0
    data: dict[str, JSON] | None = None


class _ReaderGone(Exception):
    """Nobody waits for the answer, or takes its parts, any more."""


class Work:
    """A request that is being handled: its task, its deadline (the loop's time), and why it was cancelled."""

    __slots__ = ("due", "ended", "returned", "seconds", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[object] | None = None
        """None until it has begun: a task that is cancelled before would never count its end."""
        self.due = 0.0
        self.seconds = 0.0
        self.ended: Literal["", "deadline", "caller"] = ""
        self.returned = False

    def end(self, why: Literal["deadline", "caller"]) -> None:
        """Cancels the work, once; nothing when its function has returned already."""
        if not self.ended and not self.returned:
            self.ended = why
            if self.task is not None:
                self.task.cancel(why)


class Deadlines:
    """Ends work at its deadline, with one timer for all: it is set for the earliest, and looks again when it fires.

    Most requests end long before, so a timer for each would only be made and thrown away.
    """

    __slots__ = ("_at", "_timer", "_works")

    def __init__(self) -> None:
        self._works: set[Work] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    def add(self, work: Work, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        work.seconds, work.due = seconds, loop.time() + seconds
        self._works.add(work)
        if self._timer is None or work.due < self._at:
            self._set(work.due)

    def drop(self, work: Work) -> None:
        """The work's function has returned: nothing cancels the answer."""
        work.returned = True
        self._works.discard(work)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, due: float) -> None:
        self.stop()
        self._at = due
        self._timer = asyncio.get_running_loop().call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for work in [work for work in self._works if work.due <= now]:
            self._works.discard(work)
            work.end("deadline")
        if self._works:
            self._set(min(work.due for work in self._works))


class EndpointServer:
    """Takes the requests of one endpoint. `cancellable` is the service's table of requests by their id."""

    def __init__(
        self,
        service: str,
        endpoint: Endpoint,
        transport: Transport,
        clock: Clock,
        metrics: Metrics,
        tasks: TaskSet,
        deadlines: Deadlines,
        cancellable: dict[str, Work],
    ) -> None:
        self.endpoint = endpoint
        self.stats = EndpointStats(endpoint.name, endpoint.subject, endpoint.group)
        self.running = 0
        self.draining = False
        self._service = service
        self._transport = transport
        self._clock = clock
        self._metrics = metrics
        self._tasks = tasks
        self._deadlines = deadlines
        self._cancellable = cancellable
        self._refusing = 0
        self._limit = endpoint.timeout if endpoint.timeout is not None else HANDLING_SECONDS
        self._active = metrics.gauge("jetloom_handling_requests", service=service)
        self._labels = {"service": service, "endpoint": endpoint.name}
        self._durations = metrics.histogram("jetloom_request_duration_seconds", **self._labels)
        self._ok = self._counter("ok")

    def receive(self, request: Incoming) -> None:
        """A request has arrived: it is handled, or refused; never queued."""
        if self.draining:
            self._refuse(request, Unavailable(f"{self._service} is stopping"))
        elif self.running >= self.endpoint.concurrency:
            self._refuse(request, Busy(f"{self._service}.{self.endpoint.name}", self.endpoint.concurrency))
        else:
            self.running += 1
            work = Work()
            key = request.headers.get(H_REQUEST_ID, "") if request.headers else ""
            if key and len(key) <= REQUEST_ID_CHARACTERS_MAX:
                # At once: the cancellation may already be the next message.
                self._cancellable[key] = work
            # Eagerly: most requests wait for nothing, and are answered together with those that came with them.
            self._tasks.spawn(self._serve(request, work, key), eager=True)

    def snapshot(self) -> EndpointStats:
        """The figures, as `$SRV.STATS` answers them."""
        now: dict[str, JSON] = {"running": self.running, "limit": self.endpoint.concurrency}
        return msgspec.structs.replace(self.stats, data=now)

    def _refuse(self, request: Incoming, error: JetloomError) -> None:
        self._count(0.0, error)
        if self._refusing < REFUSALS_MAX:
            self._refusing += 1
            self._tasks.spawn(self._send_refusal(request, error), eager=True)

    async def _send_refusal(self, request: Incoming, error: JetloomError) -> None:
        try:
            await self._reply(request.reply, *error_reply(error))
        finally:
            self._refusing -= 1

    async def _serve(self, request: Incoming, work: Work, key: str) -> None:
        work.task = asyncio.current_task()
        self._active.inc()
        began = self._clock.monotonic()
        failed: BaseException | None = None
        to = request.headers.get(H_PARTS, request.reply) if self.endpoint.parts else request.reply
        try:
            if work.ended:
                raise _ReaderGone
            data = await self._run(request, work, to)
            if data is not None:
                await self._reply(to, data, PLAIN)
        except asyncio.CancelledError as error:
            failed = await self._cut_off(work, to, error)
            if not work.ended:
                raise
        except _ReaderGone as error:
            failed = error
        except Exception as error:  # the supervisor of user code: logs, counts, decides
            failed = error
            if not isinstance(error, JetloomError):
                _logger.error("endpoint failed", extra=self._labels, exc_info=error)
            await self._reply(to, *error_reply(error))
        finally:
            if key and self._cancellable.get(key) is work:
                del self._cancellable[key]
            self.running -= 1
            self._active.dec()
            self._count(self._clock.monotonic() - began, failed)

    async def _run(self, request: Incoming, work: Work, to: str) -> bytes | None:
        """Calls the endpoint's function under the caller's context and deadline; None when it answered in parts."""
        context = context_from_headers(request.headers)
        seconds = remaining_seconds(context, self._clock, self._limit)
        if seconds <= 0:
            raise RequestTimeout(self.endpoint.subject, 0)
        self._deadlines.add(work, seconds)
        try:
            with use(msgspec.structs.replace(context, module=self._service)):
                if self.endpoint.function is not None:
                    return await self.endpoint.function(request.data)
                if self.endpoint.parts is not None:
                    await self._answer_in_parts(self.endpoint.parts(request.data), request, to)
                return None
        finally:
            self._deadlines.drop(work)

    async def _cut_off(self, work: Work, to: str, cancelled: asyncio.CancelledError) -> BaseException:
        """Something cancelled the work: the deadline and a stop are answered, a caller who left is not."""
        task = asyncio.current_task()
        if work.ended and task is not None:
            task.uncancel()
        match work.ended:
            case "deadline":
                late = RequestTimeout(self.endpoint.subject, work.seconds)
                await self._reply(to, *error_reply(late))
                return late
            case "caller":
                return cancelled
            case "":
                stopped = Unavailable(f"{self._service} stopped before it had answered")
                await self._reply(to, *error_reply(stopped))
                return cancelled

    async def _reply(self, to: str, data: bytes, headers: dict[str, str]) -> None:
        if not to:
            return
        try:
            await self._transport.publish(to, data, headers=headers)
        except PayloadTooLarge as error:
            body, error_headers = error_reply(error)
            await self._transport.publish(to, body, headers=error_headers)
        except Disconnected:
            # The caller's request has failed with the connection; nobody waits for this answer.
            _logger.warning("answer dropped: disconnected", extra=self._labels)

    # -- an answer in parts
    async def _answer_in_parts(self, series: AsyncIterator[bytes], request: Incoming, to: str) -> None:
        """Each part a message to `to`, then an empty one; never more than a window ahead of the reader."""
        if not to:
            raise InvalidInput(f"{self.endpoint.subject} answers in parts: a request needs a reply subject")
        answers = H_PARTS in request.headers
        if answers and request.reply:
            await self._transport.publish(request.reply, b"", headers={H_PART: PART_BEGINS})
        sent = size = ahead = ahead_bytes = 0
        async with _closing(series):
            async for part in series:
                sent, size = sent + 1, size + len(part)
                ahead, ahead_bytes = ahead + 1, ahead_bytes + len(part)
                self._check_limits(sent, size)
                headers = {H_PART: str(sent)}
                if ahead < WINDOW_PARTS and ahead_bytes < WINDOW_BYTES:
                    await self._transport.publish(to, part, headers=headers)
                else:
                    await self._ask(to, part, headers, answers)
                    ahead = ahead_bytes = 0
        await self._transport.publish(to, b"", headers={H_PART: PART_END})

    def _check_limits(self, sent: int, size: int) -> None:
        what = f"the answer of {self.endpoint.subject} in parts"
        if size > PARTS_BYTES_MAX:
            raise PayloadTooLarge(what, size, PARTS_BYTES_MAX)
        if sent > PARTS_MAX:
            raise InvalidInput(f"{what} has more than {PARTS_MAX} parts: send larger ones, or fewer")

    async def _ask(self, to: str, part: bytes, headers: dict[str, str], answers: bool) -> None:
        """Sends a part that asks for an answer: whether somebody is there, and has read so far."""
        try:
            seconds = READER_SECONDS if answers else SILENT_SECONDS
            await self._transport.request(to, part, headers=headers, timeout=seconds)
        except NoResponders as error:
            raise _ReaderGone from error
        except RequestTimeout as error:
            if answers:
                raise Unavailable(
                    f"the reader of {self.endpoint.subject} took no part for {READER_SECONDS:g} s"
                ) from error

    # -- counting
    def _counter(self, outcome: str) -> Counter:
        return self._metrics.counter("jetloom_requests_total", outcome=outcome, **self._labels)

    def _count(self, seconds: float, error: BaseException | None) -> None:
        stats = self.stats
        stats.num_requests += 1
        stats.processing_time += int(seconds * 1e9)
        stats.average_processing_time = stats.processing_time // stats.num_requests
        self._durations.observe(seconds)
        if error is None:
            self._ok.inc()
        elif isinstance(error, asyncio.CancelledError | _ReaderGone):
            # The endpoint raised nothing: its caller left, or its process ends.
            self._counter("cancelled").inc()
        else:
            info = to_info(error)
            stats.num_errors += 1
            stats.last_error = f"{info.code}: {info.message}"[:500]
            self._counter(info.code).inc()


def _closing(series: AsyncIterator[bytes]) -> contextlib.AbstractAsyncContextManager[object]:
    """Ends a generator when its reader leaves, so that its `finally` runs now and not at some collection."""
    if isinstance(series, AsyncGenerator):
        return contextlib.aclosing(cast("AsyncGenerator[bytes]", series))
    return contextlib.nullcontext()
