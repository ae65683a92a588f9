"""The workflows that are measured, and the bodies of their steps."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..workflows import Definition, Step, Wait, Workflow

if TYPE_CHECKING:
    from ..runtime import StepContext, StepHandler
    from ..types import JSON

RESULT = {"data": "x" * 85}
"""About 100 bytes of JSON."""
SLOW_SECONDS = 0.05
CONCURRENCY = 1_000
"""Bodies of one handler at once; above every concurrency that is measured."""


def chain(steps: int = 3, handler: str = "bench.step", name: str = "chain") -> Definition:
    """Steps one after the other."""
    workflow = Workflow(name)
    for number in range(steps):
        workflow.step(f"s{number}", uses=handler, after=f"s{number - 1}" if number else ())
    return workflow.build()


def fanout(steps: int, name: str) -> Definition:
    """Parallel steps and one that waits for all of them."""
    parts = tuple(Step(f"s{number}", uses="bench.step") for number in range(steps))
    join = Step("join", uses="bench.step", depends_on=tuple(part.id for part in parts))
    return Definition(name, (*parts, join))


def sleeper(seconds: float | str, name: str) -> Definition:
    return Definition(name, (Step("nap", wait=Wait(for_=seconds)),))


def waiter() -> Definition:
    """Waits for a message and ends."""
    return Definition("waiter", (Step("word", wait=Wait(message="word")),))


def handlers(ledger: str = "", size: int = 100) -> Mapping[str, StepHandler]:
    """The bodies. `ledger` is a file that `bench.slow` writes a line into at each start and end of a body:
    the word, the process, the run, the step."""
    from ..runtime import StepHandler

    large: JSON = {"data": "x" * size}
    result: JSON = dict(RESULT)

    async def step(_: StepContext, _value: JSON) -> JSON:
        return result

    async def payload(_: StepContext, _value: JSON) -> JSON:
        return large

    async def slow(context: StepContext, _value: JSON) -> JSON:
        note(ledger, f"begin {os.getpid()} {context.run} {context.step}")
        await asyncio.sleep(SLOW_SECONDS)
        note(ledger, f"end {os.getpid()} {context.run} {context.step}")
        return result

    bodies = {"bench.step": step, "bench.payload": payload, "bench.slow": slow}
    return {name: StepHandler(name, body, CONCURRENCY) for name, body in bodies.items()}


def note(path: str, line: str) -> None:
    """One write, so that lines of several processes don't mix, and a killed process leaves whole ones."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode() + b"\n")
    finally:
        os.close(file)
