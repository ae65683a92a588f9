"""What bodies and clients did, and what they should find there."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

from jetloom.errors import ErrorClass, TaskFailed
from jetloom.testing import PROCESS
from jetloom.types import JSON

if TYPE_CHECKING:
    from jetloom.runtime import StepContext
    from tests.simulation._world import World

type Attempt = tuple[str, int, str, int]
"""Run, incarnation, unit, attempt."""


class Execution:
    """One run of a body. `end` None: it never ended, or died."""

    __slots__ = ("attempt", "begin", "end", "local", "outcome", "process")

    def __init__(self, attempt: Attempt, process: str, begin: float, local: bool) -> None:
        self.attempt = attempt
        self.process = process
        self.begin = begin
        self.local = local
        self.end: float | None = None
        self.outcome = ""


class Answer:
    """What `Client.start` answered. `inc` 0: it said that the id is taken by another start."""

    __slots__ = ("hash", "inc", "run", "started")

    def __init__(self, run: str, input_hash: str, inc: int, started: bool) -> None:
        self.run = run
        self.hash = input_hash
        self.inc = inc
        self.started = started


class Books:
    """The universe's own record, written by bodies and clients."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._draw = Random(seed ^ 0x5EED)
        self.executions: dict[Attempt, list[Execution]] = {}
        self.local: set[tuple[str, Attempt]] = set()
        """Attempts that an engine's executor was told to start, by process."""
        self.answers: list[Answer] = []
        self.messages_sent: set[tuple[str, str, str]] = set()

    async def body(self, context: StepContext, value: JSON) -> JSON:
        """Every handler: it does what the step's `with` says for this attempt."""
        unit = str(getattr(context, "unit", context.step))
        attempt: Attempt = (context.run, context.inc, unit, context.attempt)
        world, process = self._world, PROCESS.get()
        local = (process, attempt) in self.local
        execution = Execution(attempt, process, world.now(), local)
        self.executions.setdefault(attempt, []).append(execution)
        world.checks.body_starts(execution)
        world.note(f"{process} body {context.run} {unit}/{context.attempt} begins")
        undo = unit != context.step
        plan = _plan(value, undo)
        try:
            await asyncio.sleep(_at(plan.get("d"), context.attempt, 0.01) * (0.5 + self._draw.random()))
        except asyncio.CancelledError:
            execution.outcome = "cancelled"
            raise
        execution.end = world.now()
        code = str(_at(plan.get("u" if undo else "f"), context.attempt, ""))
        execution.outcome = code or "ok"
        world.note(f"{process} body {context.run} {unit}/{context.attempt} ends {execution.outcome}")
        if code:
            _raise(code)
        if not undo:
            for index in range(int(_number(plan.get("e")))):
                pad = "x" * int(_number(plan.get("pad")))
                context.emit("sim.thing.happened", {"step": unit, "index": index, "pad": pad})
        return {"step": unit, "attempt": context.attempt}


def _plan(value: JSON, undo: bool) -> dict[str, JSON]:
    if undo and isinstance(value, dict):
        value = value.get("input")
    return value if isinstance(value, dict) else {}


def _number(value: JSON) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _at[T](values: JSON, attempt: int, default: T) -> T:
    """What a plan says for an attempt: lists end with what comes after all that they name."""
    if isinstance(values, list) and 0 < attempt <= len(values):
        return values[attempt - 1]  # pyright: ignore[reportReturnType]
    return default


def _raise(code: str) -> None:
    match code:
        case "terminal":
            raise TaskFailed("sim.terminal", "planned", error_class=ErrorClass.TERMINAL)
        case "limited":
            raise TaskFailed(
                "sim.limited", "planned", error_class=ErrorClass.RATE_LIMITED, retry_after_ms=700
            )
        case _:
            raise ValueError("planned")
