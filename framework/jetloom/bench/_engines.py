"""W11: more engines than one, and the results of one run that reach several."""

from __future__ import annotations

from contextlib import AsyncExitStack

from ._frame import Scope
from ._load import Given
from ._process import Child

ENGINES = (1, 2, 4)
PARTS = 1_000
PARTS_QUICK = 200


async def engines(scope: Scope) -> None:
    for count in scope.pick(ENGINES, ENGINES, (2,)):
        await _chain(scope, count)
    for count in scope.pick(ENGINES, ENGINES, (2,)):
        await _results(scope, count)


async def _chain(scope: Scope, count: int) -> None:
    case = f"chain at 256, {_named(count)}"
    scope.progress(case)
    async with scope.server() as server, AsyncExitStack() as stack:
        config = Given(url=server.url)
        served = [await stack.enter_async_context(scope.child("engine", config)) for _ in range(count)]
        client = await stack.enter_async_context(scope.child("runs", config))
        await client.ask("register", Given(name="chain"))
        load = Given(name="chain", concurrency=scope.pick(256, 256, 16), seconds=scope.seconds(4.0))
        found = await client.ask("load", load)
        await client.ask("verify", Given(steps=3))
        await _appends(scope, case, served)
    scope.sample(case, "runs", found.rate, "1/s")
    scope.sample(case, "p99", found.p99, "ms")


async def _results(scope: Scope, count: int) -> None:
    parts = scope.pick(PARTS, PARTS_QUICK, 20)
    case, reduced = f"{parts:,} remote steps, {_named(count)}", parts < PARTS
    scope.progress(case)
    async with scope.server() as server, AsyncExitStack() as stack:
        config = Given(url=server.url, remote=True)
        served = [await stack.enter_async_context(scope.child("engine", config)) for _ in range(count)]
        await stack.enter_async_context(scope.child("worker", config))
        client = await stack.enter_async_context(scope.child("runs", config))
        await client.ask("register", Given(name="fanout", steps=parts))
        found = await client.ask("one", Given(name="fanout", count=scope.pick(5, 2, 1), seconds=60))
        await client.ask("verify", Given(steps=parts + 1))
        await _appends(scope, case, served, reduced=reduced)
    scope.sample(case, "time", found.p50, "ms", reduced=reduced)


async def _appends(scope: Scope, case: str, served: list[Child], *, reduced: bool = False) -> None:
    counts = [(await child.ask("counts")).more for child in served]
    for outcome in ("accepted", "refused"):
        total = sum(count[outcome] for count in counts)
        scope.sample(case, f"appends {outcome}", total, "appends", reduced=reduced)


def _named(count: int) -> str:
    return f"{count} engine{'s' if count > 1 else ''}"
