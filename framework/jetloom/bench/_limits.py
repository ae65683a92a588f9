"""The limits: what the server and a Python client give when nothing durable stands on top of them."""

from __future__ import annotations

from ._frame import BenchFailed, Scope
from ._load import Figures, Given
from ._process import Child

CONCURRENCIES = (1, 64, 256)
PULLED = 20_000


async def limits(scope: Scope) -> None:
    """Both clients on one server, one after the other, so that they meet the same machine."""
    async with scope.server() as server:
        config = Given(url=server.url)
        async with (
            scope.child("plain", config) as plain,
            scope.child("transport", config) as port,
            scope.child("plain", config) as answerer,
        ):
            await answerer.ask("answer")
            for concurrency in scope.pick(CONCURRENCIES, CONCURRENCIES, (8,)):
                for name, child in (("plain", plain), ("hot path", port)):
                    scope.progress(f"acknowledged publishes at {concurrency}, {name}")
                    await _appends(scope, name, child, port, concurrency)
            for name, child in (("plain", plain), ("hot path", port)):
                scope.progress(f"core publish, request/reply, pull and ack, {name}")
                await _core(scope, name, child, port)


async def _appends(scope: Scope, name: str, child: Child, counter: Child, concurrency: int) -> None:
    before = (await counter.ask("count")).count
    found = await child.ask("append", Given(concurrency=concurrency, seconds=scope.seconds(2.0)))
    stored = (await counter.ask("count")).count - before
    if stored != found.more["total"]:
        raise BenchFailed(f"{found.more['total']:.0f} publishes were acknowledged, {stored} are stored")
    case = f"publish at {concurrency}"
    scope.sample(case, name, found.rate, "1/s")
    _latency(scope, case, name, found)


async def _core(scope: Scope, name: str, child: Child, port: Child) -> None:
    sent = await child.ask("publish", Given(seconds=scope.seconds(1.0)))
    scope.sample("core publish", name, sent.more["sent"] / sent.seconds, "1/s")
    for concurrency in (1, 64):
        found = await child.ask("request", Given(concurrency=concurrency, seconds=scope.seconds(1.5)))
        case = f"request at {concurrency}"
        scope.sample(case, name, found.rate, "1/s")
        _latency(scope, case, name, found)
    await port.ask("fill", Given(count=scope.pick(PULLED, PULLED, 500)))
    total = (await port.ask("count")).count
    consumer = "plain" if name == "plain" else "port"
    pulled = await child.ask("pull", Given(count=total))
    left = (await port.ask("unacknowledged", Given(name=consumer))).count
    if left:
        raise BenchFailed(f"{left} of {total} pulled messages are not acknowledged ({name})")
    scope.sample("pull and ack", name, total / pulled.seconds, "1/s")


def _latency(scope: Scope, case: str, name: str, found: Figures) -> None:
    scope.sample(case, f"{name} p50", found.p50, "ms")
    scope.sample(case, f"{name} p99", found.p99, "ms")


async def limit_beside(scope: Scope, url: str, case: str, concurrency: int = 256) -> None:
    """The limit on the server of a workload, right beside it: a ratio to it survives a machine's moods."""
    async with scope.child("plain", Given(url=url)) as plain:
        found = await plain.ask("append", Given(concurrency=concurrency, seconds=scope.seconds(1.5)))
    scope.sample(case, f"plain publishes at {concurrency}", found.rate, "1/s")
    scope.sample(case, f"plain publish at {concurrency} p50", found.p50, "ms")
