"""The same runs on another durable engine: DBOS on SQLite and on PostgreSQL, where they are installed."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from ._events import installed
from ._frame import BenchFailed, Meter, Scope
from ._ledger import Ledger, killed
from ._load import Given, now
from ._postgres import open_postgres, postgres_installed
from ._process import Child

CONCURRENCIES = (1, 64, 256)
STEPS = 100
ALL_SECONDS = 120.0


@contextlib.asynccontextmanager
async def _sqlite(scope: Scope) -> AsyncGenerator[str]:
    """A file of its own; WAL is what DBOS sets."""
    path = scope.folder / f"dbos-{scope.next()}.sqlite"
    try:
        yield f"sqlite:///{path}"
    finally:
        for each in path.parent.glob(f"{path.name}*"):
            each.unlink(missing_ok=True)


async def on_dbos(scope: Scope, measure: Callable[[Scope, str, str], Awaitable[None]]) -> None:
    """Calls `measure(scope, name, url)` for each database that there is; says which are missing."""
    if not scope.options.peers or scope.always:
        return
    if not installed("dbos"):
        scope.progress("DBOS is not installed")
        return
    await _measure(scope, measure, "dbos sqlite", _sqlite(scope))
    if not (postgres_installed() and installed("psycopg")):
        scope.progress("PostgreSQL is not installed")
        return
    await _measure(scope, measure, "dbos postgres", open_postgres(scope))


async def _measure(
    scope: Scope,
    measure: Callable[[Scope, str, str], Awaitable[None]],
    name: str,
    database: AbstractAsyncContextManager[str],
) -> None:
    """A peer that fails gives no figures; the others go on."""
    try:
        async with database as url:
            await measure(scope, name, url)
    except BenchFailed as error:
        scope.failed[name] = error.message
        scope.progress(f"{name} gives no figures: {error.message}")


async def dbos_chain(scope: Scope, name: str, url: str) -> None:
    async with scope.child("dbos", Given(url=url)) as engine:
        total = 0
        for concurrency in scope.pick(CONCURRENCIES, CONCURRENCIES, (1,)):
            scope.progress(f"{name} at {concurrency}")
            meter = Meter(**{name.replace(" ", "_"): engine.pid})
            # Long enough for some rounds of all callers, whatever the size of the benchmark.
            seconds = 4.0 + concurrency / 25
            found = await engine.ask("load", Given(name="chain", concurrency=concurrency, seconds=seconds))
            total += int(found.more["total"])
            case = f"at {concurrency}"
            scope.sample(case, f"{name} runs", found.rate, "1/s")
            scope.sample(case, f"{name} p50", found.p50, "ms")
            scope.sample(case, f"{name} p99", found.p99, "ms")
            meter.sample(scope, case, found.more["total"], "run")
        await _verify(engine, name, total)


async def dbos_fanout(scope: Scope, name: str, url: str) -> None:
    runs = scope.pick(20, 5, 1)
    async with scope.child("dbos", Given(url=url)) as engine:
        scope.progress(f"{name}, {STEPS} steps")
        await engine.ask("one", Given(name="fanout", steps=STEPS, count=1))
        found = await engine.ask("one", Given(name="fanout", steps=STEPS, count=runs))
        await _verify(engine, name, runs + 1)
    scope.sample(f"{STEPS} steps", f"{name} p50", found.p50, "ms")


async def dbos_recovery(scope: Scope, name: str, url: str, runs: int) -> None:
    """Killed in the middle and started again at once: it takes its pending workflows up at its start."""
    scope.progress(name)
    ledger = Ledger(scope.folder / f"ledger-{scope.next()}")
    config = Given(url=url, text=str(ledger.path))
    first = await scope.start_child("dbos", config)
    async with killed(first):
        first.tell("begin", Given(name="slow", count=runs))
        await ledger.halfway(runs * 3)
        await first.kill()
        at = now()
    async with scope.child("dbos", config) as second:
        ready = now()
        begun = len({line.split(" ", 3)[2] for line in await ledger.lines()})
        wait = Given(count=begun, seconds=ALL_SECONDS)
        found = await second.ask("wait", wait, seconds=ALL_SECONDS + 30)
        if found.more["left"] > 0:
            raise BenchFailed(f"{name}: {found.more['left']:.0f} of {begun} runs were lost")
    twice = ledger.run_twice(await ledger.lines())
    ledger.path.unlink()
    case = "restarted"
    scope.sample(case, f"{name} all done since the kill", found.more["last"] - at, "s")
    scope.sample(case, f"{name} all done since the restart", found.more["last"] - ready, "s")
    scope.sample(case, f"{name} runs begun before the kill", begun, "runs")
    scope.sample(case, f"{name} bodies run twice", twice, "bodies")


async def _verify(engine: Child, name: str, count: int) -> None:
    found = await engine.ask("verify")
    if not found.count == found.more["all"] == count:
        raise BenchFailed(f"{name}: {count} runs were started, {found.count} succeeded")
