"""Processes of modules: one that handles events and requests, and one that publishes and calls."""

from __future__ import annotations

import itertools

import msgspec

from ..bus import Bus, Event
from ..clock import SYSTEM_CLOCK
from ..config import Settings
from ..lifecycle import settle_memory
from ..messages import Names
from ..rpc import Rpc
from ..runtime import Host, Module, endpoint, on
from ..telemetry import Metrics
from ..transport import Transport
from ._child import UnknownOrder
from ._load import Figures, Given, closed_loop, now
from ._roles_engine import NAMESPACE, open_namespace
from ._seen import TEXT, Seen

EVENT = "bench.thing.happened"
CONCURRENCY = 256
"""Events that are handled at once; the same for every library."""


class Thing(msgspec.Struct, frozen=True):
    number: int
    at: float
    text: str


class BenchModule(Module):
    """Handles events, answers requests."""

    id = "bench"

    def __init__(self, seen: Seen | None = None) -> None:
        self._seen = seen if seen is not None else Seen()

    @on(EVENT, concurrency=CONCURRENCY)
    async def happened(self, event: Event[Thing]) -> None:
        self._seen.note(event.payload.number, event.payload.at)

    @endpoint(concurrency=CONCURRENCY)
    async def echo(self, thing: Thing) -> Thing:
        return thing


class Modules:
    """A host with the module. Verbs: `seen`."""

    def __init__(self, config: Given) -> None:
        self._config = config
        self._seen = Seen()
        self._transport: Transport | None = None
        self._host: Host | None = None

    async def start(self) -> None:
        self._transport, _ = await open_namespace(self._config.url, "jetloom-modules")
        settings = Settings(nats_url=self._config.url, namespace=NAMESPACE)
        self._host = Host([BenchModule(self._seen)], self._transport, settings, metrics=Metrics())
        await self._host.start()
        settle_memory()

    async def stop(self) -> None:
        if self._host is not None:
            await self._host.stop()
        if self._transport is not None:
            await self._transport.close()

    async def do(self, verb: str, given: Given) -> Figures:
        if verb != "seen":
            raise UnknownOrder(verb)
        return await self._seen.until(given)


class Callers:
    """Publishes and calls, as modules do. Verbs: `publish`, `call`, `stored`, `left`."""

    def __init__(self, config: Given) -> None:
        self._config = config
        self._transport: Transport | None = None
        self._bus: Bus | None = None
        self._rpc: Rpc | None = None
        self._names = Names(NAMESPACE)
        self._numbers = itertools.count()

    async def start(self) -> None:
        self._transport, names = await open_namespace(self._config.url, "jetloom-bench")
        metrics = Metrics()
        self._bus = Bus(self._transport, names, SYSTEM_CLOCK, metrics, source="bench")
        self._rpc = Rpc(self._transport, names, SYSTEM_CLOCK, metrics)

    async def stop(self) -> None:
        if self._transport is not None:
            await self._transport.close()

    async def do(self, verb: str, given: Given) -> Figures:
        assert self._transport is not None
        assert self._bus is not None
        assert self._rpc is not None
        bus, rpc, stream = self._bus, self._rpc, self._names.events_stream
        match verb:
            case "publish":
                began = now()
                found = await closed_loop(
                    lambda: bus.publish(EVENT, Thing(next(self._numbers), now(), TEXT)),
                    concurrency=given.concurrency,
                    seconds=given.seconds,
                    warm=0.0,
                )
                return msgspec.structs.replace(found, more={**found.more, "began": began})
            case "call":
                return await closed_loop(
                    lambda: rpc.call("bench", "echo", Thing(1, now(), TEXT), type=Thing),
                    concurrency=given.concurrency,
                    seconds=given.seconds,
                )
            case "stored":
                state = await self._transport.stream_state(stream)
                return Figures(count=state.messages if state is not None else 0)
            case "left":
                found = await self._transport.consumer_state(stream, given.name)
                return Figures(count=found.pending + found.unacknowledged if found is not None else -1)
            case _:
                raise UnknownOrder(verb)
