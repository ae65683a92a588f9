"""W4: an engine is killed in the middle of its work; another one, or the same one again, ends it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from ._frame import BenchFailed, Scope
from ._load import Given, now
from ._process import Child

RUNS = 200
RUNS_QUICK = 50
STEPS = 3
HALFWAY_SECONDS = 30.0
LOOK_SECONDS = 0.005
ALL_SECONDS = 60.0


async def recovery(scope: Scope) -> None:
    runs = RUNS if scope.full else RUNS_QUICK
    await _recover(scope, "restarted", runs, second=False)
    await _recover(scope, "second engine", runs, second=True)


async def _recover(scope: Scope, case: str, runs: int, *, second: bool) -> None:
    scope.progress(case)
    reduced = runs < RUNS
    async with scope.server() as server:
        ledger = scope.folder / f"ledger-{server.port}"
        config = Given(url=server.url, text=str(ledger))
        first = await scope.start_child("engine", config)
        other = await scope.start_child("engine", config) if second else None
        async with _killed(first, other), scope.child("runs", config) as client:
            await client.ask("register", Given(name="slow"))
            begins = await _lines(ledger)
            engine_id = (await first.ask("counts")).text
            client.tell("begin", Given(name="slow", count=runs, steps=1))
            await _halfway(ledger, runs, begins)
            await first.kill()
            at = now()
            begun = {line for line in await _lines(ledger) if line.startswith(f"begin {first.pid} ")}
            await client.answer("begin")
            if other is None:
                other = await scope.start_child("engine", config)
            ready = now()
            async with _killed(other, None):
                found = await client.ask("wait", Given(seconds=ALL_SECONDS), seconds=ALL_SECONDS + 30)
                await client.ask("verify", Given(steps=STEPS))
                journaled = set((await client.ask("completed", Given(text=engine_id))).names)
        bodies = Counter(_step(line) for line in await _lines(ledger) if line.startswith("begin"))
        ledger.unlink()
    lost = found.more["left"]
    if lost:
        raise BenchFailed(f"{case}: {lost:.0f} of {runs} runs were lost")
    # What the killed engine had begun, and has not journaled as completed.
    flying = len({_step(line) for line in begun} - journaled)
    twice = sum(bodies.values()) - len(bodies)
    scope.sample(case, "all done since the kill", found.more["last"] - at, "s", reduced=reduced)
    if not second:
        since = found.more["last"] - ready
        scope.sample(case, "all done since the restart", since, "s", reduced=reduced)
    scope.sample(case, "runs lost", lost, "runs", reduced=reduced)
    scope.sample(case, "bodies in flight", flying, "bodies", reduced=reduced)
    scope.sample(case, "bodies run twice", twice, "bodies", reduced=reduced)


@asynccontextmanager
async def _killed(*children: Child | None) -> AsyncGenerator[None]:
    """Whatever happens inside, they are gone after it."""
    try:
        yield
    finally:
        for child in children:
            if child is not None:
                await asyncio.shield(child.kill())


async def _halfway(ledger: Path, runs: int, before: list[str]) -> None:
    """Returns when half of the bodies have ended. Raises `BenchFailed`."""
    deadline, wanted = now() + HALFWAY_SECONDS, runs * STEPS // 2
    done = sum(line.startswith("end") for line in before)
    while sum(line.startswith("end") for line in await _lines(ledger)) - done < wanted:
        if now() > deadline:
            raise BenchFailed(f"half of {runs} runs were not done after {HALFWAY_SECONDS:g} s")
        await asyncio.sleep(LOOK_SECONDS)


async def _lines(ledger: Path) -> list[str]:
    def read() -> str:
        return ledger.read_text() if ledger.exists() else ""

    return (await asyncio.to_thread(read)).splitlines()


def _step(line: str) -> str:
    """`run step` of a line."""
    return line.split(" ", 2)[2]
