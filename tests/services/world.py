"""Services on the memory twin: their steps called as an engine would, several processes side by side."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any, cast

from jetloom import Actor, Module
from jetloom.runtime import Host, StepContext
from jetloom.testing import run_virtual
from jetloom.types import JSON, SYSTEM
from tests.runtime.world import World


class Context:
    """A step's context that remembers what was emitted."""

    def __init__(self, run: str, step: str, attempt: int = 1) -> None:
        self.run = run
        self.inc = 1
        self.step = step
        self.attempt = attempt
        self.key = f"{run}.1.{step}"
        self.deadline: datetime | None = None
        self.actor: Actor = SYSTEM
        self.logger = logging.LoggerAdapter(logging.getLogger("test"), {})
        self.emitted: list[tuple[str, object, str]] = []

    def emit(self, event_type: str, payload: object = None, *, key: str = "") -> None:
        self.emitted.append((event_type, payload, key))

    async def heartbeat(self, details: JSON = None) -> None: ...

    async def resume_details(self) -> JSON:
        return None


class Services:
    """One namespace on the twin."""

    def __init__(self) -> None:
        self.world = World()
        self._stack = AsyncExitStack()

    async def run(self, *modules: type[Module], environ: dict[str, str] | None = None) -> Host:
        """One more process with these modules."""
        host, _ = await self._stack.enter_async_context(self.world.running(*modules, environ=environ))
        return host

    async def value(self, bucket: str, key: str) -> dict[str, Any]:
        from jetloom.stores import KeyValue

        transport = await self.world.connect("reader")
        kv = KeyValue[JSON](transport, self.world.names.kv_bucket(bucket))
        return cast("dict[str, Any]", (await kv.get(key)).value)

    async def close(self) -> None:
        await self._stack.aclose()
        await self.world.close()


async def call(host: Host, name: str, given: object, context: Context | None = None) -> Any:
    """The step's body, from JSON to JSON."""
    context = context or Context("order-A1", name.partition(".")[2])
    return await host.steps[name].function(cast("StepContext", context), cast("JSON", given))


async def undo(
    host: Host, name: str, given: object, outcome: str = "completed", context: Context | None = None
) -> None:
    await call(host, name, {"input": given, "output": None, "outcome": outcome}, context)


def on_twin(scenario: Callable[[Services], Coroutine[Any, Any, None]], seed: int = 1) -> None:
    async def main() -> None:
        services = Services()
        try:
            await scenario(services)
        finally:
            await services.close()

    run_virtual(main, seed=seed)
