"""W10: what a long history costs, of one run and of all runs."""

from __future__ import annotations

from ._frame import Meter, Scope
from ._load import Given

STEPS = 10_000
STEPS_QUICK = 1_000
FINISHED = (0, 10_000, 100_000, 1_000_000)
FINISHED_QUICK = (0, 2_000, 10_000)
RUN_SECONDS = 240.0
GENERATE_SECONDS = 600.0


async def history(scope: Scope) -> None:
    await _long_run(scope)
    await _many_runs(scope)


async def _long_run(scope: Scope) -> None:
    steps = scope.pick(STEPS, STEPS_QUICK, 50)
    case, reduced = f"{steps:,} steps in a row", not scope.full
    scope.progress(case)
    async with scope.server() as server:
        config = Given(url=server.url)
        async with scope.child("engine", config) as engine, scope.child("runs", config) as client:
            meter = Meter(engine=engine.pid, server=server.pid)
            await client.ask(
                "long", Given(name="chain", steps=steps, seconds=RUN_SECONDS), seconds=RUN_SECONDS + 60
            )
            meter.sample(scope, case, steps, "step", reduced=reduced)
            pace = await client.ask("pace", Given(name="chain-first", steps=steps, count=steps // 10))
            await client.ask("verify", Given(steps=steps))
    for part in ("first", "middle", "last"):
        each = pace.more[part] / (steps // 10) * 1e3
        scope.sample(case, f"step of the {part} tenth", each, "ms", reduced=reduced)


async def _many_runs(scope: Scope) -> None:
    async with scope.server() as server:
        config = Given(url=server.url)
        async with scope.child("engine", config) as engine, scope.child("runs", config) as client:
            await client.ask("register", Given(name="chain"))
            for finished in scope.pick(FINISHED, FINISHED_QUICK, (0, 100)):
                case, reduced = f"{finished:,} finished runs", not scope.full
                scope.progress(case)
                if finished:
                    await client.ask(
                        "generate", Given(name="chain", count=finished), seconds=GENERATE_SECONDS
                    )
                meter = Meter(engine=engine.pid, server=server.pid)
                found = await client.ask(
                    "load", Given(name="chain", text="starts", seconds=scope.seconds(4.0))
                )
                meter.sample(scope, case, found.more["total"], "run", reduced=reduced)
                scope.sample(case, "start p50", found.more["start_p50"], "ms", reduced=reduced)
                scope.sample(case, "run p50", found.p50, "ms", reduced=reduced)
            await client.ask("verify", Given(steps=3))
