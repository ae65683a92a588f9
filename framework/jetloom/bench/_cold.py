"""W9: from nothing to the first result, and what an import costs."""

from __future__ import annotations

import asyncio
import sys

from ._frame import BenchFailed, Scope
from ._load import Given, now

IMPORT = "import time; t = time.perf_counter(); {what}; print(time.perf_counter() - t)"
IMPORTS = {
    "import jetloom": "import jetloom",
    "import of a module's names": "from jetloom import Module, Event, endpoint, on, step",
}
SECONDS = 30.0


async def cold(scope: Scope) -> None:
    """The files are in the page cache from the second time on; the first repetition may find them on disk."""
    scope.progress("process, server and engine start, one run")
    began = now()
    child = await scope.start_child("cold", Given(text=str(scope.folder / "cold")))
    took = now() - began
    try:
        figures = await child.ask("times")
    finally:
        await child.stop()
    scope.sample("first result", "since process start", took * 1e3, "ms")
    for name, value in figures.more.items():
        scope.sample("first result", f"of it {name}", value * 1e3, "ms")
    for case, what in IMPORTS.items():
        scope.sample(case, "time", await _import(what) * 1e3, "ms")


async def _import(what: str) -> float:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        IMPORT.format(what=what),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(SECONDS):
        out, _ = await process.communicate()
    if process.returncode:
        raise BenchFailed(f"{what!r} failed with {process.returncode}")
    return float(out)
