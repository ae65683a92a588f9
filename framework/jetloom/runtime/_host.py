"""Starts modules, lets work in, drains and stops them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from ..clock import SYSTEM_CLOCK, Clock
from ..config import LiveConfig, Settings
from ..errors import JetloomError, ModuleNotLocal, StartFailed
from ..lifecycle import Supervisor
from ..messages import Names
from ..rpc import Rpc
from ..stores import dlq_asset, events_asset, kv_asset, markers_asset
from ..telemetry import LoopLag, Metrics, get_logger
from ..transport import Subscription, Transport
from ..types import Actor, ActorKind
from ._background import BackgroundTasks
from ._calls import call_as
from ._declare import describe
from ._health import CheckResult, Health, HealthChecks
from ._live import config_asset, watch_live_config
from ._module import Module
from ._plan import Plan, make_plan
from ._ports import StepHandler, Workflows
from ._runtime import Runtime
from ._serving import Serving

INIT_SECONDS = 60.0
"""For one module's `init` or `ready`; above a leader's change (4-8 s) and a slow database's start."""

SHUTDOWN_SECONDS = 10.0
"""For one module's `shutdown`; the sum must fit what the container's stop allows (30 s by default)."""

DRAIN_SECONDS = 20.0

DRAIN_HOOK_SECONDS = 1.0
"""What a module's `drain` gets at least, even when the process stops at once."""

DRAIN_HOOK_SHARE = 0.5
"""Of a drain's time that the modules' `drain` may use up: the rest is for handlers that run."""

LAG_SECONDS_MAX = 2.0
"""A loop that ran its last look this late takes no new work in time: requests wait 5 s by default."""

_logger = get_logger("runtime")


class DrainReport(msgspec.Struct, frozen=True):
    """What a drain could not finish: how many events, requests and firings each handler gave back, which background
    tasks were still running (they run until `shutdown`), and which `drain` failed and why."""

    handed_back: dict[str, int]
    seconds: float
    background: list[str] = []
    failures: list[str] = []

    @property
    def clean(self) -> bool:
        return not self.handed_back and not self.failures


class Host:
    """The modules of one process. Problems are known once it is made; `start` raises them all at once.

    `steps` are the modules' step bodies by name, for whoever executes runs. `live` is what the live configuration said.
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
        live: LiveConfig | None = None,
    ) -> None:
        self.names = Names(settings.namespace, settings.shards)
        self.metrics = metrics if metrics is not None else Metrics()
        self._transport = transport
        self._settings = settings
        self._clock = clock
        self._workflows = workflows
        self._live = live
        self._plan: Plan = make_plan(
            modules, settings, self.names, os.environ if environ is None else environ, live=live
        )
        self.steps: dict[str, StepHandler] = {
            step.name: step for declared in self._plan.declared.values() for step in declared.steps
        }
        self._state = {module.id: "stopped" for module in self._plan.modules}
        self._up: list[Module] = []
        self._config_watch: Subscription | None = None
        self._handlers = Serving(self._plan, transport, self.names, settings, clock, self.metrics)
        self._supervisor = Supervisor(self.metrics)
        self._background = BackgroundTasks(self._supervisor, self.metrics)
        checks = [check for declared in self._plan.declared.values() for check in declared.health]
        self._checks = HealthChecks(checks, clock, self.metrics)
        self._lag = LoopLag(self.metrics)
        self._serving = False
        self._let = False
        self._drained = False
        self._started = False
        transport.on_change(self._connection_changed)
        self._connected = self.metrics.gauge("jetloom_nats_connected_ratio")

    @property
    def problems(self) -> list[str]:
        """Why it can't start; empty when it can."""
        return list(self._plan.problems)

    @property
    def modules(self) -> list[Module]:
        """In an order in which they may start."""
        return list(self._plan.modules)

    @property
    def undos(self) -> dict[str, str]:
        """Which step says which handler undoes it; for readers and tools."""
        return {
            step: undo for declared in self._plan.declared.values() for step, undo in declared.undos.items()
        }

    # -- life
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
            await self._start_modules()
            await self._let_in()
            await self._say_ready()
            await self._checks.start(self._supervisor)
        except BaseException:
            await self.stop()
            raise
        self._supervisor.run("loop-lag", self._lag.run)
        self._serving = True

    async def drain(self, seconds: float = DRAIN_SECONDS) -> DrainReport:
        """Lets no more work in and waits for what runs, at most `seconds`; the rest is given back."""
        began = self._clock.monotonic()
        self._serving = False
        failures = await self._call_drains(seconds)
        left = max(0.0, seconds - (self._clock.monotonic() - began))
        handed_back = await self._handlers.drain(left)
        if handed_back:
            _logger.warning("drain gave work back", extra={"handed_back": handed_back})
        return DrainReport(handed_back, self._clock.monotonic() - began, self._background.running, failures)

    async def stop(self) -> None:
        """Gives back what still runs, then shuts modules down in reverse order. May be called twice."""
        await self.drain(0)
        watch, self._config_watch = self._config_watch, None
        if watch is not None:
            await watch.stop()
        while self._up:
            module = self._up.pop()
            await self._background.stop(module.id)
            await self._shutdown(module)
        await self._handlers.locks.stop()
        await self._supervisor.stop()

    # -- health
    def health(self) -> Health:
        """What `/livez`, `/readyz` and `/healthz` say."""
        checks = [*self._own_checks(), *self._checks.results]
        problems = [f"{check.title}: {check.detail}" for check in checks if not check.ok]
        if not self._serving:
            problems.append("not started, or stopping")
        return Health(
            live=all(check.ok for check in checks if check.kind == "live"),
            ready=not problems,
            modules=dict(self._state),
            problems=problems,
            checks=checks,
        )

    def _own_checks(self) -> list[CheckResult]:
        now, lag = self._clock.now(), self._lag.last
        given_up, restarting = self._background.given_up, self._background.restarting
        if self._supervisor.failed is not None:
            given_up.append(f"a task of the host failed: {self._supervisor.failed}")
        late = f"ran {lag:.1f} s late: something blocks it" if lag > LAG_SECONDS_MAX else ""
        gone = "" if self._transport.connected else "not connected to NATS"
        return [
            CheckResult("nats", "ready", not gone, detail=gone, at=now),
            CheckResult("event loop", "ready", not late, detail=late, at=now),
            CheckResult(
                "background tasks",
                "live",
                not given_up,
                detail="; ".join(given_up or (f"started again: {each}" for each in restarting)),
                at=now,
            ),
        ]

    # -- start
    async def _ensure_assets(self) -> None:
        replicas = self._settings.replicas
        for make in (markers_asset, events_asset, dlq_asset):
            await self._transport.ensure(make(self.names, replicas=replicas))
        for bucket in sorted({bucket for module in self._plan.modules for bucket in module.buckets}):
            await self._transport.ensure(kv_asset(self.names, bucket, replicas=replicas))
        if self._live is not None:
            await self._transport.ensure(config_asset(self.names, replicas=replicas))
            self._config_watch = await watch_live_config(
                self._transport, self.names, self._live, set(self._state)
            )

    async def _start_modules(self) -> None:
        """Each as soon as what it depends on is up. After a failure none begins; what has begun ends first."""
        changed = asyncio.Condition()
        failures: list[tuple[str, Exception]] = []

        async def start_one(module: Module) -> None:
            def can_go_on() -> bool:
                return bool(failures) or all(self._state[each] == "up" for each in module.depends_on)

            async with changed:
                await changed.wait_for(can_go_on)
            if not failures:
                await self._init(module, failures)
            async with changed:
                changed.notify_all()

        async with asyncio.TaskGroup() as group:
            for module in self._plan.modules:
                group.create_task(start_one(module))
        _raise(failures)

    async def _init(self, module: Module, failures: list[tuple[str, Exception]]) -> None:
        runtime = module.rt = self._runtime(module)
        for task in self._plan.declared[module.id].background:
            self._background.add(module.id, task.name, task.function, task.restarts_max)
        self._state[module.id] = "starting"
        error = await _call(module, lambda: module.init(runtime), INIT_SECONDS)
        if error is not None:
            self._state[module.id] = "failed"
            failures.append((_failure(module, "init", error), error))
            return
        self._up.append(module)
        self._background.start(module.id)
        self._state[module.id] = "up"

    async def _let_in(self) -> None:
        self._let = True
        await self._handlers.start()

    async def _say_ready(self) -> None:
        failures: list[tuple[str, Exception]] = []

        async def say(module: Module) -> None:
            error = await _call(module, module.ready, INIT_SECONDS)
            if error is not None:
                failures.append((_failure(module, "ready", error), error))

        async with asyncio.TaskGroup() as group:
            for module in self._plan.modules:
                group.create_task(say(module))
        _raise(failures)

    # -- stop
    async def _call_drains(self, seconds: float) -> list[str]:
        """The `drain` of every module that was let work in, once."""
        if self._drained or not self._let:
            return []
        self._drained = True
        failures: list[str] = []

        async def drain(module: Module) -> None:
            error = await _call(module, module.drain, max(seconds * DRAIN_HOOK_SHARE, DRAIN_HOOK_SECONDS))
            if error is not None:
                failures.append(_failure(module, "drain", error))
                _logger.error("drain failed", extra={"of_module": module.id}, exc_info=error)

        async with asyncio.TaskGroup() as group:
            for module in self._up:
                group.create_task(drain(module))
        return failures

    async def _shutdown(self, module: Module) -> None:
        error = await _call(module, module.shutdown, SHUTDOWN_SECONDS)
        if error is not None:  # the others still shut down
            _logger.error("shutdown failed", extra={"of_module": module.id}, exc_info=error)
        self._state[module.id] = "stopped"

    # -- what modules get
    def _runtime(self, module: Module) -> Runtime:
        actor = _actor(module)

        def background(name: str, function: Callable[[], Awaitable[object]], restarts_max: int) -> None:
            self._background.add(module.id, name, function, restarts_max)

        return Runtime(
            module.id,
            transport=self._transport,
            names=self.names,
            clock=self._clock,
            metrics=self.metrics,
            bus=self._handlers.buses[module.id],
            rpc=Rpc(self._transport, self.names, self._clock, self.metrics, actor=actor, describe=describe),
            locks=self._handlers.locks,
            config=self._plan.configs[module.id],
            workflows=self._workflows,
            find_module=self._find_module,
            background=background,
            replicas=self._settings.replicas,
            version=module.version,
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


async def _call(module: Module, hook: Callable[[], Awaitable[None]], seconds: float) -> Exception | None:
    """Calls a hook as the module; what it raised."""
    try:
        await call_as(module.id, hook, seconds)
    except Exception as error:  # user code: the caller decides what each of its errors means
        return error
    return None


def _failure(module: Module, hook: str, error: Exception) -> str:
    reason = str(error) if isinstance(error, JetloomError) else f"{type(error).__name__}: {error}"
    return f"module {module.id!r}: {hook} failed: {reason}"


def _raise(failures: list[tuple[str, Exception]]) -> None:
    if failures:
        raise StartFailed([problem for problem, _ in failures]) from failures[0][1]


def _actor(module: Module) -> Actor:
    return Actor(ActorKind.MODULE, module.id)
