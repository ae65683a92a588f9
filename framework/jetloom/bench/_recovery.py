"""W4: an engine is killed in the middle of its work; another one, or the same one again, ends it."""

from __future__ import annotations

from ._frame import BenchFailed, Scope
from ._ledger import Ledger, killed, step_of
from ._load import Given, now
from ._peers import dbos_recovery, on_dbos

RUNS = 200
RUNS_QUICK = 50
STEPS = 3
ALL_SECONDS = 60.0


async def recovery(scope: Scope) -> None:
    runs = scope.pick(RUNS, RUNS_QUICK, 6)
    await _recover(scope, "restarted", runs, second=False)
    await _recover(scope, "second engine", runs, second=True)
    await on_dbos(scope, lambda scope, name, url: dbos_recovery(scope, name, url, runs))


async def _recover(scope: Scope, case: str, runs: int, *, second: bool) -> None:
    scope.progress(case)
    reduced = runs < RUNS
    async with scope.server() as server:
        ledger = Ledger(scope.folder / f"ledger-{scope.next()}")
        config = Given(url=server.url, text=str(ledger.path))
        first = await scope.start_child("engine", config)
        other = await scope.start_child("engine", config) if second else None
        async with killed(first, other), scope.child("runs", config) as client:
            await client.ask("register", Given(name="slow"))
            before = await ledger.ended()
            engine_id = (await first.ask("counts")).text
            client.tell("begin", Given(name="slow", count=runs, steps=1))
            await ledger.halfway(runs * STEPS, before=before)
            await first.kill()
            at = now()
            begun = {line for line in await ledger.lines() if line.startswith(f"begin {first.pid} ")}
            await client.answer("begin")
            if other is None:
                other = await scope.start_child("engine", config)
            ready = now()
            async with killed(other, None):
                found = await client.ask("wait", Given(seconds=ALL_SECONDS), seconds=ALL_SECONDS + 30)
                await client.ask("verify", Given(steps=STEPS))
                journaled = set((await client.ask("completed", Given(text=engine_id))).names)
        twice = ledger.run_twice(await ledger.lines())
        ledger.path.unlink()
    lost = found.more["left"]
    if lost:
        raise BenchFailed(f"{case}: {lost:.0f} of {runs} runs were lost")
    # What the killed engine had begun, and has not journaled as completed.
    flying = len({step_of(line) for line in begun} - journaled)
    scope.sample(case, "all done since the kill", found.more["last"] - at, "s", reduced=reduced)
    if not second:
        since = found.more["last"] - ready
        scope.sample(case, "all done since the restart", since, "s", reduced=reduced)
    scope.sample(case, "runs lost", lost, "runs", reduced=reduced)
    scope.sample(case, "bodies in flight", flying, "bodies", reduced=reduced)
    scope.sample(case, "bodies run twice", twice, "bodies", reduced=reduced)
