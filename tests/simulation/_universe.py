"""One universe, from its seed to its verdict."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Coroutine
from random import Random
from typing import TYPE_CHECKING

import msgspec

from jetloom.engine import Client
from jetloom.errors import (
    Disconnected,
    JetloomError,
    NotFound,
    OutcomeUnknown,
    RequestTimeout,
    RunConflict,
)
from jetloom.messages import Cancel, Result, RunMessage, encode, input_hash
from jetloom.testing import Deadlock, Livelock
from jetloom.types import JSON, StepStatus
from tests.simulation._books import Answer
from tests.simulation._checks import emits_of
from tests.simulation._graphs import LOCAL, make_definition
from tests.simulation._ledger import Truth
from tests.simulation._plan import Style, draw_style, nastier
from tests.simulation._world import World, live

if TYPE_CHECKING:
    from jetloom.engine._run import Run

PATIENCE = 240.0
"""Virtual seconds after the faults in which every run must end: above ack waits, graces, retries, sweeps together."""
STEP = 0.5


class Verdict(msgspec.Struct, frozen=True):
    """How a universe ended. `broken` names the invariant that was found broken first; empty when none was."""

    seed: int
    broken: str
    text: str
    runs: int
    entries: int
    seconds: float
    virtual: float
    faults: dict[str, int]
    digest: str
    trace: list[tuple[float, str]]
    errors: str = ""
    """Tracebacks of what nobody foresaw."""


class Deed:
    """Something that a client is to do at a time; it is done when it was done once, by whichever process."""

    def __init__(
        self, at: float, what: str, act: Callable[[Client], Coroutine[object, object, None]]
    ) -> None:
        self.at = at
        self.what = what
        self.act = act
        self.done = False


class Universe:
    """What a seed means."""

    def __init__(self, seed: int, style: Style | None = None) -> None:
        self.draw = Random(seed)
        self.style = style or draw_style(self.draw)
        self.world = World(seed, self.style)
        self.definitions = [make_definition(self.draw, f"w{index}") for index in range(2)]
        self.deeds: dict[str, list[Deed]] = {"c1": [], "c2": []}

    async def run(self) -> None:
        world, style = self.world, self.style
        await world.prepare(self.definitions)
        self._script()
        for index in range(style.engines):
            local = LOCAL[: 1 + index % 2] if style.partial_handlers else LOCAL
            world.spawn_engine(f"e{index}", local)
        for index in range(style.workers):
            world.spawn_worker(f"k{index}")
        for base in self.deeds:
            world.spawn(base, self._client(base))
        await self._chaos()
        await self._calm()
        if not world.broken:
            self._at_rest()

    # -- clients
    def _client(self, base: str) -> Callable[[str], Coroutine[object, object, None]]:
        async def main(name: str) -> None:
            world = self.world
            client = Client(world.connect(name), world.names, clock=world.clock)
            for deed in self.deeds[base]:
                if deed.done:
                    continue
                await asyncio.sleep(max(0.0, deed.at - world.loop.time()))
                world.note(f"{name} {deed.what}")
                for _ in range(200):
                    try:
                        await deed.act(client)
                    except (OutcomeUnknown, RequestTimeout, Disconnected):
                        await asyncio.sleep(0.3)
                        continue
                    except NotFound as error:
                        world.note(f"{name} {deed.what}: {error.code}")
                    break
                deed.done = True

        return main

    def _script(self) -> None:
        draw, end = self.draw, self.style.chaos_seconds
        for index in range(self.style.runs):
            at = draw.random() * end * 0.4
            workflow = draw.choice(self.definitions).id
            run = f"run-{index}" if draw.random() < 0.7 else ""
            self._add(
                draw, at, f"starts {run or 'a run'} of {workflow}", self._start(run, workflow, {"x": index})
            )
            if not run:
                continue
            if draw.random() < 0.3:
                again = at + draw.random() * draw.choice((0.05, 2.0, end))
                self._add(draw, again, f"starts {run} again", self._start(run, workflow, {"x": index}))
            if draw.random() < 0.1:
                other = self._start(run, workflow, {"x": -1})
                self._add(draw, at + draw.random(), f"starts another {run}", other)
            for number in range(draw.choice((0, 1, 1, 2, 3))):
                self._tell(draw, run, at + draw.random() * draw.choice((0.1, 3.0, end)), number)
        if draw.random() < 0.3:
            self._strays(draw, end)
        for deeds in self.deeds.values():
            deeds.sort(key=lambda deed: deed.at)

    def _tell(self, draw: Random, run: str, at: float, number: int) -> None:
        match draw.choice(("message", "message", "message", "cancel", "pause", "poke", "retry")):
            case "message":
                name, identity = f"go{draw.randint(0, 1)}", f"id{draw.randint(0, 2)}"
                for again in range(draw.choice((1, 1, 2))):
                    later = at + again * draw.random() * 2
                    self._add(
                        draw, later, f"sends {name}.{identity} to {run}", self._message(run, name, identity)
                    )
            case "cancel":
                compensate = draw.choice((None, None, True, False))

                async def cancel(client: Client) -> None:
                    await client.cancel(run, compensate=compensate)

                self._add(draw, at, f"cancels {run}", cancel)
            case "pause":
                self._add(draw, at, f"pauses {run}", _action(run, "pause"))
                self._add(draw, at + draw.random() * 4, f"resumes {run}", _action(run, "resume"))
            case "poke":
                self._add(draw, at, f"pokes {run}", self._raw(self.world.names.poke(run), b""))
            case _:
                self._add(draw, at, f"retries {run}", _action(run, "retry"))
        del number

    def _strays(self, draw: Random, end: float) -> None:
        """Messages that nobody waits for."""
        names, at = self.world.names, draw.random() * end
        result = encode(Result("ok", output=1))
        strays = (
            (names.message("run-0", "go0", "stray"), encode(RunMessage({"stray": True}))),
            (names.cancel("nobody", "x1"), encode(Cancel("stray"))),
            (names.message("nobody", "go0", "x2"), encode(RunMessage())),
            (names.result("nobody", "r0", 7, "s0", 1), result),
            (names.result("run-0", "r0", 99_999, "s0", 1), result),
            (names.poke("nobody"), b""),
        )
        for subject, data in draw.sample(strays, 3):
            self._add(draw, at + draw.random(), f"strays {subject}", self._raw(subject, data))

    def _add(
        self, draw: Random, at: float, what: str, act: Callable[[Client], Coroutine[object, object, None]]
    ) -> None:
        self.deeds[draw.choice(("c1", "c2"))].append(Deed(at, what, act))

    def _start(
        self, run: str, workflow: str, value: JSON
    ) -> Callable[[Client], Coroutine[object, object, None]]:
        async def start(client: Client) -> None:
            books, found = self.world.books, input_hash(workflow, value)
            try:
                done = await client.start(workflow, value, id=run or None)
            except RunConflict:
                books.answers.append(Answer(run, found, 0, False))
                self.world.note(f"{run}: conflict")
                return
            books.answers.append(Answer(done.run, found, done.inc, done.started))
            self.world.note(f"{done.run}: inc {done.inc}, started {done.started}")

        return start

    def _message(
        self, run: str, name: str, identity: str
    ) -> Callable[[Client], Coroutine[object, object, None]]:
        async def send(client: Client) -> None:
            await client.message(run, name, {"id": identity}, id=identity)

        return send

    def _raw(self, subject: str, data: bytes) -> Callable[[Client], Coroutine[object, object, None]]:
        async def publish(client: Client) -> None:
            await client._transport.append(subject, data)

        return publish

    # -- chaos
    async def _chaos(self) -> None:
        """Steps of virtual time, with what hits from outside."""
        world, style, draw = self.world, self.style, self.draw
        events: list[tuple[float, str]] = []
        for what, count in (
            ("separate", style.separations),
            ("server", style.server_crashes),
            ("drain", style.drains),
            ("rob", style.robberies),
        ):
            events += [(draw.random() * style.chaos_seconds, what) for _ in range(count)]
        events.sort()
        while world.loop.time() < style.chaos_seconds and not world.broken:
            now = world.loop.time()
            while events and events[0][0] <= now:
                self._happen(events.pop(0)[1])
            await asyncio.sleep(STEP)
            world.checks.engine_states()
        world.note("the faults stop")
        world.plan.calm()

    def _happen(self, what: str) -> None:
        world, draw = self.world, self.draw
        engines = sorted(name for name in world.engines if world.loop.alive(name))
        if what == "server":
            world.crash_server(0.1 + draw.random() * 2)
        elif what == "rob":
            world.rob()
        elif engines:
            one = draw.choice(engines)
            if what == "drain":
                world.drain(one)
            elif len(engines) > 1:
                other = draw.choice([name for name in engines if name != one])
                world.separate(one, other, draw.choice((1.0, 4.0, 8.0)))

    async def _calm(self) -> None:
        """Until every run has ended and nothing is left; people decide what waits for them."""
        world = self.world
        context_client = Client(world.server.connect("person"), world.names, clock=world.clock)
        deadline = world.loop.time() + PATIENCE
        asked: dict[str, int] = {}
        while not world.broken:
            await asyncio.sleep(STEP)
            world.checks.engine_states()
            left = self._left()
            if not left:
                return
            if world.loop.time() > deadline:
                world.violate("liveness", "; ".join(left))
                return
            for truth in list(world.ledger.truths.values()):
                await self._decide(context_client, truth, asked)

    async def _decide(self, client: Client, truth: Truth, asked: dict[str, int]) -> None:
        """What people do: answer what waits for them, send what is waited for, poke what was robbed."""
        state, world = truth.state, self.world
        seen = state.n
        if state.finished is not None or asked.get(truth.run) == seen:
            return
        try:
            if state.parked is not None and state.parked.reason != "definition":
                verb = self.draw.choice(("retry", "skip", "skip"))
                await client.action(truth.run, verb)
            elif state.paused:
                await client.action(truth.run, "resume")
            elif f"{truth.run} *" in world.ledger.robbed and self._stuck(truth):
                await client._transport.append(world.names.poke(truth.run), b"")
            else:
                definition = world.definition_of(state)
                waits = [
                    step.wait.message
                    for step in definition.steps
                    if step.wait is not None
                    and step.wait.message is not None
                    and state.unit(step.id).status is StepStatus.WAITING
                ]
                if not waits or state.phase != "open":
                    return
                for index, name in enumerate(waits):
                    await client.message(truth.run, name, "late", id=f"person{state.n}-{index}")
        except NotFound:
            return
        except JetloomError as error:
            world.note(f"the person could not decide: {error.code}")
            return
        world.count("decision")
        asked[truth.run] = seen

    def _stuck(self, truth: Truth) -> bool:
        """Whether only a poke can move it: what the sweep finds out in a minute."""
        ledger = self.world.ledger
        lost = any(not ledger.cover_stored(ref) for ref in truth.state.covers)
        return lost or bool(self.world.checks.missing(truth))

    def _left(self) -> list[str]:
        """What is not over yet."""
        world, ledger = self.world, self.world.ledger
        left = [
            f"{base} has deeds to do" for base, deeds in self.deeds.items() if any(not d.done for d in deeds)
        ]
        for run in sorted(ledger.started):
            truth = ledger.truths.get(run)
            if truth is None or truth.state.finished is None:
                where = (
                    "has no journal" if truth is None else f"is {truth.state.status.value} at {truth.state.n}"
                )
                left.append(f"{run} {where}")
        for name, stream in (("mailbox", ledger.mailbox), ("tasks", ledger.tasks)):
            left += [f"{name} holds {message.subject}" for message in stream.messages.values()]
        left += [f"{s} waits" for s in ledger.timers.subjects if not s.endswith(".purge")]
        for name, engine in world.engines.items():
            left += [f"{name} works on {run} ({_work(found)})" for run, found in engine.table.items()]
        return left

    # -- the end
    def _at_rest(self) -> None:
        """I8, I14 and I7's count, when all is over."""
        world, ledger = self.world, self.world.ledger
        for truth in ledger.truths.values():
            self._events(truth)
            self._answers(truth)
        unknown = [a for a in world.books.answers if a.inc and a.run not in ledger.truths]
        if unknown:
            world.violate("I14", f"{unknown[0].run} was started and has no journal")
        for attempt, executions in world.books.executions.items():
            run, inc, unit, number = attempt
            again = ledger.redelivered.get(run, 0)
            again += sum(
                count
                for subject, count in ledger.redelivered.items()
                if subject.endswith(f".{run}.{inc}.{unit}.{number}")
            )
            excused = world.sent_late or f"{run} *" in ledger.robbed
            if len(executions) - 1 > again and not excused:
                world.violate(
                    "I7", f"{run}: {unit}/{number} ran {len(executions)} times, {again} redeliveries"
                )

    def _events(self, truth: Truth) -> None:
        world, ledger, names = self.world, self.world.ledger, self.world.names
        wanted = sorted(emits_of(truth))
        prefix = f"$KV.{names.markers_bucket}.emit.{truth.run}.{truth.state.inc}."
        stored = [
            tuple(message.subject.removeprefix(prefix).split(".", 1))
            for message in ledger.markers.messages.values()
            if message.subject.startswith(prefix)
        ]
        if sorted(stored) != wanted:
            world.violate("I8", f"{truth.run}: journaled {wanted}, stored {sorted(stored)}")
        identity = f"{truth.run}.{truth.state.inc}."
        copied = [
            message.headers["ce-id"].removeprefix(identity)
            for message in ledger.events.messages.values()
            if message.headers.get("ce-id", "").startswith(identity)
        ]
        if sorted(copied) != sorted(key for key, _ in wanted):
            world.violate("I8", f"{truth.run}: journaled {wanted}, published {sorted(copied)}")

    def _answers(self, truth: Truth) -> None:
        world, started = self.world, truth.state.started
        mine = [answer for answer in world.books.answers if answer.run == truth.run]
        for answer in mine:
            if answer.inc and answer.inc != truth.state.inc:
                world.violate("I14", f"{truth.run}: a client was told {answer.inc}, it is {truth.state.inc}")
            same = started is not None and answer.hash == started.hash
            if bool(answer.inc) != same:
                world.violate("I14", f"{truth.run}: a client was told the wrong thing about its input")
        if sum(answer.started for answer in mine) > 1:
            world.violate("I14", f"{truth.run}: two clients were told that they started it")


def _work(run: Run) -> str:
    held = [f"{message.arrived.address.kind} {ref}" for ref, message in run.messages.items()]
    return f"{held}, bodies {list(run.bodies)}, outputs {len(run.outputs)}, asking {len(run.asking)}"


def _action(run: str, verb: str) -> Callable[[Client], Coroutine[object, object, None]]:
    async def act(client: Client) -> None:
        await client.action(run, verb)  # pyright: ignore[reportArgumentType]

    return act


def run_universe(seed: int, *, nasty: bool = False) -> Verdict:
    """Runs the universe of `seed`. The same seed gives the same trace."""
    began = time.process_time()
    style = nastier(draw_style(Random(seed)), Random(seed ^ 77)) if nasty else None
    universe = Universe(seed, style)
    world = universe.world
    try:
        live(world, universe.run())
    except (Deadlock, Livelock) as error:
        world.violate("liveness", f"{type(error).__name__}: {error}")
    found = world.violations[0] if world.violations else None
    ledger = world.ledger
    return Verdict(
        seed,
        found.name if found is not None else "",
        str(found) if found is not None else "",
        len(ledger.truths),
        sum(len(truth.entries) for truth in ledger.truths.values()),
        time.process_time() - began,
        world.loop.time(),
        world.fates(),
        world.digest(),
        world.trace,
        "".join("".join(traceback.format_exception(error)) for error in world.errors[:2]),
    )
