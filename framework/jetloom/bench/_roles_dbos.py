"""The same runs on DBOS, where it is installed. Client and engine are one process, as it is used."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import Any, cast

from ._child import UnknownOrder
from ._definitions import RESULT, SLOW_SECONDS, note
from ._load import Figures, Given, closed_loop, figures_of, now

WAIT_PAUSE = 0.02
ROWS_MAX = 1_000_000
SQLITE_NEEDED = (3, 42)
"""Its tables ask for fractions of a second, which older ones answer with null."""

type Start = Callable[[], Coroutine[Any, Any, Any]]


class Dbos:
    """`url` is the system database, `text` the ledger of slow bodies. Verbs: `load`, `one`, `begin`, `wait`, `verify`,
    `completed`.

    Its log is at warnings; everything else is its default.
    """

    def __init__(self, config: Given) -> None:
        self._config = config
        self._dbos: Any = None
        self._workflows: dict[str, Any] = {}
        self._began = 0.0

    async def start(self) -> None:
        if self._config.url.startswith("sqlite") and sqlite3.sqlite_version_info < SQLITE_NEEDED:
            raise OSError(f"DBOS needs SQLite 3.42 or newer, Python was built with {sqlite3.sqlite_version}")
        dbos = cast("Any", import_module("dbos"))
        self._dbos = dbos.DBOS
        self._workflows = _register(self._dbos, self._config.text)
        settings = {
            "name": "bench",
            "system_database_url": self._config.url,
            "log_level": "WARNING",
        }
        self._dbos(config=settings)
        # It blocks until what was pending is under way again.
        await asyncio.to_thread(self._dbos.launch)

    async def stop(self) -> None:
        if self._dbos is not None:
            await asyncio.to_thread(self._dbos.destroy)

    async def do(self, verb: str, given: Given) -> Figures:
        match verb:
            case "load":
                warm = min(1.0, given.seconds / 4)
                return await closed_loop(
                    lambda: self._run(given),
                    concurrency=given.concurrency,
                    seconds=given.seconds,
                    warm=warm,
                )
            case "one":
                return await self._one(given)
            case "begin":
                for number in range(given.count):
                    with self._dbos_id(f"{given.name}-{number}"):
                        await self._dbos.start_workflow_async(self._workflows[given.name])
                return Figures(count=given.count)
            case "wait":
                return await self._wait(given)
            case "verify":
                return Figures(count=await self._count("SUCCESS"), more={"all": await self._count(None)})
            case _:
                raise UnknownOrder(verb)

    def _dbos_id(self, identity: str) -> Any:
        return cast("Any", import_module("dbos")).SetWorkflowID(identity)

    async def _run(self, given: Given) -> None:
        arguments = (given.steps,) if given.name == "fanout" else ()
        handle = await self._dbos.start_workflow_async(self._workflows[given.name], *arguments)
        await handle.get_result()

    async def _one(self, given: Given) -> Figures:
        latencies: list[float] = []
        began = now()
        for _ in range(given.count):
            at = now()
            await self._run(given)
            latencies.append(now() - at)
        return figures_of(latencies, now() - began)

    async def _wait(self, given: Given) -> Figures:
        """Until `count` workflows have succeeded, at most `seconds`."""
        deadline = now() + given.seconds
        done = 0
        while now() < deadline:
            done = await self._count("SUCCESS")
            if done >= given.count:
                break
            await asyncio.sleep(WAIT_PAUSE)
        return Figures(count=done, more={"last": now(), "left": given.count - done})

    async def _count(self, status: str | None) -> int:
        rows: list[object] = await self._dbos.list_workflows_async(
            status=status, limit=ROWS_MAX, load_input=False, load_output=False
        )
        return len(rows)


def _register(dbos: Any, ledger: str) -> dict[str, Any]:
    """The same work as the workflows of jetloom."""

    @dbos.step()
    async def step() -> dict[str, str]:
        return RESULT

    @dbos.step()
    async def slow_step(name: str) -> dict[str, str]:
        run = str(dbos.workflow_id)
        note(ledger, f"begin {os.getpid()} {run} {name}")
        await asyncio.sleep(SLOW_SECONDS)
        note(ledger, f"end {os.getpid()} {run} {name}")
        return RESULT

    @dbos.workflow()
    async def chain() -> dict[str, str]:
        for _ in range(3):
            await step()
        return RESULT

    @dbos.workflow()
    async def slow() -> dict[str, str]:
        for number in range(3):
            await slow_step(f"s{number}")
        return RESULT

    @dbos.workflow()
    async def fanout(steps: int) -> dict[str, str]:
        await asyncio.gather(*(step() for _ in range(steps)))
        return await step()

    return {"chain": chain, "slow": slow, "fanout": fanout}
