"""Calling an endpoint."""

from __future__ import annotations

from typing import cast, overload

import msgspec

from ..clock import Clock
from ..errors import DecodeFailed, JetloomError, RequestTimeout
from ..messages import Names, decode_plain, encode
from ..telemetry import Metrics, context_headers, current, remaining_seconds
from ..transport import REQUEST_SECONDS, Transport
from ..types import JSON, Actor
from ._errors import error_of


class Rpc:
    """Calls endpoints of modules, wherever they run. `actor` stands in when the context names nobody."""

    def __init__(
        self,
        transport: Transport,
        names: Names,
        clock: Clock,
        metrics: Metrics,
        *,
        actor: Actor | None = None,
    ) -> None:
        self._transport = transport
        self._names = names
        self._clock = clock
        self._metrics = metrics
        self._actor = actor

    @overload
    async def call(
        self, service: str, endpoint: str, payload: object = None, *, timeout: float = REQUEST_SECONDS
    ) -> JSON: ...
    @overload
    async def call[T](
        self,
        service: str,
        endpoint: str,
        payload: object = None,
        *,
        type: type[T],
        timeout: float = REQUEST_SECONDS,
    ) -> T: ...

    async def call(
        self,
        service: str,
        endpoint: str,
        payload: object = None,
        *,
        type: object = None,
        timeout: float = REQUEST_SECONDS,
    ) -> object:
        """Asks and returns the answer as `type` (plain data without one).

        `timeout` in seconds; the context's deadline shortens it and travels along. Raises what the endpoint raised,
        `NoResponders`, `RequestTimeout`, `Disconnected`, and `DecodeFailed` for an answer that does not fit.
        """
        subject = self._names.rpc(service, endpoint)
        outcome = "ok"
        try:
            return await self._ask(subject, payload, type, timeout)
        except JetloomError as error:
            outcome = error.to_info().code
            raise
        finally:
            self._metrics.counter(
                "jetloom_calls_total", service=service, endpoint=endpoint, outcome=outcome
            ).inc()

    async def _ask(self, subject: str, payload: object, kind: object, timeout: float) -> object:
        context = current()
        seconds = remaining_seconds(context, self._clock, timeout)
        if seconds <= 0:
            raise RequestTimeout(subject, 0)
        sent = msgspec.structs.replace(
            context, actor=context.actor or self._actor, deadline=self._clock.now() + seconds
        )
        reply = await self._transport.request(
            subject, encode(payload), headers=context_headers(sent), timeout=seconds
        )
        error = error_of(reply.data, reply.headers)
        if error is not None:
            raise error
        if kind is None:
            return decode_plain(reply.data, f"answer of {subject}")
        try:
            return cast("object", msgspec.json.decode(reply.data or b"null", type=kind))
        except msgspec.MsgspecError as failed:
            raise DecodeFailed(f"answer of {subject}", str(failed)) from failed
