"""A NATS micro service: endpoints, and the discovery subjects that any client asks."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import msgspec

from ..clock import Clock
from ..errors import (
    Disconnected,
    JetloomError,
    NameInvalid,
    PayloadTooLarge,
    RequestTimeout,
    Unavailable,
    to_info,
)
from ..lifecycle import TaskSet
from ..messages import H_CONTENT_TYPE, encode, to_rfc3339
from ..telemetry import Metrics, context_from_headers, get_logger, remaining_seconds, use
from ..transport import Incoming, Subscription, Transport
from ._endpoint import Endpoint
from ._errors import Busy, error_reply

QUEUE = "q"
"""The queue group that ADR-32 gives endpoints: each request reaches one instance."""

HANDLING_SECONDS = 300.0
"""How long a request without a deadline may take; above any caller's patience, so that nothing is held for ever."""

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)([-+][0-9A-Za-z.+-]+)?")
_PREFIX = "io.nats.micro.v1."

_logger = get_logger("rpc")


class EndpointStats(msgspec.Struct):
    """Counted since the start; times in nanoseconds, as ADR-32 has them."""

    name: str
    subject: str
    queue_group: str = QUEUE
    num_requests: int = 0
    num_errors: int = 0
    last_error: str = ""
    processing_time: int = 0
    average_processing_time: int = 0


class _EndpointInfo(msgspec.Struct, frozen=True):
    name: str
    subject: str
    queue_group: str
    metadata: dict[str, str]


class MicroService:
    """Serves endpoints under one name: `start`, then `drain` and `stop`."""

    def __init__(
        self,
        name: str,
        endpoints: list[Endpoint],
        transport: Transport,
        clock: Clock,
        metrics: Metrics,
        *,
        version: str = "0.1.0",
        description: str = "",
        metadata: dict[str, str] | None = None,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise NameInvalid("service", name, "A-Z a-z 0-9 _ -")
        if not _VERSION.fullmatch(version):
            raise NameInvalid("version", version, "a semantic version such as 1.2.0")
        for endpoint in endpoints:
            if not _NAME.fullmatch(endpoint.name):
                raise NameInvalid("endpoint", endpoint.name, "A-Z a-z 0-9 _ -")
        self.name = name
        self.id = clock.token()[:22]
        self.endpoints = list(endpoints)
        self.stats = {each.name: EndpointStats(each.name, each.subject) for each in endpoints}
        self._transport = transport
        self._clock = clock
        self._metrics = metrics
        self._identity = {"name": name, "id": self.id, "version": version, "metadata": metadata or {}}
        self._description = description
        self._started = ""
        self._serving: list[Subscription] = []
        self._discovery: list[Subscription] = []
        self._tasks = TaskSet("request-handler", metrics)
        self._replies = TaskSet("discovery-reply", metrics)
        self._running: dict[str, int] = {each.name: 0 for each in endpoints}
        self._active = metrics.gauge("jetloom_handling_requests", service=name)
        self._draining = False

    async def start(self) -> None:
        """Returns when the server knows every subject."""
        if self._started:
            return
        self._started = to_rfc3339(self._clock.now())
        for endpoint in self.endpoints:
            self._serving.append(
                await self._transport.subscribe(endpoint.subject, self._receiver(endpoint), queue=QUEUE)
            )
        for verb in ("PING", "INFO", "STATS"):
            for tail in ("", f".{self.name}", f".{self.name}.{self.id}"):
                self._discovery.append(
                    await self._transport.subscribe(f"$SRV.{verb}{tail}", self._discoverer(verb))
                )

    async def drain(self, seconds: float) -> int:
        """Takes no further request and lets the running ones end for `seconds`; how many were cut off."""
        self._draining = True
        for subscription in (*self._serving, *self._discovery):
            await subscription.stop()
        cancelled = await self._tasks.stop(grace=max(seconds, 0.001))
        await self._replies.stop(grace=0.1)
        return cancelled

    async def stop(self) -> None:
        await self.drain(0)

    # -- requests
    def _receiver(self, endpoint: Endpoint) -> Callable[[Incoming], None]:
        def receive(request: Incoming) -> None:
            if self._draining:
                self._tasks.spawn(self._refuse(endpoint, request, Unavailable(f"{self.name} is stopping")))
            elif self._running[endpoint.name] >= endpoint.concurrency:
                busy = Busy(f"{self.name}.{endpoint.name}", endpoint.concurrency)
                self._tasks.spawn(self._refuse(endpoint, request, busy))
            else:
                self._running[endpoint.name] += 1
                self._tasks.spawn(self._serve(endpoint, request))

        return receive

    async def _refuse(self, endpoint: Endpoint, request: Incoming, error: JetloomError) -> None:
        self._count(endpoint, 0, error)
        await self._reply(request, *error_reply(error))

    async def _serve(self, endpoint: Endpoint, request: Incoming) -> None:
        self._active.inc()
        began = self._clock.monotonic()
        failed: BaseException | None = None
        try:
            data = await self._run(endpoint, request)
            await self._reply(request, data, {H_CONTENT_TYPE: "application/json"})
        except asyncio.CancelledError as error:
            failed = error
            stopped = Unavailable(f"{self.name} stopped before it had answered")
            await self._reply(request, *error_reply(stopped))
            raise
        except Exception as error:  # the supervisor of user code: logs, counts, decides
            failed = error
            if not isinstance(error, JetloomError):
                fields = {"service": self.name, "endpoint": endpoint.name}
                _logger.error("endpoint failed", extra=fields, exc_info=error)
            await self._reply(request, *error_reply(error))
        finally:
            self._running[endpoint.name] -= 1
            self._active.dec()
            self._count(endpoint, self._clock.monotonic() - began, failed)

    async def _run(self, endpoint: Endpoint, request: Incoming) -> bytes:
        context = msgspec.structs.replace(context_from_headers(request.headers), module=self.name)
        limit = endpoint.timeout if endpoint.timeout is not None else HANDLING_SECONDS
        seconds = remaining_seconds(context, self._clock, limit)
        if seconds <= 0:
            raise RequestTimeout(endpoint.subject, 0)
        with use(context):
            scope = asyncio.timeout(seconds)
            try:
                async with scope:
                    assert endpoint.function is not None
                    return await endpoint.function(request.data)
            except TimeoutError:
                if scope.expired():
                    raise RequestTimeout(endpoint.subject, seconds) from None
                raise

    async def _reply(self, request: Incoming, data: bytes, headers: dict[str, str]) -> None:
        if not request.reply:
            return
        try:
            await self._transport.publish(request.reply, data, headers=headers)
        except PayloadTooLarge as error:
            body, error_headers = error_reply(error)
            await self._transport.publish(request.reply, body, headers=error_headers)
        except Disconnected:
            # The caller's request has failed with the connection; nobody waits for this answer.
            _logger.warning("answer dropped: disconnected", extra={"service": self.name})

    def _count(self, endpoint: Endpoint, seconds: float, error: BaseException | None) -> None:
        stats = self.stats[endpoint.name]
        stats.num_requests += 1
        stats.processing_time += int(seconds * 1e9)
        stats.average_processing_time = stats.processing_time // stats.num_requests
        outcome = "ok"
        if error is not None:
            info = to_info(error)
            outcome = "cancelled" if isinstance(error, asyncio.CancelledError) else info.code
            stats.num_errors += 1
            stats.last_error = f"{outcome}: {info.message}"[:500]
        labels = {"service": self.name, "endpoint": endpoint.name}
        self._metrics.counter("jetloom_requests_total", outcome=outcome, **labels).inc()
        self._metrics.histogram("jetloom_request_duration_seconds", **labels).observe(seconds)

    # -- discovery
    def _discoverer(self, verb: str) -> Callable[[Incoming], None]:
        def answer(request: Incoming) -> None:
            if not self._draining:
                self._replies.spawn(self._reply(request, encode(self.describe(verb)), {}))

        return answer

    def describe(self, verb: str) -> dict[str, object]:
        """What `$SRV.PING`, `INFO` or `STATS` answers."""
        answer: dict[str, object] = {"type": f"{_PREFIX}{verb.lower()}_response", **self._identity}
        if verb == "INFO":
            answer["description"] = self._description
            answer["endpoints"] = [
                _EndpointInfo(each.name, each.subject, QUEUE, each.metadata) for each in self.endpoints
            ]
        elif verb == "STATS":
            answer["started"] = self._started
            answer["endpoints"] = list(self.stats.values())
        return answer
