"""One simulated process of a world: modules with the worker of their steps, or an engine."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import cast

import msgspec

from jetloom.config import Settings
from jetloom.engine import Client, Engine, Worker
from jetloom.errors import InvalidInput
from jetloom.messages import Names
from jetloom.runtime import Host, Module, Runtime, StepHandler, read_live_config
from jetloom.stores import task_consumer
from jetloom.telemetry import Metrics
from jetloom.testing._clock import PROCESS, VirtualClock, VirtualLoop
from jetloom.testing._records import Records
from jetloom.transport import MemoryServer, MemoryTransport
from jetloom.types import JSON

ENGINE = "engine"
"""The id under which a world's engines are crashed and restarted."""

LOOP_LAG = "loop-lag"
"""The host's look at how late its loop is. In virtual time it never is, and four looks a second would be most of what
happens in an idle hour."""

RUNS_MAX = 100
"""Runs that an engine of a world drives at once: one pull request holds so many."""

STOP_SECONDS = 10.0
"""Of virtual time that work under way gets at the end of a test."""


class Place(msgspec.Struct, frozen=True):
    """What all processes of a world share."""

    loop: VirtualLoop
    clock: VirtualClock
    server: MemoryServer
    names: Names
    records: Records


class Plan(msgspec.Struct, frozen=True):
    """What a process runs: it can be run again after a crash. No modules: an engine."""

    modules: tuple[type[Module] | Module, ...] = ()
    config: Mapping[str, object] = {}
    environ: Mapping[str, str] = {}

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(each.id for each in self.modules) or (ENGINE,)


class Process:
    """Its tasks, timers and connections belong to its name, under which they vanish together."""

    def __init__(self, place: Place, name: str, plan: Plan) -> None:
        self.name = name
        self.plan = plan
        self.crashed = False
        self.runtimes: dict[str, Runtime] = {}
        self._place = place
        self._transport: MemoryTransport | None = None
        self._host: Host | None = None
        self._work: Engine | Worker | None = None
        self._client: Client | None = None

    async def start(self) -> None:
        """Returns when it serves. Raises what stands in the way, `StartFailed` with all problems of modules."""
        await self.do(self._start())

    def crash(self) -> None:
        """As SIGKILL: nothing of it runs again, and nobody is told but the server, whose connection ends."""
        self.crashed = True
        self._place.loop.kill(self.name)
        if self._transport is not None:
            self._place.server.abandon(self._transport)
        self._place.records.killed(self.name)

    async def stop(self) -> list[str]:
        """Drains and shuts down as on SIGTERM; what is left of it afterwards."""
        return [] if self.crashed else await self.do(self._stop())

    async def do[T](self, work: Coroutine[object, object, T]) -> T:
        """Awaits `work` as a part of the process."""
        context = contextvars.copy_context()
        context.run(PROCESS.set, self.name)
        return await self._place.loop.create_task(work, context=context, name=self.name)

    @property
    def steps(self) -> Mapping[str, StepHandler]:
        """The bodies of its modules' steps."""
        return self._host.steps if self._host is not None else {}

    # -- inside the process
    async def _start(self) -> None:
        place = self._place
        transport = self._transport = place.server.connect(self.name)
        metrics = Metrics(process=False)
        if not self.plan.modules:
            self._work = Engine(
                transport,
                place.names,
                clock=place.clock,
                name=self.name,
                capacity=RUNS_MAX,
                metrics=metrics,
            )
            await self._work.start()
            return
        client = self._client = Client(transport, place.names, clock=place.clock)
        modules: list[type[Module] | Module] = [self._made(each) for each in self.plan.modules]
        host = Host(
            modules,
            transport,
            Settings(namespace=place.names.namespace, modules=_tables(self.plan.config, self.plan.ids)),
            clock=place.clock,
            metrics=metrics,
            workflows=client,
            environ=self.plan.environ,
            live=await read_live_config(transport, place.names),
        )
        self._host = host
        await host.start()
        for task in place.loop.tasks_of(self.name):
            if task.get_name() == LOOP_LAG:
                task.cancel()
        if host.steps:
            for step in host.steps:
                # Who registers a definition makes them; made now, the worker need not look for them later.
                await transport.ensure(task_consumer(place.names, step))
            self._work = Worker(
                transport, place.names, clock=place.clock, handlers=host.steps, metrics=metrics
            )
            await self._work.start()

    def _made(self, given: type[Module] | Module) -> type[Module] | Module:
        if isinstance(given, Module):
            module = given
        else:
            try:
                module = given()
            except (
                Exception
            ):  # user code: the host makes it again, and says the error with the other problems
                return given
        init: Callable[[Runtime], Awaitable[None]] = module.init

        async def remember(rt: Runtime) -> None:
            self.runtimes[module.id] = rt
            await init(rt)

        # On the instance: a module that a test hands in again after a crash keeps the class's own.
        vars(module)["init"] = remember
        self._place.records.watch(module)
        return module

    async def _stop(self) -> list[str]:
        if self._work is not None:
            await self._work.stop(STOP_SECONDS)
        if self._host is not None:
            await self._host.drain(STOP_SECONDS)
            await self._host.stop()
        if self._client is not None:
            await self._client.stop()
        left = self._left()
        if self._transport is not None:
            await self._transport.close()
        return left

    def _left(self) -> list[str]:
        me, current = self.name, asyncio.current_task()
        found = [
            f"{me}: task {task.get_name()!r}, {place_of(task)}"
            for task in self._place.loop.tasks_of(me)
            if task is not current and not task.done()
        ]
        if self._transport is not None:
            for kept in self._transport._kept:  # pyright: ignore[reportPrivateUsage]
                subject = getattr(kept, "subject", "") or getattr(kept, "consumer", "")
                found.append(f"{me}: {type(kept).__name__.removeprefix('Memory').lower()} on {subject}")
        return found


def place_of(task: asyncio.Task[object]) -> str:
    """Where a task waits."""
    stack = task.get_stack(limit=1)
    if not stack:
        return "not started"
    code = stack[-1].f_code
    return f"in {code.co_qualname} ({code.co_filename}:{stack[-1].f_lineno})"


def _tables(config: Mapping[str, object], ids: Sequence[str]) -> dict[str, dict[str, JSON]]:
    tables: dict[str, dict[str, JSON]] = {}
    for module, given in config.items():
        table: object = msgspec.to_builtins(given)
        if not isinstance(table, dict):
            raise InvalidInput(
                f"config of {module!r}: expected its fields as a dict or struct, found {given!r}"
            )
        if module in ids:
            tables[module] = cast("dict[str, JSON]", table)
    return tables
