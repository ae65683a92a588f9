"""A NATS micro service: endpoints, and the discovery subjects that any client asks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import msgspec

from ..clock import Clock
from ..errors import Disconnected, InvalidInput, NameInvalid, PayloadTooLarge
from ..lifecycle import TaskSet
from ..messages import encode, to_rfc3339
from ..telemetry import Metrics, get_logger
from ..transport import Incoming, Subscription, Transport
from ..types import JSON
from ._endpoint import Endpoint
from ._errors import error_reply
from ._serving import Deadlines, EndpointServer, EndpointStats, Work
from ._wire import CANCEL

DISCOVERY_MAX = 100
"""Answers to discovery under way at once; more askers than that get none, and ask again."""

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)([-+][0-9A-Za-z.+-]+)?")
_MICRO = "io.nats.micro.v1."
_VERBS = {
    "PING": f"{_MICRO}ping_response",
    "INFO": f"{_MICRO}info_response",
    "STATS": f"{_MICRO}stats_response",
    "SCHEMA": "io.jetloom.micro.v1.schema_response",
}

_logger = get_logger("rpc")


class _EndpointInfo(msgspec.Struct, frozen=True):
    name: str
    subject: str
    queue_group: str
    metadata: dict[str, str]


class _EndpointSchema(msgspec.Struct, frozen=True):
    name: str
    subject: str
    parts: bool
    idempotent: bool
    request: dict[str, JSON] | None
    response: dict[str, JSON] | None


class MicroService:
    """Serves endpoints under one name: `start`, then `drain` and `stop`.

    Each endpoint listens on its subject in its queue group, and alone on `<subject>.<id>`. The metadata may be changed
    until `start`.
    """

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
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        _check(name, version, endpoints)
        self.name = name
        self.id = clock.token()[:22]
        self.endpoints = list(endpoints)
        self._transport = transport
        self._clock = clock
        self._identity = {"name": name, "id": self.id, "version": version, "metadata": dict(metadata or {})}
        self._description = description
        self._started = ""
        self._subscriptions: list[Subscription] = []
        self._tasks = TaskSet("request-handler", metrics)
        self._replies = TaskSet("discovery-reply", metrics)
        self._cancellable: dict[str, Work] = {}
        self._deadlines = Deadlines()
        self._servers = [
            EndpointServer(
                name, each, transport, clock, metrics, self._tasks, self._deadlines, self._cancellable
            )
            for each in endpoints
        ]
        self._draining = False

    @property
    def stats(self) -> dict[str, EndpointStats]:
        """The figures of each endpoint by its name."""
        return {each.endpoint.name: each.snapshot() for each in self._servers}

    async def start(self) -> None:
        """Returns when the server knows every subject. What it began is undone when it fails."""
        if self._started:
            return
        self._started = to_rfc3339(self._clock.now())
        try:
            await self._subscribe()
        except BaseException:
            for subscription in self._subscriptions:
                await subscription.stop()
            raise

    async def _subscribe(self) -> None:
        """Discovery comes last: a service that is found can be called."""
        listen = self._transport.subscribe
        keep = self._subscriptions.append
        for server in self._servers:
            endpoint = server.endpoint
            keep(await listen(f"{endpoint.subject}.{self.id}", server.receive))
            keep(await listen(endpoint.subject, server.receive, queue=endpoint.group))
        if self._servers:
            keep(await listen(f"{CANCEL}.{self.name}", self._cancel))
        for verb in _VERBS:
            for tail in ("", f".{self.name}", f".{self.name}.{self.id}"):
                keep(await listen(f"$SRV.{verb}{tail}", self._discoverer(verb)))

    async def drain(self, seconds: float) -> int:
        """Takes no further request and lets the running ones end for `seconds`; how many were cut off."""
        self._draining = True
        # What the server had sent before it knew of the stop is still handled: its caller can't know either.
        for subscription in self._subscriptions:
            await subscription.stop()
        for server in self._servers:
            server.draining = True
        cut_off = await self._tasks.stop(grace=max(seconds, 0.001))
        self._deadlines.stop()
        await self._replies.stop(grace=0.1)
        return cut_off

    async def stop(self) -> None:
        await self.drain(0)

    def _cancel(self, request: Incoming) -> None:
        """A caller has left. All instances hear it; the one that works for it stops."""
        work = self._cancellable.get(request.data.decode(errors="replace"))
        if work is not None:
            work.end("caller")

    # -- discovery
    def _discoverer(self, verb: str) -> Callable[[Incoming], None]:
        def answer(request: Incoming) -> None:
            if request.reply and not self._draining and len(self._replies) < DISCOVERY_MAX:
                self._replies.spawn(self._tell(request.reply, encode(self.describe(verb))))

        return answer

    async def _tell(self, to: str, data: bytes) -> None:
        try:
            await self._transport.publish(to, data)
        except PayloadTooLarge as error:
            body, headers = error_reply(error)
            await self._transport.publish(to, body, headers=headers)
        except Disconnected:
            _logger.debug("a discovery answer was dropped: disconnected", extra={"service": self.name})

    def describe(self, verb: str) -> dict[str, object]:
        """What `$SRV.PING`, `INFO`, `STATS` or `SCHEMA` answers."""
        answer: dict[str, object] = {"type": _VERBS[verb], **self._identity}
        if verb == "INFO":
            answer["description"] = self._description
            answer["endpoints"] = [
                _EndpointInfo(each.name, each.subject, each.group, _metadata_of(each))
                for each in self.endpoints
            ]
        elif verb == "STATS":
            answer["started"] = self._started
            answer["endpoints"] = [each.snapshot() for each in self._servers]
        elif verb == "SCHEMA":
            answer["endpoints"] = [
                _EndpointSchema(
                    name=each.name,
                    subject=each.subject,
                    parts=each.parts is not None,
                    idempotent=each.idempotent,
                    request=each.request_schema,
                    response=each.response_schema,
                )
                for each in self.endpoints
            ]
        return answer


def _metadata_of(endpoint: Endpoint) -> dict[str, str]:
    metadata = dict(endpoint.metadata)
    if endpoint.parts is not None:
        metadata["jetloom.parts"] = "true"
    if endpoint.idempotent:
        metadata["jetloom.idempotent"] = "true"
    return metadata


def _check(name: str, version: str, endpoints: list[Endpoint]) -> None:
    if not _NAME.fullmatch(name):
        raise NameInvalid("service", name, "A-Z a-z 0-9 _ -")
    if not _VERSION.fullmatch(version):
        raise NameInvalid("version", version, "a semantic version such as 1.2.0")
    for endpoint in endpoints:
        if not _NAME.fullmatch(endpoint.name):
            raise NameInvalid("endpoint", endpoint.name, "A-Z a-z 0-9 _ -")
        if endpoint.group and not _NAME.fullmatch(endpoint.group):
            raise NameInvalid("queue group", endpoint.group, "A-Z a-z 0-9 _ -, or none")
        if (endpoint.function is None) == (endpoint.parts is None):
            raise InvalidInput(
                f"endpoint {name}.{endpoint.name}: expected a function or parts, one of the two"
            )
        if endpoint.concurrency < 1:
            raise InvalidInput(
                f"endpoint {name}.{endpoint.name}: concurrency is {endpoint.concurrency}, expected 1 or more"
            )
