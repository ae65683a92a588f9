"""W5: runs that sleep, and how late they wake."""

from __future__ import annotations

from ._frame import BenchFailed, Meter, Scope
from ._load import Given
from ._machine import resident_of
from ._process import Child

FEW = 2_000
FEW_QUICK = 300
MANY = 100_000
MANY_QUICK = 3_000
HELD_SECONDS = 2.8
"""Until the first falls due; the last one then still is below the five seconds up to which an engine holds a wait."""
FIRED_SECONDS = 5.5
"""Above them: the server fires."""
FAR_SECONDS = 60.0
DUE_PER_SECOND = 1_000
STORM_SECONDS = 150.0
"""After the first start: above what the starts themselves take."""
LOOKED_AT = 2_000
BEGIN_SECONDS = 400.0
END_SECONDS = 400.0


async def sleep(scope: Scope) -> None:
    few = scope.pick(FEW, FEW_QUICK, 5)
    held = scope.pick(HELD_SECONDS, HELD_SECONDS, 0.3)
    for name, seconds in (("held", held), ("fired", FIRED_SECONDS)):
        case = f"{few:,} runs of {seconds:g} s, {name}"
        await _sleep(scope, case, few, seconds, DUE_PER_SECOND, reduced=few < FEW)
    many = scope.pick(MANY, MANY_QUICK, 10)
    far = FAR_SECONDS if scope.full else FIRED_SECONDS
    reduced = many < MANY
    await _sleep(
        scope, f"{many:,} runs, {DUE_PER_SECOND:,} due a second", many, far, DUE_PER_SECOND, reduced=reduced
    )
    if scope.options.size == "smoke":
        return
    storm = STORM_SECONDS if scope.full else FIRED_SECONDS + 5
    await _sleep(scope, f"{many:,} runs, all due at once", many, storm, many * 1_000, reduced=reduced)


async def _sleep(scope: Scope, case: str, count: int, seconds: float, rate: int, *, reduced: bool) -> None:
    """`count` runs, due `seconds` after the first start and then `rate` a second."""
    scope.progress(case)
    async with scope.server() as server:
        config = Given(url=server.url)
        async with scope.child("engine", config) as engine, scope.child("runs", config) as client:
            await client.ask("register", Given(name="spread"))
            await _measure(
                scope,
                case,
                Given(name="spread", count=count, at=seconds, steps=rate),
                engine,
                client,
                server.pid,
                reduced=reduced,
            )


async def _measure(
    scope: Scope, case: str, begin: Given, engine: Child, client: Child, server: int, *, reduced: bool
) -> None:
    meter = Meter(client=client.pid, engine=engine.pid, server=server)
    await client.ask("begin", begin, seconds=BEGIN_SECONDS)
    waiting = resident_of(engine.pid)
    ended = await client.ask("wait", Given(seconds=END_SECONDS), seconds=END_SECONDS + 30)
    if ended.more["left"]:
        raise BenchFailed(f"{case}: {ended.more['left']:.0f} runs did not wake")
    late = await client.ask("lateness", Given(count=LOOKED_AT))
    meter.sample(scope, case, begin.count, "run", reduced=reduced)
    await client.ask("verify", Given(steps=1))
    scope.sample(case, "lateness p50", late.p50, "ms", reduced=reduced)
    scope.sample(case, "lateness p99", late.p99, "ms", reduced=reduced)
    scope.sample(case, "lateness worst", late.worst, "ms", reduced=reduced)
    if waiting:
        scope.sample(case, "engine memory while they wait", waiting / 1e6, "MB", reduced=reduced)
