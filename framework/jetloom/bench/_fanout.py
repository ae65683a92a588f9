"""W2 fanout, W6 message."""

from __future__ import annotations

from ._frame import Meter, Scope
from ._load import Given
from ._peers import dbos_fanout, on_dbos

WIDE = 10_000
WIDE_QUICK = 1_000
MESSAGES = 200


async def fanout(scope: Scope) -> None:
    await _fanout(scope, 100, scope.pick(50, 10, 1))
    wide = scope.pick(WIDE, WIDE_QUICK, 200)
    await _fanout(scope, wide, scope.pick(3, 1, 1))
    await on_dbos(scope, dbos_fanout)


async def _fanout(scope: Scope, steps: int, runs: int) -> None:
    case, reduced = f"{steps:,} steps", steps not in (100, WIDE)
    scope.progress(case)
    async with scope.server() as server:
        config = Given(url=server.url)
        async with scope.child("engine", config) as engine, scope.child("runs", config) as client:
            await client.ask("register", Given(name="fanout", steps=steps))
            meter = Meter(client=client.pid, engine=engine.pid, server=server.pid)
            found = await client.ask("one", Given(name="fanout", count=runs, seconds=60))
            meter.sample(scope, case, runs * steps, "step", reduced=reduced)
            await client.ask("verify", Given(steps=steps + 1))
    scope.sample(case, "p50", found.p50, "ms", reduced=reduced)
    scope.sample(case, "worst", found.worst, "ms", reduced=reduced)
    scope.sample(case, "steps", found.rate * steps, "1/s", reduced=reduced)


async def message(scope: Scope) -> None:
    count = scope.pick(MESSAGES, MESSAGES // 4, 3)
    async with scope.server() as server:
        config = Given(url=server.url)
        async with scope.child("engine", config) as engine, scope.child("runs", config) as client:
            await client.ask("register", Given(name="waiter", text="no-wait"))
            await client.ask("begin", Given(name="waiter", count=count, steps=1))
            await client.ask("waiting", Given(seconds=60))
            scope.progress(f"{count} messages, one after the other")
            meter = Meter(client=client.pid, engine=engine.pid, server=server.pid)
            found = await client.ask("send", Given(name="waiter", count=count))
            meter.sample(scope, "at 1", count, "message")
            await client.ask("verify", Given(steps=1))
    scope.sample("at 1", "p50", found.p50, "ms")
    scope.sample("at 1", "p99", found.p99, "ms")
