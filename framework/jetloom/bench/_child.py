"""A process of a workload: `python -m jetloom.bench._child ROLE CONFIG`.

It reads one JSON line per order from stdin and writes one per answer to stdout; it ends when stdin ends. What
anything else prints goes to stderr, which is a log file.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Protocol, cast

import msgspec

from ._load import Figures, Given

LINE_BYTES_MAX = 64 * 1024 * 1024
"""Of an order or an answer: the names of 100,000 runs fit."""

ROLES = {
    "plain": "._roles_load:Plain",
    "transport": "._roles_load:Port",
    "engine": "._roles_engine:EngineRole",
    "worker": "._roles_engine:WorkerRole",
    "runs": "._roles_runs:Runs",
    "modules": "._roles_modules:Modules",
    "callers": "._roles_modules:Callers",
    "cold": "._roles_cold:Cold",
    "stream": "._roles_faststream:Stream",
    "dbos": "._roles_dbos:Dbos",
}


class Role(Protocol):
    """What a process does. `do` is asked one order after the other."""

    async def start(self) -> None: ...
    async def do(self, verb: str, given: Given) -> Figures: ...
    async def stop(self) -> None: ...


class Order(msgspec.Struct, frozen=True):
    verb: str
    given: Given = Given()


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    figures: Figures = Figures()
    error: str = ""


class UnknownOrder(ValueError):
    """A role was asked for what it does not do: a bug of the workload."""


_orders = msgspec.json.Decoder(Order)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is to be had, as in the processes of the command line."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def make_role(name: str, config: Given) -> Role:
    module, _, attribute = ROLES[name].partition(":")
    made = cast("Callable[[Given], Role]", getattr(import_module(module, __package__), attribute))
    return made(config)


async def serve(name: str, config: Given, out: int) -> None:
    """Starts the role, answers orders until stdin ends, stops it."""

    def write(answer: Answer) -> None:
        data = msgspec.json.encode(answer) + b"\n"
        while data:
            data = data[os.write(out, data) :]

    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    role = make_role(name, config)
    try:
        await role.start()
        write(Answer(Figures(more={"pid": os.getpid()})))
        while line := await reader.readline():
            order = _orders.decode(line)
            try:
                answer = Answer(await role.do(order.verb, order.given))
            except Exception as error:  # the supervisor of what is measured: the bench decides
                logging.getLogger("jetloom.bench").exception("%s failed", order.verb)
                answer = Answer(error=_described(error))
            write(answer)
    except Exception as error:  # the same, of the start
        logging.getLogger("jetloom.bench").exception("the start failed")
        write(Answer(error=_described(error)))
    finally:
        await role.stop()


def _described(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        inner = cast("tuple[BaseException, ...]", error.exceptions)  # pyright: ignore[reportUnknownMemberType]
        return "; ".join(dict.fromkeys(_described(each) for each in inner))
    return f"{type(error).__name__}: {error}"


def main() -> None:
    name, config = sys.argv[1], msgspec.json.decode(sys.argv[2], type=Given)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    out = os.dup(1)
    os.dup2(2, 1)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(name, config, out))


if __name__ == "__main__":
    main()
