"""W1 chain, W1r the same with each step in another process, W3 payload."""

from __future__ import annotations

from ._frame import Meter, Scope
from ._limits import limit_beside
from ._load import Given
from ._peers import dbos_chain, on_dbos

CONCURRENCIES = (1, 64, 256)
PAYLOAD = 16 * 1024


async def chain(scope: Scope) -> None:
    for concurrency in scope.pick(CONCURRENCIES, CONCURRENCIES, (8,)):
        await _load(scope, "chain", concurrency)
    await on_dbos(scope, dbos_chain)


async def chain_remote(scope: Scope) -> None:
    for concurrency in scope.pick((1, 64), (1, 64), (8,)):
        await _load(scope, "chain", concurrency, remote=True)


async def payload(scope: Scope) -> None:
    for concurrency in scope.pick((1, 64), (1, 64), (8,)):
        await _load(scope, "payload", concurrency, size=PAYLOAD)


async def _load(
    scope: Scope, workflow: str, concurrency: int, *, remote: bool = False, size: int = 100
) -> None:
    case = f"at {concurrency}"
    scope.progress(case)
    async with scope.server() as server:
        await limit_beside(scope, server.url, case, concurrency if concurrency == 1 else 256)
        config = Given(url=server.url, remote=remote, size=size)
        async with scope.child("engine", config) as engine, scope.child("runs", config) as client:
            workers = [await scope.start_child("worker", config)] if remote else []
            try:
                await client.ask("register", Given(name=workflow))
                parts = {"worker": [child.pid for child in workers]} if remote else {}
                meter = Meter(client=client.pid, engine=engine.pid, server=server.pid, **parts)
                found = await client.ask(
                    "load", Given(name=workflow, concurrency=concurrency, seconds=scope.seconds(4.0))
                )
                meter.sample(scope, case, found.more["total"], "run")
                await client.ask("verify", Given(steps=3))
            finally:
                for child in workers:
                    await child.stop()
    scope.sample(case, "runs", found.rate, "1/s")
    scope.sample(case, "p50", found.p50, "ms")
    scope.sample(case, "p99", found.p99, "ms")
