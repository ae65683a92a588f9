"""Starting and steering runs from any NATS client: the engines' micro service `jetloom`.

`nats req <ns>.api.start '{"workflow": "fulfillment", "input": {…}, "id": "order-42"}'`; `message`, `cancel`,
`action` and `show` in the same way. Requests and answers are JSON; errors come as NATS micro services give
them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from ..clock import Clock
from ..messages import ActionVerb, Names, encode
from ..rpc import Endpoint, MicroService
from ..telemetry import Metrics
from ..transport import Transport
from ..types import JSON
from ._client import Client

SERVICE = "jetloom"
VERSION = "0.1.0"


class StartRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    workflow: str
    input: JSON = None
    id: str | None = None
    token: str | None = None
    labels: dict[str, str] = {}


class MessageRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    run: str
    name: str
    payload: JSON = None
    id: str | None = None


class CancelRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    run: str
    reason: str = ""
    compensate: bool | None = None


class ActionRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    run: str
    verb: ActionVerb
    step: str = ""
    reason: str = ""


class ShowRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    run: str


class _Done(msgspec.Struct, frozen=True):
    stored: bool = True


def api_service(transport: Transport, names: Names, clock: Clock, metrics: Metrics) -> MicroService:
    """The service that each engine runs; a request reaches one of them."""
    client = Client(transport, names, clock=clock)

    async def start(request: StartRequest) -> object:
        return await client.start(
            request.workflow, request.input, id=request.id, token=request.token, labels=request.labels
        )

    async def message(request: MessageRequest) -> object:
        await client.message(request.run, request.name, request.payload, id=request.id)
        return _Done()

    async def cancel(request: CancelRequest) -> object:
        await client.cancel(request.run, reason=request.reason, compensate=request.compensate)
        return _Done()

    async def action(request: ActionRequest) -> object:
        await client.action(request.run, request.verb, step=request.step, reason=request.reason)
        return _Done()

    async def show(request: ShowRequest) -> object:
        return await client.show(request.run)

    endpoints = [
        _endpoint(names, "start", StartRequest, start),
        _endpoint(names, "message", MessageRequest, message),
        _endpoint(names, "cancel", CancelRequest, cancel),
        _endpoint(names, "action", ActionRequest, action),
        _endpoint(names, "show", ShowRequest, show),
    ]
    return MicroService(
        SERVICE,
        endpoints,
        transport,
        clock,
        metrics,
        version=VERSION,
        description="runs",
        metadata={"namespace": names.namespace},
    )


def _endpoint[T](
    names: Names, verb: str, kind: type[T], function: Callable[[T], Awaitable[object]]
) -> Endpoint:
    decoder = msgspec.json.Decoder(kind)

    async def serve(data: bytes) -> bytes:
        return encode(await function(decoder.decode(data or b"{}")))

    return Endpoint(name=verb, subject=names.api(verb), function=serve)
