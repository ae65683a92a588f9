"""A world: whole modules, workflows and engines on the memory twin of NATS, in virtual time.

Each `start` is a process of its own, as it would be in production; engines have theirs. A process that is crashed stops
between two steps of its tasks, without a `finally`, and its connection ends.

Virtual time passes when everybody waits for it. A test that lets it pass on purpose says `advance`; besides that a
world has `patience`, so that a test that waits for what never comes ends at once, with what it waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast, overload

from jetloom.bus import Bus, DeadLetter, Event, check_pattern, list_dead_letters
from jetloom.engine import Client, Definitions
from jetloom.engine.core import handler_of
from jetloom.errors import InvalidInput, NotFound, RunCancelled, RunFailed
from jetloom.messages import Names, through_codec
from jetloom.rpc import Rpc
from jetloom.runtime import Module, Runtime, RunView, StepContext, StepFunction, describe
from jetloom.stores import KeyValue, kv_asset, namespace_assets, task_consumer
from jetloom.telemetry import Metrics
from jetloom.testing._clock import PROCESS, Deadlock, Livelock, VirtualClock, VirtualLoop
from jetloom.testing._fakes import Fake, FakeContext, endpoint_module, step_module
from jetloom.testing._logs import Logs
from jetloom.testing._process import ENGINE, Place, Plan, Process, place_of
from jetloom.testing._reading import open_runs, read_published
from jetloom.testing._records import Handled, Records, names_of
from jetloom.testing._twin import WorldServer
from jetloom.transport import REQUEST_SECONDS, MemoryServer, MemoryTransport
from jetloom.types import JSON, Actor, ActorKind, Duration, seconds
from jetloom.workflows import Definition

if TYPE_CHECKING:
    from jetloom.rpc import CallRetry

NAMESPACE = "world"

PATIENCE_SECONDS = 900.0
"""Virtual time that may pass in a test besides what it advances or waits for: above every timeout and acknowledgement
wait that jetloom has by default, and a moment of real time."""

WAIT_SECONDS = 3_600.0
"""Virtual time that waiting for a run adds to it."""

CLOSE_SECONDS = 600.0
"""Virtual time for the end: above the drains of all processes."""

SETTLE_SECONDS = 0.1
"""Of virtual time in which nothing may happen: above the pauses in which writes are gathered (10 ms) and of first looks
after a conflict, below the first delay of a retry."""

SETTLE_ROUNDS_MAX = 100
"""For a world that never rests."""

SHOWN_MAX = 5
"""Runs, and calls, that a stuck world is described with."""

WORKFLOW_SUFFIXES = (".yaml", ".yml")


class World:
    """One test's universe. It lives in one `VirtualLoop`; `world` is the pytest fixture, `run_world` goes without.

    `actor` is who the test is: requests, events and runs carry it.
    """

    def __init__(self, loop: VirtualLoop, *, seed: int = 0, patience: Duration = PATIENCE_SECONDS) -> None:
        self.loop = loop
        self.seed = seed
        self.clock = VirtualClock(loop, seed)
        self.names = Names(NAMESPACE)
        self.server: MemoryServer = WorldServer(self.clock)
        """The server: `crash()` and `restart()` it, or set its `faults`."""
        self.actor = Actor(ActorKind.HUMAN, "test")
        self._records = Records(self.clock)
        self._place = Place(loop, self.clock, self.server, self.names, self._records)
        self._logs = Logs()
        self._processes: list[Process] = []
        self._served: dict[str, str] = {}
        """Each step, endpoint and service that somebody serves, and who."""
        self._faked: set[str] = set()
        """Modules whose endpoints are faked."""
        self._transport: MemoryTransport | None = None
        self._client: Client | None = None
        self._bus: Bus | None = None
        self._rpc: Rpc | None = None
        self._buckets: dict[tuple[str, object], object] = {}
        self._stuck = False
        loop.limit = loop.time() + seconds(patience)

    # -- what runs
    async def start(
        self,
        *modules: type[Module] | Module,
        workflows: Sequence[str | Path | Definition] = (),
        config: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        replicas: int = 1,
        engine: bool = False,
    ) -> None:
        """Starts a process with these modules, or `replicas` of them; returns when they serve.

        `workflows` are files, folders of files, or definitions; with them (or with `engine`) the world gets an engine.
        `config` is the modules' configuration by module id, `environ` the process' environment.

        Raises `StartFailed` with every problem, `DefinitionInvalid`, `InvalidInput` for what a fake stands in for.
        """
        if replicas < 1:
            raise InvalidInput(f"replicas={replicas}: at least 1")
        if replicas > 1 and any(isinstance(each, Module) for each in modules):
            raise InvalidInput("replicas need classes: one instance can't be in two processes")
        await self._open()
        self._check_served(modules)
        for workflow in workflows:
            await self._register(workflow)
        if (workflows or engine) and not self._of(ENGINE):
            await self._run(ENGINE, Plan())
        if modules:
            plan = Plan(tuple(modules), dict(config or {}), dict(environ or {}))
            for _ in range(replicas):
                await self._run("+".join(plan.ids), plan)

    def crash(self, module: type[Module] | Module | str, *, replica: int = 0) -> None:
        """Ends the process that runs the module (an id, or `engine`) at once, as SIGKILL would.

        What it held comes back when its `ack_wait` has passed. Raises `NotFound`.
        """
        running = [each for each in self._of(_id(module)) if not each.crashed]
        if not 0 <= replica < len(running):
            raise NotFound(
                f"no process {replica} runs {_id(module)!r}: the world has {self._running() or 'none'}"
            )
        running[replica].crash()

    async def restart(self, module: type[Module] | Module | str) -> None:
        """Starts each crashed process of the module again, with new instances. Raises `NotFound`."""
        crashed = [each for each in self._of(_id(module)) if each.crashed]
        if not crashed:
            raise NotFound(
                f"no crashed process of {_id(module)!r}: the world has {self._running() or 'none'}"
            )
        for process in crashed:
            self._processes.remove(process)
            await self._run(process.name.partition("#")[0], process.plan)

    def rt(self, module: type[Module] | Module | str) -> Runtime:
        """What the module got in `init`, of its first process. Raises `NotFound`."""
        for process in self._of(_id(module)):
            if not process.crashed and _id(module) in process.runtimes:
                return process.runtimes[_id(module)]
        raise NotFound(f"module {_id(module)!r} does not run: the world has {self._running() or 'none'}")

    # -- what stands in
    async def fake_endpoint(self, service: str, endpoint: str, outcomes: Sequence[object] = ()) -> Fake:
        """Serves `endpoint` of a module that the world does not run. See `Fake` for outcomes."""
        await self._open()
        if service not in self._faked and self._of(service):
            raise InvalidInput(f"module {service!r} runs in this world: fake what is not there")
        self._claim(f"{service}.{endpoint}", "a fake")
        self._faked.add(service)
        fake = Fake(f"{service}.{endpoint}", outcomes, self.clock)
        await self._run(f"fake {service}.{endpoint}", Plan((endpoint_module(service, endpoint, fake),)))
        return fake

    async def fake_step(self, step: str, outcomes: Sequence[object] = ()) -> Fake:
        """Serves the step `step` (what a definition `uses`), also an undo. See `Fake` for outcomes."""
        await self._open()
        self._claim(step, "a fake")
        fake = Fake(step, outcomes, self.clock)
        await self._run(f"fake {step}", Plan((step_module(fake),)))
        return fake

    # -- what the test does
    async def publish(self, type: str, payload: object = None, *, id: str | None = None) -> int:
        """Publishes an event; its sequence when it is stored."""
        await self._open()
        assert self._bus is not None
        return await self._bus.publish(type, payload, id=id)

    @overload
    async def call(
        self,
        service: str,
        endpoint: str,
        payload: object = None,
        *,
        timeout: Duration = REQUEST_SECONDS,
        retry: CallRetry | None = None,
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
        retry: CallRetry | None = None,
    ) -> T: ...

    async def call(
        self,
        service: str,
        endpoint: str,
        payload: object = None,
        *,
        type: object = JSON,
        timeout: Duration = REQUEST_SECONDS,
        retry: CallRetry | None = None,
    ) -> object:
        """Calls an endpoint as another module would: `Rpc.call`. Raises what it raises."""
        rpc = await self.rpc()
        kind = cast("type[object]", type)
        if type is JSON:
            return await rpc.call(service, endpoint, payload, timeout=timeout, retry=retry)
        return await rpc.call(service, endpoint, payload, type=kind, timeout=timeout, retry=retry)

    async def rpc(self) -> Rpc:
        """The test's own `Rpc`: streams, typed clients, discovery."""
        await self._open()
        assert self._rpc is not None
        return self._rpc

    async def step(
        self, name: str, input: object = None, *, ctx: FakeContext | None = None, replica: int = 0
    ) -> JSON:
        """Calls a step's body alone, in its process, as an engine would; what it returns. Raises what it raises.

        An undo gets an `Undo`. `ctx` says for which run and attempt, and remembers what was emitted.
        """
        running = [each for each in self._processes if not each.crashed and name in each.steps]
        if not 0 <= replica < len(running):
            raise NotFound(
                f"no process {replica} serves step {name!r}: the world has {self._running() or 'none'}"
            )
        context = ctx or FakeContext(step=name.rpartition(".")[2])
        body = running[replica].steps[name].function
        return await running[replica].do(_called(body, context, through_codec(input)))

    async def start_run(self, workflow: str | Definition, input: object = None, *, id: str = "") -> str:
        """Starts a run; its id. Raises what `Workflows.start` raises."""
        client = await self.workflows()
        started = await client.start(workflow, through_codec(input), id=id or None)
        return started.run

    async def wait(self, run: str, *, patience: Duration = WAIT_SECONDS) -> RunView:
        """The run when it has ended, however it ended; time passes until then, so much more than the world's patience.

        Raises `RunNotFound`.
        """
        client = await self.workflows()
        self.loop.limit += seconds(patience)
        with contextlib.suppress(RunFailed, RunCancelled):
            await client.result(run)
        return await client.show(run)

    async def run(self, run: str) -> RunView:
        """The run as it is now. Raises `RunNotFound`."""
        return await (await self.workflows()).show(run)

    async def workflows(self) -> Client:
        """The test's own client: messages, cancellation, journals, lists."""
        await self._open()
        assert self._client is not None
        return self._client

    # -- time
    async def settled(self) -> None:
        """Returns when everything has happened that can happen without waiting for time.

        A few tenths of a second pass: the pauses that jetloom itself makes, to gather writes or to look again after a
        conflict. What goes on for ever is left after ten.
        """
        for _ in range(SETTLE_ROUNDS_MAX):
            before = self._progress()
            await asyncio.sleep(SETTLE_SECONDS)
            await self.loop.idle()
            if self._progress() == before:
                return

    async def advance(
        self,
        duration: Duration = 0.0,
        *,
        seconds: float = 0.0,
        minutes: float = 0.0,
        hours: float = 0.0,
        days: float = 0.0,
    ) -> None:
        """Lets virtual time pass, and what falls due happen, then settles."""
        span = _total(duration, seconds, minutes, hours, days)
        if span < 0:
            raise InvalidInput(f"advance by {span:g} s: time only goes on")
        self.loop.limit += span + SETTLE_SECONDS
        await asyncio.sleep(span)
        await self.settled()

    # -- what happened
    def published(self, pattern: str = ">") -> list[Event[JSON]]:
        """The events stored so far whose type fits: `shop.order.placed`, `shop.order.*`, `shop.>`."""
        if pattern != ">":
            check_pattern(pattern)
        return read_published(self.server, self.names, pattern)

    def handled(self, handler: str) -> list[Handled]:
        """The calls of a handler, an endpoint or a schedule (`module.name`) or of a step (by its name), in order."""
        return self._records.of(handler)

    async def dead_letters(self, module: str = "", handler: str = "") -> Sequence[DeadLetter]:
        """What could not be handled, the oldest first."""
        await self._open()
        assert self._transport is not None
        letters, _ = await list_dead_letters(
            self._transport, self.names, module=module, handler=handler, limit=1_000
        )
        return letters

    @overload
    def kv(self, bucket: str) -> KeyValue[JSON]: ...
    @overload
    def kv[T](self, bucket: str, value_type: type[T]) -> KeyValue[T]: ...

    def kv(self, bucket: str, value_type: object = JSON) -> object:
        """A bucket, as `rt.kv` gives it, for the test to read and write."""
        found = self._buckets.get((bucket, value_type))
        if found is None:
            found = self._buckets[bucket, value_type] = KeyValue[object](
                self._connection(),
                self.names.kv_bucket(bucket),
                value_type,
                asset=kv_asset(self.names, bucket),
                clock=self.clock,
            )
        return found

    @property
    def logs(self) -> list[logging.LogRecord]:
        """What was logged since the world began, from INFO on; `process` is who logged it."""
        return self._logs.records

    # -- life
    def drive[T](self, work: Coroutine[object, object, T]) -> T:
        """Runs `work` to its end on the world's loop. Raises `Deadlock`, saying who waits for what."""
        __tracebackhide__ = True  # pytest shows the test, not how it was run
        task = self.loop.create_task(work, name="test")
        try:
            return self.loop.run_until_complete(task)
        except (Deadlock, Livelock) as error:
            if task.done():
                raise
            self._stuck = True
            where = place_of(cast("asyncio.Task[object]", task))
            why = str(error) if isinstance(error, Livelock) and "virtual time" not in str(error) else ""
            waiting = [f"the test, {where}"] if not why else [why, f"the test, {where}"]
        waiting += self._describe_stuck()
        self._end(task)
        raise Deadlock(f"nothing left to happen; waiting for: {'; '.join(waiting)}")

    async def close(self) -> list[str]:
        """Stops every process that runs; what is left of them afterwards: tasks, subscriptions."""
        self.loop.limit = self.loop.time() + CLOSE_SECONDS
        left: list[str] = []
        try:
            for process in reversed(self._processes):
                left += await process.stop()
            if self._transport is not None:
                await self._transport.close()
            left += self._left_by_test()
        finally:
            self._processes.clear()
            self._logs.close()
        return left

    def abandon(self) -> None:
        """Crashes every process: for a world that is stuck."""
        for process in self._processes:
            if not process.crashed:
                process.crash()
        self._processes.clear()
        self._logs.close()

    @property
    def stuck(self) -> bool:
        """Whether `drive` ended with `Deadlock`."""
        return self._stuck

    # -- inside
    def _connection(self) -> MemoryTransport:
        if self._transport is None:
            self._transport = self.server.connect("test")
        return self._transport

    async def _open(self) -> None:
        if self._client is not None:
            return
        transport = self._connection()
        metrics = Metrics(process=False)
        self._client = Client(transport, self.names, clock=self.clock, actor=self.actor)
        self._bus = Bus(transport, self.names, self.clock, metrics, source="test", actor=self.actor)
        self._rpc = Rpc(transport, self.names, self.clock, metrics, actor=self.actor, describe=describe)
        for asset in namespace_assets(self.names):
            await transport.ensure(asset)

    async def _run(self, title: str, plan: Plan) -> None:
        taken = {each.name for each in self._processes}
        name, number = title, 1
        while name in taken or not self.loop.alive(name):
            number += 1
            name = f"{title}#{number}"
        process = Process(self._place, name, plan)
        await process.start()
        self._processes.append(process)

    async def _register(self, workflow: str | Path | Definition) -> None:
        assert self._client is not None
        if isinstance(workflow, Definition):
            await Definitions(self._connection(), self.names, self.clock).register(workflow)
            handlers = {handler_of(step.uses) for step in workflow.steps if step.uses is not None}
            handlers |= {handler_of(step.saga.uses) for step in workflow.steps if step.saga is not None}
            for handler in sorted(handlers):
                await self._connection().ensure(task_consumer(self.names, handler))
            return
        for file in _workflow_files(Path(workflow)):
            await self._client.register(file.read_text(encoding="utf-8"), source=str(file))

    def _check_served(self, modules: Sequence[type[Module] | Module]) -> None:
        for each in modules:
            kind = type(each) if isinstance(each, Module) else each
            if each.id in self._faked:
                raise InvalidInput(
                    f"module {each.id!r} is faked in this world: fake it, or start it, not both"
                )
            for name in names_of(kind):
                if self._served.get(name) == "a fake":
                    raise InvalidInput(
                        f"{name!r} of {kind.__name__} is faked in this world: fake it, or start it, not both"
                    )
                self._served[name] = kind.__name__

    def _claim(self, name: str, who: str) -> None:
        if name in self._served:
            raise InvalidInput(
                f"{name!r} is served by {self._served[name]} already: fake what is not there, "
                "or give the fake that there is other outcomes: fake.will(...)"
            )
        self._served[name] = who

    def _of(self, module: str) -> list[Process]:
        return [each for each in self._processes if module in each.plan.ids]

    def _progress(self) -> tuple[int, int, int]:
        """Changes when something was stored, called, or has ended."""
        return (
            sum(stream.last for stream in self.server.streams.values()),
            len(self._records.all),
            self._records.running,
        )

    def _running(self) -> str:
        return ", ".join(each.name for each in self._processes if not each.crashed)

    def _left_by_test(self) -> list[str]:
        current = asyncio.current_task()
        return [
            f"the test: task {task.get_name()!r}, {place_of(cast('asyncio.Task[object]', task))}"
            for task in asyncio.all_tasks(self.loop)
            if task is not current and not task.done() and not task.get_context().get(PROCESS)
        ]

    def _describe_stuck(self) -> list[str]:
        found = [
            f"{each.handler}, running in {each.process} for {self.clock.now() - each.at:g} s"
            for each in self._records.all
            if each.outcome == "running"
        ][:SHOWN_MAX]
        if self._client is None:
            return found
        self.loop.limit = self.loop.time() + CLOSE_SECONDS
        try:
            return found + self.loop.run_until_complete(open_runs(self._client, SHOWN_MAX))
        except (Deadlock, Livelock):
            return found

    def _end(self, task: asyncio.Task[object]) -> None:
        """Lets the test's `finally` run; it must not hide what it was stuck in."""
        task.cancel()
        self.loop.limit = self.loop.time() + CLOSE_SECONDS
        try:
            self.loop.run_until_complete(asyncio.wait({task}, timeout=1))
        except (Deadlock, Livelock):
            return


async def _called(body: StepFunction, context: StepContext, value: JSON) -> JSON:
    return await body(context, value)


def _workflow_files(path: Path) -> list[Path]:
    files = [path]
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.suffix in WORKFLOW_SUFFIXES)
    if not files or not files[0].is_file():
        raise InvalidInput(f"{path}: no workflow file, and no folder with any, in {Path.cwd()}")
    return files


def _total(duration: Duration, *parts: float) -> float:
    return seconds(duration) + sum(
        part * unit for part, unit in zip(parts, (1, 60, 3_600, 86_400), strict=True)
    )


def _id(module: type[Module] | Module | str) -> str:
    return module if isinstance(module, str) else module.id
