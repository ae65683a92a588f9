"""Calling endpoints."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from functools import lru_cache
from typing import cast, overload

import msgspec

from ..clock import Clock
from ..errors import DecodeFailed, Disconnected, InvalidInput, JetloomError, RequestTimeout
from ..messages import H_ACTOR, H_DEADLINE, Names, encode, to_rfc3339
from ..telemetry import EMPTY, Counter, Metrics, context_headers, current, get_logger, remaining_seconds
from ..transport import REQUEST_SECONDS, Reply, Transport
from ..types import JSON, Actor, Duration, seconds
from ._client import make_client
from ._discovery import DISCOVERY_SECONDS, ServiceInfo, ServiceStats, ask_info, ask_stats
from ._endpoint import Describe
from ._errors import error_of
from ._parts import PartsReader
from ._retry import CALL_RETRY, CallRetry, attempt_seconds, pause_before, safe_to_repeat
from ._wire import CANCEL, H_PART, H_PARTS, H_REQUEST_ID

CANCEL_SECONDS = 1.0
"""How long a caller who leaves may be held up by saying so."""

SHOWN_CHARACTERS_MAX = 200
"""Of an answer that does not fit, in the error."""

COUNTERS_MAX = 1_000
"""Counters that are kept at hand; further endpoints are looked up each time."""

_logger = get_logger("rpc")


class Rpc:
    """Calls endpoints of modules, wherever they run. `actor` stands in when the context names nobody.

    `describe` reads what a module class declares; `client` needs it.
    """

    def __init__(
        self,
        transport: Transport,
        names: Names,
        clock: Clock,
        metrics: Metrics,
        *,
        actor: Actor | None = None,
        describe: Describe | None = None,
    ) -> None:
        self._transport = transport
        self._names = names
        self._clock = clock
        self._metrics = metrics
        self._actor = actor
        self._describe = describe
        self._ids = clock.token()
        self._requests = 0
        self._ok: dict[tuple[str, str], Counter] = {}

    # -- one answer
    @overload
    async def call(
        self,
        service: str,
        endpoint: str,
        payload: object = None,
        *,
        timeout: Duration = REQUEST_SECONDS,
        instance: str = "",
        retry: CallRetry | None = None,
        idempotent: bool = False,
    ) -> JSON: ...
    @overload
    async def call[T](
        self,
        service: str,
        endpoint: str,
        payload: object = None,
        *,
        type: type[T],
        timeout: Duration = REQUEST_SECONDS,
        instance: str = "",
        retry: CallRetry | None = None,
        idempotent: bool = False,
    ) -> T: ...

    async def call(
        self,
        service: str,
        endpoint: str,
        payload: object = None,
        *,
        type: object = None,
        timeout: Duration = REQUEST_SECONDS,
        instance: str = "",
        retry: CallRetry | None = None,
        idempotent: bool = False,
    ) -> object:
        """Asks and returns the answer as `type` (plain data without one).

        `timeout` is for all attempts; the context's deadline shortens it and travels along. `instance` is the id of
        one replica (`discover` lists them). With `retry` what was surely not handled is asked again, and with
        `idempotent` also what got no answer. Raises what the endpoint raised, `NoResponders`, `RequestTimeout`,
        `Disconnected`, and `DecodeFailed` for an answer that does not fit. A cancelled call cancels the handler.
        """
        outcome = "ok"
        subject = self._subject(service, endpoint, instance)
        try:
            request = _Request(self, service, subject, encode(payload), retry, idempotent)
            reply = await request.answer(seconds(timeout))
            if H_PART in reply.headers:
                await request.cancel()
                raise InvalidInput(
                    f"{subject} answers in parts: read it with rpc.stream, or jetloom call --stream"
                )
            return _decoded(subject, reply.data, type)
        except JetloomError as error:
            outcome = error.to_info().code
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            self._count(service, endpoint, outcome)

    # -- an answer in parts
    @overload
    def stream(
        self,
        service: str,
        endpoint: str,
        payload: object = None,
        *,
        timeout: Duration = REQUEST_SECONDS,
        instance: str = "",
        retry: CallRetry | None = None,
    ) -> AsyncGenerator[JSON]: ...
    @overload
    def stream[T](
        self,
        service: str,
        endpoint: str,
        payload: object = None,
        *,
        type: type[T],
        timeout: Duration = REQUEST_SECONDS,
        instance: str = "",
        retry: CallRetry | None = None,
    ) -> AsyncGenerator[T]: ...

    def stream(
        self,
        service: str,
        endpoint: str,
        payload: object = None,
        *,
        type: object = None,
        timeout: Duration = REQUEST_SECONDS,
        instance: str = "",
        retry: CallRetry | None = None,
    ) -> AsyncGenerator[object]:
        """Asks and gives the parts of the answer as they come, each as `type`; one part for an ordinary endpoint.

        `timeout` is how long to wait for the next part; the context's deadline bounds the whole. The service stays at
        most one window ahead of the reader. A reader that ends early cancels the handler: close the generator
        (`contextlib.aclosing`) to have that at once. Raises as `call` does, and `Unavailable` when a part was lost.
        `retry` is for the beginning only.
        """
        return self._stream(
            service,
            endpoint,
            payload,
            type,
            seconds(timeout),
            self._subject(service, endpoint, instance),
            retry,
        )

    async def _stream(
        self,
        service: str,
        endpoint: str,
        payload: object,
        kind: object,
        patience: float,
        subject: str,
        retry: CallRetry | None,
    ) -> AsyncGenerator[object]:
        outcome = "cancelled"
        try:
            request = _Request(self, service, subject, encode(payload), retry, False)
            async with PartsReader(self._transport, self._clock, subject) as reader:
                first = await request.answer(patience, parts=reader.inbox)
                if H_PART not in first.headers:
                    yield _decoded(subject, first.data, kind)
                else:
                    try:
                        while (part := await reader.next(self._remaining(patience))) is not None:
                            yield _decoded(subject, part, kind)
                    finally:
                        if not reader.ended:
                            await request.cancel()
            outcome = "ok"
        except JetloomError as error:
            outcome = error.to_info().code
            raise
        finally:
            self._count(service, endpoint, outcome)

    # -- the rest
    def client[M](
        self,
        module: type[M],
        *,
        timeout: Duration | None = None,
        instance: str = "",
        retry: CallRetry | None = CALL_RETRY,
    ) -> M:
        """The endpoints of a module's class as methods that call: `await rpc.client(Orders).quote(QuoteRequest(…))`.

        The static type is the class itself; anything but its endpoints raises `AttributeError`. `timeout` is for a
        call (otherwise the endpoint's own, otherwise 5 s). What is safe to repeat is repeated, as `call` does with
        `retry` and the endpoint's `idempotent`. Raises `InvalidInput` for a class without endpoints.
        """
        if self._describe is None:
            raise InvalidInput(
                "rpc.client: this Rpc was made without `describe`: use rt.rpc, or call by name"
            )
        specs = self._describe(module)
        if not specs:
            raise InvalidInput(f"rpc.client({module.__name__}): the class declares no @endpoint")
        patience = None if timeout is None else seconds(timeout)
        return cast("M", make_client(self, module.__name__, specs, patience, instance, retry))

    async def discover(self, name: str = "", *, wait: Duration = DISCOVERY_SECONDS) -> list[ServiceInfo]:
        """What answers `$SRV.INFO` within `wait`: one entry for each instance, of any client, by name and id."""
        return await ask_info(self._transport, self._clock, name, seconds(wait))

    async def statistics(self, name: str = "", *, wait: Duration = DISCOVERY_SECONDS) -> list[ServiceStats]:
        """What answers `$SRV.STATS` within `wait`."""
        return await ask_stats(self._transport, self._clock, name, seconds(wait))

    # -- for a request
    def _subject(self, service: str, endpoint: str, instance: str) -> str:
        subject = self._names.rpc(service, endpoint)
        return f"{subject}.{instance}" if instance else subject

    def _remaining(self, limit: float) -> float:
        return remaining_seconds(current(), self._clock, limit)

    def headers(self, limit: float, *, bounded: bool) -> dict[str, str]:
        """What travels with a request that has `limit` seconds: actor, trace, deadline, and an id of its own."""
        context = current()
        headers = context_headers(context) if context is not EMPTY else {}
        if context.actor is None and self._actor is not None:
            headers[H_ACTOR] = str(self._actor)
        if bounded:
            headers[H_DEADLINE] = to_rfc3339(self._clock.now() + limit)
        self._requests += 1
        headers[H_REQUEST_ID] = f"{self._ids}{self._requests}"
        return headers

    @property
    def transport(self) -> Transport:
        return self._transport

    @property
    def clock(self) -> Clock:
        return self._clock

    def _count(self, service: str, endpoint: str, outcome: str) -> None:
        key = (service, endpoint)
        found = self._ok.get(key) if outcome == "ok" else None
        if found is None:
            found = self._metrics.counter(
                "jetloom_calls_total", service=service, endpoint=endpoint, outcome=outcome
            )
            if outcome == "ok" and len(self._ok) < COUNTERS_MAX:
                self._ok[key] = found
        found.inc()


class _Request:
    """One call: its attempts, and what takes it back."""

    __slots__ = ("_data", "_id", "_idempotent", "_retry", "_rpc", "_sent", "_service", "_subject")

    def __init__(
        self,
        rpc: Rpc,
        service: str,
        subject: str,
        data: bytes,
        retry: CallRetry | None,
        idempotent: bool,
    ) -> None:
        self._rpc = rpc
        self._service = service
        self._subject = subject
        self._data = data
        self._retry = retry
        self._idempotent = idempotent
        self._id = ""
        self._sent = False

    async def answer(self, limit: float, *, parts: str = "") -> Reply:
        """The (first) answer; an error that it carries is raised. At most `limit` seconds over all attempts."""
        clock, retry = self._rpc.clock, self._retry
        whole = remaining_seconds(current(), clock, limit)
        if retry is None:
            return await self._attempt(whole, parts)
        end = clock.monotonic() + whole
        attempt, left = 1, whole
        while True:
            try:
                return await self._attempt(attempt_seconds(left, whole, retry, self._idempotent), parts)
            except JetloomError as error:
                repeat = safe_to_repeat(error, sent=self._sent, idempotent=self._idempotent)
                attempt += 1
                if not repeat or attempt > retry.attempts_max:
                    raise
                pause = pause_before(attempt, error, retry, clock)
                left = end - clock.monotonic() - pause
                if left <= 0:
                    raise
            await asyncio.sleep(pause)

    async def _attempt(self, limit: float, parts: str) -> Reply:
        transport = self._rpc.transport
        self._sent = False
        if limit <= 0:
            raise RequestTimeout(self._subject, 0)
        if not transport.connected:
            raise Disconnected(self._subject)
        headers = self._rpc.headers(limit, bounded=not parts)
        self._id = headers[H_REQUEST_ID]
        if parts:
            headers[H_PARTS] = parts
        self._sent = True
        try:
            reply = await transport.request(self._subject, self._data, headers=headers, timeout=limit)
        except (asyncio.CancelledError, RequestTimeout):
            await self.cancel()
            raise
        error = error_of(reply.data, reply.headers) if reply.headers else None
        if error is not None:
            raise error
        return reply

    async def cancel(self) -> None:
        """Tells the service that nobody waits any more; as short as it can be, and never an error."""
        if not self._sent:
            return
        with contextlib.suppress(JetloomError, TimeoutError):
            async with asyncio.timeout(CANCEL_SECONDS):
                await self._rpc.transport.publish(f"{CANCEL}.{self._service}", self._id.encode())


@lru_cache(maxsize=512)
def _decoder_of(kind: object) -> msgspec.json.Decoder[object]:
    return cast("msgspec.json.Decoder[object]", msgspec.json.Decoder(kind))


_plain: msgspec.json.Decoder[object] = msgspec.json.Decoder()


def _decoded(subject: str, data: bytes, kind: object) -> object:
    """An answer as `kind`. Raises `DecodeFailed` with the endpoint, what was expected and what came."""
    try:
        if kind is None:
            return _plain.decode(data) if data else None
        return _decoder(kind).decode(data or b"null")
    except msgspec.MsgspecError as error:
        expected = "JSON" if kind is None else getattr(kind, "__name__", str(kind))
        found = data[:SHOWN_CHARACTERS_MAX].decode(errors="replace") + (
            "…" if len(data) > SHOWN_CHARACTERS_MAX else ""
        )
        raise DecodeFailed(f"answer of {subject}", f"expected {expected}, found {found}: {error}") from error


def _decoder(kind: object) -> msgspec.json.Decoder[object]:
    try:
        return _decoder_of(kind)
    except TypeError as error:
        if "unhashable" in str(error):
            return cast("msgspec.json.Decoder[object]", msgspec.json.Decoder(kind))
        raise InvalidInput(f"type={kind!r} can't be read from JSON: {error}") from error
