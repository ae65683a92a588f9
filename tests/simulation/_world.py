"""A universe's machinery: processes on virtual time, a memory server, and what may happen to them."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import logging
from collections.abc import Callable, Coroutine
from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest.mock import patch

from jetloom.engine import Client, Definitions, Engine, Worker, _commit
from jetloom.engine._executor import Body, Executor
from jetloom.engine.core import RunState
from jetloom.errors import JetloomError, OutcomeUnknown
from jetloom.messages import Names
from jetloom.runtime import StepHandler
from jetloom.stores import _blobs, namespace_assets, task_consumer
from jetloom.testing import PROCESS, VirtualClock, VirtualLoop
from jetloom.transport import MemoryServer
from jetloom.workflows import Definition, compile_definition
from tests.simulation._books import Books
from tests.simulation._checks import Checks
from tests.simulation._graphs import HANDLERS, LOCAL, REMOTE
from tests.simulation._ledger import Ledger
from tests.simulation._plan import Plan, Style

if TYPE_CHECKING:
    from collections.abc import Generator

    from jetloom.engine._context import Context
    from jetloom.transport import MemoryTransport

TIME_LIMIT = 900.0


class Violation(Exception):
    """An invariant is broken."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


class World:
    """One universe. `processes` maps each process that was ever started to what starts it again."""

    def __init__(self, seed: int, style: Style) -> None:
        self.seed = seed
        self.style = style
        self.loop = VirtualLoop(seed, limit=TIME_LIMIT)
        self.clock = VirtualClock(self.loop, seed)
        self.names = Names()
        self.server = MemoryServer(self.clock, max_payload=style.max_payload)
        self.books = Books(self, seed)
        self.checks = Checks(self)
        self.plan = Plan(self, seed, style)
        self.engines: dict[str, Engine] = {}
        self.clients: dict[str, Client] = {}
        self.definitions: dict[str, Definition] = {}
        self.violations: list[Violation] = []
        self.thawed: dict[str, float] = {}
        self.sent_late = False
        """Whether an engine may have sent a task again after the server forgot which ones were consumed."""
        self.counts: dict[str, int] = {}
        self.trace: list[tuple[float, str]] = []
        self.broken = False
        self.errors: list[BaseException] = []
        self.ledger: Ledger
        self.loop.set_exception_handler(self._unforeseen)
        self._mains: dict[str, Callable[[str], Coroutine[object, object, None]]] = {}
        self._serial = 0
        self._down: set[str] = set()
        self._draining: set[str] = set()

    def now(self) -> float:
        return self.clock.now()

    # -- telling
    def note(self, text: str) -> None:
        self.trace.append((self.loop.time(), text))

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def violate(self, name: str, text: str) -> None:
        self.note(f"VIOLATION {name}: {text}")
        self.violations.append(Violation(name, text))
        self.broken = True

    def _unforeseen(self, loop: object, context: dict[str, object]) -> None:
        error = context.get("exception")
        self.violate("error", f"{PROCESS.get()}: {context.get('message')}: {error!r}")
        if isinstance(error, BaseException):
            self.errors.append(error)

    def digest(self) -> str:
        told = "\n".join(f"{at:.9f} {text}" for at, text in self.trace)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def definition_of(self, state: RunState) -> Definition:
        started = state.started
        return self.definitions[started.workflow if started is not None else ""]

    # -- set-up
    async def prepare(self, definitions: list[Definition]) -> None:
        """The assets and definitions, before anything goes wrong."""
        transport = self.server.connect("setup")
        for asset in namespace_assets(self.names):
            await transport.ensure(asset)
        for handler in HANDLERS:
            await transport.ensure(task_consumer(self.names, handler))
        store = Definitions(transport, self.names)
        for definition in definitions:
            await store.register(definition)
            self.definitions[definition.id] = definition
        self.ledger = Ledger(self)
        self.server.faults = self.plan

    def handlers(self, names: tuple[str, ...]) -> dict[str, StepHandler]:
        return {name: StepHandler(name, self.books.body) for name in names}

    # -- processes
    def spawn(self, base: str, main: Callable[[str], Coroutine[object, object, None]]) -> str:
        """Starts a process; after a crash it comes back under a new name."""
        self._serial += 1
        name = f"{base}#{self._serial}"
        self._mains[base] = main
        self._down.discard(base)
        context = contextvars.copy_context()
        context.run(PROCESS.set, name)
        self.note(f"{name} starts")
        self.loop.create_task(self._main(name, main), name=name, context=context)
        return name

    async def _main(self, name: str, main: Callable[[str], Coroutine[object, object, None]]) -> None:
        try:
            await main(name)
        except JetloomError as error:
            self.note(f"{name} dies at its start: {error.code}")
            self.crash(name, restart_after=0.5)
            await self.loop.never()

    def connect(self, name: str) -> MemoryTransport:
        return self.server.connect(name)

    def spawn_engine(self, base: str, local: tuple[str, ...] = LOCAL) -> str:
        async def main(name: str) -> None:
            engine = Engine(
                self.connect(name),
                self.names,
                clock=self.clock,
                handlers=self.handlers(local),
                name=base,
                capacity=self.style.capacity,
                sweep=self.style.sweep,
                # A fifth of the universes, and none of those whose seeds are kept.
                grouping="always" if self.seed % 5 == 4 else "auto",
            )
            self.engines[name] = engine
            await engine.start()

        return self.spawn(base, main)

    def spawn_worker(self, base: str, handlers: tuple[str, ...] = REMOTE) -> str:
        async def main(name: str) -> None:
            worker = Worker(
                self.connect(name), self.names, clock=self.clock, handlers=self.handlers(handlers)
            )
            await worker.start()

        return self.spawn(base, main)

    def process_of(self, base: str) -> str:
        """The living process of that base name; empty when it is down."""
        alive = [name for name in self.engines if name.partition("#")[0] == base and self.loop.alive(name)]
        return alive[-1] if alive else ""

    def engine(self, base: str) -> Engine:
        return self.engines[self.process_of(base)]

    def strikes(self, process: str) -> bool:
        """Whether a fault may hit this process."""
        return "#" in process and self.loop.alive(process) and not self.loop.frozen(process)

    # -- what may happen
    def crash(self, process: str, *, restart_after: float) -> None:
        if not self.loop.alive(process):
            return
        base = process.partition("#")[0]
        self.count("crash")
        self.note(f"{process} CRASHES, back in {restart_after:.2f} s")
        self.loop.kill(process)
        self.server.abandon(process)
        self.engines.pop(process, None)
        self._down.add(base)
        self.server.call_later(restart_after, self._restart, base)

    def _restart(self, base: str) -> None:
        if base in self._down and not self.broken:
            self.spawn(base, self._mains[base])

    def freeze(self, process: str, seconds: float) -> None:
        self.count("freeze")
        self.note(f"{process} FREEZES for {seconds:.2f} s")
        self.loop.freeze(process)
        self.loop.call_later(seconds, self._thaw, process, context=contextvars.Context())

    def _thaw(self, process: str) -> None:
        if self.loop.frozen(process):
            self.note(f"{process} thaws")
            self.thawed[process] = self.now()
            self.loop.thaw(process)

    async def pause(self) -> None:
        """One turn of the loop: a frozen process stays here."""
        await asyncio.sleep(0)

    def disconnect(self, process: str, seconds: float) -> None:
        for transport in tuple(self.server.transports):
            if transport.name == process and transport.link.up:
                self.count("disconnect")
                self.note(f"{process} loses its connection for {seconds:.2f} s")
                transport.disconnect(lose_sent=True)
                transport.reconnect_later(seconds)

    def separate(self, one: str, other: str, seconds: float) -> None:
        self.count("separation")
        self.note(f"{one} and {other} can't talk for {seconds:.2f} s")
        self.plan.separate(one, other)
        self.server.call_later(seconds, self.plan.join, one, other)

    def crash_server(self, seconds: float) -> None:
        if self.server.up:
            self.count("server crash")
            self.note(f"the server CRASHES, back in {seconds:.2f} s")
            self.server.crash()
            self.sent_late = True
            self.loop.call_later(seconds, self._server_back, context=contextvars.Context())

    def _server_back(self) -> None:
        if not self.server.up:
            self.note("the server is back")
            self.server.restart()

    def drain(self, process: str) -> None:
        """A graceful stop, as at a deploy; a successor starts a moment later."""
        engine = self.engines.get(process)
        if engine is None or process in self._draining or not self.strikes(process):
            return
        self._draining.add(process)
        self.count("drain")
        self.note(f"{process} drains")
        context = contextvars.copy_context()
        context.run(PROCESS.set, process)

        async def main() -> None:
            await engine.stop(deadline=1.0)
            self.note(f"{process} has drained")
            self.crash(process, restart_after=0.2)
            await self.loop.never()

        self.loop.create_task(main(), context=context)

    def rob(self) -> bool:
        """Takes a live cover's message away, as when two streams lose different tails in a power failure."""
        ledger = self.ledger
        for run in sorted(ledger.truths):
            for ref in ledger.truths[run].state.covers:
                if ref[0] == "m" and ledger.cover_stored(ref):
                    ledger.robbed |= {f"{run} {ref}", f"{run} *"}
                    self.count("robbery")
                    self.note(f"cover {ref} of {run} is lost")
                    ledger.mailbox.delete(int(ref[1:]))
                    return True
        return False

    def fates(self) -> dict[str, int]:
        """Faults that took effect."""
        found = dict(self.counts)
        found["redelivery"] = sum(self.ledger.redelivered.values())
        found["dead letter"] = len(self.ledger.dead)
        return found


# -- hooks that every universe needs
CURRENT: list[World] = []


class _Errors(logging.Handler):
    """Turns what a supervisor logs into a violation: in a universe nobody foresees nothing."""

    def emit(self, record: logging.LogRecord) -> None:
        if not CURRENT or CURRENT[0].loop.is_closed():
            return
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, OutcomeUnknown):
            CURRENT[0].note(f"{PROCESS.get()} {record.getMessage()}: {error}")
            return
        world = CURRENT[0]
        if error is None and PROCESS.get() in world.thawed:
            # A deadline of a drain that passed while its process was frozen.
            world.note(f"{PROCESS.get()} {record.getMessage()}")
            return
        world.violate("error", f"{PROCESS.get()}: {record.getMessage()}: {type(error).__name__}: {error}")
        if error is not None:
            world.errors.append(error)


def _watched_start(original: Callable[..., object]) -> Callable[..., object]:
    def start(self: Executor, body: Body, handler: StepHandler, context: Context, *rest: object) -> object:
        if CURRENT:
            world, process = CURRENT[0], PROCESS.get()
            attempt = (context.run, context.inc, context.unit, context.attempt)
            world.books.local.add((process, attempt))
            world.checks.local_body_starts(process, *attempt)
        return original(self, body, handler, context, *rest)

    return start


@contextmanager
def watched(world: World) -> Generator[None]:
    """Hangs the universe's eyes into the engine."""
    handler = _Errors(logging.ERROR)
    logger = logging.getLogger("jetloom")
    level = logger.level
    CURRENT.append(world)
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR)
    propagate, logger.propagate = logger.propagate, False
    try:
        with (
            patch.object(_commit, "SNAPSHOT_ENTRIES", world.style.snapshot_entries),
            # Small enough for the smallest payload, and for blobs of several chunks.
            patch.object(_blobs, "CHUNK", 16_384),
            patch.object(Executor, "start", _watched_start(Executor.start)),
        ):
            yield
    finally:
        CURRENT.remove(world)
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def live[T](world: World, main: Coroutine[object, object, T]) -> T:
    """Runs a universe's main coroutine to its end, and the universe with it."""
    try:
        with watched(world):
            return world.loop.run_until_complete(main)
    finally:
        world.loop.close()


__all__ = ["CURRENT", "Violation", "World", "compile_definition", "live"]
