"""A process of the chaos suite: an engine with local handlers, or a worker. Its bodies keep books in a file.

`python -m tests.chaos.process engine --nats URL --name e1 --books FILE [--plain] [--grouping always]`
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import time
import zlib
from pathlib import Path

from jetloom.engine import Engine, Worker
from jetloom.errors import TaskFailed
from jetloom.messages import Names
from jetloom.runtime import StepContext, StepFunction, StepHandler
from jetloom.transport import connect
from jetloom.types import JSON

BODY_SECONDS = 0.08


class Books:
    """One line per start and end of a body. A line below PIPE_BUF is written whole, whoever else writes."""

    def __init__(self, path: Path, process: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._process = process

    def note(self, what: str, context: StepContext, unit: str) -> None:
        line = {
            "what": what,
            "at": time.time(),
            "run": context.run,
            "unit": unit,
            "attempt": context.attempt,
            "process": self._process,
        }
        os.write(self._file, json.dumps(line).encode() + b"\n")


def handlers(books: Books, kind: str) -> dict[str, StepHandler]:
    """`local.*` run in engines, `far.*` in workers."""

    def make(name: str) -> StepFunction:
        async def body(context: StepContext, value: JSON) -> JSON:
            unit = f"undo={context.step}" if name.endswith("undo") else context.step
            books.note("start", context, unit)
            await asyncio.sleep(BODY_SECONDS)
            books.note("end", context, unit)
            if name.endswith("emits"):
                context.emit("chaos.step.done", {"run": context.run})
            if name.endswith("fails") and zlib.crc32(context.run.encode()) % 3 == 0:
                raise TaskFailed("chaos.refused", "a third of the runs fails here")
            if name.endswith("flaky") and context.attempt == 1:
                raise RuntimeError("the first attempt fails")
            return {"unit": unit}

        return body

    names = ["do", "emits", "fails", "flaky", "undo"]
    return {f"{kind}.{name}": StepHandler(f"{kind}.{name}", make(f"{kind}.{name}")) for name in names}


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["engine", "worker"])
    parser.add_argument("--nats", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--books", required=True, type=Path)
    parser.add_argument("--plain", action="store_true", help="through nats-py's public interface")
    parser.add_argument("--grouping", choices=["auto", "always"], default="auto")
    arguments = parser.parse_args()
    names = Names()
    transport = await connect(
        arguments.nats, name=arguments.name, hot_path=False if arguments.plain else None
    )
    books = Books(arguments.books, f"{arguments.name}-{os.getpid()}")
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    if arguments.kind == "engine":
        serving: Engine | Worker = Engine(
            transport,
            names,
            handlers=handlers(books, "local"),
            name=arguments.name,
            grouping=arguments.grouping,
        )
    else:
        serving = Worker(transport, names, handlers=handlers(books, "far"))
    await serving.start()
    print("ready", flush=True)
    await stopped.wait()
    await serving.stop(5.0)
    await transport.close()


if __name__ == "__main__":
    asyncio.run(main())
