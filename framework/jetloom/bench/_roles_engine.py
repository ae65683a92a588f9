"""Processes that run an engine or a worker, put together as the app puts them together."""

from __future__ import annotations

from collections.abc import Mapping

from ..engine import Engine, Worker
from ..lifecycle import settle_memory
from ..messages import Names
from ..runtime import StepHandler
from ..stores import namespace_assets
from ..telemetry import Metrics
from ..transport import Transport, connect
from ._child import UnknownOrder
from ._definitions import handlers
from ._load import Figures, Given

NAMESPACE = "bench"
DRAIN_SECONDS = 5.0


async def open_namespace(url: str, name: str) -> tuple[Transport, Names]:
    """A connection to a namespace whose assets exist."""
    transport = await connect(url, name=name)
    names = Names(NAMESPACE)
    for asset in namespace_assets(names):
        await transport.ensure(asset)
    return transport, names


class EngineRole:
    """An engine. It has the bodies itself unless `remote`; `text` is their ledger, `size` of a large output."""

    def __init__(self, config: Given) -> None:
        self._config = config
        self._metrics = Metrics()
        self._transport: Transport | None = None
        self._engine: Engine | None = None

    async def start(self) -> None:
        config = self._config
        self._transport, names = await open_namespace(config.url, "jetloom-engine")
        bodies: Mapping[str, StepHandler] = {} if config.remote else handlers(config.text, config.size)
        self._engine = Engine(self._transport, names, handlers=bodies, metrics=self._metrics)
        await self._engine.start()
        settle_memory()

    async def stop(self) -> None:
        if self._engine is not None:
            await self._engine.stop(DRAIN_SECONDS)
        if self._transport is not None:
            await self._transport.close()

    async def do(self, verb: str, given: Given) -> Figures:
        if verb != "counts":
            raise UnknownOrder(verb)
        value = self._metrics.value
        outcomes = ("accepted", "refused", "unknown")
        counts = {name: value("jetloom_appends_total", outcome=name) for name in outcomes}
        assert self._engine is not None
        return Figures(count=len(self._engine.table), more=counts, text=self._engine.id)


class WorkerRole:
    """A worker that serves the bodies for engines in other processes."""

    def __init__(self, config: Given) -> None:
        self._config = config
        self._transport: Transport | None = None
        self._worker: Worker | None = None

    async def start(self) -> None:
        config = self._config
        self._transport, names = await open_namespace(config.url, "jetloom-modules")
        bodies = handlers(config.text, config.size)
        self._worker = Worker(self._transport, names, handlers=bodies, metrics=Metrics())
        await self._worker.start()
        settle_memory()

    async def stop(self) -> None:
        if self._worker is not None:
            await self._worker.stop(DRAIN_SECONDS)
        if self._transport is not None:
            await self._transport.close()

    async def do(self, verb: str, given: Given) -> Figures:
        raise UnknownOrder(verb)
