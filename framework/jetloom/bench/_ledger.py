"""The file that slow bodies write a line into when they begin and when they end; it outlives any of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from ._frame import BenchFailed
from ._load import now
from ._process import Child

HALFWAY_SECONDS = 30.0
LOOK_SECONDS = 0.005


class Ledger:
    """Lines are `begin` or `end`, the process, the run, the step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def lines(self) -> list[str]:
        def read() -> str:
            return self.path.read_text() if self.path.exists() else ""

        return (await asyncio.to_thread(read)).splitlines()

    async def ended(self) -> int:
        return sum(line.startswith("end ") for line in await self.lines())

    async def halfway(self, bodies: int, *, before: int = 0) -> None:
        """Returns when half of `bodies` have ended, besides the `before` that had. Raises `BenchFailed`."""
        deadline = now() + HALFWAY_SECONDS
        while await self.ended() - before < bodies // 2:
            if now() > deadline:
                raise BenchFailed(f"half of {bodies} bodies were not done after {HALFWAY_SECONDS:g} s")
            await asyncio.sleep(LOOK_SECONDS)

    def run_twice(self, lines: Sequence[str]) -> int:
        """How many bodies began again."""
        begun = Counter(step_of(line) for line in lines if line.startswith("begin "))
        return sum(begun.values()) - len(begun)


def step_of(line: str) -> str:
    """`run step` of a line."""
    return line.split(" ", 2)[2]


@asynccontextmanager
async def killed(*children: Child | None) -> AsyncGenerator[None]:
    """Whatever happens inside, they are gone after it."""
    try:
        yield
    finally:
        for child in children:
            if child is not None:
                await asyncio.shield(child.kill())
