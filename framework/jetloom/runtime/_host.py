"""Starts modules, lets work in, drains and stops them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Mapping, Sequence

import msgspec

from ..bus import Bus, GroupSubscription
from ..clock import SYSTEM_CLOCK, Clock
from ..config import Settings
from ..errors import JetloomError, ModuleNotLocal, StartFailed
from ..lifecycle import Supervisor
from ..messages import Names
from ..rpc import MicroService, Rpc
from ..stores import dlq_asset, events_asset, kv_asset, markers_asset
from ..telemetry import Context, LoopLag, Metrics, get_logger, use
from ..transport import Transport
from ..types import Actor, ActorKind
from ._module import Module
from ._plan import Plan, make_plan
from ._ports import StepHandler, Workflows
from ._runtime import Runtime

INIT_SECONDS = 60.0
"""For one module's `init`; above a leader's change (4-8 s) and a slow database's start."""

SHUTDOWN_SECONDS = 10.0
"""For one module's `shutdown`; the sum must fit what the container's stop allows (30 s by default)."""

DRAIN_SECONDS = 20.0

_logger = get_logger("runtime")


class DrainReport(msgspec.Struct, frozen=True):
    """What a drain could not finish: how many events and requests each handler gave back."""

    handed_back: dict[str, int]
    seconds: float

    @property
    def clean(self) -> bool:
        return not self.handed_back


class Health(msgspec.Struct, frozen=True):
    """`live`: worth keeping; `ready`: takes work. `problems` says why not."""

    live: bool
    ready: bool
    modules: dict[str, str]
    problems: list[str] = []


class Host:
    """The modules of one process. Problems are known once it is made; `start` raises them all at once.

    `steps` are the modules' step bodies by name, for whoever executes runs.
    """

    def __init__(
        self,
        modules: Sequence[type[Module] | Module],
        transport: Transport,
        settings: Settings,
        *,
        clock: Clock = SYSTEM_CLOCK,
        metrics: Metrics | None = None,
        workflows: Workflows | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.names = Names(settings.namespace, settings.shards)
        self.metrics = metrics if metrics is not None else Metrics()
        self._transport = transport
        self._settings = settings
        self._clock = clock
        self._workflows = workflows
        self._plan: Plan = make_plan(
            modules, settings, self.names, os.environ if environ is None else environ
        )
        self.steps: dict[str, StepHandler] = {
            step.name: step for declared in self._plan.declared.values() for step in declared.steps
        }
        self._state = {module.id: "stopped" for module in self._plan.modules}
        self._up: list[Module] = []
        self._services: list[MicroService] = []
        self._subscriptions: list[GroupSubscription[object]] = []
        self._supervisor = Supervisor(self.metrics)
        self._serving = False
        self._started = False
        transport.on_change(self._connection_changed)
        self._connected = self.metrics.gauge("jetloom_nats_connected_ratio")

    @property
    def problems(self) -> list[str]:
        """Why it can't start; empty when it can."""
        return list(self._plan.problems)

    @property
    def modules(self) -> list[Module]:
        """In their start order."""
        return list(self._plan.modules)

    @property
    def undos(self) -> dict[str, str]:
        """Which step says which handler undoes it; for readers and tools."""
        return {
            step: undo for declared in self._plan.declared.values() for step, undo in declared.undos.items()
        }

    async def start(self) -> None:
        """Returns when every module is up and takes work. Raises `StartFailed`; nothing is left running then."""
        if self._started:
            return
        if self._plan.problems:
            raise StartFailed(self._plan.problems)
        self._started = True
        self._connected.set(1 if self._transport.connected else 0)
        try:
            await self._ensure_assets()
            for module in self._plan.modules:
                await self._init(module)
            await self._let_in()
        except BaseException:
            await self.stop()
            raise
        self._supervisor.run("loop-lag", LoopLag(self.metrics).run)
        self._serving = True

    async def drain(self, seconds: float = DRAIN_SECONDS) -> DrainReport:
        """Lets no more work in and waits for what runs, at most `seconds`; the rest is given back."""
        began = self._clock.monotonic()
        self._serving = False
        draining: dict[str, Awaitable[int]] = {
            f"endpoints of {service.name}": service.drain(seconds) for service in self._services
        }
        for subscription in self._subscriptions:
            handler = subscription.handler
            draining[f"{handler.module}.{handler.name}"] = subscription.drain(seconds)
        counts = await asyncio.gather(*draining.values())
        self._services.clear()
        self._subscriptions.clear()
        handed_back = {name: count for name, count in zip(draining, counts, strict=True) if count}
        if handed_back:
            _logger.warning("drain gave work back", extra={"handed_back": handed_back})
        return DrainReport(handed_back, self._clock.monotonic() - began)

    async def stop(self) -> None:
        """Gives back what still runs, then shuts modules down in reverse order. May be called twice."""
        await self.drain(0)
        while self._up:
            await self._shutdown(self._up.pop())
        await self._supervisor.stop()

    def health(self) -> Health:
        """What `/livez` and `/readyz` say."""
        problems: list[str] = []
        if self._supervisor.failed is not None:
            problems.append(f"a background task failed: {self._supervisor.failed}")
        if not self._transport.connected:
            problems.append("not connected to NATS")
        if not self._serving:
            problems.append("not started, or stopping")
        return Health(
            live=self._supervisor.failed is None,
            ready=not problems,
            modules=dict(self._state),
            problems=problems,
        )

    async def _ensure_assets(self) -> None:
        replicas = self._settings.replicas
        for make in (markers_asset, events_asset, dlq_asset):
            await self._transport.ensure(make(self.names, replicas=replicas))
        for bucket in sorted({bucket for module in self._plan.modules for bucket in module.buckets}):
            await self._transport.ensure(kv_asset(self.names, bucket, replicas=replicas))

    async def _init(self, module: Module) -> None:
        runtime = self._runtime(module)
        self._state[module.id] = "starting"
        try:
            with use(Context(actor=_actor(module), module=module.id)):
                async with asyncio.timeout(INIT_SECONDS):
                    await module.init(runtime)
        except Exception as error:  # user code: whatever it raises ends the start
            self._state[module.id] = "failed"
            reason = str(error) if isinstance(error, JetloomError) else f"{type(error).__name__}: {error}"
            raise StartFailed([f"module {module.id!r}: init failed: {reason}"]) from error
        self._up.append(module)
        self._state[module.id] = "up"

    async def _let_in(self) -> None:
        for module in self._plan.modules:
            declared = self._plan.declared[module.id]
            if declared.endpoints:
                service = MicroService(
                    module.id,
                    declared.endpoints,
                    self._transport,
                    self._clock,
                    self.metrics,
                    version=module.version,
                    description=module.description or (type(module).__doc__ or "").partition("\n")[0],
                    metadata={"namespace": self.names.namespace},
                )
                self._services.append(service)
                await service.start()
            for handler in declared.events:
                subscription = GroupSubscription(
                    handler, self._transport, self.names, self._clock, self.metrics
                )
                self._subscriptions.append(subscription)
                await subscription.start()

    async def _shutdown(self, module: Module) -> None:
        try:
            with use(Context(actor=_actor(module), module=module.id)):
                async with asyncio.timeout(SHUTDOWN_SECONDS):
                    await module.shutdown()
        except Exception as error:  # user code: the others still shut down
            _logger.error("shutdown failed", extra={"module_id": module.id}, exc_info=error)
        self._state[module.id] = "stopped"

    def _runtime(self, module: Module) -> Runtime:
        actor = _actor(module)
        return Runtime(
            module.id,
            transport=self._transport,
            names=self.names,
            clock=self._clock,
            metrics=self.metrics,
            bus=Bus(self._transport, self.names, self._clock, self.metrics, source=module.id, actor=actor),
            rpc=Rpc(self._transport, self.names, self._clock, self.metrics, actor=actor),
            config=self._plan.configs[module.id],
            workflows=self._workflows,
            find_module=self._find_module,
            replicas=self._settings.replicas,
        )

    def _find_module(self, module_id: str) -> Module:
        for module in self._plan.modules:
            if module.id == module_id:
                return module
        raise ModuleNotLocal(module_id)

    def _connection_changed(self, connected: bool) -> None:
        self._connected.set(1 if connected else 0)
        name = "jetloom_nats_reconnects_total" if connected else "jetloom_nats_disconnects_total"
        self.metrics.counter(name).inc()


def _actor(module: Module) -> Actor:
    return Actor(ActorKind.MODULE, module.id)
