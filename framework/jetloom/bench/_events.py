"""W7 events and W8 rpc: modules that handle events and answer requests."""

from __future__ import annotations

from importlib.util import find_spec

from ..bus import consumer_name
from ..messages import Names
from ._frame import BenchFailed, Meter, Scope
from ._load import Given
from ._process import Child
from ._roles_engine import NAMESPACE

PUBLISHERS = 256
CALLERS = (1, 64)


def installed(library: str) -> bool:
    return find_spec(library) is not None


async def events(scope: Scope) -> None:
    async with scope.server() as server:
        config = Given(url=server.url)
        async with scope.child("callers", config) as publisher, scope.child("modules", config) as handler:
            consumer = consumer_name("bench", "happened")
            await _events(scope, "jetloom", publisher, handler, server.pid)
            left = (await publisher.ask("left", Given(name=consumer))).count
            if left:
                raise BenchFailed(f"{left} events are not acknowledged in {Names(NAMESPACE).events_stream}")
    if scope.options.peers:
        await _faststream_events(scope)


async def _events(scope: Scope, name: str, publisher: Child, handler: Child, server: int) -> int:
    """Live at full speed, then one at a time; how many were published."""
    total = 0
    for case, concurrency, seconds in (("at 256", PUBLISHERS, 3.0), ("at 1", 1, 1.5)):
        scope.progress(f"{name} {case}")
        meter = Meter(client=publisher.pid, handler=handler.pid, server=server)
        published = await publisher.ask(
            "publish", Given(concurrency=concurrency, seconds=scope.seconds(seconds))
        )
        count = int(published.more["total"])
        seen = await handler.ask("seen", Given(count=count, at=published.more["began"]))
        if seen.more["different"] != count:
            raise BenchFailed(f"{name}: {count} events published, {seen.more['different']:.0f} handled")
        total += count
        scope.sample(case, name, count / seen.seconds, "1/s")
        scope.sample(case, f"{name} published", published.rate, "1/s")
        scope.sample(case, f"{name} p50", seen.p50, "ms")
        scope.sample(case, f"{name} p99", seen.p99, "ms")
        scope.sample(case, f"{name} handled again", seen.more["calls"] - count, "events")
        meter.sample(scope, f"{case}, {name}", count, "event")
    return total


async def _faststream_events(scope: Scope) -> None:
    if not installed("faststream"):
        scope.progress("FastStream is not installed")
        return
    for mode in ("push", "pull"):
        async with scope.server() as server:
            config = Given(url=server.url)
            async with (
                scope.child("stream", Given(url=server.url, name=mode)) as handler,
                scope.child("stream", config) as publisher,
            ):
                try:
                    await _events(scope, f"faststream {mode}", publisher, handler, server.pid)
                except BenchFailed as error:
                    scope.failed[f"faststream {mode}"] = error.message


async def rpc(scope: Scope) -> None:
    async with scope.server() as server:
        config = Given(url=server.url)
        async with scope.child("modules", config) as served, scope.child("callers", config) as caller:
            await _calls(scope, "jetloom", caller, "call", Meter(client=caller.pid, module=served.pid))
        async with scope.child("plain", config) as served, scope.child("plain", config) as caller:
            await served.ask("answer")
            await _calls(scope, "plain", caller, "request", Meter(client=caller.pid, module=served.pid))
        if not scope.options.peers:
            return
        if not installed("faststream"):
            scope.progress("FastStream is not installed")
            return
        async with (
            scope.child("stream", Given(url=server.url, name="push")) as served,
            scope.child("stream", config) as caller,
        ):
            await _calls(scope, "faststream", caller, "call", Meter(client=caller.pid, module=served.pid))


async def _calls(scope: Scope, name: str, caller: Child, verb: str, meter: Meter) -> None:
    total = 0.0
    for concurrency in CALLERS:
        scope.progress(f"{name} at {concurrency}")
        case = f"at {concurrency}"
        found = await caller.ask(verb, Given(concurrency=concurrency, seconds=scope.seconds(2.0)))
        total += found.more["total"]
        scope.sample(case, name, found.rate, "1/s")
        scope.sample(case, f"{name} p50", found.p50, "ms")
        scope.sample(case, f"{name} p99", found.p99, "ms")
    meter.sample(scope, f"all, {name}", total, "call")
