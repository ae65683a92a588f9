"""Asking who serves what: `$SRV.INFO` and `$SRV.STATS`, answered by micro services of any client."""

from __future__ import annotations

import asyncio

import msgspec

from ..clock import Clock
from ..errors import NameInvalid
from ..transport import Incoming, Transport
from ..types import JSON
from ._wire import REQUEST_ID_CHARACTERS_MAX

DISCOVERY_SECONDS = 1.0
"""How long answers are waited for altogether; far above a round trip to another region."""

QUIET_SECONDS = 0.3
"""After the last answer nobody else is expected; above the scatter of answers to one question."""

ANSWERS_MAX = 10_000
"""Of one question: what comes later is not read."""


class EndpointInfo(msgspec.Struct, frozen=True):
    """An endpoint, as its service describes it. An empty `queue_group`: every instance gets every request."""

    name: str
    subject: str = ""
    queue_group: str = ""
    metadata: dict[str, str] | None = None


class ServiceInfo(msgspec.Struct, frozen=True):
    """One instance of a service."""

    name: str
    id: str
    version: str
    description: str = ""
    metadata: dict[str, str] | None = None
    endpoints: tuple[EndpointInfo, ...] | None = None


class EndpointFigures(msgspec.Struct, frozen=True):
    """What an endpoint has counted since its service started; times in nanoseconds."""

    name: str
    subject: str = ""
    queue_group: str = ""
    num_requests: int = 0
    num_errors: int = 0
    last_error: str = ""
    processing_time: int = 0
    average_processing_time: int = 0
    data: JSON = None


class ServiceStats(msgspec.Struct, frozen=True):
    """One instance's figures. `started` is an RFC 3339 time."""

    name: str
    id: str
    version: str
    started: str = ""
    metadata: dict[str, str] | None = None
    endpoints: tuple[EndpointFigures, ...] | None = None


async def ask_info(transport: Transport, clock: Clock, name: str, wait: float) -> list[ServiceInfo]:
    return await _gather(transport, clock, "INFO", name, wait, ServiceInfo)


async def ask_stats(transport: Transport, clock: Clock, name: str, wait: float) -> list[ServiceStats]:
    return await _gather(transport, clock, "STATS", name, wait, ServiceStats)


async def _gather[T: (ServiceInfo, ServiceStats)](
    transport: Transport, clock: Clock, verb: str, name: str, wait: float, kind: type[T]
) -> list[T]:
    """Every answer within `wait` seconds, until it is quiet; what can't be read is passed over."""
    if name and (len(name) > REQUEST_ID_CHARACTERS_MAX or any(sign in name for sign in ".*> \t\r\n")):
        raise NameInvalid("service", name, "A-Z a-z 0-9 _ -")
    arrived: asyncio.Queue[Incoming] = asyncio.Queue(ANSWERS_MAX)

    def receive(message: Incoming) -> None:
        if not arrived.full():
            arrived.put_nowait(message)

    inbox = f"_INBOX.{clock.token()[:22]}"
    found: dict[str, T] = {}
    subscription = await transport.subscribe(inbox, receive)
    try:
        await transport.publish(f"$SRV.{verb}.{name}" if name else f"$SRV.{verb}", b"", reply=inbox)
        end = clock.monotonic() + wait
        pause = wait
        while len(found) < ANSWERS_MAX and (left := min(pause, end - clock.monotonic())) > 0:
            try:
                async with asyncio.timeout(left):
                    message = await arrived.get()
            except TimeoutError:
                break
            if not message.data and not message.headers:
                break  # the server says that nobody listens
            answer = _read(message.data, kind)
            if answer is not None:
                found[answer.id] = answer
                pause = QUIET_SECONDS
    finally:
        await subscription.stop()
    return sorted(found.values(), key=lambda each: (each.name, each.id))


def _read[T](data: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError:
        return None
