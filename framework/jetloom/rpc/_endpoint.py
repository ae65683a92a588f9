"""What an endpoint is: the contract between a declaration, the service that serves it and the client that calls it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from ..types import JSON


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint as it is served. Durations in seconds.

    `function` takes and gives bytes; with `parts` instead, the answer is a series of messages and then an empty one.
    `concurrency` requests are handled at once, above it the answer is `Busy`. `timeout` is for one request, besides the
    caller's deadline. `group` is the queue group (each request to one instance of it). The schemas are JSON Schemas.
    """

    name: str
    subject: str
    function: Callable[[bytes], Awaitable[bytes]] | None = None
    parts: Callable[[bytes], AsyncIterator[bytes]] | None = None
    concurrency: int = 100
    timeout: float | None = None
    group: str = "q"
    idempotent: bool = False
    metadata: dict[str, str] = {}
    request_schema: dict[str, JSON] | None = None
    response_schema: dict[str, JSON] | None = None


class EndpointSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint as a typed client calls it. `request` and `response` are the types of the method's annotations;
    `request` is None for a method without an argument."""

    service: str
    endpoint: str
    request: object = None
    response: object = None
    parts: bool = False
    idempotent: bool = False
    timeout: float | None = None


type Describe = Callable[[type], dict[str, EndpointSpec]]
"""A module class's endpoints by the name of the method; what knows how modules declare them gives it."""
